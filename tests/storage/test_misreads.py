"""A read that comes from elsewhere, once: what is on the disk is good, and is found to be good."""

from pathlib import Path
from typing import Any

from client_replies.actors.component.storage import examine
from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.faults import FaultKind, SlotFault
from client_replies.messages.reply_header import HEADER_SIZE
from client_replies.storage.data_file import DataFile
from client_replies.storage.device import FileDisk
from client_replies.storage.errors import storage_error

from tests.storage.samples import make_reply

SLOTS, SLOT_SIZE = 80, 64 * 1024  # more than is read at once


class ReadsElsewhere:
    """A real device that reads from another place as often as it is told to."""

    def __init__(self, device: Any, elsewhere: int, times: int) -> None:
        self._device = device
        self._elsewhere = elsewhere
        self._times = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def read(self, offset: int, into: memoryview, *, direct: bool = False) -> None:
        """Read, from elsewhere while it lasts."""
        elsewhere, self._times = self._times > 0, self._times - 1
        self._device.read(self._elsewhere if elsewhere else offset, into, direct=direct)


def test_a_slot_that_holds_the_expected_reply_at_the_second_look_is_good(tmp_path: Path) -> None:
    """Called faulty, it would be asked for, and denied to peers; another reply at both looks is one."""
    sizes = {"clients_max": 4, "message_size_max": 4096, "inline_size_max": 4096}
    config = RepliesConfig(path=str(tmp_path / "file"), cluster=1, replica=0, **sizes)
    replies = [make_reply(client, op=client + 10, body=b"x" * 50, cluster=1).pack() for client in (1, 2)]
    file = DataFile.open(FileDisk(), config, OpenMode.FORMAT)
    file.write_slots([0, 1], replies)
    headers = [reply[:HEADER_SIZE] for reply in replies]
    device: Any = file._device
    for times, fault, others in ((1, None, ()), (2, None, ()), (4, SlotFault.OTHER_REPLY, ((0, headers[1]),))):
        file._device = ReadsElsewhere(device, file.layout.slot_offset(1), times)  # type: ignore[assignment]
        assert examine(file, [(0, headers[0])]) == ({0: fault}, others)
    file._device = device
    file.close()


class ReadsBadly:
    """A real device where no long read that touches a place gets on, nor any short one of that place itself."""

    def __init__(self, device: Any, bad: int) -> None:
        self._device = device
        self._bad = bad

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def read(self, offset: int, into: memoryview, *, direct: bool = False) -> None:
        """Read, or fail."""
        if offset <= self._bad < offset + len(into):
            raise storage_error(FaultKind.IO_ERROR, f"a bad sector at {self._bad}", "a sector that is read")
        self._device.read(offset, into, direct=direct)


def test_of_slots_that_are_read_ahead_each_gets_its_own_verdict(tmp_path: Path) -> None:
    """Whichever of many reads a fault is in, the first, the last or one between; and neighbours of it are good."""
    sizes = {"clients_max": SLOTS, "message_size_max": SLOT_SIZE, "inline_size_max": 4096}
    config = RepliesConfig(path=str(tmp_path / "file"), cluster=1, replica=0, **sizes)
    slots = range(SLOTS)
    bodies = [bytes([slot]) * (SLOT_SIZE - HEADER_SIZE - 4096 * (slot % 3)) for slot in slots]
    replies = [make_reply(slot + 1, op=slot + 10, body=bodies[slot], cluster=1).pack() for slot in slots]
    file = DataFile.open(FileDisk(), config, OpenMode.FORMAT)
    file.write_slots(slots, replies)
    expected = [(slot, reply[:HEADER_SIZE]) for slot, reply in zip(slots, replies, strict=True)]
    assert file.verify_slots(expected) == dict.fromkeys(slots)
    device: Any = file._device
    for damaged, unreadable in ((0, 17), (17, SLOTS - 1), (SLOTS - 1, 40), (40, 0)):
        file._device = ReadsBadly(device, file.layout.slot_offset(unreadable))  # type: ignore[assignment]
        other = bytearray(replies[damaged])
        other[-1] ^= 1
        device.write(file.layout.slot_offset(damaged), (bytes(other),))
        faults = file.verify_slots(expected)
        assert faults.pop(damaged) is SlotFault.BODY_CORRUPT
        assert faults.pop(unreadable) is SlotFault.UNREADABLE
        assert not any(faults.values())
        device.write(file.layout.slot_offset(damaged), (replies[damaged],))
    file._device = device
    file.close()
