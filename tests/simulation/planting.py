"""Plants bugs in shipped classes and functions, to prove that a simulator or a test would find them.

Guarantees: a bug is there within `with bug.applied()`, in this process and those forked from it, and gone afterwards.
What it changes must exist, a text exactly once in its function: a list that fell behind the code fails on import, and
names it.

Limits: a change of text is made in the function itself, for whoever refers to it; the function has no closure.
"""

from __future__ import annotations
import __future__

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import CodeType
from typing import Any

from .drawn import Drawn
from .runner import RunResult

MORE_SEEDS = range(1001, 1021)  # tried where the code has moved on, until somebody draws anew: see README.md


@dataclass(frozen=True, slots=True)
class Planted:
    """A bug: what it breaks, one sentence, and the attribute of a class, module or function that has another value.

    A bug that no seed meets names the `scenario` that does: a function of the simulator's `test_scenarios`.
    """

    breaks: str
    what: str
    target: Any
    attribute: str
    value: Any
    also: tuple[tuple[Any, str, Any], ...] = ()
    scenario: str = ""

    def __post_init__(self) -> None:
        for target, attribute, _ in self._changes():
            if not hasattr(target, attribute):
                raise LookupError(f"{self.what}: found no {attribute!r} in {target!r}")

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The bug is there within."""
        with ExitStack() as stack:
            for target, attribute, value in self._changes():
                # As it stands in the class: `getattr` would unwrap a static method.
                was = vars(target).get(attribute, getattr(target, attribute))
                stack.callback(setattr, target, attribute, was)
                setattr(target, attribute, value)
            yield

    def _changes(self) -> Iterable[tuple[Any, str, Any]]:
        return ((self.target, self.attribute, self.value), *self.also)


def edited(breaks: str, what: str, *edits: tuple[Any, str, str, str], scenario: str = "") -> Planted:
    """A bug as changes of text, each (module or class, name of a function, what is there, what is put there)."""
    first, *also = ((getattr(owner, name), "__code__", _code(owner, name, *texts)) for owner, name, *texts in edits)
    return Planted(breaks, what, *first, also=tuple(also), scenario=scenario)


def _code(owner: Any, name: str, found: str, put: str) -> CodeType:
    function = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(found) != 1:
        raise LookupError(f"{owner.__name__}.{name}: found {source.count(found)} times {found!r}, expected it once")
    flags = __future__.annotations.compiler_flag
    code = compile(source.replace(found, put), f"<planted in {name}>", "exec", flags=flags, dont_inherit=True)
    made: dict[str, Any] = {}
    exec(code, vars(sys.modules[function.__module__]), made)
    edited_code: CodeType = made[name].__code__
    return edited_code


def named(bugs: Iterable[Planted], what: str) -> Planted:
    """The bug of a list that this sentence is about."""
    return next(bug for bug in bugs if bug.what == what)


def finds(bug: Planted, drawn: Drawn, run_seed: Callable[..., RunResult]) -> bool:
    """True if a seed finds the bug: the one that is known to, as a rule."""
    seeds = (drawn.planted.get(bug.what, (1, ""))[0], *MORE_SEEDS)
    with bug.applied():
        return any(not run_seed(seed, hashed=False).passed for seed in seeds)
