"""What a replica does with its component in a normal life, the same on both bases."""

from pathlib import Path

import pytest

from client_replies.actors.component.writing import SMALL_BATCH
from client_replies.actors.thespian.system import OwnedSystem
from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.faults import FaultKind
from client_replies.messages.leases import Lease
from client_replies.messages.replies import (
    AwaitDurable,
    CloseReplies,
    NotRead,
    ReadReply,
    RepliesClosed,
    RepliesDurable,
    ReplyRead,
    ReplyTaken,
    SlotsDurable,
    WritesAccepted,
    WritesRefused,
)
from client_replies.storage.layout import Layout

from tests.actors.driver import KIB, Book, Driver, config_for, damage, slot_bytes


def test_what_was_checkpointed_is_there_after_reopening(asys: OwnedSystem, tmp_path: Path) -> None:
    """Formatting gives an empty table; opening gives the last checkpoint's, and the replies are read from disk."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    opened = driver.open(config, OpenMode.FORMAT)
    assert (opened.formatted, opened.sequence, opened.op, opened.sessions) == (True, 0, 0, b"")
    assert opened.credit == config.writes_max
    driver.commit(book, 0, 3, 5)
    done = driver.checkpoint(book)
    assert (done.op, done.sequence) == (book.op, 1)
    driver.close()

    again = Driver(asys)
    opened = again.open(config, OpenMode.OPEN)
    assert (opened.formatted, opened.sequence, opened.op) == (False, 1, book.op)
    assert (opened.sessions, opened.faulty) == (book.encode(), ())
    assert [again.read(slot, book.header(slot)) for slot in (0, 3, 5)] == [book.replies[slot] for slot in (0, 3, 5)]
    assert again.read(1, book.header(0)) is NotRead.UNEXPECTED
    again.close()


def test_a_reply_is_read_from_memory_before_it_is_on_disk(asys: OwnedSystem, tmp_path: Path) -> None:
    """While its write is in flight, and while it waits behind another, a reply is answered without the disk."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("write")
    driver.write({2: book.reply(2)}, op=book.op)
    assert driver.held("write").slots == (2,)
    assert driver.read(2, book.header(2)) == book.replies[2]
    older = book.header(2)
    driver.write({2: book.reply(2)}, op=book.op)
    assert driver.read(2, book.header(2)) == book.replies[2]
    assert driver.read(2, older) is NotRead.UNEXPECTED
    assert driver.status(2).slots["queued"] == 1
    driver.let_go("write")
    driver.durable(2)
    assert driver.read(2, book.header(2)) == book.replies[2]
    driver.close()


def test_a_removed_reply_is_not_served_and_its_slot_takes_another(asys: OwnedSystem, tmp_path: Path) -> None:
    """After a removal the slot expects nothing; the next session's reply goes there."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    driver.commit(book, 4)
    gone = book.header(4)
    book.sessions.remove(5)
    driver.remove(4, op=book.op)
    assert driver.read(4, gone) is NotRead.UNEXPECTED
    assert driver.status().slots["empty"] == config.clients_max
    assert book.register(99) == 4
    driver.commit(book, 4)
    assert driver.read(4, book.header(4)) == book.replies[4]
    assert driver.read(4, gone) is NotRead.UNEXPECTED
    driver.close()


def test_a_smaller_reply_leaves_nothing_of_a_larger_one_in_its_sectors(asys: OwnedSystem, tmp_path: Path) -> None:
    """What is on disk is the reply and zeros up to the end of its last sector."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    driver.commit(book, 1, size=4000)
    driver.commit(book, 1, size=300)
    assert slot_bytes(config, 1, 4096) == book.replies[1] + bytes(4096 - 300)
    driver.close()


def test_large_replies_travel_as_leases_that_all_come_back(asys: OwnedSystem, tmp_path: Path) -> None:
    """A reply of 1 MiB is written from a buffer and read into one; the pool's count says who holds what."""
    size = 1024 * KIB
    config = config_for(tmp_path / "file", message_size_max=size, repair_bytes_max=size)
    own, book = config.read_buffers + config.repair_buffers, Book()
    driver = Driver(asys)
    driver.open(config)
    assert (driver.pool_status().buffers, driver.pool_status().held) == (config.buffers_max + own, own)
    leases = driver.lease(book.reply(0, size), book.reply(1, size))
    assert driver.pool_status().held == own + 2
    driver.write_durable({0: leases[0], 1: leases[1]}, op=book.op)
    driver.pool_until(own)
    assert [driver.read(slot, book.header(slot)) for slot in (0, 1)] == [book.replies[0], book.replies[1]]
    assert driver.release(leases[0]).stale == (leases[0],)
    driver.checkpoint(book)
    driver.close()
    assert (driver.pool_status().held, driver.pool_status().waiting) == (0, 0)


