"""What lies between two hosts in the tests: a line that can be slow, silent, or broken."""

import contextlib
import selectors
import socket
import struct
import threading
import time
from typing import Any

from thespian.actors import ActorAddress

from client_replies.actors.thespian.base.addresses import HostAddress

BUFFER = 32 * 1024


class Forwarder:
    """Listens at an address of its own for a process of another host, and passes on what comes, both ways."""

    def __init__(self, target: ActorAddress, ip: str = "127.0.0.9", bytes_per_s: float = float("inf")) -> None:
        details: Any = target.addressDetails
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._listening.bind((ip, 0))
        self._listening.listen()
        self._target = details.sockname
        self.address = ActorAddress(HostAddress(ip, self._listening.getsockname()[1], details.token))
        self.bytes_per_s = bytes_per_s
        self.connections = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Forwarder":
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._listening.close()
        self.cut()

    def cut(self) -> None:
        """Reset every connection."""
        for pair in self._pairs:
            for each in pair:
                with contextlib.suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                each.close()
        self._pairs.clear()

    def _run(self) -> None:
        while not self._ended.is_set():
            with selectors.DefaultSelector() as selector:
                selector.register(self._listening, selectors.EVENT_READ)
                for source, sink in [*self._pairs, *((b, a) for a, b in self._pairs)]:
                    if source.fileno() >= 0:
                        selector.register(source, selectors.EVENT_READ, sink)
                for key, _ in selector.select(0.02):
                    if key.data is None:
                        self._accept()
                    elif key.fileobj.fileno() >= 0:  # type: ignore[union-attr]
                        self._pass_on(key.fileobj, key.data)

    def _accept(self) -> None:
        accepted, _ = self._listening.accept()
        self._pairs.append((accepted, socket.create_connection(self._target)))
        self.connections += 1

    def _pass_on(self, source: Any, sink: socket.socket) -> None:
        try:
            data = source.recv(BUFFER)
            sink.sendall(data)
        except OSError:
            data = b""
        if not data:
            source.close()
            sink.close()
            self._pairs = [pair for pair in self._pairs if source not in pair]
        elif self.bytes_per_s != float("inf"):
            time.sleep(len(data) / self.bytes_per_s)
