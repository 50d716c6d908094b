"""Commit and repair writes without an actor system: what is refused, started, and said to be durable."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from thespian.actors import ActorAddress

from client_replies.actors.component.opened import Opened, Refused
from client_replies.actors.component.slots import Slots
from client_replies.actors.component.writing import REPAIR_GROUP_BYTES, SMALL_BATCH, Writing
from client_replies.messages import Message, RepliesConfig, seal_reply
from client_replies.messages.faults import FaultKind
from client_replies.messages.leases import Lease, make_lease
from client_replies.messages.replies import AwaitDurable, Payload, RepliesDurable, SlotsDurable, WriteReplies
from client_replies.messages.reply_header import HEADER_SIZE
from client_replies.messages.requests import Outbox
from client_replies.messages.storage_io import SlotsWritten, WriteSlots
from client_replies.storage.shared_memory import PoolMemory

CLUSTER, SLOTS, BUFFERS = 2**128 - 1, 6, 3
INLINE_MAX, SIZE_MAX = 1024, 8192
OWNER, STORAGE, ASKER, OTHER_ASKER = map(ActorAddress, ("owner", "storage", "asker", "another asker"))


def reply(op: int, size: int = 300, cluster: int = CLUSTER) -> bytes:
    """Give a reply of this op and size."""
    body = bytes(size - HEADER_SIZE)
    return seal_reply(cluster=cluster, client=7, session=1, request=1, op=op, operation=16, timestamp=1, body=body)


def header(payload: bytes) -> bytes:
    """Give the packed header of a reply."""
    return payload[:HEADER_SIZE]


class Bench:
    """The writes of one opening, with a clock that the test turns, and what they send."""

    def __init__(self, memory: PoolMemory, **options: Any) -> None:
        self.now = 10.0
        self.sent: list[tuple[ActorAddress, Message]] = []
        self.memory = memory
        self.slots = Slots(SLOTS)
        limits: dict[str, Any] = {"inline_size_max": INLINE_MAX, "message_size_max": SIZE_MAX}
        limits |= {"writes_max": 4, "write_batch_max": 2, "waits_max": 2, **options}
        self.opened = Opened(
            config=RepliesConfig(path="x", cluster=CLUSTER, replica=0, clients_max=SLOTS, **limits),
            owner=1,
            owner_address=OWNER,
            incarnation=9,
            memory=memory,
            slots=self.slots,
            to_storage=Outbox(lambda message: self.sent.append((STORAGE, message)), 1.0),
            op=0,
            sequence=0,
            send=lambda to, message: self.sent.append((to, message)),
            now=lambda: self.now,
            count=lambda event, **details: None,
            own=frozenset({make_lease(2, 1)}),
        )
        self.writing = Writing(self.opened)
        self.number = 0

    def lease(self, buffer: int, content: bytes) -> Lease:
        """Put a reply into a buffer."""
        lease = make_lease(buffer, 1)
        self.memory.buffer(lease)[: len(content)] = content
        return lease

    def batch(self, replies: dict[int, Payload], *, op: int = 1, durable: bool = False) -> WriteReplies:
        """Give the next batch of the owner's."""
        self.number += 1
        slots, payloads = tuple(replies), tuple(replies.values())
        return WriteReplies(owner=1, number=self.number, op=op, slots=slots, payloads=payloads, durable=durable)

    def commit(self, replies: dict[int, Payload], *, op: int = 1, durable: bool = False) -> WriteReplies:
        """Verify and accept a batch."""
        message = self.batch(replies, op=op, durable=durable)
        self.writing.accept(message, self.writing.verify(message))
        return message

    def refused(self, replies: dict[int, Payload]) -> tuple[int, FaultKind, str, str]:
        """Give what is wrong with a batch, and with which of its items."""
        with pytest.raises(Refused) as refused:
            self.writing.verify(self.batch(replies))
        return refused.value.index, refused.value.fault.kind, refused.value.fault.found, refused.value.fault.expected

    def pumped(self) -> list[WriteSlots]:
        """Start what can be started, and give it."""
        self.sent.clear()
        self.writing.pump()
        assert all(to == STORAGE for to, _ in self.sent)
        return [message for _, message in self.sent if isinstance(message, WriteSlots)]

    def write(self) -> list[WriteSlots]:
        """Start what can be started, and let it all be on disk."""
        groups = self.pumped()
        for group in groups:
            self.written(group)
        return groups

    def written(self, group: WriteSlots) -> list[int]:
        """Let a group be on disk, and give the slots that it repaired."""
        repaired = self.writing.written(SlotsWritten(batch=group.batch, repair=group.repair, lane=group.lane))
        return [write.slot for write in repaired]

    def told(self) -> list[Message]:
        """Give what is told of durability now, to the owner and to those who wait."""
        self.writing.pump()
        self.sent = [(to, message) for to, message in self.sent if not isinstance(message, WriteSlots)]
        self.writing.tell_durable()
        told, self.sent = [message for _, message in self.sent], []
        return told

    def answered_later(self) -> bool:
        """Say whether the answer to the last batch waits."""
        return self.writing.is_answered_later

    def wait(self, number: int, *slots: int, sender: ActorAddress = ASKER) -> None:
        """Ask to be told when the slots have on disk what they are to hold now."""
        self.writing.wait(AwaitDurable(owner=1, wait=number, slots=slots), sender)


