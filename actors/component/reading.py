"""Reads: for the replica, for peers that repair, and for the scrubber.

Guarantees: a reply that is pending is answered from memory at once; what comes from disk was verified against the
expected header; a failed read makes the slot faulty only if it still means the same reply (invariant 3). A slot whose
bytes on disk nobody has compared with what it is expected to hold is read before anything is said of it: by the read
that is asked for, or, before a peer is asked, here. The replica's reads never wait for those for peers. Every number of
waiting reads is bounded, and beyond it the answer is "busy".

Limits: reads no reply that the slot is not expected to hold. Owns: the reads that wait, and the buffers lent to the
replica until `ReplyTaken`.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from thespian.actors import ActorAddress

from client_replies.messages.faults import InvariantBroken, SlotFault, invariant
from client_replies.messages.leases import Lease
from client_replies.messages.peers import GetReplies, Missing
from client_replies.messages.replies import NotRead, Payload, ReadReply, ReplyNotRead, ReplyRead
from client_replies.messages.reply_header import packed_op, packed_size
from client_replies.messages.storage_io import NO_LEASE, ReadSlots, SlotsRead, SlotsVerified, VerifySlots

from .opened import Opened
from .repair import Repair
from .serving import Serving
from .slots import Read

SERVE_BATCH_BYTES = 4 * 1024 * 1024
VERIFY_BATCH_BYTES = 4 * 1024 * 1024
VERIFY_BATCH_SLOTS = 1024
SCRUB_STEPS_MAX = 4096  # slots looked at, empty ones too, before the mailbox gets its turn


@dataclass(slots=True, eq=False)
class ClientRead:
    """A `ReadReply` that has no answer yet, or whose answer lent a lease that has not come back."""

    message: ReadReply
    sender: ActorAddress
    lent: Lease | None = None
    sent: float = 0.0
    failed: bool = False  # the disk did not hold it; while the slot is unverified, the verification is waited for


@dataclass(slots=True, eq=False)
class PeerRead:
    """One slot of a peer's request that has to come from memory or disk into a buffer."""

    serving: Serving
    slot: int
    header: bytes


@dataclass(slots=True, eq=False)
class ReadBatch:
    """Reads in flight, and the lease that each reads into."""

    reads: list[Read]
    leases: list[Lease]


