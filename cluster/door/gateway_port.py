"""The replica's end of the way between a gateway and the replicas; `forwarding` has the gateway's end."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from thespian.actors import ActorAddress

from client_replies.cluster.vsr.effects import AnswerClient, RedirectClient, RefuseClient
from client_replies.cluster.window import Window
from client_replies.messages.message import U8_MAX

from .forwarding_messages import (
    ANSWER_BATCHES_MAX,
    BATCH_BYTES_MAX,
    BATCH_FRAMES_MAX,
    ROUTES_MAX,
    ForwardedReplies,
    ForwardRequests,
)
from .frame_errors import FrameInvalid
from .frames import (
    PRIMARY_UNKNOWN,
    REPLY_SIZE_MAX,
    TO_GATEWAY,
    Frame,
    Reason,
    refused_frame,
    reply_frame,
    unpack_frame,
)

REQUESTS_LAG_S = 0.01  # how long a batch of requests waits for answers that confirm it by the way
ANSWERS_TIMEOUT_S = 1.0  # without a confirmation, and batches of answers count as lost
ANSWERS_QUEUED_MAX = 16_384  # for one gateway
GATEWAY_TIMEOUT_S = 60.0  # without a message, and a replica forgets the gateway


@dataclass(slots=True)
class _Door:
    """What a replica's port knows of one gateway."""

    address: ActorAddress
    window: Window = field(default_factory=Window)
    heard_at: float = 0.0
    answers: deque[bytes] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class _Route:
    """The gateway of a client, and what the client asked last."""

    gateway: int
    session: int
    request: int
    checksum: bytes


class GatewayPort:
    """The replica's end: takes batches, remembers where each client is, and sends the answers back in batches.

    The replica calls `take` with each `ForwardRequests`; `reply`, `refuse` or `redirect` with what its protocol says
    about a client; and `flush` at the end of every handler and periodically. To hold a gateway back, it takes later.
    """

    def __init__(self, replica: int, cluster: int, send: Callable[[ActorAddress, ForwardedReplies], None]) -> None:
        self.replica = replica
        self.cluster = cluster
        self.counters: Counter[str] = Counter()
        self._send = send
        self._told = (0, PRIMARY_UNKNOWN)
        self._doors: OrderedDict[int, _Door] = OrderedDict()
        self._routes: OrderedDict[int, _Route] = OrderedDict()

    def take(self, message: ForwardRequests, sender: ActorAddress, now: float) -> Sequence[Frame]:
        """The requests in a batch, each verified again; nothing if the gateway's number has another address."""
        door = self._doors.get(message.gateway)
        if door is None:
            door = self._doors[message.gateway] = _Door(sender)
            if len(self._doors) > U8_MAX:
                self._doors.popitem(last=False)
        if door.address != sender:
            # A gateway that starts again has another number. Who uses this one would get the gateway's answers.
            self.counters["batches_of_strangers"] += 1
            return ()
        door.heard_at = now
        door.window.confirm(message.taken, now)
        # Not at once: the answers will say it, and what comes until then makes one batch instead of many.
        lag = REQUESTS_LAG_S if message.requests else inf
        door.window.take(message.number, now if message.asks else now + lag)
        frames = []
        for packed in message.requests:
            try:
                frame = unpack_frame(packed, TO_GATEWAY, REPLY_SIZE_MAX)
            except FrameInvalid as error:
                self.counters[f"requests_invalid_{type(error).__name__}"] += 1
                continue
            self._routes[frame.client] = _Route(message.gateway, frame.session, frame.request, frame.request_checksum)
            self._routes.move_to_end(frame.client)
            frames.append(frame)
        while len(self._routes) > ROUTES_MAX:
            self._routes.popitem(last=False)
        return frames

    def reply(self, effect: AnswerClient) -> None:
        """The client gets its reply. Raises a `FrameInvalid`."""
        frame = reply_frame(effect.reply, view=effect.view, primary=self.replica, repeated=effect.repeated)
        self.answer(frame)

    def refuse(self, effect: RefuseClient) -> None:
        """The client's request gets no reply; without a request it is the session that is over."""
        if effect.number is not None:
            route = self._routes.get(effect.client)
            asked = route and (route.session, route.request, route.checksum)
            if asked != (effect.session, effect.number, effect.checksum):
                self.counters["refusals_nobody_waits_for"] += 1
                return
        frame = refused_frame(
            Reason[effect.reason.name],
            cluster=self.cluster,
            client=effect.client,
            session=effect.session,
            request=effect.number or 0,
            checksum=effect.checksum,
            view=effect.view,
            primary=self.replica,
        )
        self.answer(frame)

    def redirect(self, effect: RedirectClient) -> None:
        """What the client asked last is for another replica."""
        route = self._routes.get(effect.client)
        if route is not None:
            frame = refused_frame(
                Reason.NOT_PRIMARY,
                cluster=self.cluster,
                client=effect.client,
                session=route.session,
                request=route.request,
                checksum=route.checksum,
                view=effect.view,
                primary=PRIMARY_UNKNOWN if effect.replica is None else effect.replica,
            )
            self.answer(frame)

    def answer(self, frame: Frame) -> None:
        """Queue a frame for its client; without a way to it the client asks again, or asks another replica."""
        route = self._routes.get(frame.client)
        door = self._doors.get(route.gateway) if route is not None else None
        if door is None or len(door.answers) >= ANSWERS_QUEUED_MAX:
            self.counters["answers_without_a_way" if door is None else "answers_dropped"] += 1
            return
        door.answers.append(frame.packed)

    def flush(self, now: float, *, view: int, primary: int) -> None:
        """Send what is due to each gateway; a new view is told to all at once."""
        news, self._told = (view, primary) != self._told, (view, primary)
        for gateway in [name for name, door in self._doors.items() if now - door.heard_at > GATEWAY_TIMEOUT_S]:
            del self._doors[gateway]  # it has nothing in flight here, or is gone
        for gateway, door in self._doors.items():
            window = door.window
            if now - window.since >= ANSWERS_TIMEOUT_S:
                self.counters["batches_unconfirmed"] += window.lose()
            answers = self._batch(door) if window.in_flight < ANSWER_BATCHES_MAX else ()
            if not answers and now < window.owed_at and not news:
                continue
            message = ForwardedReplies(
                gateway=gateway,
                replica=self.replica,
                view=view,
                primary=primary,
                number=window.send(now) if answers else window.sent,
                taken=window.settle(),
                answers=answers,
            )
            self._send(door.address, message)

    @property
    def is_idle(self) -> bool:
        """True if there is nothing to be sent, now or in a while."""
        return all(not door.answers and door.window.owed_at == inf for door in self._doors.values())

    @staticmethod
    def _batch(door: _Door) -> tuple[bytes, ...]:
        answers: list[bytes] = []
        size = 0
        while door.answers and len(answers) < BATCH_FRAMES_MAX and size < BATCH_BYTES_MAX:
            answers.append(door.answers.popleft())
            size += len(answers[-1])
        return tuple(answers)
