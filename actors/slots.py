"""The slots: what each is expected to hold, what is on its way to it, and whether the disk can be trusted for it.

A plain object without actors, clocks or I/O; `ClientRepliesActor` owns one. For each slot:

    expected   the packed header that the session table says the slot holds, or none
    writing    the one write in flight, or none
    queued     the one write waiting behind it, or none (a newer one replaces it)
    faulty     the disk is known or assumed not to hold `expected`, and nothing is pending that will put it there
    reads      reads in flight

Guarantees the design's invariants 1 to 6 and 8; each method says which it keeps, and `check_invariants` states them
all. Gives up: knowledge of buffers. A write that waits and is no longer needed is forgotten: until it is started, a
payload is bytes, or a lease that the owner has back when everything before it is settled.

The states of a slot, derived from the above, and what moves between them (* where the reply is the expected one):

    state     | write     repair    started   done      read fails  remove    install *   install other
    empty     | queued    refused   -         -         -           empty     empty       faulty
    durable   | queued    refused   -         -         faulty      empty     durable     faulty
    queued    | queued    refused   writing   -         queued      empty     queued      faulty
    writing   | queued    refused   -         durable   writing     empty     writing     faulty
    faulty    | queued    queued    -         faulty    faulty      empty     faulty      faulty
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from client_replies.messages.faults import InvariantBroken, invariant
from client_replies.messages.replies import Payload
from client_replies.messages.reply_header import HEADER_SIZE, packed_op, packed_size

REPAIR = 0


class SlotState(enum.Enum):
    """What can be said of a slot as a whole."""

    EMPTY = "no reply is expected"
    DURABLE = "the disk holds the expected reply, as far as is known"
    QUEUED = "the expected reply waits to be written"
    WRITING = "the expected reply is being written"
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


@dataclass(slots=True, eq=False)
class Read:
    """A read in flight. `overtaken` once a write, removal or installation changed what the slot is about."""

    slot: int
    header: bytes
    tag: object = None
    overtaken: bool = field(default=False)


class Slots:
    """The state of all slots. See the module for its rules."""

    def __init__(self, slot_count: int) -> None:
        self.expected: list[bytes | None] = [None] * slot_count
        self.writing: dict[int, Write] = {}
        self.queued: dict[int, Write] = {}  # commit writes, in the order in which they were accepted
        self.repairs: dict[int, Write] = {}  # queued repairs, likewise; a slot is in one of the two at most
        self.faulty: dict[int, bytes] = {}  # with what is expected
        self.on_faulty: Callable[[int, bytes], None] = _nobody  # told of each slot that becomes faulty
        self.reads: dict[int, list[Read]] = {}
        self._accepted = 0
        # Commit writes accepted and neither durable nor needless, in order: the first is what a checkpoint waits for.
        self._pending: dict[int, None] = {}

    # What a slot is expected to hold.

    def begin(self, expectations: Mapping[int, bytes], faulty: Iterable[int]) -> None:
        """After opening: what the session table says, and which slots were found not to hold it."""
        for slot, header in expectations.items():
            self.expected[slot] = header
        for slot in faulty:
            self.mark_faulty(slot)

    def mark_faulty(self, slot: int) -> None:
        """The disk does not hold what the slot expects, and nothing is pending that will put it there."""
        header = self.expected[slot]
        if header is None:
            raise InvariantBroken(f"slot {slot} is faulty and expects nothing")
        self.faulty[slot] = header
        self.on_faulty(slot, header)

    def accept(self, slot: int, header: bytes, payload: Payload, now: float) -> list[Read]:
        """Take over the write of a committed reply. Returns the pending reads that this answers.

        Clears `faulty` at once: the reply is in memory and will be written (invariant 2). Reads in flight are
        overtaken, because what they find on disk no longer counts (3); those of this same reply are answered (4).
        """
        if self.expected[slot] == header and slot not in self.faulty:
            # Durable or on its way already, as when a log is replayed after a restart.
            return []
        self._accepted += 1
        self._pending[self._accepted] = None
        self._drop_queued(slot)
        self.expected[slot] = header
        self.faulty.pop(slot, None)
        self.queued[slot] = Write(slot, header, payload, self._accepted, now)
        return self._overtake(slot, header)

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
        self.expected[slot] = None
        self.faulty.pop(slot, None)
        self._overtake(slot, None)

    def install(self, expectations: Mapping[int, bytes]) -> None:
        """Replace what every slot is expected to hold; queued writes of something else are forgotten.

        A slot whose expectation changed is faulty, even if a write of an obsolete reply is in flight (invariant 6);
        only if the write in flight happens to be the reply that is now expected is there something that will put it
        there (1).
        """
        for slot in range(len(self.expected)):
            header = expectations.get(slot)
            if header == self.expected[slot]:
                continue
            self.remove(slot)
            if header is not None:
                self.expected[slot] = header
                if self.pending(slot, header) is None:
                    self.mark_faulty(slot)

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
        invariant(slot in self.writing, f"slot {slot} was not being written")
        write = self.writing.pop(slot)
        if not write.is_repair:
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

    def read_start(self, slot: int, header: bytes, tag: object = None) -> Read:
        """A read of the expected reply from the disk begins."""
        invariant(self.expected[slot] == header, f"slot {slot} is read for a reply that it does not expect")
        invariant(slot not in self.faulty, f"slot {slot} is read although it is faulty")
        invariant(self.pending(slot, header) is None, f"slot {slot} is read although its reply is in memory")
        read = Read(slot, header, tag)
        self.reads.setdefault(slot, []).append(read)
        return read

    def read_done(self, read: Read, *, failed: bool) -> bool:
        """The read ended. True if this made the slot faulty.

        A failure counts only if nothing has changed the slot since the read started (invariant 3).
        """
        reads = self.reads[read.slot]
        reads.remove(read)
        if not reads:
            del self.reads[read.slot]
        if not failed or read.overtaken or read.slot in self.faulty:
            return False
        invariant(self.expected[read.slot] == read.header, f"slot {read.slot} changed under a read unnoticed")
        self.mark_faulty(read.slot)
        return True

    # What can be said.

    @property
    def barrier(self) -> int:
        """The number of the last commit write that was accepted."""
        return self._accepted

    def settled(self, barrier: int) -> bool:
        """True if every commit write numbered up to `barrier` is durable or needless (invariant 8)."""
        return next(iter(self._pending), barrier + 1) > barrier

    @property
    def pending_count(self) -> int:
        """Commit writes accepted and not yet durable."""
        return len(self._pending)

    def is_durable(self, slot: int) -> bool:
        """True if the disk holds what the slot is expected to hold, as far as is known."""
        return (
            slot not in self.faulty
            and slot not in self.queued
            and slot not in self.repairs
            and slot not in self.writing
        )

    def state(self, slot: int) -> SlotState:
        """The state of the slot. See the module for the table of states."""
        if self.expected[slot] is None:
            return SlotState.EMPTY
        if slot in self.faulty:
            return SlotState.FAULTY
        if slot in self.queued or slot in self.repairs:
            return SlotState.QUEUED
        return SlotState.WRITING if slot in self.writing else SlotState.DURABLE

    def count_states(self) -> dict[SlotState, int]:
        """How many slots are in each state."""
        counts = dict.fromkeys(SlotState, 0)
        counts[SlotState.FAULTY] = len(self.faulty)
        counts[SlotState.QUEUED] = len(self.queued) + len(self.repairs)
        counts[SlotState.WRITING] = sum(self.state(slot) is SlotState.WRITING for slot in self.writing)
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

    def check_invariants(self) -> None:
        """Raise `InvariantBroken` if the state contradicts itself. Walks all that is pending; for tests."""
        for slot, known in self.faulty.items():
            header = self.expected[slot]
            invariant(header == known, f"slot {slot} is faulty for another reply")
            invariant(header is not None, f"slot {slot} is faulty and expects nothing")
            invariant(header is not None and packed_size(header) > HEADER_SIZE, f"slot {slot} expects no body")
            invariant(self.pending(slot, header or b"") is None, f"slot {slot} is faulty and will be written")
        for slot, write in self._queued_writes():
            invariant(self.expected[slot] == write.header, f"slot {slot} has an obsolete write queued")
            invariant(write.slot == slot, f"slot {slot} has the write of another queued")
        invariant(not self.queued.keys() & self.repairs.keys(), "a slot has two writes queued")
        numbers = [write.accepted for write in self._commit_writes()]
        invariant(sorted(numbers) == sorted(self._pending), "the pending commit writes are not those that are held")
        for slot, reads in self.reads.items():
            for read in reads:
                invariant(read.overtaken or self.expected[slot] == read.header, f"slot {slot} has a forgotten read")

    def _queued_writes(self) -> Iterator[tuple[int, Write]]:
        yield from self.queued.items()
        yield from self.repairs.items()

    def _commit_writes(self) -> Iterator[Write]:
        yield from self.queued.values()
        yield from (write for write in self.writing.values() if not write.is_repair)


def _nobody(_slot: int, _header: bytes) -> None:
    """Nobody is told."""
