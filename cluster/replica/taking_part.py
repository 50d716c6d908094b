"""Taking part: the protocol, the log, the service and the component are put together, and nothing is decided.

    clients -> gateway -> vsr (order) -> state machine (execute) -> RepliesPort (keep the reply) -> answer

Guarantees: what the protocol wants done is done in its order, and what it waits for is told when it is durable and not
before. An entry is executed only while the port takes writes, so a slow disk slows the replica down instead of filling
its memory. A repeated request is answered from the component, never from memory of its own. Its observer hears of what
was executed before any of it leaves.

Owns: the protocol's state, the service's state machine, the log store, the port.
"""

from __future__ import annotations

from dataclasses import dataclass

from thespian.actors import ActorAddress

from client_replies.actors.owner.port_events import PORT_MESSAGES, PortEvent
from client_replies.cluster.control import (
    Finish,
    GetProgress,
    Join,
    Joined,
    Progress,
    ReplicaStarted,
    StartReplica,
    replica_name,
)
from client_replies.cluster.door.forwarding_messages import ForwardRequests, request_of
from client_replies.cluster.door.frames import PRIMARY_UNKNOWN
from client_replies.cluster.log.log_store import LogStore
from client_replies.cluster.log.log_writer import LogWriter
from client_replies.cluster.vsr.core import Status
from client_replies.cluster.vsr.effects import (
    AnswerClient,
    Effect,
    RedirectClient,
    RefuseClient,
    SendMessage,
    WriteLog,
)
from client_replies.cluster.vsr.replica import Replica
from client_replies.messages.message import MessageInvalid

from .finishing import Finishing, Stage
from .lifecycle import TICK, Started
from .network import Envelope
from .replica_replies import ReplicaReplies

IDLE_TICKS = 5  # at which nothing waited, until they become rarer
IDLE_PERIOD = 1.05  # of such ticks, in heartbeats: one is due at each of them


