"""The session table: who is registered, and each session's latest committed reply header.

A plain object that the replica owns, because "have I executed this request?" must not wait for a message.

Guarantees: at most `clients_max` sessions, one slot each. Slots, eviction and `encode` depend on what was committed
(`register`, `commit`, `remove`) and on nothing else, so replicas with the same committed state have the same bytes.
What is refused (`SessionsRefused`, `SessionsInvalid`) changes nothing. Every call costs the same however many sessions
there are; `encode`, `decode` and iteration walk the table once.

Limits: no bodies, which are in the slots. A reply without a body needs no slot; its header here is the whole reply.

Encoded, little-endian (sizes in bytes), the columns in slot order:

    0 16 magic         32 4 version            40 4 entries     48 16 cluster
    16 16 checksum     36 4 clients_max        44 4 zero        64 4 x entries slots, then 256 x entries headers

`checksum` is the XXH3-128 of everything after itself. Session numbers and the order of commits are in the headers.
"""

from __future__ import annotations

import heapq
import operator
import struct
import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import compress
from typing import NoReturn

from client_replies.messages.faults import InvariantBroken, invariant
from client_replies.messages.message import U32_MAX, U64_MAX
from client_replies.messages.reply_header import (
    CHECKSUM_SIZE,
    HEADER_SIZE,
    Buffer,
    HeaderInvalid,
    ReplyHeader,
    checksum128,
    packed_client_request,
    packed_cluster_client,
    packed_size,
    verify_header_checksum,
)

SESSIONS_MAGIC = b"replies-sessions"
SESSIONS_VERSION = 1
_PREFIX = struct.Struct("<16s16sIIII16s")
_CHECKED_FROM = 32
_SLOT = struct.Struct("<I")
_ENTRY_SIZE = _SLOT.size + HEADER_SIZE

if _PREFIX.size != 64 or len(SESSIONS_MAGIC) != 16:
    raise ImportError("the session table's prefix is 64 bytes with a magic of 16")


def sessions_size_max(clients_max: int) -> int:
    """Bytes of the encoded table when it is full."""
    return _PREFIX.size + clients_max * _ENTRY_SIZE


class SessionsRefused(ValueError):
    """What was to be committed contradicts the table; nothing was changed."""


class SessionsInvalid(ValueError):
    """Bytes that are not a session table of this cluster and size. `entry` is the position of the bad entry, or -1."""

    def __init__(self, found: str, expected: str, entry: int = -1) -> None:
        super().__init__(found, expected, entry)
        self.found = found
        self.expected = expected
        self.entry = entry

    def __str__(self) -> str:
        where = f"entry {self.entry}: " if self.entry >= 0 else ""
        return f"{type(self).__name__}: {where}found {self.found}, expected {self.expected}"


class SessionsTruncated(SessionsInvalid):
    """More or fewer bytes than the number of entries says."""


class SessionsMagicWrong(SessionsInvalid):
    """Not a session table."""


class SessionsChecksumWrong(SessionsInvalid):
    """The table is not what was encoded. `entry` names the first header that is damaged, if one is."""


class SessionsVersionUnknown(SessionsInvalid):
    """A table of another version."""


class SessionsClusterWrong(SessionsInvalid):
    """A table of another cluster."""


class SessionsCapacityWrong(SessionsInvalid):
    """A table for another number of sessions, or with more entries than it may have."""


