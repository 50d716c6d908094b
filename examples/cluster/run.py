"""The main job: start the cluster, send it every transfer of a file through bad weather, and judge what came of it.

Guarantees: exit status 0 only if every check of the verdict holds; 1 if one is broken or the run could not be finished;
2 for arguments or a file that cannot be used, before anything is started. However the run ends, no process, no shared
memory and no lock is left, and the run's directory is gone, at the latest with the next run.

Owns: the actor system, the run's directory.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client_replies.actors.system import configure_logging, running_system
from client_replies.messages.reply_header import packed_size
from client_replies.storage.layout import Layout, sectors_size

from .client import ClientActor
from .config import CHECKPOINT_INTERVAL, CLIENTS_MAX, MESSAGE_SIZE_MAX, VIEW_CHANGE, replies_config
from .control import (
    Finish,
    FinishState,
    GetProgress,
    Progress,
    StartClient,
    StartReplica,
    client_id,
)
from .damage import MomentsPlan, SaboteurActor
from .descriptors import prepare_descriptors
from .evidence import read_answers, read_events, read_final, read_journal
from .journal import Plant
from .ledger import Transfer
from .members import Members, MembersFailed, on_machine
from .replica import DATA_FILE, EVENTS_FILE, FINAL_FILE, JOURNAL_FILE, replica_name
from .replica_events import SABOTEUR
from .report import Figures, figures, report_json, report_lines
from .run_directory import run_directory
from .terminal import ProgressLine, show
from .verdict import Check, Evidence, judge, read_rows

CLUSTER_PREFIX = 0xC1057E2
# Few actors with many sessions: an actor has twenty transmits outstanding over all its peers, and the primary talks to
# these, to its backups and to its component.
CLIENT_ACTORS_MAX = 2

EVIDENCE_DIRECTORY = "evidence"
MOMENTS_DIRECTORY = "moments"

START_TIMEOUT = 30.0  # seconds
STALL_TIMEOUT = 30.0
FINISH_TIMEOUT = 30.0
POLL_INTERVAL = 0.25


class Terminated(BaseException):
    """SIGTERM: end like Ctrl-C, cleaning up."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose, checked."""

    transfers_file: Path
    transfers: tuple[Transfer, ...]
    clients: int
    replicas: int
    seed: int
    directory: Path
    drop_replies: float
    duplicate_requests: float
    damages: int
    kills: int
    plant: Plant | None
    json: bool
    keep: bool
    rate: float = 0.0  # transfers a second; 0: as fast as answers come


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run."""

    checks: tuple[Check, ...]
    figures: Figures

    @property
    def holds(self) -> bool:
        """True if nothing is broken."""
        return all(check.holds for check in self.checks)


class Run:
    """One run in its directory."""

    def __init__(self, options: Options, directory: Path, progress: ProgressLine) -> None:
        self._options = options
        self._directory = directory
        self._progress = progress
        self._cluster = CLUSTER_PREFIX << 64 | options.seed
        self._replicas = [replica_name(replica) for replica in range(options.replicas)]
        sessions = range(options.clients)
        actors = min(CLIENT_ACTORS_MAX, options.clients)
        self._sessions = {f"client-{index}": tuple(sessions[index::actors]) for index in range(actors)}
        self._transfers = directory / "transfers.csv"

    def run(self) -> Outcome:
        """Start, work, finish, judge. Raises `MembersFailed`."""
        # A copy, so that members and verdict read the very same file whatever happens to the user's.
        shutil.copyfile(self._options.transfers_file, self._transfers)
        configure_logging(str(self._directory / "log.jsonl"))
        with running_system() as system:
            members = Members(system)
            self._progress.say(f"starting {len(self._replicas)} replicas in {self._directory}")
            self._start(members)
            self._progress.say(
                f"sending {len(self._options.transfers)} transfers through {self._options.clients} sessions"
            )
            seconds = self._work(members)
            self._progress.say("waiting for all replicas, closing")
            counters = self._finish(members)
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
        members.create(SABOTEUR, SaboteurActor)
        for name in self._sessions:
            members.create(name, ClientActor)
            members.tell_of_replicas(name)
        members.start_replicas()
        if members.down:
            raise MembersFailed("; ".join(f"{name} cannot start: {reason}" for name, reason in members.down.items()))
        members.exchange(
            list(self._sessions),
            lambda name, request: StartClient(
                name=name,
                replicas=options.replicas,
                cluster=self._cluster,
                transfers=str(self._transfers),
                record=str(self._record(name)),
                sessions=self._sessions[name],
                sessions_all=options.clients,
                seed=options.seed,
                rate=options.rate,
                drop_replies=options.drop_replies,
                duplicate_requests=options.duplicate_requests,
                members=tuple(members.addresses.items()),
            ),
            START_TIMEOUT,
        )

    def _start_replica(self, replica: int, epoch: float) -> StartReplica:
        options = self._options
        # The second execution happens where the clients do not see it; the wrong reply where they do.
        planted = options.plant is not Plant.EXECUTE_TWICE or replica == options.replicas - 1
        ops = len(options.transfers) + options.clients
        return StartReplica(
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
            drop_replies=options.drop_replies,
            duplicate_requests=options.duplicate_requests,
            weather=True,
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

    def _record(self, client: str) -> Path:
        return self._directory / f"{client}.jsonl"

    # Working.

    def _work(self, members: Members) -> float:
        """Watch until every session has all its answers; the seconds that took."""
        begun = moved_at = time.monotonic()
        done = -1
        while True:
            counters, now_done, finished = self._ask_progress(members)
            now = time.monotonic()
            if now_done != done:
                done, moved_at = now_done, now
            details = (
                f"lost {counters['Answer_dropped']} replies, retried {counters['retries']}"
                f", damaged {counters['slots_damaged']}, repaired {counters['slots_repaired']}"
            )
            self._progress.show(done, len(self._options.transfers), details, last=finished)
            if finished:
                return now - begun
            if now - moved_at > STALL_TIMEOUT:
                raise MembersFailed(f"nothing has moved for {STALL_TIMEOUT:.0f} s, at {done} transfers")
            members.wait(after(POLL_INTERVAL), STALL_TIMEOUT, "a pause")

    def _ask_progress(self, members: Members) -> tuple[Counter[str], int, bool]:
        return self._ask_progress_of(members, [*self._sessions, *self._replicas])

    def _ask_progress_of(self, members: Members, names: Sequence[str]) -> tuple[Counter[str], int, bool]:
        answers = members.exchange(names, lambda name, request: GetProgress(request=request), START_TIMEOUT)
        counters: Counter[str] = Counter()
        done, finished = 0, True
        for name, answer in answers.items():
            if isinstance(answer, Progress):
                counters.update(answer.counters)
                if name in self._sessions:
                    done += answer.done
                    finished &= answer.finished
        return counters, done, finished

    # Finishing.

    def _finish(self, members: Members) -> Counter[str]:
        """Bring all replicas to the same op with all slots durable, then close them. The counters at the end."""
        answers = members.exchange(self._replicas, lambda name, request: GetProgress(request=request), START_TIMEOUT)
        op = max(answer.total for answer in answers.values() if isinstance(answer, Progress))
        # All are asked to settle before any is asked to close: one that still repairs needs its peers.
        for close in (False, True):
            self._finish_step(members, op, close)
        counters, _done, _finished = self._ask_progress(members)
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

    def _records(self) -> Sequence[str]:
        """Who has a record of answers."""
        return list(self._sessions)

    def _clients(self) -> tuple[int, ...]:
        """The client that used each session."""
        return tuple(map(client_id, range(self._options.clients)))

    def _judge(self, seconds: float, counters: Mapping[str, int]) -> Outcome:
        directories = [self._directory / name for name in self._replicas]
        evidence = [self._evidence(replica) for replica in range(self._options.replicas)]
        finals = tuple(read_final(directory / FINAL_FILE) for directory in evidence)
        answers = tuple(answer for name in self._records() for answer in read_answers(self._record(name)))
        found = Evidence(
            rows=read_rows(self._transfers),
            clients=self._clients(),
            damages_wanted=self._options.damages,
            kills_wanted=self._options.kills,
            journals=tuple(read_journal(directory / JOURNAL_FILE) for directory in evidence),
            finals=finals,
            slots=tuple(
                read_slots(directory / DATA_FILE, final.slots)
                for directory, final in zip(directories, finals, strict=True)
            ),
            answers=answers,
            events=tuple(read_events(directory / EVENTS_FILE) for directory in evidence),
        )
        return Outcome(judge(found), figures(seconds, answers, found.events, counters))


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


def _run(options: Options, progress: ProgressLine) -> Outcome:
    with run_directory(options.directory, keep=options.keep) as directory:
        with progress:
            outcome = Run(options, directory, progress).run()
        if options.keep:
            progress.say(f"evidence is kept in {directory}")
    return outcome


def run(options: Options) -> int:
    """Run, report, and give the exit status."""
    progress = ProgressLine(sys.stderr if options.json else sys.stdout)
    try:
        with on_machine():
            prepare_descriptors()
            outcome = _run(options, progress)
    except MembersFailed as failure:
        print(f"the run failed: {failure} (run it with --keep to look at its log)", file=sys.stderr)
        return 1
    if options.json:
        print(report_json(outcome.checks, outcome.figures))
    else:
        show(report_lines(outcome.checks, outcome.figures))
    return 0 if outcome.holds else 1