def test_a_large_reply_is_read_from_memory_into_a_buffer_of_its_own(asys: OwnedSystem, tmp_path: Path) -> None:
    """What is lent to a reader is a copy: the writer may fill its buffer anew while the reader still looks."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("write")
    (lease,) = driver.lease(book.reply(0, 20 * KIB))
    driver.write({0: lease}, op=book.op)
    driver.held("write")
    read = driver.ask_read(0, book.header(0))
    lent = driver.expect(ReplyRead, where=lambda answer: answer.read == read).payload
    assert isinstance(lent, int)
    assert lent != lease
    driver.let_go("write")
    driver.durable(0)
    driver.memory.buffer(lease)[: 20 * KIB] = bytes(20 * KIB)
    assert bytes(driver.memory.buffer(lent)[: 20 * KIB]) == book.replies[0]
    driver.send(ReplyTaken(owner=driver.owner, read=read))
    assert driver.status().queues["read_buffers"] == config.read_buffers
    driver.close()


def test_reads_of_large_replies_wait_for_a_buffer_and_all_are_answered(asys: OwnedSystem, tmp_path: Path) -> None:
    """Two buffers serve five readers, one after the other as buffers are given back."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    for slot in range(5):
        (lease,) = driver.lease(book.reply(slot, 20 * KIB))
        driver.write_durable({slot: lease}, op=book.op)
    reads = [driver.ask_read(slot, book.header(slot)) for slot in range(5)]
    assert [driver.read_answer(read) for read in reads] == [book.replies[slot] for slot in range(5)]
    assert driver.status().queues["reads"] == 0
    driver.close()


def test_a_lent_buffer_is_told_again_until_it_is_taken(asys: OwnedSystem, tmp_path: Path) -> None:
    """The answer may have been lost: without `ReplyTaken` it comes again, and the same request gets it at once."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    (lease,) = driver.lease(book.reply(0, 20 * KIB))
    driver.write_durable({0: lease}, op=book.op)
    read = driver.ask_read(0, book.header(0))
    first = driver.expect(ReplyRead)
    assert driver.expect(ReplyRead) == first
    driver.send(ReadReply(owner=driver.owner, read=read, slot=0, expected=book.header(0)))
    assert driver.expect(ReplyRead) == first
    driver.send(ReplyTaken(owner=driver.owner, read=read))
    driver.send(ReplyTaken(owner=driver.owner, read=read))
    assert driver.status().queues["read_buffers"] == config.read_buffers
    driver.close()


def test_reads_beyond_the_limit_are_told_that_it_is_busy(asys: OwnedSystem, tmp_path: Path) -> None:
    """`reads_max` reads may wait; the next one is refused, and the others are answered."""
    config, book = config_for(tmp_path / "file", reads_max=2), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.commit(book, 0)
    driver.hold("read")
    first, second = driver.ask_read(0, book.header(0)), driver.ask_read(0, book.header(0))
    driver.held("read")
    assert driver.read(0, book.header(0)) is NotRead.BUSY
    driver.let_go("read")
    assert [driver.read_answer(first), driver.read_answer(second)] == [book.replies[0]] * 2
    driver.close()


def test_durable_is_said_only_after_the_storage_said_so(asys: OwnedSystem, tmp_path: Path) -> None:
    """Accepted does not wait for it, but for a tick; `RepliesDurable` and `SlotsDurable` wait for the sync."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("write")
    number = driver.post({0: book.reply(0)}, op=book.op, durable=True)
    driver.accepted(number)
    wait = driver.await_durable(0, 1)
    driver.held("write")
    assert not driver.has(RepliesDurable, SlotsDurable)
    status = driver.status(0, 1)
    assert (status.durable, status.durable_through) == ((False, True), 0)
    driver.let_go("write")
    assert driver.expect(RepliesDurable).through == number
    assert driver.expect(SlotsDurable).wait == wait
    status = driver.status(0, 1)
    assert (status.durable, status.durable_through) == ((True, True), number)
    driver.close()


def config_for_large(path: Path) -> RepliesConfig:
    """Replies of 512 KiB travel in messages, and no tick answers anything."""
    largest = 512 * KIB
    return config_for(path, message_size_max=largest, inline_size_max=largest, repair_bytes_max=largest, tick=60.0)


