"""One client session's side of the conversation, without I/O, clock or chance of its own.

Guarantees: one request at a time, numbered from 1 within the session; it is repeated, with exponential backoff and
jitter, the same bytes each time, until its reply comes. A reply counts only if both its checksums hold and it answers
exactly this request: cluster, client, session, number and the request's checksum. What comes again is handed out too,
marked as repeated, so that the caller can compare.

Limits: no deadline: a caller that has one stops asking. A refusal ends the session.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from client_replies.cluster.client.retry_timeout import RetryTimeout
from client_replies.cluster.protocol import Answer, Refusal, Refused, Request
from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import OPERATION_REGISTER, HeaderInvalid

RETRY_FIRST = 0.12  # seconds; more where replies have lately taken long (`retry_timeout`)
RETRY_MAX = 2.0
JITTER = 0.25  # of each pause, either way


class AnswerKind(enum.Enum):
    """How an answer that came in relates to what was asked."""

    FIRST = "the awaited reply"
    REPEATED = "the reply to the latest request, once more"
    STALE = "a reply to an earlier request"
    INVALID = "not a whole, verified reply to a request of this session"


class SessionEnded(Exception):
    """The service will not answer this session any more."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(f"request {refused.number} of session {refused.session}: {refused.refusal.value}")
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Received:
    """An answer that came in. `latency` and `tries` are about a first reply."""

    kind: AnswerKind
    request: int
    data: bytes = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    latency: float = 0.0
    tries: int = 0
    reason: str = ""


class SessionClient:
    """See the module. `send` posts a request, which may be lost; `uniform` is the source of jitter."""

    def __init__(
        self,
        *,
        cluster: int,
        client: int,
        send: Callable[[Request], None],
        uniform: Callable[[float, float], float],
    ) -> None:
        self.cluster = cluster
        self.client = client
        self.session = 0
        self.retries = 0
        self._send = send
        self._uniform = uniform
        self._number = 0
        self._asked: Request | None = None  # the request that has no reply yet
        self._latest: Request | None = None  # the request that was asked last, answered or not
        self._asked_at = 0.0
        self._timeout = RetryTimeout(RETRY_FIRST, RETRY_MAX)
        self._retry_at = 0.0
        self._tries = 0

    @property
    def is_registered(self) -> bool:
        """True once the session has its number."""
        return self.session > 0

    @property
    def is_waiting(self) -> bool:
        """True while a request has no reply."""
        return self._asked is not None

    def register(self, now: float) -> None:
        """Ask for a session."""
        self._ask(0, OPERATION_REGISTER, b"", now)

    def request(self, operation: int, body: bytes, now: float) -> int:
        """Ask for an operation; returns the request's number. Only when nothing is asked."""
        if not self.is_registered or self.is_waiting:
            raise RuntimeError("a session asks one thing at a time, once it is registered")
        self._number += 1
        self._ask(self._number, operation, body, now)
        return self._number

    def _ask(self, number: int, operation: int, body: bytes, now: float) -> None:
        self._asked = self._latest = Request.build(
            cluster=self.cluster,
            client=self.client,
            session=self.session,
            number=number,
            operation=operation,
            body=body,
        )
        self._asked_at = now
        self._tries = 1
        self._schedule(now)
        self._send(self._asked)

    def _schedule(self, now: float) -> None:
        self._retry_at = now + self._timeout.seconds * self._uniform(1.0 - JITTER, 1.0 + JITTER)

    def tick(self, now: float) -> None:
        """Repeat the request if its time has come."""
        if self._asked is not None and now >= self._retry_at:
            self._timeout.expired()
            self.repeat(now)

    def repeat(self, now: float) -> None:
        """Repeat the request now: there is somebody else to ask."""
        if self._asked is not None:
            self.retries += 1
            self._tries += 1
            self._schedule(now)
            self._send(self._asked)

    def receive(self, answer: Answer, now: float) -> Received:
        """Take an answer; the first to the awaited request ends the wait."""
        try:
            reply = Reply.unpack(answer.reply)
        except HeaderInvalid as error:
            return Received(AnswerKind.INVALID, 0, answer.reply, reason=str(error))
        number = reply.header.request
        wrong = self._mismatch(reply)
        if wrong:
            return Received(AnswerKind.INVALID, number, answer.reply, reason=wrong)
        latest = self._latest
        if latest is None or number != latest.number:
            return Received(AnswerKind.STALE, number, answer.reply)
        if self._asked is None:
            return Received(AnswerKind.REPEATED, number, answer.reply, reply.body)
        self._asked = None
        if self._tries == 1:
            self._timeout.measured(now - self._asked_at)
        if number == 0:
            self.session = reply.header.session
        return Received(AnswerKind.FIRST, number, answer.reply, reply.body, now - self._asked_at, self._tries)

    def _mismatch(self, reply: Reply) -> str:
        header, latest = reply.header, self._latest
        if header.cluster != self.cluster or header.client != self.client:
            return "a reply of another cluster or client"
        if latest is None or header.request > latest.number:
            return f"a reply to request {header.request}, which was never asked"
        if header.request == latest.number and header.request_checksum != latest.checksum:
            return "a reply to a request with another checksum"
        if self.session and header.session != self.session:
            return f"a reply of session {header.session}"
        return ""

    def refuse(self, refused: Refused) -> bool:
        """Take a refusal; True if it ends the wait: the request was executed, and its reply is lost.

        Raises `SessionEnded` if the session is over. A refusal of anything but what is asked now is no news.
        """
        asked = self._asked
        if asked is None or (refused.session, refused.number) != (asked.session, asked.number):
            return False
        if refused.refusal is not Refusal.REPLY_LOST:
            raise SessionEnded(refused)
        self._asked = None
        return True
