"""Normal operation: the primary prepares, a quorum holds, everybody commits and executes in order.

Guarantees: a replica acknowledges an entry only when that entry and all before it are durable here; the primary commits
what a quorum has acknowledged in this view, itself included; nothing is executed that is not committed and durable
here. In one view there is one log: a backup's is a prefix of the primary's, which the chain of checksums proves.
Owns: `NormalState`.
"""

from __future__ import annotations

from client_replies.messages.faults import invariant

from . import fetch
from .core import Backup, Core, NormalState, Status
from .durable import LogWrite
from .effects import ForgetReply, KeepReply
from .execution import Applied, Skipped
from .messages import Commit, LogEntry, Prepare, PrepareOk


def enter(core: Core) -> None:
    """The replica has the view's log, durably: take part in the view."""
    invariant(not core.normal.unwritten, "what was added in another view was written when that was left")
    core.take_part()
    core.normal = NormalState()
    if core.is_primary:
        # Nobody has acknowledged anything in this view. What is in the log and not committed is acknowledged again.
        core.normal.backups = {replica: Backup(sent=core.log.op, progress_at=core.now) for replica in core.others}
        advance_commit(core)
    else:
        acknowledge(core)


def room(core: Core) -> int:
    """How many entries the primary may prepare now."""
    in_pipeline = core.log.op - core.executed
    in_log = core.log.op - core.checkpoint.op
    return max(0, min(core.config.pipeline_max - in_pipeline, core.config.log_max - in_log))


def prepare(core: Core, entry: LogEntry) -> None:
    """The primary adds an entry; it is written and sent with the next `flush`."""
    core.log.append(entry)
    core.normal.unwritten.append(entry)


def flush(core: Core) -> None:
    """Write what was added to the log in one go; as primary, send each backup what it has not been sent.

    One write is in flight; what is added meanwhile forms the next batch, for the disk and for the backups. It is sent
    before it is durable here: the backups' disks and ours work at the same time. The primary's own acknowledgement
    counts like any other, when its write is done.
    """
    if not core.normal.writing:
        write(core)
    if core.is_primary:
        for replica, backup in core.normal.backups.items():
            while backup.sent < core.log.op and _send_entries(core, replica, backup):
                pass


def write(core: Core) -> None:
    """Write what was added, also if a write is in flight: before a step that must not overtake it."""
    if core.normal.unwritten:
        entries = tuple(core.normal.unwritten)
        core.normal.unwritten.clear()
        core.normal.writing = True
        normal = core.normal
        core.persist(LogWrite(state=core.state(), entries=entries), lambda: _prepared(core, entries[-1], normal))


def _prepared(core: Core, last: LogEntry, normal: NormalState) -> None:
    """The entries up to `last` are durable, unless a view change has taken them out again meanwhile."""
    normal.writing = False
    if not core.log.has_checksum(last.op, last.checksum):
        return
    core.log.written(last.op)
    if core.status is Status.NORMAL and core.normal is normal:
        if core.is_primary:
            advance_commit(core)
        else:
            acknowledge(core)


def _send_entries(core: Core, replica: int, backup: Backup) -> bool:
    low = backup.sent + 1
    entries = []
    high = min(core.log.op - len(core.normal.unwritten), backup.sent + core.config.prepare_max)
    for op in range(low, high + 1):
        entry = core.log.entry(op)
        if entry is None:
            break  # trimmed or rotten: the heartbeat tells where the log begins, and repair goes on
        entries.append(entry)
    if not entries:
        return False
    if backup.acknowledged >= backup.sent:
        backup.progress_at = core.now
    backup.sent = entries[-1].op
    backup.sent_at = core.now
    core.send(replica, Prepare(view=core.view, commit=core.commit, entries=tuple(entries)))
    return True


# The primary.


def on_prepare_ok(core: Core, message: PrepareOk) -> None:
    """A backup durably has the view's log up to an op."""
    backup = core.normal.backups.get(message.replica)
    if not core.is_primary or message.view != core.view or backup is None or message.op > core.log.op:
        return
    if message.op > backup.acknowledged:
        backup.acknowledged = message.op
        backup.sent = max(backup.sent, message.op)
        backup.progress_at = core.now
    if message.voting and message.op > backup.voted:
        backup.voted = message.op
        advance_commit(core)


