"""The parts of one opening, and what the states in which a file is open have in common.

Guarantees: the owner's numbered requests are executed once and in turn. One that was executed is answered again,
whatever the state, because its answer may have been lost. Requests under another owner's number are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from thespian.actors import ActorAddress

from client_replies.actors.thespian.environment import Environment
from client_replies.messages.config import OpenMode
from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.message import Message
from client_replies.messages.replies import (
    AwaitDurable,
    GetStatus,
    OpenReplies,
    PeersSet,
    ReadReply,
    RepliesStatus,
    ReplyTaken,
    SetPeers,
)
from client_replies.messages.requests import Turn, Turns
from client_replies.messages.storage_io import CheckpointWritten, SlotsRead, SlotsVerified, SlotsWritten

from .checkpointing import Checkpointing
from .lifecycle import Handles, Numbered, State, fault
from .opened import Opened, Refused
from .peer_server import PeerServer
from .reader import Reader
from .repair_planner import RepairPlanner
from .repair_service import RepairService
from .scrubber import Scrubber
from .writing import Writing

OwnersRequest = Numbered | SetPeers | AwaitDurable | ReadReply | ReplyTaken


class Parts:
    """What the actor is made of while a file is open, and how far its owner's numbered requests have come."""

    def __init__(self, opened: Opened, environment: Environment) -> None:
        config = opened.config
        self.opened = opened
        self.turns = Turns()
        self.repair_planner = RepairPlanner(
            slots_max=config.repairs_max,
            bytes_max=config.repair_bytes_max,
            timeout=config.repair_timeout,
            backoff_max=config.repair_backoff_max,
            jitter=lambda: environment.uniform(0.0, 1.0),
        )
        self.writing = Writing(opened)
        self.reader = Reader(opened, self.repair_planner.lost)
        self.peer_server = PeerServer(opened)
        self.scrubber = Scrubber(opened)
        self.repair_service = RepairService(opened, self.repair_planner)
        self.checkpointing = Checkpointing(opened, self.writing)

    def refuse_reads(self) -> None:
        """The file closes: no read is answered any more. `StorageFailed` or `RepliesClosed` takes an answer's place."""
        self.reader.refuse_all()
        self.peer_server.drop_all()


