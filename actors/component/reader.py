"""Reads for the owner.

Guarantees: a reply that is pending is answered from memory at once; a slot whose bytes on disk nobody has compared with
what it is expected to hold is read before anything is said of it. The number of reads is bounded, and beyond it the
answer is "busy". A repeated request is answered again, never done twice.

Limits: reads no reply that the slot is not expected to hold. Owns: the reads that wait, and the buffers lent to the
owner until `ReplyTaken`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from thespian.actors import ActorAddress

from client_replies.messages.faults import SlotFault
from client_replies.messages.leases import Lease
from client_replies.messages.replies import NotRead, Payload, ReadReply, ReplyNotRead, ReplyRead
from client_replies.messages.reply_header import packed_size
from client_replies.messages.storage_io import SlotsRead

from .opened import Opened
from .read_lane import ReadLane


@dataclass(slots=True, eq=False)
class ClientRead:
    """A `ReadReply` that has no answer yet, or whose answer lent a lease that has not come back."""

    reader: Reader
    message: ReadReply
    sender: ActorAddress
    lent: Lease | None = None
    sent: float = 0.0
    failed: bool = False  # the disk did not hold it; while the slot is unverified, the verification is waited for

    def answered_by_write(self, payload: Payload) -> None:
        """A write of the very reply that this read wants was accepted (invariant 4)."""
        if self.reader.waits_for(self):
            # Without a buffer for a copy, the read is answered when its group ends.
            self.reader.answer_from_memory(self, payload)


class Reader:
    """All reads for the owner in one opening. `lost` has the slots whose replies no replica holds any more."""

    def __init__(self, opened: Opened, lost: Mapping[int, bytes]) -> None:
        self._opened = opened
        self._lost = lost
        self._reads: dict[int, ClientRead] = {}
        self._waiting: deque[ClientRead] = deque()
        self.disk = ReadLane(opened, "read", opened.read_stock, for_peers=False)

    def read(self, message: ReadReply, sender: ActorAddress) -> None:
        """Answer from memory, or queue for the disk."""
        read = self._reads.get(message.read)
        if read is not None:
            if read.lent is not None:
                self._lend(read, read.lent)
            return
        read = ClientRead(self, message, sender)
        if len(self._reads) >= self._opened.config.reads_max:
            self._refuse(read, NotRead.BUSY)
            return
        self._reads[message.read] = read
        if not self._answer_now(read):
            self._waiting.append(read)

    def waits_for(self, read: ClientRead) -> bool:
        """True if the read has no answer yet."""
        return self._reads.get(read.message.read) is read and read.lent is None

    def _answer_now(self, read: ClientRead) -> bool:
        """Answer if no disk is needed. False if the read has to wait for the disk or for a buffer."""
        slot, header, slots = read.message.slot, read.message.expected, self._opened.slots
        if slot >= self._opened.config.clients_max or slots.expected[slot] != header:
            self._refuse(read, NotRead.UNEXPECTED)
            return True
        payload = slots.pending(slot, header)
        if payload is not None:
            return self.answer_from_memory(read, payload)
        if slot in slots.ahead:
            self._refuse(read, NotRead.UNEXPECTED)
            return True
        if slot in slots.faulty:
            self._refuse(read, NotRead.LOST if slot in self._lost else NotRead.CORRUPT)
            return True
        return False

    def answer_from_memory(self, read: ClientRead, payload: Payload) -> bool:
        """Answer with the payload of a write. False if there is no buffer for a copy."""
        opened, header = self._opened, read.message.expected
        if opened.is_inline(header):
            self._answer(read, opened.copy_bytes(payload, header))
            return True
        if not opened.read_stock:
            return False
        # The writer's buffer goes back to the pool when the write ends, so the reader gets a copy in another.
        lease = opened.read_stock.pop()
        size = packed_size(header)
        held = payload if isinstance(payload, bytes) else opened.memory.buffer(payload)[:size]
        opened.memory.buffer(lease)[:size] = held
        self._answer(read, lease)
        return True

    def _answer(self, read: ClientRead, payload: Payload) -> None:
        if isinstance(payload, bytes):
            self._reads.pop(read.message.read)
            self._send(read, payload)
        else:
            self._lend(read, payload)

    def _lend(self, read: ClientRead, lease: Lease) -> None:
        read.lent, read.sent = lease, self._opened.now()
        self._send(read, lease)

    def _send(self, read: ClientRead, payload: Payload) -> None:
        message = read.message
        answer = ReplyRead(owner=message.owner, read=message.read, slot=message.slot, payload=payload)
        self._opened.send(read.sender, answer)

    def _refuse(self, read: ClientRead, reason: NotRead) -> None:
        message = read.message
        self._reads.pop(message.read, None)
        answer = ReplyNotRead(owner=message.owner, read=message.read, slot=message.slot, reason=reason)
        self._opened.send(read.sender, answer)

    def taken(self, number: int) -> None:
        """The owner is done with the lease that it was lent for this read."""
        read = self._reads.get(number)
        if read is not None and read.lent is not None:
            self._opened.read_stock.append(read.lent)
            del self._reads[number]

    @property
    def due(self) -> float:
        """When something is to be told again."""
        lent = min((read.sent for read in self._reads.values() if read.lent is not None), default=math.inf)
        return lent + self._opened.config.resend_timeout

    def resend_lent(self, now: float) -> None:
        """What was lent and not taken within the timeout is told again: the telling may have been lost."""
        for read in self._reads.values():
            if read.lent is not None and now - read.sent >= self._opened.config.resend_timeout:
                self._lend(read, read.lent)

    def pump(self) -> None:
        """Answer the reads that need no disk any more; start the next group."""
        if self._waiting:
            self._waiting = deque(read for read in self._waiting if not self._answer_now(read))
        if self.disk.is_busy:
            return
        for _ in range(len(self._waiting)):
            if self.disk.size >= self._opened.config.read_batch_max:
                break
            read = self._waiting.popleft()
            if self._may_start(read):
                self.disk.add(read.message.slot, read.message.expected, read)
            else:
                self._waiting.append(read)
        self.disk.send()

    def _may_start(self, read: ClientRead) -> bool:
        slot, header, slots = read.message.slot, read.message.expected, self._opened.slots
        if (read.failed and slot in slots.unverified) or not self.disk.has_room(header):
            return False
        return slots.pending(slot, header) is None

    def read_done(self, answer: SlotsRead) -> None:
        """A group of reads ended."""
        for read, lease, result in self.disk.done(answer):
            client = read.waiter
            if not isinstance(client, ClientRead):
                continue
            waits = self.waits_for(client)
            if waits and not read.overtaken and not isinstance(result, SlotFault):
                self._answer(client, result)
                continue
            self.disk.give_back(lease)
            client.failed = isinstance(result, SlotFault)
            if waits and not self._answer_now(client):
                # Overtaken by a write of the same reply that is durable by now: the disk is asked again.
                self._waiting.append(client)

    def refuse_all(self) -> None:
        """The file closes: no read is answered any more."""
        for read in list(self._reads.values()):
            if read.lent is None:
                self._refuse(read, NotRead.CLOSED)
        self._waiting.clear()

    def take_back(self) -> list[Lease]:
        """The leases that are lent to the owner; it may not look at them any more."""
        lent = [read.lent for read in self._reads.values() if read.lent is not None]
        self._reads.clear()
        return lent

    @property
    def depths(self) -> dict[str, int]:
        """How much waits, for the status."""
        return {"reads": len(self._reads), "reads_waiting": len(self._waiting)}
