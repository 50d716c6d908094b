"""Every row of the benchmarks can be run: each contestant once, for a moment, and nothing fails."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from benchmarks.__main__ import ROWS
from benchmarks.contest import TINY, Group, run_apart, run_group

# The first group of each row: the others differ in sizes and numbers.
TRIED: list[Group] = [importlib.import_module(f"benchmarks.{row}").groups(TINY)[0] for row in ROWS]


@pytest.mark.parametrize("group", TRIED, ids=[f"{group.row}: {group.name}" for group in TRIED])
def test_each_contestant_of_the_row_comes_to_its_end(group: Group) -> None:
    """Every figure that the row shows was measured, and so was every ratio of contestants that can run here."""
    found = run_group(group, TINY, run_apart, lambda text: None)
    missing = {contestant.name for contestant in group.contestants if contestant.missing}
    measured: dict[str, Any] = {contestant["name"]: contestant for contestant in found["contestants"]}
    assert {name: contestant.get("failed") for name, contestant in measured.items() if contestant.get("failed")} == {}
    for name, contestant in measured.items():
        if name not in missing:
            assert contestant["figures"]["value"]["median"] >= 0
    for comparison, ratio in zip(group.comparisons, found["comparisons"], strict=True):
        named = {name.partition(":")[0] for name in (comparison.of, *comparison.to)}
        assert (ratio["ratio"] is None) == bool(named & missing), comparison.title
