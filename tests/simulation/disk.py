"""A disk in memory that fails as disks do. One file a replica; the fault model:

    crash            what no sync covered is kept, lost, torn (at 512 bytes) or rubbish in some sectors, each write by
                     itself, in any order
    kill             of the process alone: the page cache stays; a write in progress may have got half way
    bit rot          bits of a slot or of a session table flip, on the medium, and in the page cache unless the page is
                     cached
    unreadable       a sector reports an I/O error until it is written again
    lost write       reported as done, and not done
    misdirected      a write that lands in another slot; a read that comes from another slot
    failed write     reports an error; part of it may be done
    failed sync      reports an error once; the page cache then claims to be clean, and the medium has nothing of it
    full             no space to make the file
    slow             every operation takes far longer for a while
    gone             the file is not there any more

Guarantees to who sets faults: a fault in a slot happens only if `spares` says that the slot may be damaged. Without
faults it is a page cache over a medium: direct reads see the medium, except for pages that are not synced yet.

Owns: the bytes, and the note of which sectors hold something else than what was written there last (`damaged`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from client_replies.messages.config import SECTOR_SIZE
from client_replies.messages.faults import FaultKind
from client_replies.messages.reply_header import HEADER_SIZE, Buffer
from client_replies.storage.device import NewFile
from client_replies.storage.errors import storage_error
from client_replies.storage.layout import Layout
from client_replies.storage.memory_disk import MemoryDevice, MemoryDisk, MemoryFile, _NewMemoryFile

from .chance import Chance
from .marks import Marks

if TYPE_CHECKING:
    from .system import Process

TEAR_SIZE = 512
LATENCY_MAX = 1.0


class PowerLost(BaseException):
    """The process that asked for this transfer does not exist any more."""


@dataclass(frozen=True, slots=True)
class Ambush:
    """The next function of this lane gets no further than so many writes and syncs; then this strikes its process."""

    lane: str
    budget: int
    strike: Callable[[Process], None]


@dataclass(slots=True)
class DiskRules:
    """Durations (seconds) of an operation in a lane, and probabilities by transfer."""

    latency_low: float = 0.0005
    latency_high: float = 0.003
    write_error: float = 0.0
    sync_error: float = 0.0
    lost_write: float = 0.0
    misdirected_write: float = 0.0
    misdirected_read: float = 0.0
    crash_keeps: float = 0.4
    crash_tears: float = 0.3
    crash_spoils: float = 0.0


def _may_not(_slot: int) -> bool:
    return False


class SimFile(MemoryFile):
    """`data` is what the operating system shows, `stable` what a power loss leaves."""

    def __init__(self, size: int) -> None:
        super().__init__(bytearray(size))
        self.stable = bytearray(size)
        self.unsynced: list[tuple[int, bytes]] = []
        self.dirty: set[int] = set()
        self.unreadable: set[int] = set()
        self.damaged: set[int] = set()
        self.covered: set[int] = set()  # damaged on the medium, and written over in the page cache only
        self.misread = False  # a read came from elsewhere once: a good slot may have been called faulty
        self.misread_as: dict[int, bytes] = {}  # where the last read came from elsewhere: the header that it gave

    def is_damaged(self, offset: int, size: int) -> bool:
        """True if a fault was put into a sector of this range and not written over since."""
        if not self.damaged and not self.unreadable:
            return False
        sectors = sectors_of(offset, size)
        return any(sector in self.damaged or sector in self.unreadable for sector in sectors)

    def shown_by_the_disk(self, size: int) -> bytearray:
        """The beginning as direct reads show it: what is not synced comes from memory. Unreadable sectors are zero."""
        data = bytearray(size)
        for sector in sectors_of(0, size):
            source = self.data if sector in self.dirty else self.stable
            part = slice(sector * SECTOR_SIZE, (sector + 1) * SECTOR_SIZE)
            data[part] = source[part] if sector not in self.unreadable else bytes(SECTOR_SIZE)
        return data

    def crash(self, chance: Chance, rules: DiskRules, marks: Marks) -> None:
        """The power is gone: see the fault model."""
        writes = list(self.unsynced)
        chance.shuffle(writes)
        for offset, content in writes:
            fate = chance.fraction()
            if fate < rules.crash_keeps:
                marks.hit("crash_kept_a_write")
                self.stable[offset : offset + len(content)] = content
            elif fate < rules.crash_keeps + rules.crash_tears:
                marks.hit("crash_tore_a_write")
                for start in range(0, len(content), TEAR_SIZE):
                    if chance.bits(1):
                        self.stable[offset + start : offset + start + TEAR_SIZE] = content[start : start + TEAR_SIZE]
            elif fate < rules.crash_keeps + rules.crash_tears + rules.crash_spoils:
                marks.hit("crash_spoiled_a_write")
                for start in range(0, len(content), SECTOR_SIZE):
                    if chance.chance(0.7):
                        self.stable[offset + start : offset + start + SECTOR_SIZE] = rubbish(chance)
            else:
                marks.hit("crash_lost_a_write")
        self.unsynced.clear()
        self.dirty.clear()
        self.damaged |= self.covered  # what was written over it may be lost
        self.covered.clear()
        self.data[:] = self.stable


def rubbish(chance: Chance) -> bytes:
    """What a sector may hold that was in flight when the power went."""
    return chance.bits(8 * SECTOR_SIZE).to_bytes(SECTOR_SIZE, "little")


def sectors_of(offset: int, size: int) -> range:
    """The sectors that a range touches."""
    return range(offset // SECTOR_SIZE, -(-(offset + size) // SECTOR_SIZE))


class SimDevice(MemoryDevice):
    """An opening of a `SimFile`."""

    def __init__(self, file: SimFile, disk: SimDisk) -> None:
        super().__init__(file)
        self.sim_file = file
        self.disk = disk

    def _read(self, offset: int, into: memoryview, direct: bool) -> None:
        file, disk = self.sim_file, self.disk
        sectors = sectors_of(offset, len(into))
        if file.unreadable and any(sector in file.unreadable for sector in sectors):
            disk.marks.hit("read_unreadable_sector")
            raise storage_error(FaultKind.IO_ERROR, "an unreadable sector", f"a read at {offset}")
        step = disk.part_size(offset, len(into))
        for start in range(0, len(into), step):
            self._read_part(offset + start, into[start : start + step], direct)

    def _read_part(self, offset: int, into: memoryview, direct: bool) -> None:
        file, disk = self.sim_file, self.disk
        sectors = sectors_of(offset, len(into))
        elsewhere = offset
        if disk.chance.chance(disk.rules.misdirected_read):
            elsewhere = disk.misdirected(offset, len(into))
        cached = not direct or any(sector in file.dirty for sector in sectors)
        source = file.data if cached else file.stable
        into[:] = memoryview(source)[elsewhere : elsewhere + len(into)]
        file.misread_as.pop(offset, None)
        if elsewhere != offset:
            file.misread = True
            file.misread_as[offset] = bytes(into[:HEADER_SIZE])

    def _write(self, offset: int, parts: Sequence[Buffer]) -> None:
        disk, content = self.disk, b"".join(parts)
        if disk.spend():
            sectors = disk.chance.below(len(content) // SECTOR_SIZE + 1)
            self._put(offset, content[: sectors * SECTOR_SIZE])
            raise PowerLost
        rules, chance = disk.rules, disk.chance
        if chance.chance(rules.write_error):
            disk.marks.hit("write_failed")
            self._put(offset, content[: chance.below(len(content) // SECTOR_SIZE + 1) * SECTOR_SIZE])
            raise storage_error(FaultKind.IO_ERROR, "EIO", f"a write at {offset}")
        slot = disk.slot_at(offset)
        if slot is not None and rules.lost_write and chance.chance(rules.lost_write) and disk.spares(slot):
            disk.marks.hit("write_lost")
            self.sim_file.damaged.update(sectors_of(offset, len(content)))
            return
        if slot is not None and chance.chance(rules.misdirected_write):
            elsewhere = disk.misdirected(offset, len(content))
            if elsewhere != offset:
                disk.marks.hit("write_misdirected")
                self._put(elsewhere, content)
                damaged = (*sectors_of(offset, len(content)), *sectors_of(elsewhere, len(content)))
                self.sim_file.damaged.update(damaged)
                return
        self._put(offset, content)

    def _put(self, offset: int, content: bytes) -> None:
        if not content:
            return
        file = self.sim_file
        sectors = sectors_of(offset, len(content))
        file.data[offset : offset + len(content)] = content
        file.unsynced.append((offset, content))
        file.dirty.update(sectors)
        file.misread_as.pop(offset, None)
        if file.damaged or file.unreadable:
            file.covered.update(file.damaged.intersection(sectors))
            file.damaged.difference_update(sectors)
            file.unreadable.difference_update(sectors)

    def sync(self) -> None:
        """Everything written goes to the medium, or nothing does and an error says so once."""
        file, disk = self.sim_file, self.disk
        if disk.spend():
            raise PowerLost
        failed = disk.chance.chance(disk.rules.sync_error)
        if not failed:
            for offset, content in file.unsynced:
                file.stable[offset : offset + len(content)] = content
            file.covered.clear()
        file.unsynced.clear()
        file.dirty.clear()
        if failed:
            disk.marks.hit("sync_failed")
            raise storage_error(FaultKind.IO_ERROR, "EIO", "a data sync")


class SimDisk(MemoryDisk):
    """The disk of one replica."""

    def __init__(self, chance: Chance, rules: DiskRules, marks: Marks, layout: Layout) -> None:
        super().__init__()
        self.chance = chance
        self.rules = rules
        self.marks = marks
        self.layout = layout
        self.spares: Callable[[int], bool] = _may_not
        self.lanes: dict[str, float] = {}
        self.slow = 0.0  # seconds added to each operation at most
        self.budget: int | None = None  # writes and syncs until the power is lost
        self.ambushes: deque[Ambush] = deque()
        self.on_open: Callable[[SimDevice], None] | None = None
        self.on_read: Callable[[SimFile], None] | None = None

    def device(self, path: str, file: MemoryFile) -> SimDevice:
        if not isinstance(file, SimFile):
            raise TypeError("not a file of this disk")
        device = SimDevice(file, self)
        if self.on_open is not None:
            self.on_open(device)
        return device

    def open(self, path: str) -> MemoryDevice:
        device = super().open(path)
        if self.on_read is not None and isinstance(device, SimDevice):
            self.on_read(device.sim_file)
        return device

    def create(self, path: str, size: int) -> NewFile:
        if path in self.files:
            raise storage_error(FaultKind.FILE_EXISTS, path, "no file of this name")
        if self.capacity is not None and size > self.capacity:
            self.marks.hit("disk_full")
            raise storage_error(FaultKind.DISK_FULL, f"{self.capacity} bytes free", f"{size} bytes of space")
        return _NewMemoryFile(self, path, SimFile(size))

    def file(self, path: str) -> SimFile | None:
        """The file, if there is one."""
        file = self.files.get(path)
        return file if isinstance(file, SimFile) else None

    def latency(self, lane: str) -> int:
        """How long an operation of this lane takes, in microseconds."""
        longest = min(LATENCY_MAX, self.rules.latency_high * self.lanes.get(lane, 1.0))
        return self.chance.micros(self.rules.latency_low, longest + self.slow)

    def spend(self) -> bool:
        """Count a transfer against the budget of a process that dies. True if this one is its last, half done."""
        if self.budget is None:
            return False
        self.budget -= 1
        return self.budget < 0

    def next_ambush(self, lane: str) -> Ambush | None:
        """The ambush that begins now, if there is one for a function of this lane."""
        if not self.ambushes or self.ambushes[0].lane != lane:
            return None
        ambush = self.ambushes.popleft()
        self.budget = ambush.budget
        return ambush

    def slot_at(self, offset: int) -> int | None:
        """The slot that begins at this offset."""
        index, rest = divmod(offset - self.layout.slots_offset, self.layout.message_size_max)
        return index if index >= 0 and rest == 0 else None

    def part_size(self, offset: int, size: int) -> int:
        """Bytes that go wrong by themselves: a slot, if the transfer is of several, or all of it."""
        return self.layout.message_size_max if self.slot_at(offset) is not None else size

    def misdirected(self, offset: int, size: int) -> int:
        """Another slot's offset, or the same one where damage is not allowed."""
        slot = self.slot_at(offset)
        if slot is None or self.layout.clients_max < 2 or size > self.layout.message_size_max:
            return offset
        other = self.chance.below(self.layout.clients_max)
        if other == slot or not self.spares(slot) or not self.spares(other):
            return offset
        self.marks.hit("transfer_misdirected")
        return self.layout.slot_offset(other)

    # Faults that come from outside.

    def rot(self, file: SimFile, slot: int, size: int) -> None:
        """Flip a few bits among the first `size` bytes of a slot."""
        start = self.layout.slot_offset(slot)
        for _ in range(1 + self.chance.below(4)):
            self.flip(file, start + self.chance.below(size), cached=self.chance.chance(0.25))
        self.marks.hit("slot_rotted")

    def flip(self, file: SimFile, position: int, *, cached: bool = False) -> None:
        """Flip one bit; `cached` means that the page cache still has the old byte."""
        sector = position // SECTOR_SIZE
        if sector in file.dirty:
            return  # It will be written over.
        bit = 1 << self.chance.below(8)
        file.stable[position] ^= bit
        if not cached:
            file.data[position] ^= bit
        file.damaged.add(sector)

    def lose_sector(self, file: SimFile, slot: int) -> None:
        """Make the first sector of a slot unreadable."""
        sector = self.layout.slot_offset(slot) // SECTOR_SIZE
        if sector not in file.dirty:
            file.unreadable.add(sector)
            self.marks.hit("sector_unreadable")
