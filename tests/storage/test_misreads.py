"""A read that comes from elsewhere, once: what is on the disk is good, and is found to be good."""

from pathlib import Path
from typing import Any

from client_replies.actors.storage import examine
from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.faults import SlotFault
from client_replies.messages.reply_header import HEADER_SIZE
from client_replies.storage.data_file import DataFile
from client_replies.storage.device import FileDisk

from tests.storage.samples import make_reply


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
