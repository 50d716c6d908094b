"""ClientRepliesActor: keeps the latest reply of every client session, durable, verified and repaired from its peers.

Guarantees: the invariants of docs/architecture.md, each in the part that keeps it (`slots`, `writing`, `reader`,
`peer_server`, `repair_planner`, `repair_service`, `checkpointing`, `storage`); 12, 13 and 15 are the replica's. This
module is the door: it hands each message to the state that the actor is in, and stops when the disk fails or an actor
dies.

Limits: it knows nothing of requests. Whether a request is new is the session table's business, which the replica owns;
this actor is told what to keep.

Owns: the slots' state; its StorageActor and MessagePoolActor unless it was told of others. It does no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from thespian.actors import ActorAddress

from client_replies.actors.thespian.component_actor import ComponentActor, Handler
from client_replies.messages.faults import FaultKind
from client_replies.messages.peers import GetReplies
from client_replies.messages.protocol import PROTOCOL, Party
from client_replies.messages.replies import CloseReplies, OpenReplies
from client_replies.messages.storage_io import StorageStopped

from .lifecycle import Component, fault, refusal
from .opening import Closed
from .stopped import stop


class ClientRepliesActor(ComponentActor):
    """The actor. See the module, and `client_replies.messages.replies` for what it is asked."""

    parties = (Party.REPLIES, Party.PEER, Party.HOLDER)

    def __init__(self, capabilities: Mapping[str, object] | None = None, requirements: object = None) -> None:
        super().__init__(capabilities, requirements)
        self.component = Component(self, Closed)

    def handlers(self) -> dict[type, Handler]:
        received = [row.message for row in PROTOCOL if row.receiver in (Party.REPLIES, Party.PEER, Party.HOLDER)]
        return {
            **dict.fromkeys(received, self.handle),
            OpenReplies: self.open,
            CloseReplies: self.close,
            StorageStopped: self.storage_stopped,
        }

    def is_from(self, party: Enum, message: Any, sender: ActorAddress) -> bool:
        """The owner is who opened; storage and pool are those in use; peers are those that the owner named."""
        component = self.component
        if party is Party.STORAGE:
            return sender == component.storage.address
        if party is Party.POOL:
            return sender == component.pool.address
        if party is Party.REPLICA:
            return component.state.is_owner(sender) or component.closed_before(message) is not None
        return component.state.is_peer(message.asker if isinstance(message, GetReplies) else message.peer, sender)

    def refuse_stranger(self, message: Any, sender: ActorAddress) -> None:
        """Only the owner may ask for this: an owner that was replaced learns it here, and stops asking."""
        expected = "the replica that opened the file"
        answer = refusal(message, fault(FaultKind.OWNER_UNKNOWN, "a sender that is not the owner", expected))
        if answer is not None:
            self.send(sender, answer)

    def handle(self, message: Any, sender: ActorAddress) -> None:
        """Hand the message to the state that the actor is in."""
        self.component.state.handle(message, sender)

    def open(self, message: OpenReplies, sender: ActorAddress) -> None:
        """Anyone may ask for this, in any state."""
        self.component.state.open(message, sender)

    def close(self, message: CloseReplies, sender: ActorAddress) -> None:
        """Close, or say again that it is closed."""
        closed = self.component.closed_before(message)
        if closed is not None:
            self.send(sender, closed)
        else:
            self.handle(message, sender)

    def storage_stopped(self, message: StorageStopped, sender: ActorAddress) -> None:
        """The disk failed: nothing is retried on it (invariant 14)."""
        stop(self.component, message.fault)

    def child_exited(self, child: ActorAddress) -> None:
        """An actor of the component died: without it nothing can be promised, once there is something to lose."""
        component = self.component
        for partner, name in ((component.storage, "the storage"), (component.pool, "the message pool")):
            if partner.is_child and child == partner.address:
                partner.lose()
                if not isinstance(component.state, Closed):
                    stop(component, fault(FaultKind.ACTOR_DIED, f"{name} is gone", "all three actors"))

    def due(self) -> float:
        component = self.component
        return min(component.storage.requests.due, component.pool.requests.due, component.state.due())

    def tick(self) -> None:
        """Send again what has no answer, and let the state do what is due."""
        component, now = self.component, self.environment.monotonic()
        for partner in (component.storage, component.pool):
            resent = partner.requests.resend(now)
            if resent:
                self.counters["requests_resent"] += resent
        component.state.tick(now)

    def stop(self) -> None:
        """Release what is mapped. The children are told to exit by Thespian."""
        self.component.state.exit()
