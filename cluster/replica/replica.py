"""One replica as an actor: it puts the protocol, the log, the service and the component together, and decides nothing.

    clients -> gateway -> vsr (order) -> state machine (execute) -> RepliesPort (keep the reply) -> answer

Guarantees: what the protocol wants done is done in its order, and what it waits for is told when it is durable and not
before. An entry is executed only while the port takes writes, so a slow disk slows the replica down instead of filling
its memory. A repeated request is answered from the component, never from memory of its own. Its observer hears of what
was executed before any of it leaves.

Limits: it does not go on without its log or its component. It says why, does nothing more, and ends its process by
SIGKILL like any other crash; its supervisor starts it again, from what is durable. Only proven rot, or what is not of
one life, is given up: set aside, while a majority votes without this replica, so that it comes back from the others.

Owns: the protocol's state, the service's state machine, the log store, the port; its ClientRepliesActor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, NoReturn

from thespian.actors import ActorAddress, ActorExitRequest, ThespianWatch

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.actors.owner.port_events import PORT_MESSAGES, PortFailed
from client_replies.actors.owner.replies_port import RepliesPort
from client_replies.actors.thespian.component_actor import ComponentActor, Handler
from client_replies.cluster.control import (
    Finish,
    FinishState,
    GetProgress,
    Join,
    Joined,
    Progress,
    ReplicaStarted,
    ReplicaStopped,
    Sender,
    StartReplica,
)
from client_replies.cluster.door import frames
from client_replies.cluster.door.forwarding_messages import ForwardRequests, request_of
from client_replies.cluster.door.frames import PRIMARY_UNKNOWN
from client_replies.cluster.door.gateway_port import GatewayPort
from client_replies.cluster.log.log_store import (
    LogStore,
    LogStoreError,
    StoreDamaged,
    StoreIdentity,
    StoreMissing,
)
from client_replies.cluster.log.log_writer import LogWriter
from client_replies.cluster.state_machine import StateMachine
from client_replies.cluster.vsr.config import VsrConfig
from client_replies.cluster.vsr.core import Status
from client_replies.cluster.vsr.durable import StoredLog
from client_replies.cluster.vsr.effects import (
    AnswerClient,
    Effect,
    RedirectClient,
    RefuseClient,
    SendMessage,
    WriteLog,
)
from client_replies.cluster.vsr.execution import Applied, Skipped
from client_replies.cluster.vsr.messages import LogEntry
from client_replies.cluster.vsr.replica import Replica, RestartImpossible
from client_replies.messages.config import OpenMode
from client_replies.messages.faults import Fault, FaultClass
from client_replies.messages.message import MessageInvalid
from client_replies.messages.peers import GetReplies
from client_replies.messages.protocol import Party
from client_replies.messages.replies import RepliesOpened

from .machine import Machine
from .network import Envelope, Network
from .observer import Observer
from .replica_replies import Replies

TICK = 0.02  # seconds, while something waits
IDLE_TICKS = 5  # at which nothing waited, until they become rarer
HEARTBEATS = 5  # in the time after which a silent primary is given up
END_DELAY = 1.0  # seconds that a replica which stopped leaves its supervisor to hear why and to end it
DATA_FILE = "replies.data"
NO_MAJORITY = "left as it is while no majority of the replicas votes without this one"


class ReplicaStops(BaseException):
    """The replica cannot go on; the reason is for its supervisor. No `Exception`: nothing on the way may go on."""


def replica_name(replica: int) -> str:
    """The name by which the members know a replica."""
    return f"replica-{replica}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a replica works with: what it executes, its ways to the others and to the gateways, and who hears of it."""

    state_machine: StateMachine
    network: Network
    gateways: GatewayPort
    observer: Observer = field(default_factory=Observer)


