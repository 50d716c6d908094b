"""What 65,536 slots cost where 64 would do: opening, and one read.

The files are full: every session has a reply of 4 KiB, and opening verifies all of them on the disk. A read is one at a
time, over all slots in a scattered order.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from client_replies.actors.owner.port_events import PortEvent, ReadFailed, ReadSucceeded
from client_replies.messages.config import RepliesConfig
from client_replies.messages.replies import RepliesOpened

from .accounting import account, begin
from .contest import Contestant, Group, Scale, group_of
from .durable import measure_actor
from .files import make_file
from .owner import Owner, replies_config
from .targets import SCALE
from .workload import Replies
from examples.percentile import percentile

STRIDE = 7919  # a prime: slots are read in a scattered order, each as often as any other
WARM = 64
FEW, MANY = 64, 65536


class ScaleDriver(Owner):
    """Opens a full file, then reads."""

    def configure(self) -> RepliesConfig:
        config = replies_config(self.params["path"], self.params["size"], clients_max=self.params["slots"])
        self._headers = make_file(config, Replies(self.params["size"], sessions=config.clients_max))
        self._begun = time.perf_counter()
        return config

    def opened(self, event: RepliesOpened) -> None:
        self._opening = time.perf_counter() - self._begun
        self._reads: list[float] = []
        self._before = begin()
        self._until = time.perf_counter() + self.params["seconds"]
        self._read()

    def _read(self) -> None:
        slot = (len(self._reads) + 1) * STRIDE % self.params["slots"]
        self._begun = time.perf_counter()
        self.port.read(slot, self._headers[slot])

    def event(self, event: PortEvent) -> None:
        if isinstance(event, ReadFailed):
            self.fail(f"a reply could not be read: {event.reason}")
        if isinstance(event, ReadSucceeded):
            now = time.perf_counter()
            self._reads.append(now - self._begun)
            if now < self._until or len(self._reads) < 2 * WARM:
                self._read()
            else:
                reads = self._reads[WARM:]
                figures = {"value": percentile(reads, 50), "p99": percentile(reads, 99), "open": self._opening}
                self.finish({**figures, **account(self._before, begin())})


def measure(contestant: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Run one contestant of the row."""
    return measure_actor(ScaleDriver, {"slots": int(contestant), **params})


def groups(scale: Scale) -> list[Group]:
    """The contests of the row."""
    many = 512 if scale.name == "tiny" else MANY
    contestants = [
        Contestant(str(FEW), f"{FEW:,} slots, one read", {"slots": FEW}, on_base=True),
        Contestant(str(MANY), f"{many:,} slots, one read", {"slots": many}, on_base=True),
    ]
    return [group_of(SCALE, "s", contestants, {"size": 4096}, (("p99", "s"), ("open", "s")))]
