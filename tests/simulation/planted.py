"""Bugs planted in the component's classes, to prove that its simulator would find them: see `planting`.

Guarantees: one for each of the design's invariants 2 to 13, several for some, and those that the storage and the leases
invite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from client_replies.actors.component import repair_service
from client_replies.actors.component.checkpointing import Checkpointing
from client_replies.actors.component.opened import Opened
from client_replies.actors.component.peer_server import PeerServer
from client_replies.actors.component.repair_planner import Asked, Peer, RepairPlanner
from client_replies.actors.component.slots import Read, Slots, Write
from client_replies.actors.owner.replies_port import RepliesPort
from client_replies.actors.owner.write_queue import WriteQueue
from client_replies.messages.config import SECTOR_SIZE
from client_replies.messages.faults import SlotFault
from client_replies.messages.leases import Lease
from client_replies.messages.peers import Missing
from client_replies.messages.replies import Payload, WritesAccepted
from client_replies.messages.reply_header import (
    HEADER_SIZE,
    HeaderInvalid,
    packed_client_request,
    verify_header_checksum,
)
from client_replies.messages.storage_io import WriteCheckpoint
from client_replies.storage import data_file, superblock
from client_replies.storage.client_sessions import (
    ClientSessions,
    DuplicateRequest,
    NewRequest,
    NoSession,
    OlderRequest,
    OtherChecksum,
    RequestStatus,
    SessionTooHigh,
    SessionTooLow,
    SkippedRequest,
)
from client_replies.storage.device import Device
from client_replies.storage.layout import sectors_size
from client_replies.storage.superblock import Superblock, Trailer

from .planting import Planted

_done = Slots.done
_accept = Slots.accept
_install = Slots.install
_begin = Slots.begin
_queue = Slots._queue
_put = WriteQueue.put
_missing_reason = PeerServer._missing_reason
_overtake = Slots._overtake
_check = ClientSessions.check
_failed = RepairPlanner._failed
_release = Opened.release
_on_accepted = RepliesPort._on_accepted
_checkpointed = Superblock.checkpointed


def _done_clears(self: Slots, slot: int) -> Write:
    self.faulty.pop(slot, None)
    return _done(self, slot)


def _accept_leaves(self: Slots, slot: int, header: bytes, payload: Payload, now: float) -> list[Read]:
    was_faulty = slot in self.faulty
    result = _accept(self, slot, header, payload, now)
    if was_faulty:
        self.mark_faulty(slot)
    return result


def _queue_anew(self: Slots, slot: int, header: bytes, payload: Payload, now: float) -> None:
    self._drop_queued(slot)
    _queue(self, slot, header, payload, now)


def _put_behind(self: WriteQueue, slot: int, op: int, payload: bytes | None, large: bool = False) -> Lease | None:
    operations = self._operations
    if slot in operations.payloads:
        operations.payloads[slot] = operations.payloads.pop(slot)
        del operations.places[slot]
        self.serial += 1
        operations.places[slot] = (self.serial, op)
    return _put(self, slot, op, payload, large)


def _has_stored_something(self: Slots, slot: int, op: int) -> bool:
    return self.expected[slot] is None or self.stored[slot] is not None


def _install_unread(self: Slots, expectations: dict[int, bytes]) -> None:
    _install(self, expectations)
    for slot in list(self.unverified):
        self.mark_faulty(slot)


def _begin_without_later(self: Slots, expectations: dict[int, bytes], faulty: Any, later: dict[int, bytes]) -> None:
    _begin(self, expectations, faulty, {})


def _missing_unread(self: PeerServer, slot: int, header: bytes) -> Missing | None:
    reason = _missing_reason(self, slot, header)
    return Missing.FAULTY if reason is None and slot in self._opened.slots.unverified else reason


def _read_done_late(self: Slots, read: Read, *, failed: bool) -> bool:
    self.reads[read.slot].remove(read)
    if not self.reads[read.slot]:
        del self.reads[read.slot]
    if not failed or read.slot in self.faulty or self.expected[read.slot] is None:
        return False
    self.mark_faulty(read.slot)
    return True


def _overtake_silently(self: Slots, slot: int, header: bytes | None) -> list[Read]:
    _overtake(self, slot, header)
    return []


def _start_in_line(self: Slots, limit: int, accepted_before: float, barrier: int) -> list[Write]:
    started: list[Write] = []
    for write in self.queued.values():
        late = write.time > accepted_before and write.accepted > barrier
        if late or write.slot in self.writing or len(started) == limit:
            break
        started.append(write)
    for write in started:
        del self.queued[write.slot]
        self.writing[write.slot] = write
    return started


def _start_twice(self: Slots, limit: int, accepted_before: float, barrier: int) -> list[Write]:
    started = list(self.queued.values())[:limit]
    for write in started:
        del self.queued[write.slot]
        self.writing[write.slot] = write
    return started


def _pending_anything(self: Slots, slot: int, header: bytes) -> Payload | None:
    for writes in (self.queued, self.repairs, self.writing):
        if slot in writes:
            return writes[slot].payload
    return None


def _install_trusting(self: Slots, expectations: dict[int, bytes]) -> None:
    _install(self, expectations)
    for slot in self.writing:
        self.faulty.pop(slot, None)


def _take_back_early(self: RepliesPort, message: WritesAccepted) -> None:
    _on_accepted(self, message)
    self._durable_through(message.number)


def _settled_when_all_is(self: Slots, barrier: int) -> bool:
    return not self._pending


def _settled_after_repairs(self: Slots, barrier: int) -> bool:
    return next(iter(self._pending), barrier + 1) > barrier and not self.repairs


def _durable_on_arrival(self: Slots, slot: int) -> bool:
    return slot not in self.faulty and slot not in self.queued


def _nothing(*_arguments: object) -> None:
    return None


def _silence_denies(self: RepairPlanner, peer: Peer, now: float) -> None:
    asked: Asked | None = peer.asked
    for slot in asked.slots if asked is not None else ():
        if slot in self._cases:
            self._cases[slot].denied[peer.replica] = now
            self._ask_later(slot, self._cases[slot], peer.replica)
    _failed(self, peer, now)


def _check_touches(
    self: ClientSessions, client: int, session: int, request: int, request_checksum: bytes
) -> RequestStatus:
    if client in self._slots:
        self._slots.move_to_end(client)
    return _check(self, client, session, request, request_checksum)


def _check_number_first(
    self: ClientSessions, client: int, session: int, request: int, request_checksum: bytes
) -> RequestStatus:
    slot = self.slot_of(client)
    if slot is None:
        return NoSession()
    header = self.packed_header(slot) or b""
    _, checksum, session_now, _, latest = packed_client_request(header)
    if request > latest + 1:
        return SkippedRequest(latest + 1)
    if request < latest:
        return OlderRequest(latest)
    if session < session_now:
        return SessionTooLow(session_now)
    if session > session_now:
        return SessionTooHigh(session_now)
    if request == latest + 1:
        return NewRequest()
    return DuplicateRequest(slot, header) if request_checksum == checksum else OtherChecksum(latest)


def _check_any_session(
    self: ClientSessions, client: int, session: int, request: int, request_checksum: bytes
) -> RequestStatus:
    return _check(self, client, self.session_of(client) or session, request, request_checksum)


def _slot_fault_of_header(sectors: memoryview, header: bytes) -> SlotFault | None:
    if sectors[:HEADER_SIZE] == header:
        return None
    try:
        verify_header_checksum(sectors)
    except HeaderInvalid:
        return SlotFault.HEADER_CORRUPT
    return SlotFault.OTHER_REPLY


def _with_dirty_padding(content: bytes, size: int) -> tuple[bytes, ...]:
    padding = b"\xff" * (sectors_size(size) - size)
    return (content, padding) if padding else (content,)


def _mended_before_it_is_durable(device: Device, superblock: Superblock, disagreeing: Sequence[int]) -> None:
    for copy in disagreeing:
        device.write(copy * SECTOR_SIZE, (superblock.encode(copy),))
    device.sync()


def _checkpointed_after_the_last(self: Superblock, _after: Trailer, sequence: int, op: int, table: bytes) -> Superblock:
    return _checkpointed(self, self.trailer, sequence, op, table)


def _checkpoint_at_once(self: Checkpointing) -> None:
    running, opened = self._running, self._opened
    if running is None or running.writing:
        return
    running.writing = True
    message = WriteCheckpoint(
        batch=opened.to_storage.next_number("checkpoint"),
        sequence=opened.sequence + 1,
        op=running.message.op,
        sessions=running.message.sessions,
    )
    opened.call_storage("checkpoint", message)


def _release_twice(self: Opened, write: Write) -> None:
    _release(self, write)
    _release(self, write)


def _wants_any_repair(self: Slots, slot: int, header: bytes) -> bool:
    return slot in self.faulty


OBSOLETE = "test_a_state_sync_with_an_obsolete_write_in_flight_trusts_nothing"
PLANTED = (
    Planted("2", "completing a write clears faulty", Slots, "done", _done_clears),
    Planted("2", "accepting a write leaves faulty", Slots, "accept", _accept_leaves),
    Planted("3", "a failed read counts although a write came between", Slots, "read_done", _read_done_late),
    Planted("4", "a write answers no pending read", Slots, "_overtake", _overtake_silently),
    Planted("5", "a lent buffer is filled before its batch is durable", RepliesPort, "_on_accepted", _take_back_early),
    Planted("5", "a busy slot holds up the queue", Slots, "start", _start_in_line),
    Planted("5", "two writes of a slot in flight", Slots, "start", _start_twice),
    Planted("6", "an obsolete write is served", Slots, "pending", _pending_anything, scenario=OBSOLETE),
    Planted("6", "a write in flight proves the slot good", Slots, "install", _install_trusting),
    Planted(
        "7",
        "repairs use up the credit",
        Slots,
        "pending_count",
        property(lambda self: len(self._pending) + len(self.repairs)),
    ),
    Planted("7", "a checkpoint waits for repairs", Slots, "settled", _settled_after_repairs),
    Planted("8", "a checkpoint waits for later commits", Slots, "settled", _settled_when_all_is),
    Planted("9", "a repair is durable on arrival", Slots, "is_durable", _durable_on_arrival),
    Planted("10", "the body from a peer is not verified", repair_service, "verify_body_checksum", _nothing),
    Planted("11", "a peer's silence is a denial", RepairPlanner, "_failed", _silence_denies),
    Planted("12", "asking about a session saves it from eviction", ClientSessions, "check", _check_touches),
    Planted("13", "the request number is judged before the session", ClientSessions, "check", _check_number_first),
    Planted("13", "any session number will do", ClientSessions, "check", _check_any_session),
    Planted("storage", "a read skips the body checksum", data_file, "slot_fault", _slot_fault_of_header),
    Planted("storage", "the padding is not zero", data_file, "_with_padding", _with_dirty_padding),
    Planted("storage", "a superblock is accepted from one copy", superblock, "QUORUM", 1),
    Planted(
        "storage",
        "the superblock is mended before what was read is durable",
        data_file,
        "make_durable",
        _mended_before_it_is_durable,
    ),
    Planted(
        "storage",
        "after damage the next table overwrites the good one",
        Superblock,
        "checkpointed",
        _checkpointed_after_the_last,
    ),
    Planted("checkpoint", "the trailer goes before the replies", Checkpointing, "pump", _checkpoint_at_once),
    Planted("leases", "a lease is released twice", Opened, "release", _release_twice),
    Planted("durable", "a wait goes out ahead of the reply that it is about", WriteQueue, "put", _put_behind),
    Planted("durable", "a wait ends with whatever is on disk", Slots, "has_stored", _has_stored_something),
    Planted("durable", "what takes the place of a reply is waited for by nobody", Slots, "_queue", _queue_anew),
    Planted("verify", "peers are asked before the disk is read after a sync", Slots, "install", _install_unread),
    Planted("verify", "peers are asked for what a later reply replaced", Slots, "begin", _begin_without_later),
    Planted(
        "verify",
        "a peer is denied before the disk is read",
        PeerServer,
        "_missing_reason",
        _missing_unread,
        scenario="test_a_peer_is_not_denied_what_was_not_read_yet",
    ),
    Planted("repair", "a repaired reply need not be the expected one", Slots, "wants_repair", _wants_any_repair),
)
BY_SEED = tuple(bug for bug in PLANTED if not bug.scenario)
BY_SCENARIO = tuple(bug for bug in PLANTED if bug.scenario)
