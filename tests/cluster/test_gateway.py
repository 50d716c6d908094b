"""The gateway on real sockets: honest clients are served, whoever else is there, and the others are bounded."""

import contextlib
import os
import resource
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client_replies.actors.thespian.system import (
    OwnedSystem,
    configure_logging,
    processes_of,
    running_system,
)
from client_replies.cluster.client import Answer, ClusterClient, RetryPolicy, SessionEvicted
from client_replies.cluster.door.connection import Connection, DoorLimits
from client_replies.cluster.door.door_sockets import DoorSockets
from client_replies.cluster.door.forwarding import ForwardingLimits
from client_replies.cluster.door.frame_decoder import FrameDecoder, Signal
from client_replies.cluster.door.frames import (
    FRAME_HEADER_SIZE,
    OPERATION_CLOSE,
    REPLY_SIZE_MAX,
    TO_CLIENT,
    Frame,
    Key,
    Reason,
    request_frame,
)
from client_replies.cluster.door.front_door import FrontDoor
from client_replies.cluster.door.gateway import (
    GatewayActor,
    GatewayFailed,
    GatewayStarted,
    GetGatewayStatus,
    StartGateway,
)
from client_replies.messages.reply_header import OPERATION_REGISTER

from tests.cluster.stand_in import CLUSTER, EXECUTED, OPERATION_ECHO, Front, StandInActor
from tests.processes import is_living, listening, other_addresses, wait_until

POLICY = RetryPolicy(timeout_s=10.0, pause_first_s=0.2)
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close by a reset


@pytest.fixture(autouse=True)
def log(tmp_path: Path) -> Iterator[Path]:
    """Send the log of the processes of a test to a file of its own."""
    path = tmp_path / "log"
    configure_logging(str(path))
    yield path
    configure_logging()


def connect(front: Front) -> socket.socket:
    """Connect to the gateway."""
    return socket.create_connection(front.address, timeout=5)


def registration(client: int = 1) -> Frame:
    """Give a client's first request."""
    return request_frame(cluster=CLUSTER, client=client, session=0, request=0, operation=OPERATION_REGISTER)


def echo(client: int, session: int, request: int, body: bytes = b"") -> Frame:
    """Give a request."""
    return request_frame(
        cluster=CLUSTER, client=client, session=session, request=request, operation=OPERATION_ECHO, body=body
    )


class Reader:
    """Reads frames from a socket."""

    def __init__(self, source: socket.socket) -> None:
        self.source = source
        self.decoder = FrameDecoder(TO_CLIENT, REPLY_SIZE_MAX)

    def frame(self) -> Frame:
        """The next frame; the test fails if there is none."""
        while not isinstance(event := self.decoder.next_event(), Frame):
            assert event is Signal.NEED_DATA, "the gateway hung up"
            data = self.source.recv(65_536)
            if data:
                self.decoder.receive_data(data)
            else:
                self.decoder.receive_end()
        return event


def hung_up(source: socket.socket) -> bool:
    """Read to the end; True if there is one in time."""
    with contextlib.suppress(ConnectionResetError):
        while source.recv(65_536):
            pass
    return True


def served(front: Front, requests: int = 3) -> None:
    """Be an honest client from the first to the last."""
    with ClusterClient([front.address], cluster=CLUSTER, policy=POLICY) as client, client.session() as session:
        for number in range(requests):
            body = b"honest %d" % number
            answer = session.request(OPERATION_ECHO, body)
            assert answer.body[EXECUTED.size :] == body


class Honest:
    """An honest client in a thread, which must be served whatever happens meanwhile."""

    def __init__(self, front: Front) -> None:
        self.latencies: list[float] = []
        self.failures: list[BaseException] = []
        self._front = front
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Honest":
        self._thread.start()
        wait_until(lambda: self.latencies or self.failures)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self.failures == []
        assert self.latencies

    def _run(self) -> None:
        try:
            with ClusterClient([self._front.address], cluster=CLUSTER, policy=POLICY) as client:
                session = client.session()
                while not self._stop.is_set():
                    answer = session.request(OPERATION_ECHO, b"still here")
                    assert answer.body[EXECUTED.size :] == b"still here"
                    self.latencies.append(answer.latency_s)
        except BaseException as error:
            self.failures.append(error)


# Honest clients.


