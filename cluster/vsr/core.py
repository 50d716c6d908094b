"""What the parts of a replica share: its place in the protocol, its log, and the way out.

Guarantees: an effect that rests on something durable is issued from the completion of that write (`persist`). Writes
complete in order, so a step that was asked for after another never becomes durable before it. The numbers that several
parts read change by methods here, which check what is always true of them: a view, say, never goes back.
Owns: these numbers. A part's own state is in its dataclass below: every part may read it, only its owner writes it.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from client_replies.cluster.protocol import Request
from client_replies.messages.faults import invariant

from .config import VsrConfig
from .durable import DurableState, LogWrite, Snapshot
from .effects import Effect, SendMessage, WriteLog
from .execution import Applied, Execution, Skipped
from .log import Log
from .messages import DoViewChange, LogEntry, RecoveryResponse, VsrMessage

# Told of each entry that was applied, in order; for records, and without a say.
Observer = Callable[[LogEntry, Applied | Skipped], None]


class Random(Protocol):
    """The source of chance."""

    def random(self) -> float:
        """Give a number from 0 up to 1."""

    def getrandbits(self, bits: int, /) -> int:
        """Give a number of so many bits."""


class Status(enum.Enum):
    """Where a replica is in the protocol."""

    NORMAL = "in the view, with its log"
    VIEW_CHANGE = "has left all earlier views, and does not have the view's log yet"
    RECOVERING = "lost its disk, and does not know the view"


@dataclass(slots=True)
class Backup:
    """What the primary knows of another replica in this view."""

    acknowledged: int = -1  # -1: not heard of; else it durably has the view's log up to here
    voted: int = 0  # and had a vote when it said so
    sent: int = 0
    progress_at: float = 0.0
    sent_at: float = float("-inf")


@dataclass(slots=True)
class NormalState:
    """Owned by `normal`."""

    backups: dict[int, Backup] = field(default_factory=dict)
    unwritten: list[LogEntry] = field(default_factory=list)  # in the log, and in no write yet
    writing: bool = False
    early: dict[int, LogEntry] = field(default_factory=dict)  # prepares that came before those between
    nudged_at: float = float("-inf")


@dataclass(slots=True)
class ClientsState:
    """Owned by `clients`."""

    waiting: dict[int, Request] = field(default_factory=dict)  # by client, to be judged when there is room
    pipeline: dict[int, int] = field(default_factory=dict)  # by client: op of its request in the log, not executed
    reads: dict[bytes, int] = field(default_factory=dict)  # by packed header: the client that waits for the reply
    view_op: int = 0  # where the log ended when the view began: until it is executed, the table is behind
    timestamp: int = 0


@dataclass(slots=True)
class ViewChangeState:
    """Owned by `view_change`."""

    started: set[int] = field(default_factory=set)  # replicas that have left for this view
    logs: dict[int, DoViewChange] = field(default_factory=dict)
    sent_at: float = float("-inf")
    since: float = 0.0  # when the primary was last heard of, or the view could begin
    pause: float = 0.0  # how long that is waited for
    failed: int = 0  # views in a row that did not begin


@dataclass(slots=True)
class Adoption:
    """A view's log that is being taken over. Owned by `adoption`."""

    view: int
    op: int
    commit: int
    known: dict[int, bytes]  # checksums by op
    source: int
    adopted: Callable[[Core], None]  # called when the log is durable here
    keep: int = 0  # our own log is the same up to here
    missing: set[int] = field(default_factory=set)
    staged: dict[int, LogEntry] = field(default_factory=dict)
    asked_at: float = float("-inf")
    tries: int = 0
    writing: bool = False


@dataclass(slots=True)
class RepairState:
    """Owned by `repair`."""

    asked_at: float = float("-inf")
    tries: int = 0


@dataclass(slots=True)
class CheckpointState:
    """Owned by `checkpoint`."""

    op: int = 0  # the last one that is durable, here and in the component
    encoded: bytes = b""  # its snapshot, for who needs it
    running: Snapshot | None = None  # of the one that is not


@dataclass(slots=True)
class FetchState:
    """Owned by `fetch`."""

    source: int = -1  # the replica whose snapshot is fetched, or -1
    op: int = 0
    checksum: bytes = bytes(16)
    size: int = 0
    data: bytearray = field(default_factory=bytearray)
    asked_at: float = float("-inf")


@dataclass(slots=True)
class SyncState:
    """Owned by `sync`."""

    snapshot: Snapshot | None = None  # the one that the component has no checkpoint of
    installing: int = 0  # its op, until it is installed in the component
    waiting: set[int] = field(default_factory=set)  # slots whose replies are not durable
    awaited: set[int] = field(default_factory=set)  # of these, those that the component was asked about


@dataclass(slots=True)
class RecoveryState:
    """Owned by `recovery`."""

    nonce: int = 0
    responses: dict[int, RecoveryResponse] = field(default_factory=dict)
    view: int = -1  # what the responses of a quorum say to catch up with, once there is one
    op: int = 0
    sent_at: float = float("-inf")


