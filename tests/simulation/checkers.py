"""Every invariant that a run is judged by, on the actors' real state and on the disks' real bytes.

Guarantees: what is checked here is computed anew from what the design says, not by the code that it judges. Cheap
checks run after every delivered message, the rest when something was promised, at crashes and at the end.

    state      the slots, the calls to the storage, the leases and the limits of a component, after each message to it
    disk       what a component calls durable is on the medium, byte for byte, unless a fault was put there since
    promises   what is sent: lost, missing, found; what is said to be on disk is `promises`' to judge
    history    each request once, at the same op, in the same slot, with the same reply on every replica
    clients    the reply that a client accepts is the first that was computed; an eviction is a real one
    liveness   after the faults, within a bounded time, everybody is answered and everything is repaired

Limits: a reply that a harsh run lost everywhere is lost. Owns: a model of the session table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import xxhash

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.actors.component.closing import Closing
from client_replies.actors.component.message_pool import MessagePoolActor
from client_replies.actors.component.opening import Opening
from client_replies.actors.component.peer_server import PeerRead
from client_replies.actors.component.reader import ClientRead
from client_replies.actors.component.storage import StorageActor
from client_replies.actors.owner.port_events import PortFailed, ReadSucceeded
from client_replies.messages.config import SECTOR_SIZE
from client_replies.messages.faults import FaultKind
from client_replies.messages.peers import GetReplies, Missing, RepliesFound, RepliesMissing
from client_replies.messages.replies import (
    Checkpoint,
    CheckpointDone,
    InstallSessions,
    RemoveReplies,
    ReplyLost,
    ReplyRead,
    StorageFailed,
    WriteReplies,
    WritesAccepted,
)
from client_replies.messages.reply_header import HEADER_SIZE, ReplyHeader, packed_op, packed_size
from client_replies.messages.storage_io import (
    SlotsRead,
    SlotsVerified,
    SlotsWritten,
    StorageOpened,
    WriteCheckpoint,
    WriteSlots,
)
from client_replies.storage.client_sessions import NoSession, SessionTooLow
from client_replies.storage.layout import SUPERBLOCK_COPIES, sectors_size
from client_replies.storage.superblock import MAGIC

from .broken import Broken
from .chance import MICROSECONDS
from .disk import SimFile
from .history import ClientRequest, Entry, Result
from .promises import Promises, parts_of
from .system import Process

if TYPE_CHECKING:
    from .world import World

CHANGING = (
    WriteReplies,
    RemoveReplies,
    InstallSessions,
    SlotsWritten,
    SlotsRead,
    SlotsVerified,
    RepliesFound,
    StorageOpened,
)
WRITE_LANES = ("write 0", "write 1")
CHANGING_LANES = (*WRITE_LANES, "repair")
FAILURES = frozenset(
    {
        FaultKind.FILE_LOCKED,
        FaultKind.DISK_FULL,
        FaultKind.IO_ERROR,
        FaultKind.STOPPED,
        FaultKind.ACTOR_DIED,
        FaultKind.MEMORY_UNAVAILABLE,
    }
)
SUPERBLOCK_SIZE = SUPERBLOCK_COPIES * SECTOR_SIZE
FIELDS = ((40, 8), (56, 8), (80, 4), (64, 16))  # after the copy number: sequence, size, area, checksum
HARSH_FAILURES = FAILURES | {FaultKind.TRAILER_CORRUPT, FaultKind.SUPERBLOCK_CORRUPT, FaultKind.NOT_A_DATA_FILE}


@dataclass(slots=True)
class ModelSession:
    """A session in the model."""

    session: int
    request: int
    op: int
    slot: int
    size: int


class ModelSessions:
    """The session table as the design describes it, by the slowest and plainest means."""

    def __init__(self, clients_max: int) -> None:
        self.clients_max = clients_max
        self.sessions: dict[int, ModelSession] = {}

    def commit(self, entry: Entry) -> int | None:
        """The slot in which the entry's reply belongs, or None if it is not to be executed."""
        request = entry.request
        held = self.sessions.get(request.client)
        if request.registers:
            if held is not None:
                return None
            if len(self.sessions) == self.clients_max:
                del self.sessions[min(self.sessions, key=lambda client: self.sessions[client].op)]
            used = {session.slot for session in self.sessions.values()}
            slot = min(slot for slot in range(self.clients_max) if slot not in used)
            self.sessions[request.client] = ModelSession(entry.op, 0, entry.op, slot, request.size)
            return slot
        if held is None or held.session != request.session or request.request != held.request + 1:
            return None
        held.request, held.op, held.size = request.request, entry.op, request.size
        return held.slot

    def in_slot(self, slot: int) -> ModelSession | None:
        """The session that has the slot."""
        return next((session for session in self.sessions.values() if session.slot == slot), None)


