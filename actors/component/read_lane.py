"""Reads from the disk in one lane of the storage: for the owner, or for peers.

Guarantees: one group in flight. What comes was verified against the expected header; a failed read makes the slot
faulty only if it still means the same reply (invariant 3). A reply that is too large to travel as bytes is read into a
buffer of the lane's own stock. Owns: the reads of the group, and their buffers until the answer.
"""

from __future__ import annotations

from collections.abc import Iterator

from client_replies.messages.faults import SlotFault
from client_replies.messages.leases import Lease
from client_replies.messages.replies import Payload
from client_replies.messages.storage_io import NO_LEASE, ReadSlots, SlotsRead

from .opened import Opened
from .slots import Read, Waiter


class ReadLane:
    """See the module."""

    def __init__(self, opened: Opened, name: str, stock: list[Lease], *, for_peers: bool) -> None:
        self._opened = opened
        self._name = name
        self._stock = stock
        self._for_peers = for_peers
        self._reads: list[Read] = []
        self.leases: list[Lease] = []

    @property
    def is_busy(self) -> bool:
        """True while a group is in flight."""
        return self._opened.to_storage.is_busy(self._name)

    @property
    def size(self) -> int:
        """How many reads the group has."""
        return len(self._reads)

    def has_room(self, header: bytes) -> bool:
        """True if the reply needs no buffer, or there is one."""
        return self._opened.is_inline(header) or bool(self._stock)

    def add(self, slot: int, header: bytes, waiter: Waiter) -> None:
        """The next group has this read, for which there is room."""
        self.leases.append(NO_LEASE if self._opened.is_inline(header) else self._stock.pop())
        self._reads.append(self._opened.slots.read_start(slot, header, waiter))

    def send(self) -> None:
        """Send the group, if there is anything in it."""
        if self._reads:
            message = ReadSlots(
                batch=self._opened.to_storage.next_number(self._name),
                slots=tuple(read.slot for read in self._reads),
                headers=b"".join(read.header for read in self._reads),
                leases=tuple(self.leases),
                for_peers=self._for_peers,
            )
            self._opened.call_storage(self._name, message)

    def done(self, answer: SlotsRead) -> Iterator[tuple[Read, Lease, Payload | SlotFault]]:
        """The group ended: each read with its buffer and what came of it."""
        if self._opened.to_storage.answered(self._name, answer.batch) is None:
            return
        reads, leases = self._reads, self.leases
        self._reads, self.leases = [], []
        for read, lease, result in zip(reads, leases, answer.results, strict=True):
            fault = result if isinstance(result, SlotFault) else None
            if self._opened.slots.read_done(read, failed=fault is not None):
                self._opened.count("slot_faulty", slot=read.slot, fault=fault.name if fault else "", found_by="read")
            yield read, lease, result

    def give_back(self, lease: Lease) -> None:
        """The buffer, if there is one, is not needed any more."""
        if lease != NO_LEASE:
            self._stock.append(lease)
