"""One session's client: what it sends and when, and which answers count."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from client_replies.cluster.protocol import Answer, Refusal, Refused, Request
from client_replies.messages.reply import Reply

from examples.ledger.session_client import (
    JITTER,
    RETRY_FIRST,
    RETRY_MAX,
    AnswerKind,
    SessionClient,
    SessionEnded,
)

CLUSTER, CLIENT, SESSION = 7, 5, 40


def answer(asked: Request, *, body: bytes = b"", session: int = SESSION, op: int = 50, **changes: object) -> Answer:
    """The service's answer to a request, or one that differs from it."""
    op = session if asked.is_registration else op
    fields: dict[str, object] = {
        "cluster": CLUSTER,
        "client": CLIENT,
        "session": session,
        "request": asked.number,
        "op": op,
        "operation": asked.operation,
        "timestamp": 1,
        "body": body,
        "request_checksum": asked.checksum,
    }
    return Answer(client=CLIENT, reply=Reply.build(**{**fields, **changes}).pack())  # type: ignore[arg-type]


@dataclass
class Bench:
    """A session whose requests are collected."""

    sent: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.session = SessionClient(
            cluster=CLUSTER, client=CLIENT, send=self.sent.append, uniform=random.Random(1).uniform
        )

    def registered(self) -> SessionClient:
        """The session once it is registered."""
        self.session.register(0.0)
        self.session.receive(answer(self.sent.pop()), 0.0)
        return self.session


def test_a_session_registers_and_numbers_its_requests_from_one() -> None:
    """The session's number comes with the answer to the registration."""
    bench = Bench()
    session = bench.registered()
    assert session.session == SESSION
    for number in (1, 2, 3):
        assert session.request(2, b"x", 0.0) == number
        request = bench.sent.pop()
        assert (request.number, request.session, request.operation) == (number, SESSION, 2)
        received = session.receive(answer(request, body=b"result"), 0.25)
        assert (received.kind, received.body, received.latency, received.tries) == (
            AnswerKind.FIRST,
            b"result",
            0.25,
            1,
        )
    assert not session.is_waiting


def test_one_thing_is_asked_at_a_time() -> None:
    """Neither before the registration nor beside another request."""
    bench = Bench()
    with pytest.raises(RuntimeError):
        bench.session.request(2, b"x", 0.0)
    session = bench.registered()
    session.request(2, b"x", 0.0)
    with pytest.raises(RuntimeError):
        session.request(2, b"y", 0.0)


def test_a_request_is_repeated_unchanged_with_growing_pauses_and_jitter() -> None:
    """Exponential backoff up to a limit; no two pauses in step; the same bytes each time."""
    bench = Bench()
    session = bench.registered()
    session.request(2, b"x", 0.0)
    times = []
    for tick in range(20_000):
        before = len(bench.sent)
        session.tick(tick / 1000)
        if len(bench.sent) > before:
            times.append(tick / 1000)
    assert len(set(map(id, bench.sent))) == 1
    pauses = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    assert pauses[0] == pytest.approx(RETRY_FIRST, rel=JITTER + 0.02)
    assert pauses[1] > pauses[0]
    assert max(pauses) <= RETRY_MAX * (1 + JITTER) + 0.01
    assert len({round(pause, 3) for pause in pauses[-5:]}) > 1
    assert session.retries == len(times)
    session.receive(answer(bench.sent[0], body=b"r"), 20.0)
    session.tick(100.0)
    assert len(bench.sent) == len(times) + 1


def test_a_service_that_answers_slowly_is_given_more_time() -> None:
    """The first pause follows the round trips that were seen; repeated requests tell nothing about these."""
    bench = Bench()
    session = bench.registered()
    now = 0.0
    for _ in range(40):
        session.request(2, b"x", now)
        session.receive(answer(bench.sent[-1], body=b"r"), now + 0.1)
        now += 1.0
    count = len(bench.sent)
    session.request(2, b"x", now)
    session.tick(now + 0.14)
    assert len(bench.sent) == count + 1
    session.tick(now + 0.26)
    assert len(bench.sent) == count + 2


