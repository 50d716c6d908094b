"""Who may lose a disk, and how a replica that does not stay up is tried again; without processes."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest

from client_replies.cluster.control import may_lose_disk
from client_replies.cluster.host.failure import MembersFailed
from client_replies.cluster.host.members import (
    RESTART_PAUSE,
    RESTARTS_MAX,
    RETRY_PAUSE,
    RETRY_PAUSE_MAX,
    Members,
    _Replica,
    on_machine,
)

from examples.ledger.ledger_replica import LedgerReplica


@pytest.mark.parametrize("replicas", [3, 5])
def test_a_disk_may_be_lost_only_while_a_majority_votes_without_it(replicas: int) -> None:
    """For each set of voters, whether or not the replica itself is among them."""
    names = [f"replica-{index}" for index in range(replicas)]
    for count in range(replicas + 1):
        for voters in itertools.combinations(names, count):
            for name in names:
                others = [voter for voter in voters if voter != name]
                assert may_lose_disk(name, voters, replicas) == (2 * len(others) > replicas)


@pytest.fixture
def members() -> Members:
    """Of no actor system."""
    return Members(system=None, replica=LedgerReplica)  # type: ignore[arg-type]


def replica(**known: Any) -> _Replica:
    """One of whom this is known."""
    return _Replica(start=None, **known)  # type: ignore[arg-type]


def test_who_says_why_it_stops_is_tried_again_ever_more_slowly_and_never_given_up(members: Members) -> None:
    """It ended the whole cluster after twelve times."""
    one = replica(reason="the disk is full")
    pauses = [members._pause(one, now) for now in range(100)]
    assert pauses[:4] == [RETRY_PAUSE, 2 * RETRY_PAUSE, 4 * RETRY_PAUSE, 8 * RETRY_PAUSE]
    assert pauses[-1] == RETRY_PAUSE_MAX


def test_who_was_killed_comes_back_at_once_and_who_ends_again_and_again_more_slowly(members: Members) -> None:
    """Without a word, twelve times within twenty seconds: something is wrong that a restart does not mend."""
    one = replica()
    assert [members._pause(one, 0.0) for _ in range(RESTARTS_MAX)] == [RESTART_PAUSE] * RESTARTS_MAX
    assert members._pause(one, 0.0) == RETRY_PAUSE_MAX
    assert f"ended {RESTARTS_MAX} times" in one.reason
    assert members._pause(replica(), 1000.0) == RESTART_PAUSE


def test_a_reason_that_comes_after_the_end_was_seen_still_counts(members: Members) -> None:
    """The message and the end of the process race."""
    now = time.monotonic()
    one = members.replicas["replica-0"] = replica(ended=7, restart_at=now + RESTART_PAUSE)
    members._stopped(one, 6, "of an earlier life")
    assert members.replicas["replica-0"].reason == ""
    members._stopped(one, 7, "the disk is full")
    assert members.replicas["replica-0"].reason == "the disk is full"
    assert one.restart_at >= now + RETRY_PAUSE


def test_what_the_machine_refuses_ends_the_script_with_a_reason() -> None:
    """And what a closed pipe says of our reader is passed on as that."""
    with pytest.raises(MembersFailed, match="this machine refuses"), on_machine():
        raise OSError(28, "No space left on device")
    with pytest.raises(BrokenPipeError), on_machine():
        raise BrokenPipeError
