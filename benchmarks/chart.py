"""The chart of the page: one SVG with six panels of bars, made of a run's results alone.

It has a background of its own, dark where the reader prefers that, so its text can be read on any page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

from . import targets
from .figures import Figures, Place
from .report import number

Bar = tuple[str, str]  # a contestant and its label; ours is called "ours"
STORES: tuple[Bar, ...] = (("sqlite", "SQLite + actor"), ("lmdb", "LMDB + actor"), ("floor", "write and sync"))
CLUSTERS: tuple[Bar, ...] = (("etcd", "etcd"), ("pysyncobj", "PySyncObj*"))
PANELS: tuple[tuple[str, Place, str, str, tuple[Bar, ...]], ...] = (
    (
        "Round trip of two actors (less is better)",
        targets.ROUND_TRIP,
        "p50",
        "s",
        (("tcp", "multiprocTCPBase"), ("bare", "bare processes")),
    ),
    ("4 KiB replies made durable per second", targets.DURABLE_64, "value", "", STORES),
    ("One 4 KiB reply durable (less is better)", targets.ONE_4_KIB, "p50", "s", STORES),
    (
        "Repair of 64 KiB replies",
        targets.REPAIR,
        "value",
        "MB/s",
        (("signed", "signed copy"), ("plain", "plain copy")),
    ),
    ("Cluster, one session (less is better)", targets.CLUSTER_1, "p50", "s", CLUSTERS),
    ("Cluster, 32 sessions, requests per second", targets.CLUSTER_32, "value", "", CLUSTERS),
)
WIDTH, PANEL_WIDTH, LABEL_WIDTH, BAR_WIDTH = 760, 370, 118, 172
MARGIN, HEAD, STEP, BAR = 16, 24, 20, 13
STYLE = """
  .card { fill: #ffffff; stroke: #d0d7de; } text { font: 12px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; } .ours { fill: #0969da; } .other { fill: #afb8c1; }
  @media (prefers-color-scheme: dark) {
    .card { fill: #0d1117; stroke: #3d444d; } text { fill: #e6edf3; } .ours { fill: #4493f8; } .other { fill: #656c76; }
  }
"""


def draw(result: Mapping[str, Any]) -> str:
    """The SVG. The same results give the same text."""
    figures = Figures(result)
    parts, top = [], MARGIN
    for first in range(0, len(PANELS), 2):
        panels = PANELS[first : first + 2]
        for column, panel in enumerate(panels):
            parts += _panel(figures, MARGIN + column * PANEL_WIDTH, top, *panel)
        top += HEAD + STEP * (1 + max(len(panel[4]) for panel in panels)) + MARGIN
    parts.append(_text(MARGIN, top + 4, "* PySyncObj sends each entry at once, syncs nothing and has no sessions."))
    height = top + 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="client-replies compared with others">\n<style>{STYLE}</style>\n'
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panel(
    figures: Figures, left: int, top: int, title: str, place: Place, figure: str, unit: str, others: tuple[Bar, ...]
) -> list[str]:
    bars = [
        (label, contestant == "ours", value)
        for contestant, label in (("ours", "client-replies"), *others)
        if (value := figures.get(place, contestant, figure)) is not None
    ]
    longest = max((value for _, _, value in bars), default=1.0)
    parts = [_text(left, top + 12, title, "title")]
    for index, (label, is_ours, value) in enumerate(bars):
        y = top + HEAD + index * STEP
        width = max(1.0, BAR_WIDTH * value / longest)
        kind = "ours" if is_ours else "other"
        parts.append(_text(left, y + 11, label))
        parts.append(
            f'<rect class="{kind}" x="{left + LABEL_WIDTH}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>'
        )
        parts.append(_text(left + LABEL_WIDTH + width + 5, y + 11, number(value, unit)))
    return parts


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text{attribute} x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
