"""Base of an actor that has a log of its own and keeps the replies of its clients' sessions in a component beside it.

    class Counter(RepliesOwner):
        def replies_config(self): return RepliesConfig(path="r0.replies", cluster=1, replica=0)
        def entries(self, after): return self.log.entries(after)         # of the own log, in order
        def execute(self, entry): ...                                    # bytes; deterministic
        senders = {Add: Party.ANYONE}                                    # of its own messages: who may send each
        def handlers(self): return {**super().handlers(), Add: self.add}

The author appends a request to the log, makes it durable there, and calls `apply`, which executes it once, keeps the
reply and returns it. `check` says which request is new; `read_reply` gives the original reply to one that is not.

Guarantees: recovery in the one right order: the session table of the last checkpoint, the author's state as of its op
(`restore`), the log after it, then the peers; nothing is repaired or denied to a peer before. Executing waits while the
component has no room. A checkpoint is made every `checkpoint_interval` entries, and `on_checkpoint` says how far the
log may be cut. A read whose slot is damaged waits for its repair for `REPAIR_WAIT` seconds.

Limits: no agreement between replicas on the log; `client_replies.cluster` has that. `apply` is called in the order of
the ops. Owns: the session table, the port, and its ClientRepliesActor, which is its child.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from thespian.actors import ActorAddress, ActorExitRequest

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.actors.thespian.component_actor import ComponentActor, Handler
from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.faults import Fault, FaultKind, InvariantBroken
from client_replies.messages.protocol import Party
from client_replies.messages.replies import (
    CheckpointDone,
    NotRead,
    RepliesClosed,
    RepliesOpened,
    RepliesRepaired,
    ReplyLost,
    StorageFailed,
)
from client_replies.messages.reply import seal_reply
from client_replies.messages.reply_header import HEADER_SIZE, packed_size
from client_replies.storage.client_sessions import (
    ClientSessions,
    DuplicateRequest,
    NewRequest,
    RegistrationStatus,
    RequestStatus,
)

from .port_events import (
    PORT_MESSAGES,
    PortEvent,
    PortFailed,
    ReadFailed,
    ReadSucceeded,
    SlotsAreDurable,
    WritesAreDurable,
)
from .replies_port import RepliesPort

TICK = 0.05  # seconds
REPAIR_WAIT = 1.0  # seconds that a read waits for the repair of its slot
NO_CHECKSUM = bytes(16)

ReplyOrReason = bytes | NotRead
ReadDone = Callable[[ReplyOrReason], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A committed request: `request` 0 registers the client, whose session is then the entry's op.

    `timestamp` is in nanoseconds since the epoch, above 0. `checksum` tells a repeated request from another one with
    its number.
    """

    op: int
    client: int
    session: int = 0
    request: int = 0
    operation: int = 1
    timestamp: int = 1
    body: bytes = field(default=b"", repr=False)
    checksum: bytes = NO_CHECKSUM


@dataclass(slots=True)
class _Read:
    slot: int
    header: bytes
    done: ReadDone
    repaired_by: float = 0.0  # when it gives up waiting for its slot's repair


