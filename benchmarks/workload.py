"""The work that every contestant does: replies of so many bytes, each with a body of its own, of sessions in turn.

Guarantees: no two bodies are the same, sessions take turns (so a window never holds two replies of one), and a
reply is built the way a replica builds it: its header sealed over its body. Replies of one run are the same in every
contestant; 4 KiB means 4,096 bytes of header and body together.
"""

from __future__ import annotations

import os
import struct

from client_replies.messages.config import SECTOR_SIZE
from client_replies.messages.reply import seal_reply
from client_replies.messages.reply_header import HEADER_SIZE

SESSIONS = 128
WINDOW = 64
CLUSTER = 7
OPERATION = 2
TIMESTAMP = 1


class Replies:
    """Produces replies, one session after the other."""

    def __init__(self, size: int, sessions: int = SESSIONS, op: int = 0) -> None:
        self.size = size
        self.sessions = sessions
        self.op = sessions + op  # the registrations came first
        self._body = bytearray(os.urandom(size - HEADER_SIZE))

    def next(self) -> tuple[int, bytes]:
        """The slot and the bytes of the next reply."""
        self.op += 1
        slot = (self.op - 1) % self.sessions
        struct.pack_into("<Q", self._body, 0, self.op)
        return slot, seal(slot, self.op, (self.op - 1) // self.sessions, self._body)

    def of(self, slot: int) -> bytes:
        """The next reply, of the slot's session, whoever's turn it is."""
        self.op += 1
        struct.pack_into("<Q", self._body, 0, self.op)
        return seal(slot, self.op, self.op, self._body)

    def batch(self, count: int) -> tuple[tuple[int, ...], tuple[bytes, ...]]:
        """Columns of the next `count` replies."""
        pairs = [self.next() for _ in range(count)]
        return tuple(slot for slot, _ in pairs), tuple(reply for _, reply in pairs)


def seal(slot: int, op: int, request: int, body: bytes | bytearray) -> bytes:
    """The reply to the slot's session's request at `op`."""
    return seal_reply(
        cluster=CLUSTER,
        client=slot + 1,
        session=slot + 1,
        request=request,
        op=op,
        operation=OPERATION,
        timestamp=TIMESTAMP,
        body=body,
    )


def sessions_for(window: int) -> int:
    """How many sessions take turns, at least twice as many as may wait for durability."""
    return max(SESSIONS, 2 * window)


def slot_size(size: int) -> int:
    """A slot that fits the reply."""
    return -(-size // SECTOR_SIZE) * SECTOR_SIZE
