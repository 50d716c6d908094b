"""What the user of a run or a soak chose, and what is planned by default. Imports no actors: `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .plant import Plant

if TYPE_CHECKING:
    from .ledger import Transfer

# Planned by default, and of so many transfers one at most; of fewer transfers still one.
DAMAGES_DEFAULT, TRANSFERS_PER_DAMAGE = 5, 4
KILLS_DEFAULT, TRANSFERS_PER_KILL = 2, 10


class Terminated(BaseException):
    """SIGTERM: end like Ctrl-C, cleaning up."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose, checked."""

    transfers_file: Path
    transfers: tuple[Transfer, ...]
    clients: int
    replicas: int
    seed: int
    directory: Path
    drop_replies: float
    duplicate_requests: float
    damages: int
    kills: int
    plant: Plant | None
    json: bool
    keep: bool
    rate: float = 0.0  # transfers per second; 0: as fast as answers come
    repeats: float = 0.0  # probability that a client asks for an answer once more
    asked: frozenset[str] = frozenset()  # of --damage and --kill, those that the user gave


def default_damages(transfers: int) -> int:
    """How many slots to damage if the user does not say."""
    return min(DAMAGES_DEFAULT, max(1, transfers // TRANSFERS_PER_DAMAGE))


def default_kills(transfers: int) -> int:
    """How often to kill the primary if the user does not say."""
    return min(KILLS_DEFAULT, max(1, transfers // TRANSFERS_PER_KILL))


@dataclass(frozen=True, slots=True)
class SoakOptions:
    """What the user chose, checked."""

    minutes: float
    rate: float
    replicas: int
    seed: int
    directory: Path
    plant: Plant | None
    keep: bool
