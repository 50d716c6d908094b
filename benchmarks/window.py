"""A driver that keeps a window full of replies that are not yet durable, in front of another actor.

What it sends, to whom, and what it is answered is in the methods that measurements override; it counts, and stops.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from thespian.actors import Actor, ActorAddress

from .meter import Meter
from .owner import RunDone, StartRun
from .workload import SESSIONS


class WindowDriver(Actor):
    """See the module. A batch is answered as a whole, in the order of sending."""

    def __init__(
        self, capabilities: Mapping[str, object] | None = None, requirements: Mapping[str, object] | None = None
    ) -> None:
        super().__init__()
        self.params: dict[str, Any] = {}
        self._asker: ActorAddress | None = None
        self._number = 0
        self._flights: deque[float] = deque()

    def prepare(self) -> None:
        """Make what the batches are sent to; `begin` once it is ready."""
        raise NotImplementedError

    def send_batch(self, number: int, count: int) -> None:
        """Send the next batch, of so many replies."""
        raise NotImplementedError

    def answered(self, message: object) -> bool:
        """Take a message. True if it says that the oldest batch is durable."""
        raise NotImplementedError

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Start, or go on."""
        if isinstance(message, StartRun):
            self.params, self._asker = message.params, sender
            self.prepare()
        elif self.answered(message):
            if self._meter.done(self._batch, self._flights.popleft()) and self._asker is not None:
                asker, self._asker = self._asker, None
                self.send(asker, RunDone(result=self._meter.result(self.params["size"])))
            elif not self._meter.finished:
                self._fill()

    def begin(self, batch: int) -> None:
        """Fill the window, with batches of so many replies."""
        self._batch = batch
        self._meter = Meter(self.params["seconds"], SESSIONS)
        self._fill()

    def _fill(self) -> None:
        while (len(self._flights) + 1) * self._batch <= self.params["window"]:
            self._number += 1
            self._flights.append(time.perf_counter())
            self.send_batch(self._number, self._batch)
