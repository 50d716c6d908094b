"""The owner's leases by themselves: when they are acquired, filled, lent and released, and how many are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from client_replies.actors.owner.buffers import LEASE_SIZE_MIN, LEASES_AHEAD_MAX, Buffers
from client_replies.actors.owner.write_queue import WriteQueue
from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.leases import (
    AcquireLeases,
    Lease,
    LeasesGranted,
    LeasesRefused,
    LeasesReleased,
    ReleaseLeases,
    make_lease,
)
from client_replies.messages.message import Message
from client_replies.messages.replies import Payload
from client_replies.messages.requests import Outbox
from client_replies.storage.shared_memory import PoolMemory

HOLDER = 9
LARGE = 3000  # bytes; the buffers have 4096
LEASES = tuple(make_lease(buffer, 1) for buffer in range(8))


def data(size: int = LARGE, byte: int = 1) -> bytes:
    """What stands for a reply."""
    return bytes([byte]) * size


@dataclass
class Bench:
    """The leases of an owner, what they send to the pool, and the clock in the test's hand."""

    memory: PoolMemory
    time: float = 0.0
    sent: list[Message] = field(default_factory=list)
    queue: WriteQueue = field(init=False)
    outbox: Outbox = field(init=False)
    buffers: Buffers = field(init=False)

    def __post_init__(self) -> None:
        self.queue = WriteQueue(pending_max=16, batch_max=16, interval=0.0)
        self.outbox = Outbox(self.sent.append, 1.0)
        self.buffers = Buffers(HOLDER, self.queue, self.memory, self.memory.buffers, self.outbox, lambda: self.time)

    def acquired(self) -> tuple[int, ...]:
        """How many leases were asked for since the last look, by request."""
        counts = tuple(message.count for message in self.sent if isinstance(message, AcquireLeases))
        self.sent.clear()
        return counts

    def released(self) -> tuple[Lease, ...]:
        """The leases that were given back since the last look."""
        leases = [lease for message in self.sent if isinstance(message, ReleaseLeases) for lease in message.leases]
        self.sent.clear()
        return tuple(leases)

    def grant(self, *leases: Lease, number: int = 1) -> None:
        """The pool's answer to a request for leases."""
        assert self.buffers.receive(LeasesGranted(holder=HOLDER, number=number, leases=leases)) is None

    def write(self, slot: int, reply: bytes) -> None:
        """Queue a large reply."""
        self.buffers.settle(self.queue.put(slot, slot + 1, reply, large=True), reply)

    def stored(self, lease: Lease, size: int = LARGE) -> bytes:
        """What is in the buffer."""
        return bytes(self.memory.buffer(lease)[:size])


@pytest.fixture
def of_pool() -> Iterator[Callable[[int], Bench]]:
    """What makes a bench with a pool of so many buffers."""
    memories = []

    def make(buffers: int) -> Bench:
        memory = PoolMemory.create(buffers, 4096, b"t" * 16)
        memories.append(memory)
        for buffer in range(buffers):
            memory.set_generation(buffer, 1)
        return Bench(memory)

    yield make
    for memory in memories:
        memory.close()


@pytest.fixture
def bench(of_pool: Callable[[int], Bench]) -> Bench:
    """A pool of eight buffers, of which four are acquired ahead."""
    return of_pool(8)


@pytest.mark.parametrize(
    ("buffers", "ahead"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (4 * LEASES_AHEAD_MAX, LEASES_AHEAD_MAX)]
)
def test_leases_are_acquired_ahead_but_no_more_than_half_of_the_pool(
    of_pool: Callable[[int], Bench], buffers: int, ahead: int
) -> None:
    """One of a pool that has only one; of a large pool not half, but as many as are of use."""
    bench = of_pool(buffers)
    assert bench.sent == []
    bench.write(0, data())
    assert bench.sent == [AcquireLeases(holder=HOLDER, number=1, count=ahead)]


def test_leases_are_acquired_again_when_less_than_half_of_those_ahead_are_left(bench: Bench) -> None:
    """So many that all are there again; one request at a time."""
    bench.write(0, data())
    bench.grant(*LEASES[:4])  # one is filled at once
    assert bench.acquired() == (4,)
    bench.write(1, data())
    assert bench.acquired() == ()
    bench.write(2, data())
    assert bench.acquired() == (3,)
    bench.write(3, data())
    assert bench.acquired() == ()
    bench.grant(*LEASES[4:7], number=2)
    assert len(bench.buffers.free) == 3


