"""Answers to peers that repair.

Guarantees: each slot of a request is answered once, with the whole reply or with a reason, within the number of bytes
that the peer named; one request per peer is served at a time, and a newer one replaces it. A slot whose bytes on disk
nobody has compared with what it is expected to hold is read before it is denied. The number of reads that wait is
bounded, and beyond it the answer is "busy". The owner's reads never wait for these.

Owns: the gathered bytes, and the reads that wait.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from thespian.actors import ActorAddress

from client_replies.messages.faults import SlotFault, invariant
from client_replies.messages.message import Message
from client_replies.messages.peers import GetReplies, Missing, RepliesFound, RepliesMissing
from client_replies.messages.replies import Payload
from client_replies.messages.reply_header import HEADER_SIZE, packed_op, packed_size
from client_replies.messages.storage_io import SlotsRead

from .opened import Opened
from .read_lane import ReadLane

SERVE_BATCH_BYTES = 4 * 1024 * 1024


@dataclass(slots=True, eq=False)
class Serving:
    """One `GetReplies` being answered."""

    message: GetReplies
    sender: ActorAddress
    waiting: dict[int, bytes] = field(default_factory=dict)
    found: dict[int, bytes] = field(default_factory=dict)
    missing: dict[int, Missing] = field(default_factory=dict)
    dropped: bool = False

    def wanted(self) -> list[tuple[int, bytes]]:
        """Each slot asked for and its packed header."""
        headers = self.message.headers
        return [
            (slot, headers[index * HEADER_SIZE : (index + 1) * HEADER_SIZE])
            for index, slot in enumerate(self.message.slots)
        ]

    def found_reply(self, slot: int, reply: bytes) -> None:
        """The reply is at hand."""
        invariant(self.waiting.pop(slot, None) is not None, f"slot {slot} was not being served")
        self.found[slot] = reply

    def missing_reply(self, slot: int, reason: Missing) -> None:
        """The reply cannot be sent."""
        invariant(self.waiting.pop(slot, None) is not None, f"slot {slot} was not being served")
        self.missing[slot] = reason

    def answers(self, replica: int) -> list[Message]:
        """The messages to send once nothing is waited for."""
        request = {
            "asker": self.message.asker,
            "incarnation": self.message.incarnation,
            "request": self.message.request,
            "peer": replica,
        }
        answers: list[Message] = []
        if self.found:
            answers.append(RepliesFound(slots=tuple(self.found), replies=tuple(self.found.values()), **request))
        if self.missing:
            answers.append(RepliesMissing(slots=tuple(self.missing), reasons=tuple(self.missing.values()), **request))
        return answers


@dataclass(slots=True, eq=False)
class PeerRead:
    """One slot of a peer's request that has to come from memory or disk into a buffer."""

    server: PeerServer
    serving: Serving
    slot: int
    header: bytes

    @property
    def is_wanted(self) -> bool:
        """True if the peer still waits for it."""
        return not self.serving.dropped and self.slot in self.serving.waiting

    def answered_by_write(self, payload: Payload) -> None:
        """A write of the very reply that this read wants was accepted (invariant 4)."""
        if self.is_wanted:
            self.server.gathered(self, payload)


class PeerServer:
    """All reads for peers in one opening."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._serving: dict[int, Serving] = {}
        self._waiting: deque[PeerRead] = deque()
        self.disk = ReadLane(opened, "serve", opened.repair_stock, for_peers=True)

    def serve(self, message: GetReplies, sender: ActorAddress) -> None:
        """Gather what a peer asks for, and answer when every slot has its reply or its reason."""
        old = self._serving.pop(message.asker, None)
        if old is not None:
            old.dropped = True  # The peer gave up on it, or repeats it: either way this is the one it waits for.
        serving = self._serving[message.asker] = Serving(message, sender)
        room = message.bytes_max
        for slot, header in serving.wanted():
            serving.waiting[slot] = header
            reason = self._missing_reason(slot, header)
            size = packed_size(header)
            if reason is None and (size > room or len(self._waiting) >= self._opened.config.peer_reads_max):
                reason = Missing.BUSY
            if reason is not None:
                serving.missing_reply(slot, reason)
                continue
            room -= size
            payload = self._opened.slots.pending(slot, header)
            if payload is not None:
                serving.found_reply(slot, self._opened.copy_bytes(payload, header))
            else:
                self._waiting.append(PeerRead(self, serving, slot, header))
        self._finish(serving)

    def _missing_reason(self, slot: int, header: bytes) -> Missing | None:
        slots = self._opened.slots
        if slot >= self._opened.config.clients_max or slots.expected[slot] != header:
            return Missing.BEHIND if packed_op(header) > self._opened.op else Missing.SUPERSEDED
        if slot in slots.ahead:
            return Missing.BEHIND
        return Missing.FAULTY if slot in slots.faulty else None

    def _finish(self, serving: Serving) -> None:
        if serving.waiting or serving.dropped:
            return
        if self._serving.get(serving.message.asker) is serving:
            del self._serving[serving.message.asker]
        # A slot that was faulty when it was looked at may be repaired by now. A denial is true when it leaves.
        for slot, header in serving.wanted():
            if serving.missing.get(slot, Missing.BUSY) is not Missing.BUSY:
                serving.missing[slot] = self._missing_reason(slot, header) or Missing.BUSY
        for answer in serving.answers(self._opened.config.replica):
            self._opened.send(serving.sender, answer)

    def gathered(self, read: PeerRead, reply: Payload | Missing) -> None:
        """This slot has its reply or its reason."""
        if isinstance(reply, Missing):
            read.serving.missing_reply(read.slot, reply)
        else:
            read.serving.found_reply(read.slot, self._opened.copy_bytes(reply, read.header))
        self._finish(read.serving)

    def pump(self) -> None:
        """Start the next group."""
        if self.disk.is_busy:
            return
        size = 0
        while self._waiting:
            read = self._waiting[0]
            size += packed_size(read.header)
            if (self.disk.size and size > SERVE_BATCH_BYTES) or not self.disk.has_room(read.header):
                break
            self._waiting.popleft()
            if read.serving.dropped:
                continue
            reason = self._missing_reason(read.slot, read.header)
            known = reason or self._opened.slots.pending(read.slot, read.header)
            if known is not None:
                self.gathered(read, known)
            else:
                self.disk.add(read.slot, read.header, read)
        self.disk.send()

    def read_done(self, answer: SlotsRead) -> None:
        """A group of reads ended."""
        for read, lease, result in self.disk.done(answer):
            peer = read.waiter
            if isinstance(peer, PeerRead):
                reply: Payload | Missing
                if isinstance(result, SlotFault):
                    reply = self._missing_reason(peer.slot, peer.header) or Missing.BUSY
                else:
                    reply = result
                if peer.is_wanted:
                    self.gathered(peer, reply)
            self.disk.give_back(lease)

    def drop_all(self) -> None:
        """The file closes: no peer is answered any more."""
        self._waiting.clear()
        self._serving.clear()

    @property
    def depths(self) -> dict[str, int]:
        """How much waits, for the status."""
        return {"peer_reads_waiting": len(self._waiting), "serving": len(self._serving)}
