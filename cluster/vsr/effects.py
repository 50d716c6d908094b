"""What a replica wants done: the outputs of the state machine, to be carried out in the order in which they come.

Guarantees: nothing here needs an answer to keep the protocol safe, except what says so: a `WriteLog` is answered by
`log_written` once it is durable and not before, in order; the requests to the component by the events of `RepliesPort`
of the same meaning. Messages may be lost. A reply to a client leaves only after everything that it rests on.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from client_replies.messages.reply_header import CHECKSUM_SIZE

from .durable import LogWrite
from .messages import VsrMessage


class Reason(enum.Enum):
    """Why a client gets no reply, ever."""

    NO_SESSION = "the session is gone, or never was"
    SESSION_TOO_LOW = "the session is gone, and a later one of the same client is there"
    REPLY_LOST = "the request was executed, and no replica holds its reply any more"
    REPLACED = "the session made room for others"
    OTHER_REQUEST = "the number was used for a request with other content"


@dataclass(frozen=True, slots=True)
class SendMessage:
    """To another replica; may be lost."""

    replica: int
    message: VsrMessage


@dataclass(frozen=True, slots=True)
class WriteLog:
    """Make this durable, after all earlier ones; then `log_written(number)`. Several may share one transaction."""

    number: int
    write: LogWrite


@dataclass(frozen=True, slots=True)
class AnswerClient:
    """The original reply, header and body. `view` travels beside it. A client that is not connected is forgotten.

    `repeated`: the request was executed before, and this is what was stored.
    """

    client: int
    view: int
    reply: bytes = field(repr=False)
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class RefuseClient:
    """No reply. A client ignores what comes from an earlier view than it has had a reply from.

    `number` and `checksum` are those of the request, since a client that breaks the protocol may use a number twice.
    Without them (None, zeros) it is about the session: it was evicted.
    """

    client: int
    view: int
    session: int
    number: int | None
    reason: Reason
    checksum: bytes = bytes(CHECKSUM_SIZE)


@dataclass(frozen=True, slots=True)
class RedirectClient:
    """Not the primary. `replica` is, in `view`; None between two views."""

    client: int
    view: int
    replica: int | None


@dataclass(frozen=True, slots=True)
class KeepReply:
    """`port.write(slot, reply)`."""

    slot: int
    op: int
    reply: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ForgetReply:
    """`port.remove(slot, op)`."""

    slot: int
    op: int


@dataclass(frozen=True, slots=True)
class RepliesCommitted:
    """`port.committed(op)`: the keeps and forgets up to here may go out."""

    op: int


@dataclass(frozen=True, slots=True)
class CheckpointReplies:
    """`port.checkpoint(op, sessions)`; then `checkpoint_done(op)`."""

    op: int
    sessions: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class InstallReplies:
    """`port.install(op, sessions)`; then `replies_installed(op, faulty)`."""

    op: int
    sessions: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AwaitReply:
    """`port.await_durable((slot,))`; then `reply_durable(slot)`. At most `VsrConfig.waits_max` at a time."""

    slot: int


@dataclass(frozen=True, slots=True)
class FetchReply:
    """`port.read(slot, header)`; then `reply_read(header, reply)` or `reply_not_read(header, lost)`."""

    slot: int
    header: bytes = field(repr=False)


Effect = (
    SendMessage
    | WriteLog
    | AnswerClient
    | RefuseClient
    | RedirectClient
    | KeepReply
    | ForgetReply
    | RepliesCommitted
    | CheckpointReplies
    | InstallReplies
    | AwaitReply
    | FetchReply
)
