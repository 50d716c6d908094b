"""Closing: what was accepted becomes durable, then the leases, the file and what the owner held come back.

Guarantees: who closes is answered when all of it is done: the file is released then, nothing is written to it, and
nothing reads the owner's buffers any more. What the owner held comes back, dead or alive: it cannot know which of its
buffers are still being written.
"""

from __future__ import annotations

from dataclasses import dataclass

from thespian.actors import ActorAddress

from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.leases import Lease, LeasesReclaimed, LeasesReleased, ReclaimLeases, ReleaseLeases
from client_replies.messages.replies import CloseReplies, OpenReplies, RepliesClosed
from client_replies.messages.storage_io import CloseStorage, StorageClosed

from .lifecycle import fault
from .open_file import RUNNING, WithFile


@dataclass(eq=False)
class Releasing(WithFile):
    """The steps that every closing has: the file, what the owner held, the answer."""

    closing: CloseReplies  # or made up, when a new owner takes over
    asker: ActorAddress | None

    @property
    def is_closing(self) -> bool:
        return True

    def release(self, leases: tuple[Lease, ...]) -> None:
        """Give back leases of the component's own."""
        opened, pool = self.parts.opened, self.component.pool
        opened.own = opened.own.difference(leases)
        number = pool.requests.next_number("release")
        pool.ask("release", ReleaseLeases(holder=opened.incarnation, number=number, leases=leases))

    def close_file(self) -> None:
        """The storage releases the file."""
        storage = self.component.storage
        storage.ask("close", CloseStorage(batch=storage.requests.next_number("close")))

    def storage_closed(self, message: StorageClosed, sender: ActorAddress) -> None:
        """The file is released, and nothing reads the owner's buffers any more."""
        if self.component.storage.requests.answered("close", message.batch) is not None:
            self.reclaim()

    def reclaim(self) -> None:
        """Take back what the owner held."""
        if self.component.pool.is_gone:
            self.finish()
        else:
            self.component.pool.ask("reclaim", ReclaimLeases(holder=self.parts.opened.owner))

    def leases_reclaimed(self, message: LeasesReclaimed, sender: ActorAddress) -> None:
        """What the owner held came back."""
        if self.component.pool.requests.answered("reclaim") is not None:
            self.finish()

    def finish(self) -> None:
        """Answer."""
        self.exit()
        self.component.owners_gone.append(self.parts.opened.owner)
        closed = RepliesClosed(owner=self.closing.owner, number=self.closing.number)
        self.component.last_closed = closed
        if self.asker is not None:
            self.component.send(self.asker, closed)


@dataclass(eq=False)
class Closing(Releasing):
    """The owner closed, or a new one takes over."""

    @property
    def reason(self) -> Fault:
        return fault(FaultKind.CLOSING, "a file that closes", "nothing after CloseReplies")

    def enter(self) -> None:
        self.parts.writing.flushing = True
        self.parts.refuse_reads()
        self.pump()

    def is_free_next(self) -> bool:
        return self.component.next_opening is None

    def reopening_fault(self) -> Fault:
        return fault(FaultKind.CLOSING, "a file that closes", "an owner that stays")

    def admit(self, message: OpenReplies, sender: ActorAddress) -> None:
        self.component.next_opening = (message, sender)

    def released(self) -> None:
        self.pump()

    def finish(self) -> None:
        super().finish()
        self.component.closed()

    def due(self) -> float:
        return self.parts.writing.due

    def tick(self, now: float) -> None:
        self.pump()

    def pump(self) -> None:
        parts = self.parts
        parts.writing.pump()
        parts.checkpointing.pump()
        parts.writing.tell_durable()
        if not self._is_busy():
            leases = (*parts.opened.read_stock, *parts.opened.repair_stock, *parts.reader.take_back())
            parts.opened.read_stock.clear()
            parts.opened.repair_stock.clear()
            if leases:
                self.release(leases)
            else:
                self.close_file()

    def _is_busy(self) -> bool:
        """True while something is on its way to disk or has no answer. Nothing new is asked of peers."""
        parts, slots = self.parts, self.parts.opened.slots
        return bool(
            parts.checkpointing.is_running
            or not slots.settled(slots.barrier)
            or self.component.storage.requests.any_busy
            or self.component.pool.requests.any_busy
            or slots.repairs
        )


Closing.handles = {
    **RUNNING,
    LeasesReleased: Closing.leases_released,
    StorageClosed: Closing.storage_closed,
    LeasesReclaimed: Closing.leases_reclaimed,
}
