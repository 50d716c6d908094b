"""Row 1: replies made durable a second, with a window of 64 that are not yet, and the latency of one at a time.

Every contestant builds each reply (a body of its own, a header sealed over it) in the process that drives it. The
floor is one process without actors that writes the batches to the slots of a file of our layout and syncs once a batch.
Once it builds its replies like everybody else, and once, stricter, it is given replies that were built before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from thespian.actors import Actor

from client_replies.actors.base import UNIX_BASE
from client_replies.actors.system import running_system
from client_replies.actors.writing import SMALL_BATCH
from client_replies.messages.replies import RepliesOpened
from client_replies.storage.layout import Layout, sectors_size

from .accounting import install
from .contest import Comparison, Contestant, Group, Scale
from .messages_only import MessagesDriver
from .meter import Meter
from .owner import Owner, RunDone, StartRun
from .stores import BatchStored, OpenStore, PutBatch, StoreActor, StoreOpened, open_store
from .window import WindowDriver
from .workload import SESSIONS, SIZES, WINDOW, Replies, slot_size

# An actor contestant sends half of the window at a time, so that it can build the next half meanwhile.
BATCH = WINDOW // 2
# Ready replies are built for so many bytes, and used again after that.
READY_BYTES_MAX = 2**28
TIMEOUT = 60.0


class OursDriver(Owner):
    """Keeps the window full through a RepliesPort."""

    def opened(self, event: RepliesOpened) -> None:
        """See `Owner`."""
        self._window = int(self.params["window"])
        self._batch = _batch_of_ours(self.params)
        self._replies = Replies(self.params["size"])
        self._meter = Meter(self.params["seconds"], SESSIONS)
        self._fill()

    def durable(self, count: int, committed_at: float) -> None:
        """See `Owner`."""
        if self._meter.finished:
            return
        if self._meter.done(count, committed_at):
            self.finish(self._meter.result(self.params["size"]))
        else:
            self._fill()

    def _fill(self) -> None:
        while self.not_durable + self._batch <= self._window:
            for _ in range(self._batch):
                slot, reply = self._replies.next()
                self.write(slot, reply)
            self.committed(self._replies.op)


def _batch_of_ours(params: Mapping[str, Any]) -> int:
    """Half of the window, so that one half is built while the other is written; all of it where messages cost more."""
    window = int(params["window"])
    together = window if window * params["size"] <= SMALL_BATCH else BATCH
    return min(int(params.get("batch", together)), window)


class StoreDriver(WindowDriver):
    """Keeps the window full in front of a StoreActor."""

    def prepare(self) -> None:
        """See `WindowDriver`."""
        self._store = self.createActor(StoreActor)
        opening = OpenStore(
            kind=self.params["kind"], path=self.params["path"], bytes_max=SESSIONS * self.params["size"]
        )
        self.send(self._store, opening)

    def send_batch(self, number: int, count: int) -> None:
        """See `WindowDriver`."""
        slots, replies = self._replies.batch(count)
        self.send(self._store, PutBatch(number=number, slots=slots, replies=replies))

    def answered(self, message: object) -> bool:
        """See `WindowDriver`."""
        if isinstance(message, StoreOpened):
            self._replies = Replies(self.params["size"])
            self.begin(min(int(self.params.get("batch", BATCH)), int(self.params["window"])))
        return isinstance(message, BatchStored)


def measure_actor(base: str, driver: type[Actor], params: Mapping[str, Any]) -> dict[str, Any]:
    """Run a driver in a new actor system."""
    install("main")
    with running_system(base) as system:
        address = system.createActor(driver)
        answer = system.ask(address, StartRun(params=dict(params)), params["seconds"] + TIMEOUT)
    if not isinstance(answer, RunDone) or answer.failed:
        raise RuntimeError(answer.failed if isinstance(answer, RunDone) else f"the driver answered {answer!r}")
    return answer.result


class Floor:
    """A file of our layout, written without ado."""

    def __init__(self, path: str, size: int) -> None:
        self._layout = Layout.of_shape(SESSIONS, slot_size(size))
        self._padding = bytes(sectors_size(size) - size)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.posix_fallocate(self._descriptor, 0, self._layout.size)
        os.fsync(self._descriptor)

    def put(self, slots: Sequence[int], replies: Sequence[bytes]) -> None:
        """Write the batch, then one sync."""
        for slot, reply in zip(slots, replies, strict=True):
            os.pwritev(self._descriptor, (reply, self._padding), self._layout.slot_offset(slot))
        os.fdatasync(self._descriptor)

    def get(self, slot: int) -> bytes:
        """Read a slot."""
        return os.pread(self._descriptor, self._layout.message_size_max, self._layout.slot_offset(slot))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class _Ready:
    """Replies that were built before the clock started, in batches, over and over."""

    def __init__(self, size: int, batch: int) -> None:
        replies = Replies(size)
        batches = max(SESSIONS // batch, min(32, READY_BYTES_MAX // (size * batch)))
        self._batches = [replies.batch(batch) for _ in range(batches)]
        self._next = 0

    def batch(self, count: int) -> tuple[tuple[int, ...], tuple[bytes, ...]]:
        """The next batch."""
        self._next = (self._next + 1) % len(self._batches)
        return self._batches[self._next]


def measure_direct(params: Mapping[str, Any]) -> dict[str, Any]:
    """Run a loop in this process: the floor, or a store that is called directly."""
    size, batch, kind = params["size"], params["batch"], params["kind"]
    store = Floor(params["path"], size) if kind == "floor" else open_store(kind, params["path"], SESSIONS * size)
    replies = _Ready(size, batch) if params.get("ready") else Replies(size)
    meter = Meter(params["seconds"], SESSIONS)
    while not meter.finished:
        slots, payloads = replies.batch(batch)
        sent_at = time.perf_counter()
        store.put(slots, payloads)
        meter.done(batch, sent_at)
    store.close()
    return meter.result(size)


def measure(contestant: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Run one contestant of the row."""
    window = params["window"]
    if contestant in ("ours-tcp", "ours-simple"):
        base = UNIX_BASE if contestant == "ours-tcp" else "simpleSystemBase"
        return measure_actor(base, OursDriver, params)
    if contestant == "messages":
        return measure_actor(UNIX_BASE, MessagesDriver, {**params, "batch": _batch_of_ours(params)})
    if contestant in ("sqlite-actor", "lmdb-actor"):
        return measure_actor(UNIX_BASE, StoreDriver, {**params, "kind": contestant.split("-")[0]})
    if contestant in ("sqlite-direct", "lmdb-direct"):
        return measure_direct({**params, "kind": contestant.split("-")[0], "batch": 1})
    return measure_direct({**params, "kind": "floor", "batch": window, "ready": contestant == "floor-ready"})


