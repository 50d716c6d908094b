"""The owner's side of the ClientRepliesActor's protocol, as a plain object without I/O of its own.

    port = RepliesPort(owner=..., send=..., send_pool=..., now=..., open_memory=...)
    port.open(config, OpenMode.OPEN_OR_FORMAT)
    port.write(slot, reply); port.committed(op)          # after executing a batch, while `port.ready`
    if port.receive(message):                            # whatever the owner's actor is sent
        for event in port.take_events(): ...
    port.tick()                                          # now and then

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

from bisect import insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

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
    NotRead,
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

BATCH_MAX = 256  # replies, or removals, in one message; the credit may allow fewer
PENDING_MAX = 1024  # operations that wait in the port
READS_MAX = 4  # reads that are asked for at the same time; more would fill the owner's transmit slots
WRITE_INTERVAL = 0.1  # seconds from one batch that nobody waits for to the next
LEASE_SIZE_MIN = 1024  # bytes; below, the reply itself is not much more than what stands for it
RESEND_TIMEOUT = 1.0  # seconds
OPEN_TIMEOUT = 5.0  # seconds: opening verifies every slot


class PortMisused(RuntimeError):
    """The port was asked for what it does not do in its state, and did nothing: a mistake of the owner's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortFailed:
    """The port does nothing more: the file was not opened, or the component refused what it must take."""

    fault: Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyHad:
    """A read ended well: the whole reply, verified, whose packed header was asked for."""

    read: int
    slot: int
    header: bytes
    reply: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyNotHad:
    """A read ended without the reply, and why."""

    read: int
    slot: int
    header: bytes
    reason: NotRead


@dataclass(frozen=True, slots=True, kw_only=True)
class WritesAreDurable:
    """Of every reply written up to `op`: it, or a newer one of its slot, is on disk.

    Or the slot was removed, or installed anew, since. See `RepliesDurable`.
    """

    op: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsAreDurable:
    """The wait that `await_durable` numbered is over: see there, and `SlotsDurable`."""

    wait: int
    slots: tuple[int, ...]


# What the component and the pool send to an owner; an actor hands each of these to `RepliesPort.receive`.
PORT_MESSAGES: tuple[type[Message], ...] = (
    RepliesOpened,
    OpenFailed,
    PeersSet,
    WritesAccepted,
    WritesRefused,
    RepliesDurable,
    SlotsDurable,
    ReplyRead,
    ReplyNotRead,
    SessionsInstalled,
    CheckpointStarted,
    CheckpointDone,
    RequestRefused,
    RepliesClosed,
    RepliesRepaired,
    ReplyLost,
    StorageFailed,
    LeasesGranted,
    LeasesRefused,
    LeasesReleased,
)

PortEvent = (
    RepliesOpened
    | PortFailed
    | ReplyHad
    | ReplyNotHad
    | SlotsAreDurable
    | WritesAreDurable
    | CheckpointDone
    | SessionsInstalled
    | RepliesClosed
    | RepliesRepaired
    | ReplyLost
    | StorageFailed
)


@dataclass(slots=True, eq=False)
class _Item:
    """A slot's last operation that waits: a write with its bytes or its lease, or a removal with neither.

    Its place in the queue is that of the slot's first operation that waits: `serial` numbers the places, and
    `first_op` is that operation's op. Everything up to it is known once the item is accepted.
    """

    slot: int
    op: int
    payload: Payload | None
    serial: int
    first_op: int

    @property
    def is_removal(self) -> bool:
        return self.payload is None


