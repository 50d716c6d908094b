"""The narrow way between a gateway and the replicas: whole frames, in batches, of which few are in flight.

What has come goes out at once, as long as few batches of requests are in flight to the replica; they are confirmed by
the answers or a little later. Of answers there may be two batches in flight, confirmed by the next requests: a client
alone costs two messages per request.

Requests travel as the very bytes that the client sealed, answers as the very bytes that it gets. Both ends are plain
objects without I/O: `Forwarding` is the gateway's, `GatewayPort` the replica's.

Guarantees: a request waits at most `request_timeout_s` and then is forgotten; what waits is bounded; an answer reaches
the connection that asked last for exactly this request (client and request checksum), once. While a request waits, the
gateway asks every replica for its view at least once per `ask_interval_s`: a primary confirms batches whether or not it
can commit, so that is no proof. The highest view that has begun is followed, and its primary gets all that waits, once
per view. Hints in refusals are followed at most `redirects_max` times per request. A replica that does not confirm
in time is silent: it is probed with growing pauses and not preferred, so a stopped process holds up no other traffic.

Limits: apart from that, nothing is resent. The client repeats what is lost, and the session table recognises it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from client_replies.cluster.window import Window
from client_replies.messages.config import Pause
from client_replies.messages.message import U64, Number
from client_replies.messages.reply_header import CHECKSUM_SIZE

from .forwarding_messages import (
    ANSWER_BATCHES_MAX,
    BATCH_BYTES_MAX,
    BATCH_FRAMES_MAX,
    CONFIRM_LAG_S,
    REQUEST_BATCHES_MAX,
    ROUTES_MAX,
    ForwardedReplies,
    ForwardRequests,
)
from .frame_errors import FrameInvalid
from .frames import (
    PRIMARY_UNKNOWN,
    REPLY_SIZE_MAX,
    TO_CLIENT,
    Frame,
    FrameKind,
    Key,
    Reason,
    refused_frame,
    unpack_frame,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardingLimits:
    """What a gateway bounds on its way to the replicas."""

    requests_waiting_max: Number = 16_384
    request_timeout_s: Pause = 10.0
    confirm_timeout_s: Pause = 1.0
    ask_interval_s: Pause = 1.0  # a replica that was not heard for so long is asked for its view, while requests wait
    # Between two messages to a silent replica, doubling: few to a stopped one are in flight at any time, since twenty
    # unanswered messages of an actor hold up its messages to everybody.
    probe_first_s: Pause = 0.5
    probe_max_s: Pause = 5.0
    redirects_max: U64 = 3


@dataclass(slots=True)
class _Waiting:
    """A request that has no answer yet."""

    frame: Frame
    connection: int
    since: float
    redirects: int = 0
    queued: bool = False  # it is in a link's queue, and not on its way
    target: int = -1  # the replica that it is queued for, or was sent to last


@dataclass(slots=True)
class _Link:
    """The way to one replica. A question is not numbered, but the window's clock runs for it, too."""

    queue: deque[Key] = field(default_factory=deque)
    window: Window = field(default_factory=Window)
    heard_at: float = float("-inf")
    is_silent: bool = False
    probe_at: float = 0.0
    probe_pause: float = 0.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """An answer for a connection. `key`: the request that is no longer in flight there."""

    connection: int
    packed: bytes = field(repr=False)
    key: Key | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a request: it is in flight under `key`, or refused at once. `before` waited for it until now."""

    key: Key | None = None
    refusal: bytes | None = field(default=None, repr=False)
    before: int | None = None


class Forwarding:
    """The gateway's end. See the module. Time comes in with each call, in seconds that never go back."""

    def __init__(
        self, *, cluster: int, gateway: int, replicas: Iterable[int], limits: ForwardingLimits | None = None
    ) -> None:
        self.cluster = cluster
        self.gateway = gateway
        self.limits = limits or ForwardingLimits()
        self.view = 0
        self.primary = PRIMARY_UNKNOWN
        self.counters: Counter[str] = Counter()
        self._links = {replica: _Link() for replica in replicas}
        self._order = sorted(self._links)
        self._preferred = self._order[0]
        # In the order of `since`, so that what is too old is at the front.
        self._waiting: OrderedDict[Key, _Waiting] = OrderedDict()
        # The connection that spoke last for a client, for what it is told without having asked.
        self._connections: OrderedDict[int, int] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Requests without an answer."""
        return len(self._waiting)

    def describe(self) -> tuple[tuple[int, int, bool], ...]:
        """Replica, requests queued for it, and whether it is silent."""
        return tuple((r, len(link.queue), link.is_silent) for r, link in sorted(self._links.items()))

    # From the clients.

    def submit(self, connection: int, frame: Frame, now: float) -> Submitted:
        """Take a request, or refuse it."""
        if frame.cluster != self.cluster:
            return self._refuse(frame, Reason.WRONG_CLUSTER, f"this is cluster {self.cluster:x}")
        key = frame.key
        waiting = self._waiting.get(key)
        if waiting is None and len(self._waiting) >= self.limits.requests_waiting_max:
            return self._refuse(frame, Reason.BUSY, "too many requests wait")
        self._remember(frame.client, connection)
        if waiting is None:
            self.counters["requests"] += 1
            waiting = self._waiting[key] = _Waiting(frame, connection, now)
            self._enqueue(key, waiting)
            return Submitted(key)
        self.counters["requests_repeated"] += 1
        before, waiting.connection, waiting.since, waiting.redirects = waiting.connection, connection, now, 0
        self._waiting.move_to_end(key)
        if not waiting.queued:
            self._enqueue(key, waiting)
        return Submitted(key, before=before if before != connection else None)

    def _refuse(self, frame: Frame, reason: Reason, text: str) -> Submitted:
        self.counters[f"requests_refused_{reason.name.lower()}"] += 1
        refused = refused_frame(reason, cluster=self.cluster, to=frame, view=self.view, primary=self.primary, text=text)
        return Submitted(refusal=refused.packed)

    def _remember(self, client: int, connection: int) -> None:
        self._connections[client] = connection
        self._connections.move_to_end(client)
        if len(self._connections) > ROUTES_MAX:
            self._connections.popitem(last=False)

    def closed(self, connection: int, requests: Iterable[Key]) -> None:
        """The connection is gone: nobody waits for the answers to its requests."""
        for key in requests:
            waiting = self._waiting.get(key)
            if waiting is not None and waiting.connection == connection:
                del self._waiting[key]
        # `_connections` is bounded and may name connections that are gone: delivering to those does nothing.

    # Towards the replicas.

    def _target(self) -> int:
        """The primary if it is known and not silent, else the preferred replica or the next that is not silent."""
        link = self._links.get(self.primary)
        if link is not None and not link.is_silent:
            return self.primary
        start = self._order.index(self._preferred)
        for replica in self._order[start:] + self._order[:start]:
            if not self._links[replica].is_silent:
                self._preferred = replica
                return replica
        return self._preferred

    def _enqueue(self, key: Key, waiting: _Waiting, target: int | None = None) -> None:
        waiting.queued = True
        waiting.target = self._target() if target is None else target
        queue = self._links[waiting.target].queue
        queue.append(key)
        if len(queue) > 2 * self.limits.requests_waiting_max:
            # Most of them gave up while no replica listened: what is queued is bounded by what waits.
            kept = [queued for queued in dict.fromkeys(queue) if queued in self._waiting]
            queue.clear()
            queue.extend(kept)

    def due(self, now: float) -> list[tuple[int, ForwardRequests]]:
        """What is to be sent now, to which replica."""
        messages = []
        for replica, link in self._links.items():
            if link.is_silent and now < link.probe_at:
                continue
            batch = self._batch(replica, link) if self._has_room(link) else ()
            asks = not batch and self._asks(link, now)
            window = link.window
            if batch:
                window.send(now)
            elif asks:
                window.since = now
            elif window.owed < ANSWER_BATCHES_MAX and now < window.owed_at:
                continue
            if link.is_silent:
                link.probe_pause = min(self.limits.probe_max_s, 2.0 * link.probe_pause)
                link.probe_at = now + link.probe_pause
            message = ForwardRequests(
                gateway=self.gateway, number=window.sent, taken=window.settle(), requests=batch, asks=asks
            )
            messages.append((replica, message))
        return messages

    @staticmethod
    def _has_room(link: _Link) -> bool:
        """Another batch may be in flight; a silent replica gets one at a time."""
        window = link.window
        return window.since == inf or (not link.is_silent and window.in_flight < REQUEST_BATCHES_MAX)

    def _asks(self, link: _Link, now: float) -> bool:
        """A silent replica is asked whether it is there; any other, while requests wait, whether its view is new."""
        if link.window.since < inf:
            return False
        return link.is_silent or (bool(self._waiting) and now - link.heard_at >= self.limits.ask_interval_s)

    def _batch(self, replica: int, link: _Link) -> tuple[bytes, ...]:
        batch: list[bytes] = []
        size = 0
        while link.queue and len(batch) < BATCH_FRAMES_MAX and size < BATCH_BYTES_MAX:
            waiting = self._waiting.get(link.queue.popleft())
            # Not waiting any more: answered, expired, or its connection is gone. Another target: it was moved there.
            if waiting is not None and waiting.queued and waiting.target == replica:
                waiting.queued = False
                batch.append(waiting.frame.packed)
                size += len(waiting.frame.packed)
        if batch:
            self.counters["batches_sent"] += 1
        return tuple(batch)

    # From the replicas.

    def take(self, message: ForwardedReplies, now: float) -> list[Delivery]:
        """Take a batch of answers: who gets what."""
        link = self._links.get(message.replica)
        if link is None or message.gateway != self.gateway:
            self.counters["batches_misdirected"] += 1
            return []
        self._heard(message.replica, link, message, now)
        if message.answers:
            # A number that is a little lower was overtaken on its way; a replica that started again counts from 1.
            if link.window.taken - message.number >= ANSWER_BATCHES_MAX:
                link.window.taken = 0
            link.window.take(message.number, now + CONFIRM_LAG_S)
        deliveries = []
        for packed in message.answers:
            try:
                frame = unpack_frame(packed, TO_CLIENT, REPLY_SIZE_MAX)
            except FrameInvalid as error:
                self.counters[f"answers_invalid_{type(error).__name__}"] += 1
                continue
            delivery = self._route(message.replica, frame)
            if delivery is not None:
                deliveries.append(delivery)
        return deliveries

    def _heard(self, replica: int, link: _Link, message: ForwardedReplies, now: float) -> None:
        link.heard_at = now
        link.window.confirm(message.taken, now)
        if link.is_silent:
            self.counters["replicas_heard_again"] += 1
            link.is_silent = False
        if message.primary in self._links:
            self._follow(message.view, message.primary)
        elif replica == self.primary and message.view > self.view:
            self.primary = PRIMARY_UNKNOWN  # it has left its view; the next one is followed when it has begun

    def _follow(self, view: int, primary: int) -> None:
        """A view has begun: if it is the highest that we know of, its primary gets everything that waits.

        Requests that an earlier primary has taken may never be answered there: if it was cut off, it cannot commit.
        """
        if view < self.view or (view == self.view and self.primary != PRIMARY_UNKNOWN):
            return
        self.counters["primaries_learned"] += 1
        self.view, self.primary, self._preferred = view, primary, primary
        if self._links[primary].is_silent:
            return
        for key, waiting in self._waiting.items():
            if waiting.target != primary:
                waiting.redirects = 0
                self._enqueue(key, waiting, primary)

    def _route(self, replica: int, frame: Frame) -> Delivery | None:
        if frame.request_checksum == bytes(CHECKSUM_SIZE):
            return self._route_unasked(frame)
        key = (frame.client, frame.request_checksum)
        waiting = self._waiting.get(key)
        if waiting is None:
            self.counters["answers_nobody_waits_for"] += 1
            return None
        if frame.command == FrameKind.REFUSED and waiting.target != replica:
            # The request was passed on since: who has it now decides.
            self.counters["refusals_overtaken"] += 1
            return None
        if frame.reason == Reason.NOT_PRIMARY and self._redirect(key, waiting, frame):
            return None
        del self._waiting[key]
        self.counters["answers"] += 1
        return Delivery(waiting.connection, frame.packed, key)

    def _route_unasked(self, frame: Frame) -> Delivery | None:
        connection = self._connections.get(frame.client)
        if connection is None:
            self.counters["answers_nobody_waits_for"] += 1
            return None
        self.counters["answers_unasked"] += 1
        return Delivery(connection, frame.packed)

    def _redirect(self, key: Key, waiting: _Waiting, frame: Frame) -> bool:
        """Pass the request on to the primary that the refusal names, or that we know of if it is behind.

        True if the request goes on waiting: without a primary, until a view begins or the client repeats it.
        """
        primary = frame.primary if frame.view >= self.view else self.primary
        if primary == PRIMARY_UNKNOWN:
            self.counters["redirects_to_nobody"] += 1
            self._preferred = self._next(waiting.target)
            return True
        link = self._links.get(primary)
        if link is None or link.is_silent:
            self.counters["redirects_without_a_way"] += 1
            return False
        if waiting.redirects >= self.limits.redirects_max:
            self.counters["redirects_in_circles"] += 1
            return False
        self.counters["redirects_followed"] += 1
        self._follow(frame.view, primary)
        waiting.redirects += 1
        if not waiting.queued:
            self._enqueue(key, waiting, primary)
        return True

    def _next(self, replica: int) -> int:
        return self._order[(self._order.index(replica) + 1) % len(self._order)]

    # Time.

    def expire(self, now: float) -> list[tuple[int, Key]]:
        """Forget what has waited too long and notice silence. Returns who waited for what."""
        released = []
        while self._waiting:
            key, waiting = next(iter(self._waiting.items()))
            if now - waiting.since < self.limits.request_timeout_s:
                break
            del self._waiting[key]
            self.counters["requests_expired"] += 1
            released.append((waiting.connection, key))
        for replica, link in self._links.items():
            if now - link.window.since >= self.limits.confirm_timeout_s:
                self._silence(replica, link, now)
        return released

    def _silence(self, replica: int, link: _Link, now: float) -> None:
        """What was sent is lost, or may be; what was not goes to another replica."""
        self.counters["batches_unconfirmed"] += 1
        link.window.lose()
        if not link.is_silent:
            link.is_silent = True
            link.probe_pause = self.limits.probe_first_s
            link.probe_at = now + link.probe_pause
        if self.primary == replica:
            self.primary = PRIMARY_UNKNOWN  # in this view; the next primary says so
        self._preferred = self._next(replica)
        target = self._target()
        if target != replica:
            queue, link.queue = link.queue, deque()
            for key in queue:
                waiting = self._waiting.get(key)
                if waiting is not None and waiting.queued and waiting.target == replica:
                    self._enqueue(key, waiting, target)

    def replica_restarted(self, replica: int) -> None:
        """The replica has a new address: what it was sent before is lost, and its own count begins anew."""
        queue = self._links[replica].queue if replica in self._links else deque[Key]()
        self._links[replica] = _Link(queue=queue)
        self._order = sorted(self._links)
