"""The session table: who is registered, and each session's latest committed reply header.

A plain object that the replica owns, because "have I executed this request?" must not wait for a message.

Guarantees: at most `clients_max` sessions, one slot each. Slots, eviction and `encode` depend on what was committed
(`register`, `commit`, `remove`) and on nothing else, so replicas with the same committed state have the same bytes.
What is refused (`SessionsRefused`, `SessionsInvalid`) changes nothing. Every call costs the same however many sessions
there are; `encode`, `decode` and iteration walk the table once.

Limits: no bodies, which are in the slots. A reply without a body needs no slot; its header here is the whole reply.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from client_replies.messages.faults import invariant
from client_replies.messages.reply_header import (
    HEADER_SIZE,
    Buffer,
    HeaderInvalid,
    ReplyHeader,
    packed_client_request,
    packed_cluster_client,
    packed_size,
    verify_header_checksum,
)

from .session_table import SessionTable, encode_sessions


class SessionsRefused(ValueError):
    """What was to be committed contradicts the table; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Evicted:
    """The session that made room: its client must be told, and its slot is the new session's."""

    client: int
    slot: int


@dataclass(frozen=True, slots=True)
class Registered:
    """A session began in `slot`. `evicted` made room for it, if the table was full."""

    slot: int
    session: int
    evicted: Evicted | None


@dataclass(frozen=True, slots=True)
class NewRequest:
    """The next request of its session (or a registration of an unknown client): execute it."""


@dataclass(frozen=True, slots=True)
class DuplicateRequest:
    """Executed already: the answer is the reply with this packed header, whose body, if it has one, is in `slot`."""

    slot: int
    header: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OlderRequest:
    """Older than the session's latest: its client has moved on and waits for no answer."""

    latest: int


@dataclass(frozen=True, slots=True)
class OtherChecksum:
    """The number of the latest request with other contents: the client breaks the protocol."""

    latest: int


@dataclass(frozen=True, slots=True)
class SkippedRequest:
    """A number beyond the next: the client breaks the protocol, or this replica is behind."""

    next: int


@dataclass(frozen=True, slots=True)
class NoSession:
    """The client has no session: evicted, never registered, or not committed here yet."""


@dataclass(frozen=True, slots=True)
class SessionTooLow:
    """The client's session is gone, and a later one of the same client is here. The client must be told so.

    Happens when a late retry of a registration was committed after the session had been evicted: the client goes on
    under the session that it knows. Judged before the request number, which means nothing across sessions: were the
    request taken for one that skips numbers, it would be dropped and its client would wait forever.
    """

    session: int


@dataclass(frozen=True, slots=True)
class SessionTooHigh:
    """The session has not been committed here yet: this replica is behind."""

    session: int


RequestStatus = (
    NewRequest
    | DuplicateRequest
    | OlderRequest
    | OtherChecksum
    | SkippedRequest
    | NoSession
    | SessionTooLow
    | SessionTooHigh
)
RegistrationStatus = NewRequest | DuplicateRequest | OlderRequest | OtherChecksum

_NEW = NewRequest()
_NO_SESSION = NoSession()


