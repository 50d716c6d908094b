"""What somebody gets who is not a member: of this host under another user, and of the network without the key.

Nothing is unpickled, little memory is held, few connections are kept, and the owner is served all the while (how fast,
`benchmarks.round_trip` shows).
"""

import contextlib
import json
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from thespian.actors import ActorAddress

from client_replies.actors.thespian.base import hosts, local
from client_replies.actors.thespian.system import (
    OwnedSystem,
    configure_logging,
    processes_of,
    running_system,
)

from .actors import Echo
from tests.processes import is_living, listening, wait_until

ROOT = Path(__file__).resolve().parents[4]
HERE = "127.0.0.2"
KEY = bytes(range(32))
TIMEOUT_S = 20
CONNECTIONS = 1020
NOBODY = 65534


class FileMaker:
    """A pickle that makes a file when it is loaded: what an attacker would send, made harmless."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """Send log lines to a file for the length of a test."""
    path = tmp_path / "log"
    configure_logging(str(path))
    yield path
    configure_logging(None, 30)


@pytest.fixture(params=["alone", "with other hosts"])
def system(request: pytest.FixtureRequest, log_file: Path) -> Iterator[OwnedSystem]:
    """A system, with and without open ports."""
    options: dict[str, Any] = {} if request.param == "alone" else {"addresses": [HERE], "key": KEY}
    with running_system(**options) as started:
        yield started


@pytest.fixture
def echo(system: OwnedSystem) -> ActorAddress:
    """An actor that is up."""
    address = system.createActor(Echo)
    assert system.ask(address, "up", TIMEOUT_S) == "up"
    return address


def events(log_file: Path) -> set[str]:
    """The names of the events in the log."""
    return {json.loads(line)["event"] for line in log_file.read_text().splitlines()}


def doors(system: OwnedSystem, address: ActorAddress) -> list[Any]:
    """Where a stranger can try to connect: an actor's Unix name, and every port."""
    ours = set(listening([os.getpid()]))
    ports: list[Any] = [place for place in listening(processes_of(system)) if place not in ours]
    return [address.addressDetails.name, *ports]


def connected(door: Any) -> socket.socket:
    """Connect to a port or a Unix name."""
    connection = socket.socket(socket.AF_UNIX if isinstance(door, str) else socket.AF_INET)
    connection.settimeout(TIMEOUT_S)
    connection.connect(door)
    return connection


def answer_to(door: Any, data: bytes) -> bytes:
    """Send bytes, and give what comes back before the other side closes."""
    with connected(door) as connection:
        found = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
            while received := connection.recv(4096):
                found += received
        return found


def as_nobody(action: Callable[[], int], meanwhile: Callable[[], None] = lambda: None) -> int:
    """Do something in a process of another user, and something here meanwhile; its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            status = action()
        finally:
            os._exit(status)
    try:
        meanwhile()
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@needs_root
def test_a_process_of_another_user_is_refused_and_its_pickle_is_not_loaded(
    system: OwnedSystem, echo: ActorAddress, log_file: Path, tmp_path: Path
) -> None:
    """The kernel says who it is, before a byte is read."""
    planted = tmp_path / "planted"
    tmp_path.chmod(0o777)
    data = pickle.dumps(FileMaker(planted))
    frame = struct.pack("<I", len(data)) + data
    assert as_nobody(lambda: len(answer_to(echo.addressDetails.name, frame + frame))) == 0
    wait_until(lambda: "other_user" in events(log_file))
    assert not planted.exists()
    assert system.ask(echo, "still", TIMEOUT_S) == "still"


@needs_root
def test_a_crowd_of_another_user_takes_no_descriptor_and_no_memory(system: OwnedSystem, echo: ActorAddress) -> None:
    """1,020 who stay silent, 20 with unfinished frames of 62 MiB: each is closed as soon as it is accepted."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    pid = system.ask(echo, "pid", TIMEOUT_S)
    before = len(os.listdir(f"/proc/{pid}/fd")), _resident(pid)
    done, go_on = os.pipe(), os.pipe()

    def crowd() -> int:
        silent = [connected(echo.addressDetails.name) for _ in range(CONNECTIONS)]
        part = struct.pack("<I", 62 << 20) + bytes(60_000)
        unfinished = [connected(echo.addressDetails.name) for _ in range(20)]
        for connection in unfinished:
            with contextlib.suppress(ConnectionError):
                connection.sendall(part)
        os.write(done[1], b"x")
        os.read(go_on[0], 1)
        answers = 0
        for connection in [*silent, *unfinished]:
            with contextlib.suppress(ConnectionError):
                answers += len(connection.recv(1))
        return answers

    def serve() -> None:
        os.read(done[0], 1)
        assert [system.ask(echo, number, TIMEOUT_S) for number in range(100)] == list(range(100))
        assert len(os.listdir(f"/proc/{pid}/fd")) < before[0] + 10  # the log's is new
        assert _resident(pid) - before[1] < 4 << 20
        os.write(go_on[1], b"x")

    assert as_nobody(crowd, meanwhile=serve) == 0
    for fd in (*done, *go_on):
        os.close(fd)


