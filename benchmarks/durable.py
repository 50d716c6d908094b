"""Replies made durable per second, with a window of 64 or 256 unacknowledged ones, and the latency of one at a time.

Every contestant builds each reply (a body of its own, a header sealed over it) in the process that drives it. The
floor is one process without actors that writes each batch to the slots of a file of our layout, then syncs once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from thespian.actors import Actor

from client_replies.actors.component.writing import SMALL_BATCH
from client_replies.actors.thespian.base import UNIX_BASE
from client_replies.actors.thespian.system import running_system
from client_replies.messages.config import RepliesConfig
from client_replies.messages.replies import RepliesOpened
from client_replies.storage.layout import Layout, sectors_size

from .accounting import install
from .contest import Contestant, Group, Scale, group_of
from .messages_only import MessagesDriver
from .meter import Meter
from .owner import Owner, RunDone, StartRun, replies_config
from .stores import BatchStored, OpenStore, PutBatch, StoreActor, StoreOpened
from .targets import DURABLE_1_MIB, DURABLE_64, DURABLE_64_KIB, DURABLE_256, ONE_4_KIB, ONE_64_KIB
from .window import WindowDriver
from .workload import SESSIONS, Replies, sessions_for, slot_size

TIMEOUT = 120.0


class OursDriver(Owner):
    """Keeps the window full through a RepliesPort."""

    def configure(self) -> RepliesConfig:
        sessions = sessions_for(self.params["window"])
        return replies_config(self.params["path"], self.params["size"], clients_max=sessions)

    def opened(self, event: RepliesOpened) -> None:
        self._window = int(self.params["window"])
        self._batch = _batch_of_ours(self.params)
        sessions = sessions_for(self._window)
        self._replies = Replies(self.params["size"], sessions)
        self._meter = Meter(self.params["seconds"], sessions)
        self._fill()

    def durable(self, count: int, committed_at: float) -> None:
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
    return int(params.get("batch", window if window * params["size"] <= SMALL_BATCH else half(window)))


def half(window: int) -> int:
    """What an actor sends at a time, so that it can build the next half meanwhile."""
    return max(1, window // 2)


class StoreDriver(WindowDriver):
    """Keeps the window full in front of a StoreActor."""

    def prepare(self) -> None:
        self._store = self.createActor(StoreActor)
        opening = OpenStore(
            kind=self.params["kind"], path=self.params["path"], bytes_max=SESSIONS * self.params["size"]
        )
        self.send(self._store, opening)

    def send_batch(self, number: int, count: int) -> None:
        slots, replies = self._replies.batch(count)
        self.send(self._store, PutBatch(number=number, slots=slots, replies=replies))

    def answered(self, message: object) -> bool:
        if isinstance(message, StoreOpened):
            self._replies = Replies(self.params["size"])
            self.begin(half(int(self.params["window"])))
        return isinstance(message, BatchStored)


def measure_actor(driver: type[Actor], params: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """Run a driver in a new actor system, on the base that the parameters name."""
    install("main")
    with running_system(params.get("base", UNIX_BASE), **options) as system:
        address = system.createActor(driver)
        answer = system.ask(address, StartRun(params=dict(params)), params["seconds"] + TIMEOUT)
    if not isinstance(answer, RunDone) or answer.failed:
        raise RuntimeError(answer.failed if isinstance(answer, RunDone) else f"the driver answered {answer!r}")
    return answer.result


class Floor:
    """A file of our layout, written without ado."""

    def __init__(self, path: str, size: int, sessions: int) -> None:
        self._layout = Layout.of_shape(sessions, slot_size(size))
        self._padding = bytes(sectors_size(size) - size)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.posix_fallocate(self._descriptor, 0, self._layout.size)
        os.fsync(self._descriptor)

    def put(self, slots: Sequence[int], replies: Sequence[bytes]) -> None:
        """Write the batch, then one sync."""
        for slot, reply in zip(slots, replies, strict=True):
            os.pwritev(self._descriptor, (reply, self._padding), self._layout.slot_offset(slot))
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def measure_floor(params: Mapping[str, Any]) -> dict[str, Any]:
    """Build, write and sync in this process."""
    size, window = params["size"], params["window"]
    sessions = sessions_for(window)
    floor = Floor(params["path"], size, sessions)
    replies = Replies(size, sessions)
    meter = Meter(params["seconds"], sessions)
    while not meter.finished:
        slots, payloads = replies.batch(window)
        sent_at = time.perf_counter()
        floor.put(slots, payloads)
        meter.done(window, sent_at)
    floor.close()
    return meter.result(size)


def measure(contestant: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Run one contestant of the row."""
    if contestant == "floor":
        return measure_floor(params)
    if contestant == "ours":
        return measure_actor(OursDriver, params)
    if contestant == "messages":
        return measure_actor(MessagesDriver, {**params, "batch": _batch_of_ours(params)})
    return measure_actor(StoreDriver, {**params, "kind": contestant})


FLOOR = Contestant("floor", "floor: build, write and sync")
OURS = Contestant("ours", "client-replies", on_base=True)
MESSAGES = Contestant("messages", "its messages and nothing else", on_base=True)
STORES = (
    Contestant("sqlite", "SQLite behind an actor", on_base=True),
    Contestant("lmdb", "LMDB behind an actor", on_base=True),
)


def groups(scale: Scale) -> list[Group]:
    """The contests of the row."""
    return [
        _group(DURABLE_64, 4096, 64, FLOOR, OURS, MESSAGES, *STORES),
        _group(DURABLE_256, 4096, 256, FLOOR, OURS),
        _group(DURABLE_64_KIB, 65536, 64, FLOOR, OURS, *STORES),
        _group(DURABLE_1_MIB, 2**20, 64, FLOOR, OURS, *STORES),
        _group(ONE_4_KIB, 4096, 1, FLOOR, OURS, MESSAGES, *STORES),
        _group(ONE_64_KIB, 65536, 1, FLOOR, OURS, *STORES),
    ]


def _group(place: tuple[str, str], size: int, window: int, *contestants: Contestant) -> Group:
    figures = (("MB/s", "MB/s"), ("p50", "s"), ("p99", "s"))
    return group_of(place, "replies/s", contestants, {"size": size, "window": window}, figures)
