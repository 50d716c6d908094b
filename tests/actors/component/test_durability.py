"""What is said to be on disk is there; and the disk is read before anybody is asked for what may be on it."""

from __future__ import annotations

from pathlib import Path

from client_replies.actors.thespian.system import OwnedSystem
from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.peers import GetReplies, RepliesFound, RepliesMissing
from client_replies.messages.replies import (
    AwaitDurable,
    NotRead,
    RepliesDurable,
    RepliesRepaired,
    ReplyLost,
    SlotsDurable,
)

from tests.actors.doubles import Asked
from tests.actors.driver import Book, Driver, config_for, damage, slot_bytes


def test_a_wait_ends_with_the_reply_it_was_asked_for_though_newer_ones_keep_coming(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """Not with the one before it; and not put off by the next, also when it is asked again meanwhile."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("write")
    driver.write({1: book.reply(1)}, op=book.op)
    driver.held("write")
    driver.write({1: book.reply(1)}, op=book.op)
    wait = driver.await_durable(1)
    driver.let_go("write", keep_on=True)
    driver.held("write")
    wanted = book.replies[1]
    driver.write({1: book.reply(1)}, op=book.op)
    driver.send(AwaitDurable(owner=driver.owner, wait=wait, slots=(1,)))
    assert driver.status(1).durable == (False,)
    assert not driver.has(SlotsDurable)
    assert slot_bytes(config, 1, 300) == wanted
    driver.let_go("write", keep_on=True)
    assert driver.expect(SlotsDurable).wait == wait
    driver.held("write")
    driver.let_go("write")
    driver.close()


def test_a_wait_for_many_slots_is_not_put_off_by_one_that_is_busy(asys: OwnedSystem, tmp_path: Path) -> None:
    """The busy one had its reply on disk once, and has a newer one since."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.commit(book, 1)
    driver.hold("write")
    driver.write({2: book.reply(2)}, op=book.op)
    driver.held("write")
    wait = driver.await_durable(1, 2)
    driver.write({1: book.reply(1)}, op=book.op)
    driver.held("write")
    driver.write({1: book.reply(1)}, op=book.op)
    driver.let_go("write", keep_on=True)
    assert driver.expect(SlotsDurable).wait == wait
    driver.held("write")
    driver.let_go("write")
    driver.close()


def test_a_batch_is_durable_when_what_took_the_place_of_its_reply_is(asys: OwnedSystem, tmp_path: Path) -> None:
    """Neither the reply nor the newer one was on disk when the batch was called durable."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("write")
    for slot in (0, 2):  # a group in each lane, so that the next one has to wait
        driver.write({slot: book.reply(slot)}, op=book.op)
        driver.held("write")
    number = driver.post({1: book.reply(1)}, op=book.op, durable=True)
    driver.accepted(number)
    driver.write({1: book.reply(1)}, op=book.op)
    driver.let_go("write", keep_on=True)
    assert driver.held("write").slots == (1,)
    assert driver.status().durable_through < number
    assert not driver.has(RepliesDurable)
    driver.let_go("write")
    assert driver.expect(RepliesDurable).through > number
    assert slot_bytes(config, 1, 300) == book.replies[1]
    driver.close()


def restarted(asys: OwnedSystem, config: RepliesConfig, book: Book, slot: int) -> tuple[Driver, bytes]:
    """Restart after a checkpoint that knows of an older reply than the slot holds; gives that older one's header."""
    driver = Driver(asys)
    driver.open(config)
    driver.commit(book, 0, slot)
    older = book.header(slot)
    driver.checkpoint(book)
    driver.commit(book, slot)
    driver.close()
    again = Driver(asys, scripted=True)
    assert again.open(config, OpenMode.OPEN).faulty == (slot,)
    return again, older


def test_peers_that_are_set_before_the_log_is_replayed_are_asked_for_nothing(asys: OwnedSystem, tmp_path: Path) -> None:
    """The slot holds a reply of an op that is still to be replayed; when it is, it is there already."""
    config, book = config_for(tmp_path / "file"), Book()
    driver, older = restarted(asys, config, book, 1)
    peer = driver.scripted_peer(1)
    driver.set_peers((1, peer))
    driver.set_peers(version=2)  # with nobody else, what is faulty is lost at once
    status = driver.status(1)
    assert (status.faulty, status.lost, status.durable) == ((), (), (False,))
    assert status.slots["unverified"] == 1
    assert driver.read(1, older) is NotRead.UNEXPECTED
    driver.set_peers((1, peer), version=3)
    driver.hold("write")
    driver.write({1: book.replies[1]}, op=book.op)
    driver.durable(1)  # though nothing is written
    status = driver.status(1)
    assert (status.durable, status.slots["durable"], status.durable_through) == ((True,), 2, driver.number)
    assert driver.read(1, book.header(1)) == book.replies[1]
    assert not driver.has(Asked, ReplyLost)
    driver.let_go("write")
    driver.close()


def test_two_replicas_that_replay_nothing_yet_call_no_reply_lost(asys: OwnedSystem, tmp_path: Path) -> None:
    """Each would have told the other that it does not hold the older reply, which is true and means nothing."""
    books = [Book(), Book()]
    configs = [config_for(tmp_path / f"file-{replica}", replica=replica) for replica in (0, 1)]
    pair = [restarted(asys, config, book, 1)[0] for config, book in zip(configs, books, strict=True)]
    for index, driver in enumerate(pair):
        driver.set_peers((1 - index, pair[1 - index].replies))
    for driver, config, book in zip(pair, configs, books, strict=True):
        damage(config, 0)  # what is really damaged is asked for, and anything else would have been
        assert driver.read(0, book.header(0)) is NotRead.CORRUPT
        assert driver.expect(RepliesRepaired).slots == (0,)
    for driver, book in zip(pair, books, strict=True):
        assert (driver.status().faulty, driver.has(ReplyLost)) == ((), False)
        driver.write({1: book.replies[1]}, op=book.op)
        driver.durable(1)
        assert driver.status().counters.get("reply_lost", 0) == 0
        driver.close()


def test_what_a_slot_holds_of_an_op_that_the_owner_passed_over_is_asked_of_peers(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """The later reply there was not the slot's own after all: a misdirected write, say."""
    config, book = config_for(tmp_path / "file"), Book()
    driver, older = restarted(asys, config, book, 1)
    peer = driver.scripted_peer(1)
    driver.set_peers((1, peer))
    driver.write({}, op=book.op - 1)
    assert driver.status().slots["unverified"] == 1
    driver.write({}, op=book.op)
    request = driver.asked(1)
    assert (request.slots, request.headers) == ((1,), older)
    driver.close()


def test_a_replay_that_comes_by_older_replies_ends_with_the_last(asys: OwnedSystem, tmp_path: Path) -> None:
    """What is written over a later reply is written over again."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    driver.commit(book, 1)
    driver.checkpoint(book)
    driver.commit(book, 1)
    between = book.replies[1], book.op
    driver.commit(book, 1)
    driver.close()
    again = Driver(asys)
    assert again.open(config).faulty == (1,)
    again.write_durable({1: between[0]}, op=between[1])
    assert slot_bytes(config, 1, 300) == between[0]
    again.write_durable({1: book.replies[1]}, op=book.op)
    assert slot_bytes(config, 1, 300) == book.replies[1]
    again.close()


def synced(asys: OwnedSystem, config: RepliesConfig, book: Book) -> Driver:
    """Restart from a checkpoint that knows nothing of slots 1 and 2, which hold replies."""
    driver = Driver(asys)
    driver.open(config)
    driver.commit(book, 0)
    driver.checkpoint(book)
    driver.commit(book, 1, 2)
    driver.close()
    again = Driver(asys, scripted=True)
    assert again.open(config, OpenMode.OPEN).faulty == ()
    return again


def test_what_is_on_disk_when_sessions_are_installed_is_good(asys: OwnedSystem, tmp_path: Path) -> None:
    """Read at once, durable without a word from a peer; only what is not there is asked for."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = synced(asys, config, book)
    damage(config, 2)
    peer = driver.scripted_peer(1)
    driver.set_peers((1, peer))
    assert driver.install(book).faulty == (1, 2)
    assert driver.read(1, book.header(1)) == book.replies[1]
    driver.durable(0, 1)
    assert driver.asked(1).slots == (2,)
    status = driver.status(0, 1, 2)
    assert (status.faulty, status.durable) == ((2,), (True, True, False))
    assert not driver.has(ReplyLost)
    driver.close()


def test_a_read_does_not_wait_until_the_disk_was_verified(asys: OwnedSystem, tmp_path: Path) -> None:
    """It looks at the disk itself, for the owner and for a peer; what it finds bad is denied and repaired."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = synced(asys, config, book)
    damage(config, 2)
    driver.hold("verify")
    driver.install(book)
    wait = driver.await_durable(1)
    assert driver.read(1, book.header(1)) == book.replies[1]
    headers = book.header(1) + book.header(2)
    driver.be_peer(1)
    driver.send(GetReplies(asker=1, incarnation=1, request=1, bytes_max=10**6, slots=(1, 2), headers=headers))
    assert driver.expect(RepliesFound).replies == (book.replies[1],)
    assert driver.expect(RepliesMissing).slots == (2,)
    assert driver.status(1).durable == (False,)
    assert not driver.has(SlotsDurable)
    driver.let_go("verify")
    assert driver.expect(SlotsDurable).wait == wait
    assert driver.status().faulty == (2,)
    driver.close()


def test_a_write_overtakes_the_verification_of_its_slot(asys: OwnedSystem, tmp_path: Path) -> None:
    """What the disk held when it was read says nothing of what it holds then (invariant 3)."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = synced(asys, config, book)
    damage(config, 2)
    driver.hold("verify")
    driver.install(book)
    driver.held("verify")
    driver.commit(book, 1, 2)
    driver.let_go("verify")
    driver.until(lambda status: status.slots["unverified"] == 0)
    status = driver.status(1, 2)
    assert (status.faulty, status.durable) == ((), (True, True))
    assert [driver.read(slot, book.header(slot)) for slot in (1, 2)] == [book.replies[slot] for slot in (1, 2)]
    driver.close()


def test_a_wait_goes_on_for_what_is_installed_meanwhile(asys: OwnedSystem, tmp_path: Path) -> None:
    """The reply that was waited for is obsolete; the newer one is not on disk until a peer sent it."""
    config, book, ahead = config_for(tmp_path / "file"), Book(), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("write")
    driver.write({1: book.reply(1)}, op=book.op)
    driver.held("write")
    driver.write({1: book.reply(1), 3: book.reply(3)}, op=book.op)
    gone, kept = driver.await_durable(3), driver.await_durable(1)
    for _ in range(5):
        ahead.reply(1)
    driver.install(ahead)
    assert driver.expect(SlotsDurable).wait == gone  # it is to hold nothing any more
    driver.let_go("write")
    assert driver.status(1).durable == (False,)
    assert not driver.has(SlotsDurable)
    driver.write_durable({1: ahead.reply(1)}, op=ahead.op)
    assert driver.expect(SlotsDurable).wait == kept
    driver.close()
