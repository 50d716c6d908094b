"""Holders and the MessagePoolActor: leases on buffers in memory that all processes of one replica map.

A lease is one integer, a buffer's index and the generation in which it was granted, and travels instead of the bytes.
It never leaves the host: what passes between replicas travels as bytes. Every request carries its holder (a number
unique to one incarnation of an actor) and a number that grows by one for each request of its kind, of which one is in
flight at a time: a request that is repeated because its answer was lost gets the same answer again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NewType

from thespian.actors import ActorAddress

from .config import BUFFERS_MAX_LIMIT, Buffers, BufferSize
from .faults import Failure
from .limits import Distinct, Length, Range
from .message import U32, U32_MAX, U64, U64_MAX, Message, Number

Lease = NewType("Lease", int)

LEASE_BUFFER_BITS = 16
LEASE_BUFFER_MASK = (1 << LEASE_BUFFER_BITS) - 1
LEASE_MAX = U64_MAX
TOKEN_SIZE = 16  # bytes
HOLDERS_NAMED_MAX = 16  # in one `OpenPool`

Holder = Number
GrantedLease = Annotated[Lease, Range(1, LEASE_MAX)]
Leases = tuple[GrantedLease, ...]

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

    process: Annotated[int, Range(1, U32_MAX)]
    descriptor: U32
    token: Annotated[bytes, Length(TOKEN_SIZE)]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPool(Message):
    """Make the memory: `buffers` of `size` bytes each, and `waiting_max` requests that may wait for one.

    `holders` names who else than the sender may hold leases: a holder's number and its address.
    """

    buffers: Buffers
    size: BufferSize
    waiting_max: Number
    holders: Annotated[tuple[tuple[Holder, ActorAddress], ...], Length(0, HOLDERS_NAMED_MAX), Distinct(keys=True)] = ()


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

    holder: Holder
    number: Number
    count: Buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasesGranted(Message):
    """The leases. They are the holder's until it releases them."""

    holder: Holder
    number: Number
    leases: Leases


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasesRefused(Failure):
    """Nothing was done, and the same number is expected next: too many wait, or the request is out of its turn, larger
    than the pool, or of a holder whose leases were reclaimed.
    """

    holder: Holder
    number: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseLeases(Message):
    """Give back these leases, which the holder acquired."""

    holder: Holder
    number: Number
    leases: Leases


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasesReleased(Message):
    """Given back. `stale` are those that the holder does not hold: released before, never its own, or of an older
    generation. They were left alone.
    """

    holder: Holder
    number: Number
    stale: Leases


@dataclass(frozen=True, slots=True, kw_only=True)
class ReclaimLeases(Message):
    """Holder `holder` is gone: take back all that it acquired."""

    holder: Holder


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasesReclaimed(Message):
    """How many leases came back. The holder's later requests are refused."""

    holder: Holder
    count: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class GetPoolStatus(Message):
    """Ask how the pool is."""

    request: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus(Message):
    """Buffers in all, free and held, requests waiting, and what was refused since the pool was opened."""

    request: U64
    buffers: U64
    free: U64
    held: U64
    waiting: U64
    stale_refused: U64
    busy_refused: U64
    unknown_messages: U64
