"""Measure what unit tests notice: change a module in one place, run its tests, and again for each place of a sample.

A mutant is caught if a test fails, nothing can be imported, or the tests take several times as long as they should.
Guarantees: each runs in a process of its own, which changes the module as it is imported; the checkout is not written.
The same seed gives the same sample. Limits: not changed are strings, annotations, decorators, calls that log, what
`repr` shows, whether a `zip` is strict, and a module's constants: figures, which a test would only repeat. Linux only.
"""

from __future__ import annotations

import argparse
import ast
import math
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.machinery import SourceFileLoader
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

# For the tests, once: a mutant's process is forked from this one, and imports only what is in this checkout.
import hypothesis  # noqa: F401
import pytest
import structlog  # noqa: F401
import thespian.actors  # noqa: F401
import xxhash  # noqa: F401

FORK = get_context("fork")
ROOT = Path(__file__).resolve().parents[1]
RATIO_MIN = 0.9
TIMEOUT_FACTOR, TIMEOUT_MORE = 4.0, 10.0  # seconds, beyond what the unchanged module's tests take
MEMORY_MAX = 4 << 30  # bytes of a mutant that never ceases to append

# The unit tests of each module: files, or other arguments of pytest.
TESTS: dict[str, tuple[str, ...]] = {
    "storage/client_sessions.py": ("tests/storage/test_client_sessions.py",),
    "storage/data_file.py": (
        "tests/storage/test_data_file.py",
        "tests/storage/test_damaged_files.py",
        "tests/storage/test_misreads.py",
        "tests/storage/test_refusals.py",
    ),
    "storage/leases.py": ("tests/storage/test_leases.py",),
    "actors/component/slots.py": ("tests/actors/component/test_slots.py",),
    "actors/component/repair_planner.py": ("tests/actors/component/test_repair_planner.py",),
    "actors/component/writing.py": ("tests/actors/component/test_writing.py",),
    "actors/owner/replies_port.py": ("tests/actors/owner/test_replies_port.py",),
    "actors/owner/write_queue.py": (
        "tests/actors/owner/test_write_queue.py",
        "tests/actors/owner/test_replies_port.py",
    ),
    "actors/owner/buffers.py": (
        "tests/actors/owner/test_buffers.py",
        "tests/actors/owner/test_replies_port.py",
    ),
    "actors/owner/queries.py": ("tests/actors/owner/test_replies_port.py",),
}

