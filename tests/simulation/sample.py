"""The seeds that CI runs: a sample that reaches every mark, and one for each planted bug.

To be drawn anew when the workload changes: `python -m tests.simulation --seeds 200` names what is never reached, and
`--planted` finds the seeds again.
"""

from __future__ import annotations

SAMPLE = (
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    11,
    12,
    13,
    14,
    15,
    16,
    17,
    18,
    19,
    20,
    21,
    22,
    23,
    24,
    36,
    39,
    44,
    92,
    100,
    109,
)
SEEDS_OF_PLANTED: dict[str, int] = {}
