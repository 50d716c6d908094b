"""What the owner writes: its order, its barriers, what goes out next, and when that is accepted and durable.

Guarantees: operations go out in commit order. Of the operations on one slot only the last goes out, in the place of the
first one that waits, so a busy slot is never delayed. A checkpoint, an installation and the end are barriers: all that
was queued before one is accepted before it goes out, and the rest follows it. When a batch is accepted, the component
has heard of everything up to the batch's op.

Limits: sends nothing, reads no clock and does not touch the pool's memory. Its user heeds `is_full`.

Owns: every operation and barrier until it is accepted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import Any

from client_replies.messages.faults import InvariantBroken
from client_replies.messages.leases import Lease
from client_replies.messages.message import Message
from client_replies.messages.replies import (
    Checkpoint,
    CloseReplies,
    InstallSessions,
    Payload,
    RemoveReplies,
    WriteReplies,
)

_Place = tuple[int, int]  # the serial, which numbers all places, and the op of the first operation in it


@dataclass(slots=True)
class _Operations:
    """The operations that wait between two barriers: of each slot only the last, in two columns by slot.

    The key's position is that of the slot's first operation that waits. Everything up to that one's op is known once
    what has the place is accepted.
    """

    payloads: dict[int, Payload | None] = field(default_factory=dict)  # a write's bytes or its lease; None removes
    places: dict[int, _Place] = field(default_factory=dict)
    op: int = 0  # of the last operation


@dataclass(slots=True)
class Batch:
    """Operations that go out together; without any, it only tells the component the op."""

    slots: tuple[int, ...]
    payloads: list[Payload] | None  # one per slot; None: the slots are removed
    op: int  # up to which the component knows everything once it has accepted this
    serial: int = 0  # of the first operation

    def message(self, owner: int, number: int, durable: bool) -> Message:
        """The message to the component. With `durable` it asks when the writes are durable."""
        if self.payloads is None:
            return RemoveReplies(owner=owner, number=number, op=self.op, slots=self.slots)
        payloads = tuple(self.payloads)
        return WriteReplies(
            owner=owner, number=number, op=self.op, slots=self.slots, payloads=payloads, durable=durable
        )


@dataclass(slots=True)
class Barrier:
    """A checkpoint, an installation or the end."""

    kind: type[Checkpoint] | type[InstallSessions] | type[CloseReplies]
    op: int = 0
    sessions: bytes = b""
    after: int = 0  # the op of the last operation before a checkpoint
    serial: int = 0  # of an installation, which changes what slots are expected to hold as operations do

    def message(self, owner: int, number: int, durable: bool) -> Message:
        """The message to the component, which need not be asked when this is `durable`."""
        content: dict[str, Any] = {} if self.kind is CloseReplies else {"op": self.op, "sessions": self.sessions}
        return self.kind(owner=owner, number=number, **content)


class WriteQueue:
    """See the module. A serial numbers every place for an operation, and every installation, in order, from 1.

    At most `batch_max` operations go out together, and those that nobody waits for once per `interval`, in seconds.
    """

    def __init__(self, *, pending_max: int, batch_max: int, interval: float) -> None:
        self.pending = 0  # operations that are not accepted
        self.in_flight: Batch | Barrier | None = None  # taken, not accepted
        self.committed = 0  # operations of later ops stay
        self.told = 0  # the op that the last batch carried
        self.accepted = 0  # the op up to which the component has heard of everything
        self.durable = 0  # the op up to which all is durable
        self.durable_asked = 0  # the owner waits until this op is durable
        self.undurable: deque[tuple[int, int, tuple[Lease, ...]]] = deque()  # number, op and leases of what was sent
        self.lent = 0  # leases in these batches
        self.serial = 0  # the last one
        # Large replies without a buffer, in the order of their places: serial, slot and stage.
        self.unplaced: list[tuple[int, int, _Operations]] = []
        self.pending_max = pending_max
        self._batch_max = batch_max
        self._interval = interval
        self._due_at = 0.0  # when operations that nobody waits for may go out
        self._placed = 0  # the last place that got a buffer
        self._last_op = 0  # of the last operation
        self._stages: deque[_Operations | Barrier] = deque()
        self._begin_stage()

    # What the owner asks for.

    @property
    def is_full(self) -> bool:
        """Whether as many operations wait as may."""
        return self.pending >= self.pending_max

    @property
    def is_idle(self) -> bool:
        """True when nothing waits or is in flight, and the end was not queued."""
        first = self._stages[0] if len(self._stages) == 1 else None
        return self.pending == 0 and self.in_flight is None and isinstance(first, _Operations)

    def put(self, slot: int, op: int, payload: bytes | None, large: bool = False) -> Lease | None:
        """Queue a write, or a removal (None), in the place of the slot's last operation if that waits.

        Queued behind the others instead, a busy slot's reply might never go out, nor what waits for it end; and what
        was sent before it would be called durable up to an op that it is not.

        A `large` reply needs a buffer. Returns the lease that the slot's last reply held: if the new one is large, its
        bytes belong in this buffer and it keeps the place; otherwise the lease is free.
        """
        operations = self._operations
        operations.op = self._last_op = op
        payloads = operations.payloads
        if slot not in payloads:
            self.serial += 1
            self.pending += 1
            operations.places[slot] = (self.serial, op)
        elif isinstance(held := payloads[slot], int):
            if not large:
                payloads[slot] = payload
            return held
        payloads[slot] = payload
        if large or self.unplaced:
            self._list_unplaced(slot, operations, waits=large)
        return None

    def checkpoint(self, op: int, sessions: bytes) -> None:
        """Queue a checkpoint."""
        self._stages.append(Barrier(Checkpoint, op, sessions, after=self._last_op))
        self._begin_stage()

    def install(self, op: int, sessions: bytes) -> list[Lease]:
        """Queue an installation in place of all that waits, which is forgotten. Returns the leases that it held."""
        waiting = [stage.payloads.values() for stage in self._stages if isinstance(stage, _Operations)]
        self.unplaced.clear()
        self.serial += 1
        self._stages = deque([Barrier(InstallSessions, op, sessions, serial=self.serial)])
        self._begin_stage()
        self.pending = len(self.in_flight.slots) if isinstance(self.in_flight, Batch) else 0
        self.committed = op
        return [payload for payloads in waiting for payload in payloads if isinstance(payload, int)]

    def close(self) -> None:
        """Queue the end. What was not called committed goes out before it, too: nothing can call it so any more."""
        self.committed = max(self.committed, self._last_op)
        self._stages.append(Barrier(CloseReplies))

    def _begin_stage(self) -> None:
        self._operations = _Operations()  # the last stage
        self._stages.append(self._operations)

    # Buffers for large replies: the oldest gets the first.

    def place(self, lease: Lease) -> bytes:
        """Give the first large reply that waits for a buffer this one. Returns the reply, to be copied there."""
        serial, slot, stage = self.unplaced.pop(0)
        reply = stage.payloads[slot]
        if not isinstance(reply, bytes):
            raise InvariantBroken("what waits for a buffer is a reply's bytes")
        stage.payloads[slot] = lease
        self._placed = max(self._placed, serial)
        return reply

    def take_from_behind(self, contents: Callable[[Lease], bytes]) -> Lease | None:
        """Take the buffer of the last reply behind the first that waits for one; its `contents` wait instead.

        What is behind goes out later. It may hold the last buffers if a large reply took a small one's place before it;
        not behind a barrier, because only places behind the last one are taken.
        """
        first, _slot, stage = self.unplaced[0]
        for slot, payload in reversed(stage.payloads.items()) if first < self._placed else ():
            if stage.places[slot][0] == first:
                return None
            if isinstance(payload, int):
                stage.payloads[slot] = contents(payload)
                self._list_unplaced(slot, stage, waits=True)
                return payload
        return None

    def _list_unplaced(self, slot: int, stage: _Operations, *, waits: bool) -> None:
        serial = stage.places[slot][0]
        at = bisect_left(self.unplaced, serial, key=itemgetter(0))
        listed = at < len(self.unplaced) and self.unplaced[at][0] == serial
        if waits and not listed:
            self.unplaced.insert(at, (serial, slot, stage))
        elif listed and not waits:
            del self.unplaced[at]

    # What goes out.

    def take(self, now: float, credit: int, *, awaited: bool, checkpointing: bool) -> Batch | Barrier | None:
        """Take what goes out next, if anything may; for when nothing is in flight.

        At most `credit` writes. Operations go out if it is time, something waits for them (`awaited`: for another
        reason than is known here), or too much would gather. During a checkpoint the next one waits, and the end too.
        """
        stages = self._stages
        while len(stages) > 1 and isinstance(stages[0], _Operations) and not stages[0].payloads:
            stages.popleft()
        first = stages[0] if stages else None
        if isinstance(first, Barrier):
            self.in_flight = self._take_barrier(first, checkpointing)
        elif first is not None and first.payloads:
            waited_for = awaited or self.durable < self.durable_asked or len(stages) > 1 or bool(self.unplaced)
            if waited_for or now >= self._due_at or 2 * self.pending >= self.pending_max:
                self.in_flight = batch = self._take_operations(first, credit)
                if batch is not None:
                    self._due_at = now + self._interval
        return self.in_flight

    def take_nothing(self) -> Batch:
        """Take a batch without operations, which tells the component the op."""
        self.in_flight = batch = Batch((), [], self._op_to_tell(0))
        return batch

    def _take_operations(self, stage: _Operations, credit: int) -> Batch | None:
        """Take a batch in the order of places, which the op in it relies on.

        Were a write that has no buffer yet passed over by later ones, their op would tell the component that the
        skipped reply does not exist, and it would say so to a peer that is looking for it.
        """
        removes = next(iter(stage.payloads.values())) is None
        committed, unplaced = self.committed, self.unplaced[0][0] if self.unplaced else 0
        limit = self._batch_max if removes else min(self._batch_max, credit)
        count = 0
        for payload, (serial, op) in islice(zip(stage.payloads.values(), stage.places.values(), strict=True), limit):
            if op > committed or (payload is None) != removes or serial == unplaced:
                break
            count += 1
        if not count:
            return None
        slots = tuple(islice(stage.payloads, count))
        taken = [stage.payloads.pop(slot) for slot in slots]
        places = [stage.places.pop(slot) for slot in slots]
        payloads = None if removes else [payload for payload in taken if payload is not None]
        return Batch(slots, payloads, self._op_to_tell(places[-1][1]), places[0][0])

    def _take_barrier(self, barrier: Barrier, checkpointing: bool) -> Batch | Barrier | None:
        if checkpointing and barrier.kind is not InstallSessions:
            return None
        if self.told < barrier.after:
            # A reply that took the place of an older one went out before its op could be told. What the checkpoint's
            # table does not know of is of later ops, and the component must have heard of those.
            if self.committed < barrier.after:
                return None
            self.told = barrier.after
            return self.take_nothing()
        self._stages.popleft()
        return barrier

    def _op_to_tell(self, first_op: int) -> int:
        """The op up to which all is known once a batch is, the last operation of which has a place of `first_op`.

        Everything committed, if nothing waits behind it.
        """
        stage = self._stages[0] if self._stages else None
        if stage is None or (len(self._stages) == 1 and isinstance(stage, _Operations) and not stage.payloads):
            self.told = max(self.told, self.committed)
        elif first_op and isinstance(stage, _Operations):
            self.told = max(self.told, first_op if stage.payloads else min(stage.op, self.committed))
        return self.told

    # What becomes of it.

    @property
    def wants_durable(self) -> bool:
        """Whether the owner, or a lease that is to be used again, waits for what was sent to be durable."""
        return self.durable < self.durable_asked or self.lent > 0

    def sent(self, batch: Batch, number: int, leases: tuple[Lease, ...]) -> None:
        """The batch goes out under this number, with these leases."""
        self.lent += len(leases)
        if batch.slots:
            self.undurable.append((number, batch.op, leases))

    def accept(self) -> None:
        """The component has accepted what is in flight."""
        taken, self.in_flight = self.in_flight, None
        if isinstance(taken, Batch):
            self.pending -= len(taken.slots)
        elif taken is not None and taken.kind is InstallSessions:
            # Not what was committed since: the component has not heard of that, and must not speak as if it had.
            self.told = max(self.told, taken.op)
        else:
            return
        self.accepted = max(self.accepted, taken.op)

    def durable_through(self, number: int) -> list[tuple[Lease, ...]]:
        """Batches up to this number are durable. Returns the leases of each that had any."""
        lent = []
        while self.undurable and self.undurable[0][0] <= number:
            _, op, leases = self.undurable.popleft()
            self.durable = max(self.durable, op)
            self.lent -= len(leases)
            if leases:
                lent.append(leases)
        return lent

    @property
    def oldest(self) -> int:
        """The serial of the oldest operation or installation that is not accepted; the next one if all are."""
        if self.in_flight is not None and self.in_flight.serial:
            return self.in_flight.serial
        for stage in self._stages:
            if isinstance(stage, Barrier):
                if stage.serial:
                    return stage.serial
            elif stage.places:
                return next(iter(stage.places.values()))[0]
        return self.serial + 1

    def is_changing(self, slot: int) -> bool:
        """Whether the component may expect another reply in the slot than it will: an operation on it is in flight.

        Or an installation is, or waits to go out next.
        """
        for one in (self.in_flight, self._stages[0] if self._stages else None):
            if (isinstance(one, Batch) and slot in one.slots) or (
                isinstance(one, Barrier) and one.kind is InstallSessions
            ):
                return True
        return False

    def replies_of(self, slot: int) -> list[Payload]:
        """The slot's replies that are not accepted, oldest first.

        Without a leased one in flight: its buffer may be in other use by now, and the component holds the reply.
        """
        found = [
            payload
            for stage in self._stages
            if isinstance(stage, _Operations) and (payload := stage.payloads.get(slot)) is not None
        ]
        batch = self.in_flight
        if isinstance(batch, Batch) and batch.payloads is not None and slot in batch.slots:
            sent = batch.payloads[batch.slots.index(slot)]
            if isinstance(sent, bytes):
                found.insert(0, sent)
        return found
