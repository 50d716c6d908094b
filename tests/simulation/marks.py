"""Counters of rare branches: proof that a run went where it was meant to go.

Guarantees: every name that can be hit is in `EXPECTED` or is a detail that no test counts on. The CI sample must reach
each expected mark; a mark that is reached no more means that the workload has become tame.
"""

from __future__ import annotations

from collections import Counter

EXPECTED: tuple[str, ...] = ()


class Marks:
    """How often each branch was reached in one run, or in many that were merged."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def hit(self, name: str, times: int = 1) -> None:
        """Count the branch."""
        self.counts[name] += times

    def merge(self, counts: dict[str, int]) -> None:
        """Add those of another run."""
        for name, count in counts.items():
            self.counts[name] += count

    def missing(self) -> list[str]:
        """The expected marks that were never reached."""
        return [name for name in EXPECTED if not self.counts[name]]
