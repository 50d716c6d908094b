"""When a session asks again: by the round trips that were measured."""

from __future__ import annotations

import pytest

from client_replies.cluster.client.retry_timeout import RetryTimeout

FIRST, LARGEST = 0.1, 2.0


def test_a_service_that_answers_slowly_is_given_more_time() -> None:
    """At least two round trips, however steady; never less than the first timeout, or more than the largest."""
    timeout = RetryTimeout(FIRST, LARGEST)
    for _ in range(40):
        timeout.measured(0.4)
    assert 0.8 <= timeout.seconds < 0.85
    for _ in range(40):
        timeout.measured(0.001)
    assert timeout.seconds == FIRST
    for _ in range(40):
        timeout.measured(10.0)
    assert timeout.seconds == LARGEST


def test_a_timeout_that_expired_stays_doubled_until_a_request_is_answered_that_was_asked_once() -> None:
    """Else a slow cluster gets every request twice, and the measured round trip never learns that it is slow."""
    timeout = RetryTimeout(FIRST, LARGEST)
    timeout.expired()
    timeout.expired()
    assert timeout.seconds == 4 * FIRST
    timeout.measured(0.05)
    assert timeout.seconds == pytest.approx(0.15)
    for _ in range(9):
        timeout.expired()
    assert timeout.seconds == LARGEST
