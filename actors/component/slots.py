"""The slots: what each is expected to hold, what is on its way to it, and whether the disk can be trusted for it.

A plain object without actors, clocks or I/O; `ClientRepliesActor` owns one. For each slot:

    expected    the packed header that the session table says the slot holds, or none
    stored      that of the reply on disk, as far as is known: it was written, or read and found whole
    writing     the one write in flight, or none
    queued      the one write waiting behind it, or none; a newer reply takes its place in the queue
    unverified  nobody has compared the disk with `expected` since that changed
    ahead       the disk holds a whole reply of an op that the owner has not told yet
    faulty      the disk was read, or is being written, and does not hold `expected`; nothing pending will put it there
    reads       reads in flight

Guarantees the design's invariants 1 to 6 and 8. Verify before asking: only a faulty slot is repaired, or denied to a
peer. Limits: it knows no buffers and no peers, so lost or under repair is no state. The states, derived from the above,
with what moves between them (write and install: of another reply than the expected one; unverified: `ahead` as well):

    state      | write    repair    started   done      read fails  verified   remove   install
    empty      | queued   refused   -         -         -           -          empty    unverified
    durable    | queued   refused   -         -         faulty      durable    empty    unverified
    queued     | queued   refused   writing   -         queued      queued     empty    unverified
    writing    | queued   refused   -         durable   writing     writing    empty    faulty
    unverified | queued   refused   -         -         unverified  durable    empty    unverified
    faulty     | queued   queued    -         faulty    faulty      faulty     empty    unverified
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from client_replies.messages.faults import InvariantBroken, invariant
from client_replies.messages.replies import Payload
from client_replies.messages.reply_header import packed_op, packed_size

REPAIR = 0


class SlotState(enum.Enum):
    """What can be said of a slot as a whole."""

    EMPTY = "no reply is expected"
    DURABLE = "the disk holds the expected reply, as far as is known"
    QUEUED = "the expected reply waits to be written"
    WRITING = "the expected reply is being written"
    UNVERIFIED = (
        "the disk was not compared with the expected reply yet, or holds one that the owner is still to tell of"
    )
    FAULTY = "the expected reply is neither on disk nor on its way there"


@dataclass(slots=True, eq=False)
class Write:
    """A reply on its way to its slot. `accepted` orders commit writes; repairs have REPAIR."""

    slot: int
    header: bytes
    payload: Payload
    accepted: int
    time: float

    @property
    def is_repair(self) -> bool:
        """True if the reply came from a peer rather than from a commit."""
        return self.accepted == REPAIR


class Waiter(Protocol):
    """Who asked for a read."""

    def answered_by_write(self, payload: Payload) -> None:
        """A write of the very reply that the read wants was accepted (invariant 4)."""


@dataclass(slots=True, eq=False)
class Read:
    """A read in flight. `overtaken` once a write, removal or installation changed what the slot is about."""

    slot: int
    header: bytes
    waiter: Waiter | None = None  # none of a verification
    overtaken: bool = False

    def answer(self, payload: Payload) -> None:
        """The reply is in memory."""
        if self.waiter is not None:
            self.waiter.answered_by_write(payload)


class Slots:
    """The state of all slots. See the module for its rules."""

    def __init__(self, slot_count: int) -> None:
        self.expected: list[bytes | None] = [None] * slot_count
        self.stored: list[bytes | None] = [None] * slot_count
        self.writing: dict[int, Write] = {}
        self.queued: dict[int, Write] = {}  # commit writes, in the order in which they were accepted
        self.repairs: dict[int, Write] = {}  # queued repairs, likewise; a slot is in one of the two at most
        self.unverified: dict[int, None] = {}
        self.ahead: dict[int, int] = {}  # with the op of the reply in `stored`
        self.faulty: dict[int, bytes] = {}  # with what is expected
        self.on_faulty: Callable[[int, bytes], None] = _nobody  # told of each slot that becomes faulty
        self.reads: dict[int, list[Read]] = {}
        self._accepted = 0
        # Commit writes accepted, neither durable nor removed, in order: the first is what a checkpoint waits for.
        self._pending: dict[int, None] = {}
        self._ahead_until: list[tuple[int, int]] = []  # a heap of what was once put in `ahead`: op and slot

    # What a slot is expected to hold.

    def begin(self, expectations: Mapping[int, bytes], faulty: Iterable[int], later: Mapping[int, bytes]) -> None:
        """After opening: what the session table says, and which slots were read and found not to hold it.

        `later` has the headers of those that hold a whole reply of an op after the table's instead. The log that the
        owner is about to replay brings that reply, as a rule; until then nobody is asked for the older one.
        """
        for slot, header in expectations.items():
            self.expected[slot] = self.stored[slot] = header
        for slot in faulty:
            held = later.get(slot)
            if held is not None:
                self._found_ahead(slot, held)
            else:
                self.mark_faulty(slot)

    def _found_ahead(self, slot: int, held: bytes) -> None:
        op = packed_op(held)
        self.stored[slot] = held
        self.ahead[slot] = op
        heapq.heappush(self._ahead_until, (op, slot))

    def reached(self, op: int) -> None:
        """The owner has told of everything up to `op`: what is on disk of an op that it passed over is looked at."""
        while self._ahead_until and self._ahead_until[0][0] <= op:
            found, slot = heapq.heappop(self._ahead_until)
            if self.ahead.get(slot) == found:
                self._clear(slot)
                self.unverified[slot] = None

    def mark_faulty(self, slot: int) -> None:
        """The disk does not hold what the slot expects, and nothing is pending that will put it there."""
        header = self.expected[slot]
        if header is None:
            raise InvariantBroken(f"slot {slot} is faulty and expects nothing")
        self._clear(slot)
        self.stored[slot] = None
        self.faulty[slot] = header
        self.on_faulty(slot, header)

    def _clear(self, slot: int) -> None:
        """What was said of the slot's bytes on disk was said of another reply, or is to be said anew."""
        self.faulty.pop(slot, None)
        self.unverified.pop(slot, None)
        if self.ahead.pop(slot, None) is not None:
            self.stored[slot] = None  # that it belongs in this slot was never proven

    def accept(self, slot: int, header: bytes, payload: Payload, now: float) -> list[Read]:
        """Take over the write of a committed reply. Returns the pending reads that this answers.

        Clears `faulty` at once: the reply is in memory and will be written (invariant 2). Reads in flight are
        overtaken, because what they find on disk no longer counts (3); those of this same reply are answered (4).
        A reply that the disk holds already, as when a log is replayed, is not written again.
        """
        doubted = slot in self.faulty or slot in self.unverified or slot in self.ahead
        if self.expected[slot] == header and not doubted:
            return []  # durable, or on its way already
        held = self.stored[slot] == header and slot not in self.writing
        if doubted:
            self._clear(slot)
        self.expected[slot] = header
        if held:
            self._drop_queued(slot)
            self.stored[slot] = header
        else:
            self._queue(slot, header, payload, now)
        return self._overtake(slot, header) if self.reads else []

    def _queue(self, slot: int, header: bytes, payload: Payload, now: float) -> None:
        """Queue the write, in the place of one that waits: numbered and due as that one was.

        So waits for the older reply wait for this one, and a busy slot's reply is never put off for ever.
        """
        if self.repairs:
            self.repairs.pop(slot, None)
        waiting = self.queued.get(slot)
        if waiting is not None:
            waiting.header, waiting.payload = header, payload
            return
        self._accepted += 1
        self._pending[self._accepted] = None
        self.queued[slot] = Write(slot, header, payload, self._accepted, now)

    def accept_repair(self, slot: int, header: bytes, payload: Payload, now: float) -> list[Read]:
        """Take over the write of a reply that a peer sent, verified by the caller; the slot must be waiting for it."""
        invariant(self.wants_repair(slot, header), f"slot {slot} is not to be repaired with this reply")
        del self.faulty[slot]
        self.repairs[slot] = Write(slot, header, payload, REPAIR, now)
        return self._overtake(slot, header)

    def wants_repair(self, slot: int, header: bytes) -> bool:
        """True if the slot is faulty and expects exactly this reply (invariant 10)."""
        return slot in self.faulty and self.expected[slot] == header

    def remove(self, slot: int) -> None:
        """The slot holds no reply any more."""
        self._drop_queued(slot)
        self._clear(slot)
        self.expected[slot] = None
        self._overtake(slot, None)

    def install(self, expectations: Mapping[int, bytes]) -> None:
        """Replace what every slot is expected to hold; queued writes of something else are forgotten.

        What the disk holds decides about a slot whose expectation changed: good if that is known to be the reply
        that is expected now, and else to be verified. An obsolete write in flight will put something else there, so
        the slot is faulty (invariant 6), unless it happens to be of the very reply that is now expected (1).
        """
        for slot in range(len(self.expected)):
            header = expectations.get(slot)
            if header == self.expected[slot]:
                continue
            held = self.stored[slot]
            self.remove(slot)
            if header is None:
                continue
            self.expected[slot] = header
            if slot in self.writing:
                if self.writing[slot].header != header:
                    self.mark_faulty(slot)
            elif held == header:
                self.stored[slot] = held
            else:
                self.stored[slot] = None
                self.unverified[slot] = None

    def _drop_queued(self, slot: int) -> None:
        write = self.queued.pop(slot, None)
        if write is not None:
            del self._pending[write.accepted]
        self.repairs.pop(slot, None)

    def _overtake(self, slot: int, header: bytes | None) -> list[Read]:
        reads = self.reads.get(slot)
        if not reads:
            return []
        answered = []
        for read in reads:
            if not read.overtaken:
                read.overtaken = True
                if read.header == header:
                    answered.append(read)
        return answered

    # Writing.

    def start(self, limit: int, accepted_before: float, barrier: int) -> list[Write]:
        """Start up to `limit` queued commit writes, each slot by itself: a busy slot holds up no other (5).

        Only those accepted at or before the time `accepted_before`, or numbered up to `barrier`, for which a
        checkpoint waits, are started; later ones are held back.
        """
        started = []
        for write in self.queued.values():
            if write.time > accepted_before and write.accepted > barrier:
                break  # The dict is in order of acceptance: all that follow are younger.
            if write.slot not in self.writing:
                started.append(write)
                if len(started) == limit:
                    break
        for write in started:
            del self.queued[write.slot]
            self.writing[write.slot] = write
        return started

    def start_repairs(self, bytes_max: int, place: Callable[[Write], bool]) -> list[Write]:
        """Start queued repairs of together at most `bytes_max`, but at least one, while `place` finds room for them."""
        started: list[Write] = []
        size = 0
        for write in self.repairs.values():
            if write.slot in self.writing:
                continue
            size += packed_size(write.header)
            if (started and size > bytes_max) or not place(write):
                break
            started.append(write)
        for write in started:
            del self.repairs[write.slot]
            self.writing[write.slot] = write
        return started

    def done(self, slot: int) -> Write:
        """The write in flight is durable. Clears nothing else (invariant 2): the slot may expect another reply now."""
        write = self.writing.pop(slot, None)
        if write is None:
            raise InvariantBroken(f"slot {slot} was not being written")
        if slot not in self.faulty:
            self.stored[slot] = write.header
        if write.accepted != REPAIR:
            del self._pending[write.accepted]
        return write

    # Reading.

    def pending(self, slot: int, header: bytes) -> Payload | None:
        """The payload of the expected reply if it is in memory. An obsolete write is never served (invariant 6)."""
        if self.expected[slot] != header:
            return None
        for writes in (self.queued, self.repairs, self.writing):
            write = writes.get(slot)
            if write is not None and write.header == header:
                return write.payload
        return None

    def read_start(self, slot: int, header: bytes, waiter: Waiter | None = None) -> Read:
        """A read of the expected reply from the disk begins."""
        invariant(self.expected[slot] == header, f"slot {slot} is read for a reply that it does not expect")
        invariant(slot not in self.faulty, f"slot {slot} is read although it is faulty")
        invariant(slot not in self.ahead, f"slot {slot} is read although it holds a later reply")
        invariant(self.pending(slot, header) is None, f"slot {slot} is read although its reply is in memory")
        read = Read(slot, header, waiter)
        self.reads.setdefault(slot, []).append(read)
        return read

    def read_done(self, read: Read, *, failed: bool) -> bool:
        """The read ended. True if this made the slot faulty.

        A failure counts only if nothing has changed the slot since the read started (invariant 3), and not while the
        slot is unverified: a read does not tell damage from a later reply, a verification does.
        """
        self._end(read)
        if not failed or read.slot in self.unverified or not self._counts(read):
            return False
        invariant(self.expected[read.slot] == read.header, f"slot {read.slot} changed under a read unnoticed")
        self.mark_faulty(read.slot)
        return True

    def _end(self, read: Read) -> None:
        reads = self.reads[read.slot]
        reads.remove(read)
        if not reads:
            del self.reads[read.slot]

    def verified(self, read: Read, *, failed: bool, later: bytes | None) -> bool:
        """A read of the disk itself, past every cache, ended. True if this made the slot faulty.

        `later` is the header of the whole reply that the slot holds instead, if the owner has not told of its op yet.
        """
        if not failed or later is None:
            if self._counts(read):
                self.unverified.pop(read.slot, None)
                if not failed:
                    self.stored[read.slot] = read.header
            return self.read_done(read, failed=failed)
        self._end(read)
        if self._counts(read):
            self._clear(read.slot)
            self._found_ahead(read.slot, later)
        return False

    def _counts(self, read: Read) -> bool:
        """Whether what the read found says something of what the slot is about now."""
        return not read.overtaken and read.slot not in self.faulty and read.slot not in self.ahead

    # What can be said.

    @property
    def doubted(self) -> tuple[int, ...]:
        """The slots of which it is not known that the disk holds what they expect, and for which nothing is pending."""
        return (*self.faulty, *self.unverified, *self.ahead)

    @property
    def barrier(self) -> int:
        """The number of the last commit write that was accepted."""
        return self._accepted

    def settled(self, barrier: int) -> bool:
        """True if every commit write numbered up to `barrier`, or a newer one in its place, is durable (invariant 8).

        Or its slot was removed, or installed anew, since.
        """
        return next(iter(self._pending), barrier + 1) > barrier

    @property
    def pending_count(self) -> int:
        """Commit writes accepted and not yet durable."""
        return len(self._pending)

    def is_durable(self, slot: int) -> bool:
        """True if the disk holds what the slot is expected to hold, as far as is known."""
        expected = self.expected[slot]
        return (expected is None or self.stored[slot] == expected) and slot not in self.writing

    def has_stored(self, slot: int, op: int) -> bool:
        """True if the disk holds the slot's reply of `op` or a newer one, as far as is known; or the slot expects none.

        A newer one that is being written over it does not change that: it is of an op that is still to be
        checkpointed, and so in the owner's log, whatever a crash leaves of the slot.
        """
        if self.expected[slot] is None:
            return True
        stored = self.stored[slot]
        return stored is not None and slot not in self.ahead and packed_op(stored) >= op

    def state(self, slot: int) -> SlotState:
        """The state of the slot. See the module for the table of states."""
        if self.expected[slot] is None:
            return SlotState.EMPTY
        if slot in self.faulty:
            return SlotState.FAULTY
        if slot in self.queued or slot in self.repairs:
            return SlotState.QUEUED
        if slot in self.unverified or slot in self.ahead:
            return SlotState.UNVERIFIED
        return SlotState.WRITING if slot in self.writing else SlotState.DURABLE

    def count_states(self) -> dict[SlotState, int]:
        """How many slots are in each state."""
        counts = dict.fromkeys(SlotState, 0)
        counts[SlotState.FAULTY] = len(self.faulty)
        counts[SlotState.QUEUED] = len(self.queued) + len(self.repairs)
        counts[SlotState.WRITING] = sum(self.state(slot) is SlotState.WRITING for slot in self.writing)
        counts[SlotState.UNVERIFIED] = len(self.unverified) + len(self.ahead)
        counts[SlotState.EMPTY] = self.expected.count(None)
        counts[SlotState.DURABLE] = len(self.expected) - sum(counts.values())
        return counts

    def payloads(self) -> Iterator[Payload]:
        """Every payload that is held, once."""
        for writes in (self.queued, self.repairs, self.writing):
            for write in writes.values():
                yield write.payload

    def op_of(self, slot: int) -> int:
        """The op of the expected reply, or 0."""
        header = self.expected[slot]
        return packed_op(header) if header is not None else 0


def _nobody(_slot: int, _header: bytes) -> None:
    """Nobody is told."""
