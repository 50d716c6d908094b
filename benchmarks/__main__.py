"""`python -m benchmarks`: all rows, or those that are named, in tables, JSON, plots and a page of the docs."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .contest import FULL, QUICK, TINY, Scale, run_apart, run_group
from .machine import describe
from .measure import DIRECTORY
from .report import group_text, head_text, summary_rows, text_table

ROWS = ("durable", "read", "commit", "scale", "repair", "needless")


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under two minutes: to see that all works, not to quote")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rows", default=",".join(ROWS), help=f"some of {','.join(ROWS)}")
    parser.add_argument("--groups", default="", help="only groups whose name begins with one of these")
    parser.add_argument("--rounds", type=int, help="how often each contestant runs")
    parser.add_argument("--seconds", type=float, help="how long each run lasts")
    parser.add_argument("--messages", action="store_true", help="also print what was sent by whom")
    parser.add_argument("--json", type=Path, help="write everything that was measured to this file")
    return parser.parse_args(given)


def scale_of(chosen: argparse.Namespace) -> Scale:
    """How much is measured."""
    scale = TINY if chosen.tiny else QUICK if chosen.quick else FULL
    return Scale(scale.name, chosen.rounds or scale.rounds, chosen.seconds or scale.seconds)


def run_rows(chosen: argparse.Namespace) -> dict[str, Any]:
    """Run what was asked for, printing each group as it ends."""
    scale = scale_of(chosen)
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    machine = describe(DIRECTORY)
    result: dict[str, Any] = {"machine": machine, "scale": scale.name, "rounds": scale.rounds, "groups": []}
    print(head_text(result))
    for row in chosen.rows.split(","):
        if row not in ROWS:
            raise SystemExit(f"there is no row {row!r}: some of {', '.join(ROWS)}")
        for group in importlib.import_module(f"benchmarks.{row}").groups(scale):
            if group.name.startswith(tuple(chosen.groups.split(","))):
                found = run_group(group, scale, run_apart, _say)
                result["groups"].append(found)
                print(group_text(found, with_messages=chosen.messages))
    return result


def _say(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}\r")


def main(given: Sequence[str]) -> int:
    """Run the command; 1 if a measurement failed."""
    chosen = arguments(given)
    result = run_rows(chosen)
    print(text_table(summary_rows(result["groups"]), ""))
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    failed = [c for group in result["groups"] for c in group["contestants"] if c.get("failed")]
    for contestant in failed:
        print(f"\n{contestant['title']} failed:\n{contestant['failed']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
