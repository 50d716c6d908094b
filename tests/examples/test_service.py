"""The service: what is executed, once, and what each kind of request is told."""

from __future__ import annotations

import pytest

from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import HEADER_SIZE

from examples.cluster.ledger import EQUITY, Outcome, Result, Transfer
from examples.cluster.protocol import OPERATION_TRANSFER, Entry, Refusal, Request
from examples.cluster.service import (
    PLANTED_OP,
    Admit,
    Applied,
    Execution,
    Ignore,
    Plant,
    Refuse,
    Repeat,
    Service,
    wrong_reply,
)

CLUSTER = 7


class Bench:
    """A service, its journal, and entries in the order of their making."""

    def __init__(self, plant: Plant | None = None, clients_max: int = 4) -> None:
        self.journal: list[Execution] = []
        self.service = Service(cluster=CLUSTER, clients_max=clients_max, record=self.journal.append, plant=plant)
        self.op = 0

    def apply(self, request: Request) -> Applied | None:
        """Order and execute a request."""
        self.op += 1
        return self.service.apply(Entry(op=self.op, view=0, replica=0, timestamp=self.op, request=request))

    def register(self, client: int) -> int:
        """A client's session."""
        applied = self.apply(registration(client))
        assert applied is not None
        return applied.reply.header.session


def registration(client: int) -> Request:
    """A client asks for a session."""
    return Request.build(cluster=CLUSTER, client=client, session=0, number=0, operation=1, body=b"")


def transfer(client: int, session: int, number: int, amount: int = 5, operation: int = OPERATION_TRANSFER) -> Request:
    """A client asks for a transfer."""
    body = Transfer(number, EQUITY, "ada", amount).encode()
    return Request.build(cluster=CLUSTER, client=client, session=session, number=number, operation=operation, body=body)


def test_a_request_is_executed_once_and_then_repeated_from_its_slot() -> None:
    """New, then a duplicate whose reply is in the slot that was named; the journal has one line."""
    bench = Bench()
    session = bench.register(1)
    request = transfer(1, session, 1)
    assert bench.service.decide(request) == Admit()
    applied = bench.apply(request)
    assert applied is not None
    packed = applied.reply.pack()
    assert bench.service.decide(request) == Repeat(applied.slot, packed[:HEADER_SIZE])
    assert bench.apply(request) is None
    assert bench.service.skipped == 1
    assert [line.request for line in bench.journal] == [0, 1]
    assert Result.decode(applied.reply.body).outcome is Outcome.DONE
    assert applied.reply.header.request_checksum == request.checksum


def test_a_registration_is_answered_by_its_header_alone() -> None:
    """Its reply has no body, so no slot holds it; what the slot held before is removed."""
    bench = Bench()
    request = registration(1)
    assert bench.service.decide(request) == Admit()
    applied = bench.apply(request)
    assert applied is not None
    assert applied.reply.header.size_body == 0
    assert applied.removed == (applied.slot,)
    assert bench.service.decide(request) == Repeat(applied.slot, applied.reply.pack())


def test_each_wrong_request_is_told_why_or_ignored() -> None:
    """A client that has to be told is told; one that waits for nothing is not."""
    bench = Bench()
    assert bench.service.decide(transfer(1, 1, 1)) == Refuse(Refusal.NO_SESSION)
    session = bench.register(1)
    bench.apply(transfer(1, session, 1))
    bench.apply(transfer(1, session, 2))
    assert bench.service.decide(transfer(1, session, 2, amount=6)) == Refuse(Refusal.OTHER_REQUEST)
    assert isinstance(bench.service.decide(transfer(1, session, 1)), Ignore)
    assert isinstance(bench.service.decide(transfer(1, session, 9)), Ignore)
    assert isinstance(bench.service.decide(transfer(1, session + 9, 3)), Ignore)
    other = Request.build(cluster=CLUSTER + 1, client=1, session=session, number=3, operation=2, body=b"")
    assert isinstance(bench.service.decide(other), Ignore)


def test_a_full_table_evicts_and_the_evicted_client_is_told() -> None:
    """The slot passes to the new session, and holds no reply for it yet."""
    bench = Bench(clients_max=1)
    session = bench.register(1)
    bench.apply(transfer(1, session, 1))
    applied = bench.apply(registration(2))
    assert applied is not None
    assert (applied.evicted_client, applied.removed) == (1, (applied.slot,))
    assert bench.service.decide(transfer(1, session, 2)) == Refuse(Refusal.NO_SESSION)
    later = bench.register(1)
    assert later > session
    assert bench.service.decide(transfer(1, session, 2)) == Refuse(Refusal.SESSION_TOO_LOW)


def test_an_operation_that_does_not_exist_is_a_result() -> None:
    """It was committed, so it has a reply."""
    bench = Bench()
    session = bench.register(1)
    applied = bench.apply(transfer(1, session, 1, operation=99))
    assert applied is not None
    assert Result.decode(applied.reply.body).outcome is Outcome.MALFORMED


def test_replicas_that_apply_the_same_build_the_same_bytes() -> None:
    """Nothing of a replica's own is in a reply."""
    one, two = Bench(), Bench()
    for bench in (one, two):
        session = bench.register(1)
        for number in range(1, 20):
            bench.apply(transfer(1, session, number))
    assert one.journal == two.journal
    assert one.service.sessions.encode() == two.service.sessions.encode()


def test_the_planted_second_execution_shows_in_the_journal() -> None:
    """Two lines for one request: the fault is real, and the journal is written where it happens."""
    bench = Bench(plant=Plant.EXECUTE_TWICE)
    session = bench.register(1)
    for number in range(1, PLANTED_OP + 5):
        bench.apply(transfer(1, session, number))
    requests = [line.request for line in bench.journal]
    assert len(requests) == len(set(requests)) + 1


@pytest.mark.parametrize("body", [b"result", b""])
def test_the_planted_wrong_reply_is_whole_and_different(body: bytes) -> None:
    """Only a comparison of bytes can find it."""
    right = Reply.build(cluster=1, client=1, session=1, request=1, op=2, operation=2, timestamp=3, body=body).pack()
    wrong = wrong_reply(right)
    assert wrong != right
    assert Reply.unpack(wrong).header.request == 1
