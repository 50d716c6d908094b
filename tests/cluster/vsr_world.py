"""A cluster of replicas, their disks, their components and their clients in one process, for scenarios.

What is real: the replicas (`client_replies.cluster.vsr`) and the store in memory. What stands in: the network, the
disks' delays, the clock, the component (`Replies`: durable, repaired from its peers, with checkpoints as the real
one does), and clients that retry. Everything that happens is an event in one queue, and a scenario may come between:
drop a message or keep it for later, kill a replica between two effects. An address is a replica, whichever of its lives
it is in, as on networks where a new process gets the old one's port. `tests.simulation.cluster` has random faults.

Checked all the time: one history of committed entries for all replicas; each request in it once; every reply, kept or
sent, is the one that a reference execution of that history gives; snapshots of an op are the same; a refusal is true; a
state sync counts as finished only when the replies are durable. At the end: everybody has the same state, and every
client has had an answer to everything it asked.
"""

from __future__ import annotations

import heapq
import random
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from client_replies.cluster.log.log_store import StoreIdentity
from client_replies.cluster.protocol import Request
from client_replies.cluster.state_machine import Command, StateMachine
from client_replies.cluster.vsr.config import VsrConfig
from client_replies.cluster.vsr.durable import LogWrite
from client_replies.cluster.vsr.effects import (
    AnswerClient,
    AwaitReply,
    CheckpointReplies,
    Effect,
    FetchReply,
    ForgetReply,
    InstallReplies,
    KeepReply,
    Reason,
    RedirectClient,
    RefuseClient,
    RepliesCommitted,
    SendMessage,
    WriteLog,
)
from client_replies.cluster.vsr.execution import Applied, Execution
from client_replies.cluster.vsr.messages import OPERATION_CLOSE, LogEntry, VsrMessage
from client_replies.cluster.vsr.replica import Replica
from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import HEADER_SIZE, OPERATION_REGISTER, checksum128, packed_op
from client_replies.storage.client_sessions import ClientSessions

from .memory_log_store import MemoryLogStore
from examples.ledger.ledger import OPERATION_TRANSFER

CLUSTER = 0xC1
TICK = 0.01
DISK = (0.001, 0.004)  # seconds that a write takes


class Violation(AssertionError):
    """The cluster did what it must not do."""


def require(holds: object, text: str) -> None:
    """Raise a `Violation` unless it holds."""
    if not holds:
        raise Violation(text)


class ChainMachine(StateMachine):
    """A state machine whose every answer depends on all executions before it."""

    def __init__(self) -> None:
        self.count = 0
        self.digest = bytes(16)

    def execute(self, command: Command) -> bytes:
        """Add to the chain."""
        self.count += 1
        said = bytes([command.operation]) + struct.pack("<Q", command.timestamp) + command.body
        self.digest = checksum128(self.digest + said)
        return struct.pack("<Q", self.count) + self.digest

    def snapshot(self) -> bytes:
        """Give the state."""
        return struct.pack("<Q", self.count) + self.digest

    def restore(self, data: bytes) -> None:
        """Take on a state."""
        self.count = struct.unpack_from("<Q", data)[0] if data else 0
        self.digest = data[8:] if data else bytes(16)