@pytest.fixture
def memory() -> Iterator[PoolMemory]:
    """Give a pool whose buffers are all lent."""
    memory = PoolMemory.create(BUFFERS, SIZE_MAX, bytes(16))
    for buffer in range(BUFFERS):
        memory.set_generation(buffer, 1)
    yield memory
    memory.close()


@pytest.fixture
def bench(memory: PoolMemory) -> Bench:
    """Give one that holds nothing back."""
    return Bench(memory)


class TestWhatIsRefused:
    """The first item that is wrong, with what was found and expected; nothing changes."""

    def test_a_whole_batch_gives_the_header_of_each_reply(self, bench: Bench) -> None:
        """Inline up to the limit, and from a buffer."""
        inline, large = reply(2, INLINE_MAX), reply(3, SIZE_MAX)
        message = bench.batch({5: inline, 0: bench.lease(0, large)})
        assert bench.writing.verify(message) == [header(inline), header(large)]
        assert bench.slots.expected == [None] * SLOTS

    def test_more_replies_than_the_credit_are_refused(self, bench: Bench) -> None:
        """The credit is what was not accepted yet, and comes back when a reply is on disk."""
        bench.commit({0: reply(1), 1: reply(2)})
        assert bench.writing.credit == 2
        assert bench.refused({slot: reply(9) for slot in (2, 3, 4)}) == (
            2,
            FaultKind.BUSY,
            "3 replies",
            "at most 2, the credit",
        )
        bench.commit({2: reply(3), 3: reply(4)})
        assert bench.writing.credit == 0
        bench.write()
        assert bench.writing.credit == 4

    def test_a_slot_that_does_not_exist_is_refused(self, bench: Bench) -> None:
        """Slots count from 0."""
        wrong = (FaultKind.SLOT_OUT_OF_RANGE, "slot 6", "a slot below 6")
        assert bench.refused({0: reply(1), SLOTS: reply(2)}) == (1, *wrong)
        with pytest.raises(Refused) as refused:
            bench.writing.verify_slots((0, SLOTS - 1, SLOTS))
        fault = refused.value.fault
        assert (refused.value.index, fault.kind, fault.found, fault.expected) == (2, *wrong)
        bench.writing.verify_slots((0, SLOTS - 1))

    def test_a_lease_that_is_in_use_is_refused(self, bench: Bench) -> None:
        """By the component itself, by a write that is pending, or by another item of the batch."""
        in_use = "a lease of the sender's that is not lent"
        own = bench.lease(2, reply(1))
        assert bench.refused({1: own}) == (0, FaultKind.LEASE_STALE, f"lease {own:#x}, which is in use", in_use)
        lease = bench.lease(0, reply(1))
        assert bench.refused({0: lease, 1: lease})[:2] == (1, FaultKind.LEASE_STALE)
        bench.commit({0: lease})
        assert bench.refused({3: reply(8), 1: lease})[:2] == (1, FaultKind.LEASE_STALE)
        bench.write()
        bench.commit({1: lease})

    def test_a_lease_that_nobody_holds_is_refused(self, bench: Bench) -> None:
        """Its generation is over, or it is of no buffer."""
        for lease in (make_lease(0, 2), make_lease(BUFFERS, 1)):
            assert bench.refused({0: reply(1), 1: lease}) == (
                1,
                FaultKind.LEASE_STALE,
                f"lease {lease:#x}",
                "a lease that is held",
            )

    def test_a_reply_that_is_too_large_is_refused(self, bench: Bench) -> None:
        """To travel inline, or at all: the limit that it breaks is named."""
        assert bench.refused({0: reply(1), 1: reply(2, INLINE_MAX + 1)}) == (
            1,
            FaultKind.INLINE_TOO_LARGE,
            f"{INLINE_MAX + 1} bytes",
            f"at most {INLINE_MAX}",
        )
        assert bench.refused({1: reply(2, SIZE_MAX)})[1] is FaultKind.INLINE_TOO_LARGE
        assert bench.refused({1: reply(2, SIZE_MAX + 1)}) == (
            0,
            FaultKind.REPLY_TOO_LARGE,
            f"{SIZE_MAX + 1} bytes",
            f"at most {SIZE_MAX}",
        )

    def test_a_reply_that_is_not_whole_is_refused(self, bench: Bench) -> None:
        """Damaged, longer than it says, of another cluster, or nothing but a header."""
        damaged = reply(1)[:-1] + b"x"
        assert bench.refused({0: damaged})[:2] == (0, FaultKind.REPLY_INVALID)
        assert bench.refused({0: bench.lease(0, damaged)})[:2] == (0, FaultKind.REPLY_INVALID)
        longer = bench.refused({0: reply(1) + b"x"})
        assert longer[:2] == (0, FaultKind.REPLY_INVALID)
        assert "301 bytes" in longer[2]
        assert longer[3] == "300, the size in the header"
        assert bench.refused({0: reply(1, cluster=2)})[:2] == (0, FaultKind.REPLY_OTHER_CLUSTER)
        assert bench.refused({0: reply(1, HEADER_SIZE)}) == (
            0,
            FaultKind.REPLY_WITHOUT_BODY,
            f"size {HEADER_SIZE}",
            f"more than {HEADER_SIZE}",
        )

    def test_a_reply_that_is_not_newer_is_refused(self, bench: Bench) -> None:
        """Unless it is the very one that the slot holds."""
        bench.commit({0: reply(5)})
        assert bench.refused({1: reply(6), 0: reply(4)}) == (1, FaultKind.REPLY_OLDER, "op 4", "an op above 5")
        assert bench.refused({0: reply(5, 400)})[1:3] == (FaultKind.REPLY_OLDER, "op 5")
        bench.commit({0: reply(5)})
        bench.commit({0: reply(6)})

    def test_the_item_that_is_wrong_is_the_one_that_is_named(self, bench: Bench) -> None:
        """Not one before it that is as large, as new or as old as may be."""
        wrong = reply(1, cluster=2)
        bench.commit({0: reply(6)})
        assert bench.refused({0: reply(6), 1: wrong})[:2] == (1, FaultKind.REPLY_OTHER_CLUSTER)
        assert bench.refused({0: reply(7), 1: wrong})[:2] == (1, FaultKind.REPLY_OTHER_CLUSTER)
        assert bench.refused({0: reply(7, INLINE_MAX), 1: wrong})[:2] == (1, FaultKind.REPLY_OTHER_CLUSTER)
        lease = bench.lease(0, reply(8, SIZE_MAX))
        assert bench.refused({0: lease, 1: wrong})[:2] == (1, FaultKind.REPLY_OTHER_CLUSTER)


