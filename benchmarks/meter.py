"""The stopwatch of a run: warms up, measures for so long, and says what was seen.

Guarantees: the measured time begins and ends when something became durable, and counts exactly what became durable
between the two, so that nothing that is still on its way is counted. Warming up takes at least `warm_count` replies,
which is every slot once: first writes to a new file cost more than later ones.
"""

from __future__ import annotations

import time
from typing import Any

from .accounting import Snapshot, account, begin
from examples.percentile import percentile


class Meter:
    """One run's stopwatch."""

    def __init__(self, seconds: float, warm_count: int, warm_seconds: float = 0.2) -> None:
        self.finished = False
        self._seconds = seconds
        self._warm_count = warm_count
        self._warm_until = time.perf_counter() + warm_seconds
        self._count = 0
        self._latencies: list[float] = []
        self._before: Snapshot | None = None
        self._after: Snapshot | None = None

    def done(self, count: int, sent_at: float) -> bool:
        """So many replies, given away at `sent_at`, became durable. True when the run is over."""
        now = time.perf_counter()
        if self.finished:
            return True
        if self._before is None:
            self._warm_count -= count
            if self._warm_count <= 0 and now >= self._warm_until:
                self._before = begin()
            return False
        self._count += count
        self._latencies.append(now - sent_at)
        if now - self._before.at >= self._seconds:
            self._after = begin()
            self.finished = True
        return self.finished

    def result(self, size: int) -> dict[str, Any]:
        """What was measured, as plain data."""
        if self._before is None or self._after is None:
            raise RuntimeError("the run is not over")
        found = account(self._before, self._after)
        rate = self._count / found["seconds"]
        return {
            "value": rate,
            "MB/s": rate * size / 1e6,
            "p50": percentile(self._latencies, 50),
            "p99": percentile(self._latencies, 99),
            **found,
        }
