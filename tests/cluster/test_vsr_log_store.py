"""Both log stores: what they keep over a crash, what they say about rot, and who may open them."""

from __future__ import annotations

import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from client_replies.cluster.log.log_store import (
    LogStore,
    SqliteLogStore,
    StoreDamaged,
    StoreExists,
    StoreFailed,
    StoreIdentity,
    StoreLocked,
    StoreMissing,
    StoreOfOther,
    StoreVersionUnknown,
)
from client_replies.cluster.protocol import Request
from client_replies.cluster.vsr.durable import (
    CorruptEntry,
    DurableState,
    LogWrite,
    Snapshot,
    SnapshotInvalid,
)
from client_replies.cluster.vsr.messages import LogEntry
from client_replies.messages.reply_header import checksum128

from .memory_log_store import MemoryLogStore
from examples.ledger.ledger import OPERATION_TRANSFER

IDENTITY = StoreIdentity(0xC1, 2)
ZERO = bytes(16)


def entries(count: int, *, first: int = 1, parent: bytes = ZERO, view: int = 0) -> tuple[LogEntry, ...]:
    """Give a chain of entries."""
    chain: list[LogEntry] = []
    for op in range(first, first + count):
        body = struct.pack("<Q", op) * 4
        request = Request.build(cluster=0xC1, client=op, session=1, number=op, operation=OPERATION_TRANSFER, body=body)
        entry = LogEntry.build(op=op, view=view, replica=0, timestamp=op, parent=parent, request=request)
        parent = entry.checksum
        chain.append(entry)
    return tuple(chain)


class Place:
    """Where a store of either kind is: it can be opened again, and its entries can rot."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.path = str(directory / "log.db")
        self.memory = MemoryLogStore(IDENTITY, voting=True) if kind == "memory" else None
        self.store: LogStore = self.memory or SqliteLogStore.format(self.path, IDENTITY, voting=True)

    def reopened(self) -> LogStore:
        """The store, opened by another life."""
        self.store.close()
        if self.memory is None:
            self.store = SqliteLogStore.open(self.path, IDENTITY)
        return self.store

    def rot(self, op: int) -> None:
        """Damage an entry."""
        if self.memory is not None:
            self.memory.rot(op)
            return
        self.store.close()
        with sqlite3.connect(self.path) as connection:
            data = bytearray(connection.execute("SELECT data FROM entries WHERE op = ?", (op,)).fetchone()[0])
            data[len(data) // 2] ^= 0x40
            connection.execute("UPDATE entries SET data = ? WHERE op = ?", (bytes(data), op))
        connection.close()
        self.store = SqliteLogStore.open(self.path, IDENTITY)


@pytest.fixture(params=("memory", "sqlite"))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Run the test with each kind of store."""
    place = Place(request.param, tmp_path)
    yield place
    place.store.close()


def test_a_new_store_is_empty_and_says_that_it_is_new(place: Place) -> None:
    """Formatted just now, and not in an earlier life: a primary may go on in view 0."""
    stored = place.store.load()
    assert (stored.formatted, stored.op, stored.base, stored.snapshots) == (True, 0, 0, ())
    assert stored.state == DurableState()
    assert not place.reopened().load().formatted


def test_what_was_written_is_there_in_the_next_life(place: Place) -> None:
    """State, entries, truncation, base and snapshots, each as the last write left it."""
    chain = entries(10)
    state = DurableState(view=3, log_view=2, voting=True, sync_op=4, commit=7)
    snapshot = Snapshot(op=4, parent=chain[3].checksum, sessions=b"sessions", machine=b"machine")
    place.store.write(LogWrite(state=DurableState(), entries=chain[:6]))
    place.store.write(
        LogWrite(state=DurableState(), entries=chain[6:]),
        LogWrite(state=state, snapshot=snapshot, base=(4, chain[3].checksum), truncate_after=8),
    )
    stored = place.reopened().load()
    assert stored.state == state
    assert (stored.base, stored.base_checksum, stored.op) == (4, chain[3].checksum, 8)
    assert dict(stored.entries) == {entry.op: entry for entry in chain[4:8]}
    assert stored.snapshots == (snapshot,)


