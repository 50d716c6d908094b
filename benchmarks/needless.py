"""Row 6: bytes written for each reply when every client soon sends its next request, with and without holding back.

Replies are held back by the port, which lets those that nobody waits for gather, or by the component.

In every step of a steady pace, far below what the disk can take, some of 128 sessions commit a reply, chosen by chance
with one seed: most have their next one soon, some do not. A reply that the next one of its session makes useless
while it is held back is never written. The bytes are those that the process of the StorageActor wrote, as the kernel
counts them; the scrubber reads only.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any

from thespian.actors import ActorAddress, WakeupMessage

from client_replies.actors.base import UNIX_BASE
from client_replies.actors.replies_port import WRITE_INTERVAL
from client_replies.messages.config import RepliesConfig
from client_replies.messages.replies import RepliesOpened

from .accounting import Snapshot, account, accounts, begin
from .contest import Comparison, Contestant, Group, Scale
from .durable import measure_actor
from .owner import Owner, replies_config
from .workload import SESSIONS, Replies

STEP = 0.004  # seconds between two commits
SHARE = SESSIONS // 16  # sessions that commit in a step
HOLD_BACK = 0.1
STORAGE = "StorageActor"


class Pacer(Owner):
    """Commits replies at a steady pace."""

    def configure(self) -> RepliesConfig:
        """See `Owner`."""
        path, size = self.params["path"], self.params["size"]
        return replies_config(path, size, hold_back=self.params["hold_back"], writes_max=4 * SESSIONS)

    def opened(self, event: RepliesOpened) -> None:
        """See `Owner`."""
        self._replies = Replies(self.params["size"])
        self._chance = random.Random(1)
        self._committed = 0
        self._before: tuple[Snapshot, int] | None = None
        self._over = False
        self._start_at = time.perf_counter() + 2 * HOLD_BACK
        self.wakeupAfter(STEP, "step")

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """A step is due, or something for the owner."""
        if isinstance(message, WakeupMessage) and message.payload == "step":
            self._step()
        else:
            super().receiveMessage(message, sender)

    def _step(self) -> None:
        if self._over:
            return
        now = time.perf_counter()
        if self._before is None and now >= self._start_at:
            self._before = begin(), written_bytes()
            self._committed = 0
        if self._before is not None and now >= self._before[0].at + self.params["seconds"]:
            self._over = True
            found = account(self._before[0], begin())
            written = written_bytes() - self._before[1]
            rate = self._committed / found["seconds"]
            self.finish({"value": written / max(1, self._committed), "replies a second": rate, **found})
            return
        if self.port.ready:
            for slot in self._chance.sample(range(SESSIONS), SHARE):
                self.port.write(slot, self._replies.of(slot))
            self._committed += SHARE
            self.port.committed(self._replies.op)
        self.wakeupAfter(STEP, "step")


def written_bytes() -> int:
    """What the StorageActor's process has written to files."""
    found = accounts()
    if found is None:
        raise RuntimeError("nothing is accounted for")
    with open(f"/proc/{found.pid(STORAGE)}/io", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def measure(contestant: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Run one contestant of the row."""
    hold_back = HOLD_BACK if contestant == "held" else 0.0
    write_interval = WRITE_INTERVAL if contestant == "gathered" else 0.0
    own = {"hold_back": hold_back, "write_interval": write_interval}
    return measure_actor(UNIX_BASE, Pacer, {**params, **own})


def groups(scale: Scale) -> list[Group]:
    """The contests of the row."""
    return [
        Group(
            row="needless",
            name="4 KiB",
            unit="bytes/reply",
            params={"size": 4096},
            figures=(("replies a second", ""),),
            contestants=[
                Contestant("at-once", "written at once"),
                Contestant("gathered", f"gathered in the port for {WRITE_INTERVAL * 1000:.0f} ms"),
                Contestant("held", f"held back in the component for {HOLD_BACK * 1000:.0f} ms"),
            ],
            comparisons=[
                Comparison("gathered to at once", "gathered", ("at-once",), None, False),
                Comparison("held back to at once", "held", ("at-once",), None, False),
            ],
        )
    ]
