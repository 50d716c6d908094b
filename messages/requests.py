"""Numbered requests between two actors: the sender's half, `Outbox`, and the receiver's half, `Turns`.

A network loses, repeats and delays. So the sender keeps one request per lane in flight, sends it again unchanged until
it is answered, and takes one answer. The receiver knows the last number of each lane and its answer: it executes a new
request, answers a repeated one again, and ignores one that comes late, because its sender has long had the answer.

Guarantees: an `Outbox` has at most one unanswered request per lane and takes one answer per request. `Turns` admits
each number once. Limits: no deadlines; a request is repeated until it is answered or forgotten. Neither half sends or
reads a clock of its own.

Owns: what is in flight, and the last answer of each lane.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from .faults import InvariantBroken, invariant
from .message import Message


@dataclass(slots=True)
class _InFlight:
    message: Message
    number: int
    resend_at: float


class Outbox:
    """One sender's requests to one receiver, by lane.

    `send` carries a message to the receiver; `resend_timeout` is in seconds, `now` in seconds of one monotonic clock.
    """

    def __init__(self, send: Callable[[Message], None], resend_timeout: float) -> None:
        self._send = send
        self.resend_timeout = resend_timeout
        self._in_flight: dict[Hashable, _InFlight] = {}
        self._numbers: dict[Hashable, int] = {}

    def next_number(self, lane: Hashable) -> int:
        """The number of the lane's next request, from 1."""
        return self._numbers.get(lane, 0) + 1

    def post(
        self, lane: Hashable, message: Message, now: float, *, timeout: float | None = None, number: int | None = None
    ) -> None:
        """Send the lane's next request, which carries `next_number`; again after `timeout` or the resend timeout.

        With a `number` of its own, the request does not count in the lane: for lanes that have one request ever.
        """
        if lane in self._in_flight:
            raise InvariantBroken(f"two requests in lane {lane}")
        if number is None:
            number = self._numbers[lane] = self.next_number(lane)
        self._in_flight[lane] = _InFlight(message, number, now + (timeout or self.resend_timeout))
        self._send(message)

    def in_flight(self, lane: Hashable, number: int | None = None) -> Message | None:
        """The lane's unanswered request, if there is one and it has this number.

        Without a `number` the answer's class is enough to tell, because the lane has one request ever.
        """
        request = self._in_flight.get(lane)
        return request.message if request is not None and number in (None, request.number) else None

    def answered(self, lane: Hashable, number: int | None = None) -> Message | None:
        """Take the request that an answer belongs to out of flight; None if it answers nothing that is in flight."""
        request = self._in_flight.get(lane)
        if request is None or (number is not None and number != request.number):
            return None
        del self._in_flight[lane]
        return request.message

    def move(self, lane: Hashable, to: Hashable, number: int, now: float) -> bool:
        """Take an unanswered request to another lane, so that its own is free; False if it is not in flight.

        For a receiver that has begun what takes long. It is sent again after a whole timeout, from the other lane.
        """
        if self.in_flight(lane, number) is None:
            return False
        invariant(to not in self._in_flight, f"two requests in lane {to}")
        self._in_flight[to] = self._in_flight.pop(lane)
        self.postpone(to, now)
        return True

    def is_busy(self, lane: Hashable) -> bool:
        """Whether the lane's request is unanswered."""
        return lane in self._in_flight

    @property
    def any_busy(self) -> bool:
        """Whether any request is unanswered."""
        return bool(self._in_flight)

    @property
    def due(self) -> float:
        """When the first request is overdue; infinity without any."""
        return min((request.resend_at for request in self._in_flight.values()), default=math.inf)

    def resend(self, now: float) -> int:
        """Send every overdue request again; how many there were."""
        overdue = [request for request in self._in_flight.values() if now >= request.resend_at]
        for request in overdue:
            request.resend_at = now + self.resend_timeout
            self._send(request.message)
        return len(overdue)

    def postpone(self, lane: Hashable, now: float) -> None:
        """The receiver is busy: the lane's request waits a whole timeout before it is sent again."""
        self._in_flight[lane].resend_at = now + self.resend_timeout

    def forget(self, *lanes: Hashable) -> None:
        """Drop the unanswered requests of these lanes, of all lanes without any; numbers go on."""
        for lane in lanes or tuple(self._in_flight):
            self._in_flight.pop(lane, None)


class Turn(enum.Enum):
    """What a request's number says about it."""

    NEW = "the lane's next request: execute it"
    REPEATED = "the last request, which was answered: send the same answer again"
    WAITING = "the last request, whose answer is not ready: it will be sent"
    OLD = "an earlier request that comes late: ignore it, for its sender had its answer before it asked for more"
    SKIPPED = "a later one than the next, or the next while the last is unanswered: the sender is out of sequence"


@dataclass(slots=True)
class Turns:
    """One receiver's view of one lane: the last request's number, and its answer, or None while it has none."""

    number: int = 0
    answer: Message | None = None

    def admit(self, number: int) -> Turn:
        """What to do about request `number`. Changes nothing: `begin` does, once the request is found in order."""
        if number == self.number:
            return Turn.WAITING if self.answer is None else Turn.REPEATED
        if number < self.number:
            return Turn.OLD
        return Turn.NEW if number == self.expected else Turn.SKIPPED

    @property
    def expected(self) -> int:
        """The number that is expected next: the last one again while it is unanswered."""
        return self.number if self.number and self.answer is None else self.number + 1

    def begin(self, number: int, answer: Message | None = None) -> None:
        """Request `number` is executed; `answer` if it is ready at once."""
        self.number, self.answer = number, answer
