"""What the simulator of the whole cluster found, each as the smallest run that shows it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from client_replies.cluster.control import Join, Joined
from client_replies.cluster.host.members import Members, _Replica
from client_replies.cluster.log.log_store import StoreIdentity
from client_replies.cluster.vsr import sync, view_change
from client_replies.cluster.vsr.config import VsrConfig
from client_replies.cluster.vsr.core import Core
from client_replies.cluster.vsr.durable import Snapshot
from client_replies.cluster.vsr.effects import SendMessage, WriteLog
from client_replies.cluster.vsr.messages import DoViewChange, StartViewChange
from client_replies.cluster.vsr.replica import Replica
from client_replies.messages.storage_io import OpenStorage

from examples.ledger.ledger_machine import LedgerMachine
from examples.ledger.ledger_replica import LedgerReplica
from tests.cluster.memory_log_store import MemoryLogStore
from tests.simulation.cluster.plan import ClusterPlan
from tests.simulation.cluster.world import ClusterWorld
from tests.simulation.history import CLUSTER
from tests.simulation.system import Process


def quiet_world(**changes: object) -> ClusterWorld:
    """A cluster to which nothing happens by itself."""
    return ClusterWorld(ClusterPlan(seed=1, requests=20, clients=2, checkpoint_interval=5, **changes))  # type: ignore[arg-type]


def test_a_quiet_cluster_passes() -> None:
    """Without faults everything is done, and nothing is repaired or changed."""
    world = quiet_world()
    world.run()
    assert world.marks.counts["view_begun"] == 1
    assert world.marks.counts["run_ended_in_order"] == 1
    assert world.marks.counts["state_sync_finished"] == 0


def ends_and_begins_again(world: ClusterWorld, victim: Callable[[Process, object], Process | None]) -> None:
    """Run, and kill the first victim that a message gives: its replica says why it stops, and begins again."""
    killed: list[Process] = []

    def strike(process: Process, message: object) -> None:
        found = victim(process, message) if not killed else None
        if found is not None:
            killed.append(found)
            world.system.at(0, world.system.kill, found)

    world.system.sending.append(strike)
    world.run()
    assert killed
    assert world.marks.counts["replica_stopped"] >= 1


@pytest.mark.parametrize("kind", ["storage", "pool"])
def test_an_actor_that_dies_while_the_replies_are_opened_is_no_reason_to_give_up(kind: str) -> None:
    """Seeds 36, 38, 98, 100: the replica said that its replies cannot be opened, and the whole cluster ended."""
    world = quiet_world()

    def victim(process: Process, message: object) -> Process | None:
        if isinstance(message, OpenStorage) and process.host.index == 1:
            return next(one for one in world.system.processes.values() if one.name.startswith(f"r1.{kind}."))
        return None

    ends_and_begins_again(world, victim)


def test_a_pool_that_dies_before_its_memory_is_mapped_is_no_reason_to_give_up() -> None:
    """Seed 20003: the replica could not map what was gone with its owner, and the whole cluster ended."""
    ends_and_begins_again(
        quiet_world(), lambda process, _message: process if process.name.startswith("r1.pool.") else None
    )


def test_a_join_that_was_overtaken_changes_nothing() -> None:
    """Seed 57: a replica took an earlier list of the members for the latest, and never spoke to one of them again."""
    world = quiet_world()
    stale: list[Join] = []

    def strike(process: Process, message: object) -> None:
        if isinstance(message, Join) and not stale:
            members = tuple((name, process.address) for name, _address in message.members)
            stale.append(Join(number=message.number - 1, members=members, replies=message.replies))
            for replica in world.replicas:
                if replica is not None:
                    world.system.at(300_000, world.system.post, process, replica.address, stale[0])

    world.system.sending.append(strike)
    world.run()
    assert stale


def test_an_answer_to_an_earlier_join_does_not_stand_for_the_latest() -> None:
    """Seed 57: the latest may be lost, and would never be said again."""
    members = Members(system=None, replica=LedgerReplica)  # type: ignore[arg-type]
    members.replicas["replica-0"] = _Replica(start=None, pid=1)  # type: ignore[arg-type]
    members._told = Join(number=2, members=(), replies=())
    members._joined(Joined(name="replica-0", number=1))
    assert not members.replicas["replica-0"].joined
    members._joined(Joined(name="replica-0", number=2))
    assert members.replicas["replica-0"].joined


def test_a_log_that_begins_with_a_snapshot_vouches_for_nothing_until_that_is_installed() -> None:
    """Seed 57: in a view change a replica sent a log that began with a snapshot that was not durable yet."""
    store = MemoryLogStore(StoreIdentity(CLUSTER, 0), voting=True)
    config = VsrConfig(cluster=CLUSTER, replica=0, replicas=3)
    replica = Replica(config, LedgerMachine(), store.load(), replies_op=0, faulty=(), now=0.0, random=Random(1))
    core = replica.core
    view_change.begin(core, 1)
    for effect in core.take_effects():
        if isinstance(effect, WriteLog):
            core.written(effect.number)
    core.view_change.started |= {0, 2}
    sync.install(core, Snapshot(op=9, parent=bytes(16), sessions=core.execution.sessions.encode(), machine=b""))
    core.take_effects()
    view_change._send(core)
    assert [type(effect.message) for effect in _sent(core)] == [StartViewChange, StartViewChange]
    core.sync.installing = 0
    view_change._send(core)
    assert any(isinstance(effect.message, DoViewChange) for effect in _sent(core))


def _sent(core: Core) -> list[SendMessage]:
    return [effect for effect in core.take_effects() if isinstance(effect, SendMessage)]
