"""What drives a port where no actor does: a thread that hands it what arrives, and futures for what comes of it.

Guarantees: every future ends, with its result or with the reason why there is none. Any thread may ask. A question that
has no answer is asked again, so an actor that died is noticed.

Owns: the port, its thread, the session table; the component, its mailbox, and the actor system unless it was given one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import ExitStack, suppress
from typing import Any, TypeVar

from thespian.actors import ActorAddress, ActorExitRequest

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.actors.thespian.environment import RealEnvironment
from client_replies.actors.thespian.mailbox import Mailbox
from client_replies.actors.thespian.system import OwnedSystem, running_system
from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.replies import (
    CheckpointDone,
    GetStatus,
    NotRead,
    RepliesClosed,
    RepliesOpened,
    RepliesStatus,
    ReplyLost,
    StorageFailed,
)
from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import HEADER_SIZE, packed_cluster_client
from client_replies.messages.requests import Outbox
from client_replies.storage.session_table import SessionTable, encode_sessions

from .handle_errors import ClientElsewhere, OpOutOfOrder, RepliesUnusable, ReplyUnavailable
from .port_events import PortEvent, PortFailed, ReadFailed, ReadSucceeded, SlotsAreDurable, WritesAreDurable
from .replies_port import RESEND_TIMEOUT, RepliesPort

TICK = 0.1  # seconds from one look at what must be sent again to the next

T = TypeVar("T")


class Engine:
    """The port, and the thread that hands it what arrives; see the module. Its methods are for any thread."""

    def __init__(self, config: RepliesConfig, mode: OpenMode, system: OwnedSystem | None) -> None:
        self.lost: dict[int, None] = {}  # slots whose reply no replica holds, until their next one
        self._config, self._mode, self._system = config, mode, system
        self._resources = ExitStack()
        self._lock = threading.Lock()  # for everything below
        self._fault: Fault | None = None
        self._op = self._checkpointed = 0
        self._headers: dict[int, bytes] = {}  # of the latest reply of each slot, packed
        self._slots: dict[int, int] = {}  # by client
        self.opened: Future[RepliesOpened] = Future()  # what the file held
        self._closed: Future[None] = Future()
        self._room: list[Future[None]] = []
        self._undurable: deque[tuple[int, Future[None]]] = deque()
        self._reads: dict[int, Future[Reply]] = {}
        self._waits: dict[int, Future[None]] = {}
        self._checkpoints: deque[Future[int]] = deque()
        self._statuses: dict[int, Future[RepliesStatus]] = {}
        self._status_number = 0
        # For a status, each in a lane of its number.
        self._questions = Outbox(lambda message: self._mailbox.send(self.address, message), RESEND_TIMEOUT)
        self._actor_died = False

    def start(self) -> None:
        """Start the actors and ask for the file to be opened; `opened` gives the outcome."""
        environment = RealEnvironment({})
        with ExitStack() as resources:
            system = self._system or resources.enter_context(running_system())
            self._mailbox = mailbox = Mailbox(system, self._undelivered)
            resources.callback(mailbox.close)
            self.address = address = system.createActor(ClientRepliesActor)
            resources.callback(mailbox.send, address, ActorExitRequest())
            self._port = RepliesPort(
                owner=environment.unique(),
                send=lambda message: mailbox.send(address, message),
                send_pool=mailbox.send,
                now=time.monotonic,
                open_memory=environment.open_memory,
                write_interval=0.0,
            )
            self._port.open(self._config, self._mode)
            self._thread = threading.Thread(target=self._run, name="replies", daemon=True)
            self._thread.start()
            self._resources = resources.pop_all()

    # What is asked for.

    def take(self, slot: int, op: int, reply: bytes | None) -> Future[None] | None:
        """Write or remove. None: too much waits; ask again once `room` has come."""
        with self._lock:
            self._check_usable()
            if op <= self._op:
                raise OpOutOfOrder(op, self._op)
            client = _client(reply) if reply is not None else 0
            if reply is not None and self._slots.get(client, slot) != slot:
                raise ClientElsewhere(slot, self._slots[client])
            if self._port.is_open and not self._port.ready:
                return None
            if reply is None:
                self._port.remove(slot, op)
            else:
                self._port.write(slot, reply)
            self._note(slot, client, reply[:HEADER_SIZE] if reply is not None else None)
            self._op = op
            future: Future[None] = Future()
            self._undurable.append((op, future))
            self._port.committed(op, tell_durable=True)
            return future

    def _note(self, slot: int, client: int, header: bytes | None) -> None:
        before = self._headers.pop(slot, None)
        if before is not None:
            del self._slots[_client(before)]
        if header is not None:
            self._headers[slot] = header
            self._slots[client] = slot
        self.lost.pop(slot, None)

    def room(self) -> Future[None]:
        """Ends when more may be written."""
        with self._lock:
            self._check_usable()
            future: Future[None] = Future()
            self._room.append(future)
            return future

    def read(self, slot: int) -> Future[Reply]:
        """Read the latest reply of the slot."""
        with self._lock:
            self._check_usable()
            future: Future[Reply] = Future()
            header = self._headers.get(slot)
            if header is None:
                raise ReplyUnavailable(slot, NotRead.UNEXPECTED)
            self._reads[self._port.read(slot, header)] = future
            self._take_events()  # a reply that waits in the port is there at once
            return future

    def durable(self, slots: Sequence[int]) -> Future[None]:
        """Ends when each slot has on disk what it is expected to hold now, or a newer reply."""
        with self._lock:
            self._check_usable()
            future: Future[None] = Future()
            self._waits[self._port.await_durable(tuple(slots))] = future
            return future

    def checkpoint(self) -> Future[int]:
        """Ends with the checkpoint's number when it is on disk."""
        with self._lock:
            self._check_usable()
            return self._checkpoint()

    def _checkpoint(self) -> Future[int]:
        future: Future[int] = Future()
        self._checkpoints.append(future)
        config = self._config
        table = encode_sessions(config.clients_max, config.cluster, sorted(self._headers.items()))
        self._port.checkpoint(self._op, table)
        self._checkpointed = self._op
        return future

    def set_peers(self, peers: dict[int, ActorAddress]) -> None:
        """Say where the components of the other replicas are."""
        with self._lock:
            self._check_usable()
            self._port.set_peers(tuple(sorted(peers.items())))

    def status(self, slots: Sequence[int]) -> Future[RepliesStatus]:
        """Ends with the component's status."""
        with self._lock:
            self._check_usable()
            number = self._status_number = self._status_number + 1
            future = self._statuses[number] = Future()
            self._questions.post(number, GetStatus(request=number, slots=tuple(slots)), time.monotonic(), number=number)
            return future

    def close(self) -> Future[None]:
        """Make durable what was written and close the file; then `release` what the handle owns."""
        with self._lock:
            if self._fault is None and self._port.is_open:
                if self._op > self._checkpointed:
                    self._checkpoint()
                self._port.close()
            elif not self._port.is_open and not self._closed.done():
                self._end(self._fault or _closed())
            return self._closed

    def release(self) -> None:
        """End the thread, the actors and, if it was started here, the actor system."""
        with self._lock:
            self._end(self._fault or _closed())
        self._thread.join()
        self._resources.close()

    def _check_usable(self) -> None:
        if self._fault is not None:
            raise RepliesUnusable(self._fault)

    # What comes in.

    def _run(self) -> None:
        tick_at = time.monotonic() + TICK
        try:
            while not self._closed.done():
                message = self._mailbox.receive(TICK)
                with self._lock:
                    self._receive(message)
                    if time.monotonic() >= tick_at:
                        self._port.tick()
                        self._questions.resend(time.monotonic())
                        tick_at = time.monotonic() + TICK
                    self._take_events()
        except BaseException as error:
            with self._lock:
                self._end(Fault(kind=FaultKind.STOPPED, found=f"a bug: {error!r}", expected="none"))
            raise

    def _undelivered(self, _message: object) -> None:
        self._actor_died = True

    def _receive(self, message: object) -> None:
        if self._actor_died:
            self._end(Fault(kind=FaultKind.ACTOR_DIED, found="a message that was not taken", expected="living actors"))
        if isinstance(message, RepliesStatus):
            self._questions.answered(message.request)
            self._settle(self._statuses.pop(message.request, None), message)
        elif message is not None:
            self._port.receive(message)

    def _take_events(self) -> None:
        for event in self._port.take_events():
            self._take_event(event)
        if self._port.ready:
            room, self._room = self._room, []
            for future in room:
                self._settle(future, None)
            if self._undurable and not self._port.idle:
                self._port.committed(self._op, tell_durable=True)

    def _take_event(self, event: PortEvent) -> None:
        match event:
            case RepliesOpened():
                self._begin(event)
            case WritesAreDurable():
                while self._undurable and self._undurable[0][0] <= event.op:
                    self._settle(self._undurable.popleft()[1], None)
            case ReadSucceeded():
                self._settle(self._reads.pop(event.read, None), Reply.unpack(event.reply))
            case ReadFailed():
                self._fail(self._reads.pop(event.read, None), ReplyUnavailable(event.slot, event.reason))
            case SlotsAreDurable():
                self._settle(self._waits.pop(event.wait, None), None)
            case CheckpointDone():
                self._settle(self._checkpoints.popleft(), event.sequence)
            case ReplyLost():
                self.lost[event.slot] = None
            case PortFailed() | StorageFailed():
                self._end(event.fault)
            case RepliesClosed():
                self._end(_closed())

    def _begin(self, opened: RepliesOpened) -> None:
        self._op = self._checkpointed = opened.op
        if opened.sessions:
            # The component has verified it.
            config = self._config
            table = SessionTable.decode(opened.sessions, config.clients_max, config.cluster, verified=True)
            self._headers = dict(zip(table.slots, table.headers, strict=True))
            self._slots = {_client(header): slot for slot, header in self._headers.items()}
        self._settle(self.opened, opened)

    def _end(self, fault: Fault) -> None:
        """Nothing more is done: everything that was asked for and has no result fails."""
        if self._fault is None:
            self._fault = fault
        error = RepliesUnusable(self._fault)
        waiting: list[Future[Any]] = [self.opened, *self._room, *(future for _, future in self._undurable)]
        waiting += [*self._reads.values(), *self._waits.values(), *self._checkpoints, *self._statuses.values()]
        for future in waiting:
            self._fail(future, error)
        self._settle(self._closed, None)

    @staticmethod
    def _settle(future: Future[T] | None, result: T) -> None:
        if future is not None:
            with suppress(InvalidStateError):  # it was cancelled, or has failed
                future.set_result(result)

    @staticmethod
    def _fail(future: Future[Any] | None, error: Exception) -> None:
        if future is not None:
            with suppress(InvalidStateError):
                future.set_exception(error)


def _client(packed: bytes) -> int:
    return packed_cluster_client(packed)[1]


def _closed() -> Fault:
    return Fault(kind=FaultKind.NOT_OPEN, found="a closed handle", expected="an open one")
