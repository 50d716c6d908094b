"""What a `RepliesPort` tells its owner, and the messages that the owner hands to it."""

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
    """The port was asked for what it does not do in its state, and did nothing: a mistake of the owner's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortFailed:
    """The port does nothing more: the file was not opened, or the component refused what it must take."""

    fault: Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSucceeded:
    """A read ended well: the whole reply, verified, whose packed header was asked for."""

    read: int
    slot: int
    header: bytes
    reply: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFailed:
    """A read ended without the reply, and why."""

    read: int
    slot: int
    header: bytes
    reason: NotRead


@dataclass(frozen=True, slots=True, kw_only=True)
class WritesAreDurable:
    """Of every reply written up to `op`: it, or a newer one of its slot, is on disk.

    Or the slot was removed, or installed anew, since. See `RepliesDurable`.
    """

    op: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsAreDurable:
    """The wait that `await_durable` numbered is over: see there, and `SlotsDurable`."""

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
