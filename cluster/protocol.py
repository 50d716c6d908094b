"""What clients and replicas say to each other. What replicas say among themselves is in `vsr.messages`.

Guarantees: immutable, validated where made and again where received. Everything here may be lost, late, doubled or
reordered; nothing relies on a connection.
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
)
from client_replies.messages.reply_header import CHECKSUM_SIZE, HEADER_SIZE, OPERATION_REGISTER, checksum128

BODY_SIZE_MAX = 4096

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
    view: int = 0  # of the replica that answers; it is not in the reply, which is the same for ever

    def validate(self) -> None:
        """Check that there is at least a header; who receives it verifies the rest."""
        check_int("client", self.client, 1, U128_MAX)
        check_int("view", self.view, 0, U32_MAX)
        check_bytes("reply", self.reply, HEADER_SIZE, U32_MAX)


class Refusal(enum.Enum):
    """Why a client gets no reply, ever."""

    NO_SESSION = "the session is gone: it was evicted, or never was"
    SESSION_TOO_LOW = "the client has a later session"
    REPLY_LOST = "the request was executed, and no replica holds its reply any more"
    OTHER_REQUEST = "the number was used for another request"
    REPLACED = "the session made room for others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Message):
    """The client's request gets no reply. From an earlier view than a reply came from, it is to be ignored."""

    client: int
    session: int
    number: int
    refusal: Refusal
    view: int = 0

    def validate(self) -> None:
        """Check the limits."""
        check_int("client", self.client, 1, U128_MAX)
        check_int("session", self.session, 0, U64_MAX)
        check_int("number", self.number, 0, U32_MAX)
        check_int("view", self.view, 0, U32_MAX)
        check_type("refusal", self.refusal, Refusal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirected(Message):
    """The replica is not the primary; as far as it knows, `replica` is, in `view`."""

    client: int
    view: int
    replica: int

    def validate(self) -> None:
        """Check the limits."""
        check_int("client", self.client, 1, U128_MAX)
        check_int("view", self.view, 0, U32_MAX)
        check_int("replica", self.replica, 0, U8_MAX)
