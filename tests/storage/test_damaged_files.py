"""Files that rotted: what opens with which checkpoint and says so, what is refused, and nothing that is wrong.

What a damaged file must come to is worked out here from the bytes that are still the same, not by the code under test.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from client_replies.messages.config import SECTOR_SIZE, OpenMode, RepliesConfig
from client_replies.messages.faults import CheckpointDamaged, FaultClass, FaultKind
from client_replies.messages.reply_header import HEADER_SIZE
from client_replies.storage.data_file import DataFile
from client_replies.storage.device import FileDisk
from client_replies.storage.errors import StorageError, storage_error
from client_replies.storage.layout import SUPERBLOCK_COPIES, Layout
from client_replies.storage.memory_disk import MemoryDevice, MemoryDisk, MemoryFile
from client_replies.storage.superblock import choose_superblock

from tests.storage.samples import fault_kind, make_reply, small_config

TABLES = {sequence: f"the session table of checkpoint {sequence}, ".encode() * 130 for sequence in range(1, 6)}
REPLIES = {
    slot: make_reply(slot + 1, body=bytes([slot]) * size).pack() for slot, size in enumerate((700, 4000, 7900, 300))
}


class Sectors(MemoryDevice):
    """A device of which some sectors cannot be read."""

    def __init__(self, file: MemoryFile, unreadable: set[int]) -> None:
        super().__init__(file)
        self.unreadable = unreadable

    def _read(self, offset: int, into: memoryview, direct: bool) -> None:
        for sector in range(offset // SECTOR_SIZE, -(-(offset + len(into)) // SECTOR_SIZE)):
            if sector in self.unreadable:
                raise storage_error(FaultKind.IO_ERROR, "a bad sector", f"a read at {offset}")
        super()._read(offset, into, direct)

    def _write(self, offset: int, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        size = sum(map(len, parts))
        self.unreadable -= set(range(offset // SECTOR_SIZE, (offset + size) // SECTOR_SIZE))
        super()._write(offset, parts)


class Copies(MemoryDisk):
    """A disk with one file, whose bytes are easy to damage."""

    def __init__(self, config: RepliesConfig, contents: bytes | bytearray) -> None:
        super().__init__()
        self.unreadable: set[int] = set()
        self.files[config.path] = self.one = MemoryFile(bytearray(contents))

    def device(self, path: str, file: MemoryFile) -> MemoryDevice:
        """Give a device that knows the unreadable sectors."""
        return Sectors(file, self.unreadable)


@pytest.fixture
def config(tmp_path: Path) -> RepliesConfig:
    """Give the configuration of a small file with two sectors in a trailer area."""
    return small_config(tmp_path / "replies", clients_max=30)


def make_contents(config: RepliesConfig, checkpoints: int) -> bytes:
    """Make a real file with replies in all slots and this many checkpoints; give its bytes."""
    data_file = DataFile.open(FileDisk(), config, OpenMode.FORMAT)
    data_file.write_slots(list(REPLIES), list(REPLIES.values()))
    for sequence in range(1, checkpoints + 1):
        data_file.write_checkpoint(sequence, 10 * sequence, TABLES[sequence])
    data_file.close()
    contents = Path(config.path).read_bytes()
    Path(config.path).unlink()
    return contents


def opened(disk: MemoryDisk | FileDisk, config: RepliesConfig) -> DataFile:
    """Open the file."""
    return DataFile.open(disk, config, OpenMode.OPEN)


def area_of(sequence: int, config: RepliesConfig) -> range:
    """Give where the trailer of a checkpoint is, as long as none was damaged: the areas are used in turn."""
    layout = Layout.of(config)
    start = layout.trailer_offset(sequence % 2)
    return range(start, start + layout.trailer_size)


def used(sequence: int, config: RepliesConfig) -> range:
    """Give the sectors of the area that the table takes."""
    start = area_of(sequence, config).start
    return range(start, start - (-len(TABLES[sequence]) // SECTOR_SIZE) * SECTOR_SIZE)


class TestTheCheckpointBefore:
    """One damaged session table costs one checkpoint, and not the file."""

    def test_a_flipped_bit_in_the_last_table_opens_the_file_with_the_one_before(self, config: RepliesConfig) -> None:
        """Saying which was damaged, how, and which is used. Nothing is written for that."""
        disk = Copies(config, make_contents(config, 3))
        disk.one.data[used(3, config)[500]] ^= 1
        before = bytes(disk.one.data)
        data_file = opened(disk, config)
        assert (data_file.sequence, data_file.op, data_file.sessions) == (2, 20, TABLES[2])
        damaged = data_file.damaged
        assert isinstance(damaged, CheckpointDamaged)
        assert (damaged.sequence, damaged.op, damaged.fault.kind) == (3, 30, FaultKind.TRAILER_CORRUPT)
        assert "checkpoint 3" in damaged.fault.found
        data_file.close()
        assert disk.one.data == before

    def test_a_whole_file_names_no_damage(self, config: RepliesConfig) -> None:
        """Neither a new one nor one that is opened again."""
        data_file = DataFile.open(FileDisk(), config, OpenMode.FORMAT)
        assert data_file.damaged is None
        data_file.write_checkpoint(1, 10, TABLES[1])
        data_file.close()
        data_file = opened(FileDisk(), config)
        assert (data_file.sequence, data_file.damaged) == (1, None)
        data_file.close()

    def test_every_byte_of_the_last_trailer_counts(self, config: RepliesConfig) -> None:
        """Also its padding. What the rest of the area holds is nobody's business."""
        disk = Copies(config, make_contents(config, 2))
        for offset in area_of(2, config)[::7]:
            disk.one.data[offset] ^= 0xFF
            data_file = opened(disk, config)
            expected = (1, 10, TABLES[1]) if offset in used(2, config) else (2, 20, TABLES[2])
            assert (data_file.sequence, data_file.op, data_file.sessions) == expected
            data_file.close()
            disk.one.data[offset] ^= 0xFF

    def test_the_next_checkpoint_goes_into_the_damaged_area(self, config: RepliesConfig) -> None:
        """The only good table stays where it is until another one is durable, however often this happens."""
        disk = Copies(config, make_contents(config, 2))
        good, sequence = 1, 2
        for _ in range(3):
            good_area = area_of(1, config)
            good_bytes = disk.one.data[good_area.start : good_area.stop]
            disk.one.data[area_of(2, config).start] ^= 1
            data_file = opened(disk, config)
            assert (data_file.sequence, data_file.sequence_next) == (good, sequence + 1)
            sequence += 1
            data_file.write_checkpoint(sequence, 10 * sequence, TABLES[sequence])
            data_file.close()
            assert disk.one.data[good_area.start : good_area.stop] == good_bytes
            data_file = opened(disk, config)
            assert (data_file.sequence, data_file.sessions, data_file.damaged) == (sequence, TABLES[sequence], None)
            data_file.close()

    def test_the_first_checkpoint_damaged_leaves_the_beginning(self, config: RepliesConfig) -> None:
        """No sessions, as of op 0: the log has everything since."""
        disk = Copies(config, make_contents(config, 1))
        disk.one.data[area_of(1, config).start] ^= 1
        data_file = opened(disk, config)
        assert (data_file.sequence, data_file.op, data_file.sessions, data_file.formatted) == (0, 0, b"", False)
        assert data_file.damaged is not None
        data_file.write_checkpoint(2, 5, TABLES[2])
        data_file.close()
        assert opened(disk, config).sessions == TABLES[2]

    def test_both_tables_damaged_refuse_the_file_untouched(self, config: RepliesConfig) -> None:
        """That is damage, and says so of the last one."""
        disk = Copies(config, make_contents(config, 3))
        for sequence in (2, 3):
            disk.one.data[area_of(sequence, config).start] ^= 1
        before = bytes(disk.one.data)
        with pytest.raises(StorageError) as raised:
            opened(disk, config)
        assert raised.value.fault.kind is FaultKind.TRAILER_CORRUPT
        assert "checkpoint 3" in raised.value.fault.found
        assert disk.one.data == before

    def test_an_unreadable_table_is_like_a_damaged_one_while_the_other_can_be_read(self, config: RepliesConfig) -> None:
        """If neither can be had, and one for the disk's sake, nothing is proven."""
        contents = make_contents(config, 3)
        disk = Copies(config, contents)
        disk.unreadable.add(area_of(3, config).start // SECTOR_SIZE)
        data_file = opened(disk, config)
        assert (data_file.sequence, data_file.sessions) == (2, TABLES[2])
        assert data_file.damaged is not None
        assert data_file.damaged.fault.kind is FaultKind.IO_ERROR
        data_file.close()
        for rotten, unreadable in ((2, 3), (3, 2)):
            disk = Copies(config, contents)
            disk.unreadable.add(area_of(unreadable, config).start // SECTOR_SIZE)
            disk.one.data[area_of(rotten, config).start] ^= 1
            assert fault_kind(lambda disk=disk: opened(disk, config)) is FaultKind.IO_ERROR  # type: ignore[misc]

    def test_an_unreadable_copy_of_the_superblock_is_one_copy_less(self, config: RepliesConfig) -> None:
        """Two of them are mended by writing them; three are an I/O error, which proves nothing."""
        contents = make_contents(config, 2)
        disk = Copies(config, contents)
        disk.unreadable |= {0, 2}
        opened(disk, config).close()
        assert not disk.unreadable
        assert disk.one.data == contents
        disk.unreadable |= {0, 1, 2}
        assert fault_kind(lambda: opened(disk, config)) is FaultKind.IO_ERROR
        assert disk.unreadable == {0, 1, 2}


class TestVersion1:
    """Files that were made before the superblock knew two checkpoints."""

    @staticmethod
    def contents(config: RepliesConfig) -> bytearray:
        """Make a file with checkpoints 1 and 2 as that version had it."""
        data = bytearray(make_contents(config, 2))
        sectors = [data[copy * SECTOR_SIZE : (copy + 1) * SECTOR_SIZE] for copy in range(SUPERBLOCK_COPIES)]
        superblock = choose_superblock(sectors).superblock
        for copy in range(SUPERBLOCK_COPIES):
            data[copy * SECTOR_SIZE : (copy + 1) * SECTOR_SIZE] = superblock.encode(copy, version=1)
        return data

    def test_a_file_of_version_1_is_opened_and_the_next_checkpoint_makes_it_one_of_version_2(
        self, config: RepliesConfig
    ) -> None:
        """Until then not a byte changes."""
        disk = Copies(config, self.contents(config))
        before = bytes(disk.one.data)
        data_file = opened(disk, config)
        assert (data_file.sequence, data_file.op, data_file.sessions, data_file.damaged) == (2, 20, TABLES[2], None)
        assert disk.one.data == before
        data_file.write_checkpoint(3, 30, TABLES[3])
        data_file.close()
        disk.one.data[area_of(3, config).start] ^= 1
        data_file = opened(disk, config)
        assert (data_file.sequence, data_file.sessions) == (2, TABLES[2])

    def test_a_damaged_table_of_version_1_has_nothing_before_it(self, config: RepliesConfig) -> None:
        """The other area's table is not known well enough to be believed."""
        disk = Copies(config, self.contents(config))
        disk.one.data[area_of(2, config).start] ^= 1
        before = bytes(disk.one.data)
        assert fault_kind(lambda: opened(disk, config)) is FaultKind.TRAILER_CORRUPT
        assert disk.one.data == before

    def test_a_copy_of_version_1_may_rot_too(self, config: RepliesConfig) -> None:
        """It is mended as a copy of version 2, which says the same."""
        disk = Copies(config, self.contents(config))
        disk.one.data[100] ^= 1
        for _ in range(2):
            data_file = opened(disk, config)
            assert (data_file.sequence, data_file.sessions) == (2, TABLES[2])
            data_file.close()


def flip(data: bytearray, offset: int, chance: random.Random) -> None:
    """Flip one bit."""
    data[offset] ^= 1 << chance.randrange(8)


def overwrite(data: bytearray, offset: int, chance: random.Random) -> None:
    """Put rubbish into the next bytes, up to a few sectors."""
    size = chance.choice((1, 8, 512, SECTOR_SIZE, 3 * SECTOR_SIZE))
    data[offset : offset + size] = chance.randbytes(len(data[offset : offset + size]))


def erase(data: bytearray, offset: int, chance: random.Random) -> None:
    """Put zeros there."""
    size = chance.choice((16, 512, SECTOR_SIZE))
    data[offset : offset + size] = bytes(len(data[offset : offset + size]))


def misplace(data: bytearray, offset: int, chance: random.Random) -> None:
    """Let a sector hold what belongs in another one."""
    source = chance.randrange(len(data) // SECTOR_SIZE) * SECTOR_SIZE
    target = offset // SECTOR_SIZE * SECTOR_SIZE
    data[target : target + SECTOR_SIZE] = data[source : source + SECTOR_SIZE]


Damage = Callable[[bytearray, int, random.Random], None]
DAMAGES: tuple[Damage, ...] = (flip, overwrite, erase, misplace)


@dataclass(frozen=True)
class Truth:
    """What must be found, from the bytes that are still as they were: by sequence, or a fault."""

    sequence: int | None
    damaged: int | None = None


def truth_of(data: bytes | bytearray, whole: bytes, config: RepliesConfig) -> Truth:
    """Work it out for a file of which the newest checkpoint is 3, or 2 where copies 2 and 3 were left behind."""

    def same(part: range) -> bool:
        return data[part.start : part.stop] == whole[part.start : part.stop]

    sectors = [range(copy * SECTOR_SIZE, (copy + 1) * SECTOR_SIZE) for copy in range(SUPERBLOCK_COPIES)]
    votes = [int.from_bytes(whole[part.start + 80 : part.start + 88], "little") for part in sectors if same(part)]
    agreed = [sequence for sequence in votes if votes.count(sequence) >= 2]
    if not agreed:
        return Truth(None)
    newest = max(agreed)
    if same(used(newest, config)):
        return Truth(newest)
    # While a checkpoint was being made, the area of the one before the last held its trailer already.
    before = newest - 1 if newest == 3 else None
    return Truth(before, damaged=newest) if before is not None and same(used(before, config)) else Truth(None)


def check(data: bytearray, whole: bytes, config: RepliesConfig) -> str:
    """Open a damaged file and compare with the truth; also each slot. Give what was found, in a word."""
    truth, disk = truth_of(data, whole, config), Copies(config, data)
    before = bytes(data)
    if truth.sequence is None:
        kind = fault_kind(lambda: opened(disk, config))
        assert kind.fault_class in (FaultClass.DAMAGE, FaultClass.MISMATCH)
        assert disk.one.data == before
        return kind.name
    data_file = opened(disk, config)
    assert data_file.sequence == truth.sequence
    assert data_file.sessions == TABLES[data_file.sequence]
    assert (data_file.damaged and data_file.damaged.sequence) == truth.damaged
    layout = Layout.of(config)
    for slot, reply in REPLIES.items():
        start = layout.slot_offset(slot)
        stop = start - (-len(reply) // SECTOR_SIZE) * SECTOR_SIZE
        is_whole = before[start:stop] == whole[start:stop]
        assert (data_file.verify_slot(slot, reply[:HEADER_SIZE]) is None) is is_whole
        assert (data_file.read_slot(slot, reply[:HEADER_SIZE]) == reply) is is_whole
    data_file.close()
    return "the newest" if truth.damaged is None else "the one before"


def left_behind(config: RepliesConfig) -> bytes:
    """Give a file with checkpoint 3 whose superblock copies 2 and 3 are those of checkpoint 2, as a crash leaves it."""
    old, new = make_contents(config, 2), make_contents(config, 3)
    half = SUPERBLOCK_COPIES // 2 * SECTOR_SIZE
    return new[:half] + old[half : 2 * half] + new[2 * half :]


@pytest.mark.parametrize("crashed", [False, True])
def test_damage_anywhere_is_found_and_never_gives_a_wrong_table(config: RepliesConfig, crashed: bool) -> None:
    """Every sector of superblock and trailers in each way at several offsets, then anything anywhere, several at once.

    The newest checkpoint whose table is whole, or the one before and says so, or a typed fault. Slots are told apart.
    """
    whole = left_behind(config) if crashed else make_contents(config, 3)
    chance, found = random.Random(7 + crashed), dict[str, int]()
    layout = Layout.of(config)
    places = [[sector + at] for sector in range(0, layout.slots_offset, SECTOR_SIZE) for at in (0, 20, 130, 4000)]
    places += [[chance.randrange(layout.slots_offset) for _ in range(chance.randrange(1, 7))] for _ in range(250)]
    places += [[chance.randrange(len(whole)) for _ in range(chance.randrange(1, 40))] for _ in range(150)]
    for offsets in places:
        for damage in DAMAGES if len(offsets) == 1 else [None]:
            data = bytearray(whole)
            for offset in offsets:
                (damage or chance.choice(DAMAGES))(data, offset, chance)
            outcome = check(data, whole, config)
            found[outcome] = found.get(outcome, 0) + 1
    assert sum(found.values()) > 500
    wanted = {"the newest", "the one before", "TRAILER_CORRUPT", "SUPERBLOCK_CORRUPT"}
    assert found.keys() >= wanted
    assert min(found[outcome] for outcome in wanted) > 5, found


def test_damage_in_real_files_is_found_too(config: RepliesConfig) -> None:
    """The same through the operating system, a few times."""
    whole, chance, outcomes = make_contents(config, 3), random.Random(3), set[str]()
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 7)):
            chance.choice(DAMAGES)(data, chance.randrange(Layout.of(config).slots_offset), chance)
        truth = truth_of(data, whole, config)
        Path(config.path).write_bytes(data)
        if truth.sequence is None:
            outcomes.add(fault_kind(lambda: opened(FileDisk(), config)).name)
            assert Path(config.path).read_bytes() == data
        else:
            data_file = opened(FileDisk(), config)
            assert (data_file.sequence, data_file.sessions) == (truth.sequence, TABLES[data_file.sequence])
            outcomes.add("damaged" if data_file.damaged else "whole")
            data_file.close()
    assert len(outcomes) >= 3
