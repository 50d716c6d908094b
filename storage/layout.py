"""Where everything is in the data file: format version 2.

    offset                  size
    0                       4 x 4,096                      superblock, 4 copies (see superblock.py)
    16,384                  2 x trailer_size               session tables of the last two checkpoints
    16,384 + both areas     clients_max x message_size_max the slots: one reply each, zero-padded to whole sectors

    trailer_size is the encoded size of a full session table, rounded up to whole sectors.

Guarantees: a `Layout` that exists is consistent: zones touch and do not overlap, every offset and size is a whole
number of sectors, and a full session table fits an area. All sizes follow from clients_max and message_size_max, which
the superblock stores, so a file of any other shape is recognised before anything else of it is read.

A change of anything drawn here, in superblock.py or in session_table.py needs a new FORMAT_VERSION. Version 1, whose
superblock does not know the checkpoint before the last, is read too; the next checkpoint makes it a file of version 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from client_replies.messages.config import CLIENTS_MAX_LIMIT, MESSAGE_SIZE_LIMIT, SECTOR_SIZE, RepliesConfig
from client_replies.messages.faults import invariant
from client_replies.messages.reply_header import HEADER_SIZE, Buffer

from .session_table import sessions_size_max

FORMAT_VERSION = 2
VERSIONS_READ = (1, 2)
SUPERBLOCK_COPIES = 4
TRAILER_AREAS = 2
ZEROS = bytes(SECTOR_SIZE)

if SECTOR_SIZE % HEADER_SIZE or SECTOR_SIZE & (SECTOR_SIZE - 1):
    raise ImportError("a sector is a power of two and holds whole headers")


def sectors_size(size: int) -> int:
    """`size` rounded up to whole sectors."""
    return -(-size // SECTOR_SIZE) * SECTOR_SIZE


def padding_is_zero(padding: Buffer) -> bool:
    """Whether the bytes after a reply, up to the end of its sector, are zero, so that replicas' slots can be equal."""
    return bytes(padding) == ZEROS[: len(padding)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Offsets and sizes, in bytes, of one data file."""

    clients_max: int
    message_size_max: int
    trailer_size: int
    trailers_offset: int
    slots_offset: int
    size: int

    @classmethod
    def of(cls, config: RepliesConfig) -> Layout:
        """The layout that the configuration asks for."""
        return cls.of_shape(config.clients_max, config.message_size_max)

    @classmethod
    def of_shape(cls, clients_max: int, message_size_max: int) -> Layout:
        """The layout of a file with this many slots of this size."""
        trailer_size = sectors_size(sessions_size_max(clients_max))
        trailers_offset = SUPERBLOCK_COPIES * SECTOR_SIZE
        slots_offset = trailers_offset + TRAILER_AREAS * trailer_size
        return cls(
            clients_max=clients_max,
            message_size_max=message_size_max,
            trailer_size=trailer_size,
            trailers_offset=trailers_offset,
            slots_offset=slots_offset,
            size=slots_offset + clients_max * message_size_max,
        )

    def __post_init__(self) -> None:
        invariant(0 < self.clients_max <= CLIENTS_MAX_LIMIT, "a layout has at least one slot, and not too many")
        invariant(SECTOR_SIZE <= self.message_size_max <= MESSAGE_SIZE_LIMIT, "a slot holds at least a sector")
        for name in ("message_size_max", "trailer_size", "trailers_offset", "slots_offset", "size"):
            invariant(getattr(self, name) % SECTOR_SIZE == 0, f"{name} is not a whole number of sectors")
        invariant(self.trailer_size >= sessions_size_max(self.clients_max), "a full session table fits an area")
        invariant(self.trailers_offset == SUPERBLOCK_COPIES * SECTOR_SIZE, "the areas follow the superblock")
        invariant(
            self.slots_offset == self.trailers_offset + TRAILER_AREAS * self.trailer_size, "the slots follow the areas"
        )
        invariant(
            self.size == self.slots_offset + self.clients_max * self.message_size_max, "the slots end with the file"
        )

    def superblock_offset(self, copy: int) -> int:
        """Where copy `copy` of the superblock is."""
        invariant(0 <= copy < SUPERBLOCK_COPIES, "there is no such superblock copy")
        return copy * SECTOR_SIZE

    def trailer_offset(self, area: int) -> int:
        """Where trailer area `area` is."""
        invariant(0 <= area < TRAILER_AREAS, "there is no such trailer area")
        return self.trailers_offset + area * self.trailer_size

    def slot_offset(self, slot: int) -> int:
        """Where slot `slot` is."""
        if not 0 <= slot < self.clients_max:
            invariant(False, f"there is no slot {slot}")
        return self.slots_offset + slot * self.message_size_max
