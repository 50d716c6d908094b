"""Readers of what somebody types as an argument: numbers and paths, each with its limits.

Guarantees: a text is a value within its limits, or the error says what was found and what was expected, in one line.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

from .typed import quoted, whole_number

DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}")
REPLICAS = (3, 5)  # of more than these a quorum costs more and survives no more


def whole(low: int, high: int) -> Callable[[str], int]:
    """A reader of whole numbers in decimal digits."""

    def parse(text: str) -> int:
        number = whole_number(text, high)
        if number is None or number < low:
            raise argparse.ArgumentTypeError(f"found {quoted(text)}, expected a whole number from {low} to {high}")
        return number

    return parse


def decimal(low: float, high: float, expected: str) -> Callable[[str], float]:
    """A reader of decimal numbers; `expected` says what for, with the limits."""

    def parse(text: str) -> float:
        value = float(text) if DECIMAL.fullmatch(text) else math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"found {quoted(text)}, expected {expected}")
        return value

    return parse


def replicas(text: str) -> int:
    """How many replicas a cluster has."""
    if text not in map(str, REPLICAS):
        raise argparse.ArgumentTypeError(f"found {quoted(text)}, expected {' or '.join(map(str, REPLICAS))}")
    return int(text)


def path(text: str) -> Path:
    """A path. An empty one would be the current directory, which nobody means by an unset variable."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"found {quoted(text)}, expected a path, such as /tmp/ledger")
    return Path(text)
