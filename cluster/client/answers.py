"""What a frame from a gateway means for the request that waits for an answer. Nothing here does I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

from client_replies.cluster.door.frame_errors import FrameInvalid
from client_replies.cluster.door.frames import Frame, FrameKind, Reason, reply_in
from client_replies.messages.reply_header import OPERATION_REGISTER, ReplyHeader

EVICTIONS = {
    Reason.NO_SESSION: "the cluster has no such session: it was evicted",
    Reason.SESSION_TOO_LOW: "the client has a later session",
    Reason.REPLACED: "others took its place",
}
# What replicas decide by their session table.
BY_REPLICAS = frozenset({*EVICTIONS, Reason.REPLY_LOST, Reason.OTHER_REQUEST, Reason.OLDER_REQUEST})
# What a gateway says without naming a request, and then it hangs up.
_ABOUT_CONNECTIONS = frozenset({Reason.MALFORMED, Reason.BUSY, Reason.WRONG_CLUSTER})


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
    if frame.command == FrameKind.REFUSED:
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