class RepliesOwner(ComponentActor):
    """See the module. What an author must write comes first, then what may be overridden, then what is called."""

    parties = (Party.REPLICA, Party.HOLDER)
    checkpoint_interval = 1024  # entries
    tell_durable = False  # whether `on_durable` is called, which costs batches that are sent at once

    def __init__(self, capabilities: Mapping[str, object] | None = None, requirements: object = None) -> None:
        super().__init__(capabilities, requirements)
        self.sessions: ClientSessions | None = None  # as of `applied_op`, once the file is open
        self.applied_op = 0
        self.is_recovered = False
        self._replies_actor: ActorAddress | None = None
        self._pool: ActorAddress | None = None
        self._port: RepliesPort | None = None
        self._config: RepliesConfig  # from `start_replies` on
        self._recovering: Iterator[Entry] = iter(())
        self._peers: dict[int, ActorAddress] = {}
        self._checkpoint_op = self._checkpoint_before = 0  # of the last checkpoint that is on disk, and the one before
        self._unchecked = 0  # entries since the last checkpoint began
        self._reads: dict[int, _Read] = {}
        self._damaged: list[_Read] = []
        self._waits: dict[int, Callable[[], None]] = {}

    # What an author writes.

    def replies_config(self) -> RepliesConfig:
        """The component's configuration; asked for once, by `start_replies`."""
        raise NotImplementedError

    def entries(self, after: int) -> Iterable[Entry]:
        """The durable entries of the own log with an op above `after`, in order."""
        raise NotImplementedError

    def execute(self, entry: Entry) -> bytes:
        """Change the state; return the reply's body. The same on every replica, and in every recovery."""
        raise NotImplementedError

    # What an author may override.

    def restore(self, op: int) -> None:
        """Bring the state to where it was after `op`: by default by executing the log from its beginning."""
        for entry in self.entries(0):
            if entry.op > op:
                return
            if entry.request:
                self.execute(entry)

    def on_recovered(self) -> None:
        """The log was replayed: requests are welcome from now on."""

    def on_durable(self, op: int) -> None:
        """Of every reply up to `op`, it, or a newer one of its slot, is on disk. Only with `tell_durable`."""

    def on_checkpoint(self, op: int, cut: int) -> None:
        """The checkpoint of `op` is on disk: entries up to `cut` are not needed any more, and all others are.

        `cut` is the checkpoint before: should the last session table rot, the component opens with that one.
        """

    def on_evicted(self, client: int) -> None:
        """The client's session made room for another: it must register again."""

    def on_lost(self, slot: int, header: bytes) -> None:
        """No replica holds the reply with this packed header any more."""

    def on_failed(self, fault: Fault) -> None:
        """The component does nothing more. `start_replies` begins anew, from what is durable."""

    def on_closed(self) -> None:
        """What `close_replies` asked for is done."""

    # What an author calls.

    def start_replies(self, mode: OpenMode = OpenMode.OPEN_OR_FORMAT) -> None:
        """Spawn the component and open the file; `on_recovered` or `on_failed` follows."""
        self.is_recovered = False
        self.sessions = None
        self._damaged.clear()
        self._reads.clear()
        self._waits.clear()
        if self._replies_actor is not None:
            self.send(self._replies_actor, ActorExitRequest())
        replies = self._replies_actor = self.create_child(ClientRepliesActor)
        self._port = RepliesPort(
            owner=self.environment.unique(),
            send=lambda message: self.send(replies, message),
            send_pool=self.send,
            now=self.environment.monotonic,
            open_memory=self.environment.open_memory,
        )
        self._config = self.replies_config()
        self._port.open(self._config, mode)
        self.start_ticks(TICK)

    @property
    def is_ready(self) -> bool:
        """Whether an entry may be applied now. False is backpressure, recovery, or the end."""
        return self.is_recovered and self._port is not None and self._port.ready

    @property
    def replies_address(self) -> ActorAddress | None:
        """The component's address, for the peers of the other replicas."""
        return self._replies_actor

    def set_peers(self, peers: Mapping[int, ActorAddress]) -> None:
        """Say where the components of the other replicas are, by replica; it is passed on after recovery."""
        self._peers = dict(peers)
        if self.is_recovered and self._port is not None and self._port.is_open:
            self._port.set_peers(tuple(sorted(self._peers.items())))

    def check(self, entry: Entry) -> RequestStatus | RegistrationStatus:
        """What the session table says of a request, before it is appended to the log. Its op does not matter yet."""
        sessions = self._known_sessions()
        if entry.request == 0:
            return sessions.check_registration(entry.client, entry.checksum)
        return sessions.check(entry.client, entry.session, entry.request, entry.checksum)

    def apply(self, entry: Entry) -> bytes | None:
        """Execute the next entry of the log and keep its reply; return it (header and body).

        None: the request was not its session's next one, and nothing was executed. Call it while `is_ready`, after the
        entry is durable in the own log.
        """
        reply = self._apply(entry)
        self._port_in_use().committed(entry.op, tell_durable=self.tell_durable)
        if self._unchecked >= self.checkpoint_interval:
            self.checkpoint()
        return reply

    def read_reply(self, duplicate: DuplicateRequest, done: ReadDone) -> None:
        """Give `done` the original reply (header and body) to a repeated request, or why it cannot be had now."""
        if packed_size(duplicate.header) == HEADER_SIZE:
            done(duplicate.header)
            return
        self._read(_Read(duplicate.slot, duplicate.header, done))

    def await_durable(self, slots: Iterable[int], done: Callable[[], None]) -> None:
        """Call `done` when each slot has on disk what it is expected to hold now, or a newer reply."""
        self._waits[self._port_in_use().await_durable(tuple(slots))] = done

    def checkpoint(self) -> None:
        """Store the session table as of `applied_op`; `on_checkpoint` follows."""
        self._unchecked = 0
        self._port_in_use().checkpoint(self.applied_op, self._known_sessions().encode())

    def close_replies(self) -> None:
        """Make durable what was applied, and close the file; `on_closed` follows."""
        self.is_recovered = False
        self._port_in_use().close()

    # What the base does.

    def handlers(self) -> dict[type, Handler]:
        return dict.fromkeys(PORT_MESSAGES, self._port_message)

    def is_from(self, party: Enum, message: Any, sender: ActorAddress) -> bool:
        if party is Party.REPLIES:
            return sender == self._replies_actor
        return party is Party.POOL and sender == self._pool

    def tick(self) -> None:
        if self._port is not None:
            self._port.tick()
            self._look_at_port()
        now = self.environment.monotonic()
        for read in [read for read in self._damaged if now >= read.repaired_by]:
            self._damaged.remove(read)
            read.done(NotRead.CORRUPT)

    def child_exited(self, child: ActorAddress) -> None:
        if child == self._replies_actor:
            self._replies_actor = None
            self._failed(Fault(kind=FaultKind.ACTOR_DIED, found="a component that ended", expected="a living one"))

    def _known_sessions(self) -> ClientSessions:
        if self.sessions is None:
            raise InvariantBroken("the session table is used before the file is open: wait for `on_recovered`")
        return self.sessions

    def _port_in_use(self) -> RepliesPort:
        if self._port is None:
            raise InvariantBroken("the port is used before `start_replies`, or after `on_failed`")
        return self._port

    def _apply(self, entry: Entry) -> bytes | None:
        sessions, port = self._known_sessions(), self._port_in_use()
        self.applied_op = entry.op
        self._unchecked += 1
        if not isinstance(self.check(entry), NewRequest):
            return None
        registers = entry.request == 0
        reply = seal_reply(
            cluster=self._config.cluster,
            client=entry.client,
            session=entry.op if registers else entry.session,
            request=entry.request,
            op=entry.op,
            operation=entry.operation,
            timestamp=entry.timestamp,
            body=b"" if registers else self.execute(entry),
            request_checksum=entry.checksum,
        )
        header = reply[:HEADER_SIZE]
        if registers:
            registered = sessions.register(header)
            slot = registered.slot
            if registered.evicted is not None:
                self.on_evicted(registered.evicted.client)
        else:
            slot = sessions.commit(header)
        if len(reply) > HEADER_SIZE:
            port.write(slot, reply)
        else:
            port.remove(slot, entry.op)
        return reply

    def _port_message(self, message: object, sender: ActorAddress) -> None:
        if self._port is not None:
            if isinstance(message, RepliesOpened):
                self._pool = message.pool
            self._port.receive(message)
            self._look_at_port()

    def _look_at_port(self) -> None:
        if self._port is not None:
            for event in self._port.take_events():
                self._event(event)
        if self.sessions is not None and not self.is_recovered:
            self._recover()

    def _event(self, event: PortEvent) -> None:
        match event:
            case RepliesOpened():
                self._begin(event)
            case WritesAreDurable():
                self.on_durable(event.op)
            case CheckpointDone():
                self._checkpoint_before, self._checkpoint_op = self._checkpoint_op, event.op
                self.on_checkpoint(event.op, self._checkpoint_before)
            case ReadSucceeded():
                self._reads.pop(event.read).done(event.reply)
            case ReadFailed():
                self._not_read(self._reads.pop(event.read), event.reason)
            case SlotsAreDurable():
                self._waits.pop(event.wait)()
            case RepliesRepaired():
                for _, header in event.repaired:
                    for read in self._waited_for(header):
                        self._read(read)
            case ReplyLost():
                for read in self._waited_for(event.header):
                    read.done(NotRead.LOST)
                self.on_lost(event.slot, event.header)
            case PortFailed() | StorageFailed():
                self._failed(event.fault)
            case RepliesClosed():
                self._port = None
                self.on_closed()

    def _begin(self, opened: RepliesOpened) -> None:
        size = {"clients_max": self._config.clients_max, "cluster": self._config.cluster}
        self.sessions = ClientSessions.decode(opened.sessions, **size) if opened.sessions else ClientSessions(**size)
        self.applied_op = self._checkpoint_op = self._checkpoint_before = opened.op
        self.restore(opened.op)
        self._recovering = iter(self.entries(opened.op))

    def _recover(self) -> None:
        """Apply what the log has after the checkpoint, as far as there is room."""
        port = self._port_in_use()
        while port.ready:
            entry = next(self._recovering, None)
            if entry is None:
                self.is_recovered = True
                port.set_peers(tuple(sorted(self._peers.items())))
                self.on_recovered()
                return
            self._apply(entry)
            port.committed(entry.op)

    def _read(self, read: _Read) -> None:
        self._reads[self._port_in_use().read(read.slot, read.header)] = read
        self._look_at_port()  # a reply that waits in the port is there at once

    def _not_read(self, read: _Read, reason: NotRead) -> None:
        if reason is not NotRead.CORRUPT or read.repaired_by:
            read.done(reason)
            return
        read.repaired_by = self.environment.monotonic() + REPAIR_WAIT
        self._damaged.append(read)

    def _waited_for(self, header: bytes) -> list[_Read]:
        """The reads that waited for the repair of this reply, which has ended."""
        waited = [read for read in self._damaged if read.header == header]
        self._damaged = [read for read in self._damaged if read.header != header]
        return waited

    def _failed(self, fault: Fault) -> None:
        self.is_recovered = False
        self.sessions = self._port = None
        reads = [*self._reads.values(), *self._damaged]
        self._reads.clear()
        self._damaged.clear()
        self._waits.clear()
        for read in reads:
            read.done(NotRead.CLOSED)
        self.on_failed(fault)
