"""The ClientRepliesActor and its StorageActor: everything that touches the disk.

One batch of each kind (open, commit write, repair write, read, read for peers, verify, checkpoint, close) is in flight
at a time, of commit writes one in each of `WRITE_LANES` lanes, and none waits for another. `batch` grows by one within
a kind and comes back in the answer; a batch repeated because its answer was lost is not done again, only answered
again. Who opened the file is served, and nobody else. A payload with a lease is lent: its holder stays the sender, who
keeps it until the answer. A write error stops the storage: it answers nothing more but `StorageStopped`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .config import OpenMode, RepliesConfig
from .faults import CheckpointDamaged, Failure, SlotFault
from .leases import Lease, MemoryName
from .message import U64_MAX, Message, MessageInvalid, check_bytes, check_int, check_ints, check_type, shown
from .replies import SLOT_MAX, Payload
from .reply_header import HEADER_SIZE

NO_LEASE = Lease(0)
# Groups of commit writes in flight: while one waits for its sync, the next is written and begins to wait for its own.
WRITE_LANES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStorage(Message):
    """Format or open the data file and verify every slot that its session table expects."""

    batch: int
    config: RepliesConfig
    mode: OpenMode
    memory: MemoryName

    def validate(self) -> None:
        """Check the configuration."""
        check_int("batch", self.batch, 1, U64_MAX)
        check_type("config", self.config, RepliesConfig)
        self.config.validate()
        check_type("mode", self.mode, OpenMode)
        check_type("memory", self.memory, MemoryName)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOpened(Message):
    """Open: the checkpoint in use, and the slots that do not hold what its session table says.

    It is the last one, or, if that one is `damaged`, the one before. `others` has the whole replies that some of the
    faulty slots hold instead: slot and packed header.
    """

    batch: int
    formatted: bool
    sequence: int
    op: int
    sessions: bytes = field(repr=False)
    faulty: tuple[int, ...]
    others: tuple[tuple[int, bytes], ...] = field(default=(), repr=False)
    damaged: CheckpointDamaged | None = None

    @property
    def sequence_last(self) -> int:
        """The number of the last checkpoint that was taken, damaged or not: the next one has the number after it."""
        return self.sequence if self.damaged is None else self.damaged.sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOpenFailed(Failure):
    """Not opened; the file is as it was."""

    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteSlots(Message):
    """Write whole replies to slots, zero-padded to sectors, and make all durable with one data sync."""

    batch: int
    slots: tuple[int, ...]
    payloads: tuple[Payload, ...] = field(repr=False)
    repair: bool = False  # repairs have a lane of their own, so that no commit waits for one
    lane: int = 0  # of the commit writes'

    def validate(self) -> None:
        """Check the columns."""
        _check_batch(self.batch, self.slots)
        if type(self.payloads) is not tuple or len(self.payloads) != len(self.slots):
            raise MessageInvalid("payloads", shown(self.payloads), f"a tuple of length {len(self.slots)}")
        if not set(map(type, self.payloads)) <= {bytes, int}:
            raise MessageInvalid("payloads", "another type", "bytes or leases")
        check_type("repair", self.repair, bool)
        check_int("lane", self.lane, 0, WRITE_LANES - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsWritten(Message):
    """Every slot of the batch is durable."""

    batch: int
    repair: bool = False
    lane: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSlots(Message):
    """Read the replies with these packed headers, each verified, into its lease, or inline where that is NO_LEASE."""

    batch: int
    slots: tuple[int, ...]
    headers: bytes = field(repr=False)
    leases: tuple[Lease, ...]
    for_peers: bool = False  # these have a lane of their own, so that no read of the replica waits for one

    def validate(self) -> None:
        """Check the columns."""
        _check_batch(self.batch, self.slots)
        check_bytes("headers", self.headers, HEADER_SIZE * len(self.slots), HEADER_SIZE * len(self.slots))
        check_ints("leases", self.leases, 0, U64_MAX)
        if len(self.leases) != len(self.slots):
            raise MessageInvalid("leases", shown(self.leases), f"a tuple of length {len(self.slots)}")
        check_type("for_peers", self.for_peers, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsRead(Message):
    """For each slot its bytes, its lease (filled), or what is wrong with it."""

    batch: int
    results: tuple[Payload | SlotFault, ...] = field(repr=False)
    for_peers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifySlots(Message):
    """Read these slots from the disk itself, past the page cache, and compare them with their packed headers."""

    batch: int
    slots: tuple[int, ...]
    headers: bytes = field(repr=False)

    def validate(self) -> None:
        """Check the columns."""
        _check_batch(self.batch, self.slots)
        check_bytes("headers", self.headers, HEADER_SIZE * len(self.slots), HEADER_SIZE * len(self.slots))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsVerified(Message):
    """What is wrong with each slot, or None; `others` as in `StorageOpened`."""

    batch: int
    results: tuple[SlotFault | None, ...]
    others: tuple[tuple[int, bytes], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCheckpoint(Message):
    """Store the session table, then make it the current one: atomic, whatever the moment of a crash."""

    batch: int
    sequence: int
    op: int
    sessions: bytes = field(repr=False)

    def validate(self) -> None:
        """Check the numbers."""
        check_int("batch", self.batch, 1, U64_MAX)
        check_int("sequence", self.sequence, 1, U64_MAX)
        check_int("op", self.op, 0, U64_MAX)
        check_bytes("sessions", self.sessions, 1, 2**32)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointWritten(Message):
    """The checkpoint is durable."""

    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseStorage(Message):
    """Finish what is in flight and release the file."""

    batch: int

    def validate(self) -> None:
        """Check the number."""
        check_int("batch", self.batch, 1, U64_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageClosed(Message):
    """The file is closed and its lock is free."""

    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageStopped(Failure):
    """Told without asking: the disk failed, nothing in flight is durable, and the storage does no more."""


def _check_batch(batch: int, slots: tuple[int, ...]) -> None:
    check_int("batch", batch, 1, U64_MAX)
    check_ints("slots", slots, 0, SLOT_MAX)
