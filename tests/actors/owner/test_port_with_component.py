"""RepliesPort with the real component, on both bases: the port's idea of the protocol is the component's."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from thespian.actors import ActorAddress

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.actors.owner.port_events import PortEvent, PortFailed, ReadFailed, ReadSucceeded, SlotsAreDurable
from client_replies.actors.owner.replies_port import RepliesPort
from client_replies.actors.thespian.system import OwnedSystem
from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.leases import GetPoolStatus, PoolStatus
from client_replies.messages.replies import (
    CheckpointDone,
    GetStatus,
    NotRead,
    RepliesClosed,
    RepliesOpened,
    RepliesRepaired,
    RepliesStatus,
    SessionsInstalled,
)
from client_replies.messages.reply_header import HEADER_SIZE
from client_replies.storage.shared_memory import PoolMemory

from tests.actors.driver import KIB, SLOTS, Book, config_for, damage

EVENT_TIMEOUT_S = 20.0


class Hub:
    """The one mailbox outside the actor system, shared by the owners of several components."""

    def __init__(self, system: OwnedSystem) -> None:
        self.system = system
        self.owners: dict[int, Owner] = {}
        self.other: list[object] = []

    def pump(self) -> None:
        """Let the next message through, and time pass."""
        message = self.system.listen(0.02)
        if message is not None:
            number = getattr(message, "owner", getattr(message, "holder", 0))
            if number not in self.owners or not self.owners[number].port.receive(message):
                self.other.append(message)
        for owner in self.owners.values():
            owner.port.tick()
            owner.events += owner.port.take_events()


class Owner:
    """An owner outside the actor system."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.replies = hub.system.createActor(ClientRepliesActor)
        self.events: list[PortEvent] = []
        number = random.SystemRandom().randrange(1, 2**64)
        self.port = RepliesPort(
            owner=number,
            send=lambda message: hub.system.tell(self.replies, message),
            send_pool=hub.system.tell,
            now=time.monotonic,
            open_memory=PoolMemory.open,
            resend_timeout=0.5,
        )
        hub.owners[number] = self

    def pump(self, until: Callable[[], bool]) -> None:
        """Let messages pass until the condition holds."""
        deadline = time.monotonic() + EVENT_TIMEOUT_S
        while not until():
            assert time.monotonic() < deadline, "what was waited for did not happen"
            self.hub.pump()

    def wait_for(self, kind: type) -> PortEvent:
        """The next event of this kind; it is taken from the list."""
        self.pump(lambda: any(isinstance(event, kind) for event in self.events))
        event = next(event for event in self.events if isinstance(event, kind))
        self.events.remove(event)
        return event

    def open(self, config: RepliesConfig, mode: OpenMode = OpenMode.OPEN_OR_FORMAT) -> RepliesOpened:
        """Open the file."""
        self.port.open(config, mode)
        event = self.wait_for(RepliesOpened)
        assert isinstance(event, RepliesOpened)
        return event

    def read(self, slot: int, header: bytes) -> bytes | NotRead:
        """The reply, or why not."""
        number = self.port.read(slot, header)
        self.events += self.port.take_events()
        found: list[ReadSucceeded | ReadFailed] = []

        def answered() -> bool:
            found.extend(e for e in self.events if isinstance(e, ReadSucceeded | ReadFailed) and e.read == number)
            return bool(found)

        self.pump(answered)
        self.events.remove(found[0])
        return found[0].reply if isinstance(found[0], ReadSucceeded) else found[0].reason

    def ask(self, target: ActorAddress, message: object, kind: type) -> object:
        """Ask an actor something beside the port."""
        other = self.hub.other
        self.hub.system.tell(target, message)
        self.pump(lambda: any(isinstance(found, kind) for found in other))
        return other.pop(next(index for index, found in enumerate(other) if isinstance(found, kind)))

    def close(self) -> None:
        """Close the file and end."""
        self.port.close()
        self.wait_for(RepliesClosed)


@pytest.fixture
def owners(asys: OwnedSystem) -> Callable[[], Owner]:
    """Makes owners, each with a component of its own."""
    hub = Hub(asys)
    return lambda: Owner(hub)


def test_a_thousand_replies_of_all_sizes_come_back_after_reopening(owners: Callable[[], Owner], tmp_path: Path) -> None:
    """Small and large ones, replaced and removed, with checkpoints between them; no lease is left over."""
    config, book, chance = config_for(tmp_path / "file", writes_max=8), Book(), random.Random(1)
    owner = owners()
    opened = owner.open(config)
    checkpoints = 0
    for count in range(1000):
        owner.pump(lambda: owner.port.ready)
        slot = chance.randrange(SLOTS)
        owner.port.write(slot, book.reply(slot, chance.choice((300, 4 * KIB, 9 * KIB, 32 * KIB))))
        if count % 7 == 0:
            owner.port.committed(book.op)
        if count % 300 == 299:
            owner.port.committed(book.op)
            owner.port.checkpoint(book.op, book.encode())
            checkpoints += 1
        if count % 20 == 0:
            owner.pump(lambda: owner.port.pending < SLOTS)
    owner.port.committed(book.op)
    owner.port.checkpoint(book.op, book.encode())
    for _ in range(checkpoints + 1):
        owner.wait_for(CheckpointDone)
    for slot, reply in book.replies.items():
        assert owner.read(slot, reply[:HEADER_SIZE]) == reply
    owner.close()
    status = owner.ask(opened.pool, GetPoolStatus(request=1), PoolStatus)
    assert isinstance(status, PoolStatus)
    assert (status.held, status.stale_refused) == (0, 0)

    again = owners()
    opened = again.open(config, OpenMode.OPEN)
    assert (opened.op, opened.sessions, opened.faulty) == (book.op, book.encode(), ())
    for slot, reply in book.replies.items():
        assert again.read(slot, reply[:HEADER_SIZE]) == reply
    again.close()


