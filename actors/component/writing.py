"""Commit writes: what is accepted, what is started, and what can be called durable.

Guarantees: a batch is taken over whole or refused whole, after every item was verified. What waits is written in
groups, one in flight in each lane; a repair never shares a group with a commit and never takes its credit (invariant
7). A batch is called durable once each of its replies, or a newer one of the slot, is on disk, never before; or its
slot was removed, or installed anew, since. A wait ends with the same, for its slots; a busy slot starves none.

Limits: not every reply is written. One that a newer one of its slot replaces in the queue is not (8).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from thespian.actors import ActorAddress

from client_replies.messages.faults import FaultKind
from client_replies.messages.leases import Lease
from client_replies.messages.replies import AwaitDurable, Payload, RepliesDurable, SlotsDurable, WriteReplies
from client_replies.messages.reply import verify_reply
from client_replies.messages.reply_header import (
    HEADER_SIZE,
    HeaderClusterWrong,
    HeaderInvalid,
    HeaderSizeWrong,
    packed_op,
    packed_size,
    whole_headers,
)
from client_replies.messages.storage_io import WRITE_LANES, SlotsWritten, WriteSlots
from client_replies.storage.shared_memory import LeaseStale

from .opened import Opened, Refused
from .slots import Read, Write

LANES = tuple(f"write {lane}" for lane in range(WRITE_LANES))
REPAIR_LANE = "repair"
SMALL_BATCH = 64 * 1024  # bytes that are written and synced in about the time that a message takes
REPAIR_GROUP_BYTES = 4 * 1024 * 1024


@dataclass(slots=True, eq=False)
class Wait:
    """An `AwaitDurable`: the op of what each slot was to hold when it came, and the slots that are still without it."""

    ops: dict[int, int]
    remaining: set[int]
    sender: ActorAddress


@dataclass(slots=True, eq=False)
class Mark:
    """A batch whose durability is still to be told, or only noted; whether it may be told that it was accepted then."""

    number: int
    barrier: int
    tell: bool
    soon: bool


class Writing:
    """Commit and repair writes of one opening."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._cluster = opened.config.cluster.to_bytes(16, "little")  # as it is packed
        self._marks: deque[Mark] = deque()
        self._waits: dict[int, Wait] = {}
        self.durable_through = 0
        self.untold = False  # whether the owner is to be told how far that is
        self.barrier = 0  # a checkpoint waits for writes up to this one: they are not held back
        self.flushing = False  # closing: nothing is held back

    @property
    def credit(self) -> int:
        """How many more replies a batch may bring."""
        return max(0, self._opened.config.writes_max - self._opened.slots.pending_count)

    @property
    def is_answered_later(self) -> bool:
        """True while the last batch's answer may wait for news that it can tell as well.

        While the batch waits behind the groups that are being written, another would do the same. One that is durable
        soon, which is to be told, would be accepted by a message that is hardly earlier. And while the one before it
        is being written, which is to be told, there are enough on their way: one that is written, one that is next.
        """
        if self._opened.slots.queued and all(map(self._opened.to_storage.is_busy, LANES)):
            return True
        if not self._marks:
            return False
        follows = len(self._marks) > 1 and self._marks[0].tell and not self._opened.config.hold_back
        return follows or self._marks[-1].soon

    def verify(self, message: WriteReplies) -> list[bytes]:
        """The packed header of each reply of the batch, everything verified. Raises `Refused`; changes nothing."""
        if len(message.slots) > self.credit:
            found, expected = f"{len(message.slots)} replies", f"at most {self.credit}, the credit"
            raise Refused(FaultKind.BUSY, found, expected, self.credit)
        given = self._leases_given(message)
        headers = self._whole(message, given)
        if headers is not None:
            return headers
        # The same checks one by one, to say what is wrong, and with which.
        headers = []
        for index, (slot, payload) in enumerate(zip(message.slots, message.payloads, strict=True)):
            try:
                headers.append(self._verify_item(slot, payload, given))
            except Refused as refused:
                refused.index = index
                raise
        return headers

    def _whole(self, message: WriteReplies, given: set[Lease]) -> list[bytes] | None:
        """The packed header of each reply of the batch; None if anything is wrong with any of them."""
        config, memory, expected = self._opened.config, self._opened.memory, self._opened.slots.expected
        leases = [payload for payload in message.payloads if not isinstance(payload, bytes)]
        if max(message.slots, default=0) >= config.clients_max:
            return None
        if given or len(set(leases)) != len(leases):
            return None
        try:
            contents = memory.contents(message.payloads)
        except LeaseStale:
            return None
        whole = whole_headers(contents, self._cluster, config.message_size_max)
        if whole is None:
            return None
        headers = []
        for slot, payload, (header, op, size) in zip(message.slots, message.payloads, whole, strict=True):
            if isinstance(payload, bytes) and not size == len(payload) <= config.inline_size_max:
                return None
            held = expected[slot]
            if held is not None and packed_op(held) >= op and held != header:
                return None
            headers.append(header)
        return headers

    def _leases_given(self, message: WriteReplies) -> set[Lease]:
        """Those of its leases that are in use already: a buffer filled anew would be written to two slots, or lent."""
        leases = {payload for payload in message.payloads if not isinstance(payload, bytes)}
        if not leases:
            return leases
        held = [payload for payload in self._opened.slots.payloads() if not isinstance(payload, bytes)]
        return leases.intersection(self._opened.own) | leases.intersection(held)

    def verify_slots(self, slots: tuple[int, ...]) -> None:
        """Raise `Refused` for the first slot that does not exist."""
        for index, slot in enumerate(slots):
            if slot >= self._opened.config.clients_max:
                expected = f"a slot below {self._opened.config.clients_max}"
                raise Refused(FaultKind.SLOT_OUT_OF_RANGE, f"slot {slot}", expected, index)

    def _verify_item(self, slot: int, payload: Payload, given: set[Lease]) -> bytes:
        self.verify_slots((slot,))
        if not isinstance(payload, bytes):
            if payload in given:
                expected = "a lease of the sender's that is not lent"
                raise Refused(FaultKind.LEASE_STALE, f"lease {payload:#x}, which is in use", expected)
            given.add(payload)
        header = self._verify_payload(payload)
        held = self._opened.slots.expected[slot]
        if held is not None and packed_op(held) >= packed_op(header) and held != header:
            raise Refused(FaultKind.REPLY_OLDER, f"op {packed_op(header)}", f"an op above {packed_op(held)}")
        return header

    def _verify_payload(self, payload: Payload) -> bytes:
        config = self._opened.config
        view: bytes | memoryview
        if isinstance(payload, bytes):
            view, size = payload, len(payload)
            if size > config.message_size_max:
                raise Refused(FaultKind.REPLY_TOO_LARGE, f"{size} bytes", f"at most {config.message_size_max}")
            if size > config.inline_size_max:
                raise Refused(FaultKind.INLINE_TOO_LARGE, f"{size} bytes", f"at most {config.inline_size_max}")
        elif self._opened.memory.valid(payload):
            view = self._opened.memory.buffer(payload)
        else:
            raise Refused(FaultKind.LEASE_STALE, f"lease {payload:#x}", "a lease that is held")
        try:
            header = verify_reply(view, cluster=config.cluster, size_max=config.message_size_max)
            size = packed_size(header)
            if isinstance(payload, bytes) and size != len(payload):
                raise HeaderSizeWrong(f"{len(payload)} bytes", f"{size}, the size in the header")
        except HeaderClusterWrong as error:
            raise Refused(FaultKind.REPLY_OTHER_CLUSTER, error.found, error.expected) from error
        except HeaderInvalid as error:
            raise Refused(FaultKind.REPLY_INVALID, str(error), error.expected) from error
        if size == HEADER_SIZE:
            raise Refused(FaultKind.REPLY_WITHOUT_BODY, f"size {size}", f"more than {HEADER_SIZE}")
        return header

    def accept(self, message: WriteReplies, headers: list[bytes]) -> None:
        """Take the verified batch over, and answer the pending reads of its replies."""
        opened, now = self._opened, self._opened.now()
        answered: list[tuple[Read, Payload]] = []
        accept = opened.slots.accept
        for slot, header, payload in zip(message.slots, headers, message.payloads, strict=True):
            for read in accept(slot, header, payload, now):
                answered.append((read, payload))
        self._reached(message.op)
        self._check_waits(message.slots)  # what the disk held already
        soon = message.durable and not opened.config.hold_back and sum(map(packed_size, headers)) <= SMALL_BATCH
        self._mark(message.number, message.durable, soon)
        for read, payload in answered:
            read.answer(payload)

    def remove(self, slots: tuple[int, ...], op: int, number: int) -> None:
        """These slots hold no reply any more."""
        for slot in slots:
            self._opened.slots.remove(slot)
        self._reached(op)
        self._mark(number, tell=False, soon=False)
        self._check_waits(slots)

    def install(self, expectations: Mapping[int, bytes], op: int) -> None:
        """Replace what every slot is expected to hold."""
        self._opened.slots.install(expectations)
        self._reached(op)
        self._check_waits({slot for wait in self._waits.values() for slot in wait.remaining})

    def _reached(self, op: int) -> None:
        self._opened.op = max(self._opened.op, op)
        self._opened.slots.reached(self._opened.op)

    def _mark(self, number: int, tell: bool, soon: bool) -> None:
        mark = Mark(number, self._opened.slots.barrier, tell, soon)
        if self._marks and (
            self._marks[-1].barrier == mark.barrier or len(self._marks) >= self._opened.config.writes_max
        ):
            # Nothing was added that is not told with the last one; or too many are open, and two are told as one.
            mark.tell |= self._marks.pop().tell
        self._marks.append(mark)

    # Starting and ending writes.

    @property
    def due(self) -> float:
        """When a write that is held back is to be started."""
        opened = self._opened
        if not opened.slots.queued or all(map(opened.to_storage.is_busy, LANES)):
            return math.inf  # The answer to a group starts the next.
        return next(iter(opened.slots.queued.values())).time + opened.config.hold_back

    def pump(self) -> None:
        """Start what can be started, and tell what has become durable."""
        opened = self._opened
        for lane in LANES:
            if opened.slots.queued and not opened.to_storage.is_busy(lane):
                latest = opened.now() - opened.config.hold_back
                if self.flushing or opened.slots.pending_count * 2 >= opened.config.writes_max:
                    latest = float("inf")
                self._start(lane, opened.slots.start(opened.config.write_batch_max, latest, self.barrier))
        if not opened.to_storage.is_busy(REPAIR_LANE) and opened.slots.repairs:
            self._start(REPAIR_LANE, opened.slots.start_repairs(REPAIR_GROUP_BYTES, self._place_repair))
        self._note_durable()

    def _place_repair(self, write: Write) -> bool:
        """Put a reply that came from a peer where the storage can write it from. False while there is no buffer."""
        opened = self._opened
        if isinstance(write.payload, bytes) and not opened.is_inline(write.header):
            if not opened.repair_stock:
                return False
            lease = opened.repair_stock.pop()
            opened.memory.buffer(lease)[: len(write.payload)] = write.payload
            write.payload = lease
        return True

    def _start(self, lane: str, writes: list[Write]) -> None:
        if writes:
            message = WriteSlots(
                batch=self._opened.to_storage.next_number(lane),
                slots=tuple([write.slot for write in writes]),
                payloads=tuple([write.payload for write in writes]),
                repair=lane == REPAIR_LANE,
                lane=0 if lane == REPAIR_LANE else LANES.index(lane),
            )
            self._opened.call_storage(lane, message)

    def written(self, answer: SlotsWritten) -> list[Write]:
        """A group is durable. Returns the writes of repairs that put a slot right."""
        opened = self._opened
        message = opened.to_storage.answered(REPAIR_LANE if answer.repair else LANES[answer.lane], answer.batch)
        if not isinstance(message, WriteSlots):
            return []
        repaired = []
        for slot in message.slots:
            write = opened.slots.done(slot)
            if not answer.repair:
                continue
            opened.release(write)
            if opened.slots.is_durable(slot) and opened.slots.expected[slot] == write.header:
                repaired.append(write)
        self._check_waits(message.slots)
        return repaired

    # Telling what is durable.

    def _note_durable(self) -> None:
        while self._marks and self._opened.slots.settled(self._marks[0].barrier):
            mark = self._marks.popleft()
            self.durable_through = mark.number
            self.untold |= mark.tell

    def tell_durable(self) -> None:
        """Tell what was asked about and is durable."""
        if self.untold:
            self.untold = False
            self._opened.tell_owner(RepliesDurable(owner=self._opened.owner, through=self.durable_through))

    def wait(self, message: AwaitDurable, sender: ActorAddress) -> None:
        """Answer once each slot has on disk what it is to hold now, or newer. Raises `Refused`."""
        self.verify_slots(message.slots)
        waiting = self._waits.get(message.wait)
        if waiting is not None:
            waiting.sender = sender  # asked again: about what it was asked for first
            return
        if len(self._waits) >= self._opened.config.waits_max:
            found, expected = f"{len(self._waits)} waits", f"fewer than {self._opened.config.waits_max}"
            raise Refused(FaultKind.BUSY, found, expected)
        ops = {slot: self._opened.slots.op_of(slot) for slot in message.slots}
        self._waits[message.wait] = Wait(ops, set(message.slots), sender)
        self._check_waits(message.slots)

    def verified(self, slots: Iterable[int]) -> None:
        """The disk was found to hold what these slots are expected to hold."""
        self._check_waits(slots)

    def _check_waits(self, slots: Iterable[int]) -> None:
        has_stored = self._opened.slots.has_stored
        for number, wait in list(self._waits.items()):
            wait.remaining.difference_update([slot for slot in slots if has_stored(slot, wait.ops.get(slot, 0))])
            if not wait.remaining:
                # One that had its reply on disk may have been found faulty, or installed anew, since.
                wait.remaining.update(slot for slot, op in wait.ops.items() if not has_stored(slot, op))
            if not wait.remaining:
                del self._waits[number]
                self._opened.send(wait.sender, SlotsDurable(owner=self._opened.owner, wait=number))

    @property
    def waits(self) -> int:
        """How many `AwaitDurable` have no answer."""
        return len(self._waits)
