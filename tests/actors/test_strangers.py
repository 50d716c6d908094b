"""Strangers: whoever is in the system, or can reach a port of it, and has no business there. None does harm.

Written against the system as its users see it: actors, messages, processes, sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from thespian.actors import ActorAddress

from client_replies.actors.client_replies import ClientRepliesActor
from client_replies.actors.message_pool import MessagePoolActor
from client_replies.actors.storage import StorageActor
from client_replies.actors.system import OwnedSystem
from client_replies.messages.config import OpenMode
from client_replies.messages.faults import FaultKind
from client_replies.messages.leases import (
    AcquireLeases,
    LeasesGranted,
    LeasesRefused,
    OpenPool,
    PoolOpenFailed,
    ReclaimLeases,
    ReleaseLeases,
    RetainLeases,
    make_lease,
)
from client_replies.messages.message import Message
from client_replies.messages.peers import Missing
from client_replies.messages.protocol import PROTOCOL, SENDERS, Party
from client_replies.messages.replies import (
    AwaitDurable,
    Checkpoint,
    CloseReplies,
    InstallSessions,
    NotRead,
    OpenFailed,
    OpenReplies,
    ReadReply,
    RemoveReplies,
    RepliesDurable,
    RepliesOpened,
    ReplyLost,
    ReplyNotRead,
    ReplyTaken,
    RequestRefused,
    SetPeers,
    StorageFailed,
    WriteReplies,
    WritesAccepted,
    WritesRefused,
)

from examples.cluster.client import ClientActor
from examples.cluster.gateway import GatewayActor
from examples.cluster.replica import ReplicaActor
from examples.cluster.saboteur import SaboteurActor
from tests.actors.doubles import Forward, Forwarded, Forwarder, Scripted
from tests.actors.driver import KIB, Book, Driver, config_for, damage, found, missing

ACTORS = (
    ClientRepliesActor,
    StorageActor,
    MessagePoolActor,
    ReplicaActor,
    GatewayActor,
    ClientActor,
    SaboteurActor,
)


class Stranger:
    """Another actor of the same system, with an address of its own, that sends what the test tells it to send."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.address: ActorAddress = driver.system.createActor(Forwarder)

    def send(self, message: Message, to: Any = None) -> None:
        """Send a message, to the driver's component unless told otherwise."""
        self.driver.send(Forward(target=to or self.driver.replies, message=message), self.address)
        self.driver.expect(Scripted)

    def expect(self, *kinds: type) -> Any:
        """Give the answer that the stranger got."""
        return self.driver.expect(Forwarded, where=lambda forwarded: isinstance(forwarded.message, kinds)).message


# Messages of strangers.


@pytest.mark.parametrize("actor", ACTORS)
def test_each_message_that_an_actor_takes_has_its_sender_in_a_table(actor: type) -> None:
    """What is in no table is taken from anyone: none is forgotten, neither the component's nor the example's."""
    instance = actor(capabilities={"Thespian ActorSystem Name": "simpleSystem"})
    assert {message for message in instance.handlers() if message not in instance.senders} == set()
    listed = {message: sender for message, sender in instance.senders.items() if message in SENDERS}
    assert all(SENDERS[message] is sender for message, sender in listed.items())


def test_anyone_may_ask_for_a_status_or_open_and_nothing_else() -> None:
    """The open doors of the component, written out."""
    anyone = {row.message.__name__ for row in PROTOCOL if row.sender is Party.ANYONE}
    assert anyone == {"OpenReplies", "GetStatus", "GetPoolStatus"}


def owners_requests(driver: Driver, book: Book, number: int) -> Mapping[Message, tuple[type, ...]]:
    """Give what an owner may send, all right but for the sender, and what refuses it."""
    owner, op, reply = driver.owner, book.op, book.replies[0]
    return {
        WriteReplies(owner=owner, number=number, op=op, slots=(0,), payloads=(reply,)): (WritesRefused,),
        RemoveReplies(owner=owner, number=number, op=op, slots=(0,)): (WritesRefused,),
        InstallSessions(owner=owner, number=number, op=op, sessions=Book().encode()): (RequestRefused,),
        Checkpoint(owner=owner, number=number, op=op, sessions=Book().encode()): (RequestRefused,),
        CloseReplies(owner=owner, number=number): (RequestRefused,),
        SetPeers(owner=owner, version=9, peers=()): (RequestRefused,),
        AwaitDurable(owner=owner, wait=77, slots=(0,)): (RequestRefused,),
        ReadReply(owner=owner, read=77, slot=0, expected=reply[:256]): (ReplyNotRead,),
    }


