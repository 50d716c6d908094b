"""A cluster that stays up, as a user at two terminals has it; and the cases that the component exists for."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from client_replies.cluster.client import Answer, AnswerLost, ClusterClient, RequestTimeout, RetryPolicy, Session
from client_replies.cluster.host.cluster_directory import CLUSTER_FILE, ClusterUnusable, ask, read_running
from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import HEADER_SIZE, packed_client_request, packed_size
from client_replies.storage.layout import Layout

from examples.ledger.config import CLIENTS_MAX, MESSAGE_SIZE_MAX
from examples.ledger.exit_status import ExitStatus
from examples.ledger.ledger import OPERATION_BALANCE, OPERATION_TRANSFER, Outcome, Result, Transfer
from tests.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0


class Terminal:
    """The terminal in which the cluster runs."""

    def __init__(self, place: Path, *options: str) -> None:
        self.place = place
        self.out = place.parent / f"{place.name}.out"
        with self.out.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "examples.ledger", "start", str(place), *options],
                cwd=ROOT,
                stdout=out,
                stderr=out,
            )
        wait_until(lambda: "ready" in self.said() or self.process.poll() is not None, START_TIMEOUT_S, "the start")
        assert self.process.poll() is None, self.said()

    def said(self) -> str:
        """What it printed so far."""
        return self.out.read_text()

    def interrupt(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30.0)

    def other(self, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        """The other terminal: run a command, `DIR` being the second word, and type something into it."""
        command = [sys.executable, "-m", "examples.ledger", words[0], str(self.place), *words[1:]]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90.0, input=typed)

    def status(self) -> dict[str, Any]:
        """How the cluster is."""
        return ask(self.place, {"ask": "status"})

    def replicas(self) -> list[dict[str, Any]]:
        """How its replicas are."""
        return list(self.status()["replicas"])

    def hurt(self, action: str, **how: object) -> str:
        """Do it harm."""
        return str(ask(self.place, {"ask": action, **how})["done"])

    def primary(self) -> dict[str, Any]:
        """The replica that is primary."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = [one for one in self.replicas() if one.get("role") == "primary"]
            return len(found) == 1

        wait_until(is_there, 30.0, "a primary")
        return found[0]

    def is_whole(self) -> bool:
        """True if every replica is up, in the same view, and has executed everything."""
        replicas = self.replicas()
        return (
            all(one["state"] == "up" and one.get("sync") == 0 and one.get("role") != "non-voting" for one in replicas)
            and len({(one["view"], one["executed"], one["op"]) for one in replicas}) == 1
            and not any(one["slots"].get("faulty") for one in replicas)
        )

    def client(self, timeout: float = 30.0) -> ClusterClient:
        """The client library, at the gateway."""
        running = read_running(self.place)
        host, port = running["gateway"]
        return ClusterClient([(host, port)], cluster=int(running["cluster"], 16), policy=RetryPolicy(timeout_s=timeout))


@pytest.fixture
def terminal(free_of_new_processes: None, tmp_path: Path) -> Iterator[Terminal]:
    """A new cluster of three replicas."""
    terminal = Terminal(tmp_path / "ledger")
    yield terminal
    if terminal.process.poll() is None:
        assert terminal.interrupt() == 128 + signal.SIGINT, terminal.said()


