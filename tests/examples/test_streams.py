"""Every sub-command under every state of the standard descriptors and in odd environments: real processes, one cluster.

Whatever the state: an exit status of the table, at most one line on stderr, no traceback, and nothing done twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from client_replies.cluster.client import ClusterClient
from client_replies.cluster.host.cluster_directory import ClusterUnusable, ask, read_running

from examples.ledger.exit_status import ExitStatus
from examples.ledger.ledger import OPERATION_BALANCE, Outcome, Result
from tests.processes import living_descendants, wait_until

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120.0
AMOUNT = 5
DIR, ACCOUNT = "DIR", "ACCOUNT"

# How a shell starts the command, and whether it is certain from the beginning that standard output takes nothing.
READER_GONE = "READER_GONE"
STREAMS = {
    "": False,
    "<&-": False,
    ">&-": True,
    "2>&-": False,
    "<&- >&- 2>&-": True,
    "1</dev/null": True,
    ">/dev/full": False,
    "2>/dev/full": False,
    ">/dev/full 2>/dev/full": False,
    READER_GONE: True,
}
COMMANDS = {
    "transfer": (("client", DIR, "transfer", "equity", ACCOUNT, str(AMOUNT)), ""),
    "typed transfer": (("client", DIR), f"transfer equity {ACCOUNT} {AMOUNT}\n"),
    "misused": (("client", DIR, "transfer", "\udcff", ACCOUNT, "x" * 100_000), ""),
    "status": (("status", DIR), ""),
    "hurt": (("hurt", DIR, "drop-replies", "0"), ""),
    "help": (("--help",), ""),
}
# Each is what is set and, as None, what is not.
ENVIRONMENTS: tuple[dict[str, str | None], ...] = (
    {},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "utf-16"},
    {"LANG": "xx_XX.nonsense", "LC_ALL": None},
    {"HOME": None, "PATH": None, "USER": None, "LANG": None, "TERM": None},
    {"TERM": "", "COLUMNS": "-1", "LINES": "none", "NO_COLOR": ""},
    {"TERM": "no-such", "COLUMNS": "9" * 400, "FORCE_COLOR": "1"},
    {"TMPDIR": "/nowhere", "HOME": "/nowhere"},
)


@dataclass(frozen=True)
class Case:
    """A command in a state."""

    command: str
    streams: str
    environment: int
    account: str

    def expected(self) -> ExitStatus:
        """The exit status."""
        if STREAMS[self.streams] or (">/dev/full" in self.streams.split() and self.command != "misused"):
            return ExitStatus.OUTPUT_LOST
        if self.command == "misused" or (self.command == "typed transfer" and "<&-" in self.streams):
            return ExitStatus.BAD_INPUT
        return ExitStatus.DONE

    def executes(self) -> bool:
        """True if its transfer is executed."""
        can_be_asked = not STREAMS[self.streams] and (self.command == "transfer" or "<&-" not in self.streams)
        return can_be_asked and self.command in ("transfer", "typed transfer")


# Every command meets every state of the streams, and every environment.
CASES = [
    Case(command, streams, (row + column) % len(ENVIRONMENTS), f"case-{row}-{column}")
    for row, command in enumerate(COMMANDS)
    for column, streams in enumerate(STREAMS)
]


def shell(words: tuple[str, ...], streams: str) -> list[str]:
    """A shell that starts the example with its streams like this."""
    redirections = "" if streams == READER_GONE else streams
    return ["/bin/bash", "-c", f'exec "$@" {redirections}', "bash", sys.executable, "-m", "examples.ledger", *words]


def run(case: Case, place: Path) -> tuple[int, bytes, bytes]:
    """Run the case: exit status, output, errors."""
    words, typed = COMMANDS[case.command]
    words = tuple(word.replace(DIR, str(place)).replace(ACCOUNT, case.account) for word in words)
    changes = ENVIRONMENTS[case.environment]
    environment = {name: value for name, value in {**os.environ, **changes}.items() if value is not None}
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            shell(words, case.streams),
            cwd=ROOT,
            env=environment,
            input=typed.replace(ACCOUNT, case.account).encode(),
            stdout=writing if case.streams == READER_GONE else subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_S,
        )
    finally:
        os.close(writing)
    return done.returncode, done.stdout or b"", done.stderr


def is_up(place: Path) -> bool:
    """Say whether the cluster says where it is."""
    try:
        return bool(read_running(place))
    except ClusterUnusable:
        return False


def wait_for(place: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the cluster is up."""
    wait_until(lambda: is_up(place) or process.poll() is not None, TIMEOUT_S, "the start")
    assert process.poll() is None
    ask(place, {"ask": "status"})