# Mutants that no test could catch, as they are printed, each with its reason.
FAST_PATH = "the checks one by one, which follow, come to the same"
SET_BEFORE_READ = "set before it is read"
ONE_OF_THE_TWO = "for the holder's 0; each message names an owner or a holder"
NO_OP_BELOW = "ops and serials are 0 or more"
EQUIVALENT: dict[str, dict[str, str]] = {
    "storage/data_file.py": {
        'self._cluster = superblock.cluster.to_bytes(16, "little") [16 -> 17]': FAST_PATH,
        "ahead.append((run, reader.submit(self._read_run, run, memories[0]))) [0 -> -1]": "the other of the two",
        "if _size_of(run) > RUN_SIZE // 2: [_size_of(run) > RUN_SIZE // 2 -> _size_of(run) >= RUN_SIZE // 2]": "only "
        "from when on another thread reads",
    },
    "actors/owner/replies_port.py": {
        "if op > self._queue.committed: [op > self._queue.committed -> op >= self._queue.committed]": "sets what it is",
        'if (getattr(message, "owner", 0) or getattr(message, "holder", 0)) != self.owner: [0 -> -1]': ONE_OF_THE_TWO,
        'if (getattr(message, "owner", 0) or getattr(message, "holder", 0)) != self.owner: [0 -> 1]': ONE_OF_THE_TWO,
    },
    "actors/owner/buffers.py": {
        "lease = leases[0] if leases else self._queue.take_from_behind(self.contents) [0 -> -1]": "the only one",
    },
    "actors/owner/write_queue.py": {
        "op: int = 0  # of the last operation [0 -> 1]": SET_BEFORE_READ,
        "op: int = 0  # of the last operation [0 -> -1]": SET_BEFORE_READ,
        "after: int = 0  # the op of the last operation before a checkpoint [0 -> -1]": NO_OP_BELOW,
        "self._last_op = 0  # of the last operation [0 -> -1]": NO_OP_BELOW,
        "self._due_at = 0.0  # when operations that nobody waits for may go out [0.0 -> -1.0]": "no clock shows less",
        "self._placed = 0  # the last place that got a buffer [0 -> 1]": "no place is before the first, which is 1",
        "self._placed = 0  # the last place that got a buffer [0 -> -1]": "no place is before the first, which is 1",
        "first = self._stages[0] if len(self._stages) == 1 else None [0 -> -1]": "the only one",
        'raise InvariantBroken("what waits for a buffer is a reply\'s bytes") [removed]': "nothing else is listed",
        "for slot, payload in reversed(stage.payloads.items()) if first < self._placed else (): "
        "[first < self._placed -> first <= self._placed]": "nothing behind the last place with a buffer has one",
        "committed, unplaced = self.committed, self.unplaced[0][0] if self.unplaced else 0 [0 -> -1]": NO_OP_BELOW,
    },
    "actors/component/repair_planner.py": {
        "longest = min(self._backoff_max, self._timeout * 2.0 ** min(failures, 30)) [30 -> 29]": "far beyond the bound",
        "longest = min(self._backoff_max, self._timeout * 2.0 ** min(failures, 30)) [30 -> 31]": "far beyond the bound",
    },
    "actors/component/slots.py": {
        "return next(iter(self._pending), barrier + 1) > barrier [1 -> 2]": "anything above the barrier will do",
    },
    "actors/component/writing.py": {
        'self._cluster = opened.config.cluster.to_bytes(16, "little")  # as it is packed [16 -> 17]': FAST_PATH,
        "if max(message.slots, default=0) >= config.clients_max: [0 -> -1]": "without slots neither is too large",
        "return leases [return leases -> return None]": "empty; without leases it is asked only whether it is",
        "if isinstance(payload, bytes) and not size == len(payload) <= config.inline_size_max: "
        "[size == len(payload) <= config.inline_size_max -> size == len(payload) < config.inline_size_max]": FAST_PATH,
    },
}

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
REMOVED = ast.Expr | ast.Assign | ast.AugAssign | ast.Raise | ast.Delete


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of a module: where, what is printed of it, and how it is made in the tree that it was found in."""

    line: int
    change: str
    make: Callable[[], None]

    def shown(self, source: str) -> str:
        """What is printed: the line as it stands, and the change."""
        return f"{source.splitlines()[self.line - 1].strip()} [{self.change}]"


def mutants(tree: ast.Module) -> list[Mutant]:
    """Every change of this tree, in an order that depends on nothing else."""
    return [mutant for node in _changeable(tree) for mutant in _mutants_of(node)]


def _changeable(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all within it, but for what no test is to repeat."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            figure = isinstance(node, ast.Module) and isinstance(child, ast.Assign)
            figure |= isinstance(child, ast.keyword) and child.arg in ("repr", "strict")
            if isinstance(child, ast.AST) and not figure and not _is_talk(child):
                yield from _changeable(child)


def _is_talk(node: ast.AST) -> bool:
    """True for a docstring, and for a call that logs."""
    if not isinstance(node, ast.Expr):
        return False
    value = node.value
    return isinstance(value, ast.Constant) or (isinstance(value, ast.Call) and "log" in ast.unparse(value.func))


def _mutants_of(node: ast.AST) -> Iterator[Mutant]:
    """The changes of one node, but not of those within it."""
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for other in COMPARISONS[type(operator)]:
                yield _changed(node, "ops", [*node.ops[:place], other(), *node.ops[place + 1 :]])
    elif isinstance(node, ast.BoolOp):
        yield _changed(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in OPERATORS:
        yield _changed(node, "op", OPERATORS[type(node.op)]())
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield _changed(node, "value", not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield from (_changed(node, "value", node.value + more) for more in (1, -1))
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        yield _changed(node, "test", ast.UnaryOp(ast.Not(), node.test), shown="test")
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield _changed(node, "value", ast.Constant(None))
    if isinstance(node, ast.Module | ast.ClassDef):
        return
    for name in ("body", "orelse", "finalbody"):
        block: Any = getattr(node, name, None)
        for place, statement in enumerate(block) if isinstance(block, list) else ():
            if isinstance(statement, REMOVED) and not _is_talk(statement):
                put = partial(block.__setitem__, place, ast.copy_location(ast.Pass(), statement))
                yield Mutant(statement.lineno, "removed", put)


def _changed(node: Any, field: str, value: Any, *, shown: str = "") -> Mutant:
    """The node with another value of a field."""
    was = getattr(node, field)
    before = ast.unparse(getattr(node, shown) if shown else node)
    setattr(node, field, value)
    after = ast.unparse(getattr(node, shown) if shown else node)
    setattr(node, field, was)
    return Mutant(node.lineno, f"{before} -> {after}", partial(setattr, node, field, value))


def module_name(path: str) -> str:
    """The name that the tests import a module by."""
    return "client_replies." + path.removesuffix(".py").replace("/", ".")


def run_tests(path: str, mutant: int | None) -> None:
    """In a process of its own, which ends with status 0 if the tests of the module pass, with a mutant or without."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)
    name, get_code = module_name(path), SourceFileLoader.get_code
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    if mutant is not None:
        mutants(tree)[mutant].make()
    code = compile(ast.fix_missing_locations(tree), str(ROOT / path), "exec", dont_inherit=True)
    changed: Any = lambda loader, fullname: code if fullname == name else get_code(loader, fullname)  # noqa: E731
    SourceFileLoader.get_code = changed  # type: ignore[method-assign]
    status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *TESTS[path]]))
    os._exit(status or name not in sys.modules)


