"""Leased buffers of the pool: acquired ahead, filled with replies, lent to the component, and filled again.

Guarantees: a large reply is copied once, the oldest first, to a buffer that is free, or to that of a younger reply. A
small one takes a buffer if no large one waits for it. A buffer that was lent is filled again only when what was in it
is durable. At most `LEASES_AHEAD_MAX` leases are acquired ahead, none before the first is wanted, and never more than
half of the pool is held free: an owner never starves itself of the other half.

Limits: no fairness. Owns: the mapping of the pool's memory, and the free leases.
"""

from __future__ import annotations

from collections.abc import Callable

from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.leases import (
    AcquireLeases,
    Lease,
    LeasesGranted,
    LeasesRefused,
    LeasesReleased,
    ReleaseLeases,
)
from client_replies.messages.replies import Payload
from client_replies.messages.reply_header import HEADER_SIZE, packed_size
from client_replies.messages.requests import Outbox
from client_replies.storage.shared_memory import PoolMemory

from .write_queue import WriteQueue

LEASES_AHEAD_MAX = 16
LEASE_SIZE_MIN = 1024  # bytes; below, the reply itself is not much more than what stands for it
ACQUIRE, RELEASE = "acquire", "release"  # lanes


class Buffers:
    """See the module. `buffers` is the size of the pool, `outbox` leads to it, `now` gives seconds."""

    def __init__(
        self, holder: int, queue: WriteQueue, memory: PoolMemory, buffers: int, outbox: Outbox, now: Callable[[], float]
    ) -> None:
        self.free: list[Lease] = []
        self._holder = holder
        self._queue = queue
        self._memory = memory
        self._outbox = outbox
        self._now = now
        self._free_max = max(1, buffers // 2)
        self._ahead = min(LEASES_AHEAD_MAX, self._free_max)
        self._released = False

    # The owner's replies.

    def settle(self, held: Lease | None, reply: bytes | None) -> None:
        """Finish a `WriteQueue.put` that returned `held`: a large `reply` belongs there, without one it is free."""
        if held is not None and reply is not None:
            self._fill(held, reply)
            return
        if held is not None:
            self.free.append(held)
        self.place()

    def place(self) -> None:
        """Copy large replies to buffers, the oldest first.

        Were a newer one served before it, the oldest could wait for a buffer that only those behind it hold.
        """
        while self._queue.unplaced:
            leases = self.take(1)
            lease = leases[0] if leases else self._queue.take_from_behind(self.contents)
            if lease is None:
                return
            self._fill(lease, self._queue.place(lease))

    def lend(self, payloads: list[Payload]) -> tuple[Lease, ...]:
        """Lend the leases in a batch that goes out, and return them. Replies that need none get what is to spare.

        That is nothing while a large one waits: it was given what was free.
        """
        wanted = [at for at, reply in enumerate(payloads) if isinstance(reply, bytes) and len(reply) >= LEASE_SIZE_MIN]
        if wanted:
            # With half of the pool lent or free, what comes back is enough: more would be given back at once.
            more = self._queue.lent + len(self.free) < self._free_max
            for at, lease in zip(wanted, self.take(len(wanted), more=more), strict=False):
                self._fill(lease, self.contents(payloads[at]))
                payloads[at] = lease
        return tuple([payload for payload in payloads if isinstance(payload, int)])

    def take_back(self, leases: tuple[Lease, ...]) -> None:
        """The batch with these leases is durable: they are free, and what is too much goes back to the pool."""
        if self._released:
            return
        self.free.extend(leases)
        count = len(self.free) - self._free_max
        if count > 0 and not self._outbox.is_busy(RELEASE):
            # Those that were used longest ago: the others are in the processor's cache.
            leases, self.free = tuple(self.free[:count]), self.free[count:]
            number = self._outbox.next_number(RELEASE)
            self._outbox.post(RELEASE, ReleaseLeases(holder=self._holder, number=number, leases=leases), self._now())
        self.place()

    def contents(self, payload: Payload) -> bytes:
        """The reply's bytes, copied from its buffer if it has one; none if the lease is over."""
        if isinstance(payload, bytes):
            return payload
        if not self._memory.valid(payload):
            return b""
        buffer = self._memory.buffer(payload)
        return bytes(buffer[: max(HEADER_SIZE, min(packed_size(buffer), len(buffer)))])

    def _fill(self, lease: Lease, reply: bytes) -> None:
        self._memory.buffer(lease)[: len(reply)] = reply

    # The pool.

    def take(self, count: int, *, more: bool = True) -> list[Lease]:
        """Up to `count` leases, with buffers to fill. With `more`, others are acquired if few are left."""
        at = max(0, len(self.free) - count)
        leases, self.free = self.free[at:], self.free[:at]
        if more and len(self.free) < max(1, self._ahead // 2) and not self._outbox.is_busy(ACQUIRE):
            number, ahead = self._outbox.next_number(ACQUIRE), self._ahead - len(self.free)
            self._outbox.post(ACQUIRE, AcquireLeases(holder=self._holder, number=number, count=ahead), self._now())
        return leases

    def receive(self, message: LeasesGranted | LeasesRefused | LeasesReleased) -> Fault | None:
        """Take an answer of the pool. Returns why it refused, if that does not pass."""
        if isinstance(message, LeasesReleased):
            self._outbox.answered(RELEASE, message.number)
        elif isinstance(message, LeasesGranted):
            if self._outbox.answered(ACQUIRE, message.number) is not None:
                self.free.extend(message.leases)
                self.place()
        elif self._outbox.in_flight(ACQUIRE, message.number) is not None:
            if message.fault.kind is not FaultKind.BUSY:
                return message.fault
            self._outbox.postpone(ACQUIRE, self._now())
        return None

    def release(self) -> None:
        """The component closes, which takes back every lease: ask for none and release none any more."""
        self._released = True
        self._outbox.forget()

    def close(self) -> None:
        """Unmap the memory."""
        self._memory.close()
