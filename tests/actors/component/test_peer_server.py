"""What a peer asked for: each slot is answered once, with the reply or with the reason."""

import pytest
from thespian.actors import ActorAddress

from client_replies.actors.component.peer_server import Serving
from client_replies.messages.faults import InvariantBroken
from client_replies.messages.peers import GetReplies, Missing, RepliesFound, RepliesMissing
from client_replies.messages.reply_header import HEADER_SIZE

HEADERS = {slot: bytes([slot]) * HEADER_SIZE for slot in (4, 2, 7)}


def serving() -> Serving:
    """Give an answer in the making, to a request for three slots."""
    request = GetReplies(
        asker=3,
        incarnation=5,
        request=9,
        bytes_max=10_000,
        slots=tuple(HEADERS),
        headers=b"".join(HEADERS.values()),
    )
    made = Serving(request, ActorAddress("peer"))
    made.waiting.update(made.wanted())
    return made


def test_each_slot_is_wanted_with_its_own_header() -> None:
    """In the order in which they were asked for."""
    assert serving().wanted() == list(HEADERS.items())


def test_found_and_missing_together_name_each_slot_once() -> None:
    """Two messages, both with what the peer needs to recognise its request."""
    made = serving()
    made.found_reply(2, b"r" * 300)
    made.missing_reply(4, Missing.BUSY)
    assert made.waiting == {7: HEADERS[7]}
    made.missing_reply(7, Missing.FAULTY)
    assert made.answers(1) == [
        RepliesFound(asker=3, incarnation=5, request=9, peer=1, slots=(2,), replies=(b"r" * 300,)),
        RepliesMissing(asker=3, incarnation=5, request=9, peer=1, slots=(4, 7), reasons=(Missing.BUSY, Missing.FAULTY)),
    ]


def test_an_answer_of_one_kind_is_one_message() -> None:
    """Nothing empty is sent."""
    made = serving()
    for slot in HEADERS:
        made.found_reply(slot, b"r" * 300)
    (answer,) = made.answers(1)
    assert isinstance(answer, RepliesFound)
    made = serving()
    for slot in HEADERS:
        made.missing_reply(slot, Missing.BEHIND)
    (missing,) = made.answers(1)
    assert isinstance(missing, RepliesMissing)


def test_a_slot_that_is_answered_twice_is_a_bug() -> None:
    """So is one that was not asked for; either changes nothing."""
    made = serving()
    made.found_reply(2, b"r" * 300)
    for slot in (2, 5):
        with pytest.raises(InvariantBroken):
            made.missing_reply(slot, Missing.BUSY)
        with pytest.raises(InvariantBroken):
            made.found_reply(slot, b"x" * 300)
    assert (made.found, made.missing) == ({2: b"r" * 300}, {})
