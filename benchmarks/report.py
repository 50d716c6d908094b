"""What the benchmarks print: a table per group with who was busy, and the table of targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from client_replies.actors.thespian.base.tcp_base import TCP_BASE

from .machine import one_line
from .targets import TARGETS
from examples.ledger.terminal import show_table

ORDER = {target.what: number for number, target in enumerate(TARGETS)}


def number(value: float, unit: str = "") -> str:
    """A figure with as many digits as mean something, and its unit; seconds become what reads best."""
    if unit == "s":
        for factor, name in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
            if value * factor >= 1 or name == "us":
                return f"{_digits(value * factor)} {name}"
    return f"{_digits(value)} {unit}".rstrip()


def _digits(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def verdict(found: Mapping[str, Any]) -> str:
    """Whether the target was met, in a word."""
    return "not measured" if found["ratio"] is None else "met" if found["met"] else "NOT MET"


def target(found: Mapping[str, Any]) -> str:
    """The target in words."""
    return f"{'at least' if found['at_least'] else 'at most'} {found['target']:g} {found['unit']}".rstrip()


def ratio(found: Mapping[str, Any]) -> str:
    """The ratio and its spread."""
    spread = found["ratio"]
    if not spread:
        return "-"
    middle, low, high = (_digits(spread[name]) for name in ("median", "low", "high"))
    return f"{middle} ({low} to {high})"


def contestant_rows(group: Mapping[str, Any]) -> list[list[str]]:
    """A line for each contestant of a group: the median, the spread, further figures and how busy it was."""
    further = [tuple(figure) for figure in group["figures"]]
    is_rate = group["unit"].endswith("s/s")  # of things that can be counted
    rows = [["", group["unit"], "from", "to", *(name for name, _ in further), *["CPU each"] * is_rate, "busy"]]
    blank = [""] * (len(rows[0]) - 2)
    for contestant in group["contestants"]:
        figures = contestant["figures"]
        if contestant.get("failed"):
            rows.append([contestant["title"], *blank, "failed: " + contestant["failed"].splitlines()[-1]])
            continue
        if "value" not in figures:
            rows.append([contestant["title"], *blank, "skipped: " + (contestant.get("skipped") or "not run")])
            continue
        value = figures["value"]
        unit = group["unit"] if group["unit"] == "s" else ""
        rows.append(
            [
                contestant["title"],
                *(number(value[name], unit) for name in ("median", "low", "high")),
                *(number(figures[name]["median"], unit) if name in figures else "" for name, unit in further),
                *[cpu_each(contestant)] * is_rate,
                busy(contestant),
            ]
        )
    return rows


def busy(contestant: Mapping[str, Any]) -> str:
    """How busy each process was, in percent of one core."""
    shares = {name: share for name, share in contestant["busy"].items() if share >= 0.005}
    return ", ".join(f"{name} {share * 100:.0f}%" for name, share in shares.items())


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table for a document."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)


def show_rows(rows: Sequence[Sequence[str]]) -> None:
    """A table for a terminal."""
    show_table(rows[0], rows[1:])


def cpu_each(contestant: Mapping[str, Any]) -> str:
    """CPU time of all its processes for one of what it counts, in the last round."""
    used = sum(contestant["busy"].values())
    return number(used / contestant["figures"]["value"]["values"][-1], "s") if used else ""


def target_rows(groups: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Every target, in one table, in the order of `TARGETS`."""
    found = {target["what"]: target for group in groups for target in group["targets"]}
    rows = [["what", "before", f"on {TCP_BASE}", "measured", "target", ""]]
    for one in sorted(found.values(), key=lambda one: ORDER.get(one["what"], len(ORDER))):
        on_tcp = _digits(one["on_tcp"]) if one["on_tcp"] is not None else "-"
        rows.append([one["what"], one["before"] or "-", on_tcp, ratio(one), target(one), verdict(one)])
    return rows


def head_text(result: Mapping[str, Any]) -> str:
    """Which machine, how much was measured, and what else used the machine."""
    others = max((busy for group in result["groups"] for busy in group["others"]), default=0.0)
    run = f"{result['scale']} run, {result['rounds']} rounds"
    return f"{one_line(result['machine'])}\n{run}; before a round others used at most {others:.0%} of the machine\n"
