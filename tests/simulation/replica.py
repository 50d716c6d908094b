"""A replica for the simulator: the shipped port, session table and actors around a log that an oracle gives.

Guarantees: it executes what is committed, in order, each entry once; answers a repeated request with the reply that
its component keeps; takes checkpoints; after a crash it goes on from its file's last checkpoint; too far behind, or
without its file, it takes over a peer's checkpoint. When its component dies or stops, it makes a new one.

Limits: no agreement on the log, which is the oracle's. Owns: its session table, its port, its component.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thespian.actors import (
    Actor,
    ActorAddress,
    ActorExitRequest,
    ActorSystemMessage,
    ChildActorExited,
    WakeupMessage,
)

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.actors.owner.port_events import PortFailed, ReadFailed, ReadSucceeded, SlotsAreDurable
from client_replies.messages.config import OpenMode
from client_replies.messages.faults import FaultKind
from client_replies.messages.replies import (
    CheckpointDone,
    GetStatus,
    NotRead,
    RepliesClosed,
    RepliesOpened,
    RepliesRepaired,
    ReplyLost,
    SessionsInstalled,
    StorageFailed,
)
from client_replies.messages.reply_header import HEADER_SIZE, packed_size
from client_replies.storage.client_sessions import (
    ClientSessions,
    DuplicateRequest,
    NewRequest,
    NoSession,
    SessionTooLow,
)

from .chance import Chance
from .history import CLUSTER, ClientRequest, Entry, Result, build_reply, next_state
from .promises import WatchedPort

if TYPE_CHECKING:
    from .world import World

TICK = 0.05
HELLO_TICKS = 8
OPEN_AGAIN = (0.02, 0.3)
APPLY_MAX = 16
SYNC_TIMEOUT = 1.0
SYNC_PATIENCE = 5.0

# A file that is damaged beyond use is given up: the replica begins without one.
FILE_BEYOND_USE = frozenset({FaultKind.SUPERBLOCK_CORRUPT, FaultKind.TRAILER_CORRUPT, FaultKind.NOT_A_DATA_FILE})


@dataclass(frozen=True, slots=True)
class Start(ActorSystemMessage):
    """The first message to a replica. `component` is one that outlived its last incarnation."""

    component: ActorAddress | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """The log has grown to `op`."""

    op: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply for a client."""

    client: int
    reply: bytes


@dataclass(frozen=True, slots=True)
class Evicted:
    """The client's session is gone."""

    client: int
    session: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The request was executed, and its reply is lost everywhere."""

    client: int
    request: int


@dataclass(frozen=True, slots=True)
class NotPrimary:
    """Ask another."""

    client: int
    primary: int


@dataclass(frozen=True, slots=True)
class PeerHello:
    """Where a replica's ClientRepliesActor is."""

    replica: int
    component: ActorAddress
    wants_answer: bool


@dataclass(frozen=True, slots=True)
class GetCheckpoint:
    """A replica that is behind asks for a peer's last checkpoint."""

    replica: int
    applied: int


@dataclass(frozen=True, slots=True)
class PeerCheckpoint:
    """The session table as of `op`, which is a durable checkpoint of the sender."""

    op: int
    sessions: bytes