def test_half_of_those_ahead_is_rounded_down(of_pool: Callable[[int], Bench]) -> None:
    """Of six ahead the third that is left is the last to be enough; of two ahead the last one is."""
    for buffers, granted in ((12, 4), (4, 2)):
        bench = of_pool(buffers)
        bench.write(0, data())
        bench.grant(*LEASES[:granted])
        assert bench.acquired() == (buffers // 2,)
    bench = of_pool(12)
    bench.write(0, data())
    bench.grant(*LEASES[:3])
    assert bench.acquired() == (6, 4)


def test_the_oldest_replies_get_the_leases_and_are_copied_there(bench: Bench) -> None:
    """In the order in which they wait; the others wait on."""
    for slot in range(3):
        bench.write(slot, data(byte=slot))
    bench.grant(*LEASES[:2])
    assert [slot for _serial, slot, _stage in bench.queue.unplaced] == [2]
    assert {bench.stored(lease) for lease in LEASES[:2]} == {data(byte=0), data(byte=1)}


def test_a_newer_large_reply_is_copied_over_the_one_that_it_replaces(bench: Bench) -> None:
    """Its slot's buffer is not in use yet, and no other is taken."""
    bench.write(0, data(byte=1))
    bench.grant(LEASES[0])
    bench.write(0, data(byte=2))
    assert bench.stored(LEASES[0]) == data(byte=2)
    assert bench.buffers.free == []


def test_a_buffer_whose_reply_was_replaced_by_a_small_one_goes_to_the_next(bench: Bench) -> None:
    """It is free, and a reply waits; without one it is kept."""
    bench.write(0, data(byte=1))
    bench.write(1, data(byte=2))
    bench.grant(LEASES[0])
    bench.buffers.settle(bench.queue.put(0, 3, b"small"), None)
    assert bench.stored(LEASES[0]) == data(byte=2)
    bench.buffers.settle(bench.queue.put(1, 4, None), None)
    assert bench.buffers.free == [LEASES[0]]


class TestLending:
    """What goes out with a batch."""

    @pytest.mark.parametrize(("size", "leased"), [(LEASE_SIZE_MIN - 1, False), (LEASE_SIZE_MIN, True)])
    def test_a_reply_that_needs_no_buffer_takes_a_free_one_from_a_size_on(
        self, bench: Bench, size: int, leased: bool
    ) -> None:
        """A smaller one is not much more than the lease that would stand for it."""
        bench.buffers.free = [LEASES[0]]
        payloads: list[Payload] = [data(size)]
        assert bench.buffers.lend(payloads) == ((LEASES[0],) if leased else ())
        assert payloads == [LEASES[0] if leased else data(size)]
        assert bench.stored(LEASES[0], size) == (data(size) if leased else bytes(size))

    def test_a_batch_without_a_reply_of_that_size_acquires_nothing(self, bench: Bench) -> None:
        """An owner of small replies only never holds a buffer."""
        assert bench.buffers.lend([data(LEASE_SIZE_MIN - 1)]) == ()
        assert bench.sent == []
        assert bench.buffers.lend([data(LEASE_SIZE_MIN)]) == ()
        assert bench.acquired() == (4,)

    def test_as_many_replies_are_leased_as_there_are_free_leases(self, bench: Bench) -> None:
        """The first of them; what was a lease before stays in its place, and all are named."""
        bench.buffers.free = [*LEASES[:2]]
        payloads: list[Payload] = [data(byte=1), LEASES[5], b"small", data(byte=2), data(byte=3)]
        lent = bench.buffers.lend(payloads)
        assert payloads == [lent[0], LEASES[5], b"small", lent[2], data(byte=3)]
        assert set(lent) == {*LEASES[:2], LEASES[5]}
        assert [bench.stored(lent[0]), bench.stored(lent[2])] == [data(byte=1), data(byte=2)]

    @pytest.mark.parametrize(
        ("lent", "free", "acquired"), [(3, 0, True), (2, 1, True), (4, 0, False), (3, 1, False), (0, 4, False)]
    )
    def test_nothing_is_acquired_for_it_while_half_of_the_pool_is_lent_or_free(
        self, bench: Bench, lent: int, free: int, acquired: bool
    ) -> None:
        """What comes back is enough then: more would be given back at once."""
        bench.queue.lent = lent
        bench.buffers.free = [*LEASES[:free]]
        bench.buffers.lend([data()] * 4)
        assert bool(bench.acquired()) == acquired

    def test_a_large_reply_acquires_leases_even_then(self, bench: Bench) -> None:
        """It cannot go out without one."""
        bench.queue.lent = 8
        bench.write(0, data())
        assert bench.acquired() == (4,)


class TestWhatComesBack:
    """Leases whose batch is durable."""

    def test_leases_that_come_back_go_to_the_replies_that_wait(self, bench: Bench) -> None:
        """And are kept when none waits."""
        bench.write(0, data(byte=7))
        bench.buffers.take_back(LEASES[:2])
        assert len(bench.buffers.free) == 1
        assert data(byte=7) in {bench.stored(lease) for lease in LEASES[:2]}

    def test_half_of_the_pool_is_kept_and_the_leases_that_were_free_longest_are_released(self, bench: Bench) -> None:
        """The others are in the processor's cache."""
        bench.buffers.take_back(LEASES[:3])
        bench.buffers.take_back(LEASES[3:4])
        assert bench.sent == []
        bench.buffers.take_back(LEASES[4:6])
        assert bench.sent == [ReleaseLeases(holder=HOLDER, number=1, leases=LEASES[:2])]
        assert bench.buffers.free == [*LEASES[2:6]]

    def test_leases_are_released_by_one_request_at_a_time(self, bench: Bench) -> None:
        """The next one takes all that is too much by then; a late answer to the first does not end it."""
        bench.buffers.take_back(LEASES[:5])
        bench.buffers.take_back(LEASES[5:6])
        assert bench.released() == LEASES[:1]
        answer = LeasesReleased(holder=HOLDER, number=1, stale=())
        assert bench.buffers.receive(answer) is None
        bench.buffers.take_back(LEASES[6:7])
        assert bench.sent == [ReleaseLeases(holder=HOLDER, number=2, leases=LEASES[1:3])]
        bench.buffers.receive(answer)
        bench.outbox.resend(1.0)
        assert bench.released() == (*LEASES[1:3], *LEASES[1:3])

    def test_once_the_component_closes_nothing_comes_back(self, bench: Bench) -> None:
        """It takes back every lease itself; what was asked of the pool is not asked again."""
        bench.write(0, data())
        bench.buffers.take_back(LEASES[:6])
        bench.sent.clear()
        bench.buffers.release()
        bench.buffers.take_back(LEASES[6:])
        bench.outbox.resend(10.0)
        assert bench.sent == []


class TestAnswers:
    """What the pool says to a request for leases."""

    def test_leases_that_are_granted_twice_count_once(self, bench: Bench) -> None:
        """They would be filled twice otherwise."""
        bench.write(0, data())
        bench.grant(*LEASES[:4])
        bench.grant(*LEASES[:4])
        assert len(bench.buffers.free) == 3

    def test_a_busy_pool_is_asked_again_after_a_whole_timeout(self, bench: Bench) -> None:
        """The same request, because no lease was granted under its number."""
        bench.write(0, data())
        (asked,) = bench.sent
        busy = Fault(kind=FaultKind.BUSY, found="a", expected="b")
        bench.time = 0.5
        assert bench.buffers.receive(LeasesRefused(holder=HOLDER, number=1, fault=busy)) is None
        bench.outbox.resend(1.4)
        assert bench.sent == [asked]
        bench.outbox.resend(1.5)
        assert bench.sent == [asked, asked]

    def test_any_other_refusal_is_returned_unless_it_is_of_an_earlier_request(self, bench: Bench) -> None:
        """It does not pass, so that the port fails."""
        fault = Fault(kind=FaultKind.HOLDER_GONE, found="a", expected="b")
        refused = LeasesRefused(holder=HOLDER, number=1, fault=fault)
        assert bench.buffers.receive(refused) is None
        bench.write(0, data())
        assert bench.buffers.receive(refused) == fault
        bench.grant(LEASES[0])
        assert bench.buffers.receive(refused) is None
