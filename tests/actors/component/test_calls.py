"""Requests in flight: one a lane, answered once, sent again when they are overdue."""

import pytest
from thespian.actors import ActorAddress

from client_replies.actors.component.calls import Calls
from client_replies.messages.faults import InvariantBroken
from client_replies.messages.message import Message
from client_replies.messages.storage_io import CloseStorage

TARGET = ActorAddress("somebody")


def request(number: int) -> Message:
    """Give a request that can be told from others."""
    return CloseStorage(batch=number)


def test_a_lane_has_one_request_and_lanes_do_not_wait_for_each_other() -> None:
    """A second one in the same lane is a bug; in another lane it is welcome."""
    calls = Calls(1.0)
    calls.start("a", TARGET, request(1), 0.0)
    calls.start("b", TARGET, request(2), 0.0)
    assert calls.is_busy("a")
    assert calls.any_busy
    with pytest.raises(InvariantBroken):
        calls.start("a", TARGET, request(3), 0.0)
    assert calls.answered("a", 1) == request(1)
    assert not calls.is_busy("a")
    assert calls.is_busy("b")


def test_an_answer_counts_once_and_only_for_the_request_in_flight() -> None:
    """A repeated one, one with another number and one to nothing count for nothing."""
    calls = Calls(1.0)
    assert calls.answered("a", 1) is None
    calls.start("a", TARGET, request(1), 0.0)
    assert calls.answered("a", 2) is None
    assert calls.answered("a", 0) is None
    assert calls.answered("a", 1) == request(1)
    assert calls.answered("a", 1) is None
    assert calls.answered("a") is None


def test_numbers_grow_by_one_and_are_never_used_twice() -> None:
    """Also after what was in flight is forgotten."""
    calls = Calls(1.0)
    assert calls.next_number("a") == 1
    calls.start("a", TARGET, request(1), 0.0)
    assert calls.next_number("a") == 2
    calls.forget()
    assert not calls.any_busy
    assert calls.next_number("a") == 2
    calls.start("a", TARGET, request(2), 0.0)
    assert calls.answered("a", 1) is None
    assert calls.answered("a") == request(2)
    assert calls.next_number("b") == 1


def test_what_has_no_answer_in_time_is_sent_again_once_a_period() -> None:
    """Its clock starts anew with each sending; what was answered is not sent again."""
    calls = Calls(1.0)
    calls.start("a", TARGET, request(1), 0.0)
    calls.start("b", TARGET, request(2), 0.5)
    assert calls.overdue(0.9) == []
    assert [(call.target, call.message) for call in calls.overdue(1.0)] == [(TARGET, request(1))]
    assert [call.message for call in calls.overdue(1.6)] == [request(2)]
    calls.answered("a", 1)
    assert [call.message for call in calls.overdue(9.0)] == [request(2)]
