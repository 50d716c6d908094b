"""The StorageActor alone: numbered batches in lanes, late and repeated ones, strangers."""

from pathlib import Path

from client_replies.actors.thespian.system import OwnedSystem
from client_replies.messages.faults import FaultKind, SlotFault
from client_replies.messages.reply_header import HEADER_SIZE
from client_replies.messages.storage_io import (
    NO_LEASE,
    CheckpointWritten,
    CloseStorage,
    OpenStorage,
    ReadSlots,
    SlotsRead,
    SlotsWritten,
    StorageClosed,
    StorageOpened,
    StorageOpenFailed,
    WriteCheckpoint,
    WriteSlots,
)

from tests.actors.doubles import Forwarder
from tests.actors.driver import KIB, Book, StorageClient, config_for, damage, slot_bytes


def opened(system: OwnedSystem, path: Path) -> StorageClient:
    """Give a client of a storage whose file is open, behind a scripted device."""
    client = StorageClient(system, config_for(path))
    client.open_storage()
    client.close_storage()
    client.open_storage()
    return client


def written(client: StorageClient) -> int:
    """Say how often the device was written."""
    return client.double(client.storage).device["writes"]


def test_a_repeated_batch_is_answered_again_and_not_done_again(asys: OwnedSystem, tmp_path: Path) -> None:
    """Writes of both lanes and a checkpoint: the same answer, and the device was not written once more."""
    client, book = opened(asys, tmp_path / "file"), Book()
    first = client.write_slots({0: book.reply(0)})
    assert client.expect(SlotsWritten) == SlotsWritten(batch=1)
    repair = client.write_slots({1: book.reply(1)}, repair=True)
    assert client.expect(SlotsWritten) == SlotsWritten(batch=1, repair=True)
    checkpoint = WriteCheckpoint(batch=1, sequence=1, op=book.op, sessions=book.encode())
    client.send(checkpoint)
    client.expect(CheckpointWritten)
    done = written(client)
    for message, answer in (
        (first, SlotsWritten(batch=1)),
        (repair, SlotsWritten(batch=1, repair=True)),
        (checkpoint, CheckpointWritten(batch=1)),
    ):
        client.send(message)
        assert client.expect(type(answer)) == answer
    assert written(client) == done


def test_a_batch_that_comes_late_does_nothing(asys: OwnedSystem, tmp_path: Path) -> None:
    """An older write than the last one of its lane must not put the older reply back."""
    client, book = opened(asys, tmp_path / "file"), Book()
    late = client.write_slots({0: book.reply(0)})
    client.expect(SlotsWritten)
    client.write_slots({0: book.reply(0)})
    client.expect(SlotsWritten)
    done = written(client)
    client.send(late)
    assert written(client) == done
    assert slot_bytes(client.config, 0, 300) == book.replies[0]
    assert client.inbox == []


def test_a_repeated_read_leaves_the_buffers_alone(asys: OwnedSystem, tmp_path: Path) -> None:
    """By then they may be lent to a reader or hold another reply: the answer is the one that was given."""
    client, book = opened(asys, tmp_path / "file"), Book()
    (lease,) = client.leases(1)
    large = book.reply(0, 20 * KIB)
    client.memory.buffer(lease)[: len(large)] = large
    client.write_slots({0: lease, 1: book.reply(1)})
    client.expect(SlotsWritten)
    client.memory.buffer(lease)[: len(large)] = bytes(len(large))
    headers = book.header(0) + book.header(1)
    read = ReadSlots(batch=1, slots=(0, 1), headers=headers, leases=(lease, NO_LEASE))
    client.send(read)
    answer = client.expect(SlotsRead)
    assert answer.results == (lease, book.replies[1])
    assert bytes(client.memory.buffer(lease)[: len(large)]) == large
    client.memory.buffer(lease)[:5] = b"other"
    client.send(read)
    assert client.expect(SlotsRead) == answer
    assert bytes(client.memory.buffer(lease)[:5]) == b"other"


