"""The transport's own selector and first pause, in place of Thespian's."""

import errno
import importlib
import os
import pickle
import selectors
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from thespian.actors import Actor, ActorAddress

from client_replies.actors.pace import FIRST_PAUSE, OneCallSelector, has_arrived, quicken_transport
from client_replies.actors.system import OwnedSystem

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give two connected sockets."""
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def selected(events: dict[int, int], timeout: float | None = 0) -> dict[int, int]:
    """Select once, and give what is ready by descriptor."""
    selector = OneCallSelector()
    for fd, event in events.items():
        selector.register(fd, event)
    ready = {key.fd: event for key, event in selector.select(timeout)}
    selector.close()
    return ready


def test_it_tells_what_is_ready_and_only_what_was_asked(pair: tuple[socket.socket, socket.socket]) -> None:
    """The same answers as the standard selector, for each state that a connection can be in."""
    left, right = pair
    states = (lambda: None, lambda: right.send(b"x"), lambda: right.shutdown(socket.SHUT_WR), right.close)
    for change in states:
        change()
        for asked in (READ, WRITE, READ | WRITE):
            with selectors.DefaultSelector() as standard:
                standard.register(left, asked)
                expected = {key.fd: event for key, event in standard.select(0)}
            assert selected({left.fileno(): asked}) == expected


def test_a_descriptor_may_be_named_twice(pair: tuple[socket.socket, socket.socket]) -> None:
    """Once to read and once to write, where the standard selectors raise and Thespian's loop would end."""
    left, right = pair
    right.send(b"x")
    selector = OneCallSelector()
    selector.register(left.fileno(), READ)
    selector.register(left.fileno(), WRITE)
    assert [(key.fd, event) for key, event in selector.select(0)] == [(left.fileno(), READ | WRITE)]


def test_a_short_wait_is_not_cut_to_none(pair: tuple[socket.socket, socket.socket]) -> None:
    """A wait below a millisecond lasts one; a negative one is over at once; nothing is ready after either."""
    left, _right = pair
    for timeout in (0.0001, -1):
        assert selected({left.fileno(): READ}, timeout) == {}


def test_a_closed_descriptor_is_an_error() -> None:
    """Thespian looks for the bad one among those that its actors watch when it hears EBADF."""
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(OSError, match="closed") as caught:
        selected({reader: READ})
    os.close(writer)
    assert caught.value.errno == errno.EBADF
    with pytest.raises(ValueError, match="-1"):
        selected({-1: READ})


def test_quickening_twice_is_quickening_once() -> None:
    """Thespian's modules find the replacements under the names that they look up."""
    quicken_transport()
    quicken_transport()
    transport: Any = importlib.import_module("thespian.system.transport")
    tcp: Any = importlib.import_module("thespian.system.transport.TCPTransport")
    assert tcp.selectors.DefaultSelector is OneCallSelector
    assert transport.backoffDelay() < 2 * FIRST_PAUSE


def test_arrived_is_what_a_read_would_give_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    """Data, and the news of a closed connection; looking takes nothing away."""
    left, right = pair
    left.setblocking(False)
    assert not has_arrived(left)
    right.send(b"x")
    assert has_arrived(left)
    assert left.recv(8) == b"x"
    assert not has_arrived(left)
    right.close()
    assert has_arrived(left)
    assert left.recv(8) == b""


class TurnsCounted(Actor):
    """Answers a message with how often its process has waited so far."""

    turns = 0

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Begin to count, or answer."""
        if message == "begin":
            waits = OneCallSelector.select

            def counted(selector: OneCallSelector, timeout: float | None = None) -> list[tuple[Any, int]]:
                self.turns += 1
                return waits(selector, timeout)

            OneCallSelector.select = counted  # type: ignore[method-assign, assignment]
        self.send(sender, self.turns)


def test_a_message_and_its_answer_take_few_turns(tcp_system: OwnedSystem) -> None:
    """Receiving and answering is one turn and the acknowledgement another; step by step they were five."""
    actor = tcp_system.createActor(TurnsCounted)
    count = 100
    first = tcp_system.ask(actor, "begin", 10)
    for _ in range(count):
        last = tcp_system.ask(actor, "again", 10)
    assert last - first < 3.5 * count


def test_what_a_message_holds_is_told_when_it_is_read_and_not_before() -> None:
    """The transport names every intent and envelope for log lines that are hardly ever written."""
    quicken_transport()
    transport = importlib.import_module("thespian.system.transport")

    class Reluctant:
        told = 0

        def __str__(self) -> str:
            self.told += 1
            return "what it holds"

    message = Reluctant()
    envelope = transport.ReceiveEnvelope("somebody", message)
    intent = transport.TransmitIntent("somebody", message)
    told = [envelope.identify(), intent.identify()]
    assert message.told == 0
    for text in (*map(str, told), *pickle.loads(pickle.dumps(told)), str(envelope), str(intent)):
        assert "what it holds" in text
