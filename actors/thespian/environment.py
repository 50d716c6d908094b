"""What an actor takes from outside: time, chance, the disk, shared memory, and work beside its mailbox.

Guarantees: an actor that takes all this from its `Environment` alone behaves the same under a simulated one, which
decides everything from one seed. A function given to an `Executor` runs in the lane that was named, in order within
the lane; what it returned is handed over inside a handler of the actor, never from another thread.

Limits: nothing here reacts to a failing function. It ends up in its `Completed`, and who submitted it decides.

Owns: `RealEnvironment` owns nothing; an executor owns its threads and its eventfd, a timer its timerfd.
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from client_replies.messages.leases import MemoryName
from client_replies.storage.device import Disk, FileDisk
from client_replies.storage.shared_memory import PoolMemory

Done = Callable[["Completed"], None]

WATCHING_SYSTEMS = frozenset({"multiprocUnixBase", "multiprocTCPBase"})
SWITCH_INTERVAL = 0.0005  # seconds that one thread of an actor's process may keep the interpreter from another
SYSTEM_NAME = "Thespian ActorSystem Name"


@dataclass(frozen=True, slots=True)
class Completed:
    """What a submitted function returned, or the exception that it raised."""

    value: Any
    error: BaseException | None


class Executor(ABC):
    """Runs functions beside the actor, in order within a lane, lanes beside each other."""

    @abstractmethod
    def submit(self, lane: str, function: Callable[[], Any], done: Done, *, short: bool = False) -> None:
        """Run `function` soon; hand its outcome to `done` in a later `collect`.

        A `short` one may be run here and now while there is no other: handing it to a thread and back takes longer.
        """

    @abstractmethod
    def collect(self) -> None:
        """Call `done` for everything that has finished. Only from the actor's own thread."""

    @abstractmethod
    def filenos(self) -> list[int]:
        """Descriptors that become readable when there is something to collect; none if that is at once."""

    @abstractmethod
    def close(self) -> None:
        """Wait for what runs and end. What was not started is dropped, what was not collected is forgotten."""


class Timer(ABC):
    """A descriptor that becomes readable at the time for which it was set last."""

    @abstractmethod
    def fileno(self) -> int:
        """The descriptor to watch."""

    @abstractmethod
    def set(self, seconds: float) -> None:
        """Become readable after this time, and not at the time that was set before."""

    @abstractmethod
    def drain(self) -> bool:
        """True if the time has come since the last call."""

    @abstractmethod
    def close(self) -> None:
        """Release the descriptor."""


class Environment(ABC):
    """Everything that an actor may take from outside."""

    @abstractmethod
    def monotonic(self) -> float:
        """Seconds, never going back."""

    @abstractmethod
    def unique(self) -> int:
        """A number from 1 to 2**64 - 1 that no other incarnation of an actor has."""

    @abstractmethod
    def uniform(self, low: float, high: float) -> float:
        """A random number between `low` and `high`."""

    @abstractmethod
    def disk(self) -> Disk:
        """Where data files are."""

    @abstractmethod
    def create_memory(self, buffers: int, size: int) -> PoolMemory:
        """Memory for a message pool. Raises `StorageError`."""

    @abstractmethod
    def open_memory(self, name: MemoryName) -> PoolMemory:
        """Map a message pool's memory. Raises `StorageError`."""

    @abstractmethod
    def executor(self) -> Executor:
        """A new executor for one actor."""

    @abstractmethod
    def timer(self) -> Timer | None:
        """A timer, or None where an actor must rely on wakeups."""


class RealEnvironment(Environment):
    """The machine itself. `capabilities` are those of the actor system that the actor lives in."""

    def __init__(self, capabilities: Mapping[str, object]) -> None:
        self._watching = capabilities.get(SYSTEM_NAME) in WATCHING_SYSTEMS

    def monotonic(self) -> float:
        return time.monotonic()

    def unique(self) -> int:
        return random.SystemRandom().randrange(1, 2**64)

    def uniform(self, low: float, high: float) -> float:
        return random.uniform(low, high)

    def disk(self) -> Disk:
        return FileDisk()

    def create_memory(self, buffers: int, size: int) -> PoolMemory:
        return PoolMemory.create(buffers, size, os.urandom(16))

    def open_memory(self, name: MemoryName) -> PoolMemory:
        return PoolMemory.open(name)

    def executor(self) -> Executor:
        return ThreadExecutor() if self._watching else InlineExecutor()

    def timer(self) -> Timer | None:
        return DescriptorTimer() if self._watching else None


