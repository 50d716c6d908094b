"""Random harm to a cluster at work: which, to whom and how long is the seed's choice.

Kills (`kill -9`) of a replica, of each single actor of one, and of the gateway; lost disks, corrupted slots,
partitions, lost replies.

Guarantees: at most a minority of the replicas is harmed at a time. Others become victims only when all replicas are
whole again, by what they say and by what is on their disks; until then only the same ones are hurt once more. Who is
not whole again in time ends the soak: that is a failure, too.

Limits: no harm to what everything hangs on (the script and the actor system's own two processes), and to the clients,
who are the witnesses.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from client_replies.cluster.control import GetProgress, Progress
from client_replies.cluster.host.cluster_directory import DATA_FILE
from client_replies.cluster.host.failure import MembersFailed
from client_replies.cluster.host.gateway_keeper import GatewayKeeper
from client_replies.cluster.host.members import Members, is_living, kill
from client_replies.messages.replies import GetStatus, RepliesStatus
from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import HEADER_SIZE, HeaderInvalid, packed_size
from client_replies.storage.layout import Layout

from .config import CLIENTS_MAX, MESSAGE_SIZE_MAX
from .damage import damage_slot, lose_directory
from .fault_keeper import FaultKeeper

PAUSE = (0.7, 3.0)  # seconds between one harm and the next
CUT = (0.3, 5.0)  # seconds that a partition lasts
DROPPED_MAX = 30  # replies lost in a row
AGAIN = 0.3  # how often who is hurt is hurt again, when it is time for the next harm
ANSWER_TIMEOUT = 0.5  # seconds
WHOLE_TIMEOUT = 60.0
LAYOUT = Layout.of_shape(CLIENTS_MAX, MESSAGE_SIZE_MAX)


class Harm:
    """See the module. `directory` has the replicas' directories, by name."""

    def __init__(
        self, members: Members, gateway: GatewayKeeper, directory: Path, seed: int, say: Callable[[str], None]
    ) -> None:
        self.done: Counter[str] = Counter()
        self.slots_damaged = 0
        self.recoveries: list[float] = []  # seconds from the first harm to who was hurt until all were whole again
        self._members = members
        self._gateway = gateway
        self._directory = directory
        self._say = say
        self._chance = random.Random(f"{seed}/harm")
        self._names = list(members.replicas)
        self._victims: list[str] = []
        self._hurt_at = self._hurt_again_at = 0.0
        self._commit = 0  # what had been committed when we looked last
        self._faults = FaultKeeper(members)
        self._cut: tuple[str, ...] = ()
        self._heal_at = 0.0
        self._damaged: set[tuple[Path, int]] = set()  # files and offsets of replies that were damaged
        self._next = time.monotonic() + self._chance.uniform(*PAUSE)
        self._to_replicas: dict[str, Callable[[str], bool]] = {
            "replica kill": self._kill_replica,
            "component kill": self._kill_component,
            "storage kill": self._kill_storage,
            "pool kill": self._kill_pool,
            "lost disk": self._lose_disk,
            "corruption": self._corrupt,
            "partition": self._cut_off,
        }

    def turn(self, *, more: bool) -> None:
        """Do the next harm, if there is to be more; end what has lasted long enough. Raises `MembersFailed`."""
        now = time.monotonic()
        self._see_to_victims(now)
        if now < self._next or not more:
            return
        self._next = now + self._chance.uniform(*PAUSE)
        kind = self._chance.choice([*self._to_replicas, "gateway kill", "reply drop"])
        if kind == "gateway kill":
            if kill(self._gateway.pid):
                self._count(kind)
        elif kind == "reply drop":
            self._drop_replies()
            self._count(kind)
        elif not self._victims:
            minority = (len(self._names) - 1) // 2
            chosen = self._chance.sample(self._names, self._chance.randint(1, minority))
            self._hurt_at, self._commit = now, 0
            self._victims = [name for name in chosen if self._hurt(kind, name)]
        elif self._chance.random() < AGAIN:
            self._hurt(kind, self._chance.choice(self._victims))

    def settle(self) -> None:
        """Wait until all are whole. Raises `MembersFailed`."""
        self._heal_at = 0.0
        while self._victims:
            self._see_to_victims(time.monotonic())
            self._members.turn(0.05)

    def _hurt(self, kind: str, name: str) -> bool:
        self._hurt_again_at = time.monotonic()
        done = self._to_replicas[kind](name)
        if done:
            self._count(kind, name)
        return done

    def _count(self, kind: str, name: str = "") -> None:
        self.done[kind] += 1
        self._say(f"fault {self.done.total()}: {kind}{', ' if name else ''}{name}")

    # Who is hurt, and for how long.

    def _see_to_victims(self, now: float) -> None:
        if self._cut and now >= self._heal_at:
            self._cut = ()
            self._faults.end_partitions()
        if not self._victims:
            return
        missing = self._missing()
        if not missing:
            self.recoveries.append(now - self._hurt_at)
            self._victims = []
        elif now - self._hurt_again_at > WHOLE_TIMEOUT:
            hurt = ", ".join(self._victims)
            raise MembersFailed(f"not whole {WHOLE_TIMEOUT:.0f} s after {hurt} was hurt: {missing}")

    def _missing(self) -> str:
        """What there is that is not whole, or nothing."""
        if self._cut:
            return "a partition"
        states = {}
        for name, replica in self._members.replicas.items():
            if not replica.pid or not replica.joined or replica.replies is None:
                return f"{name} is not up"
            progress = self._members.ask_replica(name, lambda number: GetProgress(request=number), ANSWER_TIMEOUT)
            if not isinstance(progress, Progress):
                return f"{name} does not say how it is"
            status = self._members.ask(replica.replies, lambda number: GetStatus(request=number), ANSWER_TIMEOUT)
            if not isinstance(status, RepliesStatus):
                return f"the component of {name} does not say how it is"
            if progress.status["sync"] or progress.status["role"] == "non-voting":
                return f"{name} takes over the others' state"
            if status.slots.get("faulty"):
                return f"{name} has {status.slots['faulty']} faulty slots"
            states[name] = progress
        if len({state.status["view"] for state in states.values()}) > 1:
            return "they are in several views"
        target, self._commit = self._commit, max(state.total for state in states.values())
        behind = [name for name, state in states.items() if state.done < target]
        if behind or not target:
            return f"{', '.join(behind) or 'perhaps somebody'} did not execute op {target} yet"
        self._damaged = {one for one in self._damaged if not holds_reply(*one)}
        if self._damaged:
            return f"{len(self._damaged)} damaged slots are not repaired"
        return ""

    # The harm.

    def _kill_replica(self, name: str) -> bool:
        process = self._members.replicas[name].process
        return self._kill_one([process] if process else [])

    def _kill_component(self, name: str) -> bool:
        return self._kill_one(self._children(name))

    def _kill_storage(self, name: str) -> bool:
        return self._kill_one([pid for pid in self._grandchildren(name) if has_open(pid, self._file(name))])

    def _kill_pool(self, name: str) -> bool:
        return self._kill_one([pid for pid in self._grandchildren(name) if not has_open(pid, self._file(name))])

    def _kill_one(self, processes: list[int]) -> bool:
        return any(kill(pid) for pid in processes[:1])

    def _children(self, name: str) -> list[int]:
        process = self._members.replicas[name].process
        return self._members.children(process) if process else []

    def _grandchildren(self, name: str) -> list[int]:
        return [pid for child in self._children(name) for pid in self._members.children(child)]

    def _lose_disk(self, name: str) -> bool:
        process = self._members.replicas[name].process
        if not process:
            return False
        kill(process)
        while is_living(process):
            time.sleep(0.01)
        lose_directory(self._directory / name)
        return True

    def _corrupt(self, name: str) -> bool:
        slots = self._chance.sample(range(CLIENTS_MAX), self._chance.choice((4, 16, CLIENTS_MAX)))
        damaged = 0
        for slot in slots:
            offset = LAYOUT.slot_offset(slot)
            try:
                kind = damage_slot(self._file(name), offset, MESSAGE_SIZE_MAX, self._chance)
            except OSError:
                break  # it has just lost its disk
            if kind is not None:
                self._damaged.add((self._file(name), offset))
                damaged += 1
        self.slots_damaged += damaged
        return damaged > 0

    def _cut_off(self, name: str) -> bool:
        if name in self._cut:
            return False
        self._cut = (*self._cut, name)
        self._heal_at = time.monotonic() + self._chance.uniform(*CUT)
        self._faults.partition(self._cut)
        return True

    def _drop_replies(self) -> None:
        self._faults.drop_replies(self._chance.randint(1, DROPPED_MAX))

    def _file(self, name: str) -> Path:
        return self._directory / name / DATA_FILE


def has_open(pid: int, file: Path) -> bool:
    """True if the process has the file open."""
    try:
        return str(file.resolve()) in (found.path for found in psutil.Process(pid).open_files())
    except psutil.NoSuchProcess:
        return False


def holds_reply(file: Path, offset: int) -> bool:
    """True if a whole reply is there."""
    try:
        with file.open("rb") as data:
            data.seek(offset)
            found = data.read(MESSAGE_SIZE_MAX)
        if len(found) > HEADER_SIZE:
            Reply.unpack(found[: packed_size(found)])
            return True
    except (OSError, HeaderInvalid):
        pass
    return False
