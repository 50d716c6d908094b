"""The transport in this process: what its parts do with each other, without actors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from thespian.actors import ActorAddress

from client_replies.actors.thespian.base.endpoint import Endpoint
from client_replies.actors.thespian.base.transport import Transport


@pytest.fixture
def transport() -> Iterator[Transport]:
    """Give a transport that nobody knows."""
    one = Transport(Endpoint(None, ActorAddress(None), None))
    yield one
    one.close()


def test_a_message_that_waits_for_room_is_not_overtaken_by_one_that_was_left_after_it(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first waits, the loop is run within it, and is woken for the second."""
    sent = []

    def send(_details: object, _parts: object, _size: int, message: Any) -> None:
        if message == "first":
            transport.loop.wake()
            transport.loop.turn(0)
        sent.append(message)

    monkeypatch.setattr(transport, "_send", send)
    for message in ("first", "second"):
        transport._posted.append((ActorAddress(None), [], 0, message))  # type: ignore[arg-type]
    transport.loop.wake()
    transport.loop.turn(0)
    assert sent == ["first", "second"]
