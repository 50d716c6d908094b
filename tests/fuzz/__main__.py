"""Fuzz for a while: `python -m tests.fuzz --minutes 10 [--target decoder|gateway|both] [--seed N] [--log FILE]`.

Prints a line of totals a round, and at the end of all; the exit status is 1 if something did not hold, and the line
says which seed and, for the decoder, which stream. New outcomes are kept in the corpus.
"""

from __future__ import annotations

import argparse
import json
import logging
import secrets
import sys
import time
from pathlib import Path

from client_replies.actors.system import configure_logging

from tests.fuzz.door import fuzz_gateway
from tests.fuzz.frames import CORPUS, Corpus, Mutator, fuzz_decoder

ROUND_S = 20.0
STREAMS = 500


def main() -> int:
    """Run rounds until the time is over."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: 1)")
    parser.add_argument("--target", choices=("decoder", "gateway", "both"), default="both")
    parser.add_argument("--seed", type=int, default=None, help="decides every mutation (default: random)")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="the folder of the corpus")
    parser.add_argument("--log", type=Path, default=None, help="append each line to this file, too")
    arguments = parser.parse_args()
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    corpus = Corpus(arguments.corpus)
    configure_logging(level=logging.ERROR)  # what the gateway counts it also logs, and here that is nearly everything
    began = time.monotonic()
    until = began + 60.0 * arguments.minutes
    totals = {"seed": seed, "decoder_streams": 0, "gateway_streams": 0, "gateway_bytes": 0, "honest_requests": 0}
    targets = ("decoder", "gateway") if arguments.target == "both" else (arguments.target,)
    failure = ""
    number = 0
    while not failure and time.monotonic() < until:
        for target in targets:
            try:
                run(target, f"{seed}/{number}/{target}", corpus, min(until, time.monotonic() + ROUND_S), totals)
            except AssertionError as error:
                failure = str(error)
                break
        number += 1
        minutes = round((time.monotonic() - began) / 60.0, 2)
        line = json.dumps({"minutes": minutes, **totals, "corpus": len(corpus.entries), "failure": failure})
        print(line, flush=True)
        if arguments.log is not None:
            with arguments.log.open("a") as log:
                log.write(line + "\n")
    return 1 if failure else 0


def run(target: str, seed: str, corpus: Corpus, until: float, totals: dict[str, int]) -> None:
    """Fuzz one target until then."""
    if target == "gateway":
        found = fuzz_gateway(seed, corpus, max(1.0, until - time.monotonic()))
        totals["gateway_streams"] += found.streams
        totals["gateway_bytes"] += found.bytes
        totals["honest_requests"] += found.honest
        return
    mutator = Mutator(seed)
    while time.monotonic() < until:
        fuzz_decoder(mutator, corpus, STREAMS)
        totals["decoder_streams"] += STREAMS


if __name__ == "__main__":
    sys.exit(main())
