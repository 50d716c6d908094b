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

from client_replies.cluster.durable_files import replace_file, set_aside
from client_replies.cluster.log.log_store import LogStore, SqliteLogStore, StoreIdentity
from client_replies.cluster.vsr.core import Random

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
        """Make the replica's directory, unless it is there. Raises `OSError`."""
        Path(directory).mkdir(exist_ok=True)

    def set_aside(self, path: str) -> str:
        """Give a damaged file or directory another name, for a person to look at; which. Raises `OSError`."""
        return set_aside(Path(path)).name

    def open_log(self, directory: str, identity: StoreIdentity) -> LogStore:
        """Open the log of an earlier life. Raises `LogStoreError`."""
        return SqliteLogStore.open(str(Path(directory) / LOG_FILE), identity)

    def format_log(self, directory: str, identity: StoreIdentity, *, voting: bool) -> LogStore:
        """Make a log. Raises `LogStoreError`."""
        return SqliteLogStore.format(str(Path(directory) / LOG_FILE), identity, voting=voting)

    def write_file(self, directory: str, name: str, text: str) -> None:
        """Leave a file in a directory. Raises `OSError`."""
        replace_file(Path(directory) / name, text)

    def end(self) -> NoReturn:
        """End the replica's process as any other crash would."""
        os.kill(os.getpid(), signal.SIGKILL)
        raise SystemExit(1)  # not reached
