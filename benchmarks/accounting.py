"""Who was busy, and what was sent: counted while a measurement runs, without slowing it down noticeably.

Guarantees: after `install`, and before the actor system is started, every process of the system that is started next
names itself after its actor and counts the messages and bytes that it sends, by class, in memory that all of them
share. `snapshot` reads the counters and the CPU time of all those processes; two of them make an account.

Gives up: what a receiver did (a message class has one receiver in `messages.protocol`), and Thespian's own traffic is
not told apart from ours except by its class names. Counting costs about a microsecond a message.

Owns: the patched sending function of this process's Thespian.
"""

from __future__ import annotations

import importlib
import mmap
import multiprocessing
import os
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ROWS = 64
KINDS = 62
NAME_SIZE = 32
_ENTRY = struct.Struct(f"<{NAME_SIZE}sQQ")
_ROW_SIZE = (KINDS + 1) * _ENTRY.size
_TICKS = os.sysconf("SC_CLK_TCK")

Sent = dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Totals so far: CPU seconds and messages sent, by process."""

    at: float
    cpu: dict[str, float]
    sent: dict[str, Sent]


class Accounts:
    """The shared counters. One a measurement."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, ROWS * _ROW_SIZE)
        self._lock = multiprocessing.get_context("fork").Lock()
        self._row = -1
        self._entries: dict[str, memoryview] = {}

    def claim(self, name: str) -> None:
        """Take a row for this process, under this name."""
        with self._lock:
            row = next(row for row in range(ROWS) if not _ENTRY.unpack_from(self._memory, row * _ROW_SIZE)[1])
            _ENTRY.pack_into(self._memory, row * _ROW_SIZE, name.encode()[:NAME_SIZE], os.getpid(), 0)
        self._row = row
        self._entries = {}

    def count(self, kind: str, size: int) -> None:
        """One message of this class was sent by this process."""
        entry = self._entries.get(kind)
        if entry is None:
            if self._row < 0 or len(self._entries) == KINDS:
                return
            at = self._row * _ROW_SIZE + (len(self._entries) + 1) * _ENTRY.size
            _ENTRY.pack_into(self._memory, at, kind.encode()[:NAME_SIZE], 0, 0)
            entry = memoryview(self._memory)[at + NAME_SIZE : at + _ENTRY.size].cast("Q")
            self._entries[kind] = entry
        entry[0] += 1
        entry[1] += size

    def pid(self, name: str) -> int:
        """The first process of this name."""
        for row in range(ROWS):
            raw, pid, _ = _ENTRY.unpack_from(self._memory, row * _ROW_SIZE)
            if pid and raw.rstrip(b"\0").decode() == name:
                return int(pid)
        raise LookupError(f"there is no process called {name}")

    def snapshot(self) -> Snapshot:
        """Everything counted so far, in all processes."""
        cpu: dict[str, float] = {}
        sent: dict[str, Sent] = {}
        for row in range(ROWS):
            raw, pid, _ = _ENTRY.unpack_from(self._memory, row * _ROW_SIZE)
            if not pid:
                continue
            name = _unused(raw.rstrip(b"\0").decode(), cpu)
            cpu[name] = cpu_seconds(pid)
            sent[name] = {}
            for entry in range(1, KINDS + 1):
                kind, messages, size = _ENTRY.unpack_from(self._memory, row * _ROW_SIZE + entry * _ENTRY.size)
                if messages:
                    sent[name][kind.rstrip(b"\0").decode()] = (messages, size)
        return Snapshot(time.perf_counter(), cpu, sent)


def _unused(name: str, names: dict[str, float]) -> str:
    number = 1
    while (found := name if number == 1 else f"{name} {number}") in names:
        number += 1
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all its threads so far."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_bytes(pid: int, field: str = "VmRSS") -> int:
    """What /proc says about a process's memory."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        for line in status:
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


_accounts: Accounts | None = None


def install(name: str) -> Accounts:
    """Begin to count in this process, under this name, and in those that the next actor system forks from it."""
    global _accounts
    if _accounts is None:
        _patch_sending()
        _patch_children()
    _accounts = Accounts()
    _accounts.claim(name)
    return _accounts


def accounts() -> Accounts | None:
    """The accounts of the measurement that this process is part of."""
    return _accounts


def _patch_sending() -> None:
    tcp: Any = importlib.import_module("thespian.system.transport.TCPTransport")
    serialize: Callable[[Any, Any], Any] = tcp.TCPTransport.serializer

    def counted(self: Any, intent: Any) -> Any:
        frame = serialize(self, intent)
        if _accounts is not None:
            _accounts.count(type(intent.message).__name__, len(frame))
        return frame

    tcp.TCPTransport.serializer = counted


def _patch_children() -> None:
    common: Any = importlib.import_module("thespian.system.multiprocCommon")
    run: Callable[..., None] = common.startChild

    def named(child: Any, *args: Any) -> None:
        if _accounts is not None:
            name = child if isinstance(child, str) else child.__name__
            _accounts.claim(name.rpartition(".")[2])
        run(child, *args)

    common.startChild = named


def account(before: Snapshot, after: Snapshot) -> dict[str, Any]:
    """What happened between two snapshots: how busy each process was, and what it sent, as plain data for JSON."""
    seconds = after.at - before.at
    busy = {name: (cpu - before.cpu.get(name, 0.0)) / seconds for name, cpu in after.cpu.items()}
    sent: dict[str, dict[str, list[int]]] = {}
    for name, kinds in after.sent.items():
        for kind, (messages, size) in kinds.items():
            messages_before, size_before = before.sent.get(name, {}).get(kind, (0, 0))
            if messages > messages_before:
                sent.setdefault(name, {})[kind] = [messages - messages_before, size - size_before]
    return {"seconds": seconds, "busy": busy, "sent": sent}


def begin() -> Snapshot:
    """A snapshot of the measurement's accounts; of this process alone where nothing was installed."""
    if _accounts is not None:
        return _accounts.snapshot()
    return Snapshot(time.perf_counter(), {os.path.basename(sys.argv[0]): time.process_time()}, {})
