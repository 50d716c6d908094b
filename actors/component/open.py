"""Open: what the owner and the peers ask is done.

Guarantees: every request that changes something is verified whole before it changes anything, and a refused one does
not use up its number. A batch of writes is answered once another may be sent. Peers are answered by this state alone:
in any other the component does not know what it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

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

    answer: RepliesOpened
    executes: ClassVar[Mapping[type, Callable[[Any, Any], Message | None]]]
    _answer_due: float = field(default=math.inf, init=False)  # until when the answer to a batch may wait

    def enter(self) -> None:
        self.parts.opened.tell_owner(self.answer)

    def reopening_fault(self) -> Fault | None:
        if self.parts.turns.number:
            return fault(FaultKind.ALREADY_OPEN, "a file in use", "one OpenReplies an owner")
        return None

    def admit(self, message: OpenReplies, sender: ActorAddress) -> None:
        """Say again that the file is open, or let a new owner take over from a dead one."""
        opened = self.parts.opened
        if opened.owner == message.owner:
            self.component.send(sender, self.answer)
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
            answer = self.executes[type(message)](self, message)
        except Refused as refused:
            self.refuse(message, sender, refused.fault, refused.index)
            return
        parts.turns.begin(message.number, answer)
        self._answer_due = parts.opened.now() + parts.opened.config.tick
        if answer is not None:
            parts.opened.tell_owner(answer)
        if isinstance(message, CloseReplies):
            self.component.become(Closing(self.component, parts, message, sender))
        else:
            self.pump()

    def write(self, message: WriteReplies) -> None:
        """Take over a batch of replies. It is answered when another may be sent."""
        headers = self.parts.writing.verify(message)
        self.parts.writing.accept(message, headers)

    def remove(self, message: RemoveReplies) -> None:
        """These slots hold no reply any more."""
        self.parts.writing.verify_slots(message.slots)
        self.parts.writing.remove(message.slots, message.op, message.number)

    def install(self, message: InstallSessions) -> Message:
        """Replace what every slot is expected to hold."""
        opened = self.parts.opened
        self.parts.writing.install(decode_expectations(opened, message.sessions).headers, message.op)
        return SessionsInstalled(owner=message.owner, number=message.number, faulty=opened.slots.doubted)

    def checkpoint(self, message: Checkpoint) -> Message:
        """Store the session table once what it counts on is durable."""
        self.parts.checkpointing.verify(message)
        self.parts.checkpointing.start(message)
        return CheckpointStarted(owner=message.owner, number=message.number)

    def close(self, message: CloseReplies) -> None:
        """Closing can always begin; it is answered at its end."""

    # What may be asked at any time.

    def read(self, message: ReadReply, sender: ActorAddress) -> None:
        """Read a reply, from memory or from disk."""
        self.parts.reader.read(message, sender)
        self.pump()

    def serve(self, message: GetReplies, sender: ActorAddress) -> None:
        """A peer repairs."""
        self.parts.peer_server.serve(message, sender)
        self.pump()

    def repair_found(self, message: RepliesFound, sender: ActorAddress) -> None:
        """Replies from a peer."""
        self.parts.repair_service.found(message)
        self.pump()

    def repair_missing(self, message: RepliesMissing, sender: ActorAddress) -> None:
        """What a peer does not send."""
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


Open.executes = {
    WriteReplies: Open.write,
    RemoveReplies: Open.remove,
    InstallSessions: Open.install,
    Checkpoint: Open.checkpoint,
    CloseReplies: Open.close,
}
Open.handles = {
    **RUNNING,
    **dict.fromkeys(Open.executes, Open.numbered),
    ReadReply: Open.read,
    GetReplies: Open.serve,
    RepliesFound: Open.repair_found,
    RepliesMissing: Open.repair_missing,
}