@pytest.mark.parametrize(("durable", "size"), [(True, 300), (True, 300_000), (False, 300)])
def test_a_small_batch_is_accepted_and_durable_in_one_message(
    asys: OwnedSystem, tmp_path: Path, durable: bool, size: int
) -> None:
    """If its durability is to be told; a large one is accepted first, so that the next is on its way meanwhile."""
    config = config_for_large(tmp_path / "file")
    book, driver = Book(), Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("write")
    number = driver.post({0: book.reply(0, size)}, op=book.op, durable=durable)
    driver.held("write")
    at_once = not durable or size > SMALL_BATCH
    driver.status()
    assert driver.has(WritesAccepted) == at_once
    driver.let_go("write")
    assert driver.accepted(number).durable_through == (0 if at_once else number)
    driver.durable(0)
    assert driver.has(RepliesDurable) == (at_once and durable)
    driver.close()


def test_two_large_batches_are_in_flight_and_cost_two_messages_each(asys: OwnedSystem, tmp_path: Path) -> None:
    """The first is accepted at once; the second is with the storage meanwhile, and its answer tells of the first."""
    config = config_for_large(tmp_path / "file")
    book, driver = Book(), Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("write")
    first = driver.post({0: book.reply(0, 2 * SMALL_BATCH)}, op=book.op, durable=True)
    assert driver.accepted(first).durable_through == 0
    assert driver.held("write").slots == (0,)
    second = driver.post({1: book.reply(1, 2 * SMALL_BATCH)}, op=book.op, durable=True)
    assert driver.held("write").slots == (1,)
    driver.status()
    assert not driver.has(WritesAccepted, RepliesDurable)
    driver.let_go("write")
    assert driver.accepted(second).durable_through == first
    assert driver.expect(RepliesDurable).through == second
    driver.close()


def test_one_durable_answer_covers_the_batches_before_it(asys: OwnedSystem, tmp_path: Path) -> None:
    """Three batches, the first and last of which ask: durable is said through the last one, never before its time."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("write")
    first = driver.post({0: book.reply(0)}, op=book.op, durable=True)
    driver.accepted(first)
    driver.held("write")
    driver.write({1: book.reply(1)}, op=book.op)
    last = driver.post({}, op=book.op, durable=True)
    driver.accepted(last)
    assert not driver.has(RepliesDurable)
    driver.let_go("write")
    told = driver.expect(RepliesDurable).through
    while told < last:
        assert told in (first, first + 1)
        told = driver.expect(RepliesDurable).through
    assert told == last
    driver.close()


def test_a_wait_for_a_slot_that_is_written_again_covers_the_newer_reply(asys: OwnedSystem, tmp_path: Path) -> None:
    """All slots of a wait must be durable at the same time when it is answered."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("write")
    driver.write({0: book.reply(0), 1: book.reply(1)}, op=book.op)
    driver.held("write")
    driver.write({0: book.reply(0)}, op=book.op)
    wait = driver.await_durable(0, 1)
    driver.let_go("write")
    assert driver.expect(SlotsDurable).wait == wait
    assert driver.status(0, 1).durable == (True, True)
    driver.close()
    assert slot_bytes(config, 0, 300) == book.replies[0]


def test_waits_beyond_the_limit_are_refused_as_busy(asys: OwnedSystem, tmp_path: Path) -> None:
    """`waits_max` may wait; the next one is told so, and a repeated one is not counted twice."""
    config, book = config_for(tmp_path / "file", waits_max=1), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("write")
    driver.write({0: book.reply(0)}, op=book.op)
    wait = driver.await_durable(0)
    driver.send(AwaitDurable(owner=driver.owner, wait=wait, slots=(0,)))
    driver.await_durable(0)
    assert driver.refused("AwaitDurable").fault.kind is FaultKind.BUSY
    driver.held("write")
    driver.let_go("write")
    assert driver.expect(SlotsDurable).wait == wait
    driver.close()


def test_the_answer_to_a_batch_waits_for_credit_when_the_limit_is_reached(asys: OwnedSystem, tmp_path: Path) -> None:
    """What exceeds the credit is refused as busy; a batch that takes the last is answered when there is some again.

    Until then nothing else is in its turn.
    """
    config, book = config_for(tmp_path / "file", writes_max=3), Book()
    driver = Driver(asys, scripted=True)
    assert driver.open(config).credit == 3
    driver.hold("write")
    assert driver.write({0: book.reply(0)}, op=book.op).credit == 2
    driver.held("write")
    replies = {slot: book.reply(slot) for slot in (1, 2, 3)}
    busy = driver.try_write(dict(replies))
    assert isinstance(busy, WritesRefused)
    assert (busy.fault.kind, busy.index) == (FaultKind.BUSY, 2)
    number = driver.post({1: replies[1], 2: replies[2]}, op=book.op)
    assert not driver.has(WritesAccepted)
    early = driver.try_write({3: replies[3]})
    assert isinstance(early, WritesRefused)
    assert (early.fault.kind, early.fault.expected) == (FaultKind.OUT_OF_SEQUENCE, f"number {number}")
    driver.let_go("write")
    assert driver.accepted(number).credit > 0
    driver.durable(0, 1, 2)
    assert driver.write({3: book.replies[3]}, op=book.op).credit == 2
    driver.durable(3)
    driver.close()


