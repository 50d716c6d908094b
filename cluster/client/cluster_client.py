"""The client library: sessions whose requests are executed once and answered with the original reply. No actors here.

    with ClusterClient(["127.0.0.1:4000", "127.0.0.1:4001"], cluster=7) as client, client.session() as session:
        answer = session.request(OPERATION_TRANSFER, body, timeout=5.0)

Guarantees: one request at a time in a session, numbered and checksummed, the same bytes at each retry. A reply is
believed only if all its checksums hold and it answers exactly this request: cluster, client, session, number, request
checksum. Every call ends within its timeout, with an answer or with a `ClusterError` that says what is known.

Threads may share a client, not a session: give each thread its own with `session()`, or one of the pool with
`borrow()`; a second thread in a session gets `SessionInUse`. Processes share neither: a forked child gets
`OtherProcess`, and closing there closes its copy of the sockets only; `copy` and `pickle` get `NotCopyable`.

Limits: after `RequestTimeout` the request may be executed or not; `resume` goes on asking for its reply, and any other
request is refused until then. Addresses are tried as given, in the order of the replicas behind them.

Owns: the socket of each session.
"""

from __future__ import annotations

import os
import random
import secrets
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NoReturn, Protocol

from client_replies.cluster.door.frames import (
    OPERATION_CLOSE,
    PRIMARY_UNKNOWN,
    REPLY_SIZE_MAX,
    REQUEST_BODY_SIZE_MAX,
    TO_CLIENT,
    Command,
    Frame,
    FrameDecoder,
    FrameInvalid,
    Reason,
    Signal,
    reply_in,
    request_frame,
)
from client_replies.messages.message import U32_MAX, U128_MAX
from client_replies.messages.reply_header import OPERATION_REGISTER, ReplyHeader

from .retry_timeout import RetryTimeout

POOL_SIZE_MAX = 16  # sessions that `borrow` lends at a time; the cluster has room for a few dozen
ADDRESS_PORT_DIGITS_MAX = 5


class ClusterError(Exception):
    """Base of all that the library raises about the cluster."""


class ClusterUnavailable(ClusterError):
    """No address could be reached within the time; the text has the last error of each."""


class RequestTimeout(ClusterError):
    """No reply in time: a quorum may be missing. The request may be executed or not; `resume` goes on asking."""


class ProtocolError(ClusterError):
    """What answered breaks the protocol, or says that we do."""


class WrongCluster(ProtocolError):
    """The address belongs to another cluster."""


class RequestConflict(ProtocolError):
    """The session's number was used for another request: two clients have the same session, or state was restored."""


class SessionEvicted(ClusterError):
    """The session is over, for `reason`. Whether its last unanswered request was executed cannot be known any more."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(reason, text)
        self.reason = reason
        self.text = text

    def __str__(self) -> str:
        return f"the session is over: {self.text}"


class ReplyLost(ClusterError):
    """The request was executed, once, and no replica holds its reply any more. The session goes on."""

    def __init__(self, request: int) -> None:
        super().__init__(request)
        self.request = request

    def __str__(self) -> str:
        return f"request {self.request} was executed, and its reply is lost"


class SessionMisused(ClusterError):
    """The caller's mistake; nothing was sent."""


class SessionInUse(SessionMisused):
    """Another thread has a request in flight in this session."""


class RequestPending(SessionMisused):
    """An earlier request of the session has no answer yet: `resume` it first."""


class SessionOver(SessionMisused):
    """The session was closed or evicted, or its client was closed."""


class OtherProcess(SessionMisused):
    """The client or session belongs to the process that this one was forked from."""


class NotCopyable(SessionMisused, TypeError):
    """A client or session cannot be copied or pickled: two copies would give one number to two requests."""


class PoolExhausted(ClusterError):
    """All sessions of the pool were lent for the whole time; nothing was sent."""


