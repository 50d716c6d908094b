"""The directory of a cluster that stays up: whose it is, who has it open, and where that one can be asked.

    cluster.json   the cluster's number and replicas; `formed`: those that were up once
    running.json   the gateway's address and the script's process id, while it is up
    control.sock   where to ask, while it is up        log.jsonl     what the members log
    replica-N/     log and replies of a replica        *.damaged-*   what was set aside, for a person to look at

Guarantees: a directory that is another cluster's, or no cluster's, is refused and left as it is; two scripts never have
one directory: the directory itself is locked, not a file in it that somebody may remove. A script that does not hold
the lock changes nothing in it. A crash at any moment leaves a directory that can be opened. What is asked over the
socket is one line of JSON, and so is its answer.

Limits: one host. Everything is on this machine.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from client_replies.cluster.durable_files import NEW, replace_file

CLUSTER_FILE = "cluster.json"
DATA_FILE = "replies.data"  # in a replica's directory
RUNNING_FILE = "running.json"
SOCKET = "control.sock"
# What may be there before there is a cluster: of an earlier attempt to start (older versions locked a file), of a disk.
LEFTOVERS = frozenset({"lock", CLUSTER_FILE, f"{CLUSTER_FILE}{NEW}", "lost+found"})
LINE_MAX = 1024 * 1024
ASK_TIMEOUT = 60.0  # seconds


class ClusterUnusable(ValueError):
    """The directory cannot be used so; the text says what to do."""


class ClusterDown(ClusterUnusable):
    """The cluster is there, and is not up or does not answer."""


_ENVIRONMENT = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOLCK}
)


def _not_ours(directory: Path, error: OSError) -> ClusterUnusable:
    """What to say if the directory cannot be read or written."""
    try:
        owner = directory.stat().st_uid
    except OSError:
        owner = os.geteuid()
    whose = "" if owner == os.geteuid() else f" in a directory of user {owner}"
    expected = "to read and write there" if error.errno in _ENVIRONMENT else "one of our own, such as /tmp/ledger"
    return ClusterUnusable(f"{directory}: found {error.strerror}{whose}, expected {expected}")


@contextlib.contextmanager
def on_refusal(directory: Path) -> Iterator[None]:
    """What the operating system refuses within makes the directory unusable. Raises `ClusterUnusable`."""
    try:
        yield
    except OSError as error:
        raise _not_ours(directory, error) from error


@dataclass(frozen=True, slots=True)
class Shape:
    """What never changes of a cluster, and which replicas were ever up: they may have promised something."""

    cluster: int
    replicas: int
    formed: frozenset[int]

    def write(self, directory: Path) -> None:
        """Make it durable. Raises `OSError`."""
        data = {"cluster": f"{self.cluster:x}", "replicas": self.replicas, "formed": sorted(self.formed)}
        replace_file(directory / CLUSTER_FILE, json.dumps(data))

    def with_formed(self, replica: int) -> Shape:
        """The shape once this replica was up."""
        return replace(self, formed=self.formed | {replica})


def read_shape(directory: Path) -> Shape:
    """The cluster in the directory. Raises `ClusterUnusable`."""
    try:
        data = json.loads((directory / CLUSTER_FILE).read_text(encoding="utf-8"))
        replicas, formed = int(data["replicas"]), data["formed"]
        if isinstance(formed, bool):  # as earlier versions wrote it: all or none
            formed = range(replicas) if formed else ()
        return Shape(int(data["cluster"], 16), replicas, frozenset(map(int, formed)))
    except FileNotFoundError:
        raise ClusterUnusable(f"{directory}: there is no cluster. Start one: start {directory}") from None
    except OSError as error:
        raise _not_ours(directory, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterUnusable(f"{directory / CLUSTER_FILE}: found {error}, expected what start wrote there") from error


@dataclass(frozen=True, slots=True)
class OpenDirectory:
    """A cluster's directory that this process has locked."""

    path: Path
    descriptor: int

    def has_moved(self) -> bool:
        """True if the directory was renamed or removed: another one may have its name."""
        try:
            return not os.path.samestat(self.path.stat(), os.fstat(self.descriptor))
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False  # its name cannot be looked at now, which says nothing


@contextlib.contextmanager
def opened(directory: Path, replicas: int | None) -> Iterator[tuple[OpenDirectory, Shape]]:
    """Have the directory for ourselves; a new one gets a new cluster. Raises `ClusterUnusable`."""
    directory, descriptor = _open_directory(directory)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno != errno.EWOULDBLOCK:
            raise _not_ours(directory, error) from error
        raise ClusterUnusable(f"{directory}: this cluster is up already. Ask it: status {directory}") from None
    try:
        shape = _shape_of(directory, replicas)
        _check_writable(directory)
        yield OpenDirectory(directory, descriptor), shape
    finally:
        for name in (RUNNING_FILE, f"{RUNNING_FILE}{NEW}", SOCKET):
            # By descriptor: under the directory's name there may be another one by now.
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=descriptor)
        os.close(descriptor)


def _open_directory(directory: Path) -> tuple[Path, int]:
    """The directory under a name that holds wherever we are, open; made if it is not there."""
    try:
        directory = Path(os.path.abspath(directory))
        directory.mkdir(exist_ok=True)
        return directory, os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        found = f"found no {directory.parent}" if directory.is_absolute() else "found no current directory"
        raise ClusterUnusable(f"{directory}: {found}. Give a directory whose parent exists") from error
    except FileExistsError as error:
        raise ClusterUnusable(f"{directory}: found a file. Give a new or an empty directory") from error
    except OSError as error:
        raise _not_ours(directory, error) from error


def _check_writable(directory: Path) -> None:
    """Find out before anything is started; and what a killed script said of itself is not true any more."""
    with on_refusal(directory):
        replace_file(directory / RUNNING_FILE, "{}")


def _shape_of(directory: Path, replicas: int | None) -> Shape:
    """The cluster that is in the directory; a new one if there is nothing but what an earlier start left behind."""
    with on_refusal(directory):
        others = sorted(entry.name for entry in directory.iterdir() if entry.name not in LEFTOVERS)
        file = directory / CLUSTER_FILE
        is_missing = not file.exists() or not file.stat().st_size  # an empty one is what a full disk left
        if others and is_missing:
            found = f"{others[0]}, and an empty {CLUSTER_FILE}" if file.exists() else f"{others[0]}, and no cluster"
            raise ClusterUnusable(f"{directory}: found {found}. Give a new or an empty directory")
        if is_missing:
            Shape(secrets.randbits(127) + 1, replicas or 3, frozenset()).write(directory)
    shape = read_shape(directory)
    if replicas not in (None, shape.replicas):
        raise ClusterUnusable(
            f"{directory}: found a cluster of {shape.replicas} replicas, asked for {replicas}. "
            "Give another directory, or leave --replicas out"
        )
    return shape


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
