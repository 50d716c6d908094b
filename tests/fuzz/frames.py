"""The front door's frames, fuzzed: a seeded mutator, a corpus that grows by new outcomes, and what must hold.

`check_stream` holds for any bytes: the decoder raises nothing but a `FrameInvalid`; what it decodes packs to the very
bytes it was given; however the stream is cut into pieces the events are the same; it holds no more than its bound;
after an error it stays in ERROR and holds nothing. `check_judge` holds for any frame: a client takes for its answer
only the reply to exactly its request.

A mutation is sealed again half of the time, so that what lies behind the checksums is reached as well. What led to
something new (a kind of frame or error after another) is kept.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from client_replies.cluster.client import Answer
from client_replies.cluster.client.answers import judge
from client_replies.cluster.door.frame_decoder import DecoderState, FrameDecoder, Signal
from client_replies.cluster.door.frame_errors import FrameInvalid
from client_replies.cluster.door.frames import (
    FRAME_HEADER_SIZE,
    OPERATION_CLOSE,
    READ_SIZE,
    TO_CLIENT,
    TO_GATEWAY,
    Frame,
    FrameKind,
    Reason,
    refused_frame,
    reply_frame,
    request_frame,
    unpack_frame,
)
from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import HEADER_SIZE, checksum128

CORPUS = Path(__file__).parent / "corpus"
CORPUS_SIZE_MAX = 1024  # files
ENTRY_SIZE_MAX = 16 * 1024  # bytes
BODY_SIZE_MAX = 1024
CLUSTER = 7
CLIENT = 0xC11E57
SIZE_OFFSET = 108

ASKED = request_frame(cluster=CLUSTER, client=CLIENT, session=3, request=2, operation=2, body=b"asked")


def seeds() -> list[bytes]:
    """One stream of each kind."""
    register = request_frame(cluster=CLUSTER, client=CLIENT, session=0, request=0, operation=1)
    close = request_frame(cluster=CLUSTER, client=CLIENT, session=3, request=3, operation=OPERATION_CLOSE)
    full = request_frame(
        cluster=CLUSTER,
        client=CLIENT,
        session=3,
        request=4,
        operation=2,
        body=bytes(range(256)) * (BODY_SIZE_MAX // 256),
    )
    answers = [
        reply_frame(_reply(request, body).pack(), view=2, primary=1, repeated=bool(request))
        for request, body in ((0, b""), (1, b"earlier"), (2, b"the answer"))
    ]
    refusals = [refused_frame(reason, cluster=CLUSTER, to=ASKED, view=4, text=reason.name) for reason in Reason]
    unasked = refused_frame(Reason.REPLACED, cluster=CLUSTER, client=CLIENT, session=3)
    requests = [register, ASKED, close, full]
    singles = [frame.packed for frame in (*requests, *answers, *refusals, unasked)]
    streams = [b"".join(frame.packed for frame in frames) for frames in (requests, answers, refusals)]
    return [*singles, *streams, b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"128>\x80\x04\x95"]


def _reply(request: int, body: bytes) -> Reply:
    return Reply.build(
        cluster=CLUSTER,
        client=CLIENT,
        session=3,
        request=request,
        op=3 + request,
        operation=2 if request else 1,
        timestamp=1,
        body=body,
        request_checksum=ASKED.request_checksum if request == ASKED.request else bytes([request]) * 16,
    )


class Mutator:
    """Makes streams out of others, all decided by its seed."""

    def __init__(self, seed: int | str) -> None:
        self.random = random.Random(seed)

    def mutate(self, corpus: Sequence[bytes]) -> bytes:
        """A new stream."""
        chance = self.random
        data = bytearray(chance.choice(corpus))
        for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
            self._step(data, corpus)
        if chance.random() < 0.5:
            self._seal(data)
        return bytes(data[:ENTRY_SIZE_MAX])

    def _step(self, data: bytearray, corpus: Sequence[bytes]) -> None:
        chance = self.random
        at = chance.randrange(len(data)) if data else 0
        kind = chance.randrange(9)
        if kind == 0 and data:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and data:
            data[at] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
        elif kind == 2:
            del data[at : at + chance.choice((1, 2, 16, 128, len(data)))]
        elif kind == 3:
            data[at:at] = chance.randbytes(chance.choice((1, 2, 16, 128)))
        elif kind == 4 and data:
            end = at + chance.choice((1, 16, FRAME_HEADER_SIZE, HEADER_SIZE))
            data[at:at] = data[at:end]
        elif kind == 5:
            other = chance.choice(corpus)
            data[at:] = other[chance.randrange(len(other) + 1) :]
        elif kind == 6 and len(data) >= FRAME_HEADER_SIZE:
            self._field(data)
        elif kind == 7:
            data += chance.choice(corpus)
        elif kind == 8 and data:
            del data[at:]

    def _field(self, data: bytearray) -> None:
        """Set a whole field of the first header: where the rules are."""
        chance = self.random
        offset, layout = chance.choice(((96, "<Q"), (104, "<I"), (108, "<I"), (112, "<I"), (116, "<I"), (14, "<H")))
        if chance.random() < 0.4:
            offset, layout = chance.randrange(120, 128), "<B"
        limit = 256 ** struct.calcsize(layout) - 1
        values = (0, 1, 2, 128, 129, len(data), len(data) - 1, limit, limit // 2 + 1, chance.randint(0, limit))
        struct.pack_into(layout, data, offset, chance.choice(values) & limit)

    def _seal(self, data: bytearray) -> None:
        """Make the checksums right again, frame after frame as far as the lengths lead."""
        at = 0
        while at + FRAME_HEADER_SIZE <= len(data):
            if self.random.random() < 0.7:
                struct.pack_into("<I", data, at + SIZE_OFFSET, min(len(data) - at, FRAME_HEADER_SIZE + BODY_SIZE_MAX))
            size = struct.unpack_from("<I", data, at + SIZE_OFFSET)[0]
            end = min(len(data), at + max(size, FRAME_HEADER_SIZE))
            inner = at + FRAME_HEADER_SIZE
            if end - inner >= HEADER_SIZE and self.random.random() < 0.5:
                data[inner + 16 : inner + 32] = checksum128(data[inner + HEADER_SIZE : end])
                data[inner : inner + 16] = checksum128(data[inner + 16 : inner + HEADER_SIZE])
            if data[at + 120] == FrameKind.REQUEST and self.random.random() < 0.9:
                fields = data[at + 48 : at + 80] + data[at + 96 : at + 108] + data[at + 121 : at + 122]
                data[at + 80 : at + 96] = checksum128(fields + data[inner:end])
            data[at + 32 : at + 48] = checksum128(data[inner:end])
            data[at + 16 : at + 32] = checksum128(data[at + 32 : inner])
            at = end

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """The stream, cut at random."""
        longest = self.random.choice((1, 7, 130, 4096))
        at = 0
        while at < len(data):
            size = self.random.randint(1, longest)
            yield data[at : at + size]
            at += size


Outcome = frozenset[str]  # what followed what


def check_stream(data: bytes, pieces: Iterator[bytes]) -> Outcome:
    """Check what must hold for these bytes, both ways; returns what came of them, by kind."""
    outcome: list[str] = []
    halves = list(pieces)
    for accepts in (TO_GATEWAY, TO_CLIENT):
        frames, error = decode(iter([data]), accepts)
        frames_cut, error_cut = decode(iter(halves), accepts)
        if [frame.packed for frame in frames] != [frame.packed for frame in frames_cut] or error != error_cut:
            raise AssertionError(
                f"cut in pieces: {error_cut} after {len(frames_cut)}, whole: {error} after {len(frames)}"
            )
        if not data.startswith(b"".join(frame.packed for frame in frames)):
            raise AssertionError("frames that are not in the stream")
        for frame in frames:
            if unpack_frame(frame.packed, frozenset({FrameKind(frame.command)}), BODY_SIZE_MAX) != frame:
                raise AssertionError("a frame that decodes to another one by itself")
            operation = {1: "register", OPERATION_CLOSE: "close", 0: ""}.get(frame.operation, "other")
            outcome.append(f"{frame.command}.{operation}.{frame.reason}")
            if accepts is TO_CLIENT:
                outcome.append(check_judge(frame))
        outcome.append(error)
    return frozenset(f"{first} {second}" for first, second in itertools.pairwise(outcome))


def decode(pieces: Iterator[bytes], accepts: frozenset[FrameKind]) -> tuple[list[Frame], str]:
    """The frames in the stream, and the name of its error: there is one unless it ends between two frames."""
    decoder = FrameDecoder(accepts, BODY_SIZE_MAX)
    frames: list[Frame] = []
    try:
        for piece in pieces:
            if len(piece) > decoder.room:
                raise AssertionError(f"room for {decoder.room} only, with all events taken out")
            decoder.receive_data(piece)
            while isinstance(event := decoder.next_event(), Frame):
                frames.append(event)
            if event is not Signal.NEED_DATA or decoder.buffered > FRAME_HEADER_SIZE + BODY_SIZE_MAX + READ_SIZE:
                raise AssertionError(f"{event} with {decoder.buffered} bytes held")
        decoder.receive_end()
        if decoder.next_event() is not Signal.CLOSED or decoder.state is not DecoderState.CLOSED:
            raise AssertionError("the end of a stream between two frames is its close")
    except FrameInvalid as error:
        if decoder.state is not DecoderState.ERROR or decoder.buffered:
            raise AssertionError(f"in {decoder.state} with {decoder.buffered} bytes after {error}") from error
        try:
            decoder.next_event()
        except FrameInvalid as again:
            if type(again) is type(error):
                return frames, type(error).__name__
        raise AssertionError(f"an error that did not stay: {error}") from error
    return frames, ""


def check_judge(frame: Frame) -> str:
    """A client that asked `ASKED` gets this frame."""
    try:
        verdict = judge(ASKED, frame)
    except FrameInvalid as error:
        return type(error).__name__
    if isinstance(verdict, Answer):
        header = verdict.header
        found = (header.cluster, header.client, header.session, header.request, header.request_checksum)
        if found != (ASKED.cluster, ASKED.client, ASKED.session, ASKED.request, ASKED.request_checksum):
            raise AssertionError(f"taken for the answer: {header}")
        if Reply.unpack(frame.body).body != verdict.body:
            raise AssertionError("the answer's body is not the reply's")
    return type(verdict).__name__


class Corpus:
    """The streams that led to different outcomes: those in the folder, and those found since."""

    def __init__(self, folder: Path = CORPUS) -> None:
        self.folder = folder
        self.entries = seeds()
        self.outcomes: set[str] = set()
        self.kept = 0
        for path in sorted(folder.glob("*.bin")) if folder.is_dir() else ():
            self.entries.append(path.read_bytes())
        for entry in self.entries:
            self.outcomes.update(check_stream(entry, iter([entry[at : at + 1] for at in range(len(entry))])))

    def consider(self, data: bytes, outcome: Outcome) -> None:
        """Keep what led to something new."""
        if outcome <= self.outcomes or len(self.entries) >= CORPUS_SIZE_MAX:
            return
        self.outcomes |= outcome
        self.entries.append(data)
        self.kept += 1
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"{hashlib.sha256(data).hexdigest()[:16]}.bin").write_bytes(data)


def fuzz_decoder(mutator: Mutator, corpus: Corpus, count: int) -> None:
    """Try so many streams. Raises the error of the first that breaks a rule, with the stream in hex."""
    for _ in range(count):
        data = mutator.mutate(corpus.entries)
        try:
            corpus.consider(data, check_stream(data, mutator.pieces(data)))
        except Exception as error:
            raise AssertionError(f"{error!r} for the stream {data.hex()}") from error