class Core:
    """See the module."""

    def __init__(
        self,
        config: VsrConfig,
        execution: Execution,
        log: Log,
        state: DurableState,
        random: Random,
        observe: Observer | None = None,
    ) -> None:
        self.config = config
        self.observe = observe or _unobserved
        self.replica = config.replica
        self.execution = execution
        self.log = log
        self.random = random
        self.now = 0.0
        self.status = Status.VIEW_CHANGE
        self.view = state.view
        self.log_view = state.log_view
        self.voting = state.voting
        self.sync_op = state.sync_op
        self.commit = min(state.commit, log.op)
        self.executed = 0
        self.durable = state  # as of the last write that completed
        self.replies_ready = True
        self.normal = NormalState()
        self.clients = ClientsState()
        self.view_change = ViewChangeState()
        self.adoption: Adoption | None = None
        self.repair = RepairState()
        self.checkpoint = CheckpointState()
        self.fetch = FetchState()
        self.sync = SyncState()
        self.recovery = RecoveryState()
        self.counters: dict[str, int] = {}
        self._effects: list[Effect] = []
        self._writes: deque[tuple[int, DurableState, Callable[[], None]]] = deque()
        self._write_number = 0

    @property
    def primary(self) -> int:
        """The primary of the view."""
        return self.view % self.config.replicas

    @property
    def is_primary(self) -> bool:
        """True if this replica is the view's active primary."""
        return self.status is Status.NORMAL and self.primary == self.replica

    @property
    def others(self) -> list[int]:
        """All replicas but this one."""
        return [replica for replica in range(self.config.replicas) if replica != self.replica]

    def advance_time(self, now: float) -> None:
        """It is `now`, or later."""
        self.now = max(self.now, now)

    def set_replies_ready(self, ready: bool) -> None:
        """The component takes replies, or does not."""
        self.replies_ready = ready

    # The numbers.

    def recover(self) -> None:
        """This replica lost its disk."""
        invariant(not self.voting, "who lost its disk has no vote")
        self.status = Status.RECOVERING

    def leave_for(self, view: int) -> None:
        """Go to a view, whose log is not here yet."""
        invariant(view >= self.view, "a replica goes back to no view")
        self.status, self.view = Status.VIEW_CHANGE, view

    def log_is_of(self, view: int) -> None:
        """The log is the right one as of this view."""
        invariant(self.log_view <= view <= self.view, "a log goes back to no view, and not ahead of its replica")
        self.log_view = view

    def take_part(self) -> None:
        """Take part in the view, whose log is here."""
        invariant(self.log_view == self.view, "who takes part in a view has its log")
        self.status = Status.NORMAL

    def commit_up_to(self, op: int) -> None:
        """What is committed is committed here as far as the log is here."""
        self.commit = max(self.commit, min(op, self.log.op))

    def execute_next(self) -> None:
        """The next op is executed."""
        invariant(self.executed < min(self.commit, self.log.durable), "what is executed is committed and durable here")
        self.executed += 1

    def start_from(self, snapshot: Snapshot) -> None:
        """The state is that of a snapshot, and the log goes on from there."""
        invariant(self.executed <= snapshot.op, "no execution is taken back")
        invariant(self.log.covers(snapshot.op), "the log goes on from the snapshot")
        self.execution.restore(snapshot)
        self.executed = snapshot.op
        self.commit_up_to(snapshot.op)
        invariant(self.commit <= self.log.op, "what is committed is in the log")

    def regain_vote(self) -> None:
        """This replica's promises are whole again."""
        invariant(not self.voting and not self.sync_op, "a vote is regained once, when no state sync is unfinished")
        self.voting = True

    def set_sync_op(self, op: int) -> None:
        """The replies of a snapshot are awaited; with 0, none are."""
        self.sync_op = op

    # The way out.

    def emit(self, effect: Effect) -> None:
        """Want something done."""
        self._effects.append(effect)

    def take_effects(self) -> list[Effect]:
        """Give what is wanted since the last call."""
        effects, self._effects = self._effects, []
        return effects

    def send(self, replica: int, message: VsrMessage) -> None:
        """Send to one."""
        self.emit(SendMessage(replica, message))

    def broadcast(self, message: VsrMessage) -> None:
        """Send to all others."""
        for replica in self.others:
            self.send(replica, message)

    def state(self) -> DurableState:
        """The promises as they are now, to be made durable."""
        return DurableState(
            view=self.view,
            log_view=self.log_view,
            voting=self.voting,
            sync_op=self.sync_op,
            commit=self.commit,
        )

    def persist(self, write: LogWrite, done: Callable[[], None]) -> None:
        """Make durable, after everything before; then go on with `done`."""
        self._write_number += 1
        self._writes.append((self._write_number, write.state, done))
        self.emit(WriteLog(self._write_number, write))

    def written(self, number: int) -> None:
        """The oldest write is durable."""
        invariant(self._writes and self._writes[0][0] == number, "writes complete in the order in which they began")
        _, self.durable, done = self._writes.popleft()
        done()

    def count(self, event: str) -> None:
        """Count a rare event by name."""
        self.counters[event] = self.counters.get(event, 0) + 1


def _unobserved(entry: LogEntry, applied: Applied | Skipped) -> None:
    """Nobody looks on."""
