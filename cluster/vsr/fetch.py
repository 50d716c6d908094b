"""Fetching a snapshot from another replica, in pieces.

Guarantees: nothing is given on before the whole snapshot is here and verified. A replica never sends a snapshot to a
replica in an earlier view: what the later view has committed may stand where the logs of the earlier one have other
entries, and a primary of the earlier one would take those for committed.
Owns: `FetchState`.
"""

from __future__ import annotations

from client_replies.messages.reply_header import checksum128

from .core import Core, FetchState
from .durable import Snapshot, SnapshotInvalid
from .messages import GetSnapshot, SnapshotChunk


def is_needed(core: Core, base: int) -> bool:
    """True if the view's primary, whose log begins after `base`, cannot give this replica what it has to execute."""
    rotten_next = core.executed < core.log.op and core.log.entry(core.executed + 1) is None
    return base > core.log.op or (rotten_next and base > core.executed)


def begin(core: Core, source: int) -> None:
    """Fetch the state from another replica, unless that is going on."""
    if core.fetch.source == source or core.sync.installing or source == core.replica:
        return
    core.count("syncs_begun")
    core.fetch = FetchState(source)
    _ask(core)


def _ask(core: Core) -> None:
    state = core.fetch
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


def take(core: Core, message: SnapshotChunk) -> Snapshot | None:
    """A piece of the snapshot came. With the last one, give the snapshot."""
    state = core.fetch
    if state.source < 0:
        return None
    if (message.op, message.checksum) != (state.op, state.checksum):
        if message.offset or message.op <= state.op:
            return None
        state.op, state.checksum, state.size = message.op, message.checksum, message.size
        state.data.clear()
    if message.offset != len(state.data):
        return None
    state.data += message.data
    if len(state.data) < state.size:
        _ask(core)
        return None
    core.fetch = FetchState()
    if checksum128(state.data) != state.checksum:
        begin(core, state.source)
        return None
    try:
        return Snapshot.decode(bytes(state.data))
    except SnapshotInvalid:
        core.count("snapshots_invalid")
        return None


def tick(core: Core) -> None:
    """Ask for the next piece again."""
    if core.fetch.source >= 0 and core.now - core.fetch.asked_at >= core.config.resend:
        _ask(core)
