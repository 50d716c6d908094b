"""A cluster that stays up until Ctrl-C: replicas that are started again, a gateway for clients, and a socket for us.

Guarantees: whatever of the cluster dies is started again, from what is on its disk or, without a disk, from the others.
A replica that cannot start holds nobody up: it is tried again, and `status` says why it is down. Without a majority the
cluster waits for one, unless there never was any: then it ends, and says why.
What is asked over the control socket is answered, also while replicas are down. Everything ends with the script, in
whatever way that ends, or when the directory is renamed; what was answered to a client is on the disks of a majority.

Owns: the actor system, the directory's lock, the control socket.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from client_replies.actors.thespian.system import (
    OwnedSystem,
    configure_logging,
    processes_of,
    running_system,
)
from client_replies.cluster.control import GetProgress, Progress, StartReplica
from client_replies.cluster.door.gateway import GatewayStatus, GetGatewayStatus
from client_replies.cluster.host.cluster_directory import (
    DATA_FILE,
    ClusterUnusable,
    OpenDirectory,
    Shape,
    on_refusal,
    opened,
)
from client_replies.cluster.host.gateway_keeper import GATEWAY
from client_replies.cluster.host.members import is_living, is_stopped, kill, on_machine
from client_replies.cluster.host.service import Host
from client_replies.messages.replies import GetStatus, RepliesStatus
from client_replies.messages.reply_header import HEADER_SIZE, packed_client_request, packed_size
from client_replies.storage.layout import Layout

from .config import CHECKPOINT_INTERVAL, CLIENTS_MAX, MESSAGE_SIZE_MAX, VIEW_CHANGE, replies_config
from .control_socket import (
    AskStatus,
    Block,
    ControlSocket,
    CorruptSlot,
    DropReplies,
    Heal,
    Hurt,
    Kill,
    LoseDisk,
    Partition,
    Question,
)
from .damage import damage_slot, lose_directory
from .descriptors import prepare_descriptors
from .fault_keeper import FaultKeeper
from .ledger_replica import LedgerReplica, StartLedgerReplica
from .status import has_quorum
from .typed import whole_number

HOST = "127.0.0.1"
BLOCKED_MAX = 1024  # clients
ANSWER_TIMEOUT = 1.5  # seconds until a member counts as silent
TURN = 0.2  # seconds between two looks at the processes and the control socket, if nobody says anything


class Live(Host):
    """See the module."""

    def __init__(self, held: OpenDirectory, shape: Shape, system: OwnedSystem, port: int) -> None:
        super().__init__(held, shape, system, LedgerReplica, (HOST, port))
        self._system = system

    def start_of(self, replica: int) -> StartReplica:
        name = self.names[replica]
        place = self.directory / name
        return StartLedgerReplica(
            name=name,
            replicas=self.shape.replicas,
            config=replies_config(place / DATA_FILE, self.shape.cluster, replica),
            directory=str(place),
            fresh=replica not in self.shape.formed,
            checkpoint_interval=CHECKPOINT_INTERVAL,
            view_change=VIEW_CHANGE,
            seed=random.getrandbits(32),
            epoch=self.epoch,
        )

    def start(self) -> None:
        super().start()
        self.faults = FaultKeeper(self.members)

    # Questions.

    def handle(self, question: Question) -> dict[str, object]:
        """Answer a question; what cannot be done is an answer, too."""
        try:
            return self._status() if isinstance(question, AskStatus) else {"done": self._hurt(question)}
        except (ClusterUnusable, OSError) as error:
            return {"error": str(error)}

    def _status(self) -> dict[str, object]:
        replicas = []
        for name in self.names:
            known = self.members.replicas[name]
            line: dict[str, object] = {"name": name, "pid": known.pid, "state": "up" if known.pid else "starting"}
            progress = self.members.ask_replica(name, lambda number: GetProgress(request=number), ANSWER_TIMEOUT)
            if isinstance(progress, Progress):
                line.update(progress.status)
            elif known.pid:
                line["state"] = "stopped" if is_stopped(known.pid) else "silent"
            elif known.reason:
                line.update(state="down", reason=known.reason)
            if known.replies is not None and isinstance(progress, Progress):
                status = self.members.ask(known.replies, lambda number: GetStatus(request=number), ANSWER_TIMEOUT)
                if isinstance(status, RepliesStatus):
                    line["slots"] = dict(status.slots)
                    line["queues"] = dict(status.queues)
                    line["lost"] = len(status.lost)
                    if status.stopped is not None:
                        line["stopped"] = str(status.stopped)
            replicas.append(line)
        gateway = self.members.ask(
            self.members.addresses[GATEWAY], lambda number: GetGatewayStatus(request=number), ANSWER_TIMEOUT
        )
        door: dict[str, object] = {
            "address": list(self.gateway.address),
            "pid": self.gateway.pid,
            "restarts": self.gateway.restarts,
        }
        if isinstance(gateway, GatewayStatus):
            door.update(connections=gateway.connections, requests_waiting=gateway.requests_waiting)
        return {
            "cluster": f"{self.shape.cluster:x}",
            "replicas": replicas,
            "gateway": door,
            "quorum": has_quorum(replicas),
            "restarts": self.members.restarts,
            "faults": self.faults.describe(),
        }

    # Hurting.

    def _hurt(self, question: Hurt) -> str:
        match question:
            case DropReplies(count=count):
                self.faults.drop_replies(count)
                return f"the next {count} replies are lost"
            case Block(client=client):
                return self._block(int(client, 16))
            case Partition(replicas=replicas):
                return self._partition(self._chosen(replicas))
            case Heal():
                self.faults.heal()
                return "nobody is cut off, and no client is blocked"
            case CorruptSlot(replicas=replicas):
                return self._corrupt(self._chosen(replicas), question)
            case Kill(who=who):
                return self._kill(who)
            case LoseDisk(replica=replica):
                return self._lose_disk(replica)

    def _chosen(self, words: Sequence[str]) -> list[str]:
        """Replicas by number or name, `primary`, `backups` or `all`."""
        found: list[str] = []
        for word in words:
            text = word.removeprefix("replica-")
            number = whole_number(text)
            if text == "all":
                found += self.names
            elif text in ("primary", "backups"):
                primary = self._primary()
                found += [name for name in self.names if (name == primary) == (text == "primary")]
            elif number is not None and number < len(self.names):
                found.append(self.names[number])
            else:
                expected = f"a number below {len(self.names)}, primary, backups or all"
                raise ClusterUnusable(f"replica: found {word!r}, expected {expected}")
        return list(dict.fromkeys(found))

    def _primary(self) -> str:
        views: dict[str, int] = {}
        for name in self.names:
            progress = self.members.ask_replica(name, lambda number: GetProgress(request=number), ANSWER_TIMEOUT)
            if isinstance(progress, Progress) and progress.status.get("role") == "primary":
                views[name] = int(progress.status["view"])
        if not views:
            raise ClusterUnusable("there is no primary now: wait for the view change, and look at the status")
        return max(views, key=lambda name: views[name])

    def _block(self, client: int) -> str:
        if len(self.faults.blocked | {client}) > BLOCKED_MAX:
            raise ClusterUnusable(f"block: found {BLOCKED_MAX} clients that are blocked, expected fewer: heal first")
        self.faults.block(client)
        return f"client {client:x} gets no replies until heal"

    def _partition(self, names: list[str]) -> str:
        if set(names) == set(self.names):
            raise ClusterUnusable("partition: found all replicas, expected some of them, such as 0")
        rest = self.faults.partition(names)
        return f"{', '.join(names)} and {', '.join(rest)} do not hear each other until heal"

    def _corrupt(self, names: list[str], question: CorruptSlot) -> str:
        layout = Layout.of_shape(CLIENTS_MAX, MESSAGE_SIZE_MAX)
        done = []
        for name in names:
            path = self.directory / name / DATA_FILE
            slot = question.slot if question.slot is not None else self._slot_of(path, int(question.client or "", 16))
            kind = damage_slot(path, layout.slot_offset(slot), MESSAGE_SIZE_MAX, random.Random())
            if kind is None:
                raise ClusterUnusable(f"slot {slot} of {name} holds no reply: give client:CLIENT, of one that is open")
            done.append(f"slot {slot} of {name}: {kind}")
        return "; ".join(done)

    def _slot_of(self, path: Path, wanted: int) -> int:
        layout = Layout.of_shape(CLIENTS_MAX, MESSAGE_SIZE_MAX)
        with path.open("rb") as data:
            for slot in range(CLIENTS_MAX):
                data.seek(layout.slot_offset(slot))
                header = data.read(HEADER_SIZE)
                if len(header) == HEADER_SIZE and packed_size(header) and packed_client_request(header)[0] == wanted:
                    return slot
        raise ClusterUnusable(f"{path.parent.name} holds no reply of client {wanted:x}: see what client prints")

    def _kill(self, who: str) -> str:
        number = whole_number(who)
        if who == GATEWAY:
            pids = {who: self.gateway.pid}
        elif number is not None and number >= len(self.names):
            pids = {self._name_of(number): number}
            if number not in processes_of(self._system):
                raise ClusterUnusable(f"process {who} is none of this cluster's: status shows them")
        else:
            pids = {name: self.members.pid(name) for name in self._chosen([who])}
        down = [name for name, pid in pids.items() if not pid]
        if down:
            raise ClusterUnusable(f"{', '.join(down)}: not up, but being started again. Try again in a moment")
        for pid in pids.values():
            kill(pid)
        return ", ".join(f"killed process {pid} ({name}) with SIGKILL" for name, pid in pids.items())

    def _name_of(self, pid: int) -> str:
        """What this process of the cluster is."""
        known = {self.members.pid(name): name for name in self.names} | {self.gateway.pid: GATEWAY}
        return known.get(pid, "an actor below a replica")

    def _lose_disk(self, who: str) -> str:
        name, *more = self._chosen([who])
        if more:
            raise ClusterUnusable(f"lose-disk: found {who!r}, expected one replica, such as 2 or primary")
        pid = self.members.pid(name)
        killed = kill(pid)
        deadline = time.monotonic() + 5.0
        while killed and is_living(pid):
            if time.monotonic() > deadline:
                raise ClusterUnusable(f"{name}: process {pid} did not end, and its directory was left. Try again")
            time.sleep(0.01)
        lose_directory(self.directory / name)
        return f"{name} was {'killed' if killed else 'not up'}, and its directory removed"


def start(directory: Path, replicas: int | None, port: int, say: Any) -> None:
    """Start a cluster and keep it up. Raises `ClusterUnusable`, `MembersFailed`, and what interrupts it."""
    with on_machine():
        prepare_descriptors()
        _start(directory, replicas, port, say)


def _start(directory: Path, replicas: int | None, port: int, say: Any) -> None:
    with opened(directory, replicas) as (held, shape):
        _check_port(port)
        configure_logging(str(held.path / "log.jsonl"))
        with running_system() as system:
            live = Live(held, shape, system, port)
            live.members.say = say
            with on_refusal(held.path):
                control = ControlSocket(held.path)  # before anybody is told where the cluster is
            try:
                live.start()
                _announce(live, held.path, shape, say)
                _keep_up(live, control, say)
            finally:
                control.close()


def _keep_up(live: Live, control: ControlSocket, say: Any) -> None:
    """See to the cluster and answer questions, until something ends us."""
    is_ready = False
    while True:
        if not is_ready and live.has_quorum:
            is_ready = True
            say("ready; press Ctrl-C to stop; a restart resumes")
        live.turn()
        control.poll(live.handle)


def _check_port(port: int) -> None:
    """Find out before anything is started; the gateway itself, which may be started again, waits for its port."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        found = os.strerror(error.errno or 0)
        raise ClusterUnusable(
            f"--port {port}: found {found}, expected a free port. Leave --port out, or give another, such as 4001"
        ) from error


def _announce(live: Live, directory: Path, shape: Shape, say: Any) -> None:
    pids = {name: live.members.pid(name) for name in live.members.replicas}
    names = ", ".join(f"{name} is {f'process {pid}' if pid else 'down'}" for name, pid in pids.items())
    say(f"a cluster of {shape.replicas} replicas in {directory}: {names}")
    say(f"listening for clients on {live.gateway.address[0]}:{live.gateway.address[1]}")
    if not live.has_quorum:
        say(f"no quorum: nothing is executed until {live.members.quorum} replicas are up; status {directory} says more")
