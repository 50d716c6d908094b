"""Rounds of fuzzing with the seeded mutator: each target in turn, a line of totals after each round."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from client_replies.actors.thespian.system import configure_logging

from tests.fuzz.door import fuzz_gateway
from tests.fuzz.frames import Corpus, Mutator, fuzz_decoder

ROUND_S = 20.0
STREAMS = 500


def run(targets: Sequence[str], seed: int, folder: Path, minutes: float, log: Path | None) -> int:
    """Run rounds until the time is over, or something does not hold: then 1."""
    configure_logging(level=logging.ERROR)  # what the gateway counts it also logs, and here that is nearly everything
    corpus = Corpus(folder)
    began = time.monotonic()
    until = began + 60.0 * minutes
    totals = {"seed": seed, "decoder_streams": 0, "gateway_streams": 0, "gateway_bytes": 0, "honest_requests": 0}
    failure = ""
    number = 0
    while not failure and time.monotonic() < until:
        for target in targets:
            try:
                run_round(target, f"{seed}/{number}/{target}", corpus, min(until, time.monotonic() + ROUND_S), totals)
            except AssertionError as error:
                failure = str(error)
                break
        number += 1
        passed = round((time.monotonic() - began) / 60.0, 2)
        line = json.dumps({"minutes": passed, **totals, "corpus": len(corpus.entries), "failure": failure})
        print(line, flush=True)
        if log is not None:
            with log.open("a") as lines:
                lines.write(line + "\n")
    missed = [target for target in targets if not totals[f"{target}_streams"]]
    if missed:
        print(f"no stream was sent to the {' and the '.join(missed)}: give it more minutes", file=sys.stderr)
    return 1 if failure or missed else 0


def run_round(target: str, seed: str, corpus: Corpus, until: float, totals: dict[str, int]) -> None:
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
