"""The seeds that CI runs on the whole cluster: see `tests.simulation.sample`."""

from __future__ import annotations

from pathlib import Path

from ..drawn import Drawn

DRAWN = Drawn.read(Path(__file__).parent)
