"""The protocol's decisions under a seeded scheduler that loses, doubles, delays and reorders every message."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from examples.cluster.protocol import Entry, GetPrepares, PrepareOk, Prepares, Request
from examples.cluster.replication import (
    BATCH_MAX,
    HEARTBEAT,
    LOG_MAX,
    PIPELINE_MAX,
    RESEND_TIMEOUT,
    Outgoing,
    Replication,
    quorum_of,
)


def request(number: int) -> Request:
    """A client's request."""
    return Request.build(cluster=1, client=1, session=1, number=number, operation=2, body=number.to_bytes(4, "little"))


@dataclass
class World:
    """Replicas and the messages between them, in one thread and virtual time."""

    replicas: int
    seed: int
    loss: float = 0.0
    silent: set[int] = field(default_factory=set)
    time: float = 0.0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.air: list[tuple[float, int, Outgoing]] = []
        self.executed: list[list[Entry]] = [[] for _ in range(self.replicas)]
        self.nodes = [Replication(index, self.replicas, self._send) for index in range(self.replicas)]
        self.held: list[dict[int, Entry]] = [{} for _ in range(self.replicas)]

    def _send(self, target: int, message: Outgoing) -> None:
        for _ in range(2 if self.chance.random() < self.loss else 1):
            if self.chance.random() >= self.loss:
                late = self.chance.random() * 0.05 if self.chance.random() < 2 * self.loss else 0.001
                self.air.append((self.time + late, target, message))

    def step(self) -> None:
        """A hundredth of a second: deliver what is due, tick, execute."""
        self.time += 0.01
        due = [entry for entry in self.air if entry[0] <= self.time]
        self.air = [entry for entry in self.air if entry[0] > self.time]
        self.chance.shuffle(due)
        for _time, target, message in due:
            if target not in self.silent:
                self.nodes[target].receive(message, self.time)
        for index, node in enumerate(self.nodes):
            if index not in self.silent:
                node.tick(self.time)
                self.execute(index)
                assert len(node._log) <= LOG_MAX
        assert self.nodes[0].op - self.nodes[0].commit <= PIPELINE_MAX

    def execute(self, index: int) -> None:
        """Take out what is committed, sometimes only a part, as a replica with a full port does."""
        node = self.nodes[index]
        while self.chance.random() > 0.1 and (entry := node.take_committed()) is not None:
            self.executed[index].append(entry)
            holders = sum(other.op >= entry.op for other in self.nodes)
            assert holders >= quorum_of(self.replicas), f"op {entry.op} was executed without a quorum"


@pytest.mark.parametrize("seed", range(40))
def test_all_replicas_execute_the_same_whatever_the_network_does(seed: int) -> None:
    """Each proposal once, in one order, on every replica; nothing stays behind."""
    world = World(replicas=3 + 2 * (seed % 2), seed=seed, loss=0.05 * (seed % 7))
    proposed = 0
    for _ in range(5000):
        primary = world.nodes[0]
        while proposed < 400 and primary.room and world.chance.random() < 0.7:
            proposed += 1
            assert primary.propose(request(proposed), 1 + proposed) == proposed
        primary.flush(world.time)
        world.step()
        if proposed == 400 and all(len(executed) == 400 for executed in world.executed):
            break
    for executed in world.executed:
        assert [entry.op for entry in executed] == list(range(1, 401)), f"seed {seed}"
        assert executed == world.executed[0], f"seed {seed}"
        assert [entry.request.number for entry in executed] == list(range(1, 401)), f"seed {seed}"


def test_the_same_seed_gives_the_same_run() -> None:
    """The decisions take time and chance from outside and nothing from anywhere else."""

    def run(seed: int) -> list[tuple[float, int, str]]:
        world = World(replicas=3, seed=seed, loss=0.2)
        trace = []
        for number in range(1, 100):
            if world.nodes[0].room:
                world.nodes[0].propose(request(number), number)
            world.nodes[0].flush(world.time)
            world.step()
            trace += [(when, target, type(message).__name__) for when, target, message in world.air]
        return trace

    assert run(5) == run(5)
    assert run(5) != run(6)


def test_a_minority_that_is_silent_stops_nothing() -> None:
    """One of three may be away; when it is back it gets what it missed."""
    world = World(replicas=3, seed=1, silent={2})
    for number in range(1, 301):
        world.nodes[0].propose(request(number), number)
        world.nodes[0].flush(world.time)
        world.step()
    for _ in range(100):
        world.step()
    assert len(world.executed[0]) == 300
    assert world.executed[2] == []
    world.silent.clear()
    for _ in range(300):
        world.step()
    assert world.executed[2] == world.executed[0]
    assert not world.nodes[0]._log


def test_without_a_quorum_nothing_is_committed_and_the_pipeline_fills() -> None:
    """The primary takes no more than its bound, and goes on when the others are back."""
    world = World(replicas=3, seed=1, silent={1, 2})
    number = 0
    for _ in range(500):
        if world.nodes[0].room:
            number += 1
            world.nodes[0].propose(request(number), number)
        world.step()
    assert number == PIPELINE_MAX
    assert world.executed[0] == []
    world.silent.clear()
    for _ in range(500):
        world.step()
    assert len(world.executed[0]) == PIPELINE_MAX
    assert world.nodes[0].settled


