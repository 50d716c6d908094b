"""Whom to ask for which missing reply, with a clock that the test turns."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from thespian.actors import ActorAddress

from client_replies.actors.component.repair_planner import DENIALS, RepairPlanner, RepairRequest
from client_replies.messages.peers import REPLIES_ASKED_MAX, Missing
from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import HEADER_SIZE

ROOM = 10_000
TIMEOUT, BACKOFF = 1.0, 8.0


def header(op: int, size: int = 300) -> bytes:
    """Give the packed header of a reply of this op."""
    reply = Reply.build(
        cluster=7, client=1, session=1, request=1, op=op, operation=200, timestamp=1, body=bytes(size - HEADER_SIZE)
    )
    return reply.header.pack()


def faulty_slots(count: int, size: int = 300) -> dict[int, bytes]:
    """Give so many faulty slots."""
    return {slot: header(slot + 1, size) for slot in range(count)}


class Told(RepairPlanner):
    """A repair that is told of what the plan's caller found faulty since."""

    def plan(self, faulty: Mapping[int, bytes], now: float, room: int) -> list[RepairRequest]:
        """Tell, then plan."""
        self.tell(faulty)
        return super().plan(faulty, now, room)

    def tell(self, faulty: Mapping[int, bytes]) -> None:
        """Add each slot that is faulty, or faulty for another reply."""
        told = {**self.lost, **{slot: case.header for slot, case in self._cases.items()}}
        for slot, packed in faulty.items():
            if told.get(slot) != packed:
                self.add(slot, packed)


def repair_from(*peers: int, slots_max: int = 100, bytes_max: int = 10**9, jitter: float = 1.0) -> Told:
    """Give a repair that knows these peers."""
    repair = Told(slots_max=slots_max, bytes_max=bytes_max, timeout=TIMEOUT, backoff_max=BACKOFF, jitter=lambda: jitter)
    repair.set_peers(1, [(peer, ActorAddress(peer)) for peer in peers])
    return repair


def only(requests: list[RepairRequest]) -> RepairRequest:
    """Give the one request."""
    (request,) = requests
    return request


def deny(repair: RepairPlanner, request: RepairRequest, reason: Missing, now: float) -> list[int]:
    """Answer a whole request with one reason."""
    return repair.missing(request.replica, request.request, [(slot, reason) for slot in request.slots], now)


def test_nothing_is_asked_before_the_peers_are_known() -> None:
    """Without `SetPeers` nobody is asked and nothing is lost; with an empty list everything is."""
    repair = Told(slots_max=9, bytes_max=10**9, timeout=1.0, backoff_max=1.0, jitter=lambda: 0.0)
    faulty = faulty_slots(2)
    assert repair.plan(faulty, 0.0, ROOM) == []
    assert repair.without_peers(faulty) == []
    assert repair.set_peers(1, [])
    assert repair.without_peers(faulty) == [0, 1]
    assert repair.without_peers(faulty) == []


def test_an_older_list_of_peers_is_ignored_and_the_same_one_is_known() -> None:
    """The answer to a repeated `SetPeers` is the same; what is in flight goes on."""
    repair = repair_from(1)
    repair.plan(faulty_slots(1), 0.0, ROOM)
    assert repair.set_peers(1, [])
    assert repair.in_flight == 1
    assert repair.set_peers(3, [(2, ActorAddress(2))])
    assert not repair.set_peers(2, [(1, ActorAddress(1))])
    assert only(repair.plan(faulty_slots(1), 0.0, ROOM)).replica == 2


def test_one_request_is_in_flight_to_each_peer_and_a_slot_is_asked_of_one() -> None:
    """The first peer has all that fits; the second what is left; then nobody is asked until somebody answers."""
    repair = repair_from(1, 2, bytes_max=900)
    faulty = faulty_slots(7)
    first, second = repair.plan(faulty, 0.0, ROOM)
    assert (first.slots, second.slots) == ((0, 1, 2), (3, 4, 5))
    assert first.headers == b"".join(faulty[slot] for slot in first.slots)
    assert repair.plan(faulty, 0.5, ROOM) == []
    assert repair.in_flight == 6
    repair.found(1, first.request, first.slots)
    assert only(repair.plan({slot: faulty[slot] for slot in range(3, 7)}, 0.5, ROOM)).slots == (6,)


