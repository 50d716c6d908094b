"""What a handle raises besides `TimeoutError`, and `PortMisused` for what cannot be a reply of the slot."""

from __future__ import annotations

from client_replies.messages.faults import Fault
from client_replies.messages.replies import NotRead


class RepliesError(Exception):
    """Base of all of them."""


class RepliesUnusable(RepliesError):
    """The file was not opened, or the component does nothing more. `fault` says why; open a new handle to go on."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class ReplyUnavailable(RepliesError):
    """The slot does not give the reply that was asked for; `reason` says why."""

    def __init__(self, slot: int, reason: NotRead) -> None:
        super().__init__(f"slot {slot}: {reason.value}")
        self.slot = slot
        self.reason = reason


class OpOutOfOrder(RepliesError, ValueError):
    """An op that is not after the last one: a handle is told of ops in the order in which they were committed."""

    def __init__(self, found: int, last: int) -> None:
        super().__init__(f"op {found}, expected one after {last}")
        self.found = found
        self.last = last


class ClientElsewhere(RepliesError, ValueError):
    """The client's session has another slot: it is removed there before it is written elsewhere."""

    def __init__(self, slot: int, held: int) -> None:
        super().__init__(f"a reply in slot {slot} of a client whose session has slot {held}, expected it there")
        self.slot = slot
        self.held = held
