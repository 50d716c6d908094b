"""What both simulators do at the command line: see their README.md.

--seeds 1000           many seeds, from --first (by default 1), on all cores
--seed 7 --trace       one seed, every event in columns (--json: as JSON lines)
--shrink 7             the smallest run of a failing seed
--planted              which seed finds each planted bug: where the known one does not, search; note it
--sample               the fewest seeds among --seeds that reach every mark; note them

Owns: the processes that run seeds, and the line of progress.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.pool import Pool
from typing import Any

from .drawn import Drawn
from .marks import Marks
from .plan import Plan
from .runner import RunResult
from .shrink import shrink
from examples.ledger.terminal import ProgressLine

SHOWN_EVERY = 20.0  # seconds, elsewhere than on a terminal
WINDOW = 4  # seeds a process, between two looks at whether a planted bug is found


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
    drawn: Drawn

    def main(self) -> int:
        """Run what the arguments ask for; 0 if all held."""
        arguments = self._arguments()
        if arguments.planted:
            return self._planted(arguments.planted_seeds)
        if arguments.sample:
            return self._sample(arguments.first, arguments.seeds)
        if arguments.shrink is not None:
            return self._shrink(arguments.shrink)
        if arguments.seed is not None:
            return self._one(arguments.seed, trace=arguments.trace, as_json=arguments.json)
        return self._many(arguments.first, arguments.seeds, arguments.keep_going)

    def run(self, task: tuple[int, int | None]) -> RunResult:
        """Run a seed, with the planted bug of this index if there is one."""
        seed, bug = task
        with self.planted[bug].applied() if bug is not None else nullcontext():
            return self.run_plan(self.draw_plan(seed), hashed=False)

    def _arguments(self) -> argparse.Namespace:
        parser = argparse.ArgumentParser(prog=f"python -m {self.program}", description="Simulate from seeds.")
        parser.add_argument("--seed", type=int, help="run this seed")
        parser.add_argument("--trace", action="store_true", help="with --seed: print every event")
        parser.add_argument("--json", action="store_true", help="with --seed: print every event as a JSON object")
        parser.add_argument("--seeds", type=_count, default=100, help="how many seeds to run (default 100)")
        parser.add_argument("--first", type=int, default=1, help="the first of them (default 1)")
        parser.add_argument("--keep-going", action="store_true", help="go on after a failure")
        parser.add_argument("--shrink", type=int, metavar="SEED", help="shorten this failing seed")
        parser.add_argument("--planted", action="store_true", help="find a seed for each planted bug")
        parser.add_argument("--planted-seeds", type=_count, default=1000, help="give a planted bug up after so many")
        parser.add_argument("--sample", action="store_true", help="draw the sample that CI runs from --seeds seeds")
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
        for result in self._results(first, count):
            marks.merge(result.marks)
            if not result.passed:
                failures.append(result)
                self._print_result(result)
                if not keep_going:
                    break
        _print_marks(marks.counts)
        if count >= 100 and marks.missing(self.expected):
            print(f"never reached: {', '.join(marks.missing(self.expected))}")
        if failures:
            print(f"failed: {', '.join(str(result.plan.seed) for result in failures)}")
        return 1 if failures else 0

    def _results(self, first: int, count: int) -> Iterator[RunResult]:
        """Results of seeds as they come, with a progress line."""
        began, failed = time.monotonic(), 0
        with workers(self) as pool, ProgressLine(sys.stderr, SHOWN_EVERY, "seeds") as progress:
            results = pool.imap_unordered(_run, [(seed, None) for seed in range(first, first + count)])
            for done, result in enumerate(results, 1):
                failed += not result.passed
                rate = 60 * done / max(time.monotonic() - began, 1e-9)
                progress.show(done, count, f"{rate:.0f} per minute, {failed} failed", last=done == count)
                if not result.passed:
                    progress.close()  # what is printed next has lines of its own
                yield result

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
        """Note a seed for each planted bug: the known one if it still finds it, else the first from 1 on."""
        known = self.drawn.planted
        stale: list[int] = []
        with workers(self) as pool:
            tries = [(known.get(bug.what, (1, ""))[0], index) for index, bug in enumerate(self.planted)]
            for index, result in enumerate(pool.imap(_run, tries)):
                if result.passed:
                    stale.append(index)
                else:
                    self._found(index, result)
            missed = [index for index in stale if not self._search(pool, index, seeds_max)]
        for index in missed:
            print(f"{self.planted[index].what}: no seed from 1 to {seeds_max}")
            known.pop(self.planted[index].what, None)
        self.drawn.write()
        return 1 if missed else 0

    def _search(self, pool: Pool, index: int, seeds_max: int) -> bool:
        """Look for the first seed that finds the planted bug."""
        width = WINDOW * len(os.sched_getaffinity(0))
        for start in range(1, seeds_max + 1, width):
            tasks = [(seed, index) for seed in range(start, min(start + width, seeds_max + 1))]
            for result in pool.imap(_run, tasks):
                if not result.passed:
                    self._found(index, result)
                    return True
        return False

    def _found(self, index: int, result: RunResult) -> None:
        """Note it at once: who interrupts the search keeps what was found."""
        what = self.planted[index].what
        print(f"{what}: {result.plan.seed}: {result.invariant}", flush=True)
        self.drawn.planted[what] = (result.plan.seed, result.invariant)
        self.drawn.write()

    def _sample(self, first: int, count: int) -> int:
        """Note few seeds that reach every mark together: again and again the one that reaches most for its events."""
        results = sorted(self._results(first, count), key=lambda result: result.plan.seed)
        wanted, sample = set(self.expected), []
        while True:
            best = max(results, key=lambda result: len(wanted.intersection(result.marks)) / result.events)
            if wanted.isdisjoint(best.marks):
                break
            sample.append(best.plan.seed)
            wanted.difference_update(best.marks)
        print(f"sample: {sorted(sample)}; never reached: {sorted(wanted)}")
        self.drawn.sample = sorted(sample)
        self.drawn.write()
        return 1 if wanted else 0


_command: Command | None = None


@contextmanager
def workers(command: Command) -> Iterator[Pool]:
    """One process per core. They are forked, so that planted bugs need not be pickled, and ended with the block."""
    global _command
    _command = command
    with get_context("fork").Pool(len(os.sched_getaffinity(0)), _begin) as pool:
        yield pool


def _begin() -> None:
    """In a worker: Ctrl-C is the parent's to handle, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _run(task: tuple[int, int | None]) -> RunResult:
    if _command is None:
        raise RuntimeError("not a worker")
    return _command.run(task)


def _print_marks(counts: dict[str, int]) -> None:
    print("marks reached:")
    for name in sorted(counts):
        print(f"  {counts[name]:10}  {name}")


def run(command: Command) -> None:
    """Run it, and end the process, its workers included, also where it is terminated."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    try:
        status = command.main()
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
