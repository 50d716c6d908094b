"""Who holds which buffer: every request, repeated, out of turn and stale, and random runs against a naive model."""

import random
from collections import Counter
from collections.abc import Callable

import pytest

from client_replies.messages.faults import FaultKind, InvariantBroken
from client_replies.messages.leases import (
    AcquireLeases,
    Lease,
    LeasesGranted,
    LeasesReclaimed,
    LeasesRefused,
    LeasesReleased,
    ReclaimLeases,
    ReleaseLeases,
    lease_buffer,
    lease_generation,
    make_lease,
)
from client_replies.storage.leases import HOLDERS_GONE_MAX, HOLDERS_MAX, Answer, LeaseTable


class Pool:
    """A table, what it published, and holders that number their requests."""

    def __init__(self, buffers: int = 3, waiting_max: int = 2) -> None:
        self.published: dict[int, int] = {}
        self.table = LeaseTable(buffers, waiting_max, self.published.__setitem__)
        self.numbers: Counter[tuple[str, int]] = Counter()

    def acquire(self, holder: int, count: int) -> Answer:
        """Ask for leases, under the next number if the last was not refused."""
        answer = self.table.acquire(AcquireLeases(holder=holder, number=self.next("acquire", holder), count=count))
        if not isinstance(answer, LeasesRefused):
            self.numbers["acquire", holder] += 1
        return answer

    def granted(self, holder: int, count: int) -> tuple[Lease, ...]:
        """Ask for leases that are there."""
        answer = self.acquire(holder, count)
        assert isinstance(answer, LeasesGranted)
        assert (answer.holder, answer.number) == (holder, self.numbers["acquire", holder])
        return answer.leases

    def release(self, holder: int, *leases: Lease) -> tuple[tuple[Lease, ...], tuple[LeasesGranted, ...]]:
        """Give leases back; gives the stale ones, and the grants for those who waited."""
        request = ReleaseLeases(holder=holder, number=self.next("release", holder), leases=leases)
        answer, grants = self.table.release(request)
        assert isinstance(answer, LeasesReleased)
        self.numbers["release", holder] += 1
        return answer.stale, grants

    def reclaim(self, holder: int) -> tuple[int, tuple[LeasesGranted, ...]]:
        """Take back a dead holder's leases; gives how many came back, and the grants."""
        answer, grants = self.table.reclaim(ReclaimLeases(holder=holder))
        assert answer.holder == holder
        return answer.count, grants

    def next(self, kind: str, holder: int) -> int:
        """Give the number of the holder's next request of this kind."""
        return self.numbers[kind, holder] + 1

    def state(self) -> object:
        """Give everything that a refused request must leave alone."""
        self.table.check()
        status = self.table.status(1)
        return (status.free, status.held, status.waiting, dict(self.published))


def refusal(answer: object) -> FaultKind:
    """Give the kind of a refusal."""
    assert isinstance(answer, LeasesRefused)
    return answer.fault.kind


