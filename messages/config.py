"""The configuration of one replica's component: every limit and interval that it keeps, by name.

Guarantees: a `RepliesConfig` that exists is consistent. What shapes the data file (`cluster`, `replica`,
`clients_max`, `message_size_max`) is stored in it and checked against it; the rest may change from one opening to the
next. Sizes are in bytes, times in seconds.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated

from .limits import Range
from .message import U8, U32, U32_MAX, U64, U128, Message, MessageInvalid, shown
from .reply_header import HEADER_SIZE

SECTOR_SIZE = 4096
CLIENTS_MAX_LIMIT = 2**20
MESSAGE_SIZE_LIMIT = 2**26
BUFFERS_MAX_LIMIT = 2**16
SECONDS_LIMIT = 24 * 60 * 60.0
FOLLOWS = 0  # a size that follows another one
INLINE_SIZE_MAX = 16 * 1024
REPAIR_BYTES_MAX = 4 * 1024 * 1024

BufferSize = Annotated[int, Range(SECTOR_SIZE, MESSAGE_SIZE_LIMIT, step=SECTOR_SIZE)]
ReplySize = Annotated[int, Range(HEADER_SIZE, MESSAGE_SIZE_LIMIT)]
Buffers = Annotated[int, Range(1, BUFFERS_MAX_LIMIT)]
_Batch = Annotated[int, Range(1, U32_MAX)]
Pause = Annotated[float, Range(0.0, SECONDS_LIMIT)]  # seconds
Period = Annotated[float, Range(0.001, SECONDS_LIMIT)]  # seconds


class OpenMode(enum.Enum):
    """What opening does about a missing or present file."""

    OPEN = "the file must exist"
    FORMAT = "the file must not exist and is made"
    OPEN_OR_FORMAT = "the file is opened if it exists and made if not"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepliesConfig(Message):
    """Everything that `OpenReplies` needs to know. See each field's comment."""

    path: str  # the data file
    cluster: U128  # the same on every replica
    replica: U8  # this replica's index
    clients_max: Annotated[int, Range(1, CLIENTS_MAX_LIMIT)] = 64  # sessions, which is slots
    message_size_max: BufferSize = 1024 * 1024  # a reply's header and body, whole sectors

    buffers_max: Buffers = 64  # buffers of message_size_max that the pool lends to the replica
    # Replies up to this size may travel as bytes instead of a lease. By default 16 KiB, or less if a reply has less.
    inline_size_max: ReplySize = FOLLOWS
    leases_waiting_max: _Batch = 64  # requests for leases that wait when the pool is empty

    writes_max: _Batch = 256  # commit writes accepted and not yet durable; the credit
    write_batch_max: _Batch = 128  # slots in one group of writes under one sync
    hold_back: Pause = 0.0  # seconds a reply waits for a newer one of its session before it is written

    reads_max: _Batch = 64  # ReadReply requests not yet answered
    read_batch_max: _Batch = 16  # slots in one group of reads
    read_buffers: Buffers = 8  # buffers that the component keeps for reading large replies
    waits_max: Buffers = 64  # AwaitDurable requests not yet answered

    repairs_max: Buffers = 512  # slots under repair at the same time
    # Bytes of replies that one GetReplies may ask for. By default 4 MiB, or more if a single reply may have more.
    repair_bytes_max: U32 = FOLLOWS
    repair_buffers: Buffers = 64  # buffers that the component keeps for repaired large replies and for reads for peers
    repair_timeout: Period = 0.5  # a peer that has not answered by then is asked again later
    repair_backoff_max: Period = 8.0  # the longest pause before a silent peer is asked again
    peer_reads_max: Buffers = 1024  # slots read for peers at the same time

    scrub_interval: Period = 1.0  # pause between two groups of verified slots
    scrub_bytes_per_second: U64 = 4 * 1024 * 1024  # 0 turns the scrubber off
    scrub_pass_interval: Pause = 10.0  # from the start of one pass over all slots to the next, at least
    tick: Period = 0.05  # timeouts are looked at when they are due, and no more often than this
    resend_timeout: Period = 2.0  # a request between the three actors without an answer by then is sent again

    def __post_init__(self) -> None:
        if type(self.message_size_max) is int:
            if self.inline_size_max == FOLLOWS:
                object.__setattr__(self, "inline_size_max", min(INLINE_SIZE_MAX, self.message_size_max))
            if self.repair_bytes_max == FOLLOWS:
                object.__setattr__(self, "repair_bytes_max", max(REPAIR_BYTES_MAX, self.message_size_max))
        self.validate()

    def rules(self) -> None:
        """Check that a file can have this name, and that no limit contradicts another."""
        if not self.path or "\0" in self.path:
            raise MessageInvalid("path", shown(self.path), "a file name")
        if self.inline_size_max > self.message_size_max:
            raise MessageInvalid("inline_size_max", str(self.inline_size_max), f"at most {self.message_size_max}")
        if self.repair_bytes_max < self.message_size_max:
            raise MessageInvalid("repair_bytes_max", str(self.repair_bytes_max), f"at least {self.message_size_max}")
