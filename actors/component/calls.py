"""Requests in flight, one in each lane, sent again while they have no answer.

Guarantees: at most one unanswered request a lane; an answer counts once, and only for the request in flight. Sending
again is harmless because every receiver recognises a repeated request. Limits: no deadlines. A request to an actor of
the same replica is repeated until it is answered or that actor is known to be dead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from thespian.actors import ActorAddress

from client_replies.messages.faults import invariant
from client_replies.messages.message import Message


@dataclass(slots=True)
class Call:
    """One request in flight."""

    target: ActorAddress
    message: Message
    number: int
    sent: float


class Calls:
    """The lanes of one actor, by name."""

    def __init__(self, resend_timeout: float) -> None:
        self._resend_timeout = resend_timeout
        self._calls: dict[str, Call] = {}
        self._numbers: dict[str, int] = {}

    def next_number(self, lane: str) -> int:
        """The number of the lane's next request, from 1."""
        return self._numbers.get(lane, 0) + 1

    def start(self, lane: str, target: ActorAddress, message: Message, now: float) -> None:
        """Note the request that the caller sends now, under `next_number`."""
        invariant(lane not in self._calls, f"two requests in lane {lane}")
        number = self._numbers[lane] = self.next_number(lane)
        self._calls[lane] = Call(target, message, number, now)

    def is_busy(self, lane: str) -> bool:
        """True while the lane's request has no answer."""
        return lane in self._calls

    @property
    def any_busy(self) -> bool:
        """True while any request has no answer."""
        return bool(self._calls)

    def answered(self, lane: str, number: int | None = None) -> Message | None:
        """The request that this answers, or None if it answers nothing that is in flight.

        Without a `number` the answer's class is enough to tell, because the lane has one request ever.
        """
        call = self._calls.get(lane)
        if call is None or number not in (None, call.number):
            return None
        del self._calls[lane]
        return call.message

    @property
    def due(self) -> float:
        """When a request is overdue; infinity without any."""
        return min((call.sent for call in self._calls.values()), default=math.inf) + self._resend_timeout

    def overdue(self, now: float) -> list[Call]:
        """The requests to send again; their clocks start anew."""
        overdue = [call for call in self._calls.values() if now - call.sent >= self._resend_timeout]
        for call in overdue:
            call.sent = now
        return overdue

    def forget(self) -> None:
        """Drop everything in flight; numbers go on."""
        self._calls.clear()
