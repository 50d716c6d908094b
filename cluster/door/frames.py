"""The wire between clients and the gateway: binary frames. `frame_decoder` finds them in a stream.

A frame is a header of 128 bytes and a body, little-endian:

      0   14 magic                  96    8 session
     14    2 version               104    4 request (0: registration)
     16   16 checksum              108    4 size (header and body)
     32   16 checksum_body         112    4 view (answers)
     48   16 cluster               116    4 release (of the client)
     64   16 client                120    1 command (1 request, 2 reply, 3 refused)
     80   16 request_checksum      121    1 operation     123 1 primary (answers; 255: unknown)
                                   122    1 reason        124 1 flags (1: repeated)    125 3 zero

`checksum` is the XXH3-128 of bytes 32 to 127, `checksum_body` that of the body. `request_checksum` is the one of
`protocol.Request`: it identifies a request, in the request itself and in its answer. The body of a reply is the
component's own reply, header and body, and of a refusal a short text for people.

Guarantees: a length is trusted only after the checksum of its header, a body only after its own; what decodes packs
to the same bytes; each way to be wrong has an error of its own below `FrameInvalid`.

Limits: no secrecy, no authenticity. XXH3 finds rot, not malice: who knows a client's number can speak for it.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field

from client_replies.messages.message import U8_MAX, U32_MAX, U64_MAX, U128_MAX
from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import CHECKSUM_SIZE, HEADER_SIZE, OPERATION_REGISTER, Buffer, checksum128
from client_replies.messages.reply_header import HeaderInvalid as ReplyHeaderInvalid

from .frame_errors import (
    FrameBodyChecksumWrong,
    FrameClientZero,
    FrameCommandUnexpected,
    FrameCommandUnknown,
    FrameFieldNotZero,
    FrameFieldOutOfRange,
    FrameHeaderChecksumWrong,
    FrameMagicWrong,
    FrameOperationZero,
    FrameReasonUnknown,
    FrameRegistrationWrong,
    FrameReleaseZero,
    FrameReplyWrong,
    FrameRequestChecksumWrong,
    FrameReservedNotZero,
    FrameTextWrong,
    FrameTooLarge,
    FrameTooSmall,
    FrameTruncated,
    FrameVersionUnknown,
)

FRAME_MAGIC = b"replies-frame\0"
FRAME_VERSION = 1
FRAME_HEADER_SIZE = 128
OPERATION_CLOSE = 3  # ends the session
PRIMARY_UNKNOWN = 255
REQUEST_BODY_SIZE_MAX = 4096
REPLY_SIZE_MAX = 1024 * 1024
REASON_TEXT_SIZE_MAX = 256
READ_SIZE = 32 * 1024  # bytes that a decoder takes beyond the frame it is in the middle of

_REQUEST = struct.Struct("<16s16sQIB")  # with the body: what the checksum of a request covers
_HEADER = struct.Struct("<14sH16s16s16s16s16sQIIIIBBBBB3s")
_PREAMBLE = FRAME_MAGIC + FRAME_VERSION.to_bytes(2, "little")
_CHECKED_FROM = 32
_NO_CHECKSUM = bytes(CHECKSUM_SIZE)
_RESERVED = bytes(3)
_FLAG_REPEATED = 1

if _HEADER.size != FRAME_HEADER_SIZE:
    raise ImportError(f"the frame header packs to {_HEADER.size} bytes, expected {FRAME_HEADER_SIZE}")


class FrameKind(enum.IntEnum):
    """What a frame is."""

    REQUEST = 1
    REPLY = 2
    REFUSED = 3


class Reason(enum.IntEnum):
    """Why there is no reply: permanently, or (MALFORMED, BUSY, NOT_PRIMARY) this time."""

    NO_SESSION = 1  # evicted, or never registered
    SESSION_TOO_LOW = 2  # the client has a later session
    REPLY_LOST = 3  # executed, and no replica holds the reply any more
    REPLACED = 4  # evicted just now, to make room for others; told without a request
    OTHER_REQUEST = 5  # the number was used for another request
    OLDER_REQUEST = 6  # a later request of the session was executed
    WRONG_CLUSTER = 7
    MALFORMED = 8  # the frame that came breaks the protocol; the connection ends
    BUSY = 9
    NOT_PRIMARY = 10  # `view` and `primary` say who is, as far as known


_COMMANDS = frozenset(map(int, FrameKind))
_REASONS = frozenset(map(int, Reason))
Key = tuple[int, bytes]  # what identifies a request: client and checksum
TO_GATEWAY = frozenset({FrameKind.REQUEST})
TO_CLIENT = frozenset({FrameKind.REPLY, FrameKind.REFUSED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A frame that keeps every rule. `packed` is all of it; `request_checksum` identifies a request."""

    command: int
    cluster: int
    client: int
    session: int
    request: int
    packed: bytes = field(repr=False)
    operation: int = 0
    reason: int = 0
    view: int = 0
    primary: int = 0
    release: int = 0
    repeated: bool = False
    request_checksum: bytes = _NO_CHECKSUM

    @property
    def key(self) -> Key:
        """What identifies a request."""
        return self.client, self.request_checksum

    @property
    def body(self) -> bytes:
        """Everything after the header."""
        return self.packed[FRAME_HEADER_SIZE:]

    @property
    def text(self) -> str:
        """A refusal's text."""
        return self.body.decode()

    def __str__(self) -> str:
        return f"Frame(command={self.command}, client={self.client:x}, request={self.request})"


