"""A soak of random harm as a user runs it: `python -m examples.ledger soak`, for less than a minute."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import unclaimed_shared_memory, wait_until

ROOT = Path(__file__).resolve().parents[2]
SOAK_TIMEOUT_S = 300.0  # a machine that is busy with other things is ten times slower


@pytest.fixture
def place(free_of_new_processes: None, tmp_path: Path) -> Iterator[Path]:
    """Where soaks put their directories. At the end there is no directory, process or shared memory of one."""
    before = unclaimed_shared_memory()
    place = tmp_path / "soaks"
    place.mkdir()
    yield place
    assert list(place.iterdir()) == []
    # Others on this host make and remove theirs meanwhile.
    wait_until(lambda: unclaimed_shared_memory() <= before, what="the end of the shared memory")


def soak(place: Path, *arguments: str) -> tuple[int, str]:
    """A short soak: exit status and output."""
    with (place.parent / "out").open("w") as out:
        command = [sys.executable, "-m", "examples.ledger", "soak", "--directory", str(place), *arguments]
        status = subprocess.run(command, cwd=ROOT, stdout=out, stderr=out, timeout=SOAK_TIMEOUT_S).returncode
    return status, (place.parent / "out").read_text()


@pytest.mark.slow
def test_a_short_soak_of_random_harm_holds(place: Path) -> None:
    """Killed processes, lost disks, corrupted slots, partitions, a minority at a time; `make soak` is the long one."""
    status, out = soak(place, "--minutes", "0.75", "--rate", "12", "--seed", "5")
    assert status == 0, out
    reason = "0 primaries killed with replies committed but unsent"
    assert re.search(f"verdict: (10 of 11 checks passed, 1|9 of 11 checks passed, 2) not tried: .*{reason}", out), out
    faults = Counter(line.split(": ")[1].split(",")[0] for line in out.splitlines() if line.startswith("fault "))
    assert len(faults) >= 3, out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "broken"),
    [
        ("execute-twice", "BROKEN  each transfer executed once on every replica"),
        ("wrong-reply", "BROKEN  every repeated request answered with identical bytes"),
    ],
)
def test_a_planted_fault_turns_the_soak_red(place: Path, plant: str, broken: str) -> None:
    """The verdict finds it amid the harm, from what the members wrote down."""
    status, out = soak(place, "--minutes", "0.5", "--rate", "20", "--plant", plant)
    assert status == 1, out
    assert broken in out
