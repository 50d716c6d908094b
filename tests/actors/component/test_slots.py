"""The slots without actors: every event in every state, and a long walk beside a naive model."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from client_replies.actors.component.slots import Read, Slots, SlotState, Write
from client_replies.messages.faults import InvariantBroken
from client_replies.messages.replies import Payload
from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import packed_op

from tests.actors.component.slot_invariants import check_slots

EMPTY, DURABLE, QUEUED, WRITING, UNVERIFIED, FAULTY = SlotState
NEVER = float("inf")


def header(op: int, size: int = 300) -> bytes:
    """Give the packed header of a reply of this op."""
    reply = Reply.build(
        cluster=7, client=1, session=1, request=1, op=op, operation=200, timestamp=1, body=bytes(size - 256)
    )
    return reply.header.pack()


H1, H2, H3 = header(1), header(2), header(3)
A_MILLION = 10**6


def anywhere(_write: Write) -> bool:
    """Find room for whatever is to be written."""
    return True


def start_all(slots: Slots) -> list[Write]:
    """Start everything that waits."""
    return [*slots.start(A_MILLION, NEVER, 0), *slots.start_repairs(A_MILLION, anywhere)]


def slot_in(state: SlotState) -> tuple[Slots, Read | None]:
    """Give slots of which slot 0 is in this state, expecting H1, and a read of it in flight where there can be one."""
    slots = Slots(4)
    read = None
    if state is not EMPTY:
        slots.begin({0: H1}, [], {})
        read = slots.read_start(0, H1)
    if state in (FAULTY, QUEUED, WRITING):
        slots.read_done(slots.read_start(0, H1), failed=True)
    if state in (QUEUED, WRITING):
        slots.accept(0, H1, b"one", 0.0)
    if state is WRITING:
        slots.start(1, NEVER, 0)
    if state is UNVERIFIED:
        slots.install({})
        slots.stored[0] = None
        slots.install({0: H1})
        read = slots.read_start(0, H1)
    assert slots.state(0) is state
    return slots, read


def write(slots: Slots, read: Read | None) -> None:
    """Accept the next reply."""
    slots.accept(0, H2, b"two", 1.0)


def write_same(slots: Slots, read: Read | None) -> None:
    """Accept the expected reply again."""
    slots.accept(0, H1, b"one", 1.0)


def repair(slots: Slots, read: Read | None) -> None:
    """Take the expected reply from a peer."""
    slots.accept_repair(0, H1, b"one", 1.0)


def repair_other(slots: Slots, read: Read | None) -> None:
    """Take another reply from a peer."""
    slots.accept_repair(0, H2, b"two", 1.0)


def start(slots: Slots, read: Read | None) -> None:
    """Start what waits."""
    start_all(slots)


def done(slots: Slots, read: Read | None) -> None:
    """End the write in flight."""
    slots.done(0)


def read_fails(slots: Slots, read: Read | None) -> None:
    """End the read, which found damage."""
    assert read is not None
    slots.read_done(read, failed=True)


def read_ends(slots: Slots, read: Read | None) -> None:
    """End the read, which found the reply."""
    assert read is not None
    slots.read_done(read, failed=False)


def verified(slots: Slots, read: Read | None) -> None:
    """End the read, which was past every cache and found the reply."""
    assert read is not None
    slots.verified(read, failed=False, later=None)


def verified_faulty(slots: Slots, read: Read | None) -> None:
    """End the read, which was past every cache and found damage."""
    assert read is not None
    slots.verified(read, failed=True, later=None)


def verified_ahead(slots: Slots, read: Read | None) -> None:
    """End the read, which was past every cache and found a reply that is still to come."""
    assert read is not None
    slots.verified(read, failed=True, later=H3)


def read_starts(slots: Slots, read: Read | None) -> None:
    """Begin to read the expected reply from the disk."""
    slots.read_start(0, H1)


def read_other(slots: Slots, read: Read | None) -> None:
    """Begin to read a reply that is not expected."""
    slots.read_start(0, H2)


def remove(slots: Slots, read: Read | None) -> None:
    """Expect nothing."""
    slots.remove(0)


def install_same(slots: Slots, read: Read | None) -> None:
    """Install what is expected already."""
    expected = slots.expected[0]
    slots.install({} if expected is None else {0: expected})


def install_other(slots: Slots, read: Read | None) -> None:
    """Install another reply."""
    slots.install({0: H3})


def install_nothing(slots: Slots, read: Read | None) -> None:
    """Install a table without the session."""
    slots.install({})


Event = Callable[[Slots, Read | None], None]
STATES = (EMPTY, DURABLE, QUEUED, WRITING, UNVERIFIED, FAULTY)
# The state after each event, in the order of STATES; None where the event is refused.
TABLE: dict[Event, tuple[SlotState | None, ...]] = {
    write: (QUEUED, QUEUED, QUEUED, QUEUED, QUEUED, QUEUED),
    write_same: (QUEUED, DURABLE, QUEUED, WRITING, QUEUED, QUEUED),
    repair: (None, None, None, None, None, QUEUED),
    repair_other: (None, None, None, None, None, None),
    start: (EMPTY, DURABLE, WRITING, WRITING, UNVERIFIED, FAULTY),
    done: (None, None, None, DURABLE, None, None),
    read_fails: (None, FAULTY, QUEUED, WRITING, UNVERIFIED, FAULTY),
    read_ends: (None, DURABLE, QUEUED, WRITING, UNVERIFIED, FAULTY),
    read_starts: (None, DURABLE, None, None, UNVERIFIED, None),
    read_other: (None, None, None, None, None, None),
    verified: (None, DURABLE, QUEUED, WRITING, DURABLE, FAULTY),
    verified_faulty: (None, FAULTY, QUEUED, WRITING, FAULTY, FAULTY),
    verified_ahead: (None, UNVERIFIED, QUEUED, WRITING, UNVERIFIED, FAULTY),
    remove: (EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY),
    install_same: (EMPTY, DURABLE, QUEUED, WRITING, UNVERIFIED, FAULTY),
    install_other: (UNVERIFIED, UNVERIFIED, UNVERIFIED, FAULTY, UNVERIFIED, UNVERIFIED),
    install_nothing: (EMPTY, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY),
}


def seen(slots: Slots) -> dict[str, Any]:
    """Give all that can be seen of the slots."""
    return copy.deepcopy({name: shown(value) for name, value in vars(slots).items()})


def shown(value: Any) -> Any:
    """Give writes and reads, which compare by identity, by what they hold."""
    if isinstance(value, Write | Read):
        return {name: getattr(value, name) for name in type(value).__slots__}
    if isinstance(value, dict):
        return [(key, shown(item)) for key, item in value.items()]
    return [shown(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("event", TABLE, ids=lambda event: event.__name__)
@pytest.mark.parametrize("before", STATES, ids=lambda state: state.name.lower())
def test_every_event_in_every_state_leads_where_the_table_says(before: SlotState, event: Event) -> None:
    """What is refused raises and changes nothing; after anything else the invariants hold."""
    slots, read = slot_in(before)
    after = TABLE[event][STATES.index(before)]
    if after is None:
        unchanged = seen(slots)
        with pytest.raises((InvariantBroken, AssertionError)):
            event(slots, read)
        assert seen(slots) == unchanged
    else:
        event(slots, read)
        assert slots.state(0) is after
    check_slots(slots)


def test_a_write_in_flight_may_end_in_any_state_and_clears_nothing() -> None:
    """While an obsolete write is in flight the slot takes every other state; its end changes none of them."""
    for event, state in ((remove, EMPTY), (install_other, FAULTY), (write, QUEUED)):
        slots, read = slot_in(WRITING)
        event(slots, read)
        assert slots.state(0) is state
        assert not slots.is_durable(0)
        slots.done(0)
        assert slots.state(0) is state
        check_slots(slots)


def test_a_superseded_write_is_forgotten_each_time() -> None:
    """The one that a newer one replaces, the one that is on its way already, and the one of a removed session."""
    slots = Slots(4)
    slots.accept(0, H1, b"one", 0.0)
    slots.accept(0, H2, b"two", 0.0)
    slots.accept(0, H2, b"two again", 0.0)
    assert [write.payload for write in slots.queued.values()] == [b"two"]
    assert slots.pending_count == 1
    slots.remove(0)
    slots.accept(1, H1, b"three", 0.0)
    slots.install({})
    assert list(slots.payloads()) == []
    assert slots.pending_count == 0


def test_writes_start_in_the_order_of_acceptance_within_the_limit_and_the_hold_back() -> None:
    """Younger ones than the hold-back allows wait, unless a checkpoint waits for them."""
    slots = Slots(6)
    for slot in (3, 1, 4, 2):
        slots.accept(slot, H1, b"", float(slot))
    assert [write.slot for write in slots.start(9, 0.5, 0)] == []
    assert [write.slot for write in slots.start(1, 3.0, 0)] == [3]
    assert [write.slot for write in slots.start(9, 3.0, 0)] == [1]
    barrier = slots.barrier
    slots.accept(5, H1, b"", 9.0)
    assert [write.slot for write in slots.start(9, 0.0, barrier)] == [4, 2]
    assert not slots.settled(barrier)
    for slot in (3, 1, 4, 2):
        slots.done(slot)
    assert slots.settled(barrier)
    assert not slots.settled(slots.barrier)


def test_repairs_start_within_their_bytes_but_never_none() -> None:
    """One that is larger than the budget goes alone; a slot with a write in flight waits."""
    large = header(9, size=5000)
    slots = Slots(5)
    slots.begin({0: large, 1: H1, 2: H2, 3: H3}, [0, 1, 2, 3], {})
    for slot, expected in ((0, large), (1, H1), (2, H2), (3, H3)):
        slots.accept_repair(slot, expected, b"", 0.0)
    assert [write.slot for write in slots.start_repairs(600, anywhere)] == [0]
    assert [write.slot for write in slots.start_repairs(600, anywhere)] == [1, 2]
    assert slots.settled(slots.barrier)
    assert [write.is_repair for write in slots.start_repairs(600, anywhere)] == [True]


@dataclass
class Model:
    """Slots as a naive list of what was promised, over a disk that is really there: slow, and obviously right."""

    expected: dict[int, bytes] = field(default_factory=dict)
    disk: dict[int, bytes] = field(default_factory=dict)  # what is on it
    known: dict[int, bool] = field(default_factory=dict)  # whether it holds `expected`; absent where nobody knows
    queued: dict[int, bytes] = field(default_factory=dict)
    writing: dict[int, bytes] = field(default_factory=dict)
    ahead: set[int] = field(default_factory=set)  # what was found on disk is of an op that was not told
    told: int = 0

    def state(self, slot: int) -> SlotState:
        """Derive the state."""
        wanted = self.expected.get(slot)
        if wanted is None:
            return EMPTY
        if self.queued.get(slot) == wanted:
            return QUEUED
        if self.writing.get(slot) == wanted:
            return WRITING
        if slot not in self.known:
            return UNVERIFIED
        return DURABLE if self.known[slot] else FAULTY

    def expect(self, slot: int, wanted: bytes | None, known: bool | None) -> None:
        """Expect something else, of which it is known whether it is on disk, or not."""
        self.expected.pop(slot, None)
        self.known.pop(slot, None)
        self.ahead.discard(slot)
        if wanted is not None:
            self.expected[slot] = wanted
        if known is not None:
            self.known[slot] = known


class Walk:
    """Slots and the model, side by side."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.slots = Slots(4)
        self.model = Model()
        self.reads: list[Read] = []
        self.op = 0

    def step(self) -> None:
        """Do one thing to both."""
        self.op += 1
        slots, model, chance = self.slots, self.model, self.chance
        slot = chance.randrange(4)
        match chance.randrange(11):
            case 0 | 1 | 2:
                self.accept(slot)
            case 3:
                for write in start_all(slots):
                    model.writing[write.slot] = model.queued.pop(write.slot)
            case 4 | 5 if model.writing:
                self.done(chance.choice(list(model.writing)))
            case 6:
                slots.remove(slot)
                model.queued.pop(slot, None)
                model.expect(slot, None, None)
            case 7:
                self.install()
            case 8 if model.state(slot) is FAULTY:
                slots.accept_repair(slot, model.expected[slot], b"", 0.0)
                model.queued[slot] = model.expected[slot]
            case 9 if chance.random() < 0.2:
                self.restart()
            case _:
                self.read(slot)

    def tell(self) -> None:
        """The owner has told of everything up to now: what was found of an earlier op is to be looked at again."""
        self.slots.reached(self.op)
        self.model.told = self.op
        self.model.ahead.clear()

    def accept(self, slot: int) -> None:
        """Accept a new reply, or now and then the very one that is on disk, as when a log is replayed."""
        model = self.model
        found = model.disk.get(slot, b"")
        again = slot in model.ahead and self.chance.random() < 0.5
        wanted = found if again else header(self.op)
        self.slots.accept(slot, wanted, b"", float(self.op))
        model.expect(slot, wanted, True if again else None)
        if not again:
            model.queued[slot] = wanted
        self.tell()

    def done(self, slot: int) -> None:
        """A write in flight ends."""
        model = self.model
        model.disk[slot] = model.writing.pop(slot)
        self.slots.done(slot)
        if slot not in model.queued and slot in model.expected:
            model.known[slot] = model.disk[slot] == model.expected[slot]

    def install(self) -> None:
        """Install a table that keeps some sessions, loses some and moves some on."""
        model, chance = self.model, self.chance
        table = {}
        for slot in range(4):
            choice = chance.randrange(3)
            if choice == 0 and slot in model.expected:
                table[slot] = model.expected[slot]
            elif choice == 1:
                # Now and then what is being written, or on disk, is just what is expected.
                new = header(self.op)
                table[slot] = chance.choice([new, model.writing.get(slot, new), model.disk.get(slot) or new])
        stored = list(self.slots.stored)
        self.slots.install(table)
        for slot in range(4):
            wanted = table.get(slot)
            if wanted != model.expected.get(slot):
                model.queued.pop(slot, None)
                known = None
                if slot in model.writing:
                    known = None if wanted is None else False
                elif wanted is not None and stored[slot] == wanted:
                    assert model.disk[slot] == wanted
                    known = True
                model.expect(slot, wanted, known)
        self.tell()

    def restart(self) -> None:
        """Begin anew with what is on disk, and a table that knows of some older replies there."""
        model, chance = self.model, self.chance
        table_op = max(0, self.op - chance.randrange(20))
        table = {slot: chance.choice([held, header(table_op)]) for slot, held in model.disk.items() if held}
        table = {slot: wanted for slot, wanted in table.items() if packed_op(wanted) <= table_op}
        self.slots, self.reads = Slots(4), []
        self.model = Model(disk=model.disk, told=table_op)
        faulty = [slot for slot, wanted in table.items() if model.disk[slot] != wanted]
        later = {slot: model.disk[slot] for slot in faulty if packed_op(model.disk[slot]) > table_op}
        self.slots.begin(table, faulty, later)
        for slot, wanted in table.items():
            self.model.expect(slot, wanted, None if slot in later else slot not in faulty)
        self.model.ahead = set(later)

    def read(self, slot: int) -> None:
        """End a read, or begin one; now and then what is read has rotted."""
        model, chance, slots = self.model, self.chance, self.slots
        if self.reads and chance.random() < 0.6:
            self.end(self.reads.pop(chance.randrange(len(self.reads))))
        elif model.state(slot) in (DURABLE, UNVERIFIED) and slot not in model.ahead:
            self.reads.append(slots.read_start(slot, model.expected[slot]))

    def end(self, read: Read) -> None:
        """End a read as the disk would have it; one that was overtaken may have seen anything."""
        model, chance, slot = self.model, self.chance, read.slot
        if read.overtaken:
            later = chance.choice([None, header(self.op + 1)])
            self.slots.verified(read, failed=chance.random() < 0.5, later=later)
            return
        if model.state(slot) is DURABLE and chance.random() < 0.2:
            model.disk[slot] = b""
        held = model.disk.get(slot, b"")
        failed = held != read.header
        if chance.random() < 0.5:
            counts = model.state(slot) is DURABLE
            self.slots.read_done(read, failed=failed)
            if failed and counts:
                model.known[slot] = False
            return
        later = held if held and packed_op(held) > model.told else None
        if model.state(slot) in (DURABLE, UNVERIFIED) and slot not in model.ahead:
            if failed and later is not None:
                model.known.pop(slot, None)
                model.ahead.add(slot)
            else:
                model.known[slot] = not failed
        self.slots.verified(read, failed=failed, later=later)

    def check(self) -> None:
        """What slots say is what the model says, and what is called durable is on the disk."""
        slots, model = self.slots, self.model
        check_slots(slots)
        assert [slots.state(slot) for slot in range(4)] == [model.state(slot) for slot in range(4)], f"at {self.op}"
        assert set(slots.ahead) == model.ahead
        counts = slots.count_states()
        assert sum(counts.values()) == 4
        assert counts[FAULTY] == len(slots.faulty)
        held = sorted([*slots.queued, *slots.repairs, *slots.writing])
        assert held == sorted([*model.queued, *model.writing])