@dataclass(eq=False)
class WithFile(State):
    """A file is open. What of this may be asked is said by the `handles` of each such state."""

    parts: Parts

    def handle(self, message: Message, sender: ActorAddress) -> None:
        if isinstance(message, OwnersRequest) and message.owner != self.parts.opened.owner:
            expected = "the number that the file was opened under"
            self.refuse(message, sender, fault(FaultKind.OWNER_UNKNOWN, "another owner", expected))
        else:
            super().handle(message, sender)

    def exit(self) -> None:
        self.parts.opened.memory.close()

    # Who is who.

    def is_owner(self, sender: ActorAddress) -> bool:
        return sender == self.parts.opened.owner_address

    def is_peer(self, replica: int, sender: ActorAddress) -> bool:
        return sender == self.parts.repair_planner.peer_address(replica)

    def opening_fault(self, message: OpenReplies, sender: ActorAddress) -> Fault | None:
        opened = self.parts.opened
        gone = super().opening_fault(message, sender)
        if gone is not None:
            return gone
        if opened.owner == message.owner:
            if opened.owner_address != sender:
                found, expected = "the owner's number from another sender", "a number of its own"
                return fault(FaultKind.OWNER_UNKNOWN, found, expected)
            return self.reopening_fault()
        wanted, config = message.config, opened.config
        same = (wanted.path, wanted.cluster, wanted.replica) == (config.path, config.cluster, config.replica)
        if self.is_free_next() or (same and message.mode is not OpenMode.FORMAT):
            return None
        # Evicting the owner for a file that is not the one it has would harm it and help nobody.
        found = f"the open file of cluster {config.cluster}, replica {config.replica}: {config.path}"
        return fault(FaultKind.ALREADY_OPEN, found, "that path, cluster and replica, and a mode that opens it")

    def is_free_next(self) -> bool:
        """True if any owner may open next, whatever the file."""
        return False

    def reopening_fault(self) -> Fault | None:
        """Why the owner cannot be told again that the file is open, or None."""
        return self.reason

    # The owner's requests.

    def answer_again(self, message: Numbered, sender: ActorAddress) -> bool:
        """Whether the request was executed before; then it is answered again, if there is an answer."""
        turns, component = self.parts.turns, self.component
        turn = turns.admit(message.number)
        if turn in (Turn.NEW, Turn.SKIPPED):
            return False
        component.counters["messages_repeated"] += 1
        done = self.parts.checkpointing.done(message.number)
        answer = done or (turns.answer if turn is Turn.REPEATED else None) or self.last_word
        if answer is not None:
            component.send(sender, answer)
        return True

    @property
    def last_word(self) -> Message | None:
        """The answer to a request that gets no other any more."""
        return None

    def numbered(self, message: Numbered, sender: ActorAddress) -> None:
        """Nothing is executed any more."""
        if not self.answer_again(message, sender):
            self.refuse(message, sender, self.reason)

    def set_peers(self, message: SetPeers, sender: ActorAddress) -> None:
        """Where to repair from; repair begins."""
        if self.parts.repair_planner.set_peers(message.version, message.peers):
            self.component.send(sender, PeersSet(owner=message.owner, version=message.version))
        self.pump()

    def await_durable(self, message: AwaitDurable, sender: ActorAddress) -> None:
        """Answer when the slots are durable."""
        try:
            self.parts.writing.wait(message, sender)
        except Refused as refused:
            self.refuse(message, sender, refused.fault)

    def taken(self, message: ReplyTaken, sender: ActorAddress) -> None:
        """A lent buffer comes back."""
        self.parts.reader.taken(message.read)
        self.pump()

    def status(self, message: GetStatus, sender: ActorAddress) -> None:
        parts, opened, slots = self.parts, self.parts.opened, self.parts.opened.slots
        config = opened.config
        answer = RepliesStatus(
            request=message.request,
            open=True,
            closing=self.is_closing,
            op=opened.op,
            sequence=opened.sequence,
            slots={state.name.lower(): count for state, count in slots.count_states().items()},
            queues={
                "writes": slots.pending_count,
                "writes_max": config.writes_max,
                "waits": parts.writing.waits,
                "waits_max": config.waits_max,
                "reads_max": config.reads_max,
                "read_buffers": len(opened.read_stock),
                "repair_buffers": len(opened.repair_stock),
                **parts.reader.depths,
                **parts.peer_server.depths,
                **parts.repair_service.depths,
            },
            counters={**self.component.counters, "scrub_passes": parts.scrubber.passes},
            faulty=tuple(slots.faulty),
            lost=tuple(slot for slot, header in parts.repair_planner.lost.items() if slots.faulty.get(slot) == header),
            durable=tuple(slot < config.clients_max and slots.is_durable(slot) for slot in message.slots),
            durable_through=parts.writing.durable_through,
            stopped=self.component.stopped,
        )
        self.component.send(sender, answer)

    @property
    def is_closing(self) -> bool:
        """True once the owner has closed, or a new one takes over."""
        return False

    def on_disk(
        self, message: SlotsWritten | SlotsRead | SlotsVerified | CheckpointWritten, sender: ActorAddress
    ) -> None:
        """The storage has done a group of its kind."""
        parts = self.parts
        match message:
            case SlotsWritten():
                parts.repair_service.repaired(parts.writing.written(message))
            case SlotsRead():
                (parts.peer_server if message.for_peers else parts.reader).read_done(message)
            case SlotsVerified():
                parts.writing.verified(parts.scrubber.verified(message))
            case CheckpointWritten():
                parts.checkpointing.written(message)
        self.pump()

    def pump(self) -> None:
        """Do what has become possible."""


# What every state with a file handles, and what it does as long as nothing has failed.
ALWAYS: Handles = {
    **dict.fromkeys(get_args(Numbered), WithFile.numbered),
    GetStatus: WithFile.status,
    ReplyTaken: WithFile.taken,
}
RUNNING: Handles = {
    **ALWAYS,
    SetPeers: WithFile.set_peers,
    AwaitDurable: WithFile.await_durable,
    **dict.fromkeys((SlotsWritten, SlotsRead, SlotsVerified, CheckpointWritten), WithFile.on_disk),
}
