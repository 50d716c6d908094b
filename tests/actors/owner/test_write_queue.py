"""The queue by itself: places, barriers, buffers, and the op that a batch may tell."""

from __future__ import annotations

import random

import pytest

from client_replies.actors.owner.write_queue import Barrier, Batch, WriteQueue
from client_replies.messages.leases import Lease
from client_replies.messages.replies import (
    Checkpoint,
    CloseReplies,
    InstallSessions,
    RemoveReplies,
    WriteReplies,
)

LARGE = b"large reply"
ONE, TWO, THREE = Lease(1), Lease(2), Lease(3)


class Queue(WriteQueue):
    """A queue of sixteen places whose operations are committed and due at once, unless a test says otherwise."""

    def __init__(self, *, pending_max: int = 16, batch_max: int = 4, interval: float = 0.0) -> None:
        super().__init__(pending_max=pending_max, batch_max=batch_max, interval=interval)
        self.committed = 100

    def next(self, credit: int = 9, *, now: float = 0.0, awaited: bool = False, checkpointing: bool = False) -> object:
        """What goes out next: of a batch its slots and op, of a barrier its kind and op."""
        taken = self.take(now, credit, awaited=awaited, checkpointing=checkpointing)
        if isinstance(taken, Barrier):
            return taken.kind, taken.op
        return taken and (taken.slots, taken.op)

    def next_accepted(self, credit: int = 9) -> object:
        """The same, and it is accepted."""
        taken = self.next(credit)
        self.accept()
        return taken

    def batch(self) -> Batch:
        """The batch in flight."""
        assert isinstance(self.in_flight, Batch)
        return self.in_flight


@pytest.fixture
def queue() -> Queue:
    """A queue in which nothing waits."""
    return Queue()


def test_a_new_queue_knows_of_no_op() -> None:
    """Ops count from 1; what is known is what is committed since."""
    queue = WriteQueue(pending_max=1, batch_max=1, interval=0.0)
    assert (queue.committed, queue.told, queue.accepted, queue.durable, queue.durable_asked) == (0, 0, 0, 0, 0)
    assert queue.is_idle


def test_a_slot_has_one_place_and_its_last_operation(queue: Queue) -> None:
    """The place is that of the first, and the op that may be told is not that of a later one in it."""
    for op, slot in enumerate((3, 5, 3, 7), 1):
        queue.put(slot, op, b"%d" % op)
    assert queue.pending == 3
    assert queue.next(1) == ((3,), 1)
    assert queue.batch().payloads == [b"3"]
    queue.accept()
    assert (queue.pending, queue.accepted) == (2, 1)
    queue.put(3, 5, b"5")
    assert queue.next_accepted() == ((5, 7, 3), 100)
    assert queue.is_idle


def test_a_batch_is_bounded_by_the_credit_and_by_its_own_limit(queue: Queue) -> None:
    """Removals need no credit."""
    for slot in range(6):
        queue.put(slot, slot + 1, b"x")
    assert queue.next_accepted(0) is None
    assert queue.next_accepted(1) == ((0,), 1)
    assert queue.next_accepted(9) == ((1, 2, 3, 4), 5)
    queue.put(5, 7, None)
    assert queue.next(0) == ((5,), 100)
    assert queue.batch().payloads is None


def test_a_batch_is_of_writes_or_of_removals(queue: Queue) -> None:
    """They go out in the order in which they were queued."""
    for op, (slot, payload) in enumerate(((0, b"x"), (1, None), (2, None), (3, b"x")), 1):
        queue.put(slot, op, payload)
    found: list[object] = []
    while (taken := queue.take(0.0, 9, awaited=False, checkpointing=False)) is not None:
        found.append(taken.message(9, len(found) + 1, durable=True))
        queue.accept()
    assert found == [
        WriteReplies(owner=9, number=1, op=1, slots=(0,), payloads=(b"x",), durable=True),
        RemoveReplies(owner=9, number=2, op=3, slots=(1, 2)),
        WriteReplies(owner=9, number=3, op=100, slots=(3,), payloads=(b"x",), durable=True),
    ]


def test_what_is_not_committed_stays_and_is_not_told(queue: Queue) -> None:
    """A place opens with its first operation, whatever took it since."""
    queue.committed = 1
    queue.put(0, 1, b"x")
    queue.put(0, 3, b"y")
    queue.put(1, 2, b"x")
    assert queue.next_accepted() == ((0,), 1)
    assert queue.next() is None
    queue.committed = 2
    assert queue.next_accepted() == ((1,), 2)
    assert queue.told == 2


