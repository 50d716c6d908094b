"""Checkpoints: the session table is stored once every reply that it counts on is durable.

Guarantees: a checkpoint waits for the commit writes accepted before it and for no other, so that commits which arrive
meanwhile cannot starve it (invariant 8), and repairs cannot delay it (7). One at a time.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

from client_replies.messages.faults import FaultKind
from client_replies.messages.replies import Checkpoint, CheckpointDone
from client_replies.messages.reply_header import packed_op
from client_replies.messages.storage_io import CheckpointWritten, WriteCheckpoint
from client_replies.storage.session_table import Expectations, SessionsInvalid

from .opened import Opened, Refused
from .writing import Writing


@dataclass(slots=True, eq=False)
class Running:
    """The checkpoint in progress: the commit writes up to `barrier`, then its own."""

    message: Checkpoint
    barrier: int
    writing: bool = False


class Checkpointing:
    """The checkpoints of one opening."""

    def __init__(self, opened: Opened, writing: Writing) -> None:
        self._opened = opened
        self._writing = writing
        self._running: Running | None = None
        self._done: CheckpointDone | None = None
        self._op = opened.op  # of the last checkpoint

    def verify(self, message: Checkpoint) -> None:
        """Raise `Refused` if the checkpoint cannot start now. Changes nothing."""
        if self._running is not None:
            found = f"the checkpoint of op {self._running.message.op} in progress"
            raise Refused(FaultKind.BUSY, found, "one checkpoint at a time")
        if message.op < self._op:
            found, wanted = f"op {message.op}", f"at least op {self._op}, that of the last checkpoint"
            raise Refused(FaultKind.OUT_OF_SEQUENCE, found, wanted)
        expectations = decode_expectations(self._opened, message.sessions)
        if expectations.op_max > message.op:
            found = f"a reply of op {expectations.op_max}"
            expected = f"none beyond op {message.op}"
            raise Refused(FaultKind.SESSIONS_MISMATCH, found, expected)
        held_now = self._opened.slots.expected
        said = map(expectations.headers.get, range(len(held_now)))
        different = [slot for slot, differs in enumerate(map(operator.ne, held_now, said)) if differs]
        for slot in different:
            held = held_now[slot]
            # Slots may be ahead of the table, by commits after the checkpoint's op, but never behind it.
            if (held is None or packed_op(held) <= message.op) and not self._left_later(message, slot):
                found = f"another reply in slot {slot} than the session table has"
                expected = "the reply that was written"
                raise Refused(FaultKind.SESSIONS_MISMATCH, found, expected)

    def _left_later(self, message: Checkpoint, slot: int) -> bool:
        """True if the slot may have lost its session after the checkpoint's op, which leaves no trace in it."""
        return self._opened.slots.expected[slot] is None and self._opened.op > message.op

    def start(self, message: Checkpoint) -> None:
        """Begin: everything accepted until now has to become durable first."""
        barrier = self._opened.slots.barrier
        self._running = Running(message, barrier)
        self._writing.barrier = barrier

    def pump(self) -> None:
        """Store the session table as soon as nothing that it counts on is pending."""
        running, opened = self._running, self._opened
        if running is None or running.writing or not opened.slots.settled(running.barrier):
            return
        running.writing = True
        message = WriteCheckpoint(
            batch=opened.to_storage.next_number("checkpoint"),
            sequence=opened.sequence + 1,
            op=running.message.op,
            sessions=running.message.sessions,
        )
        opened.call_storage("checkpoint", message)

    def written(self, answer: CheckpointWritten) -> None:
        """The session table is durable."""
        if self._opened.to_storage.answered("checkpoint", answer.batch) is None or self._running is None:
            return
        message, self._running = self._running.message, None
        self._opened.sequence += 1
        self._op = message.op
        self._done = CheckpointDone(
            owner=message.owner, number=message.number, op=message.op, sequence=self._opened.sequence
        )
        self._opened.tell_owner(self._done)

    def done(self, number: int) -> CheckpointDone | None:
        """The answer to the last checkpoint, if `number` asks for that one again."""
        return self._done if self._done is not None and self._done.number == number else None

    @property
    def is_running(self) -> bool:
        """True while a checkpoint is in progress."""
        return self._running is not None


def decode_expectations(opened: Opened, sessions: bytes, *, verified: bool = False) -> Expectations:
    """What the encoded session table says each slot holds. Raises `Refused` if it cannot be decoded.

    `verified` is one of which the storage has just done this.
    """
    config = opened.config
    try:
        expectations = Expectations.decode(
            sessions, clients_max=config.clients_max, cluster=config.cluster, verified=verified
        )
    except SessionsInvalid as error:
        expected = "an encoded session table"
        raise Refused(FaultKind.SESSIONS_INVALID, str(error), expected) from error
    if expectations.size_max > config.message_size_max:
        found, expected = f"a reply of {expectations.size_max} bytes", f"at most {config.message_size_max} bytes"
        raise Refused(FaultKind.SESSIONS_INVALID, found, expected)
    return expectations
