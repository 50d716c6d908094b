"""PySyncObj, three processes on this machine: its leader's process makes the requests of so many sessions.

A request changes a replicated counter; it counts when the callback says that it was committed and executed. Each
session makes its next request when its last was answered.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from pysyncobj import SyncObj, SyncObjConf, replicated  # type: ignore[import-untyped]

from .ports import free_ports
from examples.percentile import percentile

REPLICAS = 3
READY_TIMEOUT = 30.0
WARM_SECONDS = 0.3


class Counter(SyncObj):  # type: ignore[misc]  # PySyncObj has no types
    """A replicated counter."""

    def __init__(self, own: str, others: list[str], conf: Any) -> None:
        super().__init__(own, others, conf)
        self.total = 0

    @replicated  # type: ignore[untyped-decorator]
    def add(self, amount: int) -> int:
        """Execute a request."""
        self.total += amount
        return self.total


class Sessions:
    """Closed loops: each calls again from the callback of its last call."""

    def __init__(self, counter: Counter, count: int, seconds: float) -> None:
        self._counter = counter
        self._latencies: list[float] = []
        self._from = time.perf_counter() + WARM_SECONDS
        self._until = self._from + seconds
        self._running = count
        self.over = threading.Event()
        for _ in range(count):
            self._call()

    def _call(self) -> None:
        begun = time.perf_counter()
        self._counter.add(1, callback=lambda result, error: self._answered(begun, error))

    def _answered(self, begun: float, error: int) -> None:
        now = time.perf_counter()
        if not error and begun >= self._from and now <= self._until:
            self._latencies.append(now - begun)
        if now < self._until:
            self._call()
            return
        self._running -= 1
        if not self._running:
            self.over.set()

    def result(self) -> dict[str, Any]:
        """What was measured."""
        seconds = self._until - self._from
        return {
            "value": len(self._latencies) / seconds,
            "p50": percentile(self._latencies, 50),
            "p99": percentile(self._latencies, 99),
            "seconds": seconds,
        }


def _serve(index: int, addresses: list[str], params: Mapping[str, Any], results: Connection) -> None:
    others = [address for address in addresses if address != addresses[index]]
    journal = os.path.join(params["files"], f"journal-{index}")
    conf = SyncObjConf(journalFile=journal, flushJournal=True, connectionRetryTime=0.05, appendEntriesUseBatch=False)
    logging.disable(logging.CRITICAL)
    counter = Counter(addresses[index], others, conf)
    while not counter.isReady() or counter._getLeader() is None:
        time.sleep(0.01)
    time.sleep(WARM_SECONDS)
    leader = counter._getLeader()
    if leader is not None and leader.address == addresses[index]:
        sessions = Sessions(counter, params["sessions"], params["seconds"])
        sessions.over.wait(READY_TIMEOUT + params["seconds"])
        results.send(sessions.result())
    time.sleep(READY_TIMEOUT + params["seconds"])


def measure(params: Mapping[str, Any]) -> dict[str, Any]:
    """Run the three processes until their leader has measured."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    addresses = [f"127.0.0.1:{port}" for port in free_ports(REPLICAS)]
    processes = [
        context.Process(target=_serve, args=(index, addresses, params, sender), daemon=True)
        for index in range(REPLICAS)
    ]
    for process in processes:
        process.start()
    try:
        if not receiver.poll(READY_TIMEOUT + params["seconds"]):
            raise RuntimeError("PySyncObj elected no leader")
        result: dict[str, Any] = receiver.recv()
        return result
    finally:
        for process in processes:
            process.kill()
            process.join()
