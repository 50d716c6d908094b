"""The members of a cluster as its script sees them: created, asked, and started again when they died.

Guarantees: a replica whose process has ended, also while it started, is created anew, told what its predecessor was
told, and everybody is told its new address; one that ends again and again is given up. What is asked is asked again
until there is an answer or the time is over, also of a member that died in between.

Owns: the addresses and processes of the members.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from thespian.actors import ActorAddress, ActorSystemException

from client_replies.actors.system import OwnedSystem, processes_of
from client_replies.messages.message import Message

from .control import Join, Joined, MemberFailed, ReplicaStarted, StartReplica
from .replica import ReplicaActor

RESEND_INTERVAL = 1.0  # seconds
START_TIMEOUT = 30.0
RESTART_PAUSE = 0.15  # seconds between a replica's end and its next life: what it held is let go of meanwhile
SEEDS_BETWEEN_LIVES = 2**40
RESTARTS_MAX = 12  # in `RESTARTS_WITHIN` seconds; then something is wrong that a restart does not mend
RESTARTS_WITHIN = 20.0


class MembersFailed(Exception):
    """The cluster cannot go on; the text says why."""


@dataclass(slots=True)
class _Replica:
    """What is known of one replica."""

    start: StartReplica
    process: int = 0  # from its creation to its end
    pid: int = 0  # 0: not known to be up
    replies: ActorAddress | None = None
    asked_at: float = 0.0
    joined: bool = False
    restart_at: float = 0.0
    restarts: deque[float] = field(default_factory=deque)


class Members:
    """See the module."""

    def __init__(self, system: OwnedSystem) -> None:
        self.addresses: dict[str, ActorAddress] = {}
        self.replicas: dict[str, _Replica] = {}
        self.restarts = 0
        self.on_started: Callable[[str], None] = lambda name: None
        self.on_turn: Callable[[Message | None], None] = lambda heard: None
        self.say: Callable[[str], None] = lambda text: None
        self._system = system
        self._request = 0
        self._told: Join | None = None
        self._others: dict[str, int] = {}  # who else is to be told of a replica's new address, and was told last
        self._others_told_at = 0.0

    def create(self, name: str, actor: type) -> int:
        """Create a member. Its process, or 0 if that has ended already. Raises `MembersFailed`."""
        before = self.children(self._system.admin_pid or 0)
        try:
            self.addresses[name] = self._system.createActor(actor)
        except ActorSystemException as error:
            raise MembersFailed(f"the actor system has ended, and everything with it: {error}") from error
        return next((pid for pid in self.children(self._system.admin_pid or 0) if pid not in before), 0)

    def children(self, pid: int) -> list[int]:
        """The living processes that this one made; the replicas' are made by the actor system's own."""
        return [child for child in processes_of(self._system) if parent_of(child) == pid]

    def create_replica(self, start: StartReplica) -> None:
        """Create a replica, and keep it up from now on."""
        self.replicas[start.name] = _Replica(start, self.create(start.name, ReplicaActor))

    def tell_of_replicas(self, name: str) -> None:
        """This member, which has an address of its own, is told when a replica gets another."""
        self._others[name] = 0

    def start_replicas(self) -> None:
        """Wait until all are up and know each other."""
        self.wait(lambda: all(one.joined for one in self.replicas.values()), START_TIMEOUT, "the replicas' start")

    def pid(self, name: str) -> int:
        """The replica's process, or 0 while it is not up."""
        return self.replicas[name].pid

    # Asking.

    def tell(self, name: str, message: Message) -> None:
        """Send a message, which may get lost."""
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
                raise MembersFailed(f"no answer from {', '.join(missing)} within {timeout:.0f} s")
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
        if isinstance(answer, MemberFailed):
            raise MembersFailed(f"{answer.name} failed: {answer.reason}")
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
        replica.pid, replica.replies = started.pid, started.replies
        # From now on an empty directory is a lost disk. The next life has a weather of its own, which the seed decides
        # too: else each would lose the same messages at its start.
        replica.start = replace(replica.start, fresh=False, seed=(replica.start.seed + SEEDS_BETWEEN_LIVES) % 2**62)
        self._tell_everybody()
        self.on_started(started.name)

    def _joined(self, joined: Joined) -> None:
        if joined.name in self._others:
            self._others[joined.name] = joined.number
        elif self._told is not None and joined.number == self._told.number:
            # Not of an earlier one: the last may be lost, and would never be said again.
            self.replicas[joined.name].joined = True

    def _tell_everybody(self) -> None:
        replies = tuple(
            (one.start.config.replica, one.replies) for one in self.replicas.values() if one.replies is not None
        )
        if len(replies) < len(self.replicas):
            return  # not before each has an address: who repairs must know all peers
        number = self._told.number + 1 if self._told is not None else 1
        self._told = Join(number=number, members=tuple(self.addresses.items()), replies=replies)
        for name, replica in self.replicas.items():
            replica.joined = False
            self.tell(name, self._told)
        self._tell_others(time.monotonic())

    def _tell_others(self, now: float) -> None:
        self._others_told_at = now
        for name, number in self._others.items():
            if self._told is not None and number < self._told.number:
                self.tell(name, self._told)

    def _supervise(self) -> None:
        now = time.monotonic()
        for name, replica in self.replicas.items():
            if not replica.restart_at and not is_living(replica.process):
                replica.process = replica.pid = 0
                self._ended(name, replica, now)
            if replica.restart_at and now >= replica.restart_at:
                replica.restart_at = 0.0
                self.restarts += 1
                replica.process = self.create(name, ReplicaActor)
                replica.asked_at = 0.0
            if now - replica.asked_at < RESEND_INTERVAL or replica.restart_at:
                continue
            replica.asked_at = now
            if not replica.pid:
                self.tell(name, replica.start)
            elif not replica.joined and self._told is not None:
                self.tell(name, self._told)
        if now - self._others_told_at >= RESEND_INTERVAL:
            self._tell_others(now)

    def _ended(self, name: str, replica: _Replica, now: float) -> None:
        while replica.restarts and now - replica.restarts[0] > RESTARTS_WITHIN:
            replica.restarts.popleft()
        if len(replica.restarts) >= RESTARTS_MAX:
            raise MembersFailed(f"{name} ended {RESTARTS_MAX} times within {RESTARTS_WITHIN:.0f} s; its log says why")
        replica.restarts.append(now)
        replica.joined = False
        replica.restart_at = now + RESTART_PAUSE
        self.say(f"{name} has ended: starting it again")


def is_living(pid: int) -> bool:
    """True if the process runs: one that has ended and was not waited for does not."""
    return _stat(pid)[0] not in "ZX"


def is_stopped(pid: int) -> bool:
    """True if the process was stopped by a signal, and may go on some day."""
    return _stat(pid)[0] in "Tt"


def parent_of(pid: int) -> int:
    """Who made the process; 0 if it has ended."""
    return int(_stat(pid)[1])


def _stat(pid: int) -> list[str]:
    """State and parent."""
    try:
        return Path("/proc", str(pid), "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
    except OSError:
        return ["X", "0"]


def kill(pid: int) -> bool:
    """Send SIGKILL; True if there was a process. 0 stands for one that is not up, and would be our own group."""
    if pid > 0:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
    return False
