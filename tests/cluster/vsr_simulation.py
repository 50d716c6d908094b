"""Random faults for the cluster of `vsr_world`: `python -m tests.cluster.vsr_simulation --seeds 1000 [--first N]`.

A seed decides everything: how many replicas and clients, sizes, weather, and a schedule of crashes (which lose what
was not synced), restarts, partitions (also in one direction), slow disks, rotten log entries and lost disks. Replicas
crash as they like; rot and lost disks never concern more than a minority at a time. Then the faults stop, and the
cluster has a minute of its own time to finish everything.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter

from client_replies.cluster.vsr.effects import AnswerClient, Effect
from client_replies.messages.faults import InvariantBroken

from tests.cluster.vsr_world import Node, Violation, Weather, World

FAULTS_UNTIL = 3.5


def build(seed: int) -> World:
    """The cluster of a seed."""
    chance = random.Random(seed * 7919 + 1)
    weather = Weather(
        drop=chance.choice((0.0, 0.01, 0.05, 0.15)),
        duplicate=chance.choice((0.0, 0.02, 0.1)),
        delay=(0.0005, chance.choice((0.002, 0.006, 0.02))),
        slow=chance.choice((0.0, 0.01, 0.05)),
        slow_delay=chance.choice((0.1, 0.5, 2.0)),
        disk=(0.0005, chance.choice((0.002, 0.01, 0.04))),
    )
    interval = chance.choice((8, 16))
    pipeline = chance.choice((4, 8))
    clients = chance.choice((2, 4, 6))
    return World(
        seed,
        replicas=chance.choice((3, 3, 5)),
        clients=clients,
        requests=chance.choice((30, 50)),
        weather=weather,
        pending_max=chance.choice((4, 64)),
        clients_max=chance.choice((clients - 1, clients, 8)),
        checkpoint_interval=interval,
        pipeline_max=pipeline,
        log_max=3 * interval + pipeline,
        chunk_size=chance.choice((300, 5000)),
        view_change=0.25,
        think=0.1,
    )


class Chaos:
    """The faults of a seed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = random.Random(world.seed * 104729 + 3)
        self.injured: set[int] = set()  # replicas that rotted or lost their disk and may not be whole again
        self.minority = (len(world.nodes) - 1) // 2
        self.pace = self.random.choice((0.1, 0.25, 0.5))
        for node in world.nodes:
            node.slow_disk = self.random.choice((1.0, 1.0, 5.0, 20.0))

    def start(self) -> None:
        """Begin."""
        self.world.after(self.random.uniform(0.1, self.pace), self.strike)

    def strike(self) -> None:
        """Do something bad, or something good; and again later."""
        if self.world.now > FAULTS_UNTIL:
            return
        actions = (self.crash, self.crash, self.crash_primary, self.partition, self.join, self.damage, self.slow_disk)
        ambushes = (self.power_loss, self.ambush, self.two_primaries, self.two_primaries)
        self.random.choice((*actions, self.repeat_old, self.mute, *ambushes))()
        self.world.after(self.random.expovariate(1 / self.pace), self.strike)

    def crash(self) -> None:
        """A replica dies, and starts again."""
        self._crash(self.random.choice(self.world.nodes))

    def crash_primary(self) -> None:
        """A primary dies."""
        living = [node for node in self.world.nodes if node.replica is not None and node.replica.core.is_primary]
        if living:
            self._crash(self.random.choice(living))

    def _crash(self, node: Node, pauses: tuple[float, ...] = (0.02, 0.2, 1.0)) -> None:
        if node.replica is not None:
            node.crash()
            self.world.happened["crashes"] += 1
            self._restart_later(node, pauses)

    def _restart_later(self, node: Node, pauses: tuple[float, ...]) -> None:
        def restart() -> None:
            if node.replica is None:
                node.start()

        self.world.after(self.random.choice(pauses) * self.random.uniform(0.5, 1.5), restart)

    def power_loss(self) -> None:
        """All die at once, and one of them starts again much later."""
        self._crash_all(self.random.choice(self.world.nodes))

    def _crash_all(self, last: Node) -> None:
        for node in self.world.nodes:
            if node.replica is not None:
                node.crash()
                self._restart_later(node, (1.2,) if node is last else (0.02, 0.05))
        self.world.happened["power_losses"] += 1

    def ambush(self) -> None:
        """All die in the moment in which one has told a client that something is committed; that one stays away."""

        def strike(node: Node, effect: Effect) -> None:
            if isinstance(effect, AnswerClient):
                self.world.effect_hooks.remove(strike)
                self.world.after(0.0, lambda: self._crash_all(node))

        if not self.world.effect_hooks:
            self.world.effect_hooks.append(strike)

    def two_primaries(self) -> None:
        """Cut off the primary; when the next one has told a client something, that one dies, and the first returns."""
        living = [node for node in self.world.nodes if node.replica is not None and node.replica.core.is_primary]
        if self.world.effect_hooks or not living:
            return
        old = self.random.choice(living)
        assert old.replica is not None
        view = old.replica.core.view
        self.world.partition({old.index}, {node.index for node in self.world.nodes if node is not old})

        def strike(node: Node, effect: Effect) -> None:
            if isinstance(effect, AnswerClient) and effect.view > view:
                self.world.effect_hooks.remove(strike)
                self.world.after(0.0, lambda: self._crash(node, (1.2,)))
                self.join()

        self.world.effect_hooks.append(strike)
        self.world.happened["two_primaries"] += 1

    def partition(self) -> None:
        """Some do not hear some."""
        everyone = list(range(len(self.world.nodes)))
        self.random.shuffle(everyone)
        if self.random.random() < 0.3:
            self.world.cut = {(everyone[0], other) for other in everyone[1:] if self.random.random() < 0.7}
        else:
            split = self.random.randrange(1, len(everyone))
            self.world.partition(set(everyone[:split]), set(everyone[split:]))
        self.world.happened["partitions"] += 1

    def join(self) -> None:
        """All hear all again."""
        self.world.cut.clear()
        self.world.client_cut.clear()

    def mute(self) -> None:
        """A replica's words do not reach clients."""
        self.world.client_cut = {self.random.randrange(len(self.world.nodes))}

    def slow_disk(self) -> None:
        """A disk becomes slow, or quick again."""
        node = self.random.choice(self.world.nodes)
        node.slow_disk = self.random.choice((1.0, 10.0, 50.0, 200.0))

    def repeat_old(self) -> None:
        """Clients repeat what was answered long ago."""
        for client in self.world.clients.values():
            client.repeat_old()

    def damage(self) -> None:
        """A disk is lost, or an entry rots, while the others are whole."""
        self.injured = {index for index in self.injured if not self._is_whole(self.world.nodes[index])}
        node = self.random.choice(self.world.nodes)
        if node.index not in self.injured and len(self.injured) >= self.minority:
            return
        self.injured.add(node.index)
        if node.replica is not None:
            node.crash()
        if self.random.random() < 0.5:
            node.lose_disk()
            self.world.happened["disks_lost"] += 1
        else:
            stored = node.store.load()
            for _ in range(self.random.choice((1, 3))):
                if stored.op > stored.base:
                    node.store.rot(self.random.randrange(max(stored.base, stored.op - 12) + 1, stored.op + 1))
                    self.world.happened["entries_rotten"] += 1
        self._restart_later(node, (0.02, 0.2, 1.0))

    def _is_whole(self, node: Node) -> bool:
        return node.replica is not None and node.replica.is_whole and not node.replica.core.log.rotten()