def test_entries_after_a_truncation_take_the_place_of_others(place: Place) -> None:
    """A view change replaces the end of the log in one write."""
    chain = entries(6)
    other = entries(4, first=4, parent=chain[2].checksum, view=1)
    place.store.write(LogWrite(state=DurableState(), entries=chain))
    place.store.write(LogWrite(state=DurableState(view=1, log_view=1), truncate_after=3, entries=other))
    stored = place.reopened().load()
    assert list(stored.entries.values()) == [*chain[:3], *other]


def test_old_snapshots_are_dropped_when_told_so(place: Place) -> None:
    """Two are there only while a checkpoint is between the store and the component."""
    for op in (4, 8):
        snapshot = Snapshot(op=op, parent=ZERO, sessions=b"", machine=bytes([op]))
        place.store.write(LogWrite(state=DurableState(), snapshot=snapshot))
    assert [snapshot.op for snapshot in place.store.load().snapshots] == [4, 8]
    place.store.write(LogWrite(state=DurableState(), snapshots_from=8))
    assert [snapshot.op for snapshot in place.reopened().load().snapshots] == [8]


def test_a_rotten_entry_is_named_with_the_checksum_that_it_had(place: Place) -> None:
    """So that the replica knows what to ask the others for; the rest is as it was."""
    chain = entries(5)
    place.store.write(LogWrite(state=DurableState(), entries=chain))
    place.rot(3)
    stored = place.store.load()
    assert stored.entries[3] == CorruptEntry(3, chain[2].checksum)
    assert [stored.entries[op] for op in (1, 2, 4, 5)] == [chain[0], chain[1], chain[3], chain[4]]
    place.store.write(LogWrite(state=DurableState(), entries=(chain[2],)))
    assert place.reopened().load().entries[3] == chain[2]


def test_what_was_not_completed_is_lost_in_a_crash() -> None:
    """The twin in memory takes a write apart."""
    chain = entries(4)
    store = MemoryLogStore(IDENTITY, voting=True)
    store.submit(1, LogWrite(state=DurableState(), entries=chain[:2]))
    store.submit(2, LogWrite(state=DurableState(view=1), entries=chain[2:]))
    assert store.complete() == 1
    store.crash()
    stored = store.load()
    assert (stored.op, stored.state.view, stored.formatted) == (2, 0, False)


def test_a_store_without_a_vote_stays_without_one(tmp_path: Path) -> None:
    """The replacement of a lost disk says so in every life until the replica is brought up."""
    store = SqliteLogStore.format(str(tmp_path / "log.db"), IDENTITY, voting=False)
    assert not store.load().state.voting
    store.close()
    store = SqliteLogStore.open(str(tmp_path / "log.db"), IDENTITY)
    assert not store.load().state.voting
    store.close()


def test_a_store_is_opened_only_by_whom_it_belongs_to(tmp_path: Path) -> None:
    """Missing, there already, of another replica, open elsewhere: each is an error of its own."""
    path = str(tmp_path / "log.db")
    with pytest.raises(StoreMissing):
        SqliteLogStore.open(path, IDENTITY)
    store = SqliteLogStore.format(path, IDENTITY, voting=True)
    with pytest.raises(StoreLocked):
        SqliteLogStore.open(path, IDENTITY)
    with pytest.raises(StoreExists):
        SqliteLogStore.format(path, IDENTITY, voting=True)
    store.close()
    for other in (StoreIdentity(0xC2, 2), StoreIdentity(0xC1, 1)):
        with pytest.raises(StoreOfOther):
            SqliteLogStore.open(path, other)


def test_rot_that_cannot_be_named_is_damage(tmp_path: Path) -> None:
    """A checksum's seal, both copies of the state, a snapshot, a gap, a table: the replica has lost its disk."""
    chain = entries(5)
    snapshot = Snapshot(op=4, parent=ZERO, sessions=b"", machine=b"machine")
    for number, damage in enumerate(
        (
            "UPDATE heads SET checksum = zeroblob(16) WHERE op = 2",
            "UPDATE state SET data = zeroblob(111)",
            "UPDATE snapshots SET data = zeroblob(80)",
            "DELETE FROM heads WHERE op = 2",
            "DROP TABLE heads",
        )
    ):
        path = str(tmp_path / f"log-{number}.db")
        store = SqliteLogStore.format(path, IDENTITY, voting=True)
        store.write(LogWrite(state=DurableState(), entries=chain, snapshot=snapshot))
        store.close()
        with sqlite3.connect(path) as connection:
            connection.execute(damage)
        connection.close()
        with pytest.raises(StoreDamaged), closing(SqliteLogStore.open(path, IDENTITY)) as store:
            store.load()