def request_frame(
    *, cluster: int, client: int, session: int, request: int, operation: int, body: bytes = b"", release: int = 1
) -> Frame:
    """What a client sends, the same bytes at every retry. Raises a `FrameInvalid`."""
    return _sealed(
        FrameKind.REQUEST,
        cluster=cluster,
        client=client,
        session=session,
        request=request,
        operation=operation,
        request_checksum=_request_checksum(cluster, client, session, request, operation, body),
        release=release,
        body=body,
    )


def _request_checksum(cluster: int, client: int, session: int, request: int, operation: int, body: Buffer) -> bytes:
    """As in `protocol.Request`. Raises `FrameFieldOutOfRange`."""
    try:
        head = _REQUEST.pack(cluster.to_bytes(16, "little"), client.to_bytes(16, "little"), session, request, operation)
    except (struct.error, OverflowError) as error:
        raise FrameFieldOutOfRange(f"{error}", "values that fit their fields") from error
    return checksum128(head + body)


def reply_frame(reply: bytes, *, view: int = 0, primary: int = PRIMARY_UNKNOWN, repeated: bool = False) -> Frame:
    """A packed reply on its way to its client. `view` is the view of now, which is not a part of the stored reply.

    `repeated`: it was stored before and is handed out again. Raises a `FrameInvalid` if the reply is not whole.
    """
    try:
        header = Reply.unpack(reply).header
    except ReplyHeaderInvalid as error:
        raise FrameReplyWrong(str(error), "a whole reply") from error
    return _sealed(
        FrameKind.REPLY,
        cluster=header.cluster,
        client=header.client,
        session=header.session,
        request=header.request,
        operation=header.operation,
        request_checksum=header.request_checksum,
        view=view,
        primary=primary,
        flags=_FLAG_REPEATED if repeated else 0,
        body=reply,
    )


def refused_frame(
    reason: Reason,
    *,
    cluster: int,
    to: Frame | None = None,
    client: int = 0,
    session: int = 0,
    request: int = 0,
    checksum: bytes = _NO_CHECKSUM,
    view: int = 0,
    primary: int = PRIMARY_UNKNOWN,
    text: str = "",
) -> Frame:
    """Tell a client that a request gets no reply (`to`, or its `request` and `checksum`), or what it did not ask."""
    return _sealed(
        FrameKind.REFUSED,
        cluster=cluster,
        client=to.client if to is not None else client,
        session=to.session if to is not None else session,
        request=to.request if to is not None else request,
        request_checksum=to.request_checksum if to is not None else checksum,
        reason=reason,
        view=view,
        primary=primary,
        body=_cut(text),
    )


def _cut(text: str) -> bytes:
    # Cut within a character, decode leaves the rest of it out.
    return text.encode("utf-8", "replace")[:REASON_TEXT_SIZE_MAX].decode("utf-8", "ignore").encode()


