"""The owner's reads, and its waits for durability: what it asks about replies without changing them.

Guarantees: each ends in one event, unless the port fails or closes. A query does not overtake what it is about: a wait
goes out when all that was queued before it is accepted, and so does a read of a slot in flight. A read of a reply that
waits in the port is answered from there, because the component has not heard of it.

Limits: at most `READS_MAX` reads are asked for at the same time; the others wait. No deadlines.

Owns: the queries that have not been sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from client_replies.messages.message import Message
from client_replies.messages.replies import AwaitDurable, ReadReply, ReplyNotRead, ReplyRead, ReplyTaken, SlotsDurable
from client_replies.messages.reply_header import HEADER_SIZE
from client_replies.messages.requests import Outbox

from .buffers import Buffers
from .port_events import PortEvent, ReadFailed, ReadSucceeded, SlotsAreDurable
from .write_queue import WriteQueue

READS_MAX = 4  # reads that are asked for at the same time; more would fill the owner's transmit slots
READ, WAIT = "read", "wait"
Lane = tuple[str, int]  # READ or WAIT, and the query's number: each has a lane of its own


class Queries:
    """See the module. Events go to `events`; `now` gives seconds."""

    def __init__(
        self,
        owner: int,
        queue: WriteQueue,
        buffers: Buffers,
        outbox: Outbox,
        send: Callable[[Message], None],
        events: deque[PortEvent],
        now: Callable[[], float],
    ) -> None:
        self.held: deque[tuple[int, Lane, ReadReply | AwaitDurable]] = deque()  # until this serial is accepted
        self.waiting: deque[ReadReply] = deque()  # until fewer reads are asked for
        self._asked = 0  # reads that are held or were sent, without an answer
        self._reads = self._waits = 0  # the last numbers
        self._owner = owner
        self._queue = queue
        self._buffers = buffers
        self._outbox = outbox
        self._send = send
        self._events = events
        self._now = now

    def await_durable(self, slots: tuple[int, ...]) -> int:
        """Number a wait, and send it when it may go out."""
        self._waits += 1
        self._post_after_pending((WAIT, self._waits), AwaitDurable(owner=self._owner, wait=self._waits, slots=slots))
        return self._waits

    def read(self, slot: int, header: bytes) -> int:
        """Number a read, and answer it from what waits in the port, or send it when it may go out."""
        number = self._reads = self._reads + 1
        for payload in self._queue.replies_of(slot):
            reply = self._buffers.contents(payload)
            if reply[:HEADER_SIZE] == header:
                self._events.append(ReadSucceeded(read=number, slot=slot, header=header, reply=reply))
                return number
        self.waiting.append(ReadReply(owner=self._owner, read=number, slot=slot, expected=header))
        self.pump()
        return number

    def installed(self) -> None:
        """What is held is from now on about what is installed: the operations it was about are forgotten."""
        self.held = deque((self._queue.serial, lane, message) for _serial, lane, message in self.held)

    def pump(self) -> None:
        """Send what may go out."""
        while self.held and self.held[0][0] < self._queue.oldest:
            _serial, lane, message = self.held.popleft()
            self._outbox.post(lane, message, self._now(), number=lane[1])
        while self.waiting and self._asked < READS_MAX:
            read = self.waiting.popleft()
            self._asked += 1
            if self._queue.is_changing(read.slot):
                self._post_after_pending((READ, read.read), read)
            else:
                self._outbox.post((READ, read.read), read, self._now(), number=read.read)

    def _post_after_pending(self, lane: Lane, message: ReadReply | AwaitDurable) -> None:
        """Send once all that waits now was accepted: sent before, it would be about what the slots held until then."""
        if self._queue.oldest > self._queue.serial:
            self._outbox.post(lane, message, self._now(), number=lane[1])
        else:
            self.held.append((self._queue.serial, lane, message))

    def on_slots_durable(self, message: SlotsDurable) -> None:
        """A wait has ended."""
        wait = self._outbox.answered((WAIT, message.wait))
        if isinstance(wait, AwaitDurable):
            self._events.append(SlotsAreDurable(wait=message.wait, slots=wait.slots))

    def on_read(self, message: ReplyRead) -> None:
        """A read has its reply.

        Or this is a late answer to an earlier sending: the loan was over, and the buffer holds something else by now.
        """
        lane = (READ, message.read)
        read, reply = self._outbox.in_flight(lane), self._buffers.contents(message.payload)
        if isinstance(read, ReadReply) and reply[:HEADER_SIZE] == (header := read.expected):
            self._outbox.answered(lane)
            self._asked -= 1
            self._events.append(ReadSucceeded(read=message.read, slot=message.slot, header=header, reply=reply))
        if not isinstance(message.payload, bytes):
            # Also for an answer that is not awaited any more: the loan must end.
            self._send(ReplyTaken(owner=self._owner, read=message.read))

    def on_not_read(self, message: ReplyNotRead) -> None:
        """A read has failed."""
        read = self._outbox.answered((READ, message.read))
        if isinstance(read, ReadReply):
            self._asked -= 1
            header, reason = read.expected, message.reason
            self._events.append(ReadFailed(read=message.read, slot=message.slot, header=header, reason=reason))
