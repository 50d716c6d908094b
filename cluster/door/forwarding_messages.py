"""What travels between a gateway and the replicas: whole frames, in batches, as the very bytes that were sealed."""

from __future__ import annotations

from dataclasses import dataclass, field

from client_replies.cluster.protocol import Request
from client_replies.messages.message import (
    U8_MAX,
    U32_MAX,
    U64_MAX,
    Message,
    MessageInvalid,
    check_bytes,
    check_int,
    check_type,
    shown,
)

from .frames import (
    FRAME_HEADER_SIZE,
    REPLY_SIZE_MAX,
    Frame,
)

BATCH_FRAMES_MAX = 1024
BATCH_BYTES_MAX = 1024 * 1024  # a batch is ended by the frame that reaches it
FRAME_SIZE_MAX = FRAME_HEADER_SIZE + REPLY_SIZE_MAX
REQUEST_BATCHES_MAX = 4  # in flight from a gateway to a replica
ANSWER_BATCHES_MAX = 2  # in flight from a replica to a gateway
ROUTES_MAX = 65_536  # clients of which a replica's port remembers the gateway
CONFIRM_LAG_S = 0.1  # how long a single batch of answers waits for requests that confirm it by the way


def request_of(frame: Frame) -> Request:
    """The request in a frame, as replicas know it: its checksum is the frame's. Raises `MessageInvalid`."""
    return Request(
        cluster=frame.cluster,
        client=frame.client,
        session=frame.session,
        number=frame.request,
        operation=frame.operation,
        body=frame.body,
        checksum=frame.request_checksum,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardRequests(Message):
    """Gateway to replica: requests in the order in which they came. `taken` confirms the replica's last batch.

    `gateway` is the gateway's incarnation, `number` counts its batches to this replica from 1. Without requests it only
    confirms, and `number` is that of the last batch. With `asks`, the replica answers at once, with its view.
    """

    gateway: int
    number: int
    taken: int
    requests: tuple[bytes, ...] = field(repr=False)
    asks: bool = False

    def validate(self) -> None:
        """Check the limits; who takes the frames verifies them."""
        check_int("gateway", self.gateway, 1, U64_MAX)
        check_int("number", self.number, 0, U64_MAX)
        check_int("taken", self.taken, 0, U64_MAX)
        check_type("asks", self.asks, bool)
        _check_frames("requests", self.requests)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardedReplies(Message):
    """Replica to gateway: answers as frames for the clients, and the view and primary that this replica takes part in.

    `primary` is unknown while the replica is between two views: `view` may then be one that never begins.

    `number` counts the batches to this gateway; `taken` confirms the gateway's last batch.
    """

    gateway: int
    replica: int
    view: int
    primary: int
    number: int
    taken: int
    answers: tuple[bytes, ...] = field(repr=False)

    def validate(self) -> None:
        """Check the limits; who takes the frames verifies them."""
        check_int("gateway", self.gateway, 1, U64_MAX)
        check_int("replica", self.replica, 0, U8_MAX - 1)
        check_int("view", self.view, 0, U32_MAX)
        check_int("primary", self.primary, 0, U8_MAX)
        check_int("number", self.number, 0, U64_MAX)
        check_int("taken", self.taken, 0, U64_MAX)
        _check_frames("answers", self.answers)


def _check_frames(name: str, frames: object) -> None:
    if type(frames) is not tuple or len(frames) > BATCH_FRAMES_MAX:
        raise MessageInvalid(name, shown(frames), f"a tuple of at most {BATCH_FRAMES_MAX} frames")
    for frame in frames:
        check_bytes(name, frame, FRAME_HEADER_SIZE, FRAME_SIZE_MAX)