_EVICTIONS = {
    Reason.NO_SESSION: "the cluster has no such session: it was evicted",
    Reason.SESSION_TOO_LOW: "the client has a later session",
    Reason.REPLACED: "others took its place",
}
# What replicas decide by their session table.
_BY_REPLICAS = frozenset({*_EVICTIONS, Reason.REPLY_LOST, Reason.OTHER_REQUEST, Reason.OLDER_REQUEST})
# What a gateway says without naming a request, and then it hangs up.
_ABOUT_CONNECTIONS = frozenset({Reason.MALFORMED, Reason.BUSY, Reason.WRONG_CLUSTER})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a request is asked again: after a pause that doubles up to a maximum, each with jitter.

    The first pause follows the session's round trips (`retry_timeout`).
    """

    timeout_s: float = 30.0  # of a call that names none
    pause_first_s: float = 0.1  # at least
    pause_max_s: float = 2.0
    jitter: float = 0.25  # of each pause, either way
    connect_timeout_s: float = 1.0
    attempts_per_address: int = 2  # without an answer, before another address is tried
    redirects_max: int = 4  # followed without a pause


@dataclass(frozen=True, slots=True)
class Answer:
    """A verified reply. `repeated`: it was stored and is handed out again; `attempts`: how often we asked."""

    header: ReplyHeader
    body: bytes = field(repr=False)
    repeated: bool
    attempts: int
    latency_s: float

    @property
    def first(self) -> bool:
        """The reply of the execution itself."""
        return not self.repeated


@dataclass(frozen=True, slots=True)
class Ignored:
    """A frame that is not about what we ask now, and why it is no cause for worry."""

    kind: str


def judge(asked: Frame, frame: Frame) -> Answer | Frame | Ignored:
    """What a frame from a gateway means for the request that was asked: its reply, a refusal of it, or nothing.

    The reply comes with nothing about attempts and time. Raises a `FrameInvalid` if it cannot be an honest gateway's.
    """
    if frame.command == Command.REFUSED:
        return _judge_refusal(asked, frame)
    if frame.client != asked.client or frame.cluster != asked.cluster:
        return Ignored("replies_to_others")
    reply = reply_in(frame)
    if frame.request_checksum != asked.request_checksum:
        # An earlier request's reply, late or twice. With our number it would be a wrong reply to this request.
        if frame.request == asked.request and frame.session == asked.session:
            raise_wrong(f"a reply to another request {frame.request}", "one with our request's checksum")
        return Ignored("replies_to_earlier_requests")
    if frame.request != asked.request or frame.operation != asked.operation:
        raise_wrong(f"a reply to request {frame.request}", f"one to request {asked.request}")
    if asked.operation != OPERATION_REGISTER and frame.session != asked.session:
        raise_wrong(f"a reply of session {frame.session}", f"one of session {asked.session}")
    return Answer(reply.header, reply.body, frame.repeated, 0, 0.0)


def _judge_refusal(asked: Frame, frame: Frame) -> Frame | Ignored:
    if frame.cluster != asked.cluster and frame.reason != Reason.WRONG_CLUSTER:
        raise_wrong(f"a refusal of cluster {frame.cluster:x}", f"one of cluster {asked.cluster:x}")
    if frame.request_checksum == asked.request_checksum and frame.client == asked.client:
        return frame
    if frame.request_checksum == bytes(16):
        if frame.client == 0 and frame.reason in _ABOUT_CONNECTIONS:
            return frame
        if (frame.client, frame.session, frame.reason) == (asked.client, asked.session, Reason.REPLACED):
            return frame
    return Ignored("refusals_of_other_requests")


class AnswerWrong(FrameInvalid):
    """A whole reply that does not fit the request that it claims to answer."""


def raise_wrong(found: str, expected: str) -> None:
    """Raise `AnswerWrong`."""
    raise AnswerWrong(found, expected)


_forks = 0  # between the first process and this one


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class _OfOneProcess:
    """What one process uses. A forked child inherits it: with it locks that nobody there will release, so it takes
    none of them, and a socket that its parent goes on using, so it only closes its own descriptor."""

    def __init__(self) -> None:
        self._forks = _forks

    @property
    def _is_inherited(self) -> bool:
        return self._forks != _forks

    def _check_process(self) -> None:
        if self._is_inherited:
            raise OtherProcess("this process was forked from the owner: create a ClusterClient of its own here")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        name = type(self).__name__
        raise NotCopyable(f"a {name} cannot be copied or pickled: create a ClusterClient where it is used")


class ClusterClient(_OfOneProcess):
    """A cluster as its users see it. See the module."""

    def __init__(
        self,
        addresses: Sequence[str | tuple[str, int]],
        *,
        cluster: int,
        policy: RetryPolicy | None = None,
        release: int = 1,
        body_size_max: int = REQUEST_BODY_SIZE_MAX,
        reply_size_max: int = REPLY_SIZE_MAX,
        pool_size_max: int = POOL_SIZE_MAX,
    ) -> None:
        super().__init__()
        if not addresses:
            raise ValueError("a client needs at least one address, such as 127.0.0.1:4000")
        if not 0 <= cluster <= U128_MAX or not 0 < release <= U32_MAX:
            raise ValueError(f"cluster {cluster} or release {release} is out of range")
        if pool_size_max < 1:
            raise ValueError(f"pool_size_max: found {pool_size_max}, expected at least 1")
        self.addresses = tuple(parse_address(address) for address in addresses)
        self.cluster = cluster
        self.policy = policy or RetryPolicy()
        self.release = release
        self.body_size_max = body_size_max
        self.reply_size_max = reply_size_max
        self.pool_size_max = pool_size_max
        self.counters: Counter[str] = Counter()
        self._lock = threading.Lock()
        # Guarded by the lock, with the counters: what all sessions have learned about who is primary.
        self._view = 0
        self._view_replied = 0
        self._primary = 0
        self._sessions: set[Session] = set()
        self._spare: deque[Session] = deque()
        self._closed = False
        self._places = threading.BoundedSemaphore(pool_size_max)  # of sessions that are lent

    def __enter__(self) -> ClusterClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def session(self, *, timeout: float | None = None) -> Session:
        """Register a new session, for one thread at a time."""
        self._check_process()
        session = Session(self)
        with self._lock:
            if self._closed:
                raise SessionOver("the client is closed")
            self._sessions.add(session)  # before it registers: `close` ends that wait, too
        session._register(timeout)
        return session

    @contextmanager
    def borrow(self, *, timeout: float | None = None) -> Iterator[Session]:
        """Lend a session of the pool, registering one if none is free; wait while `pool_size_max` are lent.

        At the end of the block the session goes back. A session whose request has no answer by then does not: nobody
        else could `resume` it, so it is closed, and its place in the pool is free again. Resume it inside the block.
        """
        self._check_process()
        patience = self.policy.timeout_s if timeout is None else timeout
        deadline = time.monotonic() + patience
        if not self._places.acquire(timeout=max(0.0, patience)):
            raise PoolExhausted(f"all {self.pool_size_max} sessions of the pool were lent for {patience:g} s")
        try:
            with self._lock:
                session = self._spare.pop() if self._spare else None
            if session is None:
                session = self.session(timeout=deadline - time.monotonic())
            try:
                yield session
            finally:
                self._take_back(session)
        finally:
            if not self._is_inherited:
                self._places.release()

    def _take_back(self, session: Session) -> None:
        if not self._is_inherited:
            with self._lock:
                if session.is_open and not session.is_pending and not self._closed:
                    self._spare.append(session)
                    return
        session.abandon()

    def close(self) -> None:
        """Close the sockets of all sessions. The cluster forgets the sessions in its own time: it evicts the oldest."""
        if self._is_inherited:
            self._closed = True
            for session in tuple(self._sessions):
                session.abandon()
            return
        with self._lock:
            self._closed = True
            sessions, self._sessions = self._sessions, set()
            self._spare.clear()
        for session in sessions:
            session.abandon()

    # What sessions share.

    def _forget(self, session: Session) -> None:
        if self._is_inherited:
            return
        with self._lock:
            self._sessions.discard(session)

    def _count(self, kind: str) -> None:
        with self._lock:
            self.counters[kind] += 1

    def _preferred(self) -> int:
        with self._lock:
            return self._primary

    def _replied(self, view: int) -> None:
        """A reply came from this view: whoever is still in an earlier one has no say any more."""
        with self._lock:
            self._view_replied = max(self._view_replied, view)

    def _is_outdated(self, view: int) -> bool:
        with self._lock:
            return view < self._view_replied

    def _learn(self, view: int, primary: int) -> bool:
        """Take a hint about who is primary; True if it names another address than we thought."""
        with self._lock:
            if primary >= len(self.addresses) or view < self._view:
                return False
            changed = primary != self._primary
            self._view, self._primary = view, primary
            return changed


class Session(_OfOneProcess):
    """One session: numbered requests, one at a time. Made by `ClusterClient.session`.

    As a context manager it closes the session in the cluster at the end, unless a request is pending.
    """

    def __init__(self, client: ClusterClient) -> None:
        super().__init__()
        self.client_id = secrets.randbelow(U128_MAX) + 1
        self.session = 0
        self._client = client
        self._policy = client.policy
        self._busy = threading.Lock()
        self._line = _Line(client)
        # The latest request, and the one that has its answer, if that is the same. One assignment makes a request
        # pending, so that an interrupt at any moment finds it pending or not begun.
        self._latest: Frame | None = None
        self._answered: Frame | None = None
        self._over = ""
        self._attempts = 0  # of the pending request, over all calls
        self._retry_timeout = RetryTimeout(self._policy.pause_first_s, self._policy.pause_max_s)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self.is_open and not self.is_pending and not self._is_inherited:
                # Only a courtesy to the others: a session that nobody closes is evicted when its place is needed.
                with suppress(ClusterError):
                    self.close(timeout=min(1.0, self._policy.timeout_s))
        finally:
            self.abandon()

    @property
    def is_open(self) -> bool:
        """It is registered, and neither closed nor evicted, as far as we know."""
        return self.session > 0 and not self._over

    @property
    def request_number(self) -> int:
        """The number of the latest request; 0 before the first."""
        return self._latest.request if self._latest is not None else 0

    @property
    def is_pending(self) -> bool:
        """A request has no answer yet; see `resume`."""
        return self._latest is not self._answered

    def request(self, operation: int, body: bytes = b"", *, timeout: float | None = None) -> Answer:
        """Have an operation executed, once, and return its reply. Raises a `ClusterError`."""
        with self._alone():
            if self.is_pending:
                raise RequestPending(f"request {self.request_number} has no answer yet: resume it first")
            if operation in (0, OPERATION_REGISTER, OPERATION_CLOSE):
                raise SessionMisused(f"operation {operation} is the session's own")
            if len(body) > self._client.body_size_max:
                raise SessionMisused(f"a body of {len(body)} bytes: at most {self._client.body_size_max} are taken")
            return self._ask(self._next(operation, body), timeout)

    def resume(self, *, timeout: float | None = None) -> Answer:
        """Go on asking for the reply of the request that timed out."""
        with self._alone():
            if self._latest is None or not self.is_pending:
                raise SessionMisused("no request is pending")
            return self._ask(self._latest, timeout)

    def repeat(self, *, timeout: float | None = None) -> Answer:
        """Ask for the latest reply once more, for a caller that lost it. Raises a `ClusterError`."""
        with self._alone():
            if self._latest is None or self._latest.operation == OPERATION_REGISTER:
                raise SessionMisused("nothing was asked yet")
            self._attempts = 0
            return self._ask(self._latest, timeout)

    def close(self, *, timeout: float | None = None) -> None:
        """End the session in the cluster, too. Raises a `ClusterError` if that cannot be confirmed in time."""
        with self._alone():
            pending = self._latest if self.is_pending else None
            if pending is not None and pending.operation != OPERATION_CLOSE:
                raise RequestPending(f"request {pending.request} has no answer yet: resume it, or abandon all")
            # An eviction is what was asked for: the session is gone, and an earlier attempt may have done it.
            with suppress(SessionEvicted):
                self._ask(pending or self._next(OPERATION_CLOSE, b""), timeout)
            self._end("it was closed")

    def abandon(self) -> None:
        """Close the socket and forget the session; the cluster evicts it when its place is needed. Any thread may."""
        self._end("it was abandoned")

    def _end(self, why: str) -> None:
        self._over = self._over or why
        self._line.hang_up()
        self._client._forget(self)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._check_process()  # before the lock, which may have been held at the moment of the fork
        if not self._busy.acquire(blocking=False):
            raise SessionInUse("another thread has a request in flight: give each thread its own session")
        try:
            if self._over:
                raise SessionOver(f"the session is over: {self._over}")
            yield
        finally:
            if self._over:
                self._line.hang_up()  # abandoned meanwhile, perhaps just before this thread connected again
            self._busy.release()

    def _register(self, timeout: float | None) -> None:
        with self._alone():
            frame = request_frame(
                cluster=self._client.cluster,
                client=self.client_id,
                session=0,
                request=0,
                operation=OPERATION_REGISTER,
                release=self._client.release,
            )
            self._latest = frame
            try:
                self.session = self._ask(frame, timeout).header.session
            except BaseException:  # an interrupt, too: nobody else knows of this session
                self._end("it was never registered")
                raise

    def _next(self, operation: int, body: bytes) -> Frame:
        frame = request_frame(
            cluster=self._client.cluster,
            client=self.client_id,
            session=self.session,
            request=self.request_number + 1,
            operation=operation,
            body=body,
            release=self._client.release,
        )
        self._attempts = 0
        self._latest = frame
        return frame

    def _ask(self, frame: Frame, timeout: float | None) -> Answer:
        self._answered = None
        began = time.monotonic()
        deadline = began + (self._policy.timeout_s if timeout is None else timeout)
        call = Call(self._client, self._line, frame, deadline, self._retry_timeout)
        try:
            answer = call.run(lambda: bool(self._over), self._line)
        except (SessionEvicted, RequestConflict):
            self._answered = frame
            self._end("it was evicted, or used by somebody else")
            raise
        except ReplyLost:
            self._answered = frame
            raise
        except ClusterError:
            raise
        except BaseException:
            self._line.hang_up()  # an interrupt may have cut a frame in two: the next attempt has a new connection
            raise
        finally:
            self._attempts += call.attempts
        self._answered = frame
        latency = time.monotonic() - began
        if self._attempts == 1:
            self._retry_timeout.measured(latency)
        return Answer(answer.header, answer.body, answer.repeated, self._attempts, latency)


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect the line to its address. The result is what went wrong, for people, or None."""

    timeout: float

    def on(self, line: _Line) -> str | None:
        """Do it."""
        return line.connect(self.timeout)


