"""Leases acquired ahead, so that a large reply finds a buffer when it comes; for whoever holds leases.

Guarantees: at most `LEASES_AHEAD_MAX` leases are acquired ahead, and never more than half of the pool is held free, of
those that came back from the component either; one request of each kind is in flight and is sent again while it has no
answer; a lease is handed out once. Nothing is acquired before the first lease is wanted: a service whose replies are
small costs the pool nothing.

Limits: no fairness. Owns: the free leases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.leases import (
    AcquireLeases,
    Lease,
    LeasesGranted,
    LeasesRefused,
    LeasesReleased,
    ReleaseLeases,
)

LEASES_AHEAD_MAX = 16


class StockFailed(Exception):
    """The pool refused for a reason that does not pass."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


@dataclass(slots=True)
class _Request:
    message: AcquireLeases | ReleaseLeases
    resend_at: float


class LeaseStock:
    """See the module."""

    def __init__(self, *, holder: int, buffers: int, resend_timeout: float, send: Callable[[object], None]) -> None:
        self._holder = holder
        self.free_max = max(1, buffers // 2)
        self._ahead = min(LEASES_AHEAD_MAX, self.free_max)
        self._resend_timeout = resend_timeout
        self._send = send
        self._free: list[Lease] = []
        self._acquiring: _Request | None = None
        self._releasing: _Request | None = None
        self._acquire_number = 0
        self._release_number = 0

    @property
    def free(self) -> int:
        """Leases at hand."""
        return len(self._free)

    def take(self, count: int, now: float, *, more: bool = True) -> list[Lease]:
        """Up to `count` leases, with buffers to fill. With `more`, others are acquired if few are left."""
        at = max(0, len(self._free) - count)
        leases, self._free = self._free[at:], self._free[:at]
        if more and len(self._free) < max(1, self._ahead // 2):
            self._acquire(now)
        return leases

    def put_back(self, lease: Lease) -> None:
        """A lease that was taken and not used."""
        self._free.append(lease)

    def give(self, leases: tuple[Lease, ...], now: float) -> None:
        """Leases that were given away come back, to be handed out again; what is too much goes back to the pool."""
        self._free.extend(leases)
        if len(self._free) > self.free_max and self._releasing is None:
            self._release(len(self._free) - self.free_max, now)

    def _release(self, count: int, now: float) -> None:
        self._release_number += 1
        leases = tuple(self._free[:count])  # those that were used longest ago: the others are in the processor's cache
        del self._free[:count]
        message = ReleaseLeases(holder=self._holder, number=self._release_number, leases=leases)
        self._releasing = _Request(message, now + self._resend_timeout)
        self._send(message)

    def receive(self, message: LeasesGranted | LeasesRefused | LeasesReleased, now: float) -> None:
        """Take an answer of the pool. Raises `StockFailed`."""
        if isinstance(message, LeasesReleased):
            if self._releasing is not None and self._releasing.message.number == message.number:
                self._releasing = None
            return
        if self._acquiring is None or self._acquiring.message.number != message.number:
            return  # an answer that came twice
        if isinstance(message, LeasesGranted):
            self._acquiring = None
            self._free.extend(message.leases)
        elif message.fault.kind is FaultKind.BUSY:
            self._acquiring.resend_at = now + self._resend_timeout
        else:
            raise StockFailed(message.fault)

    def tick(self, now: float) -> None:
        """Send again what has no answer."""
        for request in (self._acquiring, self._releasing):
            if request is not None and now >= request.resend_at:
                request.resend_at = now + self._resend_timeout
                self._send(request.message)

    def _acquire(self, now: float) -> None:
        if self._acquiring is not None:
            return
        self._acquire_number += 1
        count = self._ahead - len(self._free)
        message = AcquireLeases(holder=self._holder, number=self._acquire_number, count=count)
        self._acquiring = _Request(message, now + self._resend_timeout)
        self._send(message)
