"""Messages that come twice, late, out of turn or never, and those that nobody expects: none does harm."""

import copy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from thespian.actors import PoisonMessage

from client_replies.actors.component.message_pool import MessagePoolActor
from client_replies.actors.thespian.logs import configure_logging
from client_replies.actors.thespian.system import OwnedSystem, running_system
from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.leases import AcquireLeases, GetPoolStatus, LeasesRefused, PoolStatus
from client_replies.messages.message import Message
from client_replies.messages.protocol import PROTOCOL, Party
from client_replies.messages.replies import (
    Checkpoint,
    CheckpointDone,
    CheckpointStarted,
    CloseReplies,
    InstallSessions,
    NotRead,
    RemoveReplies,
    RepliesClosed,
    ReplyTaken,
    SessionsInstalled,
    WriteReplies,
    WritesAccepted,
    WritesRefused,
)
from client_replies.messages.storage_io import SlotsRead, SlotsWritten, StorageStopped

from tests.actors.doubles import Drop, Repeat
from tests.actors.driver import Book, Driver, StorageClient, config_for
from tests.messages.samples import sample

LANES = ("open", "write", "read", "checkpoint", "close")


def test_a_repeated_batch_gets_its_answer_again_and_is_taken_over_once(asys: OwnedSystem, tmp_path: Path) -> None:
    """The answer was lost: the same message brings the same answer, and no second write."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("write")
    message = WriteReplies(owner=driver.owner, number=1, op=book.op, slots=(0,), payloads=(book.reply(0),))
    for _ in range(3):
        driver.send(message)
    answers = [driver.expect(WritesAccepted) for _ in range(3)]
    assert answers == [answers[0]] * 3
    assert driver.status().queues["writes"] == 1
    driver.held("write")
    driver.let_go("write")
    driver.number = 1
    driver.durable(0)
    assert driver.status().counters["messages_repeated"] == 2
    driver.close()


def test_a_repeated_message_of_every_numbered_kind_is_answered_again(asys: OwnedSystem, tmp_path: Path) -> None:
    """Removal, installation, checkpoint and closing: the same answer, done once."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    owner, sessions = driver.owner, book.encode()
    messages: list[tuple[Message, type[Message]]] = [
        (RemoveReplies(owner=owner, number=1, op=book.op, slots=(0,)), WritesAccepted),
        (InstallSessions(owner=owner, number=2, op=book.op, sessions=sessions), SessionsInstalled),
        (Checkpoint(owner=owner, number=3, op=book.op, sessions=sessions), CheckpointDone),
        (CloseReplies(owner=owner, number=4), RepliesClosed),
    ]
    for message, kind in messages:
        driver.send(message)
        first = driver.expect(kind)
        driver.send(message)
        assert driver.expect(kind) == first
    assert driver.opened is not None
    again = Driver(asys, replies=driver.replies)
    assert again.open(config).sequence == 1
    again.close()


def test_a_skipped_number_is_refused_and_the_missing_one_is_still_welcome(asys: OwnedSystem, tmp_path: Path) -> None:
    """Nothing is put in order here: the owner sends the next one when the last one was answered."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    reply = book.reply(0)
    driver.send(WriteReplies(owner=driver.owner, number=2, op=book.op, slots=(0,), payloads=(reply,)))
    refused = driver.expect(WritesRefused)
    assert (refused.number, refused.fault.kind) == (2, FaultKind.OUT_OF_SEQUENCE)
    driver.write_durable({0: reply}, op=book.op)
    driver.close()


def test_a_late_message_with_an_old_number_does_nothing(asys: OwnedSystem, tmp_path: Path) -> None:
    """An old write comes after a removal of the same slot: the slot stays empty, and nobody is told anything."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    late = WriteReplies(owner=driver.owner, number=1, op=book.op, slots=(0,), payloads=(book.reply(0),))
    driver.number = 1
    driver.send(late)
    driver.expect(WritesAccepted)
    driver.durable(0)
    driver.remove(0, op=book.op)
    driver.send(late)
    assert driver.status().slots["empty"] == config.clients_max
    assert driver.read(0, book.header(0)) is NotRead.UNEXPECTED
    assert not driver.has(WritesAccepted, WritesRefused)
    driver.close()


