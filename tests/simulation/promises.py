"""What was said to be on disk, against the medium, at the moment when it is said.

Guarantees: every statement about durability that leaves a component or a port is compared with what the device model
knows to be synced. What was promised is reckoned here, from the operations that the owner gave the port and from the
messages that were delivered to the component, and not from what either of them makes of that. Compared are:

    component  RepliesOpened, WritesAccepted and RepliesDurable (`durable_through`), SlotsDurable, CheckpointDone,
               SessionsInstalled, RepliesRepaired, RepliesStatus (`durable`, `durable_through`), RepliesClosed
    port       SlotsAreDurable, WritesAreDurable, CheckpointDone
    peers      GetReplies, RepliesMissing and ReplyLost: nobody asks for, denies or calls lost what is on its own disk

Limits: a slot into which a fault was put since, or whose last read came from elsewhere, proves nothing.

Owns: what each owner's operations amount to, in the port's order and in the component's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.actors.component.open_file import Parts, WithFile
from client_replies.actors.owner.port_events import SlotsAreDurable, WritesAreDurable
from client_replies.actors.owner.replies_port import RepliesPort
from client_replies.messages.peers import GetReplies, Missing, RepliesMissing
from client_replies.messages.replies import (
    AwaitDurable,
    Checkpoint,
    CheckpointDone,
    InstallSessions,
    RemoveReplies,
    RepliesClosed,
    RepliesDurable,
    RepliesOpened,
    RepliesRepaired,
    RepliesStatus,
    ReplyLost,
    SessionsInstalled,
    SlotsDurable,
    WriteReplies,
    WritesAccepted,
)
from client_replies.messages.reply_header import HEADER_SIZE, packed_op
from client_replies.storage.layout import sectors_size
from client_replies.storage.session_table import Expectations

from .disk import SimFile, sectors_of
from .history import CLUSTER
from .system import Process

if TYPE_CHECKING:
    from .world import World

NOTHING = 0  # the op of a slot that is to hold no reply
ALL = 2**64


@dataclass(frozen=True, slots=True)
class Operation:
    """What a slot is to hold from `when` on; `written` if the owner gave the reply, and did not just speak of it."""

    when: int
    op: int
    written: bool


@dataclass(slots=True)
class Reckoning:
    """What one owner's operations amount to, slot by slot, in the order in which they were made."""

    slots: dict[int, list[Operation]] = field(default_factory=dict)
    waits: dict[int, dict[int, int]] = field(default_factory=dict)  # by wait: slot, and how many operations it had
    checkpoints: dict[int, int] = field(default_factory=dict)  # by op: when it was asked for
    tables: dict[int, bytes] = field(default_factory=dict)  # by op
    number: int = 0  # of the last message, in the component's order
    op: int = 0  # up to which the component was told

    def write(self, when: int, slot: int, op: int) -> None:
        """The slot is to hold the reply of this op."""
        self.slots.setdefault(slot, []).append(Operation(when, op, True))

    def remove(self, when: int, slot: int) -> None:
        """The slot is to hold nothing."""
        self.slots.setdefault(slot, []).append(Operation(when, NOTHING, False))

    def install(self, when: int, sessions: bytes, clients_max: int, *, forgets: bool = False) -> None:
        """Every slot is to hold what the table says. `forgets`: what was written may be on its way no more."""
        table = Expectations.decode(sessions, clients_max=clients_max, cluster=CLUSTER).headers if sessions else {}
        for slot in range(clients_max):
            op = packed_op(table[slot]) if slot in table else NOTHING
            if forgets or op != self.op_of(slot):
                self.slots.setdefault(slot, []).append(Operation(when, op, False))

    def checkpoint(self, when: int, op: int, sessions: bytes) -> None:
        """A checkpoint was asked for."""
        self.checkpoints[op] = when
        self.tables[op] = sessions

    def wait(self, wait: int, slots: Iterable[int]) -> None:
        """A wait was asked for. Asked again, it is about what it was asked for first."""
        self.waits.setdefault(wait, {slot: len(self.slots.get(slot, ())) for slot in slots})

    def op_of(self, slot: int) -> int:
        """The op of the reply that the slot is to hold now."""
        operations = self.slots.get(slot)
        return operations[-1].op if operations else NOTHING

    def wanted(self, slot: int, count: int, *, written: bool) -> int:
        """The op at or above which the slot's reply must be, as of its first operations; NOTHING if that is over.

        It is over when the slot was removed, or a reply that is not the owner's was installed, since. `written`: what
        was only spoken of is not promised.
        """
        operations = self.slots.get(slot, [])
        if not count or (written and not operations[count - 1].written):
            return NOTHING
        for operation in operations[count:]:
            if not operation.op or (written and not operation.written):
                return NOTHING
        return operations[count - 1].op

    def wanted_by(self, slot: int, when: int) -> int:
        """The same of what the owner wrote, as of all operations up to `when`: their order is that of time."""
        operations = self.slots[slot]
        count = len(operations)
        while count and operations[count - 1].when > when:
            count -= 1
        return self.wanted(slot, count, written=True)

    def wanted_up_to(self, slot: int, op: int) -> int:
        """The same, as of the last operation that wrote a reply of this op or an earlier one."""
        operations = self.slots[slot]
        count = len(operations)
        while count and not (operations[count - 1].written and operations[count - 1].op <= op):
            count -= 1
        return self.wanted(slot, count, written=True)


