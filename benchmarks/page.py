"""The page of the docs: what stands between its markers is made from a run's results.

    <!-- results: lines --> ... <!-- end -->

There are four such sections: `lines`, `machine`, `targets` and `figures`. The rest of the page is written by hand, also
what bounds each target that is not met: it names the target as the table does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .figures import ten_lines
from .report import contestant_rows, head_text, markdown_table, target_rows

SECTIONS = ("lines", "machine", "targets", "figures")
CHART_NAME = "benchmarks.svg"  # beside the page
BOUNDS = "## What bounds"
_SECTION = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rewrite(page: str, result: Mapping[str, Any]) -> str:
    """The page with the sections of this run."""
    return _SECTION.sub(lambda found: f"{found[1]}\n{section_text(found[2], result)}\n\n{found[3]}", page)


def section_text(name: str, result: Mapping[str, Any]) -> str:
    """What stands in a section."""
    if name == "lines":
        lines = "\n".join(f"{number}. {line}" for number, line in enumerate(ten_lines(result), 1))
        return f"![client-replies compared with others]({CHART_NAME})\n\n{lines}"
    if name == "machine":
        return head_text(result).strip().replace("\n", "; ") + "."
    if name == "targets":
        return markdown_table(target_rows(result["groups"]))
    return "\n\n".join(
        f"**{group['row'].replace('_', ' ')}: {group['name']}**\n\n{markdown_table(contestant_rows(group))}"
        for group in result["groups"]
    )


def bounds_to_mend(page: str, result: Mapping[str, Any]) -> list[str]:
    """What the hand-written part must still say of the targets that this run missed, or say no longer."""
    bounds = " ".join(page.partition(BOUNDS)[2].partition("\n## ")[0].split())
    found = []
    for target in (target for group in result["groups"] for target in group["targets"]):
        if target["met"] is False and target["what"] not in bounds:
            found.append(f"does not say what bounds: {target['what']}")
        if target["met"] and target["what"] in bounds:
            found.append(f"says what bounds a target that is met: {target['what']}")
    return found
