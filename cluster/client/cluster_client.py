"""The client library: sessions whose requests are executed once and answered with the original reply. No actors here.

    with ClusterClient(["127.0.0.1:4000", "127.0.0.1:4001"], cluster=7) as client, client.session() as session:
        answer = session.request(OPERATION_TRANSFER, body, timeout=5.0)

Guarantees: one request at a time in a session, numbered and checksummed, the same bytes at each retry. A reply is
trusted only if all its checksums hold and it answers exactly this request: cluster, client, session, number, request
checksum. Every call ends within its timeout, with an answer or with a `ClusterError` that says what is known.

Threads may share a client, not a session: give each thread its own with `session()`, or one of the pool with
`borrow()`; a second thread in a session gets `SessionInUse`. Processes share neither: a forked child gets
`OtherProcess`, and closing there closes its copy of the sockets only; `copy` and `pickle` get `NotCopyable`.

Limits: after `RequestTimeout` the request may be executed or not; `resume` goes on asking for its reply, and any other
request is refused until then. Addresses are tried as given, in the order of the replicas behind them.

Owns: the socket of each session.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType

from client_replies.cluster.door.frames import (
    OPERATION_CLOSE,
    REPLY_SIZE_MAX,
    REQUEST_BODY_SIZE_MAX,
    Frame,
    request_frame,
)
from client_replies.messages.message import U32_MAX, U128_MAX
from client_replies.messages.reply_header import OPERATION_REGISTER

from .answers import Answer
from .call import Call
from .errors import (
    AnswerLost,
    ClusterError,
    PoolExhausted,
    RequestConflict,
    RequestPending,
    SessionEvicted,
    SessionInUse,
    SessionMisused,
    SessionOver,
)
from .line import SocketLine, parse_address
from .one_process import OfOneProcess
from .retry_policy import RetryPolicy
from .retry_timeout import RetryTimeout

POOL_SIZE_MAX = 16  # sessions that `borrow` lends at a time; the cluster has room for a few dozen


class ClusterClient(OfOneProcess):
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
        """A reply came from this view: replicas of earlier views are ignored from now on."""
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


class Session(OfOneProcess):
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
        self._line = SocketLine(client)
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
        except AnswerLost:
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