def test_late_openings_and_closings_do_nothing(asys: OwnedSystem, tmp_path: Path) -> None:
    """A late `OpenStorage` takes no lock after the closing, a late `CloseStorage` ends no later opening."""
    client, book = StorageClient(asys, config_for(tmp_path / "file")), Book()
    late_open = client.opening()
    client.send(late_open)
    first = client.expect(StorageOpened)
    client.send(late_open)
    assert client.expect(StorageOpened) == first
    late_close = CloseStorage(batch=client.next("close"))
    client.send(late_close)
    client.expect(StorageClosed)
    client.send(late_open)
    other = StorageClient(asys, client.config)
    client.double(client.storage)
    other.open_storage()
    other.close_storage()

    client.open_storage()
    client.send(late_close)
    client.send(late_open)
    client.write_slots({0: book.reply(0)})
    assert client.expect(SlotsWritten).batch == 1
    client.close_storage()


def test_a_failed_opening_is_answered_again_and_the_next_one_tries_again(asys: OwnedSystem, tmp_path: Path) -> None:
    """The reason stays the same for the same request, and a new request looks at the file anew."""
    directory = tmp_path / "directory"
    client = StorageClient(asys, config_for(directory / "file"))
    message = client.opening()
    client.send(message)
    failed = client.expect(StorageOpenFailed)
    assert failed.fault.kind is FaultKind.DIRECTORY_MISSING
    directory.mkdir()
    client.send(message)
    assert client.expect(StorageOpenFailed) == failed
    assert client.open_storage().formatted


def test_who_did_not_open_the_file_is_not_served(asys: OwnedSystem, tmp_path: Path) -> None:
    """Another actor's batches and its closing are counted and do nothing; its opening is refused until the file closes.

    Then the next client counts its batches from the beginning.
    """
    client, book = opened(asys, tmp_path / "file"), Book()
    proxy = asys.createActor(Forwarder)
    client.write_slots({0: book.reply(0)})
    client.expect(SlotsWritten)
    done = written(client)
    number = client.batches["write"] + 1
    for message in (
        WriteSlots(batch=number, slots=(0,), payloads=(book.reply(0),)),
        CloseStorage(batch=9),
    ):
        client.forward(proxy, message)
    assert written(client) == done
    assert client.double(client.storage).counters["message_of_stranger"] == 2
    foreign = OpenStorage(batch=1, config=client.config, mode=client.opening().mode, memory=client.memory_name)
    client.forward(proxy, foreign)
    answer = client.forwarded(StorageOpenFailed)
    assert answer.fault.kind is FaultKind.ALREADY_OPEN
    client.close_storage()
    client.forward(proxy, OpenStorage(batch=2, config=client.config, mode=foreign.mode, memory=foreign.memory))
    client.forwarded(StorageOpened)
    client.forward(proxy, WriteSlots(batch=1, slots=(0,), payloads=(book.replies[0],)))
    assert client.forwarded(SlotsWritten).batch == 1


def test_each_slot_of_a_read_is_answered_by_itself(asys: OwnedSystem, tmp_path: Path) -> None:
    """A good one by its bytes, the others by what is wrong with them."""
    client, book = opened(asys, tmp_path / "file"), Book()
    client.write_slots({slot: book.reply(slot) for slot in range(5)})
    client.expect(SlotsWritten)
    damage(client.config, 1, offset=0)
    damage(client.config, 2, offset=HEADER_SIZE)
    damage(client.config, 3, offset=4000)
    expected = [book.header(slot) for slot in range(5)]
    book.reply(4)
    expected[4] = book.header(4)
    client.send(ReadSlots(batch=1, slots=tuple(range(5)), headers=b"".join(expected), leases=(NO_LEASE,) * 5))
    assert client.expect(SlotsRead).results == (
        book.replies[0],
        SlotFault.HEADER_CORRUPT,
        SlotFault.BODY_CORRUPT,
        SlotFault.PADDING_NOT_ZERO,
        SlotFault.OTHER_REPLY,
    )
