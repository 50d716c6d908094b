"""An owner with a log of its own: executed once, original replies, recovery in the right order, repair from a peer."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from thespian.actors import ActorAddress, ActorExitRequest

from client_replies import running_system
from client_replies.actors.thespian.system import OwnedSystem, processes_of
from client_replies.storage.layout import Layout

from tests.actors.owner.counter_owner import Add, CounterOwner, Peers, Start, Started, Told, body_of

TIMEOUT = 30.0
CLIENT = 0xC


def started(system: OwnedSystem, directory: Path, replica: int = 0) -> tuple[ActorAddress, Started]:
    """Spawn an owner; give its address and what it said when it had recovered."""
    owner = system.createActor(CounterOwner)
    answer = system.ask(owner, Start(str(directory), replica), TIMEOUT)
    assert isinstance(answer, Started), answer
    return owner, answer


def ask(system: OwnedSystem, owner: ActorAddress, request: int, amount: int = 1) -> Told:
    """Send a request of the one client, whose session began at op 1."""
    answer = system.ask(owner, Add(CLIENT, 1 if request else 0, request, amount), TIMEOUT)
    assert isinstance(answer, Told), answer
    return answer


def test_requests_are_executed_once_whatever_is_killed(tmp_path: Path) -> None:
    """All processes of the system are killed; the next owner answers the last request with the same bytes."""
    with running_system() as system:
        owner, _ = started(system, tmp_path)
        ask(system, owner, 0)
        for request in range(1, 26):
            assert body_of(ask(system, owner, request, request)).startswith("the counter is ")
        last = ask(system, owner, 25)
        assert ask(system, owner, 24).reply == "OlderRequest"
        for pid in processes_of(system):
            os.kill(pid, signal.SIGKILL)
    with running_system() as system:
        owner, answer = started(system, tmp_path)
        assert answer.value == sum(range(1, 26))
        assert ask(system, owner, 25, 25) == last
        assert body_of(ask(system, owner, 26, 5)).startswith("the counter is 330 ")


@pytest.mark.slow
def test_an_owner_that_exits_and_comes_back_goes_on(tmp_path: Path) -> None:
    """In the same system, beside its old component, which gives up the file."""
    with running_system() as system:
        owner, _ = started(system, tmp_path)
        ask(system, owner, 0)
        first = ask(system, owner, 1)
        system.tell(owner, ActorExitRequest())
        while True:
            owner = system.createActor(CounterOwner)
            answer = system.ask(owner, Start(str(tmp_path)), TIMEOUT)
            if isinstance(answer, Started):
                break
            assert isinstance(answer, Told)
            assert "FILE_LOCKED" in str(answer.reply)  # the old one is not gone yet
        assert ask(system, owner, 1) == first


def owners_with_a_reply(system: OwnedSystem, directory: Path) -> tuple[list[ActorAddress], Told]:
    """Spawn two owners with the same log, who know each other; give their addresses and the reply that both hold."""
    owners = [started(system, directory, replica) for replica in range(2)]
    for owner, _ in owners:
        ask(system, owner, 0)
        last = ask(system, owner, 1)
    for replica, (owner, _) in enumerate(owners):
        other = owners[1 - replica][1].replies
        assert other is not None
        system.tell(owner, Peers({1 - replica: other}))
    return [owner for owner, _ in owners], last


def damage(system: OwnedSystem, owner: ActorAddress, path: Path) -> int:
    """Damage the slot once it is written; give the offset of the damage."""
    offset = Layout.of_shape(8, 1024 * 1024).slot_offset(0)
    while not path.read_bytes()[offset:].lstrip(b"\0"):
        ask(system, owner, 1)  # not written yet
    with path.open("r+b") as file:
        file.seek(offset + 300)
        file.write(b"rot")
    return offset + 300


@pytest.mark.slow
def test_a_damaged_slot_is_repaired_from_a_peer_before_the_client_is_answered(tmp_path: Path) -> None:
    """The client's retry waits for the repair and gets the original reply."""
    with running_system() as system:
        (owner, _), last = owners_with_a_reply(system, tmp_path)
        path = tmp_path / "r0.replies"
        at = damage(system, owner, path)
        assert ask(system, owner, 1) == last
        assert path.read_bytes()[at:][:3] != b"rot"


@pytest.mark.slow
def test_a_client_whose_reply_no_replica_holds_is_told_that_it_is_lost(tmp_path: Path) -> None:
    """Also while its retry waits for the repair."""
    with running_system() as system:
        owners, _ = owners_with_a_reply(system, tmp_path)
        for replica, owner in enumerate(owners):
            damage(system, owner, tmp_path / f"r{replica}.replies")
        assert ask(system, owners[0], 1) == Told("LOST")
