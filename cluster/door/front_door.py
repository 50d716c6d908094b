"""The gateway's connections: bytes in, frames out, every way to be a bad client bounded; the I/O is in `door_sockets`.

Guarantees: no I/O but through `Sockets`, and no clock: time comes in. Nothing that one connection does holds up
another: a turn reads a bounded number of bytes of each. What a connection may cost is in `DoorLimits`; who goes beyond
is held back (not read) where it may be honest, and dropped, counted by kind, where it is not. A connection that is idle
costs a few hundred bytes and no time: timeouts are kept in the order in which they end. When all places are taken, the
connection that has been idle longest makes room; its client connects again when it has something to say.

Limits: no order between connections, and what a dropped connection had asked is forgotten. Clients ask again.

Owns: the connections.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress

from .connection import Connection, DoorLimits, Line, OpenFilesExhausted, Sockets
from .frame_decoder import FrameDecoder
from .frame_errors import FrameInvalid
from .frames import READ_SIZE, TO_GATEWAY, Frame, Key, Reason, refused_frame

EVENTS_MAX = 512  # handled in one turn
ACCEPTS_MAX = 128  # in one turn


# Takes a request; returns what is in flight now because of it, and what to answer at once.
TakeRequest = Callable[[Connection, Frame], tuple[Key | None, bytes | None]]


class FrontDoor:
    """See the module. `turn` does what is ready, `tick` what time asks for; time comes in with both."""

    def __init__(
        self,
        sockets: Sockets,
        *,
        cluster: int,
        limits: DoorLimits,
        take: TakeRequest,
        closed: Callable[[Connection], None],
        note: Callable[[str, str], None],
    ) -> None:
        self.limits = limits
        self.counters: Counter[str] = Counter()
        self.bytes_total = 0
        self._cluster = cluster
        self._take = take
        self._closed = closed
        self._note = note
        self._connections: dict[int, Connection] = {}
        self._by_line: dict[Line, Connection] = {}
        self._ids = 0
        # Each in the order of the time that it keeps.
        self._idle: OrderedDict[int, float] = OrderedDict()
        self._half: OrderedDict[int, float] = OrderedDict()
        self._stalled: OrderedDict[int, float] = OrderedDict()
        self._rationed: dict[int, None] = {}  # the connections that sent frames since the last tick
        self._written: dict[int, None] = {}  # those with new answers
        self._woken: dict[int, None] = {}  # those held back until now, with bytes already read
        self._tick_at: float | None = None
        self._sockets = sockets
        self._listening = self._open = True
        self.address = sockets.address
        self.connections_max = sockets.connections_max

    def fileno(self) -> int:
        """One descriptor that is readable when any of ours has something to do."""
        return self._sockets.fileno()

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    def close(self) -> None:
        """Close everything, without a word."""
        for connection in list(self._connections.values()):
            self._drop(connection, "")
        if self._open:
            self._open = False
            self._sockets.close()

    # A turn.

    def turn(self, now: float) -> bool:
        """Do what is ready, each connection a bounded part of it. True if there is more."""
        self._sockets.heard()
        for connection_id in list(self._woken):
            del self._woken[connection_id]
            connection = self._connections.get(connection_id)
            if connection is not None:
                self._decode(connection, now)
        ready = self._sockets.ready(EVENTS_MAX)
        for line, readable, writable in ready:
            if line is None:
                self._accept(now)
                continue
            connection = self._by_line.get(line)
            if connection is None:
                continue
            if writable:
                self._write(connection, now)
            if readable and connection.id in self._connections:
                self._read(connection, now)
        return bool(self._woken) or len(ready) == EVENTS_MAX

    def flush(self, now: float) -> None:
        """Send the answers that came since: those to one connection together."""
        for connection_id in list(self._written):
            connection = self._connections.get(connection_id)
            if connection is not None:
                self._write(connection, now)
        self._written.clear()
        self._sockets.look_again(at_once=bool(self._woken))

    def _accept(self, now: float) -> None:
        for _ in range(ACCEPTS_MAX):
            try:
                line = self._sockets.accept()
            except OpenFilesExhausted as error:
                # The queue stays readable: without a pause this would be a busy loop. The next tick listens again.
                self._count("accepts_failed", str(error))
                self._listen(False)
                return
            except OSError as error:
                self._count("accepts_failed", str(error))  # the client was gone before we came to it
                continue
            if line is None:
                return
            self._admit(line, now)

    def _admit(self, line: Line, now: float) -> None:
        if len(self._connections) >= self.connections_max and not self._make_room():
            self._count("connections_refused", line.peer)
            refused = refused_frame(Reason.BUSY, cluster=self._cluster, text="too many connections")
            with suppress(OSError):
                line.send(refused.packed)
            line.close()
            return
        try:
            line.watch(reads=True, writes=False)
        except OSError as error:
            self._count("accepts_failed", str(error))
            line.close()
            return
        self._ids += 1
        connection = Connection(self._ids, line, FrameDecoder(TO_GATEWAY, self.limits.body_size_max))
        connection.frames_left = self._ration()
        self._connections[connection.id] = connection
        self._by_line[line] = connection
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
            data = connection.line.receive(room)
        except OSError:
            self._drop(connection, "dropped_reset")
            return
        if data is None:
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
        watched = not connection.paused, bool(connection.out)
        if watched != connection.watched:
            connection.watched = watched
            connection.line.watch(reads=watched[0], writes=watched[1])

    def _refuse(self, connection: Connection, error: FrameInvalid, now: float) -> None:
        """Say what was wrong, as far as the client listens, and end the connection."""
        self.counters[f"malformed_{type(error).__name__}"] += 1
        refused = refused_frame(Reason.MALFORMED, cluster=self._cluster, text=str(error))
        self._append(connection, refused.packed)
        self._write(connection, now)
        if connection.id not in self._connections:
            return
        with suppress(OSError):
            connection.line.end()
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
                sent = connection.line.send(connection.out)
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
            self._sockets.listen(on)

    # The end of a connection.

    def _drop(self, connection: Connection, kind: str, detail: str = "") -> None:
        del self._connections[connection.id]
        del self._by_line[connection.line]
        self.bytes_total -= connection.bytes_held
        for times in (self._idle, self._half, self._stalled):
            times.pop(connection.id, None)
        for names in (self._rationed, self._written, self._woken):
            names.pop(connection.id, None)
        connection.line.close()
        if kind:
            self._count(kind, f"{connection.peer} {detail}".rstrip())
        self._closed(connection)

    def _count(self, kind: str, detail: str) -> None:
        self.counters[kind] += 1
        self._note(kind, detail)
