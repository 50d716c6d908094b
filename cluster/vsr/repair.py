"""Repair: log entries that rotted come back from others, verified by the checksum that they had.

Guarantees: what is put in the place of a rotten entry is that entry. Until it is back, nothing after it is executed
here, and this replica does not claim to hold it. Any replica answers, in any status: the asker verifies.
Owns: `RepairState`.
"""

from __future__ import annotations

from .core import Core
from .durable import LogWrite
from .messages import Entries, GetEntries


def on_get_entries(core: Core, message: GetEntries) -> None:
    """Another replica is looking for entries."""
    found = []
    for op in message.ops:
        entry = core.log.entry(op)
        if entry is not None:
            found.append(entry)
        if len(found) == core.config.prepare_max:
            break
    core.send(message.replica, Entries(replica=core.replica, base=core.log.base, entries=tuple(found)))


def on_entries(core: Core, message: Entries) -> None:
    """Entries came: some may be for the places where ours rotted."""
    if core.adoption is not None and core.adoption.writing:
        return
    repaired = []
    for entry in message.entries:
        is_ours = core.log.has_checksum(entry.op, entry.checksum) and entry.op > core.log.base
        if is_ours and core.log.entry(entry.op) is None:
            core.log.restore(entry)
            core.count("entries_repaired")
            repaired.append(entry)
    if repaired:
        core.persist(LogWrite(state=core.state(), entries=tuple(repaired)), lambda: None)


def tick(core: Core) -> None:
    """Ask the others, one after the other, for what rotted."""
    others = core.others
    rotten = core.log.rotten()
    if not rotten or not others or core.now - core.repair.asked_at < core.config.resend:
        return
    core.repair.asked_at = core.now
    core.repair.tries += 1
    replica = others[core.repair.tries % len(others)]
    core.send(replica, GetEntries(replica=core.replica, ops=tuple(rotten[: core.config.prepare_max])))
