"""A replicated service: committed requests per second and their latency, three replicas on this machine.

Ours is examples/ledger without faults: nothing is lost, duplicated, delayed or killed. Its clients are threads of one
process, with the client library, through the gateway. The cluster answers a request when a quorum has it on disk,
synced; the replies become durable beside that. etcd (puts through its JSON gateway, one connection per session) does
the same. PySyncObj sends each entry at once and keeps a journal, but syncs nothing, and has no sessions: its callers
are in the leader's own process.
"""

from __future__ import annotations

import functools
import importlib
import io
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client_replies.actors.thespian.base import UNIX_BASE
from client_replies.actors.thespian.system import running_system

from . import etcd
from .accounting import account, begin, install
from .contest import Contestant, Group, Scale, group_of, on_path
from .targets import CLUSTER_1, CLUSTER_8, CLUSTER_32, CLUSTER_128

REPLICAS = 3
# The example runs a number of requests, not a number of seconds: about as many as take that long.
REQUESTS_PER_SECOND, REQUESTS_PER_SESSION_SECOND = 300, 30
WATCH_INTERVAL = 0.1
REQUESTS_MIN = 2  # of each session


def measure_ours(params: Mapping[str, Any]) -> dict[str, Any]:
    """A run of the example without faults, judged."""
    modules: dict[str, Any] = {
        name: importlib.import_module(f"examples.ledger.{name}")
        for name in ("config", "run", "generate_transfers", "transfers")
    }
    run = modules["run"]
    run.cluster_faults = lambda drop, duplicate: {}
    run.running_system = functools.partial(running_system, params.get("base", UNIX_BASE))
    sessions = params["sessions"]
    for name in ("config", "run"):
        modules[name].CLIENTS_MAX = max(modules[name].CLIENTS_MAX, sessions)
    requests = int(params["seconds"] * (REQUESTS_PER_SECOND + REQUESTS_PER_SESSION_SECOND * sessions))
    file = Path(params["files"], "transfers.csv")
    count = max(requests, REQUESTS_MIN * sessions, 50)
    modules["transfers"].write_transfers(file, modules["generate_transfers"].rows(count=count))
    directory = Path(params["files"])
    options = run.Options(
        transfers_file=file,
        transfers=modules["transfers"].read_transfers(file),
        clients=sessions,
        replicas=REPLICAS,
        seed=1,
        directory=directory,
        drop_replies=0.0,
        duplicate_requests=0.0,
        damages=0,
        kills=0,
        plant=None,
        json=True,
        keep=False,
    )
    install("main")
    (directory / "run").mkdir()
    watch = _Watch()
    outcome = run.Run(options, directory / "run", run.ProgressLine(io.StringIO())).run()
    if not outcome.holds:
        raise RuntimeError("the verdict is that something does not hold")
    figures = outcome.figures
    found = watch.account()
    return {
        "value": figures.requests_per_second,
        "p50": figures.latency_p50 / 1000,
        "p99": figures.latency_p99 / 1000,
        **found,
    }


class _Watch(threading.Thread):
    """Looks now and then at who is busy: when the run is over its processes are gone, and their times with them."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._before = self._latest = begin()
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        """Keep the latest look at which everybody was there."""
        while not self._over.wait(WATCH_INTERVAL):
            now = begin()
            if all(now.cpu[name] for name, cpu in self._latest.cpu.items() if cpu):
                self._latest = now

    def account(self) -> dict[str, Any]:
        """What happened until then."""
        self._over.set()
        self.join()
        return account(self._before, self._latest)


def measure(contestant: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Run one contestant of the row."""
    if contestant == "ours":
        return measure_ours(params)
    if contestant == "etcd":
        return etcd.measure(params)
    from . import raft  # here, because PySyncObj replaces socket.inet_ntop of its process by one for Windows alone

    return raft.measure(params)


def groups(scale: Scale) -> list[Group]:
    """The contests of the row."""
    contestants = [
        Contestant("ours", "client-replies, examples/ledger", on_base=True),
        Contestant("etcd", "etcd", missing=on_path("etcd")),
        Contestant("pysyncobj", "PySyncObj, each entry at once (syncs nothing, no sessions)"),
    ]
    figures = (("p50", "s"), ("p99", "s"))
    counts = ((1, CLUSTER_1), (8, CLUSTER_8), (32, CLUSTER_32), (128, CLUSTER_128))
    return [group_of(place, "requests/s", contestants, {"sessions": count}, figures) for count, place in counts]
