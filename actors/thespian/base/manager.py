"""The short way of a message through the manager of an actor.

Guarantees: what Thespian's manager does with a message of an actor's own, both ways, without what only its internal log
needs: it forms the text of a message six times per hop though that log is off, makes an intent with two timers and
three callbacks for what the kernel takes at once, and counts against a limit of 4,480 messages per second, beyond
which each `send` sleeps 0.1 s. Everything unusual takes Thespian's own way: its system messages, a first message to
somebody, a full queue, an exception, an exit.

Owns: nothing.
"""

from __future__ import annotations

import logging
import signal
from typing import Any

from thespian.actors import ActorAddress, ActorSystemMessage, ThespianWatch
from thespian.system.multiprocCommon import MultiProcAdmin, MultiProcManager
from thespian.system.transport import ReceiveEnvelope

# Thespian catches every signal: a native crash would spin for ever. Ctrl-C is the script's affair.
FATAL_SIGNALS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)

_INTERNAL = (ActorSystemMessage, logging.LogRecord)
# What Thespian counts.
_SENT = ("Actor.Message Send.Generated", "Actor.Message Send.Transmit Started")
_RECEIVED = ("Actor.Message Received.Total", "Actor.Message Received.To Actor")


class _NoLimit:
    """Takes the place of Thespian's limit of the rate."""

    def eventRatePause(self, _now: object) -> None:
        """Go on."""


def settle_signals() -> None:
    """Let what must kill kill, and ignore Ctrl-C."""
    for number in FATAL_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class OwnedAdmin(MultiProcAdmin):
    """The admin of a system that ends with its starter."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._governer = _NoLimit()

    def _childExited(self, _address: ActorAddress) -> None:
        """Forget nobody: Thespian would drop every child that is dead by now, also those it has not told of yet."""


class OwnedManager(MultiProcManager):
    """The manager of an actor whose process ends with its parent."""

    def _childExited(self, _address: ActorAddress) -> None:
        """See `OwnedAdmin`."""

    def run(self) -> None:
        """Run the actor; Thespian has installed its signal handlers just before."""
        settle_signals()
        super().run()


class ShortManager(OwnedManager):
    """The same, with the short way."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._governer = _NoLimit()
        self._own_classes: set[type] = set()  # of messages that are none of Thespian's
        self._short_sent = self._short_received = 0

    def run(self) -> None:
        """See `OwnedManager`: and leave no message behind in silence."""
        super().run()
        self.transport.leave()

    def actor_send(self, target: ActorAddress, message: object) -> None:
        """Send a message of the actor."""
        if self.transport.send_now(target, message, self.actor_send_fail):
            self._short_sent += 1
        else:
            super().actor_send(target, message)

    def handleMessages(self, envelope: ReceiveEnvelope) -> Any:
        """Give a message to the actor."""
        message, sender = envelope._message, envelope._sender
        if message.__class__ not in self._own_classes:
            if isinstance(message, _INTERNAL):
                return super().handleMessages(envelope)
            self._own_classes.add(message.__class__)
        if self._receiveQueue or "_exiting" in self.__dict__:
            return super().handleMessages(envelope)
        self._short_received += 1
        if "eqOverride" not in sender.__dict__:
            self._addrManager.importAddr(sender)
        try:
            result = self.actorInst.receiveMessage(message, sender)
        except Exception as error:
            return self._failed(envelope, error)
        if result is not None or self.transport.watches:
            self.transport.set_watch(result.filenos if isinstance(result, ThespianWatch) else [])
        return self._handle_waiting(True) if self._receiveQueue else True

    def _handle_waiting(self, going_on: Any) -> Any:
        while going_on and self._receiveQueue:
            going_on = self._handleOneMessage(self._receiveQueue.pop(0))
        return going_on

    def _updateStatusResponse(self, response: Any) -> None:
        for count, names in ((self._short_sent, _SENT), (self._short_received, _RECEIVED)):
            for name in names:
                self._sCBStats._kv[name] = self._sCBStats._kv.get(name, 0) + count
        self._short_sent = self._short_received = 0
        super()._updateStatusResponse(response)

    def _failed(self, envelope: ReceiveEnvelope, error: Exception) -> Any:
        """Let Thespian's own code see the exception, and do what it does: log it, and try once more."""
        actor = self.actorInst

        class Failed:
            def receiveMessage(_self, _message: object, _sender: ActorAddress) -> None:
                self.actorInst = actor
                raise error

        self.actorInst = Failed()
        return self._handle_waiting(self._handleOneMessage(envelope))
