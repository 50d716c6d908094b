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

import psutil

PR_SET_CHILD_SUBREAPER = 36
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
    try:
        found = psutil.Process(ancestor).children(recursive=True)
    except psutil.NoSuchProcess:
        return set()
    return {one.pid for one in found if is_living(one.pid) and not _keeps_shared_memory(one)}


def is_living(pid: int) -> bool:
    """Say whether the process runs: one that has ended and was not waited for does not."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
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
    found = set()
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            sockets = psutil.Process(pid).net_connections("tcp")
            found |= {(one.family, *one.laddr) for one in sockets if one.status == psutil.CONN_LISTEN}
    assert {family for family, _, _ in found} <= {socket.AF_INET}, "nothing is to listen on IPv6"
    return sorted((address, port) for _, address, port in found)


def other_addresses() -> list[str]:
    """Give this host's IPv4 addresses other than 127.0.0.1; a host with loopback alone still has 127.0.0.2."""
    found = {one.address for every in psutil.net_if_addrs().values() for one in every if one.family == socket.AF_INET}
    return sorted({*found, "127.0.0.2"} - {"127.0.0.1"})


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


def _keeps_shared_memory(process: psutil.Process) -> bool:
    """Recognise the helper that Python's shared memory leaves running until the interpreter ends."""
    try:
        return any("resource_tracker" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False
