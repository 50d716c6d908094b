"""What `--sample` and `--planted` draw: the seeds that CI runs, in `drawn.json`, and the table in README.md.

Guarantees: what is read is what the command wrote last. Owns: both simulators' `drawn.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEAD = "| planted bug | seed | noticed as |"


@dataclass(slots=True)
class Drawn:
    """A sample that reaches every mark; of each planted bug, a seed that finds it and the invariant that notices."""

    folder: Path
    sample: list[int] = field(default_factory=list)
    planted: dict[str, tuple[int, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Drawn:
        """Read the folder's `drawn.json`."""
        found: dict[str, Any] = json.loads((folder / "drawn.json").read_text())
        return cls(
            folder, found["sample"], {what: (seed, noticed) for what, (seed, noticed) in found["planted"].items()}
        )

    def write(self) -> None:
        """Write it, and the table of the README."""
        planted = ",\n".join(f"    {json.dumps(what)}: {json.dumps(seed)}" for what, seed in self.planted.items())
        text = f'{{\n  "sample": {json.dumps(self.sample)},\n  "planted": {{\n{planted}\n  }}\n}}\n'
        (self.folder / "drawn.json").write_text(text)
        readme = self.folder / "README.md"
        before, head, after = readme.read_text().partition(HEAD)
        if head:
            rest = after.partition("\n\n")[2]
            readme.write_text(f"{before}{self.table()}\n\n{rest}")

    def table(self) -> str:
        """The table for the documentation."""
        rows = [f"| {what} | {seed} | {noticed} |" for what, (seed, noticed) in self.planted.items()]
        return "\n".join([HEAD, "| --- | ---: | --- |", *rows])
