"""Work beside the mailbox: what runs in a thread, what need not, and the timer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from select import select

import pytest

from client_replies.actors.thespian.environment import Completed, DescriptorTimer, ThreadExecutor

TIMEOUT_S = 30.0


@pytest.fixture
def executor() -> Iterator[ThreadExecutor]:
    """Give an executor, and end its threads."""
    executor = ThreadExecutor()
    yield executor
    executor.close()


def collected(executor: ThreadExecutor) -> None:
    """Wait until something can be collected, and collect it."""
    assert select(executor.filenos(), [], [], TIMEOUT_S)[0], "nothing was announced"
    executor.collect()


def test_a_short_function_runs_at_once_and_is_handed_over_when_collected(executor: ThreadExecutor) -> None:
    """Without a thread; its outcome comes in `collect`, as any other."""
    outcomes: list[Completed] = []
    executor.submit("write", threading.get_ident, outcomes.append, short=True)
    assert outcomes == []
    executor.collect()
    assert [outcome.value for outcome in outcomes] == [threading.get_ident()]


def test_a_short_function_waits_for_nothing_that_runs(executor: ThreadExecutor) -> None:
    """While there is another, it has a thread of its own; when there is none any more, it has not."""
    threads: dict[str, int] = {}
    go_on = threading.Event()

    def run(name: str) -> None:
        threads[name] = threading.get_ident()

    def wait() -> None:
        go_on.wait(TIMEOUT_S)

    left = {"first", "second"}
    executor.submit("read", wait, lambda _outcome: left.discard("first"))
    executor.submit("write", lambda: run("second"), lambda _outcome: left.discard("second"), short=True)
    while "second" in left:
        collected(executor)
    assert left == {"first"}, "what runs does not hold up what is short"
    assert threads["second"] != threading.get_ident()
    go_on.set()
    while left:
        collected(executor)
    executor.submit("write", lambda: run("third"), lambda _outcome: None, short=True)
    assert threads["third"] == threading.get_ident()


def test_a_short_function_that_fails_says_so_in_its_outcome(executor: ThreadExecutor) -> None:
    """Nothing leaves `submit`."""
    outcomes: list[Completed] = []

    def fail() -> None:
        raise ValueError("no")

    executor.submit("write", fail, outcomes.append, short=True)
    executor.collect()
    assert [type(outcome.error) for outcome in outcomes] == [ValueError]


def test_nothing_stays_readable_that_was_collected(executor: ThreadExecutor) -> None:
    """Also what was collected between its being there and its announcement: an actor would be woken for ever."""
    left = set(range(200))
    for number in range(200):
        executor.submit(f"lane {number % 3}", partial(int, number), lambda outcome: left.discard(outcome.value))
        executor.submit("short", lambda: None, lambda _outcome: None, short=True)  # in a thread or not, as it happens
        executor.collect()
    while left:
        collected(executor)
    for _ in range(100_000):
        if not select(executor.filenos(), [], [], 0)[0]:
            return
        executor.collect()
    pytest.fail("the descriptor stays readable")


def test_a_timer_whose_descriptor_is_readable_says_that_its_time_has_come() -> None:
    """Always: what says no then would be asked again at once, and for ever."""
    timer = DescriptorTimer()
    try:
        for _ in range(20):
            timer.set(0.01)
            assert select([timer.fileno()], [], [], TIMEOUT_S)[0]
            assert timer.drain()
            assert not timer.drain(), "once for each time"
    finally:
        timer.close()


def test_a_timer_says_nothing_before_its_time_or_without_one() -> None:
    """An hour, which takes the place of a moment."""
    timer = DescriptorTimer()
    try:
        assert not timer.drain()
        timer.set(0.0)
        timer.set(3600.0)
        assert not timer.drain()
    finally:
        timer.close()
