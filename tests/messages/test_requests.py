"""Numbered requests: what a sender repeats, and what a receiver makes of it."""

from __future__ import annotations

import math

import pytest

from client_replies.messages.faults import InvariantBroken
from client_replies.messages.leases import GetPoolStatus
from client_replies.messages.message import Message
from client_replies.messages.requests import Outbox, Turn, Turns


@pytest.fixture
def sent() -> list[Message]:
    return []


@pytest.fixture
def outbox(sent: list[Message]) -> Outbox:
    return Outbox(sent.append, 2.0)


def request(number: int) -> Message:
    return GetPoolStatus(request=number)


class TestOutbox:
    def test_a_request_is_sent_and_answered_once(self, outbox: Outbox, sent: list[Message]) -> None:
        """The lane is busy from the sending to the answer, and the next number follows."""
        assert outbox.next_number("read") == 1
        outbox.post("read", request(1), 0.0)
        assert sent == [request(1)]
        assert outbox.is_busy("read")
        assert not outbox.is_busy("write")
        assert outbox.in_flight("read", 1) == request(1)
        assert outbox.answered("read", 1) == request(1)
        assert outbox.answered("read", 1) is None
        assert not outbox.any_busy
        assert outbox.next_number("read") == 2

    def test_an_answer_to_another_request_counts_for_nothing(self, outbox: Outbox) -> None:
        """A late answer leaves what is in flight as it is."""
        outbox.post("read", request(1), 0.0)
        assert outbox.answered("read", 2) is None
        assert outbox.answered("write", 1) is None
        assert outbox.in_flight("read", 2) is None
        assert outbox.answered("read") == request(1)  # its class alone says what it answers

    def test_a_lane_has_one_request_in_flight(self, outbox: Outbox) -> None:
        """A second request of a lane is a bug; other lanes are their own."""
        outbox.post("read", request(1), 0.0)
        outbox.post(("read", 2), request(2), 0.0)
        with pytest.raises(InvariantBroken, match="two requests in lane read"):
            outbox.post("read", request(2), 0.0)

    def test_what_is_overdue_is_sent_again_unchanged(self, outbox: Outbox, sent: list[Message]) -> None:
        """Each after its own timeout, and then after the usual one."""
        assert outbox.due == math.inf
        outbox.post("open", request(1), 10.0, timeout=5.0)
        outbox.post("read", request(2), 10.0)
        assert outbox.due == 12.0
        assert outbox.resend(11.9) == 0
        assert outbox.resend(12.0) == 1
        assert sent[2:] == [request(2)]
        assert outbox.due == 14.0
        assert outbox.resend(15.0) == 2
        assert sent[3:] == [request(1), request(2)]
        assert outbox.due == 17.0  # the longer timeout was for the first time

    def test_a_busy_receiver_puts_off_the_next_sending(self, outbox: Outbox, sent: list[Message]) -> None:
        """A refusal as busy starts the timeout again."""
        outbox.post("acquire", request(1), 0.0)
        outbox.postpone("acquire", 1.5)
        assert outbox.resend(3.4) == 0
        assert outbox.resend(3.5) == 1

    def test_numbers_go_on_after_forgetting(self, outbox: Outbox) -> None:
        """What was forgotten was perhaps received: its number is used up."""
        outbox.post("read", request(1), 0.0)
        outbox.forget()
        assert outbox.due == math.inf
        assert outbox.next_number("read") == 2
        assert outbox.answered("read", 1) is None

    def test_a_request_with_its_own_number_does_not_count_in_its_lane(self, outbox: Outbox) -> None:
        """A lane for one request ever leaves nothing behind when it is answered."""
        outbox.post(("read", 7), request(7), 0.0, number=7)
        assert outbox.in_flight(("read", 7), 7) == request(7)
        assert outbox.answered(("read", 7), 8) is None
        assert outbox.answered(("read", 7)) == request(7)
        assert outbox.next_number(("read", 7)) == 1
        assert not outbox._numbers

    def test_what_the_receiver_has_begun_leaves_its_lane_free(self, outbox: Outbox, sent: list[Message]) -> None:
        """It stays unanswered, under its number, and is repeated from the other lane after a whole timeout."""
        outbox.post("write", request(1), 0.0)
        assert not outbox.move("write", "table", 2, 1.0)
        assert outbox.move("write", "table", 1, 1.0)
        assert not outbox.move("write", "table", 1, 1.0)
        assert not outbox.is_busy("write")
        assert outbox.resend(2.9) == 0
        assert outbox.resend(3.0) == 1
        assert sent == [request(1), request(1)]
        outbox.post("write", request(2), 3.0)
        with pytest.raises(InvariantBroken, match="two requests in lane table"):
            outbox.move("write", "table", 2, 3.0)
        assert outbox.answered("table", 1) == request(1)

    def test_a_lane_can_be_forgotten_by_itself(self, outbox: Outbox) -> None:
        """A request that a newer one replaces; one that was answered already is no mistake."""
        outbox.post("read", request(1), 0.0)
        outbox.post("write", request(1), 0.0)
        outbox.forget("read", "table")
        assert outbox.in_flight("read") is None
        assert outbox.is_busy("write")


class TestTurns:
    def test_each_number_is_new_once(self) -> None:
        """A request that was refused did not use up its number."""
        turns = Turns()
        assert turns.admit(1) is Turn.NEW
        assert turns.admit(1) is Turn.NEW  # nothing was begun
        turns.begin(1, request(1))
        assert turns.admit(1) is Turn.REPEATED
        assert turns.answer == request(1)
        assert turns.admit(2) is Turn.NEW

    def test_an_unanswered_request_waits_and_lets_none_past(self) -> None:
        """The next request is out of sequence until the last is answered."""
        turns = Turns()
        turns.begin(1)
        assert turns.admit(1) is Turn.WAITING
        assert turns.admit(2) is Turn.SKIPPED
        assert turns.expected == 1
        turns.answer = request(1)
        assert turns.admit(2) is Turn.NEW
        assert turns.expected == 2

    def test_a_late_one_is_old_and_a_later_one_is_skipped(self) -> None:
        """An earlier number says nothing new, a higher one is missing something."""
        turns = Turns()
        turns.begin(1, request(1))
        turns.begin(2, request(2))
        assert turns.admit(1) is Turn.OLD
        assert turns.admit(0) is Turn.OLD
        assert turns.admit(4) is Turn.SKIPPED
        assert turns.expected == 3
