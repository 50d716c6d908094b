"""After what time a session repeats a request: the retransmission timeout of TCP (RFC 6298).

Guarantees: the timeout follows the round trips that were measured. A repeated request measures nothing, since nobody
can say which sending was answered (Karn). Each repetition doubles the timeout, and it stays doubled, also for the next
requests, until one is answered that was asked once: a cluster that is slower than its clients expect is not given twice
the work.

Limits: within `first` and `largest`. Jitter is the caller's.
"""

from __future__ import annotations

ROUND_TRIP_WEIGHT = 0.125  # of the newest, in the average
DEVIATION_WEIGHT = 0.25
DEVIATIONS = 4.0


class RetryTimeout:
    """See the module. `seconds` is the timeout now."""

    def __init__(self, first: float, largest: float) -> None:
        self.seconds = first
        self._first = first
        self._largest = largest
        self._round_trip = 0.0
        self._deviation = 0.0

    def measured(self, round_trip: float) -> None:
        """A request that was asked once was answered after so long."""
        if self._round_trip:
            self._deviation += DEVIATION_WEIGHT * (abs(round_trip - self._round_trip) - self._deviation)
            self._round_trip += ROUND_TRIP_WEIGHT * (round_trip - self._round_trip)
        else:
            self._round_trip, self._deviation = round_trip, round_trip / 2.0
        # At least two round trips: jitter shortens a pause, and round trips that are all the same do not deviate.
        expected = self._round_trip + max(self._round_trip, DEVIATIONS * self._deviation)
        self.seconds = min(self._largest, max(self._first, expected))

    def expired(self) -> None:
        """A request is repeated."""
        self.seconds = min(self._largest, 2.0 * self.seconds)
