"""Who holds which buffer of the pool: the plain bookkeeping of the MessagePoolActor, without actor and without memory.

Guarantees: a buffer is granted to one holder at a time, and again only when that one gave it back; then its generation
has grown and is published, so that a lease that anybody still remembers is refused everywhere. Acquiring is all or
none, first come first served. Each holder numbers its requests of each kind (`Turns`); a refused one did nothing and
did not use up its number. What is stale, or not the holder's to release, is left alone and counted. What is remembered
of holders is bounded. `check` states the invariants.

Limits: it does not know who really uses a lease. A holder may let others read its buffers; it releases them itself.

Owns: the generations; `publish` is told of each change.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from client_replies.messages.faults import Fault, FaultKind, invariant
from client_replies.messages.leases import (
    AcquireLeases,
    Lease,
    LeasesGranted,
    LeasesReclaimed,
    LeasesRefused,
    LeasesReleased,
    PoolStatus,
    ReclaimLeases,
    ReleaseLeases,
    lease_buffer,
    make_lease,
)
from client_replies.messages.requests import Turn, Turns

HOLDERS_MAX = 4096  # living holders that are remembered: beyond it, one that holds nothing counts as gone
HOLDERS_GONE_MAX = 4096  # dead holders that are remembered; an incarnation's messages do not live longer than that

Request = AcquireLeases | ReleaseLeases
Answer = LeasesGranted | LeasesReleased | LeasesRefused | None  # None: the request waits, or comes late
Grants = tuple[LeasesGranted, ...]


@dataclass(slots=True)
class _Holder:
    turns: dict[type[Request], Turns] = field(default_factory=dict)
    buffers: dict[int, None] = field(default_factory=dict)


@dataclass(slots=True)
class _BufferState:
    generation: int = 1
    holder: int | None = None


class LeaseTable:
    """See the module."""

    def __init__(self, buffers: int, waiting_max: int, publish: Callable[[int, int], None]) -> None:
        invariant(buffers > 0 and waiting_max > 0, "a pool has buffers, and room to wait for one")
        self.waiting_max = waiting_max
        self.stale_refused = 0
        self.busy_refused = 0
        self._publish = publish
        self._buffers = [_BufferState() for _ in range(buffers)]
        # The buffer that came back last is granted first: its pages are in memory and in the caches.
        self._free = list(reversed(range(buffers)))
        self._holders: dict[int, _Holder] = {}
        self._gone: OrderedDict[int, LeasesReclaimed] = OrderedDict()
        self._waiting: deque[AcquireLeases] = deque()
        for buffer in range(buffers):
            publish(buffer, 1)

    # Requests.

    def acquire(self, request: AcquireLeases) -> Answer:
        """The leases, or why not; None if it comes late, or waits: `release` or `reclaim` will return its grant."""
        is_new, answer = self._admit(request)
        if not is_new:
            return answer
        if request.count > len(self._buffers):
            return _refused(request, FaultKind.LEASES_TOO_MANY, f"{request.count} leases", f"{len(self._buffers)}")
        if not self._waiting and request.count <= len(self._free):
            return self._grant(request)
        if len(self._waiting) >= self.waiting_max:
            self.busy_refused += 1
            return _refused(request, FaultKind.BUSY, f"{len(self._waiting)} waiting", f"fewer than {self.waiting_max}")
        self._begin(request, None)
        self._waiting.append(request)
        return None

    def release(self, request: ReleaseLeases) -> tuple[Answer, Grants]:
        """Take back each lease; the answer is None if the request comes late. The grants are for those who waited."""
        is_new, known = self._admit(request)
        if not is_new:
            return known, ()
        stale = []
        for lease in request.leases:
            if self._is_held_by(request.holder, lease):
                self._free_buffer(lease_buffer(lease))
            else:
                stale.append(lease)
        self.stale_refused += len(stale)
        answer = LeasesReleased(holder=request.holder, number=request.number, stale=tuple(stale))
        self._begin(request, answer)
        return answer, self._grant_waiting()

    def reclaim(self, request: ReclaimLeases) -> tuple[LeasesReclaimed, Grants]:
        """The holder is dead: take back its leases.

        Its later requests are refused, what it waited for is forgotten, and reclaiming again changes nothing.
        """
        reclaimed = self._gone.get(request.holder)
        if reclaimed is not None:
            return reclaimed, ()
        buffers = list(self._holders.get(request.holder, _Holder()).buffers)
        self._waiting = deque(waiting for waiting in self._waiting if waiting.holder != request.holder)
        for buffer in buffers:
            self._free_buffer(buffer)
        self._holders.pop(request.holder, None)
        answer = LeasesReclaimed(holder=request.holder, count=len(buffers))
        self._forget(request.holder, answer)
        return answer, self._grant_waiting()

    # Questions.

    @property
    def free(self) -> int:
        """Buffers that nobody holds."""
        return len(self._free)

    @property
    def held(self) -> int:
        """Buffers that somebody holds."""
        return len(self._buffers) - len(self._free)

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def status(self, request: int, unknown_messages: int = 0) -> PoolStatus:
        """The answer to `GetPoolStatus` number `request`."""
        return PoolStatus(
            request=request,
            buffers=len(self._buffers),
            free=self.free,
            held=self.held,
            waiting=self.waiting,
            stale_refused=self.stale_refused,
            busy_refused=self.busy_refused,
            unknown_messages=unknown_messages,
        )

    def check(self) -> None:
        """Raise `InvariantBroken` if the table contradicts itself."""
        free = set(self._free)
        invariant(len(free) == len(self._free), "a buffer is free twice")
        for buffer, state in enumerate(self._buffers):
            invariant((buffer in free) == (state.holder is None), "a buffer is free, or somebody holds it")
        held = {buffer: number for number, holder in self._holders.items() for buffer in holder.buffers}
        of_buffers = {buffer: state.holder for buffer, state in enumerate(self._buffers) if state.holder is not None}
        invariant(held == of_buffers, "holders and buffers agree")
        invariant(len(self._waiting) <= self.waiting_max, "more requests wait than may")
        invariant(not self._waiting or self._waiting[0].count > len(self._free), "a request waits for what is free")
        for waiting in self._waiting:
            invariant(self._turns(waiting).admit(waiting.number) is Turn.WAITING, "who waits has no answer yet")

    # Internals.

    def _holder(self, number: int) -> _Holder:
        holder = self._holders.get(number)
        if holder is None:
            if len(self._holders) >= HOLDERS_MAX:
                self._make_room()
            holder = self._holders[number] = _Holder()
        return holder

    def _make_room(self) -> None:
        waiting = {request.holder for request in self._waiting}
        for number, holder in self._holders.items():
            if not holder.buffers and number not in waiting:
                del self._holders[number]
                self._forget(number, LeasesReclaimed(holder=number, count=0))
                return

    def _forget(self, number: int, answer: LeasesReclaimed) -> None:
        self._gone[number] = answer
        if len(self._gone) > HOLDERS_GONE_MAX:
            self._gone.popitem(last=False)

    def _turns(self, request: Request) -> Turns:
        """The requests of this kind from this holder; of one that is not known, none. Remembers nobody."""
        holder = self._holders.get(request.holder)
        return (holder.turns.get(type(request)) if holder is not None else None) or Turns()

    def _begin(self, request: Request, answer: Answer) -> None:
        self._holder(request.holder).turns.setdefault(type(request), Turns()).begin(request.number, answer)

    def _admit(self, request: Request) -> tuple[bool, Answer]:
        """Whether the request is to be executed, and the answer to one that is not."""
        if request.holder in self._gone:
            return False, _refused(request, FaultKind.HOLDER_GONE, f"holder {request.holder}", "a living holder")
        turns = self._turns(request)
        turn = turns.admit(request.number)
        if turn is Turn.SKIPPED:
            found, expected = f"number {request.number}", f"number {turns.expected}"
            return False, _refused(request, FaultKind.OUT_OF_SEQUENCE, found, expected)
        repeated = turns.answer if turn is Turn.REPEATED else None
        return turn is Turn.NEW, repeated if isinstance(repeated, LeasesGranted | LeasesReleased) else None

    def _is_held_by(self, holder: int, lease: Lease) -> bool:
        buffer = lease_buffer(lease)
        if buffer >= len(self._buffers):
            return False
        state = self._buffers[buffer]
        return state.holder == holder and make_lease(buffer, state.generation) == lease

    def _grant(self, request: AcquireLeases) -> LeasesGranted:
        buffers = [self._free.pop() for _ in range(request.count)]
        for buffer in buffers:
            self._buffers[buffer].holder = request.holder
        leases = tuple(make_lease(buffer, self._buffers[buffer].generation) for buffer in buffers)
        answer = LeasesGranted(holder=request.holder, number=request.number, leases=leases)
        self._begin(request, answer)
        self._holder(request.holder).buffers.update(dict.fromkeys(buffers))
        return answer

    def _grant_waiting(self) -> Grants:
        grants = []
        while self._waiting and self._waiting[0].count <= len(self._free):
            grants.append(self._grant(self._waiting.popleft()))
        return tuple(grants)

    def _free_buffer(self, buffer: int) -> None:
        state = self._buffers[buffer]
        if state.holder is not None:
            self._holders[state.holder].buffers.pop(buffer)
        state.holder = None
        state.generation += 1
        self._publish(buffer, state.generation)
        self._free.append(buffer)


def _refused(request: Request, kind: FaultKind, found: str, expected: str) -> LeasesRefused:
    fault = Fault(kind=kind, found=found, expected=expected)
    return LeasesRefused(holder=request.holder, number=request.number, fault=fault)