@pytest.fixture
def cluster(free_of_new_processes: None, tmp_path: Path) -> Iterator[Path]:
    """A cluster, started like a careless daemon: with no standard descriptors at all."""
    place = tmp_path / "ledger"
    process = subprocess.Popen(shell(("start", str(place)), "<&- >&- 2>&-"), cwd=ROOT)
    try:
        wait_for(place, process)
        yield place
        assert process.poll() is None
        process.terminate()
        assert process.wait(TIMEOUT_S) == ExitStatus.TERMINATED
    finally:
        process.kill()


@pytest.mark.slow
def test_every_command_in_every_state_ends_with_one_line_and_does_its_work_at_most_once(cluster: Path) -> None:
    """And exactly once if it says so."""
    with ThreadPoolExecutor(4) as pool:
        results = dict(zip(CASES, pool.map(lambda case: run(case, cluster), CASES), strict=True))
    for case, (status, out, err) in results.items():
        what = (case, status, out, err)
        assert status == case.expected(), what
        assert b"Traceback" not in out + err, what
        assert err.count(b"\n".decode().encode("utf-16-le" if b"\0" in err else "ascii")) <= 1, what
        if status != ExitStatus.DONE and "2>" not in case.streams:
            assert err, what
        if status == ExitStatus.DONE and ">" not in case.streams.replace("2>", ""):
            assert out, what
        if case.executes() and case.streams == ">/dev/full":
            assert b"executed before that, once" in err.replace(b"\0", b""), what
    running = read_running(cluster)
    host, port = running["gateway"]
    with ClusterClient([(host, port)], cluster=int(running["cluster"], 16)) as client, client.session() as session:
        for case in CASES:
            result = Result.decode(session.request(OPERATION_BALANCE, case.account.encode()).body)
            found = result.source_balance if result.outcome is Outcome.DONE else None
            assert found == (AMOUNT if case.executes() else None), (case, result, results[case])


@pytest.mark.slow
def test_a_cluster_that_was_started_without_standard_descriptors_gives_their_numbers_to_nothing(cluster: Path) -> None:
    """A message that a library writes to stderr must not end up in a file of a replica."""
    pids = living_descendants() - {os.getpid()}
    assert len(pids) > 10
    for pid in pids:
        for descriptor in (0, 1, 2):
            link = Path("/proc", str(pid), "fd", str(descriptor))
            assert not link.exists() or os.readlink(link) == "/dev/null", (pid, descriptor)


@pytest.mark.slow
def test_a_cluster_whose_output_nobody_reads_any_more_goes_on(free_of_new_processes: None, tmp_path: Path) -> None:
    """It has more to say when a replica is started again, and nobody to say it to."""
    place = tmp_path / "ledger"
    process = subprocess.Popen(shell(("start", str(place)), ""), cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert b"a cluster of 3 replicas" in process.stdout.readline()
        process.stdout.close()
        wait_for(place, process)
        ask(place, {"ask": "kill", "who": "0"})
        wait_until(lambda: ask(place, {"ask": "status"})["restarts"] == 1, TIMEOUT_S, "the replica's next life")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == ExitStatus.TERMINATED
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("streams", "status", "said"),
    [
        (">&-", ExitStatus.OUTPUT_LOST, "standard output: it is closed, or open for reading only; nothing was done\n"),
        (
            ">/dev/full",
            ExitStatus.OUTPUT_LOST,
            "standard output: No space left on device; everything was stopped, and the directory removed\n",
        ),
        ("<&- 2>&-", ExitStatus.DONE, ""),
    ],
)
def test_a_run_whose_verdict_could_not_be_shown_is_ended(
    free_of_new_processes: None, tmp_path: Path, streams: str, status: ExitStatus, said: str
) -> None:
    """Before it starts, or at its first line; it leaves nothing. Without stderr it has all that it needs."""
    file = tmp_path / "rows.csv"
    file.write_text("from,to,amount\nequity,ada,5\nequity,ben,6\nada,ben,1\n")
    place = tmp_path / "runs"
    place.mkdir()
    words = (
        "run",
        "--transfers",
        str(file),
        "--directory",
        str(place),
        "--damage",
        "0",
        "--kill",
        "0",
        "--clients",
        "1",
    )
    done = subprocess.run(shell(words, streams), cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stderr) == (status, said), done
    assert ("verdict" in done.stdout) == (status == ExitStatus.DONE)
    assert list(place.iterdir()) == []


def test_no_module_but_the_terminal_writes_to_the_standard_streams() -> None:
    """So that what holds for one line of output holds for all."""
    found = []
    for path in sorted((ROOT / "examples" / "ledger").rglob("*.py")):
        if path.name != "terminal.py":
            lines = path.read_text(encoding="utf-8").splitlines()
            found += [(path.name, line) for line in lines if " print(" in line or ".write(sys." in line]
    assert found == []
