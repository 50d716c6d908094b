"""Strangers at a running cluster: at its control socket, its gateway, and in the mailboxes of its members."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from thespian.actors import ActorAddress

from client_replies.actors.thespian.system import OwnedSystem
from client_replies.cluster.control import (
    Finish,
    FinishState,
    GetProgress,
    Join,
    Joined,
    Progress,
    ReplicaStarted,
)
from client_replies.cluster.door.forwarding_messages import ForwardedReplies, ForwardRequests
from client_replies.cluster.door.gateway import SetReplica
from client_replies.cluster.door.gateway_port import GatewayPort
from client_replies.cluster.host.cluster_directory import short_path
from client_replies.cluster.replica.network import Envelope

from examples.ledger.hurt import Hurt, HurtDone, ReplicaFaults
from examples.ledger.ledger_replica import LedgerReplica, StartLedgerReplica
from tests.actors.doubles import Forward, Forwarded, Forwarder, Scripted
from tests.actors.driver import Driver, config_for
from tests.cluster.stand_in import CLUSTER, Front
from tests.cluster.test_forwarding import HERE, request
from tests.cluster.test_gateway import served
from tests.examples.test_live import Terminal
from tests.processes import few_descriptors, is_living, wait_until

WRONG = (
    b'{"ask": "drop-replies", "count": null}\n',
    b"[]\n",
    b'{"ask": "drop-replies", "count": 1e999}\n',
    b"[" * 10_000 + b"\n",
    b"[" * 100_000 + b"\n",
    b"x" * 2_000_000 + b"\n",
    b"\xff\xfe\n",
)


@pytest.fixture
def terminal(free_of_new_processes: None, tmp_path: Path) -> Iterator[Terminal]:
    """A new cluster of three replicas."""
    terminal = Terminal(tmp_path / "ledger")
    yield terminal
    if terminal.process.poll() is None:
        terminal.interrupt()


def ask(place: Path, data: bytes) -> dict[str, Any]:
    """Say this to the control socket, and give the one line that comes back."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asker, short_path(place) as path:
        asker.settimeout(20.0)
        asker.connect(path)
        with contextlib.suppress(ConnectionError):
            asker.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # it did not read all that we said
            while part := asker.recv(65_536):
                answer += part
    assert answer.count(b"\n") == 1
    found: dict[str, Any] = json.loads(answer)
    return found


@pytest.mark.slow
def test_no_question_at_the_control_socket_ends_or_delays_the_cluster(terminal: Terminal) -> None:
    """Wrong ones get one line each. Many that say nothing, or a byte now and then, hold up no restart and no status."""
    for data in WRONG:
        assert set(ask(terminal.place, data)) == {"error"}
        assert terminal.process.poll() is None, terminal.said()
    stop = threading.Event()

    def say_little(asker: socket.socket) -> None:
        while not stop.wait(0.2):
            with contextlib.suppress(OSError):
                asker.sendall(b"{")

    with contextlib.ExitStack() as stack:
        askers = []
        for _ in range(6):
            asker = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            with short_path(terminal.place) as path:
                asker.connect(path)
            askers.append(asker)
        threads = [threading.Thread(target=say_little, args=(asker,)) for asker in askers[:3]]
        for thread in threads:
            thread.start()
        try:
            terminal.hurt("kill", who="2")
            wait_until(lambda: "replica-2 exited; restarting" in terminal.said(), 5.0, "the restart")
            assert len(terminal.replicas()) == 3
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    wait_until(terminal.is_whole, 30.0, "three whole replicas")


def test_a_gateway_without_a_free_descriptor_goes_on_and_serves_again(tcp_system: OwnedSystem) -> None:
    """Its accepts fail for a while, counted; it is asked and answers meanwhile; who comes after is served."""
    front = Front(tcp_system)
    served(front)
    with contextlib.ExitStack() as stack:
        with few_descriptors(front.pid, 4):
            for _ in range(30):
                stack.enter_context(socket.create_connection(front.address, timeout=5))
            wait_until(lambda: front.count("accepts_failed") > 0)
        assert is_living(front.pid)
        served(front)


def test_who_may_tell_a_replica_what_is_its_script_alone(tcp_system: OwnedSystem, tmp_path: Path) -> None:
    """A stranger's `Join`, `Hurt` and `Finish` are not followed, and its envelope in a member's name is not opened."""
    driver = Driver(tcp_system, LedgerReplica)
    config = config_for(tmp_path / "replies", clients_max=64)
    start = StartLedgerReplica(name="replica-0", replicas=1, config=config, directory=str(tmp_path), fresh=True)
    found: list[ReplicaStarted] = []

    def has_started() -> bool:
        answer = tcp_system.ask(driver.replies, start, 1.0)
        found.extend([answer] if isinstance(answer, ReplicaStarted) else [])
        return bool(found)

    wait_until(has_started, 20.0, "the replica's start")
    driver.send(
        Join(number=1, members=(("replica-0", driver.replies),), replies=((0, found[0].replies),)), driver.replies
    )
    driver.expect(Joined)
    stranger = tcp_system.createActor(Forwarder)
    for message in (
        Join(number=99, members=(("replica-0", stranger),), replies=()),
        Hurt(request=1, faults=ReplicaFaults(version=1, drop_answers=1000, drop_version=1)),
        Finish(request=1, op=0, close=True),
        Envelope(sender="replica-0", number=1, taken=0, items=()),
        start,
    ):
        driver.send(Forward(target=driver.replies, message=message), stranger)
        driver.expect(Scripted)

    def strangers() -> int:
        driver.send(GetProgress(request=driver.unique()))
        return driver.expect(Progress).counters.get("message_of_stranger", 0)

    wait_until(lambda: strangers() == 5, 20.0, "all five were seen")
    assert not any(isinstance(message, Forwarded) for message in driver.inbox), "none of them was answered"
    driver.send(Hurt(request=7, faults=ReplicaFaults()))
    assert driver.expect(HurtDone).request == 7
    driver.send(Join(number=2, members=(("replica-0", driver.replies),), replies=((0, found[0].replies),)))
    assert driver.expect(Joined).number == 2
    driver.send(Finish(request=8, op=0, close=False))
    assert not driver.expect(FinishState).waiting_for.startswith("stage clos")


def test_a_gateway_hears_its_script_and_its_replicas_alone(tcp_system: OwnedSystem) -> None:
    """A stranger's answers in a replica's name reach no client, and it does not tell where a replica is."""
    front = Front(tcp_system)
    served(front)
    driver = Driver(tcp_system, Forwarder)
    for message in (
        SetReplica(replica=0, address=driver.replies),
        ForwardedReplies(gateway=1, replica=0, view=9, primary=2, number=1, taken=0, answers=()),
    ):
        driver.send(Forward(target=front.gateway, message=message))
        driver.expect(Scripted)
    wait_until(lambda: front.count("message_of_stranger") == 2)
    served(front)


def test_a_gateways_number_from_another_address_does_not_get_its_answers() -> None:
    """The replica's port answers a gateway where that one first spoke; its next incarnation has another number."""
    sent: list[ActorAddress] = []
    port = GatewayPort(0, CLUSTER, lambda address, _message: sent.append(address))
    honest, hijack = (
        ForwardRequests(gateway=7, number=number, taken=0, requests=(request(number).packed,)) for number in (1, 2)
    )
    assert port.take(honest, HERE, 0.0)
    assert not port.take(hijack, ActorAddress("stranger"), 0.0)
    port.flush(10.0, view=1, primary=0)
    assert sent == [HERE]
    assert port.counters["batches_of_strangers"] == 1