class TestAcquiring:
    """All or none, first come first served."""

    def test_leases_name_different_buffers_in_their_published_generation(self) -> None:
        """And are held then."""
        pool = Pool()
        leases = pool.granted(7, 3)
        assert {lease_buffer(lease) for lease in leases} == {0, 1, 2}
        assert all(pool.published[lease_buffer(lease)] == lease_generation(lease) == 1 for lease in leases)
        status = pool.table.status(5, unknown_messages=2)
        assert (status.request, status.buffers, status.free, status.held) == (5, 3, 0, 3)
        assert status.unknown_messages == 2

    def test_a_request_waits_until_all_of_it_can_be_granted(self) -> None:
        """Nothing is set aside for it piece by piece, and those behind it wait as well."""
        pool = Pool()
        leases = pool.granted(1, 3)
        assert pool.acquire(2, 2) is None
        assert pool.acquire(3, 1) is None
        assert pool.release(1, leases[0]) == ((), ())
        assert pool.table.free == 1
        _, grants = pool.release(1, leases[1])
        assert [(grant.holder, grant.number, len(grant.leases)) for grant in grants] == [(2, 1, 2)]
        _, grants = pool.release(1, leases[2])
        assert [(grant.holder, len(grant.leases)) for grant in grants] == [(3, 1)]
        assert pool.table.waiting == 0

    def test_one_release_may_serve_several_who_wait(self) -> None:
        """In their order."""
        pool = Pool()
        leases = pool.granted(1, 3)
        assert pool.acquire(3, 1) is None
        assert pool.acquire(2, 2) is None
        _, grants = pool.release(1, *leases)
        assert [grant.holder for grant in grants] == [3, 2]

    def test_a_newcomer_does_not_overtake_those_who_wait(self) -> None:
        """Although what it asks for is free."""
        pool = Pool()
        pool.granted(1, 2)
        assert pool.acquire(2, 2) is None
        assert pool.acquire(3, 1) is None
        assert pool.table.free == 1

    def test_too_many_who_wait_are_told_so_and_may_ask_again_under_the_same_number(self) -> None:
        """The refusal did nothing."""
        pool = Pool(waiting_max=2)
        leases = pool.granted(1, 3)
        assert pool.acquire(2, 1) is None
        assert pool.acquire(3, 1) is None
        before = pool.state()
        for _ in range(3):
            assert refusal(pool.acquire(4, 1)) is FaultKind.BUSY
        assert pool.state() == before
        assert pool.table.busy_refused == 3
        pool.release(1, *leases)
        assert len(pool.granted(4, 1)) == 1

    def test_more_than_the_pool_has_is_refused(self) -> None:
        """It would wait forever."""
        pool = Pool()
        before = pool.state()
        assert refusal(pool.acquire(1, 4)) is FaultKind.LEASES_TOO_MANY
        assert pool.state() == before
        assert len(pool.granted(1, 3)) == 3


class TestReleasing:
    """Only the holder, and only once."""

    def test_a_buffer_is_free_when_its_holder_gave_it_back(self) -> None:
        """Then its generation grows and is published."""
        pool = Pool()
        (lease,) = pool.granted(1, 1)
        assert pool.published[lease_buffer(lease)] == 1
        assert pool.release(1, lease) == ((), ())
        assert pool.table.free == 3
        assert pool.published[lease_buffer(lease)] == 2

    def test_a_lease_that_another_holds_is_not_released(self) -> None:
        """Whoever guesses it, or may only read from it, frees nothing: its holder may be writing to the buffer."""
        pool = Pool()
        (lease,) = pool.granted(1, 1)
        assert pool.release(3, lease) == ((lease,), ())
        assert pool.release(2, lease, lease) == ((lease, lease), ())
        assert pool.table.stale_refused == 3
        assert (pool.table.held, pool.published[lease_buffer(lease)]) == (1, 1)
        assert pool.release(1, lease) == ((), ())
        pool.table.check()

    def test_who_is_refused_is_not_remembered(self) -> None:
        """However many numbers are tried: a refused request did nothing at all."""
        pool = Pool(waiting_max=1)
        pool.granted(1, 3)
        assert pool.acquire(2, 1) is None
        for holder in range(10, 100):
            assert refusal(pool.acquire(holder, 1)) is FaultKind.BUSY
            assert refusal(pool.acquire(holder, 4)) is FaultKind.LEASES_TOO_MANY
        assert set(pool.table._holders) == {1, 2}

    def test_the_living_that_are_remembered_are_bounded(self) -> None:
        """Beyond the limit one that holds nothing counts as gone; who holds or waits stays."""
        pool = Pool()
        pool.granted(1, 3)
        assert pool.acquire(2, 1) is None
        for holder in range(3, HOLDERS_MAX + 10):
            pool.release(holder)
        assert len(pool.table._holders) == HOLDERS_MAX
        assert {1, 2} < set(pool.table._holders)
        assert refusal(pool.acquire(3, 1)) is FaultKind.HOLDER_GONE
        pool.table.check()

    def test_a_lease_released_twice_is_refused_and_counted(self) -> None:
        """Also within one message, and also when the buffer is somebody else's by now."""
        pool = Pool(buffers=1)
        (lease,) = pool.granted(1, 1)
        assert pool.release(1, lease, lease)[0] == (lease,)
        (again,) = pool.granted(2, 1)
        assert lease_buffer(again) == lease_buffer(lease)
        assert pool.release(1, lease)[0] == (lease,)
        assert pool.table.held == 1
        assert pool.table.stale_refused == 2
        assert pool.release(2, again)[0] == ()

    @pytest.mark.parametrize(
        "stale", [make_lease(0, 1), make_lease(0, 2), make_lease(3, 1), Lease(2**64 - 1), Lease(1)]
    )
    def test_what_was_never_granted_is_stale(self, stale: Lease) -> None:
        """The coming generation of a free buffer, a buffer that does not exist, nonsense."""
        pool = Pool()
        before = pool.state()
        assert pool.release(1, stale)[0] == (stale,)
        assert pool.state() == before


