"""What the component's three actors have in common.

Guarantees: an actor has a handler for each message that it is sent, by `PROTOCOL` and its own `senders`, and for no
other: else it does not start. A message reaches the handler of its class, validated, and only from a sender who may
send it; what is unknown, malformed or a stranger's is counted, logged by name at a bounded rate, and otherwise
harmless. A handler runs once: an exception that it lets out is a bug, becomes
`InvariantBroken` and ends the process, because Thespian would call it again with half its work done. Whatever the
actor watches is watched after every handler, since a handler that does not return the watch loses it permanently.

Limits: no order, no delivery. Handlers are written for messages that come late, twice, reversed or never.

Owns: the actor's environment, executor and timer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, ClassVar

from thespian.actors import (
    Actor,
    ActorAddress,
    ActorExitRequest,
    ActorSystemMessage,
    ChildActorExited,
    PoisonMessage,
    ThespianWatch,
    WakeupMessage,
    WatchMessage,
)

from client_replies.messages.faults import InvariantBroken, invariant
from client_replies.messages.message import Message, MessageInvalid
from client_replies.messages.protocol import Party, senders_to

from .environment import Environment, Executor, RealEnvironment, Timer
from .logs import LimitedLog, prepare_logging
from .system import adopt_process, get_logger

REASON_SIZE_MAX = 200  # characters of what an exception says about a malformed message

Handler = Callable[[Any, ActorAddress], None]


class ComponentActor(Actor):
    """Base of the component's actors: dispatch, validation, senders, ticks, work beside the mailbox, counters."""

    parties: ClassVar[tuple[Party, ...]] = ()  # what it is in `PROTOCOL`
    senders: ClassVar[Mapping[type, Enum]] = {}  # of the messages that are not in `PROTOCOL`: who may send each

    def __init__(self, capabilities: Mapping[str, object] | None = None, requirements: object = None) -> None:
        capabilities = capabilities or {}
        # Whatever else was required is a question to the system's capabilities, and was answered before we began.
        given = requirements if isinstance(requirements, Environment) else None
        if given is None:
            adopt_process(capabilities)
        self.environment = given if given is not None else RealEnvironment(capabilities)
        self.counters: Counter[str] = Counter()
        self.exiting = False
        prepare_logging()
        self.log = get_logger(type(self).__name__)
        self.limited_log = LimitedLog(self.log, self.environment.monotonic)
        self._given_environment = given
        self._executor: Executor | None = None
        self._timer: Timer | None = None
        self._tick_period = math.inf
        self._ticked = 0.0  # when `tick` was called last
        self._wakes_at = math.inf  # when the timer, or a wakeup, comes
        self._is_woken = False  # it has come just now
        self._senders: dict[type, Enum] = {**senders_to(*self.parties), **self.senders}
        self._handlers = self.handlers()
        astray = sorted(message.__name__ for message in self._handlers.keys() ^ self._senders.keys())
        invariant(not astray, f"{type(self).__name__} is not sent what it handles, or does not handle it: {astray}")

    def handlers(self) -> dict[type, Handler]:
        """Which method handles which class of message."""
        raise NotImplementedError

    def stop(self) -> None:
        """The actor is about to exit: release what it owns."""

    def tick(self) -> None:
        """Do what time alone brings about: called when it is `due`, after `start_ticks`."""

    def due(self) -> float:
        """When `tick` is to be called, by the environment's clock. Looked at after every message.

        By default a period after the last call; infinity where nothing waits for time to pass.
        """
        return self._ticked + self._tick_period

    def child_exited(self, child: ActorAddress) -> None:
        """A child is gone. It is sometimes told twice."""

    def is_from(self, party: Enum, message: Any, sender: ActorAddress) -> bool:
        """Whether `sender` is this party, as far as this actor knows. Changes nothing.

        While nobody is known to be the party, a handler that refuses with a better reason may be given the message.
        """
        raise NotImplementedError

    def refuse_stranger(self, message: Any, sender: ActorAddress) -> None:
        """Tell who may not send this message, if it waits for an answer. By default it learns nothing."""

    def undelivered(self, message: object) -> None:
        """`message`, sent from here, made its receiver fail. By default that is a lost message."""

    def receiveMessage(self, message: object, sender: ActorAddress) -> ThespianWatch | None:
        """Thespian's entry: dispatch, then everything that has become due."""
        try:
            self._work(message, sender)
        except Exception as error:
            self.log.critical("bug", actor=type(self).__name__, message=type(message).__name__, exc_info=True)
            raise InvariantBroken(f"{type(self).__name__} failed on {type(message).__name__}: {error!r}") from error
        except InvariantBroken as error:
            self.log.critical("invariant_broken", actor=type(self).__name__, reason=str(error), exc_info=True)
            raise
        filenos = self._filenos()
        return ThespianWatch(filenos) if filenos else None

    def _work(self, message: object, sender: ActorAddress) -> None:
        self._dispatch(message, sender)
        if self._executor is not None:
            self._executor.collect()
        self._look_at_clock()

    def _dispatch(self, message: object, sender: ActorAddress) -> None:
        handler = self._handlers.get(type(message))
        if handler is not None:
            if self._valid(message) and self._may_send(message, sender):
                handler(message, sender)
        elif isinstance(message, WakeupMessage):
            self._woken(message)
        elif isinstance(message, WatchMessage):
            # What else became ready is collected after every message.
            self._is_woken |= self._timer is not None and self._timer.drain()
        elif isinstance(message, ActorExitRequest):
            self._exit()
        elif isinstance(message, ChildActorExited):
            if not self.exiting:
                self.child_exited(message.childAddress)
        elif isinstance(message, PoisonMessage):
            self.count("messages_poisoned", message=type(message.poisonMessage).__name__)
            self.undelivered(message.poisonMessage)
        elif not isinstance(message, ActorSystemMessage):
            self.count("messages_unknown", message=type(message).__name__)

    def _may_send(self, message: object, sender: ActorAddress) -> bool:
        party = self._senders[type(message)]
        if party is Party.ANYONE or self.is_from(party, message, sender):
            return True
        self.count("message_of_stranger", message=type(message).__name__, sender=str(sender))
        self.refuse_stranger(message, sender)
        return False

    def _valid(self, message: object) -> bool:
        # Unpickling does not run the constructor: a message from another process is checked again.
        try:
            if isinstance(message, Message):
                message.validate()
        except MessageInvalid as error:
            self.count("messages_malformed", message=type(message).__name__, reason=str(error)[:REASON_SIZE_MAX])
            return False
        except (AttributeError, TypeError, ValueError) as error:
            self.count("messages_malformed", message=type(message).__name__, reason=repr(error)[:REASON_SIZE_MAX])
            return False
        return True

    def count(self, event: str, **details: object) -> None:
        """Count an event that should be rare, and log it by name, at a bounded rate: others may cause it at will."""
        self.counters[event] += 1
        self.limited_log.event(event, details)

    def create_child(self, actor: type[Actor]) -> ActorAddress:
        """Create an actor of the component in the same environment."""
        return self.createActor(actor, targetActorRequirements=self._given_environment)

    def executor(self) -> Executor:
        """This actor's executor, made when first asked for."""
        if self._executor is None:
            self._executor = self.environment.executor()
        return self._executor

    def start_ticks(self, period: float) -> None:
        """Call `tick` from now on when it is `due`, at most once a `period`."""
        self._tick_period = period
        self._ticked = self.environment.monotonic()
        if self._timer is None:
            self._timer = self.environment.timer()

    def _woken(self, message: WakeupMessage) -> None:
        # Another one was asked for before something more urgent came up. It cannot be taken back, and does nothing.
        self._is_woken |= message.payload == self._wakes_at

    def _look_at_clock(self) -> None:
        """Tick if the actor was woken for it and it is due; have it woken when it is due next."""
        if self._is_woken:
            self._is_woken, self._wakes_at = False, math.inf
            now = self.environment.monotonic()
            if now >= max(self._ticked + self._tick_period, self.due()):
                self._ticked = now
                self.tick()
        earliest = self._ticked + self._tick_period
        if self._wakes_at <= earliest:
            return
        due = max(earliest, self.due())
        if due < self._wakes_at:
            self._wakes_at = due
            seconds = max(0.0, due - self.environment.monotonic())
            if self._timer is not None:
                self._timer.set(seconds)
            else:
                self.wakeupAfter(seconds, due)

    def _filenos(self) -> list[int]:
        filenos = self._executor.filenos() if self._executor is not None else []
        return [*filenos, self._timer.fileno()] if self._timer is not None else filenos

    def close_executor(self) -> None:
        """End the work beside the mailbox: what runs is waited for, the rest is dropped."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    def _exit(self) -> None:
        self.exiting = True
        self.stop()
        self.close_executor()
        self._tick_period = math.inf
        if self._timer is not None:
            self._timer.close()
            self._timer = None
