"""One replica as an actor: the door. It hands each message to the state that the replica is in.

Guarantees: only the script that started the replica commands it, and only members at the addresses that the script told
are heard. An `OSError` or `LogStoreError` that a handler lets out stops the replica, and is the reason that it gives.

Limits: a replica does not go on without its log or its component. It stops, and its supervisor starts it again.

Owns: the state; the replica's ClientRepliesActor.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar

from thespian.actors import ActorAddress, ActorExitRequest, ThespianWatch

from client_replies.actors.component.lifecycle import NOBODY
from client_replies.actors.owner.port_events import PORT_MESSAGES
from client_replies.actors.owner.replies_port import RepliesPort
from client_replies.actors.thespian.component_actor import ComponentActor, Handler
from client_replies.cluster.control import Finish, GetProgress, Join, Sender, StartReplica
from client_replies.cluster.door.forwarding_messages import ForwardRequests
from client_replies.cluster.door.gateway_port import GatewayPort
from client_replies.cluster.log.log_store import LogStoreError
from client_replies.cluster.state_machine import StateMachine
from client_replies.cluster.vsr.config import VsrConfig
from client_replies.messages.peers import GetReplies
from client_replies.messages.protocol import Party

from .lifecycle import END_DELAY, ReplicaParts, ReplicaStops, State, Stopped
from .machine import Machine
from .network import Envelope, Network
from .starting import Waiting
from .taking_part import TakingPart

HEARTBEATS = 5  # in the time after which a silent primary is given up


class ReplicaActor(ComponentActor):
    """See the module. A service says in a subclass what it executes."""

    parties = (Party.REPLICA, Party.HOLDER, Party.PEER)
    # Anyone may be a gateway, as anyone may be a client; what a gateway said, it alone is answered (`GatewayPort`).
    senders: ClassVar[Mapping[type, Enum]] = {
        StartReplica: Sender.SCRIPT,
        Join: Sender.SCRIPT,
        Finish: Sender.SCRIPT,
        Envelope: Sender.MEMBER,
        ForwardRequests: Party.ANYONE,
        GetProgress: Party.ANYONE,
    }

    def __init__(self, capabilities: Mapping[str, object] | None = None, requirements: object = None) -> None:
        super().__init__(capabilities, requirements)
        self.machine = self.make_machine()
        self.name = ""
        self.script = NOBODY  # that started it
        self.component = NOBODY
        self.pool = NOBODY
        self.members: dict[str, ActorAddress] = {}
        self.state: State = Waiting(self)

    # What a subclass may say.

    def make_machine(self) -> Machine:
        """What this replica runs on."""
        return Machine()

    def make_state_machine(self, message: StartReplica) -> StateMachine:
        """What this replica executes, in the state before the first operation."""
        raise NotImplementedError

    def make_parts(self, message: StartReplica, port: RepliesPort) -> ReplicaParts:
        """What this replica works with."""
        return ReplicaParts(
            state_machine=self.make_state_machine(message),
            network=Network(message.name, self.tell_member),
            gateways=GatewayPort(message.config.replica, message.config.cluster, self.send),
        )

    def vsr_config(self, message: StartReplica) -> VsrConfig:
        """The limits and intervals of the protocol."""
        return VsrConfig(
            cluster=message.config.cluster,
            replica=message.config.replica,
            replicas=message.replicas,
            clients_max=message.config.clients_max,
            checkpoint_interval=message.checkpoint_interval,
            log_max=4 * message.checkpoint_interval + 64,
            heartbeat=message.view_change / HEARTBEATS,
            resend=message.view_change / 4,
            view_change=message.view_change,
        )

    def tell_member(self, name: str, message: object) -> None:
        """Send to a member, if it is there."""
        if name in self.members:
            self.send(self.members[name], message)

    def counts(self) -> dict[str, int]:
        """What was counted in this life."""
        return self.state.counts()

    # What comes in.

    def handlers(self) -> dict[type, Handler]:
        # A peer that asks us for replies takes us for our component, which was never up. No state handles that: the
        # peer hears nothing, so it knows nothing to be lost.
        received = (Join, Finish, Envelope, ForwardRequests, GetProgress, GetReplies, *PORT_MESSAGES)
        return {**dict.fromkeys(received, self.handle), StartReplica: self.start}

    def is_from(self, party: Enum, message: Any, sender: ActorAddress) -> bool:
        """The script is who started the replica; it tells where the members are."""
        if party is Party.REPLIES:
            return sender == self.component
        if party is Party.POOL:
            return sender == self.pool
        if party is Sender.SCRIPT:
            return isinstance(self.state, Waiting) or sender == self.script
        if not isinstance(self.state, TakingPart):
            return True  # Before it takes part, a replica hears nothing of the others.
        return isinstance(message, Envelope) and sender == self.members.get(message.sender, NOBODY)

    def receiveMessage(self, message: object, sender: ActorAddress) -> ThespianWatch | None:
        """See `ComponentActor`; and the end of a replica that cannot go on, which is woken for nothing else."""
        if isinstance(self.state, Stopped) and not isinstance(message, ActorExitRequest):
            self.state.receive(message, sender)
        else:
            try:
                return super().receiveMessage(message, sender)
            except ReplicaStops as stop:
                self.become(Stopped(self, str(stop)))
        if self._timer is None:
            return None
        self._timer.drain()
        self._timer.set(END_DELAY)
        return ThespianWatch([self._timer.fileno()])

    def _work(self, message: object, sender: ActorAddress) -> None:
        try:
            super()._work(message, sender)
        except (LogStoreError, OSError) as error:
            raise ReplicaStops(str(error)) from error

    def start(self, message: StartReplica, sender: ActorAddress) -> None:
        """Begin, or say that the beginning ended well."""
        self.state.start(message, sender)

    def handle(self, message: Any, sender: ActorAddress) -> None:
        """Hand the message to the state that the replica is in."""
        self.state.handle(message, sender)

    def tick(self) -> None:
        self.state.tick()

    def child_exited(self, child: ActorAddress) -> None:
        """Without its component a replica is none."""
        if child == self.component:
            raise ReplicaStops("its ClientRepliesActor died")

    def become(self, state: State) -> None:
        """Enter another state."""
        self.state = state
        state.enter()
