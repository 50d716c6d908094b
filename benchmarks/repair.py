"""Repair of a replica that has none of its replies, from two peers that have all.

Three components live in one actor system, as three replicas on one machine. The first opens a file whose session table
is whole and whose slots were never written; the clock runs from naming its peers until all its slots are durable.
Beside it, the same bytes go by plain sockets and files: two processes that read their file's slots and send them, each
a half, and one that receives them, writes them to its file and syncs once at the end.
"""

from __future__ import annotations

import hmac
import multiprocessing
import os
import selectors
import socket
import time
from collections.abc import Mapping
from typing import Any

from thespian.actors import Actor, ActorAddress, WakeupMessage

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.actors.owner.port_events import PortFailed, SlotsAreDurable
from client_replies.actors.owner.replies_port import RepliesPort
from client_replies.actors.thespian.base import MAC_SIZE
from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.replies import GetStatus, RepliesClosed, RepliesOpened, RepliesStatus, ReplyLost
from client_replies.messages.reply import verify_reply
from client_replies.storage.layout import Layout
from client_replies.storage.shared_memory import PoolMemory

from .accounting import Snapshot, account, begin
from .contest import Contestant, Group, Scale, group_of
from .durable import measure_actor
from .files import make_file
from .owner import TICK, RunDone, StartRun, replies_config
from .targets import REPAIR
from .workload import CLUSTER, Replies

REPLICAS = 3
KEY = bytes(32)  # of the signed copy


def config_of(params: Mapping[str, Any], replica: int) -> RepliesConfig:
    """The configuration of one of the three."""
    path = f"{params['path']}-{replica}"
    return replies_config(path, params["size"], replica=replica, clients_max=params["slots"], buffers_max=16)


def make_files(params: Mapping[str, Any]) -> None:
    """Two files that have everything, and the first that has only its session table."""
    replies = Replies(params["size"], sessions=params["slots"])
    for replica in range(REPLICAS):
        replies.op = params["slots"]
        make_file(config_of(params, replica), replies, left_out=range(params["slots"]) if replica == 0 else ())


class RepairDriver(Actor):
    """Owns three components, and lets one be repaired from the others."""

    def __init__(
        self, capabilities: Mapping[str, object] | None = None, requirements: Mapping[str, object] | None = None
    ) -> None:
        super().__init__()
        self._asker: ActorAddress | None = None
        self._params: dict[str, Any] = {}
        self._ports: list[RepliesPort] = []
        self._replies: list[ActorAddress] = []
        self._opened = self._closed = 0
        self._before: Snapshot | None = None
        self._result: dict[str, Any] = {}

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Take everything to the port that it is for."""
        if isinstance(message, StartRun):
            self._params, self._asker = message.params, sender
            self._start()
        elif isinstance(message, WakeupMessage):
            for port in self._ports:
                port.tick()
            self.wakeupAfter(TICK)
        elif isinstance(message, RepliesStatus):
            self._result["counters"] = dict(message.counters)
            for port in self._ports:
                port.close()
        owner = getattr(message, "owner", None) or getattr(message, "holder", None)
        for port in self._ports:
            if port.owner == owner and port.receive(message):
                for event in port.take_events():
                    self._event(event)

    def _start(self) -> None:
        make_files(self._params)
        for replica in range(REPLICAS):
            self._replies.append(self.createActor(ClientRepliesActor))
            self._ports.append(self._port(replica))
            self._ports[replica].open(config_of(self._params, replica), OpenMode.OPEN)
        self.wakeupAfter(TICK)

    def _port(self, replica: int) -> RepliesPort:
        return RepliesPort(
            owner=replica + 1,
            send=lambda message: self.send(self._replies[replica], message),
            send_pool=lambda pool, request: self.send(pool, request),
            now=time.monotonic,
            open_memory=PoolMemory.open,
        )

    def _event(self, event: object) -> None:
        if isinstance(event, RepliesOpened):
            self._opened += 1
            if self._opened == REPLICAS:
                self._repair()
        elif isinstance(event, SlotsAreDurable) and self._before is not None:
            found = account(self._before, begin())
            size = self._params["slots"] * self._params["size"]
            self._result = {"value": size / found["seconds"] / 1e6, "duration": found["seconds"], **found}
            self.send(self._replies[0], GetStatus(request=1))
        elif isinstance(event, RepliesClosed):
            self._closed += 1
            if self._closed == REPLICAS:
                self._answer(RunDone(result=self._result))
        elif isinstance(event, PortFailed | ReplyLost):
            self._answer(RunDone(failed=f"the repair failed: {event!r}"))

    def _repair(self) -> None:
        for replica in range(1, REPLICAS):
            self._ports[replica].set_peers(((0, self._replies[0]),))  # a component serves only the peers that it knows
        self._before = begin()
        self._ports[0].set_peers(tuple((replica, self._replies[replica]) for replica in range(1, REPLICAS)))
        self._ports[0].await_durable(tuple(range(self._params["slots"])))

    def _answer(self, message: RunDone) -> None:
        asker, self._asker = self._asker, None
        if asker is not None:
            self.send(asker, message)


def copy_plainly(params: Mapping[str, Any]) -> dict[str, Any]:
    """The same bytes by sockets and files, without actors; `signed` as the actors' frames are, and verified."""
    make_files(params)
    layout = Layout.of(config_of(params, 0))
    context = multiprocessing.get_context("fork")
    pairs = [_connected_pair() for _ in range(1, REPLICAS)]
    sources = [
        context.Process(target=_send_slots, args=(params, layout, index + 1, pair[0]), daemon=True)
        for index, pair in enumerate(pairs)
    ]
    for source in sources:
        source.start()
    before = begin()
    total = _receive_slots(params, layout, [pair[1] for pair in pairs])
    found = account(before, begin())
    for source in sources:
        source.join()
    return {"value": total / found["seconds"] / 1e6, "duration": found["seconds"], **found}


