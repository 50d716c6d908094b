"""The store of one replica's log and snapshots: a SQLite database.

Guarantees: `write` returns when all of it is durable, in one transaction (a write-ahead journal, synced in full). What
is read was verified: an entry that rotted comes back as a `CorruptEntry`; rot anywhere else is `StoreDamaged`, and
nothing else is: what the disk or the operating system refuses is `StoreFailed`, and says nothing about the contents.
Of each entry the checksum is kept twice, beside the entry and in `heads`, so that a replica knows what it is missing.
One process owns a store at a time. A store that is not opened is left as it is.

    state      the promises, the base of the log, whose store this is; two copies, sealed
    entries    op, the entry's bytes              heads      op, the entry's checksum, a seal over both
    snapshots  op, the encoded snapshot

Limits: no writing on after an error. Whatever `write` raises, the store is closed and the replica stops: after a failed
sync nobody knows what is on the disk.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from client_replies.cluster.durable_files import sync_directory
from client_replies.cluster.vsr.durable import (
    CorruptEntry,
    DurableState,
    LogWrite,
    Snapshot,
    SnapshotInvalid,
    StoredLog,
)
from client_replies.cluster.vsr.messages import EntryInvalid, LogEntry
from client_replies.messages.reply_header import checksum128

STORE_VERSION = 1

_STATE = struct.Struct("<16sII16sIIBQQQ16s")
_VERSION = struct.Struct("<16sI")  # the checksum of what follows, and the version: there in every version
_OP = struct.Struct("<Q")
_SCHEMA = """
    CREATE TABLE state (copy INTEGER PRIMARY KEY, data BLOB NOT NULL);
    CREATE TABLE entries (op INTEGER PRIMARY KEY, data BLOB NOT NULL);
    CREATE TABLE heads (op INTEGER PRIMARY KEY, checksum BLOB NOT NULL, seal BLOB NOT NULL);
    CREATE TABLE snapshots (op INTEGER PRIMARY KEY, data BLOB NOT NULL);
"""
_TABLES = frozenset({b"state", b"entries", b"heads", b"snapshots"})


class LogStoreError(RuntimeError):
    """The store cannot be used. The message says why, and names the file."""


class StoreMissing(LogStoreError):
    """There is no store: the replica is new, or lost its disk."""


class StoreExists(LogStoreError):
    """There is a store already, and formatting never overwrites."""


class StoreLocked(LogStoreError):
    """Another process owns the store."""


class StoreOfOther(LogStoreError):
    """The store belongs to another cluster or another replica."""


class StoreVersionUnknown(LogStoreError):
    """The store was written by another version of this program, and is whole as far as this one can tell."""


class StoreDamaged(LogStoreError):
    """Provably more rotted than can be named: the replica is to be treated as one that lost its disk."""


class StoreFailed(LogStoreError):
    """The disk is full or read-only, or reports an error, or the operating system refuses; another time it may not."""


_PRIMARY_CODE = 0xFF  # of SQLite's result codes; the rest says more about it
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def _store_error(path: str, error: sqlite3.Error | OSError) -> LogStoreError:
    """What SQLite's error says about the store."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code & _PRIMARY_CODE in _LOCKED:
        return StoreLocked(f"{path}: another process has it open")
    kind = StoreDamaged if code & _PRIMARY_CODE in _DAMAGED else StoreFailed
    name = f" ({error.sqlite_errorname})" if hasattr(error, "sqlite_errorname") else ""
    return kind(f"{path}: {error}{name}{'' if kind is StoreDamaged else _space(path)}")


def _space(path: str) -> str:
    """SQLite calls a full disk by many names."""
    try:
        is_full = os.statvfs(os.path.dirname(os.path.abspath(path))).f_bavail == 0
    except OSError:
        return ""
    return "; no space is left on its disk" if is_full else ""


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """Whose store it is."""

    cluster: int
    replica: int


class LogStore(Protocol):
    """What both stores are."""

    def load(self) -> StoredLog:
        """Give everything that is in the store, verified."""

    def write(self, *writes: LogWrite) -> None:
        """Make the writes durable, in order, all or none."""

    def close(self) -> None:
        """Let another owner open the store."""


@dataclass(slots=True)
class _Image:
    """The rows of a store, as they were read."""

    states: list[bytes] = field(default_factory=list)
    entries: dict[int, bytes] = field(default_factory=dict)
    heads: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    snapshots: dict[int, bytes] = field(default_factory=dict)


def _pack_state(identity: StoreIdentity, state: DurableState, base: int, base_checksum: bytes) -> bytes:
    data = _STATE.pack(
        bytes(16),
        STORE_VERSION,
        identity.replica,
        identity.cluster.to_bytes(16, "little"),
        state.view,
        state.log_view,
        state.voting,
        state.sync_op,
        state.commit,
        base,
        base_checksum,
    )
    return checksum128(data[16:]) + data[16:]