def test_a_session_is_registered_served_and_closed(tcp_system: OwnedSystem) -> None:
    """From the first request to the last; afterwards the session is gone."""
    front = Front(tcp_system)
    with connect(front) as line:
        reader = Reader(line)
        line.sendall(registration().packed)
        session = reader.frame().session
        line.sendall(echo(1, session, 1, b"hello").packed)
        answer = reader.frame()
        assert answer.body.endswith(EXECUTED.pack(1) + b"hello")
        assert not answer.repeated
        line.sendall(echo(1, session, 1, b"hello").packed)
        again = reader.frame()
        assert (again.body, again.repeated) == (answer.body, True)
        line.sendall(
            request_frame(cluster=CLUSTER, client=1, session=session, request=2, operation=OPERATION_CLOSE).packed
        )
        assert reader.frame().request == 2
        line.sendall(echo(1, session, 3).packed)
        assert reader.frame().reason == Reason.NO_SESSION


def test_many_sessions_share_a_connection(tcp_system: OwnedSystem) -> None:
    """And their requests travel together in batches."""
    front = Front(tcp_system, clients_max=512, door=DoorLimits(requests_in_flight_max=256))
    with connect(front) as line:
        reader = Reader(line)
        line.sendall(b"".join(registration(client).packed for client in range(1, 201)))
        sessions = {frame.client: frame.session for frame in (reader.frame() for _ in range(200))}
        assert set(sessions) == set(range(1, 201))
        line.sendall(b"".join(echo(client, session, 1).packed for client, session in sessions.items()))
        assert {reader.frame().client for _ in sessions} == set(sessions)
    assert front.behave(0).counters["batches"] < 100
    assert front.behave(0).executed == 200


def test_an_answer_goes_to_the_connection_that_asked_last(tcp_system: OwnedSystem) -> None:
    """The client lost its connection and has a new one; the old one is still open here."""
    front = Front(tcp_system, forwarding=ForwardingLimits(confirm_timeout_s=0.2, probe_first_s=0.1))
    with connect(front) as old, connect(front) as new:
        old.sendall(registration().packed)
        session = Reader(old).frame().session
        front.behave(0, deaf=True)
        old.sendall(echo(1, session, 1).packed)
        wait_until(lambda: front.status().requests_waiting == 1)
        new.sendall(echo(1, session, 1).packed)
        wait_until(lambda: front.count("requests_repeated") == 1)
        front.behave(0)
        new.sendall(echo(1, session, 1).packed)
        assert Reader(new).frame().request == 1
        assert select.select([old], [], [], 0.1)[0] == []
        assert front.status().requests_waiting == 0


def test_a_session_that_is_replaced_is_told_without_asking(tcp_system: OwnedSystem) -> None:
    """The refusal names no request; the library raises it at the next one."""
    front = Front(tcp_system, clients_max=2)
    with ClusterClient([front.address], cluster=CLUSTER, policy=POLICY) as client:
        first = client.session()
        others = [client.session(), client.session()]
        with pytest.raises(SessionEvicted) as caught:
            first.request(OPERATION_ECHO)
        assert caught.value.reason in (Reason.REPLACED, Reason.NO_SESSION)
        assert [other.request(OPERATION_ECHO).first for other in others] == [True, True]
        assert front.count("answers_unasked") == 1


def test_a_lost_answer_is_the_original_one_when_it_is_asked_for_again(tcp_system: OwnedSystem) -> None:
    """The gateway repeats nothing: the client does, and the replica recognises it."""
    front = Front(tcp_system)
    with ClusterClient([front.address], cluster=CLUSTER, policy=POLICY) as client, client.session() as session:
        front.behave(0, lose_answers=2)
        answer = session.request(OPERATION_ECHO, b"once")
        assert (answer.repeated, answer.attempts) == (True, 3)
        assert answer.body == EXECUTED.pack(1) + b"once"
    assert front.behave(0).executed == 2  # with the closing of the session


# Replicas.


def test_requests_follow_the_primary_from_replica_to_replica(tcp_system: OwnedSystem) -> None:
    """The gateway passes them on, without a word to the client, and remembers."""
    front = Front(tcp_system, 3)
    for replica in range(3):
        front.behave(replica, view=5, primary=2)
    with ClusterClient([front.address], cluster=CLUSTER, policy=POLICY) as client, client.session() as session:
        assert session.request(OPERATION_ECHO).attempts == 1
        status = front.status()
        assert (status.view, status.primary) == (5, 2)
        assert status.counters["primaries_learned"] == 1
        assert client.counters["retries"] == 0


