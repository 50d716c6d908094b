"""What a replica takes from its machine besides what its component takes: its directory, its log, chance, its end.

Guarantees: a replica that takes all this from its `Machine` alone behaves the same under a simulated one.

Owns: nothing. The log store that it opens belongs to who asked for it.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import NoReturn

from .log_store import LogStore, SqliteLogStore, StoreIdentity
from .vsr.core import Random

LOG_FILE = "log.sqlite"


class Machine:
    """The machine itself."""

    def pid(self) -> int:
        """The replica's process."""
        return os.getpid()

    def random(self) -> Random:
        """The protocol's source of chance."""
        return random.SystemRandom()

    def make_directory(self, directory: str) -> None:
        """Make the replica's directory, unless it is there."""
        Path(directory).mkdir(exist_ok=True)

    def clear_directory(self, directory: str) -> None:
        """Remove everything that is in the replica's directory."""
        for file in Path(directory).iterdir():
            file.unlink()

    def open_log(self, directory: str, identity: StoreIdentity) -> LogStore:
        """Open the log of an earlier life. Raises `LogStoreError`."""
        return SqliteLogStore.open(str(Path(directory) / LOG_FILE), identity)

    def format_log(self, directory: str, identity: StoreIdentity, *, voting: bool) -> LogStore:
        """Make a log. Raises `LogStoreError`."""
        return SqliteLogStore.format(str(Path(directory) / LOG_FILE), identity, voting=voting)

    def write_file(self, directory: str, name: str, text: str) -> None:
        """Leave a file in a directory."""
        (Path(directory) / name).write_text(text, encoding="utf-8")

    def end(self) -> NoReturn:
        """End the replica's process as any other crash would."""
        os.kill(os.getpid(), signal.SIGKILL)
        raise SystemExit(1)  # not reached
