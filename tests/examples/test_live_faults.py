"""A cluster that stays up, with faults that last: clients are served as long as a majority can serve them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.cluster.ledger import Result
from tests.examples.test_live import Terminal, transfer
from tests.processes import wait_until


@pytest.fixture
def terminal(request: pytest.FixtureRequest, free_of_new_processes: None, tmp_path: Path) -> Iterator[Terminal]:
    """A new cluster, of three replicas or as many as the test says."""
    terminal = Terminal(tmp_path / "ledger", "--replicas", str(getattr(request, "param", 3)))
    yield terminal
    assert terminal.interrupt() == 128 + signal.SIGINT, terminal.said()


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
