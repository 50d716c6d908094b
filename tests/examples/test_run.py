"""The whole example as a user runs it: `python -m examples.ledger run`, in processes, on real files."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.ledger.__main__ import SHIPPED, main
from examples.ledger.run_directory import PREFIX
from tests.processes import living_descendants, unclaimed_shared_memory, wait_until

ROOT = Path(__file__).resolve().parents[2]
ROWS = 150
RUN_TIMEOUT_S = 300.0  # a machine that is busy with other things is ten times slower


@pytest.fixture(autouse=True)
def nothing_is_left_behind(free_of_new_processes: None, tmp_path: Path) -> Iterator[None]:
    """After every test: no process, no shared memory without a process, no directory of a run that has ended."""
    before = unclaimed_shared_memory()
    yield
    # Others on this host make and remove theirs meanwhile.
    wait_until(lambda: unclaimed_shared_memory() <= before, what="the end of the shared memory")


@pytest.fixture
def transfers(tmp_path: Path) -> Path:
    """The first rows of the shipped file."""
    file = tmp_path / "transfers.csv"
    file.write_text("".join(SHIPPED.read_text().splitlines(keepends=True)[: ROWS + 1]))
    return file


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where runs put their directories."""
    place = tmp_path / "runs"
    place.mkdir()
    return place