def _sealed(
    command: int,
    *,
    cluster: int,
    client: int,
    session: int,
    request: int,
    operation: int = 0,
    request_checksum: bytes = _NO_CHECKSUM,
    view: int = 0,
    release: int = 0,
    reason: int = 0,
    primary: int = 0,
    flags: int = 0,
    body: bytes = b"",
) -> Frame:
    """Pack the fields, and read what was packed: who writes is held to the same rules as who reads."""
    for name, value, limit in (
        ("cluster", cluster, U128_MAX),
        ("client", client, U128_MAX),
        ("session", session, U64_MAX),
        ("request", request, U32_MAX),
        ("view", view, U32_MAX),
        ("release", release, U32_MAX),
        ("operation", operation, U8_MAX),
        ("primary", primary, U8_MAX),
        ("size", FRAME_HEADER_SIZE + len(body), U32_MAX),
    ):
        if not 0 <= value <= limit:
            raise FrameFieldOutOfRange(f"{name} {value}", f"an integer from 0 to {limit}")
    draft = _HEADER.pack(
        FRAME_MAGIC,
        FRAME_VERSION,
        _NO_CHECKSUM,
        checksum128(body),
        cluster.to_bytes(16, "little"),
        client.to_bytes(16, "little"),
        request_checksum,
        session,
        request,
        FRAME_HEADER_SIZE + len(body),
        view,
        release,
        command,
        operation,
        reason,
        primary,
        flags,
        _RESERVED,
    )
    checked = draft[_CHECKED_FROM:]
    packed = b"".join((_PREAMBLE, checksum128(checked), checked, body))
    return unpack_frame(packed, frozenset({FrameKind(command)}), U32_MAX)


def unpack_frame(data: bytes, accepts: frozenset[FrameKind], body_size_max: int) -> Frame:
    """The one frame that `data` is. Raises a `FrameInvalid`."""
    check_preamble(data)
    if len(data) < FRAME_HEADER_SIZE:
        raise FrameTruncated(f"{len(data)} bytes", f"at least {FRAME_HEADER_SIZE}")
    header = data[:FRAME_HEADER_SIZE] if len(data) > FRAME_HEADER_SIZE else data
    size = check_header(header, accepts, body_size_max)
    if len(data) != size:
        raise FrameTruncated(f"{len(data)} bytes", f"{size}, the size in the header")
    return open_frame(header, data)


def reply_in(frame: Frame) -> Reply:
    """The reply inside a frame, verified whole, and that it is the one the frame announces. Raises a `FrameInvalid`."""
    try:
        reply = Reply.unpack(frame.body)
    except ReplyHeaderInvalid as error:
        raise FrameReplyWrong(str(error), "a whole reply") from error
    header = reply.header
    found = (header.cluster, header.client, header.session, header.request, header.operation, header.request_checksum)
    outside = (frame.cluster, frame.client, frame.session, frame.request, frame.operation, frame.request_checksum)
    if found != outside:
        raise FrameReplyWrong(
            f"a reply to request {header.request}", f"that to request {frame.request}, in every field"
        )
    return reply


# The rules, in the order in which they are checked.


def check_preamble(data: Buffer) -> None:
    """Judge as much of the magic and the version as is there: garbage need not be a whole header long to be known."""
    start = bytes(data[: len(_PREAMBLE)])
    if start != _PREAMBLE[: len(start)]:
        if start[: len(FRAME_MAGIC)] != FRAME_MAGIC[: len(start)]:
            raise FrameMagicWrong(start.hex(), FRAME_MAGIC.hex())
        raise FrameVersionUnknown(f"version bytes {start[len(FRAME_MAGIC) :].hex()}", f"version {FRAME_VERSION}")


