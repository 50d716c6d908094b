"""Reading a pending reply, one read at a time, beside a round trip of two actors.

The component holds the replies back from the disk for the length of the run, so it answers every read from memory.
Between two reads the owner sends a message without payload to an actor that sends one back: what a round trip of the
same actor system costs at that moment.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thespian.actors import Actor, ActorAddress

from client_replies.actors.owner.port_events import PortEvent, ReadFailed, ReadSucceeded
from client_replies.messages.config import RepliesConfig
from client_replies.messages.message import Message
from client_replies.messages.replies import RepliesOpened
from client_replies.messages.reply_header import HEADER_SIZE

from .accounting import account, begin
from .contest import Contestant, Group, Scale, group_of
from .durable import measure_actor
from .owner import Owner, replies_config
from .targets import PENDING as PENDING_ROW
from .workload import SESSIONS, Replies
from examples.percentile import percentile

PENDING = SESSIONS // 4
HOLD_BACK = 3600.0
WARM = 20
SAMPLES_MIN = 100  # however long they take: fewer have no 99th percentile


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping(Message):
    """Send it back."""


class Echo(Actor):
    """Sends each message back."""

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Send it back."""
        if isinstance(message, Ping):
            self.send(sender, message)


class PendingReader(Owner):
    """Reads replies whose writes are pending, and sends messages to and fro in turn."""

    def configure(self) -> RepliesConfig:
        return replies_config(self.params["path"], self.params["size"], hold_back=HOLD_BACK)

    def opened(self, event: RepliesOpened) -> None:
        self._echo = self.createActor(Echo)
        self._headers: dict[int, bytes] = {}
        self._slots = itertools.cycle(range(PENDING))
        replies = Replies(self.params["size"], op=SESSIONS)
        for _ in range(PENDING):
            slot, reply = replies.next()
            self._headers[slot] = reply[:HEADER_SIZE]
            self.port.write(slot, reply)
        self.port.committed(replies.op)
        self._reads: list[float] = []
        self._round_trips: list[float] = []
        self._begin()

    def _begin(self) -> None:
        # The first turns do not count: the port may still answer these reads, before its message is accepted.
        self._until = time.perf_counter() + self.params["seconds"]
        self._before = begin()
        self._read()

    def _read(self) -> None:
        slot = next(self._slots)
        self._begun = time.perf_counter()
        self.port.read(slot, self._headers[slot])

    def event(self, event: PortEvent) -> None:
        if isinstance(event, ReadSucceeded):
            self._reads.append(time.perf_counter() - self._begun)
            self._begun = time.perf_counter()
            self.send(self._echo, Ping())
        elif isinstance(event, ReadFailed):
            self.fail(f"a reply could not be read: {event.reason}")

    def other(self, message: object, sender: ActorAddress) -> None:
        if isinstance(message, Ping):
            self._round_trips.append(time.perf_counter() - self._begun)
            if time.perf_counter() < self._until or len(self._reads) < WARM + self.params.get("samples", SAMPLES_MIN):
                self._read()
            else:
                self.reads_done()

    def reads_done(self) -> None:
        """All was measured."""
        reads, round_trips = self._reads[WARM:], self._round_trips[WARM:]
        figures = {
            "value": percentile(reads, 50),
            "p99": percentile(reads, 99),
            "round trip": percentile(round_trips, 50),
            "round trip p99": percentile(round_trips, 99),
        }
        self.finish({**figures, **account(self._before, begin())})


def measure(contestant: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Run one contestant of the row."""
    return measure_actor(PendingReader, params)


def groups(scale: Scale) -> list[Group]:
    """The contests of the row."""
    figures = [(name, "s") for name in ("p99", "round trip", "round trip p99")]
    ours = Contestant("ours", "client-replies, a read", on_base=True)
    return [group_of(PENDING_ROW, "s", [ours], {"size": 4096}, figures)]
