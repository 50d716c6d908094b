"""What a client asks of the service, as replicas order and execute it; `door.frames` is how it travels.

Guarantees: immutable, validated where made and again where received. A request may be lost, late, doubled or reordered.
"""

from __future__ import annotations

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
)
from client_replies.messages.reply_header import CHECKSUM_SIZE, OPERATION_REGISTER, checksum128

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
