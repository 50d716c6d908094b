"""The directory of one run: made, locked, and removed with everything in it, at the latest by the next run.

Guarantees: the directory is gone when the run ends, also by an exception. What a killed run left is removed by the next
run in the same place: the kernel releases a dead run's lock, so nothing that is in use is ever removed. A directory
that is to be kept has no lock, and no run ever removes it.

Limits: directories in other places, which only a run there finds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PREFIX = "client-replies-run-"
LOCK_FILE = "lock"
GATE_TIMEOUT = 10.0  # seconds that another run may look around before ours begins
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DirectoryUnusable(ValueError):
    """The run cannot put its files there."""


@contextlib.contextmanager
def run_directory(parent: Path, *, keep: bool) -> Iterator[Path]:
    """A new directory below `parent` for the length of a run. Raises `DirectoryUnusable`."""
    with contextlib.ExitStack() as stack:
        # From the moment the directory exists until it is sure to be removed, a signal has to wait.
        with _one_at_a_time(parent), _signals_wait():
            remove_stale(parent)
            directory, lock = _make(parent, keep)
            if not keep:
                stack.callback(_remove, directory, lock)
        yield directory


def _remove(directory: Path, lock: int) -> None:
    with _signals_wait():
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Deliver ending signals at the end of the block, to who handles them outside of it. In the main thread only.

    A mask would not do: it is of one thread, and the kernel gives the signal to another, which tells the first.
    """
    came: list[int] = []
    outside: dict[int, Any] = {}
    try:
        for number in ENDING_SIGNALS:
            outside[number] = signal.signal(number, lambda number, _frame: came.append(number))
        yield
    finally:
        for ending, handler in outside.items():
            signal.signal(ending, handler)
        for each in came:
            signal.raise_signal(each)


@contextlib.contextmanager
def _one_at_a_time(parent: Path) -> Iterator[None]:
    """Keep other runs from looking: a new directory is without its lock for a moment."""
    try:
        gate = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DirectoryUnusable(f"--directory {parent}: found no directory, expected one that exists") from error
    except OSError as error:
        raise DirectoryUnusable(f"--directory {parent}: found {error.strerror}, expected to read it") from error
    try:
        deadline = time.monotonic() + GATE_TIMEOUT
        while not _locked(gate):
            if time.monotonic() > deadline:
                found = "a directory that somebody holds, such as that of a cluster that is up"
                raise DirectoryUnusable(f"--directory {parent}: found {found}, expected another")
            time.sleep(0.01)
        yield
    finally:
        os.close(gate)


def _locked(descriptor: int) -> bool:
    """Lock it, if nobody else has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _make(parent: Path, keep: bool) -> tuple[Path, int]:
    """The directory and its lock; one that is to be kept has none, since what is not locked any more gets removed."""
    directory = None
    try:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        if keep:
            return directory, -1
        lock = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)
        raise DirectoryUnusable(f"--directory {parent}: found {error.strerror}, expected to create files") from error
    return directory, lock


def remove_stale(parent: Path) -> list[Path]:
    """Remove the directories of runs that were killed. Returns which."""
    removed = []
    for directory in parent.glob(f"{PREFIX}*"):
        try:
            lock = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # being made, being removed, or not ours
        try:
            if _locked(lock):  # else it is in use
                shutil.rmtree(directory, ignore_errors=True)
                removed.append(directory)
        finally:
            os.close(lock)
    return removed
