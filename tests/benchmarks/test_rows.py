"""Every row of the benchmarks can be run: each contestant once, for a moment, and nothing fails.

And what is made of the rows knows them: the targets, the lines at the top of the page, the chart.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from benchmarks.__main__ import ROWS
from benchmarks.chart import PANELS, draw
from benchmarks.contest import FULL, TINY, Group, run_apart, run_group
from benchmarks.figures import ten_lines
from benchmarks.targets import TARGETS

FIGURES = ("value", "p50", "MB/s", "open", "round trip")

# The first group of each row: the others differ in sizes and numbers.
TRIED: list[Group] = [importlib.import_module(f"benchmarks.{row}").groups(TINY)[0] for row in ROWS]


@pytest.mark.slow
@pytest.mark.parametrize("group", TRIED, ids=[f"{group.row}: {group.name}" for group in TRIED])
def test_each_contestant_of_the_row_comes_to_its_end(group: Group) -> None:
    """Every figure that the row shows was measured, and so was every target of contestants that can run here."""
    found = run_group(group, TINY, run_apart, lambda text: None)
    missing = {contestant.name for contestant in group.contestants if contestant.missing}
    measured: dict[str, Any] = {contestant["name"]: contestant for contestant in found["contestants"]}
    assert {name: contestant.get("failed") for name, contestant in measured.items() if contestant.get("failed")} == {}
    for name, contestant in measured.items():
        if name not in missing:
            assert contestant["figures"]["value"]["median"] > 0
    for target, result in zip(group.targets, found["targets"], strict=True):
        named = {name.partition(":")[0] for name in (target.of, *target.to)}
        assert (result["ratio"] is None) == bool(named & missing), target.what
        assert (result["on_tcp"] is None) == bool(named & missing), target.what


def test_every_target_belongs_to_a_group_and_to_contestants_that_there_are() -> None:
    """And no two targets have one name: the page and comparisons know them by it."""
    groups = [group for row in ROWS for group in importlib.import_module(f"benchmarks.{row}").groups(FULL)]
    assert {target for group in groups for target in group.targets} == set(TARGETS)
    assert len({target.what for target in TARGETS}) == len(TARGETS)
    for group in groups:
        names = {contestant.name for contestant in group.contestants}
        for target in group.targets:
            assert {name.partition(":")[0] for name in (target.of, *target.to)} <= names


def test_the_chart_and_the_lines_name_only_what_is_measured() -> None:
    """A contestant that was renamed would be missing without a word."""
    groups = [group for row in ROWS for group in importlib.import_module(f"benchmarks.{row}").groups(FULL)]
    result = {
        "groups": [
            {
                "row": group.row,
                "name": group.name,
                "contestants": [
                    {"name": contestant.name, "figures": {figure: {"median": 1.5} for figure in FIGURES}}
                    for contestant in group.contestants
                ],
            }
            for group in groups
        ]
    }
    lines = ten_lines(result)
    assert len(lines) == 10
    assert "not measured" not in " ".join(lines)
    assert draw(result).count('class="ours"') == len(PANELS)
    assert draw(result).count("<rect") == 1 + sum(1 + len(panel[4]) for panel in PANELS)
