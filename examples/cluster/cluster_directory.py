"""The directory of a cluster that stays up: whose it is, who has it open, and where that one can be asked.

    cluster.json   the cluster's number and replicas; `formed` once every replica was there
    running.json   the gateway's address and the script's process id, while it is up
    control.sock   where to ask, while it is up        lock          held while it is up
    replica-N/     log and replies of a replica        log.jsonl     what the members log

Guarantees: a directory that is another cluster's, or no cluster's, is refused and left as it is; two scripts never have
one directory. What is asked over the socket (`control_socket`) is one line of JSON, and so is its answer.

Gives up: hosts. Everything is on this machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLUSTER_FILE = "cluster.json"
RUNNING_FILE = "running.json"
LOCK_FILE = "lock"
SOCKET = "control.sock"
LINE_MAX = 1024 * 1024
ASK_TIMEOUT = 60.0  # seconds
NUMBER_MAX = 999_999_999  # of what somebody types


class ClusterUnusable(ValueError):
    """The directory cannot be used so; the text says what to do."""


class ClusterDown(ClusterUnusable):
    """The cluster is there, and is not up or does not answer."""


def whole_number(text: str, largest: int = NUMBER_MAX) -> int | None:
    """The number that somebody typed, or None for anything else: other scripts' digits, more digits than fit."""
    if not text.isascii() or not text.isdigit() or len(text) > len(str(largest)):
        return None
    number = int(text)
    return number if number <= largest else None


def _not_ours(directory: Path, error: OSError) -> ClusterUnusable:
    """What to say if the directory cannot be read or written."""
    try:
        owner = directory.stat().st_uid
    except OSError:
        owner = os.geteuid()
    whose = "" if owner == os.geteuid() else f" in a directory of user {owner}"
    expected = "one of our own, such as /tmp/ledger"
    return ClusterUnusable(f"{directory}: found {error.strerror}{whose}, expected {expected}")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a cluster is for good."""

    cluster: int
    replicas: int
    formed: bool

    def write(self, directory: Path) -> None:
        """Make it durable."""
        new = directory / f"{CLUSTER_FILE}.new"
        with new.open("w", encoding="utf-8") as file:
            json.dump({"cluster": f"{self.cluster:x}", "replicas": self.replicas, "formed": self.formed}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(directory / CLUSTER_FILE)


def read_shape(directory: Path) -> Shape:
    """The cluster in the directory. Raises `ClusterUnusable`."""
    try:
        data = json.loads((directory / CLUSTER_FILE).read_text(encoding="utf-8"))
        return Shape(int(data["cluster"], 16), int(data["replicas"]), bool(data["formed"]))
    except FileNotFoundError:
        raise ClusterUnusable(f"{directory}: there is no cluster. Start one: start {directory}") from None
    except OSError as error:
        raise _not_ours(directory, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterUnusable(f"{directory / CLUSTER_FILE}: found {error}, expected what start wrote there") from error


@contextlib.contextmanager
def opened(directory: Path, replicas: int | None) -> Iterator[Shape]:
    """Have the directory for ourselves; a new one gets a new cluster. Raises `ClusterUnusable`."""
    try:
        directory.mkdir(exist_ok=True)
        strangers = [entry.name for entry in directory.iterdir() if entry.name != LOCK_FILE]
        if strangers and not (directory / CLUSTER_FILE).exists():
            raise ClusterUnusable(
                f"{directory}: found {strangers[0]}, and no cluster. Give a new or an empty directory"
            )
        lock = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as error:
        raise ClusterUnusable(
            f"{directory}: found no {directory.parent}. Give a directory whose parent exists"
        ) from error
    except FileExistsError as error:
        raise ClusterUnusable(f"{directory}: found a file. Give a new or an empty directory") from error
    except OSError as error:
        raise _not_ours(directory, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise ClusterUnusable(f"{directory}: this cluster is up already. Ask it: status {directory}") from None
    try:
        if not (directory / CLUSTER_FILE).exists():
            Shape(secrets.randbits(127) + 1, replicas or 3, False).write(directory)
        shape = read_shape(directory)
        if replicas not in (None, shape.replicas):
            raise ClusterUnusable(
                f"{directory}: found a cluster of {shape.replicas} replicas, asked for {replicas}. "
                "Give another directory, or leave --replicas out"
            )
        yield shape
    finally:
        for name in (RUNNING_FILE, SOCKET):
            (directory / name).unlink(missing_ok=True)
        os.close(lock)


def read_running(directory: Path) -> dict[str, Any]:
    """Where the cluster is. Raises `ClusterUnusable`."""
    read_shape(directory)
    try:
        found: dict[str, Any] = json.loads((directory / RUNNING_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    if not Path("/proc", str(found.get("pid"))).exists():
        raise ClusterDown(f"{directory}: the cluster is not up. Start it: start {directory}")
    return found


def ask(directory: Path, question: Mapping[str, object]) -> dict[str, Any]:
    """Ask the cluster in the directory. Raises `ClusterUnusable`."""
    read_running(directory)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asker, short_path(directory) as path:
        asker.settimeout(ASK_TIMEOUT)
        try:
            asker.connect(path)
            asker.sendall(json.dumps(question).encode() + b"\n")
            found = json.loads(_read_line(asker))
        except PermissionError as error:
            raise _not_ours(directory, error) from error
        except (OSError, ValueError) as error:
            raise ClusterDown(f"{directory}: the cluster does not answer: {error}. Start it again") from error
    if "error" in found:
        raise ClusterUnusable(str(found["error"]))
    return dict(found)


@contextlib.contextmanager
def short_path(directory: Path) -> Iterator[str]:
    """A path to the socket that fits, however deep the directory is: an address may have 107 bytes."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


def _read_line(peer: socket.socket) -> bytes:
    data = bytearray()
    while not data.endswith(b"\n"):
        part = peer.recv(65_536)
        if not part or len(data) > LINE_MAX:
            raise ConnectionResetError("no whole line came")
        data += part
    return bytes(data)
