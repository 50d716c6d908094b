"""MessagePoolActor: owns the buffers that the processes of one replica share, and says who may use which.

Guarantees: those of `LeaseTable` and `PoolMemory`, over messages: a buffer is granted to one holder at a time; stale
and double releases are refused; a request repeated because its answer was lost gets the same answer; who asks while
too few are free waits in a bounded queue, which is the component's backpressure. It serves the component that opened
it and the holders that this one named, each at its own address; another component may open it once nothing is held.

Limits: it does not notice that a holder died. Whoever learns of it sends `ReclaimLeases`.

Owns: the shared memory, which is gone when the last process that maps it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from enum import Enum

from thespian.actors import ActorAddress

from client_replies.actors.thespian.component_actor import ComponentActor, Handler
from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.leases import (
    AcquireLeases,
    GetPoolStatus,
    LeasesGranted,
    LeasesRefused,
    OpenPool,
    PoolOpened,
    PoolOpenFailed,
    PoolStatus,
    ReclaimLeases,
    ReleaseLeases,
)
from client_replies.messages.protocol import Party
from client_replies.storage.errors import StorageError
from client_replies.storage.leases import LeaseTable
from client_replies.storage.shared_memory import PoolMemory

HOLDERS_NAMED_MAX = 64  # holders whose addresses are remembered: those of the openings before come late, if at all


class MessagePoolActor(ComponentActor):
    """The actor. See the module."""

    parties = (Party.POOL,)

    def __init__(self, capabilities: Mapping[str, object] | None = None, requirements: object = None) -> None:
        super().__init__(capabilities, requirements)
        self._memory: PoolMemory | None = None
        self._table: LeaseTable | None = None
        self._opener: ActorAddress | None = None
        self._holders: OrderedDict[int, ActorAddress] = OrderedDict()  # that it named

    def handlers(self) -> dict[type, Handler]:
        return {
            OpenPool: self.open,
            AcquireLeases: self.acquire,
            ReleaseLeases: self.release,
            ReclaimLeases: self.reclaim,
            GetPoolStatus: self.status,
        }

    def is_from(self, party: Enum, message: object, sender: ActorAddress) -> bool:
        """The component is who opened. A number that it named has an address of its own; all others are its own."""
        if self._opener is None or self._table is None:
            return True  # Nothing is there to be had: handlers say so.
        if party is Party.HOLDER and isinstance(message, AcquireLeases | ReleaseLeases):
            return sender == self._address_of(message.holder)
        if sender == self._opener:
            return True
        return isinstance(message, OpenPool) and not self._table.held and not self._table.waiting

    def _address_of(self, holder: int) -> ActorAddress | None:
        return self._holders.get(holder, self._opener)

    def refuse_stranger(self, message: object, sender: ActorAddress) -> None:
        """Tell who would open or hold."""
        if isinstance(message, OpenPool):
            fault = Fault(kind=FaultKind.ALREADY_OPEN, found="a pool in use", expected="the component that opened it")
            self.send(sender, PoolOpenFailed(fault=fault))
        elif isinstance(message, AcquireLeases | ReleaseLeases):
            found, expected = f"holder {message.holder} from another sender", "a holder of its own"
            self._refuse(message, Fault(kind=FaultKind.HOLDER_UNKNOWN, found=found, expected=expected), sender)

    def stop(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def open(self, message: OpenPool, sender: ActorAddress) -> None:
        """Make the memory, or name the one that is there if it is as large as was asked."""
        if self._memory is None:
            try:
                memory = self.environment.create_memory(message.buffers, message.size)
            except StorageError as error:
                self.send(sender, PoolOpenFailed(fault=error.fault))
                return
            self._memory = memory
            self._table = LeaseTable(message.buffers, message.waiting_max, memory.set_generation)
        if (self._memory.buffers, self._memory.size) != (message.buffers, message.size):
            found = f"{self._memory.buffers} buffers of {self._memory.size} bytes"
            expected = f"{message.buffers} buffers of {message.size} bytes"
            fault = Fault(kind=FaultKind.ALREADY_OPEN, found=found, expected=expected)
            self.send(sender, PoolOpenFailed(fault=fault))
            return
        self._opener = sender
        self._holders.update(message.holders)
        while len(self._holders) > HOLDERS_NAMED_MAX:
            self._holders.popitem(last=False)
        self.send(sender, PoolOpened(memory=self._memory.name))

    def acquire(self, message: AcquireLeases, sender: ActorAddress) -> None:
        """Grant, refuse, or let wait."""
        if self._table is None:
            self._refuse_closed(message, sender)
            return
        answer = self._table.acquire(message)
        if answer is not None:
            self.send(sender, answer)

    def release(self, message: ReleaseLeases, sender: ActorAddress) -> None:
        """Take the leases back, and grant them to who waits."""
        if self._table is None:
            self._refuse_closed(message, sender)
            return
        answer, grants = self._table.release(message)
        if answer is not None:
            self.send(sender, answer)
        self._send_grants(grants)

    def reclaim(self, message: ReclaimLeases, sender: ActorAddress) -> None:
        """Take back what a dead holder held."""
        if self._table is None:
            self.count("reclaim_before_open")
            return
        answer, grants = self._table.reclaim(message)
        self.send(sender, answer)
        self._send_grants(grants)

    def status(self, message: GetPoolStatus, sender: ActorAddress) -> None:
        """How the pool is; all zero before it is open."""
        unknown = self.counters["messages_unknown"] + self.counters["messages_malformed"]
        if self._table is not None:
            self.send(sender, self._table.status(message.request, unknown))
            return
        closed = PoolStatus(
            request=message.request,
            buffers=0,
            free=0,
            held=0,
            waiting=0,
            stale_refused=0,
            busy_refused=0,
            unknown_messages=unknown,
        )
        self.send(sender, closed)

    def _send_grants(self, grants: tuple[LeasesGranted, ...]) -> None:
        for grant in grants:
            address = self._address_of(grant.holder)
            if address is not None:
                self.send(address, grant)

    def _refuse_closed(self, message: AcquireLeases | ReleaseLeases, sender: ActorAddress) -> None:
        fault = Fault(kind=FaultKind.NOT_OPEN, found="a pool without memory", expected="OpenPool first")
        self._refuse(message, fault, sender)

    def _refuse(self, message: AcquireLeases | ReleaseLeases, fault: Fault, sender: ActorAddress) -> None:
        self.send(sender, LeasesRefused(holder=message.holder, number=message.number, fault=fault))
