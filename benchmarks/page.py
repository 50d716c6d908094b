"""The page of the docs: what stands between its markers is rewritten from a run's results.

    <!-- results: durable --> ... <!-- end -->

A marker names a row, or `machine`, or `targets`. What stands outside the markers is left as it is; a row without
results in this run keeps what it had.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .report import comparison_rows, contestant_rows, head_text, markdown_table, summary_rows

_SECTION = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rewrite(page: str, result: Mapping[str, Any], plots: Mapping[str, str]) -> str:
    """The page with the sections of this run. `plots` says where each row's plot is, as the page would name it."""

    def section(match: re.Match[str]) -> str:
        content = section_text(match[2], result, plots)
        return f"{match[1]}\n{content}\n\n{match[3]}" if content else match[0]

    return _SECTION.sub(section, page)


def section_text(name: str, result: Mapping[str, Any], plots: Mapping[str, str]) -> str:
    """What stands in a section."""
    if name == "machine":
        return head_text(result).strip().replace("\n", "; ") + "."
    if name == "targets":
        return markdown_table(summary_rows(result["groups"]))
    parts = [f"![{name}]({plots[name]})"] if name in plots else []
    for group in result["groups"]:
        if group["row"] == name:
            parts += [f"**{group['name']}**", markdown_table(contestant_rows(group))]
            if group["comparisons"]:
                parts.append(markdown_table(comparison_rows(group)))
    return "\n\n".join(parts)
