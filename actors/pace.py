"""Four things that Thespian's TCP transport need not wait for.

Guarantees, once `quicken_transport` was called: waiting for messages is one system call, where the transport's loop
makes an epoll descriptor, registers every socket and closes it again, several times a message (a fifth of a message's
cost); a transmit that finds its socket busy, as happens when both sides talk, pauses for a millisecond at first and
longer each time, where it began with 34 ms; and what has arrived of a frame is read at once, and a frame that was sent
is waited for at once, where each step took a turn of the loop (two turns for each message received and answered, where
there were five: a third of a message's cost); and what a message holds is not made into text for log lines that are
not written (a sixth of a round trip).

Gives up: thousands of descriptors in one actor, for which epoll is there; who has them watches one that stands for all.
Turns between the parts of one frame: others wait until what has arrived of it is read, at most one frame.

Owns: the names that the transport's modules look up for these four.
"""

from __future__ import annotations

import errno
import importlib
import math
import select
import selectors
import socket
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple

FIRST_PAUSE = timedelta(milliseconds=1)

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_NOT_READ, _NOT_WRITE = ~select.POLLIN, ~select.POLLOUT


class Ready(NamedTuple):
    """What the transport looks at in a selector's answer."""

    fd: int


class OneCallSelector:
    """What the transport uses of a selector: register, select once, close."""

    def __init__(self) -> None:
        self._events: dict[int, int] = {}

    def register(self, fd: int, events: int) -> None:
        """Wait for these events too. Raises ValueError for what can be no descriptor, as the standard selectors do."""
        if fd < 0:
            raise ValueError(f"invalid file descriptor: {fd}")
        self._events[fd] = self._events.get(fd, 0) | events

    def select(self, timeout: float | None = None) -> list[tuple[Ready, int]]:
        """What is ready, at the latest after `timeout` seconds. Raises OSError (EBADF) if a descriptor is closed."""
        poll = select.poll()
        for fd, events in self._events.items():
            poll.register(fd, (select.POLLIN if events & _READ else 0) | (select.POLLOUT if events & _WRITE else 0))
        ready = []
        for fd, found in poll.poll(None if timeout is None else math.ceil(max(0.0, timeout) * 1000)):
            if found & select.POLLNVAL:
                raise OSError(errno.EBADF, "a descriptor that is waited for is closed")
            events = (_WRITE if found & _NOT_READ else 0) | (_READ if found & _NOT_WRITE else 0)
            ready.append((Ready(fd), events & self._events[fd]))
        return ready

    def close(self) -> None:
        """There is nothing to close."""


def has_arrived(connection: socket.socket) -> bool:
    """Whether a read would give something at once, be it the news that the connection is closed."""
    try:
        connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True  # the read says what it is
    return True


def _take_turns_at_once(transport: Any) -> None:
    """Take a frame's or an acknowledgement's parts one after the other while they are there."""
    receive, send, take_answer = transport._handleReadableIncoming, transport._next_XMIT_2, transport._next_XMIT_4

    def receive_all(self: Any, incoming: Any, has_exclusive_flag: bool = False) -> Any:
        again = receive(self, incoming, has_exclusive_flag=has_exclusive_flag)
        while again is incoming and has_arrived(incoming.socket):
            again = receive(self, incoming, has_exclusive_flag=has_exclusive_flag)
        return again

    def send_and_await(self: Any, intent: Any) -> Any:
        again = send(self, intent)
        return self._nextTransmitStep(intent) if again and intent.stage == self._XMITStepShutdownWrite else again

    def take_whole_answer(self: Any, intent: Any) -> Any:
        again = take_answer(self, intent)
        while again and intent.stage == self._XMITStepWaitForAck and has_arrived(intent.socket):
            again = take_answer(self, intent)
        return again

    transport._handleReadableIncoming = receive_all
    transport._next_XMIT_2 = send_and_await
    transport._next_XMIT_4 = take_whole_answer


class Told:
    """What something says of itself, made when it is read."""

    __slots__ = ("_of", "_tell")

    def __init__(self, tell: Callable[[Any], str], of: Any) -> None:
        self._tell = tell
        self._of = of

    def __str__(self) -> str:
        return self._tell(self._of)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)  # a line that is sent to the logger is read there


def _tell_when_read(kind: Any) -> None:
    """Let `kind` tell what it holds, which may be a batch of replies, when a line with it is written."""
    tell = kind.identify
    kind.identify = lambda self: Told(tell, self)
    kind.__str__ = tell  # it was the text that `identify` gives


def quicken_transport() -> None:
    """Do all, for every actor system that this process starts from now on. Doing it again changes nothing."""
    module: Any = importlib.import_module("thespian.system.transport.TCPTransport")
    if getattr(module.selectors, "DefaultSelector", None) is OneCallSelector:
        return
    module.selectors = SimpleNamespace(EVENT_READ=_READ, EVENT_WRITE=_WRITE, DefaultSelector=OneCallSelector)
    _take_turns_at_once(module.TCPTransport)
    pauses: Any = importlib.import_module("thespian.system.transport")
    pauses.MIN_BACKOFF_DELAY = FIRST_PAUSE
    for kind in (pauses.TransmitIntent, pauses.ReceiveEnvelope):
        _tell_when_read(kind)