@pytest.mark.parametrize("seed", range(40))
def test_a_long_walk_agrees_with_a_naive_model(seed: int) -> None:
    """After each of 400 random events the invariants hold, and every slot is in the state that the model says."""
    walk = Walk(seed)
    for _ in range(400):
        walk.step()
        walk.check()


def slots_in_all_states() -> Slots:
    """Give slots in each state, in its order, then one that holds a later reply; the second is also being read."""
    slots = Slots(7)
    slots.begin(dict.fromkeys(range(1, 7), H1), [5, 6], {6: H3})
    slots.install({slot: H2 if slot == 4 else H1 for slot in range(1, 7)})
    slots.accept(3, H2, b"two", 0.0)
    slots.start(1, NEVER, 0)
    slots.accept(2, H2, b"two", 0.0)
    slots.read_start(1, H1)
    assert [slots.state(slot) for slot in range(7)] == [*SlotState, UNVERIFIED]
    return slots


def test_the_states_are_counted() -> None:
    """Each slot once; a repair that waits, as a commit does; an obsolete write in flight not."""
    slots = slots_in_all_states()
    assert slots.count_states() == dict.fromkeys(SlotState, 1) | {UNVERIFIED: 2}
    slots.accept_repair(5, H1, b"one", 0.0)
    assert slots.count_states() == {EMPTY: 1, DURABLE: 1, QUEUED: 2, WRITING: 1, UNVERIFIED: 2, FAULTY: 0}
    slots.install({3: H3})
    assert slots.count_states() == {EMPTY: 6, DURABLE: 0, QUEUED: 0, WRITING: 0, UNVERIFIED: 0, FAULTY: 1}


