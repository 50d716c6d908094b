"""A replica: the inputs of the state machine, each of which gives what is to be done.

    replica = Replica(config, machine, stored, replies_op=..., faulty=..., now=..., random=...)
    for effect in replica.take_effects(): ...
    for effect in replica.receive(message, now): ...        # and so for each input
    for effect in replica.execute(now): ...                 # afterwards

Guarantees: no I/O, no clock, no chance but what is handed in; the same inputs give the same effects. A message that is
not valid for this cluster or that comes out of turn changes nothing. Inputs come as `effects` allows.

Limits: no store with a data file of another life (`RestartImpossible`): the replica's directory is to be
removed, and the replica started as one that lost its disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from client_replies.cluster.protocol import Request
from client_replies.cluster.state_machine import StateMachine
from client_replies.messages.message import Message, MessageInvalid

from . import adoption, checkpoint, clients, fetch, normal, recovery, repair, sync, view_change
from .config import VsrConfig
from .core import Core, Observer, Random, Status
from .durable import Snapshot, StoredLog
from .effects import Effect, RepliesCommitted
from .execution import Execution
from .log import Log
from .messages import (
    Commit,
    DoViewChange,
    Entries,
    GetEntries,
    GetSnapshot,
    GetStartView,
    Prepare,
    PrepareOk,
    Recovery,
    RecoveryResponse,
    SnapshotChunk,
    StartView,
    StartViewChange,
    VsrMessage,
)


class RestartImpossible(RuntimeError):
    """The log store and the component's data file are not of the same replica's life."""


def _on_entries(core: Core, message: Entries) -> None:
    """Entries came: for a log that is taken over, or for the places where ours rotted."""
    if not adoption.on_entries(core, message):
        view_change.begin(core, core.view + 1)
    repair.on_entries(core, message)


HANDLERS: dict[type[Message], Callable[..., None]] = {
    Prepare: view_change.on_primary,
    Commit: view_change.on_primary,
    PrepareOk: normal.on_prepare_ok,
    StartViewChange: view_change.on_start_view_change,
    DoViewChange: view_change.on_do_view_change,
    StartView: view_change.on_start_view,
    GetStartView: view_change.on_get_start_view,
    GetEntries: repair.on_get_entries,
    Entries: _on_entries,
    Recovery: recovery.on_recovery,
    RecoveryResponse: recovery.on_recovery_response,
    GetSnapshot: fetch.on_get_snapshot,
    SnapshotChunk: sync.on_chunk,
}


class Replica:
    """See the module. `core` is for reading: tests and the status look at it."""

    def __init__(
        self,
        config: VsrConfig,
        machine: StateMachine,
        stored: StoredLog,
        *,
        replies_op: int,
        faulty: Iterable[int],
        now: float,
        random: Random,
        observe: Observer | None = None,
    ) -> None:
        """Start from what the store held and what the component's opening said: its checkpoint's op, its bad slots."""
        execution = Execution(config.cluster, config.clients_max, machine)
        self.core = Core(config, execution, Log(stored), stored.state, random, observe)
        self.core.advance_time(now)
        self._restore(stored, replies_op, tuple(faulty))
        self._enter(stored.formatted)
        self._advance()

    # What was before.

    def _restore(self, stored: StoredLog, replies_op: int, faulty: tuple[int, ...]) -> None:
        core = self.core
        snapshots = {snapshot.op: snapshot for snapshot in stored.snapshots}
        latest = max(snapshots, default=0)
        # A sync that did not reach the component, or a data file that is new, or as of a checkpoint that the log has
        # gone past: the log's own table takes the place of the component's.
        goes_on = replies_op in snapshots or replies_op == 0
        unfinished = core.sync_op > replies_op or not (goes_on and core.log.covers(replies_op))
        if unfinished and latest > replies_op:
            self._start_from(snapshots[latest])
            sync.resume(core, snapshots[latest])
        elif replies_op in snapshots:
            self._start_from(snapshots[replies_op])
            checkpoint.restore(core, snapshots[replies_op])
            if core.sync_op:
                sync.await_replies(core, faulty)
        elif replies_op or stored.base:
            raise RestartImpossible(f"replies as of op {replies_op}, snapshots of {sorted(snapshots)}")

    def _start_from(self, snapshot: Snapshot) -> None:
        if not self.core.log.covers(snapshot.op):
            raise RestartImpossible(
                f"a snapshot of op {snapshot.op}, a log from {self.core.log.base} to {self.core.log.op}"
            )
        self.core.start_from(snapshot)

    def _enter(self, formatted: bool) -> None:
        core = self.core
        view_change.wait(core)
        if not core.voting:
            recovery.begin(core)
        elif core.log_view < core.view:
            view_change.resume(core)
        elif formatted or core.primary != core.replica:
            normal.enter(core)
            clients.enter_view(core)
        else:
            # It may have sent entries that were not durable here, and backups may hold them: were it to go on, it
            # would give their ops to others. The next view's primary sorts that out.
            view_change.begin(core, core.view + 1)

    # Inputs.

    def take_effects(self) -> list[Effect]:
        """Give what is to be done after the start."""
        return self.core.take_effects()

    def receive(self, message: VsrMessage, now: float) -> list[Effect]:
        """Another replica said something."""
        handler = HANDLERS.get(type(message))
        try:
            message.validate()
        except MessageInvalid:
            handler = None
        if handler is None:
            self.core.count("messages_invalid")
            return []
        return self._input(now, handler, message)

    def request(self, requests: Sequence[Request], now: float) -> list[Effect]:
        """Clients ask for something. What comes together goes into the log together, under one sync."""
        return self._input(now, clients.on_requests, requests)

    def execute(self, now: float) -> list[Effect]:
        """Execute what is committed and durable here.

        Apart from the inputs that commit it, so that what those want of the disk and of the other replicas is on its
        way before: they work while this replica executes.
        """
        return self._input(now, self._execute)

    def _execute(self, core: Core) -> None:
        began = core.executed
        while (done := normal.execute(core)) is not None:
            clients.executed(core, *done)
            checkpoint.maybe_begin(core)
        if core.executed > began:
            core.emit(RepliesCommitted(core.executed))
            recovery.maybe_vote(core)

    def tick(self, now: float) -> list[Effect]:
        """Time has passed."""
        return self._input(now, self._tick)

    def _tick(self, core: Core) -> None:
        if core.is_primary:
            normal.tick_primary(core)
        view_change.tick(core)
        adoption.tick(core)
        repair.tick(core)
        fetch.tick(core)
        recovery.tick(core)

    def log_written(self, number: int, now: float) -> list[Effect]:
        """The write with this number is durable."""
        return self._input(now, Core.written, number)

    def replies_are_ready(self, ready: bool, now: float) -> list[Effect]:
        """The component takes replies (`port.ready`), or does not: backpressure, under which nothing is executed."""
        return self._input(now, Core.set_replies_ready, ready)

    def checkpoint_done(self, op: int, now: float) -> list[Effect]:
        """The component's checkpoint of `op` is durable."""
        return self._input(now, sync.checkpoint_done, op)

    def replies_installed(self, op: int, faulty: tuple[int, ...], now: float) -> list[Effect]:
        """The component has the session table of a state sync, and is without the replies of the `faulty` slots."""
        return self._input(now, sync.replies_installed, op, faulty)

    def reply_durable(self, slot: int, now: float) -> list[Effect]:
        """An `AwaitReply` has ended."""
        return self._input(now, sync.reply_settled, slot)

    def reply_lost(self, slot: int, now: float) -> list[Effect]:
        """The component said `ReplyLost`: no peer holds the reply, and nobody waits for it any longer."""
        return self._input(now, sync.reply_settled, slot)

    def reply_read(self, header: bytes, reply: bytes, now: float) -> list[Effect]:
        """A `ReadReply` ended well."""
        return self._input(now, clients.reply_read, header, reply)

    def reply_not_read(self, header: bytes, lost: bool, now: float) -> list[Effect]:
        """A `ReadReply` ended without the reply; `lost` if no replica has it (`NotRead.LOST`)."""
        return self._input(now, clients.reply_not_read, header, lost)

    def _input(self, now: float, handler: Callable[..., None], *args: object) -> list[Effect]:
        self.core.advance_time(now)
        handler(self.core, *args)
        self._advance()
        return self.core.take_effects()

    def _advance(self) -> None:
        """What the input has made possible."""
        clients.advance(self.core)
        normal.flush(self.core)

    # What may be asked.

    @property
    def votes(self) -> bool:
        """True if this replica's promises are whole, and its log: it counts where others can do without a disk."""
        return self.core.durable.voting and not self.core.log.rotten()

    @property
    def is_whole(self) -> bool:
        """True if this replica votes and no state sync is unfinished: the next one may lose its disk."""
        core = self.core
        return core.durable.voting and core.durable.sync_op == core.sync_op == 0 and core.status is Status.NORMAL

    @property
    def is_idle(self) -> bool:
        """True if this replica takes part and has nothing to do but to keep its view: the time is for heartbeats."""
        core = self.core
        return (
            core.status is Status.NORMAL
            and core.executed == core.log.op
            and not (core.sync_op or core.sync.installing or core.clients.waiting or core.clients.reads)
        )

    def status(self) -> dict[str, int | str]:
        """Where this replica is, for people."""
        core = self.core
        return {
            "replica": core.replica,
            "status": core.status.value,
            "role": "primary" if core.is_primary else "backup" if core.durable.voting else "non-voting",
            "view": core.view,
            "log_view": core.log_view,
            "op": core.log.op,
            "commit": core.commit,
            "executed": core.executed,
            "checkpoint": core.checkpoint.op,
            "base": core.log.base,
            "rotten": len(core.log.rotten()),
            "sync": core.sync_op,
            "replies_awaited": len(core.sync.waiting),
            "requests_waiting": len(core.clients.waiting),
            **core.counters,
        }