class Replies:
    """Stands in for the component of one replica. `crash` keeps what was durable."""

    def __init__(self, world: World, index: int, clients_max: int) -> None:
        self.world = world
        self.index = index
        self.clients_max = clients_max
        self.slots: dict[int, bytes] = {}  # on disk
        self.op = 0
        self.sessions = b""
        self.before = (0, b"")  # the checkpoint before the last
        self.table_rotted = False
        self.begin()

    def begin(self) -> None:
        """Open what is on the disk."""
        self.expected = self._expectations(self.sessions)
        self.told = self.op  # everything committed up to here is known
        self.pending: dict[int, bytes] = {}
        self.waits: set[int] = set()
        self.lost: set[int] = set()
        self.checkpointing: tuple[int, bytes, set[bytes]] | None = None
        self.installed_faulty: set[int] = set()

    def rot_table(self) -> None:
        """The last session table rots: from now on the checkpoint before it is the one that there is."""
        self.op, self.sessions = self.before
        self.table_rotted = True

    def _expectations(self, sessions: bytes) -> dict[int, bytes]:
        if not sessions:
            return {}
        table = ClientSessions.decode(sessions, clients_max=self.clients_max, cluster=CLUSTER)
        return table.expectations()

    def faulty(self) -> tuple[int, ...]:
        """Slots that do not hold what they are to hold, and to which nothing is being written."""
        return tuple(slot for slot in sorted(self.expected) if not self.holds(slot) and slot not in self.pending)

    def holds(self, slot: int) -> bool:
        """True if the slot durably holds what it is to hold."""
        header = self.expected.get(slot)
        return header is None or self.slots.get(slot, b"")[:HEADER_SIZE] == header

    def keep(self, slot: int, reply: bytes) -> None:
        """A committed reply, or a repaired one."""
        self.expected[slot] = reply[:HEADER_SIZE]
        self.pending[slot] = reply
        self.lost.discard(slot)
        node = self.world.nodes[self.index]
        self.world.after(self.world.disk_delay() * node.slow_disk, node.while_alive(lambda: self._kept(slot, reply)))

    def _kept(self, slot: int, reply: bytes) -> None:
        if self.pending.get(slot) == reply:  # else a newer one has taken its place in the queue
            del self.pending[slot]
            self.slots[slot] = reply
        if self.checkpointing is not None:
            self.checkpointing[2].discard(reply)
            self._checkpoint_pump()
        self._settle(slot)

    def forget(self, slot: int) -> None:
        """The slot holds nothing any more."""
        self.expected.pop(slot, None)
        self.pending.pop(slot, None)
        self._settle(slot)

    def _settle(self, slot: int) -> None:
        if self.holds(slot):
            self.installed_faulty.discard(slot)
            if slot in self.waits:
                self.waits.discard(slot)
                self.world.nodes[self.index].feed("reply_durable", slot)

    def await_slot(self, slot: int) -> None:
        """Say when the slot is durable."""
        self.waits.add(slot)
        self._settle(slot)

    def checkpoint(self, op: int, sessions: bytes) -> None:
        """Store the table when what was accepted before is durable."""
        self.checkpointing = (op, sessions, set(self.pending.values()))
        self._checkpoint_pump()

    def _checkpoint_pump(self) -> None:
        if self.checkpointing is None:
            return
        op, sessions, awaited = self.checkpointing
        awaited &= set(self.pending.values())
        if not awaited:
            self.checkpointing = None
            node = self.world.nodes[self.index]
            delay = self.world.disk_delay() * node.slow_disk
            self.world.after(delay, node.while_alive(lambda: self._checkpointed(op, sessions)))

    def _checkpointed(self, op: int, sessions: bytes) -> None:
        self.before = (self.op, self.sessions)
        self.table_rotted = False
        self.op, self.sessions = op, sessions
        self.world.nodes[self.index].feed("checkpoint_done", op)

    def install(self, op: int, sessions: bytes) -> None:
        """Replace what every slot is to hold."""
        self.expected = self._expectations(sessions)
        self.pending.clear()
        self.lost.clear()
        self.checkpointing = None
        self.told = max(self.told, op)
        faulty = self.faulty()
        self.installed_faulty = set(faulty)
        self.world.nodes[self.index].feed("replies_installed", op, faulty)

    def read(self, slot: int, header: bytes) -> None:
        """Give the reply with this header, or say that it is not there."""
        node = self.world.nodes[self.index]
        reply = self.find(slot, header)
        if reply is not None:
            node.feed("reply_read", header, reply)
        else:
            node.feed("reply_not_read", header, slot in self.lost and self.expected.get(slot) == header)

    def find(self, slot: int, header: bytes) -> bytes | None:
        """The reply, from memory or from disk."""
        for reply in (self.pending.get(slot), self.slots.get(slot)):
            if (
                reply is not None
                and reply[:HEADER_SIZE] == header
                and checksum128(reply[HEADER_SIZE:]) == header[16:32]
            ):
                return reply
        return None

    def repair(self) -> None:
        """Look for what is missing at the peers that can be reached."""
        for slot in self.faulty():
            if slot in self.lost:
                continue
            header = self.expected[slot]
            op = packed_op(header)
            denials = 0
            for peer in self.world.nodes:
                if peer.index == self.index or peer.replica is None or not self.world.linked(self.index, peer.index):
                    continue
                reply = peer.replies.find(slot, header)
                if reply is not None:
                    self.keep(slot, reply)
                    break
                denials += peer.replies.told >= op  # one that is behind may come to have it
            else:
                if denials >= len(self.world.nodes) - 1:
                    self.lost.add(slot)
                    self.installed_faulty.discard(slot)
                    self.waits.discard(slot)
                    self.world.nodes[self.index].feed("reply_lost", slot)