def test_a_slot_is_durable_when_the_disk_holds_what_it_expects_and_nothing_is_written_over_it() -> None:
    """An empty slot is, too."""
    slots = slots_in_all_states()
    assert [slots.is_durable(slot) for slot in range(7)] == [True, True, False, False, False, False, False]
    slots.remove(3)
    assert not slots.is_durable(3)
    slots.done(3)
    assert slots.is_durable(3)


def test_a_slot_has_stored_a_reply_when_the_disk_holds_it_or_a_newer_one() -> None:
    """A reply of a later op that was found there counts for nothing until it is told of; nobody waits for no reply."""
    slots = slots_in_all_states()
    assert [slots.has_stored(slot, 1) for slot in range(7)] == [True, True, True, True, False, False, False]
    assert not slots.has_stored(1, 2)
    slots.accept(6, H2, b"two", 0.0)
    assert not slots.has_stored(6, 2)
    slots.start(2, NEVER, 0)
    slots.done(6)
    assert slots.has_stored(6, 1)
    assert slots.has_stored(6, 2)


def test_the_op_of_a_slot_is_that_of_the_reply_it_expects() -> None:
    """Or 0."""
    slots = slots_in_all_states()
    assert [slots.op_of(slot) for slot in range(7)] == [0, 1, 2, 2, 2, 1, 1]


