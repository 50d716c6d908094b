"""A network of the drill's: what it loses, doubles and delays of the messages between the replicas.

Guarantees: what happens to the n-th message of a kind on a link depends on the seed, the two ends, the kind and n
alone. What passes travels as in `Network`. A peer that is cut off is neither heard nor reached.

Owns: the links.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from client_replies.cluster.replica.network import ITEM_TYPES, Envelope, Network
from client_replies.cluster.vsr.messages import VsrMessage
from client_replies.messages.config import Pause
from client_replies.messages.limits import Range

REQUEST, REPLY = "request", "reply"  # the kinds between a replica and the gateways

Probability = Annotated[float, Range(0.0, 1.0)]


@dataclass(frozen=True, slots=True)
class Faults:
    """What happens to messages of one kind: probabilities, and the longest delay in seconds."""

    drop: Probability = 0.0
    duplicate: Probability = 0.0
    delay: Probability = 0.0
    delay_max: Pause = 0.0


NO_FAULTS = Faults()


class FaultyLink:
    """Decides what happens to each message of one kind from one member to another."""

    def __init__(self, seed: int, source: str, target: str, kind: str, faults: Faults) -> None:
        self._chance = random.Random(f"{seed}/{source}/{target}/{kind}")
        self._faults = faults

    def decide(self) -> tuple[float, ...]:
        """The delay of each copy that arrives: none if the message is lost."""
        # Every message takes the same draws, so that no decision depends on what was decided before it.
        drop, duplicate, late, long, late_copy, long_copy = (self._chance.random() for _ in range(6))
        faults = self._faults
        if drop < faults.drop:
            return ()
        delays = [long * faults.delay_max if late < faults.delay else 0.0]
        if duplicate < faults.duplicate:
            delays.append(long_copy * faults.delay_max if late_copy < faults.delay else 0.0)
        return tuple(delays)


class FaultyNetwork(Network):
    """See the module."""

    def __init__(
        self, name: str, seed: int, faults: Mapping[str, Faults], send: Callable[[str, Envelope], None]
    ) -> None:
        super().__init__(name, send)
        self._seed = seed
        self._faults = faults
        self._links: dict[tuple[str, str], FaultyLink] = {}
        self._late: list[tuple[float, int, str, VsrMessage]] = []  # a heap, by when each is to leave
        self._delayed = 0
        self.cut: frozenset[str] = frozenset()  # peers that this member neither hears nor reaches

    def post(self, peer: str, item: VsrMessage, now: float) -> None:
        """Send the item with the next envelope to the peer, later, twice or not at all."""
        kind = type(item).__name__
        link = self._links.get((peer, kind))
        if link is None:
            faults = self._faults.get(kind, NO_FAULTS)
            link = self._links[peer, kind] = FaultyLink(self._seed, self.name, peer, kind, faults)
        delays = link.decide()
        if not delays or peer in self.cut:
            self.counters[f"{kind}_dropped"] += 1
            return
        self.counters[f"{kind}_duplicated"] += len(delays) - 1
        for delay in delays:
            if delay > 0.0:
                self.counters[f"{kind}_delayed"] += 1
                self._delayed += 1
                heapq.heappush(self._late, (now + delay, self._delayed, peer, item))
            else:
                super().post(peer, item, now)

    def receive(self, envelope: Envelope, now: float) -> tuple[VsrMessage, ...]:
        """The items of an envelope that has arrived; none from a peer that is cut off."""
        if envelope.sender in self.cut:
            self.counters["envelopes_cut"] += 1
            return ()
        return super().receive(envelope, now)

    def flush(self, now: float) -> None:
        """Send what may be sent, and what was delayed until now."""
        while self._late and self._late[0][0] <= now:
            _due, _number, peer, item = heapq.heappop(self._late)
            super().post(peer, item, now)
        super().flush(now)

    @property
    def is_idle(self) -> bool:
        """True if nothing waits to be sent."""
        return not self._late and super().is_idle


def cluster_faults(drop_replies: float, duplicate_requests: float) -> dict[str, Faults]:
    """The weather in which the example runs: what the user chose for clients, and a little of everything else."""
    between_replicas = Faults(drop=0.02, duplicate=0.02, delay=0.05, delay_max=0.02)
    return {
        REPLY: Faults(drop=drop_replies),
        REQUEST: Faults(drop=0.01, duplicate=duplicate_requests),
        **{kind.__name__: between_replicas for kind in ITEM_TYPES},
    }
