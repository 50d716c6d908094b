"""Client sessions as an actor: each sends its share of the transfers, one at a time, and records every answer it gets.

Guarantees: every answer that arrives is recorded with its bytes, also those that nobody waits for any more: the verdict
compares them. Limits: a session that the service refuses ends the run; a reply that every replica lost is noted.

Owns: its sessions and its record.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from thespian.actors import ActorAddress

from client_replies.actors.thespian.component_actor import ComponentActor, Handler
from client_replies.cluster.control import GetProgress, Join, Joined, MemberFailed, Progress, Sender
from client_replies.cluster.protocol import Answer, Redirected, Refused, Request
from client_replies.cluster.replica.network import Envelope
from client_replies.cluster.replica.replica import replica_name
from client_replies.messages.message import Message
from client_replies.messages.protocol import Party

from .evidence import AnswerSeen, EvidenceWriter
from .faulty_network import FaultyNetwork, cluster_faults
from .ledger import OPERATION_TRANSFER, Outcome, Result, Transfer
from .session_client import AnswerKind, SessionClient, SessionEnded
from .transfers import read_transfers

TICK = 0.01  # seconds
SILENCE_MAX = 0.6  # seconds without an answer until another replica is asked


@dataclass(frozen=True, slots=True, kw_only=True)
class StartClient(Message):
    """Send transfers of the file: session `i` of `sessions_all` sends rows `i`, `i + sessions_all`, and so on.

    With a `rate`, row `n` is sent `n / rate` seconds after the start at the earliest.
    """

    name: str
    replicas: int
    cluster: int
    transfers: str
    record: str
    sessions: tuple[int, ...]
    sessions_all: int
    seed: int
    rate: float
    drop_replies: float
    duplicate_requests: float
    members: tuple[tuple[str, ActorAddress], ...]


@dataclass(slots=True)
class _Work:
    """One session and its rows: those to come, the one that is asked, and by request number those that were."""

    session: SessionClient
    rows: deque[Transfer]
    rows_asked: dict[int, int]
    done: int = 0


class ClientActor(ComponentActor):
    """See the module."""

    senders: ClassVar[Mapping[type, Enum]] = {
        StartClient: Sender.SCRIPT,
        Join: Sender.SCRIPT,
        Envelope: Sender.MEMBER,
        GetProgress: Party.ANYONE,
    }

    def __init__(self, capabilities: Mapping[str, object] | None = None, requirements: object = None) -> None:
        super().__init__(capabilities, requirements)
        self._start: StartClient | None = None
        self._script: ActorAddress | None = None
        self._members: dict[str, ActorAddress] = {}
        self._failure = ""
        self._joined = 0  # the number of the latest `Join`
        self._work: dict[int, _Work] = {}
        self._total = 0
        self._primary = 0  # whom we ask
        self._view = 0  # the latest that a reply or a redirection came from
        self._view_replied = 0
        self._heard_at = 0.0

    def is_from(self, party: Enum, message: Any, sender: ActorAddress) -> bool:
        """The script is who started the client; it tells where the members are."""
        if party is Sender.SCRIPT:
            return self._script is None or sender == self._script
        known = self._members.get(message.sender)
        return self._start is None or (known is not None and sender == known)

    def handlers(self) -> dict[type, Handler]:
        return {StartClient: self.start, Envelope: self.envelope, GetProgress: self.progress, Join: self.join}

    def start(self, message: StartClient, sender: ActorAddress) -> None:
        """Register the sessions and begin."""
        if self._start is None:
            self._script = sender
            self._begin(message)
        self.send(sender, Joined(name=message.name))

    def _begin(self, message: StartClient) -> None:
        self._start = message
        self._members = dict(message.members)
        self._replicas = message.replicas
        self._began = self._heard_at = self.environment.monotonic()
        self._record = EvidenceWriter(Path(message.record))
        self._network = FaultyNetwork(
            message.name,
            message.seed,
            cluster_faults(message.drop_replies, message.duplicate_requests),
            self._send_envelope,
        )
        jitter = random.Random(f"{message.seed}/{message.name}/jitter")
        transfers = read_transfers(Path(message.transfers))
        for index in message.sessions:
            client = client_id(index)
            session = SessionClient(
                cluster=message.cluster, client=client, send=self._send_request, uniform=jitter.uniform
            )
            rows = deque(transfers[index :: message.sessions_all])
            self._work[client] = _Work(session, rows, {})
            self._total += len(rows)
            session.register(self.environment.monotonic())
        self.start_ticks(TICK)
        self._flush()

    def join(self, message: Join, sender: ActorAddress) -> None:
        """A replica is another process now."""
        if self._start is None:
            return
        if message.number > self._joined:
            self._joined = message.number
            for name, address in message.members:
                if name in self._members and self._members[name] != address:
                    self._network.restarted(name)
            self._members = dict(message.members)
        self.send(sender, Joined(name=self._start.name, number=self._joined))

    def envelope(self, message: Envelope, sender: ActorAddress) -> None:
        """Take answers, and go on with what they made possible."""
        if self._start is None:
            return
        for item in self._network.receive(message):
            work = self._work.get(item.client) if isinstance(item, Answer | Refused | Redirected) else None
            if work is None:
                self.counters["items_misdirected"] += 1
            elif isinstance(item, Redirected):
                self._redirected(work, item)
            elif isinstance(item, Answer):
                self._heard(item.view)
                self._take_answer(work, item)
            elif isinstance(item, Refused):
                self._take_refusal(work, item)
        self._flush()

    def _heard(self, view: int) -> None:
        """A reply came: whoever is in an earlier view has no say any more."""
        self._heard_at = self.environment.monotonic()
        self._view_replied = max(self._view_replied, view)
        if self._follow(view, view % self._replicas):
            self._repeat_all()

    def _follow(self, view: int, replica: int) -> bool:
        if view < self._view or replica == self._primary:
            return False
        self._view, self._primary = view, replica
        self._heard_at = self.environment.monotonic()
        return True

    def _redirected(self, work: _Work, redirected: Redirected) -> None:
        if self._follow(redirected.view, redirected.replica):
            self._repeat_all()

    def _repeat_all(self) -> None:
        for work in self._work.values():
            work.session.repeat(self.environment.monotonic())

    def _take_answer(self, work: _Work, answer: Answer) -> None:
        now = self.environment.monotonic()
        received = work.session.receive(answer, now)
        row = work.rows_asked.get(received.request, 0)
        self._record.write(
            AnswerSeen(
                client=work.session.client,
                request=received.request,
                row=row,
                kind=received.kind.name,
                tries=received.tries,
                latency=received.latency,
                data=received.data,
            )
        )
        self.counters[f"answers_{received.kind.name.lower()}"] += 1
        if received.kind is AnswerKind.INVALID:
            self.log.warning("answer_invalid", client=work.session.client, reason=received.reason)
        if received.kind is AnswerKind.FIRST:
            if received.request:
                work.done += 1
                self.counters[f"results_{Outcome(Result.decode(received.body).outcome).name.lower()}"] += 1
            self._ask_next(work, now)

    def _ask_next(self, work: _Work, now: float) -> None:
        if work.rows and now >= self._due(work.rows[0]):
            transfer = work.rows.popleft()
            number = work.session.request(OPERATION_TRANSFER, transfer.encode(), now)
            work.rows_asked[number] = transfer.row

    def _due(self, transfer: Transfer) -> float:
        rate = self._start.rate if self._start is not None else 0.0
        return self._began + transfer.row / rate if rate else self._began

    def _take_refusal(self, work: _Work, refused: Refused) -> None:
        if refused.view < self._view_replied:
            self.counters["refusals_of_earlier_views"] += 1
            return
        try:
            lost = work.session.refuse(refused)
        except SessionEnded as ended:
            self._failure = self._failure or str(ended)
            return
        if lost:
            self.counters["replies_lost_everywhere"] += 1
            row = work.rows_asked.get(refused.number, 0)
            self._record.write(AnswerSeen(work.session.client, refused.number, row, "LOST", 0, 0.0, b""))
            work.done += 1
            self._ask_next(work, self.environment.monotonic())

    def tick(self) -> None:
        """Repeat what has had no answer, and ask what has become due."""
        now = self.environment.monotonic()
        waiting = any(work.session.is_waiting for work in self._work.values())
        if not waiting:
            self._heard_at = now
        elif now - self._heard_at > SILENCE_MAX:
            self._heard_at = now
            self._primary = (self._primary + 1) % self._replicas
        for work in self._work.values():
            work.session.tick(now)
            if work.session.is_registered and not work.session.is_waiting:
                self._ask_next(work, now)
        self._network.flush(now)

    def progress(self, message: GetProgress, sender: ActorAddress) -> None:
        """Say how far the sessions are."""
        if self._start is None:
            return
        if self._failure:
            self.send(sender, MemberFailed(name=self._start.name, reason=self._failure))
            return
        done = sum(work.done for work in self._work.values())
        counters = {
            **self._network.counters,
            **self.counters,
            "retries": sum(work.session.retries for work in self._work.values()),
            "registered": sum(work.session.is_registered for work in self._work.values()),
        }
        self._record.flush()
        answer = Progress(
            request=message.request,
            name=self._start.name,
            done=done,
            total=self._total,
            counters=counters,
            finished=done == self._total and not any(work.session.is_waiting for work in self._work.values()),
        )
        self.send(sender, answer)

    def _send_request(self, request: Request) -> None:
        if self._start is not None:
            self._network.post(replica_name(self._primary), request, self.environment.monotonic())

    def _send_envelope(self, peer: str, envelope: Envelope) -> None:
        address = self._members.get(peer)
        if address is not None:
            self.send(address, envelope)

    def _flush(self) -> None:
        self._network.flush(self.environment.monotonic())

    def stop(self) -> None:
        if self._start is not None:
            self._record.close()


def client_id(session: int) -> int:
    """The client that uses session `session` of the run (from 0): any u128 above 0 would do."""
    return (session + 1) << 64 | 0xC11E
