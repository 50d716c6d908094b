"""Row 0: what a message costs: round trips of two actors on our base, on plain Thespian, and of two bare processes.

The bare processes do what cannot be done without: a socket pair, poll and pickle. The driver sends one message and
waits for it to come back, over and over, and gives the median; a burst is a hundred messages at once, of which the last
is answered. In a system with other hosts, the round trips of an actor to which a stranger has opened a thousand
connections and says nothing are compared with those of one that nobody bothers.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import secrets
import select
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

from thespian.actors import Actor, ActorAddress, ActorSystem

from client_replies.actors.base import LOOPBACK, UNIX_BASE
from client_replies.actors.base.tcp_base import TCP_BASE
from client_replies.actors.system import running_system

from .contest import Comparison, Contestant, Group, Scale
from .statistics import percentile

SIZES = {"empty": 0, "4 KiB": 4096, "64 KiB": 65536, "1 MiB": 1 << 20}
BURST = 100
IDLE_CONNECTIONS = 1000
WARM = 100
ROUNDS_MIN = 20
TIMEOUT = 60.0
_HEADER = struct.Struct("<I")


class Ball:
    """What goes to and fro. Its text is cheap: Thespian forms it often."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload

    def __str__(self) -> str:
        return "Ball"


class Start:
    """Begin, with payloads of this size, or with bursts, for so long."""

    def __init__(self, size: int, burst: int, seconds: float) -> None:
        self.size = size
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
            if now < self.until or len(self.taken) < WARM + ROUNDS_MIN:
                self.throw()
            else:
                self.send(self.asker, self.taken)

    def throw(self) -> None:
        """Throw."""
        ball = Ball(bytes(self.start.size))
        self.thrown_at = time.perf_counter()
        for _ in range(self.start.burst):
            self.send(self.wall, ball)


def measure(contestant: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Run one contestant of the row."""
    size, burst, seconds = params["size"], params["burst"], params["seconds"]
    if contestant == "bare":
        taken = _bare(size, seconds)
    elif contestant in ("alone", "crowded"):
        taken = _among_strangers(IDLE_CONNECTIONS if contestant == "crowded" else 0, Start(size, burst, seconds))
    else:
        with running_system(TCP_BASE if contestant == "tcp" else UNIX_BASE) as system:
            taken = _ask(system, Start(size, burst, seconds))
    taken = taken[WARM:]
    p50 = percentile(taken, 50)
    return {"value": p50 if burst == 1 else (burst + 1) / p50, "p99": percentile(taken, 99)}


def _ask(system: ActorSystem, start: Start) -> list[float]:
    taken: list[float] = system.ask(system.createActor(Driver), start, start.seconds + TIMEOUT)
    return taken


def _among_strangers(count: int, start: Start) -> list[float]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, soft + count), hard))
    with (
        running_system(addresses=[LOOPBACK], key=secrets.token_bytes(32)) as system,
        contextlib.ExitStack() as strangers,
    ):
        driver = system.createActor(Driver)
        for _ in range(count):
            strangers.enter_context(socket.create_connection(driver.addressDetails.sockname))
        taken: list[float] = system.ask(driver, start, start.seconds + TIMEOUT)
        return taken


def _bare(size: int, seconds: float) -> list[float]:
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
    buffer = bytearray(size + 1024)
    while time.perf_counter() < until or len(taken) < WARM + ROUNDS_MIN:
        ball = Ball(bytes(size))
        begun = time.perf_counter()
        _send(here, ball)
        _receive(here, poll, buffer)
        taken.append(time.perf_counter() - begun)
    here.close()
    os.wait()
    return taken


def _throw_back(there: socket.socket) -> None:
    poll = select.poll()
    poll.register(there, select.POLLIN)
    buffer = bytearray((1 << 20) + 1024)
    while (ball := _receive(there, poll, buffer)) is not None:
        _send(there, ball)


def _send(connection: socket.socket, ball: Ball) -> None:
    data = pickle.dumps(ball, 5)
    connection.sendall(_HEADER.pack(len(data)) + data)


def _receive(connection: socket.socket, poll: select.poll, buffer: bytearray) -> Ball | None:
    poll.poll()
    count = connection.recv_into(buffer)
    if not count:
        return None
    view, wanted = memoryview(buffer), _HEADER.size + _HEADER.unpack_from(buffer)[0]
    while count < wanted:
        poll.poll()
        count += connection.recv_into(view[count:])
    ball: Ball = pickle.loads(view[_HEADER.size : count])
    return ball


def groups(scale: Scale) -> list[Group]:
    """The contests of the row."""
    found = [_group(name, size, 1) for name, size in SIZES.items()]
    return [*found, _group(f"burst of {BURST}", 0, BURST), _group_among_strangers()]


def _group_among_strangers() -> Group:
    return Group(
        row="round_trip",
        name="idle connections",
        unit="s",
        params={"size": 0, "burst": 1},
        figures=[("p99", "s")],
        contestants=[
            Contestant("crowded", f"two actors, {IDLE_CONNECTIONS:,} idle connections of a stranger"),
            Contestant("alone", "two actors that nobody bothers"),
        ],
        # Times, so that more is better: at most 1.1 times as long.
        comparisons=[Comparison("without to with idle connections", "alone", ("crowded",), round(1 / 1.1, 2))],
    )


def _group(name: str, size: int, burst: int) -> Group:
    is_burst = burst > 1
    contestants = [
        Contestant("ours", f"two actors, {UNIX_BASE}"),
        Contestant("tcp", f"two actors, plain {TCP_BASE}"),
        *([] if is_burst else [Contestant("bare", "two bare processes")]),
    ]
    target = 11.0 if size == 0 and not is_burst else None
    if is_burst:
        comparisons = [Comparison(f"to plain {TCP_BASE}", "ours", ("tcp",), target)]
    else:
        # Times: the ratio is theirs to ours, so that more is better.
        comparisons = [
            Comparison(f"plain {TCP_BASE} to ours", "tcp", ("ours",), target),
            Comparison("two bare processes to ours", "bare", ("ours",), 0.5 if size == 0 else None),
        ]
    return Group(
        row="round_trip",
        name=name,
        unit="messages/s" if is_burst else "s",
        params={"size": size, "burst": burst},
        figures=[("p99", "s")],
        contestants=contestants,
        comparisons=comparisons,
    )
