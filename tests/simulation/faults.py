"""Faults of the run, drawn step by step: crashes, kills, stops, partitions, rot, and what else the plan has rates for.

Guarantees: what a plan sets to 0 never happens, and draws nothing from other streams. Every fault that lasts ends by
itself, or when the run becomes calm. Owns: nothing but its stream of chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from client_replies.messages.config import SECTOR_SIZE
from client_replies.messages.reply_header import packed_size
from client_replies.storage.layout import SUPERBLOCK_COPIES, sectors_size

from .chance import MICROSECONDS
from .disk import Ambush
from .plan import Plan
from .world import FAULT_STEP, PROCESSES, World


class Faults:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance
        self._kinds = [(rate, fault) for rate, fault in self._kinds_of(world.plan) if rate]
        self._primary_down_since: int | None = None

    def _kinds_of(self, plan: Plan) -> tuple[tuple[float, Callable[[int], None]], ...]:
        return (
            (plan.crash_rate, self._crash),
            (plan.kill_rate, self._kill),
            (plan.stop_rate, self._stop),
            (plan.cut_rate, self._cut),
            (plan.clog_rate, self._clog),
            (plan.rot_rate, self._rot),
            (plan.sector_rate, self._sector),
            (plan.lose_file_rate, self._lose_file),
            (plan.primary_rate, self._primary),
            (plan.slow_rate, self._slow),
            (plan.superblock_rate, self._superblock),
            (plan.table_rate, self._table),
            (plan.opening_rate, self._opening),
            (plan.lag_rate, self._lag),
            (plan.sync_rate, self._sync),
        )

    def step(self) -> None:
        """Let happen what happens in this step."""
        share = FAULT_STEP / MICROSECONDS
        for rate, fault in self._kinds:
            if self._chance.chance(rate * share):
                fault(self._chance.below(self._world.replicas_count))
        self._look_after_primary()
        disk = self._world.disks[0]
        if disk.capacity == 0 and self._chance.chance(0.05):
            disk.capacity = None
        self._tell_of_the_log()

    def _tell_of_the_log(self) -> None:
        """What an oracle does for the replicas."""
        world = self._world
        for index in range(self._world.replicas_count):  # The log is fetched in the end, whatever was lost on the way.
            if (world.primary, index) not in world.network.links.cut and self._chance.chance(0.2):
                world.system.at(0, world._tell_committed, index, world.primary, world.history.op)

    def _look_after_primary(self) -> None:
        """A primary that is gone for a while is replaced by one that runs."""
        world = self._world
        process = world.replicas[world.primary]
        if process is not None and process.alive and not process.stopped and process.instance.opened:
            self._primary_down_since = None
        elif self._primary_down_since is None:
            self._primary_down_since = world.system.now
        elif world.system.now - self._primary_down_since > MICROSECONDS // 2:
            living = world.living()
            if living:
                world.move_primary(self._chance.pick(living).index)

    def _hosts(self) -> Sequence[int]:
        """The hosts between which there is a network that fails."""
        return range(self._world.replicas_count + self._world.plan.clients)

    def _crash(self, index: int) -> None:
        both = self._chance.chance(0.15)
        for host in range(self._world.replicas_count) if both else (index,):
            self._world.crash_host(host, self._chance.between(0.05, 2.0))

    def _kill(self, index: int) -> None:
        self._world.kill_process(index, self._chance.pick(PROCESSES))

    def _stop(self, index: int) -> None:
        world = self._world
        kind = self._chance.pick(PROCESSES)
        for process in list(world.system.processes.values()):
            if process.alive and process.name.startswith(f"r{index}.{kind}."):
                world.system.stop(process)
                world.system.at(self._chance.micros(0.05, 4.0), world.system.resume, process)

    def _cut(self, index: int) -> None:
        links = self._world.network.links
        one_way, inward = self._chance.chance(0.4), self._chance.chance(0.5)
        cut = set()
        for other in self._hosts():
            if other != index and self._chance.chance(0.6):
                if not one_way or inward:
                    cut.add((other, index))
                if not one_way or not inward:
                    cut.add((index, other))
        self._world.marks.hit("partition_one_way" if one_way else "partition")
        links.cut |= cut
        self._world.system.at(self._chance.micros(0.1, 3.0), links.cut.difference_update, cut)

    def _clog(self, index: int) -> None:
        links = self._world.network.links
        other = self._chance.pick(self._hosts())
        if other != index:
            self._world.marks.hit("link_clogged")
            pair = (index, other) if self._chance.chance(0.5) else (other, index)
            links.clogged[pair] = self._chance.between(0.05, 1.0)
            self._world.system.at(self._chance.micros(0.1, 3.0), links.clogged.pop, pair, None)

    def _rot(self, index: int) -> None:
        world = self._world
        slots = list(range(world.plan.clients_max))
        copies = self._world.replicas_count if self._chance.chance(0.2) else 1  # the same slot, on several replicas
        slot = self._chance.pick(slots)
        for step in range(copies):
            self._rot_one((index + step) % self._world.replicas_count, slot)

    def _rot_one(self, index: int, slot: int) -> None:
        world = self._world
        file = world.file(index)
        if file is None or not world.may_damage(index, slot):
            return
        wanted = world.checkers.wanted_in(index, slot)
        size = sectors_size(packed_size(wanted[0])) if wanted else SECTOR_SIZE
        world.trace.add(world.system.now, "fault", "", world.hosts[index].name, f"rot slot={slot}")
        world.disks[index].rot(file, slot, size)

    def _sector(self, index: int) -> None:
        world = self._world
        slot = self._chance.below(world.plan.clients_max)
        file = world.file(index)
        if file is not None and world.may_damage(index, slot):
            world.trace.add(world.system.now, "fault", "", world.hosts[index].name, f"sector slot={slot}")
            world.disks[index].lose_sector(file, slot)

    def _lose_file(self, index: int) -> None:
        """The machine comes back with an empty disk."""
        if self._world.may_lose_file(index):
            self._world.crash_host(index, self._chance.between(0.1, 1.0))
            self._world.lose_file(index)

    def _primary(self, _index: int) -> None:
        living = self._world.living()
        if living:
            self._world.move_primary(self._chance.pick(living).index)

    def _slow(self, index: int) -> None:
        disk = self._world.disks[index]
        self._world.marks.hit("disk_slow")
        disk.slow = self._chance.between(0.05, 1.0)
        self._world.system.at(self._chance.micros(0.2, 3.0), setattr, disk, "slow", 0.0)

    def _superblock(self, index: int) -> None:
        """Damage a copy of the superblock, or the session table: in runs that spare nothing."""
        world = self._world
        file = world.file(index)
        if file is not None:
            sectors = world.layout.slots_offset // SECTOR_SIZE
            sector = self._chance.below(SUPERBLOCK_COPIES if self._chance.chance(0.7) else sectors)
            world.marks.hit("superblock_rotted" if sector < SUPERBLOCK_COPIES else "trailer_rotted")
            world.disks[index].flip(file, sector * SECTOR_SIZE + self._chance.below(128))

    def _table(self, index: int) -> None:
        """The last session table rots, and the machine comes back to that; perhaps the next checkpoint fails as well.

        With nothing in between, and the one before it whole: two damaged tables are more than a file survives.
        """
        world, pause = self._world, self._chance.between(0.05, 1.0)
        if world.may_damage_table(index):
            file, position = world.file(index), world.checkers.last_table(index)
            if file is not None and position is not None:
                world.marks.hit("table_rotted")
                world.trace.add(world.system.now, "fault", "", world.hosts[index].name, "rot of the last table")
                world.disks[index].flip(file, position + self._chance.below(64))
                world.disks[index].ambushes.clear()
                if self._chance.chance(0.7):
                    ambush = Ambush("checkpoint", self._chance.below(7), lambda _: world.crash_host(index, pause))
                    world.disks[index].ambushes.append(ambush)
                world.crash_host(index, self._chance.between(0.05, 1.0))

    def _opening(self, index: int) -> None:
        """The storage is killed in the middle of a checkpoint, and the machine loses its power in the next opening."""
        world, disk = self._world, self._world.disks[index]
        pause = self._chance.between(0.05, 1.0)
        if not disk.ambushes:
            disk.ambushes.append(Ambush("checkpoint", self._chance.integer(2, 6), world.system.kill))
            disk.ambushes.append(Ambush("open", self._chance.below(5), lambda _: world.crash_host(index, pause)))

    def _lag(self, index: int) -> None:
        self._world.marks.hit("replica_lags")
        self._world.lag[index] = self._world.plan.lag
        self._world.system.at(self._chance.micros(0.5, 5.0), self._world.lag.__setitem__, index, 0.0)

    def _sync(self, index: int) -> None:
        """The replica takes over a checkpoint as soon as there is a newer one, whatever it is doing."""
        self._world.sync_wanted[index] = True
