"""The example's messages: valid or not made, whole after a journey."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from client_replies.cluster.protocol import Answer, Redirected, Refusal, Refused, Request
from client_replies.cluster.replica.network import ITEMS_MAX, Envelope
from client_replies.cluster.vsr.messages import PrepareOk
from client_replies.messages.message import Message, MessageInvalid


def request(number: int = 1) -> Request:
    """A request of a session."""
    return Request.build(cluster=1, client=2, session=3, number=number, operation=2, body=b"body")


REGISTRATION = Request.build(cluster=1, client=2, session=0, number=0, operation=1, body=b"")
SAMPLES: tuple[Message, ...] = (
    request(),
    REGISTRATION,
    Answer(client=2, reply=bytes(256)),
    Refused(client=2, session=3, number=1, refusal=Refusal.NO_SESSION),
    Redirected(client=2, view=4, replica=1),
    Envelope(
        sender="client-0",
        number=1,
        taken=0,
        items=(request(), REGISTRATION, PrepareOk(view=0, replica=1, op=5, voting=True)),
    ),
)


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
        (SAMPLES[2], {"reply": bytes(255)}),
        (SAMPLES[3], {"refusal": "gone"}),
        (SAMPLES[2], {"view": -1}),
        (SAMPLES[4], {"replica": 256}),
        (SAMPLES[5], {"items": ("text",)}),
        (SAMPLES[5], {"items": (SAMPLES[0],) * (ITEMS_MAX + 1)}),
        (SAMPLES[5], {"sender": 5}),
    ],
)
def test_a_message_that_breaks_a_rule_is_not_made(message: Message, changes: dict[str, object]) -> None:
    """The field is named, with what was found and what was expected."""
    with pytest.raises(MessageInvalid) as caught:
        replace(message, **changes)
    assert caught.value.field
