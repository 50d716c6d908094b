"""What dies is named, what it held comes back, and what is left can be opened again."""

import os
import signal
from pathlib import Path

import pytest
from thespian.actors import ActorExitRequest

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.actors.thespian.system import OwnedSystem, processes_of, start_system, stop_system
from client_replies.messages.config import OpenMode
from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.leases import AcquireLeases, LeasesRefused
from client_replies.messages.replies import (
    AwaitDurable,
    NotRead,
    OpenFailed,
    Payload,
    RequestRefused,
    SlotsDurable,
    StorageFailed,
    WritesAccepted,
    WritesRefused,
)

from tests.actors.doubles import FailDevice, WatchedReplies
from tests.actors.driver import KIB, Book, Driver, StorageClient, config_for, damage, found
from tests.processes import is_living, wait_until

DISK_FULL = Fault(kind=FaultKind.DISK_FULL, found="ENOSPC", expected="a write")


def test_a_broken_invariant_in_a_thread_ends_the_storage(tcp_system: OwnedSystem, tmp_path: Path) -> None:
    """A bug that shows beside the mailbox ends the process, as one in a handler does, and the lock is free."""
    client, book = StorageClient(tcp_system, config_for(tmp_path / "file")), Book()
    client.open_storage()
    pid = client.double(client.storage).pid
    client.write_slots({1000: book.reply(0)})
    wait_until(lambda: not is_living(pid), what="the end of the storage")
    StorageClient(tcp_system, client.config).open_storage()


def kill(pid: int) -> None:
    """End a process as the kernel does when memory runs out."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_living(pid), what=f"the end of process {pid}")


@pytest.mark.parametrize("victim", ["storage", "pool"])
def test_a_child_that_is_killed_is_named_and_nothing_is_promised_without_it(
    tcp_system: OwnedSystem, tmp_path: Path, victim: str
) -> None:
    """The owner is told once, everything is refused with the same reason, and another component opens the file."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(tcp_system, WatchedReplies)
    driver.open(config)
    driver.commit(book, 0)
    driver.checkpoint(book)
    children = driver.double()
    pids = {name: driver.double(getattr(children, name)).pid for name in ("storage", "pool")}
    kill(pids[victim])
    fault = driver.expect(StorageFailed).fault
    assert fault.kind is FaultKind.ACTOR_DIED
    assert {"storage": "storage", "pool": "message pool"}[victim] in fault.found
    refused = driver.try_write({1: book.reply(1)}, op=book.op)
    assert isinstance(refused, WritesRefused)
    assert refused.fault == fault
    assert driver.read(0, book.header(0)) is NotRead.CLOSED
    driver.send(AwaitDurable(owner=driver.owner, wait=1, slots=(0,)))
    assert driver.expect(RequestRefused).fault == fault
    assert driver.status().stopped == fault
    assert not driver.has(StorageFailed)
    next_owner = Driver(tcp_system, replies=driver.replies)
    answer = next_owner.try_open(config)
    assert isinstance(answer, OpenFailed)
    assert answer.fault.kind is FaultKind.STOPPED
    assert str(fault) in answer.fault.found
    driver.close()
    again = Driver(tcp_system)
    assert again.open(config, OpenMode.OPEN).faulty == ()
    assert again.read(0, book.header(0)) == book.replies[0]
    again.close()
    driver.send(ActorExitRequest())
    wait_until(lambda: not any(map(is_living, [children.pid, *pids.values()])), what="the end of the component")


def test_a_component_that_is_killed_leaves_no_child_and_no_lock(tcp_system: OwnedSystem, tmp_path: Path) -> None:
    """Its storage and its pool die with it, in the middle of a write, and the file can be opened by another."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(tcp_system, WatchedReplies)
    driver.open(config)
    driver.commit(book, 0)
    driver.checkpoint(book)
    component = driver.double()
    children = [driver.double(actor).pid for actor in (component.storage, component.pool)]
    driver.post({1: book.reply(1)}, op=book.op)
    kill(component.pid)
    wait_until(lambda: not any(map(is_living, children)), what="the end of the children")
    again = Driver(tcp_system)
    again.open(config, OpenMode.OPEN)
    assert again.read(0, book.header(0)) == book.replies[0]
    again.close()


def test_a_child_that_dies_while_nothing_is_open_is_replaced(tcp_system: OwnedSystem, tmp_path: Path) -> None:
    """Nobody was promised anything: the next opening has new actors."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(tcp_system, WatchedReplies)
    driver.open(config)
    driver.commit(book, 0)
    driver.checkpoint(book)
    children = driver.double()
    pids = [driver.double(actor).pid for actor in (children.storage, children.pool)]
    driver.close()
    for pid in pids:
        kill(pid)
    wait_until(lambda: driver.double().storage is None and driver.double().pool is None, what="two notices")
    again = Driver(tcp_system, replies=driver.replies)
    again.open(config, OpenMode.OPEN)
    assert again.read(0, book.header(0)) == book.replies[0]
    again.close()


