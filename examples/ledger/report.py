"""What the run reports at its end: figures and verdict, as lines of text or as JSON.

Guarantees: figures are computed from the same evidence as the verdict, and from the totals that the progress showed.
The verdict says how many checks passed, how many are broken, and which were not tried, and why.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from client_replies.cluster.replica.network import ITEM_TYPES

from .evidence import AnswerSeen, Seen
from .terminal import BAD, FAIR, GOOD, Line
from .verdict import Check, CheckResult
from examples.percentile import percentile

WORDS = {
    CheckResult.PASSED: ("ok", GOOD),
    CheckResult.BROKEN: ("BROKEN", BAD),
    CheckResult.NOT_TRIED: ("not tried", FAIR),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Numbers of a run. Latencies in milliseconds, from a request's first sending to its reply."""

    seconds: float
    requests: int
    requests_per_second: float
    latency_p50: float
    latency_p90: float
    latency_p99: float
    latency_max: float
    outcomes: Mapping[str, int]
    network: Mapping[str, int]
    cluster: Mapping[str, int]
    failovers: tuple[float, ...]


def figures(
    seconds: float,
    answers: Sequence[AnswerSeen],
    events: Sequence[Sequence[Seen]],
    counters: Mapping[str, int],
) -> Figures:
    """Compute a run's figures."""
    seen = sorted((event for one in events for event in one), key=lambda event: event.time)
    count = Counter(event.event for event in seen)
    latencies = [answer.latency * 1000 for answer in answers if answer.kind == "FIRST" and answer.request]
    prefix = "results_"
    return Figures(
        seconds=round(seconds, 3),
        requests=len(latencies),
        requests_per_second=round(len(latencies) / seconds, 1) if seconds else 0.0,
        latency_p50=round(percentile(latencies, 50), 2),
        latency_p90=round(percentile(latencies, 90), 2),
        latency_p99=round(percentile(latencies, 99), 2),
        latency_max=round(percentile(latencies, 100), 2),
        outcomes={
            name.removeprefix(prefix): count for name, count in sorted(counters.items()) if name.startswith(prefix)
        },
        network={
            "replies_lost": counters.get("replies_lost", 0),
            "requests_lost": counters.get("requests_lost", 0),
            "requests_doubled": counters.get("requests_doubled", 0),
            "messages_delayed": sum(count for name, count in counters.items() if name.endswith("_delayed")),
            "replica_messages_lost": sum(counters.get(f"{kind.__name__}_dropped", 0) for kind in ITEM_TYPES),
            "client_retries": counters.get("retries", 0),
            "replies_repeated": counters.get("repeats", 0),
            "timeouts_resumed": counters.get("timeouts", 0),
            "requests_repeated": counters.get("requests_repeated", 0),
            "replies_read_back": counters.get("replies_read", 0),
            "prepares_resent": counters.get("prepares_resent", 0),
            "slots_damaged": count["damaged"],
            "slots_needed": count["needed"],
            "slots_repaired": count["repaired"],
        },
        cluster={
            "primaries_killed": count["killed"],
            "replies_unsent": count["unsent"],
            "view_changes": max(0, len({event.view for event in seen if event.event == "primary"} - {0})),
            "restarts": counters.get("restarts", 0),
            "state_syncs": count["synced"],
            "log_entries_repaired": counters.get("entries_repaired", 0),
        },
        failovers=failovers(seen),
    )


def failovers(seen: Sequence[Seen]) -> tuple[float, ...]:
    """Milliseconds from each violent end of a primary to the first execution of a request by its successor."""
    ends = {event.view: event.time for event in seen if event.event == "unsent"}
    times = []
    for view, ended in sorted(ends.items()):
        after = [event.time for event in seen if event.event == "answering" and event.view > view]
        if after:
            times.append(round((min(after) - ended) * 1000, 1))
    return tuple(times)


