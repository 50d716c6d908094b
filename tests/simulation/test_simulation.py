"""The CI sample, and what a simulation must be to be worth something: the same every time, and able to find bugs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation import test_scenarios as scenarios
from tests.simulation.broken import Broken
from tests.simulation.marks import Marks
from tests.simulation.plan import draw_plan
from tests.simulation.planted import BY_SCENARIO, BY_SEED
from tests.simulation.planting import MORE_SEEDS, Planted, finds, named
from tests.simulation.runner import run_plan, run_seed
from tests.simulation.sample import DRAWN
from tests.simulation.shrink import shrink

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13")
PRINT_HASHES = (
    "import sys; from tests.simulation.runner import run_seed; print([run_seed(int(s)).hash for s in sys.argv[1:]])"
)

reached = Marks()


@pytest.mark.parametrize("seed", DRAWN.sample)
def test_a_seed_of_the_sample_passes(seed: int) -> None:
    """The same seeds on every commit; together they reach every mark."""
    result = run_seed(seed, hashed=False)
    reached.merge(result.marks)
    assert result.passed, result.failure


def test_every_mark_is_reached_by_the_sample(request: pytest.FixtureRequest) -> None:
    """A rare branch that is reached no more means that the workload has become tame."""
    if request.config.getoption("keyword") or not reached.counts:
        pytest.skip("the sample did not run")
    for seed in MORE_SEEDS:
        if not reached.missing():
            break
        reached.merge(run_seed(seed, hashed=False).marks)
    assert reached.missing() == [], "python -m tests.simulation --sample draws a sample anew"


@pytest.mark.parametrize("program", ["tests.simulation", "tests.simulation.cluster"])
@pytest.mark.parametrize("option", ["--seeds", "--planted-seeds"])
def test_no_seeds_at_all_are_refused(program: str, option: str) -> None:
    """None fails among none: that would be a pass without a look."""
    done = subprocess.run([sys.executable, "-m", program, option, "0"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "found '0', expected a whole number from 1" in done.stderr) == (2, True), done


def test_a_fresh_seed_drawn_from_the_commit_passes() -> None:
    """Every commit tries something that was never tried before."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("there is no commit here")
    commit = subprocess.run([git, "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    result = run_seed(int(commit[:8], 16))
    assert result.passed, f"seed {result.plan.seed}: {result.failure}"


def hashes(python: str, hash_seed: int, seeds: tuple[int, ...], path: list[str]) -> str:
    """Run seeds in another process, and give what it prints: their trace hashes."""
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": os.pathsep.join([str(ROOT), *path])}
    command = [python, "-c", PRINT_HASHES, *map(str, seeds)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trace_in_other_processes() -> None:
    """Whatever the hash seed of the process is."""
    seeds = (3, 34)
    here = str([run_seed(seed).hash for seed in seeds]) + "\n"
    path = [entry for entry in sys.path if entry]
    assert hashes(sys.executable, 1, seeds, path) == here
    assert hashes(sys.executable, 2, seeds, path) == here


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_the_same_seed_gives_the_same_trace_under_every_supported_python(version: str) -> None:
    """An interpreter named by SIMULATION_PYTHON_3_13 and the like, or on PATH; it must have what the packages need."""
    name = os.environ.get(f"SIMULATION_PYTHON_{version.replace('.', '_')}") or shutil.which(f"python{version}")
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        name = sys.executable
    if name is None:
        pytest.skip(f"there is no Python {version} here")
    check = "import sys, thespian, structlog, xxhash, client_replies.actors; print(sys.version_info[:2])"
    probe = subprocess.run([name, "-c", check], cwd=ROOT, capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"{name} does not run the packages: {probe.stderr.strip().splitlines()[-1:]}")
    seeds = (3, 34)
    assert hashes(name, 7, seeds, []) == str([run_seed(seed).hash for seed in seeds]) + "\n"


def test_copying_every_message_changes_nothing() -> None:
    """Messages are as good as immutable: a run that pickles each of them has the same trace."""
    plan = draw_plan(5)
    assert run_plan(plan).hash == run_plan(plan, copies=True).hash


@pytest.mark.slow
@pytest.mark.parametrize("bug", BY_SEED, ids=lambda bug: bug.what.replace(" ", "-"))
def test_a_planted_bug_is_found(bug: Planted) -> None:
    """With the seed that is known to find it, as a rule: README.md has the table."""
    assert finds(bug, DRAWN, run_seed), "python -m tests.simulation --planted finds a seed anew"


@pytest.mark.parametrize("bug", BY_SCENARIO, ids=lambda bug: bug.what.replace(" ", "-"))
def test_a_planted_bug_that_no_seed_meets_is_found_by_its_scenario(bug: Planted) -> None:
    """The scenario passes without the bug: it is one of `test_scenarios`."""
    with bug.applied(), pytest.raises(Broken):
        getattr(scenarios, bug.scenario)()


def test_a_seed_that_finds_a_planted_bug_passes_without_it() -> None:
    """The bug is what fails, not the seed."""
    seeds = {seed for seed, _noticed in DRAWN.planted.values()}.difference(DRAWN.sample)
    for seed in sorted(seeds)[:3]:
        result = run_seed(seed, hashed=False)
        assert result.passed, result.failure


@pytest.mark.slow
def test_a_failing_plan_is_shrunk_to_less_that_still_fails() -> None:
    """Fewer requests, fewer faults, the same invariant."""
    bug = named(BY_SEED, "two writes of a slot in flight")
    plan = draw_plan(DRAWN.planted[bug.what][0], requests=40)
    lines: list[str] = []
    with bug.applied():
        whole, small = run_plan(plan), shrink(plan, report=lines.append)
    assert small is not None
    assert small.invariant == whole.invariant
    assert small.plan.requests < plan.requests
    assert len(small.plan.differences()) < len(plan.differences())
