"""A client of the cluster: the shipped client library's calls, in virtual time, at the gateways.

Guarantees: it does what the library's users do: one request at a time, resumed after a time-out, asked for once more
now and then. Beside that it goes quiet, registers again as the client that it was, and asks something else under a
number that was answered. Every answer that it takes is judged by the checkers. Owns: its session, one after the other.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thespian.actors import Actor, ActorAddress, WakeupMessage

from client_replies.cluster.client import (
    Answer,
    AnswerLost,
    ClusterClient,
    ClusterError,
    ClusterUnavailable,
    RequestConflict,
    RequestTimeout,
    RetryPolicy,
    SessionEvicted,
)
from client_replies.cluster.client.call import Call, Connect, Pause, Receive, Send, Step
from client_replies.cluster.door.frame_decoder import FrameDecoder, Signal
from client_replies.cluster.door.frame_errors import FrameInvalid
from client_replies.cluster.door.frames import OPERATION_CLOSE, REPLY_SIZE_MAX, TO_CLIENT, Frame, request_frame
from client_replies.cluster.vsr.effects import Reason, RefuseClient
from client_replies.messages.reply_header import OPERATION_REGISTER

from ..chance import MICROSECONDS, Chance
from ..history import CLUSTER
from ..system import Process
from .streams import End
from examples.ledger.ledger import EQUITY, OPERATION_BALANCE, OPERATION_TRANSFER, Transfer

if TYPE_CHECKING:
    from .world import ClusterWorld

AMOUNT_MAX = 100
IDLE = 0.1  # seconds between two looks whether there is anything to do
TIMEOUTS = (0.5, 1.5, 3.0)
REPEAT = 0.2  # probability that an answer is asked for once more
OTHER_CONTENT = b"something else"


@dataclass(frozen=True, slots=True)
class LineChanged:
    """Something has come in on the client's connection, or it is made, refused or broken."""


class ClientLine:
    """The connection of a session: see `client_replies.cluster.client.call.Line`."""

    def __init__(self, client: ClusterClientActor, address: int) -> None:
        self.address = address
        self.refused = False
        self._client = client
        self._end: End | None = None
        self._decoder = FrameDecoder(TO_CLIENT, REPLY_SIZE_MAX)
        self._attempt = 0

    @property
    def is_open(self) -> bool:
        return self._end is not None

    @property
    def name(self) -> str:
        return f"gateway {self.address}"

    def hang_up(self) -> None:
        end, self._end = self._end, None
        if end is not None:
            end.changed = lambda: None
            end.close()

    def connect(self) -> None:
        """Begin to connect."""
        self._attempt += 1
        self.refused = False
        attempt, process = self._attempt, self._client.process
        self._client.world.streams.connect(process, self.address, lambda end: self._connected(attempt, end))

    def _connected(self, attempt: int, end: End | None) -> None:
        if attempt != self._attempt or self._end is not None:
            if end is not None:
                end.close()
            return
        self._end, self.refused = end, end is None
        self._decoder = FrameDecoder(TO_CLIENT, REPLY_SIZE_MAX)
        if end is not None:
            end.changed = self._client.line_changed
        self._client.line_changed()

    def give_up(self) -> None:
        """Too late: a connection that is made from now on is none."""
        self._attempt += 1

    def send(self, data: bytes) -> int:
        """Send as much as there is room for. Raises an `OSError`."""
        if self._end is None:
            raise ConnectionResetError("the connection was closed")
        return self._end.send(data)

    def frame(self) -> Frame | None:
        """The next frame, if it is whole. Raises a `FrameInvalid` or an `OSError`."""
        while True:
            event = self._decoder.next_event()
            if isinstance(event, Frame):
                return event
            if event is Signal.CLOSED or self._end is None:
                raise ConnectionResetError("the gateway closed the connection")
            data = self._end.read(min(65_536, self._decoder.room))
            if data is None:
                return None
            if data:
                self._decoder.receive_data(data)
            else:
                self._decoder.receive_end()


