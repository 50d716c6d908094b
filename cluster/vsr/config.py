"""Every limit and interval of the protocol, by name. Times are in seconds, sizes in entries unless they say bytes.

Guarantees: a configuration that exists lets the protocol make progress: the log has room for the pipeline and for the
entries between three checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from client_replies.messages.config import Period
from client_replies.messages.limits import Range
from client_replies.messages.message import U8, U128, Message, MessageInvalid, Number

from .messages import CHUNK_SIZE_LIMIT, LOG_LIMIT

REPLICAS_MAX = 7

_Entries = Annotated[int, Range(1, LOG_LIMIT)]


@dataclass(frozen=True, slots=True, kw_only=True)
class VsrConfig(Message):
    """See each field's comment."""

    cluster: U128
    replica: U8
    replicas: Annotated[int, Range(1, REPLICAS_MAX)]  # 1, 3 or 5
    clients_max: Number = 64  # sessions
    pipeline_max: _Entries = 64  # prepared and not committed
    prepare_max: _Entries = 64  # entries in one message
    requests_max: Number = 1024  # requests that wait for the pipeline; beyond it clients retry
    checkpoint_interval: _Entries = 256  # ops
    log_max: _Entries = 2048  # entries kept; the primary waits for its own checkpoint rather than exceed it
    chunk_size: Annotated[int, Range(1, CHUNK_SIZE_LIMIT)] = 256 * 1024  # bytes of a snapshot in one message
    waits_max: Number = 32  # slots awaited at a time after a state sync
    reads_max: Number = 64  # stored replies read for clients at a time

    heartbeat: Period = 0.03  # the primary is not silent for longer
    resend: Period = 0.08  # what was not acknowledged is sent again
    view_change: Period = 0.4  # the primary's silence after which a view change begins
    view_change_factor: float = 1.6  # each failed view makes the next wait longer
    view_change_max: Period = 6.0
    jitter: float = 0.3  # of a view change's wait, upwards

    def rules(self) -> None:
        """Check that the replica is one of them, and that the log has room."""
        if self.replica >= self.replicas:
            raise MessageInvalid("replica", str(self.replica), f"one of {self.replicas}, from 0")
        if self.log_max < 3 * self.checkpoint_interval + self.pipeline_max:
            expected = f"at least {3 * self.checkpoint_interval + self.pipeline_max}"
            raise MessageInvalid("log_max", str(self.log_max), expected)

    @property
    def quorum(self) -> int:
        """How many replicas, this one included, make a decision that no later one can miss."""
        return self.replicas // 2 + 1
