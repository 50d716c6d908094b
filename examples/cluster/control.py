"""What the script and the actors of the cluster say to each other; not part of the replicated service.

The script repeats what is not answered, so each request may come twice and is answered each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from thespian.actors import ActorAddress

from client_replies.messages.config import RepliesConfig
from client_replies.messages.message import Message

from .service import Plant


@dataclass(frozen=True, slots=True, kw_only=True)
class StartReplica(Message):
    """Become replica `config.replica` of `replicas`, with everything in `directory`."""

    name: str
    replicas: int
    config: RepliesConfig
    directory: str
    checkpoint_interval: int
    seed: int
    epoch: int
    drop_replies: float
    duplicate_requests: float
    damages: int
    replies_expected: int
    plant: Plant | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStarted(Message):
    """The data file is open; `replies` is the replica's ClientRepliesActor."""

    name: str
    replies: ActorAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFailed(Message):
    """The member cannot go on, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Join(Message):
    """Who else is there: members by name, and the ClientRepliesActors by replica."""

    members: tuple[tuple[str, ActorAddress], ...]
    replies: tuple[tuple[int, ActorAddress], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined(Message):
    """The member knows the others."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartClient(Message):
    """Send transfers of the file: session `i` of `sessions_all` sends rows `i`, `i + sessions_all`, and so on."""

    name: str
    primary: str
    cluster: int
    transfers: str
    record: str
    sessions: tuple[int, ...]
    sessions_all: int
    seed: int
    drop_replies: float
    duplicate_requests: float
    members: tuple[tuple[str, ActorAddress], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GetProgress(Message):
    """How far is it?"""

    request: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Message):
    """How far a member is: replicas count ops, clients rows."""

    request: int
    name: str
    done: int
    total: int
    counters: Mapping[str, int] = field(repr=False)
    finished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish(Message):
    """Execute up to `op` and have every slot durable; with `close`, also take a last checkpoint and close."""

    request: int
    op: int
    close: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishState(Message):
    """How far the finish is: `done` is about what was asked."""

    request: int
    name: str
    done: bool
    waiting_for: str


def client_id(session: int) -> int:
    """The client that uses session `session` of the run (from 0): any u128 above 0 would do."""
    return (session + 1) << 64 | 0xC11E
