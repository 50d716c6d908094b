"""Row 4: what 65,536 slots cost where 64 would do: opening, memory, one write and one read.

The files are full: every session has a reply of 4 KiB, and opening verifies all of them on the disk. Memory is what the
process of the ClientRepliesActor has of its own after opening, above what it has after opening 64 slots. A write costs
what a reply takes with a window of 32 that are not durable, over all slots in turn; a read is one at a time, over all
slots in a scattered order.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from client_replies.actors.base import UNIX_BASE
from client_replies.actors.replies_port import PortEvent, ReplyHad, ReplyNotHad
from client_replies.messages.config import RepliesConfig
from client_replies.messages.replies import RepliesOpened
from client_replies.messages.reply_header import HEADER_SIZE

from .accounting import accounts, memory_bytes
from .contest import Comparison, Contestant, Group, Scale
from .durable import measure_actor
from .files import make_file
from .meter import Meter
from .owner import Owner, replies_config
from .statistics import percentile
from .workload import Replies

FEW = 64
WINDOW = 32
BATCH = WINDOW // 2
STRIDE = 7919  # a prime: slots are read in a scattered order, each as often as any other
REPLIES = "ClientRepliesActor"
FLAT = 1.1
BYTES_A_SLOT_MAX = 1024


class ScaleDriver(Owner):
    """Opens a full file, then writes, then reads."""

    def configure(self) -> RepliesConfig:
        """See `Owner`."""
        config = replies_config(self.params["path"], self.params["size"], clients_max=self.params["slots"])
        self._replies = Replies(self.params["size"], sessions=config.clients_max)
        self._headers = make_file(config, self._replies)
        self._begun = time.perf_counter()
        return config

    def opened(self, event: RepliesOpened) -> None:
        """See `Owner`."""
        self._result: dict[str, Any] = {"open": time.perf_counter() - self._begun, "memory": own_memory(REPLIES)}
        self._reads: list[float] = []
        self._read_number = 0
        if self.params.get("open_only"):
            self.finish(self._result)
            return
        self._meter = Meter(self.params["seconds"], 4 * WINDOW)
        self._fill()

    def durable(self, count: int, committed_at: float) -> None:
        """See `Owner`."""
        if self._meter.finished:
            pass
        elif self._meter.done(count, committed_at):
            self._settle()
        else:
            self._fill()

    def _fill(self) -> None:
        while self.not_durable + BATCH <= WINDOW:
            for _ in range(BATCH):
                slot, reply = self._replies.next()
                self._headers[slot] = reply[:HEADER_SIZE]
                self.write(slot, reply)
            self.committed(self._replies.op)

    def _settle(self) -> None:
        found = self._meter.result(self.params["size"])
        self._result |= {"write": 1 / found["value"], **{name: found[name] for name in ("seconds", "busy", "sent")}}
        # What is still on its way is durable soon, and the first reads are not counted.
        self._until = time.perf_counter() + self.params["seconds"]
        self._read()

    def _read(self) -> None:
        self._read_number += 1
        slot = self._read_number * STRIDE % self.params["slots"]
        self._begun = time.perf_counter()
        self.port.read(slot, self._headers[slot])

    def event(self, event: PortEvent) -> None:
        """See `Owner`."""
        if isinstance(event, ReplyNotHad):
            self.fail(f"a reply could not be read: {event.reason}")
        if isinstance(event, ReplyHad):
            now = time.perf_counter()
            self._reads.append(now - self._begun)
            if now < self._until or len(self._reads) <= 2 * WINDOW:
                self._read()
            else:
                reads = percentile(self._reads[WINDOW:], 50)
                self.finish({"value": self._result["write"], "read": reads, **self._result})


def own_memory(actor: str) -> int:
    """Bytes of memory that the actor's process shares with nobody but what it was forked from."""
    found = accounts()
    return memory_bytes(found.pid(actor), "RssAnon") if found is not None else 0


def measure(contestant: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Open FEW slots, to know the memory without them; then the contestant's."""
    slots = int(contestant)
    few = {**params, "slots": FEW, "path": params["path"] + "-few", "open_only": True}
    memory = measure_actor(UNIX_BASE, ScaleDriver, few)["memory"]
    result = measure_actor(UNIX_BASE, ScaleDriver, {**params, "slots": slots})
    if slots > FEW:
        result["bytes a slot"] = (result["memory"] - memory) / (slots - FEW)
    result["open a slot"] = result["open"] / slots
    return result


def groups(scale: Scale) -> list[Group]:
    """The contests of the row."""
    counts = (64, 1024, 16384, 65536) if scale.is_full else (64, 512) if scale.name == "tiny" else (64, 16384)
    few, many = str(counts[0]), str(counts[-1])
    return [
        Group(
            row="scale",
            name="4 KiB",
            unit="s",
            params={"size": 4096},
            figures=(("read", "s"), ("open", "s"), ("open a slot", "s"), ("memory", "B"), ("bytes a slot", "B")),
            contestants=[Contestant(str(count), f"{count:,} slots, one write") for count in counts],
            comparisons=[
                Comparison(f"a write, {many} slots to {few}", many, (few,), FLAT, False),
                Comparison(f"a read, {many} slots to {few}", f"{many}:read", (f"{few}:read",), FLAT, False),
                Comparison("memory, bytes a slot", f"{many}:bytes a slot", (), BYTES_A_SLOT_MAX, False),
                Comparison("opening a slot, the same", f"{many}:open a slot", (f"{few}:open a slot",), None, False),
            ],
            rounds_max=3,
        )
    ]