CONTESTANTS = (
    "floor-ready",
    "floor",
    "ours-tcp",
    "ours-simple",
    "messages",
    "sqlite-actor",
    "lmdb-actor",
    "sqlite-direct",
    "lmdb-direct",
)


def groups(scale: Scale) -> list[Group]:
    """The contests of the row."""
    found = [_group(name, size) for name, size in SIZES.items()]
    latencies = [_latency_group(name, size) for name, size in SIZES.items()]
    return [*found, *(latencies if scale.is_full else latencies[:1])]


TITLES = {
    "floor-ready": "floor: write and sync, replies ready made",
    "floor": "floor: build, write and sync",
    "ours-tcp": "ours, multiprocUnixBase",
    "ours-simple": "ours, simpleSystemBase",
    "messages": "our messages and nothing else",
    "sqlite-actor": "SQLite behind an actor",
    "lmdb-actor": "LMDB behind an actor",
    "sqlite-direct": "SQLite in-process, one transaction a reply",
    "lmdb-direct": "LMDB in-process, one transaction a reply",
}
FLOOR_TARGETS = {"4 KiB": 0.5, "64 KiB": 0.7, "1 MiB": 0.8}
ACTOR_TARGETS = {"4 KiB": 2.0, "64 KiB": 4.0, "1 MiB": 8.0}
DIRECT_TARGET = 3.0


def _group(name: str, size: int) -> Group:
    return Group(
        row="durable",
        name=name,
        unit="replies/s",
        params={"size": size, "window": WINDOW},
        figures=(("MB/s", "MB/s"), ("p50", "s"), ("p99", "s")),
        contestants=[Contestant(contestant, TITLES[contestant]) for contestant in CONTESTANTS],
        comparisons=[
            Comparison("to the floor", "ours-tcp", ("floor",), FLOOR_TARGETS[name]),
            Comparison("to the floor that is given its replies", "ours-tcp", ("floor-ready",), FLOOR_TARGETS[name]),
            Comparison(
                "to the better store behind an actor", "ours-tcp", ("sqlite-actor", "lmdb-actor"), ACTOR_TARGETS[name]
            ),
            Comparison("to the better store in-process", "ours-tcp", ("sqlite-direct", "lmdb-direct"), DIRECT_TARGET),
            Comparison("to our messages and nothing else", "ours-tcp", ("messages",)),
            Comparison("simpleSystemBase to the floor", "ours-simple", ("floor",)),
        ],
    )


def _latency_group(name: str, size: int) -> Group:
    chosen = ("floor", "ours-tcp", "ours-simple", "messages", "sqlite-actor", "lmdb-actor")
    return Group(
        row="durable",
        name=f"{name}, one at a time",
        unit="replies/s",
        params={"size": size, "window": 1, "batch": 1},
        figures=(("p50", "s"), ("p99", "s")),
        contestants=[Contestant(contestant, TITLES[contestant]) for contestant in chosen],
        comparisons=[
            Comparison("p50 to the better store's", "ours-tcp:p50", ("sqlite-actor:p50", "lmdb-actor:p50"), None, False)
        ],
    )
