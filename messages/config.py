"""The configuration of one replica's component: every limit and interval that it keeps, by name.

Guarantees: a `RepliesConfig` that exists is consistent. What shapes the data file (`cluster`, `replica`,
`clients_max`, `message_size_max`) is stored in it and checked against it; the rest may change from one opening to the
next. Sizes are in bytes, times in seconds.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .message import (
    U8_MAX,
    U32_MAX,
    U64_MAX,
    U128_MAX,
    Message,
    MessageInvalid,
    check_int,
    check_type,
    shown,
)
from .reply_header import HEADER_SIZE

SECTOR_SIZE = 4096
CLIENTS_MAX_LIMIT = 2**20
MESSAGE_SIZE_LIMIT = 2**26
BUFFERS_MAX_LIMIT = 2**16
SECONDS_LIMIT = 24 * 60 * 60.0


class OpenMode(enum.Enum):
    """What opening does about a missing or present file."""

    OPEN = "the file must exist"
    FORMAT = "the file must not exist and is made"
    OPEN_OR_FORMAT = "the file is opened if it exists and made if not"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepliesConfig(Message):
    """Everything that `OpenReplies` needs to know. See each field's comment."""

    path: str  # the data file
    cluster: int  # u128, the same on every replica
    replica: int  # u8, this replica's index
    clients_max: int = 64  # sessions, which is slots
    message_size_max: int = 1024 * 1024  # a reply's header and body, whole sectors

    buffers_max: int = 64  # buffers of message_size_max that the pool lends to the replica
    inline_size_max: int = 16 * 1024  # replies up to this size may travel as bytes instead of a lease
    leases_waiting_max: int = 64  # requests for leases that wait when the pool is empty

    writes_max: int = 256  # commit writes accepted and not yet durable; the credit
    write_batch_max: int = 128  # slots in one group of writes under one sync
    hold_back: float = 0.0  # seconds a reply waits for a newer one of its session before it is written

    reads_max: int = 64  # ReadReply requests not yet answered
    read_batch_max: int = 16  # slots in one group of reads
    read_buffers: int = 8  # buffers that the component keeps for reading large replies
    waits_max: int = 64  # AwaitDurable requests not yet answered

    repairs_max: int = 512  # slots under repair at the same time
    repair_bytes_max: int = 4 * 1024 * 1024  # bytes of replies that one GetReplies may ask for
    repair_buffers: int = 64  # buffers that the component keeps for repaired large replies and for reads for peers
    repair_timeout: float = 0.5  # a peer that has not answered by then is asked again later
    repair_backoff_max: float = 8.0  # the longest pause before a silent peer is asked again
    peer_reads_max: int = 1024  # slots read for peers at the same time

    scrub_interval: float = 1.0  # pause between two groups of verified slots
    scrub_bytes_per_second: int = 4 * 1024 * 1024  # 0 turns the scrubber off
    scrub_pass_interval: float = 10.0  # from the start of one pass over all slots to the next, at least
    tick: float = 0.05  # timeouts are looked at when they are due, and no more often than this
    resend_timeout: float = 2.0  # a request between the three actors without an answer by then is sent again

    def validate(self) -> None:
        """Raise `MessageInvalid` for the first field that is out of its limits."""
        check_type("path", self.path, str)
        if not self.path or "\0" in self.path:
            raise MessageInvalid("path", shown(self.path), "a file name")
        check_int("cluster", self.cluster, 0, U128_MAX)
        check_int("replica", self.replica, 0, U8_MAX)
        check_int("clients_max", self.clients_max, 1, CLIENTS_MAX_LIMIT)
        check_int("message_size_max", self.message_size_max, SECTOR_SIZE, MESSAGE_SIZE_LIMIT)
        if self.message_size_max % SECTOR_SIZE:
            raise MessageInvalid("message_size_max", str(self.message_size_max), f"a multiple of {SECTOR_SIZE}")
        check_int("buffers_max", self.buffers_max, 1, BUFFERS_MAX_LIMIT)
        check_int("inline_size_max", self.inline_size_max, HEADER_SIZE, self.message_size_max)
        for name in ("leases_waiting_max", "writes_max", "write_batch_max", "reads_max", "read_batch_max"):
            check_int(name, getattr(self, name), 1, U32_MAX)
        for name in ("read_buffers", "repair_buffers", "waits_max", "repairs_max", "peer_reads_max"):
            check_int(name, getattr(self, name), 1, BUFFERS_MAX_LIMIT)
        check_int("repair_bytes_max", self.repair_bytes_max, self.message_size_max, U32_MAX)
        check_int("scrub_bytes_per_second", self.scrub_bytes_per_second, 0, U64_MAX)
        for name in ("repair_timeout", "repair_backoff_max", "scrub_interval", "tick", "resend_timeout"):
            _check_seconds(name, getattr(self, name), 0.001)
        _check_seconds("hold_back", self.hold_back, 0.0)
        _check_seconds("scrub_pass_interval", self.scrub_pass_interval, 0.0)


def _check_seconds(field: str, value: object, low: float) -> None:
    if type(value) not in (int, float) or not low <= value <= SECONDS_LIMIT:  # type: ignore[operator]
        raise MessageInvalid(field, shown(value), f"seconds from {low} to {SECONDS_LIMIT}")
