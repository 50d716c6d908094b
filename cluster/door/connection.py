"""One client's connection: its line, what it holds, and what it may cost.

Guarantees: no I/O but through `Line` and `Sockets`: `door_sockets` has those of the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from client_replies.messages.config import Pause
from client_replies.messages.message import Number

from .frame_decoder import FrameDecoder
from .frames import REQUEST_BODY_SIZE_MAX, Key


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """What connections may cost. Times in seconds, sizes in bytes."""

    connections_max: Number = 4096
    idle_timeout_s: Pause = 600.0  # nothing asked and nothing awaited
    half_frame_timeout_s: Pause = 5.0  # from the first byte of a frame to its last, while we read
    write_timeout_s: Pause = 10.0  # answers wait, and the client takes none of their bytes
    body_size_max: Number = REQUEST_BODY_SIZE_MAX
    bytes_out_pause: Number = 64 * 1024  # answers waiting: no more of its requests are read
    bytes_out_max: Number = 4 * 1024 * 1024  # answers waiting: dropped
    bytes_total_max: Number = 128 * 1024 * 1024  # of all connections, both ways: who holds most is dropped
    requests_in_flight_max: Number = 32  # no more are read
    frames_per_second_max: Number = 10_000  # no more are read


class OpenFilesExhausted(Exception):
    """A connection cannot be accepted now, because the process or the machine has no descriptor or memory for it."""


class Line(Protocol):
    """One client's socket. Nothing blocks; what has failed raises an `OSError`."""

    peer: str

    def receive(self, size: int) -> bytes | None:
        """Give what has come in: None for nothing yet, no bytes for the end."""

    def send(self, data: bytes | bytearray) -> int:
        """Send as much as there is room for; returns how much."""

    def watch(self, *, reads: bool, writes: bool) -> None:
        """Say from now on when it can be read and written."""

    def end(self) -> None:
        """No more will be sent; what the other side said meanwhile is not worth reading."""

    def close(self) -> None:
        """Close it."""


class Sockets(Protocol):
    """The listening socket and all its connections, with one descriptor to watch for all of them."""

    address: tuple[str, int]
    connections_max: int

    def fileno(self) -> int:
        """One descriptor that is readable when any of them has something to do."""

    def ready(self, limit: int) -> Sequence[tuple[Line | None, bool, bool]]:
        """What can be read and what can be written now; None is the listening socket."""

    def accept(self) -> Line | None:
        """The next connection, if there is one. Raises `OpenFilesExhausted`, or an `OSError` if it is gone already."""

    def listen(self, on: bool) -> None:
        """Say when there are connections to accept, or do not."""

    def heard(self) -> None:
        """The descriptor was readable."""

    def look_again(self, *, at_once: bool) -> None:
        """Everything that was ready is done: wait for more. `at_once`: there is more already, and no socket says so."""

    def close(self) -> None:
        """Close the listening socket and the descriptor."""


@dataclass(slots=True, eq=False)
class Connection:
    """One client's line and what it holds."""

    id: int
    line: Line
    decoder: FrameDecoder
    out: bytearray = field(default_factory=bytearray)
    in_flight: set[Key] = field(default_factory=set)
    frames_left: int = 0
    watched: tuple[bool, bool] = (True, False)  # reading, writing
    paused: bool = False

    @property
    def peer(self) -> str:
        """Where it comes from."""
        return self.line.peer

    @property
    def bytes_held(self) -> int:
        """What it costs, both ways."""
        return self.decoder.buffered + len(self.out)
