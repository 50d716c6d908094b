"""What bad input gets: a typed reason, and nothing else changes. The same on both bases."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client_replies.actors.thespian.system import OwnedSystem
from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.faults import FaultKind
from client_replies.messages.leases import make_lease
from client_replies.messages.message import Message
from client_replies.messages.replies import (
    AwaitDurable,
    Checkpoint,
    CloseReplies,
    InstallSessions,
    NotRead,
    OpenFailed,
    RemoveReplies,
    RepliesStatus,
    ReplyRead,
    ReplyTaken,
    RequestRefused,
    SetPeers,
    WritesRefused,
)
from client_replies.messages.reply_header import HEADER_SIZE, checksum128
from client_replies.storage.data_file import DataFile
from client_replies.storage.device import FileDisk
from client_replies.storage.layout import Layout
from client_replies.storage.superblock import Superblock

from tests.actors.driver import CLUSTER, KIB, Book, Driver, config_for


def formatted(system: OwnedSystem, config: RepliesConfig) -> None:
    """Make a data file with a reply and two checkpoints in it."""
    driver, book = Driver(system), Book(config.clients_max)
    driver.open(config)
    driver.commit(book, 1)
    driver.checkpoint(book)
    driver.commit(book, 1)
    driver.checkpoint(book)
    driver.close()


def snapshot(path: Path) -> tuple[bytes, int] | None:
    """Give the bytes of a file and when it was last changed."""
    return (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None


def superblock_of_version_3(path: Path, config: RepliesConfig) -> None:
    """Write the superblock that a later version of the program would."""
    superblock = Superblock(cluster=CLUSTER, replica=0, clients_max=8, message_size_max=config.message_size_max)
    with path.open("r+b") as file:
        for copy in range(4):
            sector = bytearray(superblock.encode(copy))
            sector[32] = 3
            sector[16:32] = checksum128(sector[32:])
            file.seek(4096 * copy)
            file.write(sector)


def overwritten(*offsets: int) -> Callable[[Path, RepliesConfig], None]:
    """Damage a file at these offsets."""

    def damage(path: Path, config: RepliesConfig) -> None:
        with path.open("r+b") as file:
            for offset in offsets:
                file.seek(offset)
                file.write(b"rotten")

    return damage


def trailers_damaged(path: Path, config: RepliesConfig) -> None:
    """Damage the session tables of both checkpoints."""
    overwritten(*(Layout.of(config).trailer_offset(area) + 100 for area in (0, 1)))(path, config)


def with_another_table(path: Path, config: RepliesConfig) -> None:
    """Take a checkpoint of bytes that are no session table."""
    data_file = DataFile.open(FileDisk(), config, OpenMode.OPEN)
    data_file.write_checkpoint(3, 100, b"a session table of another kind")
    data_file.close()


def truncated_to(size: int) -> Callable[[Path, RepliesConfig], None]:
    """Cut the file."""
    return lambda path, config: os.truncate(path, size)


def foreign(path: Path, config: RepliesConfig) -> None:
    """Put somebody else's file in the place."""
    path.write_bytes(b"#!/bin/sh\n" * 10_000)


def untouched(path: Path, config: RepliesConfig) -> None:
    """Leave the file as it is."""


