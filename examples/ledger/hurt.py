"""Faults of a replica that a drill injects: answers that it loses, clients that it does not answer, peers cut off.

Guarantees: a replica has the faults of the highest version that it has heard of. It says how many answers it has still
to lose whenever that has changed.

Owns: the faults of one replica.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from client_replies.cluster.control import ProcessId
from client_replies.cluster.protocol import Client
from client_replies.cluster.replica.observer import Observer
from client_replies.cluster.vsr.effects import AnswerClient
from client_replies.messages.message import U64, Message
from client_replies.messages.reply_header import HEADER_SIZE

from .faulty_network import FaultyNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFaults:
    """The faults injected into a replica. A replica obeys the highest `version` that it has heard of.

    It loses its next `drop_answers` answers, counted from when it first heard of `drop_version`, and all answers to the
    clients in `block`; it neither hears nor reaches the members in `cut`.
    """

    version: U64 = 0
    drop_answers: U64 = 0
    drop_version: U64 = 0
    block: tuple[Client, ...] = ()
    cut: tuple[str, ...] = ()


NOT_HURT = ReplicaFaults()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hurt(Message):
    """To a replica: from now on, these are your faults."""

    request: U64
    faults: ReplicaFaults


@dataclass(frozen=True, slots=True, kw_only=True)
class HurtDone(Message):
    """The replica has the faults of this version, and `drop_answers` more answers to lose. Request 0: it lost some."""

    request: U64
    name: str
    pid: ProcessId
    version: U64
    drop_answers: U64


class Hurts(Observer):
    """Lets the replica behave as badly as it was told to. `tell` is given the number of answers still to be lost."""

    def __init__(self, network: FaultyNetwork, faults: ReplicaFaults, tell: Callable[[int], None]) -> None:
        self._network = network
        self._tell = tell
        self._faults = ReplicaFaults()
        self._drop_answers = self._drop_answers_told = 0
        self.obey(faults)

    def obey(self, faults: ReplicaFaults) -> None:
        """These are the faults from now on, unless they were overtaken."""
        if faults.version < self._faults.version:
            return
        if faults.drop_version > self._faults.drop_version:
            self._drop_answers = self._drop_answers_told = faults.drop_answers
        self._faults = faults
        self._network.cut = frozenset(faults.cut)

    @property
    def version(self) -> int:
        """Of the faults that the replica has."""
        return self._faults.version

    def drop_answers_told(self) -> int:
        """How many answers are still to be lost; it counts as told."""
        self._drop_answers_told = self._drop_answers
        return self._drop_answers

    # What the port asks before it answers a client: see `faulty_port`.

    def answer(self, effect: AnswerClient, *, routed: bool) -> bytes | None:
        """The bytes that leave, or None if they are lost. `routed`: the port knows where the client is."""
        if effect.client in self._faults.block:
            return None
        if routed and self._drop_answers and len(effect.reply) > HEADER_SIZE:
            self._drop_answers -= 1
            return None
        return effect.reply

    def may_refuse(self, client: int) -> bool:
        """Whether a refusal of this client's request may leave."""
        return client not in self._faults.block

    def answered(self, effect: AnswerClient, *, sent: bool) -> None:
        """It left, or was lost: nothing comes of that here."""

    def tick(self, now: float) -> None:
        if self._drop_answers != self._drop_answers_told:
            self._tell(0)
