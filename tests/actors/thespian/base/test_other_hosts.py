"""Messages between hosts: signed, in order, over lines that are slow, silent or broken, or to a peer that is cut off.

The other host is a script of its own at another loopback address, so that it is reached over TCP.
"""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from thespian.actors import ActorAddress, ActorSystemException

from client_replies.actors.thespian.base import hosts
from client_replies.actors.thespian.base.addresses import HostAddress
from client_replies.actors.thespian.system import (
    AddressNotUsable,
    BaseNotSupported,
    KeyMissing,
    KeyTooShort,
    OwnedSystem,
    PortsInUse,
    processes_of,
    running_system,
    start_system,
)

from .actors import Echo, Elsewhere, Flooder, Payload
from .forwarder import Forwarder
from .other_host import other_host
from tests.processes import listening, wait_until

ROOT = Path(__file__).resolve().parents[4]
KEY = secrets.token_bytes(32)
HERE, THERE = "127.0.0.2", "127.0.0.3"
TIMEOUT_S = 20


@pytest.fixture(scope="module")
def system() -> Iterator[OwnedSystem]:
    """The system of this host."""
    with running_system(addresses=[HERE], key=KEY) as started:
        yield started


@pytest.fixture(scope="module")
def remote() -> Iterator[tuple[ActorAddress, ActorAddress]]:
    """An Echo and a Flooder of the other host."""
    with other_host(THERE, KEY) as actors:
        yield actors


@pytest.mark.parametrize("size", [0, 100, 40_000, 1 << 20, 16 << 20])
def test_messages_of_every_size_arrive_unchanged(
    system: OwnedSystem, remote: tuple[ActorAddress, ActorAddress], size: int
) -> None:
    """There and back, several times, among small ones."""
    data = os.urandom(size)
    for _ in range(3):
        assert system.ask(remote[0], Payload(data), TIMEOUT_S).data == data
        assert system.ask(remote[0], "small", TIMEOUT_S) == "small"


def test_actors_of_two_hosts_who_flood_each_other_get_every_message_in_order(
    system: OwnedSystem, remote: tuple[ActorAddress, ActorAddress]
) -> None:
    """Many times what may wait for one peer."""
    here, count = system.createActor(Flooder), 5000
    system.tell(here, ("flood", remote[1], count, True))
    for flooder in (here, remote[1]):
        wait_until(lambda: system.ask(flooder, "counted", TIMEOUT_S) == (count, 0), 60)  # noqa: B023


def test_only_the_named_address_and_ports_of_the_range_are_listened_at() -> None:
    """What a firewall must let through can be named; the admin has a port of its own if it was given one."""
    ports, before = range(28000, 28020), set(listening([os.getpid()]))
    with running_system(addresses=[HERE], key=KEY, ports=ports, port=27999) as started:
        assert started.ask(started.createActor(Echo), "up", TIMEOUT_S) == "up"
        found = set(listening([os.getpid(), *processes_of(started)])) - before
        assert {address for address, _ in found} == {HERE}
        assert {port for _, port in found} - set(ports) == {27999}
        assert len(found) == 4  # script, admin, logger and actor


def test_a_range_without_a_free_port_is_an_error() -> None:
    """That says what to do."""
    with (
        socket.create_server((HERE, 28050)),
        pytest.raises(PortsInUse, match="no free port in 28050 to 28050"),
    ):
        start_system(addresses=[HERE], key=KEY, ports=range(28050, 28051))


@pytest.mark.parametrize("addresses", [(), ("198.51.100.77",), ("0.0.0.0",), ("localhost",), ("",), ("224.0.0.1",)])
def test_an_address_that_is_not_ours_or_not_of_one_interface_is_refused(addresses: tuple[str, ...]) -> None:
    """Nobody binds every interface by mistake."""
    with pytest.raises(AddressNotUsable):
        start_system(addresses=addresses, key=KEY)