def test_two_terminals_kill_the_primary_and_lose_a_disk(terminal: Terminal) -> None:
    """The README's transcript: send, kill the primary by its process id, send on, lose a directory, watch it return."""
    done = terminal.other("client", "transfer", "equity", "ada", "100")
    assert "done; equity has -100, ada has 100" in done.stdout, done.stderr
    assert "first reply" in done.stdout

    primary = terminal.primary()
    done = terminal.other("hurt", "kill", str(primary["pid"]))
    assert f"killed process {primary['pid']}" in done.stdout, done.stderr
    done = terminal.other("client", "--timeout", "20", "transfer", "equity", "ada", "50")
    assert "done; equity has -150, ada has 150" in done.stdout, done.stderr
    assert terminal.primary()["name"] != primary["name"]
    assert f"{primary['name']} exited; restarting" in terminal.said()

    wait_until(terminal.is_whole, 30.0, "three whole replicas")
    done = terminal.other("hurt", "--json", "lose-disk", "2")
    assert json.loads(done.stdout) == {"done": "replica-2 was killed, and its directory removed"}, done.stderr
    done = terminal.other("client", "balance", "ada", "--json")
    assert json.loads(done.stdout)["source_balance"] == 150, done.stderr
    wait_until(terminal.is_whole, 30.0, "three whole replicas")
    done = terminal.other("status")
    assert (done.returncode, done.stdout.count(" up ")) == (0, 3), done.stdout
    assert (terminal.place / "replica-2" / "log.sqlite").exists()

    assert terminal.interrupt() == 128 + signal.SIGINT
    assert "Traceback" not in terminal.said()
    again = Terminal(terminal.place)
    done = again.other("client", "balance", "ada")
    assert "ada has 150" in done.stdout, done.stderr
    assert again.interrupt() == 128 + signal.SIGINT


@pytest.mark.slow
def test_what_a_user_does_wrong_is_said_with_what_to_do(terminal: Terminal, tmp_path: Path) -> None:
    """In one line, with exit status 2, and nothing is changed."""
    for words, said in (
        (("client", "transfer", "ada"), "expected a request such as transfer equity ada 100"),
        (("client", "transfer", "ada", "ben", "-5"), "found '-5', expected a whole number"),
        (("client", "balance", "x" * 30), "of 30 bytes, expected a name of at most 24 bytes, such as ada"),
        (("hurt", "frighten"), "hurt: found 'frighten', expected one of drop-replies, block, "),
        (("hurt", "kill", "1234567"), "is none of this cluster's"),
        (("hurt", "kill", "9" * 5000), ", expected `str` of length <= 64"),
        (("hurt", "kill", "9"), "process 9 is none of this cluster's"),
        (("hurt", "lose-disk", "9"), "replica: found '9', expected a number below 3, primary, backups or all"),
        (("hurt", "lose-disk", "all"), "lose-disk: found 'all', expected one replica, such as 2 or primary"),
        (("hurt", "partition", "all"), "partition: found all replicas, expected some of them, such as 0"),
        (("hurt", "corrupt-slot", "9", "0"), "expected a number below 3, primary, backups or all"),
        (("hurt", "corrupt-slot", "all", "5"), "slot 5 of replica-0 holds no reply"),
        (("hurt", "corrupt-slot", "all", "64"), "slot: found 64, expected `int` <= 63"),
        (("start",), "this cluster is up already"),
    ):
        done = terminal.other(*words)
        assert done.returncode == 2, (words, done)
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
    done = terminal.other("client", typed="balance equity\n\nbalance\n")
    assert (done.returncode, len(done.stdout.splitlines())) == (2, 1), done
    assert done.stderr.startswith("line 3: found 'balance', expected a request such as "), done
    done = terminal.other("hurt", "kill", "backups")
    assert done.stdout.count("with SIGKILL") == 2, done
    done = terminal.other("client", "transfer", "nobody", "ada", "1")
    assert (done.returncode, "unknown account" in done.stdout) == (ExitStatus.REFUSED, True), done
    with pytest.raises(ClusterUnusable, match="there is no cluster"):
        ask(tmp_path, {"ask": "status"})
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "letter").write_text("dear")
    command = [sys.executable, "-m", "examples.ledger", "start", str(strange)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60.0)
    assert done.returncode == 2
    assert "found letter, and no cluster" in done.stderr
    assert not (strange / CLUSTER_FILE).exists()


def restarted(terminal: Terminal) -> int:
    """How often replicas were started again."""
    return int(terminal.status()["restarts"])


