"""What the client library raises: each error says what is known and what can be done."""

from __future__ import annotations

from client_replies.cluster.door.frames import (
    Reason,
)


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


class AnswerLost(ClusterError):
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
