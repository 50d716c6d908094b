"""Planted protocol bugs, and how many seeds each takes to find: `python -m tests.cluster.vsr_mutants [--seeds 500]`.

A bug is a change of the source, made in a copy. Its text must be there, so the list cannot fall behind the code.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VSR = "cluster/vsr/"


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug: edits of (file, what is there, what is put there), and what finds it: a seed, or the name of a scenario.

    A scenario where the coincidence that it takes is so rare that hundreds of seeds do not meet it.
    """

    name: str
    edits: tuple[tuple[str, str, str], ...]
    found_by: int | str


MUTANTS = (
    Mutant(
        "the primary commits without a quorum",
        ((VSR + "normal.py", "sorted(held, reverse=True)[core.config.quorum - 1]", "max(held)"),),
        2,
    ),
    Mutant(
        "a backup acknowledges before the entry is durable",
        ((VSR + "normal.py", "op=core.log.durable, voting", "op=core.log.op, voting"),),
        143,
    ),
    Mutant(
        "a view change takes the longest log instead of the latest view's",
        ((VSR + "view_change.py", "(log.log_view, log.op, log.replica)", "(log.op, log.log_view, log.replica)"),),
        14,
    ),
    Mutant(
        "the view of the log is forgotten",
        ((VSR + "core.py", "log_view=self.log_view,", "log_view=0,"),),
        1,
    ),
    Mutant(
        "the view of the log changes before the log",
        (
            (
                VSR + "view_change.py",
                "source, known = core.primary, checksums_by_op(message)",
                "source, known = core.primary, checksums_by_op(message); core.log_view = core.view",
            ),
        ),
        "test_a_log_view_without_its_log_outweighs_nothing",
    ),
    Mutant(
        "an entry is executed before it is committed",
        (
            (
                VSR + "normal.py",
                "core.executed >= min(core.commit, core.log.durable)",
                "core.executed >= core.log.durable",
            ),
            (VSR + "core.py", "self.executed < min(self.commit, self.log.durable)", "self.executed < self.log.durable"),
        ),
        2,
    ),
    Mutant(
        "a new primary does not prepare again what may be committed",
        ((VSR + "view_change.py", "    op = _cut(core, best, commit)", "    op = commit"),),
        1,
    ),
    Mutant(
        "a request is not judged by the pipeline",
        (
            (VSR + "clients.py", "    elif request.client in core.clients.pipeline:", "    elif False:"),
            (VSR + "clients.py", "    if request.client in core.clients.pipeline:", "    if False:"),
        ),
        3,
    ),
    Mutant(
        "the stored reply has the replica's own view in it",
        (
            (
                VSR + "normal.py",
                "    applied = core",
                "    setattr(core.execution, 'own', core.view)\n    applied = core",
            ),
            (VSR + "execution.py", "view=entry.view", "view=getattr(self, 'own', entry.view)"),
        ),
        1,
    ),
    Mutant(
        "a state sync counts as finished before its replies are durable",
        ((VSR + "sync.py", " and state.snapshot is None and not state.waiting", " and state.snapshot is None"),),
        11,
    ),
    Mutant(
        "a replica that lost its disk votes at once",
        (
            (
                "tests/cluster/memory_log_store.py",
                "DurableState(voting=voting), 0, bytes(16))] * 2",
                "DurableState(), 0, bytes(16))] * 2",
            ),
        ),
        37,
    ),
    Mutant(
        "a replica that lost its disk votes before it has caught up",
        (
            (
                VSR + "recovery.py",
                "if state.view >= 0 and caught_up and core.executed >= min(core.commit, state.op):",
                "if state.view >= 0:",
            ),
        ),
        "test_a_late_message_of_the_view_gives_no_voice_to_who_lost_its_disk",
    ),
    Mutant(
        "a view is left before that is durable",
        (
            (
                VSR + "view_change.py",
                "core.persist(LogWrite(state=core.state()), lambda: _left(core, view))",
                "core.persist(LogWrite(state=core.state()), lambda: None); _left(core, view)",
            ),
            (VSR + "view_change.py", " and core.durable.view == view:", ":"),
        ),
        "test_a_view_that_was_not_left_durably_was_not_left",
    ),
    Mutant(
        "a primary that restarts goes on in its view",
        ((VSR + "replica.py", "elif formatted or core.primary != core.replica:", "elif core.view == core.log_view:"),),
        15,
    ),
    Mutant(
        "the log is trimmed before the component's checkpoint is durable",
        (
            (
                VSR + "checkpoint.py",
                "            core.emit(CheckpointReplies(snapshot.op, snapshot.sessions))\n",
                "            core.emit(CheckpointReplies(snapshot.op, snapshot.sessions))\n"
                "            core.checkpoint.op = snapshot.op\n            settle(core, snapshot)\n"
                "            core.checkpoint.running = snapshot\n",
            ),
        ),
        143,
    ),
)


def plant(mutant: Mutant, directory: Path) -> None:
    """Copy what the simulation needs, with the bug in it."""
    for folder in ("client_replies", "messages", "storage", "actors", "cluster", "examples"):
        shutil.copytree(ROOT / folder, directory / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (directory / "tests" / "cluster").mkdir(parents=True)
    for name in ("memory_log_store.py", "vsr_world.py", "vsr_simulation.py", "test_vsr_scenarios.py"):
        shutil.copy(ROOT / "tests" / "cluster" / name, directory / "tests" / "cluster" / name)
    for name, found, put in mutant.edits:
        path = directory / name
        text = path.read_text(encoding="utf-8")
        if text.count(found) != 1:
            raise LookupError(f"{mutant.name}: {name} has {text.count(found)} times {found!r}")
        path.write_text(text.replace(found, put), encoding="utf-8")


def run(mutant: Mutant, first: int, seeds: int, timeout: float = 900.0) -> tuple[bool, str]:
    """Simulate with the bug, or tell the story that it spoils. True if it was found, and what was printed."""
    with tempfile.TemporaryDirectory() as directory:
        plant(mutant, Path(directory))
        if isinstance(mutant.found_by, str):
            command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider"]
            command += [f"--rootdir={directory}", f"tests/cluster/test_vsr_scenarios.py::{mutant.found_by}"]
        else:
            command = [sys.executable, "-m", "tests.cluster.vsr_simulation", "--until-failure"]
            command += ["--first", str(first), "--seeds", str(seeds)]
        paths = [path for path in sys.path if path and Path(path).resolve() != ROOT]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    if done.returncode not in (0, 1) or not (
        "seeds" in done.stdout or "passed" in done.stdout or "failed" in done.stdout
    ):
        raise RuntimeError(f"{mutant.name}: {done.stderr[-2000:]}")
    return done.returncode == 1, done.stdout


def main() -> int:
    """Search all bugs, and print the table."""
    parser = argparse.ArgumentParser(description="planted protocol bugs")
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    missed = 0
    for mutant in MUTANTS:
        if arguments.only not in mutant.name:
            continue
        began = time.monotonic()
        found, output = run(mutant, arguments.first, arguments.seeds)
        lines = output.strip().splitlines()
        seeds = lines[-1].split()[2] if found else f"> {arguments.seeds}"
        seeds = "story" if isinstance(mutant.found_by, str) and found else seeds
        how = lines[-2][:150] if found else ""
        print(f"{seeds:>6} | {mutant.name} | {how} | {time.monotonic() - began:.0f} s", flush=True)
        missed += not found
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
