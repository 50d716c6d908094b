"""SQLite and LMDB, as somebody would use them for this: one row a session, replaced by the latest reply.

Guarantees: `put` returns when all of the batch is durable, in one transaction. SQLite runs with a write-ahead log and
synchronous=FULL, LMDB with its syncs on; both are otherwise as they come.

`StoreActor` is such a store behind an actor: a batch of replies comes as bytes, and is answered when it is durable.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import lmdb
from thespian.actors import Actor, ActorAddress, ActorExitRequest

from client_replies.messages.message import Message

_KEY = struct.Struct(">I")


class Store(Protocol):
    """Replies by slot."""

    def put(self, slots: Sequence[int], replies: Sequence[bytes]) -> None:
        """Replace the slots' replies, in one durable transaction."""

    def close(self) -> None:
        """Release the files."""


class SqliteStore:
    """A table in a file, with a write-ahead log that is synced at every commit."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        mode = self._connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise RuntimeError(f"SQLite took journal mode {mode}")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("CREATE TABLE replies (slot INTEGER PRIMARY KEY, reply BLOB NOT NULL)")

    def put(self, slots: Sequence[int], replies: Sequence[bytes]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("REPLACE INTO replies VALUES (?, ?)", zip(slots, replies, strict=True))
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()


class LmdbStore:
    """A memory-mapped B+ tree, synced at every commit."""

    def __init__(self, path: str, size: int) -> None:
        self._environment: Any = lmdb.open(path, map_size=size, subdir=False, sync=True, metasync=True)

    def put(self, slots: Sequence[int], replies: Sequence[bytes]) -> None:
        with self._environment.begin(write=True) as transaction:
            for slot, reply in zip(slots, replies, strict=True):
                transaction.put(_KEY.pack(slot), reply)

    def close(self) -> None:
        self._environment.close()


def open_store(kind: str, path: str, bytes_max: int) -> Store:
    """A new store in the file `path`, for at most so many bytes of replies."""
    return SqliteStore(path) if kind == "sqlite" else LmdbStore(path, 8 * bytes_max + 2**26)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStore(Message):
    """Open a store."""

    kind: str
    path: str
    bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOpened(Message):
    """The store is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBatch(Message):
    """Store these replies in one transaction."""

    number: int
    slots: tuple[int, ...]
    replies: tuple[bytes, ...] = field(repr=False)

    def __post_init__(self) -> None:
        """Nothing is checked: a plain program would not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStored(Message):
    """The batch is durable."""

    number: int


class StoreActor(Actor):
    """A store behind an actor."""

    def __init__(
        self, capabilities: Mapping[str, object] | None = None, requirements: Mapping[str, object] | None = None
    ) -> None:
        super().__init__()
        self._store: Store | None = None

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Open, put or close."""
        if isinstance(message, PutBatch) and self._store is not None:
            self._store.put(message.slots, message.replies)
            self.send(sender, BatchStored(number=message.number))
        elif isinstance(message, OpenStore):
            self._store = open_store(message.kind, message.path, message.bytes_max)
            self.send(sender, StoreOpened())
        elif isinstance(message, ActorExitRequest) and self._store is not None:
            self._store.close()
