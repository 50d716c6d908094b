"""What both simulators do at the command line: see their README.md.

--seeds 1000           many seeds, from --first (by default 1)
--seed 7 --trace       one seed, every event in columns (--json: as JSON lines)
--shrink 7             the smallest run of a failing seed
--planted              how many seeds each planted bug survives
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .marks import Marks
from .plan import Plan
from .runner import RunResult
from .shrink import shrink


def _count(text: str) -> int:
    """At least one: no seed fails among none."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 1")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One simulator's command line: what it is called, how it draws a plan and runs it, what it must reach and find."""

    program: str
    draw_plan: Callable[[int], Plan]
    run_plan: Callable[..., RunResult]
    expected: tuple[str, ...]
    planted: tuple[Any, ...]
    measure: Callable[..., Any]
    table_of: Callable[[list[Any]], str]

    def main(self) -> int:
        """Run what the arguments ask for; 0 if all held."""
        arguments = self._arguments()
        if arguments.planted:
            return self._planted(arguments.planted_seeds)
        if arguments.shrink is not None:
            return self._shrink(arguments.shrink)
        if arguments.seed is not None:
            return self._one(arguments.seed, trace=arguments.trace, as_json=arguments.json)
        return self._many(arguments.first, arguments.seeds, arguments.keep_going)

    def _arguments(self) -> argparse.Namespace:
        parser = argparse.ArgumentParser(prog=f"python -m {self.program}", description="Simulate from seeds.")
        parser.add_argument("--seed", type=int, help="run this seed")
        parser.add_argument("--trace", action="store_true", help="with --seed: print every event")
        parser.add_argument("--json", action="store_true", help="with --seed: print every event as a JSON object")
        parser.add_argument("--seeds", type=_count, default=100, help="how many seeds to run (default 100)")
        parser.add_argument("--first", type=int, default=1, help="the first of them (default 1)")
        parser.add_argument("--keep-going", action="store_true", help="go on after a failure")
        parser.add_argument("--shrink", type=int, metavar="SEED", help="shorten this failing seed")
        parser.add_argument("--planted", action="store_true", help="measure how many seeds each planted bug needs")
        parser.add_argument("--planted-seeds", type=_count, default=5000, help="give a planted bug up after so many")
        return parser.parse_args()

    def _one(self, seed: int, *, trace: bool, as_json: bool) -> int:
        sink = print if trace or as_json else None
        result = self.run_plan(self.draw_plan(seed), sink=sink, as_json=as_json)
        if not as_json:
            self._print_result(result)
            _print_marks(result.marks)
        return 0 if result.passed else 1

    def _many(self, first: int, count: int, keep_going: bool) -> int:
        marks, failures = Marks(), []
        started = shown = time.monotonic()
        for number in range(count):
            result = self.run_plan(self.draw_plan(first + number))
            marks.merge(result.marks)
            if not result.passed:
                failures.append(result)
                print(file=sys.stderr)
                self._print_result(result)
                if not keep_going:
                    break
            now = time.monotonic()
            if now - shown >= 1.0 or number == count - 1:
                shown = now
                rate = 60 * (number + 1) / (now - started)
                line = f"{number + 1} of {count} seeds, {rate:.0f} a minute, {len(failures)} failed"
                print(f"\r{line}", end="" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        _print_marks(marks.counts)
        if count >= 100 and marks.missing(self.expected):
            print(f"never reached: {', '.join(marks.missing(self.expected))}")
        if failures:
            print(f"failed: {', '.join(str(result.plan.seed) for result in failures)}")
        return 1 if failures else 0

    def _print_result(self, result: RunResult) -> None:
        if result.passed:
            print(f"seed {result.plan.seed} passed: {result.events} events, {result.virtual_seconds:.1f} s virtual")
            print(f"hash {result.hash}")
            return
        print("the last events:")
        for line in result.last:
            print(f"  {line}")
        print(f"seed {result.plan.seed} failed")
        print(f"  invariant  {result.failure}")
        print(f"  plan       {result.plan.differences()}")
        print(f"  replay     python -m {self.program} --seed {result.plan.seed} --trace")

    def _shrink(self, seed: int) -> int:
        result = shrink(self.draw_plan(seed), report=print, run=self.run_plan)
        if result is None:
            print(f"seed {seed} passes: there is nothing to shrink")
            return 0
        self._print_result(result)
        return 1

    def _planted(self, seeds_max: int) -> int:
        def report(line: str) -> None:
            print(line, file=sys.stderr, flush=True)

        found = [self.measure(bug, seeds_max, report=report) for bug in self.planted]
        print(self.table_of(found))
        return 0 if all(bug.invariant for bug in found) else 1


def _print_marks(counts: dict[str, int]) -> None:
    print("marks reached:")
    for name in sorted(counts):
        print(f"  {counts[name]:10}  {name}")


def run(command: Command) -> None:
    """Run it, and end the process."""
    try:
        status = command.main()
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
