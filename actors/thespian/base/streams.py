"""A non-blocking socket that carries frames: four bytes of length, and so many bytes of content.

Guarantees: frames leave and arrive in order; a frame is written at once if the kernel takes it, else the rest waits and
the caller need not; nothing of a message is copied on its way into the kernel; what arrives is copied once into memory
that serves one frame after the other. A frame longer than `frame_size_max` closes the connection before there is
memory for it.

Limits: what waits is bounded by those who write (`Stream.is_full`), not here.

Owns: the socket.
"""

from __future__ import annotations

import pickle
import select
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from thespian.actors import ActorAddress
from thespian.system.transport import ReceiveEnvelope

from client_replies.actors.thespian.logs import get_logger

if TYPE_CHECKING:
    from .transport import Transport

FRAME_SIZE_MAX = 64 * 1024 * 1024
HEADER_SIZE = 4
READ_SIZE = 256 * 1024
# An incomplete frame of this size or more is received into memory of its own.
LARGE_SIZE = 16 * 1024
# Up to this size header and pickle are joined to one buffer.
SMALL_SIZE = 32 * 1024
# Large frames up to this size share their memory, one after the other: new memory costs more than what is in it.
SPARE_SIZE_MAX = 8 * 1024 * 1024
PARTS_MAX = 1024  # IOV_MAX
# What may wait for one peer, in messages and bytes.
QUEUED_MAX = 1000
QUEUED_BYTES_MAX = FRAME_SIZE_MAX

POLLIN, POLLOUT = select.POLLIN, select.POLLOUT
pack_header, unpack_header = struct.Struct("<I").pack, struct.Struct("<I").unpack_from
now = time.monotonic
Part = bytes | memoryview
Parts = list[Any]  # of such

_log = get_logger("base")
_large_classes: set[type] = set()


class MessageTooLarge(Exception):
    """A message that no process would take. Thespian gives it back to its sender as a PoisonMessage."""

    def __init__(self, size: int) -> None:
        super().__init__(f"a message of {size} bytes; at most {FRAME_SIZE_MAX} are sent: send it in parts")


class _Parts(list[Part]):
    """What a pickler writes; large bytes objects of the message are in it as they are."""

    write = list.append


def pickled(message: object) -> tuple[Parts, int]:
    """Pickle a message: the parts and their size. Classes whose messages were large are pickled without a copy."""
    kind = message.__class__
    parts: Parts
    if kind in _large_classes:
        parts = _Parts()
        pickle.Pickler(parts, 5).dump(message)
        size = sum(map(len, parts))
        if size <= SMALL_SIZE:
            _large_classes.discard(kind)
            parts = [b"".join(parts)]
    else:
        parts = [pickle.dumps(message, 5)]
        size = len(parts[0])
        if size > SMALL_SIZE:
            _large_classes.add(kind)
    if size > FRAME_SIZE_MAX:
        raise MessageTooLarge(size)
    return parts, size


def framed(parts: Parts, size: int) -> tuple[Parts, int]:
    """Put the header before a message's parts."""
    if size <= SMALL_SIZE:
        return [b"".join((pack_header(size), *parts))], size + HEADER_SIZE
    return [pack_header(size), *parts], size + HEADER_SIZE


class Way:
    """What waits for one peer: frames or the rest of one, their size, and whom to tell when the peer has them."""

    # Longer than this, `send` does not wait for room while the peer takes nothing.
    PATIENCE_S = 10.0

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.unsent: deque[tuple[Parts, int, Any]] = deque()
        self.unsent_bytes = 0
        self.moved_at = now()  # when the peer last took something
        self.stuck_at = -1.0  # and when it had, when room was waited for in vain

    def is_full(self, share: float = 1.0) -> bool:
        """Whether this share of what may wait for one peer waits, or more."""
        return len(self.unsent) >= QUEUED_MAX * share or self.unsent_bytes >= QUEUED_BYTES_MAX * share

    def fail(self, _reason: str, *, dead: bool) -> None:
        """What the peer has not taken has failed."""
        failed, self.unsent, self.unsent_bytes = self.unsent, deque(), 0
        for _parts, _size, intent in failed:
            self.transport.complete(intent, False, dead=dead)


