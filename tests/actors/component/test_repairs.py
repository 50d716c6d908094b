"""Repair between the components of replicas, and from peers that answer late, wrongly or not at all."""

from pathlib import Path
from typing import Any

import pytest

from client_replies.actors.thespian.system import OwnedSystem
from client_replies.messages.config import RepliesConfig
from client_replies.messages.peers import GetReplies, Missing, RepliesFound, RepliesMissing
from client_replies.messages.replies import NotRead, RepliesRepaired, ReplyLost, SlotsDurable
from client_replies.messages.reply_header import HEADER_SIZE

from tests.actors.driver import KIB, Book, Driver, config_for, damage, found, missing, slot_bytes


def replica(system: OwnedSystem, path: Path, number: int, **changes: Any) -> tuple[Driver, RepliesConfig]:
    """Open a component as this replica."""
    driver = Driver(system)
    config = config_for(path / f"file-{number}", replica=number, **changes)
    driver.open(config)
    return driver, config


def test_damage_is_repaired_from_another_replica_byte_for_byte(asys: OwnedSystem, tmp_path: Path) -> None:
    """CORRUPT, then `RepliesRepaired`, then the original bytes, from memory and from the file; large replies too."""
    book = Book()
    first, config = replica(asys, tmp_path, 0)
    second, other_config = replica(asys, tmp_path, 1)
    replies = {0: book.reply(0), 1: book.reply(1, 20 * KIB), 2: book.reply(2, 32 * KIB)}
    for driver in (first, second):
        small = {0: replies[0]}
        large = dict(zip((1, 2), driver.lease(replies[1], replies[2]), strict=True))
        driver.write_durable({**small, **large}, op=book.op)
    for slot, offset in ((0, 0), (1, 5000), (2, 32 * KIB - 10)):
        damage(config, slot, offset)
        assert first.read(slot, book.header(slot)) is NotRead.CORRUPT
    wait = first.await_durable(0, 1, 2)
    second.set_peers((0, first.replies))
    first.set_peers((1, second.replies))
    repaired: dict[int, bytes] = {}
    while len(repaired) < 3:
        repaired.update(first.expect(RepliesRepaired).repaired)
    assert repaired == {slot: book.header(slot) for slot in range(3)}
    assert first.expect(SlotsDurable).wait == wait
    for slot in range(3):
        assert first.read(slot, book.header(slot)) == replies[slot]
        assert slot_bytes(config, slot) == slot_bytes(other_config, slot)
    assert first.status().queues["repair_buffers"] == config.repair_buffers
    for driver in (first, second):
        driver.checkpoint(book)
        driver.close()
        assert driver.pool_status().held == 0


