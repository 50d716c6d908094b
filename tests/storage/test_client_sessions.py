"""The session table: every answer, eviction, encoding, and long random runs against a naive model."""

import random
import typing
from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import ANY

import pytest

from client_replies.messages.faults import InvariantBroken
from client_replies.messages.reply_header import HEADER_SIZE, ReplyHeader, checksum128, packed_op, packed_size
from client_replies.storage import client_sessions
from client_replies.storage import session_table as module
from client_replies.storage.client_sessions import (
    ClientSessions,
    DuplicateRequest,
    Evicted,
    NewRequest,
    NoSession,
    OlderRequest,
    OtherChecksum,
    Registered,
    SessionsRefused,
    SessionTooHigh,
    SessionTooLow,
    SkippedRequest,
)
from client_replies.storage.session_table import (
    Expectations,
    SessionsCapacityWrong,
    SessionsChecksumWrong,
    SessionsClusterWrong,
    SessionsEntryWrong,
    SessionsInvalid,
    SessionsMagicWrong,
    SessionsTruncated,
    SessionsVersionUnknown,
    sessions_size_max,
)

from tests.storage.samples import CLUSTER, make_reply

FIRST, SECOND = b"1" * 16, b"2" * 16


def registration(client: int, op: int, checksum: bytes = FIRST, body: bytes = b"") -> ReplyHeader:
    """Give the header of the reply to a committed registration."""
    return make_reply(client, session=op, request=0, op=op, body=body, request_checksum=checksum).header


def answer(
    client: int, session: int, request: int, op: int, checksum: bytes = FIRST, body: bytes = b"body"
) -> ReplyHeader:
    """Give the header of the reply to a committed request."""
    return make_reply(client, session=session, request=request, op=op, body=body, request_checksum=checksum).header


def some_sessions() -> ClientSessions:
    """Give a table of four with clients 5, 6 and 7, of which 6 has a reply without a body and 7 none yet."""
    sessions = ClientSessions(4, CLUSTER)
    for client, op in ((5, 10), (6, 11), (7, 12)):
        sessions.register(registration(client, op))
    sessions.commit(answer(5, 10, 1, 20))
    sessions.commit(answer(6, 11, 1, 21, body=b""))
    return sessions


