"""Waiting, opening and joining: from nothing to a replica that can take part.

Guarantees: a replica takes part from what is durable, or not at all. Only proven rot, or what is not of one life, is
given up: set aside, while a majority votes without this replica, so that its next life gets it back from the others.

Owns: the log store, until the replica takes part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from thespian.actors import ActorAddress

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.actors.component.lifecycle import NOBODY
from client_replies.actors.owner.port_events import PORT_MESSAGES, PortEvent, PortFailed
from client_replies.actors.owner.replies_port import RepliesPort
from client_replies.cluster.control import Join, ReplicaStarted, StartReplica
from client_replies.cluster.log.log_store import LogStore, StoreDamaged, StoreIdentity, StoreMissing
from client_replies.cluster.vsr.durable import StoredLog
from client_replies.cluster.vsr.replica import Replica, RestartImpossible
from client_replies.messages.config import OpenMode
from client_replies.messages.faults import Fault, FaultClass
from client_replies.messages.replies import RepliesOpened

from .lifecycle import TICK, ReplicaStops, Started, State
from .taking_part import TakingPart

NO_MAJORITY = "left as it is while no majority of the replicas votes without this one"


class Waiting(State):
    """Nobody has started the replica."""

    def start(self, message: StartReplica, sender: ActorAddress) -> None:
        replica, environment = self.replica, self.replica.environment
        replica.name, replica.script = message.name, sender
        # First of all: a child inherits what is open when it is made.
        component = replica.component = replica.create_child(ClientRepliesActor)
        replica.machine.make_directory(message.directory)
        port = RepliesPort(
            owner=environment.unique(),
            send=lambda request: replica.send(component, request),
            send_pool=replica.send,
            now=environment.monotonic,
            open_memory=environment.open_memory,
        )
        replica.become(Opening(replica, message, port, replica.make_parts(message, port)))


@dataclass(eq=False)
class Opening(Started):
    """The component opens its file; when it has, the replica opens its log."""

    def enter(self) -> None:
        self._address = NOBODY  # the component's, as others can use it
        self.port.open(self.setup.config, OpenMode.OPEN_OR_FORMAT)
        self.replica.start_ticks(TICK)

    def opened(self, message: RepliesOpened, sender: ActorAddress) -> None:
        """The component is open: learn where it is, and its pool."""
        self._address, self.replica.pool = sender, message.pool
        self.port_message(message, sender)

    def port_event(self, event: PortEvent) -> None:
        if isinstance(event, RepliesOpened):
            self._open_log(event)
        elif isinstance(event, PortFailed):
            self._not_opened(event.fault)
        else:
            super().port_event(event)

    def _not_opened(self, fault: Fault) -> NoReturn:
        if fault.kind.fault_class is FaultClass.DAMAGE:
            # Without it the log brings the rest, and the replica keeps its vote.
            _give_up(self, self.setup.config.path, f"the replies: {fault}")
        raise ReplicaStops(f"the replies cannot be opened: {fault}")

    def _open_log(self, opened: RepliesOpened) -> None:
        replica = self.replica
        if opened.damaged is not None:
            # The log goes back to the checkpoint before, and brings everything since; see `vsr.checkpoint`.
            damaged = opened.damaged
            replica.count("checkpoint_damaged", op=damaged.op, used_op=opened.op, fault=str(damaged.fault))
        try:
            store = self._open_store(opened.op)
            stored = store.load()
        except StoreDamaged as error:
            _give_up(self, self.setup.directory, str(error))
        answer = ReplicaStarted(name=self.setup.name, replies=self._address, pid=replica.machine.pid())
        replica.become(Joining(replica, self.setup, self.port, self.parts, answer, store, stored, opened))

    def _open_store(self, replies_op: int) -> LogStore:
        setup, machine = self.setup, self.replica.machine
        identity = StoreIdentity(setup.config.cluster, setup.config.replica)
        try:
            return machine.open_log(setup.directory, identity)
        except StoreMissing as error:
            if replies_op:
                _give_up(self, setup.directory, "replies without a log")
            if not (setup.fresh or setup.rebuild):
                raise ReplicaStops(f"{error}, and there was one; {NO_MAJORITY}") from error
            # What a new replica promises is nothing; what one promised that lost its log, nobody knows.
            return machine.format_log(setup.directory, identity, voting=setup.fresh)


@dataclass(eq=False)
class Joining(Started):
    """Log and replies are open; the others cannot be reached yet."""

    answer: ReplicaStarted
    store: LogStore
    stored: StoredLog
    opened: RepliesOpened

    def start(self, message: StartReplica, sender: ActorAddress) -> None:
        self.replica.send(sender, self.answer)

    def join(self, message: Join, sender: ActorAddress) -> None:
        """The others can be reached: the protocol begins, from what is durable."""
        replica, setup, stored = self.replica, self.setup, self.stored
        try:
            vsr = Replica(
                replica.vsr_config(setup),
                self.parts.state_machine,
                stored,
                replies_op=self.opened.op,
                faulty=self.opened.faulty,
                now=setup.epoch + replica.environment.monotonic(),
                random=replica.machine.random(),
                observe=self.parts.observer.executed,
            )
        except RestartImpossible as error:
            _give_up(self, setup.directory, str(error))
        state = TakingPart(replica, setup, self.port, self.parts, self.answer, self.store, stored.op, vsr, message)
        replica.become(state)
        state.join(message, sender)


def _give_up(state: Started, path: str, reason: str) -> NoReturn:
    """What is there is damaged: go on without it in the next life, if the others can do without it."""
    if not state.setup.rebuild:
        raise ReplicaStops(f"{reason}; {NO_MAJORITY}")
    try:
        aside = state.replica.machine.set_aside(path)
    except OSError as error:
        raise ReplicaStops(f"{reason}; it cannot be set aside: {error}") from error
    raise ReplicaStops(f"{reason}; set aside as {aside}")


Opening.handles = {**dict.fromkeys(PORT_MESSAGES, Opening.port_message), RepliesOpened: Opening.opened}
Joining.handles = {**dict.fromkeys(PORT_MESSAGES, Joining.port_message), Join: Joining.join}