def test_a_repeated_checkpoint_is_told_done_and_not_done_again(asys: OwnedSystem, tmp_path: Path) -> None:
    """Also after the owner went on to other numbers."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("checkpoint")
    number = driver.start_checkpoint(book)
    message = Checkpoint(owner=driver.owner, number=number, op=book.op, sessions=book.encode())
    driver.send(message)
    assert driver.expect(CheckpointStarted).number == number
    driver.held("checkpoint")
    driver.write({0: book.reply(0)}, op=book.op)
    driver.let_go("checkpoint")
    done = driver.checkpoint_done(number)
    driver.send(message)
    assert driver.checkpoint_done(number) == done
    assert driver.status().sequence == 1
    driver.close()


@pytest.mark.slow
@pytest.mark.parametrize("script", [Drop, Repeat])
def test_lost_and_repeated_answers_of_the_storage_do_no_harm(
    asys: OwnedSystem, tmp_path: Path, script: type[Drop] | type[Repeat]
) -> None:
    """In every lane: what was lost is asked for again, what comes three times counts once."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    for lane in LANES:
        driver.script(script(lane=lane))
    driver.open(config)
    driver.commit(book, 0, 1)
    driver.script(script(lane="write"))
    driver.commit(book, 1)
    assert driver.read(0, book.header(0)) == book.replies[0]
    assert driver.checkpoint(book).sequence == 1
    driver.commit(book, 1)
    assert driver.read(1, book.header(1)) == book.replies[1]
    assert driver.checkpoint(book).sequence == 2
    resent = driver.status().counters.get("requests_resent", 0)
    driver.close()
    assert driver.pool_status().held == 0
    if script is Drop:
        assert resent >= 5
    again = Driver(asys, scripted=False)
    assert again.open(config).sequence == 2
    assert [again.read(slot, book.header(slot)) for slot in (0, 1)] == [book.replies[0], book.replies[1]]
    again.close()


def test_answers_of_a_storage_that_is_not_this_one_are_counted_and_dropped(asys: OwnedSystem, tmp_path: Path) -> None:
    """A stranger says that a write is durable, a read is nonsense and the disk failed: none of it is believed."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.commit(book, 0)
    driver.hold("write")
    driver.hold("read")
    read = driver.ask_read(0, book.header(0))
    driver.write({1: book.reply(1)}, op=book.op)
    driver.held("write")
    driver.held("read")
    fault = Fault(kind=FaultKind.IO_ERROR, found="nothing", expected="nothing")
    for answer in (SlotsWritten(batch=2), SlotsRead(batch=1, results=()), StorageStopped(fault=fault)):
        driver.send(answer)
    status = driver.status(1)
    assert (status.durable, status.stopped) == ((False,), None)
    assert status.counters["message_of_stranger"] == 3
    driver.let_go("write")
    driver.let_go("read")
    assert driver.read_answer(read) == book.replies[0]
    driver.durable(1)
    driver.close()


def test_an_unknown_message_is_logged_by_name_counted_and_harmless(tmp_path: Path) -> None:
    """To each of the three actors, each in its process: a line with the message's name, and the actor works on."""
    log = tmp_path / "log"
    configure_logging(str(log))
    try:
        with running_system() as system:
            driver, book = Driver(system, scripted=True), Book()
            driver.open(config_for(tmp_path / "file"))
            for actor in (driver.replies, driver.storage, driver.pool):
                driver.send(RepliesClosed(owner=1, number=1), actor)
                driver.send("text", actor)
            driver.commit(book, 0)
            assert driver.status().counters["messages_unknown"] == 2
            assert driver.double(driver.storage).counters["messages_unknown"] == 2
            assert driver.pool_status().unknown_messages == 2
            driver.close()
    finally:
        configure_logging(None)
    lines = [line for line in log.read_text().splitlines() if '"messages_unknown"' in line]
    assert len(lines) == 6
    for actor_name in ("ClientRepliesActor", "ScriptedStorage", "MessagePoolActor"):
        named = [line for line in lines if actor_name in line]
        assert any("RepliesClosed" in line for line in named)
        assert any('"str"' in line for line in named)


