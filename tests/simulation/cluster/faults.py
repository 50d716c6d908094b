"""Faults of a run of the whole cluster: the component's, and those that the protocol is for.

Guarantees: as `tests.simulation.faults`. Owns: nothing but its stream of chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..faults import Faults
from .plan import ClusterPlan

if TYPE_CHECKING:
    from .world import ClusterWorld


class ClusterFaults(Faults):
    """See the module."""

    def __init__(self, world: ClusterWorld) -> None:
        self._cluster = world
        super().__init__(world)

    def _kinds_of(self, _plan: object) -> tuple[tuple[float, Callable[[int], None]], ...]:
        plan: ClusterPlan = self._cluster.plan
        return (
            (plan.crash_rate, self._crash_one),
            (plan.kill_rate, self._kill),
            (plan.stop_rate, self._stop),
            (plan.cut_rate, self._cut),
            (plan.clog_rate, self._clog),
            (plan.rot_rate, self._rot),
            (plan.sector_rate, self._sector),
            (plan.slow_rate, self._slow),
            (plan.table_rate, self._table),
            (plan.opening_rate, self._opening),
            (plan.disk_rate, self._lose_disk),
            (plan.log_rot_rate, self._rot_log),
            (plan.blackout_rate, self._blackout),
            (plan.ambush_rate, self._ambush),
            (plan.usurper_rate, self._usurper),
            (plan.mute_rate, self._mute),
            (plan.isolate_rate, self._isolate),
            (plan.gateway_kill_rate, self._kill_gateway),
            (plan.gateway_stop_rate, self._stop_gateway),
        )

    def _hosts(self) -> Sequence[int]:
        """See `Faults`. The supervisor's is none."""
        return (*super()._hosts(), *(host.index for host in self._cluster.gateway_hosts))

    def _kill_gateway(self, _index: int) -> None:
        self._cluster.kill_gateway(self._chance.below(self._cluster.plan.gateways))

    def _stop_gateway(self, _index: int) -> None:
        """It hangs: connections to it are made, and nothing is answered."""
        world = self._cluster
        process = world.gateways[self._chance.below(world.plan.gateways)]
        if process is not None and process.alive:
            world.marks.hit("gateway_stopped")
            world.system.stop(process)
            world.system.at(self._chance.micros(0.05, 3.0), world.system.resume, process)

    def _look_after_primary(self) -> None:
        """The replicas do that themselves."""

    def _tell_of_the_log(self) -> None:
        """The replicas do that themselves."""

    def _crash_one(self, index: int) -> None:
        """The primary, as often as not."""
        world = self._cluster
        primary = world.primary_index()
        if primary is not None and self._chance.chance(0.4):
            world.marks.hit("primary_crashed")
            index = primary
        world.crash_host(index, self._chance.between(0.05, 2.0))

    def _lose_disk(self, index: int) -> None:
        world = self._cluster
        what = self._chance.pick(("all", "all", "replies", "log"))
        if world.may_injure(index) and world.may_lose_file(index):
            world.lose_disk(index, what)

    def _rot_log(self, index: int) -> None:
        if self._cluster.may_injure(index):
            self._cluster.rot_log(index)

    def _blackout(self, index: int) -> None:
        self._cluster.crash_all(index, self._chance.between(0.1, 1.5))

    def _ambush(self, _index: int) -> None:
        """All die in the moment in which one has told a client something; that one stays away."""
        world, pause = self._cluster, self._chance.between(0.5, 1.5)

        def strike(index: int, _view: int) -> None:
            world.strikes.remove(strike)
            world.marks.hit("ambush")
            world.system.at(0, world.crash_all, index, pause)

        if not world.strikes:
            world.strikes.append(strike)

    def _usurper(self, _index: int) -> None:
        """The primary is cut off; when the next one has told a client something, that one dies, the first returns."""
        world, old = self._cluster, self._cluster.primary_index()
        core = world.core(old) if old is not None else None
        if old is None or core is None or world.strikes:
            return
        view, links = core.view, world.network.links
        others = [index for index in range(world.replicas_count) if index != old]
        cut = {(old, other) for other in others} | {(other, old) for other in others}
        links.cut |= cut
        world.system.at(self._chance.micros(1.0, 3.0), links.cut.difference_update, cut)

        def strike(index: int, of: int) -> None:
            if of > view:
                world.strikes.remove(strike)
                world.marks.hit("usurper_died")
                links.cut.difference_update(cut)
                world.system.at(0, world.crash_host, index, 1.2)

        world.strikes.append(strike)

    def _mute(self, index: int) -> None:
        """What the replica says to clients is lost."""
        world, links = self._cluster, self._cluster.network.links
        cut = {(index, other) for other in self._hosts() if other >= world.replicas_count}
        world.marks.hit("replica_muted")
        links.cut |= cut
        world.system.at(self._chance.micros(0.2, 2.0), links.cut.difference_update, cut)

    def _isolate(self, index: int) -> None:
        """The replica is gone for so long that the others' logs go on without it."""
        world, links = self._cluster, self._cluster.network.links
        others = [other for other in range(world.replicas_count) if other != index]
        cut = {(index, other) for other in others} | {(other, index) for other in others}
        world.marks.hit("replica_isolated")
        links.cut |= cut
        world.system.at(self._chance.micros(1.0, 5.0), links.cut.difference_update, cut)
