"""Crash consistency of the real file format: histories of the storage layer, cut at every step, opened again."""

from __future__ import annotations

import pytest

from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.reply_header import HEADER_SIZE
from client_replies.storage.client_sessions import ClientSessions
from client_replies.storage.data_file import DataFile
from client_replies.storage.device import MemoryDisk, MemoryFile
from client_replies.storage.layout import Layout

from tests.simulation.chance import Chance
from tests.simulation.crash_states import CrashState, Promises, RecordingDisk, crash_states
from tests.simulation.history import CLUSTER, ClientRequest, Entry, build_reply

CLIENTS = 4
CONFIG = RepliesConfig(
    path="replies", cluster=CLUSTER, replica=0, clients_max=CLIENTS, message_size_max=8192, inline_size_max=8192
)


class Service:
    """Registers and executes at random, and writes what a component would write."""

    def __init__(self, disk: RecordingDisk, chance: Chance, data_file: DataFile, first_op: int = 1) -> None:
        self.disk = disk
        self.chance = chance
        self.file = data_file
        self.op = first_op - 1
        self.sessions = ClientSessions(CLIENTS, CLUSTER)

    def write(self, count: int) -> None:
        """Replies for a few sessions at once, under one sync."""
        batch: dict[int, bytes] = {}
        for _ in range(count):
            self.op += 1
            request = ClientRequest(
                client=self.op, session=0, request=0, checksum=bytes(16), size=self.chance.integer(1, 7000)
            )
            reply = build_reply(Entry(self.op, request, 0, 0), self.op)
            batch[self.sessions.register(reply[:HEADER_SIZE]).slot] = reply
        for slot in batch:
            self.disk.promises.slots.pop(slot, None)  # the old one is being written over
        self.file.write_slots(tuple(batch), tuple(batch.values()))
        self.disk.promises.slots.update(batch)

    def checkpoint(self) -> None:
        """The table of now."""
        promises, table = self.disk.promises, self.sessions.encode()
        promises.sequence_begun = self.file.sequence + 1
        promises.tables[promises.sequence_begun] = table
        self.file.write_checkpoint(promises.sequence_begun, self.op, table)
        promises.sequence = promises.sequence_begun


def judge(state: CrashState) -> None:
    """It opens, at the checkpoint that was done or at the one that was begun, and every promised reply is there."""
    disk = MemoryDisk()
    disk.files["replies"] = MemoryFile(bytearray(state.data))
    opened = DataFile.open(disk, CONFIG, OpenMode.OPEN)
    where = f"step {state.step}, {state.fates}"
    promises = state.promises
    assert opened.sequence in (promises.sequence, promises.sequence_begun), where
    assert opened.sessions == promises.tables.get(opened.sequence, b""), where
    for slot, reply in promises.slots.items():
        assert opened.verify_slot(slot, reply[:HEADER_SIZE]) is None, f"{where}, slot {slot}"
    # Whatever had been left of another checkpoint is put right: the next crash cannot bring it back.
    again = MemoryDisk()
    again.files["replies"] = disk.files["replies"]
    opened.close()
    assert DataFile.open(again, CONFIG, OpenMode.OPEN).sequence == opened.sequence


def formatted(disk: RecordingDisk) -> DataFile:
    """A new file, whose making is over."""
    data_file = DataFile.open(disk, CONFIG, OpenMode.FORMAT)
    disk.steps.clear()
    disk.promises = Promises(tables={0: b""})
    return data_file


@pytest.mark.parametrize("seed", range(8))
def test_every_crash_leaves_a_file_that_opens_and_keeps_its_promises(seed: int) -> None:
    """Writes and checkpoints, cut after every write and every sync."""
    disk, chance = RecordingDisk(), Chance(seed, "crash states")
    data_file = formatted(disk)
    start = bytes(disk.files["replies"].data)
    service = Service(disk, chance, data_file)
    for _ in range(6):
        service.write(chance.integer(1, CLIENTS))
        if chance.chance(0.6):
            service.checkpoint()
    states = 0
    for state in crash_states(start, disk.steps, chance, every_max=2, sampled=12):
        judge(state)
        states += 1
    assert states > 200


@pytest.mark.parametrize("seed", range(4))
def test_a_crash_after_a_crash_leaves_a_file_that_opens(seed: int) -> None:
    """The file that a crash left is opened, goes through more checkpoints, and is cut again at every step."""
    disk, chance = RecordingDisk(), Chance(seed, "crash twice")
    data_file = formatted(disk)
    start = bytes(disk.files["replies"].data)
    service = Service(disk, chance, data_file)
    for _ in range(3):
        service.write(2)
        service.checkpoint()
    firsts = list(crash_states(start, disk.steps, chance, every_max=0, sampled=2))
    for first in (chance.pick(firsts) for _ in range(12)):
        second = RecordingDisk()
        second.files["replies"] = MemoryFile(bytearray(first.data))
        second.promises = first.promises.copy()
        again = DataFile.open(second, CONFIG, OpenMode.OPEN)
        # While the opening writes, either checkpoint may still be found; afterwards the one that it chose.
        second.promises.sequence = second.promises.sequence_begun = again.sequence
        second_steps = Service(second, chance, again, first_op=100)
        second_steps.write(2)
        second_steps.checkpoint()
        second_steps.checkpoint()
        for state in crash_states(bytes(first.data), second.steps, chance, every_max=1, sampled=4):
            judge(state)


def test_the_bound_on_states_holds() -> None:
    """All combinations up to the bound: for one write nothing, all, and the halves."""
    disk, chance = RecordingDisk(), Chance(0, "bound")
    data_file = formatted(disk)
    start = bytes(disk.files["replies"].data)
    Service(disk, chance, data_file).write(1)
    states = list(crash_states(start, disk.steps, chance, every_max=1, sampled=0))
    assert [state.fates for state in states] == [(0,), (1,), (2,), (3,), ()]
    assert Layout.of(CONFIG).size == len(states[0].data)
