"""The replica that executes the ledger; in a run, with everything written down and faults at chosen moments.

Guarantees: started with a `StartRecordedReplica` it leaves a journal, events and, when it has closed, its final state,
from which the verdict is computed. Started with a `StartReplica`, it is a replica and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from thespian.actors import ActorAddress

from client_replies.actors.owner.replies_port import RepliesPort
from client_replies.actors.thespian.component_actor import Handler
from client_replies.cluster.control import Sender, StartReplica
from client_replies.cluster.replica.observer import Observer
from client_replies.cluster.replica.replica import ReplicaActor

from .damage import SABOTEUR, MomentsPlan, SlotDamaged
from .journal import Journal, Plant
from .ledger_machine import LedgerMachine
from .replica_events import Events

JOURNAL_FILE = "journal.jsonl"
EVENTS_FILE = "events.jsonl"
FINAL_FILE = "final.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRecordedReplica(StartReplica):
    """Write down what happens, in the directory `evidence`; and be hurt as planned."""

    evidence: str
    moments: MomentsPlan
    plant: Plant | None = None


class LedgerReplica(ReplicaActor):
    """See the module."""

    senders: ClassVar[Mapping[type, Enum]] = {
        **ReplicaActor.senders,
        StartRecordedReplica: Sender.SCRIPT,
        SlotDamaged: Sender.MEMBER,
    }

    _events: Events | None = None

    def handlers(self) -> dict[type, Handler]:
        return {**super().handlers(), StartRecordedReplica: self.start, SlotDamaged: self.slot_damaged}

    def is_from(self, party: Enum, message: Any, sender: ActorAddress) -> bool:
        """See `ReplicaActor`. It is the saboteur who says that a slot is damaged."""
        if isinstance(message, SlotDamaged):
            return self.is_member(SABOTEUR, sender)
        return super().is_from(party, message, sender)

    def make_state_machine(self, message: StartReplica) -> LedgerMachine:
        if not isinstance(message, StartRecordedReplica):
            return LedgerMachine()
        self._journal = Journal(Path(message.evidence) / JOURNAL_FILE, message.plant)
        return self._journal.machine

    def make_observer(self, message: StartReplica, port: RepliesPort) -> Observer:
        if not isinstance(message, StartRecordedReplica):
            return super().make_observer(message, port)
        self._events = Events(
            config=message.config,
            seed=message.seed,
            moments=message.moments,
            plant=message.plant,
            path=Path(message.evidence) / EVENTS_FILE,
            journal=self._journal,
            port=port,
            order=lambda order: self.tell_member(SABOTEUR, order),
            counts=self.counts,
            save=lambda text: self.machine.write_file(message.evidence, FINAL_FILE, text),
        )
        return self._events

    def slot_damaged(self, message: SlotDamaged, sender: ActorAddress) -> None:
        """The slot is damaged: let its client ask."""
        if self._events is not None:
            self._events.slot_damaged(message.number)