def test_a_batch_without_operations_tells_nothing_new_while_something_waits(queue: Queue) -> None:
    """An operation or a barrier. Without either it tells all that is committed."""
    queue.committed = 3
    queue.put(0, 5, b"x")
    assert queue.take_nothing().op == 0
    queue.accept()
    queue.committed = 5
    assert queue.next_accepted() == ((0,), 5)
    queue.put(0, 7, b"x")
    queue.put(0, 9, b"x")
    queue.committed = 7
    assert queue.next_accepted() == ((0,), 7)
    queue.committed = 9
    queue.checkpoint(7, b"t")
    assert queue.take_nothing().op == 7
    queue.accept()
    assert queue.next_accepted() == ((), 9)
    assert queue.next_accepted() == (Checkpoint, 7)
    queue.committed = 10
    assert queue.take_nothing().op == 10


def test_operations_that_nobody_waits_for_go_out_once_per_interval() -> None:
    """Each reason to wait no longer lets them go at once."""
    for reason in ("awaited", "asked", "barrier", "buffer", "many", "time"):
        queue = Queue(interval=5.0, pending_max=6)  # three are half of that
        queue.put(0, 1, b"x")
        assert queue.next(now=7.0) == ((0,), 100)
        queue.accept()
        queue.put(1, 2, b"x")
        queue.put(3, 2, b"x")
        assert queue.next(now=11.9) is None
        if reason == "asked":
            queue.durable_asked = 2
        elif reason == "barrier":
            queue.checkpoint(2, b"t")
        elif reason == "buffer":
            queue.put(2, 3, LARGE, large=True)
        elif reason == "many":
            queue.put(2, 3, b"x")
        assert queue.next(now=12.0 if reason == "time" else 11.9, awaited=reason == "awaited") is not None, reason


def test_a_full_queue_says_so(queue: Queue) -> None:
    """What is in flight counts until it is accepted; a second operation on a slot does not."""
    small = Queue(pending_max=2)
    for op, slot in enumerate((0, 1, 1), 1):
        assert not small.is_full or slot == 1
        small.put(slot, op, b"x")
    assert small.is_full
    small.next()
    assert small.is_full
    small.accept()
    assert not small.is_full


class TestBarriers:
    """What a checkpoint, an installation and the end stand between."""

    def test_a_barrier_goes_out_between_what_was_queued_before_and_after_it(self, queue: Queue) -> None:
        """A slot has a place on either side."""
        queue.put(0, 1, b"x")
        queue.checkpoint(1, b"t")
        queue.put(0, 2, b"y")
        assert queue.pending == 2
        assert queue.next_accepted() == ((0,), 1)
        assert queue.next_accepted() == (Checkpoint, 1)
        assert queue.next_accepted() == ((0,), 100)
        assert queue.accepted == 100

    def test_a_checkpoint_and_the_end_wait_for_the_checkpoint_that_was_started(self, queue: Queue) -> None:
        """An installation does not: it forgets what waits."""
        queue.checkpoint(1, b"t")
        queue.close()
        assert queue.next(checkpointing=True) is None
        assert queue.next_accepted() == (Checkpoint, 1)
        assert queue.next(checkpointing=True) is None
        assert queue.next_accepted() == (CloseReplies, 0)
        queue = Queue()
        queue.checkpoint(1, b"t")
        queue.install(2, b"t")
        assert queue.next(checkpointing=True) == (InstallSessions, 2)

    def test_a_queue_is_not_idle_while_the_end_waits_for_a_checkpoint(self, queue: Queue) -> None:
        """An idle queue is not asked for more: the end would never go out."""
        queue.checkpoint(1, b"sessions")
        queue.close()
        assert queue.next_accepted() == (Checkpoint, 1)
        assert queue.next(checkpointing=True) is None
        assert not queue.is_idle
        assert queue.next() == (CloseReplies, 0)

    def test_a_checkpoint_goes_out_when_every_op_before_it_was_told(self, queue: Queue) -> None:
        """A batch without operations tells what was replaced in its place; not before it is committed."""
        queue.committed = 2
        queue.put(1, 2, b"x")
        queue.put(1, 5, b"y")
        queue.checkpoint(3, b"t")
        assert queue.next_accepted() == ((1,), 2)
        assert queue.next() is None
        queue.committed = 6
        assert queue.next_accepted() == ((), 5)
        assert queue.next_accepted() == (Checkpoint, 3)

    def test_an_installation_forgets_what_waits_and_returns_its_leases(self, queue: Queue) -> None:
        """What is in flight stays; only the installed op may be told, whatever is committed meanwhile."""
        queue.put(0, 1, b"x")
        assert queue.next() == ((0,), 100)
        queue.put(1, 2, LARGE, large=True)
        queue.put(2, 3, LARGE, large=True)
        assert queue.place(ONE) == LARGE
        queue.checkpoint(3, b"t")
        assert queue.install(200, b"t") == [ONE]
        assert (queue.pending, queue.unplaced, queue.is_changing(7)) == (1, [], True)
        queue.accept()
        assert queue.next() == (InstallSessions, 200)
        queue.put(3, 201, b"x")
        queue.put(4, 202, b"x")
        queue.committed = 202
        assert queue.is_changing(7)
        queue.accept()
        assert (queue.is_changing(7), queue.told, queue.accepted) == (False, 200, 200)
        assert queue.next(1) == ((3,), 201)

    def test_an_installation_leaves_nothing_waiting_if_nothing_is_in_flight(self, queue: Queue) -> None:
        """Else the queue would be full too early, and never idle."""
        queue.put(0, 1, b"x")
        queue.install(2, b"t")
        assert queue.pending == 0
        assert queue.next_accepted() == (InstallSessions, 2)
        assert queue.is_idle

    def test_after_an_installation_an_operation_is_not_committed_until_it_is_called_so(self, queue: Queue) -> None:
        """What was committed before speaks of the state that is replaced."""
        queue.install(50, b"t")
        queue.put(0, 51, b"x")
        assert queue.next_accepted() == (InstallSessions, 50)
        assert queue.next() is None
        queue.committed = 51
        assert queue.next() == ((0,), 51)

    def test_the_end_takes_with_it_what_was_not_called_committed(self, queue: Queue) -> None:
        """Nobody could call it so any more."""
        queue.committed = 0
        queue.put(0, 1, b"x")
        queue.close()
        assert not queue.is_idle
        assert queue.next_accepted() == ((0,), 1)
        assert queue.next_accepted() == (CloseReplies, 0)
        assert queue.next() is None
        assert not queue.is_idle


