"""A ClientRepliesActor and its peers on other replicas: replies travel as bytes, never as leases.

One `GetReplies` is in flight to each peer. Its answer is a `RepliesFound`, a `RepliesMissing`, or both, which together
name each slot asked for once; `asker`, `incarnation` and `request` come back so that a late answer is recognised.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Annotated

from .limits import Distinct, Length, LengthPer, Range
from .message import U8, U32_MAX, Message, Number
from .replies import PackedHeaders, Slot
from .reply_header import HEADER_SIZE

REPLIES_ASKED_MAX = 1024

_Slots = Annotated[tuple[Slot, ...], Length(1, REPLIES_ASKED_MAX), Distinct()]
_Reply = Annotated[bytes, Length(HEADER_SIZE, U32_MAX)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GetReplies(Message):
    """Ask for the replies with these packed headers (256 bytes each, side by side), at most `bytes_max` in all."""

    asker: U8
    incarnation: Number
    request: Number
    bytes_max: Annotated[int, Range(HEADER_SIZE, U32_MAX)]
    slots: _Slots
    headers: PackedHeaders = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepliesFound(Message):
    """Whole replies, byte for byte those that were asked for."""

    asker: U8
    incarnation: Number
    request: Number
    peer: U8
    slots: _Slots
    replies: Annotated[tuple[_Reply, ...], LengthPer("slots")] = field(repr=False)


class Missing(enum.Enum):
    """Why a peer does not send a reply. The first two say that it does not hold it; the others say nothing."""

    SUPERSEDED = "the peer's slot has a later reply, or its session is gone"
    FAULTY = "the peer expects this reply too, and its slot is damaged"
    BEHIND = "the peer has not come to the reply's op yet, or not to that of the later one in its slot"
    BUSY = "the peer serves too many reads, or the answer would be too large"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepliesMissing(Message):
    """What of the request is not sent, each slot with its reason."""

    asker: U8
    incarnation: Number
    request: Number
    peer: U8
    slots: _Slots
    reasons: Annotated[tuple[Missing, ...], LengthPer("slots")]
