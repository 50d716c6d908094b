"""One replica as an actor: it puts the protocol, the service and the component together, and decides nothing itself.

    requests -> replication (order) -> service (execute) -> RepliesPort (keep the reply) and network (answer)

Guarantees: an entry is executed only while the port takes writes, so a slow disk slows the primary down instead of
filling its memory. An answer is sent as soon as its entry is executed: it is committed, and if it is lost, or the
replica dies now, the others have it. A repeated request is answered from the component, never from memory of its own.

Gives up: restarts. The log is in memory, so a replica that dies is gone for the rest of the run.

Owns: its replication log, service and port; its ClientRepliesActor; its journal and, if primary, the damage log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from thespian.actors import ActorAddress

from client_replies.actors.client_replies import ClientRepliesActor
from client_replies.actors.component import ComponentActor, Handler
from client_replies.actors.environment import Environment
from client_replies.actors.replies_port import (
    PORT_MESSAGES,
    PortFailed,
    RepliesPort,
    ReplyHad,
    ReplyNotHad,
    SlotsAreDurable,
)
from client_replies.messages.config import OpenMode
from client_replies.messages.replies import (
    CheckpointDone,
    NotRead,
    RepliesClosed,
    RepliesOpened,
    ReplyLost,
    ReplyRepaired,
    StorageFailed,
)
from client_replies.messages.reply_header import HEADER_SIZE, packed_size
from client_replies.storage.layout import Layout

from .control import (
    Finish,
    FinishState,
    GetProgress,
    Join,
    Joined,
    MemberFailed,
    Progress,
    ReplicaStarted,
    StartReplica,
)
from .damage import DamagePlan, DamageSlot, SlotDamaged
from .evidence import DamageSeen, EvidenceWriter, Final, journal_line
from .network import Network, cluster_faults
from .protocol import Answer, Envelope, GetPrepares, Item, PrepareOk, Prepares, Refusal, Refused, Request
from .replication import Outgoing, Replication
from .service import Admit, Applied, Plant, Refuse, Repeat, Service, wrong_reply

TICK = 0.01  # seconds
# Replies are handed to the component in batches: nobody waits for them, and a batch costs as much as a reply.
KEEP_INTERVAL = 0.03  # seconds
REQUESTS_MAX = 1024  # requests that wait for room in the pipeline; beyond it clients retry
DAMAGE_TIMEOUT = 1.0  # seconds until the saboteur is asked again
SABOTEUR = "saboteur"
DATA_FILE = "replies.data"
JOURNAL_FILE = "journal.jsonl"
DAMAGE_FILE = "damage.jsonl"
FINAL_FILE = "final.json"


def replica_name(replica: int) -> str:
    """The name by which the members know a replica."""
    return f"replica-{replica}"


@dataclass(slots=True)
class _Withheld:
    """A session that gets no answer until its slot is damaged."""

    slot: int
    header: bytes
    wait: int
    order: DamageSlot | None = None
    ordered_at: float = 0.0


@dataclass(slots=True)
class _Asked:
    """A client that waits for a stored reply."""

    client: int
    slot: int
    header: bytes
    withheld: bool = False  # began before the slot was damaged: its answer must not make the damage needless


class ReplicaActor(ComponentActor):
    """See the module."""

    def __init__(
        self, capabilities: Mapping[str, object] | None = None, requirements: Environment | None = None
    ) -> None:
        super().__init__(capabilities, requirements)
        self._start: StartReplica | None = None
        self._failure = ""
        self._replies: ActorAddress | None = None
        self._replies_told: ActorAddress | None = None  # the address as others can use it
        self._members: dict[str, ActorAddress] = {}
        self._routes: dict[int, str] = {}
        self._requests: deque[Request] = deque()
        self._ordered: dict[int, Request] = {}  # by client: ordered, or about to be, and not executed
        self._asked: dict[int, _Asked] = {}  # reads in flight, by number
        self._awaited: dict[bytes, _Asked] = {}  # damaged replies that a client waits for, by header
        self._withheld: dict[int, _Withheld] = {}
        self._damaged: set[bytes] = set()  # headers of damaged replies that nobody has asked for yet
        self._answers_first = 0
        self._kept_at = 0.0
        self._finish: Finish | None = None
        self._finish_wait = 0
        self._finish_stage = ""

    def handlers(self) -> dict[type, Handler]:
        """See `ComponentActor`."""
        return {
            StartReplica: self.start,
            Join: self.join,
            Envelope: self.envelope,
            GetProgress: self.progress,
            Finish: self.finish,
            SlotDamaged: self.slot_damaged,
            **dict.fromkeys(PORT_MESSAGES, self.port_message),
        }

    # The script's requests.

    def start(self, message: StartReplica, sender: ActorAddress) -> None:
        """Begin, or say how the beginning ended."""
        if self._start is None:
            self._begin(message)
        self._answer_start(sender)

    def _begin(self, message: StartReplica) -> None:
        directory = Path(message.directory)
        self._start = message
        self._network = Network(
            message.name,
            message.seed,
            cluster_faults(message.drop_replies, message.duplicate_requests),
            self._send_envelope,
        )
        self._replication = Replication(message.config.replica, message.replicas, self._post_to_replica)
        self._journal = EvidenceWriter(directory / JOURNAL_FILE)
        self._damage_log = EvidenceWriter(directory / DAMAGE_FILE)
        self._service = Service(
            cluster=message.config.cluster,
            clients_max=message.config.clients_max,
            record=lambda execution: self._journal.write(journal_line(execution)),
            plant=message.plant,
        )
        self._damage_plan = DamagePlan(message.damages, message.replies_expected)
        self._damages = 0
        self._layout = Layout.of(message.config)
        self._replies = self.create_child(ClientRepliesActor)
        self._port = RepliesPort(
            owner=self.environment.unique(),
            send=self._send_to_replies,
            send_pool=self.send,
            now=self.environment.monotonic,
            open_memory=self.environment.open_memory,
        )
        self._port.open(message.config, OpenMode.FORMAT)
        self.start_ticks(TICK)

    def _answer_start(self, sender: ActorAddress) -> None:
        if self._start is None:
            return
        if self._failure:
            self.send(sender, MemberFailed(name=self._start.name, reason=self._failure))
        elif self._replies_told is not None:
            self.send(sender, ReplicaStarted(name=self._start.name, replies=self._replies_told))

    def join(self, message: Join, sender: ActorAddress) -> None:
        """Learn who else is there."""
        if self._start is None or self._failure:
            return
        self._members = dict(message.members)
        own = self._start.config.replica
        self._port.set_peers(tuple(peer for peer in message.replies if peer[0] != own))
        self.send(sender, Joined(name=self._start.name))

    def progress(self, message: GetProgress, sender: ActorAddress) -> None:
        """Say how far this replica is."""
        if self._start is None:
            return
        if self._failure:
            self.send(sender, MemberFailed(name=self._start.name, reason=self._failure))
            return
        answer = Progress(
            request=message.request,
            name=self._start.name,
            done=self._replication.executed,
            total=self._replication.commit,
            counters=self._counts(),
        )
        self.send(sender, answer)

    def _counts(self) -> dict[str, int]:
        return {
            **self._network.counters,
            **{key: value for key, value in self.counters.items() if value},
            "prepares_resent": self._replication.resends,
            "gaps_asked": self._replication.gaps_asked,
            "entries_skipped": self._service.skipped,
            "damages": self._damages,
        }

    # What comes in.

    def envelope(self, message: Envelope, sender: ActorAddress) -> None:
        """Take what another member said."""
        if self._start is None or self._failure:
            return
        for item in self._network.receive(message):
            self._take(item, message.sender)
        self._advance()

    def _take(self, item: Item, source: str) -> None:
        if isinstance(item, Request):
            self._take_request(item, source)
        elif isinstance(item, Prepares | PrepareOk | GetPrepares):
            self._replication.receive(item, self.environment.monotonic())

    def port_message(self, message: object, sender: ActorAddress) -> None:
        """Take what the component or the pool said."""
        if self._start is None or self._failure:
            return
        if isinstance(message, RepliesOpened):
            self._replies_told = sender
        self._port.receive(message)
        self._advance()

    def tick(self) -> None:
        """Let time pass."""
        if self._start is None or self._failure:
            return
        now = self.environment.monotonic()
        self._port.tick()
        self._replication.tick(now)
        for withheld in self._withheld.values():
            if withheld.order is not None and now - withheld.ordered_at > DAMAGE_TIMEOUT:
                self._order_damage(withheld)
        if now - self._kept_at >= KEEP_INTERVAL and self._port.ready:
            self._kept_at = now
            self._port.committed(self._replication.executed)
        self._advance(answer_all=True)

    def child_exited(self, child: ActorAddress) -> None:
        """Without its component a replica is none."""
        if child == self._replies and not self.exiting:
            self._fail("its ClientRepliesActor died")

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason
        self.log.critical("replica_failed", reason=reason)

    # Requests of clients: only the primary looks at them.

    def _take_request(self, request: Request, source: str) -> None:
        if not self._replication.is_primary:
            self.counters["requests_misdirected"] += 1
            return
        self._routes[request.client] = source
        if request.client in self._ordered:
            self.counters["requests_in_progress"] += 1
            return
        decision = self._service.decide(request)
        if isinstance(decision, Admit):
            if len(self._requests) < REQUESTS_MAX:
                self._ordered[request.client] = request
                self._requests.append(request)
        elif isinstance(decision, Repeat):
            self._repeat(request.client, decision)
        elif isinstance(decision, Refuse):
            self._post_to_client(
                request.client,
                Refused(
                    client=request.client,
                    session=request.session,
                    number=request.number,
                    refusal=decision.refusal,
                ),
            )
        else:
            self.counters["requests_ignored"] += 1

    def _repeat(self, client: int, decision: Repeat) -> None:
        """Answer with the original reply: from the session table if that is all of it, else from the component."""
        self.counters["requests_repeated"] += 1
        if packed_size(decision.header) == HEADER_SIZE:
            self._post_answer(client, decision.header)
            return
        if self._finish is not None and self._finish.close:
            return  # Nobody waits any more: every client was done before the end began.
        if any(asked.header == decision.header and not asked.withheld for asked in self._asked.values()):
            return  # The answer is on its way already, and one is enough.
        self._note_needed(decision.slot, decision.header)
        asked = _Asked(client, decision.slot, decision.header)
        self._asked[self._port.read(decision.slot, decision.header)] = asked

    def _reply_had(self, event: ReplyHad) -> None:
        asked = self._asked.pop(event.read, None)
        if asked is None:
            return
        self.counters["replies_read"] += 1
        reply = event.reply
        if self._start is not None and self._start.plant is Plant.WRONG_REPLY:
            reply = wrong_reply(reply)
        self._post_answer(asked.client, reply, lose=asked.withheld)

    def _reply_not_had(self, event: ReplyNotHad) -> None:
        asked = self._asked.pop(event.read, None)
        if asked is None:
            return
        if event.reason is NotRead.CORRUPT:
            self._note_needed(event.slot, event.header)
            self._awaited[event.header] = asked
        elif event.reason is NotRead.LOST:
            self._refuse_lost(asked)
        # Unexpected: the client has moved on. Busy or closed: it asks again.

    def _refuse_lost(self, asked: _Asked) -> None:
        request = self._service.sessions.header(asked.client)
        if request is not None and request.pack() == asked.header:
            refused = Refused(
                client=asked.client, session=request.session, number=request.request, refusal=Refusal.REPLY_LOST
            )
            self._post_to_client(asked.client, refused)

    # What has become possible.

    def _advance(self, *, answer_all: bool = False) -> None:
        for event in self._port.take_events():
            self._port_event(event)
        if self._failure:
            return
        now = self.environment.monotonic()
        while self._requests and self._replication.room:
            self._replication.propose(self._requests.popleft(), self._timestamp(now))
        self._execute()
        self._advance_finish()
        self._replication.flush(now)
        self._network.flush(now, answer_all=answer_all)
        self._journal.flush()
        self._damage_log.flush()

    def _timestamp(self, now: float) -> int:
        epoch = self._start.epoch if self._start is not None else 0
        return epoch + int(now * 1e9)

    def _execute(self) -> None:
        if self._start is None:
            return
        executed = False
        while self._port.ready and (entry := self._replication.take_committed()) is not None:
            executed = True
            self._ordered.pop(entry.request.client, None)
            applied = self._service.apply(entry)
            if applied is not None:
                self._keep(applied, entry.op)
            if entry.op % self._start.checkpoint_interval == 0:
                self._port.committed(entry.op)
                self._port.checkpoint(entry.op, self._service.sessions.encode())
        if executed and not self._port.ready:
            self._port.committed(self._replication.executed)

    def _keep(self, applied: Applied, op: int) -> None:
        reply = applied.reply.pack()
        if applied.evicted_client is not None:
            self._routes.pop(applied.evicted_client, None)
            self._withheld.pop(applied.evicted_client, None)
        for slot in applied.removed:
            self._port.remove(slot, op)
        if applied.reply.header.size_body:
            self._port.write(applied.slot, reply)
        if self._replication.is_primary:
            self._answer_first(applied, reply)

    def _answer_first(self, applied: Applied, reply: bytes) -> None:
        """Send a reply for the first time. If it is lost at a chosen moment, its slot is going to be damaged."""
        client = applied.reply.header.client
        if not applied.reply.header.size_body:
            self._post_answer(client, reply)
            return
        self._answers_first += 1
        number = self._answers_first
        sent = self._post_answer(client, reply, lose=self._damage_plan.must_drop(number))
        if not sent and self._damage_plan.takes(number):
            wait = self._port.await_durable((applied.slot,))
            self._withheld[client] = _Withheld(applied.slot, reply[:HEADER_SIZE], wait)

    def _port_event(self, event: object) -> None:
        if isinstance(event, ReplyHad):
            self._reply_had(event)
        elif isinstance(event, ReplyNotHad):
            self._reply_not_had(event)
        elif isinstance(event, SlotsAreDurable):
            self._slots_durable(event)
        elif isinstance(event, ReplyRepaired):
            self._note_damage("repaired", event.slot, event.header)
            asked = self._awaited.pop(event.header, None)
            if asked is not None:
                self._repeat(asked.client, Repeat(asked.slot, asked.header))
        elif isinstance(event, ReplyLost):
            self._note_damage("lost", event.slot, event.header)
            asked = self._awaited.pop(event.header, None)
            if asked is not None:
                self._refuse_lost(asked)
        elif isinstance(event, CheckpointDone):
            self.counters["checkpoints"] += 1
        elif isinstance(event, RepliesClosed):
            self._closed()
        elif isinstance(event, PortFailed | StorageFailed):
            self._fail(str(event.fault))

    # Damage.

    def _slots_durable(self, event: SlotsAreDurable) -> None:
        if event.wait == self._finish_wait:
            self._finish_stage = "durable"
        for client, withheld in self._withheld.items():
            if withheld.wait == event.wait and withheld.order is None and self._start is not None:
                self._damages += 1
                withheld.order = DamageSlot(
                    number=self._damages,
                    path=self._start.config.path,
                    offset=self._layout.slot_offset(withheld.slot),
                    size=packed_size(withheld.header),
                    seed=self._start.seed,
                )
                self.log.info("slot_to_be_damaged", slot=withheld.slot, client=client)
                self._order_damage(withheld)

    def _order_damage(self, withheld: _Withheld) -> None:
        withheld.ordered_at = self.environment.monotonic()
        if withheld.order is not None and SABOTEUR in self._members:
            self.send(self._members[SABOTEUR], withheld.order)

    def slot_damaged(self, message: SlotDamaged, sender: ActorAddress) -> None:
        """The slot is damaged: let its client ask."""
        for client, withheld in list(self._withheld.items()):
            if withheld.order is not None and withheld.order.number == message.number:
                del self._withheld[client]
                for asked in self._asked.values():
                    asked.withheld |= asked.header == withheld.header
                self._damaged.add(withheld.header)
                self._note_damage("damaged", withheld.slot, withheld.header)
        self._advance()

    def _note_needed(self, slot: int, header: bytes) -> None:
        if header in self._damaged:
            self._damaged.remove(header)
            self._note_damage("needed", slot, header)

    def _note_damage(self, event: str, slot: int, header: bytes) -> None:
        self.counters[f"slots_{event}"] += 1
        self._damage_log.write(DamageSeen(event, slot, header[:16].hex()).line())

    # What goes out.

    def _post_answer(self, client: int, reply: bytes, *, lose: bool = False) -> bool:
        withheld = client in self._withheld
        return self._post_to_client(client, Answer(client=client, reply=reply), lose=lose or withheld)

    def _post_to_client(self, client: int, item: Item, *, lose: bool = False) -> bool:
        route = self._routes.get(client)
        if route is None:
            return False
        return self._network.post(route, item, self.environment.monotonic(), lose=lose)

    def _post_to_replica(self, replica: int, item: Outgoing) -> None:
        self._network.post(replica_name(replica), item, self.environment.monotonic())

    def _send_envelope(self, peer: str, envelope: Envelope) -> None:
        address = self._members.get(peer)
        if address is not None:
            self.send(address, envelope)

    def _send_to_replies(self, message: object) -> None:
        if self._replies is not None:
            self.send(self._replies, message)

    # The end.

    def finish(self, message: Finish, sender: ActorAddress) -> None:
        """Go on towards the end, and say how far it is."""
        if self._start is None:
            return
        if self._failure:
            self.send(sender, MemberFailed(name=self._start.name, reason=self._failure))
            return
        if self._finish is None or (message.close and not self._finish.close):
            self._finish = message
        self._advance()
        done = self._finish_stage == "closed" or (not message.close and self._finish_stage == "durable")
        waiting = f"stage {self._finish_stage or 'executing'}, op {self._replication.executed} of {message.op}"
        state = FinishState(request=message.request, name=self._start.name, done=done, waiting_for=waiting)
        self.send(sender, state)

    def _advance_finish(self) -> None:
        if self._finish is None or self._replication.executed < self._finish.op:
            return
        if self._finish_stage == "":
            self._port.committed(self._replication.executed)
            self._finish_stage = "waiting for slots to be durable"
            self._finish_wait = self._port.await_durable(tuple(self._service.sessions.expectations()))
        elif self._finish_stage == "durable" and self._finish.close:
            self._finish_stage = "closing"
            self._port.committed(self._replication.executed)
            self._port.checkpoint(self._replication.executed, self._service.sessions.encode())
            self._port.close()

    def _closed(self) -> None:
        self._finish_stage = "closed"
        self._journal.close()
        self._damage_log.close()
        if self._start is not None:
            final = Final(
                op=self._replication.executed,
                balances=self._service.ledger.balances(),
                digest=self._service.ledger.digest().hex(),
                slots=tuple(self._service.sessions.expectations()),
                counters=self._counts(),
            )
            (Path(self._start.directory) / FINAL_FILE).write_text(final.text(), encoding="utf-8")
