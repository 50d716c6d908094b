"""The reply header: 256 bytes, little-endian, that identify a reply and prove it whole.

    offset size field              offset size field
         0   16 checksum              120    8 timestamp (ns since the epoch, of the prepare)
        16   16 checksum_body         128    4 view (of the prepare)
        32   16 cluster               132    4 request (0: registration)
        48   16 client (never 0)      136    4 size (header and body, bytes)
        64   16 request_checksum      140    4 release (of the client, never 0)
        80   16 context               144    2 protocol
        96    8 session               146    1 command
       104    8 op                    147    1 replica (of the prepare)
       112    8 commit (equals op)    148    1 operation (never 0; 1 registers)
                                      149  107 reserved, zero

`checksum` is the XXH3-128 of bytes 16 to 255, `checksum_body` that of the body; both are stored least significant
byte first. `checksum` identifies a reply. Guarantees: `unpack` returns only headers that keep every rule, and each way
to break one has an error of its own below `HeaderInvalid`. Limits: no secrecy, no authenticity. XXH3 finds rot, not
malice. The layout follows TigerBeetle's `Header.Reply` in spirit; it is not byte compatible with it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated

import xxhash

from .invalid import Invalid
from .limits import Checks, Length, expected
from .message import U8, U16, U32, U64, U128, Op, View, shown

HEADER_SIZE = 256
CHECKSUM_SIZE = 16
PROTOCOL_VERSION = 1
COMMAND_REPLY = 8
OPERATION_REGISTER = 1

_LAYOUT = struct.Struct("<16s16s16s16s16s16sQQQQIIIIHBBB107s")
HEADER_TAIL = struct.Struct("<16s16s16s16s16sQQQQIIIIHBBB107x")  # all but the checksum, the reserved bytes zero
_RESERVED = bytes(107)
_IDENTITY = struct.Struct("<16s16s16s16s32xQQQ")
_SIZE = struct.Struct("<I")
_SIZE_OFFSET = 136
_OP = struct.Struct("<Q")
_OP_OFFSET = 104
_CLUSTER_AT = slice(2 * CHECKSUM_SIZE, 2 * CHECKSUM_SIZE + 16)
_REQUEST = struct.Struct("<48x16s16s16xQ8xQ12xI")
_SEAL = struct.Struct("<16s16s16s56xQ24xI116x")  # checksum, checksum_body, cluster, op, size
_PLACE = struct.Struct("<32x16s56xQ24xI")  # cluster, op, size

Buffer = bytes | bytearray | memoryview
Checksum = Annotated[bytes, Length(CHECKSUM_SIZE)]

if _LAYOUT.size != HEADER_SIZE:
    raise ImportError(f"the reply header packs to {_LAYOUT.size} bytes, expected {HEADER_SIZE}")


class HeaderInvalid(Invalid):
    """A reply header breaks one of its rules. `found` and `expected` say how, in words."""


class HeaderTruncated(HeaderInvalid):
    """Fewer than 256 bytes."""


class HeaderChecksumWrong(HeaderInvalid):
    """The header is not what was sealed: a bit of it changed."""


class HeaderReservedNotZero(HeaderInvalid):
    """A reserved byte is set."""


class HeaderProtocolUnknown(HeaderInvalid):
    """Another protocol version."""


class HeaderCommandWrong(HeaderInvalid):
    """Not a reply."""


class HeaderClusterWrong(HeaderInvalid):
    """A reply of another cluster."""


class HeaderClientZero(HeaderInvalid):
    """No client."""


class HeaderSizeWrong(HeaderInvalid):
    """Smaller than a header, larger than the largest message, or not what is there."""


class HeaderOpZero(HeaderInvalid):
    """Op 0 is the cluster's own beginning and has no reply."""


class HeaderCommitWrong(HeaderInvalid):
    """A reply commits at its own op."""


class HeaderSessionWrong(HeaderInvalid):
    """The session is 0 or began after the reply, or a registration's session is not its own commit."""


class HeaderRequestWrong(HeaderInvalid):
    """Request 0 is the registration's, and only the registration's."""


class HeaderOperationZero(HeaderInvalid):
    """Operation 0 is reserved."""


class HeaderReleaseZero(HeaderInvalid):
    """No client release."""


class HeaderTimestampZero(HeaderInvalid):
    """No timestamp."""


class HeaderFieldOutOfRange(HeaderInvalid):
    """A value does not fit its field."""