def test_a_key_that_is_short_or_missing_is_refused() -> None:
    """A key that could be guessed is no key; and addresses of others make no sense without."""
    with pytest.raises(KeyTooShort):
        start_system(addresses=[HERE], key=KEY[:15])
    with pytest.raises(KeyMissing):
        start_system(addresses=[HERE])
    with pytest.raises(BaseNotSupported):
        start_system("multiprocTCPBase", addresses=[HERE], key=KEY)
    with pytest.raises(BaseNotSupported):
        start_system("multiprocUDPBase")


def test_the_first_named_address_that_belongs_to_this_host_is_taken() -> None:
    """Members on several hosts share one list of addresses."""
    with running_system(addresses=["198.51.100.77", HERE, THERE], key=KEY) as started:
        assert {address for address, _ in listening(processes_of(started))} == {HERE}


def test_a_connection_that_breaks_loses_and_repeats_no_message(
    system: OwnedSystem, remote: tuple[ActorAddress, ActorAddress]
) -> None:
    """While both processes live: what was not acknowledged is sent again over another connection."""
    with other_host("127.0.0.4", KEY) as (_, flooder), Forwarder(flooder) as line:
        here = system.createActor(Flooder)
        for turn in range(1, 6):
            system.tell(here, ("flood from", line.address, (turn - 1) * 200, turn * 200))
            line.cut()
            wait_until(lambda: system.ask(flooder, "counted", TIMEOUT_S) == (turn * 200, 0), TIMEOUT_S)  # noqa: B023
        assert line.connections > 1


def test_a_message_may_take_longer_than_the_time_without_progress(
    system: OwnedSystem, remote: tuple[ActorAddress, ActorAddress], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow line is not a broken one."""
    monkeypatch.setattr(hosts, "STALL_TIMEOUT_S", 1.0)
    data = os.urandom(4 << 20)
    with Forwarder(remote[0], bytes_per_s=1.5e6) as line:
        begun = time.monotonic()
        assert system.ask(line.address, Payload(data), 60).data == data
        assert time.monotonic() - begun > 2.0


def send_over_a_slow_line(system: OwnedSystem, count: int, size: int, bytes_per_s: float) -> float:
    """Let one actor send large messages to another host, and be asked at home meanwhile; how long all took to arrive.

    Fails unless they arrive in order, and unless whoever asks the sender is answered while they are on their way.
    """
    with other_host("127.0.0.6", KEY) as (_, flooder), Forwarder(flooder, "127.0.0.10", bytes_per_s) as line:
        sender, begun, answers = system.createActor(Flooder), time.monotonic(), 0
        system.tell(sender, ("flood large", line.address, count, size))
        while (arrived := system.ask(flooder, "counted", TIMEOUT_S))[0] < count:
            assert system.ask(sender, "counted", TIMEOUT_S) == (0, 0)
            answers += 1
            time.sleep(0.01)
        assert arrived == (count, 0)
        assert answers > count  # a sender that was held up would have answered about once per message
        return time.monotonic() - begun


def test_replies_that_take_much_longer_than_the_time_without_progress_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen over a line that carries one in a sixth of a second; the sender is there for others all the while."""
    monkeypatch.setattr(hosts, "STALL_TIMEOUT_S", 1.0)  # a system that is started now has it from us
    with running_system(addresses=[HERE], key=KEY) as started:
        assert send_over_a_slow_line(started, 16, 64 << 10, 0.35e6) > 2.0


@pytest.mark.slow
def test_megabyte_replies_arrive_over_a_line_that_carries_one_in_three_seconds(system: OwnedSystem) -> None:
    """16 of 1 MiB over 0.35 MB/s, with the limits as they are: 48 s, of which none is without progress."""
    assert send_over_a_slow_line(system, 16, 1 << 20, 0.35e6) > 40.0


def test_a_peer_that_cannot_be_reached_holds_up_nobody_and_its_messages_fail(
    system: OwnedSystem, remote: tuple[ActorAddress, ActorAddress], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends to it, however much, is answered by others as ever; in the end it is told that nothing arrived."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.8", 0))
        silent.listen(0)
        fillers = [socket.socket() for _ in range(4)]  # the kernel drops who comes after these
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        cut_off = ActorAddress(HostAddress("127.0.0.8", silent.getsockname()[1], "token"))
        flooder = system.createActor(Flooder)
        system.tell(flooder, ("flood", cut_off, 1500, False))
        begun = time.monotonic()
        assert system.ask(flooder, "counted", TIMEOUT_S) == (0, 0)
        assert time.monotonic() - begun < 5.0
        monkeypatch.setattr(hosts, "STALL_TIMEOUT_S", 1.0)
        assert system.ask(cut_off, "hello", 60) is None
        assert time.monotonic() - begun < 15.0
        for filler in fillers:
            filler.close()


