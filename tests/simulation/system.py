"""A simulated actor system: what Thespian gives an actor, under virtual time and one seed, and harsher.

As measured on the real one: messages of a pair that talks both ways overtake each other; what a process had read dies
with it; a child's exit is told twice; a handler that raises runs again, with a copy, and then poisons its sender;
wakeups come late and in reverse; a watch that a handler does not return is gone; 20 transmits that a stopped process
has not taken freeze their sender until it wakes or they time out; children die with their parent, a little later.

Guarantees: the order of events depends on the seed alone. Guarantees not: delivery between processes, as there.

Owns: the processes, the clock, the queue of events. Whoever runs an event runs it to its end, in virtual no time.
"""

from __future__ import annotations

import copy
import heapq
import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from thespian.actors import (
    Actor,
    ActorAddress,
    ActorExitRequest,
    ChildActorExited,
    PoisonMessage,
    ThespianWatch,
    WakeupMessage,
    WatchMessage,
)

from .broken import Broken
from .chance import MICROSECONDS, Chance
from .marks import Marks
from .network import Host, Network
from .trace import Trace

TRANSMITS_MAX = 20
TRANSMIT_TIMEOUT = 5 * MICROSECONDS
DEATH_OF_CHILDREN = (0.0001, 0.02)  # seconds until the kernel has killed what depended on a dead parent

Observer = Callable[["Process", object], None]


class ProcessDied(Exception):
    """An actor's process ended by an exception that no handler may let out: a bug of the actor."""

    def __init__(self, process: Process, error: BaseException) -> None:
        super().__init__(f"{process.name}: {error!r}")
        self.process = process
        self.error = error


class Killed(BaseException):
    """Raised in a handler whose process was killed: nothing that comes after happens."""


@dataclass(slots=True, eq=False)
class Process:
    """One actor in its process. Also what the actor knows as its reference to Thespian (`_myRef`)."""

    system: SimSystem
    number: int
    name: str
    address: ActorAddress
    parent: Process | None
    host: Host
    instance: Any = None
    alive: bool = True
    stopped: bool = False
    children: list[Process] = field(default_factory=list)
    inbox: list[tuple[object, ActorAddress, Process | None]] = field(default_factory=list)
    watched: tuple[int, ...] = ()
    watch_posted: bool = False
    ready: dict[int, Callable[[], bool]] = field(default_factory=dict)
    on_death: list[Callable[[], None]] = field(default_factory=list)
    unsent: int = 0  # transmits that stopped processes have not taken
    backlog: list[tuple[Process, object]] = field(default_factory=list)
    globalName: str = ""

    # What Thespian's Actor calls.

    def createActor(
        self, actor: type[Actor], requirements: object = None, _name: object = None, _source: object = None
    ) -> ActorAddress:
        """Create a child."""
        name = f"{self.host.name}.{short_name(actor)}"
        return self.system.create(actor, requirements, name=name, host=self.host, parent=self).address

    def actor_send(self, target: ActorAddress, message: object) -> None:
        """Send a message."""
        self.system.post(self, target, message)

    def wakeupAfter(self, period: timedelta | float, payload: object = None) -> None:
        """Wake up this actor later."""
        self.system.wake_later(self, period, payload)

    def handleDeadLetters(self, _address: ActorAddress, _on: bool) -> None:
        """Accept; dead letters are counted and dropped, as where nobody handles them."""


def short_name(actor: type[Actor]) -> str:
    """How a process of this class is called in a trace."""
    name = actor.__name__.removesuffix("Actor")
    return {"ClientReplies": "replies", "MessagePool": "pool", "ClusterReplica": "replica"}.get(name, name.lower())


