"""A client for the simulator: registers, asks one thing at a time, asks again, goes quiet, comes back late.

Guarantees: it follows the protocol. Each request of its share ends in the reply, or in an error that says why there is
none; every reply that it takes is judged by the checkers. Owns: its session and its one outstanding request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thespian.actors import Actor, ActorAddress, WakeupMessage

from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import HeaderInvalid

from .chance import Chance
from .history import ClientRequest
from .replica import Answer, Evicted, Lost, NotPrimary, Start

if TYPE_CHECKING:
    from .world import World


class ClientActor(Actor):
    """See the module."""

    def __init__(self, capabilities: object = None, requirements: Any = None) -> None:
        super().__init__()
        world, index, share = requirements
        self.world: World = world
        self.index: int = index
        self.remaining: int = share
        self.chance = Chance(world.plan.seed, f"client {index}")
        self.incarnation = 0
        self.client = 0
        self.session = 0
        self.request = 0
        self.outstanding: ClientRequest | None = None
        self.asked_since = 0
        self.errors = 0
        self._primary = self.chance.below(world.replicas_count)
        self._generation = 0
        self._tries = 0
        self._past: list[ClientRequest] = []  # a registration and a few requests, of this client as it is called now

    @property
    def done(self) -> bool:
        """True once its share is done."""
        return self.remaining <= 0 and self.outstanding is None

    def receiveMessage(self, message: object, _sender: ActorAddress) -> None:
        """Take a message."""
        if isinstance(message, WakeupMessage):
            if message.payload == self._generation:
                self._due()
        elif isinstance(message, Start):
            self._later(0.0, self.world.plan.think)
        elif getattr(message, "client", None) != self.client or self.outstanding is None:
            return
        elif isinstance(message, Answer):
            self._answer(message)
        elif isinstance(message, Evicted):
            if message.session == self.session and not self.outstanding.registers:
                self._evicted()
        elif isinstance(message, Lost):
            if message.request == self.outstanding.request:
                self.world.checkers.lost_told(self.outstanding)
                self._error("reply_lost_told")
        elif isinstance(message, NotPrimary):
            self._primary = message.primary

    def _later(self, low: float, high: float) -> None:
        self._generation += 1
        self.wakeupAfter(self.chance.between(low, high), self._generation)

    def _due(self) -> None:
        if self.outstanding is not None:
            self._tries += 1
            if self._tries % 3 == 0:
                self._primary = self.chance.below(self.world.replicas_count)
            self._ask()
        elif self.remaining > 0:
            self._next()

    def _next(self) -> None:
        plan = self.world.plan
        if not self.session:
            if not self.client or not plan.same_client_again or self.errors == 0:
                self.incarnation += 1
                self.client = 1 + self.index + 1000 * self.incarnation
            size = plan.body_size(self.chance) if self.chance.chance(plan.registration_bodies) else 0
            checksum = self.client.to_bytes(16, "little")
            self.outstanding = ClientRequest(client=self.client, session=0, request=0, checksum=checksum, size=size)
        else:
            self.remaining -= 1
            self.request += 1
            self.outstanding = ClientRequest(
                client=self.client,
                session=self.session,
                request=self.request,
                checksum=self.chance.bits(128).to_bytes(16, "little"),
                size=plan.body_size(self.chance),
            )
        if self.outstanding.registers:
            self._past = [self.outstanding, self.outstanding]
        elif self.chance.chance(0.2) and len(self._past) < 5:
            self._past.append(self.outstanding)
        self.asked_since = self.world.system.now
        self._tries = 0
        self._ask()

    def _ask(self) -> None:
        """Send the request; now and then be quiet for long before asking again."""
        plan = self.world.plan
        request = self.outstanding
        if request is None:
            return
        address = self.world.replica_address(self._primary)
        if address is not None:
            if self._past and self.chance.chance(plan.stale):
                self.world.marks.hit("request_of_long_ago")
                self.send(address, self.chance.pick(self._past))
            self.send(address, request)
        if self.chance.chance(plan.quiet) and not self.world.calm:
            self.world.marks.hit("client_went_quiet")
            self._later(1.0, plan.quiet_max)
        else:
            self._later(plan.retry, plan.retry * 2)

    def _answer(self, message: Answer) -> None:
        request = self.outstanding
        if request is None:
            return
        try:
            reply = Reply.unpack(message.reply)
        except HeaderInvalid as error:
            self.world.checkers.fail("original reply", f"client {self.client} was sent a broken reply: {error}")
            return
        header = reply.header
        if header.request_checksum != request.checksum or header.request != request.request:
            return  # A late answer to an earlier request.
        self.world.checkers.accepted(request, header, message.reply)
        if request.registers:
            self.session, self.request = header.session, 0
        if self._tries:
            self.world.marks.hit("client_accepted_after_retry")
        self._finished()

    def _evicted(self) -> None:
        self.world.checkers.evicted(self.client, self.session)
        self.session = 0
        self._error("client_evicted")

    def _error(self, mark: str) -> None:
        self.errors += 1
        self.world.marks.hit(mark)
        if self.outstanding is not None and self.outstanding.registers:
            self.client = 0  # As this client it would get the same error for ever.
        self._finished()

    def _finished(self) -> None:
        self.outstanding = None
        self._later(0.0, self.world.plan.think)