class ReplicaActor(Actor):
    """See the module."""

    def __init__(self, capabilities: object = None, requirements: Any = None) -> None:
        super().__init__()
        world, index = requirements
        self.world: World = world
        self.index: int = index
        self.environment = world.environments[index]
        self.plan = world.plan
        self.port: WatchedPort | None = None
        self.component: ActorAddress | None = None
        self.sessions = ClientSessions(world.config(index).clients_max, CLUSTER)
        self.applied = 0
        self.state = 0
        self.opened = False
        self.closing = False
        self.closed = False
        self.checkpoint_op = 0
        self.checkpoint_sessions = b""
        self.syncing: int | None = None  # the op that is being installed
        self.sync_wait: int | None = None
        self.lost: dict[int, bytes] = {}
        self.waits: set[int] = set()  # beside that of a sync
        self._asks = Chance(world.plan.seed, f"asks {index}")  # for what nothing depends on but that it is true
        self._checkpoints: dict[int, bytes] = {}
        self._sync_asked = -SYNC_TIMEOUT
        self._peers: dict[int, ActorAddress] = {}
        self._waiting: dict[int, ActorAddress] = {}  # op to the client that gets its reply
        self._reads: dict[int, tuple[ActorAddress, int, int]] = {}
        self._ticks = 0
        self._open_at: float | None = None
        self._pause_until = 0.0
        self._lost_file = False

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Take a message, then do what has become possible."""
        if isinstance(message, WakeupMessage):
            self._tick()
        elif isinstance(message, Start):
            self.component = message.component
            self.wakeupAfter(TICK)
            self._open()
        elif isinstance(message, ChildActorExited):
            if self.component is not None and message.childAddress == self.component:
                self._component_gone()
        elif isinstance(message, ActorExitRequest):
            return
        elif self.port is not None and self.port.receive(message):
            pass
        else:
            self._from_outside(message, sender)
        self._go_on()

    def _from_outside(self, message: object, sender: ActorAddress) -> None:
        if isinstance(message, ClientRequest):
            self._request(message, sender)
        elif isinstance(message, PeerHello):
            self._hello(message, sender)
        elif isinstance(message, GetCheckpoint):
            if self.checkpoint_op > message.applied:
                self.send(sender, PeerCheckpoint(self.checkpoint_op, self.checkpoint_sessions))
        elif isinstance(message, PeerCheckpoint):
            self._install(message)

    # The component's life.

    def _open(self) -> None:
        """Ask for the file, through a component of our own unless one outlived us."""
        if self.component is None:
            self.component = self.createActor(ClientRepliesActor, targetActorRequirements=self.environment)
            self.world.component_created(self.index, self.component)
        component = self.component
        self.opened = self.closing = False
        self._open_at = None
        self.syncing = self.sync_wait = None
        self._reads.clear()
        self._checkpoints.clear()
        self.waits.clear()
        self.port = WatchedPort(
            clients_max=self.world.config(self.index).clients_max,
            owner=self.environment.unique(),
            send=lambda message: self.send(component, message),
            send_pool=self.send,
            now=self.environment.monotonic,
            open_memory=self.environment.open_memory,
            pending_max=self.plan.pending_max,
            batch_max=self.plan.batch_max,
            resend_timeout=self.plan.port_resend,
            write_interval=self.plan.write_interval,
        )
        self.port.open(self.world.config(self.index), OpenMode.OPEN_OR_FORMAT)

    def _open_later(self) -> None:
        self.port = None
        self.opened = False
        self._open_at = self.environment.monotonic() + self.environment.uniform(*OPEN_AGAIN)

    def _component_gone(self) -> None:
        self.component = None
        self._open_later()

    def _replace_component(self) -> None:
        if self.component is not None:
            self.send(self.component, ActorExitRequest())
        self.component = None
        self._open_later()

    def _tick(self) -> None:
        self.wakeupAfter(TICK)
        self._ticks += 1
        now = self.environment.monotonic()
        if self._open_at is not None and now >= self._open_at and not self.closed:
            self._open()
        if self.port is not None:
            self.port.tick()
            self._ask_status()
        if self.opened and self._ticks % HELLO_TICKS == 0:
            self._say_hello()

    def _ask_status(self) -> None:
        if self.component is not None and self._asks.chance(self.plan.status_asked):
            slots = tuple(range(self.world.config(self.index).clients_max))
            self.send(self.component, GetStatus(request=self._ticks, slots=slots))

    def _say_hello(self) -> None:
        if self.component is not None:
            for address in self.world.peers_of(self.index):
                self.send(address, PeerHello(self.index, self.component, wants_answer=False))

    def _hello(self, message: PeerHello, sender: ActorAddress) -> None:
        known = self._peers.get(message.replica)
        if known is None or known != message.component:
            self._peers[message.replica] = message.component
            self._set_peers()
        if message.wants_answer and self.component is not None:
            self.send(sender, PeerHello(self.index, self.component, wants_answer=False))

    def _set_peers(self) -> None:
        # Two peers or none: told of one alone, the component would believe it to be the only other one.
        if self.port is not None and self.port.is_open and len(self._peers) == self.world.replicas_count - 1:
            self.port.set_peers(tuple(self._peers.items()))

    # What the port says.

    def _go_on(self) -> None:
        port = self.port
        while port is not None and (events := port.take_events()):
            for event in events:
                self._event(event)
                if self.port is not port:
                    return
        if self.port is not None and self.opened and not self.closing:
            self._advance()

    def _event(self, event: object) -> None:
        if self.port is not None:
            self.world.checkers.promises.port_event(self.index, self.port, event)
        self.world.checkers.port_event(self.index, event)
        if isinstance(event, RepliesOpened):
            self._opened(event)
        elif isinstance(event, PortFailed):
            self._failed(event)
        elif isinstance(event, StorageFailed):
            self._replace_component()
        elif isinstance(event, ReadSucceeded):
            self._answer_read(event)
        elif isinstance(event, ReadFailed):
            self._answer_not_read(event)
        elif isinstance(event, CheckpointDone):
            self.checkpoint_op = event.op
            self.checkpoint_sessions = self._checkpoints.pop(event.op)
        elif isinstance(event, SessionsInstalled):
            self._read_installed()
            if self.port is not None and self.port.is_open and event.faulty:
                self.sync_wait = self.port.await_durable(event.faulty)
            else:
                self.syncing = None
        elif isinstance(event, SlotsAreDurable):
            if event.wait == self.sync_wait:
                self.world.marks.hit("sync_complete")
                self.sync_wait = self.syncing = None
            self.waits.discard(event.wait)
        elif isinstance(event, ReplyLost):
            self.lost[event.slot] = event.header
        elif isinstance(event, RepliesRepaired):
            for slot in event.slots:
                self.lost.pop(slot, None)
        elif isinstance(event, RepliesClosed):
            self.closed = True
            self.opened = False

    def _opened(self, event: RepliesOpened) -> None:
        self.opened = True
        self._lost_file = event.formatted and self.world.was_formatted(self.index)
        self.world.formatted(self.index)
        config = self.world.config(self.index)
        self.sessions = (
            ClientSessions.decode(event.sessions, clients_max=config.clients_max, cluster=CLUSTER)
            if event.sessions
            else ClientSessions(config.clients_max, CLUSTER)
        )
        self.applied = self.checkpoint_op = event.op
        self.checkpoint_sessions = event.sessions
        self.state = self.world.history.state(event.op)
        self._set_peers()
        for address in self.world.peers_of(self.index):
            if self.component is not None:
                self.send(address, PeerHello(self.index, self.component, wants_answer=True))

    def _failed(self, event: PortFailed) -> None:
        kind = event.fault.kind
        if kind in FILE_BEYOND_USE:
            self.world.lose_file(self.index)
        if self.opened or kind in (FaultKind.STOPPED, FaultKind.ACTOR_DIED):
            self._replace_component()
        else:
            self._open_later()

    # Executing.

    def _advance(self) -> None:
        port, world = self.port, self.world
        if port is None:
            return
        now = self.environment.monotonic()
        behind = world.known_op(self.index) - self.applied
        if world.sync_wanted[self.index] and world.best_checkpoint() > self.applied:
            self._ask_for_checkpoint(now)
        if behind > self.plan.log_size or (self._lost_file and self.applied == 0 and behind > 0):
            self._ask_for_checkpoint(now)
            if world.best_checkpoint() > self.applied:
                return
        if now < self._pause_until:
            return
        count = 0
        while count < min(APPLY_MAX, behind) and port.ready:
            self._apply(world.history.entry(self.applied + 1))
            count += 1
            if self.applied % self.plan.checkpoint_interval == 0:
                port.committed(self.applied)
                self._checkpoint()
        if count:
            port.committed(self.applied, tell_durable=self._asks.chance(self.plan.durable_asked))
            if world.lag[self.index]:
                self._pause_until = now + self.environment.uniform(0.0, world.lag[self.index])

    def _checkpoint(self) -> None:
        if self.port is not None:
            sessions = self.sessions.encode()
            self.world.checkers.sessions_at(self.index, self.applied, sessions)
            self._checkpoints[self.applied] = sessions
            self.port.checkpoint(self.applied, sessions)

    def _apply(self, entry: Entry) -> None:
        request = entry.request
        if request.registers:
            new = isinstance(self.sessions.check_registration(request.client, request.checksum), NewRequest)
        else:
            status = self.sessions.check(request.client, request.session, request.request, request.checksum)
            new = isinstance(status, NewRequest)
        state = next_state(self.state, entry)
        known = self.world.history.results.get(entry.op)
        result = Result(None, None, state)
        if new:
            reply = known.reply if known is not None and known.reply is not None else build_reply(entry, state)
            result = Result(self._execute(entry, reply), reply, state)
        self.world.checkers.applied(self.index, entry, result)
        self.applied, self.state = entry.op, state
        client = self._waiting.pop(entry.op, None)
        if client is not None and result.reply is not None:
            self.send(client, Answer(request.client, result.reply))

    def _execute(self, entry: Entry, reply: bytes) -> int:
        """Take the reply into the table, and give it to the component if it has a body."""
        header = reply[:HEADER_SIZE]
        if entry.request.registers:
            registered = self.sessions.register(header)
            slot = registered.slot
            if registered.evicted is not None:
                self.world.marks.hit("session_evicted")
        else:
            slot = self.sessions.commit(header)
        if self.port is not None:
            if len(reply) > HEADER_SIZE:
                self.port.write(slot, reply)
                if not self.waits and self._asks.chance(self.plan.waits_asked):
                    self.waits.add(self.port.await_durable((slot,)))
            else:
                self.port.remove(slot, entry.op)
        return slot

    # State sync.

    def _ask_for_checkpoint(self, now: float) -> None:
        # What was being installed may be lost everywhere by now, because the others have gone on: then begin anew.
        patience = SYNC_TIMEOUT if self.syncing is None else SYNC_PATIENCE
        if now - self._sync_asked >= patience:
            self._sync_asked = now
            for address in self.world.peers_of(self.index):
                self.send(address, GetCheckpoint(self.index, self.applied))

    def _install(self, message: PeerCheckpoint) -> None:
        if self.port is None or not self.opened or self.closing or message.op <= self.applied:
            return
        config = self.world.config(self.index)
        self.world.marks.hit("sync_started")
        self.world.sync_wanted[self.index] = False
        if not self.port.idle:
            self.world.marks.hit("sync_while_writing")
        self.sessions = ClientSessions.decode(message.sessions, clients_max=config.clients_max, cluster=CLUSTER)
        self.syncing = self.applied = message.op
        self.state = self.world.history.state(message.op)
        self._waiting.clear()
        self.port.install(message.op, message.sessions)
        if self.plan.checkpoint_after_sync:
            self._checkpoint()

    # Clients.

    def _request(self, message: ClientRequest, sender: ActorAddress) -> None:
        world = self.world
        if world.primary != self.index:
            self.send(sender, NotPrimary(message.client, world.primary))
            return
        if (
            self.port is None
            or not self.opened
            or self.closing
            or world.history.is_pending(message.client, self.applied)
        ):
            return  # The client asks again.
        if message.registers:
            status: object = self.sessions.check_registration(message.client, message.checksum)
        else:
            status = self.sessions.check(message.client, message.session, message.request, message.checksum)
        world.marks.hit(f"request_{type(status).__name__}{'_registration' if message.registers else ''}")
        world.checkers.judged(self.applied, message, status)
        if isinstance(status, NewRequest):
            self._commit(message, sender)
        elif isinstance(status, DuplicateRequest):
            if packed_size(status.header) == HEADER_SIZE:
                self.send(sender, Answer(message.client, status.header))
            else:
                read = self.port.read(status.slot, status.header)
                self._reads[read] = (sender, message.client, message.request)
        elif isinstance(status, NoSession | SessionTooLow):
            self.send(sender, Evicted(message.client, message.session))

    def _commit(self, message: ClientRequest, sender: ActorAddress) -> None:
        if self.port is None or not self.port.ready:
            self.world.marks.hit("request_pushed_back")
            return
        entry = self.world.commit(message, self.index)
        self._waiting[entry.op] = sender

    def _answer_read(self, event: ReadSucceeded) -> None:
        asked = self._reads.pop(event.read, None)
        if asked is not None:
            sender, client, _request = asked
            self.world.marks.hit("duplicate_answered_from_component")
            self.send(sender, Answer(client, event.reply))

    def _read_installed(self) -> None:
        """After some state syncs: the replies are asked for at once, while obsolete ones may still be on their way."""
        if self.port is not None and self.port.is_open and self.applied % 2:
            for slot, header in self.sessions.expectations().items():
                self.port.read(slot, header)

    def _answer_not_read(self, event: ReadFailed) -> None:
        asked = self._reads.pop(event.read, None)
        self.world.marks.hit(f"not_read_{event.reason.name}")
        if asked is not None and event.reason is NotRead.LOST:
            sender, client, request = asked
            self.send(sender, Lost(client, request))

    # The end.

    def close(self) -> None:
        """Close the file in order. Called by the simulator, as if by a message."""
        if self.port is not None and self.opened and not self.closing:
            self.closing = True
            self.port.close()