BAD_FILES: dict[str, tuple[FaultKind, Callable[[Path, RepliesConfig], None], dict[str, Any], str, str]] = {
    "another cluster": (FaultKind.CLUSTER_MISMATCH, untouched, {"cluster": 8}, "cluster 7", "cluster 8"),
    "another replica": (FaultKind.REPLICA_MISMATCH, untouched, {"replica": 3}, "replica 0", "replica 3"),
    "another slot count": (FaultKind.SLOT_COUNT_MISMATCH, untouched, {"clients_max": 9}, "8", "9"),
    "another slot size": (FaultKind.SLOT_SIZE_MISMATCH, untouched, {"message_size_max": 65536}, "32768", "65536"),
    "another version": (FaultKind.FORMAT_VERSION_UNKNOWN, superblock_of_version_3, {}, "version 3", "version 1 or 2"),
    "truncated": (FaultKind.FILE_TRUNCATED, truncated_to(100_000), {}, "100000 bytes", "bytes"),
    "truncated in its head": (FaultKind.FILE_TRUNCATED, truncated_to(5000), {}, "5000 bytes", "16384"),
    "not ours": (FaultKind.NOT_A_DATA_FILE, foreign, {}, "first 16 bytes", "client-replies"),
    "empty": (FaultKind.FILE_TRUNCATED, truncated_to(0), {}, "0 bytes", "16384"),
    "no agreement": (FaultKind.SUPERBLOCK_CORRUPT, overwritten(100, 4196, 8292), {}, "sequence 2", "2 copies"),
    "damaged tables": (FaultKind.TRAILER_CORRUPT, trailers_damaged, {}, "checkpoint 2", "checksum"),
    "a table of another kind": (FaultKind.TRAILER_INVALID, with_another_table, {}, "31 bytes", "session table"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_does_not_fit_is_refused_and_left_as_it_is(asys: OwnedSystem, tmp_path: Path, name: str) -> None:
    """`OpenFailed` says the kind, what was found and what was expected; no byte and no time stamp changes.

    The component is none the worse: it then opens another file.
    """
    kind, spoil, changes, found, expected = BAD_FILES[name]
    path = tmp_path / "file"
    config = config_for(path)
    formatted(asys, config)
    spoil(path, config)
    before = snapshot(path)
    driver = Driver(asys)
    for mode in (OpenMode.OPEN, OpenMode.OPEN_OR_FORMAT):
        answer = driver.try_open(replace(config, **changes), mode)
        assert isinstance(answer, OpenFailed)
        assert answer.fault.kind is kind
        assert found in answer.fault.found
        assert expected in answer.fault.expected
    assert snapshot(path) == before
    assert not driver.status().open
    driver.open(config_for(tmp_path / "another"))
    assert driver.pool_status().held == config.read_buffers + config.repair_buffers
    driver.close()


def test_a_file_that_another_process_has_locked_is_refused(asys: OwnedSystem, tmp_path: Path) -> None:
    """Also one that another component of this system has open; it is free again when that one closes."""
    config = config_for(tmp_path / "file")
    first, second = Driver(asys), Driver(asys)
    first.open(config)
    before = snapshot(tmp_path / "file")
    answer = second.try_open(config)
    assert isinstance(answer, OpenFailed)
    assert answer.fault.kind is FaultKind.FILE_LOCKED
    first.close()
    program = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, config.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        answer = second.try_open(config)
        assert isinstance(answer, OpenFailed)
        assert answer.fault.kind is FaultKind.FILE_LOCKED
        other.communicate(b"\n")
    assert snapshot(tmp_path / "file") == before
    second.open(config)
    second.close()


def test_what_is_missing_or_in_the_way_is_named(asys: OwnedSystem, tmp_path: Path) -> None:
    """No file, no directory, a directory in the file's place, a file in the directory's place, a file to format."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "plain").write_text("plain")
    config = config_for(tmp_path / "file")
    driver = Driver(asys)
    wanted = {
        ("nothing", OpenMode.OPEN): FaultKind.FILE_MISSING,
        ("missing/file", OpenMode.OPEN): FaultKind.DIRECTORY_MISSING,
        ("missing/file", OpenMode.OPEN_OR_FORMAT): FaultKind.DIRECTORY_MISSING,
        ("plain/file", OpenMode.FORMAT): FaultKind.DIRECTORY_MISSING,
        ("directory", OpenMode.OPEN): FaultKind.NOT_A_FILE,
        ("plain", OpenMode.FORMAT): FaultKind.FILE_EXISTS,
    }
    for (name, mode), kind in wanted.items():
        answer = driver.try_open(replace(config, path=str(tmp_path / name)), mode)
        assert isinstance(answer, OpenFailed)
        assert answer.fault.kind is kind, (name, mode)
    assert sorted(os.listdir(tmp_path)) == ["directory", "plain"]
    assert (tmp_path / "plain").read_text() == "plain"


def test_a_directory_that_may_not_be_written_is_named(asys: OwnedSystem) -> None:
    """The operating system refuses to make the file, here where not even root may, and the answer says so."""
    answer = Driver(asys).try_open(config_for("/sys/client-replies-file"))
    assert isinstance(answer, OpenFailed)
    assert answer.fault.kind is FaultKind.PERMISSION_DENIED


def test_a_limit_on_the_size_of_files_is_named_and_leaves_nothing(asys: OwnedSystem, tmp_path: Path) -> None:
    """No file may grow that large: formatting is refused, there is no file, and later there is."""
    config = config_for(tmp_path / "file")
    driver = Driver(asys, scripted=True)
    pid = driver.double(driver.storage).pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (Layout.of(config).size - 4096, before[1]))
    try:
        answer = driver.try_open(config)
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    assert isinstance(answer, OpenFailed)
    assert answer.fault.kind is FaultKind.FILE_SIZE_LIMIT
    assert os.listdir(tmp_path) == []
    assert driver.open(config).formatted
    driver.close()


def test_an_owner_that_opens_twice_or_before_its_turn_is_told_so(asys: OwnedSystem, tmp_path: Path) -> None:
    """A repeated `OpenReplies` gets the same answer until the file is used, then `ALREADY_OPEN`; it stays open."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    assert driver.open(config) == driver.open(config)
    driver.commit(book, 0)
    opened = driver.opened
    answer = driver.try_open(config)
    assert isinstance(answer, OpenFailed)
    assert answer.fault.kind is FaultKind.ALREADY_OPEN
    driver.opened = opened
    assert driver.read(0, book.header(0)) == book.replies[0]
    driver.close()


def unchanged(status: RepliesStatus) -> RepliesStatus:
    """Give what a refused message must not change: all but the counters and the number of the question."""
    return replace(status, counters={}, request=0)


BAD_REPLIES: dict[str, tuple[FaultKind, Callable[[Book], Any]]] = {
    "too large to travel as bytes": (FaultKind.INLINE_TOO_LARGE, lambda book: book.reply(0, 4 * KIB + 1)),
    "larger than a slot": (FaultKind.REPLY_TOO_LARGE, lambda book: book.reply(0, 32 * KIB + 1)),
    "of another cluster": (FaultKind.REPLY_OTHER_CLUSTER, lambda book: Book(cluster=8).reply(0)),
    "a wrong header checksum": (FaultKind.REPLY_INVALID, lambda book: b"x" + book.reply(0)[1:]),
    "a wrong body checksum": (FaultKind.REPLY_INVALID, lambda book: book.reply(0)[:-1] + b"x"),
    "cut short": (FaultKind.REPLY_INVALID, lambda book: book.reply(0)[:-1]),
    "with a tail": (FaultKind.REPLY_INVALID, lambda book: book.reply(0) + b"x"),
    "no whole header": (FaultKind.REPLY_INVALID, lambda book: book.reply(0)[:200]),
    "no bytes at all": (FaultKind.REPLY_INVALID, lambda book: b""),
    "without a body": (FaultKind.REPLY_WITHOUT_BODY, lambda book: book.reply(0, HEADER_SIZE)),
    "a lease that nobody has": (FaultKind.LEASE_STALE, lambda book: make_lease(3, 99)),
    "a lease on no buffer": (FaultKind.LEASE_STALE, lambda book: make_lease(60_000, 1)),
    "older than what is there": (FaultKind.REPLY_OLDER, lambda book: Book().reply(0, operation=201)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD_REPLIES)
def test_a_bad_reply_is_refused_and_changes_nothing(asys: OwnedSystem, tmp_path: Path, name: str) -> None:
    """The whole batch is refused with the index and the reason; the good reply beside it is not taken over either."""
    kind, make = BAD_REPLIES[name]
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    driver.commit(book, 0, 1)
    before = driver.status(*range(8))
    good = book.reply(2)
    answer = driver.try_write({2: good, 0: make(book)}, op=book.op)
    assert isinstance(answer, WritesRefused)
    assert (answer.index, answer.fault.kind) == (1, kind)
    assert unchanged(driver.status(*range(8))) == unchanged(before)
    assert driver.read(2, good[:HEADER_SIZE]) is NotRead.UNEXPECTED
    driver.write_durable({2: good}, op=book.op)
    driver.close()


def test_a_slot_out_of_range_is_refused_wherever_it_is_named(asys: OwnedSystem, tmp_path: Path) -> None:
    """In a write, a removal and a wait it has its reason; a read of it is unexpected."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    driver.commit(book, 0)
    before = driver.status()
    answer = driver.try_write({1: book.reply(1), 8: book.reply(2)}, op=book.op)
    assert isinstance(answer, WritesRefused)
    assert (answer.index, answer.fault.kind) == (1, FaultKind.SLOT_OUT_OF_RANGE)
    driver.send(RemoveReplies(owner=driver.owner, number=driver.number + 1, op=book.op, slots=(0, 1000)))
    refused = driver.expect(WritesRefused)
    assert (refused.index, refused.fault.kind) == (1, FaultKind.SLOT_OUT_OF_RANGE)
    driver.await_durable(8)
    assert driver.refused("AwaitDurable").fault.kind is FaultKind.SLOT_OUT_OF_RANGE
    assert driver.read(8, book.header(0)) is NotRead.UNEXPECTED
    assert unchanged(driver.status()) == unchanged(before)
    driver.close()


def test_a_refused_batch_leaves_its_leases_with_the_sender(asys: OwnedSystem, tmp_path: Path) -> None:
    """The sender may use them again, in a good batch or to give them back."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    own = driver.pool_status().held
    leases = driver.lease(book.reply(0, 20 * KIB), b"no reply at all" * 30)
    answer = driver.try_write(dict(enumerate(leases)), op=book.op)
    assert isinstance(answer, WritesRefused)
    assert (answer.index, answer.fault.kind) == (1, FaultKind.REPLY_INVALID)
    driver.status()
    assert driver.pool_status().held == own + 2
    driver.write_durable({0: leases[0]}, op=book.op)
    assert driver.release(leases[1]).stale == ()
    driver.pool_until(own)
    driver.close()


def test_a_lease_that_is_in_use_or_only_lent_is_refused(asys: OwnedSystem, tmp_path: Path) -> None:
    """Twice in a batch, again while its write is pending, or the reader's buffer: two would write to one."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    own = driver.pool_status().held
    driver.hold("write")
    (lease,) = driver.lease(book.reply(0, 20 * KIB))
    refusals = [driver.try_write({0: lease, 1: lease}, op=book.op)]
    driver.write({0: lease}, op=book.op)
    refusals += [driver.try_write({slot: lease}, op=book.op) for slot in (0, 1)]
    read = driver.ask_read(0, book.header(0))
    lent = driver.expect(ReplyRead).payload
    refusals.append(driver.try_write({1: lent}, op=book.op))
    for refused in refusals:
        assert isinstance(refused, WritesRefused)
        assert refused.fault.kind is FaultKind.LEASE_STALE
    driver.send(ReplyTaken(owner=driver.owner, read=read))
    driver.held("write")
    driver.let_go("write")
    driver.durable(0)
    driver.write_durable({1: lease}, op=book.op)
    assert driver.pool_until(own).stale_refused == 0
    driver.close()
    assert driver.pool_status().held == 0


def too_large_for_a_slot(book: Book) -> bytes:
    """Give a table that expects a reply which fits no slot."""
    book.reply(0, 40 * KIB)
    return book.encode()


BAD_TABLES: dict[str, tuple[FaultKind, Callable[[Book], bytes]]] = {
    "not a table": (FaultKind.SESSIONS_INVALID, lambda book: b"x" * 500),
    "a flipped bit": (FaultKind.SESSIONS_INVALID, lambda book: book.encode()[:-1] + b"x"),
    "of another cluster": (FaultKind.SESSIONS_INVALID, lambda book: Book(cluster=8).encode()),
    "of another size": (FaultKind.SESSIONS_INVALID, lambda book: Book(9).encode()),
    "a reply that fits no slot": (FaultKind.SESSIONS_INVALID, too_large_for_a_slot),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_session_table_is_refused_and_changes_nothing(asys: OwnedSystem, tmp_path: Path, name: str) -> None:
    """Neither a checkpoint nor an installation takes it, and the component goes on."""
    kind, make = BAD_TABLES[name]
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    driver.commit(book, 0)
    good, op, before = book.encode(), book.op, driver.status(*range(8))
    bad = make(book)
    for message in (Checkpoint, InstallSessions):
        driver.send(message(owner=driver.owner, number=driver.number + 1, op=book.op, sessions=bad))
        assert driver.refused(message.__name__).fault.kind is kind
    assert unchanged(driver.status(*range(8))) == unchanged(before)
    book.op = op
    assert driver.checkpoint_done(driver.start_checkpoint(book, sessions=good)).sequence == 1
    driver.close()


def test_a_checkpoint_that_does_not_agree_with_the_slots_is_refused(asys: OwnedSystem, tmp_path: Path) -> None:
    """A table with another reply than was written, without one that was, or ahead of its own op."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    driver.commit(book, 0, 1)
    before = driver.status()
    unwritten, bare = Book(), Book()
    unwritten.reply(0, operation=201)
    for table, op in ((unwritten, book.op), (bare, book.op), (book, book.op - 1)):
        driver.send(Checkpoint(owner=driver.owner, number=driver.number + 1, op=op, sessions=table.encode()))
        assert driver.refused("Checkpoint").fault.kind is FaultKind.SESSIONS_MISMATCH
    assert unchanged(driver.status()) == unchanged(before)
    driver.checkpoint(book)
    driver.close()


def test_a_checkpoint_older_than_the_last_one_is_refused(asys: OwnedSystem, tmp_path: Path) -> None:
    """The file never goes back to an earlier op; the same op again is a checkpoint like any other."""
    driver, book = Driver(asys), Book()
    driver.open(config_for(tmp_path / "file"))
    driver.checkpoint(book)
    driver.send(Checkpoint(owner=driver.owner, number=driver.number + 1, op=book.op - 1, sessions=book.encode()))
    assert driver.refused("Checkpoint").fault.kind is FaultKind.OUT_OF_SEQUENCE
    assert driver.checkpoint(book).sequence == 2
    driver.close()


def test_a_second_checkpoint_is_busy_while_one_is_in_progress(asys: OwnedSystem, tmp_path: Path) -> None:
    """The first one ends as if nothing had been asked."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("checkpoint")
    number = driver.start_checkpoint(book)
    driver.held("checkpoint")
    driver.send(Checkpoint(owner=driver.owner, number=number + 1, op=book.op, sessions=book.encode()))
    assert driver.refused("Checkpoint").fault.kind is FaultKind.BUSY
    driver.let_go("checkpoint")
    assert driver.checkpoint_done(number).sequence == 1
    driver.close()


def test_only_the_owner_is_served_and_only_while_the_file_is_open(asys: OwnedSystem, tmp_path: Path) -> None:
    """Before opening, after closing and for somebody else, everything that changes something is refused by name."""
    config, book = config_for(tmp_path / "file"), Book()
    reply = book.reply(0)
    driver = Driver(asys)
    stranger = Driver(asys, replies=driver.replies)
    assert everything_refused(stranger, book, reply) == {FaultKind.NOT_OPEN}
    driver.open(config)
    before = driver.status()
    assert everything_refused(stranger, book, reply) == {FaultKind.OWNER_UNKNOWN}
    assert unchanged(driver.status()) == unchanged(before)
    driver.close()
    assert everything_refused(stranger, book, reply) == {FaultKind.NOT_OPEN}
    driver.number = 0
    assert everything_refused(driver, book, reply) <= {FaultKind.NOT_OPEN}


def everything_refused(driver: Driver, book: Book, reply: bytes) -> set[FaultKind]:
    """Ask for everything; gives the reasons of the refusals."""
    owner, number = driver.owner, driver.number + 1
    requests: list[Message] = [
        RemoveReplies(owner=owner, number=number, op=1, slots=(0,)),
        Checkpoint(owner=owner, number=number, op=book.op, sessions=book.encode()),
        InstallSessions(owner=owner, number=number, op=book.op, sessions=book.encode()),
        AwaitDurable(owner=owner, wait=1, slots=(0,)),
        SetPeers(owner=owner, version=1, peers=()),
        CloseReplies(owner=owner, number=1000),
    ]
    answer = driver.try_write({0: reply}, op=1)
    assert isinstance(answer, WritesRefused)
    kinds = {answer.fault.kind}
    for request in requests:
        driver.send(request)
        kinds.add(driver.expect(WritesRefused, RequestRefused).fault.kind)
    assert driver.read(0, reply[:HEADER_SIZE]) is NotRead.CLOSED
    return kinds
