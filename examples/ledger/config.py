"""The shape of the example's clusters: what every replica of a run or of a cluster that stays up is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client_replies.messages.config import RepliesConfig

CLIENTS_MAX = 64
MESSAGE_SIZE_MAX = 16 * 1024
INLINE_SIZE_MAX = 4 * 1024  # so that a part of the replies travels in shared memory
CHECKPOINT_INTERVAL = 500  # ops
VIEW_CHANGE = 0.8  # seconds of silence after which the replicas change the view


def replies_config(path: Path, cluster: int, replica: int) -> RepliesConfig:
    """What a replica's component is told."""
    from client_replies.messages.config import RepliesConfig  # here: the command's help needs the limits alone

    return RepliesConfig(
        path=str(path),
        cluster=cluster,
        replica=replica,
        clients_max=CLIENTS_MAX,
        message_size_max=MESSAGE_SIZE_MAX,
        inline_size_max=INLINE_SIZE_MAX,
        buffers_max=32,
        repair_timeout=0.1,
        tick=0.02,
        # Off, so that what is repaired here is repaired because it was needed.
        scrub_bytes_per_second=0,
    )
