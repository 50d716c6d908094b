"""The members of a cluster as its script sees them: created, asked, and started again when they died.

Guarantees: a replica whose process has ended, also while it started, is created anew, told what its predecessor was
told, and everybody is told its new address. One that cannot start, or ends again and again, is tried again ever more
slowly, with the reason at hand; the others work on without it, and even begin without it. A replica may give up what is
on its disk only while a majority votes without it, by what those said in their present lives. What is asked is asked
again until there is an answer or the time is over, also of a member that died in between.

Owns: the addresses and processes of the members.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import psutil
from thespian.actors import ActorAddress, ActorSystemException

from client_replies.actors.thespian.system import OwnedSystem, SystemFailure
from client_replies.cluster.control import (
    Join,
    Joined,
    ReplicaStarted,
    ReplicaStopped,
    StartReplica,
    may_lose_disk,
)
from client_replies.cluster.replica.replica import ReplicaActor
from client_replies.messages.message import Message

from .failure import MembersFailed

RESEND_INTERVAL = 1.0  # seconds
START_TIMEOUT = 30.0
START_GRACE = 10.0  # seconds that the others wait for a replica that neither starts nor says why
RESTART_PAUSE = 0.15  # seconds between a replica's end and its next life: what it held is let go of meanwhile
SEEDS_BETWEEN_LIVES = 2**40
RESTARTS_MAX = 12  # in `RESTARTS_WITHIN` seconds; then something is wrong that a restart does not mend
RESTARTS_WITHIN = 20.0
RETRY_PAUSE = 0.25  # seconds before a replica that said why it stopped is tried again; twice as long each time
RETRY_PAUSE_MAX = 30.0


@contextlib.contextmanager
def on_machine() -> Iterator[None]:
    """What the operating system refuses to the script itself ends the cluster: raises `MembersFailed`."""
    try:
        yield
    except BrokenPipeError:
        raise  # of who reads our output: no matter of the cluster's
    except (OSError, SystemFailure) as error:
        raise MembersFailed(f"this machine refuses: {error}") from error


@dataclass(slots=True)
class _Replica:
    """What is known of one replica."""

    start: StartReplica
    process: int = 0  # from its creation to its end
    pid: int = 0  # 0: not known to be up
    ended: int = 0  # the process before this one
    replies: ActorAddress | None = None
    created_at: float = 0.0
    asked_at: float = 0.0
    joined: bool = False
    started_at: float = 0.0
    votes: bool = False  # with all of its log, as it said in this life
    restart_at: float = 0.0
    restarts: deque[float] = field(default_factory=deque)
    reason: str = ""  # why its last life ended, or why this one does not begin; until it is up
    said: str = ""  # the last reason that was printed
    failures: int = 0  # lives in a row that ended with a reason

    @property
    def is_settled(self) -> bool:
        """True if it takes part, or there is a reason why it does not."""
        return self.joined or bool(self.reason)


class Members:
    """See the module."""

    def __init__(self, system: OwnedSystem, replica: type[ReplicaActor]) -> None:
        self.addresses: dict[str, ActorAddress] = {}
        self.replicas: dict[str, _Replica] = {}
        self.restarts = 0
        self.on_started: Callable[[str], None] = lambda name: None
        self.on_formed: Callable[[str], None] = lambda name: None  # it was never up before; may raise `OSError`
        self.on_turn: Callable[[Message | None], None] = lambda heard: None
        self.say: Callable[[str], None] = lambda text: None
        self._system = system
        self._replica = replica
        self._request = 0
        self._told: Join | None = None

    def create(self, name: str, actor: type) -> int:
        """Create a member. Its process, or 0 if that has ended already. Raises `MembersFailed`."""
        before = self.children(self._system.admin_pid or 0)
        try:
            self.addresses[name] = self._system.createActor(actor)
        except ActorSystemException as error:
            if not is_living(self._system.admin_pid or 0):
                raise MembersFailed(f"the actor system has ended, and everything with it: {error}") from error
            if name not in self.addresses:
                raise MembersFailed(f"{name} cannot be created: {error}") from error
            return 0  # its next life has not begun; there will be another
        return next((pid for pid in self.children(self._system.admin_pid or 0) if pid not in before), 0)

    def children(self, pid: int) -> list[int]:
        """The living processes that this one made; the replicas' are made by the actor system's own."""
        try:
            children = psutil.Process(pid).children()
        except psutil.NoSuchProcess:
            return []
        return [child.pid for child in children if is_living(child.pid)]

    def create_replica(self, start: StartReplica) -> None:
        """Create a replica, and keep it up from now on."""
        process = self.create(start.name, self._replica)
        self.replicas[start.name] = _Replica(start, process, created_at=time.monotonic())

    def start_replicas(self) -> None:
        """Wait until each knows the others, or there is a reason why it is not up."""
        self.wait(lambda: all(one.is_settled for one in self.replicas.values()), START_TIMEOUT, "the replicas' start")

    @property
    def quorum(self) -> int:
        """How many replicas decide."""
        return len(self.replicas) // 2 + 1

    @property
    def up(self) -> list[str]:
        """The replicas that take part."""
        return [name for name, replica in self.replicas.items() if replica.joined]

    @property
    def down(self) -> dict[str, str]:
        """The replicas that do not take part, and why, as far as that is known."""
        return {name: one.reason for name, one in self.replicas.items() if not one.joined and one.reason}

    def pid(self, name: str) -> int:
        """The replica's process, or 0 while it is not up."""
        return self.replicas[name].pid

    # Asking.

    def tell(self, name: str, message: Message) -> None:
        """Send a message, which may get lost. To a process that is stopped this takes ten seconds: `is_stopped`."""
        self._system.tell(self.addresses[name], message)

    def exchange(self, names: Sequence[str], make: Callable[[str, int], Message], timeout: float) -> dict[str, Message]:
        """Ask each of them, again while there is no answer; the answers by name. Raises `MembersFailed`.

        Lost messages are normal, and so are late answers to earlier requests.
        """
        self._request += 1
        answers: dict[str, Message] = {}
        deadline = time.monotonic() + timeout
        asked: dict[str, tuple[float, ActorAddress]] = {}
        while missing := [name for name in names if name not in answers]:
            now = time.monotonic()
            if now > deadline:
                why = "".join(f"; {name}: {reason}" for name, reason in self.down.items() if name in missing)
                raise MembersFailed(f"no answer from {', '.join(missing)} within {timeout:.0f} s{why}")
            for name in missing:
                at, address = asked.get(name, (0.0, None))
                if now >= at + RESEND_INTERVAL or address != self.addresses[name]:
                    asked[name] = now, self.addresses[name]
                    self._system.tell(self.addresses[name], make(name, self._request))
            answer = self.turn(0.1)
            name = str(getattr(answer, "name", ""))
            if answer is not None and name in missing and getattr(answer, "request", None) in (None, self._request):
                answers[name] = answer
        return answers

    def ask(self, address: ActorAddress, make: Callable[[int], Message], timeout: float) -> Message | None:
        """Ask somebody who answers with the number that was asked; None without an answer in time."""
        self._request += 1
        number = self._request
        self._system.tell(address, make(number))
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            answer = self.turn(0.05)
            if answer is not None and getattr(answer, "request", None) == number:
                return answer
        return None

    def ask_replica(self, name: str, make: Callable[[int], Message], timeout: float) -> Message | None:
        """Ask a replica, unless its process stands still: sending to such a one would keep us for ten seconds."""
        return None if is_stopped(self.pid(name)) else self.ask(self.addresses[name], make, timeout)

    def wait(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        """Let the cluster work until the condition holds. Raises `MembersFailed`."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise MembersFailed(f"{what} did not end within {timeout:.0f} s")
            self.turn(0.05)

    # Keeping the replicas up.

    def turn(self, wait: float) -> Message | None:
        """Take one message, if one comes in time, and see to the replicas."""
        answer = self._system.listen(wait)
        self._supervise()
        self.on_turn(answer if isinstance(answer, Message) else None)
        if isinstance(answer, ReplicaStopped):
            self._stopped(self.replicas[answer.name], answer.pid, answer.reason)
            return None
        if isinstance(answer, ReplicaStarted):
            self._started(answer)
            return None  # ours, and no answer to what is being asked
        if isinstance(answer, Joined) and answer.number:
            self._joined(answer)
            return None
        return answer if isinstance(answer, Message) else None

    def _started(self, started: ReplicaStarted) -> None:
        replica = self.replicas[started.name]
        if replica.pid == started.pid or replica.process != started.pid:
            return  # known, or said by one that has ended since
        if replica.start.fresh:
            try:
                self.on_formed(started.name)
            except OSError as error:
                # Were this forgotten, a lost disk could be taken for that of a new replica, which has promised nothing.
                self._stopped(replica, started.pid, f"that it was up cannot be noted: {error}")
                return
        replica.pid, replica.replies = started.pid, started.replies
        replica.started_at, replica.reason, replica.said = time.monotonic(), "", ""
        # From now on an empty directory is a lost disk. The next life has a weather of its own, which the seed decides
        # too: else each would lose the same messages at its start.
        replica.start = replace(replica.start, fresh=False, seed=(replica.start.seed + SEEDS_BETWEEN_LIVES) % 2**62)
        self._tell_everybody()
        self.on_started(started.name)

    def _stopped(self, replica: _Replica, pid: int, reason: str) -> None:
        """This life is over, for a reason: end what is left of it."""
        if pid == replica.process:
            replica.reason = reason
            kill(pid)
        elif pid == replica.ended and replica.restart_at and not replica.reason:
            replica.reason = reason  # said while its end was seen
            replica.restart_at = time.monotonic() + self._pause(replica, time.monotonic())
        if self._told is None:
            self._tell_everybody()

    def _joined(self, joined: Joined) -> None:
        if self._told is not None and joined.number == self._told.number:
            # Not of an earlier one: the last may be lost, and would never be said again.
            replica = self.replicas[joined.name]
            if replica.pid:
                replica.joined, replica.votes = True, joined.votes

    def _tell_everybody(self) -> None:
        if not any(one.replies for one in self.replicas.values()) or any(
            one.replies is None and not one.reason for one in self.replicas.values()
        ):
            return  # not before each has an address, or a reason why it has none
        # In the place of a component that was never up stands its replica, which answers nothing: who repairs must know
        # of all peers, or would call lost what one of them holds.
        replies = tuple(
            (one.start.config.replica, one.replies or self.addresses[name]) for name, one in self.replicas.items()
        )
        number = self._told.number + 1 if self._told is not None else 1
        self._told = Join(number=number, members=tuple(self.addresses.items()), replies=replies)
        for name, replica in self.replicas.items():
            replica.joined = False
            if replica.pid:
                self.tell(name, self._told)

    def _supervise(self) -> None:
        now = time.monotonic()
        for name, replica in self.replicas.items():
            if not replica.restart_at and not is_living(replica.process):
                self._ended(name, replica, now)
            if replica.restart_at and now >= replica.restart_at:
                self._restart(name, replica, now)
            if now - replica.asked_at >= RESEND_INTERVAL and not replica.restart_at:
                replica.asked_at = now
                self._ask_again(name, replica, now)

    def _restart(self, name: str, replica: _Replica, now: float) -> None:
        replica.restart_at = 0.0
        self.restarts += 1
        replica.process = self.create(name, self._replica)
        replica.created_at, replica.asked_at = now, 0.0

    def _ask_again(self, name: str, replica: _Replica, now: float) -> None:
        if not replica.pid:
            if not replica.reason and now - replica.created_at > START_GRACE:
                replica.reason = f"it has neither started nor said why within {START_GRACE:.0f} s"
                if self._told is None:
                    self._tell_everybody()
            voters = [other for other, one in self.replicas.items() if one.joined and one.votes]
            rebuild = may_lose_disk(name, voters, len(self.replicas))
            self.tell(name, replace(replica.start, rebuild=rebuild))
        elif self._told is not None and not (replica.joined and replica.votes):
            self.tell(name, self._told)  # one that has no vote yet is asked until it has

    def _ended(self, name: str, replica: _Replica, now: float) -> None:
        if replica.pid and now - replica.started_at > RESTARTS_WITHIN:
            replica.failures = 0
        replica.ended, replica.process, replica.pid = replica.process, 0, 0
        replica.joined = replica.votes = False
        pause = self._pause(replica, now)
        replica.restart_at = now + pause
        if not replica.reason:
            self.say(f"{name} exited; restarting")
        elif replica.reason != replica.said:
            self.say(f"{name} is down: {replica.reason}; trying again in {pause:.2g} s, then more slowly")
        replica.said = replica.reason

    def _pause(self, replica: _Replica, now: float) -> float:
        """How long it is left alone. Who was killed comes back at once; who cannot go on, ever more slowly."""
        while replica.restarts and now - replica.restarts[0] > RESTARTS_WITHIN:
            replica.restarts.popleft()
        replica.restarts.append(now)
        if replica.reason:
            replica.failures += 1
            return float(min(RETRY_PAUSE * 2.0 ** min(replica.failures - 1, 30), RETRY_PAUSE_MAX))
        if len(replica.restarts) > RESTARTS_MAX:
            replica.reason = f"it ended {RESTARTS_MAX} times within {RESTARTS_WITHIN:.0f} s; log.jsonl says why"
            return RETRY_PAUSE_MAX
        return RESTART_PAUSE


def is_living(pid: int) -> bool:
    """True if the process runs: one that has ended and was not waited for does not."""
    return _status(pid) not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def is_stopped(pid: int) -> bool:
    """True if the process was stopped by a signal, and may go on some day."""
    return _status(pid) in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)


def _status(pid: int) -> str:
    try:
        return psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return psutil.STATUS_DEAD


def kill(pid: int) -> bool:
    """Send SIGKILL; True if there was a process. 0 stands for one that is not up, and would be our own group."""
    if pid > 0:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
    return False
