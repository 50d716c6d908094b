"""What a client asks of the service, as replicas order and execute it; `door.frames` is how it travels.

Guarantees: immutable, validated where made and again where received. A request may be lost, late, doubled or reordered.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Annotated

from client_replies.messages.limits import Length, Range
from client_replies.messages.message import (
    U8_MAX,
    U32,
    U64,
    U128,
    U128_MAX,
    Message,
    MessageInvalid,
)
from client_replies.messages.reply_header import OPERATION_REGISTER, Checksum, checksum128

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
