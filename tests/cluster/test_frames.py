"""The frames between clients and gateway: each way to be wrong is named, and no cut or damage gets through."""

import itertools
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client_replies.cluster.door import frame_decoder, frame_errors, frames
from client_replies.cluster.door.forwarding_messages import request_of
from client_replies.cluster.door.frame_decoder import DecoderMisused, DecoderState, FrameDecoder, Signal
from client_replies.cluster.door.frame_errors import FrameInvalid
from client_replies.cluster.door.frames import (
    FRAME_HEADER_SIZE,
    OPERATION_CLOSE,
    READ_SIZE,
    REASON_TEXT_SIZE_MAX,
    TO_CLIENT,
    TO_GATEWAY,
    Frame,
    FrameKind,
    Reason,
    refused_frame,
    reply_frame,
    reply_in,
    request_frame,
    unpack_frame,
)
from client_replies.cluster.protocol import Request
from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import HEADER_SIZE, OPERATION_REGISTER, checksum128

from tests.fuzz import rounds
from tests.fuzz.frames import CORPUS, Corpus, Mutator, check_stream, fuzz_decoder

CLUSTER = 7
CLIENT = 0xC11E57
BODY_SIZE_MAX = 4096
BOTH = TO_GATEWAY | TO_CLIENT

REGISTER = request_frame(cluster=CLUSTER, client=CLIENT, session=0, request=0, operation=OPERATION_REGISTER)
REQUEST = request_frame(cluster=CLUSTER, client=CLIENT, session=3, request=1, operation=2, body=b"a body", release=9)
CLOSE = request_frame(cluster=CLUSTER, client=CLIENT, session=3, request=2, operation=OPERATION_CLOSE)


def stored_reply(body: bytes = b"an answer", **fields: Any) -> Reply:
    """Give the reply to `REQUEST`."""
    request_checksum = REQUEST.request_checksum
    known = {"cluster": CLUSTER, "client": CLIENT, "session": 3, "request": 1, "op": 5, "operation": 2, "timestamp": 1}
    return Reply.build(**{**known, "request_checksum": request_checksum, "body": body, **fields})


REPLY = reply_frame(stored_reply().pack(), view=4, primary=1, repeated=True)
REFUSED = refused_frame(Reason.NOT_PRIMARY, cluster=CLUSTER, to=REQUEST, view=4, primary=2, text="ask replica 2")
FRAMES = {"register": REGISTER, "request": REQUEST, "close": CLOSE, "reply": REPLY, "refused": REFUSED}
EVERY_FRAME = pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)


def decoder(accepts: frozenset[FrameKind] = BOTH) -> FrameDecoder:
    """Give a decoder that takes everything."""
    return FrameDecoder(accepts, BODY_SIZE_MAX)


def drained(some: FrameDecoder) -> list[Frame]:
    """Take out all frames that are whole."""
    found = []
    while isinstance(event := some.next_event(), Frame):
        found.append(event)
    assert event is Signal.NEED_DATA
    return found


def sealed(packed: bytes, **fields: tuple[int, str, int]) -> bytes:
    """Set fields (offset, layout, value) in a packed frame, and make its checksums right again."""
    data = bytearray(packed)
    for offset, layout, value in fields.values():
        struct.pack_into(layout, data, offset, value)
    data[32:48] = checksum128(data[FRAME_HEADER_SIZE:])
    data[16:32] = checksum128(data[32:FRAME_HEADER_SIZE])
    return bytes(data)


# What is right.


@EVERY_FRAME
def test_a_frame_decodes_to_what_was_packed(frame: Frame) -> None:
    """Alone, and after others in one stream."""
    assert unpack_frame(frame.packed, BOTH, BODY_SIZE_MAX) == frame
    some = decoder()
    some.receive_data(REQUEST.packed + frame.packed)
    assert drained(some) == [REQUEST, frame]
    assert some.buffered == 0


