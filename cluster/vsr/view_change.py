"""View changes: a new primary for what a majority can still vouch for.

Guarantees: a replica leaves a view durably before it says so, and sends its log to the new primary only after a quorum
has left too: so a quorum durably knows of any view that a log was sent for, which is what a replica that lost its disk
relies on (`recovery`). The new primary takes the log of the latest `log_view` and, among those, the longest. Every
committed entry is in it: a quorum held the entry in the view in which it was committed, and each later view's log
began with it. A long log of an earlier view may be nothing but what a cut-off primary hoped for.

Limits: a view whose primary cannot complete its log in time gives way to the next, each with more time. A
replica that hears nobody stays in the first view that it asked for, so that its return costs at most one view change.
Owns: `ViewChangeState`.
"""

from __future__ import annotations

from . import adoption, clients, normal
from .core import Core, Status, ViewChangeState
from .durable import LogWrite
from .messages import Commit, DoViewChange, GetStartView, Prepare, StartView, StartViewChange


def wait(core: Core) -> None:
    """Wait for the view's primary from now on, in a view change or as a backup."""
    core.view_change = ViewChangeState(since=core.now, pause=_pause(core, 0))


def begin(core: Core, view: int) -> None:
    """Leave for a later view."""
    failed = core.view_change.failed + (core.status is Status.VIEW_CHANGE)
    core.count("view_changes")
    _leave_for(core, view)
    core.view_change = ViewChangeState(since=core.now, pause=_pause(core, failed), failed=failed)
    core.persist(LogWrite(state=core.state()), lambda: _left(core, view))


def follow(core: Core, view: int) -> None:
    """Go to a view that has begun already: there is nothing to vote for any more."""
    _leave_for(core, view)
    wait(core)
    core.persist(LogWrite(state=core.state()), lambda: adoption.maybe_finish(core))


def resume(core: Core) -> None:
    """After a restart in the middle of a view change: the view is durable already."""
    wait(core)
    _left(core, core.view)


def _leave_for(core: Core, view: int) -> None:
    normal.write(core)
    core.leave_for(view)
    adoption.stop(core)
    clients.forget_reads(core)


def _pause(core: Core, failed: int) -> float:
    """How long to wait for a view before the next one."""
    config = core.config
    wait = min(config.view_change_max, config.view_change * config.view_change_factor ** min(failed, 16))
    return wait * (1.0 + config.jitter * core.random.random())


def _left(core: Core, view: int) -> None:
    """All earlier views are left durably: from now on it may be said."""
    if core.view == view and core.status is Status.VIEW_CHANGE and core.durable.view == view:
        core.view_change.started.add(core.replica)
        _send(core)


def _send(core: Core) -> None:
    """Say, perhaps again, what this replica has to say in this view change."""
    state = core.view_change
    state.sent_at = core.now
    if core.replica not in state.started or not core.voting:
        return
    core.broadcast(StartViewChange(view=core.view, replica=core.replica))
    if core.sync.installing:
        return  # its log begins with a snapshot that is not known to be durable: it cannot vouch for that yet
    if core.primary == core.replica:
        on_do_view_change(core, _own_log(core))
    elif len(state.started) >= core.config.quorum:
        core.send(core.primary, _own_log(core))


def _own_log(core: Core) -> DoViewChange:
    """This replica's log, in checksums. Everything in it is durable: its writes came before that of the view."""
    ops = range(core.commit, core.log.op + 1)
    return DoViewChange(
        view=core.view,
        replica=core.replica,
        log_view=core.log_view,
        op=core.log.op,
        commit=core.commit,
        checksums=tuple(core.log.checksum(op) for op in ops),
        held=tuple(op == core.commit or core.log.entry(op) is not None for op in ops),
    )


def tick(core: Core) -> None:
    """Begin a view change when the primary is silent; say again what may have been lost; give up on a view."""
    state = core.view_change
    if core.status is Status.NORMAL:
        if not core.is_primary and core.now - state.since >= state.pause:
            _give_up(core)
        return
    if core.status is not Status.VIEW_CHANGE:
        return
    if core.now - state.sent_at >= core.config.resend:
        _send(core)
    waited = core.now - state.since >= state.pause
    if waited and (len(state.started) >= core.config.quorum or not core.voting):
        _give_up(core)


def _give_up(core: Core) -> None:
    """The view's primary is silent. Who may not vote waits for the others to find a new one."""
    core.view_change.since = core.now
    if core.voting:
        begin(core, core.view + 1)
    else:
        adoption.stop(core)
        core.broadcast(GetStartView(view=core.view, replica=core.replica))


def on_start_view_change(core: Core, message: StartViewChange) -> None:
    """Another replica has left for a view."""
    if message.view > core.view and core.voting:
        begin(core, message.view)
    if message.view != core.view:
        return
    if core.is_primary:
        core.send(message.replica, start_view(core))
    elif core.status is Status.VIEW_CHANGE:
        had_quorum = len(core.view_change.started) >= core.config.quorum
        core.view_change.started.add(message.replica)
        if not had_quorum and len(core.view_change.started) >= core.config.quorum:
            core.view_change.since = core.now  # the view can begin from now on
            _send(core)


