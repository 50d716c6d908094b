"""The main job: start the cluster, send it every transfer of a file through network faults, and judge the result.

Guarantees: exit status 0 only if no check of the verdict is broken and every fault that the user asked for happened;
the others are in `exit_status`. Arguments or a file that cannot be used end it before anything is started. A check that
saw nothing was not tried: that changes no exit status, and the verdict says so. However the run ends, no process, no
shared memory and no lock is left, and the run's directory is gone, at the latest with the next run. Progress and report
show the same totals, over all lives of the replicas.

Limits: how many faults are planned by default depends on the number of transfers; of those, some may not find their
moment.

Owns: the actor system, the gateway, the clients, the run's directory.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from client_replies.actors.thespian.system import configure_logging, running_system
from client_replies.cluster.control import Finish, FinishState, GetProgress, Progress, replica_name
from client_replies.cluster.host.cluster_directory import DATA_FILE
from client_replies.cluster.host.failure import MembersFailed
from client_replies.cluster.host.gateway_keeper import GatewayKeeper
from client_replies.cluster.host.members import Members, on_machine
from client_replies.messages.reply_header import packed_size
from client_replies.storage.layout import Layout, sectors_size

from .clients import DrillClients
from .config import CHECKPOINT_INTERVAL, CLIENTS_MAX, MESSAGE_SIZE_MAX, VIEW_CHANGE, replies_config
from .damage import MomentsPlan
from .descriptors import prepare_descriptors
from .evidence import Totals, read_events, read_final, read_journal, read_record
from .exit_status import ExitStatus
from .faulty_network import cluster_faults
from .ledger_replica import EVENTS_FILE, FINAL_FILE, JOURNAL_FILE, LedgerReplica, StartLedgerReplica
from .options import Options
from .plant import Plant
from .report import Figures, broken_count, figures, report_json, report_lines, verdict_lines
from .run_directory import run_directory
from .terminal import OutputLost, ProgressLine, plain, show
from .verdict import Check, Evidence, judge, read_rows

CLUSTER_PREFIX = 0xC1057E2
HOST = "127.0.0.1"

EVIDENCE_DIRECTORY = "evidence"
MOMENTS_DIRECTORY = "moments"

START_TIMEOUT = 30.0  # seconds
STALL_TIMEOUT = 30.0
FINISH_TIMEOUT = 30.0
POLL_INTERVAL = 0.25


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run. `not_done`: the faults that the user asked for and that did not happen."""

    checks: tuple[Check, ...]
    figures: Figures
    not_done: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """True if nothing is broken, and all that was asked for was done."""
        return not broken_count(self.checks) and not self.not_done


