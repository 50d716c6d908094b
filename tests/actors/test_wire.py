"""What reaches a process over TCP: named addresses, and frames that a member signed."""

import json
import logging
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from thespian.actors import Actor, ActorAddress, requireCapability

from client_replies.actors import wire
from client_replies.actors.system import (
    AddressNotUsable,
    FrameTooLarge,
    KeyTooShort,
    OwnedSystem,
    TransportAlreadySecured,
    configure_logging,
    processes_of,
    running_system,
    secure_transport,
    start_system,
    stop_system,
)
from client_replies.actors.wire import FRAME_SIZE_MAX, SignedReceiveBuffer, signed_frame

from tests.processes import listening, other_addresses, wait_until

KEY = bytes(range(32))
ROOT = Path(__file__).resolve().parents[2]


class Payload:
    """Bytes whose text is cheap: Thespian forms the text of a message several times on its way."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __str__(self) -> str:
        return "Payload"


class Echo(Actor):
    """Gives back what it gets."""

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
        """Answer a question."""
        if isinstance(msg, str | Payload):
            self.send(sender, msg)


@requireCapability("elsewhere")
class Elsewhere(Echo):
    """Runs only on the member that says it is elsewhere."""


class FileMaker:
    """A pickle that makes a file when it is loaded: what an attacker would send, made harmless."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


def raw_frame(message: object) -> bytes:
    """Frame a pickle as Thespian does when it is left alone."""
    payload = pickle.dumps(message)
    return b"%d>" % len(payload) + payload


