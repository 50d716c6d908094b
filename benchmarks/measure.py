"""One contestant of one row, once, in this process and those that it starts: `python -m benchmarks.measure`.

    python -m benchmarks.measure durable ours '{"size": 4096, "window": 64, "seconds": 5}'

Prints one line of JSON. The files are made in a new directory under `build/benchmarks`, or where `directory` in the
parameters says, and are gone afterwards.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).resolve().parent.parent / "build" / "benchmarks"
DEFAULTS: dict[str, Any] = {"size": 4096, "window": 64, "seconds": 2.0}


def measure(row: str, contestant: str, params: dict[str, Any]) -> dict[str, Any]:
    """Run it, in a directory of its own."""
    directory = Path(params.get("directory") or DIRECTORY)
    directory.mkdir(parents=True, exist_ok=True)
    module = importlib.import_module(f"benchmarks.{row}")
    with tempfile.TemporaryDirectory(dir=directory) as files:
        result: dict[str, Any] = module.measure(
            contestant, {**DEFAULTS, **params, "path": os.path.join(files, "data"), "files": files}
        )
    return result


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    row, contestant, *rest = sys.argv[1:]
    print(json.dumps(measure(row, contestant, json.loads(rest[0]) if rest else {})))