def test_redirects_in_circles_end_at_the_client(tcp_system: OwnedSystem) -> None:
    """Two replicas that name each other cost a bounded number of messages."""
    front = Front(tcp_system, 2)
    front.behave(0, view=5, primary=1)
    front.behave(1, view=5, primary=0)
    with connect(front) as line:
        line.sendall(registration().packed)
        assert Reader(line).frame().reason == Reason.NOT_PRIMARY
    assert front.count("redirects_followed") == ForwardingLimits().redirects_max
    assert front.count("redirects_in_circles") == 1


def test_a_silent_replica_is_passed_by_and_heard_again(tcp_system: OwnedSystem) -> None:
    """What waits goes to the primary of the next view, without another word from the client."""
    front = Front(tcp_system, 2, forwarding=ForwardingLimits(confirm_timeout_s=0.3, probe_first_s=0.2))
    served(front)
    front.behave(0, deaf=True)
    with connect(front) as line:
        line.sendall(registration().packed)
        wait_until(lambda: [silent for _, _, silent in front.status().replicas] == [True, False])
        front.behave(1, view=1, primary=1)
        assert Reader(line).frame().client == 1
    status = front.status()
    assert (status.view, status.primary) == (1, 1)
    front.behave(0, view=1, primary=1)
    wait_until(lambda: front.count("replicas_heard_again") == 1)
    assert [silent for _, _, silent in front.status().replicas] == [False, False]


def test_a_replica_that_started_again_is_used_at_its_new_address(tcp_system: OwnedSystem) -> None:
    """Its batches count from 1 again, and are confirmed all the same."""
    front = Front(tcp_system)
    served(front, 20)
    front.replace(0)
    served(front, 20)
    assert front.behave(0).counters.get("batches_unconfirmed", 0) == 0


def test_a_request_without_an_answer_is_forgotten_in_time(tcp_system: OwnedSystem) -> None:
    """It holds no place, and the connection lives."""
    limits = ForwardingLimits(request_timeout_s=0.3, confirm_timeout_s=0.1, probe_first_s=0.1, probe_max_s=0.1)
    front = Front(tcp_system, forwarding=limits, door=DoorLimits(requests_in_flight_max=1))
    front.behave(0, deaf=True)
    with connect(front) as line:
        for client in (1, 2, 3):
            line.sendall(registration(client).packed)
        wait_until(lambda: front.count("requests_expired") == 3)
        assert front.status().requests_waiting == 0
        front.behave(0)
        line.sendall(registration(4).packed)
        assert Reader(line).frame().client == 4


# Others.


def test_garbage_is_answered_with_its_name_and_the_end(tcp_system: OwnedSystem, log: Path) -> None:
    """Counted by kind, logged by name."""
    front = Front(tcp_system)
    giant = bytearray(registration().packed)
    giant[108:112] = b"\xff" * 4
    for garbage, name in (
        (b"GET / HTTP/1.1\r\n\r\n", "FrameMagicWrong"),
        (b"123>\x80\x04\x95", "FrameMagicWrong"),
        (bytes(giant), "FrameHeaderChecksumWrong"),
        (registration().packed[:-1] + b"\1", "FrameHeaderChecksumWrong"),
    ):
        with connect(front) as line:
            line.sendall(garbage)
            refused = Reader(line).frame()
            assert refused.reason == Reason.MALFORMED
            assert refused.text.startswith(name)
            assert hung_up(line)
    assert front.count("malformed_FrameMagicWrong") == 2
    assert front.count("dropped_malformed") == 4
    assert '"event": "dropped_malformed"' in log.read_text()
    served(front)


def test_a_giant_length_is_refused_at_the_header(tcp_system: OwnedSystem) -> None:
    """Well sealed, and none of the four gigabytes is waited for."""
    front = Front(tcp_system)
    frame = request_frame(cluster=CLUSTER, client=1, session=1, request=1, operation=2, body=bytes(5000))
    with connect(front) as line:
        line.sendall(frame.packed[:FRAME_HEADER_SIZE])
        assert Reader(line).frame().text.startswith("FrameTooLarge")
        assert hung_up(line)
    assert front.status().bytes_held == 0


