"""An owner's round trip to its component while a stranger holds 1,000 idle connections to the component's port.

The system has other hosts, so that a port is open at all; on Thespian's own base one always is. The stranger is a
process without the key that connects once, before the measured time, and sends nothing. The base keeps few connections
of those who say nothing, and closes the others. A round trip is a read of a pending reply.
"""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from thespian.actors import ActorAddress

from client_replies.actors.thespian.base import LOOPBACK, UNIX_BASE
from client_replies.messages.replies import RepliesOpened, RepliesStatus

from .contest import ROOT, Contestant, Group, Scale, group_of
from .durable import measure_actor
from .read import PendingReader
from .targets import STRANGER

CONNECTIONS = 1000
CONNECT_TIMEOUT = 5.0
SAMPLES_MIN = 20  # Thespian's own base takes long for each
KEY = bytes(range(32))


class BesetReader(PendingReader):
    """Reads while a stranger is there."""

    _component_port = 0
    _stranger: subprocess.Popen[bytes] | None = None

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Note where the component listens: a creator knows its child by a local address until it answers."""
        if isinstance(message, RepliesStatus):
            _, self._component_port = sender.addressDetails.sockname
        super().receiveMessage(message, sender)

    def opened(self, event: RepliesOpened) -> None:
        """Let the stranger come first."""
        if self.params["connections"]:
            command = [
                sys.executable,
                "-m",
                "benchmarks.stranger",
                str(self._component_port),
                str(self.params["connections"]),
            ]
            self._stranger = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
            if self._stranger.stdout is None or not self._stranger.stdout.readline():
                self.fail("the stranger could not connect")
                return
        super().opened(event)

    def reads_done(self) -> None:
        """Let the stranger go."""
        if self._stranger is not None:
            self._stranger.kill()
            self._stranger.wait()
        super().reads_done()


def connect(port: int, count: int) -> None:
    """Make connections, say so, and hold them until killed."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    connections = [socket.create_connection((LOOPBACK, port), CONNECT_TIMEOUT) for _ in range(count)]
    print(len(connections), flush=True)
    signal.pause()


def measure(contestant: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Run one contestant of the row."""
    options = {"key": KEY} if params.get("base", UNIX_BASE) == UNIX_BASE else {}
    return measure_actor(BesetReader, {"connections": CONNECTIONS * (contestant == "with"), **params}, **options)


def groups(scale: Scale) -> list[Group]:
    """The contest of the row."""
    count = CONNECTIONS // 10 if scale.name == "tiny" else CONNECTIONS
    contestants = [
        Contestant("without", "a read of a pending reply", {"connections": 0}, on_base=True),
        Contestant("with", f"the same with {count:,} idle connections", {"connections": count}, on_base=True),
    ]
    return [group_of(STRANGER, "s", contestants, {"size": 4096, "samples": SAMPLES_MIN}, (("p99", "s"),))]


if __name__ == "__main__":
    connect(int(sys.argv[1]), int(sys.argv[2]))
