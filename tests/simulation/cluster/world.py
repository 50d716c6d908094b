"""One run of the whole cluster: the component's world, with the shipped replicas in it instead of an oracle's.

Guarantees: as `tests.simulation.world`. Disks are lost and logs rot on a minority at a time, and a replica that was
injured counts as such until it is whole again: more is more than the protocol promises to survive.

Owns: who was injured, and when a replica may start again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from thespian.actors import ActorAddress

from client_replies.cluster.door.forwarding_messages import ForwardedReplies
from client_replies.cluster.replica.network import Envelope
from client_replies.cluster.vsr.core import Core
from client_replies.cluster.vsr.messages import DoViewChange, Prepare, Recovery, SnapshotChunk, StartView
from client_replies.messages.replies import CheckpointDone, InstallSessions

from ..chance import MICROSECONDS, Chance
from ..network import Host
from ..system import Killed, Process
from ..trace import Trace
from ..world import CALM_TIME, LOOK_STEP, World
from .checkers import ClusterCheckers
from .client import ClusterClientActor
from .gateway import ClusterGatewayActor, GatewayEnvironment
from .machine import ClusterReplicaActor, ReplicaEnvironment, SimLogStore
from .plan import ClusterPlan
from .streams import Streams
from .supervisor import SupervisorActor
from examples.ledger.ledger_replica import FINAL_FILE

RARE = (DoViewChange, StartView, SnapshotChunk, Recovery)
STAND_TIME = 60 * MICROSECONDS  # virtual: a majority that is connected serves what is asked by then
STAND_REQUESTS = 3  # by each client


class ClusterWorld(World):
    """See the module."""

    plan: ClusterPlan
    checkers: ClusterCheckers
    environments: list[ReplicaEnvironment]  # type: ignore[assignment]
    calm_requests = 20  # more: what the faults left behind in the protocol shows in what is asked after them

    def __init__(self, plan: ClusterPlan, *, trace: Trace | None = None, copies: bool = False) -> None:
        self.injured: set[int] = set()
        self.lost: list[list[SimLogStore]] = [[] for _ in range(plan.replicas)]  # logs of the injured
        self._restart_at: dict[int, int] = {}
        self.quiet_at = 0  # when nothing is on its way any more that was sent during the faults
        self.strikes: list[Any] = []  # told of each answer that leaves a replica: (index, view)
        home = plan.replicas + plan.clients
        self.gateway_hosts = [Host(f"g{index}", home + 1 + index) for index in range(plan.gateways)]
        self.gateways: list[Process | None] = [None] * plan.gateways
        super().__init__(plan, trace=trace, copies=copies)
        self.streams = Streams(self)
        for disk in self.disks:
            disk.lanes["log"] = plan.log_lane
        host = Host("home", home)
        self.supervisor = self.system.create(SupervisorActor, self, name="home.supervisor", host=host)

    def make_environment(self, index: int) -> ReplicaEnvironment:
        chance = Chance(self.plan.seed, f"environment {index}")
        return ReplicaEnvironment(self.system, self.disks[index], chance, world=self, index=index)

    def make_checkers(self) -> ClusterCheckers:
        return ClusterCheckers(self)

    # Who is where.

    @property
    def quorum(self) -> int:
        """How many replicas decide."""
        return self.replicas_count // 2 + 1

    def store(self, index: int) -> SimLogStore | None:
        """A replica's log store."""
        return self.environments[index].machine.store

    def stores(self) -> Iterator[tuple[int, tuple[SimLogStore, ...]]]:
        """Every replica's log store, as far as there is one."""
        for index in range(self.replicas_count):
            store = self.store(index)
            yield index, (store,) if store is not None else ()

    def forget_store(self, index: int) -> None:
        """The replica's log is gone; what it promised is not, until it is whole again."""
        store = self.store(index)
        if store is not None:
            self.lost[index].append(store)
        self.environments[index].machine.store = None

    def core(self, index: int) -> Core | None:
        """The protocol's state of a replica that runs."""
        process = self.replicas[index]
        if process is None or not process.alive or not process.instance.opened:
            return None
        core: Core = process.instance.core
        return core

    def primary_index(self) -> int | None:
        """The active primary of the latest view, as far as there is one."""
        cores = [(core.view, index) for index in range(self.replicas_count) if (core := self.core(index)) is not None]
        primaries = [(view, index) for view, index in cores if self.core(index).is_primary]  # type: ignore[union-attr]
        return max(primaries)[1] if primaries else None

    def component_created(self, index: int, address: ActorAddress) -> None:
        super().component_created(index, address)
        self.checkers.seen[index].wanted = None

    def view_begun(self, index: int, core: Core) -> None:
        """A replica is the primary of a view."""
        self.marks.hit("view_begun")
        self.trace.add(self.system.now, "primary", "", self.hosts[index].name, f"view={core.view}")
        cores = [self.core(other) for other in range(self.replicas_count)]
        if any(core is not None and core.sync_op for core in cores):
            self.marks.hit("view_begun_during_state_sync")
        if core.executed < core.log.op:
            self.marks.hit("view_begun_with_a_log_to_execute")

    # Starting and dying.

    def start_replica(self, index: int) -> None:
        old = self.replicas[index]
        if old is not None and old.alive:
            return
        self._restart_at.pop(index, None)
        self.replicas[index] = self.system.create(
            ClusterReplicaActor, self.environments[index], name=f"r{index}.replica", host=self.hosts[index]
        )

    def restart_when_due(self, index: int, pause: float) -> None:
        """The replica does not run: start it, now or after the pause."""
        due = self._restart_at.setdefault(index, self.system.now + int(pause * MICROSECONDS))
        if self.system.now >= due:
            self.start_replica(index)

    def start_gateway(self, index: int) -> None:
        """Start a gateway's process."""
        environment, host = GatewayEnvironment(self, index), self.gateway_hosts[index]
        self.gateways[index] = self.system.create(
            ClusterGatewayActor, environment, name=f"{host.name}.gateway", host=host
        )

    def kill_gateway(self, index: int) -> None:
        """End a gateway's process."""
        process = self.gateways[index]
        if process is not None and process.alive:
            self.marks.hit("gateway_killed")
            self.system.kill(process)

    def crash_host(self, index: int, restart_after: float) -> None:
        if not self.calm:
            self._restart_at[index] = self.system.now + int(restart_after * MICROSECONDS)
        super().crash_host(index, restart_after)

    def crash_all(self, last: int, pause: float) -> None:
        """All machines lose their power; one of them comes back later than the others."""
        self.marks.hit("blackout")
        for index in range(self.replicas_count):
            self.crash_host(index, pause if index == last else self.chance.between(0.02, 0.2))

    def _bad_moment(self, process: Process, message: object) -> None:
        """See `World`; and the moments of the protocol."""
        super()._bad_moment(process, message)
        index = process.host.index
        if index >= self.replicas_count or self.calm:
            return
        if isinstance(message, CheckpointDone) and self.chance.chance(2 * self.plan.bad_moments):
            self.marks.hit("died_at_CheckpointDone")
            self.system.at(0, self.crash_host, index, self.chance.between(0.05, 1.0))
        if isinstance(message, InstallSessions) and self.chance.chance(self.plan.sync_moments):
            primary = self.primary_index()
            if primary is not None:
                self.marks.hit("primary_crashed_during_state_sync")
                self.system.at(0, self.crash_host, primary, self.chance.between(0.3, 1.5))
        if isinstance(message, ForwardedReplies) and message.answers:
            self._bad_moment_of_answers(index, message.view)
        if isinstance(message, Envelope):
            self._bad_moment_of_protocol(index, message)

    def _bad_moment_of_answers(self, index: int, view: int) -> None:
        for strike in list(self.strikes):
            strike(index, view)
        if self.chance.chance(self.plan.deaf_moments):
            self.marks.hit("primary_died_with_answers_unsent")
            self._die_now(index)

    def _bad_moment_of_protocol(self, index: int, message: Envelope) -> None:
        rare = [type(item).__name__ for item in message.items if isinstance(item, RARE)]
        if rare and self.chance.chance(self.plan.bad_messages):
            self.marks.hit(f"died_at_{rare[0]}")
            self._die_now(index)

        if self.chance.chance(self.plan.prepare_moments) and any(isinstance(one, Prepare) for one in message.items):
            # What was sent is not durable here, and the next life begins before anybody misses this one.
            self.marks.hit("died_at_Prepare")
            self.system.at(0, self.crash_host, index, 0.01)

    def _die_now(self, index: int) -> None:
        """In the middle of a handler: the message that is being sent is not."""
        if self.chance.chance(0.5):
            self.crash_host(index, self.chance.between(0.05, 1.5))
        else:
            self.kill_process(index, "replica")
        raise Killed

    # Injuries.

    def heal_injured(self) -> None:
        """Who is whole again is not injured any more."""
        for index in sorted(self.injured):
            process = self.replicas[index]
            if process is not None and process.alive and process.instance.is_whole:
                self.checkers.caught_up(index)
                self.injured.discard(index)
                self.lost[index].clear()

    def may_injure(self, index: int) -> bool:
        """True if the promises of this replica may be forgotten."""
        self.heal_injured()
        started = not self.supervisor.instance.replicas[index].fresh
        return started and (index in self.injured or len(self.injured) < (self.replicas_count - 1) // 2)

    def may_damage_table(self, index: int) -> bool:
        """See `World`. Here the replica's own log brings back what the checkpoint before does not know."""
        store, core = self.store(index), self.core(index)
        if store is None or core is None or index in self.injured or core.sync_op or store.state.sync_op:
            return False
        return self.checkers.log_has_checkpoint_before(index)

    def lose_disk(self, index: int, what: str) -> None:
        """The machine comes back without its disk, or without a file."""
        self.injured.add(index)
        self.marks.hit(f"disk_lost_{what}")
        self.crash_host(index, self.chance.between(0.05, 1.0))
        if what != "log":
            self.lose_file(index)
        if what != "replies":
            self.trace.add(self.system.now, "fault", "", self.hosts[index].name, "log lost")
            self.forget_store(index)

    def rot_log(self, index: int) -> None:
        """Some entries of a replica's log rot, and it starts again from that."""
        store = self.store(index)
        if store is None or store.op == store.base:
            return
        self.injured.add(index)
        self.crash_host(index, self.chance.between(0.05, 1.0))
        for _ in range(self.chance.integer(1, 3)):
            op = self.chance.integer(max(store.base, store.op - 12) + 1, store.op)
            if store.checksum(op) is not None:
                self.marks.hit("log_entry_rotted")
                self.trace.add(self.system.now, "fault", "", self.hosts[index].name, f"rot op={op}")
                store.rot(op)

    # The run.

    def _start(self) -> None:
        for index in range(self.replicas_count):
            self.system.at(self.chance.micros(0.0, 0.1), self.start_replica, index)
        share, more = divmod(self.plan.requests, self.plan.clients)
        for index in range(self.plan.clients):
            host = Host(f"c{index}", self.replicas_count + index)
            requirements = (self, index, share + (index < more))
            client = self.system.create(ClusterClientActor, requirements, name=f"c{index}.client", host=host)
            self.clients.append(client)
            self.system.wake_later(client, self.chance.between(0.0, 0.1), 0)
        self.system.wake_later(self.supervisor, 0.0, None)

    def _run_faults(self) -> None:
        from .faults import ClusterFaults

        self._strike(ClusterFaults(self))

    def _run_calm(self) -> None:
        self.strikes.clear()
        late = self.plan.network.replay_after + 0.1 if self.plan.network.replay else 0.1
        self.quiet_at = self.system.now + int(late * MICROSECONDS)
        super()._run_calm()
        if self.plan.standing:
            self._stand()
            super()._run_calm()
        self.checkers.states_at_the_end()

    def _stand(self) -> None:
        """A minority is cut off, or down, and stays so: the others serve the clients, whatever gateways come and go."""
        minority = {
            self.chance.below(self.replicas_count) for _ in range(self.chance.integer(1, self.replicas_count // 2))
        }
        primary = self.primary_index()
        if primary is not None and self.chance.chance(0.5):
            minority = {primary, *list(minority)[: self.replicas_count // 2 - 1]}
        self.marks.hit(f"minority_{self.plan.standing}")
        self.trace.add(self.system.now, "fault", "", "", f"{self.plan.standing} {sorted(minority)}")
        for index in sorted(minority):
            process = self.replicas[index]
            if self.plan.standing == "down" and process is not None:
                self._restart_at[index] = self.system.now + 2 * STAND_TIME
                self.system.kill(process, "down")
            for other in set(range(self.replicas_count)) - minority:
                self.network.links.cut |= {(index, other), (other, index)}
        hanging = self.plan.gateways > 1 and self.chance.chance(0.5)
        for index in range(self.plan.gateways):
            process = self.gateways[index]
            if hanging and index == 0 and process is not None:
                self.marks.hit("gateway_hung")
                self.system.stop(process)
            elif self.chance.chance(0.8):
                self.system.at(self.chance.micros(0.0, 3.0), self.kill_gateway, index)
        # What is asked at once goes where it went before; what is asked later, to replicas that have given up waiting.
        self.system.run(self.system.now + self.chance.micros(0.0, 3.0))
        for client in self.clients:
            client.instance.remaining += STAND_REQUESTS
        if not self.system.run(self.system.now + STAND_TIME, self.clients_done):
            self.checkers.not_served(sorted(minority))
        for index in minority:
            self._restart_at.pop(index, None)

    def _move_primary_to_the_living(self) -> None:
        """The replicas do that."""

    def _run_end(self) -> None:
        """Close everything in order, and compare what is left."""
        self.supervisor.instance.finish_op = self.history.op
        limit = self.system.now + CALM_TIME
        while self.system.now < limit and len(self.supervisor.instance.finished) < self.replicas_count:
            self.system.run(self.system.now + LOOK_STEP)
        self.checkers.ended([i for i in range(self.replicas_count) if i not in self.supervisor.instance.finished])
        self.checkers.finals_at_the_end([environment.machine.files[FINAL_FILE] for environment in self.environments])