class InlineExecutor(Executor):
    """For systems that cannot watch a descriptor: runs everything at once, in the caller."""

    def __init__(self) -> None:
        self._finished: deque[tuple[Done, Completed]] = deque()

    def submit(self, lane: str, function: Callable[[], Any], done: Done, *, short: bool = False) -> None:
        self._finished.append((done, _run(function)))

    def collect(self) -> None:
        while self._finished:
            done, outcome = self._finished.popleft()
            done(outcome)

    def filenos(self) -> list[int]:
        return []

    def close(self) -> None:
        self._finished.clear()


class ThreadExecutor(Executor):
    """One thread a lane. Threads hand over by an eventfd and never send: Thespian's transport is not theirs."""

    def __init__(self) -> None:
        # A thread that comes back from the disk would wait up to 5 ms for the interpreter while the actor is busy. The
        # setting is the process's, which is this actor's own.
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._finished: deque[tuple[Done, Completed]] = deque()
        self._lanes: dict[str, tuple[threading.Thread, SimpleQueue[tuple[Callable[[], Any], Done] | None]]] = {}
        self._closing = False
        self._outstanding = 0  # submitted and not collected
        self._unread = 0  # collected from threads, and their announcement not read yet

    def submit(self, lane: str, function: Callable[[], Any], done: Done, *, short: bool = False) -> None:
        self._outstanding += 1
        if short and self._outstanding == 1:
            self._finished.append((done, _run(function)))
            self._unread -= 1  # for it is not announced
            return
        if lane not in self._lanes:
            self._start(lane)
        self._lanes[lane][1].put((function, done))

    def _start(self, lane: str) -> None:
        queue: SimpleQueue[tuple[Callable[[], Any], Done] | None] = SimpleQueue()
        thread = threading.Thread(target=self._work, args=(queue,), name=f"lane-{lane}", daemon=True)
        self._lanes[lane] = (thread, queue)
        thread.start()

    def _work(self, queue: SimpleQueue[tuple[Callable[[], Any], Done] | None]) -> None:
        while (item := queue.get()) is not None:
            if self._closing:
                continue
            self._finished.append((item[1], _run(item[0])))
            os.eventfd_write(self._eventfd, 1)

    def collect(self) -> None:
        # What has finished is there before it is announced, so that after most messages no system call is needed.
        if not self._finished and not self._unread:
            return
        with suppress(BlockingIOError):
            self._unread -= os.eventfd_read(self._eventfd)
        while self._finished:
            done, outcome = self._finished.popleft()
            self._outstanding -= 1
            self._unread += 1
            done(outcome)

    def filenos(self) -> list[int]:
        return [self._eventfd]

    def close(self) -> None:
        self._closing = True
        for thread, queue in self._lanes.values():
            queue.put(None)
            thread.join()
        self._lanes.clear()
        self._finished.clear()
        os.close(self._eventfd)


class DescriptorTimer(Timer):
    """A timerfd. Thespian's own wakeups cannot be taken back, and on its TCP base one can wait for a message."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._next = sys.maxsize  # on the monotonic clock: never later than the descriptor becomes readable

    def fileno(self) -> int:
        return self._fd

    def set(self, seconds: float) -> None:
        # Zero would take it back.
        after = max(1, int(seconds * 1e9))
        self._next = time.monotonic_ns() + after
        whole, nanoseconds = divmod(after, 10**9)
        specification = (ctypes.c_long * 4)(0, 0, whole, nanoseconds)
        if self._libc.timerfd_settime(self._fd, 0, ctypes.byref(specification), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def drain(self) -> bool:
        if time.monotonic_ns() < self._next:
            return False  # as after most messages, without a system call
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return False
        self._next = sys.maxsize
        return True

    def close(self) -> None:
        os.close(self._fd)


def _run(function: Callable[[], Any]) -> Completed:
    # Everything, `InvariantBroken` too: it has to end the actor, and leaving a thread would only end the thread.
    try:
        return Completed(function(), None)
    except BaseException as error:
        return Completed(None, error)
