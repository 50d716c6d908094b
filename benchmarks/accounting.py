"""Who was busy while something was measured: the CPU time of each process of an actor system, by its actor.

Guarantees: after `install`, and before the actor system is started, every actor's process that is started next names
itself after its actor in memory that all of them share. `begin` reads the CPU time of all those processes; two of its
snapshots make an account. Nothing is added to what a message costs.

Owns: the patched function of `actors.thespian.base.processes` with which a process begins.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil
from thespian.system.multiprocCommon import startChild

from client_replies.actors.thespian.base import processes

ROWS = 256
# A row is a process: its name and pid.
_ROW = struct.Struct("<32sQ")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """CPU seconds so far, by process."""

    at: float
    cpu: dict[str, float]


class Accounts:
    """The shared rows. One per measurement."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, ROWS * _ROW.size)
        self._lock = multiprocessing.get_context("fork").Lock()

    def claim(self, name: str) -> None:
        """Take a row for this process, under this name; none if all are taken."""
        with self._lock:
            row = sum(1 for _ in self._rows())
            if row < ROWS:
                _ROW.pack_into(self._memory, row * _ROW.size, name.encode()[:32], os.getpid())

    def _rows(self) -> Iterator[tuple[str, int]]:
        for name, pid in _ROW.iter_unpack(self._memory):
            if not pid:
                return
            yield name.rstrip(b"\0").decode(), pid

    def snapshot(self) -> Snapshot:
        """The CPU time of all processes; of several with one name, the later ones have a number."""
        cpu: dict[str, float] = {}
        seen: dict[str, int] = {}
        for name, pid in self._rows():
            seen[name] = seen.get(name, 0) + 1
            cpu[name if seen[name] == 1 else f"{name} {seen[name]}"] = cpu_seconds(pid)
        return Snapshot(time.perf_counter(), cpu)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all its threads so far; 0 once it has ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


_accounts: Accounts | None = None


def install(name: str) -> None:
    """Begin to count in this process, under this name, and in those that the next actor system forks from it."""
    global _accounts
    if _accounts is None:
        _name_children()
    _accounts = Accounts()
    _accounts.claim(name)


def _name_children() -> None:
    enter = processes._enter

    def named(target: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if _accounts is not None and target is startChild:
            name = args[0] if isinstance(args[0], str) else args[0].__name__
            _accounts.claim(name.rpartition(".")[2])
        enter(target, args)

    processes._enter = named


def account(before: Snapshot, after: Snapshot) -> dict[str, Any]:
    """What happened between two snapshots: for how long, and how busy each process was, as plain data for JSON."""
    seconds = after.at - before.at
    busy = {name: (cpu - before.cpu.get(name, 0.0)) / seconds for name, cpu in after.cpu.items()}
    return {"seconds": seconds, "busy": busy}


def begin() -> Snapshot:
    """A snapshot of the measurement's accounts; of this process alone where nothing was installed."""
    if _accounts is not None:
        return _accounts.snapshot()
    return Snapshot(time.perf_counter(), {"this process": time.process_time()})