class SessionsEntryWrong(SessionsInvalid):
    """A whole table with an entry that breaks a rule of the table."""


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
                evicted = self._evict()
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
        entries = list(self)
        slots = struct.pack(f"<{len(entries)}I", *[slot for slot, _ in entries])
        prefix = _PREFIX.pack(
            SESSIONS_MAGIC,
            bytes(CHECKSUM_SIZE),
            SESSIONS_VERSION,
            self.clients_max,
            len(entries),
            0,
            self.cluster.to_bytes(16, "little"),
        )
        checked = b"".join([prefix[_CHECKED_FROM:], slots, *[header for _, header in entries]])
        return SESSIONS_MAGIC + checksum128(checked) + checked

    @classmethod
    def decode(cls, data: Buffer, *, clients_max: int, cluster: int) -> ClientSessions:
        """The table that was encoded as `data`. Raises the `SessionsInvalid` that names what is wrong."""
        sessions = cls(clients_max, cluster)
        table = _Table.decode(data, clients_max, cluster)
        for slot, header in zip(table.slots, table.headers, strict=True):
            sessions._headers[slot] = header
        commits, clients = table.column(_COMMIT), table.clients()
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
        self._headers[slot] = None
        heapq.heappush(self._free, slot)
        return Evicted(client, slot)

    def _header_in(self, slot: int) -> bytes:
        header = self._headers[slot]
        if header is None:
            invariant(False, f"slot {slot} of a session has no header")
            return b""
        return header


@dataclass(frozen=True, slots=True)
class Expectations:
    """What an encoded table says of the slots that hold a reply: the packed headers, the largest op and size."""

    headers: dict[int, bytes]
    op_max: int
    size_max: int

    @classmethod
    def decode(cls, data: Buffer, *, clients_max: int, cluster: int, verified: bool = False) -> Expectations:
        """As `ClientSessions.decode`, at a fraction of its time and memory. Raises `SessionsInvalid`.

        A table that is `verified` was decoded by another actor of the component: only its checksum is looked at again.
        """
        table = _Table.decode(data, clients_max, cluster, verified=verified)
        sizes = [word & U32_MAX for word in table.column(_SIZE)]
        with_body = [size > HEADER_SIZE for size in sizes]
        headers = dict(zip(compress(table.slots, with_body), compress(table.headers, with_body), strict=True))
        ops, sizes = compress(table.column(_OP), with_body), list(compress(sizes, with_body))
        return cls(headers, max(ops, default=0), max(sizes, default=0))


# Where a header, seen as 32 words of 8 bytes, has the fields that the table asks for.
_WORDS = HEADER_SIZE // 8
_CLUSTER, _CLIENT, _SESSION, _OP, _COMMIT, _SIZE = 4, 6, 12, 13, 14, 17  # the size is the lower half of its word


