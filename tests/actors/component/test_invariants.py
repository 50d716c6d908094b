"""The design's invariants, each shown by a replica's component through messages; the number is in the test's name.

Each test fails when the line that keeps its invariant is removed.
"""

from functools import partial
from pathlib import Path

import pytest

from client_replies.actors.thespian.system import OwnedSystem
from client_replies.messages.config import RepliesConfig
from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.peers import GetReplies, Missing, RepliesFound, RepliesMissing
from client_replies.messages.replies import (
    CheckpointDone,
    NotRead,
    RepliesRepaired,
    RepliesStatus,
    ReplyLost,
    ReplyNotRead,
    ReplyRead,
    SlotsDurable,
    StorageFailed,
    WritesRefused,
)
from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import HEADER_SIZE
from client_replies.messages.storage_io import StorageOpenFailed, StorageStopped, WriteCheckpoint
from client_replies.storage.client_sessions import ClientSessions, DuplicateRequest, SessionTooLow

from tests.actors.doubles import Asked, FailDevice
from tests.actors.driver import (
    CLUSTER,
    KIB,
    Book,
    Driver,
    StorageClient,
    config_for,
    damage,
    found,
    missing,
    slot_bytes,
)

IO_ERROR = Fault(kind=FaultKind.IO_ERROR, found="EIO", expected="a write")


def damaged(driver: Driver, config: RepliesConfig, book: Book, *slots: int) -> None:
    """Write replies, damage them on disk and let the component find out."""
    driver.commit(book, *slots)
    for slot in slots:
        damage(config, slot)
        assert driver.read(slot, book.header(slot)) is NotRead.CORRUPT
    assert driver.status().faulty == slots


def test_1_a_faulty_slot_expects_a_reply_that_nothing_pending_will_write(asys: OwnedSystem, tmp_path: Path) -> None:
    """A removal ends the fault; an installed reply whose write is in flight is none; nor is one without a body."""
    config, book, other = config_for(tmp_path / "file"), Book(), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    damaged(driver, config, book, 3)
    driver.remove(3, op=book.op)
    assert driver.status().faulty == ()

    driver.hold("write")
    for _ in range(book.op - other.op):
        other.reply(0)
    driver.write({1: book.reply(1)}, op=book.op)
    driver.held("write")
    assert driver.install(other).faulty == (0,)
    book.sessions.remove(4)
    assert driver.install(book).faulty == ()
    assert driver.read(1, book.header(1)) == book.replies[1]
    driver.let_go("write")
    driver.durable(1)
    assert driver.read(1, book.header(1)) == book.replies[1]
    driver.close()


def test_2_accepting_a_write_clears_the_fault_at_once(asys: OwnedSystem, tmp_path: Path) -> None:
    """While the write is only accepted, the slot is not faulty, not asked of peers, and served from memory."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    damaged(driver, config, book, 0)
    driver.hold("write")
    driver.write({0: book.replies[0]}, op=book.op)
    assert driver.status().faulty == ()
    assert driver.read(0, book.header(0)) == book.replies[0]
    driver.held("write")
    driver.let_go("write")
    driver.durable(0)
    assert slot_bytes(config, 0, 300) == book.replies[0]
    driver.close()


def test_2_completing_a_write_clears_nothing(asys: OwnedSystem, tmp_path: Path) -> None:
    """The write of a reply that is obsolete by now ends, and the slot is as faulty as before."""
    config, book, ahead = config_for(tmp_path / "file"), Book(), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("write")
    driver.write({0: book.reply(0)}, op=book.op)
    driver.held("write")
    ahead.reply(0)
    ahead.reply(0)
    assert driver.install(ahead).faulty == (0,)
    driver.let_go("write")
    status = driver.until(lambda status: not status.queues["writes"], 0)
    assert (status.faulty, status.durable) == ((0,), (False,))
    driver.close()


def test_3_a_failed_read_of_a_reply_that_was_replaced_marks_nothing(asys: OwnedSystem, tmp_path: Path) -> None:
    """The read began before the write was accepted: what it found says nothing about what the disk holds now."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.commit(book, 0)
    damage(config, 0)
    driver.hold("read")
    read = driver.ask_read(0, book.header(0))
    driver.held("read")
    driver.commit(book, 0)
    driver.let_go("read")
    assert driver.read_answer(read) is NotRead.UNEXPECTED
    assert driver.status(0).durable == (True,)
    assert driver.read(0, book.header(0)) == book.replies[0]
    driver.close()


