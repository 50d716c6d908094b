"""The loop of a process: descriptors, times, and the one thread that waits for them.

Guarantees: timers run in the order of their times and do not starve what descriptors bring. One thread at a time runs
the loop; any thread may register a descriptor, set a time or wake the one that waits.

Owns: the poll object, the timers, the descriptor that wakes the loop.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any

from thespian.system.timing import ExpirationTimer

from .streams import POLLIN, POLLOUT, now

SHORT_S = 0.001
get_ident = threading.get_ident


class Loop:
    """See the module. `woken` is called in the loop after a `wake`, `watched` with descriptors that became readable."""

    def __init__(self, woken: Callable[[], None], watched: Callable[[list[int]], None]) -> None:
        self.runner: int | None = None  # the thread that runs the loop
        self.watches: list[int] = []
        self.timers: list[tuple[float, int, Callable[[], None], ExpirationTimer | None]] = []
        self.ends: dict[int, Any] = {}
        self._woken, self._watched = woken, watched
        self._running: dict[str, int] = {}
        self._timer_numbers = itertools.count()
        self._poll = select.poll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.register(self._wake_fd, self, POLLIN)

    @property
    def is_open(self) -> bool:
        """False once it was closed."""
        return self._wake_fd >= 0

    def close(self) -> None:
        """Wait for nothing any more. The descriptors belong to those who registered them."""
        self.ends.clear()
        if self._wake_fd >= 0:
            os.close(self._wake_fd)
            self._wake_fd = -1

    # Which thread runs it.

    def enter(self) -> bool:
        """Become the thread that runs the loop, if there is none."""
        # One step, which an interrupt (Ctrl-C raises anywhere) cannot cut in two; the thread itself may come again.
        if self._running.setdefault("thread", get_ident()) != get_ident():
            return False
        self.runner = get_ident()
        return True

    def leave(self) -> None:
        """Let another thread run it."""
        self.runner = None
        self._running.clear()

    def wake(self) -> None:
        """Let the loop look at once; also from a signal's handler."""
        if self._wake_fd >= 0:
            os.eventfd_write(self._wake_fd, 1)

    def wake_runner(self) -> None:
        """Something is new for the thread that waits, if there is one and it is another."""
        if self.runner is not None and self.runner != get_ident():
            self.wake()

    def ready(self, _events: int) -> None:
        """The loop was woken."""
        os.eventfd_read(self._wake_fd)
        self._woken()

    # What it waits for.

    def register(self, fd: int, end: Any, events: int) -> None:
        """Call `end.ready` when a descriptor has something."""
        self.ends[fd] = end
        self._poll.register(fd, events)
        self.wake_runner()

    def modify(self, fd: int, events: int) -> None:
        """Wait for other events."""
        self._poll.modify(fd, events)
        self.wake_runner()

    def unregister(self, fd: int) -> None:
        """Wait for nothing."""
        if self.ends.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def call_later(self, seconds: float, call: Callable[[], None], timer: ExpirationTimer | None = None) -> None:
        """Call something from the loop."""
        heapq.heappush(self.timers, (now() + seconds, next(self._timer_numbers), call, timer))

    def watch(self, watches: list[int]) -> None:
        """Watch these descriptors, and no others any more."""
        if watches != self.watches:
            self.pause_watches()
            self.watches = list(watches)
            self.resume_watches()

    def pause_watches(self) -> None:
        """Watch nothing for now."""
        self._poll_watches(self._poll.unregister)

    def resume_watches(self) -> None:
        """Watch again."""
        self._poll_watches(lambda fd: self._poll.register(fd, POLLIN))

    def _poll_watches(self, change: Callable[[int], None]) -> None:
        for fd in self.watches:
            if fd not in self.ends:
                with contextlib.suppress(KeyError, TypeError, ValueError):  # no descriptor, or not watched any more
                    change(fd)

    def turn(self, timeout_ms: float | None, *, reading: bool = True) -> None:
        """Wait once, and take what there is; without `reading` only write what waits."""
        if not reading:
            time.sleep(SHORT_S)  # `poll` does not wait: there is something to read
        events = self._poll.poll() if timeout_ms is None else self._poll.poll(math.ceil(timeout_ms))
        ends = self.ends
        ready: list[int] = []
        for fd, event in events:
            end = ends.get(fd)
            if end is not None:
                if reading or (event := event & POLLOUT):
                    end.ready(event)
            elif fd in self.watches:
                ready.append(fd) if event & ~select.POLLNVAL else self._poll.unregister(fd)
        if ready:
            self._watched(ready)
        timers = self.timers
        while timers and timers[0][0] <= now():
            heapq.heappop(timers)[2]()