def test_a_held_back_reply_is_not_written_when_a_newer_one_comes(asys: OwnedSystem, tmp_path: Path) -> None:
    """Of many replies of one session only the last reaches the disk, which a checkpoint does not wait to see."""
    config, book = config_for(tmp_path / "file", hold_back=3600.0), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    for _ in range(10):
        driver.write({0: book.reply(0)}, op=book.op)
    assert driver.status(0).slots["queued"] == 1
    driver.hold("write")
    number = driver.start_checkpoint(book)
    assert driver.held("write").slots == (0,)
    driver.let_go("write")
    driver.checkpoint_done(number)
    assert slot_bytes(config, 0, 300) == book.replies[0]
    driver.close()


def test_closing_writes_what_was_held_back(asys: OwnedSystem, tmp_path: Path) -> None:
    """Nothing that was accepted is lost by closing."""
    config, book = config_for(tmp_path / "file", hold_back=3600.0), Book()
    driver = Driver(asys)
    driver.open(config)
    driver.write({0: book.reply(0), 6: book.reply(6)}, op=book.op)
    driver.close()
    assert [slot_bytes(config, slot, 300) for slot in (0, 6)] == [book.replies[0], book.replies[6]]


def test_half_of_the_credit_in_use_ends_the_holding_back(asys: OwnedSystem, tmp_path: Path) -> None:
    """Replies are held back only while there is room for more."""
    config, book = config_for(tmp_path / "file", hold_back=3600.0, writes_max=4), Book()
    driver = Driver(asys)
    driver.open(config)
    driver.write({0: book.reply(0)}, op=book.op)
    assert driver.status(0).slots["queued"] == 1
    driver.write({1: book.reply(1)}, op=book.op)
    driver.durable(0, 1)
    driver.close()


def test_rot_is_found_without_any_read(asys: OwnedSystem, tmp_path: Path) -> None:
    """The scrubber reads the disk itself, slot after slot, and says which one is not what it should be."""
    always = {"scrub_bytes_per_second": 2**30, "scrub_interval": 0.001, "scrub_pass_interval": 0.0}
    config, book = config_for(tmp_path / "file", **always), Book()
    driver = Driver(asys)
    driver.open(config)
    driver.commit(book, 2, 3)
    driver.until(lambda status: status.counters["scrub_passes"] >= 2)
    assert driver.status().faulty == ()
    damage(config, 3)
    driver.until(lambda status: status.faulty == (3,))
    assert driver.status().counters["slot_faulty"] == 1
    assert driver.read(3, book.header(3)) is NotRead.CORRUPT
    assert driver.read(2, book.header(2)) == book.replies[2]
    driver.close()


def test_damage_that_was_done_while_the_file_was_closed_is_found_at_opening(asys: OwnedSystem, tmp_path: Path) -> None:
    """`RepliesOpened` names the slots that do not hold what the session table says."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    driver.commit(book, 0, 1, 2)
    driver.checkpoint(book)
    driver.close()
    damage(config, 1, offset=0)
    again = Driver(asys, replies=driver.replies)
    assert again.open(config, OpenMode.OPEN).faulty == (1,)
    assert again.status(0, 1).durable == (True, False)
    assert again.read(1, book.header(1)) is NotRead.CORRUPT
    again.close()


def test_a_damaged_session_table_opens_the_checkpoint_before_and_the_log_brings_the_rest(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """`RepliesOpened` says which checkpoint was damaged; the next one goes on from its number, and is whole."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    driver.commit(book, 0, 1)
    first = driver.checkpoint(book)
    table, since = book.encode(), dict[int, bytes | Lease]({slot: book.reply(slot) for slot in (1, 2)})
    driver.write_durable(since, op=book.op)
    last = driver.checkpoint(book)
    driver.close()
    with open(config.path, "r+b") as file:
        file.seek(Layout.of(config).trailer_offset(last.sequence % 2) + 100)
        file.write(b"rotten")
    again = Driver(asys, replies=driver.replies)
    opened = again.open(config, OpenMode.OPEN)
    assert (opened.sequence, opened.op, opened.sessions) == (first.sequence, first.op, table)
    assert opened.damaged is not None
    assert (opened.damaged.sequence, opened.damaged.op) == (last.sequence, last.op)
    assert opened.damaged.fault.kind is FaultKind.TRAILER_CORRUPT
    assert again.status().counters["checkpoint_damaged"] == 1
    # The slot holds a later reply than the table of then says: nothing is lost, the log says what it is.
    assert opened.faulty == (1,)
    again.write_durable(since, op=book.op)
    assert again.status().faulty == ()
    assert again.checkpoint(book).sequence == last.sequence + 1
    assert {slot: again.read(slot, book.header(slot)) for slot in (0, 1, 2)} == book.replies
    again.close()
    whole = Driver(asys, replies=driver.replies)
    opened = whole.open(config, OpenMode.OPEN)
    assert (opened.sequence, opened.sessions, opened.faulty) == (last.sequence + 1, book.encode(), ())
    assert opened.damaged is None
    whole.close()


