"""Committed entries become replies here: executed once and in order, each session's latest reply known.

Guarantees: what `apply` does depends on the entries applied and on nothing else, so that every replica builds the same
bytes (invariant 15), gives the same slots and evicts the same sessions (12). An entry whose session is gone by the time
it commits is skipped on every replica alike, and its client told why. A registration of an unknown client is a new
session, also if it is a late retry; its client finds out by SESSION_TOO_LOW when it goes on under the old one (13).

Limits: no bodies of replies, which are in the component. Owns: the session table and the state machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from client_replies.cluster.protocol import Request
from client_replies.cluster.state_machine import Command, StateMachine
from client_replies.messages.reply import seal_reply
from client_replies.messages.reply_header import HEADER_SIZE, packed_size
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

from .durable import Snapshot
from .effects import Reason
from .messages import OPERATION_CLOSE, LogEntry


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying an entry led to. `keep`: the reply has a body that belongs in `slot`, else the slot is cleared."""

    reply: bytes  # header and body
    slot: int
    keep: bool
    evicted: tuple[int, int] | None = None  # the client and session that made room


@dataclass(frozen=True, slots=True)
class Skipped:
    """The entry changed nothing: its session was gone, or it is not the next request."""

    reason: Reason | None


def reason_of(status: RequestStatus | RegistrationStatus) -> Reason | None:
    """Why a request with this status gets no reply; None if nobody waits for one."""
    if isinstance(status, NoSession):
        return Reason.NO_SESSION
    if isinstance(status, SessionTooLow):
        return Reason.SESSION_TOO_LOW
    if isinstance(status, OtherChecksum):
        return Reason.OTHER_REQUEST
    return None


class Execution:
    """See the module."""

    def __init__(self, cluster: int, clients_max: int, machine: StateMachine) -> None:
        self.cluster = cluster
        self.clients_max = clients_max
        self.machine = machine
        self.timestamp = 0  # of the last entry applied
        self.sessions = ClientSessions(clients_max, cluster)

    def check(self, request: Request) -> RequestStatus | RegistrationStatus:
        """What the session table says about a request, as of what was executed."""
        if request.is_registration:
            return self.sessions.check_registration(request.client, request.checksum)
        return self.sessions.check(request.client, request.session, request.number, request.checksum)

    def apply(self, entry: LogEntry) -> Applied | Skipped:
        """Execute the next committed entry, or skip it."""
        self.timestamp = entry.timestamp
        status = self.check(entry.request)
        if isinstance(status, DuplicateRequest):
            return Skipped(None)
        if not isinstance(status, NewRequest):
            return Skipped(reason_of(status))
        if entry.request.is_registration:
            return self._register(entry)
        if entry.request.operation == OPERATION_CLOSE:
            return Applied(self._reply(entry), self.sessions.remove(entry.request.client), keep=False)
        reply = self._reply(entry, self._execute(entry))
        return Applied(reply, self.sessions.commit(reply[:HEADER_SIZE]), keep=not is_whole(reply))

    def _register(self, entry: LogEntry) -> Applied:
        evictee = self.sessions.evictee() if entry.request.client not in self.sessions else None
        evicted = None
        if evictee is not None:
            evicted = (evictee.client, self.sessions.session_of(evictee.client) or 0)
        reply = self._reply(entry)
        registered = self.sessions.register(reply)
        return Applied(reply, registered.slot, keep=False, evicted=evicted)

    def _execute(self, entry: LogEntry) -> bytes:
        request = entry.request
        return self.machine.execute(Command(request.operation, request.body, entry.timestamp, request.client))

    def _reply(self, entry: LogEntry, body: bytes = b"") -> bytes:
        request = entry.request
        return seal_reply(
            cluster=self.cluster,
            client=request.client,
            session=entry.session,
            request=request.number,
            op=entry.op,
            operation=request.operation,
            timestamp=entry.timestamp,
            body=body,
            view=entry.view,
            replica=entry.replica,
            request_checksum=request.checksum,
        )

    def snapshot(self, op: int, parent: bytes) -> Snapshot:
        """The state as of `op`, the last entry applied."""
        sessions, machine = self.sessions.encode(), self.machine.snapshot()
        return Snapshot(op=op, timestamp=self.timestamp, parent=parent, sessions=sessions, machine=machine)

    def restore(self, snapshot: Snapshot) -> None:
        """Take on the state of a snapshot."""
        self.sessions = ClientSessions.decode(snapshot.sessions, clients_max=self.clients_max, cluster=self.cluster)
        self.machine.restore(snapshot.machine)
        self.timestamp = snapshot.timestamp


def is_whole(header: bytes) -> bool:
    """True if the packed header is all of its reply."""
    return packed_size(header) == HEADER_SIZE
