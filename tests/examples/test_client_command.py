"""The command `client` as a process, at a terminal and at pipes, with a gateway that follows a script."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client_replies.cluster.door.frames import OPERATION_CLOSE, Frame
from client_replies.cluster.host.cluster_directory import RUNNING_FILE, Shape
from client_replies.cluster.state_machine import Command

from examples.ledger.exit_status import ExitStatus
from examples.ledger.ledger_machine import LedgerMachine
from tests.cluster.scripted_server import ScriptedServer, drop, lose
from tests.cluster.stand_in import CLUSTER, StandIn, StandInBehaves
from tests.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60.0


class LedgerStandIn(StandIn):
    """A ledger of one process behind the gateway."""

    def __init__(self) -> None:
        super().__init__(StandInBehaves())
        self.machine = LedgerMachine()

    def result(self, frame: Frame) -> bytes:
        """Execute a request on the ledger."""
        return self.machine.execute(Command(frame.operation, frame.body, 0, frame.client))

    @property
    def balances(self) -> dict[str, int]:
        """What was executed comes to this."""
        return self.machine.ledger.balances()


class Service:
    """A cluster's directory, and a gateway."""

    def __init__(self, place: Path) -> None:
        self.ledger = LedgerStandIn()
        self.server = ScriptedServer(self.ledger)
        self.place = place
        Shape(cluster=CLUSTER, replicas=3, formed=frozenset(range(3))).write(place)
        running = {"pid": os.getpid(), "gateway": self.server.address, "cluster": f"{CLUSTER:x}"}
        (place / RUNNING_FILE).write_text(json.dumps(running))

    def command(self, *words: str) -> list[str]:
        """The command line of a client."""
        return [sys.executable, "-m", "examples.ledger", "client", str(self.place), *words]

    def client(self, *words: str, typed: bytes = b"", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a client to its end."""
        done = subprocess.run(
            self.command(*words),
            cwd=ROOT,
            input=typed,
            env={**os.environ, **environment},
            capture_output=True,
            timeout=TIMEOUT_S,
        )
        assert len(done.stderr.splitlines()) <= 1, done
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def is_closed(self) -> bool:
        """True if every session was closed in the cluster."""
        return not len(self.ledger.sessions) and self.server.requests[-1].operation == OPERATION_CLOSE


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service that serves."""
    service = Service(tmp_path)
    yield service
    service.server.close()


@contextlib.contextmanager
def interrupted(service: Service, *words: str, signum: int) -> Iterator[subprocess.Popen[str]]:
    """A client that gets the signal at the end of the block."""
    client = subprocess.Popen(
        service.command(*words),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield client
        client.send_signal(signum)
        client.wait(TIMEOUT_S)
    finally:
        client.kill()


# Names and lines.


@pytest.mark.slow
def test_a_name_with_blanks_is_one_account_from_everywhere(service: Service, tmp_path: Path) -> None:
    """As an argument, in a line, in a CSV; and the reply speaks of that account."""
    done = service.client("transfer", "equity", "ada lovelace", "5")
    assert "transfer equity 'ada lovelace' 5: done; equity has -5, ada lovelace has 5 " in done.stdout, done
    done = service.client(typed=b"transfer equity 'ada lovelace' 6\r\n\nbalance \"ada lovelace\"\n")
    assert "balance 'ada lovelace': done; ada lovelace has 11 " in done.stdout.splitlines()[1], done
    file = tmp_path / "my rows.csv"
    file.write_bytes(b'\xef\xbb\xbffrom,to,amount\r\nequity,"ada lovelace",7\r\n')
    done = service.client("file", str(file), "--json")
    assert json.loads(done.stdout)["target_balance"] == 18, done
    assert service.ledger.balances == {"ada lovelace": 18, "equity": -18}


@pytest.mark.slow
@pytest.mark.parametrize("words", [("balance", " "), ("balance", ""), ("transfer", "equity", "ada ", "5")])
def test_a_name_that_cannot_be_is_refused_before_anything_is_sent(service: Service, words: tuple[str, ...]) -> None:
    """With exit status 2."""
    done = service.client(*words)
    assert done.returncode == ExitStatus.BAD_INPUT, done
    assert done.stderr.startswith("account: found '"), done
    assert service.server.requests == []


@pytest.mark.slow
def test_a_name_is_the_same_bytes_in_every_locale(service: Service) -> None:
    """Also where Python cannot decode the argument, and cannot print it."""
    ascii_only: dict[str, Any] = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    environments: tuple[dict[str, Any], ...] = ({}, ascii_only, {"PYTHONIOENCODING": "ascii"})
    for environment in environments:
        for done in (
            service.client("transfer", "equity", "größe", "5", **environment),
            service.client(typed="transfer equity größe 5".encode(), **environment),
        ):
            assert done.returncode == 0, done
            assert "done; equity has" in done.stdout, done
    assert service.ledger.balances == {"größe": 30, "equity": -30}


# Exit statuses.


@pytest.mark.slow
def test_a_refused_request_has_an_exit_status_of_its_own(service: Service) -> None:
    """Refused by the ledger: 1; all others of the same command were done. No balance is said of an unknown account."""
    for words, said in (
        (("transfer", "nobody", "ada", "5"), "transfer nobody ada 5: unknown account (op "),
        (("transfer", "equity", "ada", "0"), "transfer equity ada 0: amount invalid (op "),
        (("balance", "nobody"), "balance nobody: unknown account (op "),
    ):
        done = service.client(*words)
        assert (done.returncode, done.stderr) == (ExitStatus.REFUSED, ""), done
        assert done.stdout.startswith(said), done
    done = service.client("--json", "balance", "nobody")
    assert json.loads(done.stdout)["source_balance"] is None
    done = service.client(typed=b"transfer nobody ada 5\ntransfer equity ada 5\n")
    assert (done.returncode, len(done.stdout.splitlines())) == (ExitStatus.REFUSED, 2), done


def test_a_request_without_a_reply_is_said_to_be_open(service: Service) -> None:
    """Exit status 3: it may be executed or not, and how to find out."""
    service.server.script = [ScriptedServer.serve, *[lose] * 100]
    done = service.client("--timeout", "0.5", "transfer", "equity", "ada", "5")
    assert done.returncode == ExitStatus.UNAVAILABLE, done
    assert done.stderr.startswith("RequestTimeout: no answer to request 1 after "), done
    assert "'transfer equity ada 5' may be executed or not: compare the balances with 'client " in done.stderr, done


def test_a_session_that_cannot_be_registered_is_said_to_have_done_nothing(service: Service) -> None:
    """Exit status 3, and nothing is open."""
    service.server.script = [drop] * 100
    done = service.client("--timeout", "0.5", "transfer", "equity", "ada", "5")
    assert done.returncode == ExitStatus.UNAVAILABLE, done
    assert done.stderr.endswith("; nothing was executed\n"), done


def test_a_lost_reply_is_said_to_be_executed(service: Service) -> None:
    """Exit status 4, as for a reply that cannot be printed."""
    service.ledger.behaviour = StandInBehaves(lose_stored=True)
    service.server.script = [ScriptedServer.serve, lose]
    done = service.client("transfer", "equity", "ada", "5")
    assert done.returncode == ExitStatus.OUTPUT_LOST, done
    assert done.stderr == "AnswerLost: request 1 was executed, and its reply is lost\n"
    assert service.is_closed()


def test_a_reply_that_is_no_ledgers_is_one_line(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another service is behind the gateway."""
    monkeypatch.setattr(service.ledger, "result", lambda frame: b"hello")
    done = service.client("balance", "ada")
    assert done.returncode == ExitStatus.FAILED, done
    assert done.stderr.startswith("NotALedger: request 1 was executed, and its reply is no ledger's: 5 bytes"), done


# What is read, and how it ends.


def test_a_bad_line_from_a_pipe_ends_the_command_and_closes_the_session(service: Service) -> None:
    """By its number, with what was executed before it; what follows may depend on it, and is not executed."""
    done = service.client(typed=b"transfer equity ada 5\n\ntransfer equity ada\ntransfer equity ada 7\n")
    assert done.returncode == ExitStatus.BAD_INPUT, done
    assert done.stderr.startswith("line 3: found 'transfer equity ada', expected a request such as "), done
    assert done.stderr.endswith("; 1 request was executed before it, and nothing from this line on\n"), done
    assert service.ledger.balances == {"ada": 5, "equity": -5}
    assert service.is_closed()


def test_a_reader_that_goes_away_ends_the_command_before_the_next_request(service: Service) -> None:
    """What nobody would see is not sent; what was executed is said."""
    client = subprocess.Popen(
        service.command(), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert client.stdin is not None
    assert client.stdout is not None
    assert client.stderr is not None
    client.stdin.write("transfer equity ada 5\n")
    client.stdin.flush()
    assert "done" in client.stdout.readline()
    client.stdout.close()
    client.stdin.write("transfer equity ada 7\n")
    client.stdin.close()
    said = client.stderr.read()
    assert client.wait(TIMEOUT_S) == ExitStatus.OUTPUT_LOST
    client.stderr.close()
    assert said == (
        "standard output: its reader has gone; 1 request was executed before it, "
        "and 'transfer equity ada 7' was not sent\n"
    )
    assert service.ledger.balances == {"ada": 5, "equity": -5}
    assert service.is_closed()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_a_request_is_in_flight_says_that_its_outcome_is_unknown(
    service: Service, signum: signal.Signals
) -> None:
    """And not that anything was stopped."""
    service.server.script = [ScriptedServer.serve, *[lose] * 100]
    with interrupted(service, "transfer", "equity", "ada", "5", signum=signum) as client:
        wait_until(lambda: len(service.server.requests) > 1, TIMEOUT_S, "the request")
    out, said = client.communicate()
    assert client.returncode == 128 + signum, said
    word = "interrupted" if signum == signal.SIGINT else "terminated"
    assert said.startswith(f"{word}; 'transfer equity ada 5' may be executed or not: compare the balances with "), said
    assert out == ""


def test_an_interrupt_while_nothing_is_in_flight_closes_the_session(service: Service) -> None:
    """Nothing is unknown, so nothing is said to be; the reply may be told twice if it was being printed."""
    with interrupted(service, signum=signal.SIGINT) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write("transfer equity ada 5\n")
        client.stdin.flush()
        assert "done" in client.stdout.readline()
    assert client.returncode == ExitStatus.INTERRUPTED
    said = client.communicate()[1]
    assert said == "interrupted\n" or said.startswith("interrupted; executed before that, once: "), said
    assert service.is_closed()


# At a terminal.


def read_until(descriptor: int, *ends: str) -> str:
    """What the terminal shows, up to one of these."""
    data = bytearray()
    while not any(end in data.decode(errors="replace") for end in ends):
        try:
            part = os.read(descriptor, 4096)
        except OSError as error:
            if error.errno != errno.EIO:  # which is how Linux says that the last writer has closed it
                raise
            break
        if not part:
            break
        data += part
    return data.decode()


@pytest.mark.parametrize("end", ["\x04", "\x03"], ids=["ctrl-d", "ctrl-c"])
def test_a_typo_at_a_terminal_is_said_and_the_next_line_is_read(service: Service, end: str) -> None:
    """In the same session, which is closed at the end, whatever ends it. Even a terminal of no known kind will do."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "no-such-terminal", "COLUMNS": "\N{SUPERSCRIPT TWO}"}
    # A session of its own: Ctrl-C reaches who reads from this terminal.
    client = subprocess.Popen(
        ["setsid", "--ctty", *service.command()], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    try:
        os.write(ours, b"transfer equity ada 5\n")
        read_until(ours, "client ")
        os.write(ours, b"trnasfer equity ada 6\n")
        assert "line 2: found 'trnasfer equity ada 6', expected a request such as" in read_until(ours, "transfers.csv")
        os.write(ours, b"file /nowhere.csv\nbalance ada\n")
        assert "balance ada: done; ada has 5 (op 3, " in read_until(ours, "client ")
        os.write(ours, end.encode())
        said = read_until(ours, "never")
        status = client.wait(TIMEOUT_S)
    finally:
        os.close(ours)
        client.kill()
        client.wait()
    assert status == (ExitStatus.DONE if end == "\x04" else ExitStatus.INTERRUPTED), said
    assert ("interrupted" in said) == (end == "\x03")
    assert len({frame.client for frame in service.server.requests}) == 1
    assert service.is_closed()
