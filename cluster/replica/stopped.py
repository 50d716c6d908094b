"""Stopped: the replica says why it cannot go on, does nothing more, and ends its process like any other crash.

Its supervisor starts it again, from what is durable.
"""

from __future__ import annotations

from dataclasses import dataclass

from thespian.actors import ActorAddress

from client_replies.cluster.control import Join, ReplicaStopped, StartReplica

from .lifecycle import State

END_DELAY = 1.0  # seconds that a replica which stopped leaves its supervisor to hear why and to end it


@dataclass(eq=False)
class Stopped(State):
    """See the module."""

    reason: str

    def enter(self) -> None:
        replica = self.replica
        replica.log.critical("replica_stops", replica=replica.name, reason=self.reason)
        self._answer = ReplicaStopped(name=replica.name, pid=replica.machine.pid(), reason=self.reason)
        self._since = replica.environment.monotonic()
        replica.send(replica.script, self._answer)

    def receive(self, message: object, sender: ActorAddress) -> None:
        """Say why again, or end the process if it is time. Anything may wake the replica for that."""
        if self.replica.environment.monotonic() - self._since > END_DELAY:
            self.replica.machine.end()
        elif isinstance(message, StartReplica | Join):
            self.replica.send(sender, self._answer)
