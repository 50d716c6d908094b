"""One call of a session: what is sent, what is waited for, and when it is asked again, as steps without I/O."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from client_replies.cluster.door.frame_errors import FrameInvalid
from client_replies.cluster.door.frames import PRIMARY_UNKNOWN, Frame, Reason

from .answers import BY_REPLICAS, EVICTIONS, Answer, judge
from .errors import (
    AnswerLost,
    ClusterError,
    ClusterUnavailable,
    ProtocolError,
    RequestConflict,
    RequestTimeout,
    SessionEvicted,
    SessionOver,
    WrongCluster,
)
from .line import SocketLine, address_name
from .retry_timeout import RetryTimeout

if TYPE_CHECKING:
    from .cluster_client import ClusterClient


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect the line to its address. The result is what went wrong, for people, or None."""

    timeout: float

    def on(self, line: SocketLine) -> str | None:
        """Do it."""
        return line.connect(self.timeout)


@dataclass(frozen=True, slots=True)
class Send:
    """Send all of it by then. Raises an `OSError`."""

    packed: bytes = field(repr=False)
    until: float

    def on(self, line: SocketLine) -> None:
        """Do it."""
        line.send(self.packed, self.until)


@dataclass(frozen=True, slots=True)
class Receive:
    """The result is the next frame, or None if none is whole by then. Raises a `FrameInvalid` or an `OSError`."""

    until: float

    def on(self, line: SocketLine) -> Frame | None:
        """Do it."""
        return line.receive(self.until)


@dataclass(frozen=True, slots=True)
class Pause:
    """Let time pass until then."""

    until: float

    def on(self, line: SocketLine) -> None:
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

    def run(self, is_over: Callable[[], bool], line: SocketLine) -> Answer:
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
        if reason in BY_REPLICAS and self._client._is_outdated(refused.view):
            # A primary that was, and does not know: what it says about sessions may have changed since.
            self._client._count("refusals_of_earlier_views")
            yield from self._elsewhere(until)
            return
        if reason in EVICTIONS:
            raise SessionEvicted(reason, EVICTIONS[reason])
        if reason is Reason.REPLY_LOST:
            raise AnswerLost(self._asked.request)
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
            tried = ", ".join(
                f"{address_name(self._client.addresses[a])}: {e}" for a, e in sorted(self._unreachable.items())
            )
            error = ClusterUnavailable(f"no address could be reached. {tried}. Is the cluster running?")
        else:
            error = RequestTimeout(
                f"no answer to {what}{self._last_refusal}: a quorum of the replicas may be missing. "
                "Resume it, or give it more time"
            )
        return error
