"""The gateway's sockets: what `front_door` reads and writes through, and one descriptor to watch for all of them.

Guarantees: nothing blocks. It listens on one named address and on no other, unless the wildcard is allowed.

Owns: the listening socket, the connections' sockets, the epoll descriptor and the thread that waits for it (`Lookout`).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import resource
import select
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress

from .connection import OpenFilesExhausted

BACKLOG = 1024
DESCRIPTORS_SPARE = 128  # for everything in the process that is not a connection
LINGER_READ_MAX = 64 * 1024
# What the kernel holds for a connection each way: left alone it would grow to megabytes for who does not read.
SOCKET_BUFFER_SIZE = 128 * 1024
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class DoorClosed(Exception):
    """The door cannot be opened where it was asked for; the text says why and what to do."""


class Lookout:
    """Waits in a thread for an epoll descriptor, and rings an eventfd: that is what an actor watches.

    Thespian makes a new selector each time around its loop. Were the epoll descriptor itself in there, the kernel
    would walk all of its thousands of sockets each time, to be sure that no two of them wait for each other: with
    10,000 idle connections that took 8 ms a request.

    Owns: the thread and two eventfds. The thread touches no state of the door.
    """

    def __init__(self, epoll: select.epoll) -> None:
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._end = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = epoll
        self._epoll.register(self._end, select.EPOLLIN)
        self._closing = False
        self._parked = False
        self._go = threading.Event()
        self._thread = threading.Thread(target=self._look, name="front-door-lookout", daemon=True)
        self._thread.start()

    def heard(self) -> None:
        """The bell was heard."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.bell)

    def look_again(self, *, at_once: bool) -> None:
        """Everything that was ready is done: wait for more. `at_once`: there is more already, and no socket says so."""
        if at_once:
            os.eventfd_write(self.bell, 1)
        if self._parked:
            self._parked = False
            self._go.set()

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        os.eventfd_write(self._end, 1)
        self._go.set()
        self._thread.join()
        os.close(self.bell)
        os.close(self._end)

    def _look(self) -> None:
        while not self._closing:
            self._epoll.poll(None, 1)
            # Parked before it rings: who hears the bell at once must see that the thread wants to be sent on.
            self._parked = True
            os.eventfd_write(self.bell, 1)
            self._go.wait()
            self._go.clear()


class AcceptedLine:
    """See `front_door.Line`."""

    def __init__(self, accepted: socket.socket, peer: str, sockets: DoorSockets) -> None:
        self.peer = peer
        self._socket = accepted
        self._sockets = sockets
        self._watched = False

    def fileno(self) -> int:
        """Its descriptor."""
        return self._socket.fileno()

    def receive(self, size: int) -> bytes | None:
        try:
            return self._socket.recv(size)
        except (BlockingIOError, InterruptedError):
            return None

    def send(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    def watch(self, *, reads: bool, writes: bool) -> None:
        self._sockets.watch(self, (select.EPOLLIN if reads else 0) | (select.EPOLLOUT if writes else 0))

    def end(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)
        # What is not read would make the close a reset, which overtakes what we said.
        self._socket.recv(LINGER_READ_MAX)

    def close(self) -> None:
        self._sockets.forget(self)
        self._socket.close()


class DoorSockets:
    """See `front_door.Sockets`. Raises `DoorClosed`."""

    def __init__(self, host: str, port: int, *, connections_max: int, wildcard_allowed: bool = False) -> None:
        self._listener = _listen(host, port, wildcard_allowed)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self.connections_max = _descriptors_for(connections_max)
        self._lines: dict[int, AcceptedLine] = {}
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._lookout = Lookout(self._epoll)

    def fileno(self) -> int:
        return self._lookout.bell

    def ready(self, limit: int) -> Sequence[tuple[AcceptedLine | None, bool, bool]]:
        """See `Sockets`. A line that has failed can be read and written: that is how it is found out."""
        found: list[tuple[AcceptedLine | None, bool, bool]] = []
        for fileno, events in self._epoll.poll(0, limit):
            writable = bool(events & (select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP))
            found.append((self._lines.get(fileno), bool(events & ~select.EPOLLOUT), writable))
        return found

    def accept(self) -> AcceptedLine | None:
        try:
            accepted, address = self._listener.accept()
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise OpenFilesExhausted(os.strerror(error.errno)) from error
            raise
        try:
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            accepted.close()
            raise
        return AcceptedLine(accepted, f"{address[0]}:{address[1]}", self)

    def watch(self, line: AcceptedLine, events: int) -> None:
        """Say when these events come."""
        if line.fileno() in self._lines:
            self._epoll.modify(line.fileno(), events)
        else:
            self._epoll.register(line.fileno(), events)
            self._lines[line.fileno()] = line

    def forget(self, line: AcceptedLine) -> None:
        """The line is closed."""
        if self._lines.pop(line.fileno(), None) is not None:
            with suppress(OSError):
                self._epoll.unregister(line.fileno())

    def listen(self, on: bool) -> None:
        self._epoll.modify(self._listener.fileno(), select.EPOLLIN if on else 0)

    def heard(self) -> None:
        self._lookout.heard()

    def look_again(self, *, at_once: bool) -> None:
        self._lookout.look_again(at_once=at_once)

    def close(self) -> None:
        self._lookout.close()
        self._epoll.close()
        self._listener.close()


def _listen(host: str, port: int, wildcard_allowed: bool) -> socket.socket:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise DoorClosed(f"{host!r} is no address: give one of this machine, such as 127.0.0.1") from None
    mapped = getattr(address, "ipv4_mapped", None)
    if (address.is_unspecified or (mapped is not None and mapped.is_unspecified)) and not wildcard_allowed:
        raise DoorClosed(f"{host} would listen on every interface: name one address, or allow the wildcard")
    listener = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_SIZE)  # inherited by connections
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_SIZE)
        listener.setblocking(False)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DoorClosed(f"cannot listen on {host} port {port}: {reason}. Choose another port, or 0 for any") from error
    return listener


def _descriptors_for(connections: int) -> int:
    """Have room for that many descriptors; returns how many connections there is room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + DESCRIPTORS_SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(1, min(connections, soft - DESCRIPTORS_SPARE))
    return connections