def send_raw(port: int, data: bytes) -> bytes:
    """Send bytes to a port and give what comes back before the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        answer = b""
        try:
            while received := connection.recv(4096):
                answer += received
        except ConnectionResetError:
            pass  # closed with bytes of ours unread
        return answer


def ports_of(system: OwnedSystem) -> list[int]:
    """Give the ports that the system's processes serve: not this script's own, which they inherit and leave alone."""
    ours = set(listening([os.getpid()]))
    found = [port for address, port in listening(processes_of(system)) if (address, port) not in ours]
    assert found, "what is refused by none is shown by none"
    return found


def key_of_this_process() -> bytes:
    """Give the key that the script and its systems share."""
    secured = wire.secured_with()
    assert secured is not None
    return secured[0]


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """Send log lines to a file for the length of a test."""
    path = tmp_path / "log"
    configure_logging(str(path))
    yield path
    configure_logging(None, logging.WARNING)


@pytest.fixture
def system(log_file: Path) -> Iterator[OwnedSystem]:
    """Give a system that logs to the file, because its processes were forked after that was decided."""
    with running_system() as system:
        yield system


@pytest.fixture
def echo(system: OwnedSystem) -> ActorAddress:
    """Give an actor that is up."""
    address = system.createActor(Echo)
    assert system.ask(address, "up", 10) == "up"
    return address


def refusals(log_file: Path) -> list[dict[str, Any]]:
    """Give the log lines that tell of refused frames."""
    lines = [json.loads(line) for line in log_file.read_text().splitlines()]
    return [line for line in lines if line["event"] == "frame_refused"]


def test_every_port_is_bound_to_loopback_and_no_other_address_of_the_host_answers(
    system: OwnedSystem, echo: ActorAddress
) -> None:
    """The admin, the logger, the actor and the script each listen, on 127.0.0.1 alone."""
    sockets = listening([os.getpid(), *processes_of(system)])
    assert len(sockets) >= 4
    assert {address for address, _ in sockets} == {"127.0.0.1"}
    for address in other_addresses():
        for _, port in sockets:
            with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
                probe.connect((address, port))


def test_a_raw_pickle_is_not_loaded_by_any_process_and_the_refusal_is_logged(
    system: OwnedSystem, echo: ActorAddress, log_file: Path, tmp_path: Path
) -> None:
    """Admin, logger and actor close the connection without an answer; the script does when it next looks."""
    planted = tmp_path / "planted"
    ports = ports_of(system)
    assert len(ports) == 3
    for port in ports:
        assert send_raw(port, raw_frame((echo, FileMaker(planted)))) == b""
    for _, port in listening([os.getpid()]):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(raw_frame((echo, FileMaker(planted))))
            assert system.ask(echo, "still there", 10) == "still there"
    assert not planted.exists()
    assert {line["pid"] for line in refusals(log_file)} == {os.getpid(), *processes_of(system)}


def test_the_same_pickle_is_loaded_when_a_member_signed_it(
    system: OwnedSystem, echo: ActorAddress, tmp_path: Path
) -> None:
    """The refusals above are due to the signature: with it, the file appears."""
    planted = tmp_path / "planted"
    for count, port in enumerate(ports_of(system)):
        path = planted.with_suffix(f".{count}")
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(signed_frame(key_of_this_process(), (echo, FileMaker(path))))
            wait_until(path.exists)


def test_a_frame_signed_with_another_key_is_refused(
    system: OwnedSystem, echo: ActorAddress, log_file: Path, tmp_path: Path
) -> None:
    """A member of another cluster is a stranger."""
    planted = tmp_path / "planted"
    for port in ports_of(system):
        assert send_raw(port, signed_frame(KEY, (echo, FileMaker(planted)))) == b""
    assert not planted.exists()
    assert {line["reason"] for line in refusals(log_file)} == {"wrong_signature"}


@pytest.mark.parametrize(
    "data",
    [
        *(b">", b"0>", b"32>" + bytes(32), b"%d>" % (FRAME_SIZE_MAX + 1)),
        *(b"-5>12345", b"1_000>x", b" 40>" + bytes(40), b"\xd9\xa3>", b"x" * 64, b"9" * 30 + b">"),
        *(b"33>" + bytes(33), b"33>" + bytes(60)),
    ],
)
def test_what_is_no_frame_ends_the_connection_and_nothing_else(
    system: OwnedSystem, echo: ActorAddress, data: bytes
) -> None:
    """Lengths that are negative, spelt oddly, missing, too small or too large reach no int() and no buffer."""
    for port in ports_of(system):
        assert send_raw(port, data) == b""
    assert system.ask(echo, "still there", 10) == "still there"


def test_a_truncated_frame_is_dropped(system: OwnedSystem, echo: ActorAddress, tmp_path: Path) -> None:
    """A signed frame that breaks off anywhere is not read, and the process goes on."""
    planted = tmp_path / "planted"
    frame = signed_frame(key_of_this_process(), (echo, FileMaker(planted)))
    for port in ports_of(system):
        for size in range(0, len(frame), 7):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(frame[:size])
    assert system.ask(echo, "still there", 10) == "still there"
    assert not planted.exists()


@pytest.mark.parametrize("size", [0, 1, 300, 4096, 1 << 20, 8 << 20])
def test_signed_traffic_passes_unchanged(system: OwnedSystem, echo: ActorAddress, size: int) -> None:
    """What the script and an actor send each other arrives as it was, several times over one connection."""
    data = os.urandom(size)
    for _ in range(3):
        answer = system.ask(echo, Payload(data), 20)
        assert isinstance(answer, Payload)
        assert answer.data == data


def test_members_of_a_convention_reach_each_other() -> None:
    """Two systems with the same key form a convention, and an actor is placed on the other one."""
    with running_system() as probe:
        assert probe.admin_port is not None
        free_port = probe.admin_port
    convention = {"Convention Address.IPv4": f"127.0.0.1:{free_port}"}
    leader = start_system(capabilities=convention, port=free_port)
    member = start_system(capabilities={**convention, "elsewhere": True})
    try:
        remote: list[ActorAddress] = []

        def placed() -> bool:
            try:
                remote.append(leader.createActor(Elsewhere))
            except Exception:  # no compatible system: the member has not registered yet
                return False
            return True

        wait_until(placed)
        assert leader.ask(remote[0], "over there", 10) == "over there"
    finally:
        stop_system(member)
        stop_system(leader)


def test_a_short_key_is_refused_by_name() -> None:
    """A key that could be guessed is no key."""
    with pytest.raises(KeyTooShort):
        secure_transport(key=bytes(wire.KEY_SIZE_MIN - 1))


def test_securing_twice_is_securing_once_and_with_another_key_is_an_error(system: OwnedSystem) -> None:
    """One process has one key and one list of addresses."""
    secure_transport(key=key_of_this_process())
    with pytest.raises(TransportAlreadySecured):
        secure_transport(key=KEY)
    with pytest.raises(TransportAlreadySecured):
        secure_transport(key=key_of_this_process(), addresses=("127.0.0.2",))


def run_script(text: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a few lines in a process whose transport was not secured yet."""
    command = [sys.executable, "-c", text]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=ROOT, env={**os.environ, **(environment or {})}
    )


