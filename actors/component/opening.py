"""Closed and opening: the pool's memory, the component's own leases, then the file.

Guarantees: one opening at a time; of those who ask meanwhile the last one is next. An opening that fails gives back
what it had before it is answered. Each step is a class that has what the steps before it were given.
"""

from __future__ import annotations

from dataclasses import dataclass

from thespian.actors import ActorAddress

from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.leases import (
    AcquireLeases,
    Lease,
    LeasesGranted,
    LeasesRefused,
    LeasesReleased,
    OpenPool,
    PoolOpened,
    PoolOpenFailed,
    ReleaseLeases,
)
from client_replies.messages.replies import OpenFailed, OpenReplies, RepliesOpened
from client_replies.messages.reply_header import packed_op
from client_replies.messages.storage_io import OpenStorage, StorageOpened, StorageOpenFailed
from client_replies.storage.errors import StorageError
from client_replies.storage.shared_memory import PoolMemory

from .checkpointing import decode_expectations
from .lifecycle import Component, State
from .open import Open
from .open_file import Parts
from .opened import Opened
from .slots import Slots


class Closed(State):
    """No file is open."""

    def admit(self, message: OpenReplies, sender: ActorAddress) -> None:
        begin(self.component, message, sender)


def begin(component: Component, message: OpenReplies, sender: ActorAddress) -> None:
    """Open, under a new incarnation."""
    component.become(Opening(component, message, sender, component.environment.unique()))


@dataclass(eq=False)
class Opening(State):
    """The first step: the pool is asked for memory."""

    message: OpenReplies
    sender: ActorAddress
    incarnation: int

    def enter(self) -> None:
        component, config = self.component, self.message.config
        component.pool.use(self.message.pool, config.resend_timeout)
        component.pool.count_anew()
        component.storage.use(self.message.storage, config.resend_timeout)
        component.start_ticks(config.tick)
        request = OpenPool(
            buffers=config.buffers_max + config.read_buffers + config.repair_buffers,
            size=config.message_size_max,
            waiting_max=config.leases_waiting_max,
            holders=((self.message.owner, self.sender),),
        )
        component.pool.ask("open", request)

    def admit(self, message: OpenReplies, sender: ActorAddress) -> None:
        if message.owner != self.message.owner:
            self.component.next_opening = (message, sender)

    def abandon(self, why: Fault) -> None:
        self.exit()
        self.component.send(self.sender, OpenFailed(owner=self.message.owner, fault=why))

    def fail(self, why: Fault) -> None:
        """The file is not to be opened."""
        self.abandon(why)
        self.component.closed()

    def pool_opened(self, message: PoolOpened, sender: ActorAddress) -> None:
        """The memory is there: map it."""
        if self.component.pool.requests.answered("open") is None:
            return
        try:
            memory = self.component.environment.open_memory(message.memory)
        except StorageError as error:
            self.fail(error.fault)
        else:
            self.component.become(Leasing(self.component, self.message, self.sender, self.incarnation, memory))

    def pool_open_failed(self, message: PoolOpenFailed, sender: ActorAddress) -> None:
        """No memory. One that is of another size is this actor's own, of an earlier opening: a new one is made."""
        pool = self.component.pool
        if pool.requests.answered("open") is None:
            return
        if message.fault.kind is FaultKind.ALREADY_OPEN and pool.is_child:
            pool.discard()
            begin(self.component, self.message, self.sender)
        else:
            self.fail(message.fault)


@dataclass(eq=False)
class Leasing(Opening):
    """The second step: the memory is mapped, and the component asks for the leases that it keeps for itself."""

    memory: PoolMemory

    def enter(self) -> None:
        config = self.message.config
        count = config.read_buffers + config.repair_buffers
        self.component.pool.ask("acquire", AcquireLeases(holder=self.incarnation, number=1, count=count))

    def exit(self) -> None:
        self.memory.close()

    def granted(self, message: LeasesGranted, sender: ActorAddress) -> None:
        """The component has its own leases."""
        if message.holder == self.incarnation and self.component.pool.requests.answered("acquire") is not None:
            given = (self.component, self.message, self.sender, self.incarnation, self.memory)
            self.component.become(OpeningFile(*given, message.leases))

    def leases_refused(self, message: LeasesRefused, sender: ActorAddress) -> None:
        """The pool is too small or too busy for the component."""
        if message.holder == self.incarnation and self.component.pool.requests.answered("acquire") is not None:
            self.fail(message.fault)


