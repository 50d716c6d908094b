"""A replica's machine as the simulator decides it, and the shipped replica on it.

Guarantees: the replica is the shipped class; what it takes from its machine comes from here. A write of the log is all
there or not at all, and what was completed stays: that is what the store promises, and how a crash is modelled here. A
failed write leaves either.

Owns: the store of the replica's log, which outlives the replica's processes.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from thespian.actors import Actor, ActorAddress

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.actors.owner.replies_port import RepliesPort
from client_replies.cluster.control import StartReplica
from client_replies.cluster.log.log_store import LogStore, StoreFailed, StoreIdentity, StoreMissing
from client_replies.cluster.replica.lifecycle import ReplicaParts, State
from client_replies.cluster.replica.machine import Machine
from client_replies.cluster.replica.observer import Observer
from client_replies.cluster.replica.taking_part import TakingPart
from client_replies.cluster.vsr.config import VsrConfig
from client_replies.cluster.vsr.core import Core
from client_replies.cluster.vsr.durable import DurableState, LogWrite
from client_replies.cluster.vsr.execution import Applied, Skipped
from client_replies.cluster.vsr.messages import LogEntry
from client_replies.storage.client_sessions import ClientSessions

from ..chance import Chance
from ..disk import PowerLost, SimDisk
from ..environment import SimEnvironment
from ..system import Killed, SimSystem
from examples.ledger.ledger_replica import FINAL_FILE, LedgerReplica
from examples.ledger.replica_events import final_state
from tests.cluster.memory_log_store import MemoryLogStore

if TYPE_CHECKING:
    from .world import ClusterWorld


TRANSFERS = 4  # of one write; before the last it did not happen


class SimLogStore(MemoryLogStore):
    """A store on a simulated disk. `state` is what is durable of the promises."""

    def __init__(self, world: ClusterWorld, index: int, identity: StoreIdentity, *, voting: bool) -> None:
        super().__init__(identity, voting=voting)
        self._world = world
        self._index = index
        self.state = DurableState(voting=voting)

    def write(self, *writes: LogWrite) -> None:
        disk = self._world.disks[self._index]
        if any(disk.spend() for _ in range(TRANSFERS)):
            raise PowerLost
        if disk.chance.chance(disk.rules.sync_error):
            self._world.marks.hit("log_write_failed")
            if disk.chance.chance(0.5):
                self._write(*writes)
            raise StoreFailed("a simulated error")
        self._write(*writes)

    def _write(self, *writes: LogWrite) -> None:
        super().write(*writes)
        self.state = writes[-1].state
        for write in writes:
            if write.snapshot is not None:
                self._world.checkers.snapshot_saved(self._index, write.snapshot)

    @property
    def base(self) -> int:
        """Ops up to here were trimmed."""
        return self._base[0]

    @property
    def op(self) -> int:
        """The end of the durable log."""
        return self.base + len(self._image.heads)

    def checksum(self, op: int) -> bytes | None:
        """The checksum of the entry that the store holds at `op`, or once held."""
        head = self._image.heads.get(op)
        return head[0] if head is not None else None

    def snapshots(self) -> tuple[int, ...]:
        """The ops of the stored snapshots."""
        return tuple(sorted(self._image.snapshots))


class SimMachine(Machine):
    """See the module."""

    def __init__(self, world: ClusterWorld, index: int) -> None:
        self._world = world
        self._index = index
        self._chance = Chance(world.plan.seed, f"machine {index}")
        self.store: SimLogStore | None = None
        self.files: dict[str, str] = {}

    def pid(self) -> int:
        process = self._world.system.current
        return process.number if process is not None else 0

    def random(self) -> random.Random:
        return random.Random(self._chance.bits(64))

    def make_directory(self, directory: str) -> None:
        """See `Machine`."""

    def set_aside(self, path: str) -> str:
        """See `Machine`. The path is that of the data file, or the whole directory."""
        self._world.checkers.disk_given_up(self._index)
        self._world.lose_file(self._index)
        if path == f"r{self._index}":
            self._world.forget_store(self._index)
        return f"{path}.damaged"

    def open_log(self, directory: str, identity: StoreIdentity) -> LogStore:
        if self.store is None:
            raise StoreMissing("there is no log")
        self.store.crash()
        return self.store

    def format_log(self, directory: str, identity: StoreIdentity, *, voting: bool) -> LogStore:
        self.store = SimLogStore(self._world, self._index, identity, voting=voting)
        return self.store

    def write_file(self, directory: str, name: str, text: str) -> None:
        self.files[name] = text

    def end(self) -> NoReturn:
        process = self._world.system.current
        if process is not None:
            self._world.marks.hit("replica_ended_itself")
            self._world.system.kill(process, "it ends itself")
        raise Killed


class ReplicaEnvironment(SimEnvironment):
    """One replica's world, the machine included."""

    def __init__(self, system: SimSystem, disk: SimDisk, chance: Chance, *, world: ClusterWorld, index: int) -> None:
        super().__init__(system, disk, chance, timer=world.plan.ticker)
        self.world = world
        self.index = index
        self.machine = SimMachine(world, index)


