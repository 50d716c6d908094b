"""The replica that executes the ledger, and can be hurt; in a run, with everything written down.

Guarantees: the faults that it is started with or told of are those of `hurt`, `damage`, `faulty_network` and
`faulty_port`. With `evidence` it leaves a journal, events and, when it has closed, its final state, from which the
verdict is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import ClassVar

from thespian.actors import ActorAddress

from client_replies.actors.owner.replies_port import RepliesPort
from client_replies.actors.thespian.component_actor import Handler
from client_replies.cluster.control import Sender, StartReplica
from client_replies.cluster.replica.lifecycle import ReplicaParts
from client_replies.cluster.replica.replica import ReplicaActor
from client_replies.messages.faults import InvariantBroken

from .damage import NO_MOMENTS, MomentsPlan
from .faulty_network import Faults, FaultyNetwork
from .faulty_port import FaultyGatewayPort
from .hurt import NOT_HURT, Hurt, HurtDone, Hurts, ReplicaFaults
from .journal import Journal
from .ledger_machine import LedgerMachine
from .plant import Plant
from .replica_events import Events

JOURNAL_FILE = "journal.jsonl"
EVENTS_FILE = "events.jsonl"
FINAL_FILE = "final.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartLedgerReplica(StartReplica):
    """Be hurt: `network_faults` by kind of message, drawn from `seed`, and `faults` as present.

    With `evidence`, a directory, write down what happens; then `moments` says when to damage a slot or to die.
    """

    network_faults: Mapping[str, Faults] = field(default_factory=dict)
    faults: ReplicaFaults = NOT_HURT
    evidence: str = ""
    moments: MomentsPlan = NO_MOMENTS
    plant: Plant | None = None


class LedgerReplica(ReplicaActor):
    """See the module."""

    senders: ClassVar[Mapping[type, Enum]] = {
        **ReplicaActor.senders,
        StartLedgerReplica: Sender.SCRIPT,
        Hurt: Sender.SCRIPT,
    }

    _hurts: Hurts | None = None  # once it has started

    def handlers(self) -> dict[type, Handler]:
        return {
            **super().handlers(),
            StartLedgerReplica: self.start,
            Hurt: self.hurt,
        }

    def make_parts(self, message: StartReplica, port: RepliesPort) -> ReplicaParts:
        if not isinstance(message, StartLedgerReplica):
            raise InvariantBroken(f"found {type(message).__name__}, expected a StartLedgerReplica")
        network = FaultyNetwork(message.name, message.seed, message.network_faults, self.tell_member)
        machine: LedgerMachine
        if message.evidence:
            journal = Journal(Path(message.evidence) / JOURNAL_FILE, message.plant)
            machine = journal.machine
            self._hurts = Events(
                config=message.config,
                seed=message.seed,
                moments=message.moments,
                plant=message.plant,
                path=Path(message.evidence) / EVENTS_FILE,
                journal=journal,
                port=port,
                counts=self.counts,
                save=lambda text: self.machine.write_file(message.evidence, FINAL_FILE, text),
                network=network,
                faults=message.faults,
                tell=self._tell_faults,
            )
        else:
            machine = LedgerMachine()
            self._hurts = Hurts(network, message.faults, self._tell_faults)
        gateways = FaultyGatewayPort(message, message.network_faults, self.send, self._hurts)
        return ReplicaParts(state_machine=machine, network=network, gateways=gateways, observer=self._hurts)

    def hurt(self, message: Hurt, sender: ActorAddress) -> None:
        """Behave badly, as told."""
        if self._hurts is not None:
            self._hurts.obey(message.faults)
            self._tell_faults(message.request)

    def _tell_faults(self, request: int) -> None:
        if self._hurts is None:
            return
        done = HurtDone(
            request=request,
            name=self.name,
            pid=self.machine.pid(),
            version=self._hurts.version,
            drop_answers=self._hurts.drop_answers_told(),
        )
        self.send(self.script, done)