class TestGroups:
    """What is started when, and in which lane."""

    def test_what_waits_is_written_in_groups_one_in_each_lane(self, bench: Bench) -> None:
        """Each of at most `write_batch_max`; the answer to one starts the next."""
        replies = {slot: reply(slot + 1) for slot in (3, 0, 1)}
        bench.commit({slot: replies[slot] for slot in replies})
        first, second = bench.pumped()
        assert (first.slots, first.payloads) == ((3, 0), (replies[3], replies[0]))
        assert (second.slots, second.lane, second.batch, second.repair) == ((1,), 1, 1, False)
        assert first.lane == 0
        bench.commit({4: reply(9)})
        assert bench.pumped() == []
        bench.written(first)
        (third,) = bench.pumped()
        assert (third.slots, third.lane, third.batch) == ((4,), 0, 2)

    def test_an_answer_to_nothing_ends_nothing(self, bench: Bench) -> None:
        """Of another lane, repeated, or to a write that was never started."""
        bench.commit({0: reply(1)})
        (group,) = bench.pumped()
        for answer in (SlotsWritten(batch=1, lane=1), SlotsWritten(batch=1, repair=True), SlotsWritten(batch=2)):
            assert bench.writing.written(answer) == []
            assert not bench.slots.is_durable(0)
        bench.written(group)
        assert bench.slots.is_durable(0)
        assert bench.written(group) == []

    def test_a_write_is_held_back_for_a_newer_one(self, memory: PoolMemory) -> None:
        """Until it is due: that is when the first of the queue has waited for `hold_back`."""
        bench = Bench(memory, hold_back=2.0, writes_max=6)
        assert bench.writing.due == math.inf
        bench.commit({0: reply(1)})
        bench.now = 11.0
        bench.commit({1: reply(2)})
        assert bench.writing.due == 12.0
        bench.now = 11.9
        assert bench.pumped() == []
        bench.now = 12.0
        (group,) = bench.pumped()
        assert group.slots == (0,)
        assert bench.writing.due == 13.0

    def test_nothing_is_held_back_when_there_is_a_reason_to_hurry(self, memory: PoolMemory) -> None:
        """Half of the credit is used, the file is closing, or a checkpoint waits."""
        bench = Bench(memory, hold_back=2.0, writes_max=4)
        bench.commit({0: reply(1)})
        assert bench.pumped() == []
        bench.commit({1: reply(2)})
        assert [group.slots for group in bench.pumped()] == [(0, 1)]
        bench = Bench(memory, hold_back=2.0)
        bench.commit({0: reply(1)})
        bench.writing.flushing = True
        assert [group.slots for group in bench.pumped()] == [(0,)]
        bench = Bench(memory, hold_back=2.0, writes_max=9)
        bench.commit({0: reply(1)})
        bench.writing.barrier = bench.slots.barrier
        bench.commit({1: reply(2)})
        assert [group.slots for group in bench.pumped()] == [(0,)]

    def test_nothing_is_due_while_every_lane_is_busy(self, memory: PoolMemory) -> None:
        """The answer to a group starts the next; one lane that is free is enough."""
        bench = Bench(memory, write_batch_max=1)
        bench.commit({0: reply(1)})
        bench.pumped()
        bench.commit({1: reply(2)})
        assert bench.writing.due == 10.0
        bench.pumped()
        bench.commit({2: reply(3)})
        assert bench.writing.due == math.inf


