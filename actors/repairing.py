"""Repair: faulty slots are asked of the peers, and what comes is verified and written.

Guarantees: a reply from a peer is written only if it is, byte for byte, the one that a faulty slot expects, both
checksums verified (invariant 10); anything else is dropped and counted. Repaired replies that wait for a buffer are
bounded by what was asked for. The replica is told of every loss (11), and of every repair once it is durable (9).
"""

from __future__ import annotations

from client_replies.messages.leases import Lease
from client_replies.messages.peers import GetReplies, RepliesFound, RepliesMissing
from client_replies.messages.replies import Payload, ReplyLost, ReplyRepaired
from client_replies.messages.reply_header import HEADER_SIZE, BodyChecksumWrong, packed_size, verify_body_checksum

from .opened import Opened
from .reading import Reading
from .repair import Repair
from .slots import Write


class Repairing:
    """All repairs of one opening."""

    def __init__(self, opened: Opened, repair: Repair, reading: Reading) -> None:
        self._opened = opened
        self._repair = repair
        self._reading = reading
        self._arrived: dict[int, bytes] = {}  # verified replies that wait for a buffer to be written from

    def pump(self) -> None:
        """Write what arrived, as buffers come free; ask for what is faulty."""
        for slot in list(self._arrived):
            if not self._take(slot, self._arrived[slot]):
                break
            del self._arrived[slot]
        faulty = self._faulty()
        if not faulty:
            self._repair.forget()
            return
        for slot in self._repair.without_peers(faulty):
            self._tell_lost(slot, faulty[slot])
        opened = self._opened
        # What is asked for may all arrive before any of it is written.
        room = opened.config.repairs_max - len(self._arrived) - len(opened.slots.repairs) - self._repair.in_flight
        for request in self._repair.plan(faulty, opened.now(), room):
            message = GetReplies(
                asker=opened.config.replica,
                incarnation=opened.incarnation,
                request=request.request,
                bytes_max=opened.config.repair_bytes_max,
                slots=request.slots,
                headers=request.headers,
            )
            opened.send(request.address, message)

    def _faulty(self) -> dict[int, bytes]:
        expected = self._opened.slots.expected
        return {
            slot: header
            for slot in self._opened.slots.faulty
            if slot not in self._arrived and (header := expected[slot]) is not None
        }

    def found(self, message: RepliesFound) -> None:
        """Replies from a peer: verified one by one, whatever was asked and whoever sent them."""
        opened = self._opened
        if message.asker != opened.config.replica or message.incarnation != opened.incarnation:
            opened.count("repair_not_ours", peer=message.peer)
            return
        self._repair.found(message.peer, message.request, message.slots)
        for slot, reply in zip(message.slots, message.replies, strict=True):
            if slot in self._arrived or slot >= opened.config.clients_max:
                opened.count("repair_unwanted", peer=message.peer, slot=slot)
            elif self._is_expected(message.peer, slot, reply) and not self._take(slot, reply):
                if len(self._arrived) < opened.config.repairs_max:
                    self._arrived[slot] = reply
                else:
                    # A late answer, beside those that were asked for since. The slot is asked for again.
                    opened.count("repair_without_room", peer=message.peer, slot=slot)

    def _is_expected(self, peer: int, slot: int, reply: bytes) -> bool:
        opened = self._opened
        header = reply[:HEADER_SIZE]
        if not opened.slots.wants_repair(slot, header):
            # Late or repeated, as a rule: the slot was repaired or written meanwhile.
            opened.count("repair_unwanted", peer=peer, slot=slot)
            if slot in opened.slots.faulty:
                self._repair.rejected(peer, slot, opened.now())
            return False
        try:
            if len(reply) != packed_size(header):
                raise BodyChecksumWrong(f"{len(reply)} bytes", f"{packed_size(header)} bytes")
            verify_body_checksum(header, memoryview(reply)[HEADER_SIZE:])
        except BodyChecksumWrong as error:
            opened.count("repair_rejected", peer=peer, slot=slot, reason=str(error))
            self._repair.rejected(peer, slot, opened.now())
            return False
        return True

    def _take(self, slot: int, reply: bytes) -> bool:
        """Queue the write of a verified reply. False if it has to wait for a buffer."""
        opened = self._opened
        header = reply[:HEADER_SIZE]
        if not opened.slots.wants_repair(slot, header):
            return True  # A commit or a removal came first, while the reply waited.
        payload: Payload = reply
        if not opened.is_inline(header):
            if not opened.repair_stock:
                return False
            lease: Lease = opened.repair_stock.pop()
            opened.memory.buffer(lease)[: len(reply)] = reply
            payload = lease
        for read in opened.slots.accept_repair(slot, header, payload, opened.now()):
            self._reading.answered_by_write(read, payload)
        return True

    def missing(self, message: RepliesMissing) -> None:
        """A peer says what it does not send, and why."""
        opened = self._opened
        if message.asker != opened.config.replica or message.incarnation != opened.incarnation:
            opened.count("repair_not_ours", peer=message.peer)
            return
        reasons = zip(message.slots, message.reasons, strict=True)
        for slot in self._repair.missing(message.peer, message.request, reasons, opened.now()):
            header = opened.slots.expected[slot]
            if slot in opened.slots.faulty and header is not None and self._repair.lost.get(slot) == header:
                self._tell_lost(slot, header)

    def _tell_lost(self, slot: int, header: bytes) -> None:
        self._opened.count("reply_lost", slot=slot)
        self._opened.tell_owner(ReplyLost(owner=self._opened.owner, slot=slot, header=header))

    def repaired(self, write: Write) -> None:
        """The repaired reply is durable."""
        message = ReplyRepaired(owner=self._opened.owner, slot=write.slot, header=write.header)
        self._opened.tell_owner(message)

    @property
    def depths(self) -> dict[str, int]:
        """How much is on its way, for the status."""
        return {
            "repairs_asked": self._repair.in_flight,
            "repairs_arrived": len(self._arrived),
            "repairs_queued": len(self._opened.slots.repairs),
        }
