"""Whom to ask for which missing reply, and when to give up: the decisions of repair, without actors, clocks or I/O.

Guarantees: one request in flight to each peer; a slot is asked of one peer at a time, and of the next one as soon as
that one has answered or timed out; what is in flight stays within a number of slots and bytes. A reply is declared
lost only when every peer has said, within one back-off period, that it does not hold it; a peer that is silent, busy
or behind has not said so (invariant 11).

A message costs in proportion to what it is about, however many slots are faulty.

Limits: no knowledge of content. The caller verifies what arrives. Owns: nothing but its notes on peers and slots.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from thespian.actors import ActorAddress

from client_replies.messages.peers import REPLIES_ASKED_MAX, Missing
from client_replies.messages.reply_header import packed_size

DENIALS = frozenset({Missing.SUPERSEDED, Missing.FAULTY})


@dataclass(slots=True)
class Asked:
    """One request in flight to a peer: what it has not answered yet, and until when it may."""

    request: int
    slots: dict[int, bytes]
    deadline: float


@dataclass(slots=True)
class Peer:
    """What is known of one peer."""

    replica: int
    address: ActorAddress
    asked: Asked | None = None
    failures: int = 0
    resume: float = 0.0  # not asked before this time
    ready: deque[int] = field(default_factory=deque)  # slots to ask for, looked at once more when their turn comes
    is_ready: set[int] = field(default_factory=set)  # the same, so that each is there once
    later: list[tuple[float, int]] = field(default_factory=list)  # a heap: when to ask again for what it did not send

    def is_free(self, now: float) -> bool:
        """True if it may be asked for something now."""
        return self.asked is None and now >= self.resume

    @property
    def due(self) -> float:
        """When it is to be looked at, though no message comes: it has answered nothing, or may be asked again."""
        if self.asked is not None:
            return self.asked.deadline
        return self.resume if self.ready else max(self.resume, self.later[0][0]) if self.later else math.inf

    def offer(self, slot: int) -> None:
        """The peer may be asked for the slot, if nothing else stands against it when its turn comes."""
        if slot not in self.is_ready:
            self.is_ready.add(slot)
            self.ready.append(slot)


@dataclass(slots=True)
class Case:
    """What peers said about one slot's missing reply, and when a peer that could not serve it may be asked again."""

    header: bytes
    denied: dict[int, float] = field(default_factory=dict)
    resume: dict[int, float] = field(default_factory=dict)
    asked_of: int | None = None

    def is_paused(self, replica: int) -> bool:
        """True if the peer has said something of this case and its time to be asked again has not come."""
        return replica in self.denied or replica in self.resume


@dataclass(frozen=True, slots=True)
class RepairRequest:
    """A request to send: `slots` and their packed headers, to `address`."""

    address: ActorAddress
    replica: int
    request: int
    slots: tuple[int, ...]
    headers: bytes


