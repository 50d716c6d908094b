"""What a replica does with a request: admits it, executes it once, and knows the reply of each session.

Guarantees: what `apply` returns depends on the entries applied and nothing else: every replica builds the same bytes.
A request is applied only if the session table says that it is the next of its session: one that was ordered twice, or
that was ordered and whose session was evicted meanwhile, is skipped on every replica alike. Each execution is recorded
in the journal at the moment it changes the ledger.

Gives up: bodies of replies, which are in the component. Owns: the session table, the ledger, the journal's content.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import checksum128
from client_replies.storage.client_sessions import (
    ClientSessions,
    DuplicateRequest,
    NewRequest,
    NoSession,
    OtherChecksum,
    RegistrationStatus,
    RequestStatus,
    SessionTooLow,
)

from .ledger import Ledger
from .protocol import OPERATION_TRANSFER, Entry, Refusal, Request


class Plant(enum.Enum):
    """Faults that can be planted, to show that the verdict finds them."""

    EXECUTE_TWICE = "execute-twice"
    WRONG_REPLY = "wrong-reply"


# The planted second execution happens to the first transfer that is executed at or after this op.
PLANTED_OP = 20


@dataclass(frozen=True, slots=True)
class Execution:
    """One line of the journal: an operation changed the state machine. `reply` is the checksum of the whole reply."""

    op: int
    client: int
    session: int
    request: int
    operation: int
    row: int
    sequence: int
    outcome: int
    reply: bytes


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying an entry led to: the reply, its slot, and the slots that hold no reply any more."""

    reply: Reply
    slot: int
    removed: tuple[int, ...]
    evicted_client: int | None


@dataclass(frozen=True, slots=True)
class Admit:
    """Order the request."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """Answer with the reply of this packed header; it has a body in `slot`, or none at all."""

    slot: int
    header: bytes


@dataclass(frozen=True, slots=True)
class Ignore:
    """Nobody waits for an answer, or it is on its way."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the client that there will be no reply."""

    refusal: Refusal


Decision = Admit | Repeat | Ignore | Refuse


class Service:
    """See the module. `record` is called for each execution."""

    def __init__(
        self, *, cluster: int, clients_max: int, record: Callable[[Execution], None], plant: Plant | None = None
    ) -> None:
        self.cluster = cluster
        self.sessions = ClientSessions(clients_max, cluster)
        self.ledger = Ledger()
        self.skipped = 0
        self._record = record
        self._plant = plant

    def decide(self, request: Request) -> Decision:
        """What the primary does about a request that a client sent."""
        if request.cluster != self.cluster:
            return Ignore("another cluster")
        status = self._check(request)
        if isinstance(status, NewRequest):
            return Admit()
        if isinstance(status, DuplicateRequest):
            return Repeat(status.slot, status.header)
        if isinstance(status, NoSession):
            return Refuse(Refusal.NO_SESSION)
        if isinstance(status, SessionTooLow):
            return Refuse(Refusal.SESSION_TOO_LOW)
        if isinstance(status, OtherChecksum):
            return Refuse(Refusal.OTHER_REQUEST)
        return Ignore(type(status).__name__)

    def _check(self, request: Request) -> RequestStatus | RegistrationStatus:
        if request.is_registration:
            return self.sessions.check_registration(request.client, request.checksum)
        return self.sessions.check(request.client, request.session, request.number, request.checksum)

    def apply(self, entry: Entry) -> Applied | None:
        """Execute a committed entry, or skip it (None) if it is not the next of its session any more."""
        if not isinstance(self._check(entry.request), NewRequest):
            self.skipped += 1
            return None
        if entry.request.is_registration:
            return self._register(entry)
        reply = self._execute(entry)
        if self._plant is Plant.EXECUTE_TWICE and entry.op >= PLANTED_OP:
            self._plant = None
            reply = self._execute(entry)
        slot = self.sessions.commit(reply.header)
        return Applied(reply, slot, (), None)

    def _register(self, entry: Entry) -> Applied:
        reply = self._reply(entry, session=entry.op, body=b"")
        registered = self.sessions.register(reply.header)
        evicted = registered.evicted
        self._note(entry, reply, row=0, sequence=self.ledger.sequence, outcome=0)
        # The reply has no body and so no slot; what an evicted session left there is no longer expected.
        return Applied(reply, registered.slot, (registered.slot,), evicted.client if evicted is not None else None)

    def _execute(self, entry: Entry) -> Reply:
        if entry.request.operation == OPERATION_TRANSFER:
            result = self.ledger.execute(entry.request.body)
        else:
            result = self.ledger.execute(b"")  # an operation that there is not is malformed, and says so
        reply = self._reply(entry, session=entry.request.session, body=result.encode())
        self._note(entry, reply, row=result.row, sequence=result.sequence, outcome=int(result.outcome))
        return reply

    def _reply(self, entry: Entry, *, session: int, body: bytes) -> Reply:
        return Reply.build(
            cluster=self.cluster,
            client=entry.request.client,
            session=session,
            request=entry.request.number,
            op=entry.op,
            operation=entry.request.operation,
            timestamp=entry.timestamp,
            body=body,
            view=entry.view,
            replica=entry.replica,
            request_checksum=entry.request.checksum,
        )

    def _note(self, entry: Entry, reply: Reply, *, row: int, sequence: int, outcome: int) -> None:
        self._record(
            Execution(
                op=entry.op,
                client=entry.request.client,
                session=reply.header.session,
                request=entry.request.number,
                operation=entry.request.operation,
                row=row,
                sequence=sequence,
                outcome=outcome,
                reply=checksum128(reply.pack()),
            )
        )


def wrong_reply(reply: bytes) -> bytes:
    """The planted wrong reply: whole and well sealed, so that only a comparison of bytes finds it."""
    right = Reply.unpack(reply)
    body = bytearray(right.body)
    if body:
        body[0] ^= 1
    header = right.header
    return Reply.build(
        cluster=header.cluster,
        client=header.client,
        session=header.session,
        request=header.request,
        op=header.op,
        operation=header.operation,
        timestamp=header.timestamp if body else header.timestamp + 1,
        body=bytes(body),
        view=header.view,
        replica=header.replica,
        release=header.release,
        request_checksum=header.request_checksum,
        context=header.context,
    ).pack()
