"""Runs seeds, and says what came of them.

Guarantees: a result depends on the plan alone, and carries all that is needed to run it again. Owns: nothing.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from client_replies.actors.thespian.logs import configure_logging

from .broken import Broken
from .plan import Plan, draw_plan
from .trace import Trace
from .world import World

SILENT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What came of one seed. `failure` is empty if all held."""

    plan: Plan
    invariant: str = ""
    failure: str = ""
    hash: str = ""
    events: int = 0
    virtual_seconds: float = 0.0
    marks: dict[str, int] = field(default_factory=dict)
    last: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True if every invariant held."""
        return not self.failure


def run_plan(
    plan: Plan,
    *,
    sink: Callable[[str], None] | None = None,
    as_json: bool = False,
    copies: bool = False,
    hashed: bool = True,
) -> RunResult:
    """Run one plan. Without `hashed` it costs less, and there is no hash."""
    return run_world(World(plan, trace=Trace(sink, as_json=as_json, hashed=hashed), copies=copies))


def run_world(world: World) -> RunResult:
    """Run what was built for a plan."""
    configure_logging(None, SILENT)
    trace = world.trace
    invariant, failure = "", ""
    try:
        world.run()
    except Broken as broken:
        invariant, failure = broken.invariant, str(broken)
        if broken.__context__ is not None:
            failure += "\n" + "".join(_cause(broken.__context__))
    return RunResult(
        plan=world.plan,
        invariant=invariant,
        failure=failure,
        hash=trace.digest(),
        events=trace.events,
        virtual_seconds=world.system.now / 1e6,
        marks=dict(world.marks.counts),
        last=tuple(trace.last_lines()) if failure else (),
    )


def _cause(error: BaseException) -> list[str]:
    """The innermost frames of what began it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return traceback.format_exception(error)[-8:]


def run_seed(seed: int, *, hashed: bool = True) -> RunResult:
    """Run the plan of a seed."""
    return run_plan(draw_plan(seed), hashed=hashed)
