"""Decisions drawn from a seed, in streams that do not disturb each other.

Guarantees: a stream gives the same decisions in every process and on every Python version, because it is built on
`getrandbits` and `random` of a generator seeded with an integer, whose sequences Python keeps. One stream for each
purpose means that a change in, say, the network's draws leaves the workload's as they were, which shrinking needs.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import MutableSequence, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

MICROSECONDS = 1_000_000


class Chance:
    """One stream of decisions."""

    def __init__(self, seed: int, stream: str) -> None:
        digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=16).digest()
        self._random = random.Random(int.from_bytes(digest, "little"))
        self.bits = self._random.getrandbits
        self.fraction = self._random.random

    def chance(self, probability: float) -> bool:
        """True with this probability; nothing is drawn for 0."""
        return probability > 0.0 and self.fraction() < probability

    def below(self, limit: int) -> int:
        """An integer from 0 to `limit` - 1."""
        return int(self.fraction() * limit)

    def integer(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return low + int(self.fraction() * (high - low + 1))

    def between(self, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        return low + self.fraction() * (high - low)

    def micros(self, low: float, high: float) -> int:
        """A duration between `low` and `high` seconds, in microseconds."""
        return int((low + self.fraction() * (high - low)) * MICROSECONDS)

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[int(self.fraction() * len(items))]

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Put the items in another order, in place."""
        for index in range(len(items) - 1, 0, -1):
            other = int(self.fraction() * (index + 1))
            items[index], items[other] = items[other], items[index]
