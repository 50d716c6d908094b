"""Every message of the component in one table: who sends it, who receives it, and what answers it.

Guarantees: each message class is in `PROTOCOL` once, and class names are unique, because actors dispatch by class and
people search by name. Tests compare the table with the classes. An empty list of answers means that none is sent.
An actor has a handler for each message to the parties that it is, and for no other of this table; before a handler sees
a message, its sender is compared with the table's (`ComponentActor`).
What stops or closes a component may take the place of any answer, and is listed once, under "told without asking".
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import partial

from . import leases, peers, replies, storage_io
from .message import Message


class Party(enum.Enum):
    """Who talks."""

    REPLICA = "the replica that owns the data file"
    REPLIES = "ClientRepliesActor"
    PEER = "ClientRepliesActor of another replica"
    STORAGE = "StorageActor"
    POOL = "MessagePoolActor"
    HOLDER = "who may hold leases: the replica and its ClientRepliesActor, each under its own number"
    ANYONE = "anyone"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A message, its ends, and the messages of which one (or, where its class says so, more) comes back."""

    message: type[Message]
    sender: Party
    receiver: Party
    answers: tuple[type[Message], ...] = ()


def _asks(
    sender: Party, receiver: Party, message: type[Message], *answers: type[Message], answered: Party | None = None
) -> tuple[Exchange, ...]:
    request = Exchange(message, sender, receiver, answers)
    return (request, *(Exchange(answer, receiver, answered or sender) for answer in answers))


_replica_asks = partial(_asks, Party.REPLICA, Party.REPLIES)
_replies_asks = partial(_asks, Party.REPLIES, Party.STORAGE)
_holder_asks = partial(_asks, Party.HOLDER, Party.POOL)


def _once(*groups: tuple[Exchange, ...]) -> tuple[Exchange, ...]:
    """The rows in order; an answer that several requests share is listed where it comes first."""
    rows: dict[type[Message], Exchange] = {}
    for row in (row for group in groups for row in group):
        rows.setdefault(row.message, row)
    return tuple(rows.values())


PROTOCOL = _once(
    # The replica and its ClientRepliesActor.
    # Anyone may open: who does becomes the owner. `WithFile.opening_fault` says when one owner may replace another.
    _asks(
        Party.ANYONE,
        Party.REPLIES,
        replies.OpenReplies,
        replies.RepliesOpened,
        replies.OpenFailed,
        answered=Party.REPLICA,
    ),
    _replica_asks(replies.SetPeers, replies.PeersSet, replies.RequestRefused),
    _replica_asks(replies.WriteReplies, replies.WritesAccepted, replies.WritesRefused, replies.RepliesDurable),
    _replica_asks(replies.RemoveReplies, replies.WritesAccepted, replies.WritesRefused),
    _replica_asks(replies.AwaitDurable, replies.SlotsDurable, replies.RequestRefused),
    _replica_asks(replies.ReadReply, replies.ReplyRead, replies.ReplyNotRead),
    _replica_asks(replies.ReplyTaken),
    _replica_asks(replies.InstallSessions, replies.SessionsInstalled, replies.RequestRefused),
    _replica_asks(replies.Checkpoint, replies.CheckpointStarted, replies.CheckpointDone, replies.RequestRefused),
    _replica_asks(replies.CloseReplies, replies.RepliesClosed, replies.RequestRefused),
    _asks(Party.ANYONE, Party.REPLIES, replies.GetStatus, replies.RepliesStatus),
    # The same, told without asking.
    _asks(Party.REPLIES, Party.REPLICA, replies.RepliesRepaired),
    _asks(Party.REPLIES, Party.REPLICA, replies.ReplyLost),
    _asks(Party.REPLIES, Party.REPLICA, replies.StorageFailed),
    # The ClientRepliesActors of two replicas.
    _asks(Party.REPLIES, Party.PEER, peers.GetReplies, peers.RepliesFound, peers.RepliesMissing),
    # The ClientRepliesActor and its StorageActor.
    _replies_asks(storage_io.OpenStorage, storage_io.StorageOpened, storage_io.StorageOpenFailed),
    _replies_asks(storage_io.WriteSlots, storage_io.SlotsWritten),
    _replies_asks(storage_io.ReadSlots, storage_io.SlotsRead),
    _replies_asks(storage_io.VerifySlots, storage_io.SlotsVerified),
    _replies_asks(storage_io.WriteCheckpoint, storage_io.CheckpointWritten),
    _replies_asks(storage_io.CloseStorage, storage_io.StorageClosed),
    # The same, told without asking.
    _asks(Party.STORAGE, Party.REPLIES, storage_io.StorageStopped),
    # Who may hold leases, and the MessagePoolActor.
    _asks(Party.REPLIES, Party.POOL, leases.OpenPool, leases.PoolOpened, leases.PoolOpenFailed),
    _holder_asks(leases.AcquireLeases, leases.LeasesGranted, leases.LeasesRefused),
    _holder_asks(leases.ReleaseLeases, leases.LeasesReleased, leases.LeasesRefused),
    _asks(Party.REPLIES, Party.POOL, leases.ReclaimLeases, leases.LeasesReclaimed),
    _asks(Party.ANYONE, Party.POOL, leases.GetPoolStatus, leases.PoolStatus),
)


def senders_to(*parties: Party) -> dict[type[Message], Party]:
    """The messages to these parties, and who may send each."""
    return {row.message: row.sender for row in PROTOCOL if row.receiver in parties}