def test_a_backup_that_stays_away_stops_the_primary_at_the_bound_of_its_log() -> None:
    """Memory is bounded; what the backup misses is kept until then."""
    world = World(replicas=3, seed=1, silent={2})
    number = 0
    for _ in range(LOG_MAX):
        for _ in range(8):
            if world.nodes[0].room:
                number += 1
                world.nodes[0].propose(request(number), number)
        world.step()
        if number == LOG_MAX:
            break
    assert number == LOG_MAX
    assert world.nodes[0].room == 0


def collected(replica: int, replicas: int = 3) -> tuple[Replication, list[tuple[int, Outgoing]]]:
    """A replica whose messages are collected."""
    sent: list[tuple[int, Outgoing]] = []
    return Replication(replica, replicas, lambda target, message: sent.append((target, message))), sent


def entries(low: int, high: int) -> tuple[Entry, ...]:
    """Entries of the primary."""
    return tuple(Entry(op=op, view=0, replica=0, timestamp=op, request=request(op)) for op in range(low, high + 1))


def test_a_backup_asks_for_the_gap_and_takes_the_early_entries_then() -> None:
    """What came early is kept; only what is missing is asked for, and not with every message."""
    backup, sent = collected(1)
    backup.receive(Prepares(view=0, commit=0, entries=entries(4, 6)), 1.0)
    assert [message for _target, message in sent] == [
        GetPrepares(view=0, replica=1, low=1, high=3),
        PrepareOk(view=0, replica=1, op=0, executed=0),
    ]
    sent.clear()
    backup.receive(Prepares(view=0, commit=0, entries=entries(8, 8)), 1.001)
    assert [type(message) for _target, message in sent] == [PrepareOk]
    backup.receive(Prepares(view=0, commit=5, entries=entries(1, 3)), 1.002)
    assert backup.op == 6
    assert backup.commit == 5
    sent.clear()
    backup.tick(2.0)
    assert [message for _target, message in sent] == [GetPrepares(view=0, replica=1, low=7, high=7)]


def test_the_primary_sends_in_batches_and_again_only_after_a_timeout() -> None:
    """Everything once at first; then, without an acknowledgement, from the first that is missing."""
    primary, sent = collected(0)
    for number in range(1, BATCH_MAX + 11):
        primary.propose(request(number), number)
    primary.flush(0.0)
    sizes = [len(message.entries) for target, message in sent if target == 1 and isinstance(message, Prepares)]
    assert sizes == [BATCH_MAX, 10]
    sent.clear()
    primary.flush(0.0)
    primary.tick(HEARTBEAT / 2)
    assert sent == []
    primary.receive(PrepareOk(view=0, replica=1, op=BATCH_MAX, executed=0), 0.01)
    assert primary.commit == BATCH_MAX
    primary.tick(RESEND_TIMEOUT + 0.02)
    resent = [message.entries[0].op for target, message in sent if target == 1 and isinstance(message, Prepares)]
    assert resent == [BATCH_MAX + 1]
    assert primary.resends == 2


def test_a_gap_that_is_known_to_be_filled_is_not_sent_again() -> None:
    """A request for it that comes late asks for entries that are forgotten, or never were."""
    primary, sent = collected(0)
    for number in range(1, 11):
        primary.propose(request(number), number)
    primary.flush(0.0)
    for replica in (1, 2):
        primary.receive(PrepareOk(view=0, replica=replica, op=5, executed=0), 0.0)
    while primary.take_committed() is not None:
        pass
    sent.clear()
    primary.receive(GetPrepares(view=0, replica=1, low=1, high=5), 0.0)
    primary.receive(GetPrepares(view=0, replica=1, low=8, high=40), 0.0)
    primary.receive(GetPrepares(view=0, replica=9, low=1, high=7), 0.0)
    assert sent == []
    primary.receive(GetPrepares(view=0, replica=1, low=3, high=7), 0.0)
    assert [[entry.op for entry in message.entries] for _t, message in sent if isinstance(message, Prepares)] == [
        [6, 7]
    ]


def test_messages_of_another_view_or_for_another_role_change_nothing() -> None:
    """There is one view so far; what names another is not for us."""
    primary, sent = collected(0)
    primary.propose(request(1), 1)
    primary.receive(PrepareOk(view=1, replica=1, op=1, executed=0), 0.0)
    primary.receive(PrepareOk(view=0, replica=1, op=7, executed=0), 0.0)
    primary.receive(Prepares(view=0, commit=1, entries=entries(1, 1)), 0.0)
    assert primary.commit == 0
    assert sent == []
    backup, sent = collected(1)
    backup.receive(PrepareOk(view=0, replica=2, op=0, executed=0), 0.0)
    backup.receive(GetPrepares(view=0, replica=2, low=1, high=1), 0.0)
    assert sent == []


def test_a_single_replica_is_its_own_quorum() -> None:
    """The smallest cluster commits at once."""
    alone, _sent = collected(0, 1)
    alone.propose(request(1), 1)
    assert alone.commit == 1
    assert [quorum_of(replicas) for replicas in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]
