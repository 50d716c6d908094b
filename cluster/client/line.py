"""A session's connection to a gateway, and addresses as people write them."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from client_replies.cluster.door.frame_decoder import FrameDecoder, Signal
from client_replies.cluster.door.frames import TO_CLIENT, Frame

from .one_process import OfOneProcess

if TYPE_CHECKING:
    from .cluster_client import ClusterClient

ADDRESS_PORT_DIGITS_MAX = 5


class SocketLine(OfOneProcess):
    """A session's connection: one socket, and what has come in on it."""

    def __init__(self, client: ClusterClient) -> None:
        super().__init__()
        self.address = client._preferred()
        self._client = client
        self._socket: socket.socket | None = None
        self._decoder = FrameDecoder(TO_CLIENT, client.reply_size_max)

    @property
    def is_open(self) -> bool:
        """There is a socket, which may be dead."""
        return self._socket is not None

    @property
    def name(self) -> str:
        """The address, for people."""
        return address_name(self._client.addresses[self.address])

    def connect(self, timeout: float) -> str | None:
        """Connect; returns what went wrong, for people."""
        try:
            connected = socket.create_connection(self._client.addresses[self.address], timeout=timeout)
        except (OSError, UnicodeError) as error:
            return str(error)
        if connected.getsockname() == connected.getpeername():
            # Linux lets a socket connect to itself when it is given the very port that nobody listens on.
            connected.close()
            return "nobody listens there"
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self._decoder = FrameDecoder(TO_CLIENT, self._client.reply_size_max)
        return None

    def send(self, packed: bytes, until: float) -> None:
        """Send all of it by then. Raises an `OSError`."""
        connected = self._connected()
        connected.settimeout(max(0.001, until - time.monotonic()))
        connected.sendall(packed)

    def receive(self, until: float) -> Frame | None:
        """The next frame, or None if none is whole by then. Raises a `FrameInvalid` or an `OSError`."""
        connected = self._connected()
        while True:
            event = self._decoder.next_event()
            if isinstance(event, Frame):
                return event
            remaining = until - time.monotonic()
            if event is Signal.CLOSED or remaining <= 0:
                if event is Signal.CLOSED:
                    raise ConnectionResetError("the gateway closed the connection")
                return None
            connected.settimeout(remaining)
            try:
                data = connected.recv(min(65_536, self._decoder.room))
            except TimeoutError:
                return None
            if data:
                self._decoder.receive_data(data)
            else:
                self._decoder.receive_end()

    def hang_up(self) -> None:
        """Close the socket."""
        connected, self._socket = self._socket, None
        if connected is None:
            return
        if not self._is_inherited:
            with suppress(OSError):
                # Another thread may be waiting in it: this wakes it, which a close alone would not.
                connected.shutdown(socket.SHUT_RDWR)
        connected.close()

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionResetError("the connection was closed")
        return self._socket


def parse_address(address: str | tuple[str, int]) -> tuple[str, int]:
    """Host and port of `host:port`, `[host]:port` or a pair. Raises `ValueError` with an example."""
    if isinstance(address, tuple):
        host, port = address
    else:
        host, _, text = address.rpartition(":")
        is_number = text.isascii() and text.isdigit() and len(text) <= ADDRESS_PORT_DIGITS_MAX
        port = int(text) if is_number else -1
        host = host.removeprefix("[").removesuffix("]")
    if not host or not 0 < port < 65_536:
        raise ValueError(f"{address!r} is no address: expected host:port, such as 127.0.0.1:4000")
    return host, port


def address_name(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
