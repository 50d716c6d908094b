"""Who reaches whom, how late, how often, and how damaged.

Within a host (the actors of one replica): no loss as a rule, but a message may be lost or doubled where the seed says
so, and messages of a pair that talks both ways overtake each other. Between hosts: delayed, lost, doubled, replayed
seconds later, cut in both or in one direction, clogged, and bytes of a repair may be changed on their way.

Owns: the rules of the run, which `heal` puts back to harmless, and what each pair was last promised.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from thespian.actors import ActorSystemMessage

from client_replies.messages.peers import RepliesFound

from .chance import Chance
from .marks import Marks

if TYPE_CHECKING:
    from .system import Process


@dataclass(slots=True, eq=False)
class Host:
    """A machine with a name; clients have one each."""

    name: str
    index: int


@dataclass(slots=True)
class Rules:
    """Probabilities and durations (seconds) of everything that the network does."""

    local_latency: float = 0.0005
    local_loss: float = 0.0
    local_double: float = 0.0
    local_overtake: float = 0.0
    latency_low: float = 0.0002
    latency_high: float = 0.002
    loss: float = 0.0
    double: float = 0.0
    overtake: float = 0.0
    replay: float = 0.0
    replay_after: float = 3.0
    corrupt: float = 0.0


@dataclass(slots=True)
class Links:
    """Which directed pairs of hosts are cut or slow."""

    cut: set[tuple[int, int]] = field(default_factory=set)
    clogged: dict[tuple[int, int], float] = field(default_factory=dict)


class Network:
    """See the module."""

    def __init__(self, chance: Chance, rules: Rules, marks: Marks) -> None:
        self.rules = rules
        self.links = Links()
        self._chance = chance
        self._marks = marks
        self._promised: dict[tuple[int, int], int] = {}

    def heal(self) -> None:
        """From now on everything arrives, soon and once, though not in order."""
        rules = self.rules
        self.rules = Rules(local_overtake=rules.local_overtake, overtake=rules.overtake)
        self.links = Links()

    def deliveries(self, now: int, source: Process, target: Process, message: object) -> list[tuple[int, object]]:
        """Each arrival of the message: in how many microseconds, and what arrives then."""
        if source.host is target.host:
            return self._local(now, source, target, message)
        return self._remote(now, source, target, message)

    def _local(self, now: int, source: Process, target: Process, message: object) -> list[tuple[int, object]]:
        rules, chance = self.rules, self._chance
        if isinstance(message, ActorSystemMessage):
            return [(chance.micros(0.0001, rules.local_latency), message)]
        if chance.chance(rules.local_loss):
            self._marks.hit("local_message_lost")
            return []
        latency = chance.micros(0.0001, rules.local_latency)
        arrivals = [(self._in_order(now, source, target, latency, rules.local_overtake), message)]
        if chance.chance(rules.local_double):
            self._marks.hit("local_message_doubled")
            arrivals.append((chance.micros(0.0001, rules.local_latency * 8), message))
        return arrivals

    def _remote(self, now: int, source: Process, target: Process, message: object) -> list[tuple[int, object]]:
        rules, chance = self.rules, self._chance
        link = (source.host.index, target.host.index)
        if link in self.links.cut:
            self._marks.hit("message_cut")
            return []
        if chance.chance(rules.loss):
            self._marks.hit("message_lost")
            return []
        latency = chance.micros(rules.latency_low, rules.latency_high)
        clogged = self.links.clogged.get(link)
        if clogged is not None:
            latency += chance.micros(0.0, clogged)
        if isinstance(message, RepliesFound) and chance.chance(rules.corrupt):
            message = self._corrupted(message)
        arrivals = [(self._in_order(now, source, target, latency, rules.overtake), message)]
        if chance.chance(rules.double):
            self._marks.hit("message_doubled")
            arrivals.append((latency + chance.micros(0.0, rules.latency_high * 4), message))
        if chance.chance(rules.replay):
            self._marks.hit("message_replayed_late")
            arrivals.append((chance.micros(0.2, rules.replay_after), message))
        return arrivals

    def _in_order(self, now: int, source: Process, target: Process, latency: int, overtake: float) -> int:
        """After what the pair sent before, unless it overtakes."""
        pair = (source.number, target.number)
        promised = self._promised.get(pair, 0)
        arrival = now + latency
        if self._chance.chance(overtake):
            self._marks.hit("message_overtook")
            return latency
        arrival = max(arrival, promised + 1)
        self._promised[pair] = arrival
        return arrival - now

    def _corrupted(self, message: RepliesFound) -> RepliesFound:
        """One byte of one reply changed; most of a reply is body."""
        self._marks.hit("repair_corrupted_on_its_way")
        which = self._chance.below(len(message.replies))
        reply = bytearray(message.replies[which])
        reply[self._chance.below(len(reply))] ^= 1 << self._chance.below(8)
        replies = list(message.replies)
        replies[which] = bytes(reply)
        return replace(message, replies=tuple(replies))
