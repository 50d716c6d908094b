"""Who hears what a replica does while it works: by default nobody.

A service that records what happens, or a drill, gives the replica an observer of its own (`make_parts`). The
replica's handlers call it, and what it raises ends the replica: an `OSError` is the reason why it stops.
"""

from __future__ import annotations

from client_replies.cluster.vsr.core import Core
from client_replies.cluster.vsr.execution import Applied, Skipped
from client_replies.cluster.vsr.messages import LogEntry


class Observer:
    """See the module. Every method does nothing."""

    def executed(self, entry: LogEntry, applied: Applied | Skipped) -> None:
        """An entry of the log was applied."""

    def installed(self, op: int) -> None:
        """The state was replaced by that of another replica."""

    def reply_kept(self, slot: int, reply: bytes) -> None:
        """The component was given the reply."""

    def reply_needed(self, slot: int, header: bytes) -> None:
        """A client asks for a stored reply."""

    def reply_repaired(self, slot: int, header: bytes) -> None:
        """The slot's reply came from a peer and is on disk again."""

    def reply_lost(self, slot: int, header: bytes) -> None:
        """Neither this replica nor any other holds the slot's reply."""

    def slots_durable(self, wait: int) -> None:
        """A wait of the port is over that was not the replica's."""

    def tick(self, now: float) -> None:
        """Time has passed."""

    def flush(self, core: Core) -> None:
        """A handler ends: nothing of what was heard in it has left the replica yet."""

    def close(self, core: Core) -> None:
        """The replica has closed, with all slots durable."""