class SimSystem:
    """See the module. `copies` sends every message through pickle, which must change nothing but the speed."""

    def __init__(self, chance: Chance, network: Network, trace: Trace, marks: Marks, *, copies: bool = False) -> None:
        self.now = 0
        self.chance = chance
        self.network = network
        self.trace = trace
        self.marks = marks
        self.copies = copies
        self.current: Process | None = None
        self.observers: list[Observer] = []
        self.sending: list[Observer] = []
        self.handling: object = None
        self.tolerant = False  # True: a handler that raises is called again, as on TCP; else it ends the run
        self.processes: dict[int, Process] = {}
        self.wakeup_late_max = 0.0  # seconds
        self._count = 0
        self._events: list[tuple[int, int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._sequence = 0

    # Events.

    def at(self, delay: int, function: Callable[..., object], *arguments: Any) -> None:
        """Call the function in `delay` microseconds; what is due at the same time comes in an order that is drawn."""
        self._sequence += 1
        heapq.heappush(self._events, (self.now + delay, self.chance.bits(16), self._sequence, function, arguments))

    def run(self, until: int, stop: Callable[[], bool] | None = None) -> bool:
        """Run what is due up to the time `until`. True if `stop` said so before."""
        events = self._events
        while events and events[0][0] <= until:
            time, _order, _sequence, function, arguments = heapq.heappop(events)
            self.now = time
            function(*arguments)
            if stop is not None and stop():
                return True
        self.now = max(self.now, until)
        return False

    # Processes.

    def create(
        self, actor: type[Actor], requirements: object, *, name: str, host: Host, parent: Process | None = None
    ) -> Process:
        """Start a process for an actor. Where the class wants `capabilities`, it learns that nothing is special."""
        self._count += 1
        number = self._count
        address = ActorAddress(number)
        process = Process(self, number, f"{name}.{number}", address, parent, host)
        self.processes[number] = process
        if parent is not None:
            parent.children.append(process)
        self.trace.add(self.now, "create", parent.name if parent is not None else host.name, process.name, "")
        previous, self.current = self.current, process
        try:
            instance: Any = actor(capabilities={}, requirements=requirements)  # type: ignore[call-arg]
            instance._myRef = process
            process.instance = instance
        finally:
            self.current = previous
        return process

    def process_at(self, address: ActorAddress) -> Process | None:
        """The process with this address, dead or alive."""
        return self.processes.get(address.addressDetails)

    def kill(self, process: Process, why: str = "kill -9") -> None:
        """End a process at once; its parent is told, its children follow."""
        if not process.alive:
            return
        self.marks.hit(f"process_killed_{short_name(type(process.instance))}")
        self.trace.add(self.now, "kill", "", process.name, why)
        self._end(process, notices=1 + self.chance.below(2))

    def _end(self, process: Process, *, notices: int) -> None:
        process.alive = False
        inbox, process.inbox = process.inbox, []
        process.backlog.clear()
        process.watched = ()
        for release in process.on_death:
            release()
        process.on_death.clear()
        if process.stopped:
            self._free_senders(process, inbox)  # What it held up is lost, and holds up nobody any more.
        parent = process.parent
        if parent is not None and parent.alive:
            for _ in range(notices):
                notice = ChildActorExited(process.address)
                self.at(self.chance.micros(0.0005, 0.005), self._deliver, parent, notice, process.address, None)
        for child in process.children:
            self.at(self.chance.micros(*DEATH_OF_CHILDREN), self.kill, child, "its parent died")

    def stop(self, process: Process) -> None:
        """Like SIGSTOP: it takes nothing, and holds what it is sent."""
        if process.alive and not process.stopped:
            self.trace.add(self.now, "stop", "", process.name, "")
            self.marks.hit("process_stopped")
            process.stopped = True

    def resume(self, process: Process) -> None:
        """Like SIGCONT: what waited arrives at once."""
        if process.alive and process.stopped:
            self.trace.add(self.now, "continue", "", process.name, "")
            process.stopped = False
            inbox, process.inbox = process.inbox, []
            self._free_senders(process, inbox)
            for message, source, sender in inbox:
                self.at(self.chance.micros(0.0, 0.001), self._deliver, process, message, source, sender)
            self._watch(process)

    def _free_senders(self, process: Process, inbox: list[tuple[object, ActorAddress, Process | None]]) -> None:
        process.stopped = False
        for _message, _source, sender in inbox:
            if sender is not None:
                sender.unsent -= 1
                self._drain_backlog(sender)

    # Messages.

    def post(self, source: Process, target: ActorAddress, message: object) -> None:
        """Send: at once as a rule, later if the sender's transmits are all taken by stopped processes."""
        for observer in self.sending:
            observer(source, message)
        process = self.processes.get(target.addressDetails)
        if process is None:
            return
        if source.unsent >= TRANSMITS_MAX:
            self.marks.hit("sender_stalled")
            source.backlog.append((process, message))
            return
        self._transmit(source, process, message)

    def _transmit(self, source: Process, target: Process, message: object) -> None:
        for delay, content in self.network.deliveries(self.now, source, target, message):
            if self.copies and not isinstance(content, ActorExitRequest):
                content = pickle.loads(pickle.dumps(content))
            self.at(delay, self._deliver, target, content, source.address, source)

    def _drain_backlog(self, source: Process) -> None:
        while source.alive and source.backlog and source.unsent < TRANSMITS_MAX:
            target, message = source.backlog.pop(0)
            self._transmit(source, target, message)

    def wake_later(self, process: Process, period: timedelta | float, payload: object) -> None:
        """A wakeup: never early, sometimes late, so that two of them may come in reverse."""
        seconds = period.total_seconds() if isinstance(period, timedelta) else float(period)
        late = self.chance.micros(0.0, 0.002)
        if self.chance.chance(0.05):
            late += self.chance.micros(0.0, self.wakeup_late_max)
        message = WakeupMessage(period, payload)
        self.at(int(seconds * MICROSECONDS) + late, self._deliver, process, message, process.address, None)

    def _deliver(self, process: Process, message: object, source: ActorAddress, sender: Process | None) -> None:
        if not process.alive:
            self.marks.hit("dead_letter")
            return
        if process.stopped:
            process.inbox.append((message, source, sender))
            if sender is not None:
                sender.unsent += 1
                self.at(TRANSMIT_TIMEOUT, self._give_up, process, message, sender)
            return
        origin = self.processes.get(source.addressDetails)
        self.trace.add(self.now, "message", origin.name if origin is not None else "", process.name, message)
        self._handle(process, message, source)

    def _give_up(self, process: Process, message: object, sender: Process) -> None:
        """The transmit timed out: the message is dropped, and nobody is told."""
        for index, (waiting, _source, of) in enumerate(process.inbox):
            if waiting is message and of is sender:
                del process.inbox[index]
                self.marks.hit("transmit_timed_out")
                sender.unsent -= 1
                self._drain_backlog(sender)
                return

    def _handle(self, process: Process, message: object, source: ActorAddress) -> None:
        previous, self.current, self.handling = self.current, process, message
        try:
            result = self._receive(process, message, source)
        finally:
            self.current = previous
        if not process.alive:
            return  # killed in the middle of it
        if isinstance(message, ActorExitRequest):
            self._exit(process, message)
            return
        if isinstance(result, ThespianWatch):
            process.watched = tuple(result.filenos)
            self._watch(process)
        else:
            process.watched = ()
        for observer in self.observers:
            observer(process, message)

    def _receive(self, process: Process, message: object, source: ActorAddress) -> object:
        for attempt in range(2):
            try:
                return process.instance.receiveMessage(message, source)
            except Broken:
                raise
            except Killed:
                return None
            except Exception as error:
                if not self.tolerant:
                    raise ProcessDied(process, error) from error
                self.marks.hit("handler_raised")
                if isinstance(message, ActorExitRequest):
                    return None
                if attempt:
                    self._poison(process, message, source)
                message = copy.deepcopy(message)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self._end(process, notices=1)
                raise ProcessDied(process, error) from error
        return None

    def _poison(self, process: Process, message: object, source: ActorAddress) -> None:
        sender = self.processes.get(source.addressDetails)
        if sender is not None and not isinstance(message, PoisonMessage):
            self.at(
                self.chance.micros(0.0001, 0.001),
                self._deliver,
                sender,
                PoisonMessage(message, traceback.format_exc()),
                process.address,
                None,
            )

    def _exit(self, process: Process, message: ActorExitRequest) -> None:
        self.trace.add(self.now, "exit", "", process.name, "")
        if message.isRecursive:
            for child in process.children:
                self.at(
                    self.chance.micros(0.0001, 0.001), self._deliver, child, ActorExitRequest(), process.address, None
                )
        self._end(process, notices=2)

    # Watched descriptors.

    def notify(self, process: Process, message: object) -> None:
        """Something outside of the actors tells a process, at once."""
        self.at(0, self._deliver, process, message, process.address, None)

    def descriptor_ready(self, process: Process) -> None:
        """Something that the process may watch has become readable."""
        self._watch(process)

    def _watch(self, process: Process) -> None:
        """Level triggered: while a watched descriptor is readable, the actor is told."""
        if process.watch_posted or process.stopped or not process.alive:
            return
        for fileno in process.watched:
            if fileno in process.ready and process.ready[fileno]():
                process.watch_posted = True
                self.at(self.chance.micros(0.0001, 0.0003), self._deliver_watch, process)
                return

    def _deliver_watch(self, process: Process) -> None:
        process.watch_posted = False
        if not process.alive or process.stopped:
            return
        readable = [fileno for fileno in process.watched if fileno in process.ready and process.ready[fileno]()]
        if readable:
            self.trace.add(self.now, "watch", "", process.name, "")
            self._handle(process, WatchMessage(readable), process.address)
