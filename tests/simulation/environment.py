"""What the component's actors take from outside, decided by the simulator.

Guarantees: the classes are those that `actors.thespian.environment` declares, so the actors run unmodified. A
function that is submitted runs whole at a later virtual time, in order within its lane; functions of different lanes
end in any order. When its process dies, a function that had started is run as far as the seed says: some of its
transfers are done, one perhaps by half. An actor that forgets to return its watch hangs, as it would on TCP.

Owns: the descriptors that actors watch, which are numbers without a file.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from client_replies.actors.thespian.environment import Completed, Done, Environment, Executor, Timer
from client_replies.messages.faults import InvariantBroken
from client_replies.messages.leases import MemoryName
from client_replies.storage.shared_memory import PoolMemory

from .chance import MICROSECONDS, Chance
from .disk import PowerLost, SimDevice, SimDisk
from .system import Process, ProcessDied, SimSystem

BUDGET_MAX = 7  # transfers that a dying function may still do: a checkpoint has eight


@dataclass(slots=True, eq=False)
class Job:
    """A function in a lane."""

    function: Callable[[], Any]
    done: Done


class SimExecutor(Executor):
    """Lanes in virtual time."""

    def __init__(self, system: SimSystem, process: Process, disk: SimDisk, fileno: int) -> None:
        self._system = system
        self._process = process
        self._disk = disk
        self._fileno = fileno
        self._lanes: dict[str, deque[Job]] = {}
        self._finished: deque[tuple[Done, Completed]] = deque()
        self._devices: list[SimDevice] = []
        self._closed = False
        process.ready[fileno] = lambda: bool(self._finished)
        process.on_death.append(self.crash)

    def submit(self, lane: str, function: Callable[[], Any], done: Done, *, short: bool = False) -> None:
        jobs = self._lanes.setdefault(lane, deque())
        jobs.append(Job(function, done))
        if len(jobs) == 1:
            self._system.at(self._disk.latency(lane), self._finish, lane)

    def _finish(self, lane: str) -> None:
        if self._closed:
            return
        system, jobs = self._system, self._lanes[lane]
        job = jobs.popleft()
        system.trace.add(system.now, "disk", self._process.name, "", lane)
        ambush = self._disk.next_ambush(lane)
        try:
            outcome = self._run(job)
        except PowerLost:
            # Only of a function that was to die here: nobody hears of it any more.
            self._disk.marks.hit("died_in_an_ambush")
            if ambush is not None:
                ambush.strike(self._process)
            return
        finally:
            self._disk.budget = None
        self._finished.append((job.done, outcome))
        if jobs:
            system.at(self._disk.latency(lane), self._finish, lane)
        system.descriptor_ready(self._process)

    def _run(self, job: Job) -> Completed:
        previous, self._system.current = self._system.current, self._process
        self._disk.on_open = self._devices.append
        try:
            return Completed(job.function(), None)
        except InvariantBroken as error:
            raise ProcessDied(self._process, error) from error
        except Exception as error:
            return Completed(None, error)
        finally:
            self._disk.on_open = None
            self._system.current = previous

    def collect(self) -> None:
        while self._finished:
            done, outcome = self._finished.popleft()
            done(outcome)

    def filenos(self) -> list[int]:
        return [self._fileno]

    def close(self) -> None:
        """What runs is finished, the rest dropped."""
        for jobs in self._lanes.values():
            if jobs:
                self._run(jobs[0])
        self._forget()

    def crash(self) -> None:
        """The process is gone: what it had started may have come some way; what it had open is closed."""
        running = [jobs[0] for jobs in self._lanes.values() if jobs]
        self._disk.chance.shuffle(running)
        for job in running:
            self._disk.marks.hit("died_with_a_transfer_in_flight")
            self._disk.budget = self._disk.chance.below(BUDGET_MAX)
            try:
                self._run(job)
            except PowerLost:
                self._disk.marks.hit("died_in_the_middle_of_a_job")
            finally:
                self._disk.budget = None
        self._forget()
        for device in self._devices:
            device.close()

    def _forget(self) -> None:
        self._closed = True
        self._lanes.clear()
        self._finished.clear()
        self._process.ready.pop(self._fileno, None)


class SimTimer(Timer):
    """A timerfd in virtual time."""

    def __init__(self, system: SimSystem, process: Process, fileno: int) -> None:
        self._system = system
        self._process = process
        self._fileno = fileno
        self._setting = 0
        self._expired = False
        process.ready[fileno] = lambda: self._expired
        process.on_death.append(self.close)

    def _expire(self, setting: int) -> None:
        if setting == self._setting:
            self._expired = True
            self._system.descriptor_ready(self._process)

    def fileno(self) -> int:
        return self._fileno

    def set(self, seconds: float) -> None:
        self._setting += 1
        self._expired = False
        self._system.at(math.ceil(seconds * MICROSECONDS), self._expire, self._setting)

    def drain(self) -> bool:
        expired, self._expired = self._expired, False
        return expired

    def close(self) -> None:
        self._setting += 1
        self._process.ready.pop(self._fileno, None)


class SimEnvironment(Environment):
    """One replica's world. Its three actors share the object; who asks is whoever runs."""

    def __init__(self, system: SimSystem, disk: SimDisk, chance: Chance, *, timer: bool) -> None:
        self.system = system
        self._disk = disk
        self._chance = chance
        self._timer = timer
        self._filenos = 100

    def _process(self) -> Process:
        process = self.system.current
        if process is None:
            raise RuntimeError("nobody runs")
        return process

    def _next_fileno(self) -> int:
        self._filenos += 1
        return self._filenos

    def monotonic(self) -> float:
        return self.system.now / MICROSECONDS

    def unique(self) -> int:
        return self._chance.bits(64) or 1

    def uniform(self, low: float, high: float) -> float:
        return self._chance.between(low, high)

    def disk(self) -> SimDisk:
        return self._disk

    def create_memory(self, buffers: int, size: int) -> PoolMemory:
        return self._held(PoolMemory.create(buffers, size, self._chance.bits(128).to_bytes(16, "little")))

    def open_memory(self, name: MemoryName) -> PoolMemory:
        return self._held(PoolMemory.open(name))

    def _held(self, memory: PoolMemory) -> PoolMemory:
        self._process().on_death.append(memory.close)
        return memory

    def executor(self) -> SimExecutor:
        return SimExecutor(self.system, self._process(), self._disk, self._next_fileno())

    def timer(self) -> SimTimer | None:
        return SimTimer(self.system, self._process(), self._next_fileno()) if self._timer else None
