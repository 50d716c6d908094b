"""Repair: faulty slots are asked of the peers, and what comes is verified and written.

Guarantees: a reply from a peer is written only if it is, byte for byte, the one that a faulty slot expects, both
checksums verified (invariant 10); anything else is dropped and counted. What has come and is not written yet, and
what is asked for, are bounded in number and in bytes. The replica is told of every loss (11), and of every repair once
it is durable (9).
"""

from __future__ import annotations

import math

from client_replies.messages.peers import GetReplies, RepliesFound, RepliesMissing
from client_replies.messages.replies import RepliesRepaired, ReplyLost
from client_replies.messages.reply_header import HEADER_SIZE, BodyChecksumWrong, packed_size, verify_body_checksum

from .opened import Opened
from .repair_planner import RepairPlanner
from .slots import Write

WAITING_ANSWERS = 2  # how many answers' worth of replies may wait to be written before no more are asked for


class RepairService:
    """All repairs of one opening."""

    def __init__(self, opened: Opened, planner: RepairPlanner) -> None:
        self._opened = opened
        self._planner = planner
        opened.slots.on_faulty = planner.add

    def pump(self) -> None:
        """Ask for what is faulty."""
        opened, faulty = self._opened, self._opened.slots.faulty
        if not faulty:
            self._planner.forget()
            return
        for slot in self._planner.without_peers(faulty):
            self._tell_lost(slot, faulty[slot])
        now = opened.now()
        for request in self._planner.plan(faulty, now, self._room() if self._planner.may_ask(now) else 0):
            message = GetReplies(
                asker=opened.config.replica,
                incarnation=opened.incarnation,
                request=request.request,
                bytes_max=opened.config.repair_bytes_max,
                slots=request.slots,
                headers=request.headers,
            )
            opened.send(request.address, message)

    @property
    def due(self) -> float:
        """When `pump` has something to do that no message brings about."""
        return self._planner.due if self._opened.slots.faulty else math.inf

    def _room(self) -> int:
        """How many more slots may be asked for: all of it may arrive before any of it is written."""
        config, repairs = self._opened.config, self._opened.slots.repairs
        room = config.repairs_max - len(repairs) - self._planner.in_flight
        waiting = sum(packed_size(write.header) for write in repairs.values()) if room > 0 else 0
        return room if waiting < WAITING_ANSWERS * config.repair_bytes_max else 0

    def found(self, message: RepliesFound) -> None:
        """Replies from a peer: verified one by one, whatever was asked and from any peer."""
        opened = self._opened
        if message.asker != opened.config.replica or message.incarnation != opened.incarnation:
            opened.count("repair_not_ours", peer=message.peer)
            return
        self._planner.found(message.peer, message.request, message.slots)
        for slot, reply in zip(message.slots, message.replies, strict=True):
            header = reply[:HEADER_SIZE]
            if not self._is_expected(message.peer, slot, header, reply):
                continue
            if len(opened.slots.repairs) >= opened.config.repairs_max:
                # A late answer, beside those that were asked for since. The slot is asked for again.
                opened.count("repair_without_room", peer=message.peer, slot=slot)
                self._planner.dropped(slot)
                continue
            for read in opened.slots.accept_repair(slot, header, reply, opened.now()):
                read.answer(reply)

    def _is_expected(self, peer: int, slot: int, header: bytes, reply: bytes) -> bool:
        opened = self._opened
        if slot >= opened.config.clients_max or not opened.slots.wants_repair(slot, header):
            # Late or repeated, as a rule: the slot was repaired or written meanwhile.
            opened.count("repair_unwanted", peer=peer, slot=slot)
            if slot in opened.slots.faulty:
                self._planner.rejected(peer, slot, opened.now())
            return False
        try:
            if len(reply) != packed_size(header):
                raise BodyChecksumWrong(f"{len(reply)} bytes", f"{packed_size(header)} bytes")
            verify_body_checksum(header, memoryview(reply)[HEADER_SIZE:])
        except BodyChecksumWrong as error:
            opened.count("repair_rejected", peer=peer, slot=slot, reason=str(error))
            self._planner.rejected(peer, slot, opened.now())
            return False
        return True

    def missing(self, message: RepliesMissing) -> None:
        """A peer says what it does not send, and why."""
        opened = self._opened
        if message.asker != opened.config.replica or message.incarnation != opened.incarnation:
            opened.count("repair_not_ours", peer=message.peer)
            return
        reasons = zip(message.slots, message.reasons, strict=True)
        for slot in self._planner.missing(message.peer, message.request, reasons, opened.now()):
            header = opened.slots.expected[slot]
            if slot in opened.slots.faulty and header is not None and self._planner.lost.get(slot) == header:
                self._tell_lost(slot, header)

    def _tell_lost(self, slot: int, header: bytes) -> None:
        self._opened.count("reply_lost", slot=slot)
        self._opened.tell_owner(ReplyLost(owner=self._opened.owner, slot=slot, header=header))

    def repaired(self, writes: list[Write]) -> None:
        """These repaired replies are durable."""
        if writes:
            message = RepliesRepaired(
                owner=self._opened.owner,
                slots=tuple(write.slot for write in writes),
                headers=b"".join(write.header for write in writes),
            )
            self._opened.tell_owner(message)

    @property
    def depths(self) -> dict[str, int]:
        """How much is on its way, for the status."""
        return {
            "repairs_asked": self._planner.in_flight,
            "repairs_queued": len(self._opened.slots.repairs),
        }
