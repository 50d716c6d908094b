"""Why something was refused, failed or was found broken: one named kind each, with what was found and expected.

A fault is an expected outcome and travels in an answer. A broken environment also becomes a fault, after which the
actor stops. A bug is neither: it raises `InvariantBroken`, which ends the actor's process.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .message import Message, check_type


class InvariantBroken(BaseException):
    """The component contradicts itself. Never caught, never retried.

    Not an `Exception`, because Thespian calls a handler that raised one again, with the state that its first run left.
    """


def invariant(holds: object, text: str) -> None:
    """Raise `InvariantBroken` with `text` unless `holds`. Unlike `assert`, `-O` does not remove it."""
    if not holds:
        raise InvariantBroken(text)


class FaultKind(enum.Enum):
    """Every reason that an answer of the component can give."""

    # Opening a data file.
    FILE_MISSING = "there is no data file"
    FILE_EXISTS = "there is a file already, and formatting never overwrites"
    DIRECTORY_MISSING = "the directory of the data file does not exist"
    PERMISSION_DENIED = "the operating system refuses access"
    FILE_LOCKED = "another process holds the data file"
    NOT_A_DATA_FILE = "the file was not written by client-replies"
    FORMAT_VERSION_UNKNOWN = "the file has another format version"
    CLUSTER_MISMATCH = "the file belongs to another cluster"
    REPLICA_MISMATCH = "the file belongs to another replica"
    SLOT_COUNT_MISMATCH = "the file has another number of slots"
    SLOT_SIZE_MISMATCH = "the file has slots of another size"
    FILE_TRUNCATED = "the file is shorter than its format says"
    SUPERBLOCK_CORRUPT = "no two copies of the superblock agree"
    TRAILER_CORRUPT = "the session table of the last checkpoint is damaged"
    DISK_FULL = "no space is left on the device"
    IO_ERROR = "the operating system reports an I/O error"
    MEMORY_UNAVAILABLE = "the shared memory of the message pool cannot be made or mapped"
    # A reply that is offered.
    REPLY_INVALID = "the reply's bytes are not a whole, verified reply"
    REPLY_TOO_LARGE = "the reply is larger than message_size_max"
    REPLY_OTHER_CLUSTER = "the reply belongs to another cluster"
    REPLY_WITHOUT_BODY = "a reply without a body lives in the session table, never in a slot"
    SLOT_OUT_OF_RANGE = "there is no such slot"
    SLOT_REPEATED = "a batch names a slot twice"
    INLINE_TOO_LARGE = "a reply of this size travels as a lease, not as bytes"
    LEASE_STALE = "the lease was released or never granted"
    LEASES_TOO_MANY = "the pool has fewer buffers than one request asks for"
    HOLDER_UNKNOWN = "the pool lends to the component that opened it, and to the holders that it named"
    HOLDER_GONE = "the holder was declared dead and its leases were taken back"
    REPLY_OLDER = "the slot's session has a newer reply already"
    # A request that is out of turn.
    NOT_OPEN = "no data file is open"
    ALREADY_OPEN = "a data file is open"
    OWNER_UNKNOWN = "only the replica that opened the file may do this"
    OUT_OF_SEQUENCE = "the message is not the next one"
    BUSY = "a limit is reached; try again"
    SESSIONS_INVALID = "the session table cannot be decoded"
    SESSIONS_MISMATCH = "the session table does not agree with the slots"
    CLOSING = "the component is closing"
    STOPPED = "the storage or its component stopped, and does no more"
    # The component itself.
    ACTOR_DIED = "an actor of the component died"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(Message):
    """One fault: its kind, and in words what was found and what was expected."""

    kind: FaultKind
    found: str
    expected: str

    def validate(self) -> None:
        """Check the types of all fields."""
        check_type("kind", self.kind, FaultKind)
        check_type("found", self.found, str)
        check_type("expected", self.expected, str)

    def __str__(self) -> str:
        return f"{self.kind.name}: {self.kind.value} (found {self.found}, expected {self.expected})"


class SlotFault(enum.Enum):
    """What is wrong with a slot on disk."""

    UNREADABLE = "the device reports an error"
    HEADER_CORRUPT = "the header's checksum is wrong"
    OTHER_REPLY = "a whole header, but of another reply"
    BODY_CORRUPT = "the body's checksum is wrong"
    PADDING_NOT_ZERO = "bytes after the reply are not zero"