def start(place: Path, transfers: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a run; its output goes to files, which an orphan could not keep from ending."""
    out = (place.parent / "out").open("w")
    err = (place.parent / "err").open("w")
    command = [sys.executable, "-m", "examples.ledger", "run", "--directory", str(place)]
    with out, err:
        return subprocess.Popen(
            [*command, "--transfers", str(transfers), *arguments], cwd=ROOT, stdout=out, stderr=err, text=True
        )


def finish(place: Path, transfers: Path, *arguments: str) -> tuple[int, str, str]:
    """Run to the end: exit status, output, errors."""
    run = start(place, transfers, *arguments)
    try:
        status = run.wait(RUN_TIMEOUT_S)
    finally:
        run.kill()  # if it is late, the next test is not to suffer from it
        run.wait()
    return status, (place.parent / "out").read_text(), (place.parent / "err").read_text()


def test_a_run_through_bad_weather_and_damage_ends_with_everything_in_place(place: Path, transfers: Path) -> None:
    """Lost replies, doubled requests, damaged slots, a killed primary; the run's directory is gone at the end."""
    status, out, err = finish(place, transfers, "--json", "--damage", "5", "--duplicate-requests", "0.2", "--kill", "1")
    assert status == 0, out + err
    result = json.loads(out)
    assert result["verdict"] is True
    assert result["requests"] == ROWS
    assert {check["result"] for check in result["checks"]} == {"passed"}
    network = result["network"]
    # A slot that was damaged just before another became primary is repaired without anybody asking for it.
    assert network["slots_damaged"] == 5
    assert 3 <= network["slots_needed"] <= 5
    assert network["slots_repaired"] >= network["slots_needed"]
    cluster = result["cluster"]
    assert cluster["primaries_killed"] == 1
    assert cluster["restarts"] >= 1
    assert cluster["view_changes"] >= 1
    assert cluster["replies_unsent"] >= 1
    assert len(result["failover_ms"]) == 1
    for counter in ("replies_lost", "requests_doubled", "client_retries", "requests_repeated"):
        assert network[counter] > 0, counter
    assert "transfers" in err
    assert list(place.iterdir()) == []


@pytest.mark.slow
def test_a_run_in_fair_weather_reports_as_text(place: Path, transfers: Path) -> None:
    """Five replicas, one client, another seed, nothing damaged."""
    arguments = (
        "--replicas",
        "5",
        "--clients",
        "1",
        "--seed",
        "7",
        "--damage",
        "0",
        "--drop-replies",
        "0",
        "--kill",
        "0",
    )
    status, out, err = finish(place, transfers, *arguments)
    assert status == 0, out + err
    assert re.search(
        r"verdict: [78] of 10 checks passed, [23] not tried: .*0 slots damaged, .*0 primaries killed", out
    ), out
    assert "requests/s" in out
    assert "\x1b" not in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "broken"),
    [
        ("execute-twice", "each transfer executed once on every replica"),
        ("wrong-reply", "every repeated request answered with identical bytes"),
    ],
)
def test_a_planted_fault_turns_the_verdict_red(place: Path, transfers: Path, plant: str, broken: str) -> None:
    """The check that is about it is broken, and the exit status says so, also where nobody is killed."""
    status, out, err = finish(place, transfers, "--json", "--plant", plant, "--kill", "0")
    assert status == 1, out + err
    result = json.loads(out)
    assert result["verdict"] is False
    assert broken in [check["name"] for check in result["checks"] if check["result"] == "broken"]
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--clients", "0"), "found '0', expected a whole number from 1 to 64"),
        (("--clients", "many"), "found 'many', expected a whole number"),
        (("--replicas", "1"), "found '1', expected 3 or 5"),
        (("--seed", "-1"), "expected"),
        (("--drop-replies", "1.5"), "found '1.5', expected a probability from 0 to 0.9"),
        (("--duplicate-requests", "x"), "found 'x', expected a probability"),
        (("--damage", "100000"), "found '100000', expected a whole number from 0 to 1000"),
        (("--damage", "900"), "--damage: found 900, expected at most 150"),
        (("--kill", "21"), "found '21', expected a whole number from 0 to 20"),
        (("--plant", "bug"), "found 'bug', expected execute-twice or wrong-reply"),
        (("--transfers", "/nowhere.csv"), "/nowhere.csv: found No such file or directory, expected a readable CSV"),
        (("--directory", "/nowhere"), "--directory /nowhere: found no directory, expected one that exists"),
        (("--nonsense",), "unrecognized arguments"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(
    place: Path, transfers: Path, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, what was found and what was expected, before anything is started."""
    assert main(["run", "--directory", str(place), "--transfers", str(transfers), *arguments]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert "Traceback" not in err
    assert out == ""
    assert list(place.iterdir()) == []


def test_a_malformed_file_is_refused_before_anything_is_executed(place: Path, transfers: Path) -> None:
    """File, line and reason; no replica was started."""
    with transfers.open("a") as file:
        file.write("ada,ben,-1\n")
    status, out, err = finish(place, transfers)
    assert status == 2
    assert f"{transfers}, line {ROWS + 2}: found amount '-1', expected a whole number" in err
    assert out == ""


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--damage", "--kill"])
def test_more_faults_than_transfers_are_refused(place: Path, transfers: Path, option: str) -> None:
    """What was asked for cannot happen; the default fits any file."""
    transfers.write_text("from,to,amount\nequity,ada,5\n")
    status, out, err = finish(place, transfers, option, "2")
    assert (status, out) == (2, "")
    assert f"{option}: found 2, expected at most 1, the number of transfers" in err


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_a_short_file_runs_with_the_defaults(place: Path, transfers: Path, rows: int) -> None:
    """As many faults are planned as fit, and a check that saw nothing is no broken one."""
    transfers.write_text("".join(transfers.read_text().splitlines(keepends=True)[: rows + 1]))
    status, out, err = finish(place, transfers)
    assert status == 0, out + err
    tried = re.search(r"verdict: ([0-9]+) of 10 checks passed(?:, ([0-9]+) not tried: \S.*)?$", out, re.MULTILINE)
    assert tried is not None, out
    assert int(tried[1]) + int(tried[2] or 0) == 10
    assert ("no session had two rows" in out) == (rows < 9)


@pytest.mark.slow
def test_totals_never_fall_when_replicas_die_and_the_last_line_is_the_report(place: Path, transfers: Path) -> None:
    """Progress counts over all lives of the replicas, and shows what the report says."""
    status, out, err = finish(place, transfers, "--json", "--kill", "2", "--drop-replies", "0.3")
    assert status == 0, out + err
    lines = re.findall(r"lost (\d+) replies, retried (\d+), damaged (\d+), repaired (\d+)", err)
    shown = [tuple(map(int, line)) for line in lines]
    assert err.count("exited; restarting") == 2
    for before, after in itertools.pairwise(shown):
        assert all(old <= new for old, new in zip(before, after, strict=True)), (before, after)
    network = json.loads(out)["network"]
    keys = ("replies_lost", "client_retries", "slots_damaged", "slots_repaired")
    assert shown[-1] == tuple(network[key] for key in keys)
    assert network["slots_damaged"] == 5
    assert network["replies_lost"] >= 20


def has_progressed(place: Path) -> bool:
    """Say whether the run has sent transfers."""
    return "transfers  lost" in (place.parent / "out").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(place: Path, transfers: Path, signum: signal.Signals) -> None:
    """In the middle of the work: exit status as for the signal, no traceback, no directory."""
    run = start(place, SHIPPED)
    wait_until(lambda: has_progressed(place), 60.0, "the first progress")
    run.send_signal(signum)
    assert run.wait(30.0) == 128 + signum
    assert list(place.iterdir()) == []
    assert "Traceback" not in (place.parent / "err").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("after_processes", [1, 3, 6, 12])
def test_a_run_that_is_interrupted_while_it_starts_leaves_nothing(
    place: Path, transfers: Path, after_processes: int
) -> None:
    """At different stages of the start, told by how many processes there are."""
    before = living_descendants()
    run = start(place, SHIPPED)
    wait_until(lambda: len(living_descendants() - before) >= after_processes, 60.0, "the processes")
    wait_until(lambda: any(place.iterdir()) or run.poll() is not None, 60.0, "the run's directory")
    run.send_signal(signal.SIGINT)
    assert run.wait(30.0) == 128 + signal.SIGINT
    assert list(place.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("after_processes", [1, 2, 4, 8, 12])
def test_a_killed_run_leaves_no_process_and_the_next_run_removes_its_files(
    place: Path, transfers: Path, after_processes: int
) -> None:
    """`kill -9` of the script: the kernel ends every member; files go with the next run there."""
    before = living_descendants()
    run = start(place, SHIPPED)
    wait_until(lambda: len(living_descendants() - before) >= after_processes, 60.0, "the processes")
    wait_until(lambda: any(place.iterdir()), 60.0, "the run's directory")
    run.kill()
    run.wait(10.0)
    wait_until(lambda: living_descendants() <= before, 10.0, "the end of all members")
    left = list(place.iterdir())
    assert all(directory.name.startswith(PREFIX) for directory in left)
    if after_processes == 12:
        status, out, err = finish(place, transfers, "--damage", "1")
        assert status == 0, out + err
        assert list(place.iterdir()) == []


@pytest.mark.slow
def test_runs_beside_each_other_do_not_meet(place: Path, transfers: Path) -> None:
    """Each has its own system, port, directory; neither removes the other's."""
    first = start(place, transfers, "--damage", "1")
    wait_until(lambda: any(place.iterdir()), 60.0, "the first run's directory")
    second = start(place, transfers, "--damage", "1", "--seed", "5")
    assert (first.wait(RUN_TIMEOUT_S), second.wait(RUN_TIMEOUT_S)) == (0, 0)
    assert os.listdir(place) == []
