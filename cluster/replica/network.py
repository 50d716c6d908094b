"""Messages between the replicas: batched, bounded, and lost where a replica does not answer.

Guarantees: what is posted to a peer goes into an envelope; at most `WINDOW` envelopes to a peer are unanswered, and
what comes meanwhile is in the next one, so that a slow peer costs its sender neither messages nor memory. Of heartbeats
alone only every few are to be answered: an idle cluster is quiet, and a peer that stands still is noticed.

Limits: it loses messages, as a network does. An envelope without an answer in time counts as lost and is not repeated:
those who talk over it repeat what matters. A queue that is full loses its oldest item.

Owns: the queues, and the counts of everything that it did.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from client_replies.cluster.vsr.messages import Commit, VsrMessage
from client_replies.cluster.window import Window
from client_replies.messages.limits import Length, Unchecked
from client_replies.messages.message import U64, Message

WINDOW = 2
ANSWER_LAG = 0.1  # seconds that an envelope waits for another one that answers it by the way
HEARTBEATS_UNANSWERED_MAX = 8  # envelopes of heartbeats alone, between two that are answered
QUEUE_MAX = 1024
ITEMS_IN_ENVELOPE_MAX = 128
# Seconds until an envelope counts as lost. Who does not answer is sent one at a time, with pauses that grow: a process
# that stands still keeps outstanding what is sent to it, and an actor with twenty of those stands still, too.
ENVELOPE_TIMEOUT = 1.0
ENVELOPE_TIMEOUT_MAX = 4.0

ITEM_TYPES: tuple[type[Message], ...] = VsrMessage.__args__
ITEMS_MAX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope(Message):
    """What `sender` had to say since its last envelope; `taken` is the highest number it has had from the receiver.

    An envelope with number 0 is not answered: it brings heartbeats alone, or without items only says what was taken.
    Nothing else travels between two replicas. The replication protocol checks its own messages.
    """

    sender: str
    number: U64
    taken: U64
    items: Annotated[tuple[Annotated[VsrMessage, Unchecked()], ...], Length(0, ITEMS_MAX)] = field(repr=False)


@dataclass(slots=True)
class _Peer:
    """Both directions of the traffic with one peer."""

    queue: deque[VsrMessage] = field(default_factory=deque)
    window: Window = field(default_factory=Window)
    sent_at: float = 0.0  # when the last envelope was: each has the whole timeout
    timeout: float = ENVELOPE_TIMEOUT
    heartbeats: int = 0  # envelopes sent that are not answered, since the last one that is


class Network:
    """One replica's access to the network. `send` hands an envelope to the actor of the named peer."""

    def __init__(self, name: str, send: Callable[[str, Envelope], None]) -> None:
        self.name = name
        self.counters: Counter[str] = Counter()
        self._send = send
        self._peers: dict[str, _Peer] = {}

    def post(self, peer: str, item: VsrMessage, now: float) -> None:
        """Send the item with the next envelope to the peer."""
        self.counters[f"{type(item).__name__}_sent"] += 1
        self._queue(peer, item)

    def receive(self, envelope: Envelope, now: float) -> tuple[VsrMessage, ...]:
        """The items of an envelope that has arrived."""
        peer = self._peer(envelope.sender)
        peer.timeout = ENVELOPE_TIMEOUT
        peer.window.confirm(envelope.taken, now)
        if envelope.number:
            # A lower number than the last was overtaken: its items are as welcome, and its answer is given already.
            peer.window.take(envelope.number, now + ANSWER_LAG)
        return envelope.items

    def restarted(self, name: str) -> None:
        """The peer is another process now: what was on its way to the old one is lost."""
        peer = self._peer(name)
        peer.timeout = ENVELOPE_TIMEOUT
        peer.window = Window(sent=peer.window.sent, confirmed=peer.window.sent)
        peer.queue.clear()

    def flush(self, now: float) -> None:
        """Send what may be sent. What was received is answered by the way, when the peer may not send more, or late."""
        for name, peer in self._peers.items():
            window = peer.window
            if window.in_flight and now - peer.sent_at > peer.timeout:
                self.counters["envelopes_unanswered"] += window.lose()
                peer.timeout = min(ENVELOPE_TIMEOUT_MAX, 2.0 * peer.timeout)
            while peer.queue and window.in_flight < (WINDOW if peer.timeout == ENVELOPE_TIMEOUT else 1):
                count = min(len(peer.queue), ITEMS_IN_ENVELOPE_MAX)
                items = tuple(peer.queue.popleft() for _ in range(count))
                self._send_envelope(name, peer, self._number(peer, items, now), items)
            if window.owed >= WINDOW or now >= window.owed_at:
                self._send_envelope(name, peer, 0, ())

    def _number(self, peer: _Peer, items: tuple[VsrMessage, ...], now: float) -> int:
        """The number of the next envelope; 0 if it is not to be answered."""
        answers = not peer.window.in_flight and peer.timeout == ENVELOPE_TIMEOUT
        if answers and peer.heartbeats < HEARTBEATS_UNANSWERED_MAX and all(type(item) is Commit for item in items):
            peer.heartbeats += 1
            return 0
        peer.heartbeats = 0
        peer.sent_at = now
        return peer.window.send(now)

    @property
    def is_idle(self) -> bool:
        """True if nothing waits to be sent."""
        return not any(peer.queue for peer in self._peers.values())

    def _send_envelope(self, name: str, peer: _Peer, number: int, items: tuple[VsrMessage, ...]) -> None:
        self.counters["envelopes_sent"] += 1
        self._send(name, Envelope(sender=self.name, number=number, taken=peer.window.settle(), items=items))

    def _queue(self, name: str, item: VsrMessage) -> None:
        peer = self._peer(name)
        if len(peer.queue) >= QUEUE_MAX:
            peer.queue.popleft()
            self.counters["queue_overflows"] += 1
        peer.queue.append(item)

    def _peer(self, name: str) -> _Peer:
        peer = self._peers.get(name)
        if peer is None:
            peer = self._peers[name] = _Peer()
        return peer