class RepairPlanner:
    """The state of all repairs. Times are in seconds of the caller's clock; `jitter` draws from [0, 1]."""

    def __init__(
        self,
        *,
        slots_max: int,
        bytes_max: int,
        timeout: float,
        backoff_max: float,
        jitter: Callable[[], float],
    ) -> None:
        self._slots_max = slots_max
        self._bytes_max = bytes_max
        self._timeout = timeout
        self._backoff_max = backoff_max
        self._jitter = jitter
        self._peers: dict[int, Peer] = {}
        self._cases: dict[int, Case] = {}
        self._requests = 0
        self.lost: dict[int, bytes] = {}
        self.version = 0

    def set_peers(self, version: int, peers: Iterable[tuple[int, ActorAddress]]) -> bool:
        """Use these peers from now on; what was asked of others is forgotten. False if `version` is an old one."""
        if version <= self.version:
            return version == self.version
        self.version = version
        self._peers = {replica: Peer(replica, address) for replica, address in peers}
        missing = {**self.lost, **{slot: case.header for slot, case in self._cases.items()}}
        self.lost.clear()  # A new peer may hold what the old ones did not.
        for slot, header in missing.items():
            self.add(slot, header)
        return True

    def peer_address(self, replica: int) -> ActorAddress | None:
        """Where this peer is, if the owner named it."""
        peer = self._peers.get(replica)
        return peer.address if peer is not None else None

    def add(self, slot: int, header: bytes) -> None:
        """The slot is faulty and expects this reply: a new case, whatever was said of the slot before."""
        self.lost.pop(slot, None)
        self._cases[slot] = Case(header)
        self._offer(slot)

    def _offer(self, slot: int) -> None:
        case = self._cases.get(slot)
        for replica, peer in self._peers.items():
            if case is not None and not case.is_paused(replica):
                peer.offer(slot)

    @property
    def in_flight(self) -> int:
        """Slots that a peer was asked for and has not answered."""
        return sum(len(peer.asked.slots) for peer in self._peers.values() if peer.asked is not None)

    def may_ask(self, now: float) -> bool:
        """True if a peer waits for nothing and is not left alone for a while."""
        return any(peer.is_free(now) for peer in self._peers.values())

    @property
    def due(self) -> float:
        """When `plan` has something to do that no message brings about."""
        return min((peer.due for peer in self._peers.values()), default=math.inf)

    def plan(self, faulty: Mapping[int, bytes], now: float, room: int) -> list[RepairRequest]:
        """What to send now, at most `room` slots more in flight.

        `faulty` has the packed header of each slot that is faulty still; each was told by `add`.
        """
        for peer in self._peers.values():
            if peer.asked is not None and now >= peer.asked.deadline:
                self._failed(peer, now)
        requests = []
        room = min(room, self._slots_max - self.in_flight)
        free = [peer for peer in self._peers.values() if peer.is_free(now)]
        for index, peer in enumerate(free):
            slots = self._choose(peer, faulty, now, -(-room // (len(free) - index)))  # each has its share
            if slots:
                room -= len(slots)
                requests.append(self._ask(peer, slots, now))
        return requests

    def forget(self) -> None:
        """Nothing is faulty: what peers once said of a slot must not count when it is faulty again."""
        if self._cases or self.lost:
            self._cases.clear()
            self.lost.clear()
            for peer in self._peers.values():
                peer.ready.clear()
                peer.is_ready.clear()
                peer.later.clear()

    def _choose(self, peer: Peer, faulty: Mapping[int, bytes], now: float, room: int) -> dict[int, bytes]:
        chosen: dict[int, bytes] = {}
        size = 0
        self._offer_due(peer, now)
        while peer.ready and len(chosen) < min(room, REPLIES_ASKED_MAX):
            slot = peer.ready[0]
            case = self._cases.get(slot)
            if case is not None and faulty.get(slot) != case.header:
                del self._cases[slot]  # It was repaired or written; if it is faulty again, that is another case.
            elif case is not None and case.asked_of is None and not case.is_paused(peer.replica):
                size += packed_size(case.header)
                if chosen and size > self._bytes_max:
                    break
                chosen[slot] = case.header
            # Else it is asked of another peer, who gives it back, or it is among what is asked for later.
            peer.ready.popleft()
            peer.is_ready.remove(slot)
        return chosen

    def _pause_end(self, case: Case, replica: int) -> float:
        never = float("-inf")
        return max(case.resume.get(replica, never), case.denied.get(replica, never) + self._backoff_max)

    def _ask_later(self, slot: int, case: Case, replica: int) -> None:
        """The peer has just said something of the slot: it is asked again after a while."""
        peer = self._peers.get(replica)
        if peer is not None:
            heapq.heappush(peer.later, (self._pause_end(case, replica), slot))

    def _offer_due(self, peer: Peer, now: float) -> None:
        while peer.later and peer.later[0][0] <= now:
            slot = heapq.heappop(peer.later)[1]
            case = self._cases.get(slot)
            if case is not None and self._pause_end(case, peer.replica) <= now:
                case.denied.pop(peer.replica, None)
                case.resume.pop(peer.replica, None)
                peer.offer(slot)

    def _ask(self, peer: Peer, slots: dict[int, bytes], now: float) -> RepairRequest:
        self._requests += 1
        for slot in slots:
            self._cases[slot].asked_of = peer.replica
        peer.asked = Asked(self._requests, slots, now + self._timeout)
        return RepairRequest(peer.address, peer.replica, self._requests, tuple(slots), b"".join(slots.values()))

    def found(self, replica: int, request: int, slots: Iterable[int]) -> None:
        """The peer sent replies for these slots. The caller tells which of them were of no use."""
        self._answered(replica, request, slots)

    def rejected(self, replica: int, slot: int, now: float) -> None:
        """What the peer sent for the slot was not the reply that is expected: ask another, and it only later."""
        case = self._cases.get(slot)
        if case is not None:
            case.resume[replica] = now + self._pause(1)
            self._ask_later(slot, case, replica)
            self._offer(slot)

    def dropped(self, slot: int) -> None:
        """What was sent for the slot could not be kept: it is asked for again."""
        self._offer(slot)

    def missing(self, replica: int, request: int, reasons: Iterable[tuple[int, Missing]], now: float) -> list[int]:
        """The peer does not send these; returns the slots whose replies are now known to be lost."""
        reasons = list(reasons)
        # A late answer says what was true then, not now.
        answered = self._answered(replica, request, [slot for slot, _reason in reasons])
        lost = []
        for slot, reason in reasons:
            case = self._cases.get(slot)
            # The slot may be about another reply by now, which this peer was not asked for.
            if case is None or answered.get(slot) != case.header:
                continue
            if reason in DENIALS:
                case.denied[replica] = now
                if self._is_lost(case, now):
                    self.lost[slot] = case.header
                    lost.append(slot)
                    del self._cases[slot]
                    continue
            else:
                case.resume[replica] = now + self._pause(1)
            self._ask_later(slot, case, replica)
            self._offer(slot)
        return lost

    def without_peers(self, faulty: Mapping[int, bytes]) -> list[int]:
        """With no peer at all, as a single replica is set up, what is faulty is lost."""
        if not self.version or self._peers:
            return []
        lost = [slot for slot, case in self._cases.items() if faulty.get(slot) == case.header]
        self._cases.clear()
        self.lost.update((slot, faulty[slot]) for slot in lost)
        return lost

    def _is_lost(self, case: Case, now: float) -> bool:
        return all(now - case.denied.get(replica, -self._backoff_max) < self._backoff_max for replica in self._peers)

    def _answered(self, replica: int, request: int, slots: Iterable[int]) -> dict[int, bytes]:
        """These are answered: returns those that the peer was asked for in this request and had not answered."""
        peer = self._peers.get(replica)
        if peer is None or peer.asked is None or peer.asked.request != request:
            return {}
        answered = {}
        for slot in slots:
            header = peer.asked.slots.pop(slot, None)
            if header is not None:
                answered[slot] = header
                self._release(slot, header)
        if not peer.asked.slots:
            peer.asked = None
            peer.failures = 0
        return answered

    def _failed(self, peer: Peer, now: float) -> None:
        if peer.asked is not None:
            for slot, header in peer.asked.slots.items():
                self._release(slot, header)
                self._offer(slot)
        peer.asked = None
        peer.failures += 1
        peer.resume = now + self._pause(peer.failures)

    def _release(self, slot: int, header: bytes) -> None:
        case = self._cases.get(slot)
        if case is not None and case.header == header:
            case.asked_of = None

    def _pause(self, failures: int) -> float:
        longest = min(self._backoff_max, self._timeout * 2.0 ** min(failures, 30))
        return longest * (0.5 + 0.5 * self._jitter())