def scrubbing(path: Path) -> RepliesConfig:
    """Give a component that scrubs all the time."""
    return config_for(path, scrub_bytes_per_second=2**30, scrub_interval=0.001, scrub_pass_interval=0.0)


def rot_found_and_not_told(driver: Driver, config: RepliesConfig, book: Book, slot: int) -> None:
    """Write a reply and damage it; the scrubber has found that, and its finding is kept back."""
    driver.hold("verify")
    driver.hold("write")
    driver.write({slot: book.reply(slot)}, op=book.op)
    driver.held("write")
    damage(config, slot)
    driver.let_go("write")
    driver.held("verify")


def test_3_a_failed_read_that_a_write_of_the_same_reply_overtook_marks_nothing(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """The scrubber's finding arrives after the slot was found faulty and written again: the slot is good."""
    config, book = scrubbing(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    rot_found_and_not_told(driver, config, book, 0)
    assert driver.read(0, book.header(0)) is NotRead.CORRUPT
    driver.write_durable({0: book.replies[0]}, op=book.op)
    passes = driver.status().counters["scrub_passes"]
    driver.let_go("verify")
    driver.until(lambda status: status.counters["scrub_passes"] > passes + 1)
    status = driver.status(0)
    assert (status.faulty, status.durable, status.counters["slot_faulty"]) == ((), (True,), 1)
    driver.close()


def test_4_accepting_a_write_answers_the_pending_reads_of_that_reply(asys: OwnedSystem, tmp_path: Path) -> None:
    """The read in flight, which will fail, is answered from memory; the one behind it does not wait for the disk."""
    config, book = scrubbing(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    rot_found_and_not_told(driver, config, book, 0)
    driver.hold("read")
    in_flight = driver.ask_read(0, book.header(0))
    driver.held("read")
    waiting = driver.ask_read(0, book.header(0))
    driver.hold("write")
    driver.status()
    driver.let_go("verify")
    assert driver.read_answer(waiting) is NotRead.CORRUPT
    driver.write({0: book.replies[0]}, op=book.op)
    assert driver.read_answer(in_flight) == book.replies[0]
    driver.held("write")
    driver.let_go("read")
    driver.let_go("write")
    driver.durable(0)
    assert not driver.has(ReplyRead, ReplyNotRead)
    driver.close()


def test_5_a_newer_write_replaces_the_queued_one_whose_buffer_is_not_read(asys: OwnedSystem, tmp_path: Path) -> None:
    """One in flight, one queued: of three replies in buffers the second is never written, and all buffers are free."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    own = driver.pool_status().held
    driver.hold("write")
    leases = driver.lease(*(book.reply(0, 20 * KIB) for _ in range(3)))
    for op, lease in enumerate(leases, start=book.op - 2):
        driver.write({0: lease}, op=op)
    driver.memory.buffer(leases[1])[:KIB] = bytes(KIB)
    assert driver.held("write").slots == (0,)
    assert driver.status().queues["writes"] == 2
    driver.let_go("write", keep_on=True)
    assert driver.held("write").slots == (0,)
    driver.let_go("write", keep_on=True)
    driver.durable(0)
    assert driver.release(*leases).stale == ()
    assert driver.pool_status().held == own
    assert slot_bytes(config, 0, 20 * KIB) == book.replies[0]
    driver.close()


def repair_held(driver: Driver, config: RepliesConfig, book: Book, slot: int, size: int = 300) -> None:
    """Damage a slot and repair it from a peer; that the repair is durable is kept back."""
    peer = driver.scripted_peer(1)
    driver.hold("repair")
    if size > config.inline_size_max:
        (lease,) = driver.lease(book.reply(slot, size))
        driver.write_durable({slot: lease}, op=book.op)
    else:
        driver.commit(book, slot, size=size)
    damage(config, slot)
    assert driver.read(slot, book.header(slot)) is NotRead.CORRUPT
    driver.set_peers((1, peer))
    driver.answer_as(peer, found(driver.asked(1), 1, {slot: book.replies[slot]}))
    assert driver.held("repair").slots == (slot,)


def test_5_a_busy_slot_holds_up_no_other_and_has_one_write_in_flight(asys: OwnedSystem, tmp_path: Path) -> None:
    """Slot 0 is being repaired: its commit waits behind that, the commit of slot 1, which came later, does not."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    repair_held(driver, config, book, 0)
    driver.write({0: book.reply(0)}, op=book.op)
    driver.hold("write")
    driver.write({1: book.reply(1)}, op=book.op)
    assert driver.held("write").slots == (1,)
    driver.let_go("write")
    driver.durable(1)
    assert driver.status(0, 1).durable == (False, True)
    driver.let_go("repair")
    driver.durable(0)
    assert slot_bytes(config, 0, 300) == book.replies[0]
    driver.close()


def test_6_an_obsolete_write_in_flight_is_neither_served_nor_taken_as_proof(asys: OwnedSystem, tmp_path: Path) -> None:
    """A state sync made it obsolete: no reader and no peer gets it, and the slot stays faulty when it ends."""
    config, book, ahead = config_for(tmp_path / "file"), Book(), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("write")
    driver.write({0: book.reply(0)}, op=book.op)
    driver.held("write")
    ahead.reply(0)
    ahead.reply(0)
    assert driver.install(ahead).faulty == (0,)
    assert driver.read(0, book.header(0)) is NotRead.UNEXPECTED
    assert driver.read(0, ahead.header(0)) is NotRead.CORRUPT
    driver.be_peer(9)
    headers = {"old": book.header(0), "new": ahead.header(0)}
    reasons = {}
    for request, (name, header) in enumerate(headers.items(), start=1):
        question = GetReplies(asker=9, incarnation=1, request=request, bytes_max=10**6, slots=(0,), headers=header)
        driver.send(question)
        reasons[name] = driver.expect(RepliesFound, RepliesMissing).reasons
    assert reasons == {"old": (Missing.SUPERSEDED,), "new": (Missing.FAULTY,)}
    driver.let_go("write")
    driver.until(lambda status: not status.queues["writes"])
    assert driver.status().faulty == (0,)
    assert driver.read(0, ahead.header(0)) is NotRead.CORRUPT
    driver.close()


def test_7_repairs_take_no_capacity_that_commits_were_promised(asys: OwnedSystem, tmp_path: Path) -> None:
    """With a large repair in flight every buffer and all of the credit are still there for commits."""
    config, book = config_for(tmp_path / "file", writes_max=4, repairs_max=2), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    repair_held(driver, config, book, 0, size=20 * KIB)
    leases = driver.lease(*(book.reply(slot, 20 * KIB) for slot in range(1, 5)))
    assert len(leases) == config.buffers_max
    assert driver.write({}, op=book.op).credit == 4
    driver.write_durable(dict(zip(range(1, 5), leases, strict=True)), op=book.op)
    driver.let_go("repair")
    driver.expect(RepliesRepaired)
    driver.close()


def test_7_repairs_never_delay_a_checkpoint_and_may_go_on_during_one(asys: OwnedSystem, tmp_path: Path) -> None:
    """While a repair is in flight, commits become durable and a checkpoint begins and ends."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    repair_held(driver, config, book, 0)
    driver.commit(book, 1)
    assert driver.checkpoint(book).sequence == 1
    assert not driver.has(RepliesRepaired)
    driver.let_go("repair")
    assert driver.expect(RepliesRepaired).slots == (0,)
    driver.close()


def test_8_a_checkpoint_is_not_starved_by_commits_that_arrive_after_it(asys: OwnedSystem, tmp_path: Path) -> None:
    """It waits for the write that was accepted before it; the later ones are accepted and hold it up no more."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("write")
    driver.write({0: book.reply(0)}, op=book.op)
    driver.held("write")
    number = driver.start_checkpoint(book)
    for slot in (1, 2, 3):
        driver.write({slot: book.reply(slot)}, op=book.op)
    assert not driver.has(CheckpointDone)
    assert driver.held("write").slots == (1,)
    driver.let_go("write", keep_on=True)
    assert driver.checkpoint_done(number).sequence == 1
    assert driver.held("write").slots == (2, 3)
    driver.let_go("write")
    driver.durable(1, 2, 3)
    driver.close()


def test_8_a_checkpoint_waits_for_the_newer_reply_in_the_place_of_one_it_counts_on(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """The older one is never written; the newer one is due when that was, so the checkpoint is no later."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("write")
    for slot in (0, 2):  # A group in each lane, so that the next one has to wait.
        driver.write({slot: book.reply(slot)}, op=book.op)
        driver.held("write")
    driver.write({1: book.reply(1)}, op=book.op)
    number = driver.start_checkpoint(book)
    driver.write({3: book.reply(3)}, op=book.op)
    driver.write({1: book.reply(1)}, op=book.op)
    driver.let_go("write", keep_on=True)
    assert driver.held("write").slots == (1, 3)
    assert not driver.has(CheckpointDone)
    driver.let_go("write")
    driver.checkpoint_done(number)
    assert slot_bytes(config, 1, 300) == book.replies[1]
    driver.close()


def test_9_a_sync_is_complete_when_the_repaired_replies_are_durable(asys: OwnedSystem, tmp_path: Path) -> None:
    """When they have only arrived, and while they are being written, nothing is said."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("repair")
    peer = driver.scripted_peer(1)
    driver.set_peers((1, peer))
    book.reply(0)
    book.reply(2)
    faulty = driver.install(book).faulty
    assert faulty == (0, 2)
    wait = driver.await_durable(*faulty)
    request = driver.asked(1)
    driver.answer_as(peer, found(request, 1, {0: book.replies[0]}))
    driver.held("repair")
    driver.answer_as(peer, found(request, 1, {2: book.replies[2]}))
    driver.until(lambda status: status.queues["repairs_queued"] == 1)
    assert driver.status(*faulty).durable == (False, False)
    assert not driver.has(SlotsDurable, RepliesRepaired)
    driver.let_go("repair", keep_on=True)
    driver.held("repair")
    assert driver.expect(RepliesRepaired).slots == (0,)
    assert driver.status(*faulty).durable == (True, False)
    assert not driver.has(SlotsDurable, RepliesRepaired)
    driver.let_go("repair")
    assert driver.expect(SlotsDurable).wait == wait
    assert driver.expect(RepliesRepaired).slots == (2,)
    assert [slot_bytes(config, slot, 300) for slot in faulty] == [book.replies[0], book.replies[2]]
    driver.close()


def wrong_replies(book: Book) -> dict[str, tuple[str, bytes]]:
    """Give what is not the expected reply of slot 0, by name, with the counter that is to notice."""
    good, twin = book.replies[0], Book()
    for _ in range(book.op - twin.op - 1):
        twin.reply(1)
    other_bytes = twin.reply(0, operation=201)
    flipped = {
        name: good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for name, at in (("body", 299), ("header", 200))
    }
    return {
        "another reply of the client": ("repair_unwanted", other_bytes),
        "a body with a flipped bit": ("repair_rejected", flipped["body"]),
        "a header with a flipped bit": ("repair_unwanted", flipped["header"]),
        "bytes that are missing": ("repair_rejected", good[:-1]),
        "bytes after the end": ("repair_rejected", good + b"x"),
        "no body": ("repair_rejected", good[:HEADER_SIZE]),
    }


def counted_beyond(counter: str, before: int, status: RepliesStatus) -> bool:
    """Say whether the counter has grown."""
    return status.counters.get(counter, 0) > before


def test_10_what_a_peer_sends_is_exactly_what_is_expected_or_is_dropped(asys: OwnedSystem, tmp_path: Path) -> None:
    """Each wrong reply is counted and changes nothing; the right one, from the same peer, repairs the slot."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    damaged(driver, config, book, 0)
    peer = driver.scripted_peer(1)
    driver.set_peers((1, peer))
    for what, (counter, reply) in wrong_replies(book).items():
        before = driver.status().counters.get(counter, 0)
        driver.answer_as(peer, found(driver.asked(1), 1, {0: reply}))
        status = driver.until(partial(counted_beyond, counter, before))
        assert (status.faulty, status.queues["repairs_queued"]) == ((0,), 0), what
    driver.answer_as(peer, found(driver.asked(1), 1, {0: book.replies[0], 5: book.replies[0]}))
    assert driver.expect(RepliesRepaired).slots == (0,)
    assert driver.status().faulty == ()
    assert driver.read(0, book.header(0)) == book.replies[0]
    driver.close()


def test_11_a_reply_is_lost_only_when_every_peer_says_that_it_does_not_hold_it(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """One peer denies again and again, the other is behind, busy, silent: nothing is lost. Then it denies too."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    damaged(driver, config, book, 0)
    peers = {number: driver.scripted_peer(number) for number in (1, 2)}
    driver.set_peers(*peers.items())
    for reason in (Missing.BEHIND, Missing.BUSY, None):
        driver.answer_as(peers[1], missing(driver.asked(1), 1, Missing.SUPERSEDED))
        request = driver.asked(2)
        if reason is not None:
            driver.answer_as(peers[2], missing(request, 2, reason))
    driver.asked(2)
    assert not driver.has(ReplyLost)
    assert driver.read(0, book.header(0)) is NotRead.CORRUPT
    while isinstance(told := driver.expect(Asked, ReplyLost), Asked):
        driver.answer_as(peers[told.peer], missing(told.request, told.peer, Missing.FAULTY))
    assert (told.slot, told.header) == (0, book.header(0))
    assert driver.status().lost == (0,)
    assert driver.read(0, book.header(0)) is NotRead.LOST
    driver.close()


def committed_on(driver: Driver, path: Path, replica: int, *, restarts: bool) -> ClientSessions:
    """Commit the same history on one replica, with a restart in its middle or without, and register one client more."""
    config, book = config_for(path, replica=replica), Book()
    driver.open(config)
    driver.commit(book, 5, 0, 3)
    driver.commit(book, 0, 1, 2, 4, 6)
    sessions = book.sessions
    if restarts:
        driver.checkpoint(book)
        driver.close()
        driver = Driver(driver.system)
        opened = driver.open(config)
        sessions = ClientSessions.decode(opened.sessions, clients_max=config.clients_max, cluster=CLUSTER)
    else:
        for slot in (7, 5):  # what is only asked is not committed
            assert driver.read(slot, book.header(5)) in (NotRead.UNEXPECTED, book.replies[5])
            sessions.check(slot + 1, slot + 1, 1, bytes(16))
    book.sessions = sessions
    assert book.register(100) == 7, "the session that committed nothing after its registration goes first"
    assert book.register(101) == 5, "then the one with the smallest commit"
    driver.remove(5, op=book.op)
    driver.checkpoint(book)
    driver.close()
    return book.sessions


def test_12_eviction_and_slots_depend_on_committed_state_alone(asys: OwnedSystem, tmp_path: Path) -> None:
    """A replica that restarted and one that did not, and was asked more, evict the same and store the same table."""
    first = committed_on(Driver(asys), tmp_path / "a", 0, restarts=False)
    second = committed_on(Driver(asys), tmp_path / "b", 1, restarts=True)
    assert first.encode() == second.encode()


def test_13_an_evicted_client_whose_late_registration_commits_again_is_not_stranded(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """Its requests under the old session are told that it is gone, and no reply of the old session is served."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    driver.commit(book, 0)
    old_session, old_reply = book.sessions.session_of(1), book.header(0)
    assert old_session is not None
    book.sessions.remove(1)
    driver.remove(0, op=book.op)
    assert book.register(1) == 0
    driver.checkpoint(book)
    driver.close()

    again = Driver(asys)
    opened = again.open(config)
    sessions = ClientSessions.decode(opened.sessions, clients_max=config.clients_max, cluster=CLUSTER)
    new_session = sessions.session_of(1)
    assert new_session is not None
    assert new_session > old_session
    for request in (1, 2, 3):
        assert sessions.check(1, old_session, request, bytes(16)) == SessionTooLow(new_session)
    assert not isinstance(sessions.check(1, old_session, 1, bytes(16)), DuplicateRequest)
    assert again.read(0, old_reply) is NotRead.UNEXPECTED
    again.close()


@pytest.mark.parametrize("on_sync", [False, True], ids=["write", "sync"])
def test_14_a_write_error_is_not_retried(asys: OwnedSystem, tmp_path: Path, on_sync: bool) -> None:
    """The owner is told what happened; although the device is well again, nothing more is written to the file."""
    config, book = config_for(tmp_path / "file"), Book()
    formatter = Driver(asys)
    formatter.open(config)
    formatter.close()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.script(FailDevice(fault=IO_ERROR, on_sync=on_sync))
    driver.write({0: book.reply(0)}, op=book.op)
    assert driver.expect(StorageFailed).fault == IO_ERROR
    driver.script(FailDevice(fault=None))
    done = driver.double(driver.storage).device
    refused = driver.try_write({1: book.reply(1)}, op=book.op)
    assert isinstance(refused, WritesRefused)
    assert refused.fault == IO_ERROR
    assert driver.read(0, book.header(0)) is NotRead.CLOSED
    assert driver.double(driver.storage).device == done
    assert driver.status().stopped == IO_ERROR


def test_14_a_storage_that_stopped_writes_nothing_more(asys: OwnedSystem, tmp_path: Path) -> None:
    """Whatever it is asked, it says what happened and leaves the disk alone, although that is well again."""
    client, book = StorageClient(asys, config_for(tmp_path / "file")), Book()
    client.open_storage()
    client.close_storage()
    client.open_storage()
    client.script(FailDevice(fault=IO_ERROR))
    client.write_slots({0: book.reply(0)})
    assert client.expect(StorageStopped).fault == IO_ERROR
    client.script(FailDevice(fault=None))
    done = client.double(client.storage).device
    client.write_slots({0: book.reply(0)})
    client.write_slots({1: book.reply(1)}, repair=True)
    client.send(WriteCheckpoint(batch=1, sequence=1, op=book.op, sessions=book.encode()))
    for _ in range(3):
        assert client.expect(StorageStopped).fault == IO_ERROR
    client.close_storage()
    client.send(client.opening())
    assert client.expect(StorageOpenFailed).fault == IO_ERROR
    assert client.double(client.storage).device == done


def test_15_a_stored_reply_is_built_from_the_committed_request_alone(asys: OwnedSystem, tmp_path: Path) -> None:
    """Two replicas commit the same in other batches, one after larger replies: the slots have the same bytes.

    View and replica in the header are those of the prepare, whichever replica stores it, and a reply that is built
    again, later, is the same reply: the component takes it for the one that it has.
    """
    stored = []
    for replica, detour in ((0, False), (1, True)):
        config, book = config_for(tmp_path / f"file-{replica}", replica=replica), Book()
        driver = Driver(asys, scripted=True)
        driver.open(config)
        if detour:
            driver.commit(book, 0, 1, size=4 * KIB)
        else:
            book.reply(0)
            book.reply(1)
        for slot in (0, 1):
            driver.write({slot: book.reply(slot, view=3, replica=2)}, op=book.op)
            if detour:
                driver.durable(slot)
        driver.durable(0, 1)
        header = Reply.unpack(book.replies[0]).header
        assert (header.view, header.replica) == (3, 2)
        assert driver.read(0, book.header(0)) == book.replies[0]
        driver.hold("write")
        driver.write({0: Reply(header=header, body=book.replies[0][HEADER_SIZE:]).pack()}, op=book.op)
        assert driver.status(0).durable == (True,)
        driver.close()
        stored.append([slot_bytes(config, slot, 4 * KIB) for slot in (0, 1)])
    assert stored[0] == stored[1]
