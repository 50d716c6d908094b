"""The messages of durable replies without anything else: what the actor system alone allows.

The driver sends the same `WriteReplies` that a port would, a relay answers it after a `WriteSlots` to a third actor and
back; nothing is built, verified, written or synced. No component on this actor system is faster than this one.
"""

from __future__ import annotations

from thespian.actors import Actor, ActorAddress

from client_replies.messages.leases import make_lease
from client_replies.messages.replies import WriteReplies, WritesAccepted
from client_replies.messages.storage_io import SlotsWritten, WriteSlots

from .owner import OWNER
from .window import WindowDriver
from .workload import SESSIONS


class Sink(Actor):
    """In the storage's place."""

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Say that it is written."""
        if isinstance(message, WriteSlots):
            self.send(sender, SlotsWritten(batch=message.batch))


class Relay(Actor):
    """In the component's place."""

    _sink: ActorAddress | None = None
    _owner: ActorAddress | None = None

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Hand it on, there and back."""
        if isinstance(message, WriteReplies):
            if self._sink is None:
                self._sink, self._owner = self.createActor(Sink), sender
            self.send(self._sink, WriteSlots(batch=message.number, slots=message.slots, payloads=message.payloads))
        elif isinstance(message, SlotsWritten) and self._owner is not None:
            done = WritesAccepted(owner=OWNER, number=message.batch, credit=SESSIONS, durable_through=message.batch)
            self.send(self._owner, done)


class MessagesDriver(WindowDriver):
    """Sends as many batches as the component's driver."""

    def prepare(self) -> None:
        self._relay = self.createActor(Relay)
        self._slots = tuple(range(self.params["batch"]))
        self._leases = tuple(make_lease(buffer, 1) for buffer in self._slots)
        self.begin(self.params["batch"])

    def send_batch(self, number: int, count: int) -> None:
        batch = WriteReplies(
            owner=OWNER, number=number, op=number, slots=self._slots, payloads=self._leases, durable=True
        )
        self.send(self._relay, batch)

    def answered(self, message: object) -> bool:
        return isinstance(message, WritesAccepted)