class Node:
    """One replica's place: its store, its component, and the replica while it lives."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.config = world.config(index)
        self.identity = StoreIdentity(CLUSTER, index)
        self.store = MemoryLogStore(self.identity, voting=True)
        self.replies = Replies(world, index, self.config.clients_max)
        self.replica: Replica | None = None
        self.life = 0
        self.seen = 0  # executed ops that were checked
        self.slow_disk = 1.0
        self.writes_at = 0.0

    def start(self) -> None:
        """Start the replica from what is durable."""
        self.life += 1
        self.replies.begin()
        stored = self.store.load()
        goes_on = self.replies.op in {0, *(snapshot.op for snapshot in stored.snapshots)}
        unfinished = stored.state.sync_op > self.replies.op or self.replies.table_rotted
        require(
            unfinished or (goes_on and stored.base <= self.replies.op),
            f"replica {self.index} has replies as of op {self.replies.op}, and a log from {stored.base}",
        )
        self.replica = Replica(
            self.config,
            ChainMachine(),
            stored,
            replies_op=self.replies.op,
            faulty=self.replies.faulty(),
            now=self.world.now,
            random=random.Random(self.world.random.getrandbits(64)),
        )
        if stored.state.sync_op:
            self.replies.installed_faulty = set(self.replies.faulty())
        self.seen = self.replica.core.log.base
        self.world.after(self.world.random.uniform(0, TICK), self.while_alive(self._tick))
        self.run(self.replica.take_effects())

    def crash(self) -> None:
        """Die now: what was not durable is lost."""
        if self.replica is not None:
            self.world.happened.update(self.replica.core.counters)
        self.replica = None
        self.life += 1
        self.store.crash()

    def lose_disk(self) -> None:
        """Die, and come back with a new disk."""
        self.crash()
        self.store = MemoryLogStore(self.identity, voting=False)
        self.replies = Replies(self.world, self.index, self.config.clients_max)

    def while_alive(self, action: Callable[[], None]) -> Callable[[], None]:
        """The action, unless the replica has died in between."""
        life = self.life

        def run() -> None:
            if self.life == life and self.replica is not None:
                action()

        return run

    def _tick(self) -> None:
        self.feed("tick")
        self.replies.repair()
        if self.replica is not None:
            self.feed("replies_are_ready", len(self.replies.pending) < self.world.pending_max)
        self.world.after(TICK * self.world.random.uniform(0.8, 1.4), self.while_alive(self._tick))

    def feed(self, name: str, *args: object) -> None:
        """Give the replica an input, later in this instant; carry out what it wants."""

        def run() -> None:
            if self.replica is not None:
                self.run(getattr(self.replica, name)(*args, self.world.now))

        self.world.after(0.0, self.while_alive(run))

    def run(self, effects: list[Effect]) -> None:
        """Carry out effects, then execute what is committed."""
        self._carry_out(effects)
        if self.replica is not None:
            self._carry_out(self.replica.execute(self.world.now))
        self.world.check(self)

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if self.replica is not None:
                self.world.on_effect(self, effect)
            if self.replica is None:
                return  # a hook killed it between two effects
            self._run(effect)

    def _run(self, effect: Effect) -> None:
        world = self.world
        if isinstance(effect, SendMessage):
            world.send(self.index, effect.replica, effect.message)
        elif isinstance(effect, WriteLog):
            self._write(effect.number, effect.write)
        elif isinstance(effect, AnswerClient | RefuseClient | RedirectClient):
            world.send_client(self.index, effect)
        elif isinstance(effect, KeepReply):
            world.check_reply(effect.op, effect.reply)
            self.replies.keep(effect.slot, effect.reply)
        elif isinstance(effect, ForgetReply):
            self.replies.forget(effect.slot)
        elif isinstance(effect, RepliesCommitted):
            self.replies.told = max(self.replies.told, effect.op)
        elif isinstance(effect, CheckpointReplies):
            self.replies.checkpoint(effect.op, effect.sessions)
        elif isinstance(effect, InstallReplies):
            self.replies.install(effect.op, effect.sessions)
        elif isinstance(effect, AwaitReply):
            self.replies.await_slot(effect.slot)
        elif isinstance(effect, FetchReply):
            self.replies.read(effect.slot, effect.header)

    def _write(self, number: int, write: LogWrite) -> None:
        if write.snapshot is not None:
            self.world.check_snapshot(write.snapshot.op, write.snapshot.encode())
        self.store.submit(number, write)
        self.writes_at = max(self.writes_at, self.world.now) + self.world.disk_delay() * self.slow_disk
        self.world.after(self.writes_at - self.world.now, self.while_alive(self._written))

    def _written(self) -> None:
        number = self.store.complete()
        if self.replica is not None:
            self.run(self.replica.log_written(number, self.world.now))


@dataclass(slots=True)
class Asked:
    """What a client asked and has had."""

    request: Request
    reply: bytes = b""
    refused: Reason | None = None


class Client:
    """A session after another: register, ask some things, sometimes close."""

    def __init__(self, world: World, client: int, requests: int) -> None:
        self.world = world
        self.client = client
        self.left = requests
        self.session = 0
        self.number = 0
        self.view = 0
        self.target = client % len(world.nodes)
        self.asked: Asked | None = None
        self.history: list[Asked] = []
        self.tries = 0
        self.sessions_ended = 0

    @property
    def done(self) -> bool:
        """True if nothing is left to ask and nothing unanswered."""
        return self.left == 0 and self.asked is None

    def act(self) -> None:
        """Ask the next thing, if nothing is asked."""
        if self.asked is not None or self.left == 0:
            return
        if not self.session:
            self._ask(0, OPERATION_REGISTER, b"")
            return
        self.left -= 1
        self.number += 1
        closes = self.left and self.world.random.random() < self.world.close_chance
        operation = OPERATION_CLOSE if closes else OPERATION_TRANSFER
        self._ask(self.number, operation, b"" if closes else struct.pack("<QI", self.client, self.number) * 3)

    def _ask(self, number: int, operation: int, body: bytes) -> None:
        session = self.session if number else 0
        request = Request.build(
            cluster=CLUSTER, client=self.client, session=session, number=number, operation=operation, body=body
        )
        self.asked = Asked(request)
        self.tries = 0
        self._send(self.asked)

    def _send(self, asked: Asked) -> None:
        if self.asked is not asked:
            return
        self.tries += 1
        if self.tries > 1 and self.world.random.random() < 0.5:
            self.target = self.world.random.randrange(len(self.world.nodes))
        self.world.send_request(self.target, asked.request)
        pause = min(0.6, 0.05 * 1.5**self.tries) * self.world.random.uniform(0.7, 1.3)
        self.world.after(pause, lambda: self._send(asked))

    def receive(self, effect: AnswerClient | RefuseClient | RedirectClient) -> None:
        """Take what a replica said."""
        if isinstance(effect, RedirectClient):
            if effect.view >= self.view and effect.replica is not None:
                self.target = effect.replica
        elif isinstance(effect, AnswerClient):
            self._answered(effect)
        elif effect.view >= self.view:
            self._refused(effect)

    def _answered(self, effect: AnswerClient) -> None:
        header = Reply.unpack(effect.reply).header
        self.view = max(self.view, effect.view)
        for had in self.history:
            if had.request.checksum == header.request_checksum and had.reply and had.request.number:
                require(had.reply == effect.reply, f"client {self.client}: another reply to a request")
        asked = self.asked
        if asked is None or header.request_checksum != asked.request.checksum:
            return
        if asked.request.number and header.session != self.session:
            return
        if asked.request.number == 0 and header.session <= max((a.request.session for a in self.history), default=0):
            return  # the late reply to an earlier registration
        asked.reply = effect.reply
        self._over(asked)
        self.world.seen_ops.add(header.op)
        if asked.request.number == 0:
            self.session = header.session
        elif asked.request.operation == OPERATION_CLOSE:
            self._end_session()

    def _refused(self, effect: RefuseClient) -> None:
        asked = self.asked
        if effect.number is None:
            if effect.session != self.session or effect.reason is not Reason.REPLACED:
                return
            self.world.check_gone(self.client, effect.session, effect.reason)
            if asked is not None and asked.request.number == 0:
                return
        elif asked is None or (effect.session, effect.number) != (asked.request.session, asked.request.number):
            return
        elif effect.reason in (Reason.NO_SESSION, Reason.SESSION_TOO_LOW):
            self.world.check_gone(self.client, effect.session, effect.reason)
        else:
            require(effect.reason is Reason.REPLY_LOST and self.world.replies_may_be_lost, f"refused: {effect.reason}")
        if asked is not None:
            asked.refused = effect.reason
            self._over(asked)
        if effect.reason is not Reason.REPLY_LOST:
            self._end_session()

    def _over(self, asked: Asked) -> None:
        self.history.append(asked)
        self.asked = None
        self.world.answers += 1
        self.world.after(self.world.random.uniform(0.0, 0.03), self.act)

    def _end_session(self) -> None:
        self.session = 0
        self.number = 0
        self.sessions_ended += 1
        self.world.after(self.world.random.uniform(0.0, 0.05), self.act)


class World:
    """Everything. See the module."""

    def __init__(
        self,
        seed: int,
        *,
        replicas: int = 3,
        clients: int = 4,
        requests: int = 20,
        close_chance: float = 0.0,
        **config: int | float,
    ) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.disk = DISK
        self.pending_max = 64
        self.close_chance = close_chance
        self.replies_may_be_lost = False
        self.options: dict[str, int | float] = {
            "clients_max": 8,
            "checkpoint_interval": 16,
            "log_max": 64,
            "pipeline_max": 8,
            "prepare_max": 8,
            "chunk_size": 700,
            "replicas": replicas,
            **config,
        }
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.event_number = 0
        self.cut: set[tuple[int, int]] = set()
        self.client_cut: set[int] = set()  # replicas whose words to clients are lost
        self.effect_hooks: list[Callable[[Node, Effect], None]] = []
        self.message_filter: Callable[[int, int, VsrMessage], bool] | None = None
        self.client_filter: Callable[[AnswerClient | RefuseClient | RedirectClient], bool] | None = None
        self.history: dict[int, LogEntry] = {}
        self.once: dict[tuple[int, int, int], int] = {}
        self.reference = Execution(CLUSTER, int(self.options["clients_max"]), ChainMachine())
        self.reference_op = 0
        self.reference_replies: dict[int, bytes] = {}
        self.reference_ended: dict[tuple[int, int], int] = {}
        self.late_replies: dict[int, set[bytes]] = {}
        self.snapshots: dict[int, bytes] = {}
        self.seen_ops: set[int] = set()
        self.answers = 0
        self.happened: Counter[str] = Counter()
        self.nodes = [Node(self, index) for index in range(replicas)]
        self.clients = {client + 1: Client(self, client + 1, requests) for client in range(clients)}

    def config(self, index: int) -> VsrConfig:
        """The configuration of a replica."""
        return VsrConfig(cluster=CLUSTER, replica=index, **self.options)  # type: ignore[arg-type]

    # Time.

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Do something later."""
        self.event_number += 1
        heapq.heappush(self.events, (self.now + delay, self.event_number, action))

    def run_until(self, done: Callable[[], bool], limit: float) -> bool:
        """Let time pass until something holds; False if it does not within the limit."""
        end = self.now + limit
        while not done():
            if not self.events or self.events[0][0] > end:
                self.now = end
                return False
            self.now, _, action = heapq.heappop(self.events)
            action()
        return True

    def run_for(self, seconds: float) -> None:
        """Let time pass."""
        self.run_until(lambda: False, seconds)

    def start(self) -> None:
        """Start all replicas and clients."""
        for node in self.nodes:
            node.start()
        for client in self.clients.values():
            self.after(self.random.uniform(0, 0.05), client.act)

    # The network and the disks.

    def disk_delay(self) -> float:
        """How long a write takes."""
        return self.random.uniform(*self.disk)

    def linked(self, source: int, target: int) -> bool:
        """True if messages between the two arrive."""
        return (source, target) not in self.cut and (target, source) not in self.cut

    def _later(self, action: Callable[[], None]) -> None:
        """A message arrives, perhaps after one that was sent after it."""
        self.after(self.random.uniform(0.0005, 0.003), action)

    def send(self, source: int, target: int, message: VsrMessage) -> None:
        """From replica to replica."""
        if (source, target) in self.cut or (self.message_filter and not self.message_filter(source, target, message)):
            return
        self._later(lambda: self._deliver(target, message))

    def _deliver(self, target: int, message: VsrMessage) -> None:
        node = self.nodes[target]
        if node.replica is not None:
            node.run(node.replica.receive(message, self.now))

    def send_request(self, target: int, request: Request) -> None:
        """From a client to a replica."""
        self._later(lambda: self._deliver_request(target, request))

    def _deliver_request(self, target: int, request: Request) -> None:
        node = self.nodes[target]
        if node.replica is not None:
            node.run(node.replica.request((request,), self.now))

    def send_client(self, source: int, effect: AnswerClient | RefuseClient | RedirectClient) -> None:
        """From a replica to a client."""
        if isinstance(effect, AnswerClient):
            header = Reply.unpack(effect.reply).header
            self.check_reply(header.op, effect.reply)
        if source in self.client_cut or effect.client not in self.clients:
            return
        if self.client_filter is not None and not self.client_filter(effect):
            return
        self._later(lambda: self.clients[effect.client].receive(effect))

    def partition(self, *groups: set[int]) -> None:
        """Cut the replicas into groups."""
        everyone = range(len(self.nodes))
        group_of = {index: number for number, group in enumerate(groups) for index in group}
        self.cut = {(a, b) for a in everyone for b in everyone if group_of.get(a) != group_of.get(b)}

    # Checks.

    def on_effect(self, node: Node, effect: Effect) -> None:
        """Let a scenario look, or strike."""
        for hook in list(self.effect_hooks):
            hook(node, effect)

    def check(self, node: Node) -> None:
        """After each input: what was executed is the history; a sync that counts as finished is."""
        if node.replica is None:
            return
        core = node.replica.core
        for op in range(node.seen + 1, core.executed + 1):
            entry = core.log.entry(op)
            if entry is not None:
                self._committed(op, entry)
        node.seen = core.executed
        if core.durable.sync_op == 0 and core.sync_op == 0 and core.durable.voting:
            wrong = [slot for slot in node.replies.installed_faulty if not node.replies.holds(slot)]
            require(not wrong, f"replica {node.index}: sync finished, and slots {wrong} are not durable")

    def _committed(self, op: int, entry: LogEntry) -> None:
        known = self.history.get(op)
        if known is not None:
            require(known.checksum == entry.checksum, f"op {op} was executed with two contents")
            return
        self.history[op] = entry
        request = entry.request
        if request.number:
            key = (request.client, request.session, request.number)
            require(key not in self.once, f"request {key} is in the log twice, at ops {self.once.get(key)} and {op}")
            self.once[key] = op
        while self.reference_op + 1 in self.history:
            self.reference_op += 1
            self._reference(self.history[self.reference_op])

    def _reference(self, entry: LogEntry) -> None:
        """Execute the history once more, by itself."""
        require(entry.timestamp > self.reference.timestamp, f"time goes back at op {entry.op}")
        applied = self.reference.apply(entry)
        if not isinstance(applied, Applied):
            return
        self.reference_replies[entry.op] = applied.reply
        if applied.evicted is not None:
            self.reference_ended[applied.evicted] = entry.op
            self.happened["evictions"] += 1
        if entry.request.operation == OPERATION_CLOSE:
            self.reference_ended[(entry.request.client, entry.request.session)] = entry.op
        for known in self.late_replies.pop(entry.op, ()):
            self.check_reply(entry.op, known)

    def check_reply(self, op: int, reply: bytes) -> None:
        """A reply that is kept or sent is the one that the history gives."""
        expected = self.reference_replies.get(op)
        if expected is None:
            self.late_replies.setdefault(op, set()).add(reply)  # compared as soon as the history is that far
        else:
            require(reply == expected, f"the reply of op {op} is not the one that its entry gives")

    def check_snapshot(self, op: int, encoded: bytes) -> None:
        """Snapshots of an op are the same on all replicas."""
        require(self.snapshots.setdefault(op, encoded) == encoded, f"two snapshots of op {op}")

    def check_gone(self, client: int, session: int, reason: Reason) -> None:
        """A client is told that its session is gone only if that is committed."""
        current = self.reference.sessions.session_of(client)
        gone = (client, session) in self.reference_ended or (current is not None and current > session)
        require(gone, f"client {client} was refused ({reason.name}), and session {session} is there")

    # The end.

    def heal(self) -> None:
        """No more faults: everybody lives and is reached."""
        self.disk = DISK
        self.cut.clear()
        self.client_cut.clear()
        self.message_filter = None
        self.client_filter = None
        self.effect_hooks.clear()
        for node in self.nodes:
            node.slow_disk = 1.0
            if node.replica is None:
                node.start()

    def settled(self) -> bool:
        """True if all clients are done and all replicas have executed everything and are whole."""
        if not all(client.done for client in self.clients.values()):
            return False
        cores = [node.replica.core for node in self.nodes if node.replica is not None]
        return (
            len(cores) == len(self.nodes)
            and all(node.replica is not None and node.replica.is_whole for node in self.nodes)
            and len({core.executed for core in cores}) == 1
            and all(core.executed == core.log.op and not core.log.rotten() for core in cores)
            and not any(node.replies.pending or set(node.replies.faulty()) - node.replies.lost for node in self.nodes)
        )

    def finish(self, limit: float = 60.0) -> None:
        """Heal, wait until all is done, and compare everything."""
        self.heal()
        require(self.run_until(self.settled, limit), f"no progress after the faults stopped: {self.describe()}")
        states = set()
        tables = set()
        for node in self.nodes:
            assert node.replica is not None
            states.add(node.replica.core.execution.machine.snapshot())
            tables.add(node.replica.core.execution.sessions.encode())
        require(len(states) == len(tables) == 1, "the replicas' states differ at the end")
        require({self.reference_op} == {node.seen for node in self.nodes}, "an executed op was never seen")
        require(self.reference.machine.snapshot() in states, "the state is not what the history gives")
        require(self.seen_ops <= self.history.keys(), "a client saw the reply of an op that is not in the history")
        for slot, header in self.reference.sessions.expectations().items():
            for node in self.nodes:
                held = node.replies.find(slot, header) is not None or slot in node.replies.lost
                require(held, f"replica {node.index} is without the reply in slot {slot}")
        for node in self.nodes:
            assert node.replica is not None
            self.happened.update(node.replica.core.counters)

    def describe(self) -> str:
        """Where everybody is."""
        lines = [str(node.replica.status()) if node.replica else "down" for node in self.nodes]
        waiting = [c.client for c in self.clients.values() if not c.done]
        return f"clients {waiting}; " + " | ".join(lines)

    def primary(self) -> Node:
        """The node of the active primary with the highest view."""
        primaries = [node for node in self.nodes if node.replica is not None and node.replica.core.is_primary]
        return max(primaries, key=lambda node: node.replica.core.view)  # type: ignore[union-attr]