def test_a_repaired_reply_is_served_while_it_waits_for_a_buffer_to_be_written_from(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """It came as bytes and was verified: nobody has to wait for the disk, nor for the buffers of those before it."""
    config, book = config_for(tmp_path / "file", repair_buffers=1), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    for slot in range(2):
        (lease,) = driver.lease(book.reply(slot, 20 * KIB))
        driver.write_durable({slot: lease}, op=book.op)
        damage(config, slot, 5000)
        assert driver.read(slot, book.header(slot)) is NotRead.CORRUPT
    peer = driver.scripted_peer(1)
    driver.hold("repair")
    driver.set_peers((1, peer))
    driver.answer_as(peer, found(driver.asked(1), 1, {slot: book.replies[slot] for slot in range(2)}))
    driver.held("repair")
    assert driver.status().queues["repairs_queued"] == 1
    assert [driver.read(slot, book.header(slot)) for slot in range(2)] == [book.replies[slot] for slot in range(2)]
    driver.let_go("repair")
    driver.durable(0, 1)
    assert [slot_bytes(config, slot, 20 * KIB) for slot in range(2)] == [book.replies[slot] for slot in range(2)]
    assert driver.status().queues["repair_buffers"] == 1
    driver.close()


@pytest.mark.slow
def test_a_synced_replica_gets_every_reply_from_its_peers_durably(asys: OwnedSystem, tmp_path: Path) -> None:
    """All slots of a new table are repaired, in several requests within the budget, and survive a restart."""
    book = Book()
    source, _config = replica(asys, tmp_path, 1)
    for slot in range(8):
        (lease,) = source.lease(book.reply(slot, 20 * KIB))
        source.write_durable({slot: lease}, op=book.op)
    target, config = replica(asys, tmp_path, 0, repairs_max=3, repair_bytes_max=40 * KIB)
    faulty = target.install(book).faulty
    assert faulty == tuple(range(8))
    source.set_peers((0, target.replies))
    target.set_peers((1, source.replies))
    target.durable(*faulty)
    target.checkpoint(book)
    target.close()
    again = Driver(asys)
    assert again.open(config).faulty == ()
    assert [again.read(slot, book.header(slot)) for slot in range(8)] == [book.replies[slot] for slot in range(8)]
    again.close()
    source.close()


def test_one_peer_is_silent_and_the_other_one_repairs(asys: OwnedSystem, tmp_path: Path) -> None:
    """The silent one costs a timeout, not the repair."""
    book = Book()
    driver, config = replica(asys, tmp_path, 0)
    healthy, _config = replica(asys, tmp_path, 2)
    for each in (driver, healthy):
        each.write_durable({0: book.replies.get(0) or book.reply(0)}, op=book.op)
    healthy.set_peers((0, driver.replies))
    silent = driver.scripted_peer(1)
    damage(config, 0)
    assert driver.read(0, book.header(0)) is NotRead.CORRUPT
    driver.set_peers((1, silent), (2, healthy.replies))
    assert driver.asked(1).slots == (0,)
    assert driver.expect(RepliesRepaired).slots == (0,)
    assert driver.read(0, book.header(0)) == book.replies[0]
    driver.close()
    healthy.close()


def test_a_reply_that_comes_after_its_timeout_is_still_used(asys: OwnedSystem, tmp_path: Path) -> None:
    """It is verified by itself, so it does not matter which question it answers."""
    book = Book()
    driver, config = replica(asys, tmp_path, 0)
    peer = driver.scripted_peer(1)
    driver.commit(book, 0)
    damage(config, 0)
    driver.read(0, book.header(0))
    driver.set_peers((1, peer))
    late = driver.asked(1)
    driver.asked(1)
    driver.answer_as(peer, found(late, 1, {0: book.replies[0]}))
    assert driver.expect(RepliesRepaired).slots == (0,)
    driver.answer_as(peer, found(late, 1, {0: book.replies[0]}))
    driver.until(lambda status: status.counters.get("repair_unwanted"))
    assert not driver.has(RepliesRepaired)
    driver.close()


def test_a_denial_that_comes_after_its_timeout_counts_for_nothing(asys: OwnedSystem, tmp_path: Path) -> None:
    """It says what was true then: the peer may hold the reply by now."""
    book = Book()
    driver, config = replica(asys, tmp_path, 0)
    peer = driver.scripted_peer(1)
    driver.commit(book, 0)
    damage(config, 0)
    driver.read(0, book.header(0))
    driver.set_peers((1, peer))
    late = driver.asked(1)
    newer = driver.asked(1)
    driver.answer_as(peer, missing(late, 1, Missing.SUPERSEDED))
    driver.answer_as(peer, found(newer, 1, {0: book.replies[0]}))
    driver.expect(RepliesRepaired)
    assert not driver.has(ReplyLost)
    driver.close()


def test_answers_to_an_earlier_opening_are_dropped(asys: OwnedSystem, tmp_path: Path) -> None:
    """The same slot may be about another reply since: neither a reply nor a denial of then counts."""
    book = Book()
    driver, config = replica(asys, tmp_path, 0)
    peer = driver.scripted_peer(1)
    driver.commit(book, 0)
    driver.checkpoint(book)
    damage(config, 0)
    driver.read(0, book.header(0))
    driver.set_peers((1, peer))
    old = driver.asked(1)
    driver.close()
    again = Driver(asys, replies=driver.replies)
    assert again.open(config).faulty == (0,)
    again.be_peer(1)
    again.send(found(old, 1, {0: book.replies[0]}))
    again.send(missing(old, 1, Missing.SUPERSEDED))
    status = again.until(lambda status: status.counters.get("repair_not_ours", 0) == 2)
    assert (status.faulty, status.lost) == ((0,), ())
    again.close()


def test_without_peers_what_is_damaged_is_lost_and_is_told_once(asys: OwnedSystem, tmp_path: Path) -> None:
    """A replica on its own has nothing to repair from; the next reply of the session ends the loss."""
    book = Book()
    driver, config = replica(asys, tmp_path, 0)
    driver.commit(book, 0)
    damage(config, 0)
    assert driver.read(0, book.header(0)) is NotRead.CORRUPT
    driver.set_peers()
    assert driver.expect(ReplyLost).slot == 0
    assert driver.read(0, book.header(0)) is NotRead.LOST
    assert not driver.has(ReplyLost)
    driver.commit(book, 0)
    assert driver.status().lost == ()
    assert driver.read(0, book.header(0)) == book.replies[0]
    damage(config, 0)
    driver.set_peers((1, driver.scripted_peer(1)), version=2)
    assert driver.read(0, book.header(0)) is NotRead.CORRUPT
    driver.close()


def test_new_peers_are_asked_for_what_the_old_ones_did_not_hold(asys: OwnedSystem, tmp_path: Path) -> None:
    """A loss is a loss only while nobody else may hold the reply; an older list of peers is ignored."""
    book = Book()
    driver, config = replica(asys, tmp_path, 0)
    driver.commit(book, 0)
    damage(config, 0)
    driver.read(0, book.header(0))
    driver.set_peers(version=2)
    driver.expect(ReplyLost)
    peer = driver.scripted_peer(1)
    driver.set_peers((1, peer), version=3)
    driver.answer_as(peer, found(driver.asked(1), 1, {0: book.replies[0]}))
    driver.expect(RepliesRepaired)
    assert driver.read(0, book.header(0)) == book.replies[0]
    driver.close()


def asked_for(book: Book, request: int, *slots: int, bytes_max: int = 10**6) -> GetReplies:
    """Ask as another replica would."""
    headers = b"".join(book.header(slot) for slot in slots)
    return GetReplies(asker=3, incarnation=5, request=request, bytes_max=bytes_max, slots=slots, headers=headers)


def test_each_slot_that_a_peer_asks_for_is_answered_with_its_reply_or_its_reason(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """Held, damaged, replaced, not there yet: each by its name; what is being written comes from memory."""
    config, book, ahead = config_for(tmp_path / "file"), Book(), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.be_peer(3)
    driver.commit(book, 0, 1, 2)
    damage(config, 1)
    old = book.header(2)
    driver.commit(book, 2)
    driver.hold("write")
    driver.write({3: book.reply(3)}, op=book.op)
    for _ in range(10):
        ahead.reply(4)
    headers = book.header(0) + book.header(1) + old + book.header(3) + ahead.header(4)
    request = GetReplies(asker=3, incarnation=5, request=1, bytes_max=10**6, slots=(0, 1, 2, 3, 4), headers=headers)
    driver.send(request)
    answer = driver.expect(RepliesFound)
    assert (answer.asker, answer.incarnation, answer.request, answer.peer) == (3, 5, 1, 0)
    assert dict(zip(answer.slots, answer.replies, strict=True)) == {slot: book.replies[slot] for slot in (0, 3)}
    refused = driver.expect(RepliesMissing)
    assert dict(zip(refused.slots, refused.reasons, strict=True)) == {
        1: Missing.FAULTY,
        2: Missing.SUPERSEDED,
        4: Missing.BEHIND,
    }
    driver.held("write")
    driver.let_go("write")
    driver.close()


def test_an_answer_to_a_peer_stays_within_its_bytes_and_the_reads_for_peers_are_bounded(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """What exceeds either limit is called busy, which is no denial."""
    config, book = config_for(tmp_path / "file", peer_reads_max=2), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.be_peer(3)
    driver.commit(book, *range(4))
    driver.send(asked_for(book, 1, 0, 1, bytes_max=400))
    assert driver.expect(RepliesFound).slots == (0,)
    answer = driver.expect(RepliesMissing)
    assert (answer.slots, answer.reasons) == ((1,), (Missing.BUSY,))
    driver.hold("serve")
    driver.send(asked_for(book, 2, 0))
    driver.held("serve")
    driver.send(asked_for(book, 3, 0, 1, 2, 3))
    driver.until(lambda status: status.queues["peer_reads_waiting"] == 2)
    driver.let_go("serve")
    assert driver.expect(RepliesFound).slots == (0, 1)
    assert driver.expect(RepliesMissing).reasons == (Missing.BUSY, Missing.BUSY)
    driver.close()


def test_a_read_of_the_replica_does_not_wait_for_a_read_for_a_peer(asys: OwnedSystem, tmp_path: Path) -> None:
    """They have a lane each; the peer is answered when its own read ends."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.be_peer(3)
    driver.commit(book, 0, 1)
    driver.hold("serve")
    driver.send(asked_for(book, 1, 0))
    driver.held("serve")
    assert driver.read(1, book.header(1)) == book.replies[1]
    driver.let_go("serve")
    assert driver.expect(RepliesFound).slots == (0,)
    driver.close()


def test_a_newer_question_of_a_peer_replaces_the_one_in_progress(asys: OwnedSystem, tmp_path: Path) -> None:
    """The peer has given up on the older one: only the newer one is answered."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.be_peer(3)
    driver.commit(book, 0, 1)
    driver.hold("serve")
    driver.send(asked_for(book, 1, 0))
    driver.held("serve")
    driver.send(asked_for(book, 2, 1))
    driver.until(lambda status: status.queues["peer_reads_waiting"] == 1)
    driver.let_go("serve")
    answer = driver.expect(RepliesFound)
    assert (answer.request, answer.slots) == (2, (1,))
    assert not driver.has(RepliesFound, RepliesMissing)
    driver.close()


def test_a_component_that_is_not_open_tells_peers_nothing(asys: OwnedSystem, tmp_path: Path) -> None:
    """It does not know what it holds: a denial from it could make somebody's reply lost."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    book.reply(0)
    driver.send(asked_for(book, 1, 0))
    assert not driver.has(RepliesFound, RepliesMissing)
    driver.open(config)
    driver.close()
    driver.send(asked_for(book, 2, 0))
    assert not driver.has(RepliesFound, RepliesMissing)
    assert len(book.header(0)) == HEADER_SIZE


def test_a_denial_that_was_true_when_it_was_looked_up_is_not_sent_when_it_is_not(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """The answer waits for another slot's read; meanwhile the damaged one is repaired, and is denied no more."""
    book, config = Book(), config_for(tmp_path / "file")
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.commit(book, 0, 1)
    damage(config, 0)
    assert driver.read(0, book.header(0)) is NotRead.CORRUPT
    driver.be_peer(1)
    asked = driver.expect(GetReplies)
    driver.hold("serve")
    headers = book.header(0) + book.header(1)
    driver.send(GetReplies(asker=1, incarnation=1, request=1, bytes_max=10**6, slots=(0, 1), headers=headers))
    driver.held("serve")
    driver.send(found(asked, 1, {0: book.replies[0]}))
    assert driver.expect(RepliesRepaired).slots == (0,)
    driver.let_go("serve")
    assert driver.expect(RepliesFound).replies == (book.replies[1],)
    assert driver.expect(RepliesMissing).reasons == (Missing.BUSY,)
    driver.close()
