"""The command `client-replies`, run as its users run it."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from client_replies import ClientSessions, OpenMode, RepliesConfig, Reply
from client_replies.storage.data_file import DataFile
from client_replies.storage.device import FileDisk
from client_replies.storage.layout import Layout


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "client_replies", *map(str, arguments)]
    return subprocess.run(command, **{"capture_output": True, "text": True, "timeout": 60, **options})


@pytest.fixture
def config(tmp_path: Path) -> RepliesConfig:
    """Make a file of one session with one reply; give its configuration."""
    config = RepliesConfig(path=str(tmp_path / "r0.replies"), cluster=7, replica=0, clients_max=2)
    sessions = ClientSessions(2, 7)
    build = functools.partial(Reply.build, cluster=7, client=0xABC, session=1, timestamp=1)
    sessions.register(build(request=0, op=1, operation=1, body=b"").header)
    reply = build(request=1, op=2, operation=16, body=b"5 from A to B")
    sessions.commit(reply.header)
    file = DataFile.open(FileDisk(), config, OpenMode.FORMAT)
    file.write_slots([0], [reply.pack()])
    file.write_checkpoint(1, 2, sessions.encode())
    file.close()
    return config


def test_inspect_shows_every_part(config: RepliesConfig) -> None:
    """And verify nothing but its verdict."""
    shown = run("inspect", config.path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "cluster 7, replica 0, 2 slots of 1,048,576 bytes" in shown.stdout
    assert "superblock copy 3  checkpoint 1" in shown.stdout
    assert "checkpoint 1, op 2, 1 sessions" in shown.stdout
    row = next(line for line in shown.stdout.splitlines() if "abc" in line)
    assert row.split() == ["0", "whole", "abc", "1", "1", "2", "269"]
    assert run("verify", config.path).stdout == "nothing is damaged\n"


def test_damage_is_told_and_gives_status_one(config: RepliesConfig) -> None:
    """In text and in JSON, and the file is left as it is."""
    path = Path(config.path)
    damaged = bytearray(path.read_bytes())
    damaged[Layout.of(config).slot_offset(0) + 260] ^= 1
    path.write_bytes(damaged)
    shown = run("verify", path)
    assert shown.returncode == 1
    assert shown.stdout == "slot 0: BODY_CORRUPT: the body's checksum is wrong\n1 damaged parts\n"
    as_json = run("inspect", "--json", path)
    assert as_json.returncode == 1
    found = json.loads(as_json.stdout)
    assert found["slots"][0] | {"size": 0} == {
        "slot": 0, "state": "damaged", "client": "abc", "session": 1, "request": 1, "op": 2, "size": 0,
        "fault": "BODY_CORRUPT",
    }  # fmt: skip
    assert (found["version"], found["cluster"], len(found["damage"])) == (1, "7", 1)
    assert path.read_bytes() == damaged


def test_what_cannot_be_looked_at_says_why(config: RepliesConfig, tmp_path: Path) -> None:
    """A missing file may come back; another program's never will."""
    missing = run("inspect", tmp_path / "nothing")
    assert (missing.returncode, missing.stdout) == (3, "")
    assert "FILE_MISSING" in missing.stderr
    (tmp_path / "other").write_text("not ours")
    other = run("inspect", tmp_path / "other")
    assert other.returncode == 2
    assert "NOT_A_DATA_FILE" in other.stderr
    file = DataFile.open(FileDisk(), config, OpenMode.OPEN)
    in_use = run("verify", config.path)
    file.close()
    assert in_use.returncode == 3
    assert "FILE_LOCKED" in in_use.stderr
    assert run("dump", config.path).returncode == 2


def test_output_that_is_lost_gives_status_four(config: RepliesConfig) -> None:
    """On a full disk, and where standard output is closed; without a traceback."""
    with Path("/dev/full").open("w") as full:
        lost = run("inspect", config.path, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert lost.returncode == 4
    assert lost.stderr.startswith("the output could not be written: ")
    assert lost.stderr.count("\n") == 1
    closed = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m client_replies inspect {config.path} >&-"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert (closed.returncode, closed.stderr) == (4, "the output could not be written: standard output is closed\n")


def test_help_and_version_import_nothing_of_the_component() -> None:
    """They answer at once."""
    assert run("--version").stdout.startswith("client-replies ")
    assert "inspect" in run("--help").stdout
    script = (
        "import sys; from client_replies.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('thespian' in sys.modules or 'client_replies.messages' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL, check=False).returncode == 0
