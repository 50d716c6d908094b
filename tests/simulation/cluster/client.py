"""A client of the cluster: the shipped session and network of the example, and somebody who uses them badly.

Guarantees: it follows the protocol: one request at a time in a session, repeated until there is an answer. Beside that
it says again what it said long ago, asks something else under an old number, and goes quiet. Every answer that it gets
is judged by the checkers. Owns: its session, one after the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thespian.actors import Actor, ActorAddress, WakeupMessage

from client_replies.cluster.control import Join, Joined
from client_replies.cluster.door.frames import OPERATION_CLOSE
from client_replies.cluster.protocol import Answer, Redirected, Refused, Request
from client_replies.cluster.replica.network import Envelope
from client_replies.cluster.replica.replica import replica_name

from ..chance import MICROSECONDS, Chance
from ..history import CLUSTER
from examples.ledger.faulty_network import FaultyNetwork, cluster_faults
from examples.ledger.ledger import EQUITY, OPERATION_BALANCE, OPERATION_TRANSFER, Transfer
from examples.ledger.session_client import AnswerKind, SessionClient, SessionEnded

if TYPE_CHECKING:
    from .world import ClusterWorld

TICK = 0.1
SILENCE_MAX = 0.6  # seconds without an answer until another replica is asked
AMOUNT_MAX = 100
PAST_MAX = 6


class ClusterClientActor(Actor):
    """See the module."""

    def __init__(self, capabilities: object = None, requirements: Any = None) -> None:
        super().__init__()
        world, index, share = requirements
        self.world: ClusterWorld = world
        self.index: int = index
        self.name = f"client-{index}"
        self.remaining: int = share
        self.chance = Chance(world.plan.seed, f"client {index}")
        self.session: SessionClient | None = None
        self.errors = 0
        self._incarnation = 0
        self._joined = 0
        self._members: dict[str, ActorAddress] = {}
        faults = cluster_faults(0.05, 0.05) if world.plan.weather else {}
        self._network = FaultyNetwork(self.name, world.plan.seed, faults, self._send_envelope)
        self._target = self.chance.below(world.replicas_count)
        self._view = self._view_replied = 0
        self._heard_at = 0.0
        self._next_at = 0.0
        self._quiet_until = 0.0
        self._closing = False
        self._past: list[Request] = []
        self._row = 0

    @property
    def now(self) -> float:
        """The time in seconds."""
        return self.world.system.now / MICROSECONDS

    @property
    def done(self) -> bool:
        """True once its share is done."""
        return self.remaining <= 0 and not self._waits

    @property
    def _waits(self) -> bool:
        return self.session is not None and self.session.is_waiting

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Take a message."""
        if isinstance(message, WakeupMessage):
            self._turn(tick=message.payload == TICK)
        elif isinstance(message, Join):
            self._join(message, sender)
        elif isinstance(message, Envelope):
            for item in self._network.receive(message):
                self._take(item)
            self._network.flush(self.now)

    def _join(self, message: Join, sender: ActorAddress) -> None:
        if not self._members:
            self._heard_at = self.now
            self.wakeupAfter(self.chance.between(0.0, TICK), TICK)
        if message.number > self._joined:
            self._joined = message.number
            for name, address in message.members:
                if name in self._members and self._members[name] != address:
                    self._network.restarted(name)
            self._members = dict(message.members)
        self.send(sender, Joined(name=self.name, number=self._joined))

    def _turn(self, *, tick: bool) -> None:
        """Say what is to be said: every so often, and when the pause between two requests is over."""
        now = self.now
        if tick:
            self.wakeupAfter(TICK, TICK)
        if now >= self._quiet_until or self.world.calm:
            if self._waits and self.session is not None:
                self._look_elsewhere(now)
                self.session.tick(now)
            elif now >= self._next_at and self.remaining > 0:
                self._ask(now)
            if tick and not self.world.calm:
                self._say_again()
        self._network.flush(now)

    def _look_elsewhere(self, now: float) -> None:
        if now - self._heard_at > SILENCE_MAX:
            self._heard_at = now
            self._target = (self._target + 1) % self.world.replicas_count

    # Asking.

    def _ask(self, now: float) -> None:
        plan, session = self.world.plan, self.session
        self._heard_at = now
        if session is None:
            self._register(now)
            return
        self.remaining -= 1
        if self.chance.chance(plan.closes):
            self._closing = True
            self.world.marks.hit("session_closed")
            session.request(OPERATION_CLOSE, b"", now)
        elif self.chance.chance(0.05):
            session.request(OPERATION_BALANCE, self._account().encode(), now)
        else:
            session.request(OPERATION_TRANSFER, self._transfer(), now)
        if self.chance.chance(plan.quiet) and not self.world.calm:
            self.world.marks.hit("client_went_quiet")
            self._quiet_until = now + self.chance.between(0.5, plan.quiet_max)

    def _register(self, now: float) -> None:
        if not self._incarnation or not self.world.plan.same_client_again or self.errors % 3 == 2:
            self._incarnation += 1
            self._past.clear()
        self.session = SessionClient(
            cluster=CLUSTER,
            client=1 + self.index + 1000 * self._incarnation,
            send=self._send_request,
            uniform=self.chance.between,
        )
        self._closing = False
        self.session.register(now)

    def _account(self) -> str:
        return f"account {self.chance.below(self.world.plan.accounts)}"

    def _transfer(self) -> bytes:
        self._row += 1
        source = EQUITY if self.chance.chance(0.3) else self._account()
        data = Transfer(self._row, source, self._account(), self.chance.integer(1, AMOUNT_MAX)).encode()
        return data[:-1] if self.chance.chance(self.world.plan.malformed) else data

    def _send_request(self, request: Request) -> None:
        if len(self._past) < PAST_MAX:
            self._past.append(request)
        elif self.chance.chance(0.1):
            self._past[self.chance.below(PAST_MAX)] = request
        self._post(request)

    def _say_again(self) -> None:
        """What was said long ago comes once more, or something else under an old number."""
        if not self._past or not self.chance.chance(self.world.plan.stale):
            return
        old = self.chance.pick(self._past)
        session = self.session
        answered = session is not None and old.session == session.session and not self._waits
        if answered and old.number and self.chance.chance(0.3):
            self.world.marks.hit("request_with_other_content")
            old = Request.build(
                cluster=old.cluster,
                client=old.client,
                session=old.session,
                number=old.number,
                operation=OPERATION_TRANSFER,
                body=b"something else",
            )
        self.world.marks.hit("request_of_long_ago")
        self._post(old)

    def _post(self, request: Request) -> None:
        self._network.post(replica_name(self._target), request, self.now)

    def _send_envelope(self, peer: str, envelope: Envelope) -> None:
        address = self._members.get(peer)
        if address is not None:
            self.send(address, envelope)

    # What comes back.

    def _take(self, item: object) -> None:
        session = self.session
        if session is None or getattr(item, "client", 0) != session.client:
            return
        if isinstance(item, Redirected):
            self._follow(item.view, item.replica)
        elif isinstance(item, Answer):
            self._heard_at = self.now
            self._view_replied = max(self._view_replied, item.view)
            self._follow(item.view, item.view % self.world.replicas_count)
            self._take_answer(session, item)
        elif isinstance(item, Refused):
            self._take_refusal(session, item)

    def _follow(self, view: int, replica: int) -> None:
        if view < self._view or replica == self._target:
            return
        self._view, self._target = view, replica
        self._heard_at = self.now
        if self.session is not None:
            self.session.repeat(self.now)

    def _take_answer(self, session: SessionClient, answer: Answer) -> None:
        tries = session._tries
        received = session.receive(answer, self.now)
        if received.kind is not AnswerKind.FIRST:
            self.world.marks.hit(f"answer_{received.kind.name.lower()}")
            return
        self.world.marks.hit("reply_accepted")
        if tries > 1:
            self.world.marks.hit("client_accepted_after_retry")
        if self._closing and received.request:
            self.session = None
        self._rest()

    def _take_refusal(self, session: SessionClient, refused: Refused) -> None:
        if refused.view < self._view_replied:
            self.world.marks.hit("refusal_of_an_earlier_view")
            return
        try:
            if session.refuse(refused):
                self.world.checkers.reply_lost_told(refused)
                self._rest()
        except SessionEnded:
            self.world.checkers.session_ended(refused)
            self.errors += 1
            self.world.marks.hit(f"client_refused_{refused.refusal.name}")
            self.session = None
            self._rest()

    def _rest(self) -> None:
        pause = self.chance.between(0.0, self.world.plan.think)
        self._next_at = self.now + pause
        if pause < TICK / 2:
            self.wakeupAfter(pause)
