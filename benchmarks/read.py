"""Row 2: reading a reply, one read at a time: while its write is pending, and from the disk, idle and busy.

A pending reply is held back from the disk for the length of the run, so that every read of it is answered from memory.
Between two reads a message goes to an actor that sends one back, without payload and with one of the reply's size: what
a round trip of the same actor system costs at that moment. Reads from disk find the kernel's cache emptied; while
writes saturate the disk, the same owner keeps a window of 64 writes to other slots full.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from thespian.actors import Actor, ActorAddress

from client_replies.actors.base import UNIX_BASE
from client_replies.actors.replies_port import PortEvent, ReplyHad, ReplyNotHad
from client_replies.messages.config import RepliesConfig
from client_replies.messages.message import Message
from client_replies.messages.replies import RepliesOpened
from client_replies.messages.reply_header import HEADER_SIZE

from .accounting import Snapshot, account, begin
from .contest import Comparison, Contestant, Group, Scale
from .durable import measure_actor
from .files import forget_cached, make_file
from .owner import Owner, replies_config
from .statistics import percentile
from .workload import SESSIONS, WINDOW, Replies

PENDING = SESSIONS // 4
HOLD_BACK = 3600.0
WARM = 20
SAMPLES_MIN = 100  # of each kind, however long they take: fewer have no 99th percentile
WRITE_BATCH = WINDOW // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask(Message):
    """Send something back: nothing, or so many bytes."""

    size: int
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told(Message):
    """What was asked for."""

    payload: bytes = field(repr=False)


class Echo(Actor):
    """Answers at once."""

    def __init__(
        self, capabilities: Mapping[str, object] | None = None, requirements: Mapping[str, object] | None = None
    ) -> None:
        super().__init__()
        self._payload = b""

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Send back as many bytes as are asked for."""
        if isinstance(message, Ask):
            if len(self._payload) != message.size:
                self._payload = os.urandom(message.size)
            self.send(sender, Told(payload=self._payload))


class Reader(Owner):
    """Takes turns in a list of things to time, for as long as was asked; see what inherits from it."""

    def configure(self) -> RepliesConfig:
        """See `Owner`."""
        config = super().configure()
        headers = make_file(config, Replies(self.params["size"]))
        self._headers = dict(enumerate(headers))
        return config

    def opened(self, event: RepliesOpened) -> None:
        """See `Owner`."""
        self._echo = self.createActor(Echo)
        self._descriptor = os.open(self.params["path"], os.O_RDONLY)
        self._latencies: dict[str, list[float]] = {}
        self._turns: Iterator[str] = iter(())
        self._reads = 0
        self._before: Snapshot | None = None
        self.prepare()

    def prepare(self) -> None:
        """Bring about what is to be measured, then `begin_turns`."""
        raise NotImplementedError

    def slot_to_read(self, turn: str) -> int:
        """The slot whose reply is read in this turn."""
        raise NotImplementedError

    def turns_over(self) -> None:
        """The time is over."""
        self.finish_reads()

    def begin_turns(self, *turns: str) -> None:
        """Take turns from now on."""
        self._turns = itertools.cycle(turns)
        self._until = time.perf_counter() + self.params["seconds"]
        self._before = self._before or begin()
        self._next()

    def _next(self) -> None:
        taken = min((len(values) for values in self._latencies.values()), default=0)
        if time.perf_counter() >= self._until and taken >= WARM + self.params["samples"]:
            self.turns_over()
            return
        self._turn = next(self._turns)
        if self._turn in ("round trip", "round trip, same size"):
            size = 0 if self._turn == "round trip" else self.params["size"]
            self._begun = time.perf_counter()
            self.send(self._echo, Ask(size=size, payload=bytes(HEADER_SIZE) if size else b""))
            return
        slot = self.slot_to_read(self._turn)
        self._begun = time.perf_counter()
        self.port.read(slot, self._headers[slot])

    def _done(self) -> None:
        self._latencies.setdefault(self._turn, []).append(time.perf_counter() - self._begun)
        self._next()

    def event(self, event: PortEvent) -> None:
        """See `Owner`."""
        if isinstance(event, ReplyHad):
            self._done()
        elif isinstance(event, ReplyNotHad):
            self.fail(f"a reply could not be read: {event.reason}")

    def other(self, message: object, sender: ActorAddress) -> None:
        """See `Owner`."""
        if isinstance(message, Told):
            self._done()

    def finish_reads(self) -> None:
        """All was measured."""
        result: dict[str, Any] = {}
        for turn, values in self._latencies.items():
            result[f"{turn} p50"] = percentile(values[WARM:], 50)
            result[f"{turn} p99"] = percentile(values[WARM:], 99)
        if self._before is not None:
            result |= account(self._before, begin())
        os.close(self._descriptor)
        self._latencies = {}
        self.finish({"value": result[f"{self.params['main']} p50"], **result})


