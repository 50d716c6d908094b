"""A service of one's own: a state machine, and nothing of the ledger or its drill."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client_replies.cluster import ClusterClient, Command, MembersFailed, StateMachine, running_service
from client_replies.cluster.client import ClusterUnavailable, RequestTimeout
from client_replies.cluster.host.cluster_directory import ClusterUnusable

from examples.counter import ADD, Counter, count

ROOT = Path(__file__).resolve().parents[2]


class Moody(Counter):
    """A counter that fails on one number, and on no other."""

    def execute(self, command: Command) -> bytes:
        """Add, or fail."""
        if command.body == b"13":
            raise RuntimeError("not this one")
        return super().execute(command)


class Unmade(Counter):
    """A counter that cannot be made."""

    def __init__(self) -> None:
        raise OSError("no file of mine")


def test_the_counter_executes_once_and_repeats_the_original_reply_after_its_primary_was_killed(tmp_path: Path) -> None:
    """The example as it stands, in fewer than sixty lines."""
    assert count(str(tmp_path)) == ["40", "42", "42", "50"]
    assert len((ROOT / "examples" / "counter.py").read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.slow
def test_a_service_resumes_where_it_was(tmp_path: Path) -> None:
    """With the same cluster number, so that its clients find it again."""
    with running_service(Counter, tmp_path) as service, service.client() as client, client.session() as session:
        assert session.request(ADD, b"5", timeout=30.0).body == b"5"
        cluster = service.cluster
    with running_service("examples.counter:Counter", tmp_path) as service:
        assert service.cluster == cluster
        with service.client() as client, client.session() as session:
            assert session.request(ADD, b"1", timeout=30.0).body == b"6"
        with pytest.raises(ValueError, match="found no process of replica 7"):
            service.kill(7)


@pytest.mark.slow
def test_a_machine_that_raises_stops_its_replicas_and_says_why(tmp_path: Path) -> None:
    """On every replica, and with the command; what came before is kept."""
    said: list[str] = []
    with running_service(Moody, tmp_path, say=said.append) as service, service.client() as client:
        with client.session() as session:
            assert session.request(ADD, b"5", timeout=30.0).body == b"5"
            with pytest.raises((RequestTimeout, ClusterUnavailable)):
                session.request(ADD, b"13", timeout=3.0)
        assert any("the state machine raised RuntimeError('not this one')" in text for text in said), said


@pytest.mark.parametrize("name", ["nix:Counter", "examples.counter:Nix", "examples.counter:ADD", "counter", ""])
def test_a_machine_that_there_is_not_is_refused_before_anything_is_started(tmp_path: Path, name: str) -> None:
    """The directory stays as it was."""
    with pytest.raises(ValueError, match="expected"), running_service(name, tmp_path):
        pytest.fail("it was started")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    """A machine that cannot be made, an address of another host, a directory in use."""
    with pytest.raises(MembersFailed, match="no file of mine"), running_service(Unmade, tmp_path / "unmade"):
        pytest.fail("it was started")
    with pytest.raises(ClusterUnusable, match="HOST:PORT"), running_service(Counter, tmp_path, listen="192.0.2.1:1"):
        pytest.fail("it was started")
    with (
        running_service(Counter, tmp_path / "counter"),
        pytest.raises(ClusterUnusable, match="up already"),
        running_service(Counter, tmp_path / "counter"),
    ):
        pytest.fail("it was started")


@pytest.mark.slow
def test_serve_says_where_it_listens_and_ends_by_an_interrupt(tmp_path: Path) -> None:
    """The command, as it is installed; and a client of another process."""
    command = [
        sys.executable,
        "-m",
        "client_replies",
        "serve",
        "--directory",
        str(tmp_path),
        "examples.counter:Counter",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(2)]
        cluster = re.search(r"cluster ([0-9a-f]+)", said[0])
        address = re.search(r"listening for clients on (\S+);", said[1])
        assert cluster is not None
        assert address is not None
        with ClusterClient([address[1]], cluster=int(cluster[1], 16)) as client, client.session() as session:
            assert session.request(ADD, b"7", timeout=30.0).body == b"7"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 0


def test_a_state_machine_must_be_whole() -> None:
    """Each of its three methods is the author's."""
    with pytest.raises(TypeError, match="abstract"):
        StateMachine()  # type: ignore[abstract]
