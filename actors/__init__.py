"""The actors that own the state of the component, and what they need to live on Thespian.

What a user of the component needs is here by name; the modules have the rest.
"""

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.actors.component.message_pool import MessagePoolActor
from client_replies.actors.component.storage import StorageActor
from client_replies.actors.owner.handle import AsyncReplies, AsyncWritten, Replies, Written
from client_replies.actors.owner.handle_errors import (
    ClientElsewhere,
    OpOutOfOrder,
    RepliesError,
    RepliesUnusable,
    ReplyUnavailable,
)
from client_replies.actors.owner.port_events import (
    PORT_MESSAGES,
    PortFailed,
    PortMisused,
    ReadFailed,
    ReadSucceeded,
    SlotsAreDurable,
    WritesAreDurable,
)
from client_replies.actors.owner.replies_owner import Entry, RepliesOwner
from client_replies.actors.owner.replies_port import RepliesPort
from client_replies.actors.thespian.environment import Environment, RealEnvironment
from client_replies.actors.thespian.system import (
    configure_logging,
    get_logger,
    running_system,
    start_system,
    stop_system,
)

__all__ = [
    "PORT_MESSAGES",
    "AsyncReplies",
    "AsyncWritten",
    "ClientElsewhere",
    "ClientRepliesActor",
    "Entry",
    "Environment",
    "MessagePoolActor",
    "OpOutOfOrder",
    "PortFailed",
    "PortMisused",
    "ReadFailed",
    "ReadSucceeded",
    "RealEnvironment",
    "Replies",
    "RepliesError",
    "RepliesOwner",
    "RepliesPort",
    "RepliesUnusable",
    "ReplyUnavailable",
    "SlotsAreDurable",
    "StorageActor",
    "WritesAreDurable",
    "Written",
    "configure_logging",
    "get_logger",
    "running_system",
    "start_system",
    "stop_system",
]
