"""How the replicas agree on one order: the protocol's decisions, without I/O, clock or chance of its own.

Normal operation of Viewstamped Replication with a fixed primary. The primary gives each request the next op and sends
it on in batches; a backup takes entries in order, keeps early ones, asks for the gap and acknowledges; what a quorum
holds is committed, and every replica executes committed entries in order.

Guarantees: replicas take out the same entries in the same order, each once, whatever is lost, doubled, late or
reordered. At most `PIPELINE_MAX` ops are prepared and not committed, at most `LOG_MAX` entries are kept.

Gives up: a new primary when this one is gone, and a backup that lost its log: the next steps of this example. The log
is in memory; a backup that stays away stops the primary at `LOG_MAX`.

Owns: the log. `view` is 0 throughout, and travels with everything that will need it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from client_replies.messages.faults import invariant

from .protocol import Entry, GetPrepares, PrepareOk, Prepares, Request

PIPELINE_MAX = 128
LOG_MAX = 4096
BATCH_MAX = 64  # entries in one Prepares
RESEND_TIMEOUT = 0.1  # seconds until a backup that acknowledges nothing is sent everything again
HEARTBEAT = 0.05  # seconds until a backup that is sent nothing is told the commit
GAP_INTERVAL = 0.03  # seconds between two requests for the same gap

Outgoing = Prepares | PrepareOk | GetPrepares


def quorum_of(replicas: int) -> int:
    """How many replicas must hold an entry before it counts."""
    return replicas // 2 + 1


@dataclass(slots=True)
class _Backup:
    """What the primary knows of one backup."""

    acknowledged: int = 0
    executed: int = 0
    sent: int = 0
    progress_at: float = 0.0
    sent_at: float = 0.0


class Replication:
    """One replica's part. `send` is called with the replica that something is for."""

    def __init__(self, replica: int, replicas: int, send: Callable[[int, Outgoing], None]) -> None:
        invariant(0 <= replica < replicas, "a replica is one of its cluster")
        self.replica = replica
        self.replicas = replicas
        self.view = 0
        self.op = 0  # everything up to here is in the log, or was
        self.commit = 0  # everything up to here is committed
        self.executed = 0  # everything up to here was taken out
        self.gaps_asked = 0
        self.resends = 0
        self._send = send
        self._log: dict[int, Entry] = {}
        self._pruned = 0
        self._early: dict[int, Entry] = {}
        self._gap_asked_at = float("-inf")
        self._commit_heard = 0
        self._backups = {other: _Backup() for other in range(replicas) if other != replica}

    @property
    def primary(self) -> int:
        """The primary of the view."""
        return self.view % self.replicas

    @property
    def is_primary(self) -> bool:
        """True if this replica orders requests."""
        return self.primary == self.replica

    @property
    def room(self) -> int:
        """How many requests may be proposed now."""
        return max(0, min(PIPELINE_MAX - (self.op - self.commit), LOG_MAX - len(self._log)))

    @property
    def settled(self) -> bool:
        """True if all backups are known to have executed everything."""
        return all(backup.executed == self.op for backup in self._backups.values()) and self.executed == self.op

    # The primary.

    def propose(self, request: Request, timestamp: int) -> int:
        """Give the request the next op, which is returned. It goes out with the next `flush`."""
        invariant(self.is_primary and self.room > 0, "the primary proposes while there is room")
        self.op += 1
        self._log[self.op] = Entry(
            op=self.op, view=self.view, replica=self.replica, timestamp=timestamp, request=request
        )
        self._count_quorum()
        return self.op

    def flush(self, now: float) -> None:
        """Send each backup what it has not been sent."""
        if self.is_primary:
            for replica, backup in self._backups.items():
                while backup.sent < self.op:
                    self._send_entries(replica, backup, backup.sent + 1, self.op, now)

    def tick(self, now: float) -> None:
        """Send again what was not acknowledged; tell the commit to who is sent nothing; ask for gaps again."""
        if not self.is_primary:
            self._ask_for_gap(now)
            return
        for replica, backup in self._backups.items():
            if backup.acknowledged < backup.sent and now - backup.progress_at >= RESEND_TIMEOUT:
                self.resends += 1
                backup.progress_at = now
                backup.sent = backup.acknowledged
            elif now - backup.sent_at >= HEARTBEAT:
                backup.sent_at = now
                self._send(replica, Prepares(view=self.view, commit=self.commit, entries=()))
        self.flush(now)

    def _send_entries(self, replica: int, backup: _Backup, low: int, high: int, now: float) -> None:
        high = min(high, low + BATCH_MAX - 1)
        entries = tuple(self._log[op] for op in range(low, high + 1))
        if backup.acknowledged == backup.sent:
            backup.progress_at = now
        backup.sent = max(backup.sent, high)
        backup.sent_at = now
        self._send(replica, Prepares(view=self.view, commit=self.commit, entries=entries))

    def _on_prepare_ok(self, message: PrepareOk, now: float) -> None:
        backup = self._backups.get(message.replica)
        if not self.is_primary or backup is None or message.op > self.op:
            return
        backup.executed = max(backup.executed, message.executed)
        if message.op > backup.acknowledged:
            backup.acknowledged = message.op
            backup.sent = max(backup.sent, message.op)
            backup.progress_at = now
            self._count_quorum()
        self._prune()

    def _on_get_prepares(self, message: GetPrepares, now: float) -> None:
        backup = self._backups.get(message.replica)
        # What was asked for may have been acknowledged, and forgotten, since.
        low = max(message.low, self._pruned + 1)
        if self.is_primary and backup is not None and low <= message.high <= self.op:
            self._send_entries(message.replica, backup, low, message.high, now)

    def _count_quorum(self) -> None:
        held = sorted([self.op, *(backup.acknowledged for backup in self._backups.values())], reverse=True)
        self.commit = max(self.commit, held[quorum_of(self.replicas) - 1])

    def _prune(self) -> None:
        through = self.executed
        if self.is_primary:
            through = min([through, *(backup.acknowledged for backup in self._backups.values())])
        while self._pruned < through:
            self._pruned += 1
            del self._log[self._pruned]

    # A backup.

    def _on_prepares(self, message: Prepares, now: float) -> None:
        if self.is_primary:
            return
        for entry in message.entries:
            if self.op < entry.op <= self.op + LOG_MAX:
                self._early[entry.op] = entry
        while self.op + 1 in self._early and len(self._log) < LOG_MAX:
            self.op += 1
            self._log[self.op] = self._early.pop(self.op)
        self._commit_heard = max(self._commit_heard, message.commit)
        self.commit = max(self.commit, min(self._commit_heard, self.op))
        self._ask_for_gap(now)
        self._send(self.primary, self._prepare_ok())

    def _prepare_ok(self) -> PrepareOk:
        return PrepareOk(view=self.view, replica=self.replica, op=self.op, executed=self.executed)

    def _ask_for_gap(self, now: float) -> None:
        if not self._early or now - self._gap_asked_at < GAP_INTERVAL:
            return
        low, high = self.op + 1, min(self._early) - 1
        if low <= high:
            self.gaps_asked += 1
            self._gap_asked_at = now
            self._send(self.primary, GetPrepares(view=self.view, replica=self.replica, low=low, high=high))

    # Both.

    def receive(self, message: Outgoing, now: float) -> None:
        """Take what another replica sent."""
        if message.view != self.view:
            return
        if isinstance(message, Prepares):
            self._on_prepares(message, now)
        elif isinstance(message, PrepareOk):
            self._on_prepare_ok(message, now)
        else:
            self._on_get_prepares(message, now)

    def take_committed(self) -> Entry | None:
        """The next committed entry to execute, or None. Taken out, it counts as executed."""
        if self.executed == self.commit:
            return None
        self.executed += 1
        entry = self._log[self.executed]
        self._prune()
        return entry