def test_after_a_write_error_another_component_opens_the_file(asys: OwnedSystem, tmp_path: Path) -> None:
    """The failed one is ended, its lock is free, and what was durable before is there."""
    config, book = config_for(tmp_path / "file"), Book()
    formatter = Driver(asys)
    formatter.open(config)
    formatter.commit(book, 0)
    formatter.checkpoint(book)
    formatter.close()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.script(FailDevice(fault=DISK_FULL))
    driver.write({1: book.reply(1)}, op=book.op)
    driver.await_durable(1)
    assert driver.expect(StorageFailed).fault == DISK_FULL
    assert not driver.has(SlotsDurable)
    answer = driver.try_open(config)
    assert isinstance(answer, OpenFailed)
    assert answer.fault.kind is FaultKind.STOPPED
    assert str(DISK_FULL) in answer.fault.found
    for actor in (driver.replies, driver.storage):
        driver.send(ActorExitRequest(), actor)
    again = Driver(asys)
    while isinstance(answer := again.try_open(config, OpenMode.OPEN), OpenFailed):
        assert answer.fault.kind is FaultKind.FILE_LOCKED  # for the moment that the exit takes
    assert answer.sequence == 1
    assert again.read(0, book.header(0)) == book.replies[0]
    again.close()


@pytest.mark.parametrize("lane", ["repair", "checkpoint"])
def test_an_error_in_any_kind_of_write_stops_the_storage(asys: OwnedSystem, tmp_path: Path, lane: str) -> None:
    """A checkpoint that fails is not reported as done; a repair that fails does not go unnoticed."""
    config, book = config_for(tmp_path / "file"), Book()
    formatter = Driver(asys)
    formatter.open(config)
    formatter.commit(book, 0)
    formatter.checkpoint(book)
    formatter.close()
    damage(config, 0)
    driver = Driver(asys, scripted=True)
    assert driver.open(config).faulty == (0,)
    driver.script(FailDevice(fault=DISK_FULL, on_sync=True))
    if lane == "checkpoint":
        driver.start_checkpoint(book)
    else:
        peer = driver.scripted_peer(1)
        driver.set_peers((1, peer))
        driver.answer_as(peer, found(driver.asked(1), 1, {0: book.replies[0]}))
    assert driver.expect(StorageFailed).fault == DISK_FULL
    assert driver.status().sequence == 1


def test_a_new_owner_takes_over_from_a_dead_one_and_its_leases_come_back(asys: OwnedSystem, tmp_path: Path) -> None:
    """What the old one was accepted becomes durable first; what it held, lent buffers too, is the pool's again."""
    config, book = config_for(tmp_path / "file", hold_back=3600.0), Book()
    dead = Driver(asys)
    dead.open(config)
    own = dead.pool_status().held
    dead.checkpoint(book)
    lease, _unused = dead.lease(book.reply(0, 20 * KIB), b"never written")
    dead.write({0: lease, 1: book.reply(1)}, op=book.op)
    dead.ask_read(0, book.header(0))
    dead.start_checkpoint(book)

    heir = Driver(asys, replies=dead.replies)
    opened = heir.open(config, OpenMode.OPEN)
    assert (opened.sequence, opened.sessions, opened.faulty) == (2, book.encode(), ())
    assert heir.pool_status().held == own
    assert [heir.read(slot, book.header(slot)) for slot in (0, 1)] == [book.replies[0], book.replies[1]]
    refused = dead.try_write({2: book.reply(2)}, op=book.op)
    assert isinstance(refused, WritesRefused)
    assert refused.fault.kind is FaultKind.OWNER_UNKNOWN
    dead.send(AcquireLeases(holder=dead.owner, number=2, count=1), heir.pool)
    assert dead.expect(LeasesRefused).fault.kind is FaultKind.HOLDER_GONE
    heir.close()
    assert (heir.pool_status().held, heir.pool_status().waiting) == (0, 0)


