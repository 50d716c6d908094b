"""The latest reply of every client session of a replicated service: durable, verified, repaired from its peers.

A client that retries gets the original reply, and no request runs twice. Keep a reply, and read it back:

    from client_replies import Replies, Reply

    if __name__ == "__main__":
        with Replies.open("replica-0.replies", cluster=1) as replies:
            reply = Reply.build(
                cluster=1, client=7, session=1, request=1, op=2, operation=16, timestamp=1, body=b"5 from A to B"
            )
            replies.write(0, reply).durable(timeout=5)
            print(replies.read(0).body)

`AsyncReplies` is the same for asyncio. An actor with a log of its own is a `RepliesOwner`: its author writes `execute`
and the log. `RepliesPort` is what both are made of, and `ClientSessions` says which request is new. All names are here;
they come from `client_replies.messages`, `.storage` and `.actors`. A whole replicated service, to which only a state
machine is missing, is `client_replies.cluster`. The command `client-replies` looks at a data file.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client_replies.actors import (
        PORT_MESSAGES,
        AsyncReplies,
        AsyncWritten,
        ClientElsewhere,
        ClientRepliesActor,
        Entry,
        MessagePoolActor,
        OpOutOfOrder,
        PortFailed,
        PortMisused,
        ReadFailed,
        ReadSucceeded,
        Replies,
        RepliesError,
        RepliesOwner,
        RepliesPort,
        RepliesUnusable,
        ReplyUnavailable,
        SlotsAreDurable,
        StorageActor,
        WritesAreDurable,
        Written,
        configure_logging,
        running_system,
        start_system,
        stop_system,
    )
    from client_replies.messages import (
        AwaitDurable,
        Checkpoint,
        CheckpointDamaged,
        CheckpointDone,
        CheckpointStarted,
        CloseReplies,
        Fault,
        FaultClass,
        FaultKind,
        GetStatus,
        InstallSessions,
        InvariantBroken,
        Message,
        MessageInvalid,
        NotRead,
        OpenFailed,
        OpenMode,
        OpenReplies,
        PeersSet,
        ReadReply,
        RemoveReplies,
        RepliesClosed,
        RepliesConfig,
        RepliesDurable,
        RepliesOpened,
        RepliesRepaired,
        RepliesStatus,
        Reply,
        ReplyHeader,
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
    from client_replies.storage import (
        ClientSessions,
        ConfigInvalid,
        SessionsInvalid,
        StorageError,
        describe,
        load_config,
    )

__version__ = "0.1.0"

__all__ = [
    "PORT_MESSAGES",
    "AsyncReplies",
    "AsyncWritten",
    "AwaitDurable",
    "Checkpoint",
    "CheckpointDamaged",
    "CheckpointDone",
    "CheckpointStarted",
    "ClientElsewhere",
    "ClientRepliesActor",
    "ClientSessions",
    "CloseReplies",
    "ConfigInvalid",
    "Entry",
    "Fault",
    "FaultClass",
    "FaultKind",
    "GetStatus",
    "InstallSessions",
    "InvariantBroken",
    "Message",
    "MessageInvalid",
    "MessagePoolActor",
    "NotRead",
    "OpOutOfOrder",
    "OpenFailed",
    "OpenMode",
    "OpenReplies",
    "PeersSet",
    "PortFailed",
    "PortMisused",
    "ReadFailed",
    "ReadReply",
    "ReadSucceeded",
    "RemoveReplies",
    "Replies",
    "RepliesClosed",
    "RepliesConfig",
    "RepliesDurable",
    "RepliesError",
    "RepliesOpened",
    "RepliesOwner",
    "RepliesPort",
    "RepliesRepaired",
    "RepliesStatus",
    "RepliesUnusable",
    "Reply",
    "ReplyHeader",
    "ReplyLost",
    "ReplyNotRead",
    "ReplyRead",
    "ReplyTaken",
    "ReplyUnavailable",
    "RequestRefused",
    "SessionsInstalled",
    "SessionsInvalid",
    "SetPeers",
    "SlotsAreDurable",
    "SlotsDurable",
    "StorageActor",
    "StorageError",
    "StorageFailed",
    "WriteReplies",
    "WritesAccepted",
    "WritesAreDurable",
    "WritesRefused",
    "Written",
    "configure_logging",
    "describe",
    "load_config",
    "running_system",
    "start_system",
    "stop_system",
]

# Where the names are, in the order in which these are asked.
_HOMES = ("messages", "storage", "actors")


def __getattr__(name: str) -> Any:
    # What is asked for is imported, and nothing else: a command that needs no actors starts in a fifth of the time.
    if name in __all__:
        for home in _HOMES:
            module = importlib.import_module(f"{__name__}.{home}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
