"""The owner's side of the ClientRepliesActor's protocol, as a plain object without I/O of its own.

    port = RepliesPort(owner=..., send=..., send_pool=..., now=..., open_memory=...)
    port.open(config, OpenMode.OPEN_OR_FORMAT)
    port.write(slot, reply); port.committed(op)          # after executing a batch, while `port.ready`
    if port.receive(message):                            # whatever the owner's actor is sent
        for event in port.take_events(): ...
    port.tick()                                          # periodically

Guarantees: one numbered message is in flight; what arrives meanwhile forms the next, in commit order, per slot only the
last operation, in the place of the first that waits: so a busy slot is never put off. What has no answer is sent again,
and an answer counts once. What was written before `checkpoint` or `await_durable` is accepted before it.
Replies that nobody waits for go out once per `write_interval`, so that a busy session's reply is mostly replaced before
it costs a message, a write and a share of a sync. A reply of `LEASE_SIZE_MIN` or more is copied once, to a leased
buffer, and its bytes go through no message; up to `inline_size_max` it does not wait for one. Every read, wait and
checkpoint ends in exactly one event, unless an installation replaces it, or the port fails or closes.

Limits: no unbounded buffering. `write` beyond `pending_max` raises; an owner stops executing while `ready` is false. A
refusal other than BUSY means that owner and component disagree: the port fails, and the owner must recover.

Owns: the owner's half of every exchange, the leases it acquired ahead, and the mapping of the pool's memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import NoReturn, TypeGuard

from thespian.actors import ActorAddress

from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.faults import Fault, FaultKind, InvariantBroken
from client_replies.messages.leases import Lease, LeasesGranted, LeasesRefused, LeasesReleased, MemoryName
from client_replies.messages.message import Message
from client_replies.messages.replies import (
    AwaitDurable,
    Checkpoint,
    CheckpointDone,
    CheckpointStarted,
    CloseReplies,
    InstallSessions,
    OpenFailed,
    OpenReplies,
    Payload,
    PeersSet,
    ReadReply,
    RemoveReplies,
    RepliesClosed,
    RepliesDurable,
    RepliesOpened,
    RepliesRepaired,
    ReplyLost,
    ReplyNotRead,
    ReplyRead,
    ReplyTaken,
    RequestRefused,
    SessionsInstalled,
    SetPeers,
    SlotsDurable,
    StorageFailed,
    WriteReplies,
    WritesAccepted,
    WritesRefused,
)
from client_replies.messages.reply_header import HEADER_SIZE, packed_cluster, packed_cluster_op_size, packed_size
from client_replies.storage.errors import StorageError
from client_replies.storage.shared_memory import PoolMemory

from .lease_stock import LeaseStock, StockFailed
from .port_events import (
    PortEvent,
    PortFailed,
    PortMisused,
    ReadFailed,
    ReadSucceeded,
    SlotsAreDurable,
    WritesAreDurable,
)

BATCH_MAX = 256  # replies, or removals, in one message; the credit may allow fewer
PENDING_MAX = 1024  # operations that wait in the port
READS_MAX = 4  # reads that are asked for at the same time; more would fill the owner's transmit slots
WRITE_INTERVAL = 0.1  # seconds from one batch that nobody waits for to the next
LEASE_SIZE_MIN = 1024  # bytes; below, the reply itself is not much more than what stands for it
RESEND_TIMEOUT = 1.0  # seconds
OPEN_TIMEOUT = 5.0  # seconds: opening verifies every slot


_Place = tuple[int, int]  # the serial, which numbers all places, and the op of the first operation in it


@dataclass(slots=True)
class _Operations:
    """The operations that wait between two barriers: of each slot only the last, in two columns by slot.

    Its place in the queue, which is that of the key, is that of the slot's first operation that waits. Everything up
    to that one's op is known once what has the place is accepted.
    """

    payloads: dict[int, Payload | None] = field(default_factory=dict)  # a write's bytes or its lease; None removes
    places: dict[int, _Place] = field(default_factory=dict)
    op: int = 0  # of the last operation


@dataclass(slots=True)
class _Barrier:
    """A checkpoint, an installation or the end: it is sent after all operations before it, and before all after it."""

    kind: type[Checkpoint] | type[InstallSessions] | type[CloseReplies]
    op: int = 0
    sessions: bytes = b""
    after: int = 0  # the op of the last operation before a checkpoint
    serial: int = 0  # of an installation, which changes what slots are expected to hold as operations do


@dataclass(slots=True)
class _Undurable:
    """A batch that is not known to be durable: its number, the op up to which all went out with it, its leases."""

    number: int
    op: int
    leases: tuple[Lease, ...]


@dataclass(slots=True)
class _Sent:
    """A request without its answer."""

    message: Message
    resend_at: float
    serial: int = 0  # of the first operation that it carries, or of the installation that it is


class RepliesPort:
    """See the module. All methods are to be called from the owner's own thread."""

    def __init__(
        self,
        *,
        owner: int,
        send: Callable[[object], None],
        send_pool: Callable[[ActorAddress, object], None],
        now: Callable[[], float],
        open_memory: Callable[[MemoryName], PoolMemory],
        pending_max: int = PENDING_MAX,
        batch_max: int = BATCH_MAX,
        resend_timeout: float = RESEND_TIMEOUT,
        write_interval: float = WRITE_INTERVAL,
    ) -> None:
        self.owner = owner
        self.is_open = False  # from `RepliesOpened` until `close` or the end; otherwise it takes nothing: `PortMisused`
        self.pending = 0  # operations that wait in the port
        self.credit = 0
        self.accepted = 0  # the op up to which the component has heard of everything
        self.failed = False
        self._send = send
        self._send_pool = send_pool
        self._now = now
        self._open_memory = open_memory
        self._pending_max = pending_max
        self._batch_max = batch_max
        self._resend_timeout = resend_timeout
        self._write_interval = write_interval
        self._write_at = 0.0  # when operations that nobody waits for may go out
        self._config: RepliesConfig | None = None
        self._cluster = b""  # as it is packed
        self._clients_max = self._message_size_max = self._inline_size_max = 0
        self._opened: RepliesOpened | None = None
        self._memory: PoolMemory | None = None
        self._stock: LeaseStock | None = None
        self._closing = False
        self._closed = False
        self._number = 0
        self._flight: _Sent | None = None  # the numbered message (or the opening) that has no answer
        self._checkpoint: _Sent | None = None  # started, not done
        self._peers: _Sent | None = None
        self._peers_version = 0
        self._stages: deque[_Operations | _Barrier] = deque()
        self._operations = self._begin_stage()  # the last stage
        self._serial = 0  # of the last place in the queue
        self._held: deque[tuple[int, _Sent]] = deque()  # to be sent when all operations up to a serial are accepted
        # Large replies without a buffer, in the order of their places: serial, slot and stage. If the slot has another
        # place now, or a small reply or none in it, it waits for none any more.
        self._unplaced: list[tuple[int, int, _Operations]] = []
        self._placed = 0  # the last place that got one
        self._last_op = 0  # of the last operation that was queued
        self._committed = 0
        self._told = 0
        self._undurable: deque[_Undurable] = deque()
        self._lent = 0  # leases in them
        self._durable_op = 0
        self._durable_asked = 0  # the owner wants to be told when this op is durable
        self._durable_resend = 0.0
        self._reads: dict[int, _Sent] = {}
        self._reads_waiting: deque[ReadReply] = deque()
        self._waits: dict[int, _Sent] = {}
        self._read_number = 0
        self._wait_number = 0
        self._events: deque[PortEvent] = deque()
        self._receivers = self._make_receivers()

    # What the owner asks for.

    @property
    def ready(self) -> bool:
        """True while writes are welcome. False is backpressure (or the end): execute nothing more for now."""
        return self.is_open and self.pending < self._pending_max

    @property
    def idle(self) -> bool:
        """True when nothing waits and every numbered message was answered."""
        return self.pending == 0 and self._flight is None and self._checkpoint is None and len(self._stages) == 1

    def open(self, config: RepliesConfig, mode: OpenMode) -> None:
        """Ask for the file to be opened; `RepliesOpened` or `PortFailed` follows."""
        if self._config is not None:
            raise PortMisused("a port is opened once: make another RepliesPort")
        self._config = config
        self._cluster = config.cluster.to_bytes(16, "little")
        self._clients_max, self._message_size_max = config.clients_max, config.message_size_max
        self._inline_size_max = config.inline_size_max
        self._fly(OpenReplies(owner=self.owner, config=config, mode=mode), timeout=OPEN_TIMEOUT)

    def set_peers(self, peers: tuple[tuple[int, ActorAddress], ...]) -> None:
        """Say where the ClientRepliesActors of the other replicas are; repair begins."""
        self._require_open()
        self._peers_version += 1
        self._peers = self._post(SetPeers(owner=self.owner, version=self._peers_version, peers=peers))

    def write(self, slot: int, reply: bytes) -> None:
        """The slot's session has this reply (header and body) from now on. Goes out with the next `committed`.

        Raises `PortMisused` for what cannot be a reply of this slot: by its size and its cluster, and no more. The
        checksums are the component's to verify, in a process of its own; a reply that is not whole fails the port.
        """
        if not self.ready:
            self._refuse()
        size = len(reply)
        if not (0 <= slot < self._clients_max and HEADER_SIZE < size <= self._message_size_max):
            raise self._misfit(slot, reply)
        cluster, op, size_said = packed_cluster_op_size(reply)
        if size_said != size or cluster != self._cluster:
            raise self._misfit(slot, reply)
        self._queue(slot, op, reply)

    def remove(self, slot: int, op: int) -> None:
        """The slot holds no reply any more, as of `op`. Goes out with the next `committed`."""
        if not self.ready:
            self._refuse()
        self._queue(slot, op, None)

    def committed(self, op: int, *, tell_durable: bool = False) -> None:
        """Everything committed up to `op` was given to the port: what waits may go out, if a write interval is over.

        With `tell_durable` it goes out now, and a `WritesAreDurable` follows once that is durable, or several that
        come up to it. After each the port waits for the next call of this method, or a `tick`: what the owner does
        when it hears of it is to go into one batch with what waits already.
        """
        self._require_open()
        if op > self._committed:
            self._committed = op
        if tell_durable:
            self._durable_asked = self._committed
        self._pump()

    def checkpoint(self, op: int, sessions: bytes) -> None:
        """Store the encoded session table as of `op`, after all that was written before; `CheckpointDone` follows."""
        self._require_open()
        self._stages.append(_Barrier(Checkpoint, op, sessions, after=self._last_op))
        self._operations = self._begin_stage()
        self._pump()

    def install(self, op: int, sessions: bytes) -> None:
        """After state sync: replace what every slot is expected to hold; `SessionsInstalled` follows.

        Operations and checkpoints that still wait speak of the state that is replaced, and are forgotten.
        """
        self._require_open()
        for stage in self._stages:
            if isinstance(stage, _Operations):
                for payload in stage.payloads.values():
                    self._put_back(payload)
        self._unplaced.clear()
        self._serial += 1
        self._stages = deque([_Barrier(InstallSessions, op, sessions, serial=self._serial)])
        self._operations = self._begin_stage()
        # What waits for something that is forgotten is from now on about what is installed.
        self._held = deque((self._serial, sent) for _serial, sent in self._held)
        self.pending = len(self._slots_in_flight())
        self._committed = op
        self._pump()
        self._send_held()

    def await_durable(self, slots: tuple[int, ...]) -> int:
        """Number a wait: `SlotsAreDurable` follows once each slot has on disk what it is to hold now, or newer.

        Now: after all that was written, removed and installed until this call. A slot that is to hold nothing, or
        that is removed while the wait lasts, holds it up no longer; one whose reply is lost (`ReplyLost`) does until
        the slot's next reply. However busy a slot is, its wait ends. What `SlotsDurable` promises is said there.
        """
        self._require_open()
        self._wait_number += 1
        message = AwaitDurable(owner=self.owner, wait=self._wait_number, slots=slots)
        self._waits[message.wait] = self._post_after_pending(message)
        self._pump()
        return message.wait

    def read(self, slot: int, header: bytes) -> int:
        """Number a read of the reply with this packed header: `ReadSucceeded` or `ReadFailed` follows.

        A reply that still waits in the port is answered from here: the component has not heard of it.
        """
        self._require_open()
        self._read_number += 1
        waiting = self._waiting_reply(slot, header)
        if waiting is not None:
            self._events.append(ReadSucceeded(read=self._read_number, slot=slot, header=header, reply=waiting))
            return self._read_number
        message = ReadReply(owner=self.owner, read=self._read_number, slot=slot, expected=header)
        self._reads_waiting.append(message)
        self._pump_reads()
        return message.read

    def close(self) -> None:
        """Take nothing more; what was written is still made durable, then `RepliesClosed` follows. Again: no effect."""
        if self._closing:
            return
        self._require_open()
        self._closing = True
        self.is_open = False
        # What was written and not called committed yet, too: nothing could call it so any more.
        self._committed = max(self._committed, self._last_op)
        self._stages.append(_Barrier(CloseReplies))
        self._pump()

    def take_events(self) -> list[PortEvent]:
        """What happened since the last call, in order."""
        events = list(self._events)
        self._events.clear()
        return events

    # What comes in.

    def receive(self, message: object) -> bool:
        """Take a message that the owner was sent. False if it is not for the port at all."""
        receiver = self._receivers.get(type(message))
        if receiver is None:
            return False
        if _owner_of(message) != self.owner:
            return True  # for an earlier incarnation of this owner
        if not self.failed and not self._closed:
            receiver(message)
        if not self.failed and not self._closed:
            if not (self._events and isinstance(self._events[-1], WritesAreDurable)):
                self._pump()
            if self._held:
                self._send_held()
            if self._reads_waiting:
                self._pump_reads()
        return True

    def tick(self) -> None:
        """Send again what has no answer; tell the op if nothing else has told it."""
        if self.failed or self._closed:
            return
        now = self._now()
        for sent in self._unanswered():
            if now >= sent.resend_at:
                sent.resend_at = now + self._resend_timeout
                self._send(sent.message)
        if self._stock is not None:
            self._stock.tick(now)
        self._pump()
        if self._flight is None and self._opened is not None:
            untold = self.ready and self.idle and self._committed > self._told
            # What waits may wait for buffers that were lent: the news that they are free again may have been lost.
            asks_again = self._wants_durable and self._undurable and now >= self._durable_resend
            if untold or asks_again:
                self._send_batch([], [])

    def _unanswered(self) -> list[_Sent]:
        single = [sent for sent in (self._flight, self._checkpoint, self._peers) if sent is not None]
        return [*single, *self._reads.values(), *self._waits.values()]

    def _make_receivers(self) -> dict[type, Callable[..., None]]:
        return {
            RepliesOpened: self._on_opened,
            OpenFailed: self._on_open_failed,
            PeersSet: self._on_peers_set,
            WritesAccepted: self._on_accepted,
            WritesRefused: self._on_refused,
            RepliesDurable: self._on_durable,
            SlotsDurable: self._on_slots_durable,
            ReplyRead: self._on_read,
            ReplyNotRead: self._on_not_read,
            SessionsInstalled: self._on_installed,
            CheckpointStarted: self._on_checkpoint_started,
            CheckpointDone: self._on_checkpoint_done,
            RequestRefused: self._on_request_refused,
            RepliesClosed: self._on_closed,
            RepliesRepaired: self._events.append,
            ReplyLost: self._events.append,
            StorageFailed: self._events.append,
            LeasesGranted: self._on_pool,
            LeasesRefused: self._on_pool,
            LeasesReleased: self._on_pool,
        }

    def _on_opened(self, message: RepliesOpened) -> None:
        config = self._config
        if self._opened is not None or config is None:
            return
        try:
            self._memory = self._open_memory(message.memory)
        except StorageError as error:
            self._fail(error.fault)  # the pool died meanwhile
            return
        self._flight = None
        self._opened = message
        self.is_open = True
        self.credit = message.credit
        self._committed = self._told = self._durable_op = self.accepted = message.op
        # Half of the pool at most, so that an owner that holds leases ahead never starves itself of the other half.
        self._stock = LeaseStock(
            holder=self.owner,
            buffers=config.buffers_max,
            resend_timeout=self._resend_timeout,
            send=lambda request: self._send_pool(message.pool, request),
        )
        self._events.append(message)

    def _on_open_failed(self, message: OpenFailed) -> None:
        if self._opened is None:
            self._fail(message.fault)

    def _on_peers_set(self, message: PeersSet) -> None:
        if message.version == self._peers_version:
            self._peers = None

    def _on_accepted(self, message: WritesAccepted) -> None:
        flight = self._answered(message.number, WriteReplies, RemoveReplies)
        if flight is not None and isinstance(flight.message, WriteReplies | RemoveReplies):
            self.credit = message.credit
            self.pending -= len(flight.message.slots)
            self.accepted = max(self.accepted, flight.message.op)
            self._durable_through(message.durable_through)

    def _on_durable(self, message: RepliesDurable) -> None:
        self._durable_through(message.through)

    def _durable_through(self, number: int) -> None:
        told = self._durable_op
        while self._undurable and self._undurable[0].number <= number:
            batch = self._undurable.popleft()
            self._durable_op = max(self._durable_op, batch.op)
            if batch.leases:
                self._take_back(batch.leases)
        if told < min(self._durable_op, self._durable_asked):
            self._events.append(WritesAreDurable(op=self._durable_op))

    def _on_refused(self, message: WritesRefused) -> None:
        # A refused batch is expected under the same number. Changing its content would let a late answer to the first
        # sending speak of the second; so it is repeated as it is when it came too soon, and is the end otherwise.
        if not self._is_flight(message.number, WriteReplies, RemoveReplies):
            return
        if message.fault.kind is not FaultKind.BUSY:
            self._fail(message.fault)

    def _on_slots_durable(self, message: SlotsDurable) -> None:
        sent = self._waits.pop(message.wait, None)
        if sent is not None and isinstance(sent.message, AwaitDurable):
            self._events.append(SlotsAreDurable(wait=message.wait, slots=sent.message.slots))

    def _on_read(self, message: ReplyRead) -> None:
        sent = self._reads.pop(message.read, None)
        if sent is not None and isinstance(sent.message, ReadReply):
            reply = message.payload if isinstance(message.payload, bytes) else self._copied(message.payload)
            if reply[:HEADER_SIZE] == sent.message.expected:
                header = sent.message.expected
                self._events.append(ReadSucceeded(read=message.read, slot=message.slot, header=header, reply=reply))
            else:
                # A late answer to an earlier sending: its loan was over, and the buffer holds something else by now.
                self._reads[message.read] = sent
        if not isinstance(message.payload, bytes):
            # Also for an answer that is not awaited any more: the loan must end.
            self._send(ReplyTaken(owner=self.owner, read=message.read))

    def _on_not_read(self, message: ReplyNotRead) -> None:
        sent = self._reads.pop(message.read, None)
        if sent is not None and isinstance(sent.message, ReadReply):
            header = sent.message.expected
            self._events.append(ReadFailed(read=message.read, slot=message.slot, header=header, reason=message.reason))

    def _on_installed(self, message: SessionsInstalled) -> None:
        flight = self._answered(message.number, InstallSessions)
        if flight is not None and isinstance(flight.message, InstallSessions):
            # Not what was committed since: the component has not heard of that, and must not speak as if it had.
            self._told = max(self._told, flight.message.op)
            self.accepted = max(self.accepted, flight.message.op)
            self._events.append(message)

    def _on_checkpoint_started(self, message: CheckpointStarted) -> None:
        flight = self._answered(message.number, Checkpoint)
        if flight is not None:
            self._checkpoint = flight
            flight.resend_at = self._now() + self._resend_timeout

    def _on_checkpoint_done(self, message: CheckpointDone) -> None:
        flight = self._answered(message.number, Checkpoint)  # done so soon, or the start's notice was lost
        if flight is None and self._checkpoint is not None and _number_of(self._checkpoint.message) == message.number:
            flight, self._checkpoint = self._checkpoint, None
        if flight is not None:
            self._events.append(message)

    def _on_request_refused(self, message: RequestRefused) -> None:
        # What is sent beside CloseReplies may find the file closed before the port hears that it is.
        closes = self._flight is not None and isinstance(self._flight.message, CloseReplies)
        if message.request == "AwaitDurable":
            known = message.number in self._waits and not closes
        elif message.request == "SetPeers":
            known = self._peers is not None and message.number == self._peers_version and not closes
        else:
            known = self._is_flight(message.number, Checkpoint, InstallSessions, CloseReplies)
        if known and message.fault.kind is not FaultKind.BUSY:
            self._fail(message.fault)

    def _on_closed(self, message: RepliesClosed) -> None:
        if self._answered(message.number, CloseReplies) is not None:
            self._closed = True  # what has no answer gets none, and who asked again would be refused
            self._close_memory()
            self._events.append(message)

    def _on_pool(self, message: LeasesGranted | LeasesRefused | LeasesReleased) -> None:
        if self._stock is None:
            return
        try:
            self._stock.receive(message, self._now())
        except StockFailed as failure:
            self._fail(failure.fault)
        self._place()

    # The queue, and what goes out.

    def _queue(self, slot: int, op: int, payload: bytes | None) -> None:
        """Queue the operation, in the place of the slot's last one if that waits.

        Queued behind the others instead, a busy slot's reply might never go out, nor what waits for it end; and what
        was sent before it would be called durable up to an op that it is not.
        """
        operations = self._operations
        operations.op = self._last_op = op
        payloads = operations.payloads
        if slot not in payloads:
            self._serial += 1
            self.pending += 1
            operations.places[slot] = (self._serial, op)
        elif isinstance(held := payloads[slot], int):
            # A newer large reply takes the buffer of the older one.
            if payload is not None and len(payload) > self._inline_size_max:
                payloads[slot] = self._copy(payload, held)
                return
            self._put_back(held)
        payloads[slot] = payload
        if payload is not None and len(payload) > self._inline_size_max:
            self._await_buffer(slot, operations)
        if self._unplaced:
            self._place()

    def _begin_stage(self) -> _Operations:
        operations = _Operations()
        self._stages.append(operations)
        return operations

    def _await_buffer(self, slot: int, stage: _Operations) -> None:
        serial = stage.places[slot][0]
        at = bisect_left(self._unplaced, serial, key=itemgetter(0))
        if at == len(self._unplaced) or self._unplaced[at][0] != serial:
            self._unplaced.insert(at, (serial, slot, stage))

    def _place(self) -> None:
        """Copy large replies to buffers, the oldest first.

        Were a newer one served before it, the oldest could wait for a buffer that only those behind it hold.
        """
        while self._unplaced and self._stock is not None:
            serial, slot, stage = self._unplaced[0]
            payload = stage.payloads.get(slot)
            if self._is_large(payload) and stage.places[slot][0] == serial:
                leases = self._stock.take(1, self._now()) or self._take_from_behind(serial)
                if not leases:
                    return
                stage.payloads[slot] = self._copy(payload, leases[0])
                self._placed = max(self._placed, serial)
            del self._unplaced[0]

    def _take_from_behind(self, serial: int) -> list[Lease]:
        """Take the buffer of the last that waits behind this place, which can move on only after it, if there is one.

        So it is when a large reply took the place of a small one after those behind it had got the last buffers.
        """
        if self._placed < serial:
            return []
        for stage in reversed(self._stages):
            if not isinstance(stage, _Operations):
                continue
            for slot, payload in reversed(stage.payloads.items()):
                if stage.places[slot][0] <= serial:
                    return []
                if isinstance(payload, int):
                    stage.payloads[slot] = self._copied(payload)
                    self._await_buffer(slot, stage)
                    return [payload]
        return []

    def _lend_small(self, payloads: list[Payload], now: float) -> None:
        """Copy replies that may go without to buffers, as far as there are any that no large reply waits for."""
        if self._stock is None or self._unplaced:
            return
        wanted = [
            (at, reply)
            for at, reply in enumerate(payloads)
            if isinstance(reply, bytes) and len(reply) >= LEASE_SIZE_MIN
        ]
        if not wanted:
            return
        # With half of the pool lent or free, what comes back is enough: more would be given back at once.
        more = self._lent + self._stock.free < self._stock.free_max
        for (at, reply), lease in zip(wanted, self._stock.take(len(wanted), now, more=more), strict=False):
            payloads[at] = self._copy(reply, lease)

    def _copy(self, reply: bytes, lease: Lease) -> Lease:
        if self._memory is None:
            raise InvariantBroken("the pool's memory is mapped while the port is open")
        self._memory.buffer(lease)[: len(reply)] = reply
        return lease

    def _copied(self, lease: Lease) -> bytes:
        if self._memory is None or not self._memory.valid(lease):
            return b""
        buffer = self._memory.buffer(lease)
        return bytes(buffer[: max(HEADER_SIZE, min(packed_size(buffer), len(buffer)))])

    def _put_back(self, payload: Payload | None) -> None:
        if isinstance(payload, int) and self._stock is not None:
            self._stock.put_back(payload)

    def _is_large(self, payload: Payload | None) -> TypeGuard[bytes]:
        return isinstance(payload, bytes) and len(payload) > self._inline_size_max

    def _pump(self) -> None:
        """Send the next numbered message, if there is one and its time has come."""
        while self._flight is None and self._opened is not None and not self.failed:
            stage = self._stages[0] if self._stages else None
            if isinstance(stage, _Operations):
                if stage.payloads:
                    self._pump_operations(stage)
                    return
                if len(self._stages) == 1:
                    return
                self._stages.popleft()
            elif stage is None or not self._pump_barrier(stage):
                return

    def _is_due(self, now: float) -> bool:
        """Whether operations go out: it is time, somebody waits for them, or too much would gather."""
        return (
            now >= self._write_at
            or self._durable_op < self._durable_asked
            or len(self._stages) > 1  # a checkpoint, an installation or the end
            or bool(self._held)
            or bool(self._unplaced)  # buffers are short
            or 2 * self.pending >= self._pending_max
        )

    def _pump_operations(self, stage: _Operations) -> None:
        """Send the next operations in the order of their places, which the op in the message relies on.

        Were a write that has no buffer yet passed over by later ones, their op would tell the component that the
        skipped reply does not exist, and it would say so to a peer that is looking for it.
        """
        now = self._now()
        slots = self._next_slots(stage) if self._is_due(now) else []
        if not slots:
            return
        self._write_at = now + self._write_interval
        payloads = [stage.payloads.pop(slot) for slot in slots]
        places = [stage.places.pop(slot) for slot in slots]
        writes = [payload for payload in payloads if payload is not None]
        self._send_batch(slots, writes, serial=places[0][0], first_op=places[-1][1])

    def _next_slots(self, stage: _Operations) -> list[int]:
        """The slots of the next batch: all of writes, or all of removals."""
        removes = next(iter(stage.payloads.values())) is None
        count, limit = 0, self._batch_max if removes else min(self._batch_max, self.credit)
        committed, buffers_short = self._committed, bool(self._unplaced)
        for payload, (_, first_op) in islice(zip(stage.payloads.values(), stage.places.values(), strict=True), limit):
            if first_op > committed or (payload is None) != removes or (buffers_short and self._is_large(payload)):
                break
            count += 1
        return list(islice(stage.payloads, count))

    def _op_to_tell(self, first_op: int) -> int:
        """The op up to which all is known once this batch is; everything committed if nothing waits behind it."""
        stage = self._stages[0] if self._stages else None
        if stage is None or (len(self._stages) == 1 and isinstance(stage, _Operations) and not stage.payloads):
            self._told = max(self._told, self._committed)
        elif first_op and isinstance(stage, _Operations):
            self._told = max(self._told, first_op if stage.payloads else min(stage.op, self._committed))
        return self._told

    def _send_batch(self, slots: list[int], writes: list[Payload], *, serial: int = 0, first_op: int = 0) -> None:
        """Send operations, the last of which has a place of `first_op`; none of them only tells the op."""
        now = self._now()
        op = self._op_to_tell(first_op)
        number = self._number + 1
        message: WriteReplies | RemoveReplies
        leases: tuple[Lease, ...] = ()
        if writes or not slots:
            self._lend_small(writes, now)
            leases = tuple([payload for payload in writes if isinstance(payload, int)])
            self._lent += len(leases)
            message = WriteReplies(
                owner=self.owner,
                number=number,
                op=op,
                slots=tuple(slots),
                payloads=tuple(writes),
                durable=self._wants_durable,
            )
        else:
            message = RemoveReplies(owner=self.owner, number=number, op=op, slots=tuple(slots))
        self._number = number
        if slots:
            self._undurable.append(_Undurable(self._number, op, leases))
        self._durable_resend = now + self._resend_timeout
        self._fly(message, serial=serial)

    @property
    def _wants_durable(self) -> bool:
        """Whether the owner, or a lease that is to be used again, waits for what was sent to be durable."""
        return self._durable_op < self._durable_asked or self._lent > 0

    def _take_back(self, leases: tuple[Lease, ...]) -> None:
        if self._stock is not None:
            self._lent -= len(leases)
            self._stock.give(leases, self._now())
            self._place()

    def _pump_barrier(self, barrier: _Barrier) -> bool:
        """Send what stands between two groups of operations. False while it must wait."""
        if self._checkpoint is not None and barrier.kind is not InstallSessions:
            return False  # one checkpoint at a time, and the end after the last
        if self._told < barrier.after:
            # A reply that took the place of an older one went out before its op could be told. What the checkpoint's
            # table does not know of is of later ops, and the component must have heard of those.
            if self._committed >= barrier.after:
                self._told = barrier.after
                self._send_batch([], [])
            return False
        if barrier.kind is CloseReplies:
            self._stock = None  # the component takes back what is in it
            message: Message = CloseReplies(owner=self.owner, number=self._number + 1)
        elif barrier.kind is Checkpoint:
            message = Checkpoint(owner=self.owner, number=self._number + 1, op=barrier.op, sessions=barrier.sessions)
        else:
            message = InstallSessions(
                owner=self.owner, number=self._number + 1, op=barrier.op, sessions=barrier.sessions
            )
        self._stages.popleft()
        self._number += 1
        self._fly(message, serial=barrier.serial)
        return True

    # Bookkeeping.

    def _fly(self, message: Message, *, serial: int = 0, timeout: float | None = None) -> None:
        self._flight = _Sent(message, self._now() + (timeout or self._resend_timeout), serial)
        self._send(message)

    def _post(self, message: Message) -> _Sent:
        self._send(message)
        return _Sent(message, self._now() + self._resend_timeout)

    def _post_after_pending(self, message: Message) -> _Sent:
        """Send once all that waits now was accepted: sent before, it would be about what the slots held until then."""
        if self._oldest_pending() > self._serial:
            return self._post(message)
        sent = _Sent(message, float("inf"))
        self._held.append((self._serial, sent))
        return sent

    def _pump_reads(self) -> None:
        while self._reads_waiting and len(self._reads) < READS_MAX:
            message = self._reads_waiting.popleft()
            overtakes = message.slot in self._slots_in_flight() or self._installs()
            self._reads[message.read] = self._post_after_pending(message) if overtakes else self._post(message)

    def _installs(self) -> bool:
        """True while an installation waits or has no answer: until then the component expects other replies."""
        first = self._stages[0] if self._stages else None
        waits = isinstance(first, _Barrier) and first.kind is InstallSessions
        return waits or (self._flight is not None and isinstance(self._flight.message, InstallSessions))

    def _send_held(self) -> None:
        while self._held and self._held[0][0] < self._oldest_pending():
            sent = self._held.popleft()[1]
            sent.resend_at = self._now() + self._resend_timeout
            self._send(sent.message)

    def _oldest_pending(self) -> int:
        """The serial of the oldest operation or installation that was not accepted, or the next one."""
        if self._flight is not None and self._flight.serial:
            return self._flight.serial
        for stage in self._stages:
            if isinstance(stage, _Operations):
                if stage.places:
                    return next(iter(stage.places.values()))[0]
            elif stage.serial:
                return stage.serial
        return self._serial + 1

    def _slots_in_flight(self) -> tuple[int, ...]:
        message = self._flight.message if self._flight is not None else None
        return message.slots if isinstance(message, WriteReplies | RemoveReplies) else ()

    def _is_flight(self, number: int, *kinds: type[Message]) -> bool:
        flight = self._flight
        return flight is not None and isinstance(flight.message, kinds) and _number_of(flight.message) == number

    def _answered(self, number: int, *kinds: type[Message]) -> _Sent | None:
        if not self._is_flight(number, *kinds):
            return None  # answered before, or to another question
        flight, self._flight = self._flight, None
        return flight

    def _waiting_reply(self, slot: int, header: bytes) -> bytes | None:
        candidates = [stage.payloads.get(slot) for stage in self._stages if isinstance(stage, _Operations)]
        flight = self._flight.message if self._flight is not None else None
        if isinstance(flight, WriteReplies) and slot in flight.slots:
            sent = flight.payloads[flight.slots.index(slot)]
            if isinstance(sent, bytes):  # a buffer may be in other use by now; the component holds the reply
                candidates.insert(0, sent)
        for payload in candidates:
            if payload is not None:
                reply = payload if isinstance(payload, bytes) else self._copied(payload)
                if reply[:HEADER_SIZE] == header:
                    return reply
        return None

    def _require_open(self) -> None:
        if self.is_open:
            return
        if self.failed:
            raise PortMisused("the port has failed: recover with another RepliesPort")
        if self._closing:
            raise PortMisused(f"the port {'has closed' if self._closed else 'is closing'} and takes nothing more")
        raise PortMisused(f"the port is not open: {'open it' if self._config is None else 'wait for RepliesOpened'}")

    def _refuse(self) -> NoReturn:
        self._require_open()
        raise PortMisused(f"{self.pending} operations wait, of at most {self._pending_max}: wait until `ready`")

    def _misfit(self, slot: int, reply: bytes) -> PortMisused:
        """What is wrong with what cannot be a reply of the slot."""
        if not 0 <= slot < self._clients_max:
            return PortMisused(f"slot {slot} of {self._clients_max}")
        if not HEADER_SIZE < len(reply) <= self._message_size_max:
            expected = f"more than {HEADER_SIZE} and at most {self._message_size_max}"
            return PortMisused(f"a reply of {len(reply)} bytes, expected {expected}")
        if packed_size(reply) != len(reply):
            return PortMisused(f"a reply of {len(reply)} bytes whose header says {packed_size(reply)}")
        cluster = int.from_bytes(self._cluster, "little")
        return PortMisused(f"a reply of cluster {packed_cluster(reply):x}, expected {cluster:x}")

    def _fail(self, fault: Fault) -> None:
        self.failed = True
        self.is_open = False
        self._close_memory()
        self._events.append(PortFailed(fault=fault))

    def _close_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None


def _number_of(message: Message) -> int:
    number: int = getattr(message, "number", 0)
    return number


def _owner_of(message: object) -> int:
    """Whose the message is: the component names its owner, the pool the holder of its leases."""
    owner: int = getattr(message, "owner", 0) or getattr(message, "holder", 0)
    return owner