WRONG_VALUES: tuple[Any, ...] = (None, "text", -1, 2**200, 1.5, b"", b"x", (), (None,), ("x",), ((),), {}, [])


def spoiled(message: Message) -> list[Message]:
    """Give the message with each of its fields set to each wrong value, past its constructor, as unpickling does."""
    found = []
    for field in fields(message):
        for value in WRONG_VALUES:
            wrong = copy.copy(message)
            object.__setattr__(wrong, field.name, value)
            try:
                wrong.validate()
            except Exception:
                found.append(wrong)
    return found


def handled_by(party: Party) -> list[type[Message]]:
    """Give the messages that the protocol's table sends to this actor."""
    parties = {Party.REPLIES, Party.PEER} if party is Party.REPLIES else {party}
    return [exchange.message for exchange in PROTOCOL if exchange.receiver in parties]


def spoiled_messages(party: Party) -> list[Message]:
    """Give every message to this actor, spoiled in every way."""
    return [wrong for kind in handled_by(party) for wrong in spoiled(sample(kind))]


@pytest.mark.parametrize("opened", [False, True], ids=["closed", "open"])
def test_malformed_messages_to_the_component_are_counted_and_change_nothing(
    asys: OwnedSystem, tmp_path: Path, opened: bool
) -> None:
    """Every message class, with every field wrong in its type or value, before opening and after."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    if opened:
        driver.open(config)
        driver.commit(book, 0)
    wrong = spoiled_messages(Party.REPLIES)
    assert len({type(message) for message in wrong}) > 20
    before = driver.status()
    for message in wrong if asys.admin_pid is None else wrong[::25]:
        driver.send(message)
        driver.inbox.clear()
    status = driver.status()
    sent = len(wrong if asys.admin_pid is None else wrong[::25])
    assert status.counters["messages_malformed"] == sent
    assert (status.slots, status.queues, status.faulty) == (before.slots, before.queues, before.faulty)
    if not opened:
        driver.open(config)
        driver.commit(book, 0)
    assert driver.read(0, book.header(0)) == book.replies[0]
    driver.close()


def test_malformed_messages_to_the_storage_and_the_pool_are_counted_and_change_nothing(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """The same for the two others, who then do their work."""
    client, book = StorageClient(asys, config_for(tmp_path / "file")), Book()
    client.open_storage()
    step = 1 if asys.admin_pid is None else 15
    to_storage, to_pool = spoiled_messages(Party.STORAGE)[::step], spoiled_messages(Party.POOL)[::step]
    for message in to_storage:
        client.send(message)
    for message in to_pool:
        client.send(message, client.pool_address)
    assert client.double(client.storage).counters["messages_malformed"] == len(to_storage)
    client.send(GetPoolStatus(request=7), client.pool_address)
    assert client.expect(PoolStatus, where=lambda status: status.request == 7).unknown_messages == len(to_pool)
    client.leases(1)
    client.write_slots({0: book.reply(0)})
    assert client.expect(SlotsWritten).batch == 1
    client.close_storage()


def test_a_pool_without_memory_refuses_by_name(asys: OwnedSystem) -> None:
    """Nothing can be acquired before `OpenPool`, and the pool's status says that it is empty."""
    driver = Driver(asys, MessagePoolActor)
    driver.send(AcquireLeases(holder=1, number=1, count=1))
    assert driver.expect(LeasesRefused).fault.kind is FaultKind.NOT_OPEN
    driver.send(GetPoolStatus(request=1))
    assert driver.expect(PoolStatus).buffers == 0


def test_a_message_that_made_its_receiver_fail_is_a_lost_message(asys: OwnedSystem, tmp_path: Path) -> None:
    """Thespian sends it back as poison: it is counted, and what has no answer is asked again anyway."""
    driver, book = Driver(asys), Book()
    driver.open(config_for(tmp_path / "file"))
    driver.send(PoisonMessage(SlotsWritten(batch=1), "a traceback"))
    driver.commit(book, 0)
    assert driver.status().counters["messages_poisoned"] == 1
    driver.send(ReplyTaken(owner=driver.owner, read=99))
    driver.close()
