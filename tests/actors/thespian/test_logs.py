"""Log lines of several processes in one file, and of loggers that are older than the process."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from thespian.actors import Actor, ActorAddress, PoisonMessage

from client_replies.actors.thespian import logs
from client_replies.actors.thespian.logs import configure_logging, get_logger
from client_replies.actors.thespian.system import running_system

# Made at import: before any configuration, and before any actor's process.
log = get_logger("tests")


class Talker(Actor):
    """Logs what it is told through a logger of its module, or raises."""

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
        """Log, and answer when it is done."""
        if isinstance(msg, int):
            for number in range(msg):
                log.info("told", number=number, text="x" * 500)
            self.send(sender, os.getpid())
        elif msg == "raise":
            raise ValueError("on purpose")


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """Send log lines to a file for the length of a test."""
    path = tmp_path / "log"
    configure_logging(str(path))
    yield path
    configure_logging(None, logging.WARNING)


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Read the lines, each of which is whole."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_of_several_processes_reach_one_file_whole(log_file: Path) -> None:
    """Three actors log at once; no line is torn or lost, and each says who wrote it."""
    with running_system() as system:
        talkers = [system.createActor(Talker) for _ in range(3)]
        for talker in talkers:
            system.tell(talker, 200)
        pids = {system.listen(10) for _ in talkers}
    told = [line for line in lines_of(log_file) if line["event"] == "told"]
    assert {line["pid"] for line in told} == pids
    assert len(pids) == 3
    for pid in pids:
        assert [line["number"] for line in told if line["pid"] == pid] == list(range(200))
    assert told[0]["level"] == "info"
    assert told[0]["component"] == "tests"


def test_what_thespian_reports_becomes_the_same_kind_of_line(log_file: Path) -> None:
    """Its record of an exception in a handler is kept, with the traceback."""
    with running_system() as system:
        assert isinstance(system.ask(system.createActor(Talker), "raise", 10), PoisonMessage)
    reported = [line for line in lines_of(log_file) if line["component"] == "thespian"]
    assert any("on purpose" in json.dumps(line) for line in reported)


def test_the_level_of_now_decides(log_file: Path) -> None:
    """A logger that is older than the configuration follows it."""
    configure_logging(str(log_file), logging.WARNING)
    log.info("unheard")
    log.warning("heard")
    assert [line["event"] for line in lines_of(log_file)] == ["heard"]


def test_without_configuration_warnings_go_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """A library is quiet until something is wrong."""
    configure_logging(None, logging.WARNING)
    log.info("unheard")
    log.warning("heard", text="\n\ud800")
    output = capfd.readouterr()
    assert output.out == ""
    assert json.loads(output.err)["event"] == "heard"
    assert output.err.count("\n") == 1


def test_a_line_that_cannot_be_written_is_counted_and_harms_nobody(tmp_path: Path) -> None:
    """A full disk or a missing directory must not reach a handler as an exception."""
    dropped = logs._output.lines_dropped
    try:
        configure_logging(str(tmp_path / "missing" / "log"))
        log.warning("lost")
        configure_logging("/dev/full")
        log.warning("lost")
    finally:
        configure_logging(None, logging.WARNING)
    assert logs._output.lines_dropped == dropped + 2