def advance_commit(core: Core) -> None:
    """Commit what a quorum holds, which is never more than this replica itself holds."""
    held = [core.log.durable, *(backup.voted for backup in core.normal.backups.values())]
    quorum_holds = sorted(held, reverse=True)[core.config.quorum - 1]
    core.commit_up_to(min(quorum_holds, core.log.durable))


def tick_primary(core: Core) -> None:
    """Send again what was not acknowledged, and do not be silent."""
    for replica, backup in core.normal.backups.items():
        if 0 <= backup.acknowledged < core.log.op and core.now - backup.progress_at >= core.config.resend:
            backup.progress_at = core.now
            backup.sent = backup.acknowledged
            core.count("prepares_resent")
        if core.now - backup.sent_at >= core.config.heartbeat:
            backup.sent_at = core.now
            core.send(replica, heartbeat(core))


def heartbeat(core: Core) -> Commit:
    """What the primary says when it has nothing to say."""
    return Commit(view=core.view, commit=core.commit, op=core.log.op, base=core.log.base)


# A backup.


def on_prepare(core: Core, message: Prepare) -> None:
    """Add what continues the log; keep what comes early."""
    for entry in message.entries:
        if entry.op > core.log.op + core.config.log_max:
            break
        core.normal.early[entry.op] = entry
    _take_early(core)
    core.commit_up_to(message.commit)


def _take_early(core: Core) -> None:
    early = core.normal.early
    for op in [op for op in early if op <= core.log.op]:
        entry = early.pop(op)
        invariant(
            op <= core.log.base or core.log.has_checksum(op, entry.checksum), "one view has one log on all replicas"
        )
    # An entry that no checkpoint of ours covers is never overwritten: behind by a whole log, we take nothing more.
    while core.log.op + 1 in early and core.log.op - core.checkpoint.op < core.config.log_max:
        entry = early.pop(core.log.op + 1)
        core.log.append(entry)
        core.normal.unwritten.append(entry)


def on_commit(core: Core, message: Commit) -> None:
    """The primary lives, and says how far it is."""
    core.commit_up_to(message.commit)
    if fetch.is_needed(core, message.base):
        fetch.begin(core, core.primary)
    # Behind, or the primary waits for an acknowledgement that was lost.
    behind = message.op > core.log.op or message.op > message.commit
    if behind and may_nudge(core, core.config.resend):
        acknowledge(core)


def may_nudge(core: Core, pause: float) -> bool:
    """True if the primary, of this view or a later one, was asked for nothing in this pause; then it is asked now."""
    if core.now - core.normal.nudged_at < pause:
        return False
    core.normal.nudged_at = core.now
    return True


def acknowledge(core: Core) -> None:
    """Tell the primary how far the view's log is durable here."""
    # While a snapshot is being installed it is not known to be durable, and the log begins with it.
    if core.status is Status.NORMAL and not core.is_primary and not core.sync.installing:
        message = PrepareOk(view=core.view, replica=core.replica, op=core.log.durable, voting=core.durable.voting)
        core.send(core.primary, message)


# Both.


def execute(core: Core) -> tuple[LogEntry, Applied | Skipped] | None:
    """Execute the next entry that is committed and durable here, if there is one and the component takes replies."""
    if not core.replies_ready or core.sync.installing or core.executed >= min(core.commit, core.log.durable):
        return None
    entry = core.log.entry(core.executed + 1)
    if entry is None:
        return None  # rotten: repair brings it back
    core.execute_next()
    applied = core.execution.apply(entry)
    core.observe(entry, applied)
    if isinstance(applied, Skipped):
        core.count("entries_skipped")
    elif applied.keep:
        core.emit(KeepReply(applied.slot, entry.op, applied.reply))
    else:
        core.emit(ForgetReply(applied.slot, entry.op))
    return entry, applied
