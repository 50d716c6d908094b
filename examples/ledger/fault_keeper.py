"""The faults injected into a cluster at work: lost replies, blocked clients and partitions, until they are ended.

Guarantees: the kinds compose. Each has its own state, another fault never ends it, and `heal` ends all of them. A
replica that starts again is told the present faults with its start, before it says anything to anybody. One that does
not answer, because it is stopped or a message was lost, is told again until it does.

Limits: a count of lost replies is per replica. Of a replica that is killed, the last few losses may not be known, and
its next life loses as many more. The components' repair of each other's replies crosses a partition.

Owns: what each replica has been told to do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from client_replies.cluster.host.members import RESEND_INTERVAL, Members, is_stopped
from client_replies.messages.faults import InvariantBroken
from client_replies.messages.message import Message

from .hurt import Hurt, HurtDone, ReplicaFaults
from .ledger_replica import StartLedgerReplica

TELL_TIMEOUT = 1.5  # seconds until a replica is left to be told later


class FaultKeeper:
    """See the module."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._faults = {name: ReplicaFaults() for name in members.replicas}
        self._partitions: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        self._version = 0
        self._told: dict[str, tuple[int, int]] = {}  # by replica: its process, and the version that it confirmed
        self._told_at = 0.0
        before = members.on_turn

        def on_turn(heard: Message | None) -> None:
            before(heard)
            self._turn(heard)

        members.on_turn = on_turn

    # The faults.

    def drop_replies(self, count: int) -> None:
        """Each replica loses its next replies: so many, or as many as it was to lose anyway if that is more."""
        version = self._version + 1
        self._change(
            {
                name: replace(faults, drop_answers=max(count, faults.drop_answers), drop_version=version)
                for name, faults in self._faults.items()
            }
        )

    def block(self, client: int) -> None:
        """The client gets no replies."""
        self._change(
            {
                name: replace(faults, block=tuple(sorted({*faults.block, client})))
                for name, faults in self._faults.items()
            }
        )

    @property
    def blocked(self) -> frozenset[int]:
        """The clients that get no replies."""
        return frozenset(client for faults in self._faults.values() for client in faults.block)

    def partition(self, names: Sequence[str]) -> list[str]:
        """These replicas and the others do not hear each other, beside all partitions before. Returns the others."""
        others = [name for name in self._faults if name not in names]
        self._partitions.append((tuple(names), tuple(others)))
        self._change(
            {
                name: replace(faults, cut=tuple(sorted({*faults.cut, *(others if name in names else names)})))
                for name, faults in self._faults.items()
            }
        )
        return others

    def end_partitions(self) -> None:
        """All replicas hear each other."""
        self._partitions.clear()
        self._change({name: replace(faults, cut=()) for name, faults in self._faults.items()})

    def heal(self) -> None:
        """End all faults."""
        self._partitions.clear()
        version = self._version + 1
        self._change({name: ReplicaFaults(drop_version=version) for name in self._faults})

    def describe(self) -> dict[str, object]:
        """The present faults, for `status`."""
        return {
            "partitions": [{"replicas": list(names), "others": list(others)} for names, others in self._partitions],
            "blocked": sorted(f"{client:x}" for client in self.blocked),
            "drop_replies": {name: one.drop_answers for name, one in self._faults.items() if one.drop_answers},
        }

    # Telling the replicas.

    def _change(self, faults: dict[str, ReplicaFaults]) -> None:
        self._version += 1
        for name, one in faults.items():
            self._faults[name] = replace(one, version=self._version)
            self._keep(name)
        self._told_at = time.monotonic()
        for name in faults:
            if self._members.pid(name):
                self._members.ask_replica(name, lambda number, name=name: self._hurt(name, number), TELL_TIMEOUT)  # type: ignore[misc]

    def _keep(self, name: str) -> None:
        """The replica's next life is told, too."""
        replica = self._members.replicas[name]
        if not isinstance(replica.start, StartLedgerReplica):
            raise InvariantBroken(f"{name} was started as a replica that cannot be hurt")
        replica.start = replace(replica.start, faults=self._faults[name])

    def _hurt(self, name: str, number: int) -> Hurt:
        return Hurt(request=number, faults=self._faults[name])

    def _turn(self, heard: Message | None) -> None:
        if isinstance(heard, HurtDone):
            self._done(heard)
        now = time.monotonic()
        if not self._version or now - self._told_at < RESEND_INTERVAL:
            return
        self._told_at = now
        for name in self._faults:
            pid = self._members.pid(name)
            if pid and self._told.get(name) != (pid, self._version) and not is_stopped(pid):
                self._members.tell(name, self._hurt(name, 0))

    def _done(self, done: HurtDone) -> None:
        self._told[done.name] = (done.pid, done.version)
        faults = self._faults[done.name]
        if done.version == self._version and done.drop_answers != faults.drop_answers:
            self._faults[done.name] = replace(faults, drop_answers=done.drop_answers)
            self._keep(done.name)
