"""The drill's clients: what their records have, and what is no answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_replies.cluster.door.frames import Frame, Reason

from examples.ledger.clients import DrillClients
from examples.ledger.evidence import read_record
from examples.ledger.ledger import Outcome, Result, Transfer
from tests.cluster.scripted_server import ScriptedServer, Step
from tests.cluster.stand_in import CLUSTER
from tests.cluster.test_cluster_client import another_reply, refuse, wrong_bytes
from tests.processes import wait_until

ROWS = tuple(Transfer(row, "equity", "ada", 5) for row in (1, 2, 3))


def executed(row: int) -> Step:
    """Answer with the result of the row."""
    return another_reply(body=Result(row, row, Outcome.DONE).encode())


def lost(server: ScriptedServer, line: socket.socket, frame: Frame) -> None:
    """Execute the request, and say that its reply is lost."""
    server.stand_in.handle(frame)
    refuse(Reason.REPLY_LOST)(server, line, frame)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """Give a server that follows its script."""
    server = ScriptedServer()
    yield server
    server.close()


def clients_at(server: ScriptedServer, record: Path, *, repeats: float = 0.0) -> DrillClients:
    """One session with the rows, at work."""
    clients = DrillClients(server.address, cluster=CLUSTER, rows={0: ROWS}, rate=0.0, repeats=repeats, seed=1)
    clients.start(lambda session: record)
    return clients


def test_a_record_has_the_client_and_all_that_it_got(server: ScriptedServer, tmp_path: Path) -> None:
    """Its number, each answer with its bytes, also of one that it asked for again; and the reply that is lost."""
    server.script = [ScriptedServer.serve, executed(1), executed(1), lost, executed(3), executed(3)]
    clients = clients_at(server, tmp_path / "record", repeats=1.0)
    wait_until(lambda: clients.finished, 20.0, "the answers")
    clients.close()
    assert (clients.failure, clients.done) == ("", 3)
    client, answers = read_record(tmp_path / "record")
    assert {frame.client for frame in server.requests} == {client}
    assert [(answer.kind, answer.request, answer.row) for answer in answers] == [
        ("FIRST", 1, 1),
        ("REPEATED", 1, 0),
        ("LOST", 2, 2),
        ("FIRST", 3, 3),
        ("REPEATED", 3, 0),
    ]
    assert Result.decode(answers[3].data[256:]).row == 3
    counts = clients.counts()
    assert (counts["results_done"], counts["repeats"], counts["replies_lost_everywhere"]) == (2, 2, 1)


def test_an_answer_that_is_no_reply_to_the_request_is_counted_and_not_taken(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """A damaged one, and one to something else under the request's number: the verdict is told of both."""
    other = another_reply(request_checksum=b"another request!")
    server.script = [ScriptedServer.serve, wrong_bytes, other, executed(1), executed(2), executed(3)]
    clients = clients_at(server, tmp_path / "record")
    wait_until(lambda: clients.finished, 20.0, "the answers")
    clients.close()
    _client, answers = read_record(tmp_path / "record")
    assert [(answer.row, answer.tries) for answer in answers] == [(1, 3), (2, 1), (3, 1)]
    assert (clients.counts()["answers_malformed"], clients.counts()["retries"]) == (2, 2)


def test_a_session_that_is_over_says_so(server: ScriptedServer, tmp_path: Path) -> None:
    """The run cannot go on without its answers; one that was closed from here is no failure."""
    server.script = [ScriptedServer.serve, executed(1), refuse(Reason.NO_SESSION)]
    clients = clients_at(server, tmp_path / "evicted")
    wait_until(lambda: clients.finished, 20.0, "the end of the session")
    clients.close()
    assert clients.failure.startswith("session 0: SessionEvicted")
    assert clients.done == 1
    server.script = [ScriptedServer.serve, executed(1), *[lambda *_: None] * 100]
    closed = clients_at(server, tmp_path / "closed")
    wait_until(lambda: closed.done == 1, 20.0, "an answer")
    closed.close()
    assert (closed.failure, closed.finished) == ("", True)
