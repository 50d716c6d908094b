"""Contests: which contestants do the same work, in turn, and what is compared with what.

A row of the benchmarks is a list of groups; a group's contestants run one after the other, round by round (A B C, A B
C, ...), each in an interpreter of its own, and its comparisons divide what they gave, round by round. A contestant
that fails is reported as such, with its last lines, and the others go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .measure import DIRECTORY
from .statistics import Spread, ratios

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 120.0
FAILURE_LINES = 8


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: `make bench` or `make bench-quick`, or less for a test."""

    name: str
    rounds: int
    seconds: float

    @property
    def is_full(self) -> bool:
        """Whether the figures may be shown to anybody."""
        return self.name == "full"


FULL = Scale("full", rounds=5, seconds=2.0)
QUICK = Scale("quick", rounds=1, seconds=0.3)
TINY = Scale("tiny", rounds=1, seconds=0.05)


@dataclass(frozen=True, slots=True)
class Contestant:
    """Something that can be measured: `python -m benchmarks.measure ROW NAME PARAMS`."""

    name: str
    title: str
    params: Mapping[str, Any] = field(default_factory=dict)
    measure: str = ""  # the name of the measurement, if several contestants share it
    missing: str = ""  # why it cannot run here


@dataclass(frozen=True, slots=True)
class Comparison:
    """A ratio: a figure of one contestant to the best of those of others, and what it should be.

    `of` and `to` name a contestant, or a contestant and one of its figures as "contestant:figure". Without `to` it is
    the figure itself that has a target.
    """

    title: str
    of: str
    to: tuple[str, ...]
    target: float | None = None
    at_least: bool = True  # else the ratio should be at most the target, and the best is the smallest


@dataclass(frozen=True, slots=True)
class Group:
    """Contestants that do the same work."""

    row: str
    name: str
    unit: str
    contestants: Sequence[Contestant]
    comparisons: Sequence[Comparison]
    params: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[tuple[str, str]] = ()  # further figures to show: name and unit
    rounds_max: int = 100


Run = Callable[[str, str, Mapping[str, Any]], dict[str, Any]]


class MeasurementFailed(Exception):
    """A contestant did not come to its end."""


def run_apart(row: str, contestant: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Measure in an interpreter of its own, whose processes and files are gone afterwards, whatever happens."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=DIRECTORY) as directory:
        command = [sys.executable, "-m", "benchmarks.measure", row, contestant]
        command.append(json.dumps({**params, "directory": directory}))
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) as process:
            try:
                output, errors = process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired as error:
                raise MeasurementFailed(f"no result after {TIMEOUT:.0f} s") from error
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    lines = output.strip().splitlines()
    if process.returncode or not lines:
        raise MeasurementFailed("\n".join((errors or output).strip().splitlines()[-FAILURE_LINES:]))
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def run_group(group: Group, scale: Scale, run: Run, say: Callable[[str], None]) -> dict[str, Any]:
    """Let the contestants run in turn, and compare them: plain data for JSON."""
    rounds = min(scale.rounds, group.rounds_max)
    samples: dict[str, list[dict[str, Any]]] = {contestant.name: [] for contestant in group.contestants}
    failures = {contestant.name: contestant.missing for contestant in group.contestants if contestant.missing}
    for number in range(rounds):
        for contestant in group.contestants:
            if contestant.name in failures:
                continue
            say(f"{group.row}, {group.name}, round {number + 1} of {rounds}: {contestant.title}")
            params = {"seconds": scale.seconds, **group.params, **contestant.params}
            try:
                sample = run(group.row, contestant.measure or contestant.name, params)
                samples[contestant.name].append(sample)
            except MeasurementFailed as failure:
                failures[contestant.name] = str(failure)
    return {
        "row": group.row,
        "name": group.name,
        "unit": group.unit,
        "figures": [list(figure) for figure in group.figures],
        "contestants": [
            _contestant_result(contestant, samples[contestant.name], failures.get(contestant.name, ""))
            for contestant in group.contestants
        ],
        "comparisons": [_compared(comparison, samples, rounds) for comparison in group.comparisons],
    }


def _contestant_result(contestant: Contestant, samples: Sequence[dict[str, Any]], failed: str) -> dict[str, Any]:
    figures = sorted({name for sample in samples for name, value in sample.items() if isinstance(value, float | int)})
    return {
        "name": contestant.name,
        "title": contestant.title,
        "skipped" if contestant.missing else "failed": failed,
        "figures": {
            name: _spread([float(sample[name]) for sample in samples if name in sample])
            for name in figures
            if name != "seconds"
        },
        # Of the last round: how busy each process was, and what it sent to whom.
        "seconds": samples[-1].get("seconds", 0.0) if samples else 0.0,
        "busy": samples[-1].get("busy", {}) if samples else {},
        "sent": samples[-1].get("sent", {}) if samples else {},
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    spread = Spread.of(values)
    return {"median": spread.median, "low": spread.low, "high": spread.high, "values": list(values)}


def _figure(name: str, samples: Mapping[str, Sequence[dict[str, Any]]]) -> list[float]:
    contestant, _, figure = name.partition(":")
    return [float(sample[figure or "value"]) for sample in samples.get(contestant, ())]


def _compared(comparison: Comparison, samples: Mapping[str, Sequence[dict[str, Any]]], rounds: int) -> dict[str, Any]:
    result: dict[str, Any] = {
        "title": comparison.title,
        "of": comparison.of,
        "to": list(comparison.to),
        "target": comparison.target,
        "at_least": comparison.at_least,
        "ratio": None,
        "met": None,
    }
    own = _figure(comparison.of, samples)
    others = [[1.0] * rounds] if not comparison.to else []
    others += [values for name in comparison.to if len(values := _figure(name, samples)) == rounds]
    if len(own) != rounds or not others or not all(map(all, others)):
        return result
    best = max if comparison.at_least else min
    found = _spread(ratios(own, [best(values) for values in zip(*others, strict=True)]))
    result["ratio"] = found
    if comparison.target is not None:
        middle = found["median"]
        result["met"] = middle >= comparison.target if comparison.at_least else middle <= comparison.target
    return result


def on_path(program: str) -> str:
    """Why a contestant that needs this program cannot run; nothing if it can."""
    directories = os.environ.get("PATH", "").split(os.pathsep)
    found = any(os.access(os.path.join(directory, program), os.X_OK) for directory in directories if directory)
    return "" if found else f"{program} is not on PATH"