class TestTurns:
    """Requests that are repeated, late or early."""

    def test_a_repeated_request_gets_the_same_answer_and_does_nothing(self) -> None:
        """Whatever its kind."""
        pool = Pool()
        acquire = AcquireLeases(holder=1, number=1, count=2)
        granted = pool.table.acquire(acquire)
        assert isinstance(granted, LeasesGranted)
        release = ReleaseLeases(holder=1, number=1, leases=granted.leases)
        released = pool.table.release(release)
        before = pool.state()
        for _ in range(3):
            assert pool.table.acquire(acquire) == granted
            assert pool.table.release(release) == released
        assert pool.state() == before
        assert pool.table.held == 0
        assert pool.table.stale_refused == 0

    def test_a_repeated_request_that_waits_goes_on_waiting_once(self) -> None:
        """And when it was granted, a repetition gets the grant."""
        pool = Pool()
        leases = pool.granted(1, 3)
        waiting = AcquireLeases(holder=2, number=1, count=1)
        for _ in range(3):
            assert pool.table.acquire(waiting) is None
        assert pool.table.waiting == 1
        _, (grant,) = pool.release(1, leases[0])
        assert pool.table.acquire(waiting) == grant
        assert pool.table.held == 3

    def test_a_repeated_release_does_not_serve_those_who_wait_again(self) -> None:
        """Grants go out with the first."""
        pool = Pool()
        leases = pool.granted(1, 3)
        pool.acquire(2, 1)
        release = ReleaseLeases(holder=1, number=1, leases=leases)
        answer, grants = pool.table.release(release)
        assert len(grants) == 1
        assert pool.table.release(release) == (answer, ())

    def test_a_number_out_of_turn_is_refused_and_changes_nothing(self) -> None:
        """Too high, and the next one while this one waits."""
        pool = Pool()
        (lease,) = pool.granted(1, 1)
        pool.granted(1, 1)
        pool.granted(5, 1)
        pool.acquire(2, 1)
        before = pool.state()
        for holder, number, expected in ((1, 4, 3), (3, 2, 1), (2, 2, 1)):
            refused = pool.table.acquire(AcquireLeases(holder=holder, number=number, count=1))
            assert refusal(refused) is FaultKind.OUT_OF_SEQUENCE
            assert isinstance(refused, LeasesRefused)
            assert (refused.fault.found, refused.fault.expected) == (f"number {number}", f"number {expected}")
        answer, grants = pool.table.release(ReleaseLeases(holder=1, number=2, leases=(lease,)))
        assert (refusal(answer), grants) == (FaultKind.OUT_OF_SEQUENCE, ())
        assert pool.state() == before

    def test_a_request_that_comes_late_gets_no_answer_and_changes_nothing(self) -> None:
        """A refusal has no kind: that of an old release would be taken for one of the acquiring of the same number."""
        pool = Pool()
        (lease,) = pool.granted(1, 1)
        pool.granted(1, 1)
        pool.release(1, lease)
        pool.release(1)
        before = pool.state()
        assert pool.table.acquire(AcquireLeases(holder=1, number=1, count=1)) is None
        assert pool.table.release(ReleaseLeases(holder=1, number=1, leases=(lease,))) == (None, ())
        assert pool.state() == before

    def test_each_kind_of_request_is_numbered_by_itself(self) -> None:
        """And each holder."""
        pool = Pool()
        pool.granted(1, 1)
        pool.release(1, *pool.granted(1, 1))
        pool.granted(2, 1)
        assert pool.numbers == {("acquire", 1): 2, ("release", 1): 1, ("acquire", 2): 1}


