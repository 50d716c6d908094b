"""Contests: which contestants do the same work, in turn, and what is compared with what.

A row of the benchmarks is a list of groups; a group's contestants run one after the other, round by round (A B C, A B
C, ...), each in an interpreter of its own, and its targets divide what they gave, round by round. In the first round
those that live in an actor system run once more, on Thespian's own base. A contestant that fails is reported as such,
with its last lines, and the others go on.
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
from statistics import median
from typing import Any

from client_replies.actors.thespian.base.tcp_base import TCP_BASE

from .measure import DIRECTORY
from .targets import Target, targets_of

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 180.0
ON_TCP = "@tcp"
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


FULL = Scale("full", rounds=4, seconds=2.0)
QUICK = Scale("quick", rounds=1, seconds=0.3)
TINY = Scale("tiny", rounds=1, seconds=0.05)


@dataclass(frozen=True, slots=True)
class Contestant:
    """Something that can be measured: `python -m benchmarks.measure ROW NAME PARAMS`."""

    name: str
    title: str
    params: Mapping[str, Any] = field(default_factory=dict)
    missing: str = ""  # why it cannot run here
    on_base: bool = False  # it lives in an actor system, so it also runs once on Thespian's own base
    rounds_max: int = 100


@dataclass(frozen=True, slots=True)
class Group:
    """Contestants that do the same work."""

    row: str
    name: str
    unit: str
    contestants: Sequence[Contestant]
    targets: Sequence[Target]
    params: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[tuple[str, str]] = ()  # further figures to show: name and unit

    @property
    def turns(self) -> list[Contestant]:
        """All contestants in the order of a round: those that live in an actor system, also on Thespian's own base."""
        return [turn for found in self.contestants for turn in ((found, _on_tcp(found)) if found.on_base else (found,))]


def group_of(
    place: tuple[str, str],
    unit: str,
    contestants: Sequence[Contestant],
    params: Mapping[str, Any] | None = None,
    figures: Sequence[tuple[str, str]] = (),
) -> Group:
    """Make a group with the targets that `targets` has for it."""
    return Group(*place, unit, contestants, targets_of(*place), params or {}, figures)


def _on_tcp(contestant: Contestant) -> Contestant:
    params = {**contestant.params, "base": TCP_BASE}
    return Contestant(contestant.name + ON_TCP, f"{contestant.title}, on {TCP_BASE}", params, rounds_max=1)


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


def run_group(
    group: Group, scale: Scale, run: Run, say: Callable[[str], None], others: Callable[[], float] = lambda: 0.0
) -> dict[str, Any]:
    """Let the contestants run in turn, and compare them: plain data for JSON.

    `others` says what share of the machine somebody else uses; it is asked before each round.
    """
    samples: dict[str, list[dict[str, Any]]] = {contestant.name: [] for contestant in group.turns}
    failures = {contestant.name: contestant.missing for contestant in group.turns if contestant.missing}
    busy = []
    for number in range(scale.rounds):
        busy.append(others())
        for contestant in group.turns:
            if contestant.name in failures or number >= contestant.rounds_max:
                continue
            say(f"{group.row}, {group.name}, round {number + 1} of {scale.rounds}: {contestant.title}")
            params = {"seconds": scale.seconds, **group.params, **contestant.params}
            try:
                samples[contestant.name].append(run(group.row, contestant.name.removesuffix(ON_TCP), params))
            except MeasurementFailed as failure:
                failures[contestant.name] = str(failure)
    return {
        "row": group.row,
        "name": group.name,
        "unit": group.unit,
        "figures": [list(figure) for figure in group.figures],
        "others": busy,
        "contestants": [
            _contestant_result(contestant, samples[contestant.name], failures.get(contestant.name, ""))
            for contestant in group.turns
        ],
        "targets": [_compared(target, samples, scale.rounds) for target in group.targets],
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
        "busy": samples[-1].get("busy", {}) if samples else {},  # of the last round: each process
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {"median": median(values), "low": min(values), "high": max(values), "values": list(values)}


def _compared(target: Target, samples: Mapping[str, Sequence[dict[str, Any]]], rounds: int) -> dict[str, Any]:
    on_tcp = {name: samples.get(name + ON_TCP, found) for name, found in samples.items()}
    found = _ratios(target, samples)
    if len(found) < rounds:
        found = []  # somebody failed
    middle = median(found or [0.0])
    return {
        "what": target.what,
        "target": target.target,
        "at_least": target.at_least,
        "before": target.before,
        "unit": target.unit,
        "ratio": _spread(found) if found else None,
        "on_tcp": next(iter(_ratios(target, on_tcp)), None),
        "met": (middle >= target.target if target.at_least else middle <= target.target) if found else None,
    }


def _ratios(target: Target, samples: Mapping[str, Sequence[dict[str, Any]]]) -> list[float]:
    """Round by round, as far as all that are compared have come."""

    def values(name: str) -> list[float]:
        contestant, _, figure = name.partition(":")
        return [float(sample[figure or "value"]) for sample in samples.get(contestant, ())]

    own = values(target.of)
    if not target.to:
        return own
    best = max if target.at_least else min
    others = [best(found) for found in zip(*map(values, target.to), strict=False)]
    return [value / other for value, other in zip(own, others, strict=False) if other]


def on_path(program: str) -> str:
    """Why a contestant that needs this program cannot run; nothing if it can."""
    directories = os.environ.get("PATH", "").split(os.pathsep)
    found = any(os.access(os.path.join(directory, program), os.X_OK) for directory in directories if directory)
    return "" if found else f"{program} is not on PATH"
