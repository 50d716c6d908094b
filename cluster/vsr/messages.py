"""What replicas say to each other, and the log entry that most of it is about.

Guarantees: immutable, validated where made. A log entry is sealed by a checksum over everything in it and over the
checksum of the entry before it, so that an op and a checksum name not one entry but a whole log up to it: two logs
that differ anywhere differ at every op from there on.

Limits: no order, no delivery. Everything here may be lost, late, doubled or reordered.

    message              from        to          about
    Prepare, Commit      primary     backups     new entries; the commit number, also as a heartbeat
    PrepareOk            backup      primary     what is durable here
    StartViewChange      any         all         the sender has moved to the view, durably
    DoViewChange         any         new primary the sender's log, in checksums
    StartView            primary     backups     the view's log, in checksums
    GetStartView         backup      primary     the sender is not in the view
    GetEntries, Entries  any         any         repair
    Recovery(Response)   lost disk   all         what a replica without its past must catch up with
    GetSnapshot, SnapshotChunk  backup, primary  state sync
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from client_replies.cluster.protocol import Request
from client_replies.messages.message import (
    U8_MAX,
    U32_MAX,
    U64_MAX,
    Message,
    MessageInvalid,
    check_bytes,
    check_int,
    check_type,
    shown,
)
from client_replies.messages.reply_header import CHECKSUM_SIZE, checksum128

OPERATION_CLOSE = 3  # ends the session of the client that asks
LOG_LIMIT = 65_536  # entries that any message or log may name
CHUNK_SIZE_LIMIT = 2**20

_ENTRY = struct.Struct("<16s16sQIBQ16s16sQIB16s")


class EntryInvalid(ValueError):
    """Bytes that are not a whole, sealed log entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry(Message):
    """One request in its place in the log. `view`, `replica` and `timestamp` are those of its first prepare.

    `packed` is everything but the checksum as bytes, packed once: so it is sealed, stored and sent.
    """

    op: int
    view: int
    replica: int
    timestamp: int
    parent: bytes = field(repr=False)
    request: Request
    checksum: bytes = field(repr=False)
    packed: bytes = field(repr=False, compare=False)

    @property
    def session(self) -> int:
        """The session that the request is in, or the one that it begins."""
        return self.op if self.request.is_registration else self.request.session

    @classmethod
    def build(cls, *, op: int, view: int, replica: int, timestamp: int, parent: bytes, request: Request) -> LogEntry:
        """An entry with its checksum."""
        packed = _packed(op, view, replica, timestamp, parent, request)
        return cls(
            op=op,
            view=view,
            replica=replica,
            timestamp=timestamp,
            parent=parent,
            request=request,
            checksum=checksum128(packed),
            packed=packed,
        )

    def validate(self) -> None:
        """Check the limits and the seal."""
        check_int("op", self.op, 1, U64_MAX)
        check_int("view", self.view, 0, U32_MAX)
        check_int("replica", self.replica, 0, U8_MAX)
        check_int("timestamp", self.timestamp, 1, U64_MAX)
        check_bytes("parent", self.parent, CHECKSUM_SIZE, CHECKSUM_SIZE)
        check_type("request", self.request, Request)
        if checksum128(self.packed) != self.checksum:
            raise MessageInvalid("checksum", shown(self.checksum), "the checksum of the entry")

    def __reduce__(self) -> tuple[object, ...]:
        return _restored, (self.packed, self.checksum)

    @classmethod
    def unpack(cls, data: bytes, checksum: bytes) -> LogEntry:
        """The entry that was packed as `data`. Raises `EntryInvalid`."""
        if checksum128(data) != checksum or len(data) < _ENTRY.size:
            raise EntryInvalid(f"{len(data)} bytes that do not have the checksum {checksum.hex()}")
        entry = _restored(data, checksum)
        try:
            entry.request.validate()
            entry.validate()
        except MessageInvalid as error:
            raise EntryInvalid(str(error)) from error
        return entry


def _restored(packed: bytes, checksum: bytes) -> LogEntry:
    """The entry that was packed, not validated: who receives a message does that."""
    parent, _, op, view, replica, timestamp, cluster, client, session, number, operation, asked = _ENTRY.unpack_from(
        packed
    )
    # Past the constructor, which validates, and past the loop that restores other messages: entries are many.
    request: Request = _new(Request)
    _put(request, "cluster", int.from_bytes(cluster, "little"))
    _put(request, "client", int.from_bytes(client, "little"))
    _put(request, "session", session)
    _put(request, "number", number)
    _put(request, "operation", operation)
    _put(request, "body", packed[_ENTRY.size :])
    _put(request, "checksum", asked)
    entry: LogEntry = _new(LogEntry)
    _put(entry, "op", op)
    _put(entry, "view", view)
    _put(entry, "replica", replica)
    _put(entry, "timestamp", timestamp)
    _put(entry, "parent", parent)
    _put(entry, "request", request)
    _put(entry, "checksum", checksum)
    _put(entry, "packed", packed)
    return entry


_new, _put = object.__new__, object.__setattr__


