"""Planted protocol bugs, and what finds each here: `python -m tests.cluster.vsr_mutants [--seeds 500]` searches anew.

The bugs are those of `tests.simulation.cluster.planted` that the protocol alone can show, and two more.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable

from client_replies.cluster.vsr import view_change
from client_replies.messages.faults import InvariantBroken

from tests.cluster import test_vsr_scenarios as scenarios
from tests.cluster.memory_log_store import MemoryLogStore
from tests.cluster.vsr_simulation import simulate
from tests.cluster.vsr_world import Violation
from tests.simulation.cluster.planted import PLANTED
from tests.simulation.planting import Planted, edited

# The sentence of a bug, and what finds it: a seed; or a scenario, where hundreds of seeds do not meet the coincidence.
FOUND_BY: dict[str, int | str] = {
    "the primary commits without a quorum": 2,
    "a backup acknowledges before the entry is durable": 143,
    "the longest log is taken instead of the latest view's": 14,
    "the view of the log is forgotten": 1,
    "the view of the log changes before the log": "test_a_log_view_without_its_log_outweighs_nothing",
    "an entry is executed before it is committed": 2,
    "a new primary does not prepare again what may be committed": 1,
    "a request is not judged by the pipeline": 3,
    "the stored reply has the replica's own view in it": 1,
    "it counts as finished before its replies are durable": 11,
    "a store without a vote is opened as one with it": 37,
    "a replica that lost its disk votes before it has caught up": (
        "test_a_late_message_of_the_view_gives_no_voice_to_who_lost_its_disk"
    ),
    "a view is left before that is durable": "test_a_view_that_was_not_left_durably_was_not_left",
    "a primary that restarts goes on in its view": 15,
    "the log is trimmed before the component's checkpoint is durable": 143,
}
OWN = (
    edited(
        "view change",
        "the view of the log changes before the log",
        (
            view_change,
            "on_start_view",
            "known = checksums_by_op(message)",
            "known = checksums_by_op(message); core.log_view = core.view",
        ),
    ),
    edited(
        "recovery",
        "a store without a vote is opened as one with it",
        (MemoryLogStore, "__init__", "DurableState(voting=voting)", "DurableState()"),
    ),
)
MUTANTS = tuple(bug for bug in (*PLANTED, *OWN) if bug.what in FOUND_BY)


def search(mutant: Planted, seeds: Iterable[int]) -> int | str | None:
    """The scenario of the bug, or the first of the seeds, if it finds the bug."""
    found_by = FOUND_BY[mutant.what]
    with mutant.applied():
        for trial in (found_by,) if isinstance(found_by, str) else seeds:
            try:
                getattr(scenarios, trial)() if isinstance(trial, str) else simulate(trial)
            except (Violation, InvariantBroken, AssertionError):
                return trial
    return None


def main() -> int:
    """Search all bugs, and print the table."""
    parser = argparse.ArgumentParser(description="planted protocol bugs")
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    missed = 0
    for mutant in MUTANTS:
        if arguments.only not in mutant.what:
            continue
        began = time.monotonic()
        found = search(mutant, range(arguments.first, arguments.first + arguments.seeds))
        print(f"{found or 'not found'} | {mutant.what} | {time.monotonic() - began:.0f} s", flush=True)
        missed += found is None
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
