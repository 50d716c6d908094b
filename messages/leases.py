"""Holders and the MessagePoolActor: leases on buffers in memory that all processes of one replica map.

A lease is one integer, a buffer's index and the generation in which it was granted, and travels instead of the bytes.
It never leaves the host: what passes between replicas travels as bytes. Every request carries its holder (a number
unique to one incarnation of an actor) and a number that grows by one for each request of its kind, of which one is in
flight at a time: a request that is repeated because its answer was lost gets the same answer again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from thespian.actors import ActorAddress

from .config import BUFFERS_MAX_LIMIT, MESSAGE_SIZE_LIMIT, SECTOR_SIZE
from .faults import Failure
from .message import U64_MAX, Message, MessageInvalid, check_distinct, check_int, check_ints, check_type, shown

Lease = NewType("Lease", int)

LEASE_BUFFER_BITS = 16
LEASE_BUFFER_MASK = (1 << LEASE_BUFFER_BITS) - 1
LEASE_MAX = U64_MAX
HOLDERS_NAMED_MAX = 16  # in one `OpenPool`

if 2**LEASE_BUFFER_BITS < BUFFERS_MAX_LIMIT:
    raise ImportError("a lease cannot name every buffer")


def make_lease(buffer: int, generation: int) -> Lease:
    """The lease on `buffer` in its `generation` (counted from 1)."""
    return Lease(generation << LEASE_BUFFER_BITS | buffer)


def lease_buffer(lease: Lease) -> int:
    """The index of the lease's buffer."""
    return lease & LEASE_BUFFER_MASK


def lease_generation(lease: Lease) -> int:
    """The generation in which the lease was granted."""
    return lease >> LEASE_BUFFER_BITS


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryName:
    """Where the pool's memory is: descriptor `descriptor` of process `process`, opened under /proc, with its `token`.

    The memory has no name in any file system, so it is gone when the last process that maps it is.
    """

    process: int
    descriptor: int
    token: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPool(Message):
    """Make the memory: `buffers` of `size` bytes each, and `waiting_max` requests that may wait for one.

    `holders` names who else than the sender may hold leases: a holder's number and its address.
    """

    buffers: int
    size: int
    waiting_max: int
    holders: tuple[tuple[int, ActorAddress], ...] = ()

    def validate(self) -> None:
        """Check all limits."""
        check_int("buffers", self.buffers, 1, BUFFERS_MAX_LIMIT)
        if type(self.holders) is not tuple or len(self.holders) > HOLDERS_NAMED_MAX:
            raise MessageInvalid("holders", shown(self.holders), f"a tuple of at most {HOLDERS_NAMED_MAX} pairs")
        for holder in self.holders:
            if type(holder) is not tuple or len(holder) != 2:
                raise MessageInvalid("holders", shown(holder), "pairs of a holder's number and its address")
            check_int("holders", holder[0], 1, U64_MAX)
            check_type("holders", holder[1], ActorAddress)
        check_distinct("holders", [holder[0] for holder in self.holders])
        check_int("size", self.size, SECTOR_SIZE, MESSAGE_SIZE_LIMIT)
        check_int("waiting_max", self.waiting_max, 1, U64_MAX)
        if self.size % SECTOR_SIZE:
            raise MessageInvalid("size", str(self.size), f"a multiple of {SECTOR_SIZE}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOpened(Message):
    """The memory is there. A repeated `OpenPool` gets the same answer."""

    memory: MemoryName


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOpenFailed(Failure):
    """The memory cannot be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquireLeases(Message):
    """Ask for `count` leases, all or none; waits, in order, while too few are free."""

    holder: int
    number: int
    count: int

    def validate(self) -> None:
        """Check all limits."""
        _check_holder(self.holder, self.number)
        check_int("count", self.count, 1, BUFFERS_MAX_LIMIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasesGranted(Message):
    """The leases. They are the holder's until it releases them."""

    holder: int
    number: int
    leases: tuple[Lease, ...]

    def validate(self) -> None:
        """Check all limits."""
        _check_leases(self.holder, self.number, self.leases)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasesRefused(Failure):
    """Nothing was done, and the same number is expected next: too many wait, or the request is out of its turn, larger
    than the pool, or of a holder whose leases were reclaimed.
    """

    holder: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseLeases(Message):
    """Give back these leases, which the holder acquired."""

    holder: int
    number: int
    leases: tuple[Lease, ...]

    def validate(self) -> None:
        """Check all limits."""
        _check_leases(self.holder, self.number, self.leases)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasesReleased(Message):
    """Given back. `stale` are those that the holder does not hold: released before, never its own, or of an older
    generation. They were left alone.
    """

    holder: int
    number: int
    stale: tuple[Lease, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReclaimLeases(Message):
    """Holder `holder` is gone: take back all that it acquired."""

    holder: int

    def validate(self) -> None:
        """Check all limits."""
        check_int("holder", self.holder, 1, U64_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasesReclaimed(Message):
    """How many leases came back. The holder's later requests are refused."""

    holder: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GetPoolStatus(Message):
    """Ask how the pool is."""

    request: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus(Message):
    """Buffers in all, free and held, requests waiting, and what was refused since the pool was opened."""

    request: int
    buffers: int
    free: int
    held: int
    waiting: int
    stale_refused: int
    busy_refused: int
    unknown_messages: int


def _check_holder(holder: int, number: int) -> None:
    check_int("holder", holder, 1, U64_MAX)
    check_int("number", number, 1, U64_MAX)


def _check_leases(holder: int, number: int, leases: tuple[Lease, ...]) -> None:
    _check_holder(holder, number)
    check_ints("leases", leases, 1, LEASE_MAX)