def test_what_was_accepted_before_a_barrier_is_settled_without_what_came_after() -> None:
    """Numbers begin at 1."""
    slots = Slots(2)
    assert slots.barrier == 0
    assert slots.settled(0)
    slots.accept(0, H1, b"one", 0.0)
    slots.accept(1, H1, b"one", 0.0)
    assert (slots.barrier, slots.settled(0), slots.settled(1)) == (2, True, False)
    slots.start(1, NEVER, 0)
    slots.done(0)
    assert (slots.settled(1), slots.settled(2)) == (True, False)


def test_what_the_disk_holds_already_is_not_written_again() -> None:
    """And takes the place of a write that waits: nothing is pending any more."""
    slots = Slots(1)
    slots.begin({0: H2}, [], {})
    assert slots.accept(0, H2, b"two", 0.0) == []
    slots.install({0: H1})
    slots.accept(0, H3, b"three", 0.0)
    slots.stored[0] = H2
    slots.install({0: H3})
    assert slots.pending(0, H3) == b"three"
    slots.stored[0] = header(4)
    assert slots.accept(0, header(4), b"four", 0.0) == []
    assert (slots.pending_count, slots.state(0)) == (0, DURABLE)


def test_a_reply_ahead_is_looked_at_when_its_op_is_reached() -> None:
    """Whatever the number of its slot is, and each with its own op."""
    slots = Slots(9)
    slots.begin({7: H1, 8: H1}, [7, 8], {7: H3, 8: H2})
    slots.reached(1)
    assert not slots.unverified
    slots.reached(2)
    assert list(slots.unverified) == [8]
    slots.reached(3)
    assert list(slots.unverified) == [8, 7]
    assert (slots.stored[7], slots.stored[8]) == (None, None)


