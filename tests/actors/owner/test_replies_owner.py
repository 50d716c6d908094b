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


@pytest.mark.slow
def test_a_damaged_slot_is_repaired_from_a_peer_before_the_client_is_answered(tmp_path: Path) -> None:
    """Two owners with the same log; the client's retry waits for the repair and gets the original reply."""
    with running_system() as system:
        owners = [started(system, tmp_path, replica) for replica in range(2)]
        for owner, _ in owners:
            ask(system, owner, 0)
            last = ask(system, owner, 1)
        for replica, (owner, _) in enumerate(owners):
            other = owners[1 - replica][1].replies
            assert other is not None
            system.tell(owner, Peers({1 - replica: other}))
        path = tmp_path / "r0.replies"
        layout = Layout.of_shape(8, 1024 * 1024)
        while not path.read_bytes()[layout.slot_offset(0) :].lstrip(b"\0"):
            ask(system, owners[0][0], 1)  # not written yet
        with path.open("r+b") as file:
            file.seek(layout.slot_offset(0) + 300)
            file.write(b"rot")
        assert ask(system, owners[0][0], 1) == last
        assert path.read_bytes()[layout.slot_offset(0) + 300 :][:3] != b"rot"
