"""State sync: a replica whose ops the others' logs no longer hold takes over a snapshot of what they led to.

Guarantees: nothing changes before the whole snapshot is here (`fetch`). Then it is made durable together with the new
beginning of the log, its session table goes to the component (`InstallReplies`), the component's checkpoint follows,
and every reply that the table speaks of and the slots do not hold is awaited until it is durable or known to be lost
everywhere. Only then the sync is finished, durably (`sync_op` 0; invariant 9). A crash anywhere in between begins again
where the store says. Execution goes on meanwhile: what a session's next request replaces need not come.

Limits: no `Checkpoint` of its own until the component has the one of the snapshot.
Owns: `SyncState`.
"""

from __future__ import annotations

from . import adoption, checkpoint, clients, fetch, normal, recovery
from .core import Core, Status, SyncState
from .durable import LogWrite, Snapshot
from .effects import AwaitReply, CheckpointReplies, InstallReplies
from .messages import SnapshotChunk


def on_chunk(core: Core, message: SnapshotChunk) -> None:
    """A piece of the snapshot came."""
    snapshot = fetch.take(core, message)
    busy = core.adoption is not None and core.adoption.writing
    if snapshot is not None and snapshot.op > core.executed and not busy and core.status is not Status.RECOVERING:
        install(core, snapshot)


def install(core: Core, snapshot: Snapshot) -> None:
    """Replace the state. The log goes on after the snapshot if it is the one that led to it, and else begins there."""
    core.count("snapshots_installed")
    op = snapshot.op
    normal.write(core)
    keeps_log = core.log.covers(op) and core.log.has_checksum(op, snapshot.parent)
    if keeps_log:
        core.log.trim(op)
    else:
        core.log.reset(op, snapshot.parent)
    core.start_from(snapshot)
    checkpoint.cancel(core)
    clients.forget_reads(core)
    _begin(core, snapshot)
    cut = None if keeps_log else op
    write = LogWrite(state=core.state(), base=(op, snapshot.parent), truncate_after=cut, snapshot=snapshot)
    core.persist(write, lambda: _saved(core, snapshot))
    adoption.replan(core)


def resume(core: Core, snapshot: Snapshot) -> None:
    """After a restart: the snapshot is durable, and the component does not have it."""
    _begin(core, snapshot)
    core.persist(LogWrite(state=core.state()), lambda: _saved(core, snapshot))


def _begin(core: Core, snapshot: Snapshot) -> None:
    core.set_sync_op(snapshot.op)
    core.sync = SyncState(snapshot, installing=snapshot.op)


def _saved(core: Core, snapshot: Snapshot) -> None:
    if core.sync.snapshot is snapshot:
        core.emit(InstallReplies(snapshot.op, snapshot.sessions))


def replies_installed(core: Core, op: int, faulty: tuple[int, ...]) -> None:
    """The component expects the snapshot's replies; it does not have those of the `faulty` slots."""
    state, snapshot = core.sync, core.sync.snapshot
    if state.installing == op and snapshot is not None:
        state.installing = 0
        core.emit(CheckpointReplies(op, snapshot.sessions))
        normal.acknowledge(core)
        await_replies(core, faulty)


def checkpoint_done(core: Core, op: int) -> None:
    """The component's checkpoint is durable: that of the snapshot, or one that the replica took by itself."""
    snapshot = core.sync.snapshot
    if snapshot is None or snapshot.op != op or core.sync.installing:
        checkpoint.done(core, op)
        return
    core.sync.snapshot = None
    checkpoint.settle(core, snapshot)
    _maybe_finish(core)


def await_replies(core: Core, faulty: tuple[int, ...]) -> None:
    """Wait for the replies of these slots, some at a time."""
    core.sync.waiting = set(faulty)
    core.sync.awaited = set()
    _await_more(core)
    _maybe_finish(core)


def _await_more(core: Core) -> None:
    state = core.sync
    for slot in sorted(state.waiting - state.awaited)[: core.config.waits_max - len(state.awaited)]:
        state.awaited.add(slot)
        core.emit(AwaitReply(slot))


def reply_settled(core: Core, slot: int) -> None:
    """The slot durably holds what it is to hold, or every peer said that it does not hold it (`ReplyLost`)."""
    state = core.sync
    if slot in state.waiting:
        state.waiting.discard(slot)
        state.awaited.discard(slot)
        _await_more(core)
        _maybe_finish(core)


def _maybe_finish(core: Core) -> None:
    state = core.sync
    if core.sync_op and not state.installing and state.snapshot is None and not state.waiting:
        core.set_sync_op(0)
        core.count("syncs_finished")
        core.persist(LogWrite(state=core.state()), lambda: recovery.maybe_vote(core))
