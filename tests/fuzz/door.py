"""The live gateway under mutated streams on real sockets, while honest clients go on.

What must hold: the gateway's process lives on; every honest request is answered, right, in time; at the end the hostile
connections are gone, with their descriptors, and the memory of the process has not grown beyond its bound.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

from client_replies.actors.thespian.system import running_system
from client_replies.cluster.client import ClusterClient, RetryPolicy, Session
from client_replies.cluster.door.connection import DoorLimits

from tests.cluster.stand_in import CLUSTER, EXECUTED, OPERATION_ECHO, Front
from tests.fuzz.frames import BODY_SIZE_MAX, Corpus, Mutator
from tests.processes import is_living

LIMITS = DoorLimits(
    connections_max=64,
    half_frame_timeout_s=0.5,
    write_timeout_s=0.5,
    idle_timeout_s=2.0,
    body_size_max=BODY_SIZE_MAX,
    bytes_total_max=4 * 1024 * 1024,
)
HOSTILE = 24  # connections at a time
MEMORY_GROWTH_MAX = 48 * 1024 * 1024
HONEST_TIMEOUT_S = 20.0
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close by a reset


@dataclass
class Totals:
    """What was tried."""

    streams: int = 0
    bytes: int = 0
    honest: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def fuzz_gateway(seed: str, corpus: Corpus, seconds: float) -> Totals:
    """Attack a gateway of its own for so long. Raises `AssertionError` if anything does not hold."""
    totals = Totals()
    with running_system() as system:
        front = Front(system, 2, door=LIMITS, clients_max=512)
        descriptors, memory = front.descriptors(), front.memory()
        stop = threading.Event()
        honest = threading.Thread(target=_be_honest, args=(front.address, stop, totals))
        honest.start()
        try:
            _attack(front.address, Mutator(seed), corpus, time.monotonic() + seconds, totals)
        finally:
            stop.set()
            honest.join()
        _settle(front, totals, descriptors, memory)
    if totals.failures or not totals.honest:
        raise AssertionError(f"seed {seed}: {totals.failures or 'no honest request was answered'}")
    return totals


def _attack(address: tuple[str, int], mutator: Mutator, corpus: Corpus, until: float, totals: Totals) -> None:
    chance = mutator.random
    held: list[socket.socket] = []
    while time.monotonic() < until and not totals.failures:
        stream = mutator.mutate(corpus.entries)
        if len(held) < HOSTILE:
            with suppress(OSError):
                held.append(socket.create_connection(address, timeout=0.5))
        if not held:
            continue
        attacker = chance.choice(held)
        attacker.settimeout(0.05)
        try:
            for piece in mutator.pieces(stream):
                attacker.sendall(piece)
            if chance.random() < 0.5:
                attacker.recv(65_536)
        except TimeoutError:
            pass
        except OSError:
            attacker.close()
        totals.streams += 1
        totals.bytes += len(stream)
        if attacker.fileno() < 0 or chance.random() < 0.3:
            held.remove(attacker)
            _hang_up(attacker, chance)
    for attacker in held:
        _hang_up(attacker, chance)


def _hang_up(attacker: socket.socket, chance: random.Random) -> None:
    with suppress(OSError):
        if chance.random() < 0.5:
            attacker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    attacker.close()


def _be_honest(address: tuple[str, int], stop: threading.Event, totals: Totals) -> None:
    try:
        with ClusterClient([address], cluster=CLUSTER, policy=RetryPolicy(timeout_s=HONEST_TIMEOUT_S)) as client:
            while not stop.is_set():
                with client.session() as session:
                    for number in range(20):
                        _ask(session, number, totals)
    except Exception as error:
        totals.failures.append(f"an honest client: {error!r}")


def _ask(session: Session, number: int, totals: Totals) -> None:
    body = struct.pack("<QQ", session.client_id % 2**64, number)
    answer = session.request(OPERATION_ECHO, body)
    if answer.body[EXECUTED.size :] != body:
        totals.failures.append(f"an honest client asked {body!r} and was answered {answer.body!r}")
    totals.honest += 1


def _settle(front: Front, totals: Totals, descriptors: int, memory: int) -> None:
    if not is_living(front.pid):
        totals.failures.append("the gateway is gone")
        return
    deadline = time.monotonic() + 10.0
    while front.status().connections and time.monotonic() < deadline:
        time.sleep(0.1)
    status = front.status()
    totals.counters = dict(status.counters)
    # Thespian itself keeps a few connections to its peers.
    if status.connections or status.bytes_held or front.descriptors() > descriptors + 8:
        totals.failures.append(
            f"left: {status.connections} connections with {status.bytes_held} bytes, "
            f"{front.descriptors()} descriptors of {descriptors} at first"
        )
    if front.memory() - memory > MEMORY_GROWTH_MAX:
        totals.failures.append(f"memory grew from {memory} to {front.memory()} bytes")
