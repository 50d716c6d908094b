"""The simulated actor system does to actors what the real one does, and worse."""

from __future__ import annotations

from typing import Any

import pytest
from thespian.actors import (
    Actor,
    ActorAddress,
    ActorExitRequest,
    ChildActorExited,
    PoisonMessage,
    ThespianWatch,
    WakeupMessage,
    WatchMessage,
)

from tests.simulation.chance import Chance
from tests.simulation.marks import Marks
from tests.simulation.network import Host, Network, Rules
from tests.simulation.system import TRANSMITS_MAX, Process, ProcessDied, SimSystem
from tests.simulation.trace import Trace

HOST = Host("h", 0)
FAR = Host("far", 1)


class Noting(Actor):
    """Keeps what it is sent."""

    def __init__(self, capabilities: object = None, requirements: object = None) -> None:
        super().__init__()
        self.seen: list[Any] = []
        self.watch: list[int] = []

    def receiveMessage(self, message: Any, sender: ActorAddress) -> object:
        """Do what a tuple says, keep anything else."""
        if isinstance(message, tuple) and message[0] == "send":
            for item in message[2]:
                self.send(message[1], item)
        elif isinstance(message, tuple) and message[0] == "wake":
            for seconds in message[1]:
                self.wakeupAfter(seconds, seconds)
        elif message == "child":
            self.seen.append(self.createActor(Noting))
        else:
            self.seen.append(message)
            if message == "raise":
                raise ValueError("as told")
            if message == "die":
                raise SystemExit
        return ThespianWatch(self.watch) if self.watch else None


def system_of(seed: int = 1, **rules: Any) -> SimSystem:
    """Give a system with these network rules."""
    marks = Marks()
    return SimSystem(Chance(seed, "system"), Network(Chance(seed, "network"), Rules(**rules), marks), Trace(), marks)


def two(system: SimSystem, *, far: bool = False) -> tuple[Process, Process]:
    """Give two processes, on one host or on two."""
    one = system.create(Noting, None, name="one", host=HOST)
    return one, system.create(Noting, None, name="two", host=FAR if far else HOST)


def send(system: SimSystem, source: Process, target: Process, *messages: object) -> None:
    """Let one process send to another."""
    for message in messages:
        system.post(source, target.address, message)


def test_messages_of_a_pair_arrive_in_order_unless_they_overtake() -> None:
    """As on a warm connection, and as on one that both sides use."""
    for overtake, in_order in ((0.0, True), (0.5, False)):
        system = system_of(local_overtake=overtake, local_latency=0.01)
        one, other = two(system)
        send(system, one, other, *range(50))
        system.run(1_000_000)
        assert sorted(other.instance.seen) == list(range(50))
        assert (other.instance.seen == list(range(50))) == in_order


def test_what_a_process_was_sent_dies_with_it_and_its_parent_is_told() -> None:
    """Once or twice; its children follow it."""
    system = system_of()
    parent = system.create(Noting, None, name="parent", host=HOST)
    send(system, parent, parent, "child")
    system.run(10_000)
    child = system.process_at(parent.instance.seen[0])
    assert child is not None
    grandchild = system.create(Noting, None, name="grandchild", host=HOST, parent=child)
    send(system, parent, child, 1, 2, 3)
    system.kill(child)
    system.run(1_000_000)
    assert child.instance.seen == []
    notices = [seen for seen in parent.instance.seen if isinstance(seen, ChildActorExited)]
    assert len(notices) in (1, 2)
    assert not grandchild.alive
    assert system.marks.counts["dead_letter"] >= 3


def test_an_exit_is_told_twice() -> None:
    """As on TCP."""
    system = system_of()
    parent = system.create(Noting, None, name="parent", host=HOST)
    child = system.create(Noting, None, name="child", host=HOST, parent=parent)
    send(system, parent, child, ActorExitRequest())
    system.run(1_000_000)
    assert len(parent.instance.seen) == 2
    assert not child.alive


def test_a_handler_that_raises_runs_again_and_poisons_its_sender() -> None:
    """Twice in all, with the state that the first run left."""
    system = system_of()
    system.tolerant = True
    one, other = two(system)
    send(system, one, other, "raise")
    system.run(1_000_000)
    assert other.instance.seen == ["raise", "raise"]
    assert [type(seen) for seen in one.instance.seen] == [PoisonMessage]
    assert other.alive


