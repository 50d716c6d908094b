"""The gateway's sockets: one descriptor to watch for all of them, and every way to be a bad client bounded.

Guarantees: nothing here blocks, and nothing that one connection does holds up another: a turn reads a bounded number
of bytes of each. What a connection may cost is in `DoorLimits`; who goes beyond is held back (not read) where it may
be honest, and dropped, counted by kind, where it is not. A connection that is idle costs a few hundred bytes and no
time: timeouts are kept in the order in which they end. When all places are taken, the connection that has been idle
longest makes room; its client connects again when it has something to say.

Gives up: order between connections, and what a dropped connection had asked. Clients ask again.

Owns: the listening socket, the connections, the epoll descriptor and the thread that waits for it (`Lookout`).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import resource
import select
import socket
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from .frames import (
    READ_SIZE,
    REQUEST_BODY_SIZE_MAX,
    TO_GATEWAY,
    Frame,
    FrameDecoder,
    FrameInvalid,
    Key,
    Reason,
    refused_frame,
)

EVENTS_MAX = 512  # handled in one turn
ACCEPTS_MAX = 128  # in one turn
BACKLOG = 1024
DESCRIPTORS_SPARE = 128  # for everything in the process that is not a connection
LINGER_READ_MAX = 64 * 1024
# What the kernel holds for a connection each way: left alone it would grow to megabytes for who does not read.
SOCKET_BUFFER_SIZE = 128 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """What connections may cost. Times in seconds, sizes in bytes."""

    connections_max: int = 4096
    idle_timeout_s: float = 600.0  # nothing asked and nothing awaited
    half_frame_timeout_s: float = 5.0  # from the first byte of a frame to its last, while we read
    write_timeout_s: float = 10.0  # answers wait, and the client takes none of their bytes
    body_size_max: int = REQUEST_BODY_SIZE_MAX
    bytes_out_pause: int = 64 * 1024  # answers waiting: no more of its requests are read
    bytes_out_max: int = 4 * 1024 * 1024  # answers waiting: dropped
    bytes_total_max: int = 128 * 1024 * 1024  # of all connections, both ways: who holds most is dropped
    requests_in_flight_max: int = 32  # no more are read
    frames_per_second_max: int = 10_000  # no more are read


class DoorClosed(Exception):
    """The door cannot be opened where it was asked for; the text says why and what to do."""


@dataclass(slots=True, eq=False)
class Connection:
    """One client's socket and what it holds."""

    id: int
    socket: socket.socket
    peer: str
    decoder: FrameDecoder
    out: bytearray = field(default_factory=bytearray)
    in_flight: set[Key] = field(default_factory=set)
    frames_left: int = 0
    events: int = select.EPOLLIN
    paused: bool = False

    @property
    def bytes_held(self) -> int:
        """What it costs, both ways."""
        return self.decoder.buffered + len(self.out)


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


# Takes a request; returns what is in flight now because of it, and what to answer at once.
TakeRequest = Callable[[Connection, Frame], tuple[Key | None, bytes | None]]


