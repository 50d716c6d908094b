"""What clients and replicas say to each other. What replicas say among themselves is in `vsr.messages`.

Guarantees: immutable, validated where made and again where received. Everything here may be lost, late, doubled or
reordered; nothing relies on a connection.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import Annotated

from client_replies.messages.limits import Length, Range
from client_replies.messages.message import (
    U8,
    U8_MAX,
    U32,
    U32_MAX,
    U64,
    U128,
    U128_MAX,
    Message,
    MessageInvalid,
    View,
)
from client_replies.messages.reply_header import HEADER_SIZE, OPERATION_REGISTER, Checksum, checksum128

BODY_SIZE_MAX = 4096

Client = Annotated[int, Range(1, U128_MAX)]

_CHECKED = struct.Struct("<16s16sQIB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Message):
    """A client asks for an operation. `number` 0 registers; the checksum covers all other fields."""

    cluster: U128
    client: Client
    session: U64
    number: U32
    operation: Annotated[int, Range(1, U8_MAX)]
    body: Annotated[bytes, Length(0, BODY_SIZE_MAX)] = field(repr=False)
    checksum: Checksum = field(repr=False)

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

    def rules(self) -> None:
        """Check that only a registration has number 0, and the checksum."""
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

    client: Client
    reply: Annotated[bytes, Length(HEADER_SIZE, U32_MAX)] = field(repr=False)
    view: View = 0  # of the replica that answers; it is not in the reply, which is the same for ever


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

    client: Client
    session: U64
    number: U32
    refusal: Refusal
    view: View = 0

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.refusal.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirected(Message):
    """The replica is not the primary; as far as it knows, `replica` is, in `view`."""

    client: Client
    view: View
    replica: U8
