"""What was committed, in one order for all: the part of consensus, played by an oracle.

The primary appends a request at once and for good; every replica learns of it at its own pace and executes it in its
turn. What execution must come to is kept beside each entry, from the first replica that did it, for comparison.

Guarantees: an entry and its reply never change. Owns: the log, and the table of sessions that it amounts to.
"""

from __future__ import annotations

from dataclasses import dataclass

import xxhash

from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import OPERATION_REGISTER

CLUSTER = 0xC1

OPERATION_DO = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRequest:
    """A client asks. `size` is that of the reply's body, so that the workload decides it."""

    client: int
    session: int
    request: int
    checksum: bytes
    size: int

    @property
    def registers(self) -> bool:
        """True if this begins a session."""
        return self.request == 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A committed request."""

    op: int
    request: ClientRequest
    view: int
    replica: int


@dataclass(frozen=True, slots=True)
class Result:
    """What executing an entry comes to: the reply's slot and bytes, or none if its session was gone; the state."""

    slot: int | None
    reply: bytes | None
    state: int


class History:
    """The log."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.results: dict[int, Result] = {}
        self._last_of_client: dict[int, int] = {}

    @property
    def op(self) -> int:
        """Of the last entry."""
        return len(self.entries)

    def entry(self, op: int) -> Entry:
        """The entry with this op."""
        return self.entries[op - 1]

    def append(self, request: ClientRequest, view: int, replica: int) -> Entry:
        """Commit a request."""
        entry = Entry(self.op + 1, request, view, replica)
        self.entries.append(entry)
        self._last_of_client[request.client] = entry.op
        return entry

    def is_pending(self, client: int, applied: int) -> bool:
        """True if something of the client is committed after `applied`."""
        return self._last_of_client.get(client, 0) > applied

    def state(self, op: int) -> int:
        """The state of the service after `op`, as the first replica had it."""
        return self.results[op].state if op else 0


def next_state(state: int, entry: Entry) -> int:
    """The state of the service after one more entry."""
    request = entry.request
    return xxhash.xxh3_64_intdigest(f"{state}/{entry.op}/{request.client}/{request.request}".encode())


def build_reply(entry: Entry, state: int) -> bytes:
    """The reply to an entry, from what is committed alone."""
    request = entry.request
    seed = state.to_bytes(8, "little")
    body = (seed * (request.size // 8 + 1))[: request.size]
    return Reply.build(
        cluster=CLUSTER,
        client=request.client,
        session=request.session if not request.registers else entry.op,
        request=request.request,
        op=entry.op,
        operation=OPERATION_REGISTER if request.registers else OPERATION_DO,
        timestamp=entry.op,
        body=body,
        view=entry.view,
        replica=entry.replica,
        request_checksum=request.checksum,
    ).pack()
