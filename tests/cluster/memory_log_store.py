"""A log store for simulations: bytes in memory, encoded and verified like those on a disk."""

from __future__ import annotations

from collections import deque

from client_replies.cluster.log.log_store import StoreIdentity, _assemble, _Image, _pack_state, _seal
from client_replies.cluster.vsr.durable import DurableState, LogWrite, StoredLog


class MemoryLogStore:
    """See the module.

    `submit` and `complete` take a write apart: what was submitted and not completed is lost in a `crash`.
    """

    def __init__(self, identity: StoreIdentity, *, voting: bool) -> None:
        self.identity = identity
        self._formatted = True
        self._base = (0, bytes(16))
        self._image = _Image(states=[_pack_state(identity, DurableState(voting=voting), 0, bytes(16))] * 2)
        self._submitted: deque[tuple[int, LogWrite]] = deque()

    def load(self) -> StoredLog:
        """Give everything that is in the store, verified."""
        stored = _assemble(self._image, self.identity, "memory", self._formatted)
        self._base = (stored.base, stored.base_checksum)
        return stored

    def write(self, *writes: LogWrite) -> None:
        """Make the writes durable, in order."""
        image = self._image
        for write in writes:
            if write.base is not None:
                self._base = write.base
                self._drop(range(write.base[0] + 1))
            if write.truncate_after is not None:
                self._drop(range(write.truncate_after + 1, 2**63))
            for entry in write.entries:
                image.entries[entry.op] = entry.packed
                image.heads[entry.op] = (entry.checksum, _seal(entry.op, entry.checksum))
            if write.snapshot is not None:
                image.snapshots[write.snapshot.op] = write.snapshot.encode()
            if write.snapshots_from is not None:
                for op in [op for op in image.snapshots if op < write.snapshots_from]:
                    del image.snapshots[op]
            image.states = [_pack_state(self.identity, write.state, *self._base)] * 2

    def _drop(self, ops: range) -> None:
        for op in [op for op in self._image.heads if op in ops]:
            del self._image.heads[op]
            self._image.entries.pop(op, None)

    def submit(self, number: int, write: LogWrite) -> None:
        """Begin a write."""
        self._submitted.append((number, write))

    def complete(self) -> int:
        """Complete the oldest write that was begun, and give its number."""
        number, write = self._submitted.popleft()
        self.write(write)
        return number

    def crash(self) -> None:
        """Lose what was not completed; from now on this is a store of an earlier life."""
        self._submitted.clear()
        self._formatted = False

    def rot(self, op: int) -> None:
        """Damage the entry at `op`."""
        data = bytearray(self._image.entries[op])
        data[len(data) // 2] ^= 0x40
        self._image.entries[op] = bytes(data)

    def close(self) -> None:
        """Let another owner open the store."""
        self._formatted = False
