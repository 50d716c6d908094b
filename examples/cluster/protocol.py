"""What the members of the cluster say to each other: clients and replicas, replicas among themselves.

Guarantees: immutable, validated where made and again where received. Everything here may be lost, late, doubled or
reordered; nothing relies on a connection. `Envelope` is the only message that really travels between two actors: it
carries what one had to say to the other since its last one.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field

from client_replies.messages.message import (
    U8_MAX,
    U32_MAX,
    U64_MAX,
    U128_MAX,
    Message,
    MessageInvalid,
    check_bytes,
    check_int,
    check_type,
    shown,
)
from client_replies.messages.reply_header import CHECKSUM_SIZE, HEADER_SIZE, OPERATION_REGISTER, checksum128

OPERATION_TRANSFER = 2
BODY_SIZE_MAX = 4096
ENTRIES_MAX = 256

_CHECKED = struct.Struct("<16s16sQIB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Message):
    """A client asks for an operation. `number` 0 registers; the checksum covers all other fields."""

    cluster: int
    client: int
    session: int
    number: int
    operation: int
    body: bytes = field(repr=False)
    checksum: bytes = field(repr=False)

    @classmethod
    def build(cls, *, cluster: int, client: int, session: int, number: int, operation: int, body: bytes) -> Request:
        """A request with its checksum."""
        checksum = _request_checksum(cluster, client, session, number, operation, body)
        return cls(
            cluster=cluster,
            client=client,
            session=session,
            number=number,
            operation=operation,
            body=body,
            checksum=checksum,
        )

    def validate(self) -> None:
        """Check the limits and the checksum."""
        check_int("cluster", self.cluster, 0, U128_MAX)
        check_int("client", self.client, 1, U128_MAX)
        check_int("session", self.session, 0, U64_MAX)
        check_int("number", self.number, 0, U32_MAX)
        check_int("operation", self.operation, 1, U8_MAX)
        check_bytes("body", self.body, 0, BODY_SIZE_MAX)
        check_bytes("checksum", self.checksum, CHECKSUM_SIZE, CHECKSUM_SIZE)
        if (self.number == 0) != (self.operation == OPERATION_REGISTER) or (self.number == 0) != (self.session == 0):
            raise MessageInvalid("number", str(self.number), "0 for a registration, outside a session, and only then")
        if self.checksum != _request_checksum(
            self.cluster, self.client, self.session, self.number, self.operation, self.body
        ):
            raise MessageInvalid("checksum", self.checksum.hex(), "the checksum of the request")

    @property
    def is_registration(self) -> bool:
        """True if the client asks for a session."""
        return self.number == 0


def _request_checksum(cluster: int, client: int, session: int, number: int, operation: int, body: bytes) -> bytes:
    head = _CHECKED.pack(cluster.to_bytes(16, "little"), client.to_bytes(16, "little"), session, number, operation)
    return checksum128(head + body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Message):
    """The reply to a client's request, header and body, as it was first computed."""

    client: int
    reply: bytes = field(repr=False)

    def validate(self) -> None:
        """Check that there is at least a header; who receives it verifies the rest."""
        check_int("client", self.client, 1, U128_MAX)
        check_bytes("reply", self.reply, HEADER_SIZE, U32_MAX)


class Refusal(enum.Enum):
    """Why a client gets no reply, ever."""

    NO_SESSION = "the session is gone: it was evicted, or never was"
    SESSION_TOO_LOW = "the client has a later session"
    REPLY_LOST = "the request was executed, and no replica holds its reply any more"
    OTHER_REQUEST = "the number was used for another request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Message):
    """The client's request gets no reply."""

    client: int
    session: int
    number: int
    refusal: Refusal

    def validate(self) -> None:
        """Check the limits."""
        check_int("client", self.client, 1, U128_MAX)
        check_int("session", self.session, 0, U64_MAX)
        check_int("number", self.number, 0, U32_MAX)
        check_type("refusal", self.refusal, Refusal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Message):
    """One request in its place in the order, with all that execution depends on."""

    op: int
    view: int
    replica: int
    timestamp: int
    request: Request

    def validate(self) -> None:
        """Check the limits."""
        check_int("op", self.op, 1, U64_MAX)
        check_int("view", self.view, 0, U32_MAX)
        check_int("replica", self.replica, 0, U8_MAX)
        check_int("timestamp", self.timestamp, 1, U64_MAX)
        check_type("request", self.request, Request)
        self.request.validate()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepares(Message):
    """The primary's entries from some op on, in order; everything up to `commit` is committed. May be empty."""

    view: int
    commit: int
    entries: tuple[Entry, ...]

    def validate(self) -> None:
        """Check that the entries are consecutive."""
        check_int("view", self.view, 0, U32_MAX)
        check_int("commit", self.commit, 0, U64_MAX)
        if type(self.entries) is not tuple or len(self.entries) > ENTRIES_MAX:
            raise MessageInvalid("entries", shown(self.entries), f"a tuple of at most {ENTRIES_MAX} entries")
        for index, entry in enumerate(self.entries):
            check_type("entries", entry, Entry)
            entry.validate()
            check_int("entries", entry.op, self.entries[0].op + index, self.entries[0].op + index)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareOk(Message):
    """The backup holds everything up to `op`, and has executed everything up to `executed`."""

    view: int
    replica: int
    op: int
    executed: int

    def validate(self) -> None:
        """Check the limits."""
        _check_backup(self.view, self.replica)
        check_int("op", self.op, 0, U64_MAX)
        check_int("executed", self.executed, 0, self.op)


@dataclass(frozen=True, slots=True, kw_only=True)
class GetPrepares(Message):
    """The backup misses the entries from `low` to `high`: it has later ones."""

    view: int
    replica: int
    low: int
    high: int

    def validate(self) -> None:
        """Check the limits."""
        _check_backup(self.view, self.replica)
        check_int("low", self.low, 1, U64_MAX)
        check_int("high", self.high, self.low, U64_MAX)


Item = Request | Answer | Refused | Prepares | PrepareOk | GetPrepares
ITEMS_MAX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope(Message):
    """What `sender` had to say since its last envelope; `taken` is the highest number it has had from the receiver.

    An envelope without items only says what was taken.
    """

    sender: str
    number: int
    taken: int
    items: tuple[Item, ...] = field(repr=False)

    def validate(self) -> None:
        """Check the envelope and everything in it."""
        check_type("sender", self.sender, str)
        check_int("number", self.number, 0, U64_MAX)
        check_int("taken", self.taken, 0, U64_MAX)
        if type(self.items) is not tuple or len(self.items) > ITEMS_MAX:
            raise MessageInvalid("items", shown(self.items), f"a tuple of at most {ITEMS_MAX} items")
        for item in self.items:
            check_type("items", item, Request, Answer, Refused, Prepares, PrepareOk, GetPrepares)
            item.validate()


def _check_backup(view: int, replica: int) -> None:
    check_int("view", view, 0, U32_MAX)
    check_int("replica", replica, 0, U8_MAX)