def test_a_process_that_has_ended_is_found_out_at_once(
    system: OwnedSystem, remote: tuple[ActorAddress, ActorAddress]
) -> None:
    """Nobody is at its port, or somebody else is: the token in its address tells."""
    details: Any = remote[0].addressDetails
    for ip, port, token in (("127.0.0.7", 9, "any"), (THERE, details.sockname[1], "another")):
        begun = time.monotonic()
        assert system.ask(ActorAddress(HostAddress(ip, port, token)), "hello", TIMEOUT_S) is None
        assert time.monotonic() - begun < 5.0


def test_with_another_key_nothing_arrives(system: OwnedSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither way, and who sends is told."""
    monkeypatch.setattr(hosts, "STALL_TIMEOUT_S", 1.0)
    with other_host("127.0.0.5", secrets.token_bytes(32)) as (echo, _):
        begun = time.monotonic()
        assert system.ask(echo, "hello", 60) is None
        assert time.monotonic() - begun < 15.0


def test_members_of_a_convention_reach_each_other() -> None:
    """An actor is placed on the member that can have it, over TCP, by the leader's port alone."""
    port = 28100
    convention = {"Convention Address.IPv4": f"{HERE}:{port}"}
    text = (
        "import sys\n"
        "from client_replies.actors.thespian.system import running_system\n"
        f"capabilities = {{**{convention}, 'elsewhere': True}}\n"
        f"with running_system(capabilities=capabilities, addresses=['{THERE}'], key=bytes.fromhex('{KEY.hex()}')):\n"
        "    sys.stdin.read()\n"
    )
    with running_system(capabilities=convention, port=port, addresses=[HERE], key=KEY) as leader:
        member = subprocess.Popen([sys.executable, "-c", text], cwd=ROOT, stdin=subprocess.PIPE)
        placed: list[ActorAddress] = []

        def is_placed() -> bool:
            try:
                placed.append(leader.createActor(Elsewhere))
            except ActorSystemException:  # the member has not registered yet
                return False
            return True

        try:
            wait_until(is_placed, 60)
            assert placed[0].addressDetails.sockname[0] == THERE
            assert leader.ask(placed[0], "over there", TIMEOUT_S) == "over there"
        finally:
            member.communicate(timeout=30)


def test_members_of_a_convention_on_one_host_need_no_key() -> None:
    """And open no port: they are reached as every process of this host is."""
    convention = {"Convention Address.IPv4": "127.0.0.1:28110"}
    with (
        running_system(capabilities=convention, port=28110) as leader,
        running_system(capabilities={**convention, "elsewhere": True}) as member,
    ):
        placed: list[ActorAddress] = []

        def is_placed() -> bool:
            try:
                placed.append(leader.createActor(Elsewhere))
            except ActorSystemException:
                return False
            return True

        wait_until(is_placed, 60)
        assert leader.ask(placed[0], "pid", TIMEOUT_S) in processes_of(member)
        assert listening([*processes_of(leader), *processes_of(member)]) == []
