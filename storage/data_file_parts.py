"""How the parts of a data file that a checkpoint writes are read at opening, checked and mended; see `data_file`."""

from __future__ import annotations

from collections.abc import Sequence

from client_replies.messages.config import SECTOR_SIZE, RepliesConfig
from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.reply_header import checksum128

from .device import Device, aligned_memory
from .errors import StorageError, storage_error
from .layout import SUPERBLOCK_COPIES, Layout, padding_is_zero, sectors_size
from .superblock import MAGIC, Superblock, Trailer

_DAMAGE = frozenset({FaultKind.TRAILER_CORRUPT, FaultKind.IO_ERROR})  # of a trailer, for which there may be another
# The copies of the superblock that are written and synced together; see `data_file`.
PAIRS = (range(0, SUPERBLOCK_COPIES // 2), range(SUPERBLOCK_COPIES // 2, SUPERBLOCK_COPIES))


def write_superblock(device: Device, superblock: Superblock, copies: Sequence[int]) -> None:
    """Write these copies of the superblock; they are not synced."""
    for copy in copies:
        device.write(copy * SECTOR_SIZE, (superblock.encode(copy),))


def make_durable(device: Device, superblock: Superblock, disagreeing: Sequence[int]) -> None:
    """Make durable what was read, then put right the copies that disagree.

    What a killed process wrote may be in the page cache alone. A slot that is found good must stay good, and the copies
    that agree must be durable before the others are in flight beside them.
    """
    device.sync()
    if disagreeing:
        write_superblock(device, superblock, disagreeing)
        device.sync()


def read_superblock(device: Device) -> list[memoryview | None]:
    """The four copies as they are on the disk itself; None for one that cannot be read."""
    size = SUPERBLOCK_COPIES * SECTOR_SIZE
    if device.size < size:
        raise _too_short(device.head(device.size))
    copies = aligned_memory(size)
    sectors = [copies[at : at + SECTOR_SIZE] for at in range(0, size, SECTOR_SIZE)]
    if _was_read(device, 0, copies):
        return list(sectors)
    return [sector if _was_read(device, at * SECTOR_SIZE, sector) else None for at, sector in enumerate(sectors)]


def _was_read(device: Device, offset: int, into: memoryview) -> bool:
    """Read from the disk itself; False if that gave an I/O error, of which one bad sector is enough."""
    try:
        device.read(offset, into, direct=True)
    except StorageError as error:
        if error.fault.kind is not FaultKind.IO_ERROR:
            raise
        return False
    return True


def _too_short(head: bytes) -> StorageError:
    """Why a file that has no room for a superblock is refused. What is empty, or zeros, is nobody's but ours."""
    copies = [head[at : at + len(MAGIC)] for at in range(0, len(head), SECTOR_SIZE)]
    if not any(head) or any(copy and MAGIC.startswith(copy) for copy in copies):
        return storage_error(
            FaultKind.FILE_TRUNCATED, f"{len(head)} bytes", f"at least {SUPERBLOCK_COPIES * SECTOR_SIZE} bytes"
        )
    found = f"{len(head)} bytes that begin with {head[: len(MAGIC)]!r}"
    return storage_error(FaultKind.NOT_A_DATA_FILE, found, f"a file that begins with {MAGIC!r}")


def check_identity(superblock: Superblock, config: RepliesConfig) -> None:
    """Raise `StorageError` if the file is not the one that is asked for."""
    comparisons = (
        (FaultKind.CLUSTER_MISMATCH, "cluster", superblock.cluster, config.cluster),
        (FaultKind.REPLICA_MISMATCH, "replica", superblock.replica, config.replica),
        (FaultKind.SLOT_COUNT_MISMATCH, "clients_max", superblock.clients_max, config.clients_max),
        (FaultKind.SLOT_SIZE_MISMATCH, "message_size_max", superblock.message_size_max, config.message_size_max),
    )
    for kind, name, found, expected in comparisons:
        if found != expected:
            raise storage_error(kind, f"{name} {found}", f"{name} {expected}")


def read_sessions(device: Device, layout: Layout, superblock: Superblock) -> tuple[bytes, Fault | None]:
    """The session table of the last checkpoint; or that of the one before, and what is wrong with the last."""
    try:
        return read_trailer(device, layout, superblock.trailer), None
    except StorageError as error:
        damage = error
    if damage.fault.kind not in _DAMAGE or superblock.previous == superblock.trailer:
        raise damage
    try:
        return read_trailer(device, layout, superblock.previous), damage.fault
    except StorageError as error:
        # Damage is proven only if both are: an unreadable sector may be read another time.
        raise damage if error.fault.kind is FaultKind.TRAILER_CORRUPT else error from None


def read_trailer(device: Device, layout: Layout, trailer: Trailer) -> bytes:
    """A session table, read from the disk itself and verified with its padding."""
    size = trailer.size
    if not size:
        return b""
    if size > layout.trailer_size:
        raise storage_error(FaultKind.TRAILER_CORRUPT, f"{size} bytes", f"at most {layout.trailer_size} bytes")
    sectors = aligned_memory(sectors_size(size))
    device.read(layout.trailer_offset(trailer.area), sectors, direct=True)
    found = checksum128(sectors[:size])
    if found != trailer.checksum:
        found_in = f"checksum {found.hex()} in the session table of checkpoint {trailer.sequence}"
        raise storage_error(FaultKind.TRAILER_CORRUPT, found_in, f"checksum {trailer.checksum.hex()}")
    if not padding_is_zero(sectors[size:]):
        raise storage_error(FaultKind.TRAILER_CORRUPT, "padding that is not zero", "zeros up to the end of the sector")
    return bytes(sectors[:size])