def test_a_frame_keeps_every_field() -> None:
    """Both ways, with the extremes."""
    request = request_frame(
        cluster=2**128 - 1, client=2**128 - 1, session=2**64 - 1, request=2**32 - 1, operation=254, release=2**32 - 1
    )
    assert (request.cluster, request.client, request.session) == (2**128 - 1, 2**128 - 1, 2**64 - 1)
    assert (request.request, request.operation, request.release) == (2**32 - 1, 254, 2**32 - 1)
    assert (REPLY.view, REPLY.primary, REPLY.repeated, REPLY.request_checksum) == (4, 1, True, REQUEST.request_checksum)
    assert reply_in(REPLY) == stored_reply()
    assert (REFUSED.reason, REFUSED.view, REFUSED.primary, REFUSED.text) == (Reason.NOT_PRIMARY, 4, 2, "ask replica 2")
    assert (REFUSED.client, REFUSED.session, REFUSED.request) == (CLIENT, 3, 1)
    assert REFUSED.request_checksum == REQUEST.request_checksum


def test_a_request_is_the_same_bytes_each_time_it_is_made() -> None:
    """Its checksum identifies it: that of any other request differs."""
    fields: dict[str, Any] = {"cluster": CLUSTER, "client": CLIENT, "session": 3, "request": 1, "operation": 2}
    fields["body"] = b"a body"
    assert request_frame(**fields, release=9) == REQUEST
    others: list[dict[str, Any]] = [
        {"cluster": 8},
        {"client": 1},
        {"session": 4},
        {"request": 2},
        {"operation": 3},
        {"body": b"a Body"},
    ]
    checksums = {request_frame(**{**fields, **other}, release=9).request_checksum for other in others}
    assert len(checksums | {REQUEST.request_checksum}) == len(others) + 1


@pytest.mark.parametrize("frame", [REGISTER, REQUEST, CLOSE], ids=["register", "request", "close"])
def test_a_request_has_the_checksum_that_replicas_know_it_by(frame: Frame) -> None:
    """What a replica makes of it is valid, and the reply to it names the frame."""
    request = request_of(frame)
    fields = {"cluster": CLUSTER, "client": CLIENT, "session": frame.session, "number": frame.request}
    assert request == Request.build(operation=frame.operation, body=frame.body, **fields)


