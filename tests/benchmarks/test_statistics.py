"""The arithmetic of the benchmarks, what a regression is, which run is accepted, and what is made of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import ACCEPTED, CHART, PAGE, main, refusals
from benchmarks.accounting import Accounts, Snapshot, account
from benchmarks.chart import draw
from benchmarks.compare import compare
from benchmarks.contest import ON_TCP, Contestant, Group, MeasurementFailed, Scale, run_group
from benchmarks.machine import busy_share
from benchmarks.page import BOUNDS, SECTIONS, bounds_to_mend, rewrite
from benchmarks.report import contestant_rows, number, target_rows
from benchmarks.targets import TARGETS, Target, at_least, at_most
from examples.percentile import percentile

THREE = Scale("test", rounds=3, seconds=1.0)


def test_a_percentile_is_a_value_that_was_seen() -> None:
    """The smallest that at least so many percent do not exceed."""
    values = [float(value) for value in range(1, 101)]
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile(values, 100) == 100
    assert percentile([7.0], 1) == 7.0
    assert percentile([], 50) == 0.0


def contest(samples: Mapping[str, Sequence[float]], target: Target) -> dict[str, Any]:
    """Run a group whose contestants give these values, round by round; "name@tcp" is what one gives on TCP."""
    given = {name: iter(values) for name, values in samples.items()}

    def run(row: str, contestant: str, params: Mapping[str, Any]) -> dict[str, Any]:
        value = next(given[contestant + ON_TCP * ("base" in params)])
        if value < 0:
            raise MeasurementFailed("it broke\nbecause of this")
        return {"value": value, "busy": {"main": 0.5}, "seconds": params["seconds"]}

    contestants = [
        Contestant(name, f"the {name}", on_base=name + ON_TCP in samples) for name in samples if ON_TCP not in name
    ]
    group = Group("row", "group", "things/s", contestants, [target])
    return run_group(group, THREE, run, lambda text: None)


def target_of(bound: float, of: str, *to: str, least: bool = True) -> Target:
    """A target of the group."""
    return (at_least if least else at_most)(bound, "to the others", ("row", "group"), of, *to)


def test_a_target_takes_the_better_of_the_others_in_each_round() -> None:
    """Which one is better may change from round to round."""
    samples = {"ours": [10, 10, 10], "a": [5, 2, 1], "b": [1, 4, 2]}
    found = contest(samples, target_of(2.5, "ours", "a", "b"))
    assert found["targets"][0]["ratio"]["values"] == [2, 2.5, 5]
    assert found["targets"][0]["met"] is True


def test_at_most_turns_better_and_met_around() -> None:
    """For costs the smaller one is the better."""
    samples = {"ours": [10, 10, 10], "a": [5, 2, 1], "b": [1, 4, 2]}
    found = contest(samples, target_of(9, "ours", "a", "b", least=False))
    assert found["targets"][0]["ratio"]["values"] == [10, 5, 10]
    assert found["targets"][0]["met"] is False


def test_a_contestant_that_fails_is_named_and_the_others_go_on() -> None:
    """Its ratio was not measured, which is neither met nor missed."""
    found = contest({"ours": [1, 1, 1], "a": [1, -1, 1]}, target_of(1, "ours", "a"))
    assert found["contestants"][1]["failed"] == "it broke\nbecause of this"
    assert found["contestants"][0]["figures"]["value"]["values"] == [1, 1, 1]
    assert found["targets"][0]["met"] is None
    assert any(row[-1] == "failed: because of this" for row in contestant_rows(found))
    assert target_rows([found])[1][-1] == "not measured"


def test_without_another_the_figure_itself_has_the_target() -> None:
    """As for the seconds of an opening."""
    found = contest({"ours": [900, 1000, 1100]}, target_of(1024, "ours", least=False))
    assert found["targets"][0]["ratio"]["median"] == 1000
    assert found["targets"][0]["met"] is True


def test_on_tcp_a_contestant_runs_once_and_is_compared_with_that_round() -> None:
    """With the others' figures on TCP where they live in an actor system, and else with what they always have."""
    samples: dict[str, list[float]] = {
        "ours": [8, 9, 9],
        "ours@tcp": [2],
        "a": [4, 3, 3],
        "a@tcp": [1],
        "floor": [0.5, 5, 5],
    }
    assert contest(samples, target_of(1, "ours", "a"))["targets"][0]["on_tcp"] == 2
    found = contest(samples, target_of(1, "ours", "floor"))
    assert found["targets"][0]["on_tcp"] == 4
    assert found["targets"][0]["ratio"]["values"] == [16, 1.8, 1.8]
    assert [contestant["name"] for contestant in found["contestants"]] == ["ours", "ours@tcp", "a", "a@tcp", "floor"]


def run_of(median_: float, low: float, high: float, *, least: bool = True) -> dict[str, Any]:
    """A run with one ratio."""
    ratio = {"median": median_, "low": low, "high": high}
    return {"groups": [{"targets": [{"what": "to the floor", "ratio": ratio, "at_least": least}]}]}


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
    accepted = run_of(1.0, 0.9, 1.1, least=False)
    assert len(compare(accepted, run_of(1.5, 1.4, 1.6, least=False)).regressions) == 1
    assert compare(accepted, run_of(0.5, 0.4, 0.6, least=False)).regressions == []


def test_ratios_that_one_run_lacks_are_named_and_are_no_regression() -> None:
    """A quick run of some rows can be compared."""
    compared = compare(run_of(1.0, 1.0, 1.0), {"groups": []})
    assert compared.regressions == []
    assert compared.only_accepted == ["to the floor"]