class TestRequests:
    """What the table answers."""

    def test_a_request_of_a_stranger_has_no_session(self) -> None:
        """Never registered, or evicted."""
        assert some_sessions().check(99, 10, 1, FIRST) == NoSession()

    def test_the_next_request_is_new(self) -> None:
        """One more than the latest; the first is 1."""
        assert some_sessions().check(5, 10, 2, FIRST) == NewRequest()
        assert some_sessions().check(7, 12, 1, FIRST) == NewRequest()

    def test_the_latest_request_again_is_a_duplicate_with_its_reply(self) -> None:
        """Its slot and header lead to the original reply."""
        status = some_sessions().check(5, 10, 1, FIRST)
        assert status == DuplicateRequest(0, answer(5, 10, 1, 20).pack())

    def test_the_latest_number_with_other_contents_is_told_apart(self) -> None:
        """It must be neither executed nor answered with the other request's reply."""
        assert some_sessions().check(5, 10, 1, SECOND) == OtherChecksum(1)

    def test_an_older_request_is_older(self) -> None:
        """Its client has moved on."""
        sessions = some_sessions()
        sessions.commit(answer(5, 10, 2, 30))
        assert sessions.check(5, 10, 1, FIRST) == OlderRequest(2)

    def test_a_request_that_skips_a_number_says_which_is_next(self) -> None:
        """It is not executed."""
        assert some_sessions().check(5, 10, 3, FIRST) == SkippedRequest(2)

    @pytest.mark.parametrize("request_number", [1, 2, 3, 2**32 - 1])
    def test_a_request_of_an_earlier_session_is_told_that_it_is_gone(self, request_number: int) -> None:
        """Whatever its number: it counts in the other session, and means nothing here."""
        assert some_sessions().check(5, 9, request_number, FIRST) == SessionTooLow(10)

    @pytest.mark.parametrize("request_number", [1, 2, 3])
    def test_a_request_of_a_later_session_is_not_committed_here_yet(self, request_number: int) -> None:
        """This replica is behind; it must not tell the client that its session is gone."""
        assert some_sessions().check(5, 11, request_number, FIRST) == SessionTooHigh(10)

    def test_a_registration_of_a_stranger_is_new(self) -> None:
        """And one that waits for its first request is answered again."""
        sessions = some_sessions()
        assert sessions.check_registration(99, FIRST) == NewRequest()
        assert sessions.check_registration(7, FIRST) == DuplicateRequest(2, registration(7, 12).pack())
        assert sessions.check_registration(7, SECOND) == OtherChecksum(0)

    def test_a_registration_after_the_first_request_is_older(self) -> None:
        """Its reply is gone, and the client has it."""
        assert some_sessions().check_registration(5, FIRST) == OlderRequest(1)

    def test_a_registration_is_not_checked_as_a_request(self) -> None:
        """It has no session to be judged by."""
        with pytest.raises(SessionsRefused):
            some_sessions().check(5, 10, 0, FIRST)

    def test_a_late_retry_of_an_evicted_registration_does_not_strand_the_client(self) -> None:
        """The retry begins another session; the client goes on under the one it knows and is told that it is gone.

        Also when its next number happens to be the new session's next, or one that would skip.
        """
        sessions = ClientSessions(1, CLUSTER)
        sessions.register(registration(5, 10))
        sessions.commit(answer(5, 10, 1, 11))
        assert sessions.register(registration(6, 12)).evicted == Evicted(5, 0)
        assert sessions.check(5, 10, 2, FIRST) == NoSession()
        assert sessions.check_registration(5, FIRST) == NewRequest()
        assert sessions.register(registration(5, 13)).evicted == Evicted(6, 0)
        for request in (1, 2, 7):
            assert sessions.check(5, 10, request, FIRST) == SessionTooLow(13)
        # Were the retry to come once more, the answer is that of the session which is here.
        status = sessions.check_registration(5, FIRST)
        assert isinstance(status, DuplicateRequest)
        assert ReplyHeader.unpack(status.header).session == 13


