"""Row 7: a replicated service: committed requests a second and their latency, 3 replicas on this machine.

Ours is examples/cluster without its bad weather: nothing is lost, doubled, delayed or killed. A request is answered
when a quorum has it on disk, synced; the replies become durable beside that. PySyncObj keeps a journal, and runs
twice: sending each entry at once, and in batches. Its sessions call its leader in the leader's own process, ours are
in actors of their own and send messages: what is compared is what a user would run.

etcd is measured where its program is on PATH (puts through its JSON gateway, a connection a session). TigerBeetle has
no client here that speaks for one session; where it is on PATH, its own benchmark is run.
"""

from __future__ import annotations

import importlib
import io
import re
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import etcd, raft
from .accounting import account, begin, install
from .contest import Comparison, Contestant, Group, Scale, on_path

REPLICAS = 3
SESSIONS = (1, 8, 32, 128)
# The example runs a number of requests, not a number of seconds: about as many as take that long.
REQUESTS_A_SECOND, REQUESTS_A_SESSION_SECOND = 100, 20
WATCH_INTERVAL = 0.1
REQUESTS_MIN = 2  # of each session
THROUGHPUT_TARGET, LATENCY_TARGET = 1.0, 3.0


def measure_ours(params: Mapping[str, Any]) -> dict[str, Any]:
    """A run of the example, judged, in good weather."""
    modules: dict[str, Any] = {
        name: importlib.import_module(f"examples.cluster.{name}")
        for name in ("client", "config", "replica", "run", "generate_transfers", "transfers")
    }
    for name in ("client", "replica"):
        modules[name].cluster_faults = lambda drop, duplicate: {}
    run = modules["run"]
    sessions = params["sessions"]
    for name in ("config", "run"):
        modules[name].CLIENTS_MAX = max(modules[name].CLIENTS_MAX, sessions)
    requests = int(params["seconds"] * (REQUESTS_A_SECOND + REQUESTS_A_SESSION_SECOND * sessions))
    file = Path(params["files"], "transfers.csv")
    with file.open("w") as lines:
        lines.write("from,to,amount\n")
        count = max(requests, REQUESTS_MIN * sessions, 50)
        lines.writelines(",".join(map(str, row)) + "\n" for row in modules["generate_transfers"].rows(count=count))
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


def measure_tigerbeetle(params: Mapping[str, Any]) -> dict[str, Any]:
    """TigerBeetle's own benchmark, with so many clients."""
    command = ["tigerbeetle", "benchmark", f"--clients={params['sessions']}", "--transfer-count=100000"]
    done = subprocess.run(command, cwd=params["files"], capture_output=True, text=True, check=True)
    found = re.search(r"load accepted = ([0-9.]+) tx/s", done.stdout + done.stderr)
    if found is None:
        raise RuntimeError("TigerBeetle's benchmark did not say how fast it was")
    return {"value": float(found[1])}


def measure(contestant: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Run one contestant of the row."""
    if contestant == "ours":
        return measure_ours(params)
    if contestant == "etcd":
        return etcd.measure(params)
    if contestant == "tigerbeetle":
        return measure_tigerbeetle(params)
    return raft.measure({**params, "batches": contestant == "pysyncobj-batches"})


def groups(scale: Scale) -> list[Group]:
    """The contests of the row."""
    counts = SESSIONS if scale.is_full else SESSIONS[:1] if scale.name == "tiny" else (32,)
    return [_group(count) for count in counts]


def _group(sessions: int) -> Group:
    comparisons = [
        Comparison("requests/s to PySyncObj's", "ours", ("pysyncobj", "pysyncobj-batches")),
    ]
    if sessions == 32:
        comparisons.append(Comparison("requests/s to etcd's puts", "ours", ("etcd",), THROUGHPUT_TARGET))
    if sessions == 1:
        comparisons.append(Comparison("latency to etcd's", "ours:p50", ("etcd:p50",), LATENCY_TARGET, False))
    return Group(
        row="cluster",
        name=f"{sessions} session{'s' if sessions > 1 else ''}",
        unit="requests/s",
        params={"sessions": sessions},
        figures=(("p50", "s"), ("p99", "s")),
        contestants=[
            Contestant("ours", "examples/cluster"),
            Contestant("pysyncobj", "PySyncObj, each entry at once"),
            Contestant("pysyncobj-batches", "PySyncObj, batches every 5 ms"),
            Contestant("etcd", "etcd", missing=on_path("etcd")),
            Contestant("tigerbeetle", "TigerBeetle", missing=on_path("tigerbeetle")),
        ],
        comparisons=comparisons,
        rounds_max=3,
    )