def test_half_a_frame_and_then_nothing_ends_the_connection(tcp_system: OwnedSystem) -> None:
    """As does a byte now and then: what counts is the whole frame."""
    front = Front(tcp_system, door=DoorLimits(half_frame_timeout_s=0.5))
    with Honest(front), connect(front) as half, connect(front) as slow:
        half.sendall(registration().packed[:100])
        began = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in registration().packed:
                slow.sendall(bytes([byte]))
                time.sleep(0.02)
        assert time.monotonic() - began < 2.5
        assert hung_up(half)
        assert hung_up(slow)
    assert front.count("dropped_half_frame") == 2


def test_a_connection_that_says_nothing_ends_after_a_while(tcp_system: OwnedSystem) -> None:
    """One that waits for an answer is not idle."""
    limits = DoorLimits(idle_timeout_s=0.5)
    front = Front(tcp_system, door=limits)
    front.behave(0, deaf=True)
    with connect(front) as idle, connect(front) as waiting:
        waiting.sendall(registration().packed)
        assert hung_up(idle)
        assert select.select([waiting], [], [], 0.3)[0] == []
    assert front.count("dropped_idle") == 1


def test_a_client_that_reads_no_answers_is_not_read_and_then_dropped(tcp_system: OwnedSystem) -> None:
    """What it may cost is bounded all the while."""
    limits = DoorLimits(write_timeout_s=1.0, bytes_out_pause=16 * 1024, frames_per_second_max=50_000)
    front = Front(tcp_system, door=limits)
    with Honest(front), connect(front) as line:
        wrong = request_frame(cluster=8, client=1, session=1, request=1, operation=2)
        line.settimeout(10)
        with pytest.raises(OSError):  # noqa: PT011 - reset or timed out: either way we were not read
            line.sendall(wrong.packed * 100_000)
    wait_until(lambda: front.count("dropped_not_reading") == 1)
    assert front.status().bytes_held < 1024 * 1024


def test_a_flood_of_frames_is_held_back_and_others_are_served(tcp_system: OwnedSystem) -> None:
    """It gets its answers, at its rate, and costs no memory; an honest client hardly notices."""
    front = Front(tcp_system, door=DoorLimits(frames_per_second_max=200, requests_in_flight_max=16))
    stop = threading.Event()

    def flood() -> None:
        with contextlib.suppress(OSError), connect(front) as line:
            line.setblocking(False)
            wrong = request_frame(cluster=8, client=1, session=1, request=1, operation=2).packed * 100
            rest = b""
            while not stop.is_set():
                readable, writable, _ = select.select([line], [line], [], 0.1)
                if readable and not line.recv(65_536):
                    return
                if writable:
                    rest = rest or wrong
                    rest = rest[line.send(rest) :]

    floods = [threading.Thread(target=flood) for _ in range(2)]
    began = time.monotonic()
    with Honest(front) as honest:
        for one in floods:
            one.start()
        wait_until(lambda: front.count("paused") > 0)
        time.sleep(1.0)
        stop.set()
        for one in floods:
            one.join()
    answered = front.count("requests_refused_wrong_cluster")
    # A second's worth at once, and then so many a second.
    assert 200 < answered <= 1.1 * len(floods) * 200 * (1.0 + time.monotonic() - began)
    assert sorted(honest.latencies)[len(honest.latencies) // 2] < 0.5


def test_sudden_resets_leave_nothing_behind(tcp_system: OwnedSystem) -> None:
    """Half of them with a request in flight, whose answer nobody waits for any more."""
    front = Front(tcp_system, clients_max=512)
    served(front)
    descriptors = front.descriptors()
    with Honest(front):
        for client in range(1, 201):
            line = connect(front)
            line.sendall(registration(client).packed if client % 2 else b"replies-")
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            line.close()
    wait_until(lambda: front.status().connections == 0)
    assert front.status().bytes_held == 0
    assert front.status().requests_waiting == 0
    assert front.descriptors() <= descriptors + 4


@pytest.mark.slow
def test_thousands_of_idle_connections_cost_little(tcp_system: OwnedSystem) -> None:
    """A kilobyte or two each and no time: the gateway's process hardly uses the processor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)) if hard > 0 else 4096, hard))
    front = Front(tcp_system)
    served(front)
    memory = front.memory()
    idle: list[socket.socket] = []
    try:
        for _ in range(3000):
            idle.append(connect(front))
        wait_until(lambda: front.status().connections == 3000)
        assert front.memory() - memory < 3000 * 4096
        before = processor_time(front.pid)
        time.sleep(1.0)
        assert processor_time(front.pid) - before < 0.25
        served(front)
    finally:
        for one in idle:
            one.close()
    wait_until(lambda: front.status().connections == 0)


def test_what_is_watched_is_no_epoll_descriptor() -> None:
    """In Thespian's selector the kernel would walk all sockets behind one, at every turn of its loop."""
    taken: list[Frame] = []

    def take(connection: Connection, frame: Frame) -> tuple[Key | None, bytes | None]:
        taken.append(frame)
        return None, None

    limits = DoorLimits()
    door = FrontDoor(
        DoorSockets("127.0.0.1", 0, connections_max=limits.connections_max),
        cluster=CLUSTER,
        limits=limits,
        take=take,
        closed=lambda _: None,
        note=print,
    )
    try:
        assert os.readlink(f"/proc/self/fd/{door.fileno()}") == "anon_inode:[eventfd]"
        with socket.create_connection(door.address) as line:
            line.sendall(registration().packed)
            while not taken:
                assert select.select([door.fileno()], [], [], 5)[0]
                door.turn(time.monotonic())
                door.flush(time.monotonic())
    finally:
        door.close()
    assert "front-door-lookout" not in [thread.name for thread in threading.enumerate()]


def processor_time(pid: int) -> float:
    """Give the seconds of processor that the process has used."""
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100.0


def test_a_full_house_makes_room_by_the_longest_idle(tcp_system: OwnedSystem) -> None:
    """Idle connections cannot keep others out, and those that wait for an answer are kept."""
    front = Front(tcp_system, door=DoorLimits(connections_max=20))
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(front)) for _ in range(20)]
        wait_until(lambda: front.status().connections == 20)
        served(front)
        assert hung_up(idle[0])
        assert front.count("dropped_for_room") == 1
        assert front.status().connections <= 20


