"""What people see, on a terminal and elsewhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from examples.ledger.client_command import reply_line
from examples.ledger.report import verdict_lines
from examples.ledger.status import has_quorum, show_status, status_lines
from examples.ledger.terminal import ProgressLine, plain, show
from examples.ledger.verdict import Check, CheckResult

ROOT = Path(__file__).resolve().parents[2]
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
GREEN, YELLOW, BOLD_RED, HIDE_CURSOR, SHOW_CURSOR = "\x1b[32m", "\x1b[33m", "\x1b[1;31m", "\x1b[?25l", "\x1b[?25h"
REPLICA = {"name": "replica-0", "pid": 29905, "state": "up", "role": "primary", "view": 1, "op": 9, "commit": 9}
SLOTS = {"empty": 61, "durable": 1, "queued": 0, "writing": 0, "faulty": 2}
NORMAL = "in the view, with its log"
STATUS: dict[str, Any] = {
    "replicas": [
        {
            **REPLICA,
            "executed": 9,
            "checkpoint": 0,
            "slots": SLOTS,
            "lost": 1,
            "requests_waiting": 0,
            "status": NORMAL,
        },
        {"name": "replica-1", "pid": 0, "state": "down", "reason": "its data file is read-only"},
    ],
    "gateway": {"address": ["127.0.0.1", 38211], "pid": 29854, "connections": 0, "requests_waiting": 0, "restarts": 1},
    "restarts": 2,
    "quorum": False,
    "faults": {
        "partitions": [{"replicas": ["replica-0"], "others": ["replica-1"]}],
        "blocked": ["2fed"],
        "drop_replies": {"replica-0": 7},
    },
}
PLAIN_STATUS = """\
name       pid    state  role     view  op  commit  executed
replica-0  29905  up     primary  1     9   9       9
replica-1  0      down   -        -     -   -       -
reply slots  empty  durable  queued  writing  faulty  lost  checkpoint  waiting
replica-0    61     1        0       0        1       1     0           0
replica-1    -      -        -       -        -       -     -           -
gateway 127.0.0.1:38211, process 29854, 0 connections, 0 requests waiting
restarts since the start: 2 of replicas, 1 of the gateway
replica-1 is down: its data file is read-only
fault: replica-0 and replica-1 do not hear each other, until heal
fault: client 2fed gets no replies, until heal
fault: replica-0 loses its next 7 replies
no quorum: nothing is executed until 2 of 2 replicas follow one primary; requests wait
"""


class Tty(StringIO):
    """A terminal, as far as the example can tell."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that has colours, whatever the tests run in."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def print_status(out: StringIO) -> str:
    """What `status` prints."""
    show_status(STATUS, out)
    return out.getvalue()


def test_the_status_is_plain_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the library would take anything for a terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert print_status(StringIO()) == PLAIN_STATUS


def test_the_status_on_a_terminal_says_the_same_in_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """States and slots by how good they are; nothing is cut off, however narrow the terminal is."""
    monkeypatch.setenv("COLUMNS", "60")
    text = print_status(Tty())
    assert f"{GREEN}up" in text
    assert f"{GREEN}1" in text
    assert f"{YELLOW}1" in text
    assert f"{BOLD_RED}1" in text
    assert f"{BOLD_RED}no quorum" in text
    words = [line.split() for line in ESCAPE.sub("", text).splitlines() if not set(line) <= set(" ─")]
    assert words == [line.split() for line in PLAIN_STATUS.splitlines()]


