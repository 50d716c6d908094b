"""A cluster's directory that is started in one environment after another, and what must hold in each.

Guarantees: `start` comes back when the cluster answers or has ended; after `stop` and after an end nothing is left: no
process, no lock, no socket. Owns: the script's process and its output.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from client_replies.cluster.client import ClusterClient, RetryPolicy, Session
from client_replies.cluster.durable_files import NEW
from client_replies.cluster.host.cluster_directory import RUNNING_FILE, SOCKET, ClusterUnusable, ask, read_running

from examples.ledger.ledger import OPERATION_BALANCE, OPERATION_TRANSFER, Result, Transfer
from tests.processes import living_descendants

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65_534
START_TIMEOUT_S = 60.0
SERVE_TIMEOUT_S = 60.0


def eventually(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Come back when the condition holds. It asks processes, so it is not looked at all the time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s"
        time.sleep(0.05)


class Cluster:
    """See the module. `total` is what clients were told that ada has."""

    def __init__(self, place: Path, total: int = 0, *, out: Path | None = None) -> None:
        self.place = place
        self.total = total
        self.out = out or place.with_name(f"{place.name}.out")
        self.process: subprocess.Popen[bytes] | None = None
        self._before: set[int] = set()

    # Its life.

    def start(
        self,
        *,
        before: Callable[[], None] | None = None,
        environment: Mapping[str, str] | None = None,
        closed: Sequence[int] = (),
        user: int | None = None,
    ) -> bool:
        """Start it, and wait until it answers: True; or has ended: False. `before` is called in the new process."""
        self._before = living_descendants()

        def prepare() -> None:
            if before is not None:
                before()
            for descriptor in closed:
                os.close(descriptor)

        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "examples.ledger", "start", str(self.place)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=prepare,
                env=None if environment is None else dict(environment),
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
        process = self.process
        eventually(lambda: process.poll() is not None or self.status() is not None, START_TIMEOUT_S, "the start")
        if process.poll() is None:
            return True
        self._nothing_is_left()
        return False

    def stop(self) -> None:
        """Ctrl-C."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(30.0) == 128 + signal.SIGINT, self.said()
        assert "Traceback" not in self.said()
        self._nothing_is_left()

    def ended(self) -> str:
        """It ends by itself, with an exit status and a reason; its last line."""
        assert self.process is not None
        assert 0 < self.process.wait(30.0) < 128, self.said()
        self._nothing_is_left()
        assert "Traceback" not in self.said()
        return self.said().splitlines()[-1]

    def refused(self, **how: Any) -> str:
        """It is started and refuses: one line with a reason, and an exit status."""
        assert not self.start(**how), f"it was served: {self.said()}"
        line = self.ended()
        assert self.said().splitlines() == [line]
        return line

    def said(self) -> str:
        """What it printed."""
        return self.out.read_text(errors="replace")

    def _nothing_is_left(self) -> None:
        eventually(lambda: living_descendants() <= self._before, 10.0, "the end of its processes")
        for name in (RUNNING_FILE, SOCKET, f"{RUNNING_FILE}{NEW}"):
            assert not (self.place / name).exists(), name
        if self.place.is_dir():
            descriptor = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(descriptor)

    def refused_a_second_time(self) -> str:
        """It is up; whoever starts it once more is refused: what that one said."""
        command = [sys.executable, "-m", "examples.ledger", "start", str(self.place)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60.0, check=False)
        assert 0 < done.returncode < 128, done
        return done.stderr

    # How it is.

    def status(self) -> dict[str, Any] | None:
        """What it says about itself, if it answers."""
        try:
            return ask(self.place, {"ask": "status"})
        except ClusterUnusable:
            return None

    def replica(self, index: int) -> dict[str, Any]:
        """How one replica is."""
        status = self.status()
        found: dict[str, Any] = status["replicas"][index] if status is not None else {}
        return found

    def reasons(self) -> dict[str, str]:
        """The replicas that are down, and why."""
        status = self.status()
        replicas = status["replicas"] if status is not None else []
        return {one["name"]: one["reason"] for one in replicas if one["state"] == "down"}

    def is_whole(self) -> bool:
        """True if all replicas are up and vote, in one view, and have executed the same."""
        status = self.status()
        replicas = status["replicas"] if status is not None else []
        return (
            bool(replicas)
            and all(one["state"] == "up" and one.get("role") in ("primary", "backup") for one in replicas)
            and not any(one.get("sync") or one.get("slots", {}).get("faulty") for one in replicas)
            and len({(one["view"], one["executed"], one["op"]) for one in replicas}) == 1
        )

    def wait_until_whole(self) -> None:
        """All three are as they should be."""
        eventually(self.is_whole, SERVE_TIMEOUT_S, "three whole replicas")

    # Clients.

    @contextlib.contextmanager
    def session(self, timeout: float = SERVE_TIMEOUT_S) -> Iterator[Session]:
        """A session of a client."""
        running = read_running(self.place)
        host, port = running["gateway"]
        policy = RetryPolicy(timeout_s=timeout)
        with (
            ClusterClient([(host, port)], cluster=int(running["cluster"], 16), policy=policy) as client,
            client.session() as session,
        ):
            yield session

    def transfer(self, session: Session, timeout: float | None = None) -> Any:
        """Move 1 to ada; the reply says that nothing was lost and nothing done twice."""
        answer = session.request(OPERATION_TRANSFER, Transfer(0, "equity", "ada", 1).encode(), timeout=timeout)
        self.total += 1
        assert Result.decode(answer.body).target_balance == self.total
        return answer

    def serves(self) -> None:
        """It executes, and has everything that was told."""
        with self.session() as session:
            self.transfer(session)
            balance = Result.decode(session.request(OPERATION_BALANCE, b"ada").body).source_balance
            assert balance == self.total

    def lost_nothing(self) -> None:
        """In a friendly environment the same directory serves everything."""
        assert self.start(), self.said()
        self.wait_until_whole()
        self.serves()
        self.stop()


@contextlib.contextmanager
def mounted(place: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A small disk in memory at `place`; what is given mounts it again with other options."""
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "client-replies-test", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")

    def again(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)

    try:
        yield again
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(file: Path) -> None:
    """Write until nothing more fits."""
    with file.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        for size in (65_536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    filler.write(bytes(size))
