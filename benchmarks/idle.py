"""What a cluster costs that nobody uses: the CPU time of all processes of examples/ledger with three replicas.

It is the cluster that `start` keeps up, with its gateway, right after it said that it was ready.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from client_replies.actors.thespian.base import UNIX_BASE
from client_replies.actors.thespian.system import running_system

from .accounting import account, begin, install
from .contest import Contestant, Group, Scale, group_of
from .targets import IDLE

REPLICAS = 3
READY_TIMEOUT = 30.0
SETTLE = 2.0
# Its CPU time is a small part of the time measured.
LONGER = 4


def _serve(directory: Path, base: str, said: Connection) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job of a shell script ignores
    live: Any = importlib.import_module("examples.ledger.live")
    live.running_system = functools.partial(running_system, base)
    with contextlib.suppress(KeyboardInterrupt):
        live.start(directory, REPLICAS, 0, said.send)


def _cpu_seconds(pids: set[int]) -> float:
    """What all their threads used, by the nanoseconds of the scheduler: ticks are too coarse here."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def measure(contestant: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Start a cluster, wait until it is quiet, and look at it for a while."""
    install("main")
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    directory = Path(params["files"], "cluster")
    process = context.Process(target=_serve, args=(directory, params.get("base", UNIX_BASE), sender))
    process.start()
    sender.close()
    try:
        said = ""
        while not said.startswith("ready"):
            if not receiver.poll(READY_TIMEOUT):
                raise RuntimeError(f"the cluster did not become ready; it said {said!r}")
            said = receiver.recv()
        time.sleep(SETTLE)
        pids = {process.pid or 0, *(one.pid for one in psutil.Process(process.pid).children(recursive=True))}
        before, used = begin(), _cpu_seconds(pids)
        time.sleep(LONGER * params["seconds"])
        used = _cpu_seconds(pids) - used
        found = account(before, begin())
    finally:
        os.kill(process.pid or 0, signal.SIGINT)
        process.join()
    return {"value": 100 * used / found["seconds"], "processes": len(pids), **found}


def groups(scale: Scale) -> list[Group]:
    """The contest of the row."""
    ours = Contestant("ours", "client-replies, examples/ledger", on_base=True)
    return [group_of(IDLE, "% of a core", [ours], figures=(("processes", ""),))]
