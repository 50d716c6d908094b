"""`python -m benchmarks`: all rows, or those that are named, as tables, JSON, plots and the page of the docs.

    python -m benchmarks --quick --rows durable --groups '4 KiB' --messages     while making something fast
    python -m benchmarks --compare benchmarks/results/accepted.json             has anything become worse?
    python -m benchmarks --accept                                               this run is the one that the docs show

Exit status 1 if a measurement failed or, with --compare, a ratio became worse or none is in both.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .compare import MARGIN, compare, compared_rows
from .contest import FULL, QUICK, ROOT, TINY, Scale, run_apart, run_group
from .machine import describe, settle
from .measure import DIRECTORY
from .page import rewrite
from .plots import draw
from .report import group_text, head_text, summary_rows, text_table

ROWS = ("round_trip", "durable", "read", "commit", "scale", "repair", "needless", "cluster")
ACCEPTED = ROOT / "benchmarks" / "results" / "accepted.json"
PAGE = ROOT / "docs" / "benchmarks.md"
PAGE_PLOTS = ROOT / "docs" / "plots"


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under two minutes: to see that all works, not to quote")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rows", default=",".join(ROWS), help=f"some of {','.join(ROWS)}")
    parser.add_argument("--groups", default="", help="only groups whose name begins with one of these")
    parser.add_argument("--rounds", type=int, help="how often each contestant runs")
    parser.add_argument("--seconds", type=float, help="how long each run lasts")
    parser.add_argument("--messages", action="store_true", help="also print what was sent by whom")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw a plot for each row")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="compare with the results in this file")
    parser.add_argument("--margin", type=float, default=MARGIN, help=f"by how much a ratio may be worse ({MARGIN})")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="source", help="take these results, measure nothing")
    parser.add_argument(
        "--accept", action="store_true", help="keep the results as the accepted ones, rewrite the docs and their plots"
    )
    return parser.parse_args(given)


def scale_of(chosen: argparse.Namespace) -> Scale:
    """How much is measured."""
    scale = TINY if chosen.tiny else QUICK if chosen.quick else FULL
    return Scale(scale.name, chosen.rounds or scale.rounds, chosen.seconds or scale.seconds)


def run_rows(chosen: argparse.Namespace) -> dict[str, Any]:
    """Run what was asked for, printing each group as it ends."""
    scale = scale_of(chosen)
    rows = chosen.rows.split(",")
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        raise SystemExit(f"there is no row {unknown[0]!r}: some of {', '.join(ROWS)}")
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    if scale.is_full:
        _say("waiting for the machine to be quiet")
        settle()
        _say("")
    machine = describe(DIRECTORY)
    result: dict[str, Any] = {"machine": machine, "scale": scale.name, "rounds": scale.rounds, "groups": []}
    print(head_text(result))
    for row in rows:
        for group in importlib.import_module(f"benchmarks.{row}").groups(scale):
            if group.name.startswith(tuple(chosen.groups.split(","))):
                found = run_group(group, scale, run_apart, _say)
                _say("")
                result["groups"].append(found)
                print(group_text(found, with_messages=chosen.messages), flush=True)
    return result


def _say(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def keep(result: dict[str, Any], chosen: argparse.Namespace) -> None:
    """Write what was asked for."""
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    if chosen.plots:
        draw(result, chosen.plots)
    if chosen.accept:
        ACCEPTED.parent.mkdir(parents=True, exist_ok=True)
        ACCEPTED.write_text(json.dumps(result, indent=1) + "\n")
        plots = {path.stem: str(path.relative_to(PAGE.parent)) for path in draw(result, PAGE_PLOTS)}
        PAGE.write_text(rewrite(PAGE.read_text(), result, plots))


def show_comparison(result: dict[str, Any], chosen: argparse.Namespace) -> int:
    """Print how the run compares with another; the number of regressions, or 1 if the two have no ratio in common."""
    if not chosen.compare.exists():
        print(f"\nthere is no {chosen.compare} to compare with")
        return 0
    compared = compare(json.loads(chosen.compare.read_text()), result, chosen.margin)
    print(f"\ncompared with {chosen.compare}, margin {chosen.margin:.0%}:")
    print(text_table(compared_rows(compared), ""))
    for title, keys in (("not measured now", compared.only_accepted), ("not in that run", compared.only_found)):
        for key in keys:
            print(f"{title}: {', '.join(key)}")
    if not compared.differences:
        print("nothing was compared: no ratio is in both")
        return 1
    print(f"{len(compared.regressions)} regressions")
    return len(compared.regressions)


def main(given: Sequence[str]) -> int:
    """Run the command."""
    chosen = arguments(given)
    result = json.loads(chosen.source.read_text()) if chosen.source else run_rows(chosen)
    print(text_table(summary_rows(result["groups"]), ""))
    # Before the results may take the place of those that they are compared with.
    regressions = show_comparison(result, chosen) if chosen.compare else 0
    keep(result, chosen)
    failed = [c for group in result["groups"] for c in group["contestants"] if c.get("failed")]
    for contestant in failed:
        print(f"\n{contestant['title']} failed:\n{contestant['failed']}", file=sys.stderr)
    return 1 if failed or regressions else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