class TestBuffers:
    """Which large reply gets a buffer."""

    def test_nothing_passes_a_large_reply_that_waits_for_a_buffer(self, queue: Queue) -> None:
        """The op in a later batch would say that the skipped reply does not exist."""
        queue.put(0, 1, b"x")
        queue.put(1, 2, LARGE, large=True)
        queue.put(2, 3, b"x")
        assert queue.next_accepted() == ((0,), 1)
        assert queue.next() is None
        assert queue.place(ONE) == LARGE
        assert queue.next() == ((1, 2), 100)
        assert queue.batch().payloads == [ONE, b"x"]

    def test_the_oldest_gets_the_first_buffer(self, queue: Queue) -> None:
        """Also one that took the place of a small reply before those that waited already."""
        for slot in range(3):
            queue.put(slot, slot + 1, b"large %d" % slot, large=slot > 0)
        queue.put(0, 4, b"large 0", large=True)
        assert [queue.place(lease) for lease in (ONE, TWO, THREE)] == [b"large 0", b"large 1", b"large 2"]

    def test_a_reply_that_needs_no_buffer_any_more_waits_for_none(self, queue: Queue) -> None:
        """It was replaced by a small one, or by a removal."""
        for slot in range(3):
            queue.put(slot, slot + 1, LARGE, large=True)
        queue.put(0, 4, b"x")
        queue.put(1, 5, None)
        assert queue.next_accepted() == ((0,), 1)
        assert queue.next_accepted() == ((1,), 2)
        assert len(queue.unplaced) == 1

    def test_a_newer_large_reply_keeps_the_buffer_of_the_older_one(self, queue: Queue) -> None:
        """A small one or a removal frees it."""
        queue.put(0, 1, LARGE, large=True)
        queue.place(ONE)
        assert queue.put(0, 2, LARGE, large=True) == ONE
        assert queue.put(0, 3, b"x") == ONE
        assert queue.put(0, 4, None) is None
        queue.put(0, 5, LARGE, large=True)
        queue.place(TWO)
        assert queue.put(0, 6, None) == TWO
        assert queue.unplaced == []

    def test_the_last_behind_gives_up_its_buffer_to_the_first(self, queue: Queue) -> None:
        """Its bytes wait again, until there is another buffer; none is taken from before the first."""
        queue.put(0, 1, LARGE, large=True)
        queue.put(1, 2, b"x")
        queue.put(2, 3, LARGE, large=True)
        queue.put(3, 4, LARGE, large=True)
        for lease in (ONE, TWO, THREE):
            queue.place(lease)
        queue.put(1, 5, LARGE, large=True)
        assert queue.take_from_behind(lambda lease: b"of lease %d" % lease) == THREE
        assert queue.place(THREE) == LARGE
        assert queue.take_from_behind(lambda lease: b"of lease %d" % lease) is None
        assert queue.next() == ((0, 1, 2), 3)
        assert queue.batch().payloads == [ONE, THREE, TWO]
        queue.accept()
        assert queue.place(ONE) == b"of lease 3"
        assert queue.next() == ((3,), 100)