@pytest.mark.slow
@pytest.mark.parametrize("stopped", ["both backups", "the primary and a backup"])
def test_a_lost_quorum_stops_progress_and_nothing_else(terminal: Terminal, stopped: str) -> None:
    """Two of three replicas stand still: clients are told, nothing is executed, and all goes on when they are back."""
    with terminal.client() as client, client.session() as session:
        transfer(session, 10)
        wait_until(terminal.is_whole, 30.0, "three whole replicas")
        primary = terminal.primary()
        backups = [one for one in terminal.replicas() if one["name"] != primary["name"]]
        victims = backups if stopped == "both backups" else [primary, backups[0]]
        (left,) = [one["name"] for one in (primary, *backups) if one not in victims]
        for one in victims:
            os.kill(one["pid"], signal.SIGSTOP)
        try:
            with pytest.raises(RequestTimeout, match="a quorum of the replicas may be missing"):
                transfer(session, 7, timeout=4.0)
            done = terminal.other("client", "transfer", "equity", "ada", "1000", "--timeout", "2")
            assert "a quorum of the replicas may be missing" in done.stderr, done
            assert done.returncode == ExitStatus.UNAVAILABLE
            status = terminal.status()
            assert status["quorum"] is False
            assert {one["name"] for one in status["replicas"] if one["state"] == "stopped"} == {
                one["name"] for one in victims
            }
            (one,) = [one for one in status["replicas"] if one["name"] == left]
            assert one["executed"] == primary["executed"], "something was executed without a quorum"
            for words in (("status",), ("status", "--json")):
                assert terminal.other(*words).returncode == ExitStatus.UNAVAILABLE
            assert "no quorum: nothing is executed" in terminal.other("status").stdout
        finally:
            for one in victims:
                os.kill(one["pid"], signal.SIGCONT)
        assert Result.decode(session.resume().body).target_balance == 17
        assert Result.decode(transfer(session, 3).body).target_balance == 20
        wait_until(terminal.is_whole, 30.0, "three whole replicas")


@pytest.mark.slow
def test_the_gateway_and_a_replica_that_end_together_are_both_there_again(terminal: Terminal) -> None:
    """Each is told of the other, although both start at the same time; the session goes on at the same address."""
    with terminal.client() as client, client.session() as session:
        for amount in (1, 2, 3):
            transfer(session, amount)
            before = restarted(terminal)
            terminal.hurt("kill", who="gateway")
            terminal.hurt("kill", who="primary")
            assert Result.decode(transfer(session, 10).body).target_balance == 11 * amount + amount * (amount - 1) // 2
            wait_until(lambda before=before: restarted(terminal) > before, 30.0, "the replica's next life")  # type: ignore[misc]
            wait_until(terminal.is_whole, 30.0, "three whole replicas")
    assert terminal.said().count("the gateway exited; restarting") == 3


@pytest.mark.slow
def test_a_replica_whose_log_is_garbage_comes_up_as_one_that_lost_its_disk(terminal: Terminal) -> None:
    """The others vote: what is damaged is set aside, unchanged, and the replica gets everything from them."""
    with terminal.client() as client, client.session() as session:
        transfer(session, 10)
    wait_until(terminal.is_whole, 30.0, "three whole replicas")
    assert terminal.interrupt() == 128 + signal.SIGINT
    (terminal.place / "replica-1" / "log.sqlite").write_bytes(b"garbage" * 1000)
    again = Terminal(terminal.place)
    assert "replica-1 is down: " in again.said()
    assert "ada has 10" in again.other("client", "balance", "ada").stdout
    wait_until(again.is_whole, 60.0, "three whole replicas")
    (aside,) = terminal.place.glob("replica-1.damaged-*")
    assert (aside / "log.sqlite").read_bytes() == b"garbage" * 1000
    assert again.interrupt() == 128 + signal.SIGINT


@pytest.mark.slow
def test_the_end_of_the_actor_system_is_said_and_the_cluster_starts_again(terminal: Terminal) -> None:
    """Every member ends with it. An exit status, one line, no traceback; nothing that was answered is lost."""
    assert "ada has 100" in terminal.other("client", "transfer", "equity", "ada", "100").stdout
    (admin,) = {psutil.Process(int(one["pid"])).ppid() for one in terminal.replicas()}
    os.kill(admin, signal.SIGKILL)
    assert terminal.process.wait(30.0) == ExitStatus.FAILED
    assert "the cluster failed: the actor system has ended" in terminal.said()
    assert "Traceback" not in terminal.said()
    again = Terminal(terminal.place)
    assert "ada has 100" in again.other("client", "balance", "ada").stdout
    assert again.interrupt() == 128 + signal.SIGINT


# The case that the component exists for.


