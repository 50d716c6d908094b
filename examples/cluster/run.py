"""The main job: start the cluster, send it every transfer of a file through bad weather, and judge what came of it.

Guarantees: exit status 0 only if every check of the verdict holds; 1 if one is broken or the run could not be finished;
2 for arguments or a file that cannot be used, before anything is started. However the run ends, no process, no shared
memory and no lock is left, and the run's directory is gone, at the latest with the next run.

Owns: the actor system, the run's directory.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from thespian.actors import ActorAddress

from client_replies.actors.system import OwnedSystem, configure_logging, running_system
from client_replies.messages.config import RepliesConfig
from client_replies.messages.message import Message
from client_replies.messages.reply_header import packed_size
from client_replies.storage.layout import Layout, sectors_size

from .client import ClientActor
from .control import (
    Finish,
    FinishState,
    GetProgress,
    Join,
    MemberFailed,
    Progress,
    ReplicaStarted,
    StartClient,
    StartReplica,
)
from .damage import SaboteurActor
from .evidence import read_answers, read_damage, read_final, read_journal
from .ledger import Transfer
from .replica import DAMAGE_FILE, DATA_FILE, FINAL_FILE, JOURNAL_FILE, SABOTEUR, ReplicaActor, replica_name
from .report import Figures, ProgressLine, figures, report_json, report_text
from .run_directory import run_directory
from .service import Plant
from .verdict import Check, Evidence, judge, read_rows

CLIENTS_MAX = 64
MESSAGE_SIZE_MAX = 16 * 1024
INLINE_SIZE_MAX = 4 * 1024  # so that a part of the replies travels in shared memory
CHECKPOINT_INTERVAL = 500  # ops
# Few actors with many sessions: an actor has twenty transmits outstanding over all its peers, and the primary talks to
# these, to its backups and to its component.
CLIENT_ACTORS_MAX = 2
PRIMARY = 0

START_TIMEOUT = 20.0  # seconds
STALL_TIMEOUT = 30.0
FINISH_TIMEOUT = 30.0
RESEND_INTERVAL = 1.0
POLL_INTERVAL = 0.25


class RunFailed(Exception):
    """The run could not be finished; there is nothing to judge."""


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
    plant: Plant | None
    json: bool
    keep: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run."""

    checks: tuple[Check, ...]
    figures: Figures

    @property
    def holds(self) -> bool:
        """True if nothing is broken."""
        return all(check.holds for check in self.checks)


class Members:
    """The actors of one run, and how the script talks to them."""

    def __init__(self, system: OwnedSystem) -> None:
        self.addresses: dict[str, ActorAddress] = {}
        self._system = system
        self._request = 0

    def create(self, name: str, actor: type) -> None:
        """Create a member."""
        self.addresses[name] = self._system.createActor(actor)

    def exchange(self, names: Sequence[str], make: Callable[[str, int], Message], timeout: float) -> dict[str, Message]:
        """Ask each of them, again while there is no answer; the answers by name. Raises `RunFailed`.

        Lost messages are normal, and so are late answers to earlier requests.
        """
        self._request += 1
        answers: dict[str, Message] = {}
        deadline = time.monotonic() + timeout
        ask_at = 0.0
        while missing := [name for name in names if name not in answers]:
            now = time.monotonic()
            if now > deadline:
                raise RunFailed(f"no answer from {', '.join(missing)} within {timeout:.0f} s")
            if now >= ask_at:
                ask_at = now + RESEND_INTERVAL
                for name in missing:
                    self._system.tell(self.addresses[name], make(name, self._request))
            self._collect(answers, missing)
        return answers

    def _collect(self, answers: dict[str, Message], missing: Sequence[str]) -> None:
        answer = self._system.listen(0.1)
        if isinstance(answer, MemberFailed):
            raise RunFailed(f"{answer.name} failed: {answer.reason}")
        name = str(getattr(answer, "name", ""))
        if (
            isinstance(answer, Message)
            and name in missing
            and getattr(answer, "request", None) in (None, self._request)
        ):
            answers[name] = answer