def test_leases_come_back_with_the_batch_that_is_durable(queue: Queue) -> None:
    """Once, in order, and with those before it; an empty batch has nothing to wait for."""
    for number, leases in ((1, (ONE,)), (2, ()), (3, (TWO, THREE))):
        queue.put(0, number, b"x")
        queue.next()
        queue.sent(queue.batch(), number, leases)
        queue.accept()
    queue.sent(queue.take_nothing(), 4, ())
    assert queue.lent == 3
    assert queue.durable_through(2) == [(ONE,)]
    assert queue.durable_through(2) == []
    assert queue.durable_through(4) == [(TWO, THREE)]
    assert (queue.wants_durable, queue.durable) == (False, 100)
    queue.durable_asked = 101
    assert queue.wants_durable


def test_a_query_sees_what_is_not_accepted(queue: Queue) -> None:
    """A leased reply in flight is the component's by now; the serial tells what a query must wait for."""
    assert queue.oldest == queue.serial + 1
    queue.put(0, 11, b"x")
    queue.put(1, 12, LARGE, large=True)
    queue.place(ONE)
    queue.next()
    queue.put(0, 13, b"y")
    queue.checkpoint(13, b"t")
    queue.put(0, 14, b"z")
    assert queue.replies_of(0) == [b"x", b"y", b"z"]
    assert queue.replies_of(1) == []
    assert (queue.oldest, queue.serial) == (1, 4)
    assert [queue.is_changing(slot) for slot in range(3)] == [True, True, False]
    queue.accept()
    assert (queue.oldest, queue.is_changing(0)) == (3, False)


def test_a_query_waits_for_an_installation_but_not_for_what_changes_no_slot(queue: Queue) -> None:
    """A checkpoint or an empty batch does not, before it goes out or in flight."""
    queue.take_nothing()
    assert queue.oldest == queue.serial + 1
    queue.accept()
    queue.checkpoint(0, b"t")
    assert queue.oldest == queue.serial + 1
    assert queue.next() == (Checkpoint, 0)
    assert queue.oldest == queue.serial + 1
    queue.accept()
    queue.install(2, b"t")
    assert queue.oldest == queue.serial == 1
    assert queue.next() == (InstallSessions, 2)
    assert queue.oldest == queue.serial == 1
    queue.accept()
    assert queue.oldest == queue.serial + 1


@pytest.mark.parametrize("seed", range(20))
def test_what_is_told_went_out_and_the_last_of_each_slot_arrives(seed: int) -> None:
    """However writes, barriers, buffers and credit fall: of each op that is told the reply is out, or a newer one."""
    chance = random.Random(seed)
    queue, op = Queue(batch_max=3), 0
    queue.committed = 0
    written: dict[int, list[int]] = {slot: [0] for slot in range(8)}  # the ops of each
    arrived = dict.fromkeys(range(8), 0)
    leased: dict[int, int] = {}  # the op in each buffer
    for step in range(800):
        if step < 600 and not queue.is_full:
            op += 1
            slot = chance.randrange(8)
            held = queue.put(slot, op, b"%d" % op, large := chance.random() < 0.4)
            if held is not None and large:
                leased[held] = op
            written[slot].append(op)
            if chance.random() < 0.05:
                queue.checkpoint(op, b"t")
        if chance.random() < 0.5:
            queue.committed = op
        if queue.unplaced and chance.random() < 0.5:
            lease = queue.take_from_behind(lambda lease: b"%d" % leased[lease]) or Lease(step + 1)
            leased[lease] = int(queue.place(lease))
        taken = queue.take(0.0, chance.randrange(4), awaited=False, checkpointing=False)
        if isinstance(taken, Batch):
            for slot, payload in zip(taken.slots, taken.payloads or (), strict=True):
                arrived[slot] = leased[payload] if isinstance(payload, int) else int(payload)
            assert taken.op <= queue.committed
            for slot, ops in written.items():
                assert arrived[slot] >= max(one for one in ops if one <= taken.op), f"seed {seed}, step {step}"
        queue.accept()
    assert arrived == {slot: ops[-1] for slot, ops in written.items()}, f"seed {seed}"
    assert queue.is_idle
    assert queue.accepted == op
