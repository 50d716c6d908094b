"""The rare branches that the CI sample of the whole cluster must reach; see `tests.simulation.marks`."""

from __future__ import annotations

EXPECTED = (
    "ambush",
    "blackout",
)