@needs_root
def test_an_actor_of_another_user_at_our_name_is_not_talked_to(system: OwnedSystem) -> None:
    """Who took the name of a dead actor gets nothing to read: the connector asks the kernel, too."""
    stranger = socket.socket(socket.AF_UNIX)
    name = "\0client-replies-0-9-taken"
    read, write = os.pipe()

    def squat() -> int:
        stranger.bind(name)
        stranger.listen()
        os.write(write, b"x")
        connection, _ = stranger.accept()
        return len(connection.recv(4096))

    pid = os.fork()
    if pid == 0:
        os.setuid(NOBODY)
        os._exit(squat())
    os.read(read, 1)
    from client_replies.actors.thespian.base.addresses import HostAddress

    assert system.ask(ActorAddress(HostAddress("127.0.0.1", 9, "taken")), "secret", 5) is None
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_raw_pickle_gets_no_answer_and_is_not_loaded(system: OwnedSystem, echo: ActorAddress, tmp_path: Path) -> None:
    """At no port, however it is framed. (At a Unix name it would be the same user's own.)"""
    planted = tmp_path / "planted"
    data = pickle.dumps((echo, FileMaker(planted)))
    for door in doors(system, echo)[1:]:
        for frame in (b"%d>" % len(data) + data, struct.pack("<I", len(data)) + data, data, b"GET / HTTP/1.0\r\n\r\n"):
            assert answer_to(door, frame) == b""
    assert not planted.exists()
    assert system.ask(echo, "still", TIMEOUT_S) == "still"


def test_whoever_greets_without_the_key_gets_a_nonce_and_no_further(system: OwnedSystem, echo: ActorAddress) -> None:
    """What it sends next is not signed: the connection is closed, and nothing of it is loaded."""
    for door in doors(system, echo)[1:]:
        with connected(door) as connection:
            greeting = hosts.MAGIC + bytes(hosts.NONCE_SIZE)
            connection.sendall(struct.pack("<I", len(greeting)) + greeting)
            assert len(connection.recv(4096)) == 4 + hosts.NONCE_SIZE + hosts.MAC_SIZE
            connection.sendall(struct.pack("<I", 100) + bytes(100))
            with contextlib.suppress(ConnectionError):
                assert connection.recv(4096) == b""


@pytest.mark.slow
def test_idle_connections_are_closed_and_the_owner_is_served_meanwhile(
    system: OwnedSystem, echo: ActorAddress, log_file: Path
) -> None:
    """1,020 at each door, which is every descriptor that a process commonly has."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))

    def most_descriptors() -> int:
        return max(len(os.listdir(f"/proc/{pid}/fd")) for pid in processes_of(system))

    before = most_descriptors()  # some are inherited from whoever runs the tests
    with contextlib.ExitStack() as stack:
        for door in doors(system, echo):
            for _ in range(CONNECTIONS):
                stack.enter_context(connected(door))
        assert [system.ask(echo, number, TIMEOUT_S) for number in range(100)] == list(range(100))
        assert most_descriptors() <= before + local.UNKNOWN_MAX * 2 + 10
        assert system.ask(system.createActor(Echo), "another", TIMEOUT_S) == "another"
        wait_until(
            lambda: most_descriptors() <= before + 10,
            6 * TIMEOUT_S,
            "the end of the silent connections",
        )
    assert {"too_many_unknown"} <= events(log_file)


def test_unfinished_frames_hold_next_to_no_memory(system: OwnedSystem, echo: ActorAddress) -> None:
    """A length of 62 MiB is refused before there is memory for it, and so is one byte more than a greeting may have."""
    pid = system.ask(echo, "pid", TIMEOUT_S)
    before = _resident(pid)
    with contextlib.ExitStack() as stack:
        for door in doors(system, echo)[1:]:
            for size in (62 << 20, hosts.UNKNOWN_SIZE_MAX + 1):
                for _ in range(20):
                    connection = stack.enter_context(connected(door))
                    with contextlib.suppress(ConnectionError):
                        connection.sendall(struct.pack("<I", size) + bytes(60_000))
        assert system.ask(echo, "still", TIMEOUT_S) == "still"
        assert _resident(pid) - before < 4 << 20


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_a_process_without_descriptors_says_so_and_lives(log_file: Path) -> None:
    """Its own connections use them up: it serves those it has, and the others when there is room again."""
    text = (
        "import os, resource, sys, time\n"
        "from client_replies.actors.thespian.system import *\n"
        "from tests.actors.thespian.base.actors import Echo\n"
        f"configure_logging({str(log_file)!r})\n"
        "with running_system() as system:\n"
        "    echo = system.createActor(Echo)\n"
        "    pid = system.ask(echo, 'pid', 20)\n"
        "    used = len(os.listdir(f'/proc/{pid}/fd'))\n"
        "    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 1, 4096))\n"
        "    with system.private() as first, system.private() as second:\n"
        "        assert first.ask(echo, 'first', 20) == 'first'\n"
        "        assert second.ask(echo, 'second', 0.5) is None\n"
        "        assert first.ask(echo, 'first', 20) == 'first'\n"
        "        resource.prlimit(pid, resource.RLIMIT_NOFILE, (4096, 4096))\n"
        "        assert second.listen(20) == 'second'\n"
    )
    subprocess.run([sys.executable, "-c", text], cwd=ROOT, check=True, timeout=90)
    assert "no_descriptors" in events(log_file)


def test_a_stranger_cannot_make_a_process_end(system: OwnedSystem, echo: ActorAddress) -> None:
    """Bytes of every kind, cut anywhere."""
    for door in doors(system, echo)[1:]:
        for size in (0, 1, 3, 4, 5, 27, 28, 29, 100):
            with connected(door) as connection, contextlib.suppress(ConnectionError):
                connection.sendall(os.urandom(size))
    pids = processes_of(system)
    assert system.ask(echo, "still", TIMEOUT_S) == "still"
    assert all(map(is_living, pids))
