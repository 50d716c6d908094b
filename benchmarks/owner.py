"""The owner of a component, as the measurements need one: an actor that drives a ClientRepliesActor through a port.

A measurement is an actor like this one, so that it lives where a replica would: in a process of its own under
`multiprocUnixBase`. It is started with `StartRun`, and whoever sent that is answered with `RunDone`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from thespian.actors import Actor, ActorAddress, WakeupMessage

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.actors.owner.port_events import PortEvent, PortFailed, WritesAreDurable
from client_replies.actors.owner.replies_port import WRITE_INTERVAL, RepliesPort
from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.message import Message
from client_replies.messages.replies import GetStatus, RepliesClosed, RepliesOpened, RepliesStatus
from client_replies.storage.shared_memory import PoolMemory

from .workload import CLUSTER, SESSIONS, slot_size

TICK = 0.1
OWNER = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRun(Message):
    """Measure. `params` are the measurement's own."""

    params: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDone(Message):
    """Measured: plain data for JSON, or what went wrong."""

    result: dict[str, Any] = field(default_factory=dict)
    failed: str = ""


def replies_config(path: str, size: int, **changes: Any) -> RepliesConfig:
    """The configuration of the measurements: as it comes, with slots of the reply's size and buffers for the window."""
    values: dict[str, Any] = {
        "path": path,
        "cluster": CLUSTER,
        "replica": 0,
        "clients_max": SESSIONS,
        "message_size_max": slot_size(size),
        "buffers_max": 160,
        "inline_size_max": min(16384, slot_size(size)),
    }
    return RepliesConfig(**{**values, **changes})


@dataclass(frozen=True, slots=True)
class _Flight:
    op: int
    count: int
    committed_at: float


class Owner(Actor):
    """An owner of a component. What it does is in the methods that measurements override."""

    def __init__(
        self, capabilities: Mapping[str, object] | None = None, requirements: Mapping[str, object] | None = None
    ) -> None:
        super().__init__()
        self.params: dict[str, Any] = {}
        self.asker: ActorAddress | None = None
        self.replies: ActorAddress | None = None
        self.config: RepliesConfig | None = None
        self._port: RepliesPort | None = None
        self.not_durable = 0
        self._uncommitted = 0
        self._flights: deque[_Flight] = deque()
        self._result: dict[str, Any] = {}

    @property
    def port(self) -> RepliesPort:
        """The port, which is there from the start of the run on."""
        if self._port is None:
            raise RuntimeError("the run was not started")
        return self._port

    def configure(self) -> RepliesConfig:
        """The configuration of the component."""
        return replies_config(self.params["path"], self.params["size"])

    def opened(self, event: RepliesOpened) -> None:
        """The component is open: begin."""

    def durable(self, count: int, committed_at: float) -> None:
        """So many replies, committed together at `committed_at`, are durable."""

    def event(self, event: PortEvent) -> None:
        """Something else happened."""

    def received(self) -> None:
        """The port took a message: it may be ready again."""

    def other(self, message: object, sender: ActorAddress) -> None:
        """A message that is not the port's."""

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Take everything to where it belongs."""
        if isinstance(message, StartRun):
            self._start(message, sender)
        elif self._port is None and isinstance(message, RepliesStatus):
            self._open()
        elif self._port is not None and self._port.receive(message):
            for event in self.port.take_events():
                self._event(event)
            self.received()
        elif isinstance(message, WakeupMessage):
            self.port.tick()
            self.wakeupAfter(TICK)
        else:
            self.other(message, sender)

    def _start(self, message: StartRun, sender: ActorAddress) -> None:
        # What this process needs to get ready is not to be counted as the memory of its child, which is made before;
        # and a child whose parent is busy for seconds gives up saying that it is there, so that is waited for.
        self.params, self.asker = message.params, sender
        self.replies = self.createActor(ClientRepliesActor)
        self.send(self.replies, GetStatus(request=0))

    def _open(self) -> None:
        self.config = self.configure()
        self._port = RepliesPort(
            owner=OWNER,
            send=self._send_component,
            send_pool=lambda pool, request: self.send(pool, request),
            now=time.monotonic,
            open_memory=PoolMemory.open,
            write_interval=self.params.get("write_interval", WRITE_INTERVAL),
        )
        self.port.open(self.config, OpenMode.OPEN_OR_FORMAT)
        self.wakeupAfter(TICK)

    def _send_component(self, message: object) -> None:
        if self.replies is not None:
            self.send(self.replies, message)

    def _durable_up_to(self, op: int) -> None:
        while self._flights and self._flights[0].op <= op:
            flight = self._flights.popleft()
            self.not_durable -= flight.count
            self.durable(flight.count, flight.committed_at)

    def _event(self, event: PortEvent) -> None:
        if isinstance(event, RepliesOpened):
            self.opened(event)
        elif isinstance(event, PortFailed):
            self.fail(str(event.fault))
        elif isinstance(event, WritesAreDurable):
            self._durable_up_to(event.op)
        elif isinstance(event, RepliesClosed):
            self.answer(RunDone(result=self._result))
        else:
            self.event(event)

    def write(self, slot: int, reply: bytes) -> None:
        """Give the port a reply; it goes out with the next `committed`."""
        self.not_durable += 1
        self._uncommitted += 1
        self.port.write(slot, reply)

    def committed(self, op: int) -> None:
        """Let what was written go out, and be told when it is durable."""
        self._flights.append(_Flight(op, self._uncommitted, time.perf_counter()))
        self._uncommitted = 0
        self.port.committed(op, tell_durable=True)

    def finish(self, result: dict[str, Any]) -> None:
        """The run is over: close the component, then say what was measured."""
        self._result = result
        self.port.close()

    def done(self, result: dict[str, Any]) -> None:
        """The run is over, and there is nothing to close."""
        self.answer(RunDone(result=result))

    def fail(self, reason: str) -> None:
        """The run cannot go on."""
        self.answer(RunDone(failed=reason))

    def answer(self, message: RunDone) -> None:
        """Tell the asker, once."""
        asker, self.asker = self.asker, None
        if asker is not None:
            self.send(asker, message)