class BodyChecksumWrong(HeaderInvalid):
    """The body is not the one that the header was sealed with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyHeader:
    """A reply's header, field by field. See the module for sizes, units and rules.

    Make one with `Reply.build`, or with `sealed`, which computes `checksum`; a header that was only constructed may
    carry any checksum, and `verify` tells.
    """

    cluster: U128
    client: U128
    session: U64
    op: Op
    request: U32
    operation: U8
    timestamp: U64
    size: U32 = HEADER_SIZE
    view: View = 0
    replica: U8 = 0
    release: U32 = 1
    commit: Op = 0
    request_checksum: Checksum = bytes(CHECKSUM_SIZE)
    context: Checksum = bytes(CHECKSUM_SIZE)
    checksum_body: Checksum = bytes(CHECKSUM_SIZE)
    checksum: Checksum = bytes(CHECKSUM_SIZE)
    protocol: U16 = PROTOCOL_VERSION
    command: U8 = COMMAND_REPLY

    def pack(self) -> bytes:
        """The 256 bytes. Raises `HeaderFieldOutOfRange` if a value does not fit its field."""
        _CHECKS[ReplyHeader](self)
        return _LAYOUT.pack(
            self.checksum,
            self.checksum_body,
            self.cluster.to_bytes(16, "little"),
            self.client.to_bytes(16, "little"),
            self.request_checksum,
            self.context,
            self.session,
            self.op,
            self.commit,
            self.timestamp,
            self.view,
            self.request,
            self.size,
            self.release,
            self.protocol,
            self.command,
            self.replica,
            self.operation,
            _RESERVED,
        )

    @classmethod
    def unpack(cls, data: Buffer) -> ReplyHeader:
        """The header in the first 256 bytes of `data`, every rule verified. Raises a `HeaderInvalid`."""
        verify_header_checksum(data)
        header = cls._decode(data)
        header.verify()
        return header

    @classmethod
    def _decode(cls, data: Buffer) -> ReplyHeader:
        fields = _LAYOUT.unpack_from(data)
        if fields[18] != _RESERVED:
            raise HeaderReservedNotZero(
                f"{sum(byte != 0 for byte in fields[18])} reserved bytes set", "all reserved bytes zero"
            )
        return cls(
            checksum=fields[0],
            checksum_body=fields[1],
            cluster=int.from_bytes(fields[2], "little"),
            client=int.from_bytes(fields[3], "little"),
            request_checksum=fields[4],
            context=fields[5],
            session=fields[6],
            op=fields[7],
            commit=fields[8],
            timestamp=fields[9],
            view=fields[10],
            request=fields[11],
            size=fields[12],
            release=fields[13],
            protocol=fields[14],
            command=fields[15],
            replica=fields[16],
            operation=fields[17],
        )

    def sealed(self, body: Buffer = b"") -> ReplyHeader:
        """A copy with size, commit and both checksums computed for `body`, every rule verified."""
        draft = replace(
            self, size=HEADER_SIZE + len(body), commit=self.op, checksum_body=checksum128(body), checksum=bytes(16)
        )
        header = replace(draft, checksum=checksum128(memoryview(draft.pack())[CHECKSUM_SIZE:]))
        header.verify()
        return header

    def verify(self) -> None:
        """Raise the `HeaderInvalid` that names the first rule this header breaks."""
        _CHECKS[ReplyHeader](self)
        if self.protocol != PROTOCOL_VERSION:
            raise HeaderProtocolUnknown(f"protocol {self.protocol}", f"protocol {PROTOCOL_VERSION}")
        if self.command != COMMAND_REPLY:
            raise HeaderCommandWrong(f"command {self.command}", f"command {COMMAND_REPLY} (reply)")
        if self.size < HEADER_SIZE:
            raise HeaderSizeWrong(f"size {self.size}", f"at least {HEADER_SIZE}")
        if self.client == 0:
            raise HeaderClientZero("client 0", "a client above 0")
        if self.op == 0:
            raise HeaderOpZero("op 0", "an op above 0")
        if self.commit != self.op:
            raise HeaderCommitWrong(f"commit {self.commit}", f"commit {self.op}, the reply's op")
        if self.operation == 0:
            raise HeaderOperationZero("operation 0", "an operation above 0")
        self._verify_session()
        if self.release == 0:
            raise HeaderReleaseZero("release 0", "a release above 0")
        if self.timestamp == 0:
            raise HeaderTimestampZero("timestamp 0", "a timestamp above 0")
        if checksum128(memoryview(self.pack())[CHECKSUM_SIZE:]) != self.checksum:
            raise HeaderChecksumWrong(self.checksum.hex(), "the checksum of bytes 16 to 255")

    def _verify_session(self) -> None:
        registers = self.operation == OPERATION_REGISTER
        if registers != (self.request == 0):
            expected = "request 0 for a registration" if registers else "a request above 0"
            raise HeaderRequestWrong(f"request {self.request} of operation {self.operation}", expected)
        if not 0 < self.session <= self.commit or (registers and self.session != self.commit):
            expected = f"session {self.commit}" if registers else f"a session from 1 to {self.commit}"
            raise HeaderSessionWrong(f"session {self.session}", expected)


def _out_of_range(field: str, value: object, annotation: object) -> HeaderFieldOutOfRange:
    return HeaderFieldOutOfRange(f"{field} {shown(value)}", expected(annotation))


_CHECKS = Checks(_out_of_range)


def checksum128(data: Buffer) -> bytes:
    """XXH3-128 of `data`: 16 bytes, least significant first."""
    return xxhash.xxh3_128_digest(data)[::-1]


def verify_header_checksum(data: Buffer) -> None:
    """Raise if `data` is shorter than a header or its first 256 bytes are not what was sealed."""
    if len(data) < HEADER_SIZE:
        raise HeaderTruncated(f"{len(data)} bytes", f"at least {HEADER_SIZE}")
    found = checksum128(data[CHECKSUM_SIZE:HEADER_SIZE])
    if found != data[:CHECKSUM_SIZE]:
        raise HeaderChecksumWrong(data[:CHECKSUM_SIZE].hex(), f"{found.hex()}, the checksum of bytes 16 to 255")


# The two that follow look at a whole batch in one loop and call nothing of ours in it: a reply passes here on its way,
# and a call would cost as much as a checksum.


def sealed_sizes(replies: Iterable[Buffer], cluster: bytes, size_max: int) -> list[int] | None:
    """The size (header and body, bytes) of the reply at the start of each buffer; None if a header is not as sealed.

    As sealed means: its checksum is right, it is of this cluster (16 bytes, as in the header), and the reply has at
    most `size_max` bytes and is in its buffer. What is wrong with another is for `verify_reply_header` to say.
    """
    digest, unpack = xxhash.xxh3_128_digest, _SEAL.unpack
    sizes = []
    for data in replies:
        header = bytes(data[:HEADER_SIZE])
        if len(header) != HEADER_SIZE:
            return None
        checksum, _, found, _, size = unpack(header)
        if (
            not HEADER_SIZE <= size <= size_max
            or size > len(data)
            or found != cluster
            or digest(header[CHECKSUM_SIZE:])[::-1] != checksum
        ):
            return None
        sizes.append(size)
    return sizes


def whole_headers(replies: Iterable[Buffer], cluster: bytes, size_max: int) -> list[tuple[bytes, int, int]] | None:
    """The packed header, the op and the size of the reply at the start of each buffer; None if one is not whole.

    Whole means: as sealed (see `sealed_sizes`), with a body, and the body's checksum is right. What is wrong with
    another is for `verify_reply` to say.
    """
    digest, unpack = xxhash.xxh3_128_digest, _SEAL.unpack
    found = []
    for data in replies:
        header = bytes(data[:HEADER_SIZE])
        if len(header) != HEADER_SIZE:
            return None
        checksum, checksum_body, held, op, size = unpack(header)
        if (
            not HEADER_SIZE < size <= size_max
            or size > len(data)
            or held != cluster
            or digest(header[CHECKSUM_SIZE:])[::-1] != checksum
            or digest(data[HEADER_SIZE:size])[::-1] != checksum_body
        ):
            return None
        found.append((header, op, size))
    return found


def verify_body_checksum(header: Buffer, body: Buffer) -> None:
    """Raise if `body` is not the body that the packed `header` was sealed with."""
    stored = header[CHECKSUM_SIZE : 2 * CHECKSUM_SIZE]
    if checksum128(body) != stored:
        raise BodyChecksumWrong(f"a body with checksum {checksum128(body).hex()}", stored.hex())


def packed_size(header: Buffer) -> int:
    """The size field (header and body, bytes) of a packed header, unverified."""
    size: int = _SIZE.unpack_from(header, _SIZE_OFFSET)[0]
    return size


def packed_op(header: Buffer) -> int:
    """The op field of a packed header, unverified."""
    op: int = _OP.unpack_from(header, _OP_OFFSET)[0]
    return op


def packed_cluster_op_size(header: Buffer) -> tuple[bytes, int, int]:
    """The cluster (16 bytes, as it is packed), the op and the size of a packed header, unverified."""
    cluster, op, size = _PLACE.unpack_from(header)
    return cluster, op, size


def packed_cluster(header: Buffer) -> int:
    """The cluster of a packed header, unverified."""
    return int.from_bytes(header[_CLUSTER_AT], "little")


def packed_cluster_client(header: Buffer) -> tuple[int, int]:
    """The cluster and client of a packed header, unverified."""
    fields = _IDENTITY.unpack_from(header)
    return int.from_bytes(fields[2], "little"), int.from_bytes(fields[3], "little")


def packed_client_request(header: Buffer) -> tuple[int, bytes, int, int, int]:
    """The client, request checksum, session, commit and request number of a packed header, unverified.

    All that the session table asks of a header, ten times cheaper than unpacking it.
    """
    client, request_checksum, session, commit, request = _REQUEST.unpack_from(header)
    return int.from_bytes(client, "little"), request_checksum, session, commit, request
