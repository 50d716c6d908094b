"""The component's simulator at the command line: see README.md, and `command` for what it takes."""

from __future__ import annotations

from .command import Command, run
from .marks import EXPECTED
from .plan import draw_plan
from .planted import BY_SEED
from .runner import run_plan
from .sample import DRAWN

if __name__ == "__main__":
    run(
        Command(
            program="tests.simulation",
            draw_plan=draw_plan,
            run_plan=run_plan,
            expected=EXPECTED,
            planted=BY_SEED,
            drawn=DRAWN,
        )
    )