def test_a_timeout_that_expired_stays_doubled_until_a_request_is_answered_that_was_asked_once() -> None:
    """Else a slow cluster gets every request twice, and the measured round trip never learns that it is slow."""
    bench = Bench()
    session = bench.registered()
    slow = 4 * RETRY_FIRST
    now, tries = 0.0, []
    for _ in range(6):
        session.request(2, b"x", now)
        for step in range(100):
            session.tick(now + slow * step / 100)
        tries.append(session.receive(answer(bench.sent[-1], body=b"r"), now + slow).tries)
        now += 1.0
    assert tries[0] > 1
    assert tries[2:] == [1, 1, 1, 1]


def test_an_answer_that_comes_again_is_handed_out_as_repeated() -> None:
    """And one to an earlier request as stale: nobody waits for it, but its bytes can be compared."""
    bench = Bench()
    session = bench.registered()
    session.request(2, b"x", 0.0)
    first = answer(bench.sent[0], body=b"r")
    assert session.receive(first, 0.0).kind is AnswerKind.FIRST
    again = session.receive(first, 0.0)
    assert (again.kind, again.data) == (AnswerKind.REPEATED, first.reply)
    session.request(2, b"y", 0.0)
    assert session.receive(first, 0.0).kind is AnswerKind.STALE
    assert session.is_waiting


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster": 8},
        {"client": 6},
        {"session": 39},
        {"request": 2},
        {"request_checksum": bytes(16)},
    ],
)
def test_an_answer_to_something_else_does_not_count(changes: dict[str, int]) -> None:
    """It must be of this cluster, client and session, to this request and its very contents."""
    bench = Bench()
    session = bench.registered()
    session.request(2, b"x", 0.0)
    received = session.receive(answer(bench.sent[0], body=b"r", **changes), 0.0)
    assert received.kind is AnswerKind.INVALID
    assert received.reason
    assert session.is_waiting


def test_a_damaged_answer_does_not_count() -> None:
    """Any flipped byte, and any missing one."""
    bench = Bench()
    session = bench.registered()
    session.request(2, b"x", 0.0)
    whole = answer(bench.sent[0], body=b"result").reply
    for position in range(0, len(whole), 3):
        broken = bytearray(whole)
        broken[position] ^= 1
        assert session.receive(Answer(client=CLIENT, reply=bytes(broken)), 0.0).kind is AnswerKind.INVALID
    assert session.receive(Answer(client=CLIENT, reply=whole[:-1]), 0.0).kind is AnswerKind.INVALID
    assert session.is_waiting


def test_a_refusal_ends_what_it_is_about_and_nothing_else() -> None:
    """A late refusal of an earlier request is no news."""
    bench = Bench()
    session = bench.registered()
    session.request(2, b"x", 0.0)
    session.refuse(Refused(client=CLIENT, session=SESSION - 1, number=1, refusal=Refusal.NO_SESSION))
    session.refuse(Refused(client=CLIENT, session=SESSION, number=9, refusal=Refusal.NO_SESSION))
    with pytest.raises(SessionEnded, match="evicted"):
        session.refuse(Refused(client=CLIENT, session=SESSION, number=1, refusal=Refusal.NO_SESSION))


def test_a_lost_reply_ends_the_request_and_not_the_session() -> None:
    """It was executed, once: the session goes on with its next number."""
    bench = Bench()
    session = bench.registered()
    session.request(2, b"x", 0.0)
    lost = Refused(client=CLIENT, session=SESSION, number=1, refusal=Refusal.REPLY_LOST)
    assert session.refuse(lost)
    assert not session.is_waiting
    assert not session.refuse(lost)
    assert session.request(2, b"y", 0.0) == 2
    bench.sent.clear()
    session.repeat(0.01)
    session.tick(0.01)
    assert [request.number for request in bench.sent] == [2]
