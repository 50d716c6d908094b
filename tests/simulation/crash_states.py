"""Every state in which a crash may leave a data file, from what the storage really wrote and when it synced.

A recorded history is a list of writes and syncs, with notes of what was promised between them. A crash after any step
leaves everything up to the last sync, and of each later write nothing, all, some of its 512-byte pieces, or rubbish: a
sector that is in flight when the power goes may hold neither the old bytes nor the new ones. A process that is killed
leaves all of its writes in the page cache; the history goes on with who opens the file next.

Guarantees: up to `every_max` unsynced writes, all combinations of nothing, all, the first half, the second half and
rubbish; beyond that rubbish in all of them, and a sample that is drawn from the seed. Owns: nothing; files are made in
memory and thrown away.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from client_replies.messages.config import SECTOR_SIZE
from client_replies.messages.reply_header import Buffer
from client_replies.storage.device import NewFile
from client_replies.storage.memory_disk import MemoryDevice, MemoryDisk, MemoryFile, _NewMemoryFile

from .chance import Chance
from .disk import TEAR_SIZE, rubbish


@dataclass(slots=True)
class Promises:
    """What may be relied on after a step: the checkpoint, or the one that is being written; replies by slot."""

    sequence: int = 0
    sequence_begun: int = 0
    tables: dict[int, bytes] = field(default_factory=dict)
    slots: dict[int, bytes] = field(default_factory=dict)

    def copy(self) -> Promises:
        """The promises of this moment."""
        return Promises(self.sequence, self.sequence_begun, dict(self.tables), dict(self.slots))


@dataclass(frozen=True, slots=True)
class Step:
    """A write, or a sync (no content); and what was promised when it began."""

    offset: int
    content: bytes | None
    promises: Promises


class RecordingDisk(MemoryDisk):
    """Files in memory that note every write and sync."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.promises = Promises()

    def device(self, path: str, file: MemoryFile) -> MemoryDevice:
        return _RecordingDevice(file, self)

    def create(self, path: str, size: int) -> NewFile:
        return _NewMemoryFile(self, path, MemoryFile(bytearray(size)))


class _RecordingDevice(MemoryDevice):
    def __init__(self, file: MemoryFile, disk: RecordingDisk) -> None:
        super().__init__(file)
        self._disk = disk

    def _write(self, offset: int, parts: Sequence[Buffer]) -> None:
        super()._write(offset, parts)
        self._disk.steps.append(Step(offset, b"".join(parts), self._disk.promises.copy()))

    def sync(self) -> None:
        """Note it."""
        self._disk.steps.append(Step(0, None, self._disk.promises.copy()))


@dataclass(frozen=True, slots=True)
class CrashState:
    """A file as a crash left it, and what must hold in it."""

    data: bytearray
    promises: Promises
    step: int
    fates: tuple[int, ...]


def page_cache(start: bytes, steps: Sequence[Step]) -> bytearray:
    """What the operating system shows after a history that began with the bytes `start`, synced or not."""
    data = bytearray(start)
    for step in steps:
        if step.content is not None:
            data[step.offset : step.offset + len(step.content)] = step.content
    return data


def crash_states(
    start: bytes, steps: Sequence[Step], chance: Chance, *, every_max: int, sampled: int, first: int = 0
) -> Iterator[CrashState]:
    """Each state after each step, from number `first` on, of a history that began with the bytes `start`."""
    stable = bytearray(start)
    unsynced: list[Step] = []
    for number, step in enumerate(steps):
        if step.content is None:
            for write in unsynced:
                _put(stable, write, FULL, chance)
            unsynced.clear()
        else:
            unsynced.append(step)
        if number < first:
            continue
        # What is promised when the next step begins was promised by now.
        promises = steps[number + 1].promises if number + 1 < len(steps) else step.promises
        for fates in _fates(len(unsynced), chance, every_max, sampled):
            data = bytearray(stable)
            order = list(zip(unsynced, fates, strict=True))
            chance.shuffle(order)
            for write, fate in order:
                _put(data, write, fate, chance)
            yield CrashState(data, promises, number, fates)


NOTHING, FULL, FIRST_HALF, SECOND_HALF, RUBBISH, PIECES, SECTORS = range(7)


def _fates(count: int, chance: Chance, every_max: int, sampled: int) -> Iterator[tuple[int, ...]]:
    if count <= every_max:
        yield from itertools.product((NOTHING, FULL, FIRST_HALF, SECOND_HALF, RUBBISH), repeat=count)
    else:
        yield (RUBBISH,) * count
    for _ in range(sampled if count else 0):
        yield tuple(chance.below(7) for _ in range(count))


def _put(data: bytearray, write: Step, fate: int, chance: Chance) -> None:
    content = write.content or b""
    if fate in (RUBBISH, SECTORS):
        for start in range(0, len(content), SECTOR_SIZE):
            left = RUBBISH if fate == RUBBISH else chance.pick((NOTHING, FULL, RUBBISH))
            sector = rubbish(chance) if left == RUBBISH else content[start : start + SECTOR_SIZE]
            if left != NOTHING:
                data[write.offset + start : write.offset + start + SECTOR_SIZE] = sector
        return
    half = len(content) // 2 // TEAR_SIZE * TEAR_SIZE
    for start in range(0, len(content), TEAR_SIZE):
        keep = (
            fate == FULL
            or (fate == FIRST_HALF and start < half)
            or (fate == SECOND_HALF and start >= half)
            or (fate == PIECES and chance.bits(1) == 1)
        )
        if keep:
            data[write.offset + start : write.offset + start + TEAR_SIZE] = content[start : start + TEAR_SIZE]
