"""The latest reply of every client session of a replicated service: durable, verified, repaired from its peers.

A client that retries gets the original reply, and no request runs twice. Spawn the actor in a Thespian actor system,
write a reply, read it back:

    from client_replies import (
        ClientRepliesActor, OpenReplies, ReadReply, RepliesConfig, Reply, WriteReplies, running_system
    )

    if __name__ == "__main__":
        with running_system() as system:
            replies = system.createActor(ClientRepliesActor)
            config = RepliesConfig(path="replica-0.replies", cluster=1, replica=0)
            print(system.ask(replies, OpenReplies(owner=1, config=config)))
            reply = Reply.build(
                cluster=1, client=7, session=1, request=1, op=2, operation=16, timestamp=1, body=b"5 from A to B"
            )
            write = WriteReplies(owner=1, number=1, op=2, slots=(0,), payloads=(reply.pack(),))
            print(system.ask(replies, write))
            answer = system.ask(replies, ReadReply(owner=1, read=1, slot=0, expected=reply.header.pack()))
            print(Reply.unpack(answer.payload).body)

A replica uses `RepliesPort` instead of bare messages, and `ClientSessions` to know which request is new. All names are
here; they come from `client_replies.messages`, `.storage` and `.actors`. A whole replicated service, to which only a
state machine is missing, is `client_replies.cluster`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client_replies.actors import (
        PORT_MESSAGES,
        ClientRepliesActor,
        MessagePoolActor,
        PortFailed,
        PortMisused,
        ReadFailed,
        ReadSucceeded,
        RepliesPort,
        SlotsAreDurable,
        StorageActor,
        WritesAreDurable,
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
    from client_replies.storage import ClientSessions, SessionsInvalid, StorageError

__version__ = "0.1.0"

__all__ = [
    "PORT_MESSAGES",
    "AwaitDurable",
    "Checkpoint",
    "CheckpointDamaged",
    "CheckpointDone",
    "CheckpointStarted",
    "ClientRepliesActor",
    "ClientSessions",
    "CloseReplies",
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
    "RepliesClosed",
    "RepliesConfig",
    "RepliesDurable",
    "RepliesOpened",
    "RepliesPort",
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
    "configure_logging",
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