def simulate(seed: int) -> World:
    """Run a seed. Raises `Violation` or `InvariantBroken` with the seed in it."""
    world = build(seed)
    try:
        world.start()
        Chaos(world).start()
        world.run_for(FAULTS_UNTIL)
        world.finish()
    except (Violation, InvariantBroken) as error:
        raise Violation(f"seed {seed} at {world.now:.3f}: {type(error).__name__}: {error}") from error
    except Exception as error:
        raise Violation(f"seed {seed} at {world.now:.3f}: {type(error).__name__}: {error}") from error
    return world


def main() -> int:
    """Run many seeds, and say what happened in them."""
    parser = argparse.ArgumentParser(description="random faults for the replication protocol")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--until-failure", action="store_true", help="stop at the first failure, status 1")
    arguments = parser.parse_args()
    began = time.monotonic()
    happened: Counter[str] = Counter()
    failures = 0
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        try:
            world = simulate(seed)
        except Violation as violation:
            failures += 1
            print(violation, flush=True)
            if arguments.until_failure:
                print(f"found after {seed - arguments.first + 1} seeds")
                return 1
            continue
        happened.update(world.happened)
        happened["ops"] += len(world.history)
        happened["answers"] += world.answers
    print(f"{arguments.seeds} seeds, {failures} failures, {time.monotonic() - began:.1f} s")
    print(", ".join(f"{name} {count}" for name, count in sorted(happened.items())))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