def test_a_long_text_is_cut_between_two_characters() -> None:
    """A refusal is small, whatever went wrong."""
    refused = refused_frame(Reason.MALFORMED, cluster=CLUSTER, text="ü" * 1000 + "\ud800")
    assert refused.text == "ü" * (REASON_TEXT_SIZE_MAX // 2)
    odd = refused_frame(Reason.MALFORMED, cluster=CLUSTER, text="x" + "ü" * 1000)
    assert len(odd.body) == REASON_TEXT_SIZE_MAX - 1


# Every damage, every cut.


@EVERY_FRAME
def test_each_flipped_bit_of_a_frame_is_an_error(frame: Frame) -> None:
    """No byte is beyond the checksums and the constants; the decoder holds nothing afterwards."""
    for at, bit in itertools.product(range(len(frame.packed)), range(8)):
        damaged = bytearray(frame.packed)
        damaged[at] ^= 1 << bit
        some = decoder()
        some.receive_data(damaged)
        with pytest.raises(FrameInvalid):
            some.next_event()
        assert some.state is DecoderState.ERROR
        assert some.buffered == 0


@EVERY_FRAME
def test_each_truncation_of_a_frame_is_an_error_at_the_end_only(frame: Frame) -> None:
    """Until the end of the stream more may come."""
    for size in range(1, len(frame.packed)):
        some = decoder()
        some.receive_data(frame.packed[:size])
        assert some.next_event() is Signal.NEED_DATA
        some.receive_end()
        with pytest.raises(frame_errors.FrameTruncated):
            some.next_event()
        with pytest.raises(frame_errors.FrameTruncated):
            unpack_frame(frame.packed[:size], BOTH, BODY_SIZE_MAX)
    with pytest.raises(frame_errors.FrameTruncated):
        unpack_frame(frame.packed + b"\0", BOTH, BODY_SIZE_MAX)


def test_a_stream_gives_the_same_frames_byte_by_byte() -> None:
    """And each frame as soon as its last byte is there."""
    some = decoder()
    found = []
    for frame in FRAMES.values():
        for at, byte in enumerate(frame.packed):
            some.receive_data(bytes([byte]))
            event = some.next_event()
            assert isinstance(event, Frame) == (at == len(frame.packed) - 1)
            found += [event] if isinstance(event, Frame) else []
    assert found == list(FRAMES.values())


def test_a_stream_gives_the_same_frames_split_at_any_point() -> None:
    """Within headers, bodies, and between."""
    stream = b"".join(frame.packed for frame in FRAMES.values())
    for at in range(len(stream) + 1):
        some = decoder()
        some.receive_data(stream[:at])
        found = drained(some)
        some.receive_data(stream[at:])
        assert found + drained(some) == list(FRAMES.values())
        some.receive_end()
        assert some.next_event() is Signal.CLOSED
        assert some.state is DecoderState.CLOSED


# Each rule has its error.

U8, U32, U64 = "<B", "<I", "<Q"
WRONG: dict[str, tuple[Frame, dict[str, tuple[int, str, int]], type[FrameInvalid]]] = {
    "no such command": (REQUEST, {"command": (120, U8, 9)}, frame_errors.FrameCommandUnknown),
    "command 0": (REQUEST, {"command": (120, U8, 0)}, frame_errors.FrameCommandUnknown),
    "a reserved byte": (REQUEST, {"reserved": (126, U8, 1)}, frame_errors.FrameReservedNotZero),
    "an unknown flag": (REPLY, {"flags": (124, U8, 2)}, frame_errors.FrameReservedNotZero),
    "giant": (REQUEST, {"size": (108, U32, 2**32 - 1)}, frame_errors.FrameTooLarge),
    "one too large": (REQUEST, {"size": (108, U32, FRAME_HEADER_SIZE + BODY_SIZE_MAX + 1)}, frame_errors.FrameTooLarge),
    "no room for its header": (REQUEST, {"size": (108, U32, 127)}, frame_errors.FrameTooSmall),
    "size 0": (REQUEST, {"size": (108, U32, 0)}, frame_errors.FrameTooSmall),
    "a reply without its header": (REPLY, {"size": (108, U32, 128 + HEADER_SIZE - 1)}, frame_errors.FrameTooSmall),
    "a long refusal": (REFUSED, {"size": (108, U32, 128 + REASON_TEXT_SIZE_MAX + 1)}, frame_errors.FrameTooLarge),
    "no client": (REQUEST, {"low": (64, U64, 0), "high": (72, U64, 0)}, frame_errors.FrameClientZero),
    "no operation": (REQUEST, {"operation": (121, U8, 0)}, frame_errors.FrameOperationZero),
    "a reply without operation": (REPLY, {"operation": (121, U8, 0)}, frame_errors.FrameOperationZero),
    "request 0": (REQUEST, {"request": (104, U32, 0)}, frame_errors.FrameRegistrationWrong),
    "session 0": (REQUEST, {"session": (96, U64, 0)}, frame_errors.FrameRegistrationWrong),
    "a numbered registration": (REGISTER, {"request": (104, U32, 1)}, frame_errors.FrameRegistrationWrong),
    "a registration with a body": (REQUEST, {"o": (121, U8, 1), "r": (104, U32, 0), "s": (96, U64, 0)},
                                   frame_errors.FrameRegistrationWrong),
    "no release": (REQUEST, {"release": (116, U32, 0)}, frame_errors.FrameReleaseZero),
    "a request with a view": (REQUEST, {"view": (112, U32, 1)}, frame_errors.FrameFieldNotZero),
    "a request with a reason": (REQUEST, {"reason": (122, U8, 1)}, frame_errors.FrameFieldNotZero),
    "a request with a primary": (REQUEST, {"primary": (123, U8, 1)}, frame_errors.FrameFieldNotZero),
    "a request with a flag": (REQUEST, {"flags": (124, U8, 1)}, frame_errors.FrameFieldNotZero),
    "another request's checksum": (REQUEST, {"checksum": (80, U8, 1)}, frame_errors.FrameRequestChecksumWrong),
    "a reply with a reason": (REPLY, {"reason": (122, U8, 1)}, frame_errors.FrameFieldNotZero),
    "a refusal with an operation": (REFUSED, {"operation": (121, U8, 1)}, frame_errors.FrameFieldNotZero),
    "a refusal without reason": (REFUSED, {"reason": (122, U8, 0)}, frame_errors.FrameReasonUnknown),
    "an unknown reason": (REFUSED, {"reason": (122, U8, 11)}, frame_errors.FrameReasonUnknown),
    "a text that is none": (REFUSED, {"text": (128, U8, 255)}, frame_errors.FrameTextWrong),
}  # fmt: skip


@pytest.mark.parametrize(("frame", "fields", "error"), WRONG.values(), ids=WRONG)
def test_each_broken_rule_has_its_own_error(
    frame: Frame, fields: dict[str, tuple[int, str, int]], error: type[FrameInvalid]
) -> None:
    """Well sealed, so that the rule itself is what is broken; and the header alone is enough to know."""
    packed = sealed(frame.packed, **fields)
    some = decoder()
    some.receive_data(packed)
    with pytest.raises(error) as caught:
        some.next_event()
    assert caught.value.found
    assert caught.value.expected
    if error not in (frame_errors.FrameTextWrong, frame_errors.FrameRequestChecksumWrong):
        header_only = decoder()
        header_only.receive_data(packed[:FRAME_HEADER_SIZE])
        with pytest.raises(error):
            header_only.next_event()


@pytest.mark.parametrize(
    ("at", "error"),
    [
        (0, frame_errors.FrameMagicWrong),
        (13, frame_errors.FrameMagicWrong),
        (14, frame_errors.FrameVersionUnknown),
        (15, frame_errors.FrameVersionUnknown),
        (16, frame_errors.FrameHeaderChecksumWrong),
        (32, frame_errors.FrameHeaderChecksumWrong),
        (108, frame_errors.FrameHeaderChecksumWrong),
        (127, frame_errors.FrameHeaderChecksumWrong),
        (128, frame_errors.FrameBodyChecksumWrong),
    ],
)
def test_damage_is_named_by_where_it_is(at: int, error: type[FrameInvalid]) -> None:
    """A length is never believed before the checksum of its header."""
    damaged = bytearray(REQUEST.packed)
    damaged[at] ^= 0xFF
    with pytest.raises(error):
        unpack_frame(bytes(damaged), BOTH, BODY_SIZE_MAX)


def test_garbage_is_known_by_its_first_byte() -> None:
    """It need not be as long as a header."""
    for garbage in (b"G", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"replies-frame\0\2", b"\0" * 127):
        some = decoder()
        some.receive_data(garbage)
        with pytest.raises((frame_errors.FrameMagicWrong, frame_errors.FrameVersionUnknown)):
            some.next_event()


@pytest.mark.parametrize("frame", [REPLY, REFUSED], ids=["reply", "refused"])
def test_a_gateway_takes_no_answers_and_a_client_no_requests(frame: Frame) -> None:
    """Each end has its commands."""
    with pytest.raises(frame_errors.FrameCommandUnexpected):
        unpack_frame(frame.packed, TO_GATEWAY, BODY_SIZE_MAX)
    with pytest.raises(frame_errors.FrameCommandUnexpected):
        unpack_frame(REQUEST.packed, TO_CLIENT, BODY_SIZE_MAX)


@pytest.mark.parametrize(
    "make",
    [
        lambda: request_frame(cluster=CLUSTER, client=0, session=3, request=1, operation=2),
        lambda: request_frame(cluster=-1, client=1, session=3, request=1, operation=2),
        lambda: request_frame(cluster=1, client=2**128, session=3, request=1, operation=2),
        lambda: request_frame(cluster=1, client=1, session=0, request=1, operation=2),
        lambda: request_frame(cluster=1, client=1, session=3, request=1, operation=256),
        lambda: request_frame(cluster=1, client=1, session=0, request=0, operation=OPERATION_REGISTER, body=b"x"),
        lambda: reply_frame(b"no reply"),
        lambda: reply_frame(stored_reply().pack()[:-1]),
    ],
)
def test_what_breaks_a_rule_cannot_be_made(make: Callable[[], Frame]) -> None:
    """Who writes is held to the rules of who reads."""
    with pytest.raises(FrameInvalid):
        make()


@pytest.mark.parametrize(
    "other",
    [{"request": 2}, {"client": 1}, {"session": 2}, {"operation": 3}, {"cluster": 8}, {"request_checksum": bytes(16)}],
)
def test_a_reply_must_be_the_one_that_its_frame_announces(other: dict[str, Any]) -> None:
    """The frame is sealed, and the reply in it is whole, but they are not of one another."""
    inner = stored_reply(**other).pack()
    packed = sealed(REPLY.packed[:FRAME_HEADER_SIZE] + inner, size=(108, U32, FRAME_HEADER_SIZE + len(inner)))
    with pytest.raises(frame_errors.FrameReplyWrong):
        reply_in(unpack_frame(packed, TO_CLIENT, BODY_SIZE_MAX))


def test_each_damaged_byte_of_a_sealed_in_reply_is_found() -> None:
    """The frame around it was sealed after the damage: by a gateway with rotten memory, say."""
    for at in range(FRAME_HEADER_SIZE, len(REPLY.packed)):
        damaged = bytearray(REPLY.packed)
        damaged[at] ^= 0x10
        with pytest.raises(frame_errors.FrameReplyWrong):
            reply_in(unpack_frame(sealed(bytes(damaged)), TO_CLIENT, BODY_SIZE_MAX))


# The decoder as such.


def test_after_an_error_a_decoder_is_in_error_for_good() -> None:
    """What came before the error was given; what comes after it is not looked at."""
    some = decoder()
    some.receive_data(REQUEST.packed + b"nonsense" + REQUEST.packed)
    assert some.next_event() == REQUEST
    for _ in range(3):
        with pytest.raises(frame_errors.FrameMagicWrong):
            some.next_event()
        with pytest.raises(frame_errors.FrameMagicWrong):
            some.receive_data(REQUEST.packed)
    assert some.state is DecoderState.ERROR


def test_a_decoder_holds_one_frame_and_one_read_at_most() -> None:
    """`room` says how much it takes; more is the caller's mistake, and changes nothing."""
    some = decoder()
    assert some.room == FRAME_HEADER_SIZE + BODY_SIZE_MAX + READ_SIZE
    with pytest.raises(DecoderMisused):
        some.receive_data(bytes(some.room + 1))
    assert some.buffered == 0
    largest = request_frame(cluster=1, client=1, session=1, request=1, operation=2, body=bytes(BODY_SIZE_MAX))
    some.receive_data(largest.packed[:-1])
    assert drained(some) == []
    assert some.state is DecoderState.BODY
    assert some.room > READ_SIZE
    some.receive_data(largest.packed[-1:] + bytes(0))
    assert drained(some) == [largest]
    some.receive_end()
    with pytest.raises(DecoderMisused):
        some.receive_data(b"x")


def test_a_header_is_judged_once_however_its_frame_trickles_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is linear in the bytes, not in the bytes times the reads."""
    judged = []
    check = frames.check_header

    def counting(header: bytes, accepts: frozenset[FrameKind], body_size_max: int) -> int:
        judged.append(header)
        return check(header, accepts, body_size_max)

    frame = request_frame(cluster=1, client=1, session=1, request=1, operation=2, body=bytes(BODY_SIZE_MAX))
    monkeypatch.setattr(frame_decoder, "check_header", counting)
    some = decoder()
    for byte in frame.packed:
        some.receive_data(bytes([byte]))
        some.next_event()
    assert len(judged) == 1


# Fuzzed, for a moment. `python -m tests.fuzz` does it for as long as wanted.


def test_fuzzing_that_sent_nothing_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In no time nothing is found wrong."""
    assert rounds.run(("decoder",), 1, tmp_path / "corpus", 0.0, None) == 1
    assert "no stream was sent to the decoder" in capsys.readouterr().err


def test_the_corpus_still_holds(tmp_path: Path) -> None:
    """Everything that once led to something new, whole and in pieces."""
    entries = sorted(CORPUS.glob("*.bin"))
    assert entries
    mutator = Mutator("corpus")
    for path in entries:
        data = path.read_bytes()
        check_stream(data, mutator.pieces(data))


@pytest.mark.parametrize("seed", range(3))
def test_mutated_streams_break_no_rule_of_the_decoder(seed: int, tmp_path: Path) -> None:
    """A new seed is a new choice of mutations; the corpus here grows in a folder of the test."""
    fuzz_decoder(Mutator(seed), Corpus(tmp_path / "corpus"), 300)


def test_the_mutator_is_decided_by_its_seed() -> None:
    """A failure can be had again."""
    corpus = [REQUEST.packed, REPLY.packed, REFUSED.packed]
    first, second = Mutator(1), Mutator(1)
    assert [first.mutate(corpus) for _ in range(50)] == [second.mutate(corpus) for _ in range(50)]
    assert isinstance(first.random, random.Random)
