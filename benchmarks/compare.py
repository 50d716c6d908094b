"""Whether a new run is worse than the accepted one: ratio by ratio, since absolute figures belong to a machine.

A ratio is a regression if its median is worse than the accepted median by more than `MARGIN`, and also worse than the
worst of the accepted rounds: what already happened in an accepted run is not news. Ratios that only one of the two runs
has are named, and are no regressions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MARGIN = 0.2


@dataclass(frozen=True, slots=True)
class Difference:
    """One ratio in both runs."""

    what: str
    accepted: float
    found: float
    is_regression: bool

    def line(self) -> list[str]:
        """A row of the table."""
        change = (self.found / self.accepted - 1) * 100 if self.accepted else 0.0
        return [
            self.what,
            f"{self.accepted:.2f}",
            f"{self.found:.2f}",
            f"{change:+.0f}%",
            "REGRESSION" if self.is_regression else "",
        ]


@dataclass(frozen=True, slots=True)
class Compared:
    """Two runs side by side."""

    differences: list[Difference]
    only_accepted: list[str]
    only_found: list[str]

    @property
    def regressions(self) -> list[Difference]:
        """What became worse."""
        return [difference for difference in self.differences if difference.is_regression]


def ratios_of(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Every ratio that a run measured."""
    return {
        target["what"]: target
        for group in result["groups"]
        for target in group["targets"]
        if target["ratio"] is not None
    }


def is_regression(accepted: Mapping[str, Any], found: Mapping[str, Any], margin: float = MARGIN) -> bool:
    """Whether the ratio became worse by more than the margin, and than it ever was in the accepted run."""
    before, now = accepted["ratio"], found["ratio"]["median"]
    if accepted["at_least"]:
        return bool(now < before["median"] * (1 - margin) and now < before["low"])
    return bool(now > before["median"] * (1 + margin) and now > before["high"])


def compare(accepted: Mapping[str, Any], found: Mapping[str, Any], margin: float = MARGIN) -> Compared:
    """Compare a run with the accepted one."""
    before, now = ratios_of(accepted), ratios_of(found)
    differences = [
        Difference(
            key,
            before[key]["ratio"]["median"],
            now[key]["ratio"]["median"],
            is_regression(before[key], now[key], margin),
        )
        for key in now
        if key in before
    ]
    return Compared(differences, [key for key in before if key not in now], [key for key in now if key not in before])


def compared_rows(compared: Compared) -> list[list[str]]:
    """A table of the differences."""
    return [["what", "accepted", "now", "change", ""], *(found.line() for found in compared.differences)]