def test_one_copy_of_the_state_is_enough(tmp_path: Path) -> None:
    """The promises are kept twice."""
    path = str(tmp_path / "log.db")
    store = SqliteLogStore.format(path, IDENTITY, voting=True)
    store.write(LogWrite(state=DurableState(view=5, log_view=4)))
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE state SET data = zeroblob(111) WHERE copy = 1")
    connection.close()
    store = SqliteLogStore.open(path, IDENTITY)
    assert store.load().state == DurableState(view=5, log_view=4)
    store.close()


def test_a_file_that_is_no_database_is_damage(tmp_path: Path) -> None:
    """Garbage under the store's name, and a file that was cut."""
    path = tmp_path / "log.db"
    path.write_bytes(b"no database at all" * 500)
    with pytest.raises(StoreDamaged):
        SqliteLogStore.open(str(path), IDENTITY)
    path.write_bytes(b"")
    with pytest.raises(StoreDamaged):
        SqliteLogStore.open(str(path), IDENTITY)


def opened_in_a_process(path: str, prepare: str) -> str:
    """What becomes of an opening in a process of its own, prepared by some lines."""
    program = f"""
import os, resource, sys
from client_replies.cluster.log.log_store import LogStoreError, SqliteLogStore, StoreIdentity
{prepare}
try:
    SqliteLogStore.open({path!r}, StoreIdentity({IDENTITY.cluster}, {IDENTITY.replica})).load()
except LogStoreError as error:
    print(type(error).__name__, error)
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60.0, check=True
    )
    return done.stdout


REFUSALS = {
    "a limit on file sizes": "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))",
    "no descriptor left": "resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4)); kept = os.open(os.devnull, os.O_RDONLY)",
    "no right to write": "os.chmod(PATH, 0o444); os.setuid(65534) if os.getuid() == 0 else None",
    "no right to read": "os.chmod(PATH, 0); os.setuid(65534) if os.getuid() == 0 else None",
    "a directory without rights": "os.chmod(os.path.dirname(PATH), 0); os.setuid(65534) if os.getuid() == 0 else None",
}


@pytest.mark.slow
@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_the_operating_system_refuses_is_no_damage_and_changes_nothing(refusal: str) -> None:
    """A replica whose log cannot be opened now must not be taken for one whose log rotted; it opens later."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        directory = Path(place) / "replica"
        directory.mkdir()
        path = str(directory / "log.db")
        store = SqliteLogStore.format(path, IDENTITY, voting=True)
        store.write(LogWrite(state=DurableState(view=7), entries=entries(5)))
        killed = copied(path)  # its journal beside it, as a killed replica leaves it
        store.close()
        before = {file.name: file.read_bytes() for file in directory.iterdir()}
        said = opened_in_a_process(killed, REFUSALS[refusal].replace("PATH", repr(killed)))
        assert said.startswith("StoreFailed "), said
        directory.chmod(0o755)
        Path(killed).chmod(0o644)
        after = {file.name: file.read_bytes() for file in directory.iterdir()}
        assert {name: after.get(name) for name in before} == before
        store = SqliteLogStore.open(killed, IDENTITY)
        assert (store.load().op, store.load().state.view) == (5, 7)
        store.close()


def copied(path: str) -> str:
    """The store as it is on the disk now."""
    for end in ("", "-wal"):
        if Path(f"{path}{end}").exists():
            shutil.copy(f"{path}{end}", f"{path}.killed{end}")
    return f"{path}.killed"


def test_another_format_version_is_no_damage(tmp_path: Path) -> None:
    """Noted in the file's header, or only in the state, which then may be longer than ours."""
    for number, change in enumerate(("header", "state")):
        path = str(tmp_path / f"log-{number}.db")
        SqliteLogStore.format(path, IDENTITY, voting=True).close()
        with sqlite3.connect(path) as connection:
            if change == "header":
                connection.execute("PRAGMA user_version = 2")
                connection.execute("DROP TABLE snapshots")
            else:
                data = struct.pack("<I", 2) + bytes(200)
                connection.execute("UPDATE state SET data = ?", (checksum128(data) + data,))
        connection.close()
        before = Path(path).read_bytes()
        with pytest.raises(StoreVersionUnknown, match="format version 2, expected 1"):
            SqliteLogStore.open(path, IDENTITY)
        assert Path(path).read_bytes() == before


