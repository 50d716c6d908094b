"""The plots that the docs show: one small SVG a row, from a run's results alone.

Bars are medians, the thin lines on them reach from the worst round to the best. The same results give the same file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

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


def _draw_bars(groups: Sequence[Mapping[str, Any]]) -> Any:
    groups = [group for group in groups if _measured(group)]
    if not groups:
        return None
    heights = [HEAD_HEIGHT + BAR_HEIGHT * len(_measured(group)) for group in groups]
    figure, axes = plt.subplots(
        len(groups), 1, figsize=(WIDTH, sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for group, (axis,) in zip(groups, axes, strict=True):
        contestants = _measured(group)[::-1]
        values = [contestant["figures"]["value"] for contestant in contestants]
        medians = [value["median"] for value in values]
        axis.barh(
            [contestant["title"] for contestant in contestants],
            medians,
            color=[_colour(contestant) for contestant in contestants],
            xerr=[
                [median - value["low"] for median, value in zip(medians, values, strict=True)],
                [value["high"] - median for median, value in zip(medians, values, strict=True)],
            ],
            error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
        )
        if min(medians) > 0 and max(medians) / min(medians) > 30:
            axis.set_xscale("log")
        axis.set_title(f"{group['name']}, {group['unit']}", loc="left", fontsize=8)
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
