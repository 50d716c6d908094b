"""An address of its own for a part of a script: it sends without waiting and receives what is sent to it.

Guarantees: any thread may send; one at a time receives. What another part of the script asks for or listens to does not
come here. Limits: our own system base (`start_system`), because Thespian's waits in `tell` for the thread that listens.

Owns: its endpoint, until `close`.
"""

from __future__ import annotations

from collections.abc import Callable

from thespian.actors import ActorAddress
from thespian.system.transport import TransmitIntent

from .base import UNIX_BASE
from .system import BaseNotSupported, OwnedSystem


class Mailbox:
    """See the module. `undelivered` is called, by the receiving thread, with a message that met no living actor."""

    def __init__(self, system: OwnedSystem, undelivered: Callable[[object], None]) -> None:
        base = system._systemBase
        if not hasattr(base, "transport") or getattr(base, "system_name", "") != UNIX_BASE:
            raise BaseNotSupported(f"a mailbox needs a system on {UNIX_BASE}")
        self._undelivered = undelivered
        self._endpoint = base.external_clone()

    def send(self, target: ActorAddress, message: object) -> None:
        """Send, without waiting for the receiver."""
        intent = TransmitIntent(target, message, onError=lambda *_: self._undelivered(message))
        self._endpoint.transport.scheduleTransmit(None, intent)

    def receive(self, timeout_s: float) -> object | None:
        """The next message, or None if none came in time."""
        message: object | None = self._endpoint.listen(timeout_s)
        return message

    def close(self) -> None:
        """Give up the address. Nobody may be receiving."""
        self._endpoint.exit_context()