class WatchedPort(RepliesPort):
    """The shipped port, which notes what its owner asks for."""

    def __init__(self, *, clients_max: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.reckoning = Reckoning()
        self._clients_max = clients_max
        self._asked = 0

    def _next(self) -> int:
        self._asked += 1
        return self._asked

    def write(self, slot: int, reply: bytes) -> None:
        super().write(slot, reply)
        self.reckoning.write(self._next(), slot, packed_op(reply))

    def remove(self, slot: int, op: int) -> None:
        super().remove(slot, op)
        self.reckoning.remove(self._next(), slot)

    def install(self, op: int, sessions: bytes) -> None:
        self.reckoning.install(self._next(), sessions, self._clients_max, forgets=True)
        super().install(op, sessions)

    def checkpoint(self, op: int, sessions: bytes) -> None:
        self.reckoning.checkpoint(self._next(), op, sessions)
        super().checkpoint(op, sessions)

    def await_durable(self, slots: tuple[int, ...]) -> int:
        wait = super().await_durable(slots)
        self.reckoning.wait(wait, slots)
        return wait

    def opened(self, message: RepliesOpened) -> None:
        """The owner hears that the file is open."""
        self.reckoning.install(self._next(), message.sessions, self._clients_max)


def parts_of(actor: ClientRepliesActor) -> Parts | None:
    """The parts of a component while its file is open, else None."""
    state = actor.component.state
    return state.parts if isinstance(state, WithFile) else None


class Promises:
    """See the module."""

    def __init__(self, world: World, fail: Callable[[str, str], None]) -> None:
        self._world = world
        self._fail = fail
        self._owners: dict[int, Reckoning] = {}
        self._said: dict[type, Callable[[int, Any, Any], None]] = {
            RepliesOpened: self._replies_opened,
            WritesAccepted: lambda index, parts, message: self._through(index, message.owner, message.durable_through),
            RepliesDurable: lambda index, parts, message: self._through(index, message.owner, message.through),
            SlotsDurable: self._slots_durable,
            CheckpointDone: self._checkpoint_done,
            SessionsInstalled: self._sessions_installed,
            RepliesRepaired: self._replies_repaired,
            RepliesStatus: self._replies_status,
            RepliesClosed: lambda index, parts, message: self._through(index, message.owner, ALL),
            GetReplies: self._get_replies,
            RepliesMissing: self._replies_missing,
            ReplyLost: self._reply_lost,
        }

    # What a component is told, and what it says.

    def delivered(self, process: Process, message: object) -> None:
        """A component has handled the message."""
        parts = parts_of(process.instance)
        if parts is not None and getattr(message, "number", 0) <= parts.turns.number:
            self._note(parts, message)

    def _note(self, parts: Any, message: object) -> None:
        reckoning = self._owners.get(getattr(message, "owner", 0))
        if parts is None or reckoning is None:
            return
        if isinstance(message, AwaitDurable):
            reckoning.wait(message.wait, message.slots)
        if not isinstance(message, WriteReplies | RemoveReplies | InstallSessions | Checkpoint):
            return
        if message.number != reckoning.number + 1:
            return  # it comes again
        reckoning.number = message.number
        reckoning.op = max(reckoning.op, message.op)
        if isinstance(message, WriteReplies):
            for slot, payload in zip(message.slots, message.payloads, strict=True):
                header = payload if isinstance(payload, bytes) else bytes(parts.opened.memory.buffer(payload)[:256])
                reckoning.write(message.number, slot, packed_op(header))
        elif isinstance(message, RemoveReplies):
            for slot in message.slots:
                reckoning.remove(message.number, slot)
        elif isinstance(message, InstallSessions):
            reckoning.install(message.number, message.sessions, parts.opened.config.clients_max)
        else:
            reckoning.checkpoint(message.number, message.op, message.sessions)

    def sent(self, process: Process, message: object) -> None:
        """A component is saying something."""
        check = self._said.get(type(message))
        if check is None or not isinstance(process.instance, ClientRepliesActor):
            return
        if self._world.components[process.host.index] is not process:
            return
        if self._world.system.current is process:
            # Who is told something because of a message that is being handled is told so because it was accepted.
            self._note(parts_of(process.instance), self._world.system.handling)
        check(process.host.index, parts_of(process.instance), message)

    def _replies_opened(self, index: int, parts: Any, message: RepliesOpened) -> None:
        if message.owner not in self._owners:
            self._owners[message.owner] = Reckoning(op=message.op)
            self._owners[message.owner].install(0, message.sessions, parts.opened.config.clients_max)
        self._others_are_there(index, message.owner, message.faulty, "opened")

    def _sessions_installed(self, index: int, parts: Any, message: SessionsInstalled) -> None:
        slots = parts.opened.slots
        on_their_way = [*slots.queued, *slots.repairs, *slots.writing]
        self._others_are_there(index, message.owner, (*message.faulty, *on_their_way), "installed")

    def _others_are_there(self, index: int, owner: int, faulty: tuple[int, ...], what: str) -> None:
        for slot in range(self._world.plan.clients_max):
            op = self._owners[owner].op_of(slot)
            if slot not in faulty and op:
                self._require(index, slot, op, f"a slot that is {what} and not called faulty")

    def _through(self, index: int, owner: int, through: int) -> None:
        reckoning = self._owners.get(owner)
        if reckoning is None or not through:
            return
        self._world.marks.hit("durable_through_told")
        for slot in reckoning.slots:
            self._require(index, slot, reckoning.wanted_by(slot, through), "a batch that is durable")

    def _slots_durable(self, index: int, parts: Any, message: SlotsDurable) -> None:
        self._world.marks.hit("slots_durable_told")
        self._waited(index, self._owners[message.owner], message.wait, "that was waited for")

    def _waited(self, index: int, reckoning: Reckoning, wait: int, what: str) -> None:
        for slot, count in reckoning.waits[wait].items():
            self._require(index, slot, reckoning.wanted(slot, count, written=False), what)

    def _checkpoint_done(self, index: int, parts: Any, message: CheckpointDone) -> None:
        self._checkpointed(index, self._owners[message.owner], message.op)

    def _checkpointed(self, index: int, reckoning: Reckoning, op: int) -> None:
        """The table is there, and all that was written before the checkpoint, or newer."""
        file, layout = self._world.file(index), self._world.layout
        sessions = reckoning.tables[op]
        starts = [layout.trailer_offset(area) for area in (0, 1)]
        whole = file is None or any(file.stable[start : start + len(sessions)] == sessions for start in starts)
        if not whole and not self._world.plan.harsh:
            self._fail("what is said to be on disk is there", f"r{index} has no session table of op {op}")
        when = reckoning.checkpoints[op]
        for slot in reckoning.slots:
            self._require(index, slot, reckoning.wanted_by(slot, when), "that the checkpoint counts on")

    def _replies_repaired(self, index: int, parts: Any, message: RepliesRepaired) -> None:
        for slot, header in message.repaired:
            self._require(index, slot, packed_op(header), "that was repaired")

    def _replies_status(self, index: int, parts: Any, message: RepliesStatus) -> None:
        if not message.open:
            return
        self._world.marks.hit("status_told")
        owner = parts.opened.owner
        self._through(index, owner, message.durable_through)
        for slot, durable in enumerate(message.durable):  # asked about all of them
            op = self._owners[owner].op_of(slot)
            if durable and op:
                self._require(index, slot, op, "whose status is durable", exactly=True)

    # What a component says to others of what it holds.

    def _get_replies(self, index: int, parts: Any, message: GetReplies) -> None:
        for position, slot in enumerate(message.slots):
            header = message.headers[position * HEADER_SIZE : (position + 1) * HEADER_SIZE]
            self._not_here(index, parts, slot, header, "asks a peer for")

    def _replies_missing(self, index: int, parts: Any, message: RepliesMissing) -> None:
        asked = self._world.checkers.asked(message.incarnation, message.request)
        for slot, reason in zip(message.slots, message.reasons, strict=True):
            if reason is Missing.FAULTY and slot in asked:
                self._not_here(index, parts, slot, asked[slot], "denies")

    def _reply_lost(self, index: int, parts: Any, message: ReplyLost) -> None:
        self._not_here(index, parts, message.slot, message.header, "calls lost")

    def _not_here(self, index: int, parts: Any, slot: int, header: bytes, does: str) -> None:
        """The slot does not hold this reply, nor a later one that the owner is still to tell of."""
        file = self._world.file(index)
        if file is None or file.misread or slot in parts.opened.slots.writing:
            return  # what was seen is not what is there, or something else is about to be
        start = self._world.layout.slot_offset(slot)
        if file.is_damaged(start, self._world.layout.message_size_max):
            return
        held = self._held(file, slot)
        told = self._owners[parts.opened.owner].op
        if held == packed_op(header) or held > max(told, packed_op(header)):
            text = f"r{index} {does} op {packed_op(header)} of slot {slot}, whose disk holds op {held}"
            self._fail("3, 11: the disk is read before anybody is asked", text)

    # What a port says.

    def port_event(self, index: int, port: WatchedPort, event: object) -> None:
        """A port reported something to its owner."""
        reckoning = port.reckoning
        if isinstance(event, RepliesOpened):
            port.opened(event)
        elif isinstance(event, SlotsAreDurable):
            self._world.marks.hit("slots_are_durable_told")
            self._waited(index, reckoning, event.wait, "that the owner waited for")
        elif isinstance(event, WritesAreDurable):
            self._world.marks.hit("writes_are_durable_told")
            for slot in reckoning.slots:
                self._require(index, slot, reckoning.wanted_up_to(slot, event.op), "that was written and is durable")
        elif isinstance(event, CheckpointDone):
            self._checkpointed(index, reckoning, event.op)

    # The medium.

    def _held(self, file: SimFile, slot: int) -> int:
        """The op of the whole reply of this slot that is on the medium, or NOTHING."""
        start = self._world.layout.slot_offset(slot)
        header = bytes(file.stable[start : start + HEADER_SIZE])
        result = self._world.history.results.get(packed_op(header))
        reply = result.reply if result is not None and result.slot == slot else None
        if reply is None or reply[:HEADER_SIZE] != header:
            return NOTHING
        padding = bytes(sectors_size(len(reply)) - len(reply))
        whole = file.stable.startswith(reply, start) and file.stable.startswith(padding, start + len(reply))
        return packed_op(header) if whole else NOTHING

    def _require(self, index: int, slot: int, op: int, what: str, *, exactly: bool = False) -> None:
        """The reply of `op`, or a newer one of the slot, must be on the medium."""
        if not op:
            return
        file = self._world.file(index)
        if file is None:
            return
        held = self._held(file, slot)
        if held == op or (held > op and not exactly):
            return
        # The whole slot: what was damaged may be a newer and longer reply than that of `op`.
        start, size = self._world.layout.slot_offset(slot), self._world.layout.message_size_max
        seen = file.misread_as.get(start)
        misread = seen is not None and packed_op(seen) >= op
        covered = not file.covered.isdisjoint(sectors_of(start, size))
        if not misread and not covered and not file.is_damaged(start, size):
            text = f"r{index} slot {slot}, {what}: op {op} is to be on disk, and it holds op {held}"
            self._fail("what is said to be on disk is there", text)
