"""The actors that own the state of the component, and what they need to live on Thespian.

What a user of the component needs is here by name; the modules have the rest.
"""

from .client_replies import ClientRepliesActor
from .environment import Environment, RealEnvironment
from .message_pool import MessagePoolActor
from .replies_port import RepliesPort
from .storage import StorageActor
from .system import configure_logging, get_logger, running_system, start_system, stop_system

__all__ = [
    "ClientRepliesActor",
    "Environment",
    "MessagePoolActor",
    "RealEnvironment",
    "RepliesPort",
    "StorageActor",
    "configure_logging",
    "get_logger",
    "running_system",
    "start_system",
    "stop_system",
]
