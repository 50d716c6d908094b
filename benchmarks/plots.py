"""The plots that the docs show: one small SVG a row, from a run's results alone.

Bars are medians, the thin lines on them reach from the worst round to the best. The same results give the same file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from .report import number

mpl.use("svg")
import matplotlib.pyplot as plt

OURS, OTHERS, FLOOR = "#1f6f8b", "#b8b8b8", "#e0c068"
WIDTH, BAR_HEIGHT, HEAD_HEIGHT = 7.5, 0.26, 0.75


def draw(result: Mapping[str, Any], directory: Path) -> list[Path]:
    """Draw every row of the run; returns the files."""
    directory.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for group in result["groups"]:
        rows.setdefault(group["row"], []).append(group)
    found = []
    with mpl.rc_context({"svg.hashsalt": "client-replies", "font.size": 8, "svg.fonttype": "none"}):
        for row, groups in rows.items():
            drawn = _draw_scale(groups) if row == "scale" else _draw_bars(groups)
            if drawn is not None:
                path = directory / f"{row}.svg"
                drawn.savefig(path, metadata={"Date": None}, bbox_inches="tight")
                plt.close(drawn)
                found.append(path)
    return found


def _measured(group: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [contestant for contestant in group["contestants"] if "value" in contestant["figures"]]


def _colour(contestant: Mapping[str, Any]) -> str:
    title = contestant["title"]
    if title.startswith("floor") or "without" in title or title.startswith("plain"):
        return FLOOR
    others = ("SQLite", "LMDB", "PySyncObj", "etcd", "TigerBeetle")
    return OTHERS if title.startswith(others) else OURS


Bar = tuple[str, str, Mapping[str, Any]]  # its name, its colour and its figure


def _bars(group: Mapping[str, Any]) -> list[Bar]:
    """A bar for each contestant; where latencies are measured, one for each latency of the first contestant."""
    measured = _measured(group)
    if group["unit"] != "s" or not measured:
        return [(found["title"], _colour(found), found["figures"]["value"]) for found in measured]
    figures = measured[0]["figures"]
    names = [name for name in figures if name.endswith(("p50", "p99"))]
    return [(name, FLOOR if name.startswith("round trip") else OURS, figures[name]) for name in names]


def _draw_bars(groups: Sequence[Mapping[str, Any]]) -> Any:
    drawn = [(group, bars) for group in groups if (bars := _bars(group)[::-1])]
    if not drawn:
        return None
    heights = [HEAD_HEIGHT + BAR_HEIGHT * len(bars) for _, bars in drawn]
    figure, axes = plt.subplots(
        len(drawn), 1, figsize=(WIDTH, sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for (group, bars), (axis,) in zip(drawn, axes, strict=True):
        medians = [value["median"] for _, _, value in bars]
        low = [median - value["low"] for median, (_, _, value) in zip(medians, bars, strict=True)]
        high = [value["high"] - median for median, (_, _, value) in zip(medians, bars, strict=True)]
        container = axis.barh(
            [name for name, _, _ in bars],
            medians,
            color=[colour for _, colour, _ in bars],
            xerr=[low, high],
            error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
        )
        axis.bar_label(container, labels=[" " + number(median, group["unit"]) for median in medians], fontsize=7)
        axis.set_title(f"{group['name']}, {group['unit']}", loc="left", fontsize=8)
        axis.margins(x=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_scale(groups: Sequence[Mapping[str, Any]]) -> Any:
    contestants = [contestant for group in groups for contestant in _measured(group)]
    if not contestants:
        return None
    slots = [int(contestant["name"]) for contestant in contestants]
    figure, axis = plt.subplots(figsize=(WIDTH, 2.6), layout="constrained")
    for figure_name, title in (("value", "one write"), ("read", "one read"), ("open a slot", "opening, a slot")):
        medians = [contestant["figures"][figure_name]["median"] * 1e6 for contestant in contestants]
        axis.plot(slots, medians, marker="o", label=title)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("slots")
    axis.set_ylabel("microseconds")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure
