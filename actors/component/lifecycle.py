"""The states of a ClientRepliesActor, and what outlives them.

    closed     there is no file; anyone may open one
    opening    the pool, the component's own leases, the file; if any of it fails, what was had goes back
    open       all that the owner and the peers may ask
    closing    what was accepted becomes durable; then the leases, the file and the owner's buffers come back
    stopped    the disk failed or an actor died: nothing is promised any more, but the owner may close

Guarantees: the state alone decides what may be asked. A message that it does not handle is refused, if it waits for an
answer, and else ignored. A component that stopped never opens again. Limits: no order among messages; each may come
late, twice or never.

Owns: the two other actors, unless the owner named its own; the requests to them; who opens next.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from thespian.actors import Actor, ActorAddress, ActorExitRequest

from client_replies.actors.thespian.component_actor import ComponentActor
from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.leases import LeasesReleased
from client_replies.messages.message import Message
from client_replies.messages.replies import (
    AwaitDurable,
    Checkpoint,
    CloseReplies,
    GetStatus,
    InstallSessions,
    NotRead,
    OpenFailed,
    OpenReplies,
    ReadReply,
    RemoveReplies,
    RepliesClosed,
    RepliesStatus,
    ReplyNotRead,
    RequestRefused,
    SetPeers,
    WriteReplies,
    WritesRefused,
)
from client_replies.messages.requests import Outbox

from .message_pool import MessagePoolActor
from .storage import StorageActor

OWNERS_GONE_MAX = 64  # owners that are remembered so that what they sent last is recognised
NOBODY = ActorAddress(None)

Numbered = WriteReplies | RemoveReplies | InstallSessions | Checkpoint | CloseReplies
Handles = Mapping[type, Callable[[Any, Any, ActorAddress], None]]


class Partner:
    """The storage or the pool: which actor it is, whether that is a child of this one, and the requests to it."""

    def __init__(self, kind: type[Actor], actor: ComponentActor) -> None:
        self.address = NOBODY
        self.is_child = False
        self._kind = kind
        self._actor = actor
        # Numbers go on from one opening to the next: the storage may be the same, and does nothing twice.
        self.requests = Outbox(self._send, math.inf)

    @property
    def is_gone(self) -> bool:
        """True if there is none, or none any more."""
        return self.address is NOBODY

    def use(self, told: ActorAddress | None, resend_timeout: float) -> None:
        """Use the actor that the owner named, or else a child; a child of before is used again."""
        self.requests.resend_timeout = resend_timeout
        if told is not None:
            self.address, self.is_child = told, False
        elif not self.is_child:
            self.address, self.is_child = self._actor.create_child(self._kind), True

    def count_anew(self) -> None:
        """Requests are numbered from 1 again: the pool knows each opening as another holder."""
        self.requests = Outbox(self._send, self.requests.resend_timeout)

    def _send(self, message: Message) -> None:
        self._actor.send(self.address, message)

    def lose(self) -> None:
        """It died."""
        self.address, self.is_child = NOBODY, False

    def discard(self) -> None:
        """End the child."""
        self._actor.send(self.address, ActorExitRequest())
        self.lose()

    def ask(self, lane: str, message: Message) -> None:
        """Send a request; its lane is busy until the answer."""
        self.requests.post(lane, message, self._actor.environment.monotonic())


class Component:
    """What outlives an opening, and the state that the actor is in."""

    def __init__(self, actor: ComponentActor, closed: Callable[[Component], State]) -> None:
        self.environment = actor.environment
        self.send = actor.send
        self.count = actor.count
        self.counters = actor.counters
        self.start_ticks = actor.start_ticks
        self.log = actor.log
        self.storage = Partner(StorageActor, actor)
        self.pool = Partner(MessagePoolActor, actor)
        self.next_opening: tuple[OpenReplies, ActorAddress] | None = None
        self.last_closed: RepliesClosed | None = None
        self.owners_gone: deque[int] = deque(maxlen=OWNERS_GONE_MAX)
        self.stopped: Fault | None = None
        self._closed = closed
        self.state = closed(self)

    def become(self, state: State) -> None:
        """Enter another state."""
        self.state = state
        state.enter()

    def closed(self) -> None:
        """No file is open any more: the next owner's is opened, if one waits."""
        self.become(self._closed(self))
        if self.next_opening is not None:
            (message, sender), self.next_opening = self.next_opening, None
            self.state.admit(message, sender)

    def closed_before(self, message: Message) -> RepliesClosed | None:
        """The answer to this closing if it was done already: its owner may not have heard of it."""
        closed = self.last_closed
        if closed is None or not isinstance(message, CloseReplies):
            return None
        return closed if (closed.owner, closed.number) == (message.owner, message.number) else None


