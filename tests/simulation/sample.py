"""The seeds that CI runs: a sample that reaches every mark, and one for each planted bug.

Drawn by `python -m tests.simulation --sample --seeds 200` and `--planted`: see README.md.
"""

from __future__ import annotations

from pathlib import Path

from .drawn import Drawn

DRAWN = Drawn.read(Path(__file__).parent)
