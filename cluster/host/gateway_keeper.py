"""The gateway as its script sees it: created, told where the replicas are, and started again when it died.

Guarantees: a gateway whose process has ended is created anew, at the address at which clients know it; one that ends
again and again, ever more slowly. What it is told is said again while it is not confirmed, and where the replicas are
periodically in any case: messages get lost.

Owns: the gateway's process and address.
"""

from __future__ import annotations

import time

from client_replies.cluster.door.gateway import (
    GatewayActor,
    GatewayFailed,
    GatewayStarted,
    SetReplica,
    StartGateway,
)
from client_replies.messages.message import Message

from .failure import MembersFailed
from .members import START_TIMEOUT, Members, is_living, is_stopped

GATEWAY = "gateway"
START_INTERVAL = 1.0  # seconds until a start without an answer is asked for again
TELL_INTERVAL = 5.0
RESTART_PAUSE_MAX = 10.0  # seconds before the next life of a gateway that ends again and again
STEADY = 20.0  # seconds of life after which an end is nothing to be slow about


class GatewayKeeper:
    """See the module."""

    def __init__(self, members: Members, cluster: int, address: tuple[str, int]) -> None:
        self.address = address
        self.pid = 0
        self.restarts = 0
        self._members = members
        self._cluster = cluster
        self._is_up = False
        self._failure = ""
        self._told_at = 0.0
        self._created_at = self._restart_at = self._pause = 0.0

    def start(self) -> None:
        """Wait until clients can come in. Raises `MembersFailed`."""
        self._create()
        self._members.on_turn = self._turn
        self._members.on_started = self._tell_of_replica
        self._members.wait(lambda: self._is_up or bool(self._failure), START_TIMEOUT, "the gateway's start")
        if not self._is_up:
            raise MembersFailed(self._failure)

    def _create(self) -> None:
        self.pid = self._members.create(GATEWAY, GatewayActor)
        self._is_up = False
        self._created_at = time.monotonic()
        self._told_at = self._restart_at = 0.0

    def _turn(self, heard: Message | None) -> None:
        if isinstance(heard, GatewayStarted) and heard.pid == self.pid:
            self._is_up, self.address = True, (heard.host, heard.port)
        elif isinstance(heard, GatewayFailed):
            self._failure = heard.reason  # of a restart: its predecessor may still let go of the port
        now = time.monotonic()
        if not self._restart_at and not is_living(self.pid):
            self._pause = 0.0 if now - self._created_at > STEADY else min(2 * self._pause + 0.1, RESTART_PAUSE_MAX)
            self._is_up, self._restart_at = False, now + self._pause
            self._members.say("the gateway exited; restarting")
        if self._restart_at:
            if now < self._restart_at:
                return
            self.restarts += 1
            self._create()
        if now - self._told_at >= (TELL_INTERVAL if self._is_up else START_INTERVAL) and not is_stopped(self.pid):
            self._told_at = now
            self._tell()

    def _tell(self) -> None:
        if self._is_up:
            for name in self._members.replicas:
                self._tell_of_replica(name)
            return
        message = StartGateway(
            cluster=self._cluster,
            host=self.address[0],
            port=self.address[1],
            replicas=tuple(
                (one.start.config.replica, self._members.addresses[name])
                for name, one in self._members.replicas.items()
            ),
        )
        self._members.tell(GATEWAY, message)

    def _tell_of_replica(self, name: str) -> None:
        """Where the replica is, which may be another process now."""
        replica = self._members.replicas[name].start.config.replica
        message = SetReplica(replica=replica, address=self._members.addresses[name])
        self._members.tell(GATEWAY, message)
