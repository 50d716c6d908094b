"""Stopped: the disk failed or an actor of the component died, and nothing is promised any more (invariant 14).

Guarantees: nothing is retried. Waiting requests are answered once, and repeated ones again. The owner may still
close: nothing more becomes durable, but the leases go back and the file is released. It never opens again.
"""

from __future__ import annotations

from thespian.actors import ActorAddress

from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.leases import LeasesReclaimed, LeasesReleased
from client_replies.messages.replies import CloseReplies, OpenFailed, OpenReplies, StorageFailed
from client_replies.messages.storage_io import StorageClosed

from .closing import Closing, Releasing
from .lifecycle import Component, State, fault
from .open_file import ALWAYS, WithFile


def stop(component: Component, why: Fault) -> None:
    """Stop in whatever state the component is."""
    if component.stopped is not None:
        return
    component.stopped = why
    for partner in (component.storage, component.pool):
        partner.requests.forget()  # Who is dead is asked no more, and no answer counts any more.
    component.log.critical("component_stopped", fault=str(why))
    state = component.state
    state.abandon(why)
    if component.next_opening is not None:
        (message, sender), component.next_opening = component.next_opening, None
        component.send(sender, OpenFailed(owner=message.owner, fault=why))
    if isinstance(state, WithFile):
        component.become(StoppedOpen(component, state.parts))
    else:
        component.become(Stopped(component))
    if isinstance(state, Closing):
        component.become(StoppedClosing(component, state.parts, state.closing, state.asker))


class Stopped(State):
    """There is no file any more, or there never was."""

    def opening_fault(self, message: OpenReplies, sender: ActorAddress) -> Fault:
        # Not with its fault's own kind: who hears of an I/O error might try again here, for ever.
        return fault(FaultKind.STOPPED, f"a component that stopped: {self.reason}", "a new ClientRepliesActor")


class StoppedOpen(Stopped, WithFile):
    """The file is still held."""

    def enter(self) -> None:
        self.parts.refuse_reads()
        self.parts.opened.tell_owner(self.last_word)

    @property
    def last_word(self) -> StorageFailed:
        return StorageFailed(owner=self.parts.opened.owner, fault=self.reason)

    def close(self, message: CloseReplies, sender: ActorAddress) -> None:
        self.component.become(StoppedClosing(self.component, self.parts, message, sender))


class StoppedClosing(StoppedOpen, Releasing):
    """The owner closes."""

    def enter(self) -> None:
        own = self.parts.opened.own
        if own and not self.component.pool.is_gone:
            self.release(tuple(own))
        if self.component.storage.is_gone:
            self.reclaim()
        else:
            self.close_file()

    def close(self, message: CloseReplies, sender: ActorAddress) -> None:
        """It does already."""

    def finish(self) -> None:
        super().finish()
        self.component.become(Stopped(self.component))


Stopped.handles = State.handles
StoppedOpen.handles = {**ALWAYS, CloseReplies: StoppedOpen.close}
StoppedClosing.handles = {
    **ALWAYS,
    CloseReplies: StoppedClosing.close,
    LeasesReleased: StoppedClosing.leases_released,
    StorageClosed: StoppedClosing.storage_closed,
    LeasesReclaimed: StoppedClosing.leases_reclaimed,
}
