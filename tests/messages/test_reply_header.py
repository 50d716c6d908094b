"""The reply header's codec: what was sealed comes back, and every way to break it has an error of its own."""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from client_replies.messages import reply_header
from client_replies.messages.reply import Reply, seal_reply, verify_reply
from client_replies.messages.reply_header import (
    HEADER_SIZE,
    BodyChecksumWrong,
    HeaderChecksumWrong,
    HeaderClientZero,
    HeaderClusterWrong,
    HeaderCommandWrong,
    HeaderCommitWrong,
    HeaderFieldOutOfRange,
    HeaderInvalid,
    HeaderOperationZero,
    HeaderOpZero,
    HeaderProtocolUnknown,
    HeaderReleaseZero,
    HeaderRequestWrong,
    HeaderReservedNotZero,
    HeaderSessionWrong,
    HeaderSizeWrong,
    HeaderTimestampZero,
    HeaderTruncated,
    ReplyHeader,
    checksum128,
    packed_client_request,
    packed_cluster_client,
    packed_op,
    packed_size,
    verify_body_checksum,
    verify_header_checksum,
)

REPLY = Reply.build(
    cluster=2**128 - 2,
    client=2**127 + 5,
    session=3,
    request=4,
    op=5,
    operation=6,
    timestamp=7,
    view=8,
    replica=9,
    release=10,
    request_checksum=bytes(range(16)),
    context=bytes(range(16, 32)),
    body=b"the result",
)


def resealed(header: ReplyHeader, **fields: object) -> ReplyHeader:
    """Change fields and make the checksum good again, so that only the rule itself can object."""
    changed = replace(header, **fields)  # type: ignore[arg-type]
    return replace(changed, checksum=checksum128(changed.pack()[16:]))


def with_reserved_byte() -> None:
    """Set the last reserved byte, under a good checksum."""
    packed = bytearray(REPLY.header.pack())
    packed[-1] = 1
    packed[:16] = checksum128(packed[16:])
    ReplyHeader.unpack(packed)


def unpacked(**fields: object) -> Callable[[], object]:
    """Give a call that unpacks the header with these fields, under a good checksum."""
    return lambda: ReplyHeader.unpack(resealed(REPLY.header, **fields).pack())


WAYS_TO_BE_WRONG: list[tuple[type[HeaderInvalid], Callable[[], object]]] = [
    (HeaderTruncated, lambda: ReplyHeader.unpack(REPLY.header.pack()[:-1])),
    (HeaderChecksumWrong, lambda: ReplyHeader.unpack(bytes(HEADER_SIZE))),
    (HeaderChecksumWrong, lambda: replace(REPLY.header, view=77).verify()),
    (HeaderReservedNotZero, with_reserved_byte),
    (HeaderProtocolUnknown, unpacked(protocol=2)),
    (HeaderCommandWrong, unpacked(command=9)),
    (HeaderClusterWrong, lambda: verify_reply(REPLY.pack(), cluster=1, size_max=4096)),
    (HeaderClientZero, unpacked(client=0)),
    (HeaderSizeWrong, unpacked(size=HEADER_SIZE - 1)),
    (HeaderSizeWrong, lambda: Reply.unpack(REPLY.pack() + b"\0")),
    (HeaderSizeWrong, lambda: Reply.unpack(REPLY.pack()[:-1])),
    (HeaderSizeWrong, lambda: verify_reply(REPLY.pack(), cluster=REPLY.header.cluster, size_max=HEADER_SIZE)),
    (HeaderSizeWrong, lambda: verify_reply(REPLY.pack()[:-1], cluster=REPLY.header.cluster, size_max=4096)),
    (HeaderOpZero, unpacked(op=0, commit=0, session=0)),
    (HeaderCommitWrong, unpacked(commit=6)),
    (HeaderSessionWrong, unpacked(session=0)),
    (HeaderSessionWrong, unpacked(session=6)),
    (HeaderSessionWrong, unpacked(operation=1, request=0)),
    (HeaderRequestWrong, unpacked(request=0)),
    (HeaderRequestWrong, unpacked(operation=1, session=5)),
    (HeaderOperationZero, unpacked(operation=0)),
    (HeaderReleaseZero, unpacked(release=0)),
    (HeaderTimestampZero, unpacked(timestamp=0)),
    (HeaderFieldOutOfRange, lambda: replace(REPLY.header, view=2**32).pack()),
    (HeaderFieldOutOfRange, lambda: replace(REPLY.header, op=-1).pack()),
    (HeaderFieldOutOfRange, lambda: replace(REPLY.header, op=True).pack()),
    (HeaderFieldOutOfRange, lambda: replace(REPLY.header, context=b"short").pack()),
    (BodyChecksumWrong, lambda: Reply.unpack(REPLY.pack()[:-1] + b"T")),
]


def test_a_reply_comes_back_from_its_bytes() -> None:
    """Header and body are equal, and so are the bytes that they pack to."""
    assert Reply.unpack(REPLY.pack()) == REPLY
    assert ReplyHeader.unpack(REPLY.pack()).pack() == REPLY.pack()[:HEADER_SIZE]
    assert REPLY.header.size == HEADER_SIZE + len(b"the result")


def test_the_same_arguments_build_the_same_bytes() -> None:
    """Replicas that execute the same request store the same reply; another body is another reply."""
    first, again, other = (
        Reply.build(cluster=1, client=2, session=3, request=4, op=5, operation=6, timestamp=7, body=body)
        for body in (b"x", b"x", b"y")
    )
    assert again.pack() == first.pack()
    assert other.header.checksum != first.header.checksum


