"""Who was busy, and what was sent: counted while a measurement runs, without slowing it down noticeably.

Guarantees: after `install`, and before the actor system is started, every process of the system that is started next
names itself after its actor and counts the messages and bytes that it sends, by class and receiver, in memory that
all of them share. `snapshot` reads the counters and the CPU time of all those processes; two of them make an account.

Gives up: what has no port (a simple system's messages); Thespian's own traffic is told apart from ours by its class
names only. Counting costs two microseconds a message, where a message costs hundreds.

Owns: the patched sending functions of this process's transport.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from thespian.system.multiprocCommon import startChild

from client_replies.actors.base import processes
from client_replies.actors.base.local import LocalStream
from client_replies.actors.base.transport import Transport

ROWS = 64
KINDS = 62
NAME_SIZE = 32
# A row is a process: its name, pid and port; then an entry for each class of message and port that it was sent to.
_HEAD = struct.Struct(f"<{NAME_SIZE}sQQQ")
_ENTRY = struct.Struct(f"<{NAME_SIZE}sQQQ")
_COUNTS_AT = NAME_SIZE + 8
_ROW_SIZE = _HEAD.size + KINDS * _ENTRY.size
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
        self._entries: dict[tuple[str, int], memoryview] = {}

    def claim(self, name: str) -> None:
        """Take a row for this process, under this name."""
        with self._lock:
            row = next(row for row in range(ROWS) if not self._head(row)[1])
            _HEAD.pack_into(self._memory, row * _ROW_SIZE, name.encode()[:NAME_SIZE], os.getpid(), 0, 0)
        self._row = row
        self._entries = {}

    def count(self, kind: str, size: int, source: int, target: int) -> None:
        """One message of this class was sent by this process, from one port to another."""
        entry = self._entries.get((kind, target))
        if entry is None:
            if self._row < 0 or len(self._entries) == KINDS:
                return
            head = self._row * _ROW_SIZE
            name, pid, _, _ = self._head(self._row)
            _HEAD.pack_into(self._memory, head, name.encode(), pid, source, 0)
            at = head + _HEAD.size + len(self._entries) * _ENTRY.size
            _ENTRY.pack_into(self._memory, at, kind.encode()[:NAME_SIZE], target, 0, 0)
            entry = memoryview(self._memory)[at + _COUNTS_AT : at + _ENTRY.size].cast("Q")
            self._entries[kind, target] = entry
        entry[0] += 1
        entry[1] += size

    def _head(self, row: int) -> tuple[str, int, int, int]:
        name, pid, port, zero = _HEAD.unpack_from(self._memory, row * _ROW_SIZE)
        return name.rstrip(b"\0").decode(), pid, port, zero

    def _names(self) -> dict[int, str]:
        """The name of each row's process, with a number if there are several of that name."""
        names: dict[int, str] = {}
        for row in range(ROWS):
            name, pid, _, _ = self._head(row)
            if pid:
                same = sum(self._head(other)[0] == name for other in range(row))
                names[row] = f"{name} {same + 1}" if same else name
        return names

    def pid(self, name: str) -> int:
        """The first process of this name."""
        for row, found in self._names().items():
            if found == name:
                return self._head(row)[1]
        raise LookupError(f"there is no process called {name}")

    def snapshot(self) -> Snapshot:
        """Everything counted so far, in all processes."""
        names = self._names()
        ports = {self._head(row)[2]: name for row, name in names.items()}
        sent = {name: self._sent(row, ports) for row, name in names.items()}
        cpu = {name: cpu_seconds(self._head(row)[1]) for row, name in names.items()}
        return Snapshot(time.perf_counter(), cpu, sent)

    def _sent(self, row: int, ports: Mapping[int, str]) -> Sent:
        sent: Sent = {}
        for entry in range(KINDS):
            at = row * _ROW_SIZE + _HEAD.size + entry * _ENTRY.size
            raw, port, messages, size = _ENTRY.unpack_from(self._memory, at)
            if messages:
                key = f"{raw.rstrip(bytes(1)).decode()} to {ports.get(port, 'others')}"
                before = sent.get(key, (0, 0))
                sent[key] = (before[0] + messages, before[1] + size)
        return sent


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
    """Count what the transport of our base sends to processes of this host."""
    sends, writes = Transport._send, LocalStream.write
    sends_now = Transport.send_now
    kind = ""

    def counted_send(self: Transport, details: Any, parts: Any, size: int, intent: Any) -> None:
        nonlocal kind
        kind = type(intent.message).__name__
        sends(self, details, parts, size, intent)

    def counted_send_now(self: Transport, target: Any, message: object, on_error: Any) -> bool:
        nonlocal kind
        kind = type(message).__name__
        return sends_now(self, target, message, on_error)

    def counted_write(self: LocalStream, parts: Any, size: int, intent: Any = None) -> bool:
        if _accounts is not None:
            _accounts.count(kind, size, _port(self.transport.myAddress.addressDetails), _port(self.address))
        return writes(self, parts, size, intent)

    Transport._send = counted_send  # type: ignore[method-assign]
    Transport.send_now = counted_send_now  # type: ignore[method-assign]
    LocalStream.write = counted_write  # type: ignore[assignment,method-assign]


def _port(details: Any) -> int:
    sockname = getattr(details, "sockname", None)
    return int(sockname[1]) if sockname else 0


def _patch_children() -> None:
    enter = processes._enter

    def named(target: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if _accounts is not None and target is startChild:
            name = args[0] if isinstance(args[0], str) else args[0].__name__
            _accounts.claim(name.rpartition(".")[2])
        enter(target, args)

    processes._enter = named


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
    return Snapshot(time.perf_counter(), {"this process": time.process_time()}, {})
