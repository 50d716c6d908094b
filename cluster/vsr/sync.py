"""State sync: a replica whose ops the others' logs no longer hold takes over a snapshot of what they led to.

Guarantees: nothing changes before the whole snapshot is here and verified. Then it is made durable together with the
new beginning of the log, its session table goes to the component (`InstallReplies`), the component's checkpoint
follows, and every reply that the table speaks of and the slots do not hold is awaited until it is durable or known to
be lost everywhere. Only then the sync is finished, durably (`sync_op` 0; invariant 9). A crash anywhere in between
begins again where the store says. Execution goes on meanwhile: what a session's next request replaces need not come.
A replica never sends a snapshot to a replica in an earlier view: what the later view has committed may stand where the
logs of the earlier one have other entries, and a primary of the earlier one would take those for committed.

Limits: no `Checkpoint` of its own until the component has the one of the snapshot.
"""

from __future__ import annotations

from client_replies.messages.reply_header import checksum128

from . import adoption, checkpoint, normal, recovery
from .core import Core, Status, SyncState
from .durable import LogWrite, Snapshot, SnapshotInvalid
from .effects import AwaitReply, CheckpointReplies, InstallReplies
from .messages import GetSnapshot, SnapshotChunk


def is_needed(core: Core, base: int) -> bool:
    """True if the view's primary, whose log begins after `base`, cannot give this replica what it has to execute."""
    rotten_next = core.executed < core.log.op and core.log.entry(core.executed + 1) is None
    return base > core.log.op or (rotten_next and base > core.executed)


def begin(core: Core, source: int) -> None:
    """Fetch the state from another replica, unless that is going on."""
    state = core.sync
    if state.source == source or state.installing or source == core.replica:
        return
    core.count("syncs_begun")
    state.source = source
    state.op, state.checksum, state.size = 0, bytes(16), 0
    state.data.clear()
    _ask(core)


def _ask(core: Core) -> None:
    state = core.sync
    state.asked_at = core.now
    message = GetSnapshot(
        view=core.view, replica=core.replica, op=state.op, checksum=state.checksum, offset=len(state.data)
    )
    core.send(state.source, message)


def on_get_snapshot(core: Core, message: GetSnapshot) -> None:
    """Another replica needs state: go on with the snapshot that it is reading, or begin with the one we have now."""
    encoded, op = core.checkpoint.encoded, core.checkpoint.op
    if not encoded or message.view < core.view:
        return  # who is in an earlier view hears of this one first, and asks again
    checksum = checksum128(encoded)
    same = (message.op, message.checksum) == (op, checksum) and message.offset < len(encoded)
    offset = message.offset if same else 0
    data = encoded[offset : offset + core.config.chunk_size]
    chunk = SnapshotChunk(op=op, checksum=checksum, size=len(encoded), offset=offset, data=data)
    core.send(message.replica, chunk)


def on_chunk(core: Core, message: SnapshotChunk) -> None:
    """A piece of the snapshot came."""
    state = core.sync
    if state.source < 0:
        return
    if (message.op, message.checksum) != (state.op, state.checksum):
        if message.offset or message.op <= state.op:
            return
        state.op, state.checksum, state.size = message.op, message.checksum, message.size
        state.data.clear()
    if message.offset != len(state.data):
        return
    state.data += message.data
    if len(state.data) < state.size:
        _ask(core)
        return
    data = bytes(state.data)
    source, state.source = state.source, -1
    if checksum128(data) == state.checksum:
        _received(core, data)
    else:
        begin(core, source)


def _received(core: Core, data: bytes) -> None:
    try:
        snapshot = Snapshot.decode(data)
    except SnapshotInvalid:
        core.count("snapshots_invalid")
        return
    busy = core.adoption is not None and core.adoption.writing
    if snapshot.op > core.executed and not busy and core.status is not Status.RECOVERING:
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
    core.execution.restore(snapshot)
    core.executed = core.sync_op = op
    core.commit = max(core.commit, op) if keeps_log else op
    core.checkpoint.running = 0
    core.clients.reads.clear()
    core.sync = SyncState(installing=op, checkpointed=False)
    write = LogWrite(
        state=core.state(), base=(op, snapshot.parent), truncate_after=None if keeps_log else op, snapshot=snapshot
    )
    core.persist(write, lambda: _saved(core, snapshot))
    adoption.replan(core)


def resume(core: Core, snapshot: Snapshot) -> None:
    """After a restart: the snapshot is durable, and the component does not have it."""
    core.sync_op = snapshot.op
    core.sync = SyncState(installing=snapshot.op, checkpointed=False)
    core.checkpoint.snapshot = snapshot
    core.persist(LogWrite(state=core.state()), lambda: _saved(core, snapshot))


def _saved(core: Core, snapshot: Snapshot) -> None:
    if core.sync.installing == snapshot.op:
        core.checkpoint.snapshot = snapshot
        core.emit(InstallReplies(snapshot.op, snapshot.sessions))


def replies_installed(core: Core, op: int, faulty: tuple[int, ...]) -> None:
    """The component expects the snapshot's replies; it does not have those of the `faulty` slots."""
    state, snapshot = core.sync, core.checkpoint.snapshot
    if state.installing == op and snapshot is not None:
        state.installing = 0
        core.emit(CheckpointReplies(op, snapshot.sessions))
        normal.acknowledge(core)
        await_replies(core, faulty)


def checkpoint_done(core: Core, op: int) -> bool:
    """The component's checkpoint of the snapshot is durable. False if it is not that one."""
    snapshot = core.checkpoint.snapshot
    if core.sync.checkpointed or snapshot is None or snapshot.op != op or core.sync.installing:
        return False
    core.sync.checkpointed = True
    checkpoint.settle(core, snapshot)
    _maybe_finish(core)
    return True


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
    if core.sync_op and not state.installing and state.checkpointed and not state.waiting:
        core.sync_op = 0
        core.count("syncs_finished")
        core.persist(LogWrite(state=core.state()), lambda: recovery.maybe_vote(core))


def tick(core: Core) -> None:
    """Ask for the next piece again."""
    if core.sync.source >= 0 and core.now - core.sync.asked_at >= core.config.resend:
        _ask(core)