class FrontDoor:
    """See the module. `turn` does what is ready, `tick` what time asks for; time comes in with both."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        cluster: int,
        limits: DoorLimits,
        take: TakeRequest,
        closed: Callable[[Connection], None],
        note: Callable[[str, str], None],
        wildcard_allowed: bool = False,
    ) -> None:
        self.limits = limits
        self.counters: Counter[str] = Counter()
        self.bytes_total = 0
        self._cluster = cluster
        self._take = take
        self._closed = closed
        self._note = note
        self._connections: dict[int, Connection] = {}
        self._by_fileno: dict[int, Connection] = {}
        self._ids = 0
        # Each in the order of the time that it keeps.
        self._idle: OrderedDict[int, float] = OrderedDict()
        self._half: OrderedDict[int, float] = OrderedDict()
        self._stalled: OrderedDict[int, float] = OrderedDict()
        self._rationed: dict[int, None] = {}  # the connections that sent frames since the last tick
        self._written: dict[int, None] = {}  # those with new answers
        self._woken: dict[int, None] = {}  # those held back until now, with bytes already read
        self._tick_at: float | None = None
        self._listener = _listen(host, port, wildcard_allowed)
        self._listening = True
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self.connections_max = _descriptors_for(limits.connections_max)
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._lookout = Lookout(self._epoll)

    def fileno(self) -> int:
        """One descriptor that is readable when any of ours has something to do."""
        return self._lookout.bell

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    def close(self) -> None:
        """Close everything, without a word."""
        for connection in list(self._connections.values()):
            self._drop(connection, "")
        if not self._epoll.closed:
            self._lookout.close()
            self._epoll.close()
            self._listener.close()

    # A turn.

    def turn(self, now: float) -> bool:
        """Do what is ready, each connection a bounded part of it. True if there is more."""
        self._lookout.heard()
        for connection_id in list(self._woken):
            del self._woken[connection_id]
            connection = self._connections.get(connection_id)
            if connection is not None:
                self._decode(connection, now)
        ready = self._epoll.poll(0, EVENTS_MAX)
        for fileno, events in ready:
            if fileno == self._listener.fileno():
                self._accept(now)
                continue
            connection = self._by_fileno.get(fileno)
            if connection is None:
                continue
            if events & (select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP):
                self._write(connection, now)
            if events & ~select.EPOLLOUT and connection.id in self._connections:
                self._read(connection, now)
        return bool(self._woken) or len(ready) == EVENTS_MAX

    def flush(self, now: float) -> None:
        """Send the answers that came since: those to one connection together."""
        for connection_id in list(self._written):
            connection = self._connections.get(connection_id)
            if connection is not None:
                self._write(connection, now)
        self._written.clear()
        self._lookout.look_again(at_once=bool(self._woken))

    def _accept(self, now: float) -> None:
        for _ in range(ACCEPTS_MAX):
            try:
                accepted, address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    # The queue stays readable: without a pause this would be a busy loop. The next tick listens again.
                    self._count("accepts_failed", os.strerror(error.errno))
                    self._listen(False)
                    return
                self._count("accepts_failed", str(error))  # the client was gone before we came to it
                continue
            self._admit(accepted, f"{address[0]}:{address[1]}", now)

    def _admit(self, accepted: socket.socket, peer: str, now: float) -> None:
        if len(self._connections) >= self.connections_max and not self._make_room():
            self._count("connections_refused", peer)
            refused = refused_frame(Reason.BUSY, cluster=self._cluster, text="too many connections")
            accepted.setblocking(False)
            with suppress(OSError):
                accepted.send(refused.packed)
            accepted.close()
            return
        try:
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._epoll.register(accepted.fileno(), select.EPOLLIN)
        except OSError as error:
            self._count("accepts_failed", str(error))
            accepted.close()
            return
        self._ids += 1
        connection = Connection(self._ids, accepted, peer, FrameDecoder(TO_GATEWAY, self.limits.body_size_max))
        connection.frames_left = self._ration()
        self._connections[connection.id] = connection
        self._by_fileno[accepted.fileno()] = connection
        self._idle[connection.id] = now
        self.counters["connections_accepted"] += 1

    def _make_room(self) -> bool:
        if not self._idle:
            return False
        # Half a frame does not make a connection busy: only what it waits for does.
        connection = self._connections[next(iter(self._idle))]
        self._drop(connection, "dropped_for_room")
        return True

    def _read(self, connection: Connection, now: float) -> None:
        room = min(READ_SIZE, connection.decoder.room)
        if connection.paused or room <= 0:
            # It has hung up (we do not ask for more), and what it sent before is not worth keeping.
            self._drop(connection, "dropped_gone")
            return
        try:
            data = connection.socket.recv(room)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(connection, "dropped_reset")
            return
        if not data:
            half = connection.decoder.buffered > 0
            self._drop(connection, "dropped_truncated" if half else "closed_by_client")
            return
        connection.decoder.receive_data(data)
        self.bytes_total += len(data)
        self.counters["bytes_in"] += len(data)
        self._decode(connection, now)
        self._bound_memory()

    def _bound_memory(self) -> None:
        if self.bytes_total > self.limits.bytes_total_max:
            self._drop(max(self._connections.values(), key=lambda one: one.bytes_held), "dropped_for_memory")

    def _decode(self, connection: Connection, now: float) -> None:
        """Take the frames out, as long as the connection may have more in flight."""
        decoder, before = connection.decoder, connection.decoder.buffered
        try:
            while not self._held_back(connection):
                event = decoder.next_event()
                if not isinstance(event, Frame):
                    break
                self._frame(connection, event)
        except FrameInvalid as error:
            self.bytes_total -= before
            self._refuse(connection, error, now)
            return
        self.bytes_total -= before - decoder.buffered
        self._time(connection, now, took=decoder.buffered < before)
        self._watch(connection)

    def _frame(self, connection: Connection, frame: Frame) -> None:
        self.counters["frames_in"] += 1
        connection.frames_left -= 1
        self._rationed[connection.id] = None
        key, refusal = self._take(connection, frame)
        if key is not None:
            connection.in_flight.add(key)
        if refusal is not None:
            self._append(connection, refusal)

    def _held_back(self, connection: Connection) -> bool:
        limits = self.limits
        held = (
            len(connection.in_flight) >= limits.requests_in_flight_max
            or len(connection.out) >= limits.bytes_out_pause
            or connection.frames_left <= 0
        )
        if held and not connection.paused:
            self.counters["paused"] += 1
        connection.paused = held
        return held

    def _time(self, connection: Connection, now: float, took: bool) -> None:
        """Keep the two times: since when a frame is half there, since when nothing was asked or awaited."""
        key = connection.id
        half = connection.decoder.buffered > 0 and not connection.paused
        if half:
            if took or key not in self._half:
                self._half[key] = now
                self._half.move_to_end(key)
        else:
            self._half.pop(key, None)
        if connection.in_flight:
            self._idle.pop(key, None)
        elif took or key not in self._idle:
            # Bytes that make no frame are no activity.
            self._idle[key] = now
            self._idle.move_to_end(key)

    def _watch(self, connection: Connection) -> None:
        events = (0 if connection.paused else select.EPOLLIN) | (select.EPOLLOUT if connection.out else 0)
        if events != connection.events:
            connection.events = events
            self._epoll.modify(connection.socket.fileno(), events)

    def _refuse(self, connection: Connection, error: FrameInvalid, now: float) -> None:
        """Say what was wrong, as far as the client listens, and end the connection."""
        self.counters[f"malformed_{type(error).__name__}"] += 1
        refused = refused_frame(Reason.MALFORMED, cluster=self._cluster, text=str(error))
        self._append(connection, refused.packed)
        self._write(connection, now)
        if connection.id not in self._connections:
            return
        with suppress(OSError):
            connection.socket.shutdown(socket.SHUT_WR)
            # What is not read would make the close a reset, which overtakes what we said.
            connection.socket.recv(LINGER_READ_MAX)
        self._drop(connection, "dropped_malformed", type(error).__name__)

    # Answers.

    def answer(self, connection_id: int, packed: bytes, key: Key | None) -> None:
        """Queue an answer. `flush` sends it."""
        connection = self._connections.get(connection_id)
        if connection is None:
            self.counters["answers_too_late"] += 1
            return
        self._append(connection, packed)
        if len(connection.out) > self.limits.bytes_out_max:
            self._drop(connection, "dropped_not_reading")
            return
        self.release(connection_id, key)
        self._bound_memory()

    def release(self, connection_id: int, key: Key | None) -> None:
        """The request is no longer in flight on this connection."""
        connection = self._connections.get(connection_id)
        if connection is not None and key in connection.in_flight:
            connection.in_flight.discard(key)
            if connection.paused or not connection.in_flight:
                self._woken[connection_id] = None

    def _append(self, connection: Connection, packed: bytes) -> None:
        connection.out += packed
        self.bytes_total += len(packed)
        self._written[connection.id] = None
        self.counters["frames_out"] += 1

    def _write(self, connection: Connection, now: float) -> None:
        if connection.out:
            try:
                sent = connection.socket.send(connection.out)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self._drop(connection, "dropped_reset")
                return
            if sent:
                del connection.out[:sent]
                self.bytes_total -= sent
                self.counters["bytes_out"] += sent
                self._stalled.pop(connection.id, None)
        if connection.out:
            self._stalled.setdefault(connection.id, now)
        if connection.paused:
            self._woken[connection.id] = None
        self._watch(connection)

    # Time.

    def tick(self, now: float) -> None:
        """End what took too long, and hand out new rations of frames."""
        since = now - self._tick_at if self._tick_at is not None else 0.0
        self._tick_at = now
        self._listen(True)
        self._end(self._half, now - self.limits.half_frame_timeout_s, "dropped_half_frame")
        self._end(self._stalled, now - self.limits.write_timeout_s, "dropped_not_reading")
        self._end(self._idle, now - self.limits.idle_timeout_s, "dropped_idle")
        ration = self._ration()
        more = max(1, int(since * self.limits.frames_per_second_max))
        for connection_id in list(self._rationed):
            connection = self._connections.get(connection_id)
            if connection is None:
                del self._rationed[connection_id]
                continue
            connection.frames_left = min(ration, connection.frames_left + more)
            if connection.frames_left == ration:
                del self._rationed[connection_id]
            if connection.paused:
                self._woken[connection_id] = None

    def _ration(self) -> int:
        """Frames that a connection may send at once: those of a second."""
        return max(1, self.limits.frames_per_second_max)

    def _end(self, times: OrderedDict[int, float], before: float, kind: str) -> None:
        while times:
            connection_id, since = next(iter(times.items()))
            if since > before:
                return
            self._drop(self._connections[connection_id], kind)

    def _listen(self, on: bool) -> None:
        if on != self._listening:
            self._listening = on
            self._epoll.modify(self._listener.fileno(), select.EPOLLIN if on else 0)

    # The end of a connection.

    def _drop(self, connection: Connection, kind: str, detail: str = "") -> None:
        del self._connections[connection.id]
        fileno = connection.socket.fileno()
        del self._by_fileno[fileno]
        self.bytes_total -= connection.bytes_held
        for times in (self._idle, self._half, self._stalled):
            times.pop(connection.id, None)
        for names in (self._rationed, self._written, self._woken):
            names.pop(connection.id, None)
        with suppress(OSError):
            self._epoll.unregister(fileno)
        connection.socket.close()
        if kind:
            self._count(kind, f"{connection.peer} {detail}".rstrip())
        self._closed(connection)

    def _count(self, kind: str, detail: str) -> None:
        self.counters[kind] += 1
        self._note(kind, detail)


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