def test_fields_are_where_the_format_says() -> None:
    """A few offsets written out, so that writer and reader cannot move together."""
    packed = REPLY.header.pack()
    assert packed[32:48] == (2**128 - 2).to_bytes(16, "little")
    assert packed[96:104] == (3).to_bytes(8, "little")
    assert packed[136:140] == (HEADER_SIZE + 10).to_bytes(4, "little")
    assert packed[16:32] == checksum128(b"the result")


@pytest.mark.parametrize("offset", range(HEADER_SIZE))
def test_every_byte_of_a_header_counts(offset: int) -> None:
    """A header with any one byte inverted is refused, whole and in its single bits."""
    for mask in (0xFF, 0x01, 0x80):
        packed = bytearray(REPLY.pack())
        packed[offset] ^= mask
        with pytest.raises(HeaderChecksumWrong):
            ReplyHeader.unpack(packed)
        with pytest.raises(HeaderInvalid):
            Reply.unpack(packed)
        with pytest.raises(HeaderInvalid):
            verify_reply(packed, cluster=REPLY.header.cluster, size_max=4096)


def test_every_truncation_of_a_header_is_refused() -> None:
    """There is no length below 256 that unpacks."""
    packed = REPLY.header.pack()
    for size in range(HEADER_SIZE):
        with pytest.raises(HeaderTruncated):
            ReplyHeader.unpack(packed[:size])
        with pytest.raises(HeaderTruncated):
            verify_header_checksum(packed[:size])


def test_every_truncation_of_a_reply_is_refused() -> None:
    """The size in the header is the size of the reply."""
    packed = REPLY.pack()
    for size in range(len(packed)):
        with pytest.raises(HeaderInvalid):
            Reply.unpack(packed[:size])
        with pytest.raises(HeaderInvalid):
            verify_reply(packed[:size], cluster=REPLY.header.cluster, size_max=4096)


def test_every_byte_of_a_body_counts() -> None:
    """A body with any one byte inverted is not the one that was sealed."""
    for offset in range(HEADER_SIZE, REPLY.header.size):
        packed = bytearray(REPLY.pack())
        packed[offset] ^= 0xFF
        with pytest.raises(BodyChecksumWrong):
            Reply.unpack(packed)
        with pytest.raises(BodyChecksumWrong):
            verify_body_checksum(packed, packed[HEADER_SIZE:])


@pytest.mark.parametrize(("error", "call"), WAYS_TO_BE_WRONG)
def test_each_way_to_be_wrong_has_an_error_of_its_own(error: type[HeaderInvalid], call: Callable[[], object]) -> None:
    """Exactly that class, saying what was found and what was expected."""
    with pytest.raises(HeaderInvalid) as raised:
        call()
    assert type(raised.value) is error
    assert raised.value.found
    assert raised.value.expected
    assert error.__name__ in str(raised.value)


def test_every_named_error_is_reached() -> None:
    """The table above leaves out no subclass of HeaderInvalid."""
    named = {value for value in vars(reply_header).values() if isinstance(value, type)}
    errors = {value for value in named if issubclass(value, HeaderInvalid)} - {HeaderInvalid}
    assert {error for error, _ in WAYS_TO_BE_WRONG} == errors


def test_a_buffer_may_be_longer_than_its_reply() -> None:
    """`verify_reply` takes the reply at the start of a buffer and leaves the rest alone."""
    buffer = memoryview(bytearray(REPLY.pack() + b"rest of the buffer"))
    assert verify_reply(buffer, cluster=REPLY.header.cluster, size_max=4096) == REPLY.header.pack()


def test_the_packed_accessors_agree_with_the_decoded_header() -> None:
    """What the hot paths read from packed bytes is what `unpack` says."""
    packed, header = REPLY.header.pack(), REPLY.header
    assert packed_size(packed) == header.size
    assert packed_op(packed) == header.op
    assert packed_cluster_client(packed) == (header.cluster, header.client)
    expected = (header.client, header.request_checksum, header.session, header.commit, header.request)
    assert packed_client_request(packed) == expected


def test_a_sealed_reply_is_byte_for_byte_what_the_header_class_builds() -> None:
    """`seal_reply` is a shortcut, not another format: equal bytes for equal arguments, for many sizes and values."""
    random = Random(1)
    for size in (0, 1, 43, 256, 4096, 70_000):
        op = random.randrange(2, 2**64)
        arguments: dict[str, Any] = {
            "cluster": random.getrandbits(128),
            "client": random.randrange(1, 2**128),
            "session": random.randrange(1, op),
            "request": random.randrange(1, 2**32),
            "op": op,
            "operation": random.randrange(2, 256),
            "timestamp": random.randrange(1, 2**64),
            "view": random.getrandbits(32),
            "replica": random.getrandbits(8),
            "release": random.randrange(1, 2**32),
            "request_checksum": random.randbytes(16),
            "context": random.randbytes(16),
            "body": random.randbytes(size),
        }
        assert seal_reply(**arguments) == Reply.build(**arguments).pack()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("client", 0),
        ("client", 2**128),
        ("cluster", -1),
        ("session", 0),
        ("session", 6),
        ("request", 0),
        ("operation", 0),
        ("operation", 256),
        ("operation", 1),
        ("timestamp", 0),
        ("release", 0),
        ("view", 2**32),
        ("request_checksum", b"short"),
    ],
)
def test_sealing_refuses_what_the_header_class_refuses(field: str, value: object) -> None:
    """Both ways to build a reply raise the same error for the same wrong argument."""
    arguments: dict[str, Any] = {
        "cluster": 1, "client": 2, "session": 3, "request": 4, "op": 5, "operation": 20, "timestamp": 6, "body": b"x",
    }  # fmt: skip
    arguments[field] = value
    with pytest.raises(HeaderInvalid) as built:
        Reply.build(**arguments)
    with pytest.raises(type(built.value)):
        seal_reply(**arguments)
