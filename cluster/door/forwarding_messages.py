"""What travels between a gateway and the replicas: whole frames, in batches, as the very bytes that were sealed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from client_replies.cluster.protocol import Request
from client_replies.messages.limits import Length, Range
from client_replies.messages.message import U8, U8_MAX, U64, Message, Number, View

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

ReplicaIndex = Annotated[int, Range(0, U8_MAX - 1)]  # U8_MAX is a primary that is not known
Frames = Annotated[
    tuple[Annotated[bytes, Length(FRAME_HEADER_SIZE, FRAME_SIZE_MAX)], ...], Length(0, BATCH_FRAMES_MAX)
]  # who takes them verifies them


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

    gateway: Number
    number: U64
    taken: U64
    requests: Frames = field(repr=False)
    asks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardedReplies(Message):
    """Replica to gateway: answers as frames for the clients, and the view and primary that this replica takes part in.

    `primary` is unknown while the replica is between two views: `view` may then be one that never begins.

    `number` counts the batches to this gateway; `taken` confirms the gateway's last batch.
    """

    gateway: Number
    replica: ReplicaIndex
    view: View
    primary: U8
    number: U64
    taken: U64
    answers: Frames = field(repr=False)
