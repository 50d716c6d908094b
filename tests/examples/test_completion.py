"""What Tab completes: over the shell's own protocol, and in a real shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from client_replies.cluster.host.cluster_directory import Shape

from examples.ledger.commands import HURTS
from examples.ledger.completion import WAYS_TO_HURT

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "python -m examples.ledger"
# What argcomplete's shell function does at last, for a line that has been typed so far.
ANSWER = 'exec "$0" -m examples.ledger 8>&1 >/dev/null 2>&1'
SEPARATOR = "\v"
IN_BASH = """
eval "$(python -m argcomplete.scripts.activate_global_python_argcomplete --dest=-)"
complete -p -D | grep -q _python_argcomplete_global || exit 1
COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9 COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_python_argcomplete_global python "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""

TIMEOUT_S = 120.0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a cluster of five, a directory, and files."""
    for name in ("ledger", "letters", ".hidden"):
        (tmp_path / name).mkdir()
    Shape(cluster=5, replicas=5, formed=frozenset()).write(tmp_path / "ledger")
    (tmp_path / "rows.csv").touch()
    (tmp_path / "list").touch()
    return tmp_path


def completed(line: str) -> set[str]:
    """What the shell is told for this line."""
    asked = {"_ARGCOMPLETE": "3", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    environment = {**os.environ, **asked, "_ARGCOMPLETE_SHELL": "bash", "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
    answer = subprocess.run(
        ["bash", "-c", ANSWER, sys.executable],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert answer.returncode == 0
    return set(answer.stdout.split(SEPARATOR)) - {""}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", {"run", "soak", "start", "status", "client", "hurt"}),
        ("run --kee", {"--keep"}),
        ("status PLACE/l", {"PLACE/ledger", "PLACE/letters/"}),
        ("start PLACE/", {"PLACE/ledger", "PLACE/letters/"}),
        ("client PLACE/nowhere/", set()),
        ("client PLACE/ledger ", {"transfer", "balance", "file"}),
        ("client PLACE/ledger --timeout 2 --j", {"--json"}),
        ("client PLACE/ledger file PLACE/r", {"PLACE/rows.csv"}),
        ("client PLACE/ledger balance ", set()),
        ("hurt PLACE/ledger ", set(WAYS_TO_HURT)),
        ("hurt PLACE/ledger kill ", {"primary", "backups", "all", "0", "1", "2", "3", "4", "gateway"}),
        ("hurt PLACE/ledger kill 1 ", set()),
        ("hurt PLACE/ledger partition 0 primary ", {"backups", "all", "1", "2", "3", "4"}),
        ("hurt PLACE/letters lose-disk p", {"primary"}),
        ("hurt PLACE/ledger heal ", set()),
    ],
)
def test_tab_completes_what_can_come_next(place: Path, words: str, found: set[str]) -> None:
    """Commands, options, clusters and their replicas; of nothing else there is a guess."""
    line = f"{COMMAND} {words}".replace("PLACE", str(place))
    assert completed(line) == {one.replace("PLACE", str(place)) for one in found}


def test_bash_completes_python_dash_m_as_the_readme_says(place: Path) -> None:
    """Its completion is switched on by argcomplete's own command, and finds the mark in our module."""
    here = place / "bin"
    here.mkdir()
    (here / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (here / "python").chmod(0o755)
    environment = {**os.environ, "PATH": f"{here}:{os.environ['PATH']}"}
    line = f"{COMMAND} hurt {place}/ledger kill pri"
    answer = subprocess.run(
        ["bash", "--norc", "-c", IN_BASH, "bash", line],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert answer.stdout.split() == ["primary"], answer.stderr


def test_every_way_to_hurt_is_completed_and_explained() -> None:
    """The help says what can be completed, and which of it wants to know who."""
    lines = [line.split() for line in HURTS.splitlines() if line.startswith("  ")]
    assert {words[0]: words[1].startswith("WHO") for words in lines} == WAYS_TO_HURT