class TestRepairs:
    """A reply from a peer has a lane of its own, and needs a buffer if it is large."""

    def repair(self, bench: Bench, slot: int, payload: bytes) -> None:
        """Let a slot be faulty, and a peer have sent its reply."""
        bench.slots.begin({slot: header(payload)}, [slot], {})
        bench.slots.accept_repair(slot, header(payload), payload, bench.now)

    def test_a_repair_has_its_own_lane_and_takes_no_credit(self, bench: Bench) -> None:
        """Beside a commit that is started with it; what it put right is known when it is on disk."""
        self.repair(bench, 0, reply(1))
        bench.commit({1: reply(2)})
        assert bench.writing.credit == 3
        commit, repair = bench.pumped()
        assert (commit.slots, commit.repair) == ((1,), False)
        assert (repair.slots, repair.payloads, repair.repair, repair.lane) == ((0,), (reply(1),), True, 0)
        self.repair(bench, 2, reply(3))
        assert bench.pumped() == []
        assert bench.written(repair) == [0]
        assert bench.written(commit) == []
        assert [group.slots for group in bench.pumped()] == [(2,)]

    def test_a_large_repair_waits_for_a_buffer_and_gives_it_back(self, bench: Bench) -> None:
        """The storage writes it from there."""
        large = reply(1, INLINE_MAX + 1)
        self.repair(bench, 0, large)
        assert bench.pumped() == []
        lease = make_lease(2, 1)
        bench.opened.repair_stock.append(lease)
        (group,) = bench.pumped()
        assert group.payloads == (lease,)
        assert bytes(bench.memory.buffer(lease)[: len(large)]) == large
        assert bench.opened.repair_stock == []
        assert bench.written(group) == [0]
        assert bench.opened.repair_stock == [lease]

    def test_a_small_repair_needs_no_buffer(self, bench: Bench) -> None:
        """Up to the size that travels inline."""
        self.repair(bench, 0, reply(1, INLINE_MAX))
        bench.opened.repair_stock.append(make_lease(2, 1))
        assert [group.payloads for group in bench.pumped()] == [(reply(1, INLINE_MAX),)]
        assert len(bench.opened.repair_stock) == 1

    def test_a_repair_that_a_commit_has_overtaken_put_nothing_right(self, bench: Bench) -> None:
        """Nor one of a slot that holds no reply any more."""
        for slot in (0, 1, 2):
            self.repair(bench, slot, reply(slot + 1))
        (group,) = bench.pumped()
        bench.commit({0: reply(9)})
        bench.writing.remove((1,), 9, 2)
        assert bench.written(group) == [2]

    def test_a_group_of_repairs_has_a_bound_in_bytes(self, bench: Bench) -> None:
        """That of the group, whatever there is."""
        assert REPAIR_GROUP_BYTES > SLOTS * SIZE_MAX
        for slot in range(SLOTS):
            self.repair(bench, slot, reply(slot + 1, INLINE_MAX))
        assert [group.slots for group in bench.pumped()] == [tuple(range(SLOTS))]


