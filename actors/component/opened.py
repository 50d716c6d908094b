"""What the parts of a ClientRepliesActor share while a data file is open, so that closing forgets all of it at once.

Owns: the slots, and the leases that the component keeps for itself. `read_stock` serves the
replica's reads of large replies; `repair_stock` the repaired replies on their way to disk and the reads for peers.
Neither is ever taken from what commits were promised, which is the rest of the pool (invariant 7).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from thespian.actors import ActorAddress

from client_replies.messages.config import RepliesConfig
from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.leases import Lease
from client_replies.messages.message import Message
from client_replies.messages.replies import Payload
from client_replies.messages.reply_header import packed_size
from client_replies.messages.requests import Outbox
from client_replies.storage.shared_memory import PoolMemory

from .slots import Slots, Write


class Count(Protocol):
    """Counts a rare event and logs it by name."""

    def __call__(self, event: str, **details: object) -> None:
        """See `ComponentActor.count`."""


class Refused(Exception):
    """A request is refused: its item `index` has `fault`."""

    def __init__(self, kind: FaultKind, found: str, expected: str, index: int = 0) -> None:
        super().__init__(kind, found, expected, index)
        self.fault = Fault(kind=kind, found=found, expected=expected)
        self.index = index


@dataclass(slots=True, eq=False)
class Opened:
    """One opening of a data file, by one owner."""

    config: RepliesConfig
    owner: int
    owner_address: ActorAddress
    incarnation: int
    memory: PoolMemory
    slots: Slots
    to_storage: Outbox
    op: int
    sequence: int
    send: Callable[[ActorAddress, Message], None]
    now: Callable[[], float]
    count: Count
    own: frozenset[Lease]  # the leases that the component acquired for itself and has not given back
    read_stock: list[Lease] = field(default_factory=list)
    repair_stock: list[Lease] = field(default_factory=list)

    def tell_owner(self, message: Message) -> None:
        """Send to the replica that opened the file."""
        self.send(self.owner_address, message)

    def call_storage(self, lane: str, message: Message) -> None:
        """Send a request to the storage; its lane is busy until the answer."""
        self.to_storage.post(lane, message, self.now())

    def is_inline(self, header: bytes) -> bool:
        """True if the reply with this packed header is small enough to travel as bytes."""
        return packed_size(header) <= self.config.inline_size_max

    def copy_bytes(self, payload: Payload, header: bytes) -> bytes:
        """The reply's bytes, copied out of shared memory if that is where they are."""
        if isinstance(payload, bytes):
            return payload
        return bytes(self.memory.buffer(payload)[: packed_size(header)])

    def release(self, write: Write) -> None:
        """The write is done: a repair's lease goes back to the stock; the owner's was only lent."""
        if write.is_repair and not isinstance(write.payload, bytes):
            self.repair_stock.append(write.payload)
