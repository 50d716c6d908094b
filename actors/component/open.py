"""Open: what the owner and the peers ask is done.

Guarantees: every request that changes something is verified whole before it changes anything, and a refused one does
not use up its number. A batch of writes is answered once another may be sent. Peers are answered by this state alone:
in any other the component does not know what it holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import get_args

from thespian.actors import ActorAddress

from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.message import Message
from client_replies.messages.peers import GetReplies, RepliesFound, RepliesMissing
from client_replies.messages.replies import (
    Checkpoint,
    CheckpointStarted,
    CloseReplies,
    InstallSessions,
    OpenReplies,
    ReadReply,
    RemoveReplies,
    RepliesOpened,
    SessionsInstalled,
    WriteReplies,
    WritesAccepted,
)
from client_replies.messages.requests import Turn

from .checkpointing import decode_expectations
from .closing import Closing
from .lifecycle import Numbered, fault
from .open_file import RUNNING, WithFile
from .opened import Refused


@dataclass(eq=False)
class Open(WithFile):
    """The file is open, and its owner is served."""

    answer: RepliesOpened | None  # kept until its owner has it, because the session table in it may be large
    _answer_due: float = field(default=math.inf, init=False)  # until when the answer to a batch may wait

    def enter(self) -> None:
        """Tell the owner, for the first time or again."""
        if self.answer is not None:
            self.parts.opened.tell_owner(self.answer)

    def reopening_fault(self) -> Fault | None:
        if self.answer is None:
            return fault(FaultKind.ALREADY_OPEN, "a file in use", "one OpenReplies an owner")
        return None

    def admit(self, message: OpenReplies, sender: ActorAddress) -> None:
        """Say again that the file is open, or let a new owner take over from a dead one."""
        opened = self.parts.opened
        if opened.owner == message.owner:
            self.enter()
        else:
            self.component.next_opening = (message, sender)
            closing = CloseReplies(owner=opened.owner, number=self.parts.turns.number + 1)
            self.component.become(Closing(self.component, self.parts, closing, None))

    # What the owner asks, in its turn.

    def numbered(self, message: Numbered, sender: ActorAddress) -> None:
        """Execute the next request, whole or not at all."""
        if self.answer_again(message, sender):
            return
        parts = self.parts
        try:
            if parts.turns.admit(message.number) is Turn.SKIPPED:
                found, expected = f"number {message.number}", f"number {parts.turns.expected}"
                raise Refused(FaultKind.OUT_OF_SEQUENCE, found, expected)
            answer = self._execute(message)
        except Refused as refused:
            self.refuse(message, sender, refused.fault, refused.index)
            return
        parts.turns.begin(message.number, answer)
        self.answer = None
        self._answer_due = parts.opened.now() + parts.opened.config.tick
        if answer is not None:
            parts.opened.tell_owner(answer)
        if isinstance(message, CloseReplies):
            self.component.become(Closing(self.component, parts, message, sender))
        else:
            self.pump()

    def _execute(self, message: Numbered) -> Message | None:
        """Verify the request, execute it, and give its answer. Raises `Refused` before it changes anything.

        A batch is answered when another may be sent, closing at its end.
        """
        parts, owner, number = self.parts, message.owner, message.number
        match message:
            case WriteReplies():
                parts.writing.accept(message, parts.writing.verify(message))
            case RemoveReplies():
                parts.writing.verify_slots(message.slots)
                parts.writing.remove(message.slots, message.op, number)
            case InstallSessions():
                parts.writing.install(decode_expectations(parts.opened, message.sessions).headers, message.op)
                return SessionsInstalled(owner=owner, number=number, faulty=parts.opened.slots.doubted)
            case Checkpoint():
                parts.checkpointing.verify(message)
                parts.checkpointing.start(message)
                return CheckpointStarted(owner=owner, number=number)
        return None

    # What may be asked at any time.

    def read(self, message: ReadReply, sender: ActorAddress) -> None:
        """Read a reply, from memory or from disk."""
        self.parts.reader.read(message, sender)
        self.pump()

    def of_peer(self, message: GetReplies | RepliesFound | RepliesMissing, sender: ActorAddress) -> None:
        """A peer repairs, or says what it has of what was asked for."""
        match message:
            case GetReplies():
                self.parts.peer_server.serve(message, sender)
            case RepliesFound():
                self.parts.repair_service.found(message)
            case RepliesMissing():
                self.parts.repair_service.missing(message)
        self.pump()

    # What has become possible.

    def due(self) -> float:
        parts = self.parts
        due = min(parts.writing.due, parts.reader.due, parts.scrubber.due, parts.repair_service.due)
        return min(due, self._answer_due) if self._owes_answer else due

    def tick(self, now: float) -> None:
        """Look at timeouts, let the scrubber go on, and let no answer wait any longer."""
        self.parts.reader.resend_lent(now)
        self.parts.scrubber.scrub(now)
        self.pump(ticking=True)

    def pump(self, *, ticking: bool = False) -> None:
        parts = self.parts
        parts.writing.pump()
        parts.checkpointing.pump()
        parts.repair_service.pump()
        parts.reader.pump()
        parts.peer_server.pump()
        parts.scrubber.pump()
        if self._owes_answer and (ticking or not parts.writing.is_answered_later):
            self._answer_writes()
        parts.writing.tell_durable()

    @property
    def _owes_answer(self) -> bool:
        turns = self.parts.turns
        return turns.answer is None and turns.number > 0 and self.parts.writing.credit > 0

    def _answer_writes(self) -> None:
        """Answer the last batch; with news, if there are some."""
        opened, turns, writing = self.parts.opened, self.parts.turns, self.parts.writing
        turns.answer = WritesAccepted(
            owner=opened.owner,
            number=turns.number,
            credit=writing.credit,
            durable_through=writing.durable_through,
        )
        writing.untold = False
        opened.tell_owner(turns.answer)


Open.handles = {
    **RUNNING,
    **dict.fromkeys(get_args(Numbered), Open.numbered),
    ReadReply: Open.read,
    **dict.fromkeys((GetReplies, RepliesFound, RepliesMissing), Open.of_peer),
}
