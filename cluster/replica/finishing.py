"""A replica's orderly end: everything up to an op is executed, then every slot is durable, then the replies are closed.

Guarantees: each stage is entered once, and the next one only when the one before is done. Owns: the stage.
"""

from __future__ import annotations

import enum

from client_replies.actors.owner.port_events import PortEvent, SlotsAreDurable
from client_replies.actors.owner.replies_port import RepliesPort
from client_replies.cluster.control import Finish, FinishState
from client_replies.cluster.vsr.core import Core
from client_replies.messages.replies import RepliesClosed

from .observer import Observer


class Stage(enum.Enum):
    """How far the end is."""

    EXECUTING = "executing"
    SETTLING = "waiting for slots to be durable"
    DURABLE = "durable"
    CLOSING = "closing"
    CLOSED = "closed"


class Finishing:
    """See the module."""

    def __init__(self, core: Core, port: RepliesPort, observer: Observer) -> None:
        self.stage = Stage.EXECUTING
        self._core = core
        self._port = port
        self._observer = observer
        self._asked: Finish | None = None
        self._wait = 0  # the port's number

    def ask(self, message: Finish) -> None:
        """Finish as asked: a closing replaces what does not close, and nothing replaces a closing."""
        if self._asked is None or (message.close and not self._asked.close):
            self._asked = message

    def state(self, message: Finish, name: str) -> FinishState:
        """How far the replica is with what was asked."""
        done = self.stage is Stage.CLOSED or (not message.close and self.stage is Stage.DURABLE)
        waiting = f"stage {self.stage.value}, op {self._core.executed} of {message.op}"
        return FinishState(request=message.request, name=name, done=done, waiting_for=waiting)

    def advance(self) -> None:
        """Enter the next stage if nothing is to be waited for."""
        if self._asked is None or self._core.executed < self._asked.op:
            return
        if self.stage is Stage.EXECUTING:
            self.stage = Stage.SETTLING
            self._port.committed(self._core.executed)
            self._wait = self._port.await_durable(tuple(self._core.execution.sessions.expectations()))
        elif self.stage is Stage.DURABLE and self._asked.close:
            self.stage = Stage.CLOSING
            self._port.committed(self._core.executed)
            self._port.close()

    def takes(self, event: PortEvent) -> bool:
        """Whether the event is about the end; then the stage is over."""
        if isinstance(event, SlotsAreDurable) and event.wait == self._wait:
            self.stage = Stage.DURABLE
        elif isinstance(event, RepliesClosed):
            self.stage = Stage.CLOSED
            self._observer.close(self._core)
        else:
            return False
        return True
