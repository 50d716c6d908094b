"""Fuzz for a while: `python -m tests.fuzz --minutes 10 [--target decoder|gateway|both] [--seed N] [--log FILE]`.

Prints a line of totals per round, and at the end of all. The exit status is 1 if something did not hold, and the line
says which seed and, for the decoder, which stream; and 1 if a target got no stream at all. New outcomes are kept in the
corpus.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main() -> int:
    """Run rounds until the time is over."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: 1)")
    parser.add_argument("--target", choices=("decoder", "gateway", "both"), default="both")
    parser.add_argument("--seed", type=int, default=None, help="decides every mutation (default: random)")
    parser.add_argument(
        "--engine", choices=("own", "atheris"), default="own", help="atheris: decoder only, if installed"
    )
    parser.add_argument("--corpus", type=Path, default=FOLDER / "corpus", help="the folder of the corpus")
    parser.add_argument("--log", type=Path, default=None, help="append each line to this file, too")
    arguments = parser.parse_args()
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    if arguments.engine == "atheris":
        # Imported here, and the rest below: atheris has to be first to import what it is to watch.
        from tests.fuzz import coverage

        coverage.run(arguments.corpus, FOLDER / "crashes", arguments.minutes, seed & 0x7FFFFFFF)
    from tests.fuzz import rounds

    targets = ("decoder", "gateway") if arguments.target == "both" else (arguments.target,)
    return rounds.run(targets, seed, arguments.corpus, arguments.minutes, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
