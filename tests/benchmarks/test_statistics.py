"""The arithmetic of the benchmarks, and what a comparison with the accepted run calls a regression."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import PAGE, ROWS, main
from benchmarks.accounting import Accounts, Snapshot, account
from benchmarks.compare import compare
from benchmarks.contest import TINY, Comparison, Contestant, Group, MeasurementFailed, Scale, run_group
from benchmarks.page import rewrite
from benchmarks.plots import draw
from benchmarks.report import group_text, number, summary_rows
from benchmarks.statistics import Spread, median, percentile, ratios

THREE = Scale("test", rounds=3, seconds=1.0)


def test_the_median_is_the_middle_or_between_the_two_in_the_middle() -> None:
    """In whatever order they come."""
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5
    assert Spread.of([3, 1, 2]) == Spread(2, 1, 3)
    with pytest.raises(ValueError, match="no median"):
        median([])


def test_a_percentile_is_a_value_that_was_seen() -> None:
    """The smallest that at least so many percent do not exceed."""
    values = [float(value) for value in range(1, 101)]
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile(values, 100) == 100
    assert percentile([7.0], 1) == 7.0
    assert percentile([], 50) == 0.0


def test_ratios_are_taken_round_by_round() -> None:
    """A round that is missing on one side is a mistake, not a guess."""
    assert ratios([2, 9], [1, 3]) == [2, 3]
    with pytest.raises(ValueError, match="rounds"):
        ratios([1], [1, 2])


def contest(samples: Mapping[str, Sequence[float]], comparison: Comparison) -> dict[str, Any]:
    """Run a group whose contestants give these values, round by round."""
    given = {name: iter(values) for name, values in samples.items()}

    def run(row: str, contestant: str, params: Mapping[str, Any]) -> dict[str, Any]:
        value = next(given[contestant])
        if value < 0:
            raise MeasurementFailed("it broke\nbecause of this")
        return {"value": value, "busy": {"main": 0.5}, "sent": {}, "seconds": params["seconds"]}

    contestants = [Contestant(name, f"the {name}") for name in samples]
    group = Group("row", "group", "things/s", contestants, [comparison])
    return run_group(group, THREE, run, lambda text: None)


def test_a_comparison_takes_the_better_of_the_others_in_each_round() -> None:
    """Which one is better may change from round to round."""
    samples = {"ours": [10, 10, 10], "a": [5, 2, 1], "b": [1, 4, 2]}
    found = contest(samples, Comparison("to both", "ours", ("a", "b"), target=2.5))
    assert found["comparisons"][0]["ratio"]["values"] == [2, 2.5, 5]
    assert found["comparisons"][0]["met"] is True


def test_at_most_turns_better_and_met_around() -> None:
    """For costs the smaller one is the better."""
    samples = {"ours": [10, 10, 10], "a": [5, 2, 1], "b": [1, 4, 2]}
    found = contest(samples, Comparison("to both", "ours", ("a", "b"), target=9, at_least=False))
    assert found["comparisons"][0]["ratio"]["values"] == [10, 5, 10]
    assert found["comparisons"][0]["met"] is False


def test_a_contestant_that_fails_is_named_and_the_others_go_on() -> None:
    """Its ratio was not measured, which is neither met nor missed."""
    found = contest({"ours": [1, 1, 1], "a": [1, -1, 1]}, Comparison("to a", "ours", ("a",), target=1))
    assert found["contestants"][1]["failed"] == "it broke\nbecause of this"
    assert found["contestants"][0]["figures"]["value"]["values"] == [1, 1, 1]
    assert found["comparisons"][0]["met"] is None
    assert "failed: because of this" in group_text(found)
    assert summary_rows([found])[1][-1] == "not measured"


def test_without_another_the_figure_itself_has_the_target() -> None:
    """As for bytes of memory."""
    found = contest({"ours": [900, 1000, 1100]}, Comparison("bytes", "ours", (), target=1024, at_least=False))
    assert found["comparisons"][0]["ratio"]["median"] == 1000
    assert found["comparisons"][0]["met"] is True


def run_of(median_: float, low: float, high: float, *, at_least: bool = True) -> dict[str, Any]:
    """A run with one ratio."""
    ratio = {"median": median_, "low": low, "high": high}
    comparison = {"title": "to the floor", "ratio": ratio, "at_least": at_least, "target": None}
    return {"groups": [{"row": "durable", "name": "4 KiB", "comparisons": [comparison]}]}


def test_a_regression_is_worse_than_the_margin_and_than_every_accepted_round() -> None:
    """One of the two is noise."""
    accepted = run_of(1.0, 0.7, 1.2)
    assert compare(accepted, run_of(0.75, 0.7, 0.8)).regressions == []  # seen before
    assert len(compare(accepted, run_of(0.65, 0.6, 0.7)).regressions) == 1
    steady = run_of(1.0, 0.99, 1.01)
    assert compare(steady, run_of(0.85, 0.8, 0.9)).regressions == []  # within the margin
    assert len(compare(steady, run_of(0.85, 0.8, 0.9), margin=0.1).regressions) == 1
    assert compare(steady, run_of(2.0, 1.9, 2.1)).regressions == []  # better


def test_what_should_be_small_regresses_upwards() -> None:
    """A cost that grows."""
    accepted = run_of(1.0, 0.9, 1.1, at_least=False)
    assert len(compare(accepted, run_of(1.5, 1.4, 1.6, at_least=False)).regressions) == 1
    assert compare(accepted, run_of(0.5, 0.4, 0.6, at_least=False)).regressions == []


def test_ratios_that_one_run_lacks_are_named_and_are_no_regression() -> None:
    """A quick run of some rows can be compared."""
    compared = compare(run_of(1.0, 1.0, 1.0), {"groups": []})
    assert compared.regressions == []
    assert compared.only_accepted == [("durable", "4 KiB", "to the floor")]


def test_figures_are_shown_with_the_digits_that_mean_something() -> None:
    """Seconds in the unit that reads best."""
    assert number(0.0000123, "s") == "12.3 us"
    assert number(0.0123, "s") == "12.3 ms"
    assert number(2.5, "s") == "2.50 s"
    assert number(12345.6) == "12,346"


def test_an_account_is_the_difference_of_two_snapshots() -> None:
    """What was counted before the measured time does not count."""
    before = Snapshot(10.0, {"a": 1.0}, {"a": {"Ping": (5, 500)}})
    after = Snapshot(12.0, {"a": 2.0, "b": 0.5}, {"a": {"Ping": (8, 800)}, "b": {"Pong": (1, 10)}})
    found = account(before, after)
    assert found["busy"] == {"a": 0.5, "b": 0.25}
    assert found["sent"] == {"a": {"Ping": [3, 300]}, "b": {"Pong": [1, 10]}}


def test_each_process_counts_in_a_row_of_its_own() -> None:
    """Two processes of one name are told apart."""
    accounts = Accounts()
    accounts.claim("Actor")
    accounts.count("Ping", 100, source=4001, target=4002)
    accounts.count("Ping", 50, source=4001, target=4002)
    accounts.claim("Actor")
    accounts.count("Pong", 1, source=4002, target=4001)
    accounts.count("Pong", 1, source=4002, target=4003)
    found = accounts.snapshot()
    assert found.sent["Actor"] == {"Ping to Actor 2": (2, 150)}
    assert found.sent["Actor 2"] == {"Pong to Actor": (1, 1), "Pong to others": (1, 1)}
    assert set(found.cpu) == {"Actor", "Actor 2"}


def test_the_page_and_the_plots_are_made_from_the_results(tmp_path: Path) -> None:
    """Only what is between the markers of a row with results changes, and the same results draw the same plot."""
    group = contest({"ours": [2, 2, 2], "a": [1, 1, 1]}, Comparison("to a", "ours", ("a",), target=1))
    result = {"groups": [group], "scale": TINY.name, "rounds": 3}
    (path,) = draw(result, tmp_path)
    assert path.name == "row.svg"
    once = path.read_bytes()
    draw(json.loads(json.dumps(result)), tmp_path)
    assert path.read_bytes() == once
    page = "before\n<!-- results: row -->\nold\n<!-- end -->\nbetween\n<!-- results: other -->\nkept\n<!-- end -->\n"
    rewritten = rewrite(page, result, {"row": "plots/row.svg"})
    assert "old" not in rewritten
    assert "| the ours | 2.00 |" in rewritten
    assert "kept" in rewritten
    assert rewritten.startswith("before\n")
    assert rewrite(rewritten, result, {"row": "plots/row.svg"}) == rewritten


def test_the_page_of_the_docs_has_a_section_for_each_row() -> None:
    """Results without a place would be lost."""
    page = PAGE.read_text()
    for name in ("machine", "targets", *ROWS):
        assert page.count(f"<!-- results: {name} -->") == 1


def test_the_command_compares_two_files_and_says_so_by_its_status(tmp_path: Path) -> None:
    """0 while nothing became worse, 1 when something did; nothing is measured for it."""
    accepted, worse = tmp_path / "accepted.json", tmp_path / "worse.json"
    for path, values in ((accepted, [10.0, 10.0, 10.0]), (worse, [5.0, 5.0, 5.0])):
        group = contest({"ours": values, "a": [1, 1, 1]}, Comparison("to a", "ours", ("a",), target=1))
        path.write_text(json.dumps({"groups": [group], "scale": "test", "rounds": 3}))
    assert main(["--from", str(accepted), "--compare", str(accepted)]) == 0
    assert main(["--from", str(worse), "--compare", str(accepted)]) == 1
    assert main(["--from", str(worse), "--compare", str(accepted), "--margin", "0.6"]) == 0
    assert main(["--from", str(worse), "--compare", str(tmp_path / "none.json")]) == 0
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**json.loads(worse.read_text()), "groups": []}))
    assert main(["--from", str(worse), "--compare", str(other)]) == 1, "nothing was compared"