class TestCommits:
    """What the table does with what is committed."""

    def test_slots_are_given_from_the_first_free_one(self) -> None:
        """Also after one was given back."""
        sessions = ClientSessions(3, CLUSTER)
        assert [sessions.register(registration(client, client)).slot for client in (1, 2, 3)] == [0, 1, 2]
        assert sessions.remove(2) == 1
        assert sessions.remove(1) == 0
        assert sessions.register(registration(9, 9)) == Registered(0, 9, None)
        assert sessions.register(registration(8, 10)) == Registered(1, 10, None)

    def test_a_full_table_evicts_the_smallest_commit(self) -> None:
        """Not the oldest registration: a client that committed since is spared."""
        sessions = ClientSessions(3, CLUSTER)
        for client, op in ((5, 1), (6, 2), (7, 3)):
            assert sessions.evictee() is None
            sessions.register(registration(client, op))
        sessions.commit(answer(5, 1, 1, 4))
        assert sessions.evictee() == Evicted(6, 1)
        assert sessions.register(registration(8, 5)) == Registered(1, 5, Evicted(6, 1))
        assert sessions.evictee() == Evicted(7, 2)
        assert 6 not in sessions
        assert len(sessions) == 3

    def test_registering_again_keeps_the_slot_and_evicts_nobody(self) -> None:
        """The session number changes, so the old session's requests are told apart."""
        sessions = ClientSessions(2, CLUSTER)
        sessions.register(registration(5, 1))
        sessions.register(registration(6, 2))
        assert sessions.register(registration(5, 3)) == Registered(0, 3, None)
        assert sessions.session_of(5) == 3
        assert sessions.check(5, 1, 1, FIRST) == SessionTooLow(3)

    @pytest.mark.parametrize(
        "refused",
        [
            lambda sessions: sessions.register(answer(5, 10, 2, 30)),
            lambda sessions: sessions.register(registration(9, 21)),
            lambda sessions: sessions.commit(registration(9, 30)),
            lambda sessions: sessions.commit(answer(99, 10, 1, 30)),
            lambda sessions: sessions.commit(answer(5, 9, 2, 30)),
            lambda sessions: sessions.commit(answer(5, 11, 2, 30)),
            lambda sessions: sessions.commit(answer(5, 10, 1, 30)),
            lambda sessions: sessions.commit(answer(5, 10, 3, 30)),
            lambda sessions: sessions.commit(answer(5, 10, 2, 21)),
            lambda sessions: sessions.commit(registration(5, 30)),
            lambda sessions: sessions.commit(b"short"),
            lambda sessions: sessions.commit(bytes(HEADER_SIZE)),
            lambda sessions: sessions.commit(answer(5, 10, 2, 30).pack()[:-1] + b"x"),  # its checksum is wrong
            lambda sessions: sessions.commit(make_reply(5, session=10, request=2, op=30, cluster=1).header),
            lambda sessions: sessions.remove(99),
        ],
    )
    def test_what_contradicts_the_table_is_refused_and_changes_nothing(
        self, refused: Callable[[ClientSessions], object]
    ) -> None:
        """However often it comes."""
        sessions = some_sessions()
        before = sessions.encode()
        for _ in range(3):
            with pytest.raises(SessionsRefused):
                refused(sessions)
        assert sessions.encode() == before
        assert sessions.commit(answer(5, 10, 2, 30)) == 0
        assert sessions.register(registration(9, 31)).slot == 3

    def test_lookups_say_what_is_there(self) -> None:
        """By client and by slot."""
        sessions = some_sessions()
        assert (sessions.slot_of(6), sessions.session_of(6)) == (1, 11)
        assert (sessions.slot_of(99), sessions.session_of(99), sessions.header(99)) == (None, None, None)
        assert sessions.header(5) == answer(5, 10, 1, 20)
        assert sessions.packed_header(0) == answer(5, 10, 1, 20).pack()
        assert sessions.packed_header(3) is None
        assert [slot for slot, _ in sessions] == [0, 1, 2]
        assert 5 in sessions
        assert sessions != ClientSessions(4, CLUSTER)
        assert sessions != "another thing"
        assert sessions == ANY  # which decides about that itself

    def test_a_table_without_room_is_a_bug(self) -> None:
        """Nobody could register."""
        with pytest.raises(InvariantBroken):
            ClientSessions(0, CLUSTER)
        assert len(ClientSessions(1, CLUSTER)) == 0

    def test_only_replies_with_a_body_are_expected_in_slots(self) -> None:
        """The others are whole in the table; a registration may have a body as well."""
        sessions = some_sessions()
        assert sessions.expectations() == {0: answer(5, 10, 1, 20).pack()}
        sessions.register(registration(9, 40, body=b"welcome"))
        assert set(sessions.expectations()) == {0, 3}


