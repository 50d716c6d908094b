"""A replica and its ClientRepliesActor.

The replica that opens the file is its owner; `owner` is a number of its choosing, unique to this incarnation of it.
What changes state (`WriteReplies`, `RemoveReplies`, `InstallSessions`, `Checkpoint`, `CloseReplies`) carries a
`number` that grows by one; the next one is sent when the last was answered. A message repeated because its answer was
lost gets that answer again and does nothing twice. Reads and waits carry a number of their own and may overlap.

A payload is a whole reply, header and body: either its bytes, up to `inline_size_max`, or a lease on the buffer that
holds them. A lease in an accepted batch is lent: the buffer is not touched, and the lease not given to another batch,
until the batch is known to be durable; then its owner fills it anew. Closing takes back all that the owner held.

A reply is *on disk* when it was written to its slot and synced, or read there and found whole, and nothing was written
over it since but a newer reply of the slot. While that is being written a crash may leave neither. So an owner keeps in
its log all that its last `CheckpointDone` does not cover, whatever else it was told: docs/architecture.md has a table.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from thespian.actors import ActorAddress

from .config import CLIENTS_MAX_LIMIT, OpenMode, RepliesConfig
from .faults import CheckpointDamaged, Failure, Fault
from .leases import GrantedLease, MemoryName
from .limits import Distinct, Length, LengthPer, Range
from .message import U8, U32, U32_MAX, U64, Message, Number, Op
from .reply_header import HEADER_SIZE

SLOT_MAX = CLIENTS_MAX_LIMIT - 1
PEERS_MAX = 16
SESSIONS_SIZE_MAX = 2**32  # bytes of an encoded session table

Owner = Number
Slot = Annotated[int, Range(0, SLOT_MAX)]
Slots = Annotated[tuple[Slot, ...], Distinct()]
Payload = bytes | GrantedLease
Payloads = Annotated[tuple[Payload, ...], LengthPer("slots")]
PackedHeader = Annotated[bytes, Length(HEADER_SIZE)]
PackedHeaders = Annotated[bytes, LengthPer("slots", HEADER_SIZE)]  # side by side
Sessions = Annotated[bytes, Length(1, SESSIONS_SIZE_MAX)]
StoredSessions = Annotated[bytes, Length(0, SESSIONS_SIZE_MAX)]  # none before the first checkpoint
Counts = Mapping[str, U64]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenReplies(Message):
    """Format or open the data file. `storage` and `pool` name actors to use instead of new ones.

    A new owner may open what a dead one left open, in the same actor: what the old one held comes back.
    """

    owner: Owner
    config: RepliesConfig
    mode: OpenMode = OpenMode.OPEN_OR_FORMAT
    storage: ActorAddress | None = None
    pool: ActorAddress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RepliesOpened(Message):
    """The file is open: the session table of its last checkpoint, and the slots that do not hold what it says.

    `sessions` is empty after formatting. `credit` replies may be written. Repair begins with `SetPeers`. It is spared
    work if that comes after the log was replayed, but nothing goes wrong before: a slot that holds a whole reply of a
    later op is neither repaired nor denied to a peer until the owner has told of that op, and if the log brings that
    very reply again, it is not even written.

    Where the table of the last checkpoint is `damaged`, `sequence`, `op` and `sessions` are those of the checkpoint
    before it, and the owner's log has to bring everything since: an owner keeps its log from there on until the next
    `CheckpointDone`.
    """

    owner: Owner
    formatted: bool
    sequence: U64
    op: Op
    sessions: StoredSessions = field(repr=False)
    faulty: tuple[Slot, ...]
    credit: U32
    pool: ActorAddress
    memory: MemoryName
    damaged: CheckpointDamaged | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFailed(Failure):
    """The file was not opened, and is as it was."""

    owner: Owner


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPeers(Message):
    """Where the ClientRepliesActors of the other replicas are; repair begins or goes on. A lower version is ignored."""

    owner: Owner
    version: Number
    peers: Annotated[tuple[tuple[U8, ActorAddress], ...], Length(0, PEERS_MAX), Distinct(keys=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersSet(Message):
    """The peers of `version` are in use."""

    owner: Owner
    version: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteReplies(Message):
    """The replies of committed requests, one a slot; all committed up to `op` is known with this.

    A reply may be of a later op, if it took the place of an older one of its slot.

    `slots` and `payloads` are columns of one table. `durable` asks for `RepliesDurable` when this batch and all
    before it are durable, unless a `WritesAccepted` says so: the answer to a small batch, or to the one that follows
    this one, may wait for that. An empty batch only tells the op.
    """

    owner: Owner
    number: Number
    op: Op
    slots: Slots
    payloads: Payloads = field(repr=False)
    durable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveReplies(Message):
    """These slots hold no reply any more: the session went away, or its latest reply has no body."""

    owner: Owner
    number: Number
    op: Op
    slots: Slots


@dataclass(frozen=True, slots=True, kw_only=True)
class WritesAccepted(Message):
    """The batch (or removal) `number` is accepted, in memory and not on disk; `credit` more replies may be sent next.

    This answer waits until the credit is above 0, so that a replica never has to ask again, and a moment longer while
    the batch would only wait behind the one that is being written, or can be told of together with the durability of
    another. `durable_through` says what `RepliesDurable` does.
    """

    owner: Owner
    number: Number
    credit: Annotated[int, Range(1, U32_MAX)]
    durable_through: U64 = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WritesRefused(Failure):
    """Nothing of the batch `number` was taken over: item `index` has `fault`. The same number is expected next."""

    owner: Owner
    number: Number
    index: U32


@dataclass(frozen=True, slots=True, kw_only=True)
class RepliesDurable(Message):
    """Of every reply in the batches up to `through`: it, or a newer one of its slot, is on disk.

    Except where a removal or an installation, accepted since, took the reply away. Unsolicited: if this is lost, the
    next `WritesAccepted` says the same.
    """

    owner: Owner
    through: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitDurable(Message):
    """Say when each of these slots has on disk the reply that it is expected to hold now, or a newer one.

    Numbered by `wait`; asked again, it is about what it was asked for first.
    """

    owner: Owner
    wait: Number
    slots: Slots


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsDurable(Message):
    """Of each slot of `AwaitDurable` number `wait`: the reply it was expected to hold then, or a newer one, is on disk.

    Or it is expected to hold none. Newer replies that keep coming do not put this off; a reply that is lost does, until
    the slot's next one.
    """

    owner: Owner
    wait: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadReply(Message):
    """Read the reply with the packed header `expected` from its slot. Numbered by `read`."""

    owner: Owner
    read: Number
    slot: Slot
    expected: PackedHeader = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyRead(Message):
    """The reply, verified: its bytes, or a lease that is lent until `ReplyTaken`; without that, it is sent again."""

    owner: Owner
    read: Number
    slot: Slot
    payload: Payload = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyTaken(Message):
    """The reader has what it wanted of the lease that it was lent for `read`. Unknown reads are ignored."""

    owner: Owner
    read: Number


class NotRead(enum.Enum):
    """Why a reply was not read."""

    CORRUPT = "the slot does not hold the reply; it is repaired from the peers"
    LOST = "the slot does not hold the reply, and no peer does"
    UNEXPECTED = "the slot is expected to hold another reply, or none, or holds a later one already"
    BUSY = "too many reads are waiting; try again"
    CLOSED = "no data file is open, or not by this owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyNotRead(Message):
    """The reply could not be had, and why."""

    owner: Owner
    read: Number
    slot: Slot
    reason: NotRead

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.reason.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallSessions(Message):
    """After state sync to `op`: the encoded session table that replaces what every slot is expected to hold."""

    owner: Owner
    number: Number
    op: Op
    sessions: Sessions = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionsInstalled(Message):
    """Installed, in memory: a restart finds the last checkpoint. `faulty` slots may not have their reply on disk.

    They are read, and those that do not hold it are repaired. All other slots have theirs on disk or on its way there.
    The sync is complete when `AwaitDurable` on the `faulty` is answered and a `Checkpoint` of its op is done.
    """

    owner: Owner
    number: Number
    faulty: tuple[Slot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Message):
    """Store the encoded session table as of `op` once the replies accepted before this message are durable.

    In the sense of `RepliesDurable`. What is accepted later does not hold it up.
    """

    owner: Owner
    number: Number
    op: Op
    sessions: Sessions = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointStarted(Message):
    """The checkpoint waits for its writes; batches after it are welcome meanwhile."""

    owner: Owner
    number: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDone(Message):
    """The session table as of `op` is on disk. Of each reply accepted before the checkpoint, it or a newer one is too.

    Except where a removal or an installation, accepted since, took the reply away. What is newer, and the removal, are
    of ops after `op`, not checkpointed yet. So the log may be cut up to `op` and no further: replaying the rest gives
    every slot its latest reply again, whatever a crash left of it.
    """

    owner: Owner
    number: Number
    op: Op
    sequence: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRefused(Failure):
    """The `InstallSessions`, `Checkpoint`, `AwaitDurable`, `SetPeers` or `CloseReplies` did nothing, and why."""

    owner: Owner
    request: str
    number: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class GetStatus(Message):
    """Ask how the component is; for `slots` also which of them are durable. Anyone may ask."""

    request: U64
    slots: tuple[Slot, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RepliesStatus(Message):
    """The component as it is now.

    `slots` counts slots by state, the names of `SlotState` in small letters. `queues` has depths and limits: writes,
    waits, reads and repairs that wait or are in flight, buffers at hand. `counters` only grow, and have a name once it
    happened. `faulty` are the slots that do not hold their reply, `lost` those of which no replica has it. `durable`
    says of each slot that was asked about whether exactly what it is expected to hold is on disk; `durable_through` is
    as in `RepliesDurable`; `stopped` is the fault that stopped the storage, if one did.
    """

    request: U64
    open: bool
    closing: bool
    op: Op
    sequence: U64
    slots: Counts
    queues: Counts
    counters: Counts
    faulty: tuple[Slot, ...]
    lost: tuple[Slot, ...]
    durable: tuple[bool, ...]
    durable_through: U64
    stopped: Fault | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseReplies(Message):
    """Take nothing new, make durable what was accepted, give back every lease and release the file."""

    owner: Owner
    number: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class RepliesClosed(Message):
    """Closed, all that was accepted on disk; the lock is free. The session table is that of the last checkpoint."""

    owner: Owner
    number: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class RepliesRepaired(Message):
    """Told without asking: these slots' replies came from peers and are on disk again, packed headers side by side."""

    owner: Owner
    slots: Slots
    headers: PackedHeaders = field(repr=False)

    @property
    def repaired(self) -> tuple[tuple[int, bytes], ...]:
        """Each slot and its packed header."""
        headers = (self.headers[at : at + HEADER_SIZE] for at in range(0, len(self.headers), HEADER_SIZE))
        return tuple(zip(self.slots, headers, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyLost(Message):
    """Told without asking: neither the slot nor any peer holds the reply, as all say. Its client must get an error.

    It is about this reply alone. The slot's next one is not lost, also if the owner's log brings it later than this.
    """

    owner: Owner
    slot: Slot
    header: PackedHeader = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageFailed(Failure):
    """Told without asking: the storage stopped and nothing more is made durable. The replica must recover."""

    owner: Owner
