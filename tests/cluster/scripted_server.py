"""A server of the wire whose answers follow a script, in a thread of the test: what a client meets, step by step.

Guarantees: each request takes the next step of the script, or is served if there is none.

Owns: its sockets and threads.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from client_replies.cluster.door.frame_decoder import FrameDecoder
from client_replies.cluster.door.frames import TO_GATEWAY, Frame

from tests.cluster.stand_in import StandIn, StandInBehaves

Step = Callable[["ScriptedServer", socket.socket, Frame], None]


class ScriptedServer:
    """A server of the wire that serves, unless its script says what to do with the next request instead."""

    def __init__(self, stand_in: StandIn | None = None) -> None:
        self.stand_in = stand_in or StandIn(StandInBehaves())
        self.script: list[Step] = []
        self.requests: list[Frame] = []
        self.lines: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Hang up on everybody."""
        for one in (self._listener, *self.lines):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()

    def serve(self, line: socket.socket, frame: Frame) -> None:
        """What the service itself does with a request."""
        for answer in self.stand_in.handle(frame):
            if answer.client == frame.client:
                line.sendall(answer.packed)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                self.lines.append(line)
                thread = threading.Thread(target=self._converse, args=(line,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _converse(self, line: socket.socket) -> None:
        decoder = FrameDecoder(TO_GATEWAY, 4096)
        with contextlib.suppress(OSError):
            while data := line.recv(4096):
                decoder.receive_data(data)
                while isinstance(frame := decoder.next_event(), Frame):
                    self.requests.append(frame)
                    step = self.script.pop(0) if self.script else ScriptedServer.serve
                    step(self, line, frame)


# Steps.


def drop(server: ScriptedServer, line: socket.socket, frame: Frame) -> None:
    """Lose the request."""


def lose(server: ScriptedServer, line: socket.socket, frame: Frame) -> None:
    """Execute it, and lose the answer."""
    server.stand_in.handle(frame)


def hang_up(server: ScriptedServer, line: socket.socket, frame: Frame) -> None:
    """Execute it, and close the connection instead of answering."""
    server.stand_in.handle(frame)
    line.shutdown(socket.SHUT_RDWR)
