"""The decoder fuzzed with coverage as the guide, by atheris: `python -m tests.fuzz --engine atheris --minutes N`.

Optional: needs `pip install atheris`, which has wheels for some versions of Python only. Takes the same corpus, checks
the same rules and seals frames with the same mutator. libFuzzer prints its own lines, ends the process itself, and
writes the input that broke a rule to a file `crash-...` in the folder `crashes`.
"""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path
from typing import Any


def run(corpus: Path, crashes: Path, minutes: float, seed: int) -> None:
    """Fuzz for that long; does not return."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["client_replies.cluster", "client_replies.messages"]):
        for module in ("client_replies.cluster.door.frames", "client_replies.cluster.client.answers"):
            if module in sys.modules:
                raise RuntimeError(f"{module} was imported before it could be instrumented")
            importlib.import_module(module)
    frames = importlib.import_module("tests.fuzz.frames")

    def check_input(data: bytes) -> None:
        half = len(data) // 2
        frames.check_stream(data, iter([data[:half], data[half:]]) if half else iter([data]))

    def mutate(data: bytes, size_max: int, choice: int) -> bytes:
        mutator = frames.Mutator(choice)
        if random.Random(choice).random() < 0.5:
            return bytes(atheris.Mutate(data, len(data)))
        mutated: bytes = mutator.mutate([data])
        return mutated[:size_max]

    crashes.mkdir(exist_ok=True)
    options = [f"-max_total_time={int(60 * minutes)}", f"-seed={seed}", f"-max_len={frames.ENTRY_SIZE_MAX}"]
    atheris.Setup(
        [sys.argv[0], *options, f"-artifact_prefix={crashes}/", str(corpus)], check_input, custom_mutator=mutate
    )
    atheris.Fuzz()
