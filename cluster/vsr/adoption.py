"""Taking over a view's log, as its new primary or as a backup that was not in the view.

Guarantees: the own log and its `log_view` stay as they are until every entry of the new log is here and verified; then
both change in one durable step. Had a replica the new `log_view` with half of the log, the next view change would take
its log for the better one, and lose what the rest of it held. The own log is kept as far as it is the same: up to an op
with the same checksum, or to what is committed.

Limits: no entries that all have trimmed. A backup then needs a state sync; a new primary leaves the view to others.
Owns: `Adoption`.
"""

from __future__ import annotations

from collections.abc import Callable

from client_replies.messages.faults import invariant

from . import fetch
from .core import Adoption, Core
from .durable import LogWrite
from .messages import Entries, GetEntries, LogEntry


def begin(
    core: Core,
    *,
    view: int,
    op: int,
    commit: int,
    known: dict[int, bytes],
    source: int,
    adopted: Callable[[Core], None],
) -> None:
    """Take over the log up to `op`, which `source` has; the checksum of `op` is known, and some of those before it.

    When the log is durable here, `adopted` is called.
    """
    invariant(max(core.commit, commit) <= op, "a view's log holds all that is committed")
    before = core.adoption
    if before is not None and (before.view, before.op, before.known[before.op]) == (view, op, known[op]):
        return
    core.adoption = Adoption(view, op, commit, known, source, adopted)
    if before is not None:
        core.adoption.staged = before.staged
    replan(core)


def stop(core: Core) -> None:
    """The view is left, or its primary is asked for its log again."""
    core.adoption = None


def replan(core: Core) -> None:
    """See what of the new log is here, and get the rest. Also after the own log has changed."""
    adoption = core.adoption
    if adoption is None or adoption.writing:
        return
    adoption.keep = _same_up_to(core, adoption)
    wanted = set(range(adoption.keep + 1, adoption.op + 1))
    if core.primary == core.replica:
        # A primary serves its whole log; a backup's rotten entries can wait for `repair`.
        wanted |= {op for op in core.log.rotten() if core.executed < op <= adoption.keep}
    adoption.staged = {op: entry for op, entry in adoption.staged.items() if op in wanted}
    adoption.missing = wanted - adoption.staged.keys()
    maybe_finish(core)
    if core.adoption is adoption and not adoption.writing:
        _ask(core, adoption)


def _same_up_to(core: Core, adoption: Adoption) -> int:
    for op in range(min(core.log.op, adoption.op), core.commit, -1):
        if op in adoption.known and core.log.has_checksum(op, adoption.known[op]):
            return op
    return core.commit


def _ask(core: Core, adoption: Adoption) -> None:
    others = core.others
    if adoption.missing and others:
        adoption.asked_at = core.now
        # First who is known to have it all, then each in turn: entries are verified, so any will do.
        first = adoption.tries == 0 and adoption.source != core.replica
        replica = adoption.source if first else others[adoption.tries % len(others)]
        ops = sorted(adoption.missing)[: core.config.log_max]
        core.send(replica, GetEntries(replica=core.replica, ops=tuple(ops)))


def tick(core: Core) -> None:
    """Ask again, and somebody else."""
    if core.adoption is not None and core.now - core.adoption.asked_at >= core.config.resend:
        core.adoption.tries += 1
        replan(core)


def on_entries(core: Core, message: Entries) -> bool:
    """Entries came; those that are missing and can be right are put aside until all are there.

    False if this replica is the view's primary and will not get them: it leaves the view to others.
    """
    adoption = core.adoption
    if adoption is None or adoption.writing:
        return True
    for entry in message.entries:
        known = adoption.known.get(entry.op)
        if entry.op in adoption.missing and known in (None, entry.checksum):
            adoption.staged[entry.op] = entry
            adoption.missing.discard(entry.op)
    if adoption.missing and min(adoption.missing) <= message.base and message.replica == adoption.source:
        if core.primary == core.replica:
            core.count("views_left_to_others")
            return False
        fetch.begin(core, adoption.source)
    elif message.entries and adoption.missing:
        _ask(core, adoption)
    maybe_finish(core)
    return True


def maybe_finish(core: Core) -> None:
    """With every entry here and the view durable: take the log over."""
    adoption = core.adoption
    if adoption is None or adoption.missing or adoption.writing or core.durable.view != adoption.view:
        return
    wrong = _first_wrong(core, adoption)
    if wrong is not None:
        del adoption.staged[wrong]
        adoption.missing.add(wrong)
        return
    entries = tuple(adoption.staged[op] for op in sorted(adoption.staged) if op <= adoption.op)
    adoption.writing = True
    core.log.truncate_after(adoption.keep)
    for entry in entries:
        if entry.op > adoption.keep:
            core.log.append(entry)
        elif entry.op > core.log.base:
            core.log.restore(entry)
    entries = tuple(entry for entry in entries if entry.op > core.log.base)
    core.log_is_of(adoption.view)
    core.commit_up_to(adoption.commit)
    write = LogWrite(state=core.state(), truncate_after=adoption.keep, entries=entries)
    core.persist(write, lambda: _finished(core, adoption))


def _first_wrong(core: Core, adoption: Adoption) -> int | None:
    """Follow the chain down from the head: the first staged entry that is not the one its successor names."""
    expected = adoption.known[adoption.op]
    for op in range(adoption.op, adoption.keep, -1):
        entry: LogEntry = adoption.staged[op]
        if entry.checksum != expected:
            return op
        expected = entry.parent
    if adoption.op > adoption.keep:
        # Where nothing was fetched there is nothing to check: `keep` is the same by its checksum, or committed.
        invariant(core.log.has_checksum(adoption.keep, expected), "what is committed is the same in every log")
    for op in [op for op in adoption.staged if op <= adoption.keep]:
        if not core.log.has_checksum(op, adoption.staged[op].checksum):
            return op
    return None


def _finished(core: Core, adoption: Adoption) -> None:
    if core.adoption is adoption and core.view == adoption.view:
        stop(core)
        core.log.written(core.log.op)
        adoption.adopted(core)