def test_what_is_in_flight_stays_within_slots_and_room() -> None:
    """The smaller of the two limits counts, over all peers together."""
    faulty = faulty_slots(50)
    assert sum(len(request.slots) for request in repair_from(1, 2, slots_max=5).plan(faulty, 0.0, ROOM)) == 5
    assert sum(len(request.slots) for request in repair_from(1, 2, slots_max=50).plan(faulty, 0.0, 4)) == 4
    assert repair_from(1).plan(faulty, 0.0, 0) == []
    assert repair_from(1).plan(faulty, 0.0, -3) == []


class Counted(dict[int, bytes]):
    """Faulty slots, and how often one of them was looked at."""

    looked_at = 0

    def get(self, slot: int, default: Any = None) -> Any:
        """Count, then give it."""
        self.looked_at += 1
        return super().get(slot, default)


def test_a_message_costs_what_it_is_about_however_many_slots_are_faulty() -> None:
    """Neither an answer nor a plan walks over the slots that wait, also where a peer has denied every one of them."""
    repair = RepairPlanner(slots_max=20, bytes_max=10**9, timeout=TIMEOUT, backoff_max=BACKOFF, jitter=lambda: 1.0)
    repair.set_peers(1, [(1, ActorAddress(1)), (2, ActorAddress(2))])
    faulty = Counted(dict.fromkeys(range(2000), header(1)))
    for slot, packed in faulty.items():
        repair.add(slot, packed)
    answered, silent = repair.plan(faulty, 0.0, ROOM)
    requests, denied = [answered], 0
    for _message in range(300):
        for request in requests:
            denied += len(request.slots)
            deny(repair, request, Missing.SUPERSEDED, 0.0)
        faulty.looked_at = 0
        requests = repair.plan(faulty, 0.0, ROOM)
        assert faulty.looked_at <= 20 + len(silent.slots)
    assert denied == len(faulty) - len(silent.slots)
    assert repair.lost == {}


def test_a_reply_larger_than_the_budget_is_asked_for_alone() -> None:
    """Otherwise it would never be repaired."""
    repair = repair_from(1, bytes_max=1000)
    faulty = {0: header(1, 5000), 1: header(2)}
    assert only(repair.plan(faulty, 0.0, ROOM)).slots == (0,)


def test_a_request_names_no_more_slots_than_a_message_may() -> None:
    """However many are faulty."""
    count = REPLIES_ASKED_MAX + 10
    faulty = dict.fromkeys(range(count), header(1))
    repair = repair_from(1, slots_max=count)
    assert len(only(repair.plan(faulty, 0.0, ROOM)).slots) == REPLIES_ASKED_MAX


def test_a_silent_peer_is_passed_over_and_asked_again_after_a_growing_pause() -> None:
    """After its timeout the slot is the other peer's; each further failure doubles the pause up to its limit."""
    repair = repair_from(1, 2)
    faulty = faulty_slots(1)
    assert only(repair.plan(faulty, 0.0, ROOM)).replica == 1
    assert repair.plan(faulty, TIMEOUT - 0.01, ROOM) == []
    assert only(repair.plan(faulty, TIMEOUT, ROOM)).replica == 2

    repair, now, pauses = repair_from(1), 0.0, []
    for _ in range(6):
        only(repair.plan(faulty, now, ROOM))
        failed = now + TIMEOUT
        assert repair.plan(faulty, failed, ROOM) == []
        now = next(failed + step / 10 for step in range(1000) if repair.plan(faulty, failed + step / 10, ROOM))
        pauses.append(round(now - failed, 1))
        now += TIMEOUT
        assert repair.plan(faulty, now, ROOM) == []
        now += BACKOFF
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (2.0, BACKOFF)


def test_the_pause_has_jitter_so_that_replicas_do_not_ask_in_step() -> None:
    """Between half and the whole of it."""
    faulty = faulty_slots(1)
    for jitter, pause in ((0.0, 1.0), (1.0, 2.0)):
        repair = repair_from(1, jitter=jitter)
        repair.plan(faulty, 0.0, ROOM)
        repair.plan(faulty, TIMEOUT, ROOM)
        assert repair.plan(faulty, TIMEOUT + pause - 0.01, ROOM) == []
        assert repair.plan(faulty, TIMEOUT + pause, ROOM)


def test_an_answer_ends_the_silence_of_a_peer() -> None:
    """The next failure begins with the shortest pause again."""
    repair = repair_from(1)
    faulty = faulty_slots(1)
    repair.plan(faulty, 0.0, ROOM)
    repair.plan(faulty, 1.0, ROOM)
    request = only(repair.plan(faulty, 3.0, ROOM))
    repair.found(1, request.request, request.slots)
    repair.dropped(0)
    only(repair.plan(faulty, 3.0, ROOM))
    repair.plan(faulty, 4.0, ROOM)
    assert repair.plan(faulty, 6.0, ROOM)