def test_a_damaged_log_keeps_every_byte_although_its_journal_is_whole(tmp_path: Path) -> None:
    """SQLite moves what its journal has into the file, even into garbage, when it closes it."""
    path = str(tmp_path / "log.db")
    store = SqliteLogStore.format(path, IDENTITY, voting=True)
    store.write(LogWrite(state=DurableState(view=7), entries=entries(5)))
    killed = copied(path)
    store.close()
    Path(killed).write_bytes(b"garbage" * 4000)
    with pytest.raises(StoreDamaged):
        SqliteLogStore.open(killed, IDENTITY)
    assert Path(killed).read_bytes() == b"garbage" * 4000


def test_a_journal_without_its_log_is_damage_and_is_never_used_with_another_log(tmp_path: Path) -> None:
    """SQLite would apply it to the new log."""
    path = str(tmp_path / "log.db")
    store = SqliteLogStore.format(path, IDENTITY, voting=True)
    store.write(LogWrite(state=DurableState(view=7), entries=entries(5)))
    killed = copied(path)
    store.close()
    Path(killed).unlink()
    with pytest.raises(StoreDamaged, match="the log is gone"):
        SqliteLogStore.open(killed, IDENTITY)
    with pytest.raises(StoreExists):
        SqliteLogStore.format(killed, IDENTITY, voting=False)


def test_columns_that_rot_turned_into_something_else_fail_their_checksums(tmp_path: Path) -> None:
    """Numbers, text and nothing where bytes were: an entry is named, the rest is damage."""
    path = str(tmp_path / "log.db")
    store = SqliteLogStore.format(path, IDENTITY, voting=True)
    store.write(LogWrite(state=DurableState(), entries=entries(3)))
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET data = 5 WHERE op = 1")
        connection.execute("UPDATE entries SET data = 'text' WHERE op = 2")
    connection.close()
    store = SqliteLogStore.open(path, IDENTITY)
    assert [type(entry).__name__ for entry in store.load().entries.values()] == [
        "CorruptEntry",
        "CorruptEntry",
        "LogEntry",
    ]
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE state SET data = 1.5")
    connection.close()
    with pytest.raises(StoreDamaged):
        SqliteLogStore.open(path, IDENTITY)


def test_a_write_that_fails_closes_the_store(tmp_path: Path) -> None:
    """After an error nobody knows what is on the disk: the next write fails too, and nothing of the first is there."""
    path = str(tmp_path / "log.db")
    store = SqliteLogStore.format(path, IDENTITY, voting=True)
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    large = Snapshot(op=1, parent=ZERO, sessions=bytes(100_000), machine=b"")
    with pytest.raises(StoreFailed, match="full"):
        store.write(
            LogWrite(state=DurableState(view=1), entries=entries(1)), LogWrite(state=DurableState(), snapshot=large)
        )
    with pytest.raises(StoreFailed):
        store.write(LogWrite(state=DurableState()))
    store = SqliteLogStore.open(path, IDENTITY)
    assert (store.load().op, store.load().state.view) == (0, 0)
    store.close()


def test_every_byte_and_every_length_of_an_entry_counts() -> None:
    """Each byte inverted and each truncation is seen."""
    entry = entries(1)[0]
    data = entry.packed
    damaged: list[bytes] = [data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :] for at in range(len(data))]
    damaged += [data[:length] for length in range(len(data))]
    for bad in damaged:
        with pytest.raises(ValueError, match="bytes"):
            LogEntry.unpack(bad, entry.checksum)
    assert LogEntry.unpack(data, entry.checksum) == entry


def _damaged(data: bytes, change: Callable[[bytes, int], bytes]) -> Iterator[bytes]:
    return (change(data, at) for at in range(len(data)))


def test_every_byte_and_every_length_of_a_snapshot_counts() -> None:
    """Each byte inverted and each truncation is seen."""
    snapshot = Snapshot(op=9, timestamp=7, parent=bytes(range(16)), sessions=b"sessions", machine=b"machine")
    data = snapshot.encode()
    assert Snapshot.decode(data) == snapshot
    for bad in _damaged(data, lambda data, at: data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]):
        with pytest.raises(SnapshotInvalid):
            Snapshot.decode(bad)
    for bad in _damaged(data, lambda data, at: data[:at]):
        with pytest.raises(SnapshotInvalid):
            Snapshot.decode(bad)