@dataclass(eq=False)
class OpeningFile(Leasing):
    """The last step: the storage opens the file."""

    leases: tuple[Lease, ...]

    def enter(self) -> None:
        storage, asked = self.component.storage, self.message
        batch = storage.requests.next_number("open")
        storage.ask("open", OpenStorage(batch=batch, config=asked.config, mode=asked.mode, memory=self.memory.name))

    def storage_open_failed(self, message: StorageOpenFailed, sender: ActorAddress) -> None:
        """The file is not to be opened, and was left as it was: the leases go back first."""
        if self.component.storage.requests.answered("open", message.batch) is not None:
            given = (self.component, self.message, self.sender, self.incarnation, self.memory, self.leases)
            self.component.become(Failing(*given, message.fault))

    def storage_opened(self, message: StorageOpened, sender: ActorAddress) -> None:
        """The file is open: begin with what its checkpoint says."""
        if self.component.storage.requests.answered("open", message.batch) is None:
            return
        parts = Parts(self._opened(message), self.component.environment)
        opened = parts.opened
        if message.sessions:
            expectations = decode_expectations(opened, message.sessions, verified=True)
            later = {slot: header for slot, header in message.others if packed_op(header) > message.op}
            opened.slots.begin(expectations.headers, message.faulty, later)
        answer = RepliesOpened(
            owner=opened.owner,
            formatted=message.formatted,
            sequence=message.sequence,
            op=message.op,
            sessions=message.sessions,
            faulty=message.faulty,
            credit=parts.writing.credit,
            pool=self.component.pool.address,
            memory=self.memory.name,
            damaged=message.damaged,
        )
        if message.damaged is not None:
            self.component.count(
                "checkpoint_damaged",
                sequence=message.damaged.sequence,
                op=message.damaged.op,
                fault=str(message.damaged.fault),
                used_sequence=message.sequence,
                used_op=message.op,
            )
        self.component.become(Open(self.component, parts, answer))

    def _opened(self, message: StorageOpened) -> Opened:
        config = self.message.config
        return Opened(
            config=config,
            owner=self.message.owner,
            owner_address=self.sender,
            incarnation=self.incarnation,
            memory=self.memory,
            slots=Slots(config.clients_max),
            to_storage=self.component.storage.requests,
            op=message.op,
            sequence=message.sequence_last,
            send=self.component.send,
            now=self.component.environment.monotonic,
            count=self.component.count,
            own=frozenset(self.leases),
            read_stock=list(self.leases[: config.read_buffers]),
            repair_stock=list(self.leases[config.read_buffers :]),
        )


@dataclass(eq=False)
class Failing(OpeningFile):
    """The file is not to be opened; its owner is told when the leases are back."""

    why: Fault

    def enter(self) -> None:
        self.component.pool.ask("release", ReleaseLeases(holder=self.incarnation, number=1, leases=self.leases))

    def released(self) -> None:
        self.fail(self.why)


Closed.handles = State.handles
Opening.handles = {**State.handles, PoolOpened: Opening.pool_opened, PoolOpenFailed: Opening.pool_open_failed}
Leasing.handles = {**State.handles, LeasesGranted: Leasing.granted, LeasesRefused: Leasing.leases_refused}
OpeningFile.handles = {
    **State.handles,
    StorageOpened: OpeningFile.storage_opened,
    StorageOpenFailed: OpeningFile.storage_open_failed,
}
Failing.handles = {**State.handles, LeasesReleased: Failing.leases_released}
