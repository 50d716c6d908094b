"""Keeps the replicas up and tells everybody where everybody is: `cluster.host.members`, in virtual time.

Guarantees: a replica whose process has ended is created anew after a pause and told what its predecessor was told; the
members hear of a new address as soon as there is one, and again until they say so. Owns: who is where.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thespian.actors import Actor, ActorAddress, WakeupMessage

from client_replies.cluster.control import (
    Finish,
    FinishState,
    Join,
    Joined,
    ReplicaStarted,
    ReplicaStopped,
    may_lose_disk,
    replica_name,
)
from client_replies.cluster.door.gateway import GatewayStarted, SetReplica, StartGateway

from ..chance import MICROSECONDS, Chance
from ..history import CLUSTER
from examples.ledger.faulty_network import cluster_faults
from examples.ledger.ledger_replica import StartLedgerReplica

if TYPE_CHECKING:
    from .world import ClusterWorld

TICK = 0.05  # seconds
RESEND = 0.5
RESTART_PAUSE = (0.02, 0.3)


@dataclass(slots=True)
class _Replica:
    """What is known of one replica. `number` is that of its process."""

    number: int = 0
    replies: ActorAddress | None = None
    fresh: bool = True
    started: bool = False
    joined: bool = False
    votes: bool = False
    asked_at: float = -RESEND


@dataclass(slots=True)
class _Gateway:
    """What is known of one gateway. `number` is that of its process."""

    number: int = 0
    started: bool = False
    told_at: float = -RESEND


class SupervisorActor(Actor):
    """See the module."""

    def __init__(self, capabilities: object = None, requirements: Any = None) -> None:
        super().__init__()
        self.world: ClusterWorld = requirements
        self.chance = Chance(self.world.plan.seed, "supervisor")
        self.replicas = [_Replica() for _ in self.world.hosts]
        self.finished: set[int] = set()
        self.finish_op: int | None = None
        self._told: Join | None = None
        self._gateways = [_Gateway() for _ in self.world.gateways]

    @property
    def now(self) -> float:
        """The time in seconds."""
        return self.world.system.now / MICROSECONDS

    def receiveMessage(self, message: object, _sender: ActorAddress) -> None:
        """Take a message."""
        if isinstance(message, WakeupMessage):
            self._tick()
        elif isinstance(message, ReplicaStarted):
            self._started(message)
        elif isinstance(message, Joined):
            self._joined(message)
        elif isinstance(message, ReplicaStopped):
            self._stopped(message)
        elif isinstance(message, GatewayStarted):
            for gateway in self._gateways:
                gateway.started |= gateway.number == message.pid
        elif isinstance(message, FinishState) and message.done:
            self.finished.add(_index(message.name))

    def _tick(self) -> None:
        self.wakeupAfter(TICK)
        for index, replica in enumerate(self.replicas):
            process = self.world.replicas[index]
            if process is None or not process.alive:
                self.world.restart_when_due(index, self.chance.between(*RESTART_PAUSE))
                process = self.world.replicas[index]
            if process is None or not process.alive:
                continue
            if process.number != replica.number:
                replica.number, replica.started, replica.joined = process.number, False, False
                replica.votes = False
                replica.asked_at = -RESEND
            if self.now - replica.asked_at >= RESEND:
                replica.asked_at = self.now
                self._ask(index, replica, process.address)
        if self._told is not None:
            for index, gateway in enumerate(self._gateways):
                self._keep_gateway(index, gateway)

    def _keep_gateway(self, index: int, gateway: _Gateway) -> None:
        """As `client_replies.cluster.host.gateway_keeper` does."""
        process = self.world.gateways[index]
        if process is None or not process.alive:
            if process is None or self.chance.chance(0.3):
                self.world.start_gateway(index)
            return
        if process.number != gateway.number:
            gateway.number, gateway.started, gateway.told_at = process.number, False, -RESEND
        if self.now - gateway.told_at < RESEND or process.stopped:
            return
        gateway.told_at = self.now
        if gateway.started:
            for replica, address in self._replica_addresses():
                self.send(process.address, SetReplica(replica=replica, address=address))
            return
        start = StartGateway(cluster=CLUSTER, host="gateway", port=0, replicas=self._replica_addresses())
        self.send(process.address, start)

    def _replica_addresses(self) -> tuple[tuple[int, ActorAddress], ...]:
        """Where each replica is, or was last."""
        return tuple((index, process.address) for index, process in self._processes())

    def _ask(self, index: int, replica: _Replica, address: ActorAddress) -> None:
        if not replica.started:
            self.send(address, self._start_of(index, replica.fresh))
        elif not (replica.joined and replica.votes) and self._told is not None:
            self.send(address, self._told)
        elif self.finish_op is not None and index not in self.finished:
            self.send(address, Finish(request=1, op=self.finish_op, close=True))

    def _start_of(self, index: int, fresh: bool) -> StartLedgerReplica:
        plan = self.world.plan
        return StartLedgerReplica(
            name=replica_name(index),
            replicas=plan.replicas,
            config=self.world.config(index),
            directory=f"r{index}",
            fresh=fresh,
            rebuild=may_lose_disk(replica_name(index), self._voters(), plan.replicas),
            checkpoint_interval=plan.checkpoint_interval,
            view_change=plan.view_change,
            seed=plan.seed,
            network_faults=cluster_faults(0.05, 0.05) if plan.weather else {},
        )

    def _voters(self) -> list[str]:
        return [replica_name(index) for index, one in enumerate(self.replicas) if one.joined and one.votes]

    def _stopped(self, message: ReplicaStopped) -> None:
        index = _index(message.name)
        process = self.world.replicas[index]
        if process is not None and process.number == message.pid and process.alive:
            self.world.checkers.replica_stopped(index, message.reason)
            self.world.system.kill(process, "it stopped")

    def _started(self, message: ReplicaStarted) -> None:
        index = _index(message.name)
        replica = self.replicas[index]
        if message.pid != replica.number or replica.started:
            return
        replica.started, replica.fresh, replica.replies = True, False, message.replies
        self._tell_everybody()

    def _tell_everybody(self) -> None:
        replies = tuple((index, one.replies) for index, one in enumerate(self.replicas) if one.replies is not None)
        if len(replies) < len(self.replicas):
            return
        members = tuple((replica_name(index), process.address) for index, process in self._processes())
        number = self._told.number + 1 if self._told is not None else 1
        self._told = Join(number=number, members=members, replies=replies)
        for index, process in self._processes():
            self.replicas[index].joined = False
            self.send(process.address, self._told)
        for gateway in self._gateways:
            gateway.told_at = -RESEND

    def _processes(self) -> list[tuple[int, Any]]:
        return [(index, process) for index, process in enumerate(self.world.replicas) if process is not None]

    def _joined(self, message: Joined) -> None:
        if self._told is not None and message.number == self._told.number:
            replica = self.replicas[_index(message.name)]
            replica.joined, replica.votes = True, message.votes


def _index(name: str) -> int:
    return int(name.rpartition("-")[2])