def test_a_reply_is_lost_when_every_peer_denied_it_within_one_period() -> None:
    """Both denials count together, either kind, and it is said once."""
    repair = repair_from(1, 2)
    faulty = faulty_slots(1)
    assert deny(repair, only(repair.plan(faulty, 0.0, ROOM)), Missing.SUPERSEDED, 0.0) == []
    assert deny(repair, only(repair.plan(faulty, 0.0, ROOM)), Missing.FAULTY, 1.0) == [0]
    assert repair.lost == faulty
    assert repair.plan(faulty, 100.0, ROOM) == []


def test_a_denial_of_long_ago_does_not_count() -> None:
    """The peer may have got the reply since: it is asked once more before the reply is called lost."""
    repair = repair_from(1, 2)
    faulty = faulty_slots(1)
    deny(repair, only(repair.plan(faulty, 0.0, ROOM)), Missing.SUPERSEDED, 0.0)
    second = only(repair.plan(faulty, 0.0, ROOM))
    assert repair.missing(2, second.request, [(0, Missing.BUSY)], 0.1) == []
    requests = repair.plan(faulty, BACKOFF + 1, ROOM)
    assert only(requests).replica == 1
    assert deny(repair, requests[0], Missing.SUPERSEDED, BACKOFF + 1) == []
    assert deny(repair, only(repair.plan(faulty, BACKOFF + 1, ROOM)), Missing.SUPERSEDED, BACKOFF + 1) == [0]


@pytest.mark.parametrize("reason", [reason for reason in Missing if reason not in DENIALS])
def test_a_peer_that_is_busy_or_behind_never_makes_a_loss(reason: Missing) -> None:
    """However often it says so; and it is not asked again at once."""
    repair = repair_from(1, 2)
    faulty = faulty_slots(1)
    for round_start in range(0, 100, 10):
        for _peer in range(2):
            request = only(repair.plan(faulty, round_start, ROOM))
            assert deny(repair, request, reason if request.replica == 2 else Missing.SUPERSEDED, round_start) == []
        assert repair.plan(faulty, round_start + 0.5, ROOM) == []
    assert repair.lost == {}


def test_a_peer_that_is_silent_for_ever_never_makes_a_loss() -> None:
    """The other one denies as often as it is asked."""
    repair = repair_from(1, 2)
    faulty = faulty_slots(1)
    for step in range(1000):
        for request in repair.plan(faulty, step / 4, ROOM):
            if request.replica == 1:
                assert deny(repair, request, Missing.SUPERSEDED, step / 4) == []
    assert repair.lost == {}


def test_a_late_denial_counts_for_nothing() -> None:
    """The peer was given up on, or asked anew since."""
    repair = repair_from(1)
    faulty = faulty_slots(1)
    late = only(repair.plan(faulty, 0.0, ROOM))
    repair.plan(faulty, TIMEOUT, ROOM)
    assert deny(repair, late, Missing.SUPERSEDED, TIMEOUT) == []
    newer = only(repair.plan(faulty, 10.0, ROOM))
    assert deny(repair, late, Missing.SUPERSEDED, 10.0) == []
    assert deny(repair, newer, Missing.SUPERSEDED, 10.0) == [0]
    assert deny(repair, newer, Missing.SUPERSEDED, 10.0) == []


def test_half_an_answer_leaves_the_other_half_in_flight() -> None:
    """What was found is no longer asked for; what was not mentioned waits for its timeout."""
    repair = repair_from(1, 2)
    faulty = faulty_slots(3)
    request = only(repair.plan(faulty, 0.0, ROOM))
    repair.found(1, request.request, [0])
    assert repair.in_flight == 2
    assert repair.plan({1: faulty[1], 2: faulty[2]}, 0.5, ROOM) == []
    assert only(repair.plan({1: faulty[1], 2: faulty[2]}, TIMEOUT, ROOM)).replica == 2


def test_a_peer_that_sent_something_else_is_not_asked_at_once_and_is_no_denial() -> None:
    """The other peer is asked meanwhile; alone, it is asked again after a pause."""
    faulty = faulty_slots(1)
    repair = repair_from(1, 2)
    request = only(repair.plan(faulty, 0.0, ROOM))
    repair.found(1, request.request, request.slots)
    repair.rejected(1, 0, 0.0)
    assert only(repair.plan(faulty, 0.0, ROOM)).replica == 2
    alone = repair_from(1)
    request = only(alone.plan(faulty, 0.0, ROOM))
    alone.found(1, request.request, request.slots)
    alone.rejected(1, 0, 0.0)
    assert alone.plan(faulty, 0.5, ROOM) == []
    assert only(alone.plan(faulty, 2.0, ROOM)).replica == 1
    assert alone.lost == {}