def test_a_house_full_of_busy_clients_refuses_by_name(tcp_system: OwnedSystem) -> None:
    """The newcomer is told, and tries again."""
    front = Front(tcp_system, door=DoorLimits(connections_max=3))
    front.behave(0, deaf=True)
    with contextlib.ExitStack() as stack:
        for client in (1, 2, 3):
            stack.enter_context(connect(front)).sendall(registration(client).packed)
        wait_until(lambda: front.status().requests_waiting == 3)
        line = stack.enter_context(connect(front))
        assert Reader(line).frame().reason == Reason.BUSY
        assert hung_up(line)
    assert front.count("connections_refused") == 1


def test_who_holds_most_memory_is_dropped_when_all_hold_too_much(tcp_system: OwnedSystem) -> None:
    """Half frames of many connections together are bounded, too."""
    front = Front(tcp_system, door=DoorLimits(bytes_total_max=20_000))
    frame = request_frame(cluster=CLUSTER, client=1, session=1, request=1, operation=2, body=bytes(4096))
    with contextlib.ExitStack() as stack:
        for size in (1000, 4000, 4100, 4150, 4200, 4200, 4200):
            stack.enter_context(connect(front)).sendall(frame.packed[:size])
        wait_until(lambda: front.count("dropped_for_memory") > 0)
        assert front.status().bytes_held <= 20_000
        served(front)


def test_after_all_this_nothing_has_leaked(tcp_system: OwnedSystem) -> None:
    """Descriptors and memory are where they were, after some thousands of bad connections."""
    front = Front(tcp_system)
    served(front)

    def abuse(times: int) -> None:
        for number in range(times):
            with connect(front) as line:
                line.sendall((b"nonsense", registration().packed[:60], registration().packed + b"x", b"")[number % 4])
        wait_until(lambda: front.status().connections == 0)

    abuse(400)
    descriptors, memory = front.descriptors(), front.memory()
    abuse(1600)
    assert front.descriptors() <= descriptors + 2
    assert front.memory() - memory < 2 * 1024 * 1024


# Opening and closing.


def failed(system: OwnedSystem, **fields: Any) -> str:
    """Give the reason for which the gateway does not open."""
    gateway, replica = system.createActor(GatewayActor), system.createActor(StandInActor)
    start = StartGateway(**{"cluster": CLUSTER, "port": 0, "replicas": ((0, replica),), "host": "127.0.0.1", **fields})
    answer = system.ask(gateway, start, 10)
    assert isinstance(answer, GatewayFailed)
    assert isinstance(system.ask(gateway, GetGatewayStatus(request=1), 10), GatewayFailed)
    return answer.reason


