"""The messages of durable replies without anything else: what the actor system alone allows.

The driver sends the same `WriteReplies` that a port would, a relay answers it after a `WriteSlots` to a third actor and
back; nothing is built, verified, written or synced. No component on this actor system is faster than this one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from thespian.actors import Actor, ActorAddress

from client_replies.messages.leases import make_lease
from client_replies.messages.replies import WriteReplies, WritesAccepted
from client_replies.messages.storage_io import SlotsWritten, WriteSlots

from .meter import Meter
from .owner import OWNER, RunDone, StartRun
from .workload import SESSIONS


class Sink(Actor):
    """In the storage's place."""

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Say that it is written."""
        if isinstance(message, WriteSlots):
            self.send(sender, SlotsWritten(batch=message.batch))


class Relay(Actor):
    """In the component's place."""

    def __init__(
        self, capabilities: Mapping[str, object] | None = None, requirements: Mapping[str, object] | None = None
    ) -> None:
        super().__init__()
        self._sink: ActorAddress | None = None
        self._owner: ActorAddress | None = None

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Hand it on, there and back."""
        if isinstance(message, WriteReplies):
            if self._sink is None:
                self._sink, self._owner = self.createActor(Sink), sender
            self.send(self._sink, WriteSlots(batch=message.number, slots=message.slots, payloads=message.payloads))
        elif isinstance(message, SlotsWritten) and self._owner is not None:
            done = WritesAccepted(owner=OWNER, number=message.batch, credit=SESSIONS, durable_through=message.batch)
            self.send(self._owner, done)


class MessagesDriver(Actor):
    """Keeps the window full, in as many batches as the component's driver."""

    def __init__(
        self, capabilities: Mapping[str, object] | None = None, requirements: Mapping[str, object] | None = None
    ) -> None:
        super().__init__()
        self._asker: ActorAddress | None = None
        self._number = 0
        self._flights: deque[float] = deque()

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Start, or go on."""
        if isinstance(message, StartRun):
            self._params, self._asker = message.params, sender
            self._relay = self.createActor(Relay)
            self._batch = self._params["batch"]
            self._slots = tuple(range(self._batch))
            self._leases = tuple(make_lease(buffer, 1) for buffer in self._slots)
            self._meter = Meter(self._params["seconds"], SESSIONS)
            self._fill()
        elif isinstance(message, WritesAccepted):
            if self._meter.done(self._batch, self._flights.popleft()) and self._asker is not None:
                asker, self._asker = self._asker, None
                self.send(asker, RunDone(result=self._meter.result(self._params["size"])))
            elif not self._meter.finished:
                self._fill()

    def _fill(self) -> None:
        while (len(self._flights) + 1) * self._batch <= self._params["window"]:
            self._number += 1
            self._flights.append(time.perf_counter())
            batch = WriteReplies(
                owner=OWNER,
                number=self._number,
                op=self._number,
                slots=self._slots,
                payloads=self._leases,
                durable=True,
            )
            self.send(self._relay, batch)
