"""A sample of the random simulation, and every planted bug with the seed or the story that finds it."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.cluster.vsr_mutants import FOUND_BY, MUTANTS, search
from tests.cluster.vsr_simulation import simulate
from tests.simulation.planting import Planted


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 1001, 2001])
def test_random_faults_do_no_harm(first: int) -> None:
    """As many seeds as five seconds hold; `python -m tests.cluster.vsr_simulation` runs any number."""
    began = time.monotonic()
    seed = first
    while time.monotonic() - began < 5.0:
        simulate(seed)
        seed += 1
    assert seed > first


def test_a_seed_decides_everything_that_happens() -> None:
    """The same seed twice: the same history, the same counts, the same time."""
    worlds = [simulate(7) for _ in range(2)]
    assert worlds[0].history == worlds[1].history
    assert worlds[0].happened == worlds[1].happened
    assert worlds[0].now == worlds[1].now


def test_the_simulation_sees_what_it_is_about() -> None:
    """Few seeds are enough to meet every kind of fault and of recovery: the checks saw live state."""
    kinds = {"crashes", "power_losses", "two_primaries", "partitions", "disks_lost", "entries_rotten"}
    kinds |= {"entries_repaired", "evictions", "view_changes", "syncs_finished", "votes_regained", "requests_repeated"}
    happened: Counter[str] = Counter()
    for seed in range(1, 100):
        happened.update(simulate(seed).happened)
        if kinds <= happened.keys():
            break
    assert not kinds - happened.keys()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what.replace(" ", "-"))
def test_a_planted_bug_is_found(mutant: Planted) -> None:
    """If this fails after a change: `python -m tests.cluster.vsr_mutants` finds the seeds anew."""
    known = FOUND_BY[mutant.what]
    assert search(mutant, (known,) if isinstance(known, int) else ()) == known


def test_every_bug_that_something_finds_is_planted() -> None:
    """A sentence that was changed in one place only would be a bug that nobody looks for."""
    assert {mutant.what for mutant in MUTANTS} == FOUND_BY.keys()
