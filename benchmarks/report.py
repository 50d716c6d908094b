"""What the benchmarks print: a table a group, its ratios beside their targets, and who was busy with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .machine import one_line


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
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def verdict(comparison: Mapping[str, Any]) -> str:
    """Whether the target was met, in a word."""
    if comparison["ratio"] is None:
        return "not measured"
    if comparison["target"] is None:
        return ""
    return "met" if comparison["met"] else "NOT MET"


def target(comparison: Mapping[str, Any]) -> str:
    """The target in words."""
    if comparison["target"] is None:
        return ""
    return f"{'at least' if comparison['at_least'] else 'at most'} {comparison['target']:g}"


def ratio(comparison: Mapping[str, Any]) -> str:
    """The ratio and its spread."""
    found = comparison["ratio"]
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})" if found else "-"


def contestant_rows(group: Mapping[str, Any]) -> list[list[str]]:
    """A line for each contestant of a group: the median, the spread, further figures and how busy it was."""
    further = [tuple(figure) for figure in group["figures"]]
    rows = [["", group["unit"], "from", "to", *(name for name, _ in further), "busy"]]
    for contestant in group["contestants"]:
        figures = contestant["figures"]
        if contestant.get("failed"):
            rows.append([contestant["title"], "failed: " + contestant["failed"].splitlines()[-1]])
            continue
        if "value" not in figures:
            rows.append([contestant["title"], "skipped: " + (contestant.get("skipped") or "not run")])
            continue
        value = figures["value"]
        unit = group["unit"] if group["unit"] == "s" else ""
        rows.append(
            [
                contestant["title"],
                *(number(value[name], unit) for name in ("median", "low", "high")),
                *(number(figures[name]["median"], unit) if name in figures else "" for name, unit in further),
                busy(contestant),
            ]
        )
    return rows


def busy(contestant: Mapping[str, Any]) -> str:
    """How busy each process was, in percent of one core."""
    shares = {name: share for name, share in contestant["busy"].items() if share >= 0.005}
    return ", ".join(f"{name} {share * 100:.0f}%" for name, share in shares.items())


def comparison_rows(group: Mapping[str, Any]) -> list[list[str]]:
    """A line for each ratio of a group."""
    return [
        ["", "ratio", "target", ""],
        *([c["title"], ratio(c), target(c), verdict(c)] for c in group["comparisons"]),
    ]


def sent_rows(contestant: Mapping[str, Any]) -> list[list[str]]:
    """A line for each class of message that a contestant's processes sent: how many a second, and how many bytes."""
    rows = [["from", "message, and to whom", "a second", "bytes each", "MB/s"]]
    for process, kinds in contestant["sent"].items():
        for kind, (messages, size) in sorted(kinds.items(), key=lambda item: -item[1][1]):
            seconds = contestant["seconds"] or 1.0
            rows.append(
                [process, kind, number(messages / seconds), number(size / messages), number(size / seconds / 1e6)]
            )
    return rows


def text_table(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Columns side by side for a terminal: the first to the left, figures to the right, the rest as it comes."""
    columns = max(len(row) for row in rows)
    widths = [
        max((len(row[column]) for row in rows if len(row) == columns and column < columns), default=0)
        for column in range(columns)
    ]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths[: len(row)], strict=True)]
        lines.append(indent + "  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """The same for a document."""
    columns = max(len(row) for row in rows)
    padded = [[*row, *[""] * (columns - len(row))] for row in rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in padded]
    lines.insert(1, "|" + " --- |" * columns)
    return "\n".join(lines)


def group_text(group: Mapping[str, Any], *, with_messages: bool = False) -> str:
    """A group for a terminal."""
    parts = [f"{group['row']}: {group['name']}", text_table(contestant_rows(group))]
    if group["comparisons"]:
        parts.append(text_table(comparison_rows(group)))
    if with_messages:
        for contestant in group["contestants"]:
            if contestant["sent"]:
                parts.append(f"  sent: {contestant['title']}\n" + text_table(sent_rows(contestant), "    "))
    return "\n".join(parts) + "\n"


def summary_rows(groups: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Every ratio that has a target, in one table."""
    rows = [["row", "ratio", "measured", "target", ""]]
    for group in groups:
        for comparison in group["comparisons"]:
            if comparison["target"] is not None:
                title = f"{group['name']}: {comparison['title']}"
                rows.append([group["row"], title, ratio(comparison), target(comparison), verdict(comparison)])
    return rows


def head_text(result: Mapping[str, Any]) -> str:
    """Which machine, and how much was measured."""
    machine = result["machine"]
    lines = [one_line(machine), f"{result['scale']} run, {result['rounds']} rounds"]
    if machine["load_before"] > machine["cores"] / 2:
        lines.append("the machine was busy with something else when this began: do not quote these figures")
    return "\n".join(lines) + "\n"