def on_do_view_change(core: Core, message: DoViewChange) -> None:
    """The new primary is told another's log."""
    if message.view > core.view and core.voting:
        begin(core, message.view)
    if message.view != core.view or core.primary != core.replica:
        return
    if core.status is Status.NORMAL:
        core.send(message.replica, start_view(core))
    elif core.status is Status.VIEW_CHANGE and core.voting:
        core.view_change.logs[message.replica] = message
        if core.replica in core.view_change.started and not core.sync.installing:
            core.view_change.logs[core.replica] = _own_log(core)
            _choose(core)


def _choose(core: Core) -> None:
    """With the logs of a quorum: take over the best, cut where it can be proven that nothing is committed."""
    logs = core.view_change.logs
    if len(logs) < core.config.quorum or (core.adoption is not None and core.adoption.writing):
        return
    best = best_log(list(logs.values()))
    commit = max(log.commit for log in logs.values())
    op = _cut(core, best, commit)
    known = checksums_by_op(best)
    adoption.begin(core, view=core.view, op=op, commit=commit, known=known, source=best.replica, adopted=_adopted)


def checksums_by_op(log: DoViewChange | StartView) -> dict[int, bytes]:
    """What the message says about each op."""
    return {log.commit + index: checksum for index, checksum in enumerate(log.checksums)}


def best_log(logs: list[DoViewChange]) -> DoViewChange:
    """The log that the view begins with: of the latest view that was normal somewhere, and of those the longest."""
    return max(logs, key=lambda log: (log.log_view, log.op, log.replica))


def _cut(core: Core, best: DoViewChange, commit: int) -> int:
    """The end of the best log, or of its part before an entry that nobody has and that cannot be committed.

    The best log's own replica may hold no more than the checksum of an entry that rotted. If a quorum never had the
    entry, it was never committed; waiting for it would never end.
    """
    for op in range(commit + 1, best.op + 1):
        checksum = best.checksums[op - best.commit]
        holders = 0
        strangers = 0
        for log in core.view_change.logs.values():
            index = op - log.commit
            if index >= len(log.checksums) or (index >= 0 and log.checksums[index] != checksum):
                strangers += 1
            elif index < 0 or log.held[index]:
                holders += 1
        if not holders and strangers >= core.config.quorum:
            core.count("rotten_entries_cut")
            return op - 1
    return best.op


def on_primary(core: Core, message: Prepare | Commit) -> None:
    """A primary speaks: this replica's, or that of a view that it is not in."""
    if message.view > core.view or (message.view == core.view and core.status is not Status.NORMAL):
        _hear_of(core, message.view)
    elif message.view == core.view and not core.is_primary:
        core.view_change.since = core.now
        if isinstance(message, Prepare):
            normal.on_prepare(core, message)
        else:
            normal.on_commit(core, message)


def _hear_of(core: Core, view: int) -> None:
    """There is a view that this replica is not in: ask its primary for its log."""
    if core.status is Status.RECOVERING or view % core.config.replicas == core.replica:
        return
    if view == core.view:
        core.view_change.since = core.now
    if core.adoption is not None and core.adoption.view >= view:
        return  # on the way
    if normal.may_nudge(core, core.config.heartbeat):
        core.send(view % core.config.replicas, GetStartView(view=view, replica=core.replica))


def start_view(core: Core) -> StartView:
    """The view's log, for who has to take it over."""
    ops = range(core.commit, core.log.op + 1)
    return StartView(
        view=core.view,
        op=core.log.op,
        commit=core.commit,
        checksums=tuple(core.log.checksum(op) for op in ops),
    )


def on_get_start_view(core: Core, message: GetStartView) -> None:
    """A replica is not in the view."""
    if core.is_primary and message.view <= core.view:
        core.send(message.replica, start_view(core))


def on_start_view(core: Core, message: StartView) -> None:
    """A view has begun: take over its log, unless this replica has it or has gone on to a later view."""
    if message.view < core.view or core.status is Status.RECOVERING:
        return
    if message.view % core.config.replicas == core.replica:
        return  # from an earlier life of this replica
    if message.view == core.view:
        if core.status is Status.NORMAL:
            normal.acknowledge(core)
            return
        core.view_change.since = core.now
        if core.adoption is not None or message.op < core.commit:
            return  # on the way; or late, and a snapshot of the view has overtaken it: the primary is asked again
    else:
        follow(core, message.view)
    source, known = core.primary, checksums_by_op(message)
    adoption.begin(
        core, view=core.view, op=message.op, commit=message.commit, known=known, source=source, adopted=_adopted
    )


def _adopted(core: Core) -> None:
    """The view's log is durable here."""
    normal.enter(core)
    if core.is_primary:
        clients.enter_view(core)
        core.broadcast(start_view(core))
    wait(core)