@dataclass(slots=True)
class Watched:
    """What is remembered of one replica's component between two messages."""

    barrier: int | None = None  # of the checkpoint that is not being written yet
    faulty: frozenset[int] = frozenset()
    right_since: dict[int, int] = field(default_factory=dict)  # when a slot was last seen to be faulty no more
    sequence_done: int = 0
    sequence_asked: int = 0  # of the last checkpoint that the storage was given
    opening: int | None = None  # the sequence that the file's superblock amounts to


class Checkers:
    """See the module."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.model = ModelSessions(world.plan.clients_max)
        self._slots: dict[int, int | None] = {}
        self._sessions_at: dict[int, bytes] = {}
        self._watched = [Watched() for _ in world.hosts]
        self.promises = Promises(world, self.fail)
        self._asked: dict[tuple[int, int], dict[int, bytes]] = {}
        self._denied: dict[tuple[int, int, bytes], dict[int, int]] = {}
        self._scrubbed: list[int] | None = None
        self._sent: dict[type, Callable[[int, Any, Any], None]] = {
            CheckpointDone: self._checkpoint_done,
            WriteCheckpoint: self._write_checkpoint,
            WritesAccepted: self._writes_accepted,
            WriteSlots: self._write_slots,
            ReplyLost: self._reply_lost,
            StorageFailed: self._storage_failed,
            RepliesMissing: self._replies_missing,
            RepliesFound: self._replies_found,
            ReplyRead: self._reply_read,
            GetReplies: self._get_replies,
            StorageOpened: self._storage_opened,
        }

    def fail(self, invariant: str, text: str) -> None:
        """The run has failed."""
        raise Broken(invariant, text)

    # History.

    def committed(self, entry: Entry) -> None:
        """An entry was appended: what must come of it?"""
        if entry.request.registers:
            self.world.marks.hit("registration_committed")
        self._slots[entry.op] = self.model.commit(entry)
        if self._slots[entry.op] is None:
            self.world.marks.hit("entry_without_session")

    def applied(self, index: int, entry: Entry, result: Result) -> None:
        """A replica executed an entry, or skipped it."""
        expected = self._slots[entry.op]
        if result.slot != expected:
            self.fail(
                "12: eviction and slots follow from what is committed",
                f"r{index} put op {entry.op} in slot {result.slot}, the model in {expected}",
            )
        known = self.world.history.results.setdefault(entry.op, result)
        if known != result:
            self.fail("exactly once, in one order", f"r{index} came to another result at op {entry.op}")

    def sessions_at(self, index: int, op: int, sessions: bytes) -> None:
        """A replica encoded its session table."""
        if self._sessions_at.setdefault(op, sessions) != sessions:
            self.fail("12: eviction and slots follow from what is committed", f"r{index} has another table at op {op}")

    # Clients.

    def accepted(self, request: ClientRequest, header: ReplyHeader, reply: bytes) -> None:
        """A client took a reply."""
        self.world.marks.hit("reply_accepted")
        result = self.world.history.results.get(header.op)
        if result is None or result.reply != reply:
            self.fail("the original reply", f"client {request.client} accepted another reply to {request.request}")
        if header.client != request.client or (not request.registers and header.session != request.session):
            self.fail("the original reply", f"client {request.client} accepted the reply of {header.client}")

    def evicted(self, client: int, session: int) -> None:
        """A client was told that its session is gone."""
        held = self.model.sessions.get(client)
        if held is not None and held.session == session:
            self.fail("13: who is told of an eviction was evicted", f"client {client} has session {session}")

    def judged(self, applied: int, request: ClientRequest, status: object) -> None:
        """A replica that knows everything said what a request is."""
        held = self.model.sessions.get(request.client)
        if applied < self.world.history.op or request.registers:
            return
        gone = held is None or request.session < held.session
        if gone != isinstance(status, NoSession | SessionTooLow):
            text = f"client {request.client}, session {request.session}: {type(status).__name__}"
            self.fail("13: a client whose session is gone is told so", text)

    def lost_told(self, request: ClientRequest) -> None:
        """A client was told that its reply is lost."""
        held = self.model.sessions.get(request.client)
        latest = held is not None and held.request == request.request
        if latest and not self.world.plan.harsh:
            self.fail("a reply that must survive survives", f"client {request.client} lost {request.request}")

    # What is on disk.

    def wanted_in(self, index: int, slot: int) -> list[bytes]:
        """The packed header of the reply that must survive in this slot on somebody's disk, if there is one."""
        session = self.model.in_slot(slot)
        if session is None or not session.size:
            return []
        result = self.world.history.results.get(session.op)
        return [result.reply[:HEADER_SIZE]] if result is not None and result.reply is not None else []

    def holds_for_good(self, index: int, slot: int, header: bytes) -> bool:
        """True if this replica has the reply on its medium and will still know of it after a crash."""
        parts, file = self.world.parts(index), self.world.file(index)
        if parts is None or file is None or self._stopped(index) or parts.opened.slots.expected[slot] != header:
            return False
        slots = parts.opened.slots
        if not _claims_durable(slots, slot) or not self._on_medium(file, slot, header):
            return False
        if self._may_be_counted(index, slot):
            return False
        replica = self.world.replicas[index]
        return (
            replica is not None
            and replica.alive
            and bool(replica.instance.checkpoint_op >= packed_op(header))
            and not file.is_damaged(self.world.layout.slot_offset(slot), packed_size(header))
        )

    def _may_be_counted(self, index: int, slot: int) -> bool:
        """What was denied a moment ago may still be counted by who asked: a copy is a copy when that is over."""
        counted = int((self.world.plan.repair_backoff_max + 1.0) * MICROSECONDS)
        return self.world.system.now - self._watched[index].right_since.get(slot, -counted) < counted

    def _stopped(self, index: int) -> bool:
        component = self.world.components[index]
        return component is None or component.instance.component.stopped is not None

    def _padded(self, header: bytes) -> bytes:
        result = self.world.history.results.get(packed_op(header))
        reply = result.reply if result is not None else None
        if reply is None or reply[:HEADER_SIZE] != header:
            self.fail("the original reply", f"a component expects a reply of op {packed_op(header)} that nobody made")
            return b""
        return reply + bytes(sectors_size(len(reply)) - len(reply))

    def _on_medium(self, file: SimFile, slot: int, header: bytes) -> bool:
        start = self.world.layout.slot_offset(slot)
        padded = self._padded(header)
        return file.stable.startswith(padded, start)

    def _is_there(self, index: int, slot: int, header: bytes) -> bool:
        """True if the reply is on the medium, or a fault was put there since, or a read said so."""
        file = self.world.file(index)
        if file is None:
            return True
        start = self.world.layout.slot_offset(slot)
        damaged = file.is_damaged(start, sectors_size(packed_size(header)))
        return self._on_medium(file, slot, header) or damaged or _was_seen(file, start, header)

    # After every message.

    def delivered(self, process: Process, message: object) -> None:
        """A message was handled."""
        instance = process.instance
        if isinstance(instance, ClientRepliesActor):
            self.promises.delivered(process, message)
            self._component(process.host.index, instance, message)
        elif isinstance(instance, MessagePoolActor):
            self._pool(process, instance)

    def _component(self, index: int, actor: ClientRepliesActor, message: object) -> None:
        parts = parts_of(actor)
        if self.world.components[index] is None or self.world.components[index].instance is not actor:  # type: ignore[union-attr]
            return
        if parts is None or actor.component.stopped is not None:
            self._watched[index].barrier = None
            self._watched[index].faulty = frozenset()
            return
        if isinstance(message, RepliesMissing):
            self._denials(index, message)
        self._slot_states(index, parts)
        self._reads_answered(index, parts)
        self._calls(index, parts)
        self._checkpoint(index, parts, message)
        self._limits(index, parts)
        self._leases(index, parts, isinstance(actor.component.state, Closing))
        self._new_faults(index, parts, message)
        if isinstance(message, CHANGING):
            self._durable_claims(index, parts, message)

    def _slot_states(self, index: int, parts: Any) -> None:
        slots = parts.opened.slots
        for slot in slots.faulty:
            header = slots.expected[slot]
            if header is None or packed_size(header) <= HEADER_SIZE:
                self.fail("1: a faulty slot expects a reply", f"r{index} slot {slot}")
            for writes in (slots.queued, slots.repairs, slots.writing):
                if slot in writes and writes[slot].header == header:
                    self.fail("1, 2: a slot whose reply is pending is not faulty", f"r{index} slot {slot}")
        for writes in (slots.queued, slots.repairs):
            for slot, write in writes.items():
                if write.header != slots.expected[slot]:
                    self.fail("6, 10: only the expected reply is queued", f"r{index} slot {slot}")

    def _reads_answered(self, index: int, parts: Any) -> None:
        """A read of a reply that is in memory does not wait for the disk."""
        slots = parts.opened.slots
        for slot, reads in slots.reads.items():
            for read in reads:
                if slots.expected[slot] != read.header or not _pending_header(slots, slot, read.header):
                    continue
                if isinstance(read.waiter, PeerRead):
                    serving = read.waiter.serving
                    waits = not serving.dropped and slot in serving.waiting
                elif isinstance(read.waiter, ClientRead):
                    # A large reply that finds no buffer for its copy is answered when its group ends.
                    reads_now = parts.reader._reads
                    waits = reads_now.get(read.waiter.message.read) is read.waiter and read.waiter.lent is None
                    waits = waits and parts.opened.is_inline(read.header)
                else:
                    continue
                if waits:
                    self.fail("4: a write answers the reads of its reply", f"r{index} slot {slot}")

    def _calls(self, index: int, parts: Any) -> None:
        """One write in flight a slot; a busy slot holds up no other."""
        calls, slots = parts.opened.to_storage._in_flight, parts.opened.slots
        flying: list[int] = []
        for lane in CHANGING_LANES:
            if lane in calls:
                flying.extend(calls[lane].message.slots)
        if len(flying) != len(slots.writing) or slots.writing.keys() != set(flying):
            self.fail("5: one write in flight a slot", f"r{index}: {sorted(flying)} and {sorted(slots.writing)}")
        if not slots.queued or parts.opened.config.hold_back:
            return
        if not all(lane in calls for lane in WRITE_LANES):
            free = [slot for slot in slots.queued if slot not in slots.writing]
            if free:
                self.fail("5: a busy slot holds up no other", f"r{index}: {free} wait for nothing")

    def _checkpoint(self, index: int, parts: Any, message: object) -> None:
        """A checkpoint waits for the commits before it, and for nothing else."""
        watched, running = self._watched[index], parts.checkpointing._running
        if running is None or running.writing:
            watched.barrier = None
            return
        if isinstance(message, Checkpoint) and watched.barrier is None:
            watched.barrier = parts.opened.slots._accepted
        if watched.barrier is not None and not self._unsettled(parts, watched.barrier):
            self.fail("7, 8: nothing but earlier commits delays a checkpoint", f"r{index}")

    def _unsettled(self, parts: Any, barrier: int) -> list[int]:
        slots = parts.opened.slots
        writes = (*slots.queued.values(), *(write for write in slots.writing.values() if not write.is_repair))
        return [write.slot for write in writes if write.accepted <= barrier]

    def _limits(self, index: int, parts: Any) -> None:
        config, slots, writing = parts.opened.config, parts.opened.slots, parts.writing
        commits = _commits(slots)
        if writing.credit != max(0, config.writes_max - commits):
            self.fail("7: repairs take nothing from commits", f"r{index}: credit {writing.credit}")
        if (
            commits > config.writes_max
            or len(parts.reader._reads) > config.reads_max
            or writing.waits > config.waits_max
            or len(parts.peer_server._waiting) > config.peer_reads_max
            or len(writing._marks) > config.writes_max + 1
            or parts.repair_planner.in_flight > config.repairs_max
            or len(slots.repairs) > config.repairs_max
        ):
            self.fail("no queue is above its limit", f"r{index}")

    def _leases(self, index: int, parts: Any, closing: bool) -> None:
        """Each lease is held in one place."""
        opened, reader = parts.opened, parts.reader
        own = [*opened.read_stock, *opened.repair_stock]
        given: list[object] = []
        for read in reader._reads.values():
            if read.lent is not None:
                own.append(read.lent)
        own += [lease for lease in (*reader.disk.leases, *parts.peer_server.disk.leases) if lease]
        for writes in (opened.slots.queued, opened.slots.repairs, opened.slots.writing):
            for write in writes.values():
                if _is_lease(write.payload):
                    (own if write.is_repair else given).append(write.payload)
        held = {*own, *given}
        if len(held) != len(own) + len(given):
            self.fail("5: a buffer is released once", f"r{index}: {len(own) + len(given) - len(held)} held twice")
        if len(own) != opened.config.read_buffers + opened.config.repair_buffers and not closing:
            self.fail("7: the component's own buffers stay its own", f"r{index}: {len(own)}")

    def _new_faults(self, index: int, parts: Any, message: object) -> None:
        """A failed read makes a slot faulty only if the slot is what the read was about, and bad."""
        watched = self._watched[index]
        faulty = parts.opened.slots.faulty
        if isinstance(message, SlotsRead | SlotsVerified):
            file = self.world.file(index)
            for slot in faulty:
                if slot in watched.faulty or file is None:
                    continue
                self.world.marks.hit("slot_found_faulty")
                header = parts.opened.slots.expected[slot]
                start, size = self.world.layout.slot_offset(slot), sectors_size(packed_size(header))
                fine = self._on_medium(file, slot, header) and not file.is_damaged(start, size)
                if fine and file.data[start : start + size] == file.stable[start : start + size] and not file.misread:
                    self.fail("3: a failed read counts only for what it read", f"r{index} slot {slot} is good")
        if len(faulty) != len(watched.faulty) or any(slot not in watched.faulty for slot in faulty):
            for slot in watched.faulty:
                if slot not in faulty:
                    watched.right_since[slot] = self.world.system.now
            watched.faulty = frozenset(faulty)

    def _durable_claims(self, index: int, parts: Any, message: object) -> None:
        slots, file = parts.opened.slots, self.world.file(index)
        if file is None:
            return
        for slot, header in enumerate(slots.expected):
            if header is None or not _claims_durable(slots, slot):
                continue
            start = self.world.layout.slot_offset(slot)
            if file.stable.startswith(header, start) or file.is_damaged(start, HEADER_SIZE):
                continue
            if not _was_seen(file, start, header):
                self.fail("2, 6: what is called durable is on the disk", f"r{index} slot {slot}")
        if isinstance(message, SlotsWritten | StorageOpened):
            for slot, header in enumerate(slots.expected):
                if header is not None and _claims_durable(slots, slot) and not self._is_there(index, slot, header):
                    self.fail("what is called durable is on the disk, whole", f"r{index} slot {slot}")

    def _pool(self, process: Process, actor: MessagePoolActor) -> None:
        table = actor._table
        if table is None:
            return
        table.check()
        if table.stale_refused:
            self.fail("a lease is released once", f"{process.name} refused {table.stale_refused} stale leases")

    # What is sent.

    def sent(self, process: Process, message: object) -> None:
        """A message is being sent."""
        self.promises.sent(process, message)
        check = self._sent.get(type(message))
        if check is None:
            return
        index, instance = process.host.index, process.instance
        if isinstance(instance, ClientRepliesActor):
            component = self.world.components[index]
            parts = parts_of(instance)
            if component is process and parts is not None:
                check(index, parts, message)
        elif isinstance(instance, StorageActor):
            check(index, None, message)

    def _checkpoint_done(self, index: int, parts: Any, message: CheckpointDone) -> None:
        self.world.marks.hit("checkpoint_done")
        file, watched = self.world.file(index), self._watched[index]
        if file is None:
            return
        stored, done = _sequence_of(file.stable), message.sequence
        # Who asks again is told again, and by then the disk may have the next one before the component hears of it.
        next_is_there = done == watched.sequence_done and stored == watched.sequence_asked == done + 1
        if stored != done and not next_is_there and not self.world.plan.harsh:
            self.fail("a checkpoint that is done is on the disk", f"r{index} checkpoint {done}")
        watched.sequence_done = done

    def _write_checkpoint(self, index: int, parts: Any, message: WriteCheckpoint) -> None:
        self._watched[index].sequence_asked = message.sequence
        barrier = self._watched[index].barrier
        if barrier is None:
            barrier = parts.checkpointing._running.barrier
        unsettled = self._unsettled(parts, barrier)
        if unsettled:
            self.fail("a checkpoint comes after its replies", f"r{index}: slots {unsettled} are not durable")
        if parts.opened.slots.queued or parts.opened.slots.writing:
            self.world.marks.hit("checkpoint_beside_writes")
        if parts.opened.slots.faulty or parts.opened.slots.repairs:
            self.world.marks.hit("checkpoint_beside_repairs")

    def _writes_accepted(self, index: int, parts: Any, message: WritesAccepted) -> None:
        if message.credit > parts.opened.config.writes_max - _commits(parts.opened.slots):
            self.fail("no queue is above its limit", f"r{index} gave credit {message.credit}")

    def _write_slots(self, index: int, parts: Any, message: WriteSlots) -> None:
        for slot, payload in zip(message.slots, message.payloads, strict=True):
            write = parts.opened.slots.writing[slot]
            found = parts.opened.copy_bytes(payload, write.header)
            padded = self._padded(write.header)
            if found != padded[: len(found)] or len(found) != packed_size(write.header):
                self.fail("10: what is written is the reply that was made", f"r{index} slot {slot}")

    def _get_replies(self, index: int, parts: Any, message: GetReplies) -> None:
        headers = message.headers
        self._asked[message.incarnation, message.request] = {
            slot: headers[position * HEADER_SIZE : (position + 1) * HEADER_SIZE]
            for position, slot in enumerate(message.slots)
        }

    def asked(self, incarnation: int, request: int) -> dict[int, bytes]:
        """What a peer's request asked for: slots and packed headers."""
        return self._asked.get((incarnation, request), {})

    def _denials(self, index: int, message: RepliesMissing) -> None:
        asked = self.asked(message.incarnation, message.request)
        for slot, reason in zip(message.slots, message.reasons, strict=True):
            self.world.marks.hit(f"peer_said_{reason.name}")
            if slot in asked and reason in (Missing.SUPERSEDED, Missing.FAULTY):
                self._denied.setdefault((index, slot, asked[slot]), {})[message.peer] = self.world.system.now

    def _reply_lost(self, index: int, parts: Any, message: ReplyLost) -> None:
        self.world.marks.hit("reply_lost")
        denied = self._denied.get((index, message.slot, message.header), {})
        oldest = self.world.system.now - int(parts.opened.config.repair_backoff_max * MICROSECONDS) - 1
        for other in range(self.world.replicas_count):
            if other != index and denied.get(other, -1) < oldest:
                # The answer that is being handled is noted after it.
                latest = self._handled_denial(parts, message, other)
                if not latest:
                    self.fail("11: lost is what every peer denied", f"r{index} slot {message.slot}: r{other} did not")
        if not self.world.plan.harsh and message.header in self.wanted_in(index, message.slot):
            self.fail("a reply that must survive survives", f"r{index} slot {message.slot}")

    def _handled_denial(self, parts: Any, message: ReplyLost, other: int) -> bool:
        current = self.world.system.handling
        if not isinstance(current, RepliesMissing) or current.peer != other or message.slot not in current.slots:
            return False
        asked = self.asked(current.incarnation, current.request)
        reason = current.reasons[current.slots.index(message.slot)]
        return asked.get(message.slot) == message.header and reason in (Missing.SUPERSEDED, Missing.FAULTY)

    def _storage_failed(self, index: int, parts: Any, message: StorageFailed) -> None:
        self.world.marks.hit(f"storage_failed_{message.fault.kind.name}")
        self._failure(index, message.fault.kind, str(message.fault))

    def _failure(self, index: int, kind: FaultKind, text: str) -> None:
        if kind not in (HARSH_FAILURES if self.world.plan.harsh else FAILURES):
            self.fail("14: a component stops for a reason from outside", f"r{index}: {text}")

    def _replies_missing(self, index: int, parts: Any, message: RepliesMissing) -> None:
        replica = self.world.replicas[index]
        asked = self.asked(message.incarnation, message.request)
        if replica is None or not replica.alive or not replica.instance.opened:
            return
        for slot, reason in zip(message.slots, message.reasons, strict=True):
            if reason is not Missing.SUPERSEDED or slot not in asked:
                continue
            if replica.instance.sessions.packed_header(slot) == asked[slot]:
                self.fail("11: superseded is what the slot will never hold again", f"r{index} slot {slot}")

    def _replies_found(self, index: int, parts: Any, message: RepliesFound) -> None:
        self.world.marks.hit("peer_sent_replies", len(message.slots))
        for slot, reply in zip(message.slots, message.replies, strict=True):
            if self._padded(reply[:HEADER_SIZE])[: len(reply)] != reply:
                self.fail("10: a peer sends the reply that was made", f"r{index} slot {slot}")

    def _reply_read(self, index: int, parts: Any, message: ReplyRead) -> None:
        if isinstance(message.payload, bytes):
            header, reply = message.payload[:HEADER_SIZE], message.payload
        else:
            buffer = parts.opened.memory.buffer(message.payload)
            header = bytes(buffer[:HEADER_SIZE])
            reply = bytes(buffer[: packed_size(header)])
            self.world.marks.hit("reply_lent")
        if self._padded(header)[: packed_size(header)] != reply:
            self.fail("6: what is read is the reply that was made", f"r{index} slot {message.slot}")

    def opening(self, index: int, file: SimFile) -> None:
        """The data file is about to be read."""
        self._watched[index].opening = _sequence_of(file.shown_by_the_disk(SUPERBLOCK_SIZE))

    def last_table(self, index: int) -> int | None:
        """Where the last session table is, if it is durable, whole and not alone, and no checkpoint is being made."""
        file, watched = self.world.file(index), self._watched[index]
        if file is None or file.dirty or watched.sequence_asked != watched.sequence_done:
            return None
        newest = _newest(file.stable)
        if newest is None or newest.sequence != watched.sequence_done or not newest.size:
            return None
        layout = self.world.layout
        if file.is_damaged(0, layout.slots_offset):
            return None
        return layout.trailer_offset(newest.area)

    def _storage_opened(self, index: int, parts: Any, message: StorageOpened) -> None:
        watched, component = self._watched[index], self.world.components[index]
        if component is None or not isinstance(component.instance.component.state, Opening):
            return  # An OpenStorage that came twice is answered as it was then.
        if message.formatted:
            watched.sequence_done = 0
            return
        self.world.marks.hit("file_opened_again")
        last = message.sequence_last
        if watched.opening is not None and last != watched.opening:
            self.fail("two copies make a superblock", f"r{index} opened {last}, not {watched.opening}")
        if last < watched.sequence_done and not self.world.plan.harsh:
            self.fail("a checkpoint that is done survives", f"r{index}: {last}")
        if message.damaged is not None:
            self._table_damaged(index, message)
        if self._sessions_at.get(message.op, message.sessions) != message.sessions:
            self.fail("a session table is the one that was stored", f"r{index} op {message.op}")

    def _table_damaged(self, index: int, message: StorageOpened) -> None:
        """The last session table was damaged, says the storage: was it, and is the other one the one before?"""
        file, layout = self.world.file(index), self.world.layout
        newest = _newest(file.shown_by_the_disk(SUPERBLOCK_SIZE)) if file is not None else None
        if file is None or newest is None:
            return
        # By its bytes: the next checkpoint may have written over a damaged table, and have failed half-way.
        data, start = file.shown_by_the_disk(layout.slots_offset), layout.trailer_offset(newest.area)
        table = bytes(data[start : start + newest.size])
        padding = data[start + newest.size : start + sectors_size(newest.size)]
        is_whole = int.from_bytes(xxhash.xxh3_128_digest(table), "big") == newest.checksum and not any(padding)
        # A read that goes astray may find rubbish where the table is.
        if (is_whole and not file.misread) or message.sequence >= newest.sequence:
            self.fail("nothing healthy is given up", f"r{index} opened {message.sequence} of {newest.sequence}")

    # What the port says, and what happens to disks.

    def port_event(self, index: int, event: object) -> None:
        """The port of a replica reported something."""
        if isinstance(event, PortFailed):
            self.world.marks.hit(f"port_failed_{event.fault.kind.name}")
            self._failure(index, event.fault.kind, str(event.fault))
        elif isinstance(event, ReadSucceeded) and self._padded(event.header)[: len(event.reply)] != event.reply:
            self.fail("6: what is read is the reply that was made", f"r{index} slot {event.slot}")

    def crashed(self, index: int) -> None:
        """The power was cut: the file must still be openable, at a checkpoint that was promised or a later one."""
        file, watched = self.world.file(index), self._watched[index]
        if file is None or self.world.plan.harsh:
            return
        sequence = _sequence_of(file.stable)
        if sequence is None or sequence < watched.sequence_done:
            self.fail("a checkpoint that is done survives", f"r{index}: {sequence} of {watched.sequence_done}")

    def file_lost(self, index: int) -> None:
        """Nothing is promised any more."""
        self._watched[index] = Watched(right_since=self._watched[index].right_since)

    # The end.

    def harvest(self) -> None:
        """Take over the counters of the actors."""
        for process in self.world.system.processes.values():
            counters = getattr(process.instance, "counters", None)
            for name, count in (counters or {}).items():
                self.world.marks.hit(f"counter_{name}", count)

    def unfinished(self) -> list[str]:
        """What is still to be done before the run is quiet."""
        world = self.world
        left = [client.name for client in world.clients if not client.instance.done]
        for index, process in enumerate(world.replicas):
            if process is None or not process.alive or not process.instance.opened:
                left.append(f"r{index} is not open")
                continue
            replica, parts = process.instance, world.parts(index)
            if replica.applied < world.history.op:
                left.append(f"r{index} is at op {replica.applied} of {world.history.op}")
            if not replica.port.idle or replica.syncing is not None or replica.waits:
                left.append(f"r{index} has work in its port, or syncs")
            if parts is None:
                left.append(f"r{index} has no component")
                continue
            slots = parts.opened.slots
            if slots.queued or slots.writing or slots.repairs:
                left.append(f"r{index} writes")
            faulty = [slot for slot in slots.faulty if slot not in parts.repair_planner.lost]
            if faulty:
                left.append(f"r{index} has faulty slots {faulty}")
            if slots.unverified or slots.ahead:
                left.append(f"r{index} has slots that it has not verified")
        return left or self._unscrubbed()

    def _unscrubbed(self) -> list[str]:
        """When all else is done: two passes more, so that what rotted unseen is found and repaired too."""
        if not self.world.plan.scrub_bytes_per_second:
            return []
        passes = [self.world.parts(index).scrubber.passes for index in range(self.world.replicas_count)]
        if self._scrubbed is None or any(now < then for now, then in zip(passes, self._scrubbed, strict=True)):
            self._scrubbed = passes
        return [
            f"r{index} scrubs"
            for index, (now, then) in enumerate(zip(passes, self._scrubbed, strict=True))
            if now < then + 2
        ]

    def not_alive(self) -> None:
        """The time is over."""
        self.fail("after the faults everything is done in time", "; ".join(self.unfinished()))

    def ended(self, open_still: list[int]) -> None:
        """Everything was closed: what is on the disks, and who holds what?"""
        world = self.world
        if open_still:
            self.fail("a file can be closed", f"{open_still} are not closed")
        for slot in range(world.plan.clients_max):
            for header in self.wanted_in(0, slot):
                for index in range(world.replicas_count):
                    self._same_at_the_end(index, slot, header)
        for process in world.system.processes.values():
            if process.alive and isinstance(process.instance, MessagePoolActor):
                table = process.instance._table
                if table is not None and table.held:
                    self.fail("no lease is left", f"{process.name} has {table.held} held")
        world.marks.hit("run_ended_in_order")

    def _same_at_the_end(self, index: int, slot: int, header: bytes) -> None:
        file = self.world.file(index)
        if file is None or self.world.plan.harsh:
            return
        start, size = self.world.layout.slot_offset(slot), sectors_size(packed_size(header))
        if not self.world.plan.scrub_bytes_per_second and file.is_damaged(start, size):
            return
        unread = not self.world.plan.scrub_bytes_per_second and _was_seen(file, start, header)
        if not self._on_medium(file, slot, header) and not unread:
            self.fail("slots are the same on all replicas", f"r{index} slot {slot}")


