"""The owner's side of the ClientRepliesActor's protocol, as a plain object without I/O of its own.

    port = RepliesPort(owner=..., send=..., send_pool=..., now=..., open_memory=...)
    port.open(config, OpenMode.OPEN_OR_FORMAT)
    port.write(slot, reply); port.committed(op)          # after executing a batch, while `port.ready`
    if port.receive(message):                            # whatever the owner's actor is sent
        for event in port.take_events(): ...
    port.tick()                                          # periodically

Guarantees: one numbered message is in flight; what is written meanwhile forms the next, as `write_queue` says. A
request without an answer is sent again, and an answer counts once. What was written before `checkpoint` or
`await_durable` is accepted before it. Replies that nobody waits for go out once per `write_interval`, so that a busy
session's reply is mostly replaced before it costs a message, a write and a share of a sync. A reply of `LEASE_SIZE_MIN`
or more is copied once, to a leased buffer, and its bytes go through no message; up to `inline_size_max` it does not
wait for a buffer. Every read, wait and checkpoint ends in exactly one event, unless an installation replaces it, or the
port fails or closes.

Limits: no unbounded buffering. `write` beyond `pending_max` raises; an owner stops executing while `ready` is false. A
refusal other than BUSY means that owner and component disagree: the port fails, and the owner must recover.

Owns: the owner's half of every exchange, of which `write_queue`, `buffers` and `queries` each have a part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import NoReturn

from thespian.actors import ActorAddress

from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.leases import LeasesGranted, LeasesRefused, LeasesReleased, MemoryName
from client_replies.messages.replies import (
    CheckpointDone,
    CheckpointStarted,
    CloseReplies,
    OpenFailed,
    OpenReplies,
    PeersSet,
    RepliesClosed,
    RepliesDurable,
    RepliesOpened,
    RepliesRepaired,
    ReplyLost,
    ReplyNotRead,
    ReplyRead,
    RequestRefused,
    SessionsInstalled,
    SetPeers,
    SlotsDurable,
    StorageFailed,
    WritesAccepted,
    WritesRefused,
)
from client_replies.messages.reply_header import HEADER_SIZE, packed_cluster, packed_cluster_op_size, packed_size
from client_replies.messages.requests import Outbox
from client_replies.storage.errors import StorageError
from client_replies.storage.shared_memory import PoolMemory

from .buffers import Buffers
from .port_events import PORT_MESSAGES, PortEvent, PortFailed, PortMisused, WritesAreDurable
from .queries import WAIT, Queries
from .write_queue import Barrier, Batch, WriteQueue

BATCH_MAX = 256  # replies, or removals, in one message; the credit may allow fewer
PENDING_MAX = 1024  # operations that wait in the port
WRITE_INTERVAL = 0.1  # seconds from one batch that nobody waits for to the next
RESEND_TIMEOUT = 1.0  # seconds
OPEN_TIMEOUT = 5.0  # seconds: opening verifies every slot

# Lanes of the outbox, beside those of the queries.
NUMBERED = "numbered"  # batches and barriers, in one sequence; before those, the opening
CHECKPOINT = "checkpoint"  # one that was started
PEERS = "peers"


class RepliesPort:
    """See the module. The owner calls all methods from one thread; none of them waits.

    `owner` is the owner's number, from 1, another one after each start. `send` carries a message to the
    ClientRepliesActor, `send_pool` one to the pool, whose address it is given. `now` is a monotonic clock; it and all
    timeouts are in seconds. `open_memory` maps the pool's memory, and raises `StorageError`.

    What changes something raises `PortMisused` unless the port `is_open`. `ready`, `pending`, `accepted`, `idle`,
    `take_events`, `receive` and `tick` may be called at any time.
    """

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
        self.is_open = False  # from `RepliesOpened` until `close` or the end
        self.credit = 0  # replies that the component accepts in the next batch
        self.failed = False  # `PortFailed` was an event; nothing more happens
        self._send = send
        self._send_pool = send_pool
        self._now = now
        self._open_memory = open_memory
        self._resend_timeout = resend_timeout
        self._config: RepliesConfig | None = None
        self._cluster: bytes  # as it is packed, once there is a config
        self._closing = False
        self._is_live = False  # from `RepliesOpened` until the end; these three are made then
        self._pool: Outbox
        self._buffers: Buffers
        self._queries: Queries
        self._outbox = Outbox(send, resend_timeout)
        self._queue = WriteQueue(pending_max=pending_max, batch_max=batch_max, interval=write_interval)
        self._ask_at: float  # when it is time to ask again what is durable, once a batch was sent
        self._events: deque[PortEvent] = deque()
        self._receivers: dict[type, Callable[..., object]] = {
            **dict.fromkeys(PORT_MESSAGES, _ignore),
            **dict.fromkeys((RepliesRepaired, ReplyLost, StorageFailed), self._events.append),
            RepliesOpened: self._on_opened,
            OpenFailed: self._on_open_failed,
        }

    # What the owner asks for.

    @property
    def ready(self) -> bool:
        """True while writes are welcome. False is backpressure (or the end): execute nothing more for now."""
        return self.is_open and not self._queue.is_full

    @property
    def pending(self) -> int:
        """Writes and removals that the component has not accepted; of each slot only the last counts."""
        return self._queue.pending

    @property
    def accepted(self) -> int:
        """The op up to which the component has heard of everything."""
        return self._queue.accepted

    @property
    def idle(self) -> bool:
        """True when nothing waits and every numbered message was answered."""
        return self._queue.is_idle and not self._outbox.is_busy(NUMBERED) and not self._outbox.is_busy(CHECKPOINT)

    def open(self, config: RepliesConfig, mode: OpenMode) -> None:
        """Ask for the file to be opened; `RepliesOpened` or `PortFailed` follows. Only once, or `PortMisused`."""
        if self._config is not None:
            raise PortMisused("a port is opened once: make another RepliesPort")
        self._config = config
        self._cluster = config.cluster.to_bytes(16, "little")
        message = OpenReplies(owner=self.owner, config=config, mode=mode)
        self._outbox.post(NUMBERED, message, self._now(), timeout=OPEN_TIMEOUT, number=0)

    def set_peers(self, peers: tuple[tuple[int, ActorAddress], ...]) -> None:
        """Say where the ClientRepliesActors of all other replicas are; repair begins. No event follows.

        Pairs of a replica's index and an address, in place of those that were set before.
        """
        self._require_open()
        self._outbox.forget(PEERS)
        message = SetPeers(owner=self.owner, version=self._outbox.next_number(PEERS), peers=peers)
        self._outbox.post(PEERS, message, self._now())

    def write(self, slot: int, reply: bytes) -> None:
        """The slot's session has this reply (header and body) from now on. Goes out with the next `committed`.

        Raises `PortMisused` while the port is not `ready`, and for what cannot be a reply of this slot by its size or
        its cluster. The component verifies the checksums, in a process of its own; a reply that is not whole fails the
        port.
        """
        config, queue, size = self._config, self._queue, len(reply)
        if not self.is_open or queue.is_full or config is None:
            self._refuse()
        if not (0 <= slot < config.clients_max and HEADER_SIZE < size <= config.message_size_max):
            raise _misfit(config, slot, reply)
        cluster, op, size_said = packed_cluster_op_size(reply)
        if size_said != size or cluster != self._cluster:
            raise _misfit(config, slot, reply)
        large = size > config.inline_size_max
        held = queue.put(slot, op, reply, large)
        if held is not None or queue.unplaced:
            self._buffers.settle(held, reply if large else None)

    def remove(self, slot: int, op: int) -> None:
        """The slot holds no reply any more, as of `op`. Goes out with the next `committed`.

        Raises `PortMisused` while the port is not `ready`.
        """
        if not self.ready:
            self._refuse()
        self._buffers.settle(self._queue.put(slot, op, None), None)

    def committed(self, op: int, *, tell_durable: bool = False) -> None:
        """All that was committed up to `op` was written or removed here: it may go out, once per `write_interval`.

        With `tell_durable` it goes out now, and `WritesAreDurable` follows once it is durable, or several of them that
        come up to `op`. After each the port waits for the next call of this method, or a `tick`: so what the owner
        does in answer goes into one batch with what waits already.
        """
        self._require_open()
        if op > self._queue.committed:
            self._queue.committed = op
        if tell_durable:
            self._queue.durable_asked = self._queue.committed
        self._pump()

    def checkpoint(self, op: int, sessions: bytes) -> None:
        """Store the encoded session table as of `op`, after all that was written before; `CheckpointDone` follows.

        Several may wait; one at a time is sent.
        """
        self._require_open()
        self._queue.checkpoint(op, sessions)
        self._pump()

    def install(self, op: int, sessions: bytes) -> None:
        """After state sync: replace what every slot is expected to hold; `SessionsInstalled` follows.

        Operations and checkpoints that still wait speak of the state that is replaced, and are forgotten.
        """
        self._require_open()
        self._buffers.free += self._queue.install(op, sessions)
        self._queries.installed()
        self._pump()

    def await_durable(self, slots: tuple[int, ...]) -> int:
        """Wait until each slot has on disk what it is to hold now, or newer; `SlotsAreDurable` follows.

        Returns the wait's number, which the event has. Now means: after all that was written, removed and installed
        until this call. A slot that is to hold nothing, or that is removed while the wait lasts, delays it no longer;
        one whose reply is lost (`ReplyLost`) does until the slot's next reply. However busy a slot is, its wait ends.
        """
        self._require_open()
        wait = self._queries.await_durable(slots)
        self._pump()
        return wait

    def read(self, slot: int, header: bytes) -> int:
        """Read the slot's reply that has this packed header; `ReadSucceeded` or `ReadFailed` follows.

        Returns the read's number, which the event has. A reply that waits in the port is read from there.
        """
        self._require_open()
        return self._queries.read(slot, header)

    def close(self) -> None:
        """Take nothing more. `RepliesClosed` follows when all that was written is durable. Again: no effect."""
        if self._closing:
            return
        self._require_open()
        self._closing = True
        self.is_open = False
        self._queue.close()
        self._pump()

    def take_events(self) -> list[PortEvent]:
        """Return what happened since the last call, in order."""
        events = list(self._events)
        self._events.clear()
        return events

    # What comes in.

    def receive(self, message: object) -> bool:
        """Take a message that the owner was sent. Returns False if it is none of `PORT_MESSAGES`.

        Answers to an earlier owner are ignored. Events may follow, see `take_events`.
        """
        receiver = self._receivers.get(type(message))
        if receiver is None:
            return False
        if (getattr(message, "owner", 0) or getattr(message, "holder", 0)) != self.owner:
            return True  # for an earlier incarnation of this owner
        receiver(message)
        if self._is_live:
            if not (self._events and isinstance(self._events[-1], WritesAreDurable)):
                self._pump()
            if self._queries.held or self._queries.waiting:
                self._queries.pump()
        return True

    def tick(self) -> None:
        """Send again what has no answer, and send what waits if it is due. Call it periodically."""
        now = self._now()
        self._outbox.resend(now)
        if not self._is_live:
            return
        self._pool.resend(now)
        self._pump()
        queue = self._queue
        if queue.in_flight is None:
            untold = queue.committed > queue.told and self.ready and self.idle
            # What waits may wait for buffers that were lent: the news that they are free again may have been lost.
            asks_again = queue.wants_durable and queue.undurable and now >= self._ask_at
            if untold or asks_again:
                self._post(queue.take_nothing(), now)

    def _on_opened(self, message: RepliesOpened) -> None:
        opening = self._outbox.answered(NUMBERED, 0)
        if not isinstance(opening, OpenReplies):
            return
        try:
            memory = self._open_memory(message.memory)
        except StorageError as error:
            self._fail(error.fault)  # the pool died meanwhile
            return
        queue, outbox = self._queue, self._outbox
        queue.committed = queue.told = queue.accepted = queue.durable = message.op
        self._pool = Outbox(lambda request: self._send_pool(message.pool, request), self._resend_timeout)
        self._buffers = Buffers(self.owner, queue, memory, opening.config.buffers_max, self._pool, self._now)
        self._queries = Queries(self.owner, queue, self._buffers, outbox, self._send, self._events, self._now)
        self._receivers |= {
            PeersSet: lambda message: outbox.answered(PEERS, message.version),
            WritesAccepted: self._on_accepted,
            WritesRefused: self._on_refused,
            RepliesDurable: lambda message: self._durable_through(message.through),
            SlotsDurable: self._queries.on_slots_durable,
            ReplyRead: self._queries.on_read,
            ReplyNotRead: self._queries.on_not_read,
            CheckpointStarted: self._on_checkpoint_started,
            **dict.fromkeys((CheckpointDone, SessionsInstalled, RepliesClosed), self._on_done),
            RequestRefused: self._on_refused,
            **dict.fromkeys((LeasesGranted, LeasesRefused, LeasesReleased), self._on_pool),
        }
        self._is_live = self.is_open = True
        self.credit = message.credit
        self._events.append(message)

    def _on_open_failed(self, message: OpenFailed) -> None:
        if self._outbox.answered(NUMBERED, 0) is not None:
            self._fail(message.fault)

    def _on_accepted(self, message: WritesAccepted) -> None:
        if self._outbox.answered(NUMBERED, message.number) is not None:
            self._queue.accept()
            self.credit = message.credit
            self._durable_through(message.durable_through)

    def _durable_through(self, number: int) -> None:
        queue, before = self._queue, self._queue.durable
        for leases in queue.durable_through(number):
            self._buffers.take_back(leases)
        if before < min(queue.durable, queue.durable_asked):
            self._events.append(WritesAreDurable(op=queue.durable))

    def _on_checkpoint_started(self, message: CheckpointStarted) -> None:
        if self._outbox.move(NUMBERED, CHECKPOINT, message.number, self._now()):
            self._queue.accept()

    def _on_done(self, message: CheckpointDone | SessionsInstalled | RepliesClosed) -> None:
        if self._outbox.answered(NUMBERED, message.number) is not None:
            self._queue.accept()
        elif self._outbox.answered(CHECKPOINT, message.number) is None:
            return
        if isinstance(message, RepliesClosed):
            self._end()  # what has no answer gets none, and who asked again would be refused
        self._events.append(message)

    def _on_refused(self, message: WritesRefused | RequestRefused) -> None:
        # A refused batch is expected under the same number. Changing its content would let a late answer to the first
        # sending speak of the second; so it is repeated as it is when it came too soon, and is the end otherwise.
        request = message.request if isinstance(message, RequestRefused) else ""
        lane: Hashable = {"AwaitDurable": (WAIT, message.number), "SetPeers": PEERS}.get(request, NUMBERED)
        # What is sent beside CloseReplies may find the file closed before the port hears that it is.
        closed = lane != NUMBERED and isinstance(self._outbox.in_flight(NUMBERED), CloseReplies)
        if message.fault.kind is not FaultKind.BUSY and not closed and self._outbox.in_flight(lane, message.number):
            self._fail(message.fault)

    def _on_pool(self, message: LeasesGranted | LeasesRefused | LeasesReleased) -> None:
        fault = self._buffers.receive(message)
        if fault is not None:
            self._fail(fault)

    # What goes out.

    def _pump(self) -> None:
        """Send the next numbered message, if there is one and its time has come."""
        queue, outbox = self._queue, self._outbox
        if queue.in_flight is not None or queue.is_idle:
            return
        now, awaited, checkpointing = self._now(), bool(self._queries.held), outbox.is_busy(CHECKPOINT)
        taken = queue.take(now, self.credit, awaited=awaited, checkpointing=checkpointing)
        if taken is not None:
            self._post(taken, now)

    def _post(self, taken: Batch | Barrier, now: float) -> None:
        number = self._outbox.next_number(NUMBERED)
        if isinstance(taken, Batch):
            self._queue.sent(taken, number, self._buffers.lend(taken.payloads or []))
            self._ask_at = now + self._resend_timeout
        elif taken.kind is CloseReplies:
            self._buffers.release()
        self._outbox.post(NUMBERED, taken.message(self.owner, number, self._queue.wants_durable), now)

    # The end, and what is refused.

    def _fail(self, fault: Fault) -> None:
        self.failed = True
        self._end()
        self._events.append(PortFailed(fault=fault))

    def _end(self) -> None:
        if self._is_live:
            self._buffers.close()
        self._is_live = self.is_open = False
        self._outbox.forget()
        self._receivers = dict.fromkeys(PORT_MESSAGES, _ignore)

    def _require_open(self) -> None:
        if self.is_open:
            return
        if self.failed:
            raise PortMisused("the port has failed: recover with another RepliesPort")
        if self._closing:
            raise PortMisused(f"the port {'is closing' if self._is_live else 'has closed'} and takes nothing more")
        raise PortMisused(f"the port is not open: {'open it' if self._config is None else 'wait for RepliesOpened'}")

    def _refuse(self) -> NoReturn:
        self._require_open()
        raise PortMisused(f"{self.pending} operations wait, of at most {self._queue.pending_max}: wait until `ready`")


def _misfit(config: RepliesConfig, slot: int, reply: bytes) -> PortMisused:
    """What is wrong with what cannot be a reply of the slot."""
    if not 0 <= slot < config.clients_max:
        return PortMisused(f"slot {slot} of {config.clients_max}")
    if not HEADER_SIZE < len(reply) <= config.message_size_max:
        expected = f"more than {HEADER_SIZE} and at most {config.message_size_max}"
        return PortMisused(f"a reply of {len(reply)} bytes, expected {expected}")
    if packed_size(reply) != len(reply):
        return PortMisused(f"a reply of {len(reply)} bytes whose header says {packed_size(reply)}")
    return PortMisused(f"a reply of cluster {packed_cluster(reply):x}, expected {config.cluster:x}")


def _ignore(_message: object) -> None:
    """What says nothing in the port's state."""