@dataclass(eq=False)
class State:
    """What the actor does in one state; by default that of a component without a file."""

    handles: ClassVar[Handles]  # what it does about which message
    component: Component

    @property
    def reason(self) -> Fault:
        """Why requests are refused in this state."""
        return self.component.stopped or fault(FaultKind.NOT_OPEN, "no open file", "OpenReplies first")

    def enter(self) -> None:
        """The actor is in this state from now on."""

    def handle(self, message: Message, sender: ActorAddress) -> None:
        """Do what the state does about the message, or refuse it."""
        handler = self.handles.get(type(message))
        if handler is not None:
            handler(self, message, sender)
        else:
            self.refuse(message, sender, self.reason)

    def refuse(self, message: Message, sender: ActorAddress, why: Fault, index: int = 0) -> None:
        """Refuse the message, item `index` of it, if it waits for an answer."""
        if isinstance(message, Numbered):
            self.component.count("request_refused", request=type(message).__name__, fault=str(why))
        answer = refusal(message, why, index)
        if answer is not None:
            self.component.send(sender, answer)

    def is_owner(self, sender: ActorAddress) -> bool:
        """Whether this is the owner. Without a file there is none, and handlers say so."""
        return True

    def is_peer(self, replica: int, sender: ActorAddress) -> bool:
        """Whether this is the peer. Without a file there is none, and handlers say nothing."""
        return True

    def open(self, message: OpenReplies, sender: ActorAddress) -> None:
        """Refuse, or admit."""
        why = self.opening_fault(message, sender)
        if why is not None:
            self.component.send(sender, OpenFailed(owner=message.owner, fault=why))
        else:
            self.admit(message, sender)

    def opening_fault(self, message: OpenReplies, sender: ActorAddress) -> Fault | None:
        """Why the file cannot be opened now, or None."""
        if message.owner in self.component.owners_gone:
            # Honouring this late duplicate would evict the owner that came after.
            return fault(FaultKind.OWNER_UNKNOWN, "an owner that closed or was replaced", "an owner of its own number")
        return None

    def admit(self, message: OpenReplies, sender: ActorAddress) -> None:
        """Open, now or later, or say again that it is open."""
        raise NotImplementedError

    def abandon(self, why: Fault) -> None:
        """The component stops: an opening in progress has failed."""

    def leases_released(self, message: LeasesReleased, sender: ActorAddress) -> None:
        """The pool has the component's own leases back."""
        if self.component.pool.requests.answered("release", message.number) is not None:
            if message.stale:
                self.component.count("leases_stale", leases=len(message.stale))
            self.released()

    def released(self) -> None:
        """What waited for the leases to be back goes on."""

    def status(self, message: GetStatus, sender: ActorAddress) -> None:
        """How the component is."""
        answer = RepliesStatus(
            request=message.request,
            open=False,
            closing=False,
            op=0,
            sequence=0,
            slots={},
            queues={},
            counters=dict(self.component.counters),
            faulty=(),
            lost=(),
            durable=(),
            durable_through=0,
            stopped=self.component.stopped,
        )
        self.component.send(sender, answer)

    def due(self) -> float:
        """When `tick` has something to do: infinity as a rule, or when the scrubber goes on."""
        return math.inf

    def tick(self, now: float) -> None:
        """Do what time alone brings about."""

    def exit(self) -> None:
        """The actor exits: release what is mapped."""


State.handles = {GetStatus: State.status}


def refusal(message: Message, why: Fault, index: int = 0) -> Message | None:
    """The answer to an owner's request that is refused; None to what waits for no answer."""
    match message:
        case WriteReplies() | RemoveReplies():
            return WritesRefused(owner=message.owner, number=message.number, index=index, fault=why)
        case ReadReply():
            closed = NotRead.CLOSED
            return ReplyNotRead(owner=message.owner, read=message.read, slot=message.slot, reason=closed)
        case SetPeers():
            number = message.version
        case AwaitDurable():
            number = message.wait
        case InstallSessions() | Checkpoint() | CloseReplies():
            number = message.number
        case _:
            return None
    return RequestRefused(owner=message.owner, request=type(message).__name__, number=number, fault=why)


def fault(kind: FaultKind, found: str, expected: str) -> Fault:
    """Name what was found and what was expected."""
    return Fault(kind=kind, found=found, expected=expected)
