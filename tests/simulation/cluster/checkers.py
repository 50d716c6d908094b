"""What a run of the whole cluster is judged by, besides what the component's checkers see.

Guarantees: nothing here asks the protocol whether it is right. One history, made of what was executed first, is
executed once more beside it by a machine of its own.

    history    one entry an op on all replicas; each request once; the reply and the slot that the history gives
    votes      what a replica says that it has, or has left behind, is in its store; what is executed, in a quorum's
    answers    every answer that leaves is the first reply, byte for byte; a refusal is true
    sync       a state sync is finished when every reply that it wanted is on the disk, or lost for good
    gateways   who asked is answered, with the reply to what it asked; a majority that is connected serves its clients
    disks      nobody gives up a good disk, or any without a majority that votes; snapshots of an op are the same
    the end    everybody is done, whole and the same, slots included

Owns: the history.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from client_replies.cluster.client import Answer as ClientAnswer
from client_replies.cluster.door.forwarding_messages import ForwardedReplies
from client_replies.cluster.door.frames import (
    OPERATION_CLOSE,
    REPLY_SIZE_MAX,
    TO_CLIENT,
    Frame,
    FrameKind,
    Reason,
    unpack_frame,
)
from client_replies.cluster.replica.network import Envelope
from client_replies.cluster.replica.starting import NO_MAJORITY
from client_replies.cluster.vsr.durable import Snapshot
from client_replies.cluster.vsr.effects import AnswerClient, RefuseClient
from client_replies.cluster.vsr.effects import Reason as Refusal
from client_replies.cluster.vsr.execution import Applied, Execution, Skipped
from client_replies.cluster.vsr.messages import (
    DoViewChange,
    LogEntry,
    PrepareOk,
    RecoveryResponse,
    StartViewChange,
)
from client_replies.messages.replies import CheckpointDone, InstallSessions, RepliesOpened, SessionsInstalled
from client_replies.messages.reply_header import HEADER_SIZE, packed_op, packed_size
from client_replies.messages.storage_io import WriteCheckpoint
from client_replies.storage.client_sessions import ClientSessions

from ..checkers import Checkers, ModelSessions
from ..history import CLUSTER, ClientRequest, Entry, Result
from ..system import Process
from .gateway import ClusterGatewayActor
from .machine import ClusterReplicaActor, SimLogStore
from examples.ledger.ledger_machine import LedgerMachine

if TYPE_CHECKING:
    from .world import ClusterWorld

# Why replicas stop in these runs: their disks fail, their actors die, their disks were lost.
STOPS = (
    "IO_ERROR",
    "ACTOR_DIED",
    "FILE_LOCKED",
    "STOPPED",
    "MEMORY_UNAVAILABLE",
    "a simulated error",
    "its ClientRepliesActor died",
    "set aside as",
)


REFUSALS = {int(Reason[refusal.name]): refusal for refusal in Refusal if refusal.name in Reason.__members__}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRequest(ClientRequest):
    """A request of the cluster, as the model of the session table sees it."""

    closes: bool


class ClusterModel(ModelSessions):
    """The model, with sessions that end."""

    def commit(self, entry: Entry) -> int | None:
        slot = super().commit(entry)
        request = entry.request
        if slot is not None and isinstance(request, ClusterRequest) and request.closes:
            del self.sessions[request.client]
        return slot


@dataclass(slots=True)
class Seen:
    """What is remembered of one replica from message to message."""

    process: int = 0
    sync_op: int = 0
    wanted: dict[int, bytes] | None = None  # replies that a state sync waits for, by slot
    view: int = -1
    primary_of: int = -1
    checkpoints: set[int] | None = None  # their ops since the last state sync, if there was one
    installed: int = 0  # the op of that sync


class ClusterCheckers(Checkers):
    """See the module."""

    world: ClusterWorld

    def __init__(self, world: ClusterWorld) -> None:
        super().__init__(world)
        self.model = ClusterModel(world.plan.clients_max)
        self.entries: dict[int, LogEntry] = {}
        self.reference = Execution(CLUSTER, world.plan.clients_max, LedgerMachine())
        self.seen = [Seen() for _ in world.hosts]
        self._once: dict[tuple[int, int, int], int] = {}
        self._executed_in: dict[int, int] = {}  # by op: the view of who executed it first
        self._snapshots: dict[int, bytes] = {}

    # History.

    def executed(self, index: int, entry: LogEntry, applied: Applied | Skipped) -> None:
        """A replica executed an entry, for the first time or again."""
        known = self.entries.get(entry.op)
        if known is None:
            self._first(index, entry)
        elif known.checksum != entry.checksum:
            self.fail("one history", f"r{index} executed another op {entry.op}")
        expected = self.world.history.results[entry.op]
        reply = applied.reply if isinstance(applied, Applied) else None
        slot = applied.slot if isinstance(applied, Applied) else None
        if reply != expected.reply:
            self.fail("exactly once, in one order", f"r{index} came to another reply at op {entry.op}")
        if slot != expected.slot:
            self.fail("12: eviction and slots follow from what is committed", f"r{index} op {entry.op} slot {slot}")

    def _first(self, index: int, entry: LogEntry) -> None:
        if entry.op != self.world.history.op + 1:
            self.fail("one history", f"r{index} executed op {entry.op} after {self.world.history.op}")
        self._on_a_quorum(index, entry)
        core = self.world.core(index)
        self._executed_in[entry.op] = core.view if core is not None else entry.view
        key = (entry.request.client, entry.request.session, entry.request.number)
        if entry.request.number and self._once.setdefault(key, entry.op) != entry.op:
            self.fail("a request gets one place in the log", f"{key} at op {self._once[key]} and at {entry.op}")
        if entry.timestamp <= self.reference.timestamp:
            self.fail("one history", f"time goes back at op {entry.op}")
        self.entries[entry.op] = entry
        applied = self.reference.apply(entry)
        reply = applied.reply if isinstance(applied, Applied) else None
        if isinstance(applied, Applied) and applied.evicted is not None:
            self.world.marks.hit("session_evicted")
        request = entry.request
        noted = ClusterRequest(
            client=request.client,
            session=request.session,
            request=request.number,
            checksum=request.checksum,
            size=len(reply) - HEADER_SIZE if reply is not None else 0,
            closes=request.operation == OPERATION_CLOSE,
        )
        self.world.history.entries.append(Entry(entry.op, noted, entry.view, entry.replica))
        self.committed(self.world.history.entry(entry.op))
        slot = self._slots[entry.op]
        if (applied.slot if isinstance(applied, Applied) else None) != slot:
            self.fail("12: eviction and slots follow from what is committed", f"op {entry.op}: the model has {slot}")
        self.world.history.results[entry.op] = Result(slot, reply, entry.op)

    def _on_a_quorum(self, index: int, entry: LogEntry) -> None:
        # Who has no vote does not count; who had one and lost its disk since does.
        holders = sum(
            any(store.state.voting and self._holds(store, entry) for store in (*stores, *self.world.lost[other]))
            for other, stores in self.world.stores()
        )
        if holders < self.world.quorum:
            self.fail("what is executed is durable on a quorum", f"r{index} executed op {entry.op} of {holders}")

    @staticmethod
    def _holds(store: SimLogStore, entry: LogEntry) -> bool:
        return bool(store.base >= entry.op or store.checksum(entry.op) == entry.checksum)

    def snapshot_saved(self, index: int, snapshot: Snapshot) -> None:
        """A replica saves a snapshot."""
        encoded = snapshot.encode()
        if self._snapshots.setdefault(snapshot.op, encoded) != encoded:
            self.fail("snapshots of an op are the same", f"r{index} has another one of op {snapshot.op}")

    def caught_up(self, index: int) -> None:
        """A replica uses its vote: if it lost its disk, it has again what is committed and was on that disk."""
        store = self.world.store(index)
        for lost in self.world.lost[index]:
            held = (op for op in range(self.world.history.op, 0, -1) if self._holds(lost, self.entries[op]))
            if store is None or store.op < next(held, 0):
                self.fail("who lost its disk votes when it has caught up", f"r{index} lost {lost.op}")

    # What is sent.

    def sent(self, process: Process, message: object) -> None:
        super().sent(process, message)
        if isinstance(message, Envelope):
            if isinstance(process.instance, ClusterReplicaActor):
                for item in message.items:
                    self._said(process.host.index, item)
        elif isinstance(message, ForwardedReplies):
            for packed in message.answers:
                self._said_to_gateway(process.host.index, unpack_frame(packed, TO_CLIENT, REPLY_SIZE_MAX))
        elif isinstance(message, SessionsInstalled):
            self._sync_wants(process.host.index, message.faulty)
        elif isinstance(message, RepliesOpened):
            store = self.world.store(process.host.index)
            if store is not None and store.state.sync_op:
                self._sync_wants(process.host.index, message.faulty)
            if message.damaged is not None:
                self._goes_on_from(process.host.index, message.op)
        elif isinstance(message, InstallSessions):
            self.seen[process.host.index].checkpoints = set()
            self.seen[process.host.index].installed = message.op
        elif isinstance(message, CheckpointDone):
            seen = self.seen[process.host.index]
            if seen.checkpoints is not None and message.op >= seen.installed:  # else it began before the sync
                seen.checkpoints.add(message.op)

    def log_has_checkpoint_before(self, index: int) -> bool:
        """True if the log must go back to the checkpoint before the last: no state sync came between the two."""
        checkpoints = self.seen[index].checkpoints
        return checkpoints is None or len(checkpoints) > 1

    def _goes_on_from(self, index: int, op: int) -> None:
        """The component opened with the checkpoint before its last: the replica's log must go on from there."""
        store = self.world.store(index)
        if store is None or index in self.world.injured or not self.log_has_checkpoint_before(index):
            return
        if store.base > op or (op and op not in store.snapshots()):
            text = f"r{index} opened op {op}, has a log from {store.base} and snapshots of {store.snapshots()}"
            self.fail("the log goes on from the checkpoint before", text)

    def _said(self, index: int, item: object) -> None:
        if isinstance(item, PrepareOk):
            self._prepared(index, item)
        elif isinstance(item, StartViewChange | DoViewChange | RecoveryResponse):
            self._left(index, item)

    def _said_to_gateway(self, index: int, frame: Frame) -> None:
        if frame.command == FrameKind.REPLY:
            self._answered(index, AnswerClient(frame.client, frame.view, frame.body))
        elif frame.reason in REFUSALS:
            reason, checksum = REFUSALS[frame.reason], frame.request_checksum
            self._refused(RefuseClient(frame.client, frame.view, frame.session, frame.request, reason, checksum))

    # The gateways and the client library.

    def frame_for(self, client: int, frame: Frame) -> None:
        """A frame has come to a client."""
        if frame.client not in (0, client):
            self.fail("a gateway answers whoever asked", f"client {client:x} gets {frame}")

    def answer_taken(self, asked: Frame, answer: ClientAnswer) -> None:
        """The library gives its user an answer."""
        op = answer.header.op
        result = self.world.history.results.get(op)
        if result is None or result.reply != answer.header.pack() + answer.body:
            self.fail("the original reply", f"client {asked.client:x} takes another reply for op {op}")
        if self.entries[op].request.checksum != asked.request_checksum:
            self.fail("a reply answers the request that was asked", f"{asked} is answered with op {op}")

    def _gateway(self, process: Process, gateway: ClusterGatewayActor) -> None:
        """A request waits at a gateway if it is in flight at a connection, and only then."""
        door, forwarding = gateway.door, gateway.forwarding
        if door is None or forwarding is None:
            return
        held = {(one.id, key) for one in door._connections.values() for key in one.in_flight}
        waiting = {(one.connection, key) for key, one in forwarding._waiting.items()}
        if held != waiting:
            self.fail("what is in flight at a connection waits for an answer", f"{process.name}: {len(held ^ waiting)}")

    def not_served(self, minority: list[int]) -> None:
        """A majority is connected with the gateways and the clients, and has been for long."""
        left = [client.name for client in self.world.clients if not client.instance.done]
        self.fail("a majority that is connected serves its clients", f"without {minority}: {left} wait")

    def _answered(self, index: int, answer: AnswerClient) -> None:
        result = self.world.history.results.get(packed_op(answer.reply[:HEADER_SIZE]))
        if result is None or result.reply != answer.reply:
            self.fail("the original reply", f"r{index} answers client {answer.client} with another reply")
        op = packed_op(answer.reply[:HEADER_SIZE])
        if op in self.entries and self._executed_in[op] < answer.view:
            self.world.marks.hit("reply_answered_in_a_later_view")

    def _refused(self, refused: RefuseClient) -> None:
        self.world.marks.hit(f"refused_{refused.reason.name}")
        if refused.reason is Refusal.REPLY_LOST:
            self.reply_lost_told(refused)
        elif refused.view >= self._executed_in.get(refused.session, refused.view + 1):
            # Who says so in an earlier view may not have heard of the session; who says so now has executed it.
            self.session_ended(refused)

    def session_ended(self, refused: RefuseClient) -> None:
        """A session is gone, says one who must know."""
        if refused.reason in (Refusal.NO_SESSION, Refusal.SESSION_TOO_LOW, Refusal.REPLACED):
            self.evicted(refused.client, refused.session)

    def reply_lost_told(self, refused: RefuseClient) -> None:
        """A client is told that its reply is lost."""
        held = self.model.sessions.get(refused.client)
        if held is not None and (held.session, held.request) == (refused.session, refused.number):
            self.fail("a reply that must survive survives", f"client {refused.client} lost {refused.number}")

    def _prepared(self, index: int, message: PrepareOk) -> None:
        store = self.world.store(index)
        if store is None or message.view < store.state.view:
            return  # It has left the view since; then this counts no more.
        state = store.state
        if state.log_view != message.view or store.op < message.op or (message.voting and not state.voting):
            self.fail("a vote is durable", f"r{index} says {message}, and has {state} up to {store.op}")
        if message.voting:
            self.caught_up(index)
        primary = self.world.core(message.view % self.world.replicas_count)
        if primary is None or primary.view != message.view or not primary.is_primary or message.op <= store.base:
            return
        if primary.log.base < message.op <= primary.log.op:
            checksum = store.checksum(message.op)
            if checksum is not None and not primary.log.has_checksum(message.op, checksum):
                self.fail("one view has one log", f"r{index} has another op {message.op} in view {message.view}")

    def _left(self, index: int, message: StartViewChange | DoViewChange | RecoveryResponse) -> None:
        store = self.world.store(index)
        if store is None or store.state.view < message.view:
            self.fail("a view is left durably", f"r{index} says {message}")
        self.caught_up(index)
        state = store.state if store is not None else None
        # What was said before the view's log was taken over may still be leaving.
        if isinstance(message, DoViewChange) and store is not None and state is not None:
            same = (state.view, state.log_view) == (message.view, message.log_view)
            if same and (store.op < message.op or not state.voting):
                self.fail("a vote is durable", f"r{index} sends a log up to {message.op}, and has {store.op}")

    def _write_checkpoint(self, index: int, parts: Any, message: WriteCheckpoint) -> None:
        super()._write_checkpoint(index, parts, message)
        table = ClientSessions.decode(message.sessions, clients_max=self.world.plan.clients_max, cluster=CLUSTER)
        for slot, header in table.expectations().items():
            expected = parts.opened.slots.expected[slot]
            if expected is not None and packed_op(expected) < packed_op(header):
                self.fail("a component knows the replies of its checkpoint", f"r{index} slot {slot} op {message.op}")

    # State sync.

    def _sync_wants(self, index: int, faulty: tuple[int, ...]) -> None:
        parts = self.world.parts(index)
        if parts is None:
            return
        expected = parts.opened.slots.expected
        self.seen[index].wanted = {slot: expected[slot] for slot in faulty if expected[slot] is not None}

    def delivered(self, process: Process, message: object) -> None:
        super().delivered(process, message)
        if isinstance(process.instance, ClusterReplicaActor) and process.instance.opened:
            self._replica(process, process.instance)
        elif isinstance(process.instance, ClusterGatewayActor):
            self._gateway(process, process.instance)

    def _replica(self, process: Process, actor: ClusterReplicaActor) -> None:
        index, core = process.host.index, actor.core
        seen = self.seen[index]
        if seen.process != process.number:
            seen.process, seen.sync_op, seen.view = process.number, core.sync_op, core.view
        if core.view != seen.view:
            seen.view = core.view
            if core.sync_op or core.fetch.source >= 0:
                self.world.marks.hit("view_change_during_state_sync")
        if core.is_primary and seen.primary_of != core.view:
            seen.primary_of = core.view
            self.world.view_begun(index, core)
        if seen.sync_op and not core.sync_op:
            self._sync_finished(index)
        seen.sync_op = core.sync_op

    def _sync_finished(self, index: int) -> None:
        self.world.marks.hit("state_sync_finished")
        wanted, self.seen[index].wanted = self.seen[index].wanted or {}, None
        parts = self.world.parts(index)
        if parts is None:
            return
        if wanted:
            self.world.marks.hit("state_sync_repaired_replies")
        for slot, header in wanted.items():
            same = parts.opened.slots.expected[slot] == header
            if same and slot not in parts.repair_planner.lost and not self._is_there(index, slot, header):
                self.fail("9: a state sync ends when its replies are durable", f"r{index} slot {slot}")

    # Disks.

    def holds_for_good(self, index: int, slot: int, header: bytes) -> bool:
        """See `Checkers`. A reply whose entry is in the durable log is made again after a crash."""
        if super().holds_for_good(index, slot, header):
            return True
        store, core = self.world.store(index), self.world.core(index)
        if store is None or core is None or core.sync_op or index in self.world.injured:
            return False
        if self._may_be_counted(index, slot):
            return False
        parts, file, op = self.world.parts(index), self.world.file(index), packed_op(header)
        if parts is None or file is None or self._stopped(index) or parts.opened.slots.expected[slot] != header:
            return False
        entry = self.entries.get(op)
        logged = entry is not None and store.checksum(op) == entry.checksum
        start = self.world.layout.slot_offset(slot)
        good = self._on_medium(file, slot, header) and not file.is_damaged(start, packed_size(header))
        return bool(core.checkpoint.op < op and logged and slot not in parts.opened.slots.faulty) and good

    def disk_given_up(self, index: int) -> None:
        """A replica sets aside what it has."""
        self.world.marks.hit("disk_given_up")
        if index not in self.world.injured:
            self.fail("nobody gives up a good disk", f"r{index}")
        others = [store for other, stores in self.world.stores() if other != index for store in stores]
        if sum(store.state.voting for store in others) < self.world.quorum:
            self.fail("nobody gives up a disk without a majority that votes", f"r{index}")

    def replica_stopped(self, index: int, reason: str) -> None:
        """A replica says that it cannot go on."""
        self.world.marks.hit("replica_stopped")
        if NO_MAJORITY in reason:
            self.world.marks.hit("disk_kept_without_a_majority")
        elif not any(expected in reason for expected in STOPS):
            self.fail("a replica can begin, and go on", f"r{index}: {reason}")

    # The end.

    def harvest(self) -> None:
        super().harvest()
        for process in self.world.system.processes.values():
            if isinstance(process.instance, ClusterReplicaActor) and process.instance.opened:
                for name, count in process.instance.core.counters.items():
                    self.world.marks.hit(f"protocol_{name}", count)
            if isinstance(process.instance, ClusterGatewayActor) and process.instance.forwarding is not None:
                counters = process.instance.forwarding.counters
                for name in sorted(counters):
                    self.world.marks.hit(f"gateway_{name}", counters[name])

    def unfinished(self) -> list[str]:
        world = self.world
        left = [client.name for client in world.clients if not client.instance.done]
        if world.system.now < world.quiet_at:
            left.append("what is replayed late")
        for index, process in enumerate(world.replicas):
            left += self._unfinished_of(index, process)
        return left or self._unscrubbed()

    def _unfinished_of(self, index: int, process: Process | None) -> list[str]:
        if process is None or not process.alive or not process.instance.opened:
            return [f"r{index} is not open"]
        replica, parts = process.instance, self.world.parts(index)
        if parts is None:
            return [f"r{index} has no component"]
        left, core, slots = [], replica.core, parts.opened.slots
        if not replica.is_whole or core.executed < max(core.log.op, self.world.history.op):
            left.append(f"r{index} is at {replica.part.vsr.status()}")
        port = replica.part.port
        if port.pending or port.accepted < core.executed:
            left.append(f"r{index} has work in its port")
        if slots.queued or slots.writing or slots.repairs:
            left.append(f"r{index} writes")
        faulty = [slot for slot in slots.faulty if slot not in parts.repair_planner.lost]
        return [*left, f"r{index} has faulty slots {faulty}"] if faulty else left

    def states_at_the_end(self) -> None:
        """Everybody has come to the state that the history gives."""
        machine, sessions = self.reference.machine.snapshot(), self.reference.sessions.encode()
        wanted = self.reference.sessions.expectations()
        for index in range(self.world.replicas_count):
            core = self.world.core(index)
            if core is None or core.execution.machine.snapshot() != machine:
                self.fail("the same state at the end", f"r{index} has another ledger")
            if core is not None and core.execution.sessions.encode() != sessions:
                self.fail("the same state at the end", f"r{index} has another session table")
            expected = enumerate(self.world.parts(index).opened.slots.expected)
            if {slot: header for slot, header in expected if header is not None} != wanted:
                self.fail("a component expects what is committed", f"r{index}")

    def finals_at_the_end(self, finals: list[str]) -> None:
        """What the replicas said when they closed."""
        said = [json.loads(text) for text in finals]
        for one in said:
            del one["counters"]
        if any(one != said[0] for one in said) or sum(said[0]["balances"].values()):
            self.fail("the same state at the end", f"{said}")

    def _same_at_the_end(self, index: int, slot: int, header: bytes) -> None:
        parts = self.world.parts(index)
        if parts is not None and slot in parts.repair_planner.lost:
            return
        super()._same_at_the_end(index, slot, header)