def test_what_only_the_owner_may_ask_is_refused_to_everybody_else(asys: OwnedSystem, tmp_path: Path) -> None:
    """Owner's number and next message number are right, the sender is not: a typed refusal, and nothing changes."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    driver.commit(book, 0)
    before = driver.status(0)
    stranger = Stranger(driver)
    requests = owners_requests(driver, book, driver.number + 1)
    for message, kinds in requests.items():
        stranger.send(message)
        refused = stranger.expect(*kinds)
        kind = refused.reason if isinstance(refused, ReplyNotRead) else refused.fault.kind
        assert kind in (NotRead.CLOSED, FaultKind.OWNER_UNKNOWN), message
    stranger.send(ReplyTaken(owner=driver.owner, read=1))
    after = driver.until(lambda status: status.counters["message_of_stranger"] == len(requests) + 1, 0)
    assert replace(after, counters={}, request=0) == replace(before, counters={}, request=0)
    assert driver.read(0, book.header(0)) == book.replies[0]
    driver.close()


def test_a_batch_under_the_owners_next_number_from_a_stranger_does_not_take_its_place(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """The honest batch of that number is written, not accepted as a repetition and dropped."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    stranger = Stranger(driver)
    stranger.send(WriteReplies(owner=driver.owner, number=1, op=0, slots=(), payloads=()))
    stranger.expect(WritesRefused)
    driver.commit(book, 0)
    assert driver.read(0, book.header(0)) == book.replies[0]
    driver.close()


