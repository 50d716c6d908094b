"""A cluster that stays up, with faults that last: clients are served as long as a majority can serve them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_replies.cluster.client import RequestTimeout

from examples.ledger.ledger import Result
from tests.examples.test_live import Terminal, transfer
from tests.processes import wait_until

NO_FAULTS: dict[str, object] = {"partitions": [], "blocked": [], "drop_replies": {}}


@pytest.fixture
def terminal(request: pytest.FixtureRequest, free_of_new_processes: None, tmp_path: Path) -> Iterator[Terminal]:
    """A new cluster, of three replicas or as many as the test says."""
    terminal = Terminal(tmp_path / "ledger", "--replicas", str(getattr(request, "param", 3)))
    yield terminal
    assert terminal.interrupt() == 128 + signal.SIGINT, terminal.said()


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [3, 5], indirect=True)
def test_a_primary_that_is_cut_off_is_left_by_the_clients(terminal: Terminal) -> None:
    """In a fresh cluster, where the others have never heard of the gateway; also of the gateway's next life."""
    with terminal.client(20.0) as client:
        terminal.hurt("partition", replicas=["primary"])
        with client.session() as session:
            assert Result.decode(transfer(session, 1).body).target_balance == 1
            terminal.hurt("kill", who="gateway")
            for amount in (2, 3):
                assert Result.decode(transfer(session, amount).body).target_balance == amount * (amount + 1) // 2
        with client.session() as session:
            assert Result.decode(transfer(session, 4).body).target_balance == 10
            terminal.hurt("heal")
            wait_until(terminal.is_whole, 30.0, "whole replicas")
            assert Result.decode(transfer(session, 5).body).target_balance == 15
            assert session.repeat().repeated


@pytest.mark.slow
def test_a_fault_that_is_injected_ends_no_other(terminal: Terminal) -> None:
    """Lost replies, a blocked client and two partitions, one after the other; `heal` ends them all."""
    with terminal.client(20.0) as client, client.session() as session:
        transfer(session, 1)
        assert terminal.status()["faults"] == NO_FAULTS
        primary = str(terminal.primary()["name"])
        first, second = (str(one["name"]) for one in terminal.replicas() if one["name"] != primary)
        terminal.hurt("drop-replies", count=3)
        terminal.hurt("block", client="f0")
        terminal.hurt("partition", replicas=[first])
        answer = transfer(session, 2)
        assert (answer.attempts > 3, answer.repeated) == (True, True), "the block ended the loss of replies"
        terminal.hurt("block", client=f"{session.client_id:x}")
        terminal.hurt("drop-replies", count=5)
        terminal.hurt("partition", replicas=[second])
        with pytest.raises(RequestTimeout):
            transfer(session, 3, timeout=1.0)
        names = ["replica-0", "replica-1", "replica-2"]
        assert terminal.status()["faults"] == {
            "partitions": [
                {"replicas": [one], "others": [name for name in names if name != one]} for one in (first, second)
            ],
            "blocked": sorted(["f0", f"{session.client_id:x}"]),
            "drop_replies": dict.fromkeys(names, 5),
        }
        terminal.hurt("heal")
        assert terminal.status()["faults"] == NO_FAULTS
        assert Result.decode(session.resume().body).target_balance == 6
        wait_until(terminal.is_whole, 30.0, "whole replicas")


@pytest.mark.slow
def test_replicas_that_start_again_have_the_present_faults(terminal: Terminal) -> None:
    """All of them at once: the client is blocked and the partition stands, until it is healed."""
    with terminal.client(20.0) as client, client.session() as session:
        transfer(session, 1)
        wait_until(terminal.is_whole, 30.0, "whole replicas")
        terminal.hurt("block", client=f"{session.client_id:x}")
        terminal.hurt("partition", replicas=["2"])
        before = terminal.replicas()
        terminal.hurt("kill", who="all")

        def are_there_again() -> bool:
            now = terminal.replicas()
            roles = [one.get("role") for one in now[:2]]
            restarted = all(new["pid"] not in (0, old["pid"]) for new, old in zip(now, before, strict=True))
            return restarted and sorted(map(str, roles)) == ["backup", "primary"]

        wait_until(are_there_again, 30.0, "the next life of all, and a primary on the larger side")
        with pytest.raises(RequestTimeout):
            transfer(session, 2, timeout=2.0)
        with client.session() as other:
            assert Result.decode(transfer(other, 4).body).target_balance == 7
        left, right, alone = terminal.replicas()
        assert max(left["executed"], right["executed"]) > alone["executed"], "the partition was forgotten"
        terminal.hurt("heal")
        assert session.resume().repeated
        wait_until(terminal.is_whole, 30.0, "whole replicas")
