"""What tests ask the kernel about processes, ports and shared memory; waits are for a condition, and bounded."""

import contextlib
import ctypes
import itertools
import os
import resource
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
TCP_LISTEN = "0A"
SHARED_MEMORY = Path("/dev/shm")


def wait_until(condition: Callable[[], object], timeout_s: float = 10.0, what: str = "the condition") -> None:
    """Come back when the condition holds, or fail when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {timeout_s} s")
        time.sleep(0.002)


def adopt_orphans() -> None:
    """Become the parent of every orphan among our descendants, so that none can hide."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def living_descendants(ancestor: int | None = None) -> set[int]:
    """Give the pids of the living processes that this one (or the named one) started, directly or not."""
    children: dict[int, list[tuple[int, str]]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                state, parent = Path("/proc", name, "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            except (OSError, ValueError):
                continue
            children.setdefault(int(parent), []).append((int(name), state))
    found: set[int] = set()
    waiting = [os.getpid() if ancestor is None else ancestor]
    while waiting:
        for pid, state in children.get(waiting.pop(), ()):
            waiting.append(pid)
            if state not in "ZX" and not _keeps_shared_memory(pid):
                found.add(pid)
    return found


def is_living(pid: int) -> bool:
    """Say whether the process runs: one that has ended and was not waited for does not."""
    try:
        return Path("/proc", str(pid), "stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@contextlib.contextmanager
def few_descriptors(pid: int, free: int) -> Iterator[None]:
    """Leave the process so many free descriptors, and no more, for a while."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free_numbers = (number for number in itertools.count() if number not in taken)
    limit = next(itertools.islice(free_numbers, free, None))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limits[1]))
    try:
        yield
    finally:
        if is_living(pid):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def reap_orphans() -> None:
    """Wait for the adopted ones that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass  # none left


def listening(pids: Iterable[int]) -> list[tuple[str, int]]:
    """Give address and port of every TCP socket that these processes listen on."""
    inodes = {inode for pid in pids for inode in _socket_inodes(pid)}
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == TCP_LISTEN and fields[9] in inodes:
            address, port = fields[1].split(":")
            found.append((socket.inet_ntoa(bytes.fromhex(address)[::-1]), int(port, 16)))
    assert not (set(_listening_inodes("/proc/net/tcp6")) & inodes), "nothing is to listen on IPv6"
    return sorted(found)


def other_addresses() -> list[str]:
    """Give this host's IPv4 addresses other than 127.0.0.1; a host with loopback alone still has 127.0.0.2."""
    found = {"127.0.0.2"}
    lines = Path("/proc/net/fib_trie").read_text().splitlines()
    for line, following in itertools.pairwise(lines):
        if "/32 host LOCAL" in following:
            found.add(line.split()[-1])
    return sorted(found - {"127.0.0.1"})


def unclaimed_shared_memory() -> set[str]:
    """Give the names in /dev/shm that no living process maps or holds open."""
    names = set(os.listdir(SHARED_MEMORY))
    for pid in (name for name in os.listdir("/proc") if name.isdigit()):
        try:
            mapped = Path("/proc", pid, "maps").read_text(errors="replace")
            links = [os.readlink(entry) for entry in Path("/proc", pid, "fd").iterdir()]
        except OSError:
            continue
        names -= {name for name in names if f"{SHARED_MEMORY}/{name}" in mapped or f"{SHARED_MEMORY}/{name}" in links}
    return names


def _keeps_shared_memory(pid: int) -> bool:
    """Recognise the helper that Python's shared memory leaves running until the interpreter ends."""
    try:
        return b"resource_tracker" in Path("/proc", str(pid), "cmdline").read_bytes()
    except OSError:
        return False


def _socket_inodes(pid: int) -> set[str]:
    found = set()
    try:
        for entry in Path("/proc", str(pid), "fd").iterdir():
            target = os.readlink(entry)
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        pass  # it ended, or closed the socket, while we looked
    return found


def _listening_inodes(table: str) -> list[str]:
    try:
        lines = Path(table).read_text().splitlines()[1:]
    except OSError:
        return []
    return [line.split()[9] for line in lines if line.split()[3] == TCP_LISTEN]