def _connected_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = socket.create_connection(server.getsockname())
        receiver, _ = server.accept()
    return sender, receiver


def _send_slots(params: Mapping[str, Any], layout: Layout, replica: int, connection: socket.socket) -> None:
    """Every other slot, each after its number, once the receiver says so."""
    connection.recv(1)
    descriptor = os.open(f"{params['path']}-{replica}", os.O_RDONLY)
    buffer = bytearray(layout.message_size_max)
    for slot in range(replica - 1, params["slots"], REPLICAS - 1):
        os.preadv(descriptor, [buffer], layout.slot_offset(slot))
        if params["signed"]:
            verify_reply(buffer, cluster=CLUSTER, size_max=len(buffer))
            connection.sendall(hmac.digest(KEY, buffer, "sha256"))
        connection.sendall(slot.to_bytes(8, "little"))
        connection.sendall(buffer)
    connection.close()


def _receive_slots(params: Mapping[str, Any], layout: Layout, connections: list[socket.socket]) -> int:
    """Write what comes to its slot; one sync at the end."""
    descriptor = os.open(f"{params['path']}-0", os.O_WRONLY)
    prefix = MAC_SIZE if params["signed"] else 0
    buffer = memoryview(bytearray(prefix + 8 + layout.message_size_max))
    total = 0
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
            connection.sendall(b"g")
        while total < params["slots"] * layout.message_size_max:
            for key, _ in selector.select():
                receiver = key.fileobj
                if not isinstance(receiver, socket.socket):
                    continue
                count = receiver.recv_into(buffer, len(buffer), socket.MSG_WAITALL)
                if count < len(buffer):
                    raise RuntimeError(f"a sender stopped after {total} bytes")
                reply = buffer[prefix + 8 :]
                if params["signed"]:
                    if hmac.digest(KEY, reply, "sha256") != buffer[:MAC_SIZE]:
                        raise RuntimeError("a frame with a wrong signature")
                    verify_reply(reply, cluster=CLUSTER, size_max=len(reply))
                slot = int.from_bytes(buffer[prefix : prefix + 8], "little")
                total += os.pwrite(descriptor, reply, layout.slot_offset(slot))
    os.fdatasync(descriptor)
    os.close(descriptor)
    return total


def measure(contestant: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Run one contestant of the row."""
    if contestant in ("plain", "signed"):
        return copy_plainly({**params, "signed": contestant == "signed"})
    return measure_actor(RepairDriver, params)


def groups(scale: Scale) -> list[Group]:
    """The contests of the row."""
    slots = 2048 if scale.is_full else 64 if scale.name == "tiny" else 1024
    contestants = [
        Contestant("ours", "repair from two peers", on_base=True),
        Contestant("plain", "plain sockets and files"),
        Contestant("signed", "the same, signed and verified"),
    ]
    return [group_of(REPAIR, "MB/s", contestants, {"size": 65536, "slots": slots}, (("duration", "s"),))]