class TestDurable:
    """What the owner is told, and when."""

    def test_a_batch_is_durable_when_each_of_its_replies_is_on_disk(self, bench: Bench) -> None:
        """Not when one group of it is; it is told once."""
        message = bench.commit({0: reply(1), 1: reply(2), 2: reply(3)}, durable=True)
        first, second = bench.pumped()
        bench.written(second)
        assert bench.told() == []
        bench.written(first)
        assert bench.told() == [RepliesDurable(owner=1, through=message.number)]
        assert bench.told() == []

    def test_what_was_not_asked_about_is_noted_and_not_told(self, bench: Bench) -> None:
        """The next one that is asked about tells it too."""
        assert bench.writing.durable_through == 0
        bench.commit({0: reply(1)})
        bench.write()
        assert bench.told() == []
        assert bench.writing.durable_through == 1
        bench.commit({1: reply(2)}, durable=True)
        bench.commit({2: reply(3)})
        bench.write()
        assert bench.told() == [RepliesDurable(owner=1, through=3)]

    def test_a_batch_that_adds_nothing_is_durable_with_the_one_before_it(self, bench: Bench) -> None:
        """If that one was asked about, both are told."""
        bench.commit({0: reply(1)}, durable=True)
        bench.commit({}, op=7)
        (group,) = bench.pumped()
        assert bench.told() == []
        bench.written(group)
        assert bench.told() == [RepliesDurable(owner=1, through=2)]

    def test_an_older_batch_is_told_while_a_newer_one_is_written(self, bench: Bench) -> None:
        """They are durable in order."""
        bench.commit({0: reply(1)}, durable=True)
        (first,) = bench.pumped()
        bench.commit({1: reply(2)}, durable=True)
        (second,) = bench.pumped()
        bench.written(first)
        assert bench.told() == [RepliesDurable(owner=1, through=1)]
        bench.written(second)
        assert bench.told() == [RepliesDurable(owner=1, through=2)]

    def test_what_is_remembered_of_batches_is_bounded(self, bench: Bench) -> None:
        """Beyond the bound two are told as one: the newest replies of a slot take no further credit."""
        for op in range(1, 9):
            bench.commit({0: reply(op)}, durable=True)
            bench.pumped()
        for group in bench.write():
            bench.written(group)
        assert bench.writing.credit >= 2
        bench.writing.written(SlotsWritten(batch=1, lane=0))
        bench.write()
        assert bench.told() == [RepliesDurable(owner=1, through=8)]

    def test_a_removal_ends_what_its_slots_were_waited_for(self, bench: Bench) -> None:
        """Its own number is durable with it."""
        bench.commit({0: reply(1)}, durable=True)
        bench.wait(1, 0)
        bench.writing.remove((0,), 5, 2)
        assert bench.opened.op == 5
        assert bench.told() == [SlotsDurable(owner=1, wait=1), RepliesDurable(owner=1, through=2)]
        assert bench.slots.op_of(0) == 0

    def test_a_removal_alone_is_not_told(self, bench: Bench) -> None:
        """Nor does a batch before it wait for that."""
        bench.commit({0: reply(1)})
        bench.writing.remove((0,), 5, 2)
        assert not bench.answered_later()
        assert bench.told() == []
        assert bench.writing.durable_through == 2

    def test_a_reply_of_an_op_that_was_passed_over_is_looked_at(self, bench: Bench) -> None:
        """The disk holds it, and the log that is replayed did not bring it."""
        bench.slots.begin({0: header(reply(1))}, [0], {0: header(reply(4))})
        bench.commit({1: reply(2)}, op=3)
        assert list(bench.slots.unverified) == []
        bench.commit({1: reply(5)}, op=5)
        assert list(bench.slots.unverified) == [0]

    def test_the_op_that_was_reached_never_shrinks(self, bench: Bench) -> None:
        """Batches, removals and installations tell of it."""
        bench.commit({0: reply(1)}, op=5)
        bench.commit({1: reply(2)}, op=3)
        assert bench.opened.op == 5
        bench.writing.install({0: header(reply(1))}, 8)
        assert bench.opened.op == 8

    def test_an_accepted_reply_answers_the_reads_of_it(self, bench: Bench) -> None:
        """With the payload that came."""

        class Waiter:
            answers: list[Payload] = []

            def answered_by_write(self, payload: Payload) -> None:
                self.answers.append(payload)

        bench.slots.begin({0: header(reply(1)), 1: header(reply(2))}, (), {})
        bench.slots.mark_faulty(1)
        bench.slots.begin({2: header(reply(3))}, (), {})
        bench.slots.install({0: header(reply(1)), 1: header(reply(2)), 2: header(reply(4))})
        waiter = Waiter()
        bench.slots.read_start(2, header(reply(4)), waiter)
        bench.commit({0: reply(9), 2: reply(4)})
        assert waiter.answers == [reply(4)]


