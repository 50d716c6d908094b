"""`python -m benchmarks`: all rows, or those that are named, as tables, JSON and the page of the docs.

    python -m benchmarks --quick --rows durable --groups '4 KiB'      while making something fast
    python -m benchmarks --compare benchmarks/results/accepted.json   has anything become worse?
    python -m benchmarks --accept                                     this run is the one that the docs show
    python -m benchmarks --from run.json --rows cluster --accept      the same, with this row measured once more

Exit status 1 if a measurement failed, the run was not accepted or, with --compare, a ratio became worse or none is in
both.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .chart import draw
from .compare import MARGIN, compare, compared_rows
from .contest import FULL, QUICK, ROOT, TINY, Scale, run_apart, run_group
from .machine import QUIET_MAX, describe, settled
from .measure import DIRECTORY
from .page import BOUNDS, CHART_NAME, bounds_to_mend, rewrite
from .report import contestant_rows, head_text, show_rows, target_rows
from .targets import TARGETS
from examples.ledger.terminal import ProgressLine, show

ROWS = tuple(dict.fromkeys(target.row for target in TARGETS))
ACCEPTED = ROOT / "benchmarks" / "results" / "accepted.json"
PAGE = ROOT / "docs" / "benchmarks.md"
CHART = PAGE.parent / CHART_NAME


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="each contestant once, for a moment: to see that all works"
    )
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rows", help=f"some of {','.join(ROWS)} (all; with --from, none)")
    parser.add_argument("--groups", default="", help="only groups whose name begins with one of these")
    parser.add_argument("--rounds", type=int, help="how often each contestant runs")
    parser.add_argument("--seconds", type=float, help="how long each run lasts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="compare with the results in this file")
    parser.add_argument("--margin", type=float, default=MARGIN, help=f"by how much a ratio may be worse ({MARGIN})")
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="source", help="take these results; measure only --rows"
    )
    parser.add_argument(
        "--accept", action="store_true", help="keep the results as the accepted ones, rewrite the docs and their chart"
    )
    return parser.parse_args(given)


def scale_of(chosen: argparse.Namespace) -> Scale:
    """How much is measured."""
    scale = TINY if chosen.tiny else QUICK if chosen.quick else FULL
    return Scale(scale.name, chosen.rounds or scale.rounds, chosen.seconds or scale.seconds)


def run_rows(chosen: argparse.Namespace) -> dict[str, Any]:
    """Run what was asked for, printing each group as it ends."""
    result: dict[str, Any] = json.loads(chosen.source.read_text()) if chosen.source else {"groups": []}
    rows = chosen.rows.split(",") if chosen.rows else () if chosen.source else ROWS
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        raise SystemExit(f"there is no row {unknown[0]!r}: some of {', '.join(ROWS)}")
    if not rows:
        return result
    scale = scale_of(chosen)
    if chosen.accept and scale.is_full and (busy := settled()) > QUIET_MAX:
        raise SystemExit(
            f"not accepted: something else uses {busy:.0%} of the machine, expected at most {QUIET_MAX:.0%}: end it"
        )
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    # Of a run that some rows are measured again for, the rounds are those of the rest.
    result |= {"machine": describe(DIRECTORY), "scale": scale.name, "rounds": result.get("rounds", scale.rounds)}
    chosen_groups = [
        group
        for row in rows
        for group in importlib.import_module(f"benchmarks.{row}").groups(scale)
        if group.name.startswith(tuple(chosen.groups.split(",")))
    ]
    total = sum(
        min(turn.rounds_max, scale.rounds) for group in chosen_groups for turn in group.turns if not turn.missing
    )
    done = itertools.count()
    with ProgressLine(sys.stderr, what="measurements") as progress:
        for group in chosen_groups:
            found = run_group(
                group,
                scale,
                run_apart,
                lambda text: progress.show(next(done), total, text),
                settled if scale.is_full else lambda: 0.0,
            )
            progress.close()
            _put(result["groups"], found)
            write_json(result, chosen.json)  # what was measured is kept, whatever happens next
            show([f"{group.row}: {group.name}"])
            show_rows(contestant_rows(found))
            show([""])
    return result


def _put(groups: list[dict[str, Any]], found: dict[str, Any]) -> None:
    """Add a group, or put it in the place of an older run of the same."""
    for number, group in enumerate(groups):
        if (group["row"], group["name"]) == (found["row"], found["name"]):
            groups[number] = found
            return
    groups.append(found)


def write_json(result: dict[str, Any], path: Path | None) -> None:
    """Write everything that was measured."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")


def refusals(result: dict[str, Any]) -> list[str]:
    """Why the docs must not show this run; nothing if they may."""
    found = [] if result["scale"] == FULL.name else [f"it is a {result['scale']} run: leave out --quick"]
    for group in result["groups"]:
        for number, busy in enumerate(group["others"], 1):
            if busy > QUIET_MAX:
                found.append(
                    f"before round {number} of {group['row']}, {group['name']}, something else used {busy:.0%} of the "
                    f"machine, expected at most {QUIET_MAX:.0%}: end it, and measure --rows {group['row']} again"
                )
    measured = {target["what"] for group in result["groups"] for target in group["targets"] if target["ratio"]}
    missing = [target for target in TARGETS if target.what not in measured]
    return found + [f"{target.what} was not measured: measure --rows {target.row} again" for target in missing]


def accept(result: dict[str, Any]) -> bool:
    """Keep the results and make the page of them, unless that is refused; says why, or what the page lacks."""
    found = refusals(result)
    for reason in found:
        print(f"not accepted: {reason}", file=sys.stderr)
    if found:
        return False
    write_json(result, ACCEPTED)
    CHART.write_text(draw(result))
    page = rewrite(PAGE.read_text(), result)
    PAGE.write_text(page)
    for reason in bounds_to_mend(page, result):
        print(f"{PAGE.name}, {BOUNDS!r}, {reason}", file=sys.stderr)
    return True


def show_comparison(result: dict[str, Any], chosen: argparse.Namespace) -> int:
    """Print how the run compares with another; the number of regressions, or 1 if the two have no ratio in common."""
    if not chosen.compare.exists():
        print(f"\nthere is no {chosen.compare} to compare with")
        return 0
    compared = compare(json.loads(chosen.compare.read_text()), result, chosen.margin)
    print(f"\ncompared with {chosen.compare}, margin {chosen.margin:.0%}:")
    show_rows(compared_rows(compared))
    for title, keys in (("not measured now", compared.only_accepted), ("not in that run", compared.only_found)):
        for what in keys:
            print(f"{title}: {what}")
    if not compared.differences:
        print("nothing was compared: no ratio is in both")
        return 1
    print(f"{len(compared.regressions)} regressions")
    return len(compared.regressions)


def main(given: Sequence[str]) -> int:
    """Run the command."""
    chosen = arguments(given)
    result = run_rows(chosen)
    write_json(result, chosen.json)
    print(head_text(result))
    show_rows(target_rows(result["groups"]))
    # Before the results may take the place of those that they are compared with.
    regressions = show_comparison(result, chosen) if chosen.compare else 0
    refused = chosen.accept and not accept(result)
    failed = [c for group in result["groups"] for c in group["contestants"] if c.get("failed")]
    for contestant in failed:
        print(f"\n{contestant['title']} failed:\n{contestant['failed']}", file=sys.stderr)
    return 1 if failed or regressions or refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