class TestReclaiming:
    """A holder died."""

    def test_everything_under_its_name_comes_back(self) -> None:
        """Others keep theirs, and those who waited are served."""
        pool = Pool()
        (mine,) = pool.granted(1, 1)
        theirs = pool.granted(2, 2)
        assert pool.acquire(3, 2) is None
        count, grants = pool.reclaim(2)
        assert count == 2
        assert [grant.holder for grant in grants] == [3]
        assert all(pool.published[lease_buffer(lease)] == 2 for lease in theirs)
        assert pool.published[lease_buffer(mine)] == 1
        assert pool.release(1, mine)[0] == ()

    def test_what_it_waited_for_is_forgotten(self) -> None:
        """And whoever stood behind it moves up."""
        pool = Pool()
        pool.granted(1, 2)
        assert pool.acquire(2, 3) is None
        assert pool.acquire(3, 1) is None
        count, grants = pool.reclaim(2)
        assert count == 0
        assert [grant.holder for grant in grants] == [3]

    def test_its_late_requests_are_refused(self) -> None:
        """New or repeated, of every kind; reclaiming again gives the same answer and does nothing."""
        pool = Pool()
        leases = pool.granted(1, 2)
        assert pool.reclaim(1) == (2, ())
        pool.granted(2, 2)
        before = pool.state()
        for number in (1, 2):
            assert refusal(pool.table.acquire(AcquireLeases(holder=1, number=number, count=1))) is FaultKind.HOLDER_GONE
            answer, grants = pool.table.release(ReleaseLeases(holder=1, number=number, leases=leases))
            assert (refusal(answer), grants) == (FaultKind.HOLDER_GONE, ())
        assert pool.table.reclaim(ReclaimLeases(holder=1)) == (LeasesReclaimed(holder=1, count=2), ())
        assert pool.state() == before

    def test_the_dead_that_are_remembered_are_bounded(self) -> None:
        """A replica that restarts for years does not fill the pool's memory."""
        pool = Pool()
        for holder in range(1, HOLDERS_GONE_MAX + 10):
            pool.reclaim(holder)
        assert refusal(pool.acquire(HOLDERS_GONE_MAX + 9, 1)) is FaultKind.HOLDER_GONE
        assert len(pool.table._gone) == HOLDERS_GONE_MAX


def test_a_pool_has_a_buffer_and_room_to_wait_for_it() -> None:
    """Otherwise somebody would wait for ever, or never."""
    for buffers, waiting_max in ((0, 1), (1, 0)):
        with pytest.raises(InvariantBroken):
            Pool(buffers, waiting_max)
    assert Pool(1, 1).table.free == 1


