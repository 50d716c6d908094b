"""The CI sample of the whole cluster: it passes, reaches what is rare, stays the same, and finds planted bugs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from client_replies.messages.faults import InvariantBroken

from tests.cluster import test_vsr_scenarios as scenarios
from tests.simulation.cluster.marks import EXPECTED
from tests.simulation.cluster.plan import draw_plan
from tests.simulation.cluster.planted import BY_SCENARIO, BY_SEED
from tests.simulation.cluster.runner import run_plan, run_seed
from tests.simulation.cluster.sample import DRAWN
from tests.simulation.marks import Marks
from tests.simulation.planting import MORE_SEEDS, Planted, finds

ROOT = Path(__file__).resolve().parents[3]
PRINT_HASHES = (
    "import sys; from tests.simulation.cluster.runner import run_seed; "
    "print([run_seed(int(seed)).hash for seed in sys.argv[1:]])"
)

reached = Marks()


@pytest.mark.parametrize("seed", DRAWN.sample)
def test_a_seed_of_the_cluster_passes(seed: int) -> None:
    """The same seeds on every commit; together they reach every mark."""
    result = run_seed(seed, hashed=False)
    reached.merge(result.marks)
    assert result.passed, result.failure


def test_every_mark_of_the_cluster_is_reached(request: pytest.FixtureRequest) -> None:
    """A rare branch that is reached no more means that the workload has become tame."""
    if request.config.getoption("keyword") or not reached.counts:
        pytest.skip("the sample did not run")
    for seed in MORE_SEEDS:
        if not reached.missing(EXPECTED):
            break
        reached.merge(run_seed(seed, hashed=False).marks)
    assert reached.missing(EXPECTED) == [], "python -m tests.simulation.cluster --sample draws a sample anew"


@pytest.mark.slow
def test_the_same_seed_of_the_cluster_gives_the_same_trace_in_other_processes() -> None:
    """Whatever the hash seed of the process is."""
    seeds = DRAWN.sample[:2]
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
    plan = draw_plan(DRAWN.sample[0])
    assert run_plan(plan).hash == run_plan(plan, copies=True).hash


@pytest.mark.slow
@pytest.mark.parametrize("bug", BY_SEED, ids=lambda bug: bug.what.replace(" ", "-"))
def test_a_planted_bug_of_the_protocol_is_found(bug: Planted) -> None:
    """With the seed that is known to find it, as a rule: README.md has the table."""
    assert finds(bug, DRAWN, run_seed), "python -m tests.simulation.cluster --planted finds a seed anew"


@pytest.mark.parametrize("bug", BY_SCENARIO, ids=lambda bug: bug.what.replace(" ", "-"))
def test_a_planted_bug_that_no_seed_meets_is_found_by_its_scenario(bug: Planted) -> None:
    """The scenario passes without the bug: it is one of the protocol's own tests."""
    with bug.applied(), pytest.raises((AssertionError, InvariantBroken)):
        getattr(scenarios, bug.scenario)()