@dataclass(slots=True)
class _Operations:
    """The operations that wait between two barriers, in the order of their places, one a slot; the op of the last."""

    items: dict[int, _Item]
    op: int = 0


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
    items: tuple[_Item, ...] = ()
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
        self._inline_size_max = 0
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
        self._stages: deque[_Operations | _Barrier] = deque([_Operations({})])
        self._pending = 0
        self._serial = 0  # of the last place in the queue
        self._held: deque[tuple[int, _Sent]] = deque()  # to be sent when all operations up to a serial are accepted
        self._unplaced: deque[_Item] = deque()  # large replies without a buffer, in the order of their places
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
    def is_open(self) -> bool:
        """True from `RepliesOpened` until `close`, unless the port fails. Otherwise it takes nothing: `PortMisused`."""
        return self._opened is not None and not self.failed and not self._closing

    @property
    def ready(self) -> bool:
        """True while writes are welcome. False is backpressure (or the end): execute nothing more for now."""
        return self.is_open and self._pending < self._pending_max

    @property
    def pending(self) -> int:
        """Operations that wait in the port."""
        return self._pending

    @property
    def idle(self) -> bool:
        """True when nothing waits and every numbered message was answered."""
        return self._pending == 0 and self._flight is None and self._checkpoint is None and len(self._stages) == 1

    def open(self, config: RepliesConfig, mode: OpenMode) -> None:
        """Ask for the file to be opened; `RepliesOpened` or `PortFailed` follows."""
        if self._config is not None:
            raise PortMisused("a port is opened once: make another RepliesPort")
        self._config = config
        self._cluster = config.cluster.to_bytes(16, "little")
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
        config = self._require_room()
        if not 0 <= slot < config.clients_max:
            raise PortMisused(f"slot {slot} of {config.clients_max}")
        if not HEADER_SIZE < len(reply) <= config.message_size_max:
            expected = f"more than {HEADER_SIZE} and at most {config.message_size_max}"
            raise PortMisused(f"a reply of {len(reply)} bytes, expected {expected}")
        cluster, op, size = packed_cluster_op_size(reply)
        if size != len(reply):
            raise PortMisused(f"a reply of {len(reply)} bytes whose header says {size}")
        if cluster != self._cluster:
            raise PortMisused(f"a reply of cluster {packed_cluster(reply):x}, expected {config.cluster:x}")
        self._queue(slot, op, reply)

    def remove(self, slot: int, op: int) -> None:
        """The slot holds no reply any more, as of `op`. Goes out with the next `committed`."""
        self._require_room()
        self._queue(slot, op, None)

    def committed(self, op: int, *, tell_durable: bool = False) -> None:
        """Everything committed up to `op` was given to the port: what waits may go out, if a write interval is over.

        With `tell_durable` it goes out now, and a `WritesAreDurable` follows once that is durable, or several that
        come up to it. After each the port waits for the next call of this method, or a `tick`: what the owner does
        when it hears of it is to go into one batch with what waits already.
        """
        self._require_open()
        self._committed = max(self._committed, op)
        if tell_durable:
            self._durable_asked = self._committed
        self._pump()

    def checkpoint(self, op: int, sessions: bytes) -> None:
        """Store the encoded session table as of `op`, after all that was written before; `CheckpointDone` follows."""
        self._require_open()
        self._stages.extend((_Barrier(Checkpoint, op, sessions, after=self._last_op), _Operations({})))
        self._pump()

    def install(self, op: int, sessions: bytes) -> None:
        """After state sync: replace what every slot is expected to hold; `SessionsInstalled` follows.

        Operations and checkpoints that still wait speak of the state that is replaced, and are forgotten.
        """
        self._require_open()
        for stage in self._stages:
            if isinstance(stage, _Operations):
                for item in stage.items.values():
                    self._forget(item)
        self._serial += 1
        self._stages = deque((_Barrier(InstallSessions, op, sessions, serial=self._serial), _Operations({})))
        # What waits for something that is forgotten is from now on about what is installed.
        self._held = deque((self._serial, sent) for _serial, sent in self._held)
        self._pending = len(self._flight.items) if self._flight is not None else 0
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
        """Number a read of the reply with this packed header: `ReplyHad` or `ReplyNotHad` follows.

        A reply that still waits in the port is answered from here: the component has not heard of it.
        """
        self._require_open()
        self._read_number += 1
        waiting = self._waiting_reply(slot, header)
        if waiting is not None:
            self._events.append(ReplyHad(read=self._read_number, slot=slot, header=header, reply=waiting))
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
        if getattr(message, "owner", self.owner) != self.owner or getattr(message, "holder", self.owner) != self.owner:
            return True  # for an earlier incarnation of this owner
        if not self.failed and not self._closed:
            receiver(message)
        if not self.failed and not self._closed:
            if not (self._events and isinstance(self._events[-1], WritesAreDurable)):
                self._pump()
            self._send_held()
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
                self._send_writes(())

    def _unanswered(self) -> list[_Sent]:
        single = [sent for sent in (self._flight, self._checkpoint, self._peers) if sent is not None]
        return [*single, *self._reads.values(), *self._waits.values()]

    def _make_receivers(self) -> dict[type, Callable[..., None]]:
        receivers: tuple[Callable[..., None], ...] = (
            self._on_opened,
            self._on_open_failed,
            self._on_peers_set,
            self._on_accepted,
            self._on_refused,
            self._on_durable,
            self._on_slots_durable,
            self._on_read,
            self._on_not_read,
            self._on_installed,
            self._on_checkpoint_started,
            self._on_checkpoint_done,
            self._on_request_refused,
            self._on_closed,
            self._events.append,
            self._events.append,
            self._events.append,
            self._on_pool,
            self._on_pool,
            self._on_pool,
        )
        return dict(zip(PORT_MESSAGES, receivers, strict=True))

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
        if flight is not None:
            self.credit = message.credit
            self._pending -= len(flight.items)
            if isinstance(flight.message, WriteReplies | RemoveReplies):
                self.accepted = max(self.accepted, flight.message.op)
            self._durable_through(message.durable_through)

    def _on_durable(self, message: RepliesDurable) -> None:
        self._durable_through(message.through)

    def _durable_through(self, number: int) -> None:
        told = self._durable_op
        while self._undurable and self._undurable[0].number <= number:
            batch = self._undurable.popleft()
            self._durable_op = max(self._durable_op, batch.op)
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
                self._events.append(ReplyHad(read=message.read, slot=message.slot, header=header, reply=reply))
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
            self._events.append(ReplyNotHad(read=message.read, slot=message.slot, header=header, reason=message.reason))

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
        operations = self._stages[-1]
        if not isinstance(operations, _Operations):
            raise InvariantBroken("the last stage takes operations")
        operations.op = self._last_op = op
        item = operations.items.get(slot)
        if item is None:
            self._serial += 1
            self._pending += 1
            operations.items[slot] = item = _Item(slot, op, payload, self._serial, op)
        else:
            item.op = op
            self._replace(item, payload)
        if self._is_large(item.payload):
            self._await_buffer(item)
        if self._unplaced:
            self._place()

    def _replace(self, item: _Item, payload: bytes | None) -> None:
        """Let a newer payload take the place of the item's, and its buffer if it has one and needs one."""
        held = item.payload
        item.payload = payload
        if held is None or isinstance(held, bytes):
            return
        if payload is not None and self._is_large(payload):
            item.payload = self._copy(payload, held)
        elif self._stock is not None:
            self._stock.put_back(held)

    def _await_buffer(self, item: _Item) -> None:
        if not self._unplaced or self._unplaced[-1].serial < item.serial:
            self._unplaced.append(item)
        elif not any(other is item for other in self._unplaced):
            insort(self._unplaced, item, key=lambda other: other.serial)

    def _place_small(self, batch: tuple[_Item, ...]) -> None:
        """Copy replies that may go without to buffers, as far as there are any that no large reply waits for."""
        if self._stock is None or self._unplaced:
            return
        # With half of the pool lent or free, what comes back is enough: more would be given back at once.
        more = self._lent + self._stock.free < self._stock.free_max
        now = self._now()
        for item in batch:
            payload = item.payload
            if isinstance(payload, bytes) and len(payload) >= LEASE_SIZE_MIN:
                lease = self._stock.take(now, more=more)
                if lease is None:
                    return
                item.payload = self._copy(payload, lease)

    def _place(self) -> None:
        """Copy large replies to buffers, the oldest first.

        Were a newer one served before it, the oldest could wait for a buffer that only those behind it hold.
        """
        while self._unplaced and self._stock is not None:
            item = self._unplaced[0]
            if isinstance(item.payload, bytes) and self._is_large(item.payload):
                lease = self._stock.take(self._now())
                if lease is None:
                    lease = self._take_from_behind(item)
                if lease is None:
                    return
                item.payload = self._copy(item.payload, lease)
                self._placed = max(self._placed, item.serial)
            self._unplaced.remove(item)

    def _take_from_behind(self, item: _Item) -> Lease | None:
        """Take the buffer of the last that waits behind the item, which can move on only after it, if there is one.

        So it is when a large reply took the place of a small one after those behind it had got the last buffers.
        """
        if self._placed < item.serial:
            return None
        for stage in reversed(self._stages):
            for other in reversed(stage.items.values()) if isinstance(stage, _Operations) else ():
                if other.serial <= item.serial:
                    return None
                if other.payload is not None and not isinstance(other.payload, bytes):
                    lease = other.payload
                    other.payload = self._copied(lease)
                    self._await_buffer(other)
                    return lease
        return None

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

    def _forget(self, item: _Item) -> None:
        if item.payload is not None and not isinstance(item.payload, bytes) and self._stock is not None:
            self._stock.put_back(item.payload)
        item.payload = None  # no buffer is looked for any more

    def _is_large(self, payload: Payload | None) -> bool:
        return isinstance(payload, bytes) and len(payload) > self._inline_size_max

    def _pump(self) -> None:
        """Send the next numbered message, if there is one and its time has come."""
        while self._flight is None and self._opened is not None and not self.failed:
            stage = self._stages[0] if self._stages else None
            if isinstance(stage, _Operations):
                if stage.items:
                    self._pump_operations(stage)
                    return
                if len(self._stages) == 1:
                    return
                self._stages.popleft()
            elif stage is None or not self._pump_barrier(stage):
                return

    def _is_due(self) -> bool:
        """Whether operations go out: it is time, somebody waits for them, or too much would gather."""
        return (
            self._durable_op < self._durable_asked
            or len(self._stages) > 1  # a checkpoint, an installation or the end
            or bool(self._held)
            or bool(self._unplaced)  # buffers are short
            or 2 * self._pending >= self._pending_max
            or self._now() >= self._write_at
        )

    def _pump_operations(self, stage: _Operations) -> None:
        """Send the next operations in the order of their places, which the op in the message relies on.

        Were a write that has no buffer yet passed over by later ones, their op would tell the component that the
        skipped reply does not exist, and it would say so to a peer that is looking for it.
        """
        batch = self._next_batch(stage) if self._is_due() else ()
        if not batch:
            return
        for item in batch:
            del stage.items[item.slot]
        self._write_at = self._now() + self._write_interval
        if batch[0].is_removal:
            self._send_removals(batch)
        else:
            self._send_writes(batch)

    def _next_batch(self, stage: _Operations) -> tuple[_Item, ...]:
        batch: list[_Item] = []
        removes = next(iter(stage.items.values())).is_removal
        limit = self._batch_max if removes else min(self._batch_max, self.credit)
        for item in islice(stage.items.values(), limit):
            payload = item.payload
            if item.first_op > self._committed or (payload is None) != removes or self._is_large(payload):
                break
            batch.append(item)
        return tuple(batch)

    def _op_to_tell(self, batch: tuple[_Item, ...]) -> int:
        """The op up to which all is known once this batch is; everything committed if nothing waits behind it."""
        stage = self._stages[0] if self._stages else None
        if not any(isinstance(stage, _Barrier) or stage.items for stage in self._stages):
            self._told = max(self._told, self._committed)
        elif batch and isinstance(stage, _Operations):
            self._told = max(self._told, batch[-1].first_op if stage.items else min(stage.op, self._committed))
        return self._told

    def _send_writes(self, batch: tuple[_Item, ...]) -> None:
        self._place_small(batch)
        message = WriteReplies(
            owner=self.owner,
            number=self._number + 1,
            op=self._op_to_tell(batch),
            slots=tuple(item.slot for item in batch),
            payloads=tuple(item.payload for item in batch if item.payload is not None),
            durable=self._wants_durable or any(not isinstance(item.payload, bytes) for item in batch),
        )
        self._number += 1
        self._note_undurable(batch, message.op)
        self._fly(message, batch, serial=batch[0].serial if batch else 0)

    def _send_removals(self, batch: tuple[_Item, ...]) -> None:
        slots = tuple(item.slot for item in batch)
        message = RemoveReplies(owner=self.owner, number=self._number + 1, op=self._op_to_tell(batch), slots=slots)
        self._number += 1
        self._note_undurable(batch, message.op)
        self._fly(message, batch, serial=batch[0].serial if batch else 0)

    def _note_undurable(self, batch: tuple[_Item, ...], op: int) -> None:
        if batch:
            payloads = (item.payload for item in batch)
            leases = tuple(payload for payload in payloads if payload is not None and not isinstance(payload, bytes))
            self._lent += len(leases)
            self._undurable.append(_Undurable(self._number, op, leases))
        self._durable_resend = self._now() + self._resend_timeout

    @property
    def _wants_durable(self) -> bool:
        """Whether the owner, or a lease that is to be used again, waits for what was sent to be durable."""
        return self._durable_op < self._durable_asked or self._lent > 0

    def _take_back(self, leases: tuple[Lease, ...]) -> None:
        if leases and self._stock is not None:
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
                self._send_writes(())
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

    def _fly(
        self, message: Message, items: tuple[_Item, ...] = (), *, serial: int = 0, timeout: float | None = None
    ) -> None:
        self._flight = _Sent(message, self._now() + (timeout or self._resend_timeout), items, serial)
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
            flight = self._flight
            overtakes = self._installs() or (
                flight is not None and any(item.slot == message.slot for item in flight.items)
            )
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
                if stage.items:
                    return next(iter(stage.items.values())).serial
            elif stage.serial:
                return stage.serial
        return self._serial + 1

    def _is_flight(self, number: int, *kinds: type[Message]) -> bool:
        flight = self._flight
        return flight is not None and isinstance(flight.message, kinds) and _number_of(flight.message) == number

    def _answered(self, number: int, *kinds: type[Message]) -> _Sent | None:
        if not self._is_flight(number, *kinds):
            return None  # answered before, or to another question
        flight, self._flight = self._flight, None
        return flight

    def _waiting_reply(self, slot: int, header: bytes) -> bytes | None:
        flight_items = {item.slot: item for item in self._flight.items} if self._flight is not None else {}
        candidates = [flight_items.get(slot)]
        candidates += [stage.items.get(slot) for stage in self._stages if isinstance(stage, _Operations)]
        for item in candidates:
            if item is None or item.payload is None:
                continue
            if isinstance(item.payload, bytes):
                reply = item.payload
            elif item in flight_items.values():
                continue  # its buffer may be in other use by now; the component holds the reply
            else:
                reply = self._copied(item.payload)
            if reply[:HEADER_SIZE] == header:
                return reply
        return None

    def _require_open(self) -> RepliesConfig:
        if self.failed:
            raise PortMisused("the port has failed: recover with another RepliesPort")
        if self._closing:
            raise PortMisused(f"the port {'has closed' if self._closed else 'is closing'} and takes nothing more")
        if self._config is None or self._opened is None:
            raise PortMisused(
                f"the port is not open: {'open it' if self._config is None else 'wait for RepliesOpened'}"
            )
        return self._config

    def _require_room(self) -> RepliesConfig:
        config = self._require_open()
        if self._pending >= self._pending_max:
            raise PortMisused(f"{self._pending} operations wait, of at most {self._pending_max}: wait until `ready`")
        return config

    def _fail(self, fault: Fault) -> None:
        self.failed = True
        self._close_memory()
        self._events.append(PortFailed(fault=fault))

    def _close_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None


def _number_of(message: Message) -> int:
    number: int = getattr(message, "number", 0)
    return number