def transfer(session: Session, amount: int, timeout: float | None = None) -> Answer:
    """Move something."""
    return session.request(OPERATION_TRANSFER, Transfer(0, "equity", "ada", amount).encode(), timeout=timeout)


def stored(terminal: Terminal, replica: str, client: int) -> bytes:
    """The reply of the client's session that is in the replica's file, damaged or not."""
    layout = Layout.of_shape(CLIENTS_MAX, MESSAGE_SIZE_MAX)
    data = (terminal.place / replica / "replies.data").read_bytes()
    for slot in range(CLIENTS_MAX):
        at = layout.slot_offset(slot)
        header = data[at : at + HEADER_SIZE]
        if packed_size(header) and packed_client_request(header)[0] == client:
            return data[at : at + packed_size(header)]
    return b""


def committed_and_unanswered(terminal: Terminal, session: Session) -> bytes:
    """Block the client's replies, and let its request commit; the original reply, from a backup's file."""
    terminal.hurt("block", client=f"{session.client_id:x}")
    with pytest.raises(RequestTimeout):
        transfer(session, 7, timeout=1.5)
    names = ["replica-0", "replica-1", "replica-2"]

    def is_everywhere() -> bool:
        found = [stored(terminal, name, session.client_id) for name in names]
        return all(found) and packed_client_request(found[0])[4] == session.request_number and len(set(found)) == 1

    wait_until(is_everywhere, 10.0, "the reply on all disks")
    return stored(terminal, "replica-2", session.client_id)


def was_original(answer: Answer, original: bytes) -> None:
    """The answer is the reply that was computed once, byte for byte."""
    assert answer.repeated
    assert answer.header.pack() + answer.body == original
    result = Result.decode(answer.body)
    assert (result.outcome, result.target_balance) == (Outcome.DONE, 17)


def corrupt(terminal: Terminal, session: Session, *replicas: str) -> None:
    """Corrupt the slot of the session on the disks of these replicas."""
    terminal.hurt("corrupt-slot", replicas=list(replicas), client=f"{session.client_id:x}")


@pytest.mark.slow
@pytest.mark.parametrize("kill_primary", [False, True])
def test_a_blocked_and_damaged_reply_comes_from_a_backup(terminal: Terminal, kill_primary: bool) -> None:
    """Committed, unanswered, its slot corrupted where it is to be read: the retry gets the original all the same."""
    with terminal.client() as client, client.session() as session:
        transfer(session, 10)
        original = committed_and_unanswered(terminal, session)
        assert Reply.unpack(original).header.client == session.client_id
        primary = int(terminal.primary()["name"][-1])
        corrupt(terminal, session, str(primary))
        if kill_primary:
            following = (primary + 1) % 3
            corrupt(terminal, session, str(following))
            terminal.hurt("kill", who=str(primary))
            wait_until(lambda: terminal.primary()["name"] == f"replica-{following}", 30.0, "the next primary")
        terminal.hurt("heal")
        was_original(session.resume(), original)
        assert "slot_faulty" in (terminal.place / "log.jsonl").read_text()
        balance = Result.decode(session.request(OPERATION_BALANCE, b"ada").body)
        assert balance.source_balance == 17


@pytest.mark.slow
def test_a_reply_that_is_damaged_everywhere_is_an_error_and_the_service_goes_on(terminal: Terminal) -> None:
    """The client is told that its request was executed and its reply is lost; it was executed once."""
    with terminal.client() as client, client.session() as session:
        transfer(session, 10)
        committed_and_unanswered(terminal, session)
        corrupt(terminal, session, "all")
        terminal.hurt("heal")
        with pytest.raises(AnswerLost):
            session.resume()
        wait_until(lambda: all(one["lost"] == 1 for one in terminal.replicas()), 30.0, "the loss to be known")
        assert [one["slots"]["faulty"] for one in terminal.replicas()] == [1, 1, 1]
        rows = re.findall(r"^replica-\d +\d+ +\d+ +0 +0 +0 +1 +\d+ +\d+$", terminal.other("status").stdout, re.M)
        assert len(rows) == 3, "none is faulty, one is lost"
        assert Result.decode(transfer(session, 3).body).target_balance == 20