def test_sessions_that_are_installed_replace_every_expectation(asys: OwnedSystem, tmp_path: Path) -> None:
    """What differs is read, and faulty until it is repaired; what is the same stays; what is gone is gone."""
    config, book, ahead = config_for(tmp_path / "file"), Book(), Book()
    driver = Driver(asys)
    driver.open(config)
    driver.write_durable({slot: book.reply(slot) for slot in (0, 1, 2)}, op=book.op)
    for slot in (0, 1, 2):
        ahead.reply(slot)
    ahead.reply(1)
    ahead.reply(4)
    ahead.sessions.remove(3)
    assert driver.install(ahead).faulty == (1, 4)
    driver.until(lambda status: status.faulty == (1, 4))
    status = driver.status(0, 1, 2, 4)
    assert (status.op, status.durable) == (ahead.op, (True, False, True, False))
    assert driver.read(0, book.header(0)) == book.replies[0]
    assert driver.read(1, book.header(1)) is NotRead.UNEXPECTED
    assert driver.read(1, ahead.header(1)) is NotRead.CORRUPT
    assert driver.read(2, book.header(2)) is NotRead.UNEXPECTED
    driver.close()


def test_an_opening_with_buffers_of_another_size_gets_another_pool(asys: OwnedSystem, tmp_path: Path) -> None:
    """One actor opens two files of different shape in turn; a storage that it was told of is for that opening alone."""
    driver, book = Driver(asys, scripted=True), Book()
    driver.open(config_for(tmp_path / "small"))
    driver.close()
    again = Driver(asys, replies=driver.replies)
    config = config_for(tmp_path / "large", message_size_max=64 * KIB, buffers_max=2)
    again.open(config)
    assert again.pool_status().buffers == config.buffers_max + config.read_buffers + config.repair_buffers
    (lease,) = again.lease(book.reply(0, 64 * KIB))
    again.write_durable({0: lease}, op=book.op)
    assert again.read(0, book.header(0)) == book.replies[0]
    assert driver.double(driver.storage).counters == {}
    again.close()
    assert again.pool_status().held == 0


def test_closing_waits_for_what_is_in_flight_and_refuses_what_is_new(asys: OwnedSystem, tmp_path: Path) -> None:
    """A read is refused at once; a write, a checkpoint and a repair end first; then everything has been given back."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.commit(book, 0)
    for lane in ("write", "read", "checkpoint"):
        driver.hold(lane)
    read = driver.ask_read(0, book.header(0))
    driver.held("read")
    number = driver.start_checkpoint(book)
    driver.held("checkpoint")
    (lease,) = driver.lease(book.reply(1, 20 * KIB))
    driver.write({1: lease}, op=book.op)
    driver.held("write")
    driver.number += 1
    driver.send(CloseReplies(owner=driver.owner, number=driver.number))
    assert driver.read_answer(read) is NotRead.CLOSED
    assert driver.read(0, book.header(0)) is NotRead.CLOSED
    driver.number += 1
    refused = driver.try_write({}, op=book.op)
    assert isinstance(refused, WritesRefused)
    assert refused.fault.kind is FaultKind.CLOSING
    for lane in ("read", "checkpoint", "write"):
        assert not driver.has(RepliesClosed)
        driver.let_go(lane)
    driver.checkpoint_done(number)
    driver.expect(RepliesClosed)
    assert driver.pool_status().held == 0
    assert slot_bytes(config, 1, 20 * KIB) == book.replies[1]
