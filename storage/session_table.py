"""The encoded session table: what a checkpoint stores, decoded column by column.

Guarantees: a table that is decoded keeps every rule, or a `SessionsInvalid` says which it breaks. An entry costs little
where all is well.

Encoded, little-endian (sizes in bytes), the columns in slot order:

    0 16 magic         32 4 version            40 4 entries     48 16 cluster
    16 16 checksum     36 4 clients_max        44 4 zero        64 4 x entries slots, then 256 x entries headers

`checksum` is the XXH3-128 of everything after itself. Session numbers and the order of commits are in the headers.
"""

from __future__ import annotations

import operator
import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import NoReturn

from client_replies.messages.faults import InvariantBroken
from client_replies.messages.invalid import Invalid
from client_replies.messages.message import U32_MAX, U64_MAX
from client_replies.messages.reply_header import (
    CHECKSUM_SIZE,
    HEADER_SIZE,
    Buffer,
    HeaderInvalid,
    checksum128,
    packed_client_request,
    packed_cluster_client,
    verify_header_checksum,
)

SESSIONS_MAGIC = b"replies-sessions"
SESSIONS_VERSION = 1
PREFIX = struct.Struct("<16s16sIIII16s")
CHECKED_FROM = 32
SLOT = struct.Struct("<I")
ENTRY_SIZE = SLOT.size + HEADER_SIZE

if PREFIX.size != 64 or len(SESSIONS_MAGIC) != 16:
    raise ImportError("the session table's prefix is 64 bytes with a magic of 16")


def sessions_size_max(clients_max: int) -> int:
    """Bytes of the encoded table when it is full."""
    return PREFIX.size + clients_max * ENTRY_SIZE


def encode_sessions(clients_max: int, cluster: int, entries: Sequence[tuple[int, bytes]]) -> bytes:
    """Encode the table of these slots, in their order, each with the packed header of its session's latest reply."""
    slots = struct.pack(f"<{len(entries)}I", *[slot for slot, _ in entries])
    prefix = PREFIX.pack(
        SESSIONS_MAGIC,
        bytes(CHECKSUM_SIZE),
        SESSIONS_VERSION,
        clients_max,
        len(entries),
        0,
        cluster.to_bytes(16, "little"),
    )
    checked = b"".join([prefix[CHECKED_FROM:], slots, *[header for _, header in entries]])
    return SESSIONS_MAGIC + checksum128(checked) + checked


class SessionsInvalid(Invalid):
    """Bytes that are not a session table of this cluster and size. `entry` is the position of the bad entry, or -1."""

    def __init__(self, found: str, expected: str, entry: int = -1) -> None:
        super().__init__(found, expected)
        self.args = (found, expected, entry)
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
        table = SessionTable.decode(data, clients_max, cluster, verified=verified)
        sizes = [word & U32_MAX for word in table.column(_SIZE)]
        with_body = [size > HEADER_SIZE for size in sizes]
        headers = dict(zip(compress(table.slots, with_body), compress(table.headers, with_body), strict=True))
        ops, sizes = compress(table.column(_OP), with_body), list(compress(sizes, with_body))
        return cls(headers, max(ops, default=0), max(sizes, default=0))


# Where a header, seen as 32 words of 8 bytes, has the fields that the table asks for.
_WORDS = HEADER_SIZE // 8
_CLUSTER, _CLIENT, _SESSION, _OP, _COMMIT, _SIZE = 4, 6, 12, 13, 14, 17  # the size is the lower half of its word


@dataclass(frozen=True, slots=True)
class SessionTable:
    """A decoded table whose every rule was verified, column by column: an entry costs little where all is well."""

    slots: tuple[int, ...]
    headers: list[bytes]
    words: array[int]

    @classmethod
    def decode(cls, data: Buffer, clients_max: int, cluster: int, *, verified: bool = False) -> SessionTable:
        """Raises `SessionsInvalid`."""
        packed = bytes(data)
        count = _decode_prefix(memoryview(packed), clients_max, cluster)
        slots = struct.unpack_from(f"<{count}I", packed, PREFIX.size)
        begin = PREFIX.size + SLOT.size * count
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

    def commits(self) -> array[int]:
        """The op of each reply."""
        return self.column(_COMMIT)

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
    if len(data) < PREFIX.size:
        raise SessionsTruncated(f"{len(data)} bytes", f"at least {PREFIX.size}")
    magic, checksum, version, capacity, count, zero, cluster_bytes = PREFIX.unpack_from(data)
    if magic != SESSIONS_MAGIC:
        raise SessionsMagicWrong(magic.hex(), SESSIONS_MAGIC.hex())
    found = checksum128(data[CHECKED_FROM:])
    if found != checksum:
        raise SessionsChecksumWrong(checksum.hex(), found.hex(), _first_damaged_entry(data, count))
    if version != SESSIONS_VERSION or zero:
        raise SessionsVersionUnknown(f"version {version}", f"version {SESSIONS_VERSION}")
    if int.from_bytes(cluster_bytes, "little") != cluster:
        raise SessionsClusterWrong(f"cluster {int.from_bytes(cluster_bytes, 'little'):x}", f"cluster {cluster:x}")
    if capacity != clients_max or count > clients_max:
        raise SessionsCapacityWrong(f"{count} of {capacity} sessions", f"at most {clients_max} of {clients_max}")
    if len(data) != PREFIX.size + count * ENTRY_SIZE:
        expected = f"{PREFIX.size + count * ENTRY_SIZE} for {count} entries"
        raise SessionsTruncated(f"{len(data)} bytes", expected)
    return int(count)


def _first_damaged_entry(data: memoryview, count: int) -> int:
    """The first entry whose header is damaged, or -1: the damage is elsewhere, or the length does not fit."""
    if len(data) != PREFIX.size + count * ENTRY_SIZE:
        return -1
    headers_at = PREFIX.size + count * SLOT.size
    for entry in range(count):
        start = headers_at + entry * HEADER_SIZE
        try:
            verify_header_checksum(data[start : start + HEADER_SIZE])
        except HeaderInvalid:
            return entry
    return -1