def test_a_slot_that_is_to_be_verified_holds_nothing_that_is_known() -> None:
    """Nor does one whose removal was forgotten."""
    slots = Slots(1)
    slots.begin({0: H1}, [], {})
    slots.install({0: H2})
    assert not slots.has_stored(0, 1)


def test_a_slot_that_is_found_faulty_is_not_doubted_otherwise() -> None:
    """Whatever was to be looked at, or was found ahead."""
    slots = slots_in_all_states()
    for slot in (4, 6):
        slots.mark_faulty(slot)
    assert slots.doubted == (5, 4, 6)
    check_slots(slots)


def test_a_slot_that_holds_a_later_reply_is_not_read_for_the_older() -> None:
    """What is read of it would be called damage."""
    with pytest.raises(InvariantBroken, match="holds a later reply"):
        slots_in_all_states().read_start(6, H1)


def test_a_read_that_ended_is_not_answered_by_a_write() -> None:
    """Another one of the same reply is."""
    slots = Slots(1)
    slots.begin({0: H1}, [], {})
    slots.install({0: H2})
    first, second = slots.read_start(0, H2), slots.read_start(0, H2)
    slots.read_done(first, failed=False)
    assert slots.accept(0, H2, b"two", 0.0) == [second]


def test_a_read_hands_the_reply_to_its_waiter_if_it_has_one() -> None:
    """A verification has none."""

    class Waiter:
        answers: list[Payload] = []

        def answered_by_write(self, payload: Payload) -> None:
            self.answers.append(payload)

    waiter = Waiter()
    Read(0, H1, waiter).answer(b"reply")
    Read(0, H1).answer(b"reply")
    assert waiter.answers == [b"reply"]


