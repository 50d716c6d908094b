"""The network: the same seed, the same weather; batches, windows and what happens to a silent peer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from client_replies.cluster.replica.network import (
    ANSWER_LAG,
    ENVELOPE_TIMEOUT,
    HEARTBEATS_UNANSWERED_MAX,
    ITEMS_IN_ENVELOPE_MAX,
    QUEUE_MAX,
    WINDOW,
    Envelope,
)
from client_replies.cluster.vsr.messages import Commit, GetEntries, PrepareOk

from examples.ledger.faulty_network import (
    REPLY,
    REQUEST,
    Faults,
    FaultyLink,
    FaultyNetwork,
    cluster_faults,
)


def item(op: int) -> PrepareOk:
    """Something to send."""
    return PrepareOk(view=0, replica=1, op=op, voting=True)


def network(sent: list[tuple[str, Envelope]], faults: Faults | None = None, seed: int = 1) -> FaultyNetwork:
    """A network whose envelopes are collected."""
    return FaultyNetwork(
        "a", seed, {"PrepareOk": faults or Faults()}, lambda peer, envelope: sent.append((peer, envelope))
    )


WEATHER = Faults(drop=0.2, duplicate=0.2, delay=0.3, delay_max=0.5)


def test_a_link_decides_by_its_seed_its_ends_and_its_kind_alone() -> None:
    """The n-th message of a link has the same fate in every run, whatever other links carry."""
    decisions = [FaultyLink(1, "a", "b", "Answer", WEATHER).decide() for _ in range(1)]
    link, again = FaultyLink(1, "a", "b", "Answer", WEATHER), FaultyLink(1, "a", "b", "Answer", WEATHER)
    series = [link.decide() for _ in range(500)]
    assert series[:1] == decisions
    assert series == [again.decide() for _ in range(500)]
    for other in (
        FaultyLink(2, "a", "b", "Answer", WEATHER),
        FaultyLink(1, "b", "a", "Answer", WEATHER),
        FaultyLink(1, "a", "b", "Request", WEATHER),
    ):
        assert series != [other.decide() for _ in range(500)]


def test_another_probability_changes_only_what_it_is_about() -> None:
    """A message takes the same draws whatever happens to it, so that fates do not shift."""
    with_delay = FaultyLink(1, "a", "b", "x", Faults(drop=0.2, delay=0.5, delay_max=1.0))
    without = FaultyLink(1, "a", "b", "x", Faults(drop=0.2))
    assert [bool(with_delay.decide()) for _ in range(300)] == [bool(without.decide()) for _ in range(300)]


def test_the_weather_is_about_what_was_asked_for() -> None:
    """Frequencies over many messages."""
    link = FaultyLink(3, "a", "b", "x", WEATHER)
    series = [link.decide() for _ in range(20_000)]
    arrived = [delays for delays in series if delays]
    assert 1 - len(arrived) / len(series) == pytest.approx(0.2, abs=0.02)
    assert sum(len(delays) == 2 for delays in arrived) / len(arrived) == pytest.approx(0.2, abs=0.02)
    assert sum(delays[0] > 0 for delays in arrived) / len(arrived) == pytest.approx(0.3, abs=0.02)
    assert max(delay for delays in arrived for delay in delays) <= 0.5


def test_what_is_posted_together_travels_together() -> None:
    """One envelope a peer, however many items."""
    sent: list[tuple[str, Envelope]] = []
    net = network(sent)
    for op in range(5):
        net.post("b", item(op), 0.0)
    net.post("c", item(9), 0.0)
    net.flush(0.0)
    assert [(peer, len(envelope.items)) for peer, envelope in sent] == [("b", 5), ("c", 1)]


def test_a_peer_that_does_not_answer_gets_no_more_than_the_window() -> None:
    """What comes meanwhile waits, and is in the next envelope; a slow peer holds up no other."""
    sent: list[tuple[str, Envelope]] = []
    net = network(sent)
    for op in range(10):
        net.post("b", item(op), 0.0)
        net.flush(0.0)
    assert [len(envelope.items) for _peer, envelope in sent] == [1] * WINDOW
    net.post("c", item(0), 0.0)
    net.flush(0.0)
    assert sent[-1][0] == "c"
    net.receive(Envelope(sender="b", number=0, taken=1, items=()), 0.0)
    net.flush(0.0)
    assert len(sent[-1][1].items) == 10 - WINDOW


def test_envelopes_without_an_answer_count_as_lost_after_a_while() -> None:
    """The window opens again: what was in them is for those who sent it to repeat."""
    sent: list[tuple[str, Envelope]] = []
    net = network(sent)
    for op in range(WINDOW + 1):
        net.post("b", item(op), 0.0)
        net.flush(0.0)
    net.flush(ENVELOPE_TIMEOUT / 2)
    assert len(sent) == WINDOW
    net.flush(ENVELOPE_TIMEOUT * 2)
    assert len(sent) == WINDOW + 1
    assert net.counters["envelopes_unanswered"] == WINDOW


def test_a_peer_that_stands_still_is_sent_ever_less_until_it_is_heard_again() -> None:
    """Two of them must not use up the transmits that an actor may have outstanding: twenty, for ten seconds each."""
    sent: list[tuple[str, Envelope]] = []
    net = network(sent)
    ticks = [tick / 10 for tick in range(100)]
    for now in ticks:
        net.post("b", item(1), now)
        net.flush(now)
    assert len(sent) <= 6
    net.receive(Envelope(sender="b", number=0, taken=len(sent), items=()), ticks[-1])
    before = len(sent)
    for _ in range(WINDOW + 1):
        net.post("b", item(1), ticks[-1])
        net.flush(ticks[-1])
    assert len(sent) == before + WINDOW


def test_what_was_received_is_answered_on_the_way_or_when_it_is_time() -> None:
    """With the next envelope to the peer; alone once the peer may send no more, and at the latest after a while."""
    sent: list[tuple[str, Envelope]] = []
    net = network(sent)
    assert net.receive(Envelope(sender="b", number=1, taken=0, items=(item(1),)), 0.0) == (item(1),)
    net.flush(0.0)
    net.flush(ANSWER_LAG / 2)
    assert sent == []
    net.flush(ANSWER_LAG)
    assert [envelope.taken for _peer, envelope in sent] == [1]
    net.flush(3 * ANSWER_LAG)
    assert len(sent) == 1
    for number in (2, 3):
        net.receive(Envelope(sender="b", number=number, taken=0, items=(item(1),)), 0.0)
    net.flush(0.0)
    assert sent[-1][1].taken == 3
    net.receive(Envelope(sender="b", number=4, taken=0, items=(item(1),)), 0.0)
    net.post("b", item(7), 0.0)
    net.flush(0.0)
    assert (sent[-1][1].taken, len(sent[-1][1].items)) == (4, 1)


def test_heartbeats_alone_are_mostly_not_answered_and_a_peer_that_says_nothing_gets_no_more_of_them() -> None:
    """Of envelopes of heartbeats every few asks for an answer; without one the window closes, as for anything else."""
    sent: list[tuple[str, Envelope]] = []
    net = network(sent)
    heartbeat = Commit(view=0, commit=1, op=1, base=0)
    for _ in range(3 * HEARTBEATS_UNANSWERED_MAX):
        net.post("b", heartbeat, 0.0)
        net.flush(0.0)
    numbers = [envelope.number for _peer, envelope in sent]
    assert numbers == [0] * HEARTBEATS_UNANSWERED_MAX + [1, 2]
    heard: list[tuple[str, Envelope]] = []
    peer = network(heard)
    assert peer.receive(replace(sent[0][1], sender="b"), 0.0) == (heartbeat,)
    peer.flush(0.0)
    peer.flush(10.0)
    assert heard == []


def test_answers_that_come_in_the_wrong_order_do_no_harm() -> None:
    """Neither an older answer nor one for what was never sent."""
    sent: list[tuple[str, Envelope]] = []
    net = network(sent)
    for taken in (99, 1, 0):
        net.receive(Envelope(sender="b", number=0, taken=taken, items=()), 0.0)
    for op in range(WINDOW):
        net.post("b", item(op), 0.0)
        net.flush(0.0)
    net.receive(Envelope(sender="b", number=0, taken=2, items=()), 0.0)
    net.receive(Envelope(sender="b", number=0, taken=1, items=()), 0.0)
    for op in range(WINDOW):
        net.post("b", item(op), 0.0)
        net.flush(0.0)
    assert len(sent) == 2 * WINDOW


def test_a_lost_message_is_counted() -> None:
    """It does not travel."""
    sent: list[tuple[str, Envelope]] = []
    net = network(sent, Faults(drop=1.0))
    net.post("b", item(1), 0.0)
    net.flush(0.0)
    assert sent == []
    assert net.counters["PrepareOk_dropped"] == 1


def test_delayed_and_doubled_messages_arrive_later_and_twice() -> None:
    """Both copies, each at its time."""
    sent: list[tuple[str, Envelope]] = []
    net = network(sent, Faults(duplicate=1.0, delay=1.0, delay_max=1.0))
    net.post("b", item(1), 10.0)
    net.flush(10.0)
    assert sent == []
    net.flush(11.0)
    assert sum(len(envelope.items) for _peer, envelope in sent) == 2
    assert (net.counters["PrepareOk_duplicated"], net.counters["PrepareOk_delayed"]) == (1, 2)


def test_delayed_messages_leave_when_each_is_due() -> None:
    """Not in the order in which they were posted."""
    sent: list[tuple[str, Envelope]] = []
    net = network(sent, Faults(delay=1.0, delay_max=1.0))
    for op in range(10):
        net.post("b", item(op), 0.0)
    net.flush(0.5)
    early = [one.op for _peer, envelope in sent for one in envelope.items if isinstance(one, PrepareOk)]
    assert 0 < len(early) < 10
    net.flush(1.0)
    ops = [one.op for _peer, envelope in sent for one in envelope.items if isinstance(one, PrepareOk)]
    assert (sorted(ops), ops == sorted(ops)) == (list(range(10)), False)
    assert net.is_idle


def test_a_queue_is_bounded_and_so_is_an_envelope() -> None:
    """A full queue loses its oldest item."""
    sent: list[tuple[str, Envelope]] = []
    net = network(sent)
    for op in range(QUEUE_MAX + 3):
        net.post("b", item(op), 0.0)
    net.flush(0.0)
    first = sent[0][1].items
    assert len(first) == ITEMS_IN_ENVELOPE_MAX
    assert first[0] == item(3)
    assert net.counters["queue_overflows"] == 3


def test_the_cluster_has_weather_for_every_kind_that_may_be_lost() -> None:
    """What the user chose is what clients get."""
    faults = cluster_faults(0.1, 0.05)
    assert faults[REPLY].drop == 0.1
    assert faults[REQUEST].duplicate == 0.05
    assert GetEntries.__name__ in faults


def test_a_peer_that_is_cut_off_is_neither_heard_nor_reached() -> None:
    """And what waited for a peer that started again is not for the new one."""
    sent: list[tuple[str, Envelope]] = []
    net = network(sent)
    net.cut = frozenset({"b"})
    net.post("b", item(1), 0.0)
    net.flush(0.0)
    assert sent == []
    assert net.receive(Envelope(sender="b", number=1, taken=0, items=(item(1),)), 0.0) == ()
    net.cut = frozenset()
    for op in range(WINDOW + 1):
        net.post("b", item(op), 0.0)
        net.flush(0.0)
    net.restarted("b")
    net.flush(0.0)
    assert len(sent) == WINDOW
    net.post("b", item(9), 0.0)
    net.flush(0.0)
    assert [envelope.items for _peer, envelope in sent[WINDOW:]] == [(item(9),)]
