"""ClientRepliesActor: keeps the latest reply of every client session, durable, verified and repaired from its peers.

Guarantees: the invariants of docs/architecture.md, each in the part that keeps it (`slots`, `writing`, `reading`,
`repair`, `repairing`, `checkpointing`, `storage`); 12, 13 and 15 are the replica's. This module is the door: who may
ask what and when, every message that changes something once and in its turn, opening and closing.

Limits: it knows nothing of requests. Whether a request is new is the session table's business, which the replica owns;
this actor is told what to keep.

Owns: the slots' state; its StorageActor and MessagePoolActor unless it was told of others. It does no I/O.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from thespian.actors import ActorAddress, ActorExitRequest

from client_replies.actors.thespian.component_actor import ComponentActor, Handler
from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.faults import Fault, FaultKind, InvariantBroken
from client_replies.messages.leases import (
    AcquireLeases,
    Lease,
    LeasesGranted,
    LeasesReclaimed,
    LeasesRefused,
    LeasesReleased,
    OpenPool,
    PoolOpened,
    PoolOpenFailed,
    ReclaimLeases,
    ReleaseLeases,
)
from client_replies.messages.message import Message
from client_replies.messages.peers import GetReplies, RepliesFound, RepliesMissing
from client_replies.messages.protocol import Party
from client_replies.messages.replies import (
    AwaitDurable,
    Checkpoint,
    CheckpointStarted,
    CloseReplies,
    GetStatus,
    InstallSessions,
    NotRead,
    OpenFailed,
    OpenReplies,
    PeersSet,
    ReadReply,
    RemoveReplies,
    RepliesClosed,
    RepliesOpened,
    RepliesStatus,
    ReplyNotRead,
    ReplyTaken,
    RequestRefused,
    SessionsInstalled,
    SetPeers,
    StorageFailed,
    WriteReplies,
    WritesAccepted,
    WritesRefused,
)
from client_replies.messages.reply_header import packed_op
from client_replies.messages.storage_io import (
    CheckpointWritten,
    CloseStorage,
    OpenStorage,
    SlotsRead,
    SlotsVerified,
    SlotsWritten,
    StorageClosed,
    StorageOpened,
    StorageOpenFailed,
    StorageStopped,
)
from client_replies.storage.errors import StorageError
from client_replies.storage.shared_memory import PoolMemory

from .calls import Calls
from .checkpointing import Checkpointing, decode_expectations
from .message_pool import MessagePoolActor
from .opened import Opened
from .reading import Reading
from .repair import Repair
from .repairing import Repairing
from .slots import Slots
from .storage import StorageActor
from .writing import Refused, Writing

OWNERS_GONE_MAX = 64  # owners that are remembered so that what they sent last is recognised

Numbered = WriteReplies | RemoveReplies | InstallSessions | Checkpoint | CloseReplies


@dataclass(slots=True, eq=False)
class Opening:
    """An opening in progress."""

    message: OpenReplies
    sender: ActorAddress
    incarnation: int
    memory: PoolMemory | None = None
    leases: tuple[Lease, ...] = ()
    failed: Fault | None = None


@dataclass(slots=True, eq=False)
class Parts:
    """One opening's parts, and how far its owner's numbered messages have come."""

    opened: Opened
    writing: Writing
    reading: Reading
    repair: Repair
    repairing: Repairing
    checkpointing: Checkpointing
    answer_open: RepliesOpened | None
    number: int = 0  # of the last numbered message that was taken
    answer: Message | None = None  # what it was answered, or None while the answer waits
    answer_due: float = math.inf  # until when it may wait
    closing: CloseReplies | None = None  # or made up, when a new owner takes over
    closing_for: ActorAddress | None = None


class ClientRepliesActor(ComponentActor):
    """The actor. See the module, and `client_replies.messages.replies` for what it is asked."""

    parties = (Party.REPLIES, Party.PEER, Party.HOLDER)

    def __init__(self, capabilities: Mapping[str, object] | None = None, requirements: object = None) -> None:
        super().__init__(capabilities, requirements)
        self._storage: ActorAddress | None = None
        self._pool: ActorAddress | None = None
        self._owned: list[ActorAddress] = []  # those of the two that are this actor's children
        self._opening: Opening | None = None
        self._next_opening: tuple[OpenReplies, ActorAddress] | None = None
        self._parts: Parts | None = None
        self._last_closed: RepliesClosed | None = None
        self._owners_gone: deque[int] = deque(maxlen=OWNERS_GONE_MAX)
        self._stopped: Fault | None = None
        self._storage_calls: Calls | None = None  # numbers go on from one opening to the next
        self._pool_calls: Calls | None = None

    def handlers(self) -> dict[type, Handler]:
        return {
            OpenReplies: self.open,
            SetPeers: self.set_peers,
            WriteReplies: self.write,
            RemoveReplies: self.remove,
            AwaitDurable: self.await_durable,
            ReadReply: self.read,
            ReplyTaken: self.taken,
            InstallSessions: self.install,
            Checkpoint: self.checkpoint,
            GetStatus: self.status,
            CloseReplies: self.close,
            GetReplies: self.serve,
            RepliesFound: self.repair_found,
            RepliesMissing: self.repair_missing,
            PoolOpened: self.pool_opened,
            PoolOpenFailed: self.pool_open_failed,
            LeasesGranted: self.leases_granted,
            LeasesRefused: self.leases_refused,
            LeasesReleased: self.leases_released,
            LeasesReclaimed: self.leases_reclaimed,
            StorageOpened: self.storage_opened,
            StorageOpenFailed: self.storage_open_failed,
            SlotsWritten: self.slots_written,
            SlotsRead: self.slots_read,
            SlotsVerified: self.slots_verified,
            CheckpointWritten: self.checkpoint_written,
            StorageClosed: self.storage_closed,
            StorageStopped: self.storage_stopped,
        }

    # Who may send what.

    def is_from(self, party: Enum, message: Any, sender: ActorAddress) -> bool:
        """The owner is who opened; storage and pool are those in use; peers are those that the owner named."""
        if party is Party.STORAGE:
            return self._storage is not None and sender == self._storage
        if party is Party.POOL:
            return self._pool is not None and sender == self._pool
        parts = self._parts
        if parts is None:
            return True  # Without a file there is no owner and no peer: handlers say so, or say nothing.
        if party is Party.REPLICA:
            return sender == parts.opened.owner_address or self._is_last_closing(message)
        address = parts.repair.peer_address(message.asker if isinstance(message, GetReplies) else message.peer)
        return address is not None and sender == address

    def _is_last_closing(self, message: Message) -> bool:
        """Whether this closing was done and answered: its owner may not have heard of it."""
        closed = self._last_closed
        if closed is None or not isinstance(message, CloseReplies):
            return False
        return (closed.owner, closed.number) == (message.owner, message.number)

    def refuse_stranger(self, message: Any, sender: ActorAddress) -> None:
        """Only the owner may ask for this: an owner that was replaced learns it here, and stops asking."""
        fault = _fault(FaultKind.OWNER_UNKNOWN, "a sender that is not the owner", "the replica that opened the file")
        if isinstance(message, Numbered):
            self._send_refusal(message, fault, sender)
        elif isinstance(message, ReadReply):
            self._refuse_read(message, sender)
        elif isinstance(message, SetPeers | AwaitDurable):
            number = message.version if isinstance(message, SetPeers) else message.wait
            request = type(message).__name__
            self.send(sender, RequestRefused(owner=message.owner, request=request, number=number, fault=fault))

    # Opening: the pool, then the component's own leases, then the file.

    def open(self, message: OpenReplies, sender: ActorAddress) -> None:
        """Open, say again that it is open, or let a new owner take over from a dead one."""
        fault = self._opening_refusal(message, sender)
        if fault is not None:
            self.send(sender, OpenFailed(owner=message.owner, fault=fault))
        elif self._opening is not None:
            if self._opening.message.owner != message.owner:
                self._next_opening = (message, sender)
        elif self._parts is None:
            self._begin_opening(message, sender)
        elif self._parts.opened.owner != message.owner:
            self._next_opening = (message, sender)
            self._begin_closing(None, None)
        elif self._parts.answer_open is not None:
            self.send(sender, self._parts.answer_open)

    def _opening_refusal(self, message: OpenReplies, sender: ActorAddress) -> Fault | None:
        if self._stopped is not None:
            # Not with its fault's own kind: who hears of an I/O error might try again here, for ever.
            return _fault(FaultKind.STOPPED, f"a component that stopped: {self._stopped}", "a new ClientRepliesActor")
        if message.owner in self._owners_gone:
            # Honouring this late duplicate would evict the owner that came after.
            return _fault(FaultKind.OWNER_UNKNOWN, "an owner that closed or was replaced", "an owner of its own number")
        parts = self._parts
        if parts is None:
            return None
        if parts.opened.owner != message.owner:
            is_free_next = parts.closing is not None and self._next_opening is None
            if is_free_next or is_takeover(parts.opened.config, message):
                return None
            # Evicting the owner for a file that is not the one it has would harm it and help nobody.
            config = parts.opened.config
            found = f"the open file of cluster {config.cluster}, replica {config.replica}: {config.path}"
            return _fault(FaultKind.ALREADY_OPEN, found, "that path, cluster and replica, and a mode that opens it")
        if parts.opened.owner_address != sender:
            return _fault(FaultKind.OWNER_UNKNOWN, "the owner's number from another sender", "a number of its own")
        if parts.closing is not None:
            return _fault(FaultKind.CLOSING, "a file that closes", "an owner that stays")
        if parts.answer_open is None:
            return _fault(FaultKind.ALREADY_OPEN, "a file in use", "one OpenReplies an owner")
        return None

    def _begin_opening(self, message: OpenReplies, sender: ActorAddress) -> None:
        config = message.config
        if self._storage_calls is None:
            self._storage_calls = Calls(config.resend_timeout)
        self._pool_calls = Calls(config.resend_timeout)
        self._opening = Opening(message, sender, self.environment.unique())
        self._pool = self._use(message.pool, self._pool, MessagePoolActor)
        self._storage = self._use(message.storage, self._storage, StorageActor)
        self.start_ticks(config.tick)
        request = OpenPool(
            buffers=config.buffers_max + config.read_buffers + config.repair_buffers,
            size=config.message_size_max,
            waiting_max=config.leases_waiting_max,
            holders=((message.owner, sender),),
        )
        self._call_pool("open", request)

    def _use(self, told: ActorAddress | None, held: ActorAddress | None, kind: type) -> ActorAddress:
        if told is not None:
            return told
        if held is None or held not in self._owned:
            # One that an earlier opening was told of was for that opening.
            held = self.create_child(kind)
            self._owned.append(held)
        return held

    def _call_pool(self, lane: str, message: Message) -> None:
        calls, pool = self._pool_calls, self._pool
        if calls is None or pool is None:
            raise InvariantBroken("the pool is called before there is one")
        calls.start(lane, pool, message, self.environment.monotonic())
        self.send(pool, message)

    def _pool_answered(self, lane: str, number: int | None = None) -> bool:
        return self._pool_calls is not None and self._pool_calls.answered(lane, number) is not None

    def pool_opened(self, message: PoolOpened, sender: ActorAddress) -> None:
        """The memory is there: map it, and take what the component keeps for itself."""
        if self._opening is None or not self._pool_answered("open"):
            return
        try:
            self._opening.memory = self.environment.open_memory(message.memory)
        except StorageError as error:
            self._fail_opening(error.fault)
            return
        config = self._opening.message.config
        count = config.read_buffers + config.repair_buffers
        self._call_pool("acquire", AcquireLeases(holder=self._opening.incarnation, number=1, count=count))

    def pool_open_failed(self, message: PoolOpenFailed, sender: ActorAddress) -> None:
        """No memory. One that is of another size is this actor's own, of an earlier opening: a new one is made."""
        if self._opening is None or not self._pool_answered("open"):
            return
        if message.fault.kind is FaultKind.ALREADY_OPEN and self._pool in self._owned:
            self._discard_pool()
            self._begin_opening(self._opening.message, self._opening.sender)
        else:
            self._fail_opening(message.fault)

    def _discard_pool(self) -> None:
        if self._pool is not None and self._pool in self._owned:
            self._owned.remove(self._pool)
            self.send(self._pool, ActorExitRequest())
        self._pool = None

    def leases_granted(self, message: LeasesGranted, sender: ActorAddress) -> None:
        """The component has its own leases: open the file."""
        opening = self._opening
        if opening is None or message.holder != opening.incarnation or not self._pool_answered("acquire"):
            return
        if opening.memory is None or self._storage is None or self._storage_calls is None:
            raise InvariantBroken("leases were granted out of turn")
        opening.leases = message.leases
        request = OpenStorage(
            batch=self._storage_calls.next_number("open"),
            config=opening.message.config,
            mode=opening.message.mode,
            memory=opening.memory.name,
        )
        self._storage_calls.start("open", self._storage, request, self.environment.monotonic())
        self.send(self._storage, request)

    def leases_refused(self, message: LeasesRefused, sender: ActorAddress) -> None:
        """The pool is too small or too busy for the component."""
        if self._opening is not None and message.holder == self._opening.incarnation and self._pool_answered("acquire"):
            self._fail_opening(message.fault)

    def storage_open_failed(self, message: StorageOpenFailed, sender: ActorAddress) -> None:
        """The file is not to be opened, and was left as it was."""
        calls = self._storage_calls
        if self._opening is not None and calls is not None and calls.answered("open", message.batch) is not None:
            self._fail_opening(message.fault)

    def _fail_opening(self, fault: Fault) -> None:
        opening = self._opening
        if opening is None:
            raise InvariantBroken("no opening can fail")
        if opening.leases:
            opening.failed = fault  # Answered when the leases are back.
            leases, opening.leases = opening.leases, ()
            request = ReleaseLeases(holder=opening.incarnation, number=1, leases=leases)
            self._call_pool("release", request)
            return
        if opening.memory is not None:
            opening.memory.close()
        self._opening = None
        self.send(opening.sender, OpenFailed(owner=opening.message.owner, fault=fault))
        self._open_next()

    def _open_next(self) -> None:
        if self._next_opening is not None:
            (message, sender), self._next_opening = self._next_opening, None
            self._begin_opening(message, sender)

    def storage_opened(self, message: StorageOpened, sender: ActorAddress) -> None:
        """The file is open: begin with what the last checkpoint says."""
        opening, calls = self._opening, self._storage_calls
        if opening is None or calls is None or calls.answered("open", message.batch) is None:
            return
        self._parts = parts = self._assemble(opening, calls, message)
        self._opening = None
        opened = parts.opened
        if message.sessions:
            expectations = decode_expectations(opened, message.sessions, verified=True)
            if isinstance(expectations, Fault):
                raise InvariantBroken(f"the storage verified a session table that cannot be decoded: {expectations}")
            later = {slot: header for slot, header in message.others if packed_op(header) > message.op}
            opened.slots.begin(expectations.headers, message.faulty, later)
        parts.answer_open = RepliesOpened(
            owner=opened.owner,
            formatted=message.formatted,
            sequence=message.sequence,
            op=message.op,
            sessions=message.sessions,
            faulty=message.faulty,
            credit=parts.writing.credit,
            pool=opened.pool,
            memory=opened.memory.name,
            damaged=message.damaged,
        )
        if message.damaged is not None:
            self.count(
                "checkpoint_damaged",
                sequence=message.damaged.sequence,
                op=message.damaged.op,
                fault=str(message.damaged.fault),
                used_sequence=message.sequence,
                used_op=message.op,
            )
        opened.tell_owner(parts.answer_open)

    def _assemble(self, opening: Opening, calls: Calls, message: StorageOpened) -> Parts:
        config = opening.message.config
        if opening.memory is None or self._storage is None or self._pool is None:
            raise InvariantBroken("a file was opened without its actors")
        leases = list(opening.leases)
        opened = Opened(
            config=config,
            owner=opening.message.owner,
            owner_address=opening.sender,
            incarnation=opening.incarnation,
            storage=self._storage,
            pool=self._pool,
            memory=opening.memory,
            slots=Slots(config.clients_max),
            calls=calls,
            op=message.op,
            sequence=message.sequence_last,
            send=self.send,
            now=self.environment.monotonic,
            count=self.count,
            own=frozenset(leases),
            read_stock=leases[: config.read_buffers],
            repair_stock=leases[config.read_buffers :],
        )
        repair = Repair(
            slots_max=config.repairs_max,
            bytes_max=config.repair_bytes_max,
            timeout=config.repair_timeout,
            backoff_max=config.repair_backoff_max,
            jitter=lambda: self.environment.uniform(0.0, 1.0),
        )
        writing = Writing(opened)
        reading = Reading(opened, repair)
        repairing = Repairing(opened, repair, reading)
        checkpointing = Checkpointing(opened, writing)
        return Parts(opened, writing, reading, repair, repairing, checkpointing, None)

    # What the owner asks, in its turn.

    def _owned_by(self, owner: int) -> Parts | None:
        parts = self._parts
        return parts if parts is not None and parts.opened.owner == owner else None

    def _refusal(self, parts: Parts | None, number: int) -> Fault | None:
        if parts is None:
            if self._parts is None:
                return self._stopped or _fault(FaultKind.NOT_OPEN, "no open file", "OpenReplies first")
            return _fault(FaultKind.OWNER_UNKNOWN, "another owner", "the number that the file was opened under")
        if self._stopped is not None:
            return self._stopped
        if parts.closing is not None:
            return _fault(FaultKind.CLOSING, "a file that closes", "nothing after CloseReplies")
        if number != parts.number + 1:
            return _fault(FaultKind.OUT_OF_SEQUENCE, f"number {number}", f"number {parts.number + 1}")
        return None

    def _in_turn(self, message: Numbered, sender: ActorAddress) -> Parts | None:
        """The parts if the message is its owner's next one. A repeated one is answered again, others are refused."""
        parts = self._owned_by(message.owner)
        if parts is not None and message.number <= parts.number:
            self.counters["messages_repeated"] += 1
            done = parts.checkpointing.done(message.number)
            if done is not None:
                self.send(sender, done)
            elif message.number == parts.number and parts.answer is not None:
                self.send(sender, parts.answer)
            elif self._stopped is not None:
                # Its answer will never come, and what was told when the component stopped may have been lost.
                self.send(sender, StorageFailed(owner=message.owner, fault=self._stopped))
            return None
        fault = self._refusal(parts, message.number)
        if fault is not None:
            self._refuse(message, fault, sender)
            return None
        return parts

    def _refuse(self, message: Numbered, fault: Fault, sender: ActorAddress, index: int = 0) -> None:
        self.count("request_refused", request=type(message).__name__, fault=str(fault))
        self._send_refusal(message, fault, sender, index)

    def _send_refusal(self, message: Numbered, fault: Fault, sender: ActorAddress, index: int = 0) -> None:
        answer: Message
        if isinstance(message, WriteReplies | RemoveReplies):
            answer = WritesRefused(owner=message.owner, number=message.number, index=index, fault=fault)
        else:
            answer = RequestRefused(
                owner=message.owner, request=type(message).__name__, number=message.number, fault=fault
            )
        self.send(sender, answer)

    def _taken(self, parts: Parts, number: int, answer: Message | None) -> None:
        parts.answer_open = None
        parts.number = number
        parts.answer = answer
        parts.answer_due = self.environment.monotonic() + parts.opened.config.tick
        if answer is not None:
            parts.opened.tell_owner(answer)

    def write(self, message: WriteReplies, sender: ActorAddress) -> None:
        """Take over a batch of replies, whole or not at all."""
        parts = self._in_turn(message, sender)
        if parts is None:
            return
        try:
            headers = parts.writing.verify(message)
        except Refused as refused:
            self._refuse(message, refused.fault, sender, refused.index)
            return
        answered = parts.writing.accept(message, headers)
        self._taken(parts, message.number, None)
        for read, payload in answered:
            parts.reading.answered_by_write(read, payload)
        self._pump()

    def remove(self, message: RemoveReplies, sender: ActorAddress) -> None:
        """These slots hold no reply any more."""
        parts = self._in_turn(message, sender)
        if parts is None:
            return
        try:
            parts.writing.verify_slots(message.slots)
        except Refused as refused:
            self._refuse(message, refused.fault, sender, refused.index)
            return
        parts.writing.remove(message.slots, message.op, message.number)
        self._taken(parts, message.number, None)
        self._pump()

    def install(self, message: InstallSessions, sender: ActorAddress) -> None:
        """Replace what every slot is expected to hold."""
        parts = self._in_turn(message, sender)
        if parts is None:
            return
        expectations = decode_expectations(parts.opened, message.sessions)
        if isinstance(expectations, Fault):
            self._refuse(message, expectations, sender)
            return
        parts.writing.install(expectations.headers, message.op)
        doubted = parts.opened.slots.doubted
        self._taken(
            parts, message.number, SessionsInstalled(owner=message.owner, number=message.number, faulty=doubted)
        )
        self._pump()

    def checkpoint(self, message: Checkpoint, sender: ActorAddress) -> None:
        """Store the session table once what it counts on is durable."""
        parts = self._in_turn(message, sender)
        if parts is None:
            return
        fault = parts.checkpointing.verify(message)
        if fault is not None:
            self._refuse(message, fault, sender)
            return
        parts.checkpointing.start(message)
        self._taken(parts, message.number, CheckpointStarted(owner=message.owner, number=message.number))
        self._pump()

    def close(self, message: CloseReplies, sender: ActorAddress) -> None:
        """Make durable what was accepted, give back every lease, release the file."""
        if self._last_closed is not None and self._is_last_closing(message):
            self.send(sender, self._last_closed)
            return
        parts = self._owned_by(message.owner)
        if parts is not None and self._stopped is not None:
            self._close_stopped(parts, message, sender)
            return
        parts = self._in_turn(message, sender)
        if parts is not None:
            self._taken(parts, message.number, None)
            self._begin_closing(message, sender)

    # What may be asked at any time.

    def set_peers(self, message: SetPeers, sender: ActorAddress) -> None:
        """Where to repair from; repair begins."""
        parts = self._owned_by(message.owner)
        if parts is None or self._stopped is not None:
            self._refuse_request(message.owner, "SetPeers", message.version, sender)
            return
        if parts.repair.set_peers(message.version, message.peers):
            self.send(sender, PeersSet(owner=message.owner, version=message.version))
        self._pump()

    def await_durable(self, message: AwaitDurable, sender: ActorAddress) -> None:
        """Answer when the slots are durable."""
        parts = self._owned_by(message.owner)
        if parts is None or self._stopped is not None:
            self._refuse_request(message.owner, "AwaitDurable", message.wait, sender)
            return
        try:
            parts.writing.wait(message, sender)
        except Refused as refused:
            answer = RequestRefused(
                owner=message.owner, request="AwaitDurable", number=message.wait, fault=refused.fault
            )
            self.send(sender, answer)

    def _refuse_request(self, owner: int, request: str, number: int, sender: ActorAddress) -> None:
        parts = self._owned_by(owner)
        fault = self._refusal(parts, parts.number + 1 if parts is not None else 0)
        if fault is None:
            raise InvariantBroken(f"{request} is refused without a reason")
        self.send(sender, RequestRefused(owner=owner, request=request, number=number, fault=fault))

    def read(self, message: ReadReply, sender: ActorAddress) -> None:
        """Read a reply, from memory or from disk."""
        parts = self._owned_by(message.owner)
        if parts is None or parts.closing is not None or self._stopped is not None:
            self._refuse_read(message, sender)
            return
        parts.reading.read(message, sender)
        self._pump()

    def _refuse_read(self, message: ReadReply, sender: ActorAddress) -> None:
        answer = ReplyNotRead(owner=message.owner, read=message.read, slot=message.slot, reason=NotRead.CLOSED)
        self.send(sender, answer)

    def taken(self, message: ReplyTaken, sender: ActorAddress) -> None:
        """A lent buffer comes back."""
        parts = self._owned_by(message.owner)
        if parts is not None:
            parts.reading.taken(message.read)
            self._pump()

    def status(self, message: GetStatus, sender: ActorAddress) -> None:
        """How the component is."""
        parts = self._parts
        if parts is None:
            answer = RepliesStatus(
                request=message.request,
                open=False,
                closing=False,
                op=0,
                sequence=0,
                slots={},
                queues={},
                counters=dict(self.counters),
                faulty=(),
                lost=(),
                durable=(),
                durable_through=0,
                stopped=self._stopped,
            )
        else:
            answer = self._status(parts, message)
        self.send(sender, answer)

    def _status(self, parts: Parts, message: GetStatus) -> RepliesStatus:
        opened, slots = parts.opened, parts.opened.slots
        config = opened.config
        queues = {
            "writes": slots.pending_count,
            "writes_max": config.writes_max,
            "waits": parts.writing.waits,
            "waits_max": config.waits_max,
            "reads_max": config.reads_max,
            "read_buffers": len(opened.read_stock),
            "repair_buffers": len(opened.repair_stock),
            **parts.reading.depths,
            **parts.repairing.depths,
        }
        return RepliesStatus(
            request=message.request,
            open=True,
            closing=parts.closing is not None,
            op=opened.op,
            sequence=opened.sequence,
            slots={state.name.lower(): count for state, count in slots.count_states().items()},
            queues=queues,
            counters={**self.counters, "scrub_passes": parts.reading.scrub_passes},
            faulty=tuple(slots.faulty),
            lost=tuple(slot for slot, header in parts.repair.lost.items() if slots.faulty.get(slot) == header),
            durable=tuple(slot < config.clients_max and slots.is_durable(slot) for slot in message.slots),
            durable_through=parts.writing.durable_through,
            stopped=self._stopped,
        )

    # Peers.

    def _repairing(self) -> Parts | None:
        parts = self._parts
        return parts if parts is not None and parts.closing is None and self._stopped is None else None

    def serve(self, message: GetReplies, sender: ActorAddress) -> None:
        """A peer repairs. A replica that is not open says nothing: it does not know what it holds."""
        parts = self._repairing()
        if parts is not None:
            parts.reading.serve(message, sender)
            self._pump()

    def repair_found(self, message: RepliesFound, sender: ActorAddress) -> None:
        """Replies from a peer."""
        parts = self._repairing()
        if parts is not None:
            parts.repairing.found(message)
            self._pump()

    def repair_missing(self, message: RepliesMissing, sender: ActorAddress) -> None:
        """What a peer does not send."""
        parts = self._repairing()
        if parts is not None:
            parts.repairing.missing(message)
            self._pump()

    # The storage's answers.

    def slots_written(self, message: SlotsWritten, sender: ActorAddress) -> None:
        """A group of writes is durable."""
        parts = self._parts
        if parts is not None and self._stopped is None:
            parts.repairing.repaired(parts.writing.written(message))
            self._pump()

    def slots_read(self, message: SlotsRead, sender: ActorAddress) -> None:
        """A group of reads ended."""
        if self._parts is not None and self._stopped is None:
            self._parts.reading.read_done(message)
            self._pump()

    def slots_verified(self, message: SlotsVerified, sender: ActorAddress) -> None:
        """A group of slots was scrubbed."""
        if self._parts is not None and self._stopped is None:
            self._parts.writing.verified(self._parts.reading.verified(message))
            self._pump()

    def checkpoint_written(self, message: CheckpointWritten, sender: ActorAddress) -> None:
        """A checkpoint is durable."""
        if self._parts is not None and self._stopped is None:
            self._parts.checkpointing.written(message)
            self._pump()

    def storage_stopped(self, message: StorageStopped, sender: ActorAddress) -> None:
        """The disk failed: nothing is retried on it (invariant 14)."""
        self._stop_component(message.fault)

    def child_exited(self, child: ActorAddress) -> None:
        """An actor of the component died: without it nothing can be promised."""
        if child not in self._owned or child not in (self._storage, self._pool):
            return
        self._owned.remove(child)
        name = "the storage" if child == self._storage else "the message pool"
        if child == self._storage:
            self._storage = None
        else:
            self._pool = None
        if self._opening is not None or self._parts is not None:
            self._stop_component(_fault(FaultKind.ACTOR_DIED, f"{name} is gone", "all three actors"))

    def _stop_component(self, fault: Fault) -> None:
        if self._stopped is not None:
            return
        self._stopped = fault
        for calls in (self._storage_calls, self._pool_calls):
            if calls is not None:
                calls.forget()  # Who is dead is asked no more, and no answer counts any more.
        self.log.critical("component_stopped", fault=str(fault))
        if self._opening is not None:
            opening, self._opening = self._opening, None
            if opening.memory is not None:
                opening.memory.close()
            self.send(opening.sender, OpenFailed(owner=opening.message.owner, fault=fault))
        if self._next_opening is not None:
            (message, sender), self._next_opening = self._next_opening, None
            self.send(sender, OpenFailed(owner=message.owner, fault=fault))
        if self._parts is not None:
            self._parts.reading.refuse_all()
            self._parts.opened.tell_owner(StorageFailed(owner=self._parts.opened.owner, fault=fault))
            if self._parts.closing is not None:
                self._release_stopped(self._parts)

    # Closing: what was accepted, then the leases, then the file.

    def _begin_closing(self, message: CloseReplies | None, sender: ActorAddress | None) -> None:
        parts = self._parts
        if parts is None or parts.closing is not None:
            return
        owner = parts.opened.owner
        parts.closing = message or CloseReplies(owner=owner, number=parts.number + 1)
        parts.closing_for = sender
        parts.writing.flushing = True
        parts.reading.refuse_all()
        self._pump()

    def _close_stopped(self, parts: Parts, message: CloseReplies, sender: ActorAddress) -> None:
        """After a failure: nothing more becomes durable, but the leases go back and the file is released."""
        if parts.closing is None:
            parts.closing, parts.closing_for = message, sender
            self._release_stopped(parts)

    def _release_stopped(self, parts: Parts) -> None:
        opened = parts.opened
        if self._pool is not None and self._pool_calls is not None and opened.own:
            # What was in flight is answered or was lost; its number is used up either way. If its own leases are on
            # their way back already, because the file was closing, that goes on.
            self._pool_calls.forget()
            self._release(parts, tuple(opened.own))
        opened.calls.forget()
        if self._storage is None:
            self._reclaim(parts)
        else:
            opened.call_storage("close", CloseStorage(batch=opened.calls.next_number("close")))

    def _close_when_quiet(self, parts: Parts) -> None:
        opened = parts.opened
        if parts.closing is None or parts.checkpointing.is_running or not opened.slots.settled(opened.slots.barrier):
            return
        if opened.calls.any_busy or (self._pool_calls is not None and self._pool_calls.any_busy):
            return
        if opened.slots.repairs:
            return  # They are on their way to disk; nothing new is asked for.
        leases = (*opened.read_stock, *opened.repair_stock, *parts.reading.take_back())
        opened.read_stock.clear()
        opened.repair_stock.clear()
        if leases:
            self._release(parts, leases)
            return
        opened.call_storage("close", CloseStorage(batch=opened.calls.next_number("close")))

    def _release(self, parts: Parts, leases: tuple[Lease, ...]) -> None:
        if self._pool_calls is None:
            raise InvariantBroken("leases are released before there is a pool")
        parts.opened.own = parts.opened.own.difference(leases)
        number = self._pool_calls.next_number("release")
        request = ReleaseLeases(holder=parts.opened.incarnation, number=number, leases=leases)
        self._call_pool("release", request)

    def leases_released(self, message: LeasesReleased, sender: ActorAddress) -> None:
        """The pool has them back."""
        if not self._pool_answered("release", message.number):
            return
        if message.stale:
            self.count("leases_stale", leases=len(message.stale))
        if self._opening is not None and self._opening.failed is not None:
            self._fail_opening(self._opening.failed)
        self._pump()

    def leases_reclaimed(self, message: LeasesReclaimed, sender: ActorAddress) -> None:
        """What the owner held came back."""
        if self._pool_answered("reclaim"):
            self._finish_closing()

    def storage_closed(self, message: StorageClosed, sender: ActorAddress) -> None:
        """The file is released, and nothing reads the owner's buffers any more."""
        parts = self._parts
        if parts is None or parts.closing is None or parts.opened.calls.answered("close", message.batch) is None:
            return
        self._reclaim(parts)

    def _reclaim(self, parts: Parts) -> None:
        """Take back what the owner held, dead or alive: it cannot know which of its buffers are still being written."""
        if self._pool is None:
            self._finish_closing()
        else:
            self._call_pool("reclaim", ReclaimLeases(holder=parts.opened.owner))

    def _finish_closing(self) -> None:
        parts = self._parts
        if parts is None or parts.closing is None:
            return
        self._parts = None
        parts.opened.memory.close()
        self._owners_gone.append(parts.opened.owner)
        closing = parts.closing
        self._last_closed = RepliesClosed(owner=closing.owner, number=closing.number)
        if parts.closing_for is not None:
            self.send(parts.closing_for, self._last_closed)
        self._open_next()

    # What has become possible.

    def due(self) -> float:
        """See `ComponentActor`: infinity as a rule, or when the scrubber goes on."""
        calls = [calls.due for calls in (self._storage_calls, self._pool_calls) if calls is not None]
        due = min(calls, default=math.inf)
        parts = self._parts
        if parts is None or self._stopped is not None:
            return due
        due = min(due, parts.writing.due)
        if parts.closing is None:
            due = min(due, parts.reading.due, parts.repairing.due)
            if self._owes_answer(parts):
                due = min(due, parts.answer_due)
        return due

    def tick(self) -> None:
        """Send again what has no answer, look at timeouts, let the scrubber go on."""
        now = self.environment.monotonic()
        for calls in (self._storage_calls, self._pool_calls):
            for call in calls.overdue(now) if calls is not None else ():
                self.counters["requests_resent"] += 1
                self.send(call.target, call.message)
        parts = self._parts
        if parts is not None and parts.closing is None and self._stopped is None:
            parts.reading.resend_lent(now)
            parts.reading.scrub(now)
        self._pump(ticking=True)

    def _pump(self, *, ticking: bool = False) -> None:
        parts = self._parts
        if parts is None or self._stopped is not None:
            return
        parts.writing.pump()
        parts.checkpointing.pump()
        if parts.closing is None:
            parts.repairing.pump()
            parts.reading.pump()
            self._answer_writes(parts, at_once=ticking)
        parts.writing.tell_durable()
        if parts.closing is not None:
            self._close_when_quiet(parts)

    def _answer_writes(self, parts: Parts, *, at_once: bool) -> None:
        """Answer the last batch, once another may be sent; with news, if there are some soon."""
        writing = parts.writing
        if self._owes_answer(parts) and (at_once or not writing.is_answered_later):
            parts.answer = WritesAccepted(
                owner=parts.opened.owner,
                number=parts.number,
                credit=writing.credit,
                durable_through=writing.durable_through,
            )
            writing.untold = False
            parts.opened.tell_owner(parts.answer)

    def _owes_answer(self, parts: Parts) -> bool:
        return parts.answer is None and parts.number > 0 and parts.writing.credit > 0

    def stop(self) -> None:
        """See `ComponentActor`. The children are told to exit by Thespian."""
        for memory in (
            self._opening.memory if self._opening is not None else None,
            self._parts.opened.memory if self._parts is not None else None,
        ):
            if memory is not None:
                memory.close()


def is_takeover(config: RepliesConfig, message: OpenReplies) -> bool:
    """Whether a new owner asks for the file that is open: then it may replace the one that opened it."""
    wanted = message.config
    return message.mode is not OpenMode.FORMAT and (wanted.path, wanted.cluster, wanted.replica) == (
        config.path,
        config.cluster,
        config.replica,
    )


def _fault(kind: FaultKind, found: str, expected: str) -> Fault:
    return Fault(kind=kind, found=found, expected=expected)
