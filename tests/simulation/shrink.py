"""Makes a failing plan smaller while it still fails in the same way.

Guarantees: what is returned fails with the invariant that the first run broke. Tries fewer requests and clients, then
every kind of fault off, then everything else as by default, again and again until nothing more can go. Gives up: the
smallest of all; the order of trials is fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

from .plan import Plan
from .runner import RunResult, run_plan


def shrink(plan: Plan, *, report: Callable[[str], None]) -> RunResult | None:
    """The result of the smallest plan found, or None if the plan passes."""
    best = run_plan(plan)
    if best.passed:
        return None
    report(f"{best.events} events: {best.failure.splitlines()[0]}")
    progress = True
    while progress:
        progress = False
        for what, smaller in _smaller(best.plan):
            result = run_plan(smaller)
            if not result.passed and result.invariant == best.invariant:
                best, progress = result, True
                report(f"{best.events} events with {what}")
                break
    return best


def _smaller(plan: Plan) -> Iterator[tuple[str, Plan]]:
    for requests in (plan.requests // 4, plan.requests // 2, plan.requests * 3 // 4, plan.requests - 1):
        if 0 < requests < plan.requests:
            yield f"{requests} requests", plan.changed(requests=requests)
    for clients in (plan.clients // 2, plan.clients - 1):
        if 0 < clients < plan.clients:
            yield f"{clients} clients", plan.changed(clients=clients)
    plain = Plan(seed=plan.seed)
    for field in fields(plan):
        value, usual = getattr(plan, field.name), getattr(plain, field.name)
        if field.name in ("seed", "harsh", "requests", "clients") or value == usual:
            continue
        if field.name in ("network", "disk"):
            yield from _smaller_rules(plan, field.name, value, usual)
        else:
            yield f"{field.name} = {usual}", plan.changed(**{field.name: usual})
    if plan.primary_rate:
        yield "primary_rate = 0.0", plan.changed(primary_rate=0.0)


def _smaller_rules(plan: Plan, name: str, rules: Any, usual: Any) -> Iterator[tuple[str, Plan]]:
    for field in fields(rules):
        plain = getattr(usual, field.name)
        if getattr(rules, field.name) != plain:
            changed = replace(rules, **{field.name: plain})
            yield f"{name}.{field.name} = {plain}", plan.changed(**{name: changed})