def test_a_refused_batch_from_a_stranger_does_not_redirect_the_owners_answers(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """The batch is wrong in content, so it was refused before, too; what is told afterwards still goes to the owner."""
    config, book = config_for(tmp_path / "file", hold_back=0.01), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("write")
    number = driver.post({0: book.reply(0)}, op=book.op, durable=True)
    driver.accepted(number)
    driver.held("write")
    stranger = Stranger(driver)
    stranger.send(WriteReplies(owner=driver.owner, number=number + 1, op=0, slots=(99,), payloads=(b"rubbish",)))
    stranger.expect(WritesRefused)
    driver.let_go("write")
    assert driver.expect(RepliesDurable).through == number
    driver.close()


def test_an_opening_that_is_not_for_the_open_file_evicts_nobody(asys: OwnedSystem, tmp_path: Path) -> None:
    """Another path, cluster or replica, a mode that would format, or the owner's own number from elsewhere."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    driver.commit(book, 0)
    stranger = Stranger(driver)
    wrong = [
        OpenReplies(owner=10**6, config=replace(config, path=str(tmp_path / "other"))),
        OpenReplies(owner=10**6, config=replace(config, cluster=99)),
        OpenReplies(owner=10**6, config=replace(config, replica=9)),
        OpenReplies(owner=10**6, config=config, mode=OpenMode.FORMAT),
        OpenReplies(owner=driver.owner, config=config),
    ]
    for message in wrong:
        stranger.send(message)
        assert stranger.expect(OpenFailed).fault.kind in (FaultKind.ALREADY_OPEN, FaultKind.OWNER_UNKNOWN)
    driver.commit(book, 0, 1)
    assert driver.read(1, book.header(1)) == book.replies[1]
    driver.close()
    assert not (tmp_path / "other").exists()


def test_an_owner_that_starts_again_elsewhere_takes_over_and_the_old_one_learns_it(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """New number, new address, the same file: legitimate. What the old one sends afterwards is refused."""
    config, book = config_for(tmp_path / "file"), Book()
    old = Driver(asys)
    old.open(config)
    old.commit(book, 0)
    heir = Stranger(old)
    heir.send(OpenReplies(owner=10**6, config=config, mode=OpenMode.OPEN))
    assert heir.expect(RepliesOpened, OpenFailed).op == 0
    refused = old.try_write({1: book.reply(1)}, op=book.op)
    assert isinstance(refused, WritesRefused)
    assert refused.fault.kind is FaultKind.OWNER_UNKNOWN
    heir.send(WriteReplies(owner=10**6, number=1, op=book.op, slots=(1,), payloads=(book.replies[1],)))
    assert heir.expect(WritesAccepted, WritesRefused).number == 1


def test_guessed_leases_of_a_stranger_release_nothing(asys: OwnedSystem, tmp_path: Path) -> None:
    """Neither under a number of its own, nor under the owner's or the component's: the storage lives."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    (lease,) = driver.lease(book.reply(0, 20 * KIB))
    held = driver.pool_status().held
    stranger = Stranger(driver)
    guesses = tuple(make_lease(buffer, generation) for buffer in range(8) for generation in (1, 2, 3))
    for holder in (10**6, driver.owner):
        stranger.send(ReleaseLeases(holder=holder, number=1, leases=guesses), driver.pool)
        assert stranger.expect(LeasesRefused).fault.kind is FaultKind.HOLDER_UNKNOWN
        stranger.send(RetainLeases(holder=holder, number=1, leases=guesses), driver.pool)
        assert stranger.expect(LeasesRefused).fault.kind is FaultKind.HOLDER_UNKNOWN
    assert driver.pool_status().held == held
    driver.write_durable({0: lease}, op=book.op)
    assert driver.read(0, book.header(0)) == book.replies[0]
    driver.close()


def test_an_owner_cannot_release_what_the_component_holds(asys: OwnedSystem, tmp_path: Path) -> None:
    """Its own buffers alone: a buffer that it was lent for a read stays the component's, and the storage lives."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    (lease,) = driver.lease(book.reply(0, 20 * KIB))
    driver.write_durable({0: lease}, op=book.op)
    held = driver.pool_status().held
    guesses = tuple(make_lease(buffer, generation) for buffer in range(8) for generation in (1, 2, 3))
    assert driver.release(*guesses).stale == guesses
    assert driver.pool_status().held == held
    assert driver.read(0, book.header(0)) == book.replies[0]
    driver.close()


def test_a_lease_that_its_owner_gave_back_too_early_stops_the_storage_with_its_reason(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """The owner's own mistake: the component says what was wrong, and no process dies of it."""
    config, book = config_for(tmp_path / "file", hold_back=0.05), Book()
    driver = Driver(asys)
    driver.open(config)
    (lease,) = driver.lease(book.reply(0, 20 * KIB))
    driver.write({0: lease}, op=book.op)
    driver.release(lease)
    assert driver.expect(StorageFailed).fault.kind is FaultKind.LEASE_STALE


def test_reclaiming_the_owners_leases_is_the_components_affair(asys: OwnedSystem, tmp_path: Path) -> None:
    """A stranger that declares the owner dead is not believed: the owner acquires and writes on."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    stranger = Stranger(driver)
    stranger.send(ReclaimLeases(holder=driver.owner, kept=()), driver.pool)
    stranger.send(ReleaseLeases(holder=1, number=1, leases=()), driver.pool)
    stranger.expect(LeasesRefused)  # so the reclaim was seen
    (lease,) = driver.lease(book.reply(0, 20 * KIB))
    driver.write_durable({0: lease}, op=book.op)
    driver.close()


def test_a_pool_in_use_is_opened_by_nobody_else(asys: OwnedSystem, tmp_path: Path) -> None:
    """And lends to nobody else, under whatever number; the owner gets all that it was promised."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    stranger = Stranger(driver)
    pool = OpenPool(
        buffers=config.buffers_max + config.read_buffers + config.repair_buffers,
        size=config.message_size_max,
        waiting_max=4,
        holders=((driver.owner, stranger.address),),
    )
    stranger.send(pool, driver.pool)
    assert stranger.expect(PoolOpenFailed).fault.kind is FaultKind.ALREADY_OPEN
    for holder in range(10**6, 10**6 + 20):
        stranger.send(AcquireLeases(holder=holder, number=1, count=1), driver.pool)
        assert stranger.expect(LeasesRefused, LeasesGranted).fault.kind is FaultKind.HOLDER_UNKNOWN
    assert driver.pool_status().held == config.read_buffers + config.repair_buffers
    driver.lease(*(book.reply(slot, 20 * KIB) for slot in range(config.buffers_max)))
    driver.close()


def test_a_stranger_repairs_nothing_declares_nothing_lost_and_is_served_nothing(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """All that a peer may say, with the right numbers, from an address that is not the peer's."""
    config, book = config_for(tmp_path / "file"), Book()
    formatter = Driver(asys)
    formatter.open(config)
    formatter.commit(book, 0)
    formatter.checkpoint(book)
    formatter.close()
    damage(config, 0)
    driver = Driver(asys)
    assert driver.open(config).faulty == (0,)
    peer = driver.scripted_peer(1)
    driver.set_peers((1, peer))
    asked = driver.asked(1)
    stranger = Stranger(driver)
    stranger.send(missing(asked, 1, Missing.SUPERSEDED))
    stranger.send(found(asked, 1, {0: book.replies[0]}))
    stranger.send(replace(asked, asker=1))
    status = driver.until(lambda status: status.counters.get("message_of_stranger") == 3)
    assert (status.faulty, status.lost) == ((0,), ())
    assert not driver.has(ReplyLost, Forwarded)
    driver.answer_as(peer, found(asked, 1, {0: book.replies[0]}))
    driver.durable(0)
    driver.close()