def _packed(op: int, view: int, replica: int, timestamp: int, parent: bytes, request: Request) -> bytes:
    head = _ENTRY.pack(
        parent,
        bytes(16),
        op,
        view,
        replica,
        timestamp,
        request.cluster.to_bytes(16, "little"),
        request.client.to_bytes(16, "little"),
        request.session,
        request.number,
        request.operation,
        request.checksum,
    )
    return head + request.body


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare(Message):
    """The primary's entries from some op on, in order; everything up to `commit` is committed."""

    view: int
    commit: int
    entries: tuple[LogEntry, ...] = field(repr=False)

    def validate(self) -> None:
        """Check that the entries are consecutive."""
        check_int("view", self.view, 0, U32_MAX)
        check_int("commit", self.commit, 0, U64_MAX)
        _check_entries(self.entries)
        for index, entry in enumerate(self.entries):
            check_int("entries", entry.op, self.entries[0].op + index, self.entries[0].op + index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit(Message):
    """A heartbeat: the primary's log goes from after `base` to `op`, and everything up to `commit` is committed."""

    view: int
    commit: int
    op: int
    base: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareOk(Message):
    """The sender durably has the view's log up to `op`. Unless it is `voting`, that counts only for resending."""

    view: int
    replica: int
    op: int
    voting: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StartViewChange(Message):
    """The sender has left all earlier views, durably."""

    view: int
    replica: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DoViewChange(Message):
    """The sender's log for the primary of `view`, in checksums from the one of `commit` up to that of `op`.

    `held` says of each entry whether it is here, or only its checksum: the entry rotted, and was acknowledged once.
    """

    view: int
    replica: int
    log_view: int
    op: int
    commit: int
    checksums: tuple[bytes, ...] = field(repr=False)
    held: tuple[bool, ...] = field(repr=False)

    def validate(self) -> None:
        """Check that the columns cover commit to op."""
        _check_sender(self.view, self.replica)
        check_int("log_view", self.log_view, 0, self.view)
        _check_log(self.commit, self.op, self.checksums)
        check_int("held", len(self.held), len(self.checksums), len(self.checksums))


@dataclass(frozen=True, slots=True, kw_only=True)
class StartView(Message):
    """The view has begun with this log: in checksums, from the one of `commit` up to that of `op`."""

    view: int
    op: int
    commit: int
    checksums: tuple[bytes, ...] = field(repr=False)

    def validate(self) -> None:
        """Check that the checksums cover commit to op."""
        check_int("view", self.view, 0, U32_MAX)
        _check_log(self.commit, self.op, self.checksums)


@dataclass(frozen=True, slots=True, kw_only=True)
class GetStartView(Message):
    """The sender is not in `view`, of which it has heard."""

    view: int
    replica: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GetEntries(Message):
    """The sender would like these ops of whatever log the receiver has; it verifies what it gets."""

    replica: int
    ops: tuple[int, ...]

    def validate(self) -> None:
        """Check the limits."""
        check_int("replica", self.replica, 0, U8_MAX)
        if type(self.ops) is not tuple or not 0 < len(self.ops) <= LOG_LIMIT:
            raise MessageInvalid("ops", shown(self.ops), f"a tuple of 1 to {LOG_LIMIT} ops")
        for op in self.ops:
            check_int("ops", op, 1, U64_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries(Message):
    """Those of the asked entries that the sender has, and the op up to which its log was trimmed."""

    replica: int
    base: int
    entries: tuple[LogEntry, ...] = field(repr=False)

    def validate(self) -> None:
        """Check the entries."""
        check_int("replica", self.replica, 0, U8_MAX)
        check_int("base", self.base, 0, U64_MAX)
        _check_entries(self.entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery(Message):
    """The sender lost its disk. `nonce` tells answers to this life of it from answers to an earlier one."""

    replica: int
    nonce: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryResponse(Message):
    """The sender durably is in `view`; if it is the view's active primary, `op` is the end of its log."""

    replica: int
    nonce: int
    view: int
    primary: bool
    op: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GetSnapshot(Message):
    """The sender needs state: the snapshot named by op and checksum from `offset` on, or the latest (op 0).

    It is in `view`: nothing that only a later view has committed is for it.
    """

    view: int
    replica: int
    op: int
    checksum: bytes
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotChunk(Message):
    """A piece of the encoded snapshot of `op`, which has `size` bytes and `checksum` in all."""

    op: int
    checksum: bytes
    size: int
    offset: int
    data: bytes = field(repr=False)

    def validate(self) -> None:
        """Check that the piece is inside the whole."""
        check_int("op", self.op, 1, U64_MAX)
        check_bytes("checksum", self.checksum, CHECKSUM_SIZE, CHECKSUM_SIZE)
        check_int("size", self.size, 1, U64_MAX)
        check_bytes("data", self.data, 1, CHUNK_SIZE_LIMIT)
        check_int("offset", self.offset, 0, self.size - len(self.data))


VsrMessage = (
    Prepare
    | Commit
    | PrepareOk
    | StartViewChange
    | DoViewChange
    | StartView
    | GetStartView
    | GetEntries
    | Entries
    | Recovery
    | RecoveryResponse
    | GetSnapshot
    | SnapshotChunk
)


def _check_sender(view: int, replica: int) -> None:
    check_int("view", view, 0, U32_MAX)
    check_int("replica", replica, 0, U8_MAX)


def _check_log(commit: int, op: int, checksums: object) -> None:
    check_int("op", op, 0, U64_MAX)
    check_int("commit", commit, 0, op)
    if type(checksums) is not tuple or len(checksums) != op - commit + 1 or op - commit > LOG_LIMIT:
        raise MessageInvalid("checksums", shown(checksums), f"{op - commit + 1} checksums")
    for checksum in checksums:
        check_bytes("checksums", checksum, CHECKSUM_SIZE, CHECKSUM_SIZE)


def _check_entries(entries: object) -> None:
    if type(entries) is not tuple or len(entries) > LOG_LIMIT:
        raise MessageInvalid("entries", shown(entries), "a tuple of entries")
    for entry in entries:
        check_type("entries", entry, LogEntry)
        entry.validate()
