"""Damage to reply slots of the primary's real file, and its own violent end, at the moments when they matter.

A damaged slot matters only if its reply is asked for again, which happens when the reply was lost on its way. So the
plan picks replies that the network dropped; from then on everything to that session is withheld, until the slot is
durable and then damaged; the next retry finds the damage, and only the peers still have the reply.

Guarantees: the plan's moments are spread over the run and depend on the order of ops alone; if the network drops
nothing around a moment, the plan drops a reply itself. What is damaged is the file, behind the component's back.

Limits: no damage to what nobody asks for again; the scrubber's tests do that.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from client_replies.messages.message import U64
from client_replies.messages.reply_header import HEADER_SIZE, packed_size

LOSE_TIMEOUT = 5.0  # seconds until a directory that stays is an error


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentsPlan:
    """How many slots to damage and how often to kill the primary, spread over so many ops; and where that is noted."""

    directory: str
    ops: U64
    damages: U64
    kills: U64


NO_MOMENTS = MomentsPlan(directory="", ops=0, damages=0, kills=0)


class Moments:
    """The moments of one kind, each for the primary of that moment: claimed once, by a file that survives its maker."""

    def __init__(self, directory: str, kind: str, count: int, ops: int) -> None:
        self._directory = Path(directory)
        self._kind = kind
        self._count = count
        self._spacing = max(1, ops // (count + 1))

    @property
    def claimed(self) -> int:
        """How many are over."""
        return len(list(self._directory.glob(f"{self._kind}-*")))

    def is_due(self, op: int) -> bool:
        """True if the next moment has come."""
        claimed = self.claimed if self._count else 0
        return claimed < self._count and op >= (claimed + 1) * self._spacing

    def is_overdue(self, op: int) -> bool:
        """True if nothing has made use of the moment for long: it is not to be waited for any longer."""
        return self.is_due(op) and op >= (self.claimed + 1) * self._spacing + self._spacing // 2

    def claim(self) -> int:
        """Make the next moment ours; its number from 1, or 0 if another was quicker."""
        number = self.claimed + 1
        try:
            (self._directory / f"{self._kind}-{number}").touch(exist_ok=False)
        except FileExistsError:
            return 0
        return number


def damage_slot(path: Path, offset: int, size_max: int, chance: random.Random) -> str | None:
    """Write garbage into the reply that is in the file at `offset`, in one of the ways in which disks go wrong.

    Says which; None if there is no reply of at most `size_max` bytes. Raises `OSError`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        header = os.pread(descriptor, HEADER_SIZE, offset)
        size = packed_size(header) if len(header) == HEADER_SIZE else 0
        if not HEADER_SIZE < size <= size_max:
            return None
        kind = chance.choice(("a flipped bit in the header", "garbage in the body", "a sector of zeros"))
        if kind == "a flipped bit in the header":
            at = chance.randrange(HEADER_SIZE)
            os.pwrite(descriptor, bytes([header[at] ^ 1 << chance.randrange(8)]), offset + at)
        elif kind == "garbage in the body":
            length = min(64, size - HEADER_SIZE)
            at = offset + HEADER_SIZE + chance.randrange(size - HEADER_SIZE - length + 1)
            before = os.pread(descriptor, length, at)
            os.pwrite(descriptor, bytes(byte ^ chance.randrange(1, 256) for byte in before), at)
        else:
            os.pwrite(descriptor, bytes(4096), offset)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
    return kind


def lose_directory(directory: Path) -> None:
    """Remove a directory whose user was just killed: its children may still end. Raises `OSError` if it stays."""
    deadline = time.monotonic() + LOSE_TIMEOUT
    while directory.exists():
        if time.monotonic() > deadline:
            shutil.rmtree(directory)
        shutil.rmtree(directory, ignore_errors=True)
