"""Why something was refused, failed or was found broken: one named kind each, with what was found and expected.

A fault is an expected outcome and travels in an answer. A broken environment also becomes a fault, after which the
actor stops. A bug is neither: it raises `InvariantBroken`, which ends the actor's process.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .message import U64, Message, Op


class InvariantBroken(BaseException):
    """The component contradicts itself. Never caught, never retried.

    Not an `Exception`, because Thespian calls a handler that raised one again, with the state that its first run left.
    """


def invariant(holds: object, text: str) -> None:
    """Raise `InvariantBroken` with `text` unless `holds`. Unlike `assert`, `-O` does not remove it."""
    if not holds:
        raise InvariantBroken(text)


class FaultClass(enum.Enum):
    """What a fault says about the data file, and so what may be done about it."""

    DAMAGE = "what was durable is provably gone: set the file aside, and replace it from the other replicas"
    REFUSAL = "the environment refuses now, which says nothing about the file's contents: leave it, and try again"
    MISMATCH = "the file is not the one that the configuration means: leave it, and let a person decide"
    REQUEST = "a request was invalid or out of turn, or the component ended: nothing is wrong with the file"


class FaultKind(enum.Enum):
    """Every reason that an answer of the component can give. `fault_class` says what each means for the data file."""

    # Opening a data file.
    FILE_MISSING = "there is no data file"
    FILE_EXISTS = "there is a file already, and formatting never overwrites"
    DIRECTORY_MISSING = "the directory of the data file does not exist"
    PERMISSION_DENIED = "the operating system refuses access"
    READ_ONLY = "the file system is mounted read-only"
    FILE_LOCKED = "another process holds the data file"
    DESCRIPTORS_EXHAUSTED = "the process or the system has no file descriptor left"
    FILE_SIZE_LIMIT = "the file would be larger than the limit on the size of a file"
    NOT_A_FILE = "the path names a directory, a device or another thing that is not a regular file"
    NOT_A_DATA_FILE = "the file was not written by client-replies"
    FORMAT_VERSION_UNKNOWN = "the file has another format version"
    CLUSTER_MISMATCH = "the file belongs to another cluster"
    REPLICA_MISMATCH = "the file belongs to another replica"
    SLOT_COUNT_MISMATCH = "the file has another number of slots"
    SLOT_SIZE_MISMATCH = "the file has slots of another size"
    FILE_TRUNCATED = "the file is shorter than its format says"
    SUPERBLOCK_CORRUPT = "no two copies of the superblock agree"
    TRAILER_CORRUPT = "the session tables of the last two checkpoints are damaged"
    TRAILER_INVALID = "the session table of the last checkpoint is as it was written, and cannot be decoded"
    DISK_FULL = "no space is left on the device"
    IO_ERROR = "the operating system reports an I/O error"
    OUT_OF_MEMORY = "the operating system gives no memory"
    SYSTEM_ERROR = "the operating system reports an error that has no kind of its own here"
    MEMORY_UNAVAILABLE = "the shared memory of the message pool cannot be made or mapped"
    # A reply that is offered.
    REPLY_INVALID = "the reply's bytes are not a whole, verified reply"
    REPLY_TOO_LARGE = "the reply is larger than message_size_max"
    REPLY_OTHER_CLUSTER = "the reply belongs to another cluster"
    REPLY_WITHOUT_BODY = "a reply without a body lives in the session table, never in a slot"
    SLOT_OUT_OF_RANGE = "there is no such slot"
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

    @property
    def fault_class(self) -> FaultClass:
        """What a fault of this kind says about the data file."""
        return _CLASSES.get(self, FaultClass.REQUEST)


_CLASSES = {
    **dict.fromkeys(
        (FaultKind.FILE_TRUNCATED, FaultKind.SUPERBLOCK_CORRUPT, FaultKind.TRAILER_CORRUPT), FaultClass.DAMAGE
    ),
    **dict.fromkeys(
        (
            FaultKind.FILE_MISSING,  # a disk that is not mounted looks the same
            FaultKind.DIRECTORY_MISSING,
            FaultKind.PERMISSION_DENIED,
            FaultKind.READ_ONLY,
            FaultKind.FILE_LOCKED,
            FaultKind.DESCRIPTORS_EXHAUSTED,
            FaultKind.FILE_SIZE_LIMIT,
            FaultKind.DISK_FULL,
            FaultKind.IO_ERROR,  # a cable or a network device may report it of a disk that is whole
            FaultKind.OUT_OF_MEMORY,
            FaultKind.SYSTEM_ERROR,
            FaultKind.MEMORY_UNAVAILABLE,
        ),
        FaultClass.REFUSAL,
    ),
    **dict.fromkeys(
        (
            FaultKind.FILE_EXISTS,
            FaultKind.NOT_A_FILE,
            FaultKind.NOT_A_DATA_FILE,
            FaultKind.FORMAT_VERSION_UNKNOWN,
            FaultKind.CLUSTER_MISMATCH,
            FaultKind.REPLICA_MISMATCH,
            FaultKind.SLOT_COUNT_MISMATCH,
            FaultKind.SLOT_SIZE_MISMATCH,
            FaultKind.TRAILER_INVALID,
        ),
        FaultClass.MISMATCH,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(Message):
    """One fault: its kind, and in words what was found and what was expected."""

    kind: FaultKind
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.kind.name}: {self.kind.value} (found {self.found}, expected {self.expected})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure(Message):
    """Base of the messages that have a `fault`: `str()` says it."""

    fault: Fault

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.fault}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDamaged(Failure):
    """The session table of the last checkpoint, `sequence` as of `op`, is not to be had, and why."""

    sequence: U64
    op: Op


class SlotFault(enum.Enum):
    """What is wrong with a slot on disk."""

    UNREADABLE = "the device reports an error"
    HEADER_CORRUPT = "the header's checksum is wrong"
    OTHER_REPLY = "a whole header, but of another reply"
    BODY_CORRUPT = "the body's checksum is wrong"
    PADDING_NOT_ZERO = "bytes after the reply are not zero"
