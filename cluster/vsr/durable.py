"""What a replica keeps durably, and the one kind of write by which it changes.

Guarantees: a `LogWrite` is all or nothing, and writes are completed in the order in which they were asked for. That
is what lets a new view number, the log that belongs to it and the truncation of the log before it be one step, with no
crash in between. Everything is read back verified: a log entry that rotted is named as such, with the checksum that
it had; anything else that rotted makes the store unusable (`StoreDamaged`), and the replica one that lost its disk.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from client_replies.messages.reply_header import checksum128

from .messages import LogEntry

_SNAPSHOT = struct.Struct("<8s16s16sQQII")
_MAGIC = b"vsrstate"


class SnapshotInvalid(ValueError):
    """Bytes that are not a whole snapshot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DurableState:
    """The replica's promises.

    `view`: it takes part in no earlier one. `log_view`: the view in which its log was last known to be the right one.
    `voting`: its promises are whole; False from the loss of the disk until it is brought up. `sync_op`: the snapshot
    whose replies are not all durable yet, or 0. `commit`: known to be committed, and in this log.
    """

    view: int = 0
    log_view: int = 0
    voting: bool = True
    sync_op: int = 0
    commit: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The replicated state as of `op`: the session table and the state machine, encoded.

    `parent` is the checksum of op's entry and `timestamp` its time: the log goes on from there.
    """

    op: int
    parent: bytes = field(repr=False)
    sessions: bytes = field(repr=False)
    machine: bytes = field(repr=False)
    timestamp: int = 0

    def encode(self) -> bytes:
        """The snapshot as bytes, the same on every replica."""
        body = self.sessions + self.machine
        fields = (self.parent, self.op, self.timestamp, len(self.sessions), len(self.machine))
        checked = _SNAPSHOT.pack(_MAGIC, bytes(16), *fields)[24:] + body
        return _MAGIC + checksum128(checked) + checked

    @classmethod
    def decode(cls, data: bytes) -> Snapshot:
        """The snapshot that was encoded. Raises `SnapshotInvalid`."""
        if len(data) < _SNAPSHOT.size:
            raise SnapshotInvalid(f"{len(data)} bytes")
        magic, checksum, parent, op, timestamp, sessions_size, machine_size = _SNAPSHOT.unpack_from(data)
        if magic != _MAGIC or len(data) != _SNAPSHOT.size + sessions_size + machine_size:
            raise SnapshotInvalid(f"{len(data)} bytes with magic {magic!r}")
        if checksum128(memoryview(data)[24:]) != checksum:
            raise SnapshotInvalid(f"op {op} without its checksum")
        middle = _SNAPSHOT.size + sessions_size
        sessions, machine = data[_SNAPSHOT.size : middle], data[middle:]
        return cls(op=op, timestamp=timestamp, parent=parent, sessions=sessions, machine=machine)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogWrite:
    """One atomic change. In this order: the base, the truncation, the entries, the snapshot; the state always."""

    state: DurableState
    base: tuple[int, bytes] | None = None  # entries up to this op, with this checksum, are dropped
    truncate_after: int | None = None  # entries after this op are dropped
    entries: tuple[LogEntry, ...] = field(default=(), repr=False)  # added, or put in the place of rotten ones
    snapshot: Snapshot | None = None  # added
    snapshots_from: int | None = None  # snapshots of earlier ops are dropped


@dataclass(frozen=True, slots=True)
class CorruptEntry:
    """The entry with this checksum belongs here and is not readable."""

    op: int
    checksum: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLog:
    """Everything that a store held when it was opened. `formatted` if that was just now and not in an earlier life."""

    formatted: bool
    state: DurableState
    base: int
    base_checksum: bytes
    entries: Mapping[int, LogEntry | CorruptEntry] = field(repr=False)
    snapshots: tuple[Snapshot, ...] = field(repr=False)  # oldest first

    @property
    def op(self) -> int:
        """The end of the log."""
        return self.base + len(self.entries)