def test_a_late_opening_of_an_owner_that_is_gone_changes_nothing(asys: OwnedSystem, tmp_path: Path) -> None:
    """Its `OpenReplies` comes once more, after another took over: that one stays, and so it does after closing."""
    config, book = config_for(tmp_path / "file"), Book()
    gone = Driver(asys)
    gone.open(config)
    heir = Driver(asys, replies=gone.replies)
    heir.open(config)
    heir.commit(book, 0)
    answer = gone.try_open(config)
    assert isinstance(answer, OpenFailed)
    assert answer.fault.kind is FaultKind.OWNER_UNKNOWN
    assert heir.read(0, book.header(0)) == book.replies[0]
    heir.close()
    for owner in (gone, heir):
        answer = owner.try_open(config)
        assert isinstance(answer, OpenFailed)
        assert answer.fault.kind is FaultKind.OWNER_UNKNOWN
    assert not heir.status().open


def test_a_new_owner_waits_for_no_write_that_will_never_end(asys: OwnedSystem, tmp_path: Path) -> None:
    """The storage fails while the old owner's writes become durable: the new one is told, not left to wait."""
    config, book = config_for(tmp_path / "file", hold_back=3600.0), Book()
    formatter = Driver(asys)
    formatter.open(config)
    formatter.close()
    dead = Driver(asys, scripted=True)
    dead.open(config)
    dead.write({0: book.reply(0)}, op=book.op)
    dead.script(FailDevice(fault=DISK_FULL))
    heir = Driver(asys, replies=dead.replies)
    answer = heir.try_open(config)
    assert isinstance(answer, OpenFailed)
    assert answer.fault == DISK_FULL


def test_a_closing_that_the_disk_stops_ends_all_the_same(asys: OwnedSystem, tmp_path: Path) -> None:
    """The owner is told of the failure, then that the file is closed; the pool has every lease, the lock is free."""
    config, book = config_for(tmp_path / "file", hold_back=3600.0), Book()
    formatter = Driver(asys)
    formatter.open(config)
    formatter.close()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    (lease,) = driver.lease(book.reply(0, 20 * KIB))
    driver.write({0: lease, 1: book.reply(1)}, op=book.op)
    driver.script(FailDevice(fault=DISK_FULL))
    driver.close()
    assert driver.expect(StorageFailed).fault == DISK_FULL
    driver.pool_until(0)
    again = Driver(asys)
    again.open(config, OpenMode.OPEN)
    again.close()


def test_killing_the_whole_system_leaves_nothing(tmp_path: Path) -> None:
    """All processes of the replica are killed at once while it writes: no process is left, and no lock."""
    config, book = config_for(tmp_path / "file"), Book()
    system = start_system()
    driver = Driver(system, WatchedReplies)
    driver.open(config)
    driver.commit(book, 0)
    driver.checkpoint(book)
    (lease,) = driver.lease(book.reply(1, 20 * KIB))
    driver.post({1: lease}, op=book.op)
    pids = processes_of(system)
    assert len(pids) >= 4
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_living, pids)), what="the end of the system")
    stop_system(system)
    system = start_system()
    again = Driver(system, ClientRepliesActor)
    again.open(config, OpenMode.OPEN)
    assert again.read(0, book.header(0)) == book.replies[0]
    again.close()
    stop_system(system)


def test_a_request_whose_answer_will_never_come_is_told_so_when_it_is_sent_again(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """The notice of the failure may have been lost, and the batch that waited for credit was taken before it."""
    config, book = config_for(tmp_path / "file", writes_max=1), Book()
    formatter = Driver(asys)
    formatter.open(config)
    formatter.close()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.script(FailDevice(fault=DISK_FULL))
    replies: dict[int, Payload] = {1: book.reply(1)}
    driver.post(replies, op=book.op)
    assert driver.expect(StorageFailed).fault == DISK_FULL
    assert not driver.has(WritesAccepted)
    driver.number -= 1
    driver.post(replies, op=book.op)
    assert driver.expect(StorageFailed).fault == DISK_FULL
