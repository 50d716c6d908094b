"""Every limit and interval of the protocol, by name. Times are in seconds, sizes in entries unless they say bytes.

Guarantees: a configuration that exists lets the protocol make progress: the log has room for the pipeline and for the
entries between three checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

from client_replies.messages.message import U8_MAX, U128_MAX, check_int

from .messages import CHUNK_SIZE_LIMIT, LOG_LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class VsrConfig:
    """See each field's comment."""

    cluster: int
    replica: int
    replicas: int  # 1, 3 or 5
    clients_max: int = 64  # sessions
    pipeline_max: int = 64  # prepared and not committed
    prepare_max: int = 64  # entries in one message
    requests_max: int = 1024  # requests that wait for the pipeline; beyond it clients retry
    checkpoint_interval: int = 256  # ops
    log_max: int = 2048  # entries kept; the primary waits for its own checkpoint rather than exceed it
    chunk_size: int = 256 * 1024  # bytes of a snapshot in one message
    waits_max: int = 32  # slots awaited at a time after a state sync
    reads_max: int = 64  # stored replies read for clients at a time

    heartbeat: float = 0.03  # the primary is not silent for longer
    resend: float = 0.08  # what was not acknowledged is sent again
    view_change: float = 0.4  # the primary's silence after which a view change begins
    view_change_factor: float = 1.6  # each failed view makes the next wait longer
    view_change_max: float = 6.0
    jitter: float = 0.3  # of a view change's wait, upwards

    def __post_init__(self) -> None:
        check_int("cluster", self.cluster, 0, U128_MAX)
        check_int("replicas", self.replicas, 1, 7)
        check_int("replica", self.replica, 0, min(U8_MAX, self.replicas - 1))
        check_int("checkpoint_interval", self.checkpoint_interval, 1, LOG_LIMIT)
        check_int("pipeline_max", self.pipeline_max, 1, LOG_LIMIT)
        check_int("log_max", self.log_max, 3 * self.checkpoint_interval + self.pipeline_max, LOG_LIMIT)
        check_int("prepare_max", self.prepare_max, 1, LOG_LIMIT)
        check_int("chunk_size", self.chunk_size, 1, CHUNK_SIZE_LIMIT)

    @property
    def quorum(self) -> int:
        """How many replicas, this one included, make a decision that no later one can miss."""
        return self.replicas // 2 + 1
