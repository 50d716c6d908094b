"""The writes of a replica to its log store, beside its mailbox: one transaction at a time, of all that waits.

Guarantees: in order, each reported once, in a handler of the actor, when it is durable; those of one transaction
together. Limits: it does not go on after an error, which is raised in the handler. Owns: the store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from client_replies.actors.thespian.environment import Completed, Executor
from client_replies.cluster.vsr.effects import WriteLog

from .log_store import LogStore


class LogWriter:
    """See the module."""

    def __init__(
        self,
        store: LogStore,
        executor: Executor,
        written: Callable[[tuple[int, ...]], None],
    ) -> None:
        self._store = store
        self._executor = executor
        self._written = written
        self._queue: deque[WriteLog] = deque()
        self._busy = False

    def add(self, effect: WriteLog) -> None:
        """Queue a write; it goes with the next `flush`."""
        self._queue.append(effect)

    def flush(self) -> None:
        """Write all that waits, unless a write is under way."""
        if self._busy or not self._queue:
            return
        batch = tuple(self._queue)
        self._queue.clear()
        self._busy = True
        writes = tuple(effect.write for effect in batch)
        self._executor.submit("log", lambda: self._store.write(*writes), lambda outcome: self._done(batch, outcome))

    def _done(self, batch: tuple[WriteLog, ...], outcome: Completed) -> None:
        self._busy = False
        if outcome.error is not None:
            raise outcome.error
        self._written(tuple(effect.number for effect in batch))
