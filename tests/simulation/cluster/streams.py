"""Connections between clients and gateways: bytes that arrive in order and late, in pieces, or never.

Guarantees: what arrives is a prefix of what was sent. A connection that is cut stands still until the cut is over; one
whose other side is closed, or whose process has ended, is reset, as with TCP. Where the seed says so, a connection is
reset for no reason, and a send takes a part of its bytes only.

Owns: the connections, and which gateway listens at which address.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..chance import MICROSECONDS, Chance
from ..system import Process

if TYPE_CHECKING:
    from .world import ClusterWorld

RETRANSMIT = 0.2  # seconds until bytes that were cut off are tried again
PART = 0.1  # probability that a send takes, or a delivery brings, a part of the bytes
NO_ROOM = (0.001, 0.05)  # seconds until there is room again after a send that took a part


class End:
    """One end of a connection."""

    peer: End

    def __init__(self, streams: Streams, process: Process) -> None:
        self.process = process
        self.changed: Callable[[], None] = lambda: None
        self.incoming = bytearray()
        self.has_ended = False  # the peer sends no more
        self.is_reset = False
        self.has_room = True
        self._streams = streams
        self._closed = False
        self._outgoing: deque[bytes] = deque()  # no bytes: the end
        self._on_its_way = False
        process.on_death.append(self._break)

    @property
    def is_readable(self) -> bool:
        """True if a read says something."""
        return bool(self.incoming) or self.has_ended or self.is_reset

    def read(self, size: int) -> bytes | None:
        """Give what has come in: None for nothing yet, no bytes for the end. Raises `ConnectionResetError`."""
        if self.incoming:
            data = bytes(self.incoming[:size])
            del self.incoming[:size]
            return data
        if self.is_reset:
            raise ConnectionResetError("reset by peer")
        return b"" if self.has_ended else None

    def send(self, data: bytes | bytearray) -> int:
        """Send as much as there is room for. Raises `ConnectionResetError`."""
        if self.is_reset or self._closed:
            raise ConnectionResetError("reset by peer")
        if not self.has_room:
            return 0
        size = len(data)
        if self._streams.chance.chance(PART):
            size = self._streams.chance.below(size)
            self.has_room = False
            self._streams.later(self._streams.chance.micros(*NO_ROOM), self._has_room_again)
        if size:
            self._put(bytes(data[:size]))
        return size

    def end(self) -> None:
        """Send no more."""
        self._put(b"")

    def close(self) -> None:
        """Close this end; what was sent goes on arriving."""
        if not self._closed:
            self._closed = True
            self._put(b"")

    def _has_room_again(self) -> None:
        self.has_room = True
        self.changed()

    def _put(self, data: bytes) -> None:
        self._outgoing.append(data)
        if not self._on_its_way:
            self._on_its_way = True
            self._streams.later(self._streams.latency(self.process, self.peer.process), self._arrive)

    def _arrive(self) -> None:
        """The oldest bytes arrive, unless the way is cut."""
        streams, peer = self._streams, self.peer
        if not self._outgoing or self.is_reset:
            return
        if streams.is_cut(self.process, peer.process):
            streams.later(int(RETRANSMIT * MICROSECONDS), self._arrive)
            return
        data = self._outgoing.popleft()
        if streams.resets():
            self.reset()
            peer.reset()
            return
        if len(data) > 1 and streams.chance.chance(PART):
            part = 1 + streams.chance.below(len(data) - 1)
            self._outgoing.appendleft(data[part:])
            data = data[:part]
        peer._take(data)
        self._on_its_way = bool(self._outgoing)
        if self._outgoing:
            streams.later(streams.latency(self.process, peer.process), self._arrive)

    def _take(self, data: bytes) -> None:
        if self._closed:
            if data:
                self._streams.later(self._streams.latency(self.process, self.peer.process), self.peer.reset)
            return
        if data:
            self.incoming += data
        else:
            self.has_ended = True
        self.changed()

    def reset(self) -> None:
        """Nothing comes or goes any more, and what was on its way is lost."""
        self.is_reset = True
        self._outgoing.clear()
        self.incoming.clear()
        if not self._closed:
            self.changed()

    def _break(self) -> None:
        """The process has ended."""
        self.changed = lambda: None
        self.close()
        self.reset()
        self._streams.later(self._streams.latency(self.process, self.peer.process), self._tell_of_end)

    def _tell_of_end(self) -> None:
        if self._streams.is_cut(self.process, self.peer.process):
            self._streams.later(int(RETRANSMIT * MICROSECONDS), self._tell_of_end)
        else:
            self.peer.reset()


class Streams:
    """See the module."""

    def __init__(self, world: ClusterWorld) -> None:
        self.chance = Chance(world.plan.seed, "streams")
        self.doors: dict[int, Door] = {}
        self._world = world

    def later(self, delay: int, function: Callable[[], None]) -> None:
        """Call the function then."""
        self._world.system.at(delay, function)

    def is_cut(self, source: Process, target: Process) -> bool:
        """True if nothing gets from there to there now."""
        return (source.host.index, target.host.index) in self._world.network.links.cut

    def latency(self, source: Process, target: Process) -> int:
        """How long the next bytes take."""
        network = self._world.network
        clogged = network.links.clogged.get((source.host.index, target.host.index), 0.0)
        return self.chance.micros(network.rules.latency_low, network.rules.latency_high + clogged)

    def resets(self) -> bool:
        """True if a connection breaks now."""
        if self._world.calm or not self.chance.chance(self._world.plan.resets):
            return False
        self._world.marks.hit("connection_reset")
        return True

    def connect(self, process: Process, gateway: int, done: Callable[[End | None], None]) -> None:
        """Connect to a gateway: the end of the connection, or None if nobody listens; nothing if the way is cut."""
        self.later(self.chance.micros(0.0001, 0.002), lambda: self._connect(process, gateway, done))

    def _connect(self, process: Process, gateway: int, done: Callable[[End | None], None]) -> None:
        door = self.doors.get(gateway)
        if door is None or not door.process.alive:
            done(None)
            return
        if not process.alive or self.is_cut(process, door.process) or self.is_cut(door.process, process):
            return
        ours, theirs = End(self, process), End(self, door.process)
        ours.peer, theirs.peer = theirs, ours
        door.connected(theirs)
        done(ours)


class DoorLine:
    """A connection at the gateway: see `client_replies.cluster.door.front_door.Line`."""

    def __init__(self, end: End, door: Door) -> None:
        self.peer = end.peer.process.name
        self._door = door
        self._end = end
        self._watched = (False, False)
        end.changed = door.changed

    @property
    def ready(self) -> tuple[bool, bool]:
        """What can be done of what is watched."""
        reads, writes = self._watched
        broken = self._end.is_reset
        return (reads and self._end.is_readable) or broken, (writes and self._end.has_room) or broken

    def receive(self, size: int) -> bytes | None:
        return self._end.read(size)

    def send(self, data: bytes | bytearray) -> int:
        return self._end.send(data)

    def watch(self, *, reads: bool, writes: bool) -> None:
        self._watched = reads, writes
        self._door.lines[self] = None

    def end(self) -> None:
        self._end.end()

    def close(self) -> None:
        self._door.lines.pop(self, None)
        self._end.close()


class Door:
    """Where a gateway listens: see `client_replies.cluster.door.front_door.Sockets`."""

    def __init__(self, streams: Streams, process: Process, gateway: int, fileno: int, connections_max: int) -> None:
        self.process = process
        self.address = ("gateway", 4000 + gateway)
        self.connections_max = connections_max
        self.lines: dict[DoorLine, None] = {}
        self._fileno = fileno
        self._waiting: deque[End] = deque()
        self._listening = True
        self._bell = False
        self._streams = streams
        process.ready[fileno] = self._is_ready
        streams.doors[gateway] = self

    def connected(self, end: End) -> None:
        """Somebody has connected."""
        self._waiting.append(end)
        self.changed()

    def changed(self) -> None:
        """Something may have become ready."""
        self.process.system.descriptor_ready(self.process)

    def _is_ready(self) -> bool:
        return self._bell or (self._listening and bool(self._waiting)) or any(any(line.ready) for line in self.lines)

    def fileno(self) -> int:
        return self._fileno

    def ready(self, limit: int) -> Sequence[tuple[DoorLine | None, bool, bool]]:
        found: list[tuple[DoorLine | None, bool, bool]] = [
            (line, *line.ready) for line in self.lines if any(line.ready)
        ]
        if self._listening and self._waiting:
            found.append((None, True, False))
        return found[:limit]

    def accept(self) -> DoorLine | None:
        return DoorLine(self._waiting.popleft(), self) if self._waiting else None

    def listen(self, on: bool) -> None:
        self._listening = on

    def heard(self) -> None:
        self._bell = False

    def look_again(self, *, at_once: bool) -> None:
        self._bell = at_once

    def close(self) -> None:
        self.process.ready.pop(self._fileno, None)
