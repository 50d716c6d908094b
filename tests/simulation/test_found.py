"""What the simulator found in shipped code, each as the smallest test that shows it."""

from __future__ import annotations

from thespian.actors import ActorAddress

from client_replies.actors.repair import Repair
from client_replies.messages.peers import Missing
from client_replies.messages.reply_header import HEADER_SIZE


def header(mark: int) -> bytes:
    """Give something with a header's length; a size field of 0 is as good as any."""
    return bytes([mark]) + bytes(HEADER_SIZE - 1)


def repair_with_two_peers() -> Repair:
    """Give a repair that asks peers 1 and 2, and believes a denial for a second."""
    repair = Repair(slots_max=8, bytes_max=65536, timeout=0.5, backoff_max=1.0, jitter=lambda: 0.0)
    repair.set_peers(1, ((1, ActorAddress(1)), (2, ActorAddress(2))))
    return repair


def test_a_denial_of_one_reply_says_nothing_of_the_next_in_the_same_slot() -> None:
    """Seed 34: after an installation, the answer to the old question made the new reply lost."""
    repair = repair_with_two_peers()
    (asked,) = repair.plan({0: header(1)}, 0.0, 8)
    assert asked.replica == 1
    (again,) = repair.plan({0: header(2)}, 0.1, 8)
    assert again.replica == 2
    assert repair.missing(1, asked.request, [(0, Missing.FAULTY)], 0.2) == []
    assert repair.missing(2, again.request, [(0, Missing.FAULTY)], 0.3) == []
    assert repair.lost == {}


def test_a_denial_is_forgotten_when_the_slot_is_right_again() -> None:
    """Seed 19: a peer was faulty, then repaired; its old denial made a reply lost that it held by then."""
    repair = repair_with_two_peers()
    first, second = repair.plan({0: header(1)}, 0.0, 8), repair.plan({0: header(1), 1: header(2)}, 0.0, 8)
    assert [request.slots for request in (*first, *second)] == [(0,), (1,)]
    assert repair.missing(1, first[0].request, [(0, Missing.FAULTY)], 0.1) == []
    repair.forget()
    repair.found(2, second[0].request, (1,))
    asked = {request.replica for request in repair.plan({0: header(1)}, 0.2, 8)}
    assert asked == {1}