def _unpack_state(copies: Iterable[bytes], identity: StoreIdentity, name: str) -> tuple[DurableState, int, bytes]:
    for data in copies:
        if len(data) < _VERSION.size or checksum128(data[16:]) != data[:16]:
            continue
        version = _VERSION.unpack_from(data)[1]
        if version != STORE_VERSION:
            raise StoreVersionUnknown(f"{name}: format version {version}, expected {STORE_VERSION}")
        if len(data) != _STATE.size:
            continue
        fields = _STATE.unpack(data)
        found = StoreIdentity(int.from_bytes(fields[3], "little"), fields[2])
        if found != identity:
            raise StoreOfOther(
                f"{name}: the log of replica {found.replica} of cluster {found.cluster:x}, "
                f"expected replica {identity.replica} of cluster {identity.cluster:x}"
            )
        state = DurableState(
            view=fields[4], log_view=fields[5], voting=bool(fields[6]), sync_op=fields[7], commit=fields[8]
        )
        return state, fields[9], fields[10]
    raise StoreDamaged(f"{name}: no copy of the state is whole")


def _seal(op: int, checksum: bytes) -> bytes:
    return checksum128(_OP.pack(op) + checksum)


def _assemble(image: _Image, identity: StoreIdentity, name: str, formatted: bool) -> StoredLog:
    """Verify everything that was read."""
    state, base, base_checksum = _unpack_state(image.states, identity, name)
    if sorted(image.heads) != list(range(base + 1, base + 1 + len(image.heads))):
        raise StoreDamaged(f"{name}: the log has gaps after op {base}")
    entries: dict[int, LogEntry | CorruptEntry] = {}
    parent = base_checksum
    for op in sorted(image.heads):
        checksum, seal = image.heads[op]
        if seal != _seal(op, checksum):
            raise StoreDamaged(f"{name}: the checksum of op {op} rotted")
        entry = _entry(op, checksum, image.entries.get(op))
        if isinstance(entry, LogEntry) and entry.parent != parent:
            raise StoreDamaged(f"{name}: op {op} does not continue the log before it")
        entries[op] = entry
        parent = checksum
    snapshots = []
    for op, data in sorted(image.snapshots.items()):
        try:
            snapshots.append(Snapshot.decode(data))
        except SnapshotInvalid as error:
            raise StoreDamaged(f"{name}: the snapshot of op {op} rotted: {error}") from error
    return StoredLog(
        formatted=formatted,
        state=state,
        base=base,
        base_checksum=base_checksum,
        entries=entries,
        snapshots=tuple(snapshots),
    )


def _entry(op: int, checksum: bytes, data: bytes | None) -> LogEntry | CorruptEntry:
    if data is None:
        return CorruptEntry(op, checksum)
    try:
        entry = LogEntry.unpack(data, checksum)
    except EntryInvalid:
        return CorruptEntry(op, checksum)
    return entry if entry.op == op else CorruptEntry(op, checksum)