class ClientSessions:
    """The sessions of one replica. See the module."""

    def __init__(self, clients_max: int, cluster: int) -> None:
        invariant(clients_max > 0, "a session table has room for a session")
        self.clients_max = clients_max
        self.cluster = cluster
        self.commit_max = 0
        # Invariant: the header in slot s is of the client that `_slots` maps to s, and every other slot is in `_free`.
        self._headers: list[bytes | None] = [None] * clients_max
        self._free = list(range(clients_max))  # a heap: the lowest free slot is taken first
        # Invariant: in the order of the latest commit. Commits only grow, so a commit moves its client to the end and
        # the first is the one to evict, without a search.
        self._slots: OrderedDict[int, int] = OrderedDict()

    # What is committed.

    def register(self, header: ReplyHeader | bytes) -> Registered:
        """Begin the session of a committed registration; its number is the commit. A full table evicts.

        A client that has a session already keeps its slot and gets the new number: requests of the old session
        are then answered by `SessionTooLow`.
        """
        packed, client, session, commit, request = self._checked(header)
        if request != 0 or session != commit:
            raise SessionsRefused(f"request {request} of session {session} at commit {commit} is no registration")
        slot = self._slots.get(client)
        evicted = None
        if slot is None:
            if not self._free:
                evicted = self._evict()  # whose slot is the only free one, and gets the new header
            slot = heapq.heappop(self._free)
        self._put(slot, client, packed, commit)
        return Registered(slot, session, evicted)

    def commit(self, header: ReplyHeader | bytes) -> int:
        """Replace a session's latest reply by its next one; returns the slot."""
        packed, client, session, commit, request = self._checked(header)
        slot = self._slots.get(client)
        if slot is None:
            raise SessionsRefused(f"client {client:x} has no session")
        _, _, session_now, _, latest = packed_client_request(self._header_in(slot))
        if session != session_now:
            raise SessionsRefused(f"session {session} of client {client:x}, which has session {session_now}")
        if request != latest + 1:
            raise SessionsRefused(f"request {request} of client {client:x} after request {latest}")
        self._put(slot, client, packed, commit)
        return slot

    def remove(self, client: int) -> int:
        """End the client's session; returns the slot that it had."""
        slot = self._slots.pop(client, None)
        if slot is None:
            raise SessionsRefused(f"client {client:x} has no session")
        self._headers[slot] = None
        heapq.heappush(self._free, slot)
        return slot

    # Questions about a request.

    def check(self, client: int, session: int, request: int, request_checksum: bytes) -> RequestStatus:
        """What to do about a client's request (a registration has `check_registration`)."""
        if request == 0:
            raise SessionsRefused("request 0 is a registration")
        slot = self._slots.get(client)
        if slot is None:
            return _NO_SESSION
        header = self._header_in(slot)
        _, checksum, session_now, _, latest = packed_client_request(header)
        if session < session_now:
            return SessionTooLow(session_now)
        if session > session_now:
            return SessionTooHigh(session_now)
        if request == latest + 1:
            return _NEW
        if request == latest:
            return DuplicateRequest(slot, header) if request_checksum == checksum else OtherChecksum(latest)
        return OlderRequest(latest) if request < latest else SkippedRequest(latest + 1)

    def check_registration(self, client: int, request_checksum: bytes) -> RegistrationStatus:
        """What to do about a client's registration.

        It is new when the client has no session, also when it had one that was evicted: the retry cannot be told from
        the first. The session number then differs from the one that the client may have learned before, and the client
        is told by `SessionTooLow`. A duplicate is answered with the reply of the session that is here, never an
        earlier one. After the session's first request the registration's reply is gone, and nobody waits for it.
        """
        slot = self._slots.get(client)
        if slot is None:
            return _NEW
        header = self._header_in(slot)
        _, checksum, _, _, latest = packed_client_request(header)
        if latest > 0:
            return OlderRequest(latest)
        return DuplicateRequest(slot, header) if request_checksum == checksum else OtherChecksum(0)

    # Lookups.

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, client: int) -> bool:
        return client in self._slots

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Slot and packed header of each session, in the order of slots."""
        return ((slot, header) for slot, header in enumerate(self._headers) if header is not None)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ClientSessions):
            return NotImplemented
        return self.cluster == other.cluster and self._headers == other._headers

    __hash__ = None  # type: ignore[assignment]  # it changes

    def slot_of(self, client: int) -> int | None:
        """The client's slot, or None without a session."""
        return self._slots.get(client)

    def session_of(self, client: int) -> int | None:
        """The client's session number, or None without a session."""
        slot = self._slots.get(client)
        return None if slot is None else packed_client_request(self._header_in(slot))[2]

    def packed_header(self, slot: int) -> bytes | None:
        """The packed header of the latest reply of the slot's session, or None without a session."""
        return self._headers[slot]

    def header(self, client: int) -> ReplyHeader | None:
        """The latest reply's header, decoded and verified, or None without a session."""
        slot = self._slots.get(client)
        return None if slot is None else ReplyHeader.unpack(self._header_in(slot))

    def evictee(self) -> Evicted | None:
        """Who makes room for the next new client: the session with the smallest commit, or nobody while there is room.

        The same on every replica with the same committed state.
        """
        if self._free:
            return None
        client = next(iter(self._slots))
        return Evicted(client, self._slots[client])

    def expectations(self) -> dict[int, bytes]:
        """Slot to packed header, for the slots that hold a reply: those whose latest reply has a body."""
        return {slot: header for slot, header in self if packed_size(header) > HEADER_SIZE}

    # Encoding.

    def encode(self) -> bytes:
        """The table as bytes, the same on every replica with the same committed state."""
        return encode_sessions(self.clients_max, self.cluster, list(self))

    @classmethod
    def decode(cls, data: Buffer, *, clients_max: int, cluster: int) -> ClientSessions:
        """The table that was encoded as `data`. Raises the `SessionsInvalid` that names what is wrong."""
        sessions = cls(clients_max, cluster)
        table = SessionTable.decode(data, clients_max, cluster)
        for slot, header in zip(table.slots, table.headers, strict=True):
            sessions._headers[slot] = header
        commits, clients = table.commits(), table.clients()
        for entry in sorted(range(len(commits)), key=commits.__getitem__):
            sessions._slots[int.from_bytes(clients[entry], "little")] = table.slots[entry]
        sessions.commit_max = max(commits, default=0)
        sessions._free = [slot for slot, header in enumerate(sessions._headers) if header is None]
        return sessions

    # Internals.

    def _checked(self, header: ReplyHeader | bytes) -> tuple[bytes, int, int, int, int]:
        packed = header.pack() if isinstance(header, ReplyHeader) else header
        if len(packed) != HEADER_SIZE:
            raise SessionsRefused(f"{len(packed)} bytes are no header")
        try:
            verify_header_checksum(packed)
        except HeaderInvalid as error:
            raise SessionsRefused(str(error)) from error
        cluster, client = packed_cluster_client(packed)
        if cluster != self.cluster:
            raise SessionsRefused(f"a reply of cluster {cluster:x} in cluster {self.cluster:x}")
        _, _, session, commit, request = packed_client_request(packed)
        if commit <= self.commit_max:
            raise SessionsRefused(f"commit {commit} after commit {self.commit_max}")
        return packed, client, session, commit, request

    def _put(self, slot: int, client: int, packed: bytes, commit: int) -> None:
        self._headers[slot] = packed
        self._slots[client] = slot
        self._slots.move_to_end(client)
        self.commit_max = commit

    def _evict(self) -> Evicted:
        client, slot = self._slots.popitem(last=False)
        heapq.heappush(self._free, slot)
        return Evicted(client, slot)

    def _header_in(self, slot: int) -> bytes:
        header = self._headers[slot]
        if header is None:
            invariant(False, f"slot {slot} of a session has no header")
            return b""
        return header
