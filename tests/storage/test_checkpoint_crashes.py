"""Checkpoints under every crash: each state that the disk may be left in is built, opened, and crashed again.

The fault model: what was written before a completed sync is on the disk. Of each write after it, any part may be:
nothing, all, a front or back piece, alternating pieces, or garbage in its place. Writes are not ordered.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from client_replies.messages.config import OpenMode
from client_replies.messages.reply_header import HEADER_SIZE, Buffer
from client_replies.storage import data_file as data_file_module
from client_replies.storage.data_file import DataFile
from client_replies.storage.errors import StorageError
from client_replies.storage.layout import SUPERBLOCK_COPIES
from client_replies.storage.memory_disk import MemoryDevice, MemoryDisk, MemoryFile
from client_replies.storage.superblock import choose_superblock

from tests.storage.samples import make_reply, small_config

CONFIG = small_config("replies", message_size_max=4096)
REPLY = make_reply().pack()
PIECE = 16


@dataclass(frozen=True)
class Write:
    """One recorded write."""

    offset: int
    data: bytes


SYNC = "sync"
Log = list[Write | str]


class RecordingDevice(MemoryDevice):
    """A device that records its writes and syncs in order."""

    def __init__(self, file: MemoryFile, log: Log) -> None:
        super().__init__(file)
        self.log = log

    def _write(self, offset: int, parts: Sequence[Buffer]) -> None:
        self.log.append(Write(offset, b"".join(parts)))
        super()._write(offset, parts)

    def sync(self) -> None:
        """Record it."""
        self.log.append(SYNC)


class RecordingDisk(MemoryDisk):
    """A disk with one file of these contents, whose device records."""

    def __init__(self, contents: bytes) -> None:
        super().__init__()
        self.log: Log = []
        self.files[CONFIG.path] = MemoryFile(bytearray(contents))

    def device(self, path: str, file: MemoryFile) -> RecordingDevice:
        """Give a recording device."""
        return RecordingDevice(file, self.log)


def formatted() -> bytes:
    """Give the bytes of a new file with a reply in slot 2."""
    disk = MemoryDisk()
    data_file = DataFile.open(disk, CONFIG, OpenMode.FORMAT)
    data_file.write_slots([2], [REPLY])
    data_file.close()
    return bytes(disk.files[CONFIG.path].data)


def table(sequence: int, attempt: int = 0) -> bytes:
    """Give the session table of a checkpoint; another attempt at the same checkpoint has another."""
    return f"table {sequence} attempt {attempt} ".encode() * 50


def torn(old: bytes, new: bytes) -> list[bytes]:
    """Give what a crash may leave of one write."""
    half = len(new) // 2
    striped = b"".join(
        (new if piece % 2 else old)[piece * PIECE : (piece + 1) * PIECE] for piece in range(len(new) // PIECE)
    )
    return [old, new, new[:80] + old[80:], old[:half] + new[half:], striped, b"\xa5" * len(new)]


def crash_states(before: bytes, log: Log) -> Iterator[tuple[int, bytes]]:
    """Give every state that a crash may leave, each with the number of syncs that had completed."""
    seen = set()
    durable = bytearray(before)
    pending: list[Write] = []
    syncs = 0
    for event in [*log, SYNC]:
        if isinstance(event, Write):
            pending.append(event)
            continue
        choices = [torn(bytes(durable[write.offset :][: len(write.data)]), write.data) for write in pending]
        for choice in itertools.product(*choices):
            state = bytearray(durable)
            for write, data in zip(pending, choice, strict=True):
                state[write.offset : write.offset + len(data)] = data
            if (syncs, bytes(state)) not in seen:
                seen.add((syncs, bytes(state)))
                yield syncs, bytes(state)
        for write in pending:
            durable[write.offset : write.offset + len(write.data)] = write.data
        pending = []
        syncs += 1


def opened(contents: bytes) -> tuple[RecordingDisk, DataFile]:
    """Open a file with these contents."""
    disk = RecordingDisk(contents)
    return disk, DataFile.open(disk, CONFIG, OpenMode.OPEN)


def checkpointed(contents: bytes, attempt: int = 0) -> tuple[Log, bytes, int]:
    """Open, take the next checkpoint, and give what was written for it, the bytes after it, and its number."""
    disk, data_file = opened(contents)
    disk.log.clear()
    sequence = data_file.sequence + 1
    data_file.write_checkpoint(sequence, sequence * 10, table(sequence, attempt))
    return disk.log, bytes(disk.files[CONFIG.path].data), sequence


def check_state(contents: bytes, allowed: set[tuple[int, bytes]]) -> tuple[Log, DataFile]:
    """Open what a crash left: it opens, with one of the allowed checkpoints whole, and the slots are as they were."""
    disk, data_file = opened(contents)
    assert (data_file.sequence, data_file.sessions) in allowed
    assert data_file.op == data_file.sequence * 10
    assert data_file.read_slot(2, REPLY[:HEADER_SIZE]) == REPLY
    return disk.log, data_file


def the_checkpoint(contents: bytes) -> tuple[int, bytes]:
    """Give the number and the table of the checkpoint that opening finds."""
    _, data_file = opened(contents)
    return data_file.sequence, data_file.sessions


def crash_checkpoints(rounds: int) -> int:
    """Crash a checkpoint in every way, the opening after it in every way, and so on; give how many states were seen.

    Each round's states, opened, are the starting points of the next.
    """
    states = {checkpointed(formatted())[1]}  # opened, and nothing to repair
    count = 0
    for attempt in range(1, rounds + 1):
        left: set[bytes] = set()
        for before in states:
            old = the_checkpoint(before)
            log, _, sequence = checkpointed(before, attempt)
            new = (sequence, table(sequence, attempt))
            last = log.count(SYNC)
            for syncs, crashed in crash_states(before, log):
                allowed = {new} if syncs == last else {old, new}
                count += 1
                repairs, data_file = check_state(crashed, allowed)
                found = (data_file.sequence, data_file.sessions)
                for _, crashed_again in crash_states(crashed, repairs):
                    check_state(crashed_again, {found})
                    left.add(crashed_again)
                    count += 1
        states = {repaired(contents) for contents in left}
    return count


def repaired(contents: bytes) -> bytes:
    """Give the bytes after opening."""
    disk, _ = opened(contents)
    return bytes(disk.files[CONFIG.path].data)


@pytest.mark.slow
def test_a_crash_leaves_the_old_checkpoint_or_the_new_one() -> None:
    """Never neither and never a mix, with crashes while the crash is being repaired, and in the next checkpoint.

    And when the checkpoint had returned, the new one.
    """
    assert crash_checkpoints(rounds=3) > 10_000


def test_the_trailer_is_durable_before_a_superblock_names_it() -> None:
    """The order of writes and syncs, written out."""
    log, _, _ = checkpointed(formatted())
    shape = [event if event == SYNC else event.offset for event in log]  # type: ignore[union-attr]
    trailer = 4 * 4096 + 4096
    assert shape == [trailer, SYNC, 0, 4096, SYNC, 8192, 12288, SYNC]


@pytest.mark.parametrize("pairs", [(range(0, SUPERBLOCK_COPIES),), (range(0, 3), range(3, 4))])
def test_the_states_are_harsh_enough_to_break_larger_groups(
    monkeypatch: pytest.MonkeyPatch, pairs: tuple[range, ...]
) -> None:
    """With all four superblock copies, or three, under one sync, some crash leaves nothing to open."""
    monkeypatch.setattr(data_file_module, "PAIRS", pairs)
    with pytest.raises((StorageError, AssertionError)):
        crash_checkpoints(rounds=1)


def test_the_states_are_harsh_enough_to_need_the_repair_at_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    """If copies that a crash left behind were kept, the next crash could make them the ones that agree."""

    def choose_and_repair_nothing(sectors: Sequence[Buffer]) -> object:
        choice = choose_superblock(sectors)
        object.__setattr__(choice, "disagreeing", ())
        return choice

    monkeypatch.setattr(data_file_module, "choose_superblock", choose_and_repair_nothing)
    with pytest.raises((StorageError, AssertionError)):
        crash_checkpoints(rounds=2)


def test_a_crash_while_slots_are_written_damages_no_other_slot() -> None:
    """Each slot of the group is the old reply, the new one or recognisably damaged; the others are untouched."""
    before = formatted()
    disk, data_file = opened(before)
    replies = {slot: make_reply(slot + 10, op=50, body=bytes([slot]) * 700).pack() for slot in (0, 2)}
    disk.log.clear()
    data_file.write_slots(list(replies), list(replies.values()))
    outcomes = set()
    for syncs, crashed in crash_states(before, disk.log):
        _, again = opened(crashed)
        old_is_whole = again.verify_slot(2, REPLY[:HEADER_SIZE]) is None
        faults = tuple(again.verify_slot(slot, packed[:HEADER_SIZE]) for slot, packed in replies.items())
        assert not (old_is_whole and faults[1] is None)
        if syncs:
            assert faults == (None, None)
        outcomes.add((old_is_whole, *faults))
    assert len(outcomes) >= 6
