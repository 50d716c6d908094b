"""Who may connect to this process, and what is said of those who may not.

Guarantees: a process of another user is closed before it is read; a connection that another host made is read up to
what introduces it (`hosts`). Refusals are counted, and logged at most once per `SAY_INTERVAL_S`: others may cause them
at will. That the process has no descriptor left is logged too, with a descriptor that is kept for it.

Owns: the listening sockets, the kept descriptor, and the latest connection of each channel from another host.
"""

from __future__ import annotations

import math
import os
import resource
import socket
from collections import Counter
from typing import TYPE_CHECKING

from client_replies.actors.thespian.logs import get_logger

from .hosts import CHANNELS_MAX, Hosts, HostStream
from .local import Listener, LocalStream, is_friend, peer_user
from .streams import Stream, now

if TYPE_CHECKING:
    from .transport import Transport

SAY_INTERVAL_S = 1.0
_log = get_logger("base")


class Admission:
    """See the module. `name` is this process's in the kernel's namespace of Unix sockets, `port` its own."""

    def __init__(self, transport: Transport, name: str, port: socket.socket, hosts: Hosts | None) -> None:
        self._transport = transport
        self._hosts = hosts
        self._port = port  # others know the process by it, also where nobody listens at it
        self._channels: dict[bytes, HostStream] = {}
        self._events: Counter[str] = Counter()
        self._said_at = -math.inf
        self._reserved_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(name)
        self._listeners = [Listener(transport, listening, self._admit_local)]
        if hosts is not None:
            self._listeners.append(Listener(transport, port, self._admit_host))

    def _admit_local(self, connection: socket.socket) -> Stream | None:
        if is_friend(connection):
            return LocalStream(self._transport, connection, None)
        self.say("other_user", f"user {peer_user(connection)}")
        return None

    def _admit_host(self, connection: socket.socket) -> Stream | None:
        return None if self._hosts is None else HostStream(self._transport, connection, self._hosts.key, None)

    def end(self) -> None:
        """Admit nobody any more."""
        for listener in self._listeners:
            listener.close()

    def close(self) -> None:
        """Close everything."""
        self.end()
        self._port.close()
        self._free_reserved()

    def settle(self, stream: Stream) -> None:
        """The stream has said who it is, or has ended: it is no unknown connection any more."""
        for listener in self._listeners:
            listener.known(stream)

    def channel(self, channel: bytes, first: int, stream: HostStream) -> int:
        """How many messages of a channel are here. An older connection of it has nothing more to say."""
        older = self._channels.pop(channel, None)
        self._channels[channel] = stream
        if len(self._channels) > CHANNELS_MAX:
            del self._channels[next(iter(self._channels))]
        if older is None:
            return first
        older.close()
        return max(first, older.count)

    def refuse(self, stream: Stream, reason: str) -> None:
        """Close the connection of a stranger, and say so."""
        try:
            peer = str(stream.socket.getpeername())
        except OSError:
            peer = "gone"
        self.say(reason, peer)
        stream.close()

    def say(self, event: str, peer: str, **details: object) -> None:
        """Log and count something of which there may be a flood: not every time."""
        self._events[event] += 1
        if now() - self._said_at >= SAY_INTERVAL_S:
            self._said_at = now()
            _log.warning(event, peer=peer, counts=dict(self._events), **details)

    def say_no_descriptors(self, error: OSError) -> None:
        """This process can open nothing more now. The log may need a descriptor to say so."""
        self._free_reserved()
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.say("no_descriptors", "any", error=error.strerror, limit=limit, advice="raise the limit (ulimit -n)")

    def _free_reserved(self) -> None:
        if self._reserved_fd >= 0:
            os.close(self._reserved_fd)
            self._reserved_fd = -1
