"""Requests and envelopes: valid or not made, cheap to print, whole after a journey."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from client_replies.cluster.protocol import Request
from client_replies.cluster.replica.network import ITEMS_MAX, Envelope
from client_replies.cluster.vsr.messages import PrepareOk
from client_replies.messages.message import Message, MessageInvalid


def request(number: int = 1) -> Request:
    """A request of a session."""
    return Request.build(cluster=1, client=2, session=3, number=number, operation=2, body=b"body")


REGISTRATION = Request.build(cluster=1, client=2, session=0, number=0, operation=1, body=b"")
ENVELOPE = Envelope(sender="replica-1", number=1, taken=0, items=(PrepareOk(view=0, replica=1, op=5, voting=True),))
SAMPLES: tuple[Message, ...] = (request(), REGISTRATION, ENVELOPE)


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_journey(message: Message) -> None:
    """What arrives is what was sent, and valid."""
    assert pickle.loads(pickle.dumps(message)) == message
    message.validate()


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        (request(), {"body": b"other"}),
        (request(), {"checksum": bytes(16)}),
        (request(), {"number": 2}),
        (request(), {"client": 0}),
        (request(), {"session": 0}),
        (request(), {"operation": 1}),
        (request(), {"body": bytes(5000)}),
        (REGISTRATION, {"session": 1}),
        (REGISTRATION, {"operation": 2}),
        (ENVELOPE, {"items": ("text",)}),
        (ENVELOPE, {"items": (request(),)}),
        (ENVELOPE, {"items": ENVELOPE.items * (ITEMS_MAX + 1)}),
        (ENVELOPE, {"sender": 5}),
    ],
)
def test_a_message_that_breaks_a_rule_is_not_made(message: Message, changes: dict[str, object]) -> None:
    """The field is named, with what was found and what was expected."""
    with pytest.raises(MessageInvalid) as caught:
        replace(message, **changes)
    assert caught.value.field
