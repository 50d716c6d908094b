"""The counting that all links of the cluster share."""

from __future__ import annotations

import math

from client_replies.cluster.window import Window


def test_what_is_sent_is_in_flight_until_it_is_confirmed_or_lost() -> None:
    """A confirmation is about all messages up to it."""
    window = Window()
    assert [window.send(0.0) for _ in range(4)] == [1, 2, 3, 4]
    window.confirm(3, 0.0)
    assert window.in_flight == 1
    assert (window.lose(), window.in_flight) == (1, 0)
    assert window.send(0.0) == 5


def test_a_confirmation_that_is_late_or_of_what_was_never_sent_does_no_harm() -> None:
    """The other end may be of an earlier life, and messages overtake each other."""
    window = Window()
    window.confirm(9, 0.0)
    assert (window.in_flight, window.send(0.0), window.in_flight) == (0, 1, 1)
    window.send(0.0)
    window.confirm(2, 0.0)
    window.confirm(1, 0.0)
    assert window.in_flight == 0
    window.lose()
    window.send(0.0)
    window.confirm(2, 0.0)
    assert window.in_flight == 1


def test_the_clock_runs_while_nothing_is_confirmed_of_what_is_in_flight() -> None:
    """Later messages do not put it off; a confirmation begins it anew, and the last one ends it."""
    window = Window()
    assert window.since == math.inf
    for now in (1.0, 2.0, 3.0):
        window.send(now)
    assert window.since == 1.0
    window.confirm(0, 4.0)
    assert window.since == 1.0
    window.confirm(2, 5.0)
    assert window.since == 5.0
    window.confirm(3, 6.0)
    assert window.since == math.inf
    window.send(7.0)
    window.lose()
    assert window.since == math.inf


def test_what_has_come_is_owed_until_it_is_settled() -> None:
    """The first of what has come decides when; a message that was overtaken does not lower what was taken."""
    window = Window()
    assert (window.owed, window.owed_at) == (0, math.inf)
    window.take(2, 5.0)
    window.take(1, 6.0)
    assert (window.owed, window.owed_at) == (2, 5.0)
    assert window.settle() == 2
    assert (window.owed, window.owed_at) == (0, math.inf)
    assert window.settle() == 2
