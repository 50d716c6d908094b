"""Frames out of a stream of bytes, without I/O.

Guarantees: a decoder holds one frame and one read at most, and its work is linear in the bytes that it was given. After
a frame that breaks a rule it is in ERROR permanently.
"""

from __future__ import annotations

import enum

from client_replies.messages.reply_header import Buffer

from .frame_errors import FrameInvalid, FrameTruncated
from .frames import FRAME_HEADER_SIZE, READ_SIZE, Frame, FrameKind, check_header, check_preamble, open_frame


class DecoderMisused(RuntimeError):
    """The caller gave more bytes than there is room for, or bytes after the end."""


class DecoderState(enum.Enum):
    """Where a decoder is in its stream."""

    HEADER = "between frames, or within a header"
    BODY = "within a body"
    CLOSED = "the stream ended between two frames"
    ERROR = "the stream broke a rule"


class Signal(enum.Enum):
    """What `next_event` gives when it gives no frame."""

    NEED_DATA = "no frame is whole"
    CLOSED = "the stream has ended, between two frames"


class FrameDecoder:
    """Bytes in, frames out, in the manner of h11: `receive_data`, then `next_event` until it needs data.

    `room` is how many bytes it takes now; it is above 0 whenever all events were taken out.
    """

    __slots__ = ("_accepts", "_body_size_max", "_buffer", "_capacity", "_ended", "_error", "_header", "_size")

    def __init__(self, accepts: frozenset[FrameKind], body_size_max: int) -> None:
        self._accepts = accepts
        self._body_size_max = body_size_max
        self._capacity = FRAME_HEADER_SIZE + body_size_max + READ_SIZE
        self._buffer = bytearray()
        self._header = b""  # of the frame whose body is awaited
        self._size = FRAME_HEADER_SIZE  # bytes wanted next: a header, or a whole frame
        self._ended = False
        self._error: FrameInvalid | None = None

    @property
    def state(self) -> DecoderState:
        """Where it is in the stream."""
        if self._error is not None:
            return DecoderState.ERROR
        if self._ended and not self._buffer:
            return DecoderState.CLOSED
        return DecoderState.BODY if self._header else DecoderState.HEADER

    @property
    def buffered(self) -> int:
        """Bytes held."""
        return len(self._buffer)

    @property
    def room(self) -> int:
        """Bytes that `receive_data` takes now."""
        return self._capacity - len(self._buffer)

    def receive_data(self, data: Buffer) -> None:
        """Take bytes of the stream. Raises the stream's error again if it had one."""
        if self._error is not None:
            raise self._again(self._error)
        if self._ended or len(data) > self._capacity - len(self._buffer):
            raise DecoderMisused("bytes after the end" if self._ended else f"{len(data)} bytes in room for {self.room}")
        self._buffer += data

    def receive_end(self) -> None:
        """The stream has ended."""
        self._ended = True

    def next_event(self) -> Frame | Signal:
        """The next frame, or why there is none. Raises the `FrameInvalid` that names what is wrong with the stream."""
        if self._error is not None:
            raise self._again(self._error)
        try:
            return self._next_event()
        except FrameInvalid as error:
            self._error = error
            self._buffer = bytearray()  # nobody will look at it again
            self._header = b""
            raise

    def _next_event(self) -> Frame | Signal:
        buffer = self._buffer
        if not self._header:
            if len(buffer) < FRAME_HEADER_SIZE:
                if buffer:
                    check_preamble(buffer)
                return self._starved()
            header = bytes(buffer[:FRAME_HEADER_SIZE])
            check_preamble(header)
            self._size = check_header(header, self._accepts, self._body_size_max)
            self._header = header
        size = self._size
        if len(buffer) < size:
            return self._starved()
        packed = bytes(buffer[:size])
        frame = open_frame(self._header, packed)
        self._header = b""
        # Cutting off the front moves the bytearray's start: it does not move the rest.
        del buffer[:size]
        return frame

    def _starved(self) -> Signal:
        if not self._ended:
            return Signal.NEED_DATA
        if self._buffer:
            raise FrameTruncated(f"the end after {len(self._buffer)} bytes of a frame", "all of it")
        return Signal.CLOSED

    @staticmethod
    def _again(error: FrameInvalid) -> FrameInvalid:
        return type(error)(error.found, error.expected)