def check_header(header: bytes, accepts: frozenset[FrameKind], body_size_max: int) -> int:
    """Every rule that needs no body. Returns the size of the frame."""
    checksum = checksum128(header[_CHECKED_FROM:])
    fields = _HEADER.unpack(header)
    if checksum != fields[2]:
        raise FrameHeaderChecksumWrong(fields[2].hex(), f"{checksum.hex()}, the checksum of bytes 32 to 127")
    client, command, size, flags = fields[5], fields[12], fields[9], fields[16]
    if fields[17] != _RESERVED or flags & ~_FLAG_REPEATED:
        raise FrameReservedNotZero(f"flags {flags:#x}, reserved {fields[17].hex()}", "unknown flags and the rest zero")
    if command not in _COMMANDS:
        raise FrameCommandUnknown(f"command {command}", f"one of {sorted(_COMMANDS)}")
    if command not in accepts:
        raise FrameCommandUnexpected(f"command {command}", f"one of {sorted(map(int, accepts))}")
    _check_size(command, size, body_size_max)
    if client == _NO_CHECKSUM and command != FrameKind.REFUSED:
        raise FrameClientZero("client 0", "a client above 0")
    if command == FrameKind.REQUEST:
        _check_request(fields)
    else:
        _check_answer(fields)
    return int(size)


def _check_size(command: int, size: int, body_size_max: int) -> None:
    low = FRAME_HEADER_SIZE + (HEADER_SIZE if command == FrameKind.REPLY else 0)
    high = FRAME_HEADER_SIZE + (REASON_TEXT_SIZE_MAX if command == FrameKind.REFUSED else body_size_max)
    if size < low:
        raise FrameTooSmall(f"size {size}", f"at least {low}")
    if size > high:
        raise FrameTooLarge(f"size {size}", f"at most {high}")


def _check_request(fields: tuple[bytes | int, ...]) -> None:
    session, request, size, view, release = fields[7:12]
    operation, reason, primary, flags = fields[13:17]
    if view or reason or primary or flags:
        raise FrameFieldNotZero("a request with a view, reason, primary or flag", "none of them: they are an answer's")
    if operation == 0:
        raise FrameOperationZero("operation 0", "an operation above 0")
    registers = operation == OPERATION_REGISTER
    if (request == 0) != registers or (session == 0) != registers or (registers and size != FRAME_HEADER_SIZE):
        raise FrameRegistrationWrong(
            f"request {request!r} of session {session!r}, operation {operation!r}",
            "a registration outside a session, without a number and a body, or anything else with all of them",
        )
    if release == 0:
        raise FrameReleaseZero("release 0", "a release above 0")


def _check_answer(fields: tuple[bytes | int, ...]) -> None:
    command, operation, reason, flags, release = fields[12], fields[13], fields[14], fields[16], fields[11]
    if command == FrameKind.REPLY:
        if reason or release:
            raise FrameFieldNotZero(f"a reply with reason {reason!r}, release {release!r}", "neither")
        if operation == 0:
            raise FrameOperationZero("operation 0", "an operation above 0")
    else:
        if operation or flags or release:
            raise FrameFieldNotZero("a refusal with an operation, a flag or a release", "none of them")
        if reason not in _REASONS:
            raise FrameReasonUnknown(f"reason {reason!r}", f"from {min(_REASONS)} to {max(_REASONS)}")


def open_frame(header: bytes, packed: bytes) -> Frame:
    """The last rules, those about the body, and then the frame."""
    fields = _HEADER.unpack(header)
    checksum_body, cluster, client, request_checksum, session, request, _, view, release = fields[3:12]
    body = memoryview(packed)[FRAME_HEADER_SIZE:]
    found = checksum128(body)
    if found != checksum_body:
        raise FrameBodyChecksumWrong(f"a body with checksum {found.hex()}", checksum_body.hex())
    command, operation, reason, primary, flags = fields[12:17]
    if command == FrameKind.REQUEST:
        found = checksum128(_REQUEST.pack(cluster, client, session, request, operation) + body)
        if found != request_checksum:
            raise FrameRequestChecksumWrong(request_checksum.hex(), found.hex())
    elif command == FrameKind.REFUSED:
        try:
            str(body, "utf-8")
        except UnicodeDecodeError as error:
            raise FrameTextWrong(f"{len(body)} bytes, wrong from {error.start} on", "UTF-8") from error
    return Frame(
        command=command,
        cluster=int.from_bytes(cluster, "little"),
        client=int.from_bytes(client, "little"),
        session=session,
        request=request,
        packed=packed,
        operation=operation,
        reason=reason,
        view=view,
        primary=primary,
        release=release,
        repeated=bool(flags),
        request_checksum=request_checksum,
    )
