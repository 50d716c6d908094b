"""The data file: formatting and opening with every bad input, slots, and what happens after a failure."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from client_replies.messages.config import SECTOR_SIZE, OpenMode, RepliesConfig
from client_replies.messages.faults import Fault, FaultKind, InvariantBroken, SlotFault
from client_replies.messages.reply_header import HEADER_SIZE, Buffer, checksum128
from client_replies.storage.data_file import GAP_MAX, RUN_SIZE, DataFile
from client_replies.storage.device import Disk, FileDisk
from client_replies.storage.errors import StorageError
from client_replies.storage.layout import Layout
from client_replies.storage.memory_disk import MemoryDevice, MemoryDisk, MemoryFile

from tests.storage.samples import CLUSTER, fault_kind, in_child, make_disk, make_reply, small_config

SESSIONS = bytes(range(256)) * 2
# Of a superblock copy; zeros to the end of the sector follow.
FIELDS_SIZE = 168


@pytest.fixture(params=["file", "memory"])
def disk(request: pytest.FixtureRequest) -> Disk:
    """Run the test on both kinds of disk."""
    return make_disk(request.param)


@pytest.fixture
def config(tmp_path: Path) -> RepliesConfig:
    """Give the configuration of a small file."""
    return small_config(tmp_path / "replies")


def formatted(disk: Disk, config: RepliesConfig) -> DataFile:
    """Make the file."""
    return DataFile.open(disk, config, OpenMode.FORMAT)


def opened(disk: Disk, config: RepliesConfig) -> DataFile:
    """Open the file that is there."""
    return DataFile.open(disk, config, OpenMode.OPEN)


def make_file(config: RepliesConfig, checkpoints: int = 2) -> Path:
    """Make a real file with a reply in slot 1 and this many checkpoints, closed."""
    data_file = formatted(FileDisk(), config)
    data_file.write_slots([1], [make_reply().pack()])
    for sequence in range(1, checkpoints + 1):
        data_file.write_checkpoint(sequence, 10 * sequence, SESSIONS + bytes([sequence]))
    data_file.close()
    return Path(config.path)


class TestOpening:
    """Formatting, opening, and refusing to."""

    def test_a_formatted_file_is_empty_and_stays_so(self, disk: Disk, config: RepliesConfig) -> None:
        """No checkpoint, no sessions, zero slots; the second opening finds the same."""
        for mode, is_formatted in ((OpenMode.FORMAT, True), (OpenMode.OPEN, False), (OpenMode.OPEN_OR_FORMAT, False)):
            data_file = DataFile.open(disk, config, mode)
            assert data_file.formatted is is_formatted
            assert (data_file.sequence, data_file.op, data_file.sessions) == (0, 0, b"")
            data_file.close()

    def test_opening_or_formatting_makes_what_is_missing(self, disk: Disk, config: RepliesConfig) -> None:
        """And only then."""
        assert fault_kind(lambda: opened(disk, config)) is FaultKind.FILE_MISSING
        data_file = DataFile.open(disk, config, OpenMode.OPEN_OR_FORMAT)
        assert data_file.formatted
        data_file.close()
        assert fault_kind(lambda: formatted(disk, config)) is FaultKind.FILE_EXISTS

    def test_a_formatted_file_has_its_whole_size(self, config: RepliesConfig) -> None:
        """From the beginning, with nothing beside it."""
        formatted(FileDisk(), config).close()
        assert os.stat(config.path).st_size == Layout.of(config).size
        assert os.listdir(os.path.dirname(config.path)) == ["replies"]

    def test_the_last_checkpoint_is_what_opening_gives(self, disk: Disk, config: RepliesConfig) -> None:
        """However many came before, and the file that took it says the same."""
        data_file = formatted(disk, config)
        for sequence in range(1, 6):
            table = SESSIONS[:sequence]
            data_file.write_checkpoint(sequence, 100 + sequence, table)
            assert (data_file.sequence, data_file.op, data_file.sessions) == (sequence, 100 + sequence, table)
            data_file.close()
            data_file = opened(disk, config)
            assert (data_file.sequence, data_file.op, data_file.sessions) == (sequence, 100 + sequence, table)
        data_file.close()

    @pytest.mark.parametrize(
        ("changes", "kind", "found", "expected"),
        [
            ({"cluster": 8}, FaultKind.CLUSTER_MISMATCH, str(CLUSTER), "cluster 8"),
            ({"replica": 2}, FaultKind.REPLICA_MISMATCH, "replica 1", "replica 2"),
            ({"clients_max": 5}, FaultKind.SLOT_COUNT_MISMATCH, "clients_max 4", "clients_max 5"),
            ({"clients_max": 3}, FaultKind.SLOT_COUNT_MISMATCH, "clients_max 4", "clients_max 3"),
            ({"message_size_max": 4096}, FaultKind.SLOT_SIZE_MISMATCH, "message_size_max 8192", "4096"),
        ],
    )
    def test_a_file_of_another_kind_is_refused_untouched(
        self, config: RepliesConfig, changes: dict[str, int], kind: FaultKind, found: str, expected: str
    ) -> None:
        """Saying what was found and what was expected."""
        path = make_file(config)
        with untouched(path), pytest.raises(StorageError) as raised:
            opened(FileDisk(), small_config(path, **changes))
        assert raised.value.fault.kind is kind
        assert found in raised.value.fault.found
        assert expected in raised.value.fault.expected

    @pytest.mark.parametrize(
        ("contents", "kind"),
        [
            (b"x", FaultKind.NOT_A_DATA_FILE),
            (b"#!/bin/sh\n" * 5, FaultKind.NOT_A_DATA_FILE),
            (b"SQLite format 3\0" + bytes(5000), FaultKind.NOT_A_DATA_FILE),
            (b"SQLite format 3\0" + bytes(50000), FaultKind.NOT_A_DATA_FILE),
            (b"", FaultKind.FILE_TRUNCATED),
            (bytes(100), FaultKind.FILE_TRUNCATED),
            (bytes(4 * SECTOR_SIZE - 1), FaultKind.FILE_TRUNCATED),
            (bytes(4 * SECTOR_SIZE), FaultKind.SUPERBLOCK_CORRUPT),
            (bytes(100_000), FaultKind.SUPERBLOCK_CORRUPT),
        ],
    )
    @pytest.mark.parametrize("mode", [OpenMode.OPEN, OpenMode.OPEN_OR_FORMAT])
    def test_a_file_without_a_superblock_is_refused_untouched(
        self, config: RepliesConfig, contents: bytes, kind: FaultKind, mode: OpenMode
    ) -> None:
        """Short or long, and never formatted over: another program's, or one that lost what it held."""
        path = Path(config.path)
        path.write_bytes(contents)
        with untouched(path):
            assert fault_kind(lambda: DataFile.open(FileDisk(), config, mode)) is kind
            assert fault_kind(lambda: formatted(FileDisk(), config)) is FaultKind.FILE_EXISTS

    def test_a_superblock_of_zeros_is_damage(self, config: RepliesConfig) -> None:
        """As `dd if=/dev/zero` leaves it. Two copies of zeros are mended, three are not."""
        path = make_file(config)
        contents = path.read_bytes()
        for copies, kind in ((4, FaultKind.SUPERBLOCK_CORRUPT), (3, FaultKind.SUPERBLOCK_CORRUPT)):
            path.write_bytes(bytes(copies * SECTOR_SIZE) + contents[copies * SECTOR_SIZE :])
            with untouched(path):
                assert fault_kind(lambda: DataFile.open(FileDisk(), config, OpenMode.OPEN_OR_FORMAT)) is kind
        path.write_bytes(bytes(2 * SECTOR_SIZE) + contents[2 * SECTOR_SIZE :])
        opened(FileDisk(), config).close()
        assert path.read_bytes() == contents

    def test_another_format_version_is_refused_untouched(self, config: RepliesConfig) -> None:
        """An older program must not touch a newer file."""
        path = make_file(config)
        contents = bytearray(path.read_bytes())
        for offset in range(0, 4 * SECTOR_SIZE, SECTOR_SIZE):
            contents[offset + 32] = 9
            contents[offset + 16 : offset + 32] = checksum128(contents[offset + 32 : offset + SECTOR_SIZE])
        path.write_bytes(contents)
        with untouched(path), pytest.raises(StorageError) as raised:
            opened(FileDisk(), config)
        assert raised.value.fault.kind is FaultKind.FORMAT_VERSION_UNKNOWN
        assert "9" in raised.value.fault.found

    def test_every_truncation_is_refused_untouched(self, config: RepliesConfig) -> None:
        """At each sector, one byte to either side of it, and at each of the first bytes."""
        path = make_file(config)
        contents = path.read_bytes()
        sectors = range(0, len(contents), SECTOR_SIZE)
        lengths = {offset + change for offset in sectors for change in (-1, 0, 1)} | set(range(64)) | {100}
        for length in sorted(lengths - {-1}):
            path.write_bytes(contents[:length])
            with untouched(path):
                assert fault_kind(lambda: opened(FileDisk(), config)) is FaultKind.FILE_TRUNCATED, length
        path.write_bytes(contents)
        opened(FileDisk(), config).close()

    def test_any_byte_of_one_superblock_copy_may_rot(self, config: RepliesConfig) -> None:
        """The other three agree; opening makes the copies equal again, and changes nothing else.

        The fields are damaged in every copy, the zeros after them (under the same checksum) in one copy each.
        """
        disk, file = memory_copy(make_file(config))
        good = bytes(file.data)
        assert not any(good[FIELDS_SIZE:SECTOR_SIZE])
        for copy in range(4):
            for offset in (*range(FIELDS_SIZE), *range(FIELDS_SIZE + copy, SECTOR_SIZE, 4)):
                file.data[copy * SECTOR_SIZE + offset] ^= 0xFF
                data_file = opened(disk, config)
                assert (data_file.sequence, data_file.sessions) == (2, SESSIONS + b"\2")
                data_file.close()
                assert file.data == good

    def test_without_two_good_superblock_copies_nothing_is_opened(self, config: RepliesConfig) -> None:
        """Three damaged, or two and a stray one."""
        path = make_file(config)
        contents = bytearray(path.read_bytes())
        for copy in (0, 1, 3):
            contents[copy * SECTOR_SIZE + 100] ^= 1
        path.write_bytes(contents)
        with untouched(path):
            assert fault_kind(lambda: opened(FileDisk(), config)) is FaultKind.SUPERBLOCK_CORRUPT

    def test_a_damaged_superblock_is_not_repaired_when_the_opening_fails(self, config: RepliesConfig) -> None:
        """Repair comes last, so that a refused file is evidence."""
        path = make_file(config)
        contents = bytearray(path.read_bytes())
        contents[5] ^= 1
        path.write_bytes(contents)
        for changes in ({"cluster": 8}, {"replica": 9}, {"clients_max": 2}):
            with untouched(path), pytest.raises(StorageError):
                opened(FileDisk(), small_config(path, **changes))
        opened(FileDisk(), config).close()
        assert path.read_bytes()[5] == contents[5] ^ 1

    def test_a_file_held_by_another_process_is_refused(self, config: RepliesConfig) -> None:
        """Until that process is gone, however it goes."""
        make_file(config)
        code = (
            "import sys; from client_replies.storage.device import FileDisk\n"
            "device = FileDisk().open(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, config.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with untouched(Path(config.path)):
                for mode in (OpenMode.OPEN, OpenMode.OPEN_OR_FORMAT):
                    kind = fault_kind(lambda mode=mode: DataFile.open(FileDisk(), config, mode))  # type: ignore[misc]
                    assert kind is FaultKind.FILE_LOCKED
            holder.send_signal(signal.SIGKILL)
            holder.wait()
        opened(FileDisk(), config).close()

    def test_a_failed_opening_releases_the_lock(self, disk: Disk, config: RepliesConfig) -> None:
        """The right replica can open it at once."""
        formatted(disk, config).close()
        assert fault_kind(lambda: opened(disk, small_config(config.path, replica=7))) is FaultKind.REPLICA_MISMATCH
        opened(disk, config).close()

    def test_formatting_without_room_leaves_nothing(self, config: RepliesConfig) -> None:
        """Neither the file nor the beginning of one, on a full disk and under a limit on the size of a file."""
        size = Layout.of(config).size
        disk = MemoryDisk(capacity=size - 1)
        assert fault_kind(lambda: formatted(disk, config)) is FaultKind.DISK_FULL
        assert disk.files == {}

        def format_with_limit() -> FaultKind:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - SECTOR_SIZE, size - SECTOR_SIZE))
            return fault_kind(lambda: formatted(FileDisk(), config))

        assert in_child(format_with_limit) is FaultKind.FILE_SIZE_LIMIT
        assert os.listdir(os.path.dirname(config.path)) == []

    @pytest.mark.parametrize("step", ["pwritev", "fsync", "link"])
    def test_formatting_that_fails_on_the_way_leaves_nothing(
        self, config: RepliesConfig, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        """No file, no temporary file and no lock: the next attempt succeeds."""

        def failing(*_arguments: object, **_options: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, step, failing)
        descriptors = os.listdir("/proc/self/fd")
        assert fault_kind(lambda: formatted(FileDisk(), config)) is FaultKind.IO_ERROR
        assert os.listdir(os.path.dirname(config.path)) == []
        assert os.listdir("/proc/self/fd") == descriptors
        monkeypatch.undo()
        formatted(FileDisk(), config).close()

    def test_a_missing_directory_is_refused(self, tmp_path: Path) -> None:
        """In every mode, and none makes it."""
        for mode in OpenMode:
            config = small_config(tmp_path / "missing" / "replies")
            kind = fault_kind(lambda mode=mode, config=config: DataFile.open(FileDisk(), config, mode))  # type: ignore[misc]
            assert kind is FaultKind.DIRECTORY_MISSING
        assert os.listdir(tmp_path) == []


class TestSlots:
    """Writing, reading, verifying."""

    @pytest.mark.parametrize("size", [257, 4095, 4096, 4097, 8191, 8192])
    @pytest.mark.parametrize("direct", [False, True])
    def test_a_reply_comes_back_from_its_slot(self, disk: Disk, config: RepliesConfig, size: int, direct: bool) -> None:
        """Of every size around the sectors, as bytes and into memory, also after reopening."""
        data_file = formatted(disk, config)
        packed = make_reply(body=b"b" * (size - HEADER_SIZE)).pack()
        data_file.write_slots([2], [packed])
        for _ in range(2):
            header = packed[:HEADER_SIZE]
            assert data_file.read_slot(2, header, direct=direct) == packed
            into = memoryview(bytearray(8192))
            assert data_file.read_slot(2, header, into, direct=direct) == size
            assert bytes(into[:size]) == packed
            assert data_file.verify_slot(2, header) is None
            data_file.close()
            data_file = opened(disk, config)
        data_file.close()

    def test_a_buffer_may_be_longer_than_its_reply(self, disk: Disk, config: RepliesConfig) -> None:
        """What else is in the buffer does not reach the slot."""
        data_file = formatted(disk, config)
        packed = make_reply().pack()
        buffer = memoryview(bytearray(b"\xff" * 8192))
        buffer[: len(packed)] = packed
        data_file.write_slots([0], [buffer])
        assert data_file.read_slot(0, packed[:HEADER_SIZE]) == packed
        data_file.close()

    def test_slots_are_byte_identical_whatever_the_order_of_writes(self, tmp_path: Path) -> None:
        """Two replicas that hold the same replies hold the same bytes, also after longer replies were there before."""
        replies = [
            make_reply(slot + 1, op=20 + slot, body=bytes([slot]) * (300 * slot + 1)).pack() for slot in range(4)
        ]
        earlier = [make_reply(slot + 1, body=b"\xee" * 3000).pack() for slot in range(4)]
        zones = []
        for name, order in (("a", [0, 1, 2, 3]), ("b", [3, 1, 0, 2])):
            config = small_config(tmp_path / name)
            data_file = formatted(FileDisk(), config)
            data_file.write_slots(order, [earlier[slot] for slot in order])
            for slot in order:
                data_file.write_slots([slot], [replies[slot]])
            data_file.close()
            zones.append(Path(config.path).read_bytes()[Layout.of(config).slots_offset :])
        assert zones[0] == zones[1]
        assert any(zones[0])

    def test_a_group_of_writes_is_one_sync(self, config: RepliesConfig) -> None:
        """All writes first, then the only sync."""
        disk = ScriptedDisk()
        data_file = formatted(disk, config)
        disk.events.clear()
        data_file.write_slots([0, 1, 2, 3], [make_reply(client).pack() for client in (1, 2, 3, 4)])
        assert disk.events == ["write"] * 4 + ["sync"]
        disk.events.clear()
        data_file.write_slots([], [])
        assert disk.events == []

    @pytest.mark.parametrize(
        ("reply", "kind"),
        [
            (make_reply(cluster=99).pack(), FaultKind.REPLY_OTHER_CLUSTER),
            (make_reply(body=bytes(8192)).pack(), FaultKind.REPLY_TOO_LARGE),
            (make_reply().pack()[:-1], FaultKind.REPLY_INVALID),
            (b"\1" + make_reply().pack()[1:], FaultKind.REPLY_INVALID),
            (bytes(4096), FaultKind.REPLY_INVALID),
            (b"", FaultKind.REPLY_INVALID),
        ],
    )
    def test_an_invalid_reply_is_refused_and_nothing_of_its_group_is_written(
        self, config: RepliesConfig, reply: bytes, kind: FaultKind
    ) -> None:
        """The same checks as after a read, before the write; the file goes on."""
        disk = ScriptedDisk()
        data_file = formatted(disk, config)
        disk.events.clear()
        assert fault_kind(lambda: data_file.write_slots([0, 1], [make_reply().pack(), reply])) is kind
        assert disk.events == []
        data_file.write_slots([0], [make_reply().pack()])

    def test_a_slot_that_does_not_exist_or_comes_twice_is_a_bug(self, disk: Disk, config: RepliesConfig) -> None:
        """It would be written over its neighbour, or in an order that nobody chose."""
        data_file = formatted(disk, config)
        packed = make_reply().pack()
        for slots, count in (([4], 1), ([-1], 1), ([1, 1], 2), ([1], 2)):
            with pytest.raises(InvariantBroken):
                data_file.write_slots(slots, [packed] * count)
        with pytest.raises(InvariantBroken):
            data_file.read_slot(4, packed[:HEADER_SIZE])
        with pytest.raises(InvariantBroken):
            data_file.read_slot(0, make_reply(body=b"").pack())
        data_file.close()

    def test_every_byte_of_a_slot_counts(self, config: RepliesConfig) -> None:
        """Header, body and padding each have a fault of their own; only sectors beyond the reply do not matter."""
        path = make_file(config)
        disk, file = memory_copy(path)
        packed = make_reply().pack()
        data_file = opened(disk, config)
        start = Layout.of(config).slot_offset(1)
        for offset in range(config.message_size_max):
            file.data[start + offset] ^= 0xFF
            fault = data_file.verify_slot(1, packed[:HEADER_SIZE])
            assert data_file.read_slot(1, packed[:HEADER_SIZE]) == (fault or packed)
            if offset < HEADER_SIZE:
                assert fault is SlotFault.HEADER_CORRUPT
            elif offset < len(packed):
                assert fault is SlotFault.BODY_CORRUPT
            elif offset < SECTOR_SIZE:
                assert fault is SlotFault.PADDING_NOT_ZERO
            else:
                assert fault is None
            file.data[start + offset] ^= 0xFF

    def test_another_whole_reply_is_told_from_a_damaged_one(self, disk: Disk, config: RepliesConfig) -> None:
        """An older reply of the same client, and an empty slot."""
        data_file = formatted(disk, config)
        expected = make_reply(request=3, op=11).pack()[:HEADER_SIZE]
        assert data_file.verify_slot(1, expected) is SlotFault.HEADER_CORRUPT
        data_file.write_slots([1], [make_reply().pack()])
        assert data_file.read_slot(1, expected) is SlotFault.OTHER_REPLY
        assert data_file.read_slot(1, expected, memoryview(bytearray(8192))) is SlotFault.OTHER_REPLY
        assert data_file.verify_slot(1, expected) is SlotFault.OTHER_REPLY
        data_file.close()

    def test_an_unreadable_slot_is_a_fault_of_the_slot_alone(self, config: RepliesConfig) -> None:
        """A read error stops nothing: the slot is repaired from a peer."""
        disk = ScriptedDisk()
        data_file = formatted(disk, config)
        packed = make_reply().pack()
        data_file.write_slots([0, 1], [packed, packed])
        disk.unreadable = Layout.of(config).slot_offset(1)
        assert data_file.read_slot(1, packed[:HEADER_SIZE]) is SlotFault.UNREADABLE
        assert data_file.verify_slot(1, packed[:HEADER_SIZE]) is SlotFault.UNREADABLE
        assert data_file.read_slot(0, packed[:HEADER_SIZE]) == packed

    def test_only_the_sectors_of_the_reply_are_read(self, config: RepliesConfig) -> None:
        """A small reply in a large slot costs one sector."""
        disk = ScriptedDisk()
        data_file = formatted(disk, config)
        packed = make_reply().pack()
        data_file.write_slots([0], [packed])
        disk.reads.clear()
        data_file.read_slot(0, packed[:HEADER_SIZE])
        data_file.verify_slot(0, packed[:HEADER_SIZE])
        data_file.read_slot(0, packed[:HEADER_SIZE], memoryview(bytearray(8192)))
        assert disk.reads == [(SECTOR_SIZE, False), (SECTOR_SIZE, True), (SECTOR_SIZE, False)]

    def test_slots_that_lie_close_together_are_verified_in_one_read(self, config: RepliesConfig) -> None:
        """Up to a gap and a size, and only in the order of the file; each found as if it was read alone."""
        disk = ScriptedDisk()
        slot_size = RUN_SIZE // 16
        config = small_config(config.path, clients_max=40, message_size_max=slot_size)
        data_file = formatted(disk, config)
        sizes = [slot_size] * 17 + [slot_size - GAP_MAX] * 2 + [slot_size - GAP_MAX - SECTOR_SIZE] + [SECTOR_SIZE] * 2
        replies = [make_reply(op=slot + 2, body=bytes(size - HEADER_SIZE)).pack() for slot, size in enumerate(sizes)]
        data_file.write_slots(range(len(sizes)), replies)
        expected = [(slot, reply[:HEADER_SIZE]) for slot, reply in enumerate(replies)]
        disk.reads.clear()
        assert data_file.verify_slots(expected) == dict.fromkeys(range(len(sizes)))
        runs = [16 * slot_size, 4 * slot_size - GAP_MAX - SECTOR_SIZE, SECTOR_SIZE, SECTOR_SIZE]
        assert disk.reads == [(size, True) for size in runs]
        disk.reads.clear()
        data_file.verify_slots([expected[1], expected[0]])
        assert disk.reads == [(slot_size, True)] * 2

    def test_the_reply_in_a_slot_is_read_from_the_disk_itself(self, config: RepliesConfig) -> None:
        """Whole, of any size that fits, with a body, and of this cluster; otherwise there is none."""
        disk = ScriptedDisk()
        data_file = formatted(disk, config)
        assert data_file.reply_in(0) is None
        packed = make_reply(body=bytes(8192 - HEADER_SIZE)).pack()
        data_file.write_slots([0], [packed])
        disk.reads.clear()
        assert data_file.reply_in(0) == packed[:HEADER_SIZE]
        assert disk.reads == [(SECTOR_SIZE, True), (8192, True)]
        offset = Layout.of(config).slot_offset(1)
        for other, found in ((make_reply(), True), (make_reply(body=b""), False), (make_reply(cluster=1), False)):
            disk.files[config.path].data[offset : offset + SECTOR_SIZE] = other.pack().ljust(SECTOR_SIZE, b"\0")
            assert (data_file.reply_in(1) is not None) == found
        disk.unreadable = Layout.of(config).slot_offset(0)
        assert data_file.reply_in(0) is None

    def test_threads_write_and_read_at_the_same_time(self, config: RepliesConfig) -> None:
        """Each slot's own writer and readers see whole replies, old or new, while checkpoints are taken."""
        data_file = formatted(FileDisk(), config)
        replies = [
            [make_reply(slot + 1, op=op, body=bytes([op]) * 3000).pack() for op in range(2, 40)] for slot in range(4)
        ]
        data_file.write_slots(range(4), [versions[0] for versions in replies])
        failures: list[object] = []

        def write(slot: int) -> None:
            for packed in replies[slot]:
                data_file.write_slots([slot], [packed])
                if data_file.read_slot(slot, packed[:HEADER_SIZE]) != packed:
                    failures.append(slot)

        threads = [threading.Thread(target=write, args=(slot,)) for slot in range(4)]
        for thread in threads:
            thread.start()
        for sequence in range(1, 6):
            data_file.write_checkpoint(sequence, sequence, SESSIONS)
        for thread in threads:
            thread.join()
        assert failures == []
        assert [data_file.verify_slot(slot, replies[slot][-1][:HEADER_SIZE]) for slot in range(4)] == [None] * 4
        data_file.close()


class TestCheckpoints:
    """Their bounds; what a crash does to them is in test_checkpoint_crashes.py."""

    def test_a_checkpoint_out_of_turn_is_a_bug(self, disk: Disk, config: RepliesConfig) -> None:
        """Skipping a number would write over the table in use; the op never goes back."""
        data_file = formatted(disk, config)
        data_file.write_checkpoint(1, 10, SESSIONS)
        for sequence, op in ((1, 11), (3, 11), (0, 11), (2, 9)):
            with pytest.raises(InvariantBroken):
                data_file.write_checkpoint(sequence, op, SESSIONS)
        with pytest.raises(InvariantBroken):
            data_file.write_checkpoint(2, 11, bytes(Layout.of(config).trailer_size + 1))
        data_file.write_checkpoint(2, 10, bytes(Layout.of(config).trailer_size))
        data_file.close()

    def test_a_shorter_table_leaves_nothing_of_a_longer_one(self, config: RepliesConfig) -> None:
        """The area is padded with zeros to the end of the sector."""
        disk = MemoryDisk()
        data_file = formatted(disk, config)
        for sequence, table in enumerate((b"\xff" * 4096, b"\xff" * 4096, b"a", b"b"), start=1):
            data_file.write_checkpoint(sequence, 1, table)
        layout = Layout.of(config)
        data = disk.files[config.path].data
        for area, table in ((0, b"b"), (1, b"a")):
            offset = layout.trailer_offset(area)
            assert data[offset : offset + SECTOR_SIZE] == table + bytes(SECTOR_SIZE - 1)


class TestFailures:
    """After a failed write or sync nothing is possible but closing."""

    @pytest.mark.parametrize("event", ["write", "sync"])
    @pytest.mark.parametrize("after", range(3))
    @pytest.mark.parametrize("checkpoint", [False, True])
    def test_nothing_is_tried_again_after_a_failure(
        self, config: RepliesConfig, event: str, after: int, checkpoint: bool
    ) -> None:
        """Whichever write or sync it was: each later call is refused as stopped, and reaches no device."""
        disk = ScriptedDisk()
        data_file = formatted(disk, config)
        packed = make_reply().pack()

        def store() -> None:
            if checkpoint:
                data_file.write_checkpoint(1, 1, SESSIONS)
            else:
                data_file.write_slots([0, 1, 2], [packed] * 3)
                data_file.write_slots([0], [packed])
                data_file.write_slots([0], [packed])

        disk.fail_at(event, after)
        assert fault_kind(store) is FaultKind.IO_ERROR
        disk.events.clear()
        for call in refused_calls(data_file, packed):
            with pytest.raises(StorageError) as raised:
                call()
            assert raised.value.fault.kind is FaultKind.STOPPED
            assert "IO_ERROR" in raised.value.fault.found
        assert disk.events == []
        data_file.close()
        opened(disk, config).close()

    def test_a_closed_file_refuses_everything(self, disk: Disk, config: RepliesConfig) -> None:
        """And closing again is harmless."""
        data_file = formatted(disk, config)
        data_file.close()
        data_file.close()
        for call in refused_calls(data_file, make_reply().pack()):
            assert fault_kind(call) is FaultKind.NOT_OPEN

    def test_a_failed_sync_of_one_thread_is_not_success_to_another(self, config: RepliesConfig) -> None:
        """A group that was in its own sync when another's failed is not called durable either."""
        disk = ScriptedDisk()
        data_file = formatted(disk, config)
        packed = make_reply().pack()
        outcomes: dict[int, FaultKind | None] = {}
        in_sync, go_on = threading.Event(), threading.Event()

        def write(slot: int) -> None:
            try:
                data_file.write_slots([slot], [packed])
                outcomes[slot] = None
            except StorageError as error:
                outcomes[slot] = error.fault.kind

        def blocked() -> None:
            disk.before_sync = lambda: None
            in_sync.set()
            assert go_on.wait(10)

        disk.before_sync = blocked
        thread = threading.Thread(target=write, args=(0,))
        thread.start()
        assert in_sync.wait(10)
        disk.fail_at("sync", 0)
        write(1)
        go_on.set()
        thread.join()
        assert outcomes == {0: FaultKind.STOPPED, 1: FaultKind.IO_ERROR}


def refused_calls(data_file: DataFile, packed: bytes) -> list[Callable[[], object]]:
    """Give every call that a stopped or closed file refuses."""
    header = packed[:HEADER_SIZE]
    return [
        lambda: data_file.write_slots([0], [packed]),
        lambda: data_file.write_checkpoint(data_file.sequence + 1, 5, SESSIONS),
        lambda: data_file.read_slot(0, header),
        lambda: data_file.verify_slot(0, header),
    ]


class untouched:
    """Fail unless the file's bytes and time of change are afterwards what they were before."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        self.before = self.state()

    def __exit__(self, *_exception: object) -> None:
        assert self.state() == self.before

    def state(self) -> tuple[bytes, int, list[str]]:
        """Give all that must not change."""
        return self.path.read_bytes(), os.stat(self.path).st_mtime_ns, os.listdir(self.path.parent)


def memory_copy(path: Path) -> tuple[MemoryDisk, MemoryFile]:
    """Give a memory disk with a copy of a real file under the same name: quick to damage."""
    disk = MemoryDisk()
    disk.files[str(path)] = file = MemoryFile(bytearray(path.read_bytes()))
    return disk, file


class ScriptedDevice(MemoryDevice):
    """A device that notes what is asked of it and fails where its disk says."""

    def __init__(self, file: MemoryFile, disk: "ScriptedDisk") -> None:
        super().__init__(file)
        self.disk = disk

    def _read(self, offset: int, into: memoryview, direct: bool) -> None:
        self.disk.reads.append((len(into), direct))
        if offset == self.disk.unreadable:
            raise StorageError(Fault(kind=FaultKind.IO_ERROR, found="a bad sector", expected="a read"))
        super()._read(offset, into, direct)

    def _write(self, offset: int, parts: Sequence[Buffer]) -> None:
        self.disk.note("write")
        super()._write(offset, parts)

    def sync(self) -> None:
        """Note it."""
        self.disk.before_sync()
        self.disk.note("sync")


class ScriptedDisk(MemoryDisk):
    """Files in memory whose devices fail when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.reads: list[tuple[int, bool]] = []
        self.unreadable = -1
        self.before_sync: Callable[[], None] = lambda: None
        self._failing = ""
        self._countdown = 0

    def device(self, path: str, file: MemoryFile) -> ScriptedDevice:
        """Give a device that tells this disk."""
        return ScriptedDevice(file, self)

    def fail_at(self, event: str, after: int) -> None:
        """Let one write or sync fail, after this many that do not."""
        self._failing, self._countdown = event, after

    def note(self, event: str) -> None:
        """Note an event, and fail if it is its turn."""
        self.events.append(event)
        if event == self._failing:
            self._countdown -= 1
            if self._countdown < 0:
                self._failing = ""
                raise StorageError(Fault(kind=FaultKind.IO_ERROR, found="a broken disk", expected=event))


def test_many_random_writes_leave_what_was_written_last(config: RepliesConfig) -> None:
    """Against a dictionary, with reopening now and then, under one seed."""
    random_numbers = random.Random(1)
    disk = MemoryDisk()
    data_file = formatted(disk, config)
    expected: dict[int, bytes] = {}
    for op in range(2, 300):
        slots = random_numbers.sample(range(4), random_numbers.randint(1, 4))
        replies = [
            make_reply(slot + 1, op=op, body=random_numbers.randbytes(random_numbers.randint(1, 7000))).pack()
            for slot in slots
        ]
        data_file.write_slots(slots, replies)
        expected.update(zip(slots, replies, strict=True))
        if random_numbers.random() < 0.1:
            data_file.close()
            data_file = opened(disk, config)
        for slot, packed in expected.items():
            assert data_file.read_slot(slot, packed[:HEADER_SIZE]) == packed
