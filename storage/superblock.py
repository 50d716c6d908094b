"""The superblock: which file this is, and which checkpoint is its current one. One sector, kept in four copies.

    offset size field                        offset size field
         0   16 magic                            76    4 message_size_max
        16   16 checksum                         80    8 sequence of the checkpoint
        32    4 format version                   88    8 op of the checkpoint
        36    4 copy number, 0 to 3              96    8 trailer size, bytes
        40   16 cluster                         104   16 trailer checksum, XXH3-128
        56    4 replica                         120    4 trailer area (sequence % 2)
        60   12 zero                            124 3972 zero
        72    4 clients_max

Little-endian. `checksum` is the XXH3-128 of everything after itself. Magic, checksum and version stay where they are in
every version, so that an older program can tell a newer file from a damaged one.

Guarantees: `choose_superblock` returns the newest superblock that at least two copies agree on, byte for byte except
the copy number, or says why there is none. One copy alone is never believed: it may be all that a checkpoint wrote
before a crash, or a sector that came from elsewhere.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from client_replies.messages.config import SECTOR_SIZE
from client_replies.messages.faults import FaultKind, invariant
from client_replies.messages.reply_header import CHECKSUM_SIZE, Buffer, checksum128

from .errors import StorageError, storage_error
from .layout import FORMAT_VERSION, SUPERBLOCK_COPIES, TRAILER_AREAS

MAGIC = b"client-replies\r\n"
QUORUM = 2

_IDENTITY = struct.Struct("<16s16sI")
_FIELDS = struct.Struct("<II16sI12xIIQQQ16sI")
_FIELDS_AT = 32
_USED = _FIELDS_AT + _FIELDS.size
_ZEROS = bytes(SECTOR_SIZE - _USED)

if _USED != 124 or len(MAGIC) != 16 or SUPERBLOCK_COPIES < 2 * QUORUM:
    raise ImportError("the superblock is not as drawn")


class SuperblockInvalid(ValueError):
    """A sector that is no superblock copy. `found` and `expected` say why, in words."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.found = found
        self.expected = expected

    def __str__(self) -> str:
        return f"{type(self).__name__}: found {self.found}, expected {self.expected}"


class SuperblockMagicWrong(SuperblockInvalid):
    """Not written by client-replies, or the first bytes are damaged."""


class SuperblockChecksumWrong(SuperblockInvalid):
    """Torn or damaged."""


class SuperblockVersionUnknown(SuperblockInvalid):
    """Whole, and of another format version."""


class SuperblockMisplaced(SuperblockInvalid):
    """Whole, and another copy than the one that belongs here: a write or a read went astray."""


class SuperblockFieldWrong(SuperblockInvalid):
    """Whole, and a field contradicts the format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """What the four copies say."""

    cluster: int
    replica: int
    clients_max: int
    message_size_max: int
    sequence: int = 0
    op: int = 0
    trailer_size: int = 0
    trailer_checksum: bytes = checksum128(b"")

    @property
    def trailer_area(self) -> int:
        """Where the trailer is: the two areas are used in turn, so a checkpoint never touches the last one's."""
        return self.sequence % TRAILER_AREAS

    def checkpointed(self, sequence: int, op: int, trailer: Buffer) -> Superblock:
        """The superblock of the next checkpoint."""
        return replace(self, sequence=sequence, op=op, trailer_size=len(trailer), trailer_checksum=checksum128(trailer))

    def encode(self, copy: int) -> bytes:
        """The sector for copy `copy`."""
        invariant(0 <= copy < SUPERBLOCK_COPIES, "there is no such superblock copy")
        fields = _FIELDS.pack(
            FORMAT_VERSION,
            copy,
            self.cluster.to_bytes(16, "little"),
            self.replica,
            self.clients_max,
            self.message_size_max,
            self.sequence,
            self.op,
            self.trailer_size,
            self.trailer_checksum,
            self.trailer_area,
        )
        checked = fields + _ZEROS
        return MAGIC + checksum128(checked) + checked


def decode_superblock(sector: Buffer, copy: int) -> Superblock:
    """The superblock in copy `copy`. Raises the `SuperblockInvalid` that names what is wrong."""
    invariant(len(sector) == SECTOR_SIZE, "a superblock copy is one sector")
    magic, checksum, version = _IDENTITY.unpack_from(sector)
    if magic != MAGIC:
        raise SuperblockMagicWrong(magic.hex(), MAGIC.hex())
    found = checksum128(memoryview(sector)[len(MAGIC) + CHECKSUM_SIZE :])
    if found != checksum:
        raise SuperblockChecksumWrong(checksum.hex(), found.hex())
    if version != FORMAT_VERSION:
        raise SuperblockVersionUnknown(f"format version {version}", f"format version {FORMAT_VERSION}")
    fields = _FIELDS.unpack_from(sector, _FIELDS_AT)
    if fields[1] != copy:
        raise SuperblockMisplaced(f"copy {fields[1]}", f"copy {copy}")
    superblock = Superblock(
        cluster=int.from_bytes(fields[2], "little"),
        replica=fields[3],
        clients_max=fields[4],
        message_size_max=fields[5],
        sequence=fields[6],
        op=fields[7],
        trailer_size=fields[8],
        trailer_checksum=fields[9],
    )
    # Everything that follows from the fields must be as we would write it: the area, and the zeros between.
    if superblock.encode(copy) != sector:
        raise SuperblockFieldWrong("a trailer area or reserved bytes", f"area {superblock.trailer_area}, and zeros")
    return superblock


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenSuperblock:
    """The superblock to use, and which copies do not agree with it."""

    superblock: Superblock
    disagreeing: tuple[int, ...]


def choose_superblock(sectors: Sequence[Buffer]) -> ChosenSuperblock:
    """The newest superblock that at least two of the four copies agree on. Raises `StorageError`."""
    invariant(len(sectors) == SUPERBLOCK_COPIES, "there are four superblock copies")
    copies = [_superblock_or_reason(sector, copy) for copy, sector in enumerate(sectors)]
    superblocks = [copy for copy in copies if isinstance(copy, Superblock)]
    agreed = [superblock for superblock in superblocks if superblocks.count(superblock) >= QUORUM]
    if not agreed:
        raise _no_agreement(copies)
    newest = max(agreed, key=lambda superblock: superblock.sequence)
    disagreeing = tuple(copy for copy, superblock in enumerate(copies) if superblock != newest)
    return ChosenSuperblock(superblock=newest, disagreeing=disagreeing)


def _superblock_or_reason(sector: Buffer, copy: int) -> Superblock | SuperblockInvalid:
    try:
        return decode_superblock(sector, copy)
    except SuperblockInvalid as reason:
        return reason


def _no_agreement(copies: Sequence[Superblock | SuperblockInvalid]) -> StorageError:
    if all(isinstance(copy, SuperblockMagicWrong) for copy in copies):
        return storage_error(FaultKind.NOT_A_DATA_FILE, "another first 16 bytes", f"{MAGIC!r}")
    versions = [copy for copy in copies if isinstance(copy, SuperblockVersionUnknown)]
    if len(versions) >= QUORUM:
        return storage_error(FaultKind.FORMAT_VERSION_UNKNOWN, versions[0].found, versions[0].expected)
    shown = [f"sequence {copy.sequence}" if isinstance(copy, Superblock) else type(copy).__name__ for copy in copies]
    return storage_error(FaultKind.SUPERBLOCK_CORRUPT, ", ".join(shown), f"{QUORUM} copies that agree")