def test_an_exception_ends_a_run_that_is_not_tolerant() -> None:
    """Our actors let none out."""
    system = system_of()
    one, other = two(system)
    send(system, one, other, "raise")
    with pytest.raises(ProcessDied):
        system.run(1_000_000)


def test_what_is_no_exception_ends_the_process() -> None:
    """Nothing is called again."""
    system = system_of()
    one, other = two(system)
    send(system, one, other, "die")
    with pytest.raises(ProcessDied):
        system.run(1_000_000)
    assert not other.alive


def test_wakeups_come_late_and_in_reverse() -> None:
    """Never early."""
    system = system_of()
    system.wakeup_late_max = 1.0
    one, _other = two(system)
    send(system, one, one, ("wake", [0.1 + step / 1000 for step in range(200)]))
    system.run(3_000_000)
    periods = [wakeup.payload for wakeup in one.instance.seen if isinstance(wakeup, WakeupMessage)]
    assert len(periods) == 200
    assert periods != sorted(periods)


def test_a_stopped_process_stalls_its_senders_until_it_goes_on() -> None:
    """Twenty transmits that it does not take hold up what is for others."""
    system = system_of()
    one, other = two(system)
    third = system.create(Noting, None, name="third", host=HOST)
    system.stop(other)
    send(system, one, other, *range(TRANSMITS_MAX))
    system.run(100_000)
    send(system, one, third, "late")
    system.run(200_000)
    assert third.instance.seen == []
    system.resume(other)
    system.run(300_000)
    assert third.instance.seen == ["late"]
    assert sorted(other.instance.seen) == list(range(TRANSMITS_MAX))


def test_transmits_to_a_stopped_process_time_out_without_a_word() -> None:
    """Dropped, and the sender goes on."""
    system = system_of()
    one, other = two(system)
    third = system.create(Noting, None, name="third", host=HOST)
    system.stop(other)
    send(system, one, other, *range(TRANSMITS_MAX))
    system.run(100_000)
    send(system, one, third, "late")
    system.run(10_000_000)
    assert third.instance.seen == ["late"]
    system.resume(other)
    system.run(11_000_000)
    assert other.instance.seen == []


def test_a_stopped_process_that_is_killed_frees_its_senders() -> None:
    """What it had not taken is lost, and nothing waits for it."""
    system = system_of()
    one, other = two(system)
    third = system.create(Noting, None, name="third", host=HOST)
    system.stop(other)
    send(system, one, other, *range(TRANSMITS_MAX))
    system.run(100_000)
    send(system, one, third, "late")
    system.kill(other)
    system.run(200_000)
    assert third.instance.seen == ["late"]


def test_a_watch_that_is_not_returned_is_gone() -> None:
    """The actor is never told of the descriptor again."""
    system = system_of()
    one, _other = two(system)
    one.ready[5] = lambda: True
    one.instance.watch = [5]
    send(system, one, one, "begin")
    system.run(10_000)
    told = sum(isinstance(seen, WatchMessage) for seen in one.instance.seen)
    assert told > 5
    one.instance.watch = []
    system.run(20_000)
    told = sum(isinstance(seen, WatchMessage) for seen in one.instance.seen)
    system.run(30_000)
    assert sum(isinstance(seen, WatchMessage) for seen in one.instance.seen) == told


def test_between_hosts_messages_are_lost_doubled_replayed_and_cut() -> None:
    """Each by its rule."""
    system = system_of(loss=0.3, double=0.3, replay=0.3)
    one, other = two(system, far=True)
    send(system, one, other, *range(200))
    system.run(10_000_000)
    seen = other.instance.seen
    assert len(set(seen)) < 200 < len(seen)
    system.network.links.cut.add((HOST.index, FAR.index))
    before = len(seen)
    send(system, one, other, "cut")
    system.run(20_000_000)
    assert len(seen) == before


def test_the_same_seed_gives_the_same_events() -> None:
    """And another seed other ones."""
    digests = []
    for seed in (1, 1, 2):
        system = system_of(seed, local_overtake=0.3)
        one, other = two(system)
        send(system, one, other, *range(50))
        system.run(1_000_000)
        digests.append(system.trace.digest())
    assert digests[0] == digests[1] != digests[2]
