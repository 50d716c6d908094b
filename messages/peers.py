"""A ClientRepliesActor and its peers on other replicas: replies travel as bytes, never as leases.

One `GetReplies` is in flight to each peer. Its answer is a `RepliesFound`, a `RepliesMissing`, or both, which together
name each slot asked for once; `asker`, `incarnation` and `request` come back so that a late answer is recognised.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from .message import (
    U8_MAX,
    U32_MAX,
    U64_MAX,
    Message,
    MessageInvalid,
    check_bytes,
    check_distinct,
    check_int,
    check_ints,
    shown,
)
from .replies import SLOT_MAX
from .reply_header import HEADER_SIZE

REPLIES_ASKED_MAX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class GetReplies(Message):
    """Ask for the replies with these packed headers (256 bytes each, side by side), at most `bytes_max` in all."""

    asker: int
    incarnation: int
    request: int
    bytes_max: int
    slots: tuple[int, ...]
    headers: bytes = field(repr=False)

    def validate(self) -> None:
        """Check that there is a header for each slot."""
        _check_request(self.asker, self.incarnation, self.request)
        check_int("bytes_max", self.bytes_max, HEADER_SIZE, U32_MAX)
        _check_slots(self.slots)
        if not self.slots:
            raise MessageInvalid("slots", "no slot", "at least one")
        size = HEADER_SIZE * len(self.slots)
        check_bytes("headers", self.headers, size, size)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepliesFound(Message):
    """Whole replies, byte for byte those that were asked for."""

    asker: int
    incarnation: int
    request: int
    peer: int
    slots: tuple[int, ...]
    replies: tuple[bytes, ...] = field(repr=False)

    def validate(self) -> None:
        """Check that there is a reply for each slot."""
        _check_request(self.asker, self.incarnation, self.request)
        check_int("peer", self.peer, 0, U8_MAX)
        _check_slots(self.slots)
        if type(self.replies) is not tuple or len(self.replies) != len(self.slots):
            raise MessageInvalid("replies", shown(self.replies), f"a tuple of length {len(self.slots)}")
        for reply in self.replies:
            check_bytes("replies", reply, HEADER_SIZE, U32_MAX)


class Missing(enum.Enum):
    """Why a peer does not send a reply. The first two say that it does not hold it; the others say nothing."""

    SUPERSEDED = "the peer's slot has a later reply, or its session is gone"
    FAULTY = "the peer expects this reply too, and its slot is damaged"
    BEHIND = "the peer has not come to the reply's op yet, or not to that of the later one in its slot"
    BUSY = "the peer serves too many reads, or the answer would be too large"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepliesMissing(Message):
    """What of the request is not sent, each slot with its reason."""

    asker: int
    incarnation: int
    request: int
    peer: int
    slots: tuple[int, ...]
    reasons: tuple[Missing, ...]

    def validate(self) -> None:
        """Check that there is a reason for each slot."""
        _check_request(self.asker, self.incarnation, self.request)
        check_int("peer", self.peer, 0, U8_MAX)
        _check_slots(self.slots)
        if type(self.reasons) is not tuple or len(self.reasons) != len(self.slots):
            raise MessageInvalid("reasons", shown(self.reasons), f"a tuple of length {len(self.slots)}")
        if not set(map(type, self.reasons)) <= {Missing}:
            raise MessageInvalid("reasons", "another type", "values of Missing")


def _check_request(asker: int, incarnation: int, request: int) -> None:
    check_int("asker", asker, 0, U8_MAX)
    check_int("incarnation", incarnation, 1, U64_MAX)
    check_int("request", request, 1, U64_MAX)


def _check_slots(slots: tuple[int, ...]) -> None:
    check_ints("slots", slots, 0, SLOT_MAX)
    check_distinct("slots", slots)
    if len(slots) > REPLIES_ASKED_MAX:
        raise MessageInvalid("slots", f"{len(slots)} slots", f"at most {REPLIES_ASKED_MAX}")