class TestWhenABatchIsAnsweredLater:
    """`WritesAccepted` waits where `RepliesDurable` is soon there, or where another batch would wait as well."""

    def test_a_small_batch_that_is_to_be_told_is_answered_when_it_is_durable(self, bench: Bench) -> None:
        """One that is not to be told, or that has nothing before it, at once."""
        assert not bench.answered_later()
        bench.commit({0: reply(1)})
        assert not bench.answered_later()
        bench.commit({1: reply(2)}, durable=True)
        assert bench.answered_later()
        bench.write()
        bench.told()
        assert not bench.answered_later()

    def test_a_large_batch_is_answered_at_once(self, memory: PoolMemory) -> None:
        """It takes longer to write than a message takes."""
        bench = Bench(memory, message_size_max=SMALL_BATCH, inline_size_max=SMALL_BATCH)
        bench.commit({0: reply(1, SMALL_BATCH)}, durable=True)
        assert bench.answered_later()
        bench = Bench(memory, message_size_max=SMALL_BATCH, inline_size_max=SMALL_BATCH)
        bench.commit({0: reply(1, SMALL_BATCH - 299), 1: reply(2)}, durable=True)
        assert not bench.answered_later()
        # But the one after it is, while it is written.
        bench.commit({2: reply(3)})
        assert bench.answered_later()

    def test_a_batch_that_is_held_back_is_answered_at_once(self, memory: PoolMemory) -> None:
        """Nothing is durable soon then."""
        bench = Bench(memory, hold_back=2.0)
        bench.commit({0: reply(1)}, durable=True)
        assert not bench.answered_later()
        bench.commit({1: reply(2)})
        assert not bench.answered_later()

    def test_a_batch_behind_groups_in_every_lane_is_answered_later(self, memory: PoolMemory) -> None:
        """Another would wait as long."""
        bench = Bench(memory, write_batch_max=1)
        bench.commit({0: reply(1), 1: reply(2)})
        bench.pumped()
        assert not bench.answered_later()
        bench.commit({2: reply(3)})
        assert bench.answered_later()


