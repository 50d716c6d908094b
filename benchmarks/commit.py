"""What the component costs the commit path: requests per second of a replica with it and without it.

Four gateways stand for 64 sessions, each of which sends its next request when it has the answer to the last; what came
together is answered together. The replica asks its session table, executes (it counts), seals the reply, commits it to
the table and answers. With the component it also gives each reply to its port, and executes nothing while the port is
not ready. The answer waits for nothing. Both run the same code but for that.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from thespian.actors import Actor, ActorAddress

from client_replies.messages.config import RepliesConfig
from client_replies.messages.message import Message
from client_replies.messages.replies import RepliesOpened
from client_replies.messages.reply_header import HEADER_SIZE
from client_replies.storage.client_sessions import ClientSessions, NewRequest

from .contest import Contestant, Group, Scale, group_of
from .durable import measure_actor
from .files import registered
from .meter import Meter
from .owner import Owner, StartRun, replies_config
from .targets import COMMIT_4_KIB, COMMIT_512
from .workload import seal

SESSIONS = 64
GATEWAYS = 4
CHECKSUM = bytes(16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin(Message):
    """Send the first requests of these sessions to the replica, which is whoever sent this."""

    clients: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests(Message):
    """One request of each of these sessions."""

    clients: tuple[int, ...]
    requests: tuple[int, ...]
    sent_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers(Message):
    """The replies to requests that came together."""

    replies: tuple[bytes, ...] = field(repr=False)


class Gateway(Actor):
    """Stands for some sessions."""

    def __init__(
        self, capabilities: Mapping[str, object] | None = None, requirements: Mapping[str, object] | None = None
    ) -> None:
        super().__init__()
        self._clients: tuple[int, ...] = ()
        self._request = 0

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Send the next requests."""
        if isinstance(message, Begin):
            self._clients = message.clients
        elif not isinstance(message, Answers):
            return
        self._request += 1
        requests = (self._request,) * len(self._clients)
        self.send(sender, Requests(clients=self._clients, requests=requests, sent_at=time.perf_counter()))


class Replica(Owner):
    """A replica that is its own quorum, with a component or without."""

    def __init__(
        self, capabilities: Mapping[str, object] | None = None, requirements: Mapping[str, object] | None = None
    ) -> None:
        super().__init__()
        self._begun = False

    def configure(self) -> RepliesConfig:
        return replies_config(self.params["path"], self.params["size"], clients_max=SESSIONS)

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Without a component there is nothing to open."""
        if isinstance(message, StartRun) and not message.params["component"]:
            self.params, self.asker = message.params, sender
            self._begin()
        else:
            super().receiveMessage(message, sender)

    def opened(self, event: RepliesOpened) -> None:
        self._begin()

    def _begin(self) -> None:
        self._begun = True
        self._sessions: ClientSessions = registered(SESSIONS)
        self._op = SESSIONS
        self._waiting: deque[tuple[Requests, ActorAddress]] = deque()
        self._body = bytearray(self.params["size"] - HEADER_SIZE)
        self._meter = Meter(self.params["seconds"], 10 * SESSIONS)
        share = SESSIONS // GATEWAYS
        for first in range(1, SESSIONS + 1, share):
            self.send(self.createActor(Gateway), Begin(clients=tuple(range(first, first + share))))

    def other(self, message: object, sender: ActorAddress) -> None:
        if isinstance(message, Requests) and not self._meter.finished:
            self._waiting.append((message, sender))
            self._execute_waiting()

    def received(self) -> None:
        if self._begun:
            self._execute_waiting()

    def _execute_waiting(self) -> None:
        while self._waiting and not self._meter.finished and (not self.params["component"] or self.port.ready):
            message, gateway = self._waiting.popleft()
            self._execute(message, gateway)

    def _execute(self, message: Requests, gateway: ActorAddress) -> None:
        replies = []
        for client, request in zip(message.clients, message.requests, strict=True):
            status = self._sessions.check(client, client, request, CHECKSUM)
            if not isinstance(status, NewRequest):
                self.fail(f"request {request} of client {client} is {status}")
                return
            self._op += 1
            self._body[:8] = self._op.to_bytes(8, "little")
            reply = seal(client - 1, self._op, request, self._body)
            slot = self._sessions.commit(reply[:HEADER_SIZE])
            if self.params["component"]:
                self.port.write(slot, reply)
            replies.append(reply)
        self.send(gateway, Answers(replies=tuple(replies)))
        if self.params["component"]:
            self.port.committed(self._op)
        if self._meter.done(len(replies), message.sent_at):
            self._over()

    def _over(self) -> None:
        result = self._meter.result(self.params["size"])
        if self.params["component"]:
            self.finish(result)
        else:
            self.done(result)


def measure(contestant: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Run one contestant of the row."""
    return measure_actor(Replica, {**params, "component": contestant == "with"})


def groups(scale: Scale) -> list[Group]:
    """The contests of the row."""
    contestants = [
        Contestant("without", "a replica without the component", on_base=True),
        Contestant("with", "the same with it", on_base=True),
    ]
    figures = (("p50", "s"), ("p99", "s"))
    return [
        group_of(place, "requests/s", contestants, {"size": size}, figures)
        for place, size in ((COMMIT_512, 512), (COMMIT_4_KIB, 4096))
    ]
