"""The CI sample of the whole cluster: it passes, reaches what is rare, stays the same, and finds planted bugs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.cluster.marks import EXPECTED
from tests.simulation.cluster.plan import draw_plan
from tests.simulation.cluster.planted import PLANTED, Planted, measure
from tests.simulation.cluster.runner import run_plan, run_seed
from tests.simulation.cluster.sample import SAMPLE, SEEDS_OF_PLANTED
from tests.simulation.marks import Marks

ROOT = Path(__file__).resolve().parents[3]
MORE_SEEDS = range(1001, 1061)
PRINT_HASHES = (
    "import sys; from tests.simulation.cluster.runner import run_seed; "
    "print([run_seed(int(seed)).hash for seed in sys.argv[1:]])"
)

reached = Marks()


@pytest.mark.parametrize("seed", SAMPLE)
def test_a_seed_of_the_cluster_passes(seed: int) -> None:
    """The same seeds on every commit; together they reach every mark."""
    result = run_seed(seed)
    reached.merge(result.marks)
    assert result.passed, result.failure


def test_every_mark_of_the_cluster_is_reached(request: pytest.FixtureRequest) -> None:
    """A rare branch that is reached no more means that the workload has become tame."""
    if request.config.getoption("keyword") or not reached.counts:
        pytest.skip("the sample did not run")
    for seed in MORE_SEEDS:
        if not reached.missing(EXPECTED):
            break
        # The code has moved on, and the sample with it: a few more seeds, until somebody draws a new sample.
        reached.merge(run_seed(seed).marks)
    assert reached.missing(EXPECTED) == []


def test_the_same_seed_of_the_cluster_gives_the_same_trace_in_other_processes() -> None:
    """Whatever the hash seed of the process is."""
    seeds = SAMPLE[:2]
    here = str([run_seed(seed).hash for seed in seeds]) + "\n"
    for hash_seed in ("1", "2"):
        path = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry)])
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        command = [sys.executable, "-c", PRINT_HASHES, *map(str, seeds)]
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        assert run.stdout == here


def test_copying_every_message_of_the_cluster_changes_nothing() -> None:
    """Messages are as good as immutable: a run that pickles each of them has the same trace."""
    plan = draw_plan(SAMPLE[0])
    assert run_plan(plan).hash == run_plan(plan, copies=True).hash


@pytest.mark.parametrize(
    "bug", [bug for bug in PLANTED if bug.what in SEEDS_OF_PLANTED], ids=lambda bug: bug.what.replace(" ", "-")
)
def test_a_planted_bug_of_the_protocol_is_found(bug: Planted) -> None:
    """Those that take few seeds, with the first that is known to; README.md has the table of all."""
    found = measure(bug, 1, first=SEEDS_OF_PLANTED[bug.what])
    if not found.invariant:
        # The code has moved on, and what the seed means with it: others find the bug then.
        found = measure(bug, len(MORE_SEEDS), first=MORE_SEEDS[0])
    assert found.invariant


@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.what.replace(" ", "-"))
def test_a_planted_bug_of_the_cluster_finds_its_place_in_the_code(bug: Planted) -> None:
    """Also those that take too many seeds for CI: one that no longer fits the code would be noticed by nobody."""
    with bug.applied():
        pass
