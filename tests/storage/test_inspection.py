"""What an inspection says of a data file, held against what was done to its bytes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from client_replies.messages.config import SECTOR_SIZE, OpenMode, RepliesConfig
from client_replies.messages.faults import FaultKind, SlotFault
from client_replies.storage.client_sessions import ClientSessions
from client_replies.storage.data_file import DataFile
from client_replies.storage.device import FileDisk
from client_replies.storage.inspection import Inspection, SlotContents, inspect
from client_replies.storage.layout import SUPERBLOCK_COPIES, Layout, sectors_size
from client_replies.storage.memory_disk import MemoryDevice, MemoryFile

from tests.storage.samples import CLUSTER, fault_kind, make_reply, small_config

SLOTS = 6
BODIES = {0: b"a" * 300, 1: b"b" * 5000, 2: b"", 3: b"c" * 100, 4: b"d" * 4000}  # slot 5 has no session
NEWER_SLOT = 3
DAMAGES = 500


@pytest.fixture
def config(tmp_path: Path) -> RepliesConfig:
    """Give the configuration of a small file."""
    return small_config(tmp_path / "replies", clients_max=SLOTS)


@pytest.fixture
def contents(config: RepliesConfig) -> bytes:
    """Make a real file with two checkpoints, and in slot 3 a reply that was written after the last; give its bytes."""
    sessions = ClientSessions(SLOTS, CLUSTER)
    replies = {}
    for slot, body in BODIES.items():
        registered = make_reply(slot + 1, session=2 * slot + 1, request=0, op=2 * slot + 1, body=b"")
        assert sessions.register(registered.header).slot == slot
        reply = make_reply(slot + 1, session=2 * slot + 1, request=1, op=2 * slot + 2, body=body)
        sessions.commit(reply.header)
        if body:
            replies[slot] = reply.pack()
    file = DataFile.open(FileDisk(), config, OpenMode.FORMAT)
    file.write_slots(list(replies), list(replies.values()))
    file.write_checkpoint(1, 3, b"")
    file.write_checkpoint(2, 10, sessions.encode())
    newer = make_reply(NEWER_SLOT + 1, session=2 * NEWER_SLOT + 1, request=2, op=11, body=b"newer")
    file.write_slots([NEWER_SLOT], [newer.pack()])
    file.close()
    return Path(config.path).read_bytes()


def inspected(contents: bytes | bytearray) -> Inspection:
    """Inspect these bytes, and see that they stay as they are."""
    file = MemoryFile(bytearray(contents))
    found = inspect(MemoryDevice(file))
    assert bytes(file.data) == bytes(contents)
    return found


def test_a_whole_file_has_no_damage(contents: bytes) -> None:
    """Every part is told with what it holds."""
    found = inspected(contents)
    assert list(found.damage()) == []
    assert [copy.problem for copy in found.copies] == [""] * SUPERBLOCK_COPIES
    assert [(table.trailer.op, table.sessions) for table in found.tables] == [(10, len(BODIES)), (3, 0)]
    assert {slot.slot: slot.state for slot in found.slots} == {
        0: SlotContents.WHOLE,
        1: SlotContents.WHOLE,
        2: SlotContents.NO_BODY,
        3: SlotContents.NEWER,
        4: SlotContents.WHOLE,
        5: SlotContents.UNUSED,
    }


def test_five_hundred_damaged_files_are_told_by_the_part_that_was_hit(contents: bytes, config: RepliesConfig) -> None:
    """A byte that nothing depends on is no damage. Which part a byte belongs to is worked out here from the layout."""
    layout = Layout.of(config)
    chance = random.Random(14)
    sessions_size = inspected(contents).tables[0].trailer.size
    last_area = layout.trailer_offset(inspected(contents).tables[0].trailer.area)
    sizes = {slot: sectors_size(256 + len(body)) for slot, body in BODIES.items() if body and slot != NEWER_SLOT}
    hit = dict.fromkeys(("superblock", "table", "slot", "nothing"), 0)
    for _ in range(DAMAGES):
        at = chance.choice((chance.randrange(layout.slots_offset), chance.randrange(len(contents))))
        damaged = bytearray(contents)
        damaged[at] ^= chance.randrange(1, 256)
        found = inspected(damaged)
        slot = (at - layout.slots_offset) // config.message_size_max
        within = (at - layout.slots_offset) % config.message_size_max
        damage = list(found.damage())
        if at < layout.trailers_offset:
            part, expected = "superblock", [f"superblock copy {at // SECTOR_SIZE}: "]
        elif last_area <= at < last_area + sectors_size(sessions_size):
            part, expected = "table", ["session table of checkpoint 2: "]
        elif slot in sizes and 0 <= within < sizes[slot]:
            part, expected = "slot", [f"slot {slot}: "]
        elif slot == NEWER_SLOT and 0 <= within < SECTOR_SIZE:
            part, expected = "slot", [f"slot {slot}: "]  # what is no whole reply any more is not the older one either
        else:
            part, expected = "nothing", []
        hit[part] += 1
        assert len(damage) == len(expected), (at, damage)
        assert all(text.startswith(start) for text, start in zip(damage, expected, strict=True)), (at, damage)
        if part == "table":
            # The table of the checkpoint before is in use, which knows no session: all that is in the slots is newer.
            newer = [one.slot for one in found.slots if one.state is SlotContents.NEWER]
            assert newer == [1, 3, 4]
    assert min(hit.values()) > 10, hit


def test_a_damaged_slot_says_how(contents: bytes, config: RepliesConfig) -> None:
    """With the header of the reply that it should hold."""
    damaged = bytearray(contents)
    damaged[Layout.of(config).slot_offset(1) + 3000] ^= 1
    slot = inspected(damaged).slots[1]
    assert (slot.state, slot.fault) == (SlotContents.DAMAGED, SlotFault.BODY_CORRUPT)
    assert slot.header == make_reply(2, session=3, request=1, op=4, body=BODIES[1]).header.pack()


def test_without_an_agreed_superblock_the_copies_are_all_that_is_told(contents: bytes) -> None:
    """Three damaged copies leave one, which nobody else has."""
    damaged = bytearray(contents)
    for copy in range(3):
        damaged[copy * SECTOR_SIZE + 50] ^= 1
    found = inspected(damaged)
    assert found.fault is not None
    assert found.fault.kind is FaultKind.SUPERBLOCK_CORRUPT
    assert (found.superblock, found.tables, found.slots) == (None, (), ())
    assert all(copy.problem for copy in found.copies)


def test_a_short_file_and_two_damaged_tables_are_told(contents: bytes, config: RepliesConfig) -> None:
    """Both as the fault that an opening gives."""
    short = inspected(contents[: -config.message_size_max])
    assert short.fault is not None
    assert short.fault.kind is FaultKind.FILE_TRUNCATED
    damaged = bytearray(contents)
    damaged[Layout.of(config).trailer_offset(0)] ^= 1
    damaged[Layout.of(config).trailer_offset(1)] ^= 1
    # The table before the last is empty, and needs no byte of its area.
    assert inspected(damaged).fault is None


def test_what_is_no_data_file_is_refused() -> None:
    """Neither another program's file nor one that a newer version wrote is explained away."""
    assert fault_kind(lambda: inspected(b"x" * 65536)) is FaultKind.NOT_A_DATA_FILE
    assert fault_kind(lambda: inspected(b"\x7fELF")) is FaultKind.NOT_A_DATA_FILE


def test_a_file_in_use_is_not_read(config: RepliesConfig) -> None:
    """A replica excludes those who look, who exclude a replica and not each other."""
    file = DataFile.open(FileDisk(), config, OpenMode.FORMAT)
    assert fault_kind(lambda: FileDisk().open_to_read(config.path)) is FaultKind.FILE_LOCKED
    file.close()
    looks = [FileDisk().open_to_read(config.path) for _ in range(2)]
    assert fault_kind(lambda: DataFile.open(FileDisk(), config, OpenMode.OPEN)) is FaultKind.FILE_LOCKED
    for look in looks:
        look.close()
    DataFile.open(FileDisk(), config, OpenMode.OPEN).close()