@dataclass(frozen=True, slots=True)
class Send:
    """Send all of it by then. Raises an `OSError`."""

    packed: bytes = field(repr=False)
    until: float

    def on(self, line: _Line) -> None:
        """Do it."""
        line.send(self.packed, self.until)


@dataclass(frozen=True, slots=True)
class Receive:
    """The result is the next frame, or None if none is whole by then. Raises a `FrameInvalid` or an `OSError`."""

    until: float

    def on(self, line: _Line) -> Frame | None:
        """Do it."""
        return line.receive(self.until)


@dataclass(frozen=True, slots=True)
class Pause:
    """Let time pass until then."""

    until: float

    def on(self, line: _Line) -> None:
        """Do it."""
        time.sleep(max(0.0, self.until - time.monotonic()))


Step = Connect | Send | Receive | Pause


class Line(Protocol):
    """What a call knows of its session's connection; what it wants done with it is a `Step`."""

    address: int  # the index of the address that it is connected to, or will be

    @property
    def is_open(self) -> bool:
        """There is a connection, which may be dead."""

    @property
    def name(self) -> str:
        """The address, for people."""

    def hang_up(self) -> None:
        """Close the connection."""


class Call:
    """One call: attempts until its deadline.

    `steps` is all of its logic, without I/O: a generator of the steps that it wants done, which is sent the result of
    each, or thrown its error, and returns the answer. `run` does the steps on a socket.
    """

    def __init__(
        self,
        client: ClusterClient,
        line: Line,
        asked: Frame,
        deadline: float,
        timeout: RetryTimeout | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.attempts = 0
        self._now = now
        self._uniform = uniform
        self._client = client
        self._policy = client.policy
        self._line = line
        self._asked = asked
        self._deadline = deadline
        self._retry_timeout = timeout or RetryTimeout(self._policy.pause_first_s, self._policy.pause_max_s)
        self._pause = self._retry_timeout.seconds
        self._unanswered = 0  # attempts in a row on this connection
        self._redirects = 0  # followed since the last pause
        self._unreachable: dict[int, str] = {}  # the last error of each address that could not be reached
        self._reached = False
        self._violation: FrameInvalid | None = None  # of the last attempt, if it ended with one
        self._refusal: Frame | None = None  # of the last attempt, if it ended with one
        self._last_refusal = ""  # of any attempt, for people

    def run(self, is_over: Callable[[], bool], line: _Line) -> Answer:
        """Ask until there is an answer, or an end. Raises a `ClusterError`."""
        steps = self.steps(is_over)
        result: object = None
        error: Exception | None = None
        while True:
            try:
                step = steps.send(result) if error is None else steps.throw(error)
            except StopIteration as end:
                answer: Answer = end.value
                return answer
            result = error = None
            try:
                result = step.on(line)
            except (OSError, FrameInvalid) as raised:
                error = raised

    def steps(self, is_over: Callable[[], bool]) -> Generator[Step, Any, Answer]:
        """See the class. Raises a `ClusterError`."""
        while True:
            if is_over():
                raise SessionOver("the session was abandoned while a request was in flight")
            remaining = self._deadline - self._now()
            if remaining <= 0:
                raise self._timeout()
            if not self._line.is_open and not (yield from self._connect(remaining)):
                continue
            outcome = yield from self._attempt()
            if outcome is not None:
                return outcome

    def _connect(self, remaining: float) -> Generator[Step, Any, bool]:
        line, count = self._line, len(self._client.addresses)
        error = yield Connect(min(self._policy.connect_timeout_s, remaining))
        if error is None:
            self._reached = True
            self._unanswered = 0
            return True
        self._client._count("connects_failed")
        self._unreachable[line.address] = error
        line.address = (line.address + 1) % count
        if len(self._unreachable) >= count:
            self._redirects = 0
            yield Pause(min(self._now() + self._next_pause(), self._deadline))  # one round over all, then a pause
        return False

    def _next_pause(self) -> float:
        jitter = self._uniform(1.0 - self._policy.jitter, 1.0 + self._policy.jitter)
        pause, self._pause = self._pause, min(self._policy.pause_max_s, 2.0 * self._pause)
        return pause * jitter

    def _attempt(self) -> Generator[Step, Any, Answer | None]:
        """Ask once, and wait for what comes until it is time to ask again."""
        said_before = self._violation, self._refusal
        self._violation = self._refusal = None
        self.attempts += 1
        if self.attempts > 1:
            self._client._count("retries")
        until = min(self._deadline, self._now() + self._next_pause())
        try:
            yield Send(self._asked.packed, until)
            while (frame := (yield Receive(until))) is not None:
                verdict = judge(self._asked, frame)
                if isinstance(verdict, Answer):
                    self._client._replied(frame.view)
                    self._client._learn(frame.view, frame.primary)
                    return verdict
                if isinstance(verdict, Frame):
                    yield from self._refused(verdict, until)
                    return None
                self._client._count(verdict.kind)
        except FrameInvalid as error:
            self._client._count("answers_malformed")
            self._violation = error
            yield from self._elsewhere(until)
            return None
        except OSError:
            self._client._count("connections_lost")
            yield from self._elsewhere(until)
            return None
        if until >= self._deadline:
            # Cut short, perhaps after a millisecond: that nothing was said in it is no news.
            self._violation, self._refusal = said_before
        else:
            self._retry_timeout.expired()
        self._unanswered += 1
        if self._unanswered >= self._policy.attempts_per_address:
            self._leave()
        return None

    def _refused(self, refused: Frame, until: float) -> Generator[Step, Any, None]:
        """Raise what is final; prepare for the next attempt otherwise."""
        reason = Reason(refused.reason)
        self._client._count(f"refused_{reason.name.lower()}")
        if reason in _BY_REPLICAS and self._client._is_outdated(refused.view):
            # A primary that was, and does not know: what it says about sessions may have changed since.
            self._client._count("refusals_of_earlier_views")
            yield from self._elsewhere(until)
            return
        if reason in _EVICTIONS:
            raise SessionEvicted(reason, _EVICTIONS[reason])
        if reason is Reason.REPLY_LOST:
            raise ReplyLost(self._asked.request)
        if reason in (Reason.OTHER_REQUEST, Reason.OLDER_REQUEST):
            raise RequestConflict(f"request {self._asked.request}: {reason.name.lower()}; {refused.text}")
        if reason is Reason.WRONG_CLUSTER:
            raise WrongCluster(f"{self._line.name} is not cluster {self._asked.cluster:x}: {refused.text}")
        self._refusal = refused
        self._last_refusal = f", the last refusal was {reason.name.lower()}"
        if reason is Reason.NOT_PRIMARY:
            yield from self._redirected(refused, until)
        elif reason is Reason.BUSY and refused.request_checksum != bytes(16):
            yield from self._sleep_until(until)
        else:
            yield from self._elsewhere(until)  # the gateway ends this connection

    def _redirected(self, refused: Frame, until: float) -> Generator[Step, Any, None]:
        self._client._learn(refused.view, refused.primary)
        preferred = self._client._preferred()
        follows = refused.primary != PRIMARY_UNKNOWN and preferred != self._line.address
        if follows and self._redirects < self._policy.redirects_max:
            self._redirects += 1
            # Following costs nothing: the pause stays what it was before this attempt.
            self._pause = max(self._policy.pause_first_s, self._pause / 2.0)
            self._line.hang_up()
            self._line.address = preferred
            return
        yield from self._elsewhere(until)

    def _elsewhere(self, until: float) -> Generator[Step, Any, None]:
        self._leave()
        yield from self._sleep_until(until)

    def _leave(self) -> None:
        self._line.hang_up()
        self._line.address = (self._line.address + 1) % len(self._client.addresses)

    def _sleep_until(self, until: float) -> Generator[Step, Any, None]:
        self._redirects = 0
        yield Pause(until)

    def _timeout(self) -> ClusterError:
        """The error for a call whose time is over, by what the last attempt met that was not cut short."""
        what = f"request {self._asked.request} after {self.attempts} attempts"
        if self._violation is not None:
            error: ClusterError = ProtocolError(f"{what}: {self._violation}")
            error.__cause__ = self._violation
        elif self._refusal is not None and self._refusal.reason == Reason.MALFORMED:
            error = ProtocolError(f"{what}: {self._refusal.text}")
        elif not self._reached and self._unreachable:
            tried = ", ".join(f"{_name(self._client.addresses[a])}: {e}" for a, e in sorted(self._unreachable.items()))
            error = ClusterUnavailable(f"no address could be reached. {tried}. Is the cluster running?")
        else:
            error = RequestTimeout(
                f"no answer to {what}{self._last_refusal}: a quorum of the replicas may be missing. "
                "Resume it, or give it more time"
            )
        return error


class _Line(_OfOneProcess):
    """A session's connection: one socket, and what has come in on it."""

    def __init__(self, client: ClusterClient) -> None:
        super().__init__()
        self.address = client._preferred()
        self._client = client
        self._socket: socket.socket | None = None
        self._decoder = FrameDecoder(TO_CLIENT, client.reply_size_max)

    @property
    def is_open(self) -> bool:
        """There is a socket, which may be dead."""
        return self._socket is not None

    @property
    def name(self) -> str:
        """The address, for people."""
        return _name(self._client.addresses[self.address])

    def connect(self, timeout: float) -> str | None:
        """Connect; returns what went wrong, for people."""
        try:
            connected = socket.create_connection(self._client.addresses[self.address], timeout=timeout)
        except (OSError, UnicodeError) as error:
            return str(error)
        if connected.getsockname() == connected.getpeername():
            # Linux lets a socket connect to itself when it is given the very port that nobody listens on.
            connected.close()
            return "nobody listens there"
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self._decoder = FrameDecoder(TO_CLIENT, self._client.reply_size_max)
        return None

    def send(self, packed: bytes, until: float) -> None:
        """Send all of it by then. Raises an `OSError`."""
        connected = self._connected()
        connected.settimeout(max(0.001, until - time.monotonic()))
        connected.sendall(packed)

    def receive(self, until: float) -> Frame | None:
        """The next frame, or None if none is whole by then. Raises a `FrameInvalid` or an `OSError`."""
        connected = self._connected()
        while True:
            event = self._decoder.next_event()
            if isinstance(event, Frame):
                return event
            remaining = until - time.monotonic()
            if event is Signal.CLOSED or remaining <= 0:
                if event is Signal.CLOSED:
                    raise ConnectionResetError("the gateway closed the connection")
                return None
            connected.settimeout(remaining)
            try:
                data = connected.recv(min(65_536, self._decoder.room))
            except TimeoutError:
                return None
            if data:
                self._decoder.receive_data(data)
            else:
                self._decoder.receive_end()

    def hang_up(self) -> None:
        """Close the socket."""
        connected, self._socket = self._socket, None
        if connected is None:
            return
        if not self._is_inherited:
            with suppress(OSError):
                # Another thread may be waiting in it: this wakes it, which a close alone would not.
                connected.shutdown(socket.SHUT_RDWR)
        connected.close()

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionResetError("the connection was closed")
        return self._socket


def parse_address(address: str | tuple[str, int]) -> tuple[str, int]:
    """Host and port of `host:port`, `[host]:port` or a pair. Raises `ValueError` with an example."""
    if isinstance(address, tuple):
        host, port = address
    else:
        host, _, text = address.rpartition(":")
        is_number = text.isascii() and text.isdigit() and len(text) <= ADDRESS_PORT_DIGITS_MAX
        port = int(text) if is_number else -1
        host = host.removeprefix("[").removesuffix("]")
    if not host or not 0 < port < 65_536:
        raise ValueError(f"{address!r} is no address: expected host:port, such as 127.0.0.1:4000")
    return host, port


def _name(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
