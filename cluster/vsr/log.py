"""The log as a replica sees it: what is in it, what of that rotted, and how far it is durable.

Guarantees: consecutive ops from after `base` to `op`, each entry sealed over the one before it; every op has a
checksum here even if its entry is missing. Nothing is added that does not continue the chain.
Owns: no storage. What changes here is written by who changes it.
"""

from __future__ import annotations

from collections.abc import Iterator

from client_replies.messages.faults import invariant

from .durable import StoredLog
from .messages import LogEntry


class Log:
    """See the module."""

    def __init__(self, stored: StoredLog) -> None:
        self.base = stored.base  # entries up to here are covered by a snapshot
        self._checksums = {stored.base: stored.base_checksum}
        self._entries: dict[int, LogEntry] = {}
        for op in range(stored.base + 1, stored.op + 1):
            entry = stored.entries[op]
            self._checksums[op] = entry.checksum
            if isinstance(entry, LogEntry):
                self._entries[op] = entry
        self.op = stored.op
        self.durable = stored.op  # everything up to here is in the store

    def checksum(self, op: int) -> bytes:
        """The checksum of the entry at `op`, which is in the log or its base."""
        return self._checksums[op]

    def has_checksum(self, op: int, checksum: bytes) -> bool:
        """True if this is what the log has, or had, at `op`."""
        return self._checksums.get(op) == checksum

    def covers(self, op: int) -> bool:
        """True if `op` is the base or in the log."""
        return self.base <= op <= self.op

    def entry(self, op: int) -> LogEntry | None:
        """The entry, or None if it is not in the log or rotted."""
        return self._entries.get(op)

    def rotten(self) -> list[int]:
        """The ops whose entries are missing."""
        if len(self._entries) == self.op - self.base:
            return []
        return [op for op in range(self.base + 1, self.op + 1) if op not in self._entries]

    def after(self, op: int) -> Iterator[LogEntry]:
        """The entries after `op` that are there."""
        return (self._entries[at] for at in range(max(op, self.base) + 1, self.op + 1) if at in self._entries)

    def append(self, entry: LogEntry) -> None:
        """Add the next entry."""
        invariant(entry.op == self.op + 1, "the log has no gaps")
        invariant(entry.parent == self._checksums[self.op], "an entry continues the log that it is added to")
        self._entries[entry.op] = entry
        self._checksums[entry.op] = entry.checksum
        self.op = entry.op

    def written(self, op: int) -> None:
        """Everything up to `op` is in the store."""
        invariant(op <= self.op, "what is in the store is in the log")
        self.durable = max(self.durable, op)

    def restore(self, entry: LogEntry) -> None:
        """Put an entry in the place of the one that rotted."""
        invariant(self.has_checksum(entry.op, entry.checksum), "a repaired entry is the one that was there")
        self._entries[entry.op] = entry

    def truncate_after(self, op: int) -> None:
        """Drop the entries after `op`."""
        invariant(op >= self.base, "what a snapshot covers is not truncated")
        for dropped in range(op + 1, self.op + 1):
            self._entries.pop(dropped, None)
            del self._checksums[dropped]
        self.op = min(self.op, op)
        self.durable = min(self.durable, op)

    def trim(self, through: int) -> None:
        """Drop the entries up to `through`, which a durable checkpoint covers."""
        invariant(self.base <= through <= self.op, "only what is there is trimmed")
        for op in range(self.base, through):
            self._entries.pop(op, None)
            del self._checksums[op]
        self._entries.pop(through, None)
        self.base = through

    def reset(self, op: int, checksum: bytes) -> None:
        """Begin again after `op`: nothing that was here continues it."""
        self._entries.clear()
        self._checksums = {op: checksum}
        self.base = self.op = self.durable = op
