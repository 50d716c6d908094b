"""The gateway: the actor at which clients come in over TCP, in front of the replicas.

    clients == TCP, frames ==> front_door -> forwarding == ForwardRequests, batches ==> replicas

Guarantees: what clients send is never unpickled, and reaches replicas only as frames whose checksums and rules hold.
It listens on one named address and on no other. Bad clients are bounded, counted and dropped (`front_door`); silent
replicas are noticed and passed by (`forwarding`); each event is counted, and logged by name at a bounded rate.

Limits: it stores nothing and repeats nothing. If it dies, clients connect again, here or elsewhere, and ask again.
It needs an actor system that can watch a descriptor (the one that `start_system` gives).

Owns: its front door and its table of who waits for what.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, ClassVar

from thespian.actors import ActorAddress

from client_replies.actors.thespian.component_actor import ComponentActor, Handler
from client_replies.cluster.control import Failed, ProcessId, Sender
from client_replies.messages.limits import Distinct, Length, Range
from client_replies.messages.message import U8, U8_MAX, U16, U16_MAX, U64, U128, Message, View
from client_replies.messages.protocol import Party

from .connection import Connection, DoorLimits, Sockets
from .door_sockets import DoorClosed, DoorSockets
from .forwarding import Forwarding, ForwardingLimits
from .forwarding_messages import ForwardedReplies, ReplicaIndex
from .frames import Frame, Key
from .front_door import FrontDoor

TICK = 0.1  # seconds
TURN_TIME_MAX = 0.01  # seconds that one handler gives to the clients before the mailbox has its turn

Replicas = Annotated[tuple[tuple[ReplicaIndex, ActorAddress], ...], Length(1, U8_MAX - 1), Distinct(keys=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartGateway(Message):
    """Open the door. Answered by `GatewayStarted` or `GatewayFailed`; said twice, it is answered twice."""

    cluster: U128
    host: str
    port: U16  # 0: any
    replicas: Replicas
    door: DoorLimits = field(default_factory=DoorLimits)
    forwarding: ForwardingLimits = field(default_factory=ForwardingLimits)
    wildcard_allowed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SetReplica(Message):
    """A replica started again and has this address now."""

    replica: ReplicaIndex
    address: ActorAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayStarted(Message):
    """Clients can connect there; `pid` is the gateway's process."""

    host: str
    port: Annotated[int, Range(1, U16_MAX)]
    pid: ProcessId


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayFailed(Failed):
    """The door did not open; the reason says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetGatewayStatus(Message):
    """How the gateway is. `request` comes back in the answer."""

    request: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayStatus(Message):
    """How the gateway is. `replicas`: index, requests queued, silent."""

    request: U64
    address: tuple[str, U16]
    connections: U64
    bytes_held: U64
    requests_waiting: U64
    view: View
    primary: U8
    replicas: tuple[tuple[ReplicaIndex, U64, bool], ...]
    counters: Mapping[str, U64]


class GatewayActor(ComponentActor):
    """See the module."""

    senders: ClassVar[Mapping[type, Enum]] = {
        StartGateway: Sender.SCRIPT,
        SetReplica: Sender.SCRIPT,
        ForwardedReplies: Sender.MEMBER,
        GetGatewayStatus: Party.ANYONE,
    }

    def __init__(self, capabilities: Mapping[str, object] | None = None, requirements: object = None) -> None:
        super().__init__(capabilities, requirements)
        self._door: FrontDoor | None = None
        self._forwarding: Forwarding | None = None
        self._addresses: dict[int, ActorAddress] = {}
        self._script: ActorAddress | None = None

    def is_from(self, party: Enum, message: Any, sender: ActorAddress) -> bool:
        """The script is who started the gateway; it tells where the replicas are."""
        if party is Sender.SCRIPT:
            return self._script is None or sender == self._script
        known = self._addresses.get(message.replica)
        return self._door is None or (known is not None and sender == known)

    def handlers(self) -> dict[type, Handler]:
        return {
            StartGateway: self.start,
            SetReplica: self.set_replica,
            ForwardedReplies: self.replies,
            GetGatewayStatus: self.status,
        }

    def start(self, message: StartGateway, sender: ActorAddress) -> None:
        """Open the door."""
        if self._door is None:
            try:
                self._open(message)
            except DoorClosed as error:
                self.send(sender, GatewayFailed(reason=str(error)))
                return
            self._script = sender
        if self._door is not None:
            host, port = self._door.address
            self.send(sender, GatewayStarted(host=host, port=port, pid=self.pid()))

    def _open(self, message: StartGateway) -> None:
        if self._timer is None:
            self.start_ticks(TICK)
        if self._timer is None:
            raise DoorClosed("this actor system cannot watch a socket: use multiprocUnixBase")
        self._door = FrontDoor(
            self.make_sockets(message),
            cluster=message.cluster,
            limits=message.door,
            take=self._take,
            closed=self._closed,
            note=self._note,
        )
        if self._door.connections_max < message.door.connections_max:
            self._note("connections_max_lowered", f"{self._door.connections_max}, by the limit on open files")
        self._addresses = dict(message.replicas)
        self._forwarding = Forwarding(
            cluster=message.cluster,
            gateway=self.environment.unique(),
            replicas=self._addresses,
            limits=message.forwarding,
        )
        self.log.info("gateway_started", host=self._door.address[0], port=self._door.address[1])

    def pid(self) -> int:
        """The gateway's process."""
        return os.getpid()

    def make_sockets(self, message: StartGateway) -> Sockets:
        """Listen for clients. Raises `DoorClosed`."""
        return DoorSockets(
            message.host,
            message.port,
            connections_max=message.door.connections_max,
            wildcard_allowed=message.wildcard_allowed,
        )

    def set_replica(self, message: SetReplica, sender: ActorAddress) -> None:
        """Use the replica's new address from now on."""
        if self._forwarding is not None and self._addresses.get(message.replica) != message.address:
            self._addresses[message.replica] = message.address
            self._forwarding.replica_restarted(message.replica)

    # The clients.

    def _dispatch(self, message: object, sender: ActorAddress) -> None:
        """Each message is followed by a turn of the door: watched or not, nothing that is ready waits for long."""
        super()._dispatch(message, sender)
        door = self._door
        if door is None or self.exiting:
            return
        until = self.environment.monotonic() + TURN_TIME_MAX
        more = True
        while more:
            now = self.environment.monotonic()
            more = door.turn(now) and now < until
            self._flush()

    def _flush(self) -> None:
        if self._door is None or self._forwarding is None:
            return
        now = self.environment.monotonic()
        for replica, message in self._forwarding.due(now):
            self.send(self._addresses[replica], message)
        self._door.flush(now)

    def _take(self, connection: Connection, frame: Frame) -> tuple[Key | None, bytes | None]:
        if self._forwarding is None or self._door is None:
            return None, None
        submitted = self._forwarding.submit(connection.id, frame, self.environment.monotonic())
        if submitted.before is not None:
            self._door.release(submitted.before, submitted.key)
        return submitted.key, submitted.refusal

    def _closed(self, connection: Connection) -> None:
        if self._forwarding is not None:
            self._forwarding.closed(connection.id, connection.in_flight)

    # The replicas.

    def replies(self, message: ForwardedReplies, sender: ActorAddress) -> None:
        """Pass answers on to the clients."""
        if self._forwarding is None or self._door is None:
            return
        for delivery in self._forwarding.take(message, self.environment.monotonic()):
            self._door.answer(delivery.connection, delivery.packed, delivery.key)

    def tick(self) -> None:
        if self._forwarding is None or self._door is None:
            return
        now = self.environment.monotonic()
        for connection, key in self._forwarding.expire(now):
            self._door.release(connection, key)
        self._door.tick(now)
        self._flush()

    def status(self, message: GetGatewayStatus, sender: ActorAddress) -> None:
        """Say how we are."""
        if self._forwarding is None or self._door is None:
            self.send(sender, GatewayFailed(reason="the gateway was not started"))
            return
        answer = GatewayStatus(
            request=message.request,
            address=self._door.address,
            connections=self._door.connections,
            bytes_held=self._door.bytes_total,
            requests_waiting=self._forwarding.waiting,
            view=self._forwarding.view,
            primary=self._forwarding.primary,
            replicas=self._forwarding.describe(),
            counters={**self._forwarding.counters, **self._door.counters, **self.counters},
        )
        self.send(sender, answer)

    def _note(self, kind: str, detail: str) -> None:
        """Log an event by name: a flood of clients must not become a flood of lines."""
        level = logging.INFO if kind == "closed_by_client" else logging.WARNING
        self.limited_log.event(kind, {"detail": detail}, level)

    def _filenos(self) -> list[int]:
        filenos = super()._filenos()
        return filenos if self._door is None or self.exiting else [*filenos, self._door.fileno()]

    def stop(self) -> None:
        if self._door is not None:
            self._door.close()
