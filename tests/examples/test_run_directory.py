"""The run's directory: gone with the run, and what a killed run left is gone with the next."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.ledger.run_directory import LOCK_FILE, PREFIX, DirectoryUnusable, remove_stale, run_directory


def test_the_directory_is_removed_however_the_run_ends(tmp_path: Path) -> None:
    """With everything in it; or kept, if that was asked for."""
    with run_directory(tmp_path, keep=False) as directory:
        (directory / "deep").mkdir()
        (directory / "deep" / "file").write_text("x")
    with pytest.raises(KeyboardInterrupt), run_directory(tmp_path, keep=False):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with run_directory(tmp_path, keep=True) as directory:
        pass
    assert directory.is_dir()


def test_what_a_killed_run_left_is_removed_and_a_living_run_is_not(tmp_path: Path) -> None:
    """The lock tells them apart; what is not a run's is not touched."""
    other = tmp_path / "mine"
    other.mkdir()
    strange = tmp_path / f"{PREFIX}without-lock"
    strange.mkdir()
    stale = tmp_path / f"{PREFIX}stale"
    stale.mkdir()
    (stale / LOCK_FILE).touch()
    with run_directory(tmp_path, keep=False) as living:
        assert not stale.exists()
        assert remove_stale(tmp_path) == []
        assert living.is_dir()
    assert sorted(tmp_path.iterdir()) == [strange, other]


def test_a_place_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """Said with what was found and what was expected."""
    file = tmp_path / "file"
    file.touch()
    for place in (tmp_path / "missing", file):
        with pytest.raises(DirectoryUnusable, match="expected one that exists"), run_directory(place, keep=False):
            pass


@pytest.fixture
def another_thread() -> Iterator[None]:
    """A thread that waits until the test is over."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.usefixtures("another_thread")
def test_a_signal_that_comes_while_the_directory_is_made_or_removed_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise Ctrl-C at that moment would leave the directory behind. Another thread may be the one that gets it."""
    make = tempfile.mkdtemp
    remove = shutil.rmtree

    def interrupted_make(**arguments: Any) -> str:
        made: str = make(**arguments)
        os.kill(os.getpid(), signal.SIGINT)
        return made

    def interrupted_remove(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        remove(*arguments, **options)

    monkeypatch.setattr("examples.ledger.run_directory.tempfile.mkdtemp", interrupted_make)
    with pytest.raises(KeyboardInterrupt), run_directory(tmp_path, keep=False):
        pass
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setattr("examples.ledger.run_directory.shutil.rmtree", interrupted_remove)
    with pytest.raises(KeyboardInterrupt), run_directory(tmp_path, keep=False):
        pass
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """A lock that stayed would make the directory look used."""
    before = len(os.listdir("/proc/self/fd"))
    with run_directory(tmp_path, keep=False):
        pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_directory_that_was_kept_stays_when_the_next_run_comes(tmp_path: Path) -> None:
    """It was removed, evidence and all, because nobody held its lock any more; a run that was killed kept nothing."""
    with run_directory(tmp_path, keep=True) as kept:
        (kept / "evidence").write_text("x")
    with run_directory(tmp_path, keep=False):
        assert (kept / "evidence").read_text() == "x"
    assert remove_stale(tmp_path) == []
    assert (kept / "evidence").read_text() == "x"


def test_a_place_that_somebody_holds_is_refused_and_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory of a cluster that is up, for example."""
    monkeypatch.setattr("examples.ledger.run_directory.GATE_TIMEOUT", 0.05)
    holder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with pytest.raises(DirectoryUnusable, match="somebody holds"), run_directory(tmp_path, keep=False):
        pass
    os.close(holder)
    assert list(tmp_path.iterdir()) == []