class Run:
    """One run in its directory."""

    def __init__(self, options: Options, directory: Path, progress: ProgressLine) -> None:
        self._options = options
        self._directory = directory
        self._progress = progress
        self._cluster = CLUSTER_PREFIX << 64 | options.seed
        self._replicas = [replica_name(replica) for replica in range(options.replicas)]
        self._transfers = directory / "transfers.csv"
        self._totals = Totals([self._evidence(replica) / EVENTS_FILE for replica in range(options.replicas)])

    def run(self) -> RunResult:
        """Start, work, finish, judge. Raises `MembersFailed`."""
        # A copy, so that members and verdict read the very same file whatever happens to the user's.
        shutil.copyfile(self._options.transfers_file, self._transfers)
        configure_logging(str(self._directory / "log.jsonl"))
        with running_system() as system:
            members = Members(system, LedgerReplica)
            self._progress.say(f"starting {len(self._replicas)} replicas in {self._directory}")
            self._start(members)
            self._progress.say(
                f"sending {len(self._options.transfers)} transfers through {self._options.clients} sessions"
            )
            seconds = self._work(members)
            self._progress.say("waiting for all replicas, closing")
            counters = self._finish(members)
        total = len(self._options.transfers)
        self._progress.show(total, total, self._details(counters), last=True)
        return self._judge(seconds, counters)

    # Starting.

    def _start(self, members: Members) -> None:
        options = self._options
        members.say = self._progress.say
        (self._directory / MOMENTS_DIRECTORY).mkdir()
        epoch = time.time() - time.monotonic()
        for replica in range(options.replicas):
            self._evidence(replica).mkdir(parents=True)
            members.create_replica(self._start_replica(replica, epoch))
        members.start_replicas()
        if members.down:
            raise MembersFailed("; ".join(f"{name} cannot start: {reason}" for name, reason in members.down.items()))
        self.gateway = GatewayKeeper(members, self._cluster, (HOST, 0))
        self.gateway.start()

    def _start_replica(self, replica: int, epoch: float) -> StartLedgerReplica:
        options = self._options
        # The second execution happens where the clients do not see it; the wrong reply where they do.
        planted = options.plant is not Plant.EXECUTE_TWICE or replica == options.replicas - 1
        ops = len(options.transfers) + options.clients
        return StartLedgerReplica(
            name=replica_name(replica),
            replicas=options.replicas,
            config=replies_config(self._directory / replica_name(replica) / DATA_FILE, self._cluster, replica),
            directory=str(self._directory / replica_name(replica)),
            fresh=True,
            evidence=str(self._evidence(replica)),
            checkpoint_interval=CHECKPOINT_INTERVAL,
            view_change=VIEW_CHANGE,
            seed=options.seed,
            epoch=epoch,
            network_faults=cluster_faults(options.drop_replies, options.duplicate_requests),
            moments=MomentsPlan(
                directory=str(self._directory / MOMENTS_DIRECTORY),
                ops=ops,
                damages=options.damages,
                kills=options.kills,
            ),
            plant=options.plant if planted else None,
        )

    def _evidence(self, replica: int) -> Path:
        """Where a replica's journal is: not with its log and replies, which may get lost."""
        return self._directory / EVIDENCE_DIRECTORY / replica_name(replica)

    def _record(self, session: int) -> Path:
        return self._directory / f"client-{session}.jsonl"

    # Working.

    def _work(self, members: Members) -> float:
        """Watch until every session has all its answers; the seconds that took. Raises `MembersFailed`."""
        options = self._options
        begun = moved_at = time.monotonic()
        done, total = -1, len(options.transfers)
        self._clients = DrillClients(
            self.gateway.address,
            cluster=self._cluster,
            rows={session: options.transfers[session :: options.clients] for session in range(options.clients)},
            rate=options.rate,
            repeats=options.repeats,
            seed=options.seed,
        )
        with closing(self._clients) as clients:
            clients.start(self._record)
            while True:
                finished, now = clients.finished, time.monotonic()
                if clients.done != done:
                    done, moved_at = clients.done, now
                self._progress.show(done, total, self._details(self._counts()))
                if clients.failure:
                    raise MembersFailed(clients.failure)
                if finished:
                    return now - begun
                if now - moved_at > STALL_TIMEOUT:
                    raise MembersFailed(f"nothing has moved for {STALL_TIMEOUT:.0f} s, at {done} transfers")
                self._turn(now)
                members.wait(after(POLL_INTERVAL), STALL_TIMEOUT, "a pause")

    def _turn(self, now: float) -> None:
        """What else is to be done while the clients work. Raises `MembersFailed`."""

    def _details(self, counters: Counter[str]) -> str:
        """What a progress line says of the faults so far."""
        events = self._totals.events
        return (
            f"lost {counters['replies_lost']} replies, retried {counters['retries']}"
            f", damaged {events['damaged']}, repaired {events['repaired']}"
        )

    def _counts(self) -> Counter[str]:
        """What everybody has counted until now."""
        self._totals.update()
        return self._totals.counters + Counter(self._clients.counts())

    # Finishing.

    def _finish(self, members: Members) -> Counter[str]:
        """Bring all replicas to the same op with all slots durable, then close them. The counters at the end."""
        answers = members.exchange(self._replicas, lambda name, request: GetProgress(request=request), START_TIMEOUT)
        op = max(answer.total for answer in answers.values() if isinstance(answer, Progress))
        # All are asked to settle before any is asked to close: one that still repairs needs its peers.
        for close in (False, True):
            self._finish_step(members, op, close)
        counters = self._counts()
        counters["restarts"] = members.restarts
        return counters

    def _finish_step(self, members: Members, op: int, close: bool) -> None:
        deadline = time.monotonic() + FINISH_TIMEOUT
        waiting = list(self._replicas)
        while waiting:
            answers = members.exchange(
                waiting, lambda name, request: Finish(request=request, op=op, close=close), FINISH_TIMEOUT
            )
            states = {name: answer for name, answer in answers.items() if isinstance(answer, FinishState)}
            waiting = [name for name, state in states.items() if not state.done]
            if waiting and time.monotonic() > deadline:
                raise MembersFailed("; ".join(f"{name} is at {states[name].waiting_for}" for name in waiting))
            if waiting:
                members.wait(after(0.05), STALL_TIMEOUT, "a pause")

    # Judging.

    def _corrupted(self) -> int:
        """How many slots were damaged without the replicas' knowledge."""
        return 0

    def _judge(self, seconds: float, counters: Mapping[str, int]) -> RunResult:
        directories = [self._directory / name for name in self._replicas]
        evidence = [self._evidence(replica) for replica in range(self._options.replicas)]
        finals = tuple(read_final(directory / FINAL_FILE) for directory in evidence)
        records = [read_record(self._record(session)) for session in range(self._options.clients)]
        answers = tuple(answer for _client, seen in records for answer in seen)
        found = Evidence(
            rows=read_rows(self._transfers),
            clients=tuple(client for client, _seen in records),
            journals=tuple(read_journal(directory / JOURNAL_FILE) for directory in evidence),
            finals=finals,
            slots=tuple(
                read_slots(directory / DATA_FILE, final.slots)
                for directory, final in zip(directories, finals, strict=True)
            ),
            answers=answers,
            events=tuple(read_events(directory / EVENTS_FILE) for directory in evidence),
            damages_planned=self._options.damages,
            kills_planned=self._options.kills,
            corrupted=self._corrupted(),
            malformed=counters.get("answers_malformed", 0),
        )
        numbers = figures(seconds, answers, found.events, counters)
        return RunResult(judge(found), numbers, not_done(self._options, numbers))


