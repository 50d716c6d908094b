"""Messages between the processes of one host, over Unix sockets: one connection per pair, both ways.

Guarantees: the kernel says which user connects, and nothing is read from anybody but this user and root. What the
kernel took is delivered: there is no acknowledgement. In order per pair, since each process sends to another over one
connection. When a peer has gone, what waited for it is told so.

Limits: what lies unread in a killed process's socket is lost without a dead letter: at most twice
`SEND_BUFFER` per sender, or about 700 small messages. What was queued beyond is told as dead.
Processes of the same user are trusted. Who connects must introduce itself in time (`Listener`).

Owns: its connections.
"""

from __future__ import annotations

import errno
import os
import pickle
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from thespian.actors import ActorAddress

from .addresses import HostAddress
from .streams import POLLIN, Stream, framed, now

if TYPE_CHECKING:
    from .transport import Transport

# Small, since a killed process loses what is in it; the kernel takes twice as much.
SEND_BUFFER = 256 * 1024
BACKLOG = 4096  # the kernel gives net.core.somaxconn at most
# Connections that have not said who they are: so many, for so long; then the oldest is closed.
UNKNOWN_MAX = 64
UNKNOWN_TIMEOUT_S = 3.0
ACCEPTS_PER_TURN = 32
# When the process has no descriptors left, nobody is accepted for so long.
ACCEPT_PAUSE_S = 0.5
RETRY_S = 0.005

_USERS = (os.geteuid(), 0)
_CREDENTIALS = struct.Struct("3i")
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """Accepts connections, and closes those that do not say who they are."""

    def __init__(
        self, transport: Transport, listening: socket.socket, admit: Callable[[socket.socket], Stream | None]
    ) -> None:
        listening.setblocking(False)
        listening.listen(BACKLOG)
        self._transport = transport
        self._socket = listening
        self._admit = admit
        self._unknown: dict[Stream, float] = {}
        self.accept_again()

    def accept_again(self) -> None:
        """Accept from now on."""
        self._transport.loop.register(self._socket.fileno(), self, POLLIN)

    def ready(self, _events: int) -> None:
        """Accept whoever waits, not too many at once."""
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    self._transport.admission.say_no_descriptors(error)
                    self._transport.loop.unregister(self._socket.fileno())
                    self._transport.loop.call_later(ACCEPT_PAUSE_S, self.accept_again)
                return
            connection.setblocking(False)
            stream = self._admit(connection)
            if stream is None:
                connection.close()
                continue
            if not self._unknown:
                self._transport.loop.call_later(UNKNOWN_TIMEOUT_S, self._close_silent)
            # It is read in the next turn: what its process sent over an older connection comes first.
            self._unknown[stream] = now()
            if len(self._unknown) > UNKNOWN_MAX:
                self._close_unless_known(next(iter(self._unknown)), "too_many_unknown")

    def known(self, stream: Stream) -> None:
        """The stream has said who it is, or has ended."""
        self._unknown.pop(stream, None)

    def _close_silent(self) -> None:
        for stream, accepted_at in list(self._unknown.items()):
            if now() - accepted_at >= UNKNOWN_TIMEOUT_S:
                self._close_unless_known(stream, "silent")
        if self._unknown:
            self._transport.loop.call_later(UNKNOWN_TIMEOUT_S / 4, self._close_silent)

    def _close_unless_known(self, stream: Stream, reason: str) -> None:
        stream.read()  # what came while a handler ran
        if stream in self._unknown:
            self._transport.admission.refuse(stream, reason)

    def close(self) -> None:
        """Listen no more."""
        if self._socket.fileno() >= 0:
            self._transport.loop.unregister(self._socket.fileno())
            self._socket.close()


def peer_user(connection: socket.socket) -> int:
    """Ask the kernel which user is at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


def is_friend(connection: socket.socket) -> bool:
    """Whether a process of this user, or of root, is at the other end."""
    return peer_user(connection) in _USERS


class LocalStream(Stream):
    """A connection with a process of this host, made by either."""

    def __init__(self, transport: Transport, connection: socket.socket | None, address: HostAddress | None) -> None:
        self.sender: ActorAddress | None = None if address is None else ActorAddress(address)
        self.address = address
        super().__init__(transport, connection)

    def attach(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        super().attach(connection)

    def connect(self) -> bool:
        """Connect, at once or when the peer has room for it. False if there is no such process, or not ours."""
        try:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            self.transport.admission.say_no_descriptors(error)
            self.transport.loop.call_later(RETRY_S * 20, self._connect_again)
            return True
        connection.setblocking(False)
        try:
            connection.connect(self.address.name)  # type: ignore[union-attr]
        except BlockingIOError:
            connection.close()
            self.transport.loop.call_later(RETRY_S, self._connect_again)
            return True
        except OSError:
            connection.close()
            return False
        if not is_friend(connection):
            connection.close()
            return False
        introduction = pickle.dumps(self.transport.myAddress, 5)
        try:
            connection.send(framed([introduction], len(introduction))[0][0])
        except OSError:  # it ended just now
            connection.close()
            return False
        self.attach(connection)
        return True

    def _connect_again(self) -> None:
        if self.fd < 0 and self.unsent and not self.connect():
            self.closed()

    def take(self, frame: memoryview) -> None:
        """See `Stream`. Who has connected introduces itself first."""
        if self.sender is not None:
            self.deliver(frame, self.sender)
            return
        try:
            self.sender = pickle.loads(frame)
            self.address = self.sender.addressDetails
        except Exception:
            self.transport.admission.refuse(self, "not_introduced")
        else:
            self.transport.introduced(self)

    def closed(self) -> None:
        """See `Stream`: tell those whose messages wait."""
        self.transport.forget(self)
        self.fail("process_ended", dead=True)