class ReplicaActor(ComponentActor):
    """See the module. A service says in a subclass what it executes."""

    parties = (Party.REPLICA, Party.HOLDER, Party.PEER)
    # Anyone may be a gateway, as anyone may be a client; what a gateway said, it alone is answered (`GatewayPort`).
    senders: ClassVar[Mapping[type, Enum]] = {
        StartReplica: Sender.SCRIPT,
        Join: Sender.SCRIPT,
        Finish: Sender.SCRIPT,
        Envelope: Sender.MEMBER,
        ForwardRequests: Party.ANYONE,
        GetProgress: Party.ANYONE,
    }

    def __init__(self, capabilities: Mapping[str, object] | None = None, requirements: object = None) -> None:
        super().__init__(capabilities, requirements)
        self.machine = self.make_machine()
        self._start: StartReplica | None = None
        self._script: ActorAddress | None = None
        self._stopped: ReplicaStopped | None = None
        self._stopped_at = 0.0
        self._replies_actor: ActorAddress | None = None
        self._replies_told: ActorAddress | None = None  # the address as others can use it
        self._pool: ActorAddress | None = None
        self._members: dict[str, ActorAddress] = {}
        self._joined: Join | None = None
        self._peers_known: tuple[tuple[int, ActorAddress], ...] = ()
        self._restart_op = 0  # where the log ended when this life began
        self._opening: tuple[RepliesOpened, StoredLog] | None = None
        self._vsr: Replica | None = None
        self._ready = True
        self._idle_ticks = 0
        self._idle_period = 0.0
        self._finish: Finish | None = None
        self._finish_stage = ""

    def make_machine(self) -> Machine:
        """What this replica runs on."""
        return Machine()

    def make_state_machine(self, message: StartReplica) -> StateMachine:
        """What this replica executes, in the state before the first operation."""
        raise NotImplementedError

    def make_parts(self, message: StartReplica, port: RepliesPort) -> Parts:
        """What this replica works with."""
        return Parts(
            state_machine=self.make_state_machine(message),
            network=Network(message.name, self.tell_member),
            gateways=GatewayPort(message.config.replica, message.config.cluster, self.send),
        )

    def handlers(self) -> dict[type, Handler]:
        return {
            StartReplica: self.start,
            Join: self.join,
            Envelope: self.envelope,
            ForwardRequests: self.forwarded,
            GetProgress: self.progress,
            Finish: self.finish,
            GetReplies: self.asked_for_replies,
            **dict.fromkeys(PORT_MESSAGES, self.port_message),
        }

    def is_from(self, party: Enum, message: Any, sender: ActorAddress) -> bool:
        """The script is who started the replica; it tells where the members are."""
        if party is Party.REPLIES:
            return self._replies_actor is not None and sender == self._replies_actor
        if party is Party.POOL:
            return self._pool is not None and sender == self._pool
        if party is Sender.SCRIPT:
            return self._script is None or sender == self._script
        if self._vsr is None:
            return True  # Before it takes part, a replica hears nothing of the others.
        return isinstance(message, Envelope) and self.is_member(message.sender, sender)

    def is_member(self, name: str, sender: ActorAddress) -> bool:
        """Whether the member of this name is at this address."""
        known = self._members.get(name)
        return known is not None and sender == known

    # Starting.

    def start(self, message: StartReplica, sender: ActorAddress) -> None:
        """Begin, or say that the beginning ended well."""
        if self._start is None:
            self._script = sender
            self._begin(message)
        if self._opening is not None and self._replies_told is not None:
            self.send(sender, ReplicaStarted(name=message.name, replies=self._replies_told, pid=self.machine.pid()))

    def asked_for_replies(self, message: GetReplies, sender: ActorAddress) -> None:
        """A peer takes us for our component, which was never up: it hears nothing, so it knows nothing to be lost."""

    def _begin(self, message: StartReplica) -> None:
        self._start = message
        # First of all: a child inherits what is open when it is made.
        self._replies_actor = self.create_child(ClientRepliesActor)
        with self._on_refusal("its directory"):
            self.machine.make_directory(message.directory)
        self._port = RepliesPort(
            owner=self.environment.unique(),
            send=self._send_to_replies,
            send_pool=self.send,
            now=self.environment.monotonic,
            open_memory=self.environment.open_memory,
        )
        parts = self.make_parts(message, self._port)
        self._state_machine, self._observer = parts.state_machine, parts.observer
        self._network, self._gateways = parts.network, parts.gateways
        self._replies = Replies(self._port, self._input, self._observer)
        self._port.open(message.config, OpenMode.OPEN_OR_FORMAT)
        self._idle_period = 1.05 * message.view_change / HEARTBEATS  # a heartbeat is due at each of these ticks
        self.start_ticks(TICK)

    @contextlib.contextmanager
    def _on_refusal(self, what: str) -> Iterator[None]:
        """What the operating system refuses within is the reason why this replica stops."""
        try:
            yield
        except OSError as error:
            self._die(f"{what}: {error}")

    def _opened(self, opened: RepliesOpened) -> None:
        """The component is open: open the log."""
        message = self._start
        if message is None or self._opening is not None:
            return
        if opened.damaged is not None:
            # The log goes back to the checkpoint before, and brings everything since; see `vsr.checkpoint`.
            damaged = opened.damaged
            self.count("checkpoint_damaged", op=damaged.op, used_op=opened.op, fault=str(damaged.fault))
        try:
            store = self._open_store(message, opened)
            self._opening = opened, store.load()
        except StoreDamaged as error:
            self._give_up(message.directory, str(error))
        except LogStoreError as error:
            self._die(str(error))
        else:
            self._log = LogWriter(store, self.executor(), self._written, self._die)

    def _not_opened(self, message: StartReplica, fault: Fault) -> NoReturn:
        """The component does not open."""
        if fault.kind.fault_class is FaultClass.DAMAGE:
            # Without it the log brings the rest, and the replica keeps its vote.
            self._give_up(message.config.path, f"the replies: {fault}")
        self._die(f"the replies cannot be opened: {fault}")

    def _take_part(self, message: StartReplica, opened: RepliesOpened, stored: StoredLog) -> None:
        """The others can be reached: the protocol begins, from what is durable."""
        try:
            self._vsr = Replica(
                self.vsr_config(message),
                self._state_machine,
                stored,
                replies_op=opened.op,
                faulty=opened.faulty,
                now=self._now(),
                random=self.machine.random(),
                observe=self.observe,
            )
        except RestartImpossible as error:
            self._give_up(message.directory, str(error))
        self._restart_op = stored.op
        self._carry_out(self._vsr.take_effects())

    def vsr_config(self, message: StartReplica) -> VsrConfig:
        """The limits and intervals of the protocol."""
        return VsrConfig(
            cluster=message.config.cluster,
            replica=message.config.replica,
            replicas=message.replicas,
            clients_max=message.config.clients_max,
            checkpoint_interval=message.checkpoint_interval,
            log_max=4 * message.checkpoint_interval + 64,
            heartbeat=message.view_change / HEARTBEATS,
            resend=message.view_change / 4,
            view_change=message.view_change,
        )

    def observe(self, entry: LogEntry, applied: Applied | Skipped) -> None:
        """An entry was applied."""
        self._observer.executed(entry, applied)

    def _open_store(self, message: StartReplica, opened: RepliesOpened) -> LogStore:
        identity = StoreIdentity(message.config.cluster, message.config.replica)
        try:
            return self.machine.open_log(message.directory, identity)
        except StoreMissing as error:
            if opened.op:
                self._give_up(message.directory, "replies without a log")
            if not (message.fresh or message.rebuild):
                self._die(f"{error}, and there was one; {NO_MAJORITY}")
            # What a new replica promises is nothing; what one promised that lost its log, nobody knows.
            return self.machine.format_log(message.directory, identity, voting=message.fresh)

    def _give_up(self, path: str, reason: str) -> NoReturn:
        """What is there is damaged: go on without it in the next life, if the others can do without it."""
        if self._start is None or not self._start.rebuild:
            self._die(f"{reason}; {NO_MAJORITY}")
        with self._on_refusal(f"{reason}; it cannot be set aside"):
            aside = self.machine.set_aside(path)
        self._die(f"{reason}; set aside as {aside}")

    def _die(self, reason: str) -> NoReturn:
        raise ReplicaStops(reason)

    def receiveMessage(self, message: object, sender: ActorAddress) -> ThespianWatch | None:
        """See `ComponentActor`; and the end of a replica that cannot go on."""
        if self._stopped is None or isinstance(message, ActorExitRequest):
            try:
                return super().receiveMessage(message, sender)
            except ReplicaStops as stop:
                self._stop_for_good(str(stop))
        elif self.environment.monotonic() - self._stopped_at > END_DELAY:
            self.machine.end()
        elif isinstance(message, StartReplica | Join):
            self.send(sender, self._stopped)
        if self._timer is None:
            return None
        self._timer.drain()
        self._timer.set(END_DELAY)
        return ThespianWatch([self._timer.fileno()])

    def _dispatch(self, message: object, sender: ActorAddress) -> None:
        with self._on_refusal(type(message).__name__):
            super()._dispatch(message, sender)

    def _stop_for_good(self, reason: str) -> None:
        name = self._start.name if self._start is not None else ""
        self.log.critical("replica_stops", replica=name, reason=reason)
        self._stopped = ReplicaStopped(name=name, pid=self.machine.pid(), reason=reason)
        self._stopped_at = self.environment.monotonic()
        if self._script is not None:
            self.send(self._script, self._stopped)

    def join(self, message: Join, sender: ActorAddress) -> None:
        """Learn who else is there, and who is another process than before."""
        if self._start is None or self._opening is None:
            return
        if self._joined is None or message.number > self._joined.number:
            for name, address in message.members:
                if name in self._members and self._members[name] != address:
                    self._network.restarted(name)
            self._members = dict(message.members)
            self._joined = message
            if self._vsr is None:
                self._take_part(self._start, *self._opening)
                self._advance()
        votes = self._vsr is not None and self._vsr.votes
        self.send(sender, Joined(name=self._start.name, number=self._joined.number, votes=votes))

    def _meet_peers(self, vsr: Replica) -> None:
        """Let the component repair, once what the log still had is executed, and the component has heard of it.

        Before that it expects the replies of a checkpoint, which the others may have replaced long ago.
        """
        start, joined = self._start, self._joined
        if start is None or joined is None or joined.replies == self._peers_known:
            return
        # What was cut from the log's end in another view is not executed here.
        if self._port.accepted >= min(self._restart_op, vsr.core.log.op):
            self._peers_known = joined.replies
            self._port.set_peers(tuple(peer for peer in joined.replies if peer[0] != start.config.replica))

    # What comes in.

    def _now(self) -> float:
        epoch = self._start.epoch if self._start is not None else 0.0
        return epoch + self.environment.monotonic()

    def envelope(self, message: Envelope, sender: ActorAddress) -> None:
        """Take what another member said."""
        if self._vsr is None:
            return
        for item in self._network.receive(message):
            self._carry_out(self._vsr.receive(item, self._now()))
        self._advance()

    def forwarded(self, message: ForwardRequests, sender: ActorAddress) -> None:
        """Take what clients said at a gateway."""
        if self._vsr is None:
            return
        requests = []
        for frame in self._gateways.take(message, sender, self.environment.monotonic()):
            try:
                requests.append(request_of(frame))
            except MessageInvalid:
                self.counters["requests_invalid"] += 1
        if requests:
            self._input("request", requests)
        self._advance()

    def port_message(self, message: object, sender: ActorAddress) -> None:
        """Take what the component or the pool said."""
        if self._start is None:
            return
        if isinstance(message, RepliesOpened):
            self._replies_told, self._pool = sender, message.pool
        self._port.receive(message)
        self._advance()

    def _written(self, numbers: tuple[int, ...]) -> None:
        with self._on_refusal("evidence"):
            for number in numbers:
                self._input("log_written", number)
            self._advance()

    def tick(self) -> None:
        """Let time pass."""
        if self._start is None:
            return
        with self._on_refusal("evidence"):
            self._port.tick()
            if self._vsr is not None:
                self._observer.tick(self.environment.monotonic())
                self._replies.tick(self.environment.monotonic())
                self._input("tick")
            self._advance()
            self._idle_ticks = self._idle_ticks + 1 if self._is_idle else 0
            if self._idle_ticks == IDLE_TICKS:
                self.start_ticks(self._idle_period)

    @property
    def _is_idle(self) -> bool:
        """True if time is for heartbeats alone, and for what waits seconds."""
        is_quiet = self._port.idle and self._network.is_idle and self._gateways.is_idle
        return is_quiet and self._vsr is not None and self._vsr.is_idle

    def child_exited(self, child: ActorAddress) -> None:
        """Without its component a replica is none."""
        if child == self._replies_actor and not self.exiting:
            self._die("its ClientRepliesActor died")

    # What the protocol wants.

    def _input(self, name: str, *args: object) -> None:
        if self._vsr is not None and self._finish_stage != "closed":
            self._carry_out(getattr(self._vsr, name)(*args, self._now()))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SendMessage):
                self._network.post(replica_name(effect.replica), effect.message, self.environment.monotonic())
            elif isinstance(effect, WriteLog):
                self._log.add(effect)
            elif isinstance(effect, AnswerClient):
                self._gateways.reply(effect.reply, view=effect.view, repeated=effect.repeated)
            elif isinstance(effect, RefuseClient):
                self._refuse(effect)
            elif isinstance(effect, RedirectClient):
                self._redirect(effect)
            else:
                self._replies.carry_out(effect)

    def _refuse(self, effect: RefuseClient) -> None:
        self._gateways.refuse(
            frames.Reason[effect.reason.name],
            client=effect.client,
            session=effect.session,
            request=effect.number,
            view=effect.view,
        )

    def _redirect(self, effect: RedirectClient) -> None:
        primary = PRIMARY_UNKNOWN if effect.replica is None else effect.replica
        self._gateways.redirect(client=effect.client, view=effect.view, primary=primary)

    # What has become possible.

    def _advance(self) -> None:
        while events := self._port.take_events():
            for event in events:
                if isinstance(event, RepliesOpened):
                    self._opened(event)
                elif isinstance(event, PortFailed) and self._opening is None and self._start is not None:
                    self._not_opened(self._start, event.fault)
                elif isinstance(event, PortFailed):
                    self._die(str(event.fault))
                else:
                    self._replies.port_event(event, self._die)
        vsr = self._vsr
        if vsr is None:
            return
        if self._port.ready != self._ready:
            self._ready = self._port.ready
            self._input("replies_are_ready", self._ready)
        now = self.environment.monotonic()
        if vsr.core.executed < vsr.core.commit:
            # The other replicas and the disk have work to do while this one executes.
            self._network.flush(now)
            self._log.flush()
            self._input("execute")
        if self._finish_stage not in ("closing", "closed"):
            self._meet_peers(vsr)
        self._advance_finish()
        self._observer.flush(vsr.core)
        # Clients first: they wait for nothing else. The log's thread last: it takes the interpreter from this one.
        knows = vsr.core.status is Status.NORMAL
        self._gateways.flush(now, view=vsr.core.view, primary=vsr.core.primary if knows else PRIMARY_UNKNOWN)
        self._network.flush(now)
        self._log.flush()
        if self._idle_ticks >= IDLE_TICKS and not self._is_idle:
            self._idle_ticks = 0
            self.start_ticks(TICK)

    # What goes out.

    def tell_member(self, name: str, message: object) -> None:
        """Send to a member, if it is there."""
        address = self._members.get(name)
        if address is not None:
            self.send(address, message)

    def _send_to_replies(self, message: object) -> None:
        if self._replies_actor is not None:
            self.send(self._replies_actor, message)

    # What the script asks.

    def progress(self, message: GetProgress, sender: ActorAddress) -> None:
        """Say how far this replica is."""
        if self._start is None or self._vsr is None:
            return
        status = self._vsr.status()
        answer = Progress(
            request=message.request,
            name=self._start.name,
            done=self._vsr.core.executed,
            total=self._vsr.core.commit,
            counters=self.counts(),
            status={key: value for key, value in status.items() if key not in self._vsr.core.counters},
        )
        self.send(sender, answer)

    def counts(self) -> dict[str, int]:
        """What was counted in this life."""
        protocol = self._vsr.core.counters if self._vsr is not None else {}
        ways = {**self._network.counters, **self._gateways.counters}
        return {**protocol, **ways, **self._replies.counters, **(+self.counters)}

    def finish(self, message: Finish, sender: ActorAddress) -> None:
        """Go on towards the end, and say how far it is."""
        if self._start is None or self._vsr is None:
            return
        if self._finish is None or (message.close and not self._finish.close):
            self._finish = message
        self._advance()
        done = self._finish_stage == "closed" or (not message.close and self._finish_stage == "durable")
        waiting = f"stage {self._finish_stage or 'executing'}, op {self._vsr.core.executed} of {message.op}"
        state = FinishState(request=message.request, name=self._start.name, done=done, waiting_for=waiting)
        self.send(sender, state)

    def _advance_finish(self) -> None:
        vsr, finish = self._vsr, self._finish
        if vsr is None or finish is None or vsr.core.executed < finish.op:
            return
        if self._finish_stage == "":
            self._finish_stage = "waiting for slots to be durable"
            self._port.committed(vsr.core.executed)
            slots = tuple(vsr.core.execution.sessions.expectations())
            self._replies.await_all(slots, lambda: self._finish_is("durable"))
        elif self._finish_stage == "durable" and finish.close:
            self._finish_stage = "closing"
            self._port.committed(vsr.core.executed)
            self._replies.closed = self._closed
            self._port.close()

    def _finish_is(self, stage: str) -> None:
        self._finish_stage = stage

    def _closed(self) -> None:
        self._finish_stage = "closed"
        if self._vsr is not None:
            self._observer.close(self._vsr.core)