@pytest.mark.parametrize("tty", [False, True])
def test_the_tables_of_the_status_fit_80_columns(tty: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to large numbers: a table that wraps cannot be read."""
    monkeypatch.setenv("COLUMNS", "80")
    slots = dict.fromkeys(("empty", "durable", "queued", "writing", "faulty"), 64)
    large = {"pid": 4_194_304, "view": 99_999, "checkpoint": 999_999_999, "requests_waiting": 1024, "lost": 64}
    ops = dict.fromkeys(("op", "commit", "executed"), 999_999_999)
    one = {"name": "replica-0", "state": "starting", "role": "non-voting", "status": NORMAL, "slots": slots}
    out = Tty() if tty else StringIO()
    show_status({**STATUS, "replicas": [{**one, **large, **ops}]}, out)
    lines = ESCAPE.sub("", out.getvalue()).splitlines()
    tables = lines[: next(number for number, line in enumerate(lines) if line.startswith("gateway"))]
    assert len(tables) == (6 if tty else 4)
    assert max(map(len, tables)) <= 80, out.getvalue()


def follower(view: int, role: str = "backup", state: str = "up", status: str = NORMAL) -> dict[str, Any]:
    """What a replica says of itself."""
    return {"state": state, "role": role, "view": view, "status": status}


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        ([follower(1, "primary"), follower(1), follower(1)], True),
        ([follower(1, "primary"), follower(1), {"state": "starting"}], True),
        ([follower(1, "primary"), {"state": "starting"}, {"state": "down"}], False),
        ([follower(1, "primary"), follower(1, state="stopped"), {"state": "silent"}], False),
        ([follower(1), follower(1), {"state": "starting"}], False),  # the primary of the view is not up
        ([follower(1, "primary"), follower(2), follower(2)], False),  # cut off, and the next is not up yet
        ([follower(1, "primary"), follower(2), follower(2, "primary")], True),
        ([follower(1, "primary"), follower(1, "non-voting"), {"state": "down"}], False),
        ([follower(1, "primary"), follower(1, status="has left all earlier views"), {"state": "down"}], False),
        ([follower(3, "primary"), follower(3), follower(3), {"state": "down"}, {"state": "down"}], True),
        ([follower(3, "primary"), follower(3), follower(3, "non-voting"), follower(2), {"state": "down"}], False),
    ],
)
def test_a_quorum_is_a_majority_that_follows_one_primary(replicas: list[dict[str, Any]], expected: bool) -> None:
    """Processes that are up and follow nobody are none: nothing is executed by them."""
    assert has_quorum(replicas) is expected


def test_a_replica_that_is_in_no_view_is_named() -> None:
    """It is up, and executes nothing; and a component that has stopped says why."""
    changing = {**STATUS["replicas"][0], "status": "has left all earlier views", "stopped": "IO_ERROR: no space"}
    lines = list(map(plain, status_lines({**STATUS, "replicas": [changing], "quorum": True, "faults": {}})))
    assert lines[2:] == [
        "replica-0 has left all earlier views",
        "the replies of replica-0 are stopped: IO_ERROR: no space",
    ]


@pytest.mark.parametrize("why", ["NO_COLOR", "TERM"])
def test_colours_can_be_done_without(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No colours are wanted, or the terminal has none."""
    if why == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.setenv("TERM", "dumb")
    out = Tty()
    checks = [Check("one", CheckResult.PASSED, "fine"), Check("two", CheckResult.BROKEN, "[bad]")]
    show(verdict_lines(checks), out)
    text = out.getvalue()
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", text), "a colour"
    assert (
        ESCAPE.sub("", text) == "\n  ok  one (fine)\n  BROKEN  two ([bad])\nverdict: 1 of 2 checks passed, 1 broken\n"
    )
    if why != "NO_COLOR":
        assert "\x1b" not in text
        assert print_status(Tty()) == PLAIN_STATUS


def test_the_verdict_is_green_or_red() -> None:
    """Each check, and all of it."""
    out = Tty()
    show(verdict_lines([Check("one", CheckResult.PASSED, "fine")]), out)
    assert out.getvalue().count(GREEN) == 2
    assert BOLD_RED not in out.getvalue()
    show(verdict_lines([Check("two", CheckResult.BROKEN, "not fine")]), out)
    assert out.getvalue().count(BOLD_RED) == 2


def test_a_check_that_was_not_tried_is_yellow_and_the_verdict_green() -> None:
    """It is neither good nor bad; a fault that was asked for and not done makes the verdict red."""
    out = Tty()
    show(verdict_lines([Check("one", CheckResult.NOT_TRIED, "nothing to see")]), out)
    assert f"{YELLOW}not tried" in out.getvalue()
    assert f"{GREEN}0 of 1 checks passed, 1 not tried: nothing to see" in out.getvalue()
    show(verdict_lines([], ["--kill 3: 1 of 3 happened"]), out)
    assert out.getvalue().count(BOLD_RED) == 2


def test_a_reply_is_one_line_with_its_outcome_in_colour() -> None:
    """A long line is left to the terminal to wrap, so that it can be copied whole."""
    found = {
        "request": "transfer equity ada 100",
        "outcome": "done",
        "source_balance": -100,
        "target_balance": 100,
        "op": 2,
        "reply": "repeated",
        "attempts": 2,
        "milliseconds": 8.9,
        "client": "2fed73215061f23fab4dcd681797d763",
    }
    text = (
        "transfer equity ada 100: done; equity has -100, ada has 100 "
        "(op 2, repeated reply after 2 attempts, 9 ms, client 2fed73215061f23fab4dcd681797d763)\n"
    )
    out, tty = StringIO(), Tty()
    show([reply_line(found)], out)
    show([reply_line(found)], tty)
    assert out.getvalue() == text
    assert ESCAPE.sub("", tty.getvalue()) == text
    assert f"{GREEN}done" in tty.getvalue()


def test_progress_is_plain_lines_without_a_terminal() -> None:
    """No control characters, and not more than about one line a second."""
    out = StringIO()
    with ProgressLine(out) as progress:
        for done in range(50):
            progress.show(done, 50, "lost 0 replies")
        progress.show(50, 50, "lost 0 replies", last=True)
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert "50/50 transfers" in lines[-1]
    assert "\r" not in out.getvalue()


def test_progress_is_one_line_on_a_terminal() -> None:
    """It is drawn anew, a line that stays does not mix with it, and the cursor is given back at the end."""
    out = Tty()
    progress = ProgressLine(out)
    progress.show(1, 2, "lost 0 replies")
    assert HIDE_CURSOR in out.getvalue()
    progress.say("something")
    progress.show(2, 2, "lost 1 replies", last=True)
    text = out.getvalue()
    assert text.count("\n") == 2
    assert re.search(r"^something$", ESCAPE.sub("", text).replace("\r", "\n"), re.MULTILINE)
    assert text.rindex(SHOW_CURSOR) > text.rindex("2/2 transfers  lost 1 replies")


def test_the_cursor_is_given_back_when_the_run_is_interrupted() -> None:
    """Whatever ends it."""
    out = Tty()

    def work() -> None:
        with ProgressLine(out) as progress:
            progress.show(1, 2, "lost 0 replies")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert out.getvalue().rindex(SHOW_CURSOR) > out.getvalue().rindex(HIDE_CURSOR)


@pytest.mark.slow
def test_a_run_on_a_real_terminal_shows_progress_and_a_green_verdict(
    free_of_new_processes: None, tmp_path: Path
) -> None:
    """From the first line to the verdict, and the terminal is as it was."""
    transfers = tmp_path / "transfers.csv"
    transfers.write_text("from,to,amount\n" + "equity,ada,5\n" * 20)
    ours, theirs = pty.openpty()
    words = ["run", "--transfers", str(transfers), "--damage", "0", "--kill", "0", "--directory", str(tmp_path)]
    run = subprocess.Popen([sys.executable, "-m", "examples.ledger", *words], cwd=ROOT, stdout=theirs)
    os.close(theirs)
    text = _everything(ours)
    assert run.wait(60.0) == 0, text
    assert re.search(f"{re.escape(GREEN)}[0-9]+ of 10 checks passed, [0-9]+ not tried", text)
    assert re.search(r"━ +\d+\.\d s  20/20 transfers", ESCAPE.sub("", text))
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) == 1


def _everything(descriptor: int) -> str:
    """What is written to the terminal until nobody has it open any more."""
    data = bytearray()
    with open(descriptor, "rb", buffering=0) as reader:
        while True:
            try:
                part = reader.read(4096)
            except OSError:  # Linux says so when the last writer has closed it
                return data.decode()
            data += part or b""