def test_a_wait_says_when_this_very_reply_is_on_disk(owners: Callable[[], Owner], tmp_path: Path) -> None:
    """Also while an earlier batch is in flight: the wait does not speak of the reply before."""
    config, book = config_for(tmp_path / "file", hold_back=0.0), Book()
    owner = owners()
    owner.open(config)
    for size in (300, 20 * KIB):
        for slot in range(4):
            owner.port.write(slot, book.reply(slot, size))
            owner.port.committed(book.op)
        owner.port.await_durable((3,))
        owner.wait_for(SlotsAreDurable)
        status = owner.ask(owner.replies, GetStatus(request=1, slots=(3,)), RepliesStatus)
        assert isinstance(status, RepliesStatus)
        assert status.durable == (True,)
        assert status.op == book.op
    owner.close()


def test_a_damaged_slot_is_repaired_from_a_peer_and_said_so(owners: Callable[[], Owner], tmp_path: Path) -> None:
    """Two replicas with the same replies; one is damaged, and is whole again without a word from its owner."""
    book = Book()
    configs = [config_for(tmp_path / f"file-{replica}", replica=replica) for replica in (0, 1)]
    pair = [owners() for _ in configs]
    for owner, config in zip(pair, configs, strict=True):
        owner.open(config)
    replies = {slot: book.reply(slot, size) for slot, size in ((1, 300), (2, 20 * KIB))}
    for index, owner in enumerate(pair):
        owner.port.set_peers(((1 - index, pair[1 - index].replies),))
        for slot, reply in replies.items():
            owner.port.write(slot, reply)
        owner.port.committed(book.op)
        owner.port.await_durable(tuple(replies))
        owner.wait_for(SlotsAreDurable)
    for slot, reply in replies.items():
        damage(configs[0], slot)
        assert pair[0].read(slot, reply[:HEADER_SIZE]) is NotRead.CORRUPT
        repaired = pair[0].wait_for(RepliesRepaired)
        assert isinstance(repaired, RepliesRepaired)
        assert repaired.headers == reply[:HEADER_SIZE]
        assert pair[0].read(slot, reply[:HEADER_SIZE]) == reply
    for owner in pair:
        owner.close()


def test_installed_sessions_are_repaired_until_they_are_durable(owners: Callable[[], Owner], tmp_path: Path) -> None:
    """State sync: an empty replica takes over the table of another, and the replies follow."""
    book = Book()
    configs = [config_for(tmp_path / f"file-{replica}", replica=replica) for replica in (0, 1)]
    full, empty = (owners() for _ in configs)
    full.open(configs[0])
    empty.open(configs[1])
    for slot in range(SLOTS):
        full.port.write(slot, book.reply(slot, 300 + 5000 * (slot % 2)))
    full.port.committed(book.op)
    full.port.await_durable(tuple(range(SLOTS)))
    full.wait_for(SlotsAreDurable)
    empty.port.install(book.op, book.encode())
    installed = empty.wait_for(SessionsInstalled)
    assert isinstance(installed, SessionsInstalled)
    assert installed.faulty == tuple(range(SLOTS))
    full.port.set_peers(((1, empty.replies),))
    empty.port.set_peers(((0, full.replies),))
    empty.port.await_durable(installed.faulty)
    empty.wait_for(SlotsAreDurable)
    for slot, reply in book.replies.items():
        assert empty.read(slot, reply[:HEADER_SIZE]) == reply
    empty.port.checkpoint(book.op, book.encode())
    empty.wait_for(CheckpointDone)
    for owner in (full, empty):
        owner.close()


def test_removed_replies_are_expected_no_more(owners: Callable[[], Owner], tmp_path: Path) -> None:
    """And a new session's reply may come to the slot after that."""
    book = Book()
    owner = owners()
    owner.open(config_for(tmp_path / "file"))
    reply = book.reply(5)
    owner.port.write(5, reply)
    owner.port.committed(book.op)
    assert owner.read(5, reply[:HEADER_SIZE]) == reply
    owner.port.remove(5, book.op + 1)
    owner.port.committed(book.op + 1)
    owner.pump(lambda: owner.port.idle)
    assert owner.read(5, reply[:HEADER_SIZE]) is NotRead.UNEXPECTED
    owner.close()


def test_a_file_that_is_in_use_fails_the_port(owners: Callable[[], Owner], tmp_path: Path) -> None:
    """The fault comes through as the component gave it; a missing directory likewise."""
    first = owners()
    first.open(config_for(tmp_path / "file"))
    for path in (tmp_path / "file", tmp_path / "missing" / "file"):
        second = owners()
        second.port.open(config_for(path), OpenMode.OPEN_OR_FORMAT)
        failed = second.wait_for(PortFailed)
        assert isinstance(failed, PortFailed)
        assert failed.fault.found
    first.close()