def test_a_slot_that_expects_another_reply_is_a_new_case() -> None:
    """What was denied, lost or asked of the older reply says nothing about the newer one."""
    repair = repair_from(1)
    older, newer = {0: header(1)}, {0: header(2)}
    deny(repair, only(repair.plan(older, 0.0, ROOM)), Missing.SUPERSEDED, 0.0)
    assert repair.lost == older
    request = only(repair.plan(newer, 0.0, ROOM))
    assert repair.lost == {}
    assert request.headers == newer[0]


def answers(chance: random.Random, requests: Iterable[RepairRequest]) -> Iterable[tuple[RepairRequest, str]]:
    """Decide what becomes of each request."""
    return [(request, chance.choice(["found", "denied", "busy", "silent", "rejected"])) for request in requests]


def test_requests_are_numbered_from_1() -> None:
    """Whichever peer they go to."""
    repair = repair_from(1, 2, slots_max=2)
    first, second = repair.plan(faulty_slots(4), 0.0, ROOM)
    assert (first.request, second.request) == (1, 2)
    repair.found(2, 2, second.slots)
    assert only(repair.plan(faulty_slots(4), 0.0, ROOM)).request == 3


def test_each_slot_is_asked_for_again_when_its_own_pause_is_over() -> None:
    """The one whose pause ends first decides when there is something to do."""
    repair = repair_from(1)
    faulty = faulty_slots(3)
    request = only(repair.plan(faulty, 0.0, ROOM))
    repair.missing(1, request.request, [(1, Missing.BUSY), (2, Missing.BUSY)], 0.0)
    repair.missing(1, request.request, [(0, Missing.BUSY)], 0.25)
    assert repair.plan(faulty, 0.25, ROOM) == []
    assert repair.due == 2 * TIMEOUT
    again = only(repair.plan(faulty, 2 * TIMEOUT, ROOM))
    assert again.slots == (1, 2)
    repair.found(1, again.request, again.slots)
    assert repair.due == 2 * TIMEOUT + 0.25
    assert only(repair.plan(faulty, 2 * TIMEOUT + 0.25, ROOM)).slots == (0,)


def test_a_slot_that_is_faulty_again_is_asked_for_again() -> None:
    """Also when the peer was about to be asked for it before nothing was faulty."""
    repair = repair_from(1, slots_max=1)
    asked = only(repair.plan(faulty_slots(2), 0.0, ROOM))
    repair.found(1, asked.request, asked.slots)
    repair.forget()
    assert only(repair.plan(faulty_slots(2), 0.0, ROOM)).slots == (0,)
    repair.forget()
    repair.found(1, 2, (0,))
    repair.add(1, header(2))
    assert only(repair.plan({1: header(2)}, 0.0, ROOM)).slots == (1,)


@pytest.mark.parametrize("seed", range(10))
def test_a_random_life_keeps_to_the_limits_and_repairs_everything_in_the_end(seed: int) -> None:
    """Three peers that do as they like: no slot is asked of two, none is lost unless all denied it, none forgotten."""
    chance = random.Random(seed)
    repair = repair_from(1, 2, 3, slots_max=8, bytes_max=1500)
    faulty, denied = faulty_slots(30), dict[int, set[int]]()
    flying: dict[int, RepairRequest] = {}
    for step in range(4000):
        now = step / 4
        flying = {request: asked for request, asked in flying.items() if chance.random() < 0.9}
        requests = repair.plan(faulty, now, ROOM)
        assert repair.in_flight <= 8
        asked = [slot for peer in repair._peers.values() if peer.asked is not None for slot in peer.asked.slots]
        assert len(asked) == len(set(asked))
        assert not set(asked) & set(repair.lost)
        for request, what in answers(chance, requests):
            assert sum(300 for _ in request.slots) <= 1500
            if what == "found" or what == "rejected":
                repair.found(request.replica, request.request, request.slots)
                for slot in request.slots:
                    if what == "found":
                        faulty.pop(slot, None)
                    else:
                        repair.rejected(request.replica, slot, now)
            elif what == "busy":
                deny(repair, request, Missing.BUSY, now)
            elif what == "denied":
                for slot in request.slots:
                    denied.setdefault(slot, set()).add(request.replica)
                for slot in deny(repair, request, Missing.FAULTY, now):
                    assert denied[slot] == {1, 2, 3}
        if set(faulty) == set(repair.lost):
            break
    assert set(faulty) == set(repair.lost)
