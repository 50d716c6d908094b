"""What a `RepliesPort` notifies its owner of, and the messages that the owner gives to it.

`take_events` returns events of the classes here, and some messages of the component as they came: `RepliesOpened`,
`CheckpointDone`, `SessionsInstalled` and `RepliesClosed`, each once per request; `RepliesRepaired`, `ReplyLost` and
`StorageFailed`, unsolicited. A slot is an index from 0, an op counts committed requests from 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from client_replies.messages.faults import Fault
from client_replies.messages.message import Message
from client_replies.messages.protocol import Party, senders_to
from client_replies.messages.replies import (
    CheckpointDone,
    NotRead,
    RepliesClosed,
    RepliesOpened,
    RepliesRepaired,
    ReplyLost,
    SessionsInstalled,
    StorageFailed,
)


class PortMisused(RuntimeError):
    """The call is not allowed in the port's state, or its arguments are wrong; the text says which. It did nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortFailed:
    """The port does nothing more; the owner must recover with another one.

    The file was not opened, or the component or the pool refused a request for a reason that does not pass. `fault`
    is their reason.
    """

    fault: Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSucceeded:
    """The read that `RepliesPort.read` numbered has its reply: `header` is as asked for, `reply` is header and body.

    The component verified it, unless it comes from the port, where it is as the owner wrote it.
    """

    read: int
    slot: int
    header: bytes
    reply: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFailed:
    """The read that `RepliesPort.read` numbered has no reply, for this `reason`. CORRUPT and BUSY may pass."""

    read: int
    slot: int
    header: bytes
    reason: NotRead


@dataclass(frozen=True, slots=True, kw_only=True)
class WritesAreDurable:
    """Of every reply written up to `op`: it, or a newer one of its slot, is on disk, as `committed` was asked to say.

    Or the slot was removed, or installed anew, since. See `RepliesDurable`.
    """

    op: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsAreDurable:
    """The wait that `RepliesPort.await_durable` numbered is over: see there, and `SlotsDurable`."""

    wait: int
    slots: tuple[int, ...]


# What the component and the pool send to an owner; an actor hands each of these to `RepliesPort.receive`.
PORT_MESSAGES: tuple[type[Message], ...] = tuple(senders_to(Party.REPLICA, Party.HOLDER))
PortEvent = (
    RepliesOpened
    | PortFailed
    | ReadSucceeded
    | ReadFailed
    | SlotsAreDurable
    | WritesAreDurable
    | CheckpointDone
    | SessionsInstalled
    | RepliesClosed
    | RepliesRepaired
    | ReplyLost
    | StorageFailed
)
