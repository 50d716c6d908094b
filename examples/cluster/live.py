"""A cluster that stays up until Ctrl-C: replicas that are started again, a gateway for clients, and a socket for us.

Guarantees: whatever of the cluster dies is started again, from what is on its disk or, without a disk, from the others.
What is asked over the control socket is answered, also while replicas are down: `status` says which. Everything ends
with the script, in whatever way that ends; what was answered to a client is on the disks of a majority.

Owns: the actor system, the directory's lock, the control socket.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client_replies.actors.system import OwnedSystem, configure_logging, processes_of, running_system
from client_replies.messages.replies import GetStatus, RepliesStatus
from client_replies.messages.reply_header import HEADER_SIZE, packed_client_request, packed_size
from client_replies.storage.layout import Layout

from .cluster_directory import RUNNING_FILE, ClusterUnusable, Control, Shape, answer, opened, whole_number
from .config import CHECKPOINT_INTERVAL, CLIENTS_MAX, MESSAGE_SIZE_MAX, VIEW_CHANGE, replies_config
from .control import GetProgress, Progress, StartReplica
from .damage import damage_of, damage_slot
from .fault_keeper import FaultKeeper
from .gateway import GatewayStatus, GetGatewayStatus
from .gateway_keeper import GATEWAY, GatewayKeeper
from .members import Members, is_living, is_stopped, kill
from .replica import DATA_FILE, replica_name

HOST = "127.0.0.1"
ANSWER_TIMEOUT = 1.5  # seconds until a member counts as silent


class Live:
    """See the module."""

    def __init__(self, directory: Path, shape: Shape, system: OwnedSystem, port: int) -> None:
        self.members = Members(system)
        self.gateway = GatewayKeeper(self.members, shape.cluster, (HOST, port))
        self._directory = directory
        self._shape = shape
        self._system = system
        self._names = [replica_name(replica) for replica in range(shape.replicas)]

    # Starting, and staying up.

    def start(self) -> None:
        """Start everything. Raises `MembersFailed`."""
        epoch = time.time() - time.monotonic()
        for replica, name in enumerate(self._names):
            place = self._directory / name
            start = StartReplica(
                name=name,
                replicas=self._shape.replicas,
                config=replies_config(place / DATA_FILE, self._shape.cluster, replica),
                directory=str(place),
                fresh=not self._shape.formed,
                checkpoint_interval=CHECKPOINT_INTERVAL,
                view_change=VIEW_CHANGE,
                seed=random.getrandbits(32),
                epoch=epoch,
            )
            self.members.create_replica(start)
        self.members.start_replicas()
        Shape(self._shape.cluster, self._shape.replicas, True).write(self._directory)
        self.gateway.start()
        self.faults = FaultKeeper(self.members)
        running = {"pid": os.getpid(), "gateway": list(self.gateway.address), "cluster": f"{self._shape.cluster:x}"}
        (self._directory / RUNNING_FILE).write_text(json.dumps(running), encoding="utf-8")

    # Questions.

    def handle(self, question: Mapping[str, Any]) -> dict[str, object]:
        """Answer a question; what is wrong with it is an answer, too."""
        try:
            if question.get("ask") == "status":
                return self._status()
            if question.get("ask") == "hurt":
                return {"done": self._hurt(str(question.get("action")), dict(question))}
        except (ClusterUnusable, OSError, KeyError, ValueError) as error:
            return {"error": str(error)}
        return {"error": "a question that there is not"}

    def _status(self) -> dict[str, object]:
        replicas = []
        for name in self._names:
            known = self.members.replicas[name]
            line: dict[str, object] = {"name": name, "pid": known.pid, "state": "up" if known.pid else "starting"}
            progress = self.members.ask_replica(name, lambda number: GetProgress(request=number), ANSWER_TIMEOUT)
            if isinstance(progress, Progress):
                line.update(progress.status)
            elif known.pid:
                line["state"] = "stopped" if is_stopped(known.pid) else "silent"
            if known.replies is not None and isinstance(progress, Progress):
                status = self.members.ask(known.replies, lambda number: GetStatus(request=number), ANSWER_TIMEOUT)
                if isinstance(status, RepliesStatus):
                    line["slots"] = dict(status.slots)
                    line["queues"] = dict(status.queues)
                    line["lost"] = len(status.lost)
            replicas.append(line)
        gateway = self.members.ask(
            self.members.addresses[GATEWAY], lambda number: GetGatewayStatus(request=number), ANSWER_TIMEOUT
        )
        door: dict[str, object] = {"address": list(self.gateway.address), "pid": self.gateway.pid}
        if isinstance(gateway, GatewayStatus):
            door.update(connections=gateway.connections, requests_waiting=gateway.requests_waiting)
        up = sum(line["state"] == "up" for line in replicas)
        quorum = self._shape.replicas // 2 + 1
        return {
            "cluster": f"{self._shape.cluster:x}",
            "replicas": replicas,
            "gateway": door,
            "quorum": up >= quorum,
            "restarts": self.members.restarts,
            "faults": self.faults.describe(),
        }

    # Hurting.

    def _hurt(self, action: str, question: Mapping[str, Any]) -> str:
        if action == "drop-replies":
            count = int(question["count"])
            self.faults.drop_replies(count)
            return f"the next {count} replies are lost"
        if action == "block":
            client = int(str(question["client"]), 16)
            self.faults.block(client)
            return f"client {client:x} gets no replies until heal"
        if action == "partition":
            return self._partition(self._chosen(question["replicas"]))
        if action == "heal":
            self.faults.heal()
            return "nobody is cut off, and no client is blocked"
        if action == "corrupt-slot":
            return self._corrupt(self._chosen(question["replicas"]), question)
        if action == "kill":
            return self._kill(str(question["who"]))
        if action == "lose-disk":
            return self._lose_disk(str(question["replica"]))
        raise ClusterUnusable(f"found {action!r}, expected a way to hurt: hurt --help lists them")

    def _chosen(self, words: object) -> list[str]:
        """Replicas by number or name, `primary`, `backups` or `all`."""
        found: list[str] = []
        for word in words if isinstance(words, list) else [words]:
            text = str(word).removeprefix("replica-")
            number = whole_number(text)
            if text == "all":
                found += self._names
            elif text in ("primary", "backups"):
                primary = self._primary()
                found += [name for name in self._names if (name == primary) == (text == "primary")]
            elif number is not None and number < len(self._names):
                found.append(self._names[number])
            else:
                expected = f"a number below {len(self._names)}, primary, backups or all"
                raise ClusterUnusable(f"replica: found {word!r}, expected {expected}")
        return list(dict.fromkeys(found))

    def _primary(self) -> str:
        views: dict[str, int] = {}
        for name in self._names:
            progress = self.members.ask_replica(name, lambda number: GetProgress(request=number), ANSWER_TIMEOUT)
            if isinstance(progress, Progress) and progress.status.get("role") == "primary":
                views[name] = int(progress.status["view"])
        if not views:
            raise ClusterUnusable("there is no primary now: wait for the view change, and look at the status")
        return max(views, key=lambda name: views[name])

    def _partition(self, names: list[str]) -> str:
        if set(names) == set(self._names):
            raise ClusterUnusable("partition: found all replicas, expected some of them, such as 0")
        rest = self.faults.partition(names)
        return f"{', '.join(names)} and {', '.join(rest)} do not hear each other until heal"

    def _corrupt(self, names: list[str], question: Mapping[str, Any]) -> str:
        layout = Layout.of_shape(CLIENTS_MAX, MESSAGE_SIZE_MAX)
        done = []
        for name in names:
            path = self._directory / name / DATA_FILE
            slot = int(question["slot"]) if "slot" in question else self._slot_of(path, question)
            if not 0 <= slot < CLIENTS_MAX:
                raise ClusterUnusable(f"slot {slot}: expected one from 0 to {CLIENTS_MAX - 1}")
            order = damage_of(path, layout.slot_offset(slot), MESSAGE_SIZE_MAX, random.getrandbits(32))
            if order is None:
                raise ClusterUnusable(f"slot {slot} of {name} holds no reply: give client:CLIENT, of one that is open")
            done.append(f"slot {slot} of {name}: {damage_slot(order)}")
        return "; ".join(done)

    def _slot_of(self, path: Path, question: Mapping[str, Any]) -> int:
        wanted = int(str(question["client"]), 16)
        layout = Layout.of_shape(CLIENTS_MAX, MESSAGE_SIZE_MAX)
        with path.open("rb") as data:
            for slot in range(CLIENTS_MAX):
                data.seek(layout.slot_offset(slot))
                header = data.read(HEADER_SIZE)
                if packed_size(header) and packed_client_request(header)[0] == wanted:
                    return slot
        raise ClusterUnusable(f"{path.parent.name} holds no reply of client {wanted:x}: see what client prints")

    def _kill(self, who: str) -> str:
        number = whole_number(who)
        if who == GATEWAY:
            pids = {who: self.gateway.pid}
        elif number is not None and number >= len(self._names):
            pids = {who: number}
            if number not in processes_of(self._system):
                raise ClusterUnusable(f"process {who} is none of this cluster's: status shows them")
        else:
            pids = {name: self.members.pid(name) for name in self._chosen([who])}
            down = [name for name, pid in pids.items() if not pid]
            if down:
                raise ClusterUnusable(f"{', '.join(down)}: not up, but being started again. Try again in a moment")
        for pid in pids.values():
            kill(pid)
        return ", ".join(f"kill -9 {pid} ({name})" for name, pid in pids.items())

    def _lose_disk(self, who: str) -> str:
        name, *more = self._chosen([who])
        if more:
            raise ClusterUnusable(f"lose-disk: found {who!r}, expected one replica, such as 2 or primary")
        pid = self.members.pid(name)
        if pid:
            kill(pid)
            deadline = time.monotonic() + 5.0
            while is_living(pid) and time.monotonic() < deadline:
                time.sleep(0.01)
        shutil.rmtree(self._directory / name, ignore_errors=True)
        return f"{name} was killed, and its directory removed"


def start(directory: Path, replicas: int | None, port: int, say: Any) -> None:
    """Start a cluster and keep it up. Raises `ClusterUnusable`, `MembersFailed`, and what interrupts it."""
    with opened(directory, replicas) as shape:
        _check_port(port)
        configure_logging(str(directory / "log.jsonl"))
        with running_system() as system:
            live = Live(directory, shape, system, port)
            live.members.say = say
            live.start()
            control = Control(directory)
            try:
                _announce(live, directory, shape, say)
                while True:
                    live.members.turn(0.05)
                    asked = control.poll()
                    if asked is not None:
                        answer(asked[0], live.handle(asked[1]))
            finally:
                control.close()


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
    pids = ", ".join(f"{name} is process {live.members.pid(name)}" for name in live.members.replicas)
    say(f"a cluster of {shape.replicas} replicas in {directory}: {pids}")
    say(f"clients come in at {live.gateway.address[0]}:{live.gateway.address[1]}")
    say("ready; Ctrl-C ends it, and starting it again goes on where it was")
