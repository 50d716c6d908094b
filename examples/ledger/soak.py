"""Random faults in a cluster at work, for minutes, and the verdict of `run`: `python -m examples.ledger soak`.

Clients of both kinds send transfers at a steady rate: those of `run`, and those of the library, over TCP through the
gateway. `harm` injects the faults meanwhile.

Guarantees: exit status 0 only if no check is broken, the cluster became whole again after every fault, and the time
was kept; the others are in `exit_status`. The verdict is computed from journals, records and files like that of `run`;
of the faults it knows how many slots were damaged, and how often the cluster became whole again.

Limits: faults come at random moments, so nobody knows what a killed primary had committed and not sent.

Owns: what `Run` owns; the gateway; the clients at it.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from client_replies.cluster.host.failure import MembersFailed
from client_replies.cluster.host.gateway_keeper import GatewayKeeper
from client_replies.cluster.host.members import Members, on_machine

from .client import client_id
from .descriptors import prepare_descriptors
from .door_clients import DoorClients
from .evidence import read_answers
from .exit_status import ExitStatus
from .generate_transfers import rows
from .harm import Harm
from .ledger_replica import StartLedgerReplica
from .options import Options, SoakOptions
from .report import figure_lines, verdict_lines
from .run import CLIENT_ACTORS_MAX, POLL_INTERVAL, STALL_TIMEOUT, Outcome, Run, after
from .run_directory import run_directory
from .terminal import Line, OutputLost, ProgressLine, plain, show
from .transfers import read_transfers, write_transfers
from .verdict import Check, CheckResult
from examples.percentile import percentile

SESSIONS = 24  # half of them at the gateway
RESERVE = 60.0  # seconds at the end, for the last repairs and the verdict; of a short soak 0.4 of its time
# All slots once a second: damage must not outlive the next harm.
SCRUB_BYTES_PER_SECOND, SCRUB_PASS_INTERVAL = 1024 * 1024, 1.0
PROGRESS_INTERVAL = 10.0
HOST = "127.0.0.1"


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
        self._slots_damaged = 0
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

    def _start_replica(self, replica: int, epoch: float) -> StartLedgerReplica:
        start = super()._start_replica(replica, epoch)
        config = replace(
            start.config, scrub_bytes_per_second=SCRUB_BYTES_PER_SECOND, scrub_pass_interval=SCRUB_PASS_INTERVAL
        )
        return replace(start, config=config)

    # Working.

    def _work(self, members: Members) -> float:
        begun = time.monotonic()
        harm = Harm(members, self._gateway, self._directory, self._options.seed, self._progress.say)
        self.harm_done = harm.done
        try:
            self._work_on(members, harm)
            harm.settle()
        finally:
            self._door.close()
            self.recoveries = harm.recoveries
            self._slots_damaged = harm.slots_damaged
            self.gateway_restarts = self._gateway.restarts
        return time.monotonic() - begun

    def _work_on(self, members: Members, harm: Harm) -> None:
        """Do harm until every session has all its answers, or its time is over; then they can make up for it."""
        done, moved_at = -1, time.monotonic()
        while True:
            counters, now_done, finished = self._ask_progress(members)
            now = time.monotonic()
            if now_done != done:
                done, moved_at = now_done, now
            self._progress.show(done, len(self._options.transfers), self._details(counters))
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

    def _ask_progress(self, members: Members) -> tuple[Counter[str], int, bool]:
        counters, done, finished = super()._ask_progress(members)
        return counters + self._door.counters, done + self._door.done, finished and self._door.finished

    def _details(self, counters: Mapping[str, int]) -> str:
        return f"faults {self.harm_done.total()}, retried {counters.get('retries', 0)}"

    def _finish(self, members: Members) -> Counter[str]:
        self.counters = super()._finish(members)
        return self.counters

    # Judging.

    def _records(self) -> Sequence[str]:
        return [*self._sessions, *(f"door-{number}" for number in self._at_door)]

    def _clients(self) -> tuple[int, ...]:
        """Those at the gateway have chosen their own numbers, which are in their records."""
        inside = [client_id(number) for number in range(self._at_door.start)]
        return (*inside, *(read_answers(self._record(f"door-{number}"))[0].client for number in self._at_door))

    def _corrupted(self) -> int:
        return self._slots_damaged

    def _judge(self, seconds: float, counters: Mapping[str, int]) -> Outcome:
        outcome = super()._judge(seconds, counters)
        return replace(outcome, checks=(*outcome.checks, whole_again(self.harm_done.total(), len(self.recoveries))))


def whole_again(faults: int, recoveries: int) -> Check:
    """What came of waiting for a whole cluster after each fault: one that does not become whole ends the soak."""
    name = "the cluster was whole again after every fault in a replica"
    result = CheckResult.PASSED if recoveries else CheckResult.NOT_TRIED
    return Check(name, result, f"{faults} faults, whole again {recoveries} times")


def soak(chosen: SoakOptions) -> ExitStatus:
    """Soak, report, and give the exit status. Raises `OutputLost`, `MembersFailed`, and what interrupts it."""
    with on_machine():
        prepare_descriptors()
        return _soak(chosen)


def _soak(chosen: SoakOptions) -> ExitStatus:
    begun = time.monotonic()
    seconds = chosen.minutes * 60.0
    working = seconds - min(RESERVE, 0.4 * seconds)
    progress = ProgressLine(sys.stdout, PROGRESS_INTERVAL)
    with run_directory(chosen.directory, keep=chosen.keep) as directory:
        file = directory / "soak.csv"
        write_transfers(file, rows(chosen.seed, max(SESSIONS * 4, int(working * chosen.rate))))
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
            failure.add_note(f"seed {chosen.seed}; --keep keeps its log")
            raise
        finally:
            if chosen.keep:
                progress.say(f"evidence is kept in {directory}")
    try:
        show(soak_lines(run, outcome, chosen.seed))
    except OutputLost as error:
        error.add_note(f"the soak was finished; {plain(verdict_lines(outcome.checks)[-1])}")
        raise
    return ExitStatus.DONE if outcome.holds else ExitStatus.REFUSED


def soak_lines(run: Soak, outcome: Outcome, seed: int) -> list[Line]:
    """Figures and verdict."""
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
    """Which faults were injected, and how long the cluster took to be whole again."""
    done = ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in sorted(run.harm_done.items()))
    recoveries = run.recoveries
    return [
        f"  faults       {run.harm_done.total()}: {done or 'none'}",
        f"  whole again  {len(recoveries)} times, p50 {percentile(recoveries, 50):.1f} s, "
        f"max {percentile(recoveries, 100):.1f} s after the first fault",
    ]