class TestEncoding:
    """The bytes of the table."""

    def test_a_table_comes_back_from_its_bytes(self) -> None:
        """Equal, with the same bytes and the same next decisions."""
        sessions = some_sessions()
        again = ClientSessions.decode(sessions.encode(), clients_max=4, cluster=CLUSTER)
        assert again == sessions
        assert again.encode() == sessions.encode()
        assert again.commit_max == sessions.commit_max == 21
        for table in (sessions, again):
            with pytest.raises(SessionsRefused, match="after commit"):
                table.register(registration(8, 21))
            table.register(registration(8, 50))
            table.register(registration(9, 51))
        assert again == sessions
        assert again.encode() == sessions.encode()

    def test_an_empty_and_a_full_table_come_back(self) -> None:
        """The ends of the range; a full one has the size that the layout reserves."""
        sessions = ClientSessions(3, CLUSTER)
        empty = ClientSessions.decode(sessions.encode(), clients_max=3, cluster=CLUSTER)
        assert (empty, empty.commit_max) == (sessions, 0)
        for client in (1, 2, 3):
            sessions.register(registration(client, client))
        assert len(sessions.encode()) == sessions_size_max(3)
        assert ClientSessions.decode(sessions.encode(), clients_max=3, cluster=CLUSTER) == sessions

    def test_every_byte_of_an_encoded_table_counts(self) -> None:
        """With any one byte inverted it is refused; a damaged header is named by its entry."""
        data = some_sessions().encode()
        for offset in range(len(data)):
            damaged = bytearray(data)
            damaged[offset] ^= 0xFF
            with pytest.raises((SessionsMagicWrong, SessionsChecksumWrong)) as raised:
                ClientSessions.decode(damaged, clients_max=4, cluster=CLUSTER)
            headers = 64 + 3 * 4
            assert raised.value.entry == ((offset - headers) // HEADER_SIZE if offset >= headers else -1)

    def test_every_truncation_of_an_encoded_table_is_refused(self) -> None:
        """And so is a byte too many."""
        data = some_sessions().encode()
        for length in range(len(data)):
            with pytest.raises((SessionsTruncated, SessionsChecksumWrong)):
                ClientSessions.decode(data[:length], clients_max=4, cluster=CLUSTER)
        with pytest.raises(SessionsChecksumWrong):
            ClientSessions.decode(data + b"\0", clients_max=4, cluster=CLUSTER)

    def test_every_named_error_is_reached(self) -> None:
        """Each way to be wrong under a good checksum, as a faulty encoder would write it."""
        classes = {value for value in vars(module).values() if isinstance(value, type)}
        errors = {value for value in classes if issubclass(value, SessionsInvalid)} - {SessionsInvalid}
        reached = set()
        for error, entry, data, arguments in ways_to_be_wrong():
            with pytest.raises(SessionsInvalid) as raised:
                ClientSessions.decode(data, **{"clients_max": 4, "cluster": CLUSTER, **arguments})
            assert type(raised.value) is error
            assert raised.value.entry == entry
            with pytest.raises(error):
                Expectations.decode(data, **{"clients_max": 4, "cluster": CLUSTER, **arguments}, verified=False)
            assert error.__name__ in str(raised.value)
            assert ("entry" in str(raised.value)) == (entry >= 0)
            reached.add(error)
        assert reached == errors


def patched(offset: int, value: bytes, *, length: int | None = None) -> bytes:
    """Change bytes of an encoded table and make its checksum good again."""
    data = bytearray(some_sessions().encode()[:length])
    data[offset : offset + len(value)] = value
    data[16:32] = checksum128(data[32:])
    return bytes(data)


def ways_to_be_wrong() -> list[tuple[type[SessionsInvalid], int, bytes, dict[str, int]]]:
    """Give each error with the entry it names, the bytes, and what else decode is told."""
    good = some_sessions().encode()
    headers = 64 + 3 * 4
    second = headers + HEADER_SIZE
    foreign = make_reply(6, cluster=1, op=50).header.pack()
    twice = good[headers:second]
    same_commit = answer(8, 11, 1, 20).pack()
    return [
        (SessionsTruncated, -1, good[:63], {}),
        (SessionsTruncated, -1, patched(0, b"", length=len(good) - 1), {}),
        (SessionsMagicWrong, -1, b"x" + good[1:], {}),
        (SessionsChecksumWrong, -1, good[:20] + b"?" + good[21:], {}),
        (SessionsChecksumWrong, 1, good[: second + 7] + b"?" + good[second + 8 :], {}),
        (SessionsVersionUnknown, -1, patched(32, b"\2"), {}),
        (SessionsVersionUnknown, -1, patched(44, b"\2"), {}),
        (SessionsClusterWrong, -1, good, {"cluster": 8}),
        (SessionsCapacityWrong, -1, good, {"clients_max": 5}),
        (SessionsCapacityWrong, -1, patched(40, b"\5"), {}),
        (SessionsEntryWrong, 0, patched(64, b"\4"), {}),
        (SessionsEntryWrong, 1, patched(68, b"\0"), {}),
        (SessionsEntryWrong, 1, patched(second + 40, b"?"), {}),
        (SessionsEntryWrong, 1, patched(second, foreign), {}),
        (SessionsEntryWrong, 1, patched(second, twice), {}),
        (SessionsEntryWrong, 1, patched(second, same_commit), {}),
    ]


@dataclass
class NaiveEntry:
    """One session of the naive model."""

    client: int
    session: int
    slot: int
    header: ReplyHeader


class NaiveSessions:
    """The table as one would write it without a thought to cost: a list that is searched."""

    def __init__(self, clients_max: int) -> None:
        self.clients_max = clients_max
        self.entries: list[NaiveEntry] = []

    def find(self, client: int) -> NaiveEntry | None:
        """Search."""
        return next((entry for entry in self.entries if entry.client == client), None)

    def register(self, header: ReplyHeader) -> tuple[int, int | None]:
        """Give the slot and the evicted client."""
        entry = self.find(header.client)
        evicted = None
        if entry is not None:
            self.entries.remove(entry)
            slot = entry.slot
        else:
            if len(self.entries) == self.clients_max:
                victim = min(self.entries, key=lambda entry: entry.header.commit)
                self.entries.remove(victim)
                evicted = victim.client
            slot = min(set(range(self.clients_max)) - {entry.slot for entry in self.entries})
        self.entries.append(NaiveEntry(header.client, header.commit, slot, header))
        return slot, evicted

    def check(self, client: int, session: int, request: int, checksum: bytes) -> type:
        """Give the class of the answer."""
        entry = self.find(client)
        if entry is None:
            return NoSession
        if session != entry.session:
            return SessionTooLow if session < entry.session else SessionTooHigh
        latest = entry.header.request
        if request == latest:
            return DuplicateRequest if checksum == entry.header.request_checksum else OtherChecksum
        if request < latest:
            return OlderRequest
        return NewRequest if request == latest + 1 else SkippedRequest


def random_run(seed: int) -> set[type]:
    """Run the table beside the model, and give the classes of the answers that came up."""
    numbers = random.Random(seed)
    clients_max = numbers.randint(1, 6)
    sessions, silent = ClientSessions(clients_max, CLUSTER), ClientSessions(clients_max, CLUSTER)
    naive = NaiveSessions(clients_max)
    seen: set[type] = set()
    for op in range(1, 400):
        client = numbers.randint(1, 9)
        entry = naive.find(client)
        action = numbers.random()
        if action < 0.3 or (entry is None and action < 0.8):
            header = registration(client, op, numbers.choice((FIRST, SECOND)))
            registered = sessions.register(header)
            silent.register(header.pack())
            slot, evicted = naive.register(header)
            assert (registered.slot, registered.session) == (slot, op)
            assert (registered.evicted.client if registered.evicted else None) == evicted
        elif entry is not None and action < 0.8:
            body = numbers.choice((b"", b"body"))
            header = answer(client, entry.session, entry.header.request + 1, op, numbers.choice((FIRST, SECOND)), body)
            assert sessions.commit(header) == silent.commit(header) == entry.slot
            entry.header = header
        elif entry is not None and action < 0.85:
            assert sessions.remove(client) == silent.remove(client) == entry.slot
            naive.entries.remove(entry)
        else:
            known = entry or NaiveEntry(client, op, 0, registration(client, op))
            asked = (
                known.session + numbers.choice((-1, 0, 0, 0, 0, 1)),
                max(1, known.header.request + numbers.randint(-1, 2)),
                numbers.choice((FIRST, SECOND)),
            )
            status = sessions.check(client, *asked)
            assert type(status) is naive.check(client, *asked)
            seen.add(type(status))
        if numbers.random() < 0.05:
            silent = ClientSessions.decode(silent.encode(), clients_max=clients_max, cluster=CLUSTER)
        assert silent.encode() == sessions.encode()
        assert dict(sessions) == {e.slot: e.header.pack() for e in naive.entries}
        bodies = {e.slot: e.header.pack() for e in naive.entries if e.header.size > HEADER_SIZE}
        assert sessions.expectations() == bodies
        told = Expectations.decode(silent.encode(), clients_max=clients_max, cluster=CLUSTER)
        assert told.headers == bodies
        assert told.op_max == max((packed_op(header) for header in bodies.values()), default=0)
        assert told.size_max == max((packed_size(header) for header in bodies.values()), default=0)
    return seen


def test_random_runs_agree_with_a_naive_model() -> None:
    """Registrations, commits, removals and questions of a few clients in a small table; decoded now and then.

    A second table gets the same commits without the questions, and has the same bytes. Every answer comes up.
    """
    seen: set[type] = set()
    for seed in range(20):
        seen |= random_run(seed)
    assert seen == set(typing.get_args(client_sessions.RequestStatus))
