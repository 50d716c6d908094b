"""The seeds that CI runs on the whole cluster: see `tests.simulation.sample`."""

from __future__ import annotations

SAMPLE = (1, 2, 3)
SEEDS_OF_PLANTED: dict[str, int] = {}
