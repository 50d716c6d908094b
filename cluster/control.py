"""What the script and the actors of the cluster say to each other; not part of the replicated service.

The script repeats what is not answered, so each request may come twice and is answered each time. Who may send what to
a member stands beside its handlers, in its `senders`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from thespian.actors import ActorAddress

from client_replies.messages.config import Period, RepliesConfig
from client_replies.messages.limits import Distinct, Length, Range
from client_replies.messages.message import U8, U8_MAX, U32_MAX, U64, Message, Number, Op

MEMBERS_MAX = 1024

ProcessId = Annotated[int, Range(1, U32_MAX)]
Members = Annotated[tuple[tuple[str, ActorAddress], ...], Length(0, MEMBERS_MAX), Distinct(keys=True)]
ReplyActors = Annotated[tuple[tuple[U8, ActorAddress], ...], Length(0, U8_MAX), Distinct(keys=True)]


class Sender(enum.Enum):
    """Who talks to a member of the cluster, beside its own component."""

    SCRIPT = "the script that started the member"
    MEMBER = "the member that the message names, at the address that the script told"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Message):
    """Base of the messages that have a `reason` why something failed: `str()` says it."""

    reason: str

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartReplica(Message):
    """Become replica `config.replica` of `replicas`, with log and replies in `directory`.

    `fresh`: this replica was never up; else a directory without a log is a disk that was lost. `rebuild`: the others
    can do without what is on its disk (`may_lose_disk`), so that damage may be set aside and the replica begin anew.
    `epoch` is the wall clock when the monotonic one was zero.
    """

    name: str
    replicas: Annotated[int, Range(1, U8_MAX)]
    config: RepliesConfig
    directory: str
    fresh: bool
    rebuild: bool = False
    checkpoint_interval: Number = 500
    view_change: Period = 1.0
    seed: int = 0
    epoch: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStarted(Message):
    """Log and replies are open; `replies` is the replica's ClientRepliesActor, `pid` the replica's process."""

    name: str
    replies: ActorAddress
    pid: ProcessId


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStopped(Failed):
    """The replica's process `pid` does no more, and why; it ends by itself if it is not ended. Said again if asked."""

    name: str
    pid: ProcessId


@dataclass(frozen=True, slots=True, kw_only=True)
class Join(Message):
    """Who else is there: members by name, and the ClientRepliesActors by replica.

    Each has a higher number than the one before, since they may overtake each other.
    """

    number: U64
    members: Members
    replies: ReplyActors


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined(Message):
    """The member knows the others, as of the `Join` with this number. `votes` says so of a replica: see `Replica`."""

    name: str
    number: U64 = 0
    votes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GetProgress(Message):
    """How far is it?"""

    request: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Message):
    """How far a replica is: how many ops it has executed, of those that it knows to be committed."""

    request: U64
    name: str
    done: U64
    total: U64
    counters: Mapping[str, U64] = field(repr=False)
    status: Mapping[str, int | str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish(Message):
    """Execute up to `op` and have every slot durable; with `close`, also close and say what there is."""

    request: U64
    op: Op
    close: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishState(Message):
    """How far the finish is: `done` is about what was asked."""

    request: U64
    name: str
    done: bool
    waiting_for: str


def replica_name(replica: int) -> str:
    """The name by which the members know a replica."""
    return f"replica-{replica}"


def may_lose_disk(replica: str, voters: Iterable[str], replicas: int) -> bool:
    """True if those that vote are a majority without this replica: only then may what is on its disk be given up."""
    return len(set(voters) - {replica}) > replicas // 2
