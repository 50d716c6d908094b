"""Actors that the tests of the base talk to."""

import os
import resource
import threading
import time
from datetime import timedelta
from typing import Any

from thespian.actors import (
    Actor,
    ActorAddress,
    ActorExitRequest,
    ActorTypeDispatcher,
    ChildActorExited,
    DeadEnvelope,
    PoisonMessage,
    ThespianWatch,
    ValidatedSource,
    ValidateSource,
    WakeupMessage,
    WatchMessage,
    requireCapability,
)


class Payload:
    """Bytes whose text is cheap."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __str__(self) -> str:
        return "Payload"


class Echo(Actor):
    """Gives back what it gets, its pid, or what it was told to say to somebody else; or does something to itself."""

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
        """Do what the message says."""
        match msg:
            case "pid":
                self.send(sender, os.getpid())
            case "raise":
                raise ValueError("as asked")
            case ("say", whom, what):
                self.send(whom, what)
            case ("sleep", seconds):
                time.sleep(seconds)
            case str() | int() | Payload() | tuple() | list():
                self.send(sender, msg)


class Deep(Actor):
    """Tells how many page faults a thousand calls cost where they cost most, at the depths below this one."""

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
        """Measure."""
        if isinstance(msg, int):
            self.send(sender, max(_page_faults_at(depth) for depth in range(msg)))


def _page_faults_at(depth: int) -> int:
    if depth:
        return _page_faults_at(depth - 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(1000):
        _called()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _called(*, a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0, f: int = 0, g: int = 0, h: int = 0) -> None:
    """Do nothing, in a frame that is larger than that of who goes down: no end of a chunk is stepped over."""


@requireCapability("elsewhere")
class Elsewhere(Echo):
    """Runs only on the member that says it is elsewhere."""


class Parent(Actor):
    """Makes children, and tells whoever asks what became of them and of what was sent to them."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list[ActorAddress] = []
        self.told: list[Any] = []

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
        """Do what the message says."""
        match msg:
            case "child":
                self.children.append(self.createActor(Echo))
                self.send(self.children[-1], ("say", sender, "child is up"))
            case "child's address":
                self.send(sender, self.children[-1])
            case ("send child", what):
                self.send(self.children[-1], what)
            case "send child what cannot be pickled":
                self.send(self.children[-1], lambda: None)
            case "send child an exit":
                self.send(self.children[-1], ActorExitRequest())
            case "told":
                self.send(sender, self.told)
            case ChildActorExited():
                self.told.append(("exited", msg.childAddress == self.children[-1]))
            case PoisonMessage():
                self.told.append(("poison", str(msg.details).strip().splitlines()[-1]))
            case str() | int():
                self.told.append(msg)


class Sleeper(Actor):
    """Sets wakeups, and tells in which order and how late they came."""

    def __init__(self) -> None:
        super().__init__()
        self.asker: ActorAddress | None = None
        self.woken: list[tuple[Any, float]] = []
        self.wanted = 0

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
        """Set wakeups after so many seconds each, or note one."""
        match msg:
            case ("wake", delays):
                self.asker, self.woken, self.wanted = sender, [], len(delays)
                self.begun = time.monotonic()
                for delay in delays:
                    self.wakeupAfter(timedelta(seconds=delay), delay)
            case "chain":
                self.wakeupAfter(timedelta(0), "chain")
            case "ping":
                self.send(sender, "pong")
            case WakeupMessage(payload="chain"):
                self.wakeupAfter(timedelta(0), "chain")
            case WakeupMessage():
                self.woken.append((msg.payload, time.monotonic() - self.begun))
                if len(self.woken) == self.wanted and self.asker is not None:
                    self.send(self.asker, self.woken)


class Watcher(Actor):
    """Watches an eventfd that a thread writes to; sends from threads."""

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> ThespianWatch | None:
        """Watch, or send from threads."""
        match msg:
            case "watch":
                self.asker = sender
                self.event = os.eventfd(0)
                threading.Timer(0.01, lambda: os.eventfd_write(self.event, 7)).start()
                return ThespianWatch([self.event])
            case WatchMessage():
                self.send(self.asker, (msg.ready == [self.event], os.eventfd_read(self.event)))
                os.close(self.event)
            case ("threads", count):
                for name in range(4):
                    threading.Thread(target=self._send_many, args=(sender, name, count)).start()
        return None

    def _send_many(self, whom: ActorAddress, name: int, count: int) -> None:
        for number in range(count):
            self.send(whom, (name, number))


class Letters(Actor):
    """Gets dead letters."""

    def __init__(self) -> None:
        super().__init__()
        self.letters: list[Any] = []

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
        """Begin, note one, or tell them."""
        match msg:
            case "handle":
                self.handleDeadLetters()
                self.send(sender, "handling")
            case "letters":
                self.send(sender, self.letters)
            case DeadEnvelope():
                self.letters.append(msg.deadMessage)


class Flooder(Actor):
    """Sends another many messages in one handler, small or large, and checks the order of what it gets itself."""

    def __init__(self) -> None:
        super().__init__()
        self.received = 0
        self.out_of_order = 0

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
        """Flood, or count."""
        match msg:
            case ("flood", whom, count, back):
                if back:
                    self.send(whom, ("flood", self.myAddress, count, False))
                for number in range(count):
                    self.send(whom, number)
            case ("flood from", whom, first, end):
                for number in range(first, end):
                    self.send(whom, number)
            case ("flood large", whom, count, size):
                for number in range(count):
                    self.send(whom, Payload(bytes([number]) * size))
            case int() | Payload():
                number = msg if isinstance(msg, int) else msg.data[0]
                self.out_of_order += number != self.received
                self.received += 1
            case ("sleep", seconds):
                time.sleep(seconds)
            case "counted":
                self.send(sender, (self.received, self.out_of_order))


class Authority(Actor):
    """Lets every source be loaded."""

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
        """Register, or let one."""
        match msg:
            case "register":
                self.registerSourceAuthority()
                self.send(sender, "registered")
            case ValidateSource():
                self.send(sender, ValidatedSource(msg.sourceHash, msg.sourceData))


class Initialised(ActorTypeDispatcher):
    """Tells what it was made with."""

    def __init__(self, capabilities: dict[str, Any], requirements: Any = None) -> None:
        super().__init__()
        self.made_with = capabilities.get("Thespian ActorSystem Name"), requirements
        self.capability = requirements if isinstance(requirements, str) and requirements in capabilities else None

    @staticmethod
    def actorSystemCapabilityCheck(capabilities: dict[str, Any], requirements: Any) -> bool:
        """Only where there is the capability that is required by its name."""
        return not isinstance(requirements, str) or requirements in capabilities

    def receiveMsg_str(self, message: str, sender: ActorAddress) -> None:
        """Tell."""
        self.send(sender, self.capability if message == "capability" else self.made_with)