class ClusterReplicaActor(LedgerReplica):
    """The shipped replica on a simulated machine, with small limits; and what the checkers want to know of it."""

    def __init__(self, capabilities: Any = None, requirements: Any = None) -> None:
        self._place: ReplicaEnvironment = requirements
        self._part: TakingPart | None = None
        super().__init__(capabilities, requirements)

    def make_machine(self) -> Machine:
        return self._place.machine

    def create_child(self, actor: type[Actor]) -> ActorAddress:
        address = super().create_child(actor)
        if actor is ClientRepliesActor:
            self._place.world.component_created(self._place.index, address)
        return address

    def become(self, state: State) -> None:
        if isinstance(state, TakingPart):
            self._part = state
        super().become(state)

    def make_parts(self, message: StartReplica, port: RepliesPort) -> ReplicaParts:
        return replace(super().make_parts(message, port), observer=_Watch(self, self._place))

    def vsr_config(self, message: StartReplica) -> VsrConfig:
        plan = self._place.world.plan
        return replace(
            super().vsr_config(message),
            pipeline_max=plan.pipeline_max,
            log_max=3 * plan.checkpoint_interval + plan.pipeline_max + plan.log_spare,
            chunk_size=plan.chunk_size,
            waits_max=plan.waits_max,
        )

    # For the checkers.

    @property
    def opened(self) -> bool:
        """True once log and replies are open and the protocol runs."""
        return self._part is not None

    @property
    def part(self) -> TakingPart:
        """What takes part, or did until the replica stopped."""
        if self._part is None:
            raise RuntimeError("the replica has not begun")
        return self._part

    @property
    def core(self) -> Core:
        """The protocol's state."""
        return self.part.vsr.core

    @property
    def sessions(self) -> ClientSessions:
        """The session table."""
        return self.core.execution.sessions

    @property
    def checkpoint_op(self) -> int:
        """The op of the last checkpoint that is durable in log and component."""
        return self.core.checkpoint.op if self.opened else 0

    @property
    def is_whole(self) -> bool:
        """True if the replica votes and has no state sync before it."""
        return self.opened and self.part.vsr.is_whole and not self.core.log.rotten()


class _Watch(Observer):
    """Tells the checkers what a replica executes, and leaves them the state that it ends with."""

    def __init__(self, replica: ClusterReplicaActor, place: ReplicaEnvironment) -> None:
        self._replica = replica
        self._place = place

    def executed(self, entry: LogEntry, applied: Applied | Skipped) -> None:
        self._place.world.checkers.executed(self._place.index, entry, applied)

    def close(self, core: Core) -> None:
        machine: Any = core.execution.machine
        final = final_state(core, machine.ledger, self._replica.counts())
        self._replica.machine.write_file("", FINAL_FILE, final.text())