class Run:
    """One run in its directory."""

    def __init__(self, options: Options, directory: Path, progress: ProgressLine) -> None:
        self._options = options
        self._directory = directory
        self._progress = progress
        self._replicas = [replica_name(replica) for replica in range(options.replicas)]
        sessions = range(options.clients)
        actors = min(CLIENT_ACTORS_MAX, options.clients)
        self._sessions = {f"client-{index}": tuple(sessions[index::actors]) for index in range(actors)}
        self._transfers = directory / "transfers.csv"

    def run(self) -> Outcome:
        """Start, work, finish, judge. Raises `RunFailed`."""
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
            self._progress.say("waiting for all replicas, taking a last checkpoint, closing")
            counters = self._finish(members)
        return self._judge(seconds, counters)

    # Starting.

    def _config(self, replica: int) -> RepliesConfig:
        return RepliesConfig(
            path=str(self._directory / replica_name(replica) / DATA_FILE),
            cluster=0xC1057E2 << 64 | self._options.seed,
            replica=replica,
            clients_max=CLIENTS_MAX,
            message_size_max=MESSAGE_SIZE_MAX,
            inline_size_max=INLINE_SIZE_MAX,
            buffers_max=32,
            repair_timeout=0.1,
            tick=0.02,
            # Off, so that what is repaired here is repaired because it was needed.
            scrub_bytes_per_second=0,
        )

    def _start(self, members: Members) -> None:
        options = self._options
        for replica, name in enumerate(self._replicas):
            (self._directory / replica_name(replica)).mkdir()
            members.create(name, ReplicaActor)
        members.create(SABOTEUR, SaboteurActor)
        for name in self._sessions:
            members.create(name, ClientActor)
        epoch = time.time_ns()
        started = members.exchange(
            self._replicas, lambda name, request: self._start_replica(self._replicas.index(name), epoch), START_TIMEOUT
        )
        replies = tuple(
            (self._replicas.index(name), answer.replies)
            for name, answer in started.items()
            if isinstance(answer, ReplicaStarted)
        )
        everyone = tuple(members.addresses.items())
        members.exchange(self._replicas, lambda name, request: Join(members=everyone, replies=replies), START_TIMEOUT)
        members.exchange(
            list(self._sessions),
            lambda name, request: StartClient(
                name=name,
                primary=replica_name(PRIMARY),
                cluster=self._config(PRIMARY).cluster,
                transfers=str(self._transfers),
                record=str(self._record(name)),
                sessions=self._sessions[name],
                sessions_all=options.clients,
                seed=options.seed,
                drop_replies=options.drop_replies,
                duplicate_requests=options.duplicate_requests,
                members=everyone,
            ),
            START_TIMEOUT,
        )

    def _start_replica(self, replica: int, epoch: int) -> StartReplica:
        options = self._options
        # The second execution happens where the clients do not see it; the wrong reply where they do.
        planted_on = {Plant.EXECUTE_TWICE: options.replicas - 1, Plant.WRONG_REPLY: PRIMARY}
        plant = options.plant if options.plant is not None and planted_on[options.plant] == replica else None
        return StartReplica(
            name=replica_name(replica),
            replicas=options.replicas,
            config=self._config(replica),
            directory=str(self._directory / replica_name(replica)),
            checkpoint_interval=CHECKPOINT_INTERVAL,
            seed=options.seed,
            epoch=epoch,
            drop_replies=options.drop_replies,
            duplicate_requests=options.duplicate_requests,
            damages=options.damages if replica == PRIMARY else 0,
            replies_expected=len(options.transfers),
            plant=plant,
        )

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
            self._progress.show(done, len(self._options.transfers), counters, last=finished)
            if finished:
                return now - begun
            if now - moved_at > STALL_TIMEOUT:
                raise RunFailed(f"nothing has moved for {STALL_TIMEOUT:.0f} s, at {done} transfers")
            time.sleep(POLL_INTERVAL)

    def _ask_progress(self, members: Members) -> tuple[Counter[str], int, bool]:
        names = [*self._sessions, *self._replicas]
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
        (primary,) = members.exchange(
            [replica_name(PRIMARY)], lambda name, request: GetProgress(request=request), START_TIMEOUT
        ).values()
        op = primary.total if isinstance(primary, Progress) else 0
        # All are asked to settle before any is asked to close: one that still repairs needs its peers.
        for close in (False, True):
            self._finish_step(members, op, close)
        counters, _done, _finished = self._ask_progress(members)
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
                raise RunFailed("; ".join(f"{name} is at {states[name].waiting_for}" for name in waiting))
            if waiting:
                time.sleep(0.05)

    # Judging.

    def _judge(self, seconds: float, counters: Mapping[str, int]) -> Outcome:
        directories = [self._directory / name for name in self._replicas]
        finals = tuple(read_final(directory / FINAL_FILE) for directory in directories)
        answers = tuple(answer for name in self._sessions for answer in read_answers(self._record(name)))
        evidence = Evidence(
            rows=read_rows(self._transfers),
            sessions=self._options.clients,
            damages_wanted=self._options.damages,
            journals=tuple(read_journal(directory / JOURNAL_FILE) for directory in directories),
            finals=finals,
            slots=tuple(
                read_slots(directory / DATA_FILE, final.slots)
                for directory, final in zip(directories, finals, strict=True)
            ),
            answers=answers,
            damage=read_damage(directories[PRIMARY] / DAMAGE_FILE),
        )
        return Outcome(judge(evidence), figures(seconds, answers, counters))


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


def run(options: Options) -> int:
    """Run, report, and give the exit status."""
    progress = ProgressLine(sys.stderr if options.json else sys.stdout)
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        with run_directory(options.directory, keep=options.keep) as directory:
            outcome = Run(options, directory, progress).run()
            if options.keep:
                progress.say(f"evidence is kept in {directory}")
    except RunFailed as failure:
        print(f"the run failed: {failure} (run it with --keep to look at its log)", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    if options.json:
        print(report_json(outcome.checks, outcome.figures))
    else:
        print(report_text(outcome.checks, outcome.figures, sys.stdout.isatty()))
    return 0 if outcome.holds else 1


def _terminate(signum: int, frame: object) -> NoReturn:
    raise Terminated