class PendingReader(Reader):
    """Reads replies whose writes are pending."""

    def configure(self) -> RepliesConfig:
        """See `Owner`."""
        super().configure()
        return replies_config(self.params["path"], self.params["size"], hold_back=HOLD_BACK)

    def prepare(self) -> None:
        """See `Reader`."""
        replies = Replies(self.params["size"], op=SESSIONS)
        for _ in range(PENDING):
            slot, reply = replies.next()
            self._headers[slot] = reply[:HEADER_SIZE]
            self.port.write(slot, reply)
        self.port.committed(replies.op)
        self._slots = itertools.cycle(range(PENDING))
        self._settle()

    def _settle(self) -> None:
        # The first reads may still be answered by the port, before its message is taken over.
        self.begin_turns("pending", "round trip", "round trip, same size")

    def slot_to_read(self, turn: str) -> int:
        """See `Reader`."""
        return next(self._slots)


class DiskReader(Reader):
    """Reads replies from the disk, first while it is idle and then while writes keep it busy."""

    def prepare(self) -> None:
        """See `Reader`."""
        self._writing = False
        self._slots = itertools.cycle(range(WINDOW, SESSIONS))
        self._written = 0
        self.begin_turns("idle")

    def slot_to_read(self, turn: str) -> int:
        """See `Reader`."""
        slot = next(self._slots)
        if slot == WINDOW:
            forget_cached(self._descriptor)
        return slot

    def turns_over(self) -> None:
        """See `Reader`."""
        if self._writing:
            self._writing = False
            self.finish_reads()
            return
        self._writing = True
        # Half of the sessions write, in turn; to them the ops of the others look like those of other clients.
        self._replies = Replies(self.params["size"], op=SESSIONS)
        self._fill()
        self.begin_turns("busy")

    def durable(self, count: int, committed_at: float) -> None:
        """See `Owner`."""
        self._written += count
        if self._writing:
            self._fill()

    def _fill(self) -> None:
        while self.not_durable + WRITE_BATCH <= WINDOW:
            for _ in range(WRITE_BATCH):
                slot, reply = self._replies.next()
                while slot >= WINDOW:
                    slot, reply = self._replies.next()
                self.write(slot, reply)
            self.committed(self._replies.op)


def measure(contestant: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Run one contestant of the row."""
    kind, _, base = contestant.partition("-")
    name = "simpleSystemBase" if base == "simple" else UNIX_BASE
    if kind == "pending":
        return measure_actor(name, PendingReader, {**params, "main": "pending"})
    return measure_actor(name, DiskReader, {**params, "main": "idle"})


def groups(scale: Scale) -> list[Group]:
    """The contests of the row."""
    sizes = {"4 KiB": 4096, "64 KiB": 65536}
    samples = 5 if scale.name == "tiny" else SAMPLES_MIN
    return [group(name, size, samples) for name, size in sizes.items() for group in (_pending, _disk)]


def _pending(name: str, size: int, samples: int) -> Group:
    figures = ("pending p99", "round trip p50", "round trip p99", "round trip, same size p50")
    return Group(
        row="read",
        name=f"{name}, pending",
        unit="s",
        params={"size": size, "samples": samples},
        figures=[(figure, "s") for figure in figures],
        contestants=[
            Contestant("pending-tcp", "ours, multiprocUnixBase"),
            Contestant("pending-simple", "ours, simpleSystemBase"),
        ],
        comparisons=[
            Comparison("p50 to a round trip", "pending-tcp", ("pending-tcp:round trip p50",), 1.2, False),
            Comparison(
                "p50 to a round trip of the same size",
                "pending-tcp",
                ("pending-tcp:round trip, same size p50",),
                None,
                False,
            ),
        ],
    )


def _disk(name: str, size: int, samples: int) -> Group:
    return Group(
        row="read",
        name=f"{name}, from disk",
        unit="s",
        params={"size": size, "samples": samples},
        figures=[("idle p99", "s"), ("busy p50", "s"), ("busy p99", "s")],
        contestants=[
            Contestant("disk-tcp", "ours, multiprocUnixBase"),
            Contestant("disk-simple", "ours, simpleSystemBase"),
        ],
        comparisons=[
            Comparison("p99 busy to idle", "disk-tcp:busy p99", ("disk-tcp:idle p99",), 5.0, False),
            Comparison("simpleSystemBase, the same", "disk-simple:busy p99", ("disk-simple:idle p99",), None, False),
        ],
    )
