"""Answers to peers that repair: what was asked, what has been gathered so far, and the messages that say it.

Guarantees: each slot of a request is answered once, with the whole reply or with a reason, within the number of bytes
that the peer named; one request a peer is served at a time, and a newer one replaces it. Owns: the gathered bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from thespian.actors import ActorAddress

from client_replies.messages.faults import invariant
from client_replies.messages.message import Message
from client_replies.messages.peers import GetReplies, Missing, RepliesFound, RepliesMissing
from client_replies.messages.reply_header import HEADER_SIZE


@dataclass(slots=True, eq=False)
class Serving:
    """One `GetReplies` being answered."""

    message: GetReplies
    sender: ActorAddress
    waiting: dict[int, bytes] = field(default_factory=dict)
    found: dict[int, bytes] = field(default_factory=dict)
    missing: dict[int, Missing] = field(default_factory=dict)
    dropped: bool = False

    def wanted(self) -> list[tuple[int, bytes]]:
        """Each slot asked for and its packed header."""
        headers = self.message.headers
        return [
            (slot, headers[index * HEADER_SIZE : (index + 1) * HEADER_SIZE])
            for index, slot in enumerate(self.message.slots)
        ]

    def found_reply(self, slot: int, reply: bytes) -> None:
        """The reply is at hand."""
        invariant(self.waiting.pop(slot, None) is not None, f"slot {slot} was not being served")
        self.found[slot] = reply

    def missing_reply(self, slot: int, reason: Missing) -> None:
        """The reply cannot be sent."""
        invariant(self.waiting.pop(slot, None) is not None, f"slot {slot} was not being served")
        self.missing[slot] = reason

    def answers(self, replica: int) -> list[Message]:
        """The messages to send once nothing is waited for."""
        request = {
            "asker": self.message.asker,
            "incarnation": self.message.incarnation,
            "request": self.message.request,
            "peer": replica,
        }
        answers: list[Message] = []
        if self.found:
            answers.append(RepliesFound(slots=tuple(self.found), replies=tuple(self.found.values()), **request))
        if self.missing:
            answers.append(RepliesMissing(slots=tuple(self.missing), reasons=tuple(self.missing.values()), **request))
        return answers
