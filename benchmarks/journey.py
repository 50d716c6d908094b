"""One request's journey: which process did what, when and for how long, between a session's request and its reply.

    python -m benchmarks.journey [--seconds 5] [--directory DIR]

It runs the row `cluster` with one session and writes down when each handler of an actor, each write of a log, and each
call of the client library began and ended; the processes of a host have one clock. Of the requests the fastest tenth
is shown, as medians: what else the machine did meanwhile is mostly not in them.

Limits: a record costs some microseconds per handler, which are in the figures. What a handler does after it has sent
its message is in its time too, and holds nobody up but its own process.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from thespian.actors import WatchMessage

from client_replies.actors.thespian.component_actor import ComponentActor
from client_replies.cluster.client.call import Call
from client_replies.cluster.door.gateway import GatewayActor
from client_replies.cluster.door.gateway_port import GatewayPort
from client_replies.cluster.log.log_store import SqliteLogStore
from client_replies.cluster.log.log_writer import LogWriter
from client_replies.cluster.replica.network import Envelope

from .cluster import measure_ours
from examples.ledger.ledger_replica import LedgerReplica

CLIENT = "client"
RECORDS_AT_ONCE = 64
SHARE_SHOWN = 0.1  # of the requests: the fastest
SHARE_OF_STEP = 0.5  # of those that are shown, so that a step counts as part of the journey


@dataclass(frozen=True, slots=True)
class Step:
    """A handler, a write of a log or a call of the client: in which process, about what, from when to when."""

    pid: int
    actor: str
    what: str
    begun: float
    ended: float


class Recorder:
    """The records of one process, in a file of its own."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._pid = 0
        self._lines: list[str] = []
        self.notes: list[str] = []

    def record(self, actor: str, what: str, begun: float) -> None:
        """It has ended just now."""
        ended = time.monotonic()
        if self._pid != os.getpid():
            self._pid, self._lines = os.getpid(), []
        self._lines.append(f"{self._pid}\t{actor}\t{what}\t{begun!r}\t{ended!r}\n")
        if len(self._lines) >= RECORDS_AT_ONCE:
            lines, self._lines = self._lines, []
            with Path(self._directory, f"{self._pid}.steps").open("a") as file:
                file.writelines(lines)


def _what(message: object) -> str:
    if isinstance(message, Envelope):
        return ", ".join(dict.fromkeys(type(item).__name__ for item in message.items)) or "nothing but what was taken"
    return type(message).__name__


def install(directory: str) -> None:
    """Write down what this process and those that it forks from now on do."""
    recorder = Recorder(directory)
    receive, write, call = ComponentActor.receiveMessage, SqliteLogStore.write, Call.run

    def received(self: ComponentActor, message: object, sender: Any) -> Any:
        begun = time.monotonic()
        recorder.notes.clear()
        try:
            return receive(self, message, sender)
        finally:
            came = [] if recorder.notes and isinstance(message, WatchMessage) else [_what(message)]
            recorder.record(type(self).__name__, ", ".join(dict.fromkeys([*came, *recorder.notes])), begun)

    def noted(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            recorder.notes.append(what)
            return function(*arguments, **named)

        return called

    def asked(self: Call, *arguments: Any) -> Any:
        begun = time.monotonic()
        answer = call(self, *arguments)
        recorder.record(CLIENT, "", begun)
        return answer

    def written(self: SqliteLogStore, *writes: Any) -> None:
        begun = time.monotonic()
        write(self, *writes)
        recorder.record("LedgerReplica's log", "write and sync", begun)

    ComponentActor.receiveMessage = received  # type: ignore[method-assign]
    LedgerReplica.tick = noted("tick", LedgerReplica.tick)  # type: ignore[method-assign]
    GatewayActor._take = noted("a client's request", GatewayActor._take)  # type: ignore[method-assign]
    GatewayPort.reply = noted("commit and answer", GatewayPort.reply)  # type: ignore[method-assign]
    Call.run = asked  # type: ignore[assignment, method-assign]
    LogWriter._done = noted("its log is written", LogWriter._done)  # type: ignore[method-assign]
    SqliteLogStore.write = written  # type: ignore[method-assign]


def steps(directory: Path) -> list[Step]:
    """All that was written down, in the order in which it began."""
    found = []
    for file in directory.glob("*.steps"):
        for line in file.read_text().splitlines():
            fields = line.split("\t")
            if len(fields) == 5:
                found.append(Step(int(fields[0]), fields[1], fields[2], float(fields[3]), float(fields[4])))
    return sorted(found, key=lambda step: step.begun)


def journeys(found: Sequence[Step]) -> Iterator[list[Step]]:
    """The steps of each request: the client's call, and what began before it ended."""
    journey: list[Step] = []
    for step in found:
        if step.actor == CLIENT:
            if journey:
                yield journey
            journey = [step]
        elif journey and step.begun < journey[0].ended:
            journey.append(step)


def table(found: Sequence[Step]) -> list[str]:
    """The fastest requests' steps, as medians."""
    fastest = sorted(journeys(found), key=lambda journey: _seconds(journey[0]))
    shown = fastest[: max(1, int(len(fastest) * SHARE_SHOWN))]
    places = _places(found)
    spans: dict[tuple[str, str, int], list[tuple[float, float]]] = defaultdict(list)
    for journey in shown:
        seen: dict[tuple[str, str], int] = defaultdict(int)
        for step in journey[1:]:
            key = places.get((step.pid, step.actor), step.actor), step.what
            seen[key] += 1
            spans[(*key, seen[key])].append((step.begun - journey[0].begun, _seconds(step)))
    lines = ["| after | takes | process | what it handles |", "| ---: | ---: | --- | --- |"]
    kept = {key: times for key, times in spans.items() if len(times) >= SHARE_OF_STEP * len(shown)}
    for (place, what, _), times in sorted(kept.items(), key=lambda one: median(at for at, _ in one[1])):
        after, takes = (median(values) * 1e3 for values in zip(*times, strict=True))
        lines.append(f"| {after:.2f} ms | {takes:.2f} ms | {place} | {what} |")
    whole, every = (median(_seconds(journey[0]) for journey in some) * 1e3 for some in (shown, fastest))
    counts = f"the fastest {len(shown)} of {len(fastest)}"
    return [*lines, "", f"{whole:.2f} ms, the median of {counts}; of all {every:.2f} ms"]


def _seconds(step: Step) -> float:
    return step.ended - step.begun


def _places(found: Sequence[Step]) -> dict[tuple[int, str], str]:
    """What a reader calls each process: the primary is the replica that hears requests."""
    requests: dict[int, int] = defaultdict(int)
    for step in found:
        if step.actor == LedgerReplica.__name__:
            requests[step.pid] += "Request" in step.what
    primary = max(requests, key=lambda pid: requests[pid])
    backups = [pid for pid in requests if pid != primary]
    names = {primary: "primary", **{pid: f"backup {index + 1}" for index, pid in enumerate(backups)}}
    log = "LedgerReplica's log"
    places = {(pid, LedgerReplica.__name__): name for pid, name in names.items()}
    return {**places, **{(pid, log): f"{name}, its log" for pid, name in names.items()}}


def main(given: Sequence[str]) -> int:
    """Run the cluster and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.journey", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="about so long (default 5)")
    parser.add_argument("--directory", help="where the cluster's files are (default: the system's)")
    chosen = parser.parse_args(given)
    with tempfile.TemporaryDirectory(dir=chosen.directory) as files:
        install(files)
        measure_ours({"sessions": 1, "seconds": chosen.seconds, "files": files})
        print("\n".join(table(steps(Path(files)))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