def _was_seen(file: SimFile, start: int, header: bytes) -> bool:
    """True if the slot's last read came from elsewhere and gave this very reply: until the next, nobody can know."""
    return file.misread_as.get(start) == header


def _commits(slots: Any) -> int:
    """How many writes of the owner are queued or in flight."""
    commits = len(slots.queued)
    for write in slots.writing.values():
        if not write.is_repair:
            commits += 1
    return commits


def _is_lease(payload: object) -> bool:
    return isinstance(payload, int)


def _claims_durable(slots: Any, slot: int) -> bool:
    pending = slot in slots.queued or slot in slots.repairs or slot in slots.writing
    return not pending and slot not in slots.doubted


def _pending_header(slots: Any, slot: int, header: bytes) -> bool:
    return any(
        slot in writes and writes[slot].header == header for writes in (slots.queued, slots.repairs, slots.writing)
    )


@dataclass(frozen=True, slots=True)
class Newest:
    """What the newest superblock says of its checkpoint."""

    sequence: int
    size: int
    area: int
    checksum: int


def _sequence_of(data: bytearray) -> int | None:
    """The newest sequence that two whole copies of the superblock agree on, or None."""
    newest = _newest(data)
    return newest.sequence if newest is not None else None


def _newest(data: bytearray) -> Newest | None:
    """The newest superblock that two whole copies agree on, or None."""
    bodies: list[bytes] = []
    for copy in range(SUPERBLOCK_COPIES):
        sector = bytes(data[copy * SECTOR_SIZE : (copy + 1) * SECTOR_SIZE])
        whole = xxhash.xxh3_128_digest(sector[32:])[::-1] == sector[16:32]
        if whole and sector.startswith(MAGIC) and int.from_bytes(sector[36:40], "little") == copy:
            bodies.append(sector[40:])
    agreed = [body for body in bodies if bodies.count(body) >= 2]
    fields = [[int.from_bytes(body[at : at + size], "little") for at, size in FIELDS] for body in agreed]
    return max((Newest(*each) for each in fields), key=lambda newest: newest.sequence, default=None)
