"""Makes a failing plan smaller while it still fails in the same way.

Guarantees: what is returned fails with the invariant that the first run broke. Tries fewer requests and clients, then
every kind of fault off, then everything else as by default, again and again until nothing more can go. Limits: it
finds a small one, not the smallest; the order of trials is fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

from .plan import Plan
from .runner import RunResult, run_plan

Change = Callable[[Plan], Plan]


def shrink(
    plan: Plan, *, report: Callable[[str], None], run: Callable[[Plan], RunResult] = run_plan
) -> RunResult | None:
    """The result of the smallest plan found, or None if the plan passes."""
    best = run(plan)
    if best.passed:
        return None
    report(f"{best.events} events: {best.failure.splitlines()[0]}")
    progress = True
    while progress:
        progress = False
        for what, change in _changes(plan):
            smaller = change(best.plan)
            if smaller == best.plan:
                continue
            result = run(smaller)
            if not result.passed and result.invariant == best.invariant:
                best, progress = result, True
                report(f"{best.events} events with {what}")
    return best


def _changes(plan: Plan) -> Iterator[tuple[str, Change]]:
    """Every way to make a plan smaller, each to be applied to the smallest that is known by then."""
    for share in (4, 2):
        yield f"1/{share} of the requests", _share_of_requests(share)
    yield "half of the clients", lambda best: best.changed(clients=max(1, best.clients // 2))
    plain = type(plan)(seed=plan.seed, primary_rate=0.0)
    for field in fields(plan):
        value, usual = getattr(plan, field.name), getattr(plain, field.name)
        if field.name in ("seed", "harsh", "requests", "clients", "replicas") or value == usual:
            continue
        if field.name in ("network", "disk"):
            yield from _changes_of_rules(field.name, value, usual)
        else:
            yield f"{field.name} = {usual}", _setting(field.name, usual)


def _share_of_requests(share: int) -> Change:
    return lambda best: best.changed(requests=max(1, best.requests // share))


def _setting(name: str, usual: Any) -> Change:
    return lambda best: best.changed(**{name: usual})


def _changes_of_rules(name: str, rules: Any, usual: Any) -> Iterator[tuple[str, Change]]:
    for field in fields(rules):
        plain = getattr(usual, field.name)
        if getattr(rules, field.name) != plain:
            yield f"{name}.{field.name} = {plain}", _setting_rule(name, field.name, plain)


def _setting_rule(name: str, rule: str, usual: Any) -> Change:
    return lambda best: best.changed(**{name: replace(getattr(best, name), **{rule: usual})})
