"""The ClientRepliesActor and its StorageActor: everything that touches the disk.

One batch of each kind (open, commit write, repair write, read, read for peers, verify, checkpoint, close) is in flight
at a time, of commit writes one in each of `WRITE_LANES` lanes, and none waits for another. `batch` grows by one within
a kind and comes back in the answer; a batch repeated because its answer was lost is not done again, only answered
again. Who opened the file is served, and nobody else. A payload with a lease is lent: its holder stays the sender, who
keeps it until the answer. A write error stops the storage: it answers nothing more but `StorageStopped`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from .config import OpenMode, RepliesConfig
from .faults import CheckpointDamaged, Failure, SlotFault
from .leases import Lease, MemoryName
from .limits import LengthPer, Range
from .message import U64, U64_MAX, Message, Number, Op
from .replies import PackedHeader, PackedHeaders, Payload, Payloads, Sessions, Slot, StoredSessions

NO_LEASE = Lease(0)
# Groups of commit writes in flight: while one waits for its sync, the next is written and begins to wait for its own.
WRITE_LANES = 2

Batch = Number
_WriteLane = Annotated[int, Range(0, WRITE_LANES - 1)]
_MaybeLease = Annotated[Lease, Range(NO_LEASE, U64_MAX)]
_Others = tuple[tuple[Slot, PackedHeader], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStorage(Message):
    """Format or open the data file and verify every slot that its session table expects."""

    batch: Batch
    config: RepliesConfig
    mode: OpenMode
    memory: MemoryName


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOpened(Message):
    """Open: the checkpoint in use, and the slots that do not hold what its session table says.

    It is the last one, or, if that one is `damaged`, the one before. `others` has the whole replies that some of the
    faulty slots hold instead: slot and packed header.
    """

    batch: Batch
    formatted: bool
    sequence: U64
    op: Op
    sessions: StoredSessions = field(repr=False)
    faulty: tuple[Slot, ...]
    others: _Others = field(default=(), repr=False)
    damaged: CheckpointDamaged | None = None

    @property
    def sequence_last(self) -> int:
        """The number of the last checkpoint that was taken, damaged or not: the next one has the number after it."""
        return self.sequence if self.damaged is None else self.damaged.sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOpenFailed(Failure):
    """Not opened; the file is as it was."""

    batch: Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteSlots(Message):
    """Write whole replies to slots, zero-padded to sectors, and make all durable with one data sync."""

    batch: Batch
    slots: tuple[Slot, ...]
    payloads: Payloads = field(repr=False)
    repair: bool = False  # repairs have a lane of their own, so that no commit waits for one
    lane: _WriteLane = 0  # of the commit writes'


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsWritten(Message):
    """Every slot of the batch is durable."""

    batch: Batch
    repair: bool = False
    lane: _WriteLane = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSlots(Message):
    """Read the replies with these packed headers, each verified, into its lease, or inline where that is NO_LEASE."""

    batch: Batch
    slots: tuple[Slot, ...]
    headers: PackedHeaders = field(repr=False)
    leases: Annotated[tuple[_MaybeLease, ...], LengthPer("slots")]
    for_peers: bool = False  # these have a lane of their own, so that no read of the replica waits for one


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsRead(Message):
    """For each slot its bytes, its lease (filled), or what is wrong with it."""

    batch: Batch
    results: tuple[Payload | SlotFault, ...] = field(repr=False)
    for_peers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifySlots(Message):
    """Read these slots from the disk itself, past the page cache, and compare them with their packed headers."""

    batch: Batch
    slots: tuple[Slot, ...]
    headers: PackedHeaders = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsVerified(Message):
    """What is wrong with each slot, or None; `others` as in `StorageOpened`."""

    batch: Batch
    results: tuple[SlotFault | None, ...]
    others: _Others = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCheckpoint(Message):
    """Store the session table, then make it the current one: atomic, whatever the moment of a crash."""

    batch: Batch
    sequence: Number
    op: Op
    sessions: Sessions = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointWritten(Message):
    """The checkpoint is durable."""

    batch: Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseStorage(Message):
    """Finish what is in flight and release the file."""

    batch: Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageClosed(Message):
    """The file is closed and its lock is free."""

    batch: Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageStopped(Failure):
    """Told without asking: the disk failed, nothing in flight is durable, and the storage does no more."""