class Stream(Way):
    """One connection. Subclasses say what a frame means (`take`) and what its end means (`closed`)."""

    frame_size_max = FRAME_SIZE_MAX + 64  # a message, and its signature

    def __init__(self, transport: Transport, connection: socket.socket | None) -> None:
        super().__init__(transport)
        self.fd = -1
        self._beginning = b""
        self._large: memoryview | None = None
        self._large_at = 0
        if connection is not None:
            self.attach(connection)

    def attach(self, connection: socket.socket) -> None:
        """Begin to read, and to write what waits."""
        self.socket, self.fd = connection, connection.fileno()
        self._send, self._receive = connection.send, connection.recv_into  # looked up once
        self.transport.loop.register(self.fd, self, POLLIN | POLLOUT if self.unsent else POLLIN)

    def take(self, frame: memoryview) -> None:
        """Take one frame; its memory is used again afterwards."""
        raise NotImplementedError

    def closed(self) -> None:
        """The connection has ended."""
        raise NotImplementedError

    def close(self) -> None:
        """End the connection; closing twice is closing once."""
        if self.fd >= 0:
            self.transport.loop.unregister(self.fd)
            self.fd = -1
            self.socket.close()
            self._large = None
            self.closed()

    def deliver(self, frame: memoryview, sender: ActorAddress) -> None:
        """Put the message in a frame into the inbox, unless it cannot be loaded here."""
        try:
            message: Any = pickle.loads(frame)
        except Exception as error:
            _log.error("message_not_loaded", sender=str(sender), error=repr(error))
            return
        self.transport.inbox.append(ReceiveEnvelope(sender, message))

    def ready(self, events: int) -> None:
        """The kernel has something for us, or takes something."""
        if events & POLLOUT:
            self._write_unsent()
        if events & ~POLLOUT and self.fd >= 0:
            self.read()

    def write(self, parts: Parts, size: int, intent: Any = None) -> bool:
        """Write a frame, or queue what the kernel does not take. False if the connection turned out to be broken."""
        if self.unsent or self.fd < 0:
            self._queue(parts, size, intent)
            return True
        try:
            sent = self._send(parts[0]) if len(parts) == 1 else self.socket.sendmsg(parts[:PARTS_MAX])
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return False
        if sent == size:
            if intent is not None:
                self.transport.complete(intent, True)
        else:
            self._queue(_rest(parts, sent), size - sent, intent)
        return True

    def _queue(self, parts: Parts, size: int, intent: Any) -> None:
        if not self.unsent:
            self.moved_at = now()
            if self.fd >= 0:
                self.transport.loop.modify(self.fd, POLLIN | POLLOUT)
        self.unsent.append((parts, size, intent))
        self.unsent_bytes += size

    def _write_unsent(self) -> None:
        while self.unsent:
            parts, size, intent = self.unsent[0]
            try:
                sent = self.socket.sendmsg(parts[:PARTS_MAX])
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            self.unsent_bytes -= sent
            self.moved_at = now()
            if sent < size:
                self.unsent[0] = (_rest(parts, sent), size - sent, intent)
            else:
                self.unsent.popleft()
                self.transport.complete(intent, True)
        self.transport.loop.modify(self.fd, POLLIN)

    def read(self) -> None:
        """Take what has arrived, at most `READ_SIZE` or the rest of one large frame."""
        if self._large is not None:
            self._read_large(self._large)
            return
        view = self.transport.view
        at = len(self._beginning)
        if at:
            view[:at] = self._beginning
        count = self._arrived(view[at:] if at else view)
        if not count:
            return
        count += at
        at = 0
        while count - at >= HEADER_SIZE:
            (size,) = unpack_header(view, at)
            begin = at + HEADER_SIZE
            if size > self.frame_size_max:
                self.transport.admission.refuse(self, "frame_too_long")
                return
            if begin + size > count:
                if size < LARGE_SIZE:
                    break
                self._large = self.transport.room(size)
                self._large_at = count - begin
                self._large[: self._large_at] = view[begin:count]
                self._beginning = b""
                self._read_large(self._large)
                return
            at = begin + size
            self.take(view[begin:at])
            if self.fd < 0:
                return
        self._beginning = bytes(view[at:count]) if at < count else b""

    def _arrived(self, into: memoryview) -> int:
        """How many bytes came; 0 if none did, or if the connection is over: then it is closed."""
        try:
            count = self._receive(into)
        except BlockingIOError:
            return 0
        except OSError:
            count = 0
        if not count:
            self.close()
        return count

    def _read_large(self, large: memoryview) -> None:
        while self._large_at < len(large):
            count = self._arrived(large[self._large_at :])
            if not count:
                return
            self._large_at += count
        self._large = None
        self.take(large)
        self.transport.return_room(large)


def _rest(parts: Parts, sent: int) -> Parts:
    rest: Parts = []
    for part in parts:
        if sent >= len(part):
            sent -= len(part)
        else:
            rest.append(memoryview(part)[sent:] if sent else part)
            sent = 0
    return rest