class SqliteLogStore:
    """See the module. All methods are to be called from one thread at a time."""

    def __init__(self, path: str, identity: StoreIdentity, connection: sqlite3.Connection, formatted: bool) -> None:
        self.path = path
        self.identity = identity
        self._connection = connection
        self._formatted = formatted
        self._base = (0, bytes(16))

    @classmethod
    def format(cls, path: str, identity: StoreIdentity, *, voting: bool) -> SqliteLogStore:
        """Make a store: of a new cluster's replica, or, not `voting`, of one that lost its disk."""
        new = f"{path}.new"  # a crash leaves no half store under the real name
        try:
            for name in (path, f"{path}-wal"):
                if os.path.lexists(name):
                    raise StoreExists(f"{name}: there is a log already")
            for leftover in (new, f"{new}-journal"):
                Path(leftover).unlink(missing_ok=True)
            with closing(sqlite3.connect(new)) as connection, connection:
                pragmas = f"PRAGMA synchronous = FULL; PRAGMA user_version = {STORE_VERSION};"
                connection.executescript(f"{pragmas} BEGIN; {_SCHEMA} COMMIT;")
                data = _pack_state(identity, DurableState(voting=voting), 0, bytes(16))
                connection.executemany("INSERT INTO state VALUES (?, ?)", [(1, data), (2, data)])
            os.replace(new, path)
            sync_directory(Path(path).absolute().parent)
        except (sqlite3.Error, OSError) as error:
            raise StoreFailed(f"{path}: {error}{_space(path)}") from error
        return cls._open(path, identity, formatted=True)

    @classmethod
    def open(cls, path: str, identity: StoreIdentity) -> SqliteLogStore:
        """Open the store of an earlier life. Raises `LogStoreError`."""
        return cls._open(path, identity, formatted=False)

    @classmethod
    def _open(cls, path: str, identity: StoreIdentity, *, formatted: bool) -> SqliteLogStore:
        try:
            _check_is_there(path)
            # First without the right to write: SQLite moves its journal into a file even while it closes it.
            with closing(_connected(path, "ro")) as connection:
                _check_version(connection, path)
                _assemble(_read(connection), identity, path, formatted)
            connection = _connected(path, "rw")
            try:
                _lock(connection)
            except sqlite3.Error:
                connection.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise _store_error(path, error) from error
        return cls(path, identity, connection, formatted)

    def load(self) -> StoredLog:
        """Give everything that is in the store, verified. Raises `LogStoreError`."""
        try:
            image = _read(self._connection)
        except sqlite3.Error as error:
            raise _store_error(self.path, error) from error
        stored = _assemble(image, self.identity, self.path, self._formatted)
        self._base = (stored.base, stored.base_checksum)
        return stored

    def write(self, *writes: LogWrite) -> None:
        """Make the writes durable, in order, all or none. Raises `StoreFailed`, after which the store is closed."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for write in writes:
                self._write(write)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._connection.close()
            raise StoreFailed(f"{self.path}: {error}{_space(self.path)}") from error

    def _write(self, write: LogWrite) -> None:
        connection = self._connection
        if write.base is not None:
            self._base = write.base
            for table in ("entries", "heads"):
                connection.execute(f"DELETE FROM {table} WHERE op <= ?", (write.base[0],))
        if write.truncate_after is not None:
            for table in ("entries", "heads"):
                connection.execute(f"DELETE FROM {table} WHERE op > ?", (write.truncate_after,))
        rows = [(entry.op, entry.packed) for entry in write.entries]
        heads = [(entry.op, entry.checksum, _seal(entry.op, entry.checksum)) for entry in write.entries]
        connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?)", rows)
        connection.executemany("INSERT OR REPLACE INTO heads VALUES (?, ?, ?)", heads)
        if write.snapshot is not None:
            row = (write.snapshot.op, write.snapshot.encode())
            connection.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?)", row)
        if write.snapshots_from is not None:
            connection.execute("DELETE FROM snapshots WHERE op < ?", (write.snapshots_from,))
        data = _pack_state(self.identity, write.state, *self._base)
        connection.execute("UPDATE state SET data = ?", (data,))

    def close(self) -> None:
        """Let another owner open the store."""
        self._connection.close()


def _check_is_there(path: str) -> None:
    """Raises `StoreMissing`, `StoreDamaged`, `StoreFailed`, and `OSError` where it cannot be looked at."""
    try:
        os.lstat(path)  # of a symbolic link too: where it points to may not be mounted
        # SQLite would call this an I/O error. (Opening it here would free the locks that this process holds on it.)
        if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
            raise StoreFailed(f"{path}: found no right to read and write it, or a read-only disk; expected both")
    except FileNotFoundError:
        if os.path.lexists(f"{path}-wal"):
            raise StoreDamaged(f"{path}: the log is gone, and a part of it is still there in {path}-wal") from None
        raise StoreMissing(f"{path}: there is no log") from None


def _connected(path: str, mode: str) -> sqlite3.Connection:
    uri = f"{Path(path).absolute().as_uri()}?mode={mode}"  # a file that is missing is never made here
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=0.0)
    connection.text_factory = bytes  # rot may say that our bytes are text
    return connection


def _check_version(connection: sqlite3.Connection, path: str) -> None:
    """Another version may have other tables, so this comes before anything is missed."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, STORE_VERSION):  # 0: of before it was noted here
        raise StoreVersionUnknown(f"{path}: format version {version}, expected {STORE_VERSION}")
    tables = {_bytes(row[0]) for row in connection.execute("SELECT name FROM sqlite_master")}
    if missing := sorted(_TABLES - tables):
        raise StoreDamaged(f"{path}: found no table {missing[0].decode()}, which every log has")


def _lock(connection: sqlite3.Connection) -> None:
    """Own the store, and find it writable before anything is promised."""
    # The lock is taken with the first write and kept: a second owner would overwrite the first one's promises.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE state SET copy = copy")
    connection.execute("COMMIT")


def _read(connection: sqlite3.Connection) -> _Image:
    """Everything that is in the store, as it is."""
    execute = connection.execute
    return _Image(
        states=[_bytes(row[0]) for row in execute("SELECT data FROM state ORDER BY copy")],
        entries={op: _bytes(data) for op, data in execute("SELECT op, data FROM entries")},
        heads={
            op: (_bytes(checksum), _bytes(seal))
            for op, checksum, seal in execute("SELECT op, checksum, seal FROM heads")
        },
        snapshots={op: _bytes(data) for op, data in execute("SELECT op, data FROM snapshots")},
    )


def _bytes(value: object) -> bytes:
    """A column's value; what rot turned into something else than bytes is none of ours, and fails its checksum."""
    return value if isinstance(value, bytes) else b""
