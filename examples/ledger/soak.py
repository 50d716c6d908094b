"""Random faults in a cluster at work, for minutes, and the verdict of `run`: `python -m examples.ledger soak`.

Clients send transfers at a steady rate, and ask for some of the answers once more; `harm` injects the faults meanwhile.

Guarantees: exit status 0 only if no check is broken, the cluster became whole again after every fault, and the time
was kept; the others are in `exit_status`. The verdict is computed from journals, records and files like that of `run`;
of the faults it knows how many slots were damaged, and how often the cluster became whole again.

Limits: faults come at random moments, so nobody knows what a killed primary had committed and not sent.

Owns: what `Run` owns.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from client_replies.cluster.host.failure import MembersFailed
from client_replies.cluster.host.members import Members, on_machine

from .descriptors import prepare_descriptors
from .exit_status import ExitStatus
from .generate_transfers import rows
from .harm import Harm
from .ledger_replica import StartLedgerReplica
from .options import Options, SoakOptions
from .report import figure_lines, verdict_lines
from .run import Run, RunResult
from .run_directory import run_directory
from .terminal import Line, OutputLost, ProgressLine, plain, show
from .transfers import read_transfers, write_transfers
from .verdict import Check, CheckResult
from examples.percentile import percentile

SESSIONS = 24
REPEATS = 0.3  # probability that a client asks for an answer once more
RESERVE = 60.0  # seconds at the end, for the last repairs and the verdict; of a short soak 0.4 of its time
# All slots once a second: damage must not outlive the next harm.
SCRUB_BYTES_PER_SECOND, SCRUB_PASS_INTERVAL = 1024 * 1024, 1.0
PROGRESS_INTERVAL = 10.0


class Soak(Run):
    """A run with random harm. See the module."""

    def __init__(
        self, options: Options, directory: Path, progress: ProgressLine, harm_until: float, until: float
    ) -> None:
        super().__init__(options, directory, progress)
        self._harm_until = harm_until
        self._until = until
        self.harm_done: Counter[str] = Counter()
        self.recoveries: list[float] = []

    def _start(self, members: Members) -> None:
        super()._start(members)
        members.say = lambda text: None

    def _start_replica(self, replica: int, epoch: float) -> StartLedgerReplica:
        start = super()._start_replica(replica, epoch)
        config = replace(
            start.config, scrub_bytes_per_second=SCRUB_BYTES_PER_SECOND, scrub_pass_interval=SCRUB_PASS_INTERVAL
        )
        return replace(start, config=config)

    def _work(self, members: Members) -> float:
        self._harm = harm = Harm(members, self.gateway, self._directory, self._options.seed, self._progress.say)
        self.harm_done, self.recoveries = harm.done, harm.recoveries
        seconds = super()._work(members)
        harm.settle()
        return seconds

    def _turn(self, now: float) -> None:
        """Do harm until every session has all its answers, or its time is over; then they can make up for it."""
        if now > self._until:
            done, total = self._clients.done, len(self._options.transfers)
            raise MembersFailed(f"the time is over, and {done} of {total} transfers are done")
        self._harm.turn(more=now < self._harm_until)

    def _details(self, counters: Counter[str]) -> str:
        return f"faults {self.harm_done.total()}, retried {counters['retries']}"

    def _corrupted(self) -> int:
        return self._harm.slots_damaged

    def _judge(self, seconds: float, counters: Mapping[str, int]) -> RunResult:
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
            repeats=REPEATS,
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


def soak_lines(run: Soak, outcome: RunResult, seed: int) -> list[Line]:
    """Figures and verdict."""
    cluster, network = outcome.figures.cluster, outcome.figures.network
    return [
        *figure_lines(outcome.figures),
        *harm_lines(run),
        f"  changes      {cluster['view_changes']} view changes, {cluster['restarts']} restarts of replicas, "
        f"{run.gateway.restarts} of the gateway, {cluster['state_syncs']} state syncs, "
        f"{network['slots_repaired']} slots repaired from peers",
        f"  clients      {network['replies_lost']} replies lost, {network['client_retries']} retries, "
        f"{network['replies_repeated']} replies asked for once more, {network['timeouts_resumed']} timeouts resumed",
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