def survivors(path: str, chosen: Sequence[int | None], timeout: float | None) -> list[int | None]:
    """Those of these mutants with which all tests pass, as many at a time as there are cores."""
    waiting, survived = list(reversed(chosen)), []
    running: dict[int, tuple[ForkProcess, int | None, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < len(os.sched_getaffinity(0)):
                mutant = waiting.pop()
                process = FORK.Process(target=run_tests, args=(path, mutant))
                process.start()
                running[process.sentinel] = (process, mutant, time.monotonic() + (timeout or math.inf))
            first = min(deadline for _, _, deadline in running.values()) - time.monotonic()
            ended = wait(list(running), None if timeout is None else max(0.0, first))
            for sentinel, (process, mutant, deadline) in list(running.items()):
                if sentinel in ended or time.monotonic() >= deadline:
                    del running[sentinel]
                    if end(process) == 0:
                        survived.append(mutant)
    finally:
        for process, _, _ in running.values():
            end(process)
    return survived


def end(process: ForkProcess) -> int | None:
    """End the process if it has not ended, and whatever it started; gives its exit status."""
    process.kill()
    process.join()
    if process.pid is not None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.exitcode


def measure(path: str, sample: int, seed: int) -> float:
    """Run a sample of a module's mutants, print what survived, and give the ratio that was caught."""
    source = (ROOT / path).read_text(encoding="utf-8")
    found = mutants(ast.parse(source))
    shown = [mutant.shown(source) for mutant in found]
    stale = EQUIVALENT.get(path, {}).keys() - set(shown)
    if stale:
        raise SystemExit(f"{path}: found no mutants {sorted(stale)}, expected those in the list of exceptions")
    numbers = [number for number, text in enumerate(shown) if text not in EQUIVALENT.get(path, {})]
    chosen = sorted(random.Random(seed).sample(numbers, min(sample or len(numbers), len(numbers))))
    began = time.monotonic()
    if not survivors(path, [None], None):
        raise SystemExit(f"{path}: found unit tests that fail or do not import it, expected a pass: {TESTS[path]}")
    timeout = TIMEOUT_FACTOR * (time.monotonic() - began) + TIMEOUT_MORE
    survived = survivors(path, chosen, timeout)
    ratio = 1 - len(survived) / len(chosen)
    taken = time.monotonic() - began
    print(f"{path:32} {len(chosen) - len(survived):4} of {len(chosen):4}  {ratio:.2f}  {taken:4.0f} s", flush=True)
    for number in sorted(number for number in survived if number is not None):
        print(f"    {path}:{found[number].line}: {shown[number]}", flush=True)
    return ratio


def main() -> int:
    """Measure the modules of the table; 1 if one of them is below the ratio that is wanted."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, default=60, help="mutants of each module; 0 for all (default 60)")
    parser.add_argument("--seed", type=int, default=1, help="random seed of the sample (default 1)")
    parser.add_argument("--only", default="", help="only modules with this in their path")
    arguments = parser.parse_args()
    sys.dont_write_bytecode = True
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as storage:
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = storage
        ratios = [measure(path, arguments.sample, arguments.seed) for path in TESTS if arguments.only in path]
    return 1 if min(ratios, default=0.0) < RATIO_MIN else 0


if __name__ == "__main__":
    sys.exit(main())
