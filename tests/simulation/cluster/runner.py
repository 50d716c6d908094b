"""Runs seeds of the whole cluster, and says what came of them: see `tests.simulation.runner`."""

from __future__ import annotations

from collections.abc import Callable

from ..plan import Plan
from ..runner import RunResult, run_world
from ..trace import Trace
from .plan import ClusterPlan, draw_plan
from .world import ClusterWorld


def run_plan(
    plan: Plan,
    *,
    sink: Callable[[str], None] | None = None,
    as_json: bool = False,
    copies: bool = False,
    hashed: bool = True,
) -> RunResult:
    """Run one plan. Without `hashed` it costs less, and there is no hash."""
    if not isinstance(plan, ClusterPlan):
        raise TypeError("not a plan of the whole cluster")
    trace = Trace(sink, as_json=as_json, hashed=hashed)
    return run_world(ClusterWorld(plan, trace=trace, copies=copies))


def run_seed(seed: int, *, hashed: bool = True) -> RunResult:
    """Run the plan of a seed."""
    return run_plan(draw_plan(seed), hashed=hashed)
