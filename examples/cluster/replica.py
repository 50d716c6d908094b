"""One replica as an actor: it puts the protocol, the log, the service and the component together, and decides nothing.

    clients -> gateway or network -> vsr (order) -> ledger (execute) -> RepliesPort (keep the reply) -> answer

Guarantees: what the protocol wants done is done in its order, and what it waits for is told when it is durable and not
before. An entry is executed only while the port takes writes, so a slow disk slows the replica down instead of filling
its memory. A repeated request is answered from the component, never from memory of its own. What was executed is in the
journal before any of it leaves.

Gives up: going on without its log or its component. It ends its process then, by SIGKILL like any other crash: who
supervises it starts it again, from what is durable. What is not of one life is removed, and comes back from the others.

Owns: the protocol's state machine, the log store, the port; its ClientRepliesActor; its journal and events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from thespian.actors import ActorAddress

from client_replies.actors.client_replies import ClientRepliesActor
from client_replies.actors.component import ComponentActor, Handler
from client_replies.actors.environment import Environment
from client_replies.actors.replies_port import PORT_MESSAGES, PortFailed, RepliesPort
from client_replies.messages.config import OpenMode
from client_replies.messages.faults import FaultKind
from client_replies.messages.message import MessageInvalid
from client_replies.messages.replies import RepliesOpened
from client_replies.messages.reply_header import HEADER_SIZE

from . import frames
from .control import (
    Finish,
    FinishState,
    GetProgress,
    Hurt,
    HurtDone,
    Join,
    Joined,
    MemberFailed,
    Progress,
    ReplicaStarted,
    StartReplica,
)
from .damage import SlotDamaged
from .evidence import Final
from .forwarding import ForwardRequests, GatewayPort, request_of
from .frames import PRIMARY_UNKNOWN
from .journal import Journal
from .log_store import LogStore, LogStoreError, StoreDamaged, StoreIdentity, StoreMissing, StoreOfOther
from .log_writer import LogWriter
from .machine import Machine
from .network import Envelope, Network, cluster_faults
from .protocol import Answer, Redirected, Refusal, Refused, Request
from .replica_events import Events
from .replica_replies import Replies
from .vsr.config import VsrConfig
from .vsr.core import Status
from .vsr.durable import StoredLog
from .vsr.effects import (
    AnswerClient,
    Effect,
    RedirectClient,
    RefuseClient,
    SendMessage,
    WriteLog,
)
from .vsr.execution import Applied, Skipped
from .vsr.messages import LogEntry, VsrMessage
from .vsr.replica import Replica, RestartImpossible

TICK = 0.02  # seconds
DATA_FILE = "replies.data"
JOURNAL_FILE = "journal.jsonl"
EVENTS_FILE = "events.jsonl"
FINAL_FILE = "final.json"
# Why an opening may fail that succeeds in another life. The pool's memory is gone when its actor has just died.
PASSING = frozenset({FaultKind.FILE_LOCKED, FaultKind.ACTOR_DIED, FaultKind.STOPPED, FaultKind.MEMORY_UNAVAILABLE})


def replica_name(replica: int) -> str:
    """The name by which the members know a replica."""
    return f"replica-{replica}"


class ReplicaActor(ComponentActor):
    """See the module."""

    def __init__(
        self, capabilities: Mapping[str, object] | None = None, requirements: Environment | None = None
    ) -> None:
        super().__init__(capabilities, requirements)
        self.machine = self.make_machine()
        self._start: StartReplica | None = None
        self._failure = ""
        self._replies_actor: ActorAddress | None = None
        self._replies_told: ActorAddress | None = None  # the address as others can use it
        self._members: dict[str, ActorAddress] = {}
        self._joined: Join | None = None
        self._peers_known: tuple[tuple[int, ActorAddress], ...] = ()
        self._restart_op = 0  # where the log ended when this life began
        self._routes: dict[int, str] = {}  # by client: the member that it is at, or "" for a gateway
        self._opening: tuple[RepliesOpened, StoredLog] | None = None
        self._vsr: Replica | None = None
        self._ready = True
        self._drop_answers = 0
        self._block: frozenset[int] = frozenset()
        self._finish: Finish | None = None
        self._finish_stage = ""

    def make_machine(self) -> Machine:
        """What this replica runs on."""
        return Machine()

    def handlers(self) -> dict[type, Handler]:
        """See `ComponentActor`."""
        return {
            StartReplica: self.start,
            Join: self.join,
            Envelope: self.envelope,
            ForwardRequests: self.forwarded,
            GetProgress: self.progress,
            Finish: self.finish,
            Hurt: self.hurt,
            SlotDamaged: self.slot_damaged,
            **dict.fromkeys(PORT_MESSAGES, self.port_message),
        }

    # Starting.

    def start(self, message: StartReplica, sender: ActorAddress) -> None:
        """Begin, or say how the beginning ended."""
        if self._start is None:
            self._begin(message)
        if self._failure:
            self.send(sender, MemberFailed(name=message.name, reason=self._failure))
        elif self._opening is not None and self._replies_told is not None:
            self.send(sender, ReplicaStarted(name=message.name, replies=self._replies_told, pid=self.machine.pid()))

    def _begin(self, message: StartReplica) -> None:
        self._start = message
        # First of all: a child inherits what is open when it is made.
        self._replies_actor = self.create_child(ClientRepliesActor)
        self.machine.make_directory(message.directory)
        weather = cluster_faults(message.drop_replies, message.duplicate_requests) if message.weather else {}
        self._network = Network(message.name, message.seed, weather, self._send_envelope)
        self._gateways = GatewayPort(message.config.replica, message.config.cluster, self.send)
        evidence = Path(message.evidence) if message.evidence else None
        self._journal = Journal(evidence / JOURNAL_FILE if evidence else None, message.plant)
        self._port = RepliesPort(
            owner=self.environment.unique(),
            send=self._send_to_replies,
            send_pool=self.send,
            now=self.environment.monotonic,
            open_memory=self.environment.open_memory,
        )
        self._replies = Replies(self._port, self._input)
        self._events = Events(message, evidence / EVENTS_FILE if evidence else None, self._port, self._order_damage)
        self._port.open(message.config, OpenMode.OPEN_OR_FORMAT)
        self.start_ticks(TICK)

    def _opened(self, opened: RepliesOpened) -> None:
        """The component is open: open the log."""
        message = self._start
        if message is None or self._opening is not None:
            return
        try:
            store = self._open_store(message, opened)
            self._opening = opened, store.load()
        except StoreDamaged as error:
            self._give_disk_up(message, str(error))
        except StoreOfOther as error:
            self._failure = f"{error}; give another directory, or remove this one"
        except LogStoreError as error:
            self._die(str(error))
        else:
            self._log = LogWriter(store, self.executor(), self._written, self._die)

    def _take_part(self, message: StartReplica, opened: RepliesOpened, stored: StoredLog) -> None:
        """The others can be reached: the protocol begins, from what is durable."""
        try:
            self._vsr = Replica(
                self.vsr_config(message),
                self._journal.machine,
                stored,
                replies_op=opened.op,
                faulty=opened.faulty,
                now=self._now(),
                random=self.machine.random(),
                observe=self.observe,
            )
        except RestartImpossible as error:
            self._give_disk_up(message, str(error))
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
            heartbeat=message.view_change / 10,
            resend=message.view_change / 4,
            view_change=message.view_change,
        )

    def observe(self, entry: LogEntry, applied: Applied | Skipped) -> None:
        """An entry was applied: write it down."""
        self._journal.observe(entry, applied)

    def _open_store(self, message: StartReplica, opened: RepliesOpened) -> LogStore:
        identity = StoreIdentity(message.config.cluster, message.config.replica)
        try:
            return self.machine.open_log(message.directory, identity)
        except StoreMissing:
            if opened.op:
                self._give_disk_up(message, "replies without a log")
            # What a new replica promises is nothing; what one promised that lost its log, nobody knows.
            return self.machine.format_log(message.directory, identity, voting=message.fresh)

    def _give_disk_up(self, message: StartReplica, reason: str) -> NoReturn:
        """What is here is not of one life: go on as a replica that lost its disk."""
        self.machine.clear_directory(message.directory)
        self._die(reason)

    def _die(self, reason: str) -> NoReturn:
        self.log.critical("replica_ends", reason=reason)
        self.machine.end()

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
        self.send(sender, Joined(name=self._start.name, number=self._joined.number))

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
        requests = []
        for item in self._network.receive(message):
            if isinstance(item, Request):
                requests.append(item)
            elif isinstance(item, VsrMessage):
                self._carry_out(self._vsr.receive(item, self._now()))
        self._requests(requests, message.sender)
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
        self._requests(requests, "")
        self._advance()

    def _requests(self, requests: Sequence[Request], route: str) -> None:
        self._routes.update((request.client, route) for request in requests)
        if requests:
            self._input("request", requests)

    def port_message(self, message: object, sender: ActorAddress) -> None:
        """Take what the component or the pool said."""
        if self._start is None:
            return
        if isinstance(message, RepliesOpened):
            self._replies_told = sender
        self._port.receive(message)
        self._advance()

    def _written(self, number: int) -> None:
        self._input("log_written", number)
        self._advance()

    def slot_damaged(self, message: SlotDamaged, sender: ActorAddress) -> None:
        """The slot is damaged: let its client ask."""
        if self._vsr is not None:
            self._events.slot_damaged(message.number)

    def tick(self) -> None:
        """Let time pass."""
        if self._start is None:
            return
        self._port.tick()
        if self._vsr is not None:
            self._events.tick(self.environment.monotonic())
            self._replies.tick(self.environment.monotonic())
            self._input("tick")
        self._advance(answer_all=True)

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
                self._answer(effect)
            elif isinstance(effect, RefuseClient):
                self._refuse(effect)
            elif isinstance(effect, RedirectClient):
                self._redirect(effect)
            else:
                self._replies.carry_out(effect, self._journal, self._events)

    def _answer(self, effect: AnswerClient) -> None:
        verdict = self._events.on_answer(effect)
        route = self._routes.get(effect.client)
        if route is None:
            return
        lose = verdict.lose or effect.client in self._block
        if self._drop_answers and not lose and len(verdict.reply) > HEADER_SIZE:
            self._drop_answers -= 1
            lose = True
        if lose:
            self.counters["answers_dropped"] += 1
        if route == "":
            if not lose:
                self._gateways.reply(verdict.reply, view=effect.view, repeated=effect.repeated)
            return
        answer = Answer(client=effect.client, reply=verdict.reply, view=effect.view)
        sent = self._network.post(route, answer, self.environment.monotonic(), lose=lose)
        self._events.answered(effect, sent)

    def _refuse(self, effect: RefuseClient) -> None:
        route = self._routes.get(effect.client)
        if effect.client in self._block:
            return
        if route == "":
            self._gateways.refuse(
                frames.Reason[effect.reason.name],
                client=effect.client,
                session=effect.session,
                request=effect.number,
                view=effect.view,
            )
        elif route is not None:
            refused = Refused(
                client=effect.client,
                session=effect.session,
                number=effect.number or 0,
                refusal=Refusal[effect.reason.name],
                view=effect.view,
            )
            self._network.post(route, refused, self.environment.monotonic())

    def _redirect(self, effect: RedirectClient) -> None:
        route = self._routes.get(effect.client)
        if route == "":
            self._gateways.redirect(client=effect.client, view=effect.view, primary=effect.replica)
        elif route is not None:
            redirected = Redirected(client=effect.client, view=effect.view, replica=effect.replica)
            self._network.post(route, redirected, self.environment.monotonic())

    # What has become possible.

    def _advance(self, *, answer_all: bool = False) -> None:
        while events := self._port.take_events():
            for event in events:
                if isinstance(event, RepliesOpened):
                    self._opened(event)
                elif isinstance(event, PortFailed) and self._opening is None and event.fault.kind not in PASSING:
                    self._failure = f"the replies cannot be opened: {event.fault}"
                elif isinstance(event, PortFailed):
                    self._die(str(event.fault))
                else:
                    self._replies.port_event(event, self._events, self._die)
        vsr = self._vsr
        if vsr is None:
            return
        if self._port.ready != self._ready:
            self._ready = self._port.ready
            self._input("replies_are_ready", self._ready)
        now = self.environment.monotonic()
        # The disk and the other replicas have work to do while this one executes.
        self._log.flush()
        self._network.flush(now)
        self._input("execute")
        if self._finish_stage not in ("closing", "closed"):
            self._meet_peers(vsr)
        self._advance_finish()
        self._journal.flush()
        self._events.view(vsr.core.view, vsr.core.is_primary, syncing=vsr.core.sync_op > 0)
        self._events.flush(vsr.core.executed)
        self._log.flush()
        self._network.flush(now, answer_all=answer_all)
        knows = vsr.core.status is Status.NORMAL
        self._gateways.flush(now, view=vsr.core.view, primary=vsr.core.primary if knows else PRIMARY_UNKNOWN)

    # What goes out.

    def _order_damage(self, saboteur: str, order: object) -> None:
        if saboteur in self._members:
            self.send(self._members[saboteur], order)

    def _send_envelope(self, peer: str, envelope: Envelope) -> None:
        address = self._members.get(peer)
        if address is not None:
            self.send(address, envelope)

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
            counters=self._counts(),
            status={key: value for key, value in status.items() if key not in self._vsr.core.counters},
        )
        self.send(sender, answer)

    def _counts(self) -> dict[str, int]:
        protocol = self._vsr.core.counters if self._vsr is not None else {}
        return {**protocol, **self._network.counters, **self._events.counters, **(+self.counters)}

    def hurt(self, message: Hurt, sender: ActorAddress) -> None:
        """Behave badly, as told."""
        if self._start is None or self._vsr is None:
            return
        self._drop_answers = message.drop_answers
        self._block = frozenset(message.block)
        self._network.cut = frozenset(message.cut)
        self.send(sender, HurtDone(request=message.request, name=self._start.name))

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
        vsr, start = self._vsr, self._start
        if vsr is None or start is None:
            return
        self._journal.close()
        self._events.close()
        ledger = self._journal.machine.ledger
        final = Final(
            op=vsr.core.executed,
            balances=ledger.balances(),
            digest=ledger.digest().hex(),
            slots=tuple(vsr.core.execution.sessions.expectations()),
            counters=self._counts(),
        )
        self.machine.write_file(start.evidence or start.directory, FINAL_FILE, final.text())