@dataclass(eq=False)
class TakingPart(Started):
    """See the module."""

    answer: ReplicaStarted
    store: LogStore
    restart_op: int  # where the log ended when this life began
    vsr: Replica
    joined: Join

    def __post_init__(self) -> None:
        self._log = LogWriter(self.store, self.replica.executor(), self._written)
        self._replies = ReplicaReplies(self.port, self._input, self.parts.observer)
        self._finishing = Finishing(self.vsr.core, self.port, self.parts.observer)
        self._peers_known: tuple[tuple[int, ActorAddress], ...] = ()
        self._was_ready = True
        self._idle_ticks = 0

    def enter(self) -> None:
        self.replica.members = dict(self.joined.members)
        self._carry_out(self.vsr.take_effects())
        self.advance()

    # What the script asks.

    def start(self, message: StartReplica, sender: ActorAddress) -> None:
        self.replica.send(sender, self.answer)

    def join(self, message: Join, sender: ActorAddress) -> None:
        """Learn who else is there, and who is another process than before."""
        if message.number > self.joined.number:
            for name, address in message.members:
                if self.replica.members.get(name, address) != address:
                    self.parts.network.restarted(name)
            self.replica.members = dict(message.members)
            self.joined = message
        self.replica.send(sender, Joined(name=self.setup.name, number=self.joined.number, votes=self.vsr.votes))

    def progress(self, message: GetProgress, sender: ActorAddress) -> None:
        """Say how far this replica is."""
        core = self.vsr.core
        answer = Progress(
            request=message.request,
            name=self.setup.name,
            done=core.executed,
            total=core.commit,
            counters=self.counts(),
            status={key: value for key, value in self.vsr.status().items() if key not in core.counters},
        )
        self.replica.send(sender, answer)

    def counts(self) -> dict[str, int]:
        ways = {**self.parts.network.counters, **self.parts.gateways.counters}
        return {**self.vsr.core.counters, **ways, **self._replies.counters, **super().counts()}

    def finish(self, message: Finish, sender: ActorAddress) -> None:
        """Go on towards the end, and say how far it is."""
        self._finishing.ask(message)
        self.advance()
        self.replica.send(sender, self._finishing.state(message, self.setup.name))

    # What comes in.

    def envelope(self, message: Envelope, sender: ActorAddress) -> None:
        """Take what another member said."""
        for item in self.parts.network.receive(message, self.replica.environment.monotonic()):
            self._carry_out(self.vsr.receive(item, self._now()))
        self.advance()

    def forwarded(self, message: ForwardRequests, sender: ActorAddress) -> None:
        """Take what clients said at a gateway."""
        requests = []
        for frame in self.parts.gateways.take(message, sender, self.replica.environment.monotonic()):
            try:
                requests.append(request_of(frame))
            except MessageInvalid:
                self.replica.counters["requests_invalid"] += 1
        if requests:
            self._input("request", requests)
        self.advance()

    def port_event(self, event: PortEvent) -> None:
        super().port_event(event)
        if not self._finishing.takes(event):
            self._replies.port_event(event)

    def _written(self, numbers: tuple[int, ...]) -> None:
        for number in numbers:
            self._input("log_written", number)
        self.advance()

    def tick(self) -> None:
        now = self.replica.environment.monotonic()
        self.port.tick()
        self.parts.observer.tick(now)
        self._replies.tick(now)
        self._input("tick")
        self.advance()
        self._idle_ticks = self._idle_ticks + 1 if self._is_idle else 0
        if self._idle_ticks == IDLE_TICKS:
            self.replica.start_ticks(IDLE_PERIOD * self.vsr.core.config.heartbeat)

    @property
    def _is_idle(self) -> bool:
        """True if time is for heartbeats alone, and for what waits seconds."""
        return self.port.idle and self.parts.network.is_idle and self.parts.gateways.is_idle and self.vsr.is_idle

    # What the protocol wants.

    def _now(self) -> float:
        return self.setup.epoch + self.replica.environment.monotonic()

    def _input(self, name: str, *args: object) -> None:
        if self._finishing.stage is not Stage.CLOSED:
            self._carry_out(getattr(self.vsr, name)(*args, self._now()))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendMessage():
                    now = self.replica.environment.monotonic()
                    self.parts.network.post(replica_name(effect.replica), effect.message, now)
                case WriteLog():
                    self._log.add(effect)
                case AnswerClient():
                    self.parts.gateways.reply(effect)
                case RefuseClient():
                    self.parts.gateways.refuse(effect)
                case RedirectClient():
                    self.parts.gateways.redirect(effect)
                case _:
                    self._replies.carry_out(effect)

    # What has become possible.

    def advance(self) -> None:
        super().advance()
        core = self.vsr.core
        if self.port.ready != self._was_ready:
            self._was_ready = self.port.ready
            self._input("replies_are_ready", self._was_ready)
        now = self.replica.environment.monotonic()
        if core.executed < core.commit:
            # The other replicas and the disk have work to do while this one executes.
            self.parts.network.flush(now)
            self._log.flush()
            self._input("execute")
        if self.port.is_open:
            self._meet_peers()
        self._finishing.advance()
        self.parts.observer.flush(core)
        self._flush(now)
        if self._idle_ticks >= IDLE_TICKS and not self._is_idle:
            self._idle_ticks = 0
            self.replica.start_ticks(TICK)

    def _meet_peers(self) -> None:
        """Let the component repair, once what the log still had is executed, and the component has heard of it.

        Before that it expects the replies of a checkpoint, which the others may have replaced long ago.
        """
        known = self.joined.replies
        # What was cut from the log's end in another view is not executed here.
        if known != self._peers_known and self.port.accepted >= min(self.restart_op, self.vsr.core.log.op):
            self._peers_known = known
            self.port.set_peers(tuple(peer for peer in known if peer[0] != self.setup.config.replica))

    def _flush(self, now: float) -> None:
        """Send and write what waits."""
        core = self.vsr.core
        # Clients first: they wait for nothing else. The log's thread last: it takes the interpreter from this one.
        knows = core.status is Status.NORMAL
        self.parts.gateways.flush(now, view=core.view, primary=core.primary if knows else PRIMARY_UNKNOWN)
        self.parts.network.flush(now)
        self._log.flush()


TakingPart.handles = {
    **dict.fromkeys(PORT_MESSAGES, TakingPart.port_message),
    Join: TakingPart.join,
    GetProgress: TakingPart.progress,
    Finish: TakingPart.finish,
    Envelope: TakingPart.envelope,
    ForwardRequests: TakingPart.forwarded,
}