def test_the_gateway_listens_only_where_it_was_told_to(tcp_system: OwnedSystem) -> None:
    """Loopback, and no other address of this machine."""
    front = Front(tcp_system)
    assert front.address in listening(processes_of(tcp_system))
    for address in other_addresses():
        with pytest.raises(OSError):  # noqa: PT011 - refused or unreachable
            socket.create_connection((address, front.address[1]), timeout=1)


def test_a_wildcard_is_refused_unless_it_is_allowed_by_name(tcp_system: OwnedSystem) -> None:
    """An address that nobody meant must not open the service to the network."""
    assert "every interface" in failed(tcp_system, host="0.0.0.0")
    assert "every interface" in failed(tcp_system, host="::")
    assert "every interface" in failed(tcp_system, host="::ffff:0.0.0.0")
    assert "no address" in failed(tcp_system, host="")
    assert "no address" in failed(tcp_system, host="localhost")


def test_a_busy_port_is_said_at_once_with_what_to_do(tcp_system: OwnedSystem) -> None:
    """And an address that this machine does not have."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "Choose another port" in failed(tcp_system, port=taken.getsockname()[1])
    assert "cannot listen on 192.0.2.1" in failed(tcp_system, host="192.0.2.1")


def test_a_system_that_cannot_watch_sockets_is_refused() -> None:
    """On the simple base nobody would ever be served."""
    with running_system("simpleSystemBase") as system:
        gateway, replica = system.createActor(GatewayActor), system.createActor(StandInActor)
        start = StartGateway(cluster=CLUSTER, host="127.0.0.1", port=0, replicas=((0, replica),))
        answer = system.ask(gateway, start, 10)
        assert isinstance(answer, GatewayFailed)
        assert "multiprocUnixBase" in answer.reason


def test_a_gateway_that_is_started_twice_answers_twice(tcp_system: OwnedSystem) -> None:
    """The first answer may have been lost."""
    front = Front(tcp_system)
    again = tcp_system.ask(front.gateway, front.start, 10)
    assert again == GatewayStarted(host=front.address[0], port=front.address[1], pid=front.pid)


def test_the_end_of_the_system_is_the_end_of_the_door() -> None:
    """Clients are hung up on, and the port is free."""
    with running_system() as system:
        front = Front(system)
        line = connect(front)
        assert is_living(front.pid)
    assert hung_up(line)
    line.close()
    with socket.create_server(front.address):
        pass


def test_a_gateway_that_was_killed_is_replaced_on_the_same_port(tcp_system: OwnedSystem) -> None:
    """Sessions live in the replicas: the client's next attempt goes through the new one; nothing is executed twice."""
    front = Front(tcp_system)
    with ClusterClient([front.address], cluster=CLUSTER, policy=POLICY) as client:
        session = client.session()
        assert session.request(OPERATION_ECHO, b"before").first
        front.behave(0, lose_answers=1)
        os.kill(front.pid, signal.SIGKILL)
        wait_until(lambda: not is_living(front.pid))
        again = replace(front.start, port=front.address[1])
        started = tcp_system.ask(tcp_system.createActor(GatewayActor), again, 10)
        assert (started.host, started.port) == front.address
        answer = session.request(OPERATION_ECHO, b"after")
        assert (answer.body, answer.repeated) == (EXECUTED.pack(2) + b"after", True)


def test_threads_with_a_session_each_share_a_client(tcp_system: OwnedSystem) -> None:
    """Every request of every thread is executed once, and answered with its own reply."""
    front = Front(tcp_system)
    answers: list[list[Answer]] = [[] for _ in range(8)]

    def work(index: int, client: ClusterClient) -> None:
        with client.session() as session:
            for number in range(25):
                answers[index].append(session.request(OPERATION_ECHO, b"%d/%d" % (index, number)))

    with ClusterClient([front.address], cluster=CLUSTER, policy=POLICY) as client:
        threads = [threading.Thread(target=work, args=(index, client)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, those in enumerate(answers):
        assert [one.body[EXECUTED.size :] for one in those] == [b"%d/%d" % (index, n) for n in range(25)]
    executed = [EXECUTED.unpack_from(one.body)[0] for those in answers for one in those]
    assert len(set(executed)) == 200
