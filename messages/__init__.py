"""The immutable messages of the component, and the bytes of a reply.

Read in this order: `message` (what all have in common), `limits` (what a field may hold), `reply_header` and `reply`
(the bytes of a reply), `config`, `faults`, then one module per conversation: `replies` (owner and component),
`storage_io` (component and storage), `leases` (with the pool), `peers` (between components). `protocol.PROTOCOL` lists
every message with who sends it, who receives it and what answers it. What a replica exchanges with its
ClientRepliesActor is here by name.
"""

from .config import OpenMode, RepliesConfig
from .faults import CheckpointDamaged, Fault, FaultClass, FaultKind, InvariantBroken, SlotFault
from .message import Message, MessageInvalid
from .replies import (
    AwaitDurable,
    Checkpoint,
    CheckpointDone,
    CheckpointStarted,
    CloseReplies,
    GetStatus,
    InstallSessions,
    NotRead,
    OpenFailed,
    OpenReplies,
    PeersSet,
    ReadReply,
    RemoveReplies,
    RepliesClosed,
    RepliesDurable,
    RepliesOpened,
    RepliesRepaired,
    RepliesStatus,
    ReplyLost,
    ReplyNotRead,
    ReplyRead,
    ReplyTaken,
    RequestRefused,
    SessionsInstalled,
    SetPeers,
    SlotsDurable,
    StorageFailed,
    WriteReplies,
    WritesAccepted,
    WritesRefused,
)
from .reply import Reply, seal_reply, verify_reply
from .reply_header import HeaderInvalid, ReplyHeader

__all__ = [
    "AwaitDurable",
    "Checkpoint",
    "CheckpointDamaged",
    "CheckpointDone",
    "CheckpointStarted",
    "CloseReplies",
    "Fault",
    "FaultClass",
    "FaultKind",
    "GetStatus",
    "HeaderInvalid",
    "InstallSessions",
    "InvariantBroken",
    "Message",
    "MessageInvalid",
    "NotRead",
    "OpenFailed",
    "OpenMode",
    "OpenReplies",
    "PeersSet",
    "ReadReply",
    "RemoveReplies",
    "RepliesClosed",
    "RepliesConfig",
    "RepliesDurable",
    "RepliesOpened",
    "RepliesRepaired",
    "RepliesStatus",
    "Reply",
    "ReplyHeader",
    "ReplyLost",
    "ReplyNotRead",
    "ReplyRead",
    "ReplyTaken",
    "RequestRefused",
    "SessionsInstalled",
    "SetPeers",
    "SlotFault",
    "SlotsDurable",
    "StorageFailed",
    "WriteReplies",
    "WritesAccepted",
    "WritesRefused",
    "seal_reply",
    "verify_reply",
]