def test_a_table_that_contradicts_itself_is_noticed() -> None:
    """The check sees what it is for."""
    damages: list[Callable[[LeaseTable], object]] = [
        lambda table: table._free.append(0),
        lambda table: table._free.append(table._free[0]),
        lambda table: setattr(table._buffers[0], "holder", None),
        lambda table: setattr(table._buffers[0], "holder", 5),
        lambda table: table._holders[1].buffers.clear(),
        lambda table: table._free.extend([0, 0]),
        lambda table: table._waiting.extend([AcquireLeases(holder=1, number=2, count=2)] * 3),
        lambda table: table._waiting.extend([AcquireLeases(holder=1, number=2, count=2)]),
        lambda table: table._waiting.extend([AcquireLeases(holder=1, number=1, count=1)]),
        lambda table: table._waiting.__setitem__(0, AcquireLeases(holder=2, number=1, count=1)),
    ]
    for damage in damages:
        pool = Pool()
        pool.granted(1, 2)
        pool.acquire(2, 2)
        pool.table.check()
        damage(pool.table)
        with pytest.raises(InvariantBroken):
            pool.table.check()


class NaivePool:
    """Who holds what as one would keep it without a thought to cost: a list of (holder, lease), searched."""

    def __init__(self, buffers: int) -> None:
        self.buffers = buffers
        self.held: list[tuple[int, Lease]] = []
        self.waiting: list[tuple[int, int]] = []

    @property
    def free(self) -> int:
        """Buffers that nobody holds."""
        return self.buffers - len(self.held)

    def release(self, holder: int, leases: tuple[Lease, ...]) -> tuple[Lease, ...]:
        """Give the stale ones."""
        stale = []
        for lease in leases:
            if (holder, lease) in self.held:
                self.held.remove((holder, lease))
            else:
                stale.append(lease)
        return tuple(stale)

    def served(self) -> list[tuple[int, int]]:
        """Give who is served now, in order: holder and count."""
        served: list[tuple[int, int]] = []
        free = self.free
        while self.waiting and self.waiting[0][1] <= free:
            free -= self.waiting[0][1]
            served.append(self.waiting.pop(0))
        return served


@pytest.mark.parametrize("seed", range(30))
def test_random_runs_agree_with_a_naive_model(seed: int) -> None:
    """Acquiring, releasing and dying, with stale leases among them; the table is checked at each step."""
    numbers = random.Random(seed)
    pool = Pool(buffers=numbers.randint(1, 6), waiting_max=3)
    naive = NaivePool(len(pool.published))
    known: list[Lease] = [make_lease(0, 1)]
    next_holder, holders = 5, [1, 2, 3, 4]
    for _ in range(400):
        holder = numbers.choice(holders)
        action = numbers.random()
        leases = tuple(numbers.choices(known[-8:], k=numbers.randint(1, 3)))
        grants: tuple[LeasesGranted, ...] = ()
        expected_grants: list[tuple[int, int]] = []
        if action < 0.4 and holder not in [waiting for waiting, _ in naive.waiting]:
            count = numbers.randint(1, naive.buffers)
            answer = pool.acquire(holder, count)
            if isinstance(answer, LeasesGranted):
                assert not naive.waiting
                grants, expected_grants = (answer,), [(holder, count)]
            elif answer is None:
                assert naive.waiting or naive.free < count
                naive.waiting.append((holder, count))
            else:
                assert len(naive.waiting) == 3
        elif action < 0.95:
            stale, grants = pool.release(holder, *leases)
            assert stale == naive.release(holder, leases)
            expected_grants = naive.served()
        else:
            count, grants = pool.reclaim(holder)
            assert count == sum(name == holder for name, _ in naive.held)
            naive.held = [held for held in naive.held if held[0] != holder]
            naive.waiting = [waiting for waiting in naive.waiting if waiting[0] != holder]
            expected_grants = naive.served()
            holders[holders.index(holder)] = next_holder
            next_holder += 1
        assert [(grant.holder, len(grant.leases)) for grant in grants] == expected_grants
        for grant in grants:
            assert not set(grant.leases) & {lease for _, lease in naive.held}
            naive.held += [(grant.holder, lease) for lease in grant.leases]
            known += grant.leases
        pool.table.check()
        assert pool.table.free == naive.free
        assert pool.table.held == len(naive.held)
        assert {lease for _, lease in naive.held} <= {make_lease(*item) for item in pool.published.items()}
    assert next_holder > 10
