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
        assert outbox.next_number("read") == 1
        outbox.post("read", request(1), 0.0)
        assert sent == [request(1)]
        assert outbox.is_busy("read") and outbox.any_busy and not outbox.is_busy("write")
        assert outbox.in_flight("read", 1) == request(1)
        assert outbox.answered("read", 1) == request(1)
        assert outbox.answered("read", 1) is None
        assert not outbox.any_busy and outbox.next_number("read") == 2

    def test_an_answer_to_another_request_counts_for_nothing(self, outbox: Outbox) -> None:
        outbox.post("read", request(1), 0.0)
        assert outbox.answered("read", 2) is None and outbox.answered("write", 1) is None
        assert outbox.in_flight("read", 2) is None
        assert outbox.answered("read") == request(1)  # its class alone says what it answers

    def test_a_lane_has_one_request_in_flight(self, outbox: Outbox) -> None:
        outbox.post("read", request(1), 0.0)
        outbox.post(("read", 2), request(2), 0.0)
        with pytest.raises(InvariantBroken, match="two requests in lane read"):
            outbox.post("read", request(2), 0.0)

    def test_what_is_overdue_is_sent_again_unchanged(self, outbox: Outbox, sent: list[Message]) -> None:
        assert outbox.due == math.inf
        outbox.post("open", request(1), 10.0, timeout=5.0)
        outbox.post("read", request(2), 10.0)
        assert outbox.due == 12.0
        assert outbox.resend(11.9) == 0
        assert outbox.resend(12.0) == 1 and sent[2:] == [request(2)]
        assert outbox.due == 14.0
        assert outbox.resend(15.0) == 2 and sent[3:] == [request(1), request(2)]
        assert outbox.due == 17.0  # the longer timeout was for the first time

    def test_a_busy_receiver_puts_off_the_next_sending(self, outbox: Outbox, sent: list[Message]) -> None:
        outbox.post("acquire", request(1), 0.0)
        outbox.postpone("acquire", 1.5)
        assert outbox.resend(3.4) == 0 and outbox.resend(3.5) == 1

    def test_numbers_go_on_after_forgetting(self, outbox: Outbox) -> None:
        outbox.post("read", request(1), 0.0)
        outbox.forget()
        assert outbox.due == math.inf and outbox.next_number("read") == 2
        assert outbox.answered("read", 1) is None


class TestTurns:
    def test_each_number_is_new_once(self) -> None:
        turns = Turns()
        assert turns.admit(1) is Turn.NEW
        assert turns.admit(1) is Turn.NEW  # nothing was begun
        turns.begin(1, request(1))
        assert turns.admit(1) is Turn.REPEATED and turns.answer == request(1)
        assert turns.admit(2) is Turn.NEW

    def test_an_unanswered_request_waits_and_lets_none_past(self) -> None:
        turns = Turns()
        turns.begin(1)
        assert turns.admit(1) is Turn.WAITING
        assert turns.admit(2) is Turn.SKIPPED and turns.expected == 1
        turns.answer = request(1)
        assert turns.admit(2) is Turn.NEW and turns.expected == 2

    def test_a_late_one_is_old_and_a_later_one_is_skipped(self) -> None:
        turns = Turns()
        turns.begin(1, request(1))
        turns.begin(2, request(2))
        assert turns.admit(1) is Turn.OLD and turns.admit(0) is Turn.OLD
        assert turns.admit(4) is Turn.SKIPPED and turns.expected == 3
