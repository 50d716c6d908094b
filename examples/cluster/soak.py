"""Random harm to a cluster at work, for minutes, and the verdict of `run`: `python -m examples.cluster soak`.

Clients of both kinds send transfers at a steady rate: those of `run`, and those of the library, over TCP through the
gateway. What is done to the cluster meanwhile is in `harm`.

Guarantees: exit status 0 only if every check holds, all were whole again each time, and the time was kept; 1 otherwise.
The verdict is computed from journals, records and files like that of `run`, and knows nothing of the harm.

Owns: what `Run` owns; the gateway; the clients at it.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .control import StartReplica, client_id
from .descriptors import prepare_descriptors
from .door_clients import DoorClients
from .evidence import read_answers
from .gateway_keeper import GatewayKeeper
from .generate_transfers import rows
from .harm import Harm
from .journal import Plant
from .members import Members, MembersFailed, on_machine
from .report import figure_lines, percentile, verdict_lines
from .run import CLIENT_ACTORS_MAX, POLL_INTERVAL, STALL_TIMEOUT, Options, Outcome, Run, after
from .run_directory import run_directory
from .terminal import Line, ProgressLine, show
from .transfers import HEADING, read_transfers

SESSIONS = 24  # half of them at the gateway
RESERVE = 60.0  # seconds at the end, for the last repairs and the verdict; of a short soak 0.4 of its time
# All slots once a second: damage must not outlive the next harm.
SCRUB_BYTES_PER_SECOND, SCRUB_PASS_INTERVAL = 1024 * 1024, 1.0
PROGRESS_INTERVAL = 10.0
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class SoakOptions:
    """What the user chose, checked."""

    minutes: float
    rate: float
    replicas: int
    seed: int
    directory: Path
    plant: Plant | None
    keep: bool


class Soak(Run):
    """A run with random harm. See the module."""

    def __init__(
        self, options: Options, directory: Path, progress: ProgressLine, harm_until: float, until: float
    ) -> None:
        super().__init__(options, directory, progress)
        inside = range(options.clients // 2)
        self._sessions = {
            f"client-{index}": tuple(inside[index::CLIENT_ACTORS_MAX]) for index in range(CLIENT_ACTORS_MAX)
        }
        self._harm_until = harm_until
        self._until = until
        self._at_door = range(len(inside), options.clients)
        self.harm_done: Counter[str] = Counter()
        self.recoveries: list[float] = []
        self.counters: Counter[str] = Counter()
        self.gateway_restarts = 0

    # Starting.

    def _start(self, members: Members) -> None:
        super()._start(members)
        members.say = lambda text: None
        self._gateway = GatewayKeeper(members, self._cluster, (HOST, 0))
        self._gateway.start()
        options = self._options
        self._door = DoorClients(
            self._gateway.address,
            cluster=self._cluster,
            rows={number: options.transfers[number :: options.clients] for number in self._at_door},
            rate=options.rate,
            seed=options.seed,
        )
        self._door.start(lambda number: self._record(f"door-{number}"))

    def _start_replica(self, replica: int, epoch: float) -> StartReplica:
        start = super()._start_replica(replica, epoch)
        config = replace(
            start.config, scrub_bytes_per_second=SCRUB_BYTES_PER_SECOND, scrub_pass_interval=SCRUB_PASS_INTERVAL
        )
        return replace(start, config=config)

    # Working.

    def _work(self, members: Members) -> float:
        begun = time.monotonic()
        harm = Harm(members, self._gateway, self._directory, self._options.seed, self._progress.say)
        try:
            self._work_on(members, harm)
            harm.settle()
        finally:
            self._door.close()
            self.harm_done, self.recoveries = harm.done, harm.recoveries
            self.gateway_restarts = self._gateway.restarts
        return time.monotonic() - begun

    def _work_on(self, members: Members, harm: Harm) -> None:
        """Do harm until every session has all its answers, or its time is over; then they can make up for it."""
        done, moved_at = -1, time.monotonic()
        while True:
            counters, now_done, finished = self._ask_progress_of(members, list(self._sessions))
            now_done += self._door.done
            finished &= self._door.finished
            now = time.monotonic()
            if now_done != done:
                done, moved_at = now_done, now
            details = f"harm {harm.done.total()}, retried {counters['retries']}"
            self._progress.show(done, len(self._options.transfers), details, last=finished)
            if self._door.failure:
                raise MembersFailed(self._door.failure)
            if finished:
                return
            if now - moved_at > STALL_TIMEOUT:
                raise MembersFailed(f"nothing has moved for {STALL_TIMEOUT:.0f} s, at {done} transfers")
            if now > self._until:
                raise MembersFailed(
                    f"the time is over, and {done} of {len(self._options.transfers)} transfers are done"
                )
            harm.turn(more=now < self._harm_until)
            members.wait(after(POLL_INTERVAL), STALL_TIMEOUT, "a pause")

    def _finish(self, members: Members) -> Counter[str]:
        self.counters = super()._finish(members) + self._door.counters
        return self.counters

    # Judging.

    def _records(self) -> Sequence[str]:
        return [*self._sessions, *(f"door-{number}" for number in self._at_door)]

    def _clients(self) -> tuple[int, ...]:
        """Those at the gateway have chosen their own numbers, which are in their records."""
        inside = [client_id(number) for number in range(self._at_door.start)]
        return (*inside, *(read_answers(self._record(f"door-{number}"))[0].client for number in self._at_door))


def soak(chosen: SoakOptions) -> int:
    """Soak, report, and give the exit status."""
    with on_machine():
        prepare_descriptors()
        return _soak(chosen)


def _soak(chosen: SoakOptions) -> int:
    begun = time.monotonic()
    seconds = chosen.minutes * 60.0
    working = seconds - min(RESERVE, 0.4 * seconds)
    progress = ProgressLine(sys.stdout, PROGRESS_INTERVAL)
    with run_directory(chosen.directory, keep=chosen.keep) as directory:
        file = directory / "soak.csv"
        lines = [",".join(map(str, row)) for row in rows(chosen.seed, max(SESSIONS * 4, int(working * chosen.rate)))]
        file.write_text("\n".join([",".join(HEADING), *lines]) + "\n")
        options = Options(
            transfers_file=file,
            transfers=read_transfers(file),
            clients=SESSIONS,
            replicas=chosen.replicas,
            seed=chosen.seed,
            directory=chosen.directory,
            drop_replies=0.1,
            duplicate_requests=0.05,
            damages=0,
            kills=0,
            plant=chosen.plant,
            json=False,
            keep=chosen.keep,
            rate=chosen.rate,
        )
        run = Soak(options, directory, progress, begun + working, begun + seconds)
        try:
            with progress:
                outcome = run.run()
        except MembersFailed as failure:
            show(harm_lines(run))
            print(f"the soak failed: {failure} (seed {chosen.seed}; --keep keeps its log)", file=sys.stderr)
            return 1
        finally:
            if chosen.keep:
                progress.say(f"evidence is kept in {directory}")
    show(soak_lines(run, outcome, chosen.seed))
    return 0 if outcome.holds else 1


def soak_lines(run: Soak, outcome: Outcome, seed: int) -> list[Line]:
    """Figures and verdict. What replicas count for themselves ends with each life, and is not among it."""
    cluster, network = outcome.figures.cluster, outcome.figures.network
    return [
        *figure_lines(outcome.figures),
        *harm_lines(run),
        f"  changes      {cluster['view_changes']} view changes, {cluster['restarts']} restarts of replicas, "
        f"{run.gateway_restarts} of the gateway, {cluster['state_syncs']} state syncs, "
        f"{network['slots_repaired']} slots repaired from peers",
        f"  clients      {network['client_retries']} retries; at the gateway {run.counters['door_repeats']} replies "
        f"asked for once more, {run.counters['door_timeouts']} timeouts resumed",
        f"  seed         {seed}",
        *verdict_lines(outcome.checks),
    ]


def harm_lines(run: Soak) -> list[str]:
    """What was done to the cluster, and how long it took to be whole again."""
    done = ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in sorted(run.harm_done.items()))
    recoveries = sorted(run.recoveries)
    return [
        f"  harm         {run.harm_done.total()}: {done or 'none'}",
        f"  whole again  {len(recoveries)} times, p50 {percentile(recoveries, 50):.1f} s, "
        f"max {percentile(recoveries, 100):.1f} s after the first harm",
    ]