def test_figures_are_shown_with_the_digits_that_mean_something() -> None:
    """Seconds in the unit that reads best."""
    assert number(0.0000123, "s") == "12.3 us"
    assert number(0.0123, "s") == "12.3 ms"
    assert number(2.5, "s") == "2.50 s"
    assert number(12345.6) == "12,346"
    assert number(0.0456) == "0.046"


def test_an_account_is_the_difference_of_two_snapshots() -> None:
    """What was used before the measured time does not count."""
    found = account(Snapshot(10.0, {"a": 1.0}), Snapshot(12.0, {"a": 2.0, "b": 0.5}))
    assert found == {"seconds": 2.0, "busy": {"a": 0.5, "b": 0.25}}


def test_each_process_is_a_row_of_its_own() -> None:
    """Two processes of one name are told apart."""
    accounts = Accounts()
    accounts.claim("Actor")
    accounts.claim("Actor")
    accounts.claim("Other")
    assert set(accounts.snapshot().cpu) == {"Actor", "Actor 2", "Other"}


def test_a_machine_at_work_is_seen_to_be_busy() -> None:
    """By who works now, at least this very process on one of its cores."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            assert busy_share(0.3) > 0.5 / (os.cpu_count() or 1)
        finally:
            other.kill()


FULL_RESULT: dict[str, Any] = {
    "machine": {
        "cores": 2,
        "processor": "some",
        "memory_GiB": 4,
        "file_system": "ext4",
        "disk": "/dev/vda",
        "kernel": "Linux 6",
        "python": "CPython 3.11",
        "date": "2026-11-27",
    },
    "scale": "full",
    "rounds": 3,
}


def every_target(**changes: Any) -> dict[str, Any]:
    """A full run in which every target was measured, and met but where `changes` say otherwise."""
    ratio = {"median": 1.0, "low": 1.0, "high": 1.0}
    groups = [
        {
            "row": target.row,
            "name": target.group,
            "unit": "s",
            "figures": [],
            "others": [0.0, 0.02],
            "contestants": [],
            "targets": [{**asdict(target), "ratio": ratio, "on_tcp": 2.0, "met": True, **changes}],
        }
        for target in TARGETS
    ]
    return {**FULL_RESULT, "groups": groups}


def test_a_run_is_accepted_if_it_is_full_whole_and_of_a_quiet_machine() -> None:
    """Each refusal names what is to be measured again."""
    assert refusals(every_target()) == []
    assert len(refusals(every_target(ratio=None))) == len(TARGETS)
    busy = every_target()
    busy["groups"][3]["others"] = [0.0, 0.4]
    (reason,) = refusals(busy)
    assert "before round 2 of durable, 4 KiB, window 256, something else used 40% of the machine" in reason
    assert "quick" in refusals({**every_target(), "scale": "quick"})[0]


def test_only_what_is_between_the_markers_of_the_page_is_made() -> None:
    """And it is made again from the same results without a difference."""
    page = "before\n<!-- results: targets -->\nold\n<!-- end -->\nbetween\n<!-- results: lines --><!-- end -->\n"
    once = rewrite(page, every_target())
    assert once.startswith("before\n<!-- results: targets -->\n\n| what |")
    assert "old" not in once
    assert "\nbetween\n" in once
    assert rewrite(once, every_target()) == once


def test_the_page_explains_each_target_that_is_not_met_and_no_other() -> None:
    """Whatever line breaks the text has, and wherever else the page names a target."""
    missed = every_target(met=False)
    names = "\n".join(f"- **{target.what}**:\n  because." for target in TARGETS)
    explained = f"{BOUNDS} it\n\n{names}\n\n## Next\n"
    bare = f"{names}\n{BOUNDS} it\n\n## Next\n\n{names}\n"
    assert bounds_to_mend(explained.replace("two actors", "two\n  actors"), missed) == []
    assert bounds_to_mend(bare, every_target()) == []
    assert [line.partition(": ")[2] for line in bounds_to_mend(bare, missed)] == [one.what for one in TARGETS]
    assert len(bounds_to_mend(explained, every_target())) == len(TARGETS)


def test_the_page_of_the_docs_has_each_section_once() -> None:
    """Results without a place would be lost."""
    page = PAGE.read_text()
    for name in SECTIONS:
        assert page.count(f"<!-- results: {name} -->\n") == 1
    assert BOUNDS in page


@pytest.mark.skipif(not ACCEPTED.exists(), reason="no run of this code was accepted yet")
def test_the_page_and_the_chart_are_those_of_the_accepted_run() -> None:
    """And the page says what bounds each target that the run missed."""
    result = json.loads(ACCEPTED.read_text())
    assert refusals(result) == []
    assert rewrite(PAGE.read_text(), result) == PAGE.read_text()
    assert draw(result) == CHART.read_text()
    assert bounds_to_mend(PAGE.read_text(), result) == []


def test_the_command_compares_two_files_and_says_so_by_its_status(tmp_path: Path) -> None:
    """0 while nothing became worse, 1 when something did; nothing is measured for it."""
    accepted, worse = tmp_path / "accepted.json", tmp_path / "worse.json"
    for path, values in ((accepted, [10.0, 10.0, 10.0]), (worse, [5.0, 5.0, 5.0])):
        group = contest({"ours": values, "a": [1, 1, 1]}, target_of(1, "ours", "a"))
        path.write_text(json.dumps({**FULL_RESULT, "groups": [group]}))
    assert main(["--from", str(accepted), "--compare", str(accepted)]) == 0
    assert main(["--from", str(worse), "--compare", str(accepted)]) == 1
    assert main(["--from", str(worse), "--compare", str(accepted), "--margin", "0.6"]) == 0
    assert main(["--from", str(worse), "--compare", str(tmp_path / "none.json")]) == 0
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**FULL_RESULT, "groups": []}))
    assert main(["--from", str(worse), "--compare", str(other)]) == 1, "nothing was compared"