def test_what_was_found_ahead_is_good_when_it_is_what_is_expected() -> None:
    """A state sync tells of the op of the reply that the disk was found to hold."""
    slots = slots_in_all_states()
    slots.install({6: H3})
    assert slots.state(6) is DURABLE
    assert slots.is_durable(6)


def test_an_ended_read_says_whether_it_made_the_slot_faulty() -> None:
    """Not if a verification is still to come, or found a later reply; and no write answers it any more."""
    slots = slots_in_all_states()
    assert not slots.read_done(slots.read_start(4, H2), failed=True)
    assert not slots.verified(slots.read_start(4, H2), failed=True, later=H3)
    assert slots.state(4) is UNVERIFIED
    assert slots.accept(4, H2, b"two", 0.0) == []
    assert slots.read_done(slots.read_start(1, H1), failed=True)


def test_repairs_fill_their_bytes_exactly() -> None:
    """One more byte is too much."""
    for bytes_max, started in ((600, [0, 1]), (599, [0])):
        slots = Slots(2)
        slots.begin({0: H1, 1: H1}, [0, 1], {})
        for slot in (0, 1):
            slots.accept_repair(slot, H1, b"one", 0.0)
        assert [write.slot for write in slots.start_repairs(bytes_max, anywhere)] == started


def _queue_another(slots: Slots) -> None:
    slots.queued[2].slot = 1


