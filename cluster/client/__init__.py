"""What clients use: `ClusterClient`, its sessions, and their errors. No actors here.

Read in this order: `cluster_client` (clients and sessions), `async_client` (the same for asyncio), `call` (one call as
steps without I/O), `answers` (what a frame means for it), `line` (the connection), `retry_policy` and `retry_timeout`
(when to ask again), `errors`, `one_process` (what a forked child may not use).
"""

from .answers import Answer
from .async_client import AsyncClusterClient, AsyncSession
from .cluster_client import ClusterClient, Session
from .errors import (
    AnswerLost,
    ClusterError,
    ClusterUnavailable,
    NotCopyable,
    OtherProcess,
    PoolExhausted,
    ProtocolError,
    RequestConflict,
    RequestPending,
    RequestTimeout,
    SessionEvicted,
    SessionInUse,
    SessionMisused,
    SessionOver,
    WrongCluster,
)
from .retry_policy import RetryPolicy

__all__ = [
    "Answer",
    "AnswerLost",
    "AsyncClusterClient",
    "AsyncSession",
    "ClusterClient",
    "ClusterError",
    "ClusterUnavailable",
    "NotCopyable",
    "OtherProcess",
    "PoolExhausted",
    "ProtocolError",
    "RequestConflict",
    "RequestPending",
    "RequestTimeout",
    "RetryPolicy",
    "Session",
    "SessionEvicted",
    "SessionInUse",
    "SessionMisused",
    "SessionOver",
    "WrongCluster",
]
