"""Checkpoints: what bounds the log.

Guarantees: the snapshot of an op is durable before the component's checkpoint of that op begins, and the log up to
there is kept until that one is durable too. So after a crash at any moment the store holds the snapshot of the op at
which the component's session table is, and all entries after it. It holds those of the checkpoint before as well: where
the last session table rotted, the component opens with the one before, and the replica goes on from there. An entry
that no durable checkpoint covers is never dropped, whatever the log's size: then the replica waits.
Owns: `CheckpointState`.
"""

from __future__ import annotations

from .core import CheckpointState, Core
from .durable import LogWrite, Snapshot
from .effects import CheckpointReplies


def maybe_begin(core: Core) -> None:
    """After executing an op: take a checkpoint there if it is time."""
    state, interval = core.checkpoint, core.config.checkpoint_interval
    if state.running is not None or core.sync.snapshot is not None:
        return
    # All replicas at the same ops, so that their files can be compared; one that missed its op does not wait for the
    # next, because the log may be full before that.
    due = core.executed % interval == 0 or core.executed - state.op >= 2 * interval
    if due and core.executed > state.op:
        _begin(core, core.execution.snapshot(core.executed, core.log.checksum(core.executed)))


def _begin(core: Core, snapshot: Snapshot) -> None:
    core.checkpoint.running = snapshot

    def saved() -> None:
        if core.checkpoint.running is snapshot:
            core.emit(CheckpointReplies(snapshot.op, snapshot.sessions))

    core.persist(LogWrite(state=core.state(), snapshot=snapshot), saved)


def cancel(core: Core) -> None:
    """A snapshot replaces the state: the checkpoint that is running is of no use."""
    core.checkpoint.running = None


def done(core: Core, op: int) -> None:
    """The component's session table as of `op` is durable, and every reply that it counts on."""
    running = core.checkpoint.running
    if running is not None and running.op == op:
        settle(core, running)


def restore(core: Core, snapshot: Snapshot) -> None:
    """This is the last checkpoint that is durable, here and in the component."""
    core.checkpoint = CheckpointState(op=snapshot.op, encoded=snapshot.encode())


def settle(core: Core, snapshot: Snapshot) -> None:
    """The checkpoint is durable everywhere: trim the log.

    What goes on from the checkpoint before is kept, if the log still does. One interval more than that spares others a
    state sync.
    """
    before = core.checkpoint.op
    kept = before if core.log.covers(before) else snapshot.op
    restore(core, snapshot)
    through = max(core.log.base, min(kept, snapshot.op - core.config.checkpoint_interval))
    base = (through, core.log.checksum(through))
    core.log.trim(through)
    core.persist(LogWrite(state=core.state(), base=base, snapshots_from=kept), lambda: maybe_begin(core))