@dataclass(frozen=True, slots=True)
class _Table:
    """A decoded table whose every rule was verified, column by column: an entry costs little where all is well."""

    slots: tuple[int, ...]
    headers: list[bytes]
    words: array[int]

    @classmethod
    def decode(cls, data: Buffer, clients_max: int, cluster: int, *, verified: bool = False) -> _Table:
        """Raises `SessionsInvalid`."""
        packed = bytes(data)
        count = _decode_prefix(memoryview(packed), clients_max, cluster)
        slots = struct.unpack_from(f"<{count}I", packed, _PREFIX.size)
        begin = _PREFIX.size + _SLOT.size * count
        headers = [packed[start : start + HEADER_SIZE] for start in range(begin, len(packed), HEADER_SIZE)]
        words = array("Q")
        words.frombytes(memoryview(packed)[begin:])
        if sys.byteorder == "big":
            words.byteswap()
        table = cls(slots, headers, words)
        if not verified and not table._is_valid(clients_max, cluster):
            table._raise_fault(clients_max, cluster)
        return table

    def column(self, word: int) -> array[int]:
        """This word of every header."""
        return self.words[word::_WORDS]

    def clients(self) -> list[bytes]:
        """Each client's number, as it is packed."""
        return [header[8 * _CLIENT : 8 * _CLIENT + 16] for header in self.headers]

    def _is_valid(self, clients_max: int, cluster: int) -> bool:
        slots, count = self.slots, len(self.slots)
        if not count:
            return True
        commits, sessions, clients = self.column(_COMMIT), self.column(_SESSION), set(self.clients())
        return (
            all(map(operator.lt, slots, slots[1:]))
            and slots[-1] < clients_max
            and set(self.column(_CLUSTER)) == {cluster & U64_MAX}
            and set(self.column(_CLUSTER + 1)) == {cluster >> 64}
            and len(clients) == count
            and bytes(16) not in clients
            and min(sessions) > 0
            and all(map(operator.le, sessions, commits))
            and len(set(commits)) == count
            and all(header[:CHECKSUM_SIZE] == checksum128(header[CHECKSUM_SIZE:]) for header in self.headers)
        )

    def _raise_fault(self, clients_max: int, cluster: int) -> NoReturn:
        """Name the entry that breaks a rule, and the rule."""
        previous = -1
        entries = []
        for entry, (slot, header) in enumerate(zip(self.slots, self.headers, strict=True)):
            if not previous < slot < clients_max:
                raise SessionsEntryWrong(f"slot {slot}", f"a slot from {previous + 1} to {clients_max - 1}", entry)
            previous = slot
            try:
                verify_header_checksum(header)
            except HeaderInvalid as error:
                raise SessionsEntryWrong(error.found, error.expected, entry) from error
            client, _, session, commit, _ = packed_client_request(header)
            if packed_cluster_client(header)[0] != cluster or client == 0 or not 0 < session <= commit:
                found = f"client {client:x}, session {session}, commit {commit}"
                raise SessionsEntryWrong(found, f"a reply of cluster {cluster:x}", entry)
            entries.append((commit, entry, client))
        entries.sort()
        clients: set[int] = set()
        for position, (commit, entry, client) in enumerate(entries):
            if client in clients:
                raise SessionsEntryWrong(f"client {client:x} twice", "each client once", entry)
            if position and commit == entries[position - 1][0]:
                raise SessionsEntryWrong(f"commit {commit} twice", "each commit once", entry)
            clients.add(client)
        raise InvariantBroken("a session table breaks a rule, and no entry of it does")


def _decode_prefix(data: memoryview, clients_max: int, cluster: int) -> int:
    """Verify everything before the entries; returns their number."""
    if len(data) < _PREFIX.size:
        raise SessionsTruncated(f"{len(data)} bytes", f"at least {_PREFIX.size}")
    magic, checksum, version, capacity, count, zero, cluster_bytes = _PREFIX.unpack_from(data)
    if magic != SESSIONS_MAGIC:
        raise SessionsMagicWrong(magic.hex(), SESSIONS_MAGIC.hex())
    found = checksum128(data[_CHECKED_FROM:])
    if found != checksum:
        raise SessionsChecksumWrong(checksum.hex(), found.hex(), _first_damaged_entry(data, count))
    if version != SESSIONS_VERSION or zero:
        raise SessionsVersionUnknown(f"version {version}", f"version {SESSIONS_VERSION}")
    if int.from_bytes(cluster_bytes, "little") != cluster:
        raise SessionsClusterWrong(f"cluster {int.from_bytes(cluster_bytes, 'little'):x}", f"cluster {cluster:x}")
    if capacity != clients_max or count > clients_max:
        raise SessionsCapacityWrong(f"{count} of {capacity} sessions", f"at most {clients_max} of {clients_max}")
    if len(data) != _PREFIX.size + count * _ENTRY_SIZE:
        expected = f"{_PREFIX.size + count * _ENTRY_SIZE} for {count} entries"
        raise SessionsTruncated(f"{len(data)} bytes", expected)
    return int(count)


def _first_damaged_entry(data: memoryview, count: int) -> int:
    """The first entry whose header is damaged, or -1: the damage is elsewhere, or the length does not fit."""
    if len(data) != _PREFIX.size + count * _ENTRY_SIZE:
        return -1
    headers_at = _PREFIX.size + count * _SLOT.size
    for entry in range(count):
        start = headers_at + entry * HEADER_SIZE
        try:
            verify_header_checksum(data[start : start + HEADER_SIZE])
        except HeaderInvalid:
            return entry
    return -1