def _make_obsolete(slots: Slots) -> None:
    slots.queued[2].header = H3


def _expect_no_body(slots: Slots) -> None:
    slots.expected[5] = slots.faulty[5] = header(1, 256)


def _pend_on(slots: Slots, slot: int) -> None:
    slots.repairs[slot] = Write(slot, slots.expected[slot] or b"", b"", 0, 0.0)


def _expect_nothing(slots: Slots) -> None:
    slots.expected[5] = slots.faulty[5] = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("corrupt", "text"),
    [
        (lambda slots: slots.faulty.update({5: H3}), "slot 5 is faulty for another reply"),
        (_expect_nothing, "slot 5 is faulty and expects nothing"),
        (_expect_no_body, "slot 5 expects no body"),
        (lambda slots: _pend_on(slots, 5), "slot 5 is faulty and will be written"),
        (lambda slots: slots.stored.__setitem__(5, H1), "slot 5 is faulty and holds a reply"),
        (lambda slots: slots.expected.__setitem__(4, None), "slot 4 needs no look at the disk"),
        (lambda slots: slots.stored.__setitem__(4, H2), "slot 4 needs no look at the disk"),
        (lambda slots: _pend_on(slots, 6), "slot 6 is to be verified and will be written"),
        (lambda slots: slots.unverified.update({3: None}), "slot 3 is to be verified and will be written"),
        (lambda slots: slots.unverified.update({6: None}), "a slot is doubted in two ways"),
        (_make_obsolete, "slot 2 has an obsolete write queued"),
        (_queue_another, "slot 2 has the write of another queued"),
        (lambda slots: _pend_on(slots, 2), "a slot has two writes queued"),
        (lambda slots: slots._pending.pop(1), "the pending commit writes are not those that are held"),
        (lambda slots: slots.queued.clear(), "the pending commit writes are not those that are held"),
        (lambda slots: slots.expected.__setitem__(1, H2), "slot 1 has a forgotten read"),
    ],
)
def test_a_state_that_contradicts_itself_is_noticed(corrupt: Callable[[Slots], object], text: str) -> None:
    """`check_slots` is what the simulator and other tests rely on."""
    slots = slots_in_all_states()
    check_slots(slots)
    corrupt(slots)
    with pytest.raises(InvariantBroken, match=text):
        check_slots(slots)


def test_an_obsolete_write_over_a_slot_that_is_to_be_verified_is_noticed() -> None:
    """What the disk will hold is known to be something else."""
    slots = slots_in_all_states()
    slots.writing[4] = Write(4, H3, b"", 0, 0.0)
    with pytest.raises(InvariantBroken, match="slot 4 is to be verified and is being written"):
        check_slots(slots)