def report_lines(checks: Sequence[Check], numbers: Figures, not_done: Sequence[str] = ()) -> list[Line]:
    """Figures and verdict; `not_done` has the faults that were asked for and did not happen."""
    network = numbers.network
    return [
        *figure_lines(numbers),
        f"  clients      {network['replies_lost']} replies lost, {network['requests_lost']} requests lost, "
        f"{network['requests_doubled']} doubled, {network['client_retries']} retries",
        f"  replicas     {network['replica_messages_lost']} messages lost, {network['prepares_resent']} resends",
        f"  failures     {numbers.cluster['primaries_killed']} primaries killed with "
        f"{numbers.cluster['replies_unsent']} replies committed but unsent, "
        f"{numbers.cluster['view_changes']} view changes, {numbers.cluster['restarts']} restarts",
        f"  failover     {', '.join(f'{time:.0f} ms' for time in numbers.failovers) or 'none'}",
        f"  repeated     {network['requests_repeated']} requests, {network['replies_read_back']} answered from disk "
        "or memory of the component",
        f"  damage       {network['slots_damaged']} slots damaged, {network['slots_needed']} needed, "
        f"{network['slots_repaired']} repaired from peers",
        *verdict_lines(checks, not_done),
    ]


def figure_lines(numbers: Figures) -> list[str]:
    """How much was done, how fast, and with what results."""
    outcomes = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in numbers.outcomes.items())
    return [
        "",
        f"{numbers.requests} transfers in {numbers.seconds:.1f} s: {numbers.requests_per_second:.0f} requests/s",
        f"  latency      p50 {numbers.latency_p50:.1f} ms, p90 {numbers.latency_p90:.1f} ms, "
        f"p99 {numbers.latency_p99:.1f} ms, max {numbers.latency_max:.1f} ms",
        f"  results      {outcomes}",
    ]


def verdict_lines(checks: Sequence[Check], not_done: Sequence[str] = ()) -> list[Line]:
    """Each check, and the verdict."""
    lines: list[Line] = [""]
    lines += [("  ", WORDS[check.result], f"  {check.name} ({check.detail})") for check in checks]
    lines += [("  ", ("NOT DONE", BAD), f"  {fault}") for fault in not_done]
    reasons = [check.detail for check in checks if check.result is CheckResult.NOT_TRIED]
    parts = [f"{passed_count(checks)} of {len(checks)} checks passed"]
    if broken := broken_count(checks):
        parts.append(f"{broken} broken")
    if not_done:
        parts.append(f"{len(not_done)} requested {'kinds' if len(not_done) > 1 else 'kind'} of fault not done")
    style = BAD if broken or not_done else GOOD
    if reasons:
        parts.append(f"{len(reasons)} not tried: {'; '.join(reasons)}")
    return [*lines, ("verdict: ", (", ".join(parts), style))]


def passed_count(checks: Sequence[Check]) -> int:
    """How many checks passed."""
    return sum(check.result is CheckResult.PASSED for check in checks)


def broken_count(checks: Sequence[Check]) -> int:
    """How many checks are broken."""
    return sum(check.result is CheckResult.BROKEN for check in checks)


def report_json(checks: Sequence[Check], numbers: Figures, not_done: Sequence[str] = ()) -> str:
    """Figures and verdict as one JSON object. `verdict` is true if no check is broken."""
    return json.dumps(
        {
            "verdict": not broken_count(checks),
            "passed": passed_count(checks),
            "broken": broken_count(checks),
            "not_tried": len(checks) - passed_count(checks) - broken_count(checks),
            "not_done": list(not_done),
            "checks": [{"name": check.name, "result": check.result.value, "detail": check.detail} for check in checks],
            "seconds": numbers.seconds,
            "requests": numbers.requests,
            "requests_per_second": numbers.requests_per_second,
            "latency_ms": {
                "p50": numbers.latency_p50,
                "p90": numbers.latency_p90,
                "p99": numbers.latency_p99,
                "max": numbers.latency_max,
            },
            "outcomes": dict(numbers.outcomes),
            "network": dict(numbers.network),
            "cluster": dict(numbers.cluster),
            "failover_ms": list(numbers.failovers),
        },
        indent=2,
    )
