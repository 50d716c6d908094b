"""The superblock: which file this is, and which checkpoint is its current one. One sector, kept in four copies.

    offset size field                        offset size field
         0   16 magic                            88    8 op of the checkpoint
        16   16 checksum                         96    8 trailer size, bytes
        32    4 format version                  104   16 trailer checksum, XXH3-128
        36    4 copy number, 0 to 3             120    4 trailer area, 0 or 1
        40   16 cluster                         124    4 zero
        56    4 replica                         128    8 sequence of the checkpoint before
        60   12 zero                            136    8 its op
        72    4 clients_max                     144    8 its trailer size; the trailer is in the other area
        76    4 message_size_max                152   16 its trailer checksum
        80    8 sequence of the checkpoint      168 3928 zero

Little-endian. `checksum` is the XXH3-128 of everything after itself. Magic, checksum and version stay where they are in
every version, so that an older program can tell a newer file from a damaged one. Where no earlier checkpoint is known,
the fields of "the checkpoint before" repeat those of the checkpoint. Version 1 had zeros there, and area sequence % 2.

Guarantees: `choose_superblock` returns the newest superblock that at least two copies agree on, byte for byte except
the copy number, or says why there is none. One copy alone is never trusted: it may be all that a checkpoint wrote
before a crash, or a sector that came from elsewhere. It is reason enough to refuse a file, if a newer program wrote it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from client_replies.messages.config import SECTOR_SIZE
from client_replies.messages.faults import FaultKind, invariant
from client_replies.messages.invalid import Invalid
from client_replies.messages.reply_header import CHECKSUM_SIZE, Buffer, checksum128

from .errors import StorageError, storage_error
from .layout import FORMAT_VERSION, SUPERBLOCK_COPIES, TRAILER_AREAS, VERSIONS_READ

MAGIC = b"client-replies\r\n"
QUORUM = 2

_IDENTITY = struct.Struct("<16s16sI")
_FIELDS = struct.Struct("<II16sI12xIIQQQ16sI4xQQQ16s")
_FIELDS_AT = 32
_USED = _FIELDS_AT + _FIELDS.size
_USED_BY_VERSION_1 = 124

if _USED != 168 or len(MAGIC) != 16 or SUPERBLOCK_COPIES < 2 * QUORUM:
    raise ImportError("the superblock is not as drawn")


class SuperblockInvalid(Invalid):
    """A sector that is no superblock copy. `found` and `expected` say why, in words."""


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
class Trailer:
    """The encoded session table of one checkpoint: which, where it is, and how to know it."""

    sequence: int = 0
    op: int = 0
    size: int = 0
    checksum: bytes = checksum128(b"")
    area: int = 0

    @property
    def other_area(self) -> int:
        """Where the checkpoint before this one is, and where the next one goes."""
        return (self.area + 1) % TRAILER_AREAS


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """What the four copies say. `previous` is `trailer` itself where no earlier checkpoint is known."""

    cluster: int
    replica: int
    clients_max: int
    message_size_max: int
    trailer: Trailer = Trailer()
    previous: Trailer = Trailer()

    def checkpointed(self, after: Trailer, sequence: int, op: int, table: Buffer) -> Superblock:
        """The superblock of the next checkpoint, which leaves the trailer that it follows where it is."""
        trailer = _trailer(sequence, op, len(table), checksum128(table), after.other_area)
        return replace(self, trailer=trailer, previous=after)

    def encode(self, copy: int, version: int = FORMAT_VERSION) -> bytes:
        """The sector for copy `copy`."""
        invariant(0 <= copy < SUPERBLOCK_COPIES, "there is no such superblock copy")
        trailer, previous = self.trailer, self.previous
        fields = _FIELDS.pack(
            version,
            copy,
            self.cluster.to_bytes(16, "little"),
            self.replica,
            self.clients_max,
            self.message_size_max,
            trailer.sequence,
            trailer.op,
            trailer.size,
            trailer.checksum,
            trailer.area,
            previous.sequence,
            previous.op,
            previous.size,
            previous.checksum,
        )
        used = fields[: (_USED_BY_VERSION_1 if version == 1 else _USED) - _FIELDS_AT]
        checked = used.ljust(SECTOR_SIZE - _FIELDS_AT, b"\0")
        return MAGIC + checksum128(checked) + checked


def decode_superblock(sector: Buffer, copy: int) -> Superblock:
    """The superblock in copy `copy`, of this format version or the one before. Raises `SuperblockInvalid`."""
    invariant(len(sector) == SECTOR_SIZE, "a superblock copy is one sector")
    magic, checksum, version = _IDENTITY.unpack_from(sector)
    if magic != MAGIC:
        raise SuperblockMagicWrong(magic.hex(), MAGIC.hex())
    found = checksum128(memoryview(sector)[len(MAGIC) + CHECKSUM_SIZE :])
    if found != checksum:
        raise SuperblockChecksumWrong(checksum.hex(), found.hex())
    if version not in VERSIONS_READ:
        expected = " or ".join(map(str, VERSIONS_READ))
        raise SuperblockVersionUnknown(f"format version {version}", f"format version {expected}")
    fields = _FIELDS.unpack_from(sector, _FIELDS_AT)
    if fields[1] != copy:
        raise SuperblockMisplaced(f"copy {fields[1]}", f"copy {copy}")
    previous = trailer = _trailer(*fields[6:11])
    if version != 1 and fields[11] != trailer.sequence:
        previous = _trailer(fields[11], fields[12], fields[13], fields[14], trailer.other_area)
    superblock = Superblock(
        cluster=int.from_bytes(fields[2], "little"),
        replica=fields[3],
        clients_max=fields[4],
        message_size_max=fields[5],
        trailer=trailer,
        previous=previous,
    )
    areas = (trailer.sequence % TRAILER_AREAS,) if version == 1 else range(TRAILER_AREAS)
    # Everything that follows from the fields must be as we would write it: also the zeros between.
    in_order = trailer.area in areas and previous.sequence <= trailer.sequence and previous.op <= trailer.op
    if not in_order or superblock.encode(copy, version) != sector:
        raise SuperblockFieldWrong("an impossible trailer area or order, or reserved bytes", "the format's rules kept")
    return superblock


def _trailer(sequence: int, op: int, size: int, checksum: bytes, area: int) -> Trailer:
    return Trailer(sequence=sequence, op=op, size=size, checksum=checksum, area=area)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenSuperblock:
    """The superblock to use, and which copies do not agree with it."""

    superblock: Superblock
    disagreeing: tuple[int, ...]


def choose_superblock(sectors: Sequence[Buffer | None]) -> ChosenSuperblock:
    """The newest superblock that at least two of the four copies agree on. Raises `StorageError`.

    None is a copy that the device could not read.
    """
    invariant(len(sectors) == SUPERBLOCK_COPIES, "there are four superblock copies")
    copies = [_superblock_or_reason(sector, copy) for copy, sector in enumerate(sectors)]
    for copy in copies:
        # Others may agree on an older version: then a newer program stopped half-way, and it alone can go on.
        if isinstance(copy, SuperblockVersionUnknown):
            raise storage_error(FaultKind.FORMAT_VERSION_UNKNOWN, copy.found, copy.expected)
    superblocks = [copy for copy in copies if isinstance(copy, Superblock)]
    agreed = [superblock for superblock in superblocks if superblocks.count(superblock) >= QUORUM]
    if not agreed:
        raise _no_agreement(sectors, copies)
    newest = max(agreed, key=lambda superblock: superblock.trailer.sequence)
    disagreeing = tuple(copy for copy, superblock in enumerate(copies) if superblock != newest)
    return ChosenSuperblock(superblock=newest, disagreeing=disagreeing)


def _superblock_or_reason(sector: Buffer | None, copy: int) -> Superblock | SuperblockInvalid | None:
    try:
        return None if sector is None else decode_superblock(sector, copy)
    except SuperblockInvalid as reason:
        return reason


def _no_agreement(
    sectors: Sequence[Buffer | None], copies: Sequence[Superblock | SuperblockInvalid | None]
) -> StorageError:
    shown = ", ".join(map(_shown, copies))
    if None in copies:
        return storage_error(FaultKind.IO_ERROR, shown, f"{QUORUM} copies of the superblock that can be read and agree")
    # Zeros are nobody else's file: ours had its superblock before it had its name.
    all_zero = not any(any(bytes(sector)) for sector in sectors if sector is not None)
    if all(isinstance(copy, SuperblockMagicWrong) for copy in copies) and not all_zero:
        return storage_error(FaultKind.NOT_A_DATA_FILE, "another first 16 bytes", f"{MAGIC!r}")
    return storage_error(FaultKind.SUPERBLOCK_CORRUPT, shown, f"{QUORUM} copies that agree")


def _shown(copy: Superblock | SuperblockInvalid | None) -> str:
    if copy is None:
        return "unreadable"
    return f"sequence {copy.trailer.sequence}" if isinstance(copy, Superblock) else type(copy).__name__
