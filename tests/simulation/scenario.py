"""Scenarios by hand: a quiet run, in which a test decides what goes wrong, and when.

Guarantees: the same checkers watch as in a drawn run. Nothing goes wrong by itself. Owns: the world.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from client_replies.actors.thespian.logs import configure_logging
from client_replies.messages.reply_header import packed_size
from client_replies.storage.layout import sectors_size

from .chance import MICROSECONDS
from .disk import SimFile
from .plan import REPLICAS, Plan
from .replica import ReplicaActor
from .runner import SILENT
from .system import Process
from .world import World

QUIET = Plan(
    seed=1, clients=4, requests=60, clients_max=4, fault_time=60.0, think=0.02, primary_rate=0.0, body_none=0.0
)


class Scenario:
    """A world, and what a test does to it."""

    def __init__(self, **changes: Any) -> None:
        configure_logging(None, SILENT)
        self.world = World(QUIET.changed(**changes))
        self.dropped = 0
        self._drop: list[tuple[type, int]] = []
        self._when: list[tuple[type, Callable[[Process, Any], bool], Callable[[int], None]]] = []
        self.world.system.sending.append(self._sending)
        self._deliveries = self.world.network.deliveries
        self.world.network.deliveries = self._filtered  # type: ignore[method-assign]
        self.world._start()

    # What a test may do.

    def drop(self, kind: type, times: int = 1) -> None:
        """Lose the next messages of this class."""
        self._drop.append((kind, times))

    def when(
        self, kind: type, action: Callable[[int], None], which: Callable[[Process, Any], bool] | None = None
    ) -> None:
        """Once, as the next message of this class is sent: do this, with the index of the sender's replica."""
        self._when.append((kind, which or (lambda _process, _message: True), action))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.world.system.run(self.world.system.now + int(seconds * MICROSECONDS))

    def run_until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        """Let time pass until this holds; a test fails if it does not in time."""
        limit = self.world.system.now + int(seconds * MICROSECONDS)
        assert self.world.system.run(limit, condition), f"not within {seconds} s"

    def run_requests(self, count: int) -> None:
        """Until so many entries are committed and executed everywhere."""
        self.run_until(lambda: all(replica.applied >= count for replica in self.replicas()))

    def finish(self) -> World:
        """Heal, and let the checkers judge the end."""
        try:
            self.world._run_calm()
            self.world._run_end()
        finally:
            self.world.checkers.harvest()
            for process in list(self.world.system.processes.values()):
                for release in process.on_death:
                    release()
        return self.world

    # What a test may look at.

    def replicas(self) -> list[ReplicaActor]:
        """The replicas that have their file open, all of them or none."""
        living = self.world.living()
        return living if len(living) == REPLICAS else [_NoReplica()]  # type: ignore[list-item]

    def slots(self, index: int) -> Any:
        """The slots of a replica's component."""
        return self.world.parts(index).opened.slots

    def file(self, index: int) -> SimFile:
        """The data file of a replica."""
        file = self.world.file(index)
        assert file is not None
        return file

    def marks(self, name: str) -> int:
        """How often a mark was reached."""
        return self.world.marks.counts[name]

    def settle(self) -> None:
        """Until every client is done and nothing is pending anywhere."""
        for _ in range(60):
            # Whoever was cut off asks for the log when it can; the oracle has no such messages.
            self.world._known = [self.world.history.op] * REPLICAS
            self.run(1.0)
            if self.world.clients_done() and not self.world.checkers.unfinished():
                return
        raise AssertionError(f"not settled: {self.world.checkers.unfinished()}")

    def durable_slot(self) -> int:
        """A slot whose reply is durable on all replicas."""
        for slot in range(self.world.plan.clients_max):
            headers = {self.slots(index).expected[slot] for index in range(REPLICAS)}
            if (
                len(headers) == 1
                and None not in headers
                and all(self.slots(index).is_durable(slot) for index in range(REPLICAS))
            ):
                return slot
        raise AssertionError("no slot is durable everywhere")

    def rot(self, index: int, slot: int) -> None:
        """Damage the slot for certain, in its header."""
        file, start = self.file(index), self.world.layout.slot_offset(slot)
        self.world.disks[index].flip(file, start + 20)

    def rot_body(self, index: int, slot: int) -> None:
        """Damage the last byte of the reply."""
        header = self.slots(index).expected[slot]
        start = self.world.layout.slot_offset(slot)
        self.world.disks[index].flip(self.file(index), start + packed_size(header) - 1)

    def rot_padding(self, index: int, slot: int) -> None:
        """Damage the padding behind the reply."""
        header = self.slots(index).expected[slot]
        size = packed_size(header)
        assert size < sectors_size(size)
        self.world.disks[index].flip(self.file(index), self.world.layout.slot_offset(slot) + sectors_size(size) - 1)

    # Within.

    def _sending(self, process: Process, message: object) -> None:
        for entry in self._when:
            kind, which, action = entry
            if isinstance(message, kind) and which(process, message):
                self._when.remove(entry)
                self.world.system.at(0, action, process.host.index)
                return

    def _filtered(self, now: int, source: Process, target: Process, message: object) -> Any:
        for position, (kind, times) in enumerate(self._drop):
            if isinstance(message, kind):
                self.dropped += 1
                self._drop[position : position + 1] = [(kind, times - 1)] if times > 1 else []
                return iter(())
        return self._deliveries(now, source, target, message)


class _NoReplica:
    """Stands for replicas that are not there yet."""

    applied = -1
