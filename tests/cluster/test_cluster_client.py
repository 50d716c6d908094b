"""The client library against servers that follow a script: lost, late, doubled, wrong and circular answers."""

import copy
import linecache
import os
import pickle
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from client_replies.cluster.client import (
    Answer,
    AnswerLost,
    ClusterClient,
    ClusterError,
    ClusterUnavailable,
    NotCopyable,
    OtherProcess,
    PoolExhausted,
    ProtocolError,
    RequestConflict,
    RequestPending,
    RequestTimeout,
    RetryPolicy,
    Session,
    SessionEvicted,
    SessionInUse,
    SessionMisused,
    SessionOver,
    WrongCluster,
)
from client_replies.cluster.client import line as line_module
from client_replies.cluster.client.answers import AnswerWrong, Ignored, judge
from client_replies.cluster.client.line import parse_address
from client_replies.cluster.door.frame_errors import FrameInvalid
from client_replies.cluster.door.frames import (
    OPERATION_CLOSE,
    PRIMARY_UNKNOWN,
    Frame,
    Reason,
    refused_frame,
    reply_frame,
    reply_in,
    request_frame,
)
from client_replies.messages.reply import Reply

from tests.cluster.scripted_server import ScriptedServer, Step, drop, hang_up, lose
from tests.cluster.stand_in import CLUSTER, EXECUTED, OPERATION_ECHO, StandIn, StandInBehaves
from tests.processes import wait_until

POLICY = RetryPolicy(timeout_s=5.0, pause_first_s=0.05, pause_max_s=0.2, connect_timeout_s=0.5)

# Steps.


def twice(server: ScriptedServer, line: socket.socket, frame: Frame) -> None:
    """Answer twice."""
    server.serve(line, frame)
    server.serve(line, frame)


def delay(server: ScriptedServer, line: socket.socket, frame: Frame) -> None:
    """Answer after the client's patience with this attempt is over."""
    time.sleep(0.2)
    server.serve(line, frame)