class ClusterClientActor(Actor):
    """See the module."""

    def __init__(self, capabilities: object = None, requirements: Any = None) -> None:
        super().__init__()
        world, index, share = requirements
        self.world: ClusterWorld = world
        self.name = f"client-{index}"
        self.remaining: int = share
        self.chance = Chance(world.plan.seed, f"client {index}")
        policy = RetryPolicy(timeout_s=self.chance.pick(TIMEOUTS), connect_timeout_s=0.5, pause_max_s=1.0)
        addresses = [("gateway", 4000 + gateway) for gateway in range(world.plan.gateways)]
        self.library = ClusterClient(addresses, cluster=CLUSTER, policy=policy)
        self.client_id = 0
        self.session = 0
        self.number = 0
        self._line = ClientLine(self, 0)
        self._asked: Frame | None = None  # without an answer
        self._latest: Frame | None = None  # may be asked for once more
        self._steps: Generator[Step, Any, Answer] | None = None
        self._step: Step | None = None
        self._left = b""  # of what the step is to send
        self._turn = 0  # the number of the wakeup that ends the step
        self._row = 0

    @property
    def process(self) -> Process:
        """This actor's process."""
        process = self.world.system.process_at(self.myAddress)
        if process is None:
            raise RuntimeError("an actor has a process")
        return process

    @property
    def now(self) -> float:
        """The time in seconds."""
        return self.world.system.now / MICROSECONDS

    @property
    def done(self) -> bool:
        """True once its share is done."""
        return self.remaining <= 0 and self._asked is None

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Take a message."""
        if isinstance(message, WakeupMessage) and message.payload == self._turn:
            if self._steps is None:
                self._work()
            else:
                self._look(late=True)
        elif isinstance(message, LineChanged) and self._steps is not None:
            self._look(late=False)

    def line_changed(self) -> None:
        """The network says that something has happened to the connection."""
        self.process.system.notify(self.process, LineChanged())

    def _wake(self, delay: float) -> None:
        self._turn += 1
        self.wakeupAfter(max(0.0, delay), self._turn)

    # What it asks.

    def _work(self) -> None:
        if self._asked is not None:
            self._ask(self._asked)
        elif self._latest is not None and self._latest.request and self.chance.chance(REPEAT):
            self.world.marks.hit("gateway_client_asked_once_more")
            self._ask(self._latest)
        elif self._latest is not None and self._latest.request and self.chance.chance(self.world.plan.stale):
            self.world.marks.hit("request_with_other_content")
            self._ask(self._frame(self.number, OPERATION_TRANSFER, OTHER_CONTENT))
        elif self.remaining > 0:
            self._latest = self._next() if self.session else self._registration()
            self._ask(self._latest)
        else:
            self._wake(IDLE)

    def _registration(self) -> Frame:
        self._line.hang_up()
        self._line = ClientLine(self, self.library._preferred())
        if not self.client_id or not self.world.plan.same_client_again or self.chance.chance(0.3):
            self.client_id = self.chance.bits(127) + 1
        self.number = 0
        return self._frame(0, OPERATION_REGISTER, b"")

    def _next(self) -> Frame:
        self.remaining -= 1
        self.number += 1
        if self.chance.chance(self.world.plan.closes):
            self.world.marks.hit("session_closed")
            return self._frame(self.number, OPERATION_CLOSE, b"")
        if self.chance.chance(0.1):
            return self._frame(self.number, OPERATION_BALANCE, self._account().encode())
        self._row += 1
        source = EQUITY if self.chance.chance(0.3) else self._account()
        transfer = Transfer(self._row, source, self._account(), self.chance.integer(1, AMOUNT_MAX))
        body = transfer.encode()
        if self.chance.chance(self.world.plan.malformed):
            body = body[:-1]
        return self._frame(self.number, OPERATION_TRANSFER, body)

    def _account(self) -> str:
        return f"account {self.chance.below(self.world.plan.accounts)}"

    def _frame(self, number: int, operation: int, body: bytes) -> Frame:
        return request_frame(
            cluster=CLUSTER,
            client=self.client_id,
            session=self.session,
            request=number,
            operation=operation,
            body=body,
        )

    def _ask(self, frame: Frame) -> None:
        self._asked = frame
        call = Call(
            self.library,
            self._line,
            frame,
            self.now + self.library.policy.timeout_s,
            now=lambda: self.now,
            uniform=self.chance.between,
        )
        self._steps = call.steps(lambda: False)
        self._advance()

    # The steps of the call.

    def _advance(self, result: object = None, error: Exception | None = None) -> None:
        """Give the call the outcome of its step, and go on with the next one, until there is one to wait for."""
        steps = self._steps
        while steps is not None:
            try:
                self._step = steps.send(result) if error is None else steps.throw(error)
            except StopIteration as end:
                self._steps = None
                self._answered(end.value)
                return
            except ClusterError as raised:
                self._steps = None
                self._failed(raised)
                return
            self._begin(self._step)
            ready, result, error = self._outcome(late=False)
            if not ready:
                return

    def _begin(self, step: Step) -> None:
        if isinstance(step, Connect):
            self._line.connect()
            self._wake(step.timeout)
            return
        if isinstance(step, Send):
            self._left = step.packed
        self._wake(step.until - self.now)

    def _look(self, *, late: bool) -> None:
        ready, result, error = self._outcome(late=late)
        if ready:
            self._advance(result, error)

    def _outcome(self, *, late: bool) -> tuple[bool, object, Exception | None]:
        """Whether the step is done, its result and its error. `late`: its time is over."""
        step, line = self._step, self._line
        try:
            if isinstance(step, Connect):
                if line.is_open or line.refused or late:
                    line.give_up()
                    return True, None if line.is_open else "refused" if line.refused else "timed out", None
            elif isinstance(step, Send):
                self._left = self._left[line.send(self._left) :]
                if not self._left or late:
                    return True, None, TimeoutError("timed out") if self._left else None
            elif isinstance(step, Receive):
                frame = line.frame()
                if frame is not None:
                    self.world.checkers.frame_for(self.client_id, frame)
                return frame is not None or late, frame, None
            elif isinstance(step, Pause):
                return late or self.now >= step.until, None, None
        except (OSError, FrameInvalid) as error:
            return True, None, error
        return False, None, None

    # How it ends.

    def _answered(self, answer: Answer) -> None:
        asked, self._asked = self._asked, None
        if asked is None:
            raise RuntimeError("an answer to nothing")
        self.world.checkers.answer_taken(asked, answer)
        self.world.marks.hit("gateway_reply_repeated" if answer.repeated else "gateway_reply_first")
        if asked.operation == OPERATION_REGISTER:
            self.session = answer.header.session
        elif asked.operation == OPERATION_CLOSE:
            self._over()
        self._rest()

    def _rest(self) -> None:
        plan = self.world.plan
        if self.chance.chance(plan.quiet) and not self.world.calm:
            self.world.marks.hit("client_went_quiet")
            self._wake(self.chance.between(0.5, plan.quiet_max))
        else:
            self._wake(self.chance.between(0.0, plan.think))

    def _failed(self, error: ClusterError) -> None:
        asked = self._asked
        self.world.marks.hit(f"gateway_client_{type(error).__name__}")
        if asked is None:
            raise RuntimeError("an error of nothing")
        if isinstance(error, SessionEvicted):
            self.world.checkers.session_ended(self._refused(asked, Reason[error.reason.name]))
            self._asked = None
            self._over()
        elif isinstance(error, AnswerLost):
            self.world.checkers.reply_lost_told(self._refused(asked, Reason.REPLY_LOST))
            self._asked = None
        elif isinstance(error, RequestConflict) and asked.body == OTHER_CONTENT:
            self._asked = None
        elif not isinstance(error, RequestTimeout | ClusterUnavailable):
            self.world.checkers.fail("gateways keep to the protocol", f"{self.name}: {error!r}")
        self._rest()

    def _over(self) -> None:
        self.session, self._latest = 0, None

    def _refused(self, asked: Frame, reason: Reason) -> RefuseClient:
        return RefuseClient(asked.client, 0, asked.session, asked.request, reason, asked.request_checksum)
