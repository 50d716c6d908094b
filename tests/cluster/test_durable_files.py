"""Files that are replaced whole or not at all, and damage that is set aside and never deleted."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from client_replies.cluster.durable_files import DAMAGED_KEPT_MAX, NEW, replace_file, set_aside

ROOT = Path(__file__).resolve().parents[2]


def test_a_file_is_replaced_whatever_an_earlier_attempt_left(tmp_path: Path) -> None:
    """A longer half-written one of a crash, under the new one's name."""
    file = tmp_path / "cluster.json"
    replace_file(file, "first")
    (tmp_path / f"cluster.json{NEW}").write_text("left by a crash, and longer")
    replace_file(file, "second")
    assert [entry.name for entry in tmp_path.iterdir()] == ["cluster.json"]
    assert file.read_text() == "second"


def test_a_replacement_that_fails_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    """The limit on file sizes stands for a full disk."""
    file = tmp_path / "cluster.json"
    replace_file(file, "first")
    program = (
        "import resource, pathlib; from client_replies.cluster.durable_files import replace_file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        f"replace_file(pathlib.Path({str(file)!r}), 'x' * 100)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "File too large" in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["cluster.json"]
    assert file.read_text() == "first"


def test_what_is_set_aside_is_kept_and_too_many_are_a_refusal(tmp_path: Path) -> None:
    """A person is to look at them; none is removed to make room for another."""
    place = tmp_path / "replica-2"
    kept = []
    for number in range(DAMAGED_KEPT_MAX):
        place.mkdir()
        (place / "log").write_text(str(number))
        kept.append(set_aside(place))
        assert not place.exists()
    place.mkdir()
    with pytest.raises(OSError, match=f"{DAMAGED_KEPT_MAX} are kept already, such as replica-2.damaged-"):
        set_aside(place)
    assert [(one / "log").read_text() for one in kept] == [str(number) for number in range(DAMAGED_KEPT_MAX)]
    assert place.exists()


def test_a_symbolic_link_is_not_set_aside_in_the_place_of_what_it_points_to(tmp_path: Path) -> None:
    """The next life would not be on the disk that somebody chose for it."""
    (tmp_path / "disk").mkdir()
    link = tmp_path / "replica-2"
    link.symlink_to(tmp_path / "disk")
    with pytest.raises(OSError, match="symbolic link") as caught:
        set_aside(link)
    assert caught.value.errno == errno.ELOOP
    assert link.is_symlink()