def test_the_first_named_address_that_belongs_to_this_host_is_bound() -> None:
    """Members on several hosts share one list of addresses; each takes its own from it."""
    result = run_script(
        "from client_replies.actors.system import *\n"
        "from tests.actors.test_wire import Echo\n"
        "from tests.processes import listening\n"
        "import os\n"
        "with running_system(addresses=('198.51.100.77', '127.0.0.2', '127.0.0.1')) as system:\n"
        "    assert system.ask(system.createActor(Echo), 'up', 10) == 'up'\n"
        "    print({address for address, _ in listening([os.getpid(), *processes_of(system)])})\n"
    )
    assert (result.stdout, result.stderr) == ("{'127.0.0.2'}\n", "")


@pytest.mark.parametrize(
    ("environment", "expected"), [({}, "0:00:10"), ({"THESPIAN_TRANSMIT_TIMEOUT_PERIOD": "1:5"}, "0:01:05")]
)
def test_transmits_give_up_in_seconds_unless_the_environment_says_otherwise(
    environment: dict[str, str], expected: str
) -> None:
    """Thespian's own five minutes would let one stopped peer hold up the traffic to all others."""
    result = run_script(
        "from client_replies.actors.system import *\n"
        "from thespian.system import transport\n"
        "secure_transport(key=bytes(32))\n"
        "print(transport.TransmitIntent(None, None).expiration().duration)\n",
        environment,
    )
    assert (result.stdout, result.stderr) == (f"{expected}\n", "")


def test_a_system_takes_the_key_and_the_addresses_of_an_earlier_call() -> None:
    """Who secured the transport with care need not repeat it, and gets nothing else."""
    result = run_script(
        "from client_replies.actors import wire\n"
        "from client_replies.actors.system import *\n"
        "secure_transport(key=bytes(32), addresses=('127.0.0.3',))\n"
        "with running_system():\n"
        "    print(wire.secured_with() == (bytes(32), ('127.0.0.3',)))\n"
    )
    assert (result.stdout, result.stderr) == ("True\n", "")


@pytest.mark.parametrize("addresses", [(), ("198.51.100.77",), ("0.0.0.0",), ("localhost",), ("",), ("224.0.0.1",)])
def test_an_address_that_is_not_ours_or_not_of_one_interface_is_refused(addresses: tuple[str, ...]) -> None:
    """Nobody binds every interface by mistake."""
    with pytest.raises(AddressNotUsable):
        wire._first_own(addresses)


def fed(frame: bytes, step: int) -> SignedReceiveBuffer:
    """Feed a frame in pieces, as the socket gives them."""
    buffer = SignedReceiveBuffer(KEY)
    while frame and not buffer.isDone():
        size = min(step, buffer.remainingAmount())
        buffer.addMore(frame[:size])
        frame = frame[size:]
    return buffer


@pytest.mark.parametrize("step", [1, 2, 7, 20, 1 << 20])
def test_a_frame_is_whole_however_it_was_cut(step: int) -> None:
    """The buffer asks for no byte of the next frame, and gives the message once the last byte is there."""
    message = {"any": "thing", "size": 2000 * b"x"}
    buffer = fed(signed_frame(KEY, message), step)
    assert buffer.isDone()
    assert buffer.completed() == (message, b"")
    assert fed(signed_frame(KEY, message)[:-1], step).completed() is None


def test_what_trickles_in_is_held_in_little_more_memory_than_it_has_bytes() -> None:
    """A stranger who sends a few bytes at a time must not make a process hold many times as much."""
    frame = signed_frame(KEY, bytes(40_000))
    buffer = fed(frame[:-1], 3)
    assert sum(sys.getsizeof(part) + 8 for part in buffer._parts) < 1.02 * len(frame)
    buffer.addMore(frame[-1:])
    assert buffer.completed() == (bytes(40_000), b"")


def test_every_flipped_bit_of_a_frame_is_noticed() -> None:
    """No byte of length, signature or pickle can be changed unnoticed."""
    frame = signed_frame(KEY, ["a", "message"])
    for index in range(len(frame)):
        for bit in range(8):
            changed = bytearray(frame)
            changed[index] ^= 1 << bit
            assert fed(bytes(changed), 1 << 20).completed() is None


def test_a_message_that_no_member_would_take_is_not_sent() -> None:
    """The sender is told, instead of every receiver closing the connection."""
    with pytest.raises(FrameTooLarge):
        signed_frame(KEY, bytes(FRAME_SIZE_MAX))