class Reading:
    """All reads of one opening."""

    def __init__(self, opened: Opened, repair: Repair) -> None:
        self._opened = opened
        self._repair = repair
        self._reads: dict[int, ClientRead] = {}
        self._waiting: deque[ClientRead] = deque()
        self._serving: dict[int, Serving] = {}
        self._peer_waiting: deque[PeerRead] = deque()
        self._batches: dict[str, ReadBatch] = {}  # in flight, by lane
        self._verifying: list[Read] = []
        self._scrub_cursor = 0
        self._scrub_resume = self._scrub_pass_began = 0.0
        self.scrub_passes = 0

    # Reads of the replica.

    def read(self, message: ReadReply, sender: ActorAddress) -> None:
        """Answer from memory, or queue for the disk; a repeated request is answered again, never done twice."""
        read = self._reads.get(message.read)
        if read is not None:
            if read.lent is not None:
                self._send_lent(read)
            return
        read = ClientRead(message, sender)
        if len(self._reads) >= self._opened.config.reads_max:
            self._refuse(read, NotRead.BUSY)
            return
        self._reads[message.read] = read
        if not self._answer_now(read):
            self._waiting.append(read)

    def _answer_now(self, read: ClientRead) -> bool:
        """Answer if no disk is needed. False if the read has to wait for the disk or for a buffer."""
        opened, message = self._opened, read.message
        slots = opened.slots
        if message.slot >= opened.config.clients_max or slots.expected[message.slot] != message.expected:
            self._refuse(read, NotRead.UNEXPECTED)
            return True
        payload = slots.pending(message.slot, message.expected)
        if payload is not None:
            return self._answer_from_memory(read, payload)
        if message.slot in slots.ahead:
            self._refuse(read, NotRead.UNEXPECTED)
            return True
        if message.slot in slots.faulty:
            self._refuse(read, NotRead.LOST if message.slot in self._repair.lost else NotRead.CORRUPT)
            return True
        return False

    def _answer_from_memory(self, read: ClientRead, payload: Payload) -> bool:
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
            self._forget(read)
            self._opened.send(read.sender, self._reply_read(read, payload))
        else:
            read.lent = payload
            self._send_lent(read)

    def _send_lent(self, read: ClientRead) -> None:
        invariant(read.lent is not None, "nothing was lent for this read")
        read.sent = self._opened.now()
        self._opened.send(read.sender, self._reply_read(read, read.lent or NO_LEASE))

    def _reply_read(self, read: ClientRead, payload: Payload) -> ReplyRead:
        message = read.message
        return ReplyRead(owner=message.owner, read=message.read, slot=message.slot, payload=payload)

    def _refuse(self, read: ClientRead, reason: NotRead) -> None:
        self._forget(read)
        message = read.message
        answer = ReplyNotRead(owner=message.owner, read=message.read, slot=message.slot, reason=reason)
        self._opened.send(read.sender, answer)

    def _forget(self, read: ClientRead) -> None:
        if self._reads.get(read.message.read) is read:
            del self._reads[read.message.read]

    def taken(self, number: int) -> None:
        """The replica is done with the lease that it was lent for this read."""
        read = self._reads.get(number)
        if read is not None and read.lent is not None:
            self._opened.read_stock.append(read.lent)
            del self._reads[number]

    @property
    def due(self) -> float:
        """When something is to be told again, or scrubbed."""
        config = self._opened.config
        lent = min((read.sent for read in self._reads.values() if read.lent is not None), default=math.inf)
        scrubs = config.scrub_bytes_per_second and not self._opened.to_storage.is_busy("verify")
        return min(lent + config.resend_timeout, self._scrub_resume if scrubs else math.inf)

    def resend_lent(self, now: float) -> None:
        """What was lent and not taken within the timeout is told again: the telling may have been lost."""
        for read in self._reads.values():
            if read.lent is not None and now - read.sent >= self._opened.config.resend_timeout:
                self._send_lent(read)

    # Reads for peers.

    def serve(self, message: GetReplies, sender: ActorAddress) -> None:
        """Gather what a peer asks for, and answer when every slot has its reply or its reason."""
        old = self._serving.pop(message.asker, None)
        if old is not None:
            old.dropped = True  # The peer gave up on it, or repeats it: either way this is the one it waits for.
        serving = Serving(message, sender)
        self._serving[message.asker] = serving
        room = message.bytes_max
        for slot, header in serving.wanted():
            serving.waiting[slot] = header
            reason = self._missing_reason(slot, header)
            size = packed_size(header)
            if reason is None and (size > room or len(self._peer_waiting) >= self._opened.config.peer_reads_max):
                reason = Missing.BUSY
            if reason is not None:
                serving.missing_reply(slot, reason)
                continue
            room -= size
            payload = self._opened.slots.pending(slot, header)
            if payload is not None:
                serving.found_reply(slot, self._opened.copy_bytes(payload, header))
            else:
                self._peer_waiting.append(PeerRead(serving, slot, header))
        self._finish_serving(serving)

    def _missing_reason(self, slot: int, header: bytes) -> Missing | None:
        slots = self._opened.slots
        if slot >= self._opened.config.clients_max or slots.expected[slot] != header:
            return Missing.BEHIND if packed_op(header) > self._opened.op else Missing.SUPERSEDED
        if slot in slots.ahead:
            return Missing.BEHIND
        return Missing.FAULTY if slot in slots.faulty else None

    def _finish_serving(self, serving: Serving) -> None:
        if serving.waiting or serving.dropped:
            return
        if self._serving.get(serving.message.asker) is serving:
            del self._serving[serving.message.asker]
        # A slot that was faulty when it was looked at may be repaired by now. A denial is true when it leaves.
        for slot, header in serving.wanted():
            if serving.missing.get(slot, Missing.BUSY) is not Missing.BUSY:
                serving.missing[slot] = self._missing_reason(slot, header) or Missing.BUSY
        for answer in serving.answers(self._opened.config.replica):
            self._opened.send(serving.sender, answer)

    def _serve(self, read: PeerRead, reply: bytes | Missing) -> None:
        if isinstance(reply, bytes):
            read.serving.found_reply(read.slot, reply)
        else:
            read.serving.missing_reply(read.slot, reply)
        self._finish_serving(read.serving)

    # Reads from the disk.

    def pump(self) -> None:
        """Answer the reads that need no disk any more; start the next group of each lane where none is in flight."""
        if self._waiting:
            self._waiting = deque(read for read in self._waiting if not self._answer_now(read))
        if self._waiting and not self._opened.to_storage.is_busy("read"):
            self._start("read", self._gather_client_reads())
        if self._peer_waiting and not self._opened.to_storage.is_busy("serve"):
            self._start("serve", self._gather_peer_reads())
        if self._opened.slots.unverified and not self._opened.to_storage.is_busy("verify"):
            self._verify_next()

    def _start(self, lane: str, batch: ReadBatch) -> None:
        if batch.reads:
            self._batches[lane] = batch
            message = ReadSlots(
                batch=self._opened.to_storage.next_number(lane),
                slots=tuple(read.slot for read in batch.reads),
                headers=b"".join(read.header for read in batch.reads),
                leases=tuple(batch.leases),
                for_peers=lane == "serve",
            )
            self._opened.call_storage(lane, message)

    def _gather_client_reads(self) -> ReadBatch:
        opened, batch = self._opened, ReadBatch([], [])
        for _ in range(len(self._waiting)):
            if len(batch.reads) >= opened.config.read_batch_max:
                break
            read = self._waiting.popleft()
            lease = NO_LEASE
            inline = opened.is_inline(read.message.expected)
            may_start = inline or bool(opened.read_stock)
            if read.failed and read.message.slot in opened.slots.unverified:
                may_start = False
            if not may_start or opened.slots.pending(read.message.slot, read.message.expected) is not None:
                self._waiting.append(read)
                continue
            if not inline:
                lease = opened.read_stock.pop()
            self._add(batch, opened.slots.read_start(read.message.slot, read.message.expected, read), lease)
        return batch

    def _gather_peer_reads(self) -> ReadBatch:
        opened, batch = self._opened, ReadBatch([], [])
        size = 0
        while self._peer_waiting:
            read = self._peer_waiting[0]
            size += packed_size(read.header)
            inline = opened.is_inline(read.header)
            if (batch.reads and size > SERVE_BATCH_BYTES) or not (inline or opened.repair_stock):
                break
            self._peer_waiting.popleft()
            if read.serving.dropped:
                continue
            reason = self._missing_reason(read.slot, read.header)
            payload = opened.slots.pending(read.slot, read.header)
            if reason is not None:
                self._serve(read, reason)
            elif payload is not None:
                self._serve(read, opened.copy_bytes(payload, read.header))
            else:
                lease = NO_LEASE if inline else opened.repair_stock.pop()
                self._add(batch, opened.slots.read_start(read.slot, read.header, read), lease)
        return batch

    def _add(self, batch: ReadBatch, read: Read, lease: Lease) -> None:
        batch.reads.append(read)
        batch.leases.append(lease)

    def read_done(self, answer: SlotsRead) -> bool:
        """A group of reads ended. True if a slot was found faulty."""
        lane = "serve" if answer.for_peers else "read"
        if self._opened.to_storage.answered(lane, answer.batch) is None:
            return False
        batch = self._batches.pop(lane)
        found_faulty = False
        for read, lease, result in zip(batch.reads, batch.leases, answer.results, strict=True):
            failed = isinstance(result, SlotFault)
            if self._opened.slots.read_done(read, failed=failed):
                found_faulty = True
                self._opened.count("slot_faulty", slot=read.slot, fault=getattr(result, "name", ""), found_by="read")
            if isinstance(read.tag, PeerRead):
                self._peer_read_done(read, read.tag, lease, result)
            elif isinstance(read.tag, ClientRead):
                self._client_read_done(read, read.tag, lease, result)
        return found_faulty

    def _client_read_done(self, read: Read, client: ClientRead, lease: Lease, result: Payload | SlotFault) -> None:
        answered = self._reads.get(client.message.read) is not client or client.lent is not None
        if answered or read.overtaken or isinstance(result, SlotFault):
            if lease != NO_LEASE:
                self._opened.read_stock.append(lease)
            client.failed = isinstance(result, SlotFault)
            if not answered and not self._answer_now(client):
                # Overtaken by a write of the same reply that is durable by now: the disk is asked again.
                self._waiting.append(client)
            return
        self._answer(client, result)

    def _peer_read_done(self, read: Read, peer: PeerRead, lease: Lease, result: Payload | SlotFault) -> None:
        reply: bytes | Missing
        if isinstance(result, SlotFault):
            reply = self._missing_reason(peer.slot, peer.header) or Missing.BUSY
        else:
            reply = self._opened.copy_bytes(result, read.header)
        if lease != NO_LEASE:
            self._opened.repair_stock.append(lease)
        if not peer.serving.dropped and peer.slot in peer.serving.waiting:
            self._serve(peer, reply)

    def answered_by_write(self, read: Read, payload: Payload) -> None:
        """A write of the very reply that this read wants was accepted (invariant 4)."""
        tag = read.tag
        if isinstance(tag, ClientRead):
            if self._reads.get(tag.message.read) is tag and tag.lent is None:
                # Without a buffer for a copy, the read is answered when its group ends.
                self._answer_from_memory(tag, payload)
        elif isinstance(tag, PeerRead) and not tag.serving.dropped and tag.slot in tag.serving.waiting:
            self._serve(tag, self._opened.copy_bytes(payload, read.header))

    # Verification, and the scrubber.

    def _verify_next(self) -> None:
        """Look at the disk for slots of which nobody knows what it holds, some at a time."""
        slots, reads = self._opened.slots, list[Read]()
        size = 0
        for slot in slots.unverified:
            header = slots.expected[slot]
            if header is None:
                raise InvariantBroken(f"slot {slot} is to be verified and expects nothing")
            size += packed_size(header)
            reads.append(slots.read_start(slot, header))
            if size >= VERIFY_BATCH_BYTES or len(reads) == VERIFY_BATCH_SLOTS:
                break
        self._verify(reads)

    def _verify(self, reads: list[Read]) -> None:
        self._verifying = reads
        message = VerifySlots(
            batch=self._opened.to_storage.next_number("verify"),
            slots=tuple(read.slot for read in reads),
            headers=b"".join(read.header for read in reads),
        )
        self._opened.call_storage("verify", message)

    def scrub(self, now: float) -> None:
        """Verify the next slots on disk, within the bandwidth that scrubbing may use, and no file all the time."""
        opened = self._opened
        rate = opened.config.scrub_bytes_per_second
        if not rate or now < self._scrub_resume or opened.to_storage.is_busy("verify"):
            return
        if self._scrub_cursor == 0:
            self._scrub_pass_began = now
        budget = max(1, int(rate * opened.config.scrub_interval))
        reads: list[Read] = []
        size = 0
        for _ in range(min(SCRUB_STEPS_MAX, len(opened.slots.expected))):
            slot = self._scrub_cursor
            self._scrub_cursor = (slot + 1) % len(opened.slots.expected)
            self.scrub_passes += self._scrub_cursor == 0
            header = opened.slots.expected[slot]
            if header is not None and opened.slots.is_durable(slot):
                size += packed_size(header)
                reads.append(opened.slots.read_start(slot, header))
            if size >= budget or self._scrub_cursor == 0:
                break
        self._scrub_resume = now + max(opened.config.scrub_interval, size / rate)
        if self._scrub_cursor == 0:
            next_pass = self._scrub_pass_began + opened.config.scrub_pass_interval
            self._scrub_resume = max(self._scrub_resume, next_pass)
        if reads:
            self._verify(reads)

    def verified(self, answer: SlotsVerified) -> list[int]:
        """A group of slots was verified. Returns those that are good and of which this was not known."""
        opened, slots = self._opened, self._opened.slots
        if opened.to_storage.answered("verify", answer.batch) is None:
            return []
        reads, self._verifying = self._verifying, []
        later = {slot: header for slot, header in answer.others if packed_op(header) > opened.op}
        good = []
        for read, fault in zip(reads, answer.results, strict=True):
            was_unverified = read.slot in slots.unverified
            if slots.verified(read, failed=fault is not None, later=later.get(read.slot)):
                if not was_unverified:  # else it is one of many that a state sync brought, and no damage
                    opened.count("slot_faulty", slot=read.slot, fault=getattr(fault, "name", ""), found_by="scrub")
            elif was_unverified and slots.is_durable(read.slot):
                good.append(read.slot)
        return good

    # Ending.

    def refuse_all(self) -> None:
        """The file closes: no read is answered any more."""
        for read in list(self._reads.values()):
            if read.lent is None:
                self._refuse(read, NotRead.CLOSED)
        self._waiting.clear()
        self._peer_waiting.clear()
        self._serving.clear()

    def take_back(self) -> list[Lease]:
        """The leases that are lent to the replica; it may not look at them any more."""
        lent = [read.lent for read in self._reads.values() if read.lent is not None]
        self._reads.clear()
        return lent

    @property
    def depths(self) -> dict[str, int]:
        """How much waits, for the status."""
        return {
            "reads": len(self._reads),
            "reads_waiting": len(self._waiting),
            "peer_reads_waiting": len(self._peer_waiting),
            "serving": len(self._serving),
        }