def not_done(options: Options, numbers: Figures) -> tuple[str, ...]:
    """The faults that the user asked for and that did not happen."""
    faults = (
        ("--damage", options.damages, numbers.network["slots_damaged"]),
        ("--kill", options.kills, numbers.cluster["primaries_killed"]),
    )
    return tuple(
        f"{option} {wanted}: {done} of {wanted} happened; give more transfers, or a lower number"
        for option, wanted, done in faults
        if option in options.asked and done < wanted
    )


def read_slots(file: Path, slots: Sequence[int]) -> dict[int, bytes]:
    """The sectors that the reply in each of these slots occupies, as they are in the file."""
    layout = Layout.of_shape(CLIENTS_MAX, MESSAGE_SIZE_MAX)
    found = {}
    with file.open("rb") as data:
        for slot in slots:
            data.seek(layout.slot_offset(slot))
            whole = data.read(MESSAGE_SIZE_MAX)
            found[slot] = whole[: min(MESSAGE_SIZE_MAX, sectors_size(packed_size(whole)))]
    return found


def after(seconds: float) -> Callable[[], bool]:
    """A condition: true once so much time is over."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


def _run(options: Options, progress: ProgressLine) -> RunResult:
    with run_directory(options.directory, keep=options.keep) as directory:
        with progress:
            outcome = Run(options, directory, progress).run()
        if options.keep:
            progress.say(f"evidence is kept in {directory}")
    return outcome


def run(options: Options) -> ExitStatus:
    """Run, report, and give the exit status. Raises `OutputLost`, `MembersFailed`, and what interrupts it."""
    progress = ProgressLine(sys.stderr if options.json else sys.stdout)
    try:
        with on_machine():
            prepare_descriptors()
            outcome = _run(options, progress)
    except MembersFailed as failure:
        failure.add_note("run it with --keep to look at its log")
        raise
    try:
        if options.json:
            show([report_json(outcome.checks, outcome.figures, outcome.not_done)])
        else:
            show(report_lines(outcome.checks, outcome.figures, outcome.not_done))
    except OutputLost as error:
        error.add_note(f"the run was finished; {plain(verdict_lines(outcome.checks)[-1])}")
        raise
    return ExitStatus.DONE if outcome.holds else ExitStatus.REFUSED
