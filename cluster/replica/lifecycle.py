"""The states of a replica, and what they have in common.

    waiting       nobody has started it
    opening       the component opens its file, then the replica its log
    joining       both are open; the replica waits to be told who the others are
    taking part   it orders, executes and answers, up to its orderly end (`finishing`)
    stopped       it cannot go on: it says why, and ends its process

Guarantees: the state alone decides what may be asked; what a state does not handle, it ignores. A state has what the
states before it were given. `ReplicaStops` leads from any state to stopped, and nothing leads out of that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from thespian.actors import ActorAddress

from client_replies.actors.owner.port_events import PortEvent, PortFailed
from client_replies.actors.owner.replies_port import RepliesPort
from client_replies.cluster.control import Join, ReplicaStopped, StartReplica
from client_replies.cluster.door.gateway_port import GatewayPort
from client_replies.cluster.state_machine import StateMachine
from client_replies.messages.message import Message
from client_replies.messages.replies import StorageFailed

from .network import Network
from .observer import Observer

if TYPE_CHECKING:
    from .replica import ReplicaActor

TICK = 0.02  # seconds, while something waits
END_DELAY = 1.0  # seconds that a replica which stopped leaves its supervisor to hear why and to end it

Handles = Mapping[type, Callable[[Any, Any, ActorAddress], None]]


class ReplicaStops(BaseException):
    """The replica cannot go on; the reason is for its supervisor. No `Exception`: nothing on the way may go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaParts:
    """What a replica works with: what it executes, its ways to the others and to the gateways, and who hears of it."""

    state_machine: StateMachine
    network: Network
    gateways: GatewayPort
    observer: Observer = field(default_factory=Observer)


@dataclass(eq=False)
class State:
    """What a replica does in one state; by default nothing."""

    handles: ClassVar[Handles] = {}  # what it does about which message
    replica: ReplicaActor

    def enter(self) -> None:
        """The replica is in this state from now on."""

    def handle(self, message: Message, sender: ActorAddress) -> None:
        """Do what the state does about the message."""
        handler = self.handles.get(type(message))
        if handler is not None:
            handler(self, message, sender)

    def start(self, message: StartReplica, sender: ActorAddress) -> None:
        """Begin, or say that the beginning ended well."""

    def tick(self) -> None:
        """Let time pass."""

    def counts(self) -> dict[str, int]:
        """What was counted in this life."""
        return dict(+self.replica.counters)


@dataclass(eq=False)
class Started(State):
    """The replica was started, as `setup` says, and has its component."""

    setup: StartReplica
    port: RepliesPort
    parts: ReplicaParts

    def port_message(self, message: Message, sender: ActorAddress) -> None:
        """Take what the component or the pool said."""
        self.port.receive(message)
        self.advance()

    def tick(self) -> None:
        self.port.tick()
        self.advance()

    def advance(self) -> None:
        """Do what has become possible."""
        while events := self.port.take_events():
            for event in events:
                self.port_event(event)

    def port_event(self, event: PortEvent) -> None:
        """Without its component, or the component's disk, a replica is none."""
        if isinstance(event, PortFailed | StorageFailed):
            raise ReplicaStops(str(event.fault))


@dataclass(eq=False)
class Stopped(State):
    """The replica says why it cannot go on, and ends its process like any other crash: its supervisor knows those."""

    reason: str

    def enter(self) -> None:
        replica = self.replica
        replica.log.critical("replica_stops", replica=replica.name, reason=self.reason)
        self._answer = ReplicaStopped(name=replica.name, pid=replica.machine.pid(), reason=self.reason)
        self._since = replica.environment.monotonic()
        replica.send(replica.script, self._answer)

    def receive(self, message: object, sender: ActorAddress) -> None:
        """End the process if it is time, whatever woke the replica, or say why again."""
        if self.replica.environment.monotonic() - self._since > END_DELAY:
            self.replica.machine.end()
        elif isinstance(message, StartReplica | Join):
            self.replica.send(sender, self._answer)