class TestWaits:
    """`AwaitDurable` is answered once each slot has on disk what it was to hold when it was asked, or newer."""

    def test_a_wait_ends_when_all_of_its_slots_are_on_disk(self, bench: Bench) -> None:
        """At once if they are."""
        bench.commit({0: reply(1), 1: reply(2), 2: reply(3)})
        first, second = bench.pumped()
        bench.wait(1, 0, 2)
        bench.sent.clear()
        bench.written(first)
        assert (bench.sent, bench.writing.waits) == ([], 1)
        bench.written(second)
        assert (bench.sent, bench.writing.waits) == ([(ASKER, SlotsDurable(owner=1, wait=1))], 0)
        bench.wait(2, 0, 1, 5)
        assert bench.sent[1:] == [(ASKER, SlotsDurable(owner=1, wait=2))]

    def test_a_newer_reply_that_is_still_to_be_written_is_not_waited_for(self, bench: Bench) -> None:
        """What was asked about is on disk; what came since is not what was asked about."""
        bench.commit({0: reply(1), 1: reply(2)})
        (group,) = bench.pumped()
        bench.wait(1, 0, 1)
        bench.commit({0: reply(3)})
        bench.sent.clear()
        bench.written(group)
        assert bench.sent == [(ASKER, SlotsDurable(owner=1, wait=1))]

    def test_a_wait_that_is_asked_again_is_answered_once_to_who_asked_last(self, bench: Bench) -> None:
        """About what it was asked for first."""
        bench.commit({0: reply(1)})
        (group,) = bench.pumped()
        bench.wait(1, 0)
        bench.wait(1, 0, 5, sender=OTHER_ASKER)
        bench.sent.clear()
        bench.written(group)
        assert bench.sent == [(OTHER_ASKER, SlotsDurable(owner=1, wait=1))]

    def test_more_waits_than_may_be_are_refused(self, bench: Bench) -> None:
        """And a slot that does not exist."""
        bench.commit({0: reply(1)})
        for number in (1, 2):
            bench.wait(number, 0)
        with pytest.raises(Refused) as refused:
            bench.wait(3, 0)
        fault = refused.value.fault
        assert (refused.value.index, fault.kind) == (0, FaultKind.BUSY)
        assert (fault.found, fault.expected) == ("2 waits", "fewer than 2")
        with pytest.raises(Refused, match="slot 6"):
            bench.wait(1, SLOTS)

    def test_a_slot_that_was_found_faulty_since_is_waited_for_again(self, bench: Bench) -> None:
        """One whose reply was on disk when the others were not."""
        bench.commit({0: reply(1), 1: reply(2), 2: reply(3)})
        first, second = bench.pumped()
        bench.wait(1, 0, 2)
        bench.written(first)
        bench.slots.mark_faulty(0)
        bench.sent.clear()
        bench.written(second)
        assert bench.sent == []
        bench.slots.accept_repair(0, header(reply(1)), reply(1), bench.now)
        (repair,) = bench.pumped()
        bench.sent.clear()
        bench.written(repair)
        assert bench.sent == [(ASKER, SlotsDurable(owner=1, wait=1))]

    def test_an_installation_or_a_look_at_the_disk_ends_a_wait(self, bench: Bench) -> None:
        """Where the slot is to hold nothing now, or is found to hold what it is to."""
        bench.commit({0: reply(1), 1: reply(2)})
        bench.wait(1, 0)
        bench.sent.clear()
        bench.writing.install({1: header(reply(4))}, 4)
        assert bench.sent == [(ASKER, SlotsDurable(owner=1, wait=1))]
        bench.wait(2, 1)
        assert bench.writing.waits == 1
        read = bench.slots.read_start(1, header(reply(4)))
        bench.slots.verified(read, failed=False, later=None)
        bench.sent.clear()
        bench.writing.verified((1,))
        assert bench.sent == [(ASKER, SlotsDurable(owner=1, wait=2))]

    def test_a_reply_that_the_disk_holds_already_ends_a_wait_when_it_is_accepted(self, bench: Bench) -> None:
        """As when a log is replayed: nothing is written."""
        bench.slots.begin({0: header(reply(1))}, (), {})
        bench.commit({0: reply(2)})
        bench.wait(1, 0)
        bench.sent.clear()
        bench.slots.stored[0] = header(reply(3))
        bench.commit({0: reply(3)})
        assert bench.sent == [(ASKER, SlotsDurable(owner=1, wait=1))]
