"""What a message costs: round trips of two actors on our base, on plain Thespian, and of two bare processes.

The bare processes do what cannot be done without: a socket pair, poll and pickle. The driver sends one message and
waits for it to come back, over and over, and gives the median; a burst is a hundred messages at once, of which the last
is answered.
"""

from __future__ import annotations

import os
import pickle
import select
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from thespian.actors import Actor, ActorAddress

from client_replies.actors.thespian.base import UNIX_BASE
from client_replies.actors.thespian.base.tcp_base import TCP_BASE
from client_replies.actors.thespian.system import running_system

from .contest import Contestant, Group, Scale, group_of
from .targets import ROUND_TRIP
from examples.percentile import percentile

BURST = 100
WARM = 100
ROUNDS_MIN = 20
TIMEOUT = 60.0
_HEADER = struct.Struct("<I")


class Ball:
    """What goes to and fro."""


class Start:
    """Begin, with bursts of so many balls, for so long."""

    def __init__(self, burst: int, seconds: float) -> None:
        self.burst = burst
        self.seconds = seconds


class Wall(Actor):
    """Sends each ball back, or the last of each burst."""

    def __init__(self) -> None:
        super().__init__()
        self.burst = 1
        self.count = 0

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
        """Take a ball."""
        if isinstance(msg, Ball):
            self.count += 1
            if self.count % self.burst == 0:
                self.send(sender, msg)
        elif isinstance(msg, int):
            self.burst = msg


class Driver(Actor):
    """Sends balls to a wall, and tells how long each round trip took."""

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
        """Begin, or take a ball that came back."""
        now = time.perf_counter()
        if isinstance(msg, Start):
            self.asker, self.start, self.taken = sender, msg, []
            self.wall = self.createActor(Wall)
            self.send(self.wall, msg.burst)
            self.until = now + msg.seconds
            self.throw()
        elif isinstance(msg, Ball):
            self.taken.append(now - self.thrown_at)
            if now < self.until or len(self.taken) < warm(self.start.burst) + ROUNDS_MIN:
                self.throw()
            else:
                self.send(self.asker, self.taken)

    def throw(self) -> None:
        """Throw."""
        ball = Ball()
        self.thrown_at = time.perf_counter()
        for _ in range(self.start.burst):
            self.send(self.wall, ball)


def warm(burst: int) -> int:
    """How many round trips come before those that count."""
    return WARM // burst


def measure(contestant: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Run one contestant of the row."""
    if contestant == "bare":
        taken = _bare(params["seconds"])
    else:
        base = TCP_BASE if contestant == "tcp" else params.get("base", UNIX_BASE)
        with running_system(base) as system:
            start = Start(params["burst"], params["seconds"])
            taken = system.ask(system.createActor(Driver), start, start.seconds + TIMEOUT)
    burst = params["burst"]
    taken = taken[warm(burst) :]
    p50 = percentile(taken, 50)
    return {"value": 1 / p50 if burst == 1 else (burst + 1) / p50, "p50": p50, "p99": percentile(taken, 99)}


def _bare(seconds: float) -> list[float]:
    """Two processes, and nothing but what cannot be done without."""
    here, there = socket.socketpair()
    if os.fork() == 0:
        here.close()
        _throw_back(there)
        os._exit(0)
    there.close()
    taken: list[float] = []
    until = time.perf_counter() + seconds
    poll = select.poll()
    poll.register(here, select.POLLIN)
    while time.perf_counter() < until or len(taken) < WARM + ROUNDS_MIN:
        ball = Ball()
        begun = time.perf_counter()
        _send(here, ball)
        _receive(here, poll)
        taken.append(time.perf_counter() - begun)
    here.close()
    os.wait()
    return taken


def _throw_back(there: socket.socket) -> None:
    poll = select.poll()
    poll.register(there, select.POLLIN)
    while (ball := _receive(there, poll)) is not None:
        _send(there, ball)


def _send(connection: socket.socket, ball: Ball) -> None:
    data = pickle.dumps(ball, 5)
    connection.sendall(_HEADER.pack(len(data)) + data)


def _receive(connection: socket.socket, poll: select.poll) -> Ball | None:
    poll.poll()
    data = connection.recv(4096)
    while data and len(data) < _HEADER.size + _HEADER.unpack_from(data)[0]:
        poll.poll()
        data += connection.recv(4096)
    return pickle.loads(data[_HEADER.size :]) if data else None


def groups(scale: Scale) -> list[Group]:
    """The contests of the row."""
    ours = Contestant("ours", "two actors", on_base=True)
    tcp = Contestant("tcp", f"two actors, plain {TCP_BASE}")
    bare = Contestant("bare", "two bare processes: socket pair, poll, pickle")
    figures = (("p50", "s"), ("p99", "s"))
    return [
        group_of(ROUND_TRIP, "round trips/s", [ours, tcp, bare], {"burst": 1}, figures),
        group_of(
            ("round_trip", f"burst of {BURST}"), "messages/s", [replace(ours, on_base=False), tcp], {"burst": BURST}
        ),
    ]
