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
from typing import Annotated

from client_replies.cluster.protocol import Request
from client_replies.messages.limits import Length, LengthPer
from client_replies.messages.message import U8, U64, Message, MessageInvalid, Number, Op, View, shown
from client_replies.messages.reply_header import Checksum, checksum128

OPERATION_CLOSE = 3  # ends the session of the client that asks
LOG_LIMIT = 65_536  # entries that any message or log may name
CHUNK_SIZE_LIMIT = 2**20

Checksums = Annotated[tuple[Checksum, ...], Length(1, LOG_LIMIT + 1)]

_ENTRY = struct.Struct("<16s16sQIBQ16s16sQIB16s")


class EntryInvalid(ValueError):
    """Bytes that are not a whole, sealed log entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry(Message):
    """One request in its place in the log. `view`, `replica` and `timestamp` are those of its first prepare.

    `packed` is everything but the checksum as bytes, packed once: so it is sealed, stored and sent.
    """

    op: Number
    view: View
    replica: U8
    timestamp: Number
    parent: Checksum = field(repr=False)
    request: Request
    checksum: Checksum = field(repr=False)
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

    def rules(self) -> None:
        """Check the seal."""
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


LogEntries = Annotated[tuple[LogEntry, ...], Length(0, LOG_LIMIT)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare(Message):
    """The primary's entries from some op on, in order; everything up to `commit` is committed."""

    view: View
    commit: Op
    entries: LogEntries = field(repr=False)

    def rules(self) -> None:
        """Check that the entries are consecutive."""
        for op, entry in enumerate(self.entries, self.entries[0].op if self.entries else 0):
            if entry.op != op:
                raise MessageInvalid("entries", f"a tuple with op {entry.op}", f"op {op} in its place")


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit(Message):
    """A heartbeat: the primary's log goes from after `base` to `op`, and everything up to `commit` is committed."""

    view: View
    commit: Op
    op: Op
    base: Op


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareOk(Message):
    """The sender durably has the view's log up to `op`. Unless it is `voting`, that counts only for resending."""

    view: View
    replica: U8
    op: Op
    voting: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StartViewChange(Message):
    """The sender has left all earlier views, durably."""

    view: View
    replica: U8


@dataclass(frozen=True, slots=True, kw_only=True)
class DoViewChange(Message):
    """The sender's log for the primary of `view`, in checksums from the one of `commit` up to that of `op`.

    `held` says of each entry whether it is here, or only its checksum: the entry rotted, and was acknowledged once.
    """

    view: View
    replica: U8
    log_view: View
    op: Op
    commit: Op
    checksums: Checksums = field(repr=False)
    held: Annotated[tuple[bool, ...], LengthPer("checksums")] = field(repr=False)

    def rules(self) -> None:
        """Check that the log's view has begun, and that the checksums cover commit to op."""
        if self.log_view > self.view:
            raise MessageInvalid("log_view", str(self.log_view), f"at most {self.view}, the view")
        _check_log(self.commit, self.op, self.checksums)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartView(Message):
    """The view has begun with this log: in checksums, from the one of `commit` up to that of `op`."""

    view: View
    op: Op
    commit: Op
    checksums: Checksums = field(repr=False)

    def rules(self) -> None:
        """Check that the checksums cover commit to op."""
        _check_log(self.commit, self.op, self.checksums)


@dataclass(frozen=True, slots=True, kw_only=True)
class GetStartView(Message):
    """The sender is not in `view`, of which it has heard."""

    view: View
    replica: U8


@dataclass(frozen=True, slots=True, kw_only=True)
class GetEntries(Message):
    """The sender would like these ops of whatever log the receiver has; it verifies what it gets."""

    replica: U8
    ops: Annotated[tuple[Number, ...], Length(1, LOG_LIMIT)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries(Message):
    """Those of the asked entries that the sender has, and the op up to which its log was trimmed."""

    replica: U8
    base: Op
    entries: LogEntries = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery(Message):
    """The sender lost its disk. `nonce` tells answers to this life of it from answers to an earlier one."""

    replica: U8
    nonce: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryResponse(Message):
    """The sender durably is in `view`; if it is the view's active primary, `op` is the end of its log."""

    replica: U8
    nonce: U64
    view: View
    primary: bool
    op: Op


@dataclass(frozen=True, slots=True, kw_only=True)
class GetSnapshot(Message):
    """The sender needs state: the snapshot named by op and checksum from `offset` on, or the latest (op 0).

    It is in `view`: nothing that only a later view has committed is for it.
    """

    view: View
    replica: U8
    op: Op
    checksum: Checksum
    offset: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotChunk(Message):
    """A piece of the encoded snapshot of `op`, which has `size` bytes and `checksum` in all."""

    op: Number
    checksum: Checksum
    size: Number
    offset: U64
    data: Annotated[bytes, Length(1, CHUNK_SIZE_LIMIT)] = field(repr=False)

    def rules(self) -> None:
        """Check that the piece is inside the whole."""
        if self.offset + len(self.data) > self.size:
            raise MessageInvalid("offset", str(self.offset), f"at most {self.size - len(self.data)}")


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


def _check_log(commit: int, op: int, checksums: tuple[bytes, ...]) -> None:
    if len(checksums) != op - commit + 1:
        raise MessageInvalid("checksums", shown(checksums), f"a tuple of length {op - commit + 1}, from commit to op")