def wrong_bytes(server: ScriptedServer, line: socket.socket, frame: Frame) -> None:
    """Execute it, and answer with a damaged frame."""
    packed = bytearray(server.stand_in.handle(frame)[0].packed)
    packed[len(packed) // 2] ^= 1
    line.sendall(packed)


def garbage(server: ScriptedServer, line: socket.socket, frame: Frame) -> None:
    """Answer with something else."""
    line.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def half(server: ScriptedServer, line: socket.socket, frame: Frame) -> None:
    """Answer with the first half of the answer, and the end."""
    packed = server.stand_in.handle(frame)[0].packed
    line.sendall(packed[: len(packed) // 2])
    line.shutdown(socket.SHUT_RDWR)


def another_reply(**fields: Any) -> Step:
    """Answer with a whole, well-sealed reply in which these fields are not those of the request's."""

    def step(server: ScriptedServer, line: socket.socket, frame: Frame) -> None:
        header = reply_in(server.stand_in.handle(frame)[0]).header
        names = ("cluster", "client", "session", "request", "op", "operation", "timestamp", "request_checksum")
        reply = Reply.build(**{**{name: getattr(header, name) for name in names}, **fields})
        line.sendall(reply_frame(reply.pack()).packed)

    return step


def refuse(reason: Reason, **fields: Any) -> Step:
    """Refuse the request."""

    def step(server: ScriptedServer, line: socket.socket, frame: Frame) -> None:
        line.sendall(refused_frame(reason, cluster=fields.pop("cluster", CLUSTER), to=frame, **fields).packed)

    return step


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """Give a server that serves."""
    one = ScriptedServer()
    yield one
    one.close()


@pytest.fixture
def servers() -> Iterator[list[ScriptedServer]]:
    """Give three servers with one service behind them."""
    stand_in = StandIn(StandInBehaves())
    several = [ScriptedServer(stand_in) for _ in range(3)]
    yield several
    for one in several:
        one.close()


@pytest.fixture
def session(server: ScriptedServer) -> Iterator[Session]:
    """Give a session at the server."""
    with ClusterClient([server.address], cluster=CLUSTER, policy=POLICY) as client:
        one = client.session()
        server.requests.clear()
        yield one


def echoed(answer: Answer) -> bytes:
    """The body that was echoed."""
    return answer.body[EXECUTED.size :]


# Requests.


def test_a_request_is_answered_at_the_first_attempt(server: ScriptedServer, session: Session) -> None:
    """Requests are numbered from 1, and the reply says that it is the first."""
    for number in (1, 2, 3):
        answer = session.request(OPERATION_ECHO, b"body %d" % number)
        assert (answer.header.request, answer.attempts, answer.repeated, answer.first) == (number, 1, False, True)
        assert echoed(answer) == b"body %d" % number
        assert answer.latency_s < 2.0
    assert [frame.request for frame in server.requests] == [1, 2, 3]


@pytest.mark.parametrize(
    "step",
    [drop, lose, hang_up, delay, wrong_bytes, garbage, half, refuse(Reason.BUSY), refuse(Reason.MALFORMED)],
    ids=["drop", "lose", "hang_up", "delay", "wrong_bytes", "garbage", "half", "busy", "malformed"],
)
def test_a_request_survives_whatever_happens_to_an_attempt(
    server: ScriptedServer, session: Session, step: Step
) -> None:
    """The same bytes are asked again; the reply is that of the one execution."""
    server.script = [step, step]
    answer = session.request(OPERATION_ECHO, b"once")
    assert answer.body == EXECUTED.pack(1) + b"once"
    assert answer.attempts >= 2
    assert len({frame.packed for frame in server.requests}) == 1
    assert server.stand_in.executed == 1
    assert echoed(session.request(OPERATION_ECHO, b"next")) == b"next"


@pytest.mark.parametrize("step", [lose, hang_up, wrong_bytes, half], ids=["lose", "hang_up", "wrong_bytes", "half"])
def test_a_reply_that_was_stored_says_that_it_is_repeated(server: ScriptedServer, session: Session, step: Step) -> None:
    """The service knows; that we asked twice proves nothing."""
    server.script = [step]
    assert session.request(OPERATION_ECHO).repeated
    server.script = [drop]
    answer = session.request(OPERATION_ECHO)
    assert (answer.repeated, answer.attempts) == (False, 2)


def test_a_doubled_answer_is_not_taken_for_the_next(server: ScriptedServer, session: Session) -> None:
    """It is known by its number, and left out."""
    server.script = [twice]
    assert echoed(session.request(OPERATION_ECHO, b"a")) == b"a"
    assert echoed(session.request(OPERATION_ECHO, b"b")) == b"b"
    assert session._client.counters["replies_to_earlier_requests"] == 1


@pytest.mark.parametrize(
    "fields",
    [{"request_checksum": b"x" * 16}, {"operation": 3}, {"session": 1, "op": 9}],
    ids=["another request", "another operation", "an earlier op"],
)
def test_a_whole_reply_to_something_else_is_never_taken(
    server: ScriptedServer, session: Session, fields: dict[str, Any]
) -> None:
    """Well-sealed is not enough. What is right for this request in every field of identity is taken."""
    server.script = [another_reply(**fields)]
    answer = session.request(OPERATION_ECHO, b"mine")
    if "op" in fields:
        assert answer.attempts == 1
    else:
        assert echoed(answer) == b"mine"
        assert answer.attempts >= 2
        assert session._client.counters["answers_malformed"] == 1


@pytest.mark.parametrize("fields", [{"client": 5}, {"cluster": 8}, {"request": 2, "request_checksum": b"x" * 16}])
def test_a_reply_to_somebody_else_is_left_out(server: ScriptedServer, session: Session, fields: dict[str, Any]) -> None:
    """And the wait goes on. (On a busy machine an attempt may be late, and be repeated.)"""
    server.script = [another_reply(**fields)]
    answer = session.request(OPERATION_ECHO, b"mine")
    assert echoed(answer) == b"mine"
    assert answer.attempts >= 2


def test_pauses_double_up_to_their_maximum(server: ScriptedServer, session: Session) -> None:
    """With jitter: about 0.05, 0.1, 0.2, 0.2 s; and the deadline ends the last."""
    server.script = [drop] * 100
    began = time.monotonic()
    with pytest.raises(RequestTimeout):
        session.request(OPERATION_ECHO, timeout=1.0)
    assert 0.95 < time.monotonic() - began < 1.6
    assert 5 <= len(server.requests) <= 8


# The end of patience.


def test_a_request_that_timed_out_can_be_resumed(server: ScriptedServer, session: Session) -> None:
    """Its number cannot be used for anything else before."""
    server.script = [lose] * 100
    with pytest.raises(RequestTimeout, match="no answer to request 1 after"):
        session.request(OPERATION_ECHO, b"once", timeout=0.3)
    assert session.is_pending
    with pytest.raises(RequestPending):
        session.request(OPERATION_ECHO, b"other")
    with pytest.raises(RequestPending):
        session.close()
    server.script = []
    answer = session.resume()
    assert (answer.body, answer.repeated) == (EXECUTED.pack(1) + b"once", True)
    # What was sent over a connection that was given up is read by a thread of the server, sooner or later.
    wait_until(lambda: len(server.requests) == answer.attempts, 10.0, "the server has read every attempt")
    with pytest.raises(SessionMisused):
        session.resume()
    assert echoed(session.request(OPERATION_ECHO, b"other")) == b"other"


def test_nobody_there_is_said_with_every_address() -> None:
    """After one round, and pauses, until the time is over."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        addresses = [one.getsockname(), two.getsockname()]
    client = ClusterClient(addresses, cluster=CLUSTER, policy=POLICY)
    began = time.monotonic()
    with pytest.raises(ClusterUnavailable) as caught:
        client.session(timeout=0.5)
    assert 0.4 < time.monotonic() - began < 1.5
    assert all(f"127.0.0.1:{port}" in str(caught.value) for _, port in addresses)


def test_a_server_that_only_talks_nonsense_is_a_protocol_error(server: ScriptedServer, session: Session) -> None:
    """Its cause is what was wrong with the bytes."""
    server.script = [garbage] * 100
    with pytest.raises(ProtocolError) as caught:
        session.request(OPERATION_ECHO, timeout=0.4)
    assert isinstance(caught.value.__cause__, FrameInvalid)
    server.script = [refuse(Reason.MALFORMED, text="FrameTooLarge")] * 100
    with pytest.raises(ProtocolError, match="FrameTooLarge"):
        session.resume(timeout=0.4)


def test_a_server_that_is_always_busy_ends_in_a_timeout_that_says_so(server: ScriptedServer, session: Session) -> None:
    """The connection is kept meanwhile."""
    server.script = [refuse(Reason.BUSY)] * 100
    with pytest.raises(RequestTimeout, match="busy"):
        session.request(OPERATION_ECHO, timeout=0.4)
    assert len(server.lines) == 1


# Refusals.


@pytest.mark.parametrize("reason", [Reason.NO_SESSION, Reason.SESSION_TOO_LOW, Reason.REPLACED])
def test_an_eviction_is_raised_with_its_reason(server: ScriptedServer, session: Session, reason: Reason) -> None:
    """And the session is over."""
    server.script = [refuse(reason)]
    with pytest.raises(SessionEvicted) as caught:
        session.request(OPERATION_ECHO)
    assert caught.value.reason is reason
    assert not session.is_open
    with pytest.raises(SessionOver):
        session.request(OPERATION_ECHO)


def test_an_eviction_that_was_told_without_asking_is_raised_at_the_next_request(
    server: ScriptedServer, session: Session
) -> None:
    """One about an earlier session, or another client, is not."""

    def tell(client: int, number: int) -> None:
        told = refused_frame(Reason.REPLACED, cluster=CLUSTER, client=client, session=number)
        server.lines[0].sendall(told.packed)

    tell(session.client_id, session.session + 1)
    tell(session.client_id ^ 1, session.session)
    assert echoed(session.request(OPERATION_ECHO, b"still")) == b"still"
    tell(session.client_id, session.session)
    server.script = [drop]
    with pytest.raises(SessionEvicted) as caught:
        session.request(OPERATION_ECHO)
    assert caught.value.reason is Reason.REPLACED


def test_a_lost_reply_is_raised_and_the_session_goes_on(server: ScriptedServer, session: Session) -> None:
    """It was executed: its number is used."""
    server.script = [lose]
    server.stand_in.behaviour = StandInBehaves(lose_stored=True)
    with pytest.raises(AnswerLost) as caught:
        session.request(OPERATION_ECHO)
    assert caught.value.request == 1
    assert session.request(OPERATION_ECHO).header.request == 2


@pytest.mark.parametrize("reason", [Reason.OTHER_REQUEST, Reason.OLDER_REQUEST])
def test_a_number_that_was_used_by_another_is_a_conflict(
    server: ScriptedServer, session: Session, reason: Reason
) -> None:
    """Someone else has our session: it is over for us."""
    server.script = [refuse(reason)]
    with pytest.raises(RequestConflict):
        session.request(OPERATION_ECHO)
    assert not session.is_open


def test_another_cluster_is_said_at_once(server: ScriptedServer) -> None:
    """A wrong address does not get better by waiting."""
    server.script = [refuse(Reason.WRONG_CLUSTER, cluster=8, text="this is cluster 8")]
    with pytest.raises(WrongCluster, match="this is cluster 8"):
        ClusterClient([server.address], cluster=CLUSTER, policy=POLICY).session()


# Several addresses.


def connect(servers: list[ScriptedServer]) -> ClusterClient:
    """Give a client of all of them."""
    return ClusterClient([server.address for server in servers], cluster=CLUSTER, policy=POLICY)


def test_a_client_follows_the_primary_at_once_and_remembers(servers: list[ScriptedServer]) -> None:
    """The next session begins there."""
    servers[0].script = [refuse(Reason.NOT_PRIMARY, view=5, primary=2)]
    with connect(servers) as client:
        session = client.session()
        assert client.counters["retries"] == 1
        assert [len(server.requests) for server in servers] == [1, 0, 1]
        session.request(OPERATION_ECHO)
        client.session()
        assert [len(server.requests) for server in servers] == [1, 0, 3]


def test_a_hint_of_an_earlier_view_is_not_followed(servers: list[ScriptedServer]) -> None:
    """Who was primary once is not asked again for that."""
    servers[0].script = [refuse(Reason.NOT_PRIMARY, view=5, primary=1)]
    servers[1].script = [refuse(Reason.NOT_PRIMARY, view=4, primary=0)]
    with connect(servers) as client:
        client.session()
    assert [len(server.requests) for server in servers] == [1, 1, 1]


def test_redirects_in_circles_cost_pauses_and_end_in_time(servers: list[ScriptedServer]) -> None:
    """Each server names the next, for ever; the error says that none of them was primary."""
    for index, server in enumerate(servers):
        server.script = [refuse(Reason.NOT_PRIMARY, view=5, primary=(index + 1) % 3)] * 1000
    with pytest.raises(RequestTimeout, match="not_primary"):
        connect(servers).session(timeout=1.0)
    assert sum(len(server.requests) for server in servers) < 80


def test_what_was_refused_is_told_although_the_last_attempt_met_silence(servers: list[ScriptedServer]) -> None:
    """The deadline cuts the last attempt short: that it was not answered says less than the refusal before it."""
    for server in servers:
        server.script = [refuse(Reason.NOT_PRIMARY, view=5, primary=PRIMARY_UNKNOWN), *[drop] * 1000]
    with pytest.raises(RequestTimeout, match="the last refusal was not_primary"):
        connect(servers).session(timeout=1.0)


def test_a_violation_is_told_although_the_last_attempt_was_cut_short(server: ScriptedServer) -> None:
    """The attempt that could have ended otherwise had no time for it."""
    server.script = [garbage, *[drop] * 1000]
    policy = RetryPolicy(pause_first_s=0.05, pause_max_s=60.0, jitter=0.0)
    client = ClusterClient([server.address], cluster=CLUSTER, policy=policy)
    with pytest.raises(ProtocolError):
        client.session(timeout=0.1)


def test_the_latest_reply_can_be_had_once_more(server: ScriptedServer, session: Session) -> None:
    """By a caller that lost it: the same bytes, executed once."""
    with pytest.raises(SessionMisused):
        ClusterClient([server.address], cluster=CLUSTER).session().repeat()
    first = session.request(OPERATION_ECHO, b"once")
    again = session.repeat()
    assert (again.header, again.body, again.repeated) == (first.header, first.body, True)
    assert session.request(OPERATION_ECHO, b"next").body == EXECUTED.pack(2) + b"next"


@pytest.mark.parametrize("primary", [0, 7, PRIMARY_UNKNOWN])
def test_a_useless_hint_leads_to_the_next_address(servers: list[ScriptedServer], primary: int) -> None:
    """Naming itself, nobody we know, or nobody."""
    servers[0].script = [refuse(Reason.NOT_PRIMARY, view=5, primary=primary)]
    with connect(servers) as client:
        client.session()
    assert [len(server.requests) for server in servers] == [1, 1, 0]


@pytest.mark.parametrize("reason", [Reason.NO_SESSION, Reason.REPLY_LOST, Reason.OTHER_REQUEST])
def test_a_refusal_by_a_primary_of_an_earlier_view_is_not_believed(
    servers: list[ScriptedServer], reason: Reason
) -> None:
    """Cut off from the others, it does not know what was committed since."""
    servers[0].stand_in.behaviour = StandInBehaves(view=5)
    with connect(servers) as client:
        session = client.session()
        servers[0].script = [refuse(reason, view=4)]
        assert echoed(session.request(OPERATION_ECHO, b"still")) == b"still"
        assert client.counters["refusals_of_earlier_views"] == 1
        servers[1].script = [refuse(Reason.NO_SESSION, view=5)]
        with pytest.raises(SessionEvicted):
            session.request(OPERATION_ECHO)


def test_a_server_that_dies_is_left_for_another(servers: list[ScriptedServer]) -> None:
    """With a request in flight: the next one has the original reply."""
    with connect(servers) as client:
        session = client.session()
        servers[0].script = [lose]
        asking = threading.Timer(0.02, servers[0].close)
        asking.start()
        answer = session.request(OPERATION_ECHO, b"once")
        asking.join()
    assert (answer.body, answer.repeated) == (EXECUTED.pack(1) + b"once", True)


def test_a_server_that_is_silent_is_left_for_another(servers: list[ScriptedServer]) -> None:
    """After a few attempts, although its connection lives."""
    servers[0].script = [drop] * 100
    with connect(servers) as client:
        client.session()
    assert [len(server.requests) for server in servers] == [POLICY.attempts_per_address, 1, 0]


def test_the_first_address_may_be_dead(servers: list[ScriptedServer]) -> None:
    """Then the second is tried without a pause."""
    servers[0].close()
    began = time.monotonic()
    with connect(servers) as client:
        client.session()
    assert time.monotonic() - began < 1.0


# Sessions and threads.


def test_a_closed_session_is_closed_in_the_cluster_too(server: ScriptedServer) -> None:
    """Leaving the block closes it; afterwards it is over."""
    with ClusterClient([server.address], cluster=CLUSTER, policy=POLICY) as client:
        with client.session() as session:
            session.request(OPERATION_ECHO)
        assert server.requests[-1].operation == OPERATION_CLOSE
        assert len(server.stand_in.sessions) == 0
        with pytest.raises(SessionOver):
            session.request(OPERATION_ECHO)


def test_closing_a_session_whose_end_was_executed_is_no_error(server: ScriptedServer, session: Session) -> None:
    """The answer was lost; the retry hears that there is no such session, which is what it wanted."""
    server.script = [lose]
    session.close()
    assert not session.is_open


def test_an_error_in_the_block_closes_the_session_all_the_same(server: ScriptedServer) -> None:
    """It would take the place of another client's; what went wrong is what the caller sees."""
    with ClusterClient([server.address], cluster=CLUSTER, policy=POLICY) as client:
        with pytest.raises(KeyError), client.session():
            raise KeyError
        assert len(server.stand_in.sessions) == 0


def test_an_error_in_the_block_leaves_a_pending_session_to_be_evicted(server: ScriptedServer) -> None:
    """Its request may be executed yet: nothing can be sent after it. No second is lost by trying."""
    with ClusterClient([server.address], cluster=CLUSTER, policy=POLICY) as client:
        server.script = [ScriptedServer.serve, *[drop] * 100]
        with pytest.raises(RequestTimeout), client.session() as session:
            session.request(OPERATION_ECHO, timeout=0.2)
        assert server.requests[-1].operation == OPERATION_ECHO
        assert not session._line.is_open


def test_two_threads_in_one_session_are_told_so(server: ScriptedServer, session: Session) -> None:
    """The one that came first goes on."""
    server.script = [delay]
    answers: list[Answer] = []
    first = threading.Thread(target=lambda: answers.append(session.request(OPERATION_ECHO, b"first")))
    first.start()
    wait_until(lambda: server.requests)
    with pytest.raises(SessionInUse):
        session.request(OPERATION_ECHO, b"second")
    first.join()
    assert echoed(answers[0]) == b"first"


def test_closing_the_client_ends_a_wait_in_another_thread(server: ScriptedServer) -> None:
    """At once, not at its deadline."""
    client = ClusterClient([server.address], cluster=CLUSTER, policy=POLICY)
    session = client.session()
    server.script = [drop] * 100
    errors: list[ClusterError] = []

    def ask() -> None:
        try:
            session.request(OPERATION_ECHO, timeout=30.0)
        except ClusterError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: len(server.requests) > 1)
    client.close()
    thread.join(5)
    assert [type(error) for error in errors] == [SessionOver]
    with pytest.raises(SessionOver):
        client.session()


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns so often that what is not one step is seen as several."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_threads_borrow_sessions_from_a_pool(server: ScriptedServer) -> None:
    """Never more than are in use at a time; one that is pending does not go back."""
    done: list[bytes] = []

    def work(index: int) -> None:
        for number in range(10):
            with client.borrow() as session:
                done.append(echoed(session.request(OPERATION_ECHO, b"%d/%d" % (index, number))))

    with ClusterClient([server.address], cluster=CLUSTER, policy=POLICY) as client:
        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(done) == sorted(b"%d/%d" % (index, number) for index in range(4) for number in range(10))
        assert len(server.stand_in.sessions) <= 4
        server.script = [drop] * 100
        with pytest.raises(RequestTimeout), client.borrow() as pending:
            pending.request(OPERATION_ECHO, timeout=0.2)
        server.script = []
        with client.borrow() as other:
            assert other is not pending


def test_a_borrowed_session_whose_request_timed_out_is_given_up(server: ScriptedServer) -> None:
    """Its connection is closed and its place in the pool free; an answer that comes late reaches nobody."""
    with ClusterClient([server.address], cluster=CLUSTER, policy=POLICY, pool_size_max=2) as client:
        for _ in range(5):
            server.script = [ScriptedServer.serve, *[lose] * 100]
            with pytest.raises(RequestTimeout), client.borrow() as session:
                session.request(OPERATION_ECHO, b"late", timeout=0.1)
            server.script = []
            assert not session._line.is_open
            assert client._sessions == set()
            with pytest.raises(SessionOver):
                session.resume()
        with client.borrow() as one, client.borrow() as two:
            assert echoed(one.request(OPERATION_ECHO, b"one")) == b"one"
            assert echoed(two.request(OPERATION_ECHO, b"two")) == b"two"
        assert len(client._sessions) == 2


def test_a_borrowed_session_that_is_resumed_in_the_block_goes_back(server: ScriptedServer) -> None:
    """The outcome is known: the session can take another request."""
    with ClusterClient([server.address], cluster=CLUSTER, policy=POLICY) as client:
        with client.borrow() as session:
            server.script = [lose] * 100
            with pytest.raises(RequestTimeout):
                session.request(OPERATION_ECHO, b"once", timeout=0.2)
            server.script = []
            assert session.resume().body == EXECUTED.pack(1) + b"once"
        with client.borrow() as again:
            assert again is session
            assert again.request(OPERATION_ECHO, b"next").body == EXECUTED.pack(2) + b"next"


def test_the_pool_lends_no_more_sessions_than_its_size(server: ScriptedServer) -> None:
    """Who comes when all are lent waits for one to come back, at most its time."""
    with ClusterClient([server.address], cluster=CLUSTER, policy=POLICY, pool_size_max=1) as client:
        with client.borrow() as session:
            before = len(server.requests)
            with pytest.raises(PoolExhausted, match=r"all 1 sessions of the pool were lent for 0\.1 s"):
                client.borrow(timeout=0.1).__enter__()
            assert len(server.requests) == before
            lent: list[Session] = []

            def borrow() -> None:
                with client.borrow() as next_one:
                    lent.append(next_one)

            waiting = threading.Thread(target=borrow)
            waiting.start()
        waiting.join(5)
        assert lent == [session]
    with pytest.raises(ValueError, match="pool_size_max: found 0, expected at least 1"):
        ClusterClient([server.address], cluster=CLUSTER, pool_size_max=0)


# Processes, copies, interrupts.


def in_child(work: Callable[[], object]) -> str:
    """Do the work in a forked child: what it returns, or the error that it raises."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this process has threads, none of which the work needs
        child = os.fork()
    if child == 0:
        try:
            try:
                said = repr(work())
            except BaseException as error:
                said = type(error).__name__
            os.write(writing, said.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def test_a_session_that_is_shared_over_fork_serves_only_the_process_that_made_it(
    server: ScriptedServer, session: Session
) -> None:
    """Both would give the same number to different requests, and one of these would be answered with the other's."""
    session.request(OPERATION_ECHO, b"before")
    client = session._client
    sent = len(server.requests)
    for use in (
        lambda: session.request(OPERATION_ECHO, b"child"),
        session.resume,
        session.repeat,
        session.close,
        client.session,
        lambda: client.borrow().__enter__(),
    ):
        assert in_child(use) == OtherProcess.__name__
    assert len(server.requests) == sent
    answer = session.request(OPERATION_ECHO, b"parent")
    assert (answer.body, answer.attempts) == (EXECUTED.pack(2) + b"parent", 1)
    assert len(server.lines) == 1


def test_a_child_that_only_closes_what_it_inherits_does_not_disturb_the_parent(server: ScriptedServer) -> None:
    """Neither by a request to end the session, nor by the end of the connection; not even with the parent's locks."""
    with (
        ClusterClient([server.address], cluster=CLUSTER, policy=POLICY) as client,
        client.session() as session,
        client.borrow() as borrowed,
    ):
        sent = len(server.requests)
        in_use = threading.Event()
        release = threading.Event()

        def hold_all_locks() -> None:
            with client._lock, session._busy, borrowed._busy:
                in_use.set()
                release.wait()

        holder = threading.Thread(target=hold_all_locks)
        holder.start()
        in_use.wait()

        def leave() -> str:
            client._take_back(borrowed)
            session.__exit__(None, None, None)
            session.abandon()
            client.close()
            return f"{session._line.is_open} {borrowed._line.is_open}"

        closed = in_child(leave)
        release.set()
        holder.join()
        assert closed == "'False False'"
        for one in (session, borrowed):
            assert one.request(OPERATION_ECHO, b"parent").attempts == 1
        assert len(server.requests) == sent + 2
        assert len(server.lines) == 2


def test_a_child_of_a_child_is_another_process_too(server: ScriptedServer, session: Session) -> None:
    """Forks are counted, since a process may have the number of one that has ended."""

    def fork_again() -> str:
        client = ClusterClient([server.address], cluster=CLUSTER, policy=POLICY)
        own = client.session()
        return f"{in_child(lambda: own.request(OPERATION_ECHO))} {own.request(OPERATION_ECHO).attempts}"

    assert in_child(fork_again) == "'OtherProcess 1'"
    assert session.request(OPERATION_ECHO).attempts == 1


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_session_or_client_that_is_copied_is_refused(
    server: ScriptedServer, session: Session, duplicate: Callable[[object], object]
) -> None:
    """With the reason and what to do; also as a part of something else."""
    sent = len(server.requests)
    for one in (session, session._client):
        with pytest.raises(NotCopyable, match="create a ClusterClient where it is used"):
            duplicate(one)
    if duplicate is not copy.copy:
        with pytest.raises(NotCopyable):
            duplicate({"session": session})
    assert len(server.requests) == sent
    assert session.request(OPERATION_ECHO).attempts == 1


@pytest.mark.parametrize(
    "error",
    [
        SessionEvicted(Reason.REPLACED, "others took its place"),
        AnswerLost(7),
        RequestTimeout("none"),
        NotCopyable("no"),
    ],
)
def test_an_error_can_be_sent_to_another_process(error: ClusterError) -> None:
    """A worker's pool would break with one that cannot be read there."""
    read = pickle.loads(pickle.dumps(error))
    assert (type(read), str(read), vars(read)) == (type(error), str(error), vars(error))


def interrupted_after(lines: int, work: Callable[[], object]) -> bool:
    """Do the work, and interrupt it before the n-th line of the library that it runs; False if there are fewer.

    Spared is how locks are taken and released, which Python's own `with` does in one step.
    """
    left = lines

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if "/cluster/client/" not in frame.f_code.co_filename:
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and frame.f_code.co_name != "_alone" and "with self._" not in line:
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_a_request_that_is_interrupted_at_any_line_is_pending_or_was_not_begun(
    server: ScriptedServer, session: Session
) -> None:
    """Nothing is left half: what is pending is resumed with the reply of its one execution."""
    expected = 0
    for lines in range(1, 1000):
        was_interrupted = interrupted_after(lines, lambda: session.request(OPERATION_ECHO, b"once"))
        if session.is_pending:
            answer = session.resume()
            expected += 1
            assert answer.body == EXECUTED.pack(expected) + b"once"
        else:
            expected = server.stand_in.executed
        answer = session.request(OPERATION_ECHO, b"next")
        expected += 1
        assert answer.body == EXECUTED.pack(expected) + b"next", lines
        if not was_interrupted:
            break
    assert not was_interrupted
    assert lines > 50
    assert server.stand_in.executed == expected == session.request_number


def test_an_interrupted_registration_leaves_no_connection(server: ScriptedServer) -> None:
    """Nobody has the session: nobody could close it."""
    server.script = [drop] * 100
    with ClusterClient([server.address], cluster=CLUSTER, policy=POLICY) as client:
        assert interrupted_after(60, client.session)
        assert client._sessions == set()


def test_what_is_wrong_with_a_request_is_said_before_it_is_sent(server: ScriptedServer, session: Session) -> None:
    """And uses no number."""
    for operation in (0, 1, OPERATION_CLOSE):
        with pytest.raises(SessionMisused):
            session.request(operation)
    with pytest.raises(SessionMisused, match="4097 bytes"):
        session.request(OPERATION_ECHO, bytes(4097))
    with pytest.raises(FrameInvalid):
        session.request(300)
    assert server.requests == []
    assert session.request(OPERATION_ECHO).header.request == 1


def test_sockets_are_closed_with_the_client(server: ScriptedServer) -> None:
    """None is left, also of sessions that nobody closed."""
    client = ClusterClient([server.address], cluster=CLUSTER, policy=POLICY)
    sessions = [client.session() for _ in range(5)]
    assert all(one._line.is_open for one in sessions)
    client.close()
    assert not any(one._line.is_open for one in sessions)


@pytest.mark.parametrize("address", ["", "localhost", "host:", "host:0", "host:65536", "host:x", ":1", ("", 1)])
def test_an_address_that_is_none_is_said_with_an_example(address: Any) -> None:
    """When the client is made."""
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:4000"):
        ClusterClient([address], cluster=CLUSTER)


def test_addresses_are_host_and_port() -> None:
    """Of either family."""
    assert parse_address("127.0.0.1:4000") == ("127.0.0.1", 4000)
    assert parse_address("[::1]:4000") == ("::1", 4000)
    assert line_module.address_name(("::1", 4000)) == "[::1]:4000"


# What a frame means.

ASKED = request_frame(cluster=CLUSTER, client=9, session=3, request=2, operation=OPERATION_ECHO)
FIELDS = {
    "cluster": CLUSTER, "client": 9, "session": 3, "request": 2, "op": 5, "operation": OPERATION_ECHO,
    "timestamp": 1, "request_checksum": ASKED.request_checksum,
}  # fmt: skip


def replied(**fields: Any) -> Frame:
    """A frame with the reply to `ASKED`, or nearly."""
    return reply_frame(Reply.build(**{**FIELDS, **fields}).pack())


def test_only_the_reply_to_exactly_this_request_is_its_answer() -> None:
    """Each other field of its identity makes it something else."""
    assert isinstance(judge(ASKED, replied()), Answer)
    others: tuple[dict[str, Any], ...] = ({"client": 8}, {"cluster": 8}, {"request": 1, "request_checksum": bytes(16)})
    for fields in others:
        assert isinstance(judge(ASKED, replied(**fields)), Ignored)
    wrong: tuple[dict[str, Any], ...] = (
        {"request_checksum": bytes(16)},
        {"operation": 3},
        {"request": 1},
        {"session": 4},
    )
    for fields in wrong:
        with pytest.raises(AnswerWrong):
            judge(ASKED, replied(**fields))


def test_a_refusal_that_names_no_request_is_about_the_connection_or_the_session() -> None:
    """And only for reasons that can be."""
    for reason in Reason:
        unaddressed = refused_frame(reason, cluster=CLUSTER)
        about_connection = reason in (Reason.MALFORMED, Reason.BUSY, Reason.WRONG_CLUSTER)
        assert isinstance(judge(ASKED, unaddressed), Frame if about_connection else Ignored)
        ours = refused_frame(reason, cluster=CLUSTER, client=9, session=3)
        assert isinstance(judge(ASKED, ours), Frame if reason is Reason.REPLACED else Ignored)
        assert isinstance(judge(ASKED, refused_frame(reason, cluster=CLUSTER, to=ASKED)), Frame)
    with pytest.raises(AnswerWrong):
        judge(ASKED, refused_frame(Reason.BUSY, cluster=8, to=ASKED))
