"""The way between a gateway and its replicas, both ends as plain objects: batches, bounds, redirects and silence."""

import itertools

import pytest
from thespian.actors import ActorAddress

from client_replies.cluster.door.forwarding import Forwarding, ForwardingLimits
from client_replies.cluster.door.forwarding_messages import (
    BATCH_BYTES_MAX,
    BATCH_FRAMES_MAX,
    CONFIRM_LAG_S,
    REQUEST_BATCHES_MAX,
    ForwardedReplies,
    ForwardRequests,
)
from client_replies.cluster.door.frames import (
    PRIMARY_UNKNOWN,
    Frame,
    Reason,
    refused_frame,
    request_frame,
    unpack_frame,
)
from client_replies.cluster.door.frames import TO_CLIENT as ANSWERS
from client_replies.cluster.door.gateway_port import GatewayPort
from client_replies.cluster.vsr import effects
from client_replies.messages.message import MessageInvalid
from client_replies.messages.reply_header import checksum128

from tests.cluster.stand_in import CLUSTER, OPERATION_ECHO, StandIn, StandInBehaves

GATEWAY = 99
HERE = ActorAddress("gateway")


def request(client: int, number: int = 1, body: bytes = b"") -> Frame:
    """Give a client's request."""
    return request_frame(cluster=CLUSTER, client=client, session=1, request=number, operation=OPERATION_ECHO, body=body)


def registration(client: int) -> Frame:
    """Give a client's registration."""
    return request_frame(cluster=CLUSTER, client=client, session=0, request=0, operation=1)


class Wires:
    """Both ends, with what travels between them in hand."""

    def __init__(self, replicas: int = 1, **limits: float) -> None:
        self.forwarding = Forwarding(
            cluster=CLUSTER,
            gateway=GATEWAY,
            replicas=range(replicas),
            limits=ForwardingLimits(**limits),  # type: ignore[arg-type]
        )
        self.sent: list[ForwardedReplies] = []
        self.ports = [
            GatewayPort(index, CLUSTER, lambda _, message: self.sent.append(message)) for index in range(replicas)
        ]
        self.services = [StandIn(StandInBehaves(replica=index)) for index in range(replicas)]
        self.now = 100.0

    def due(self) -> list[tuple[int, ForwardRequests]]:
        """What the gateway sends now."""
        return self.forwarding.due(self.now)

    def batches(self) -> list[tuple[int, ForwardRequests]]:
        """Of what the gateway sends now, the batches of requests."""
        return [(replica, message) for replica, message in self.due() if message.requests]

    def hear(self, replica: int, **fields: int) -> None:
        """A replica confirms all that it was sent, without an answer."""
        assert self.forwarding.take(self.reply(replica=replica, number=0, taken=1000, **fields), self.now) == []

    def reply(self, *answers: Frame, replica: int = 0, **fields: int) -> ForwardedReplies:
        """A batch of answers as a replica makes it."""
        known = {"view": 0, "primary": PRIMARY_UNKNOWN, "number": 1, "taken": 1, **fields}
        packed = tuple(answer.packed for answer in answers)
        return ForwardedReplies(gateway=GATEWAY, replica=replica, answers=packed, **known)

    def refusal(self, to: Frame, reason: Reason, *, view: int = 0, primary: int = PRIMARY_UNKNOWN) -> Frame:
        """A replica's refusal."""
        return refused_frame(reason, cluster=CLUSTER, to=to, view=view, primary=primary)


# Batches.


def test_what_comes_goes_out_at_once_until_as_many_batches_as_may_be_are_unconfirmed() -> None:
    """Then it is the next batch, which goes when the first one is confirmed."""
    wires = Wires()
    for number in range(1, REQUEST_BATCHES_MAX + 1):
        wires.forwarding.submit(1, request(number), wires.now)
        ((replica, batch),) = wires.due()
        assert (replica, batch.number, len(batch.requests)) == (0, number, 1)
    for client in range(102, 112):
        wires.forwarding.submit(1, request(client), wires.now)
    assert wires.due() == []
    wires.forwarding.take(wires.reply(number=0), wires.now)
    ((_, batch),) = wires.due()
    assert (batch.number, len(batch.requests)) == (REQUEST_BATCHES_MAX + 1, 10)
    wires.forwarding.submit(1, request(200), wires.now)
    assert wires.due() == []


def test_a_replica_that_confirms_some_of_its_batches_is_not_silent_yet() -> None:
    """The time for the rest begins anew; without a confirmation it is over."""
    wires = Wires(confirm_timeout_s=1.0)
    for number in (1, 2):
        wires.forwarding.submit(1, request(number), wires.now)
        wires.due()
    wires.now += 0.9
    wires.forwarding.take(wires.reply(number=0), wires.now)
    wires.now += 0.9
    wires.forwarding.expire(wires.now)
    assert wires.forwarding.counters["batches_unconfirmed"] == 0
    wires.now += 0.2
    wires.forwarding.expire(wires.now)
    assert wires.forwarding.counters["batches_unconfirmed"] == 1


def test_a_batch_is_bounded_by_frames_and_by_bytes() -> None:
    """Whatever waits."""
    wires = Wires()
    for client in range(1, BATCH_FRAMES_MAX + 100):
        wires.forwarding.submit(1, request(client), wires.now)
    assert len(wires.due()[0][1].requests) == BATCH_FRAMES_MAX
    large = Wires()
    for client in range(1, 1000):
        large.forwarding.submit(1, request(client, body=bytes(4096)), large.now)
    sizes = [len(packed) for packed in large.due()[0][1].requests]
    assert BATCH_BYTES_MAX <= sum(sizes) < BATCH_BYTES_MAX + sizes[0]


def test_answers_travel_in_batches_that_are_confirmed() -> None:
    """By the next batch of requests, or, if there is none, by an empty one."""
    wires = Wires()
    for client in (1, 2, 3):
        wires.forwarding.submit(client * 10, registration(client), wires.now)
    for _, batch in wires.due():
        for frame in wires.ports[0].take(batch, HERE, wires.now):
            for answer in wires.services[0].handle(frame):
                wires.ports[0].answer(answer)
    wires.ports[0].flush(wires.now, view=3, primary=0)
    (sent,) = wires.sent
    assert (sent.taken, sent.number, len(sent.answers)) == (1, 1, 3)
    deliveries = wires.forwarding.take(sent, wires.now)
    assert sorted(delivery.connection for delivery in deliveries) == [10, 20, 30]
    assert (wires.forwarding.view, wires.forwarding.primary, wires.forwarding.waiting) == (3, 0, 0)
    assert wires.due() == []
    wires.now += 2.0 * CONFIRM_LAG_S
    ((_, confirmation),) = wires.due()
    assert (confirmation.taken, confirmation.requests) == (1, ())
    assert wires.due() == []


def test_a_port_has_two_batches_in_flight_until_they_are_confirmed_or_late() -> None:
    """Two at once are confirmed at once. And a new view is told without waiting, to every gateway that it knows."""
    wires = Wires()
    port = wires.ports[0]
    wires.forwarding.submit(1, registration(1), wires.now)
    (frame,) = port.take(wires.due()[0][1], HERE, wires.now)
    answer = wires.services[0].handle(frame)[0]
    for _ in range(5):
        port.answer(answer)
        port.flush(wires.now, view=0, primary=0)
    assert [message.number for message in wires.sent] == [1, 2]
    port.flush(wires.now, view=1, primary=2)
    assert [(message.number, message.view, message.answers) for message in wires.sent[2:]] == [(2, 1, ())]
    for message in wires.sent[:2]:
        wires.forwarding.take(message, wires.now)
    ((_, confirmation),) = wires.due()
    assert (confirmation.taken, confirmation.requests) == (2, ())
    port.take(confirmation, HERE, wires.now)
    port.flush(wires.now, view=1, primary=2)
    assert [len(message.answers) for message in wires.sent] == [1, 1, 0, 3]
    port.answer(answer)
    port.flush(wires.now + 1.5, view=1, primary=2)
    assert [message.number for message in wires.sent] == [1, 2, 2, 3, 4]
    assert port.counters["batches_unconfirmed"] == 1


def test_a_port_confirms_requests_with_their_answers_or_a_little_later() -> None:
    """A question whether it is there is answered at once, and a confirmation not at all."""
    wires = Wires()
    port = wires.ports[0]
    wires.forwarding.submit(1, registration(1), wires.now)
    (frame,) = port.take(wires.due()[0][1], HERE, wires.now)
    port.flush(wires.now, view=0, primary=0)
    wires.sent.clear()  # the first that it tells is who is primary
    port.take(ForwardRequests(gateway=GATEWAY, number=2, taken=0, requests=(frame.packed,)), HERE, wires.now)
    port.flush(wires.now, view=0, primary=0)
    assert wires.sent == []
    port.flush(wires.now + 0.02, view=0, primary=0)
    assert [(message.taken, message.answers) for message in wires.sent] == [(2, ())]
    port.answer(wires.services[0].handle(frame)[0])
    port.flush(wires.now, view=0, primary=0)
    port.take(ForwardRequests(gateway=GATEWAY, number=2, taken=1, requests=(), asks=False), HERE, wires.now)
    port.flush(wires.now + 0.5, view=0, primary=0)
    assert len(wires.sent) == 2
    port.take(ForwardRequests(gateway=GATEWAY, number=2, taken=1, requests=(), asks=True), HERE, wires.now)
    port.flush(wires.now, view=0, primary=0)
    assert [len(message.answers) for message in wires.sent] == [0, 1, 0]


# Bounds.


def test_more_requests_than_may_wait_are_refused_as_busy() -> None:
    """A repeated one is no more."""
    wires = Wires(requests_waiting_max=2)
    assert wires.forwarding.submit(1, request(1), wires.now).key
    assert wires.forwarding.submit(1, request(2), wires.now).key
    refused = wires.forwarding.submit(1, request(3), wires.now).refusal
    assert refused is not None
    assert unpack_frame(refused, ANSWERS, 0).reason == Reason.BUSY
    assert wires.forwarding.submit(2, request(2), wires.now).before == 1
    assert wires.forwarding.waiting == 2


def test_what_nobody_waits_for_any_more_is_not_sent() -> None:
    """Connections that come, ask and go fill no queue while no replica listens."""
    wires = Wires(requests_waiting_max=10)
    wires.forwarding.submit(1, request(1), wires.now)
    wires.due()
    for round_ in range(1000):
        frame = request(2 + round_)
        wires.forwarding.submit(2, frame, wires.now)
        wires.forwarding.closed(2, [frame.key])
    assert wires.forwarding.waiting == 1
    assert wires.forwarding.describe()[0][1] <= 20
    wires.forwarding.take(wires.reply(number=0), wires.now)
    assert wires.due() == []


def test_a_request_that_is_still_queued_is_not_queued_twice() -> None:
    """However often the client repeats it; once it was sent, a repetition is sent, too."""
    wires = Wires()
    for _ in range(5):
        wires.forwarding.submit(1, request(1), wires.now)
    assert len(wires.due()[0][1].requests) == 1
    wires.forwarding.submit(1, request(1), wires.now)
    wires.forwarding.take(wires.reply(number=0), wires.now)
    assert len(wires.due()[0][1].requests) == 1


def test_an_answer_is_delivered_once() -> None:
    """What a replica says twice, or about nothing that waits, is counted."""
    wires = Wires()
    wires.forwarding.submit(5, request(1), wires.now)
    wires.due()
    answers = wires.reply(wires.refusal(request(1), Reason.NO_SESSION), wires.refusal(request(2), Reason.NO_SESSION))
    (delivery,) = wires.forwarding.take(answers, wires.now)
    assert (delivery.connection, delivery.key) == (5, request(1).key)
    assert wires.forwarding.take(answers, wires.now) == []
    assert wires.forwarding.counters["answers_nobody_waits_for"] == 3


def test_damaged_answers_and_requests_are_counted_by_name() -> None:
    """Neither end trusts the bytes of the other."""
    wires = Wires()
    wires.forwarding.submit(5, request(1), wires.now)
    ((_, batch),) = wires.due()
    damaged = bytearray(batch.requests[0])
    damaged[50] ^= 1
    spoiled = ForwardRequests(gateway=GATEWAY, number=1, taken=0, requests=(bytes(damaged),))
    assert list(wires.ports[0].take(spoiled, HERE, wires.now)) == []
    assert wires.ports[0].counters == {"requests_invalid_FrameHeaderChecksumWrong": 1}
    answers = ForwardedReplies(
        gateway=GATEWAY, replica=0, view=0, primary=0, number=1, taken=1, answers=(bytes(damaged),)
    )
    assert wires.forwarding.take(answers, wires.now) == []
    assert wires.forwarding.counters["answers_invalid_FrameHeaderChecksumWrong"] == 1
    elsewhere = ForwardedReplies(gateway=1, replica=0, view=0, primary=0, number=1, taken=1, answers=())
    assert wires.forwarding.take(elsewhere, wires.now) == []
    assert wires.forwarding.counters["batches_misdirected"] == 1


@pytest.mark.parametrize("frames", [[], (b"short",), ("text" * 50,), (bytes(200),) * (BATCH_FRAMES_MAX + 1)])
def test_a_malformed_batch_cannot_be_made(frames: object) -> None:
    """Nor be taken: it is checked again on arrival."""
    with pytest.raises(MessageInvalid):
        ForwardRequests(gateway=1, number=1, taken=0, requests=frames)  # type: ignore[arg-type]
    with pytest.raises(MessageInvalid):
        ForwardedReplies(gateway=1, replica=0, view=0, primary=0, number=1, taken=0, answers=frames)  # type: ignore[arg-type]


def test_a_port_without_a_way_to_a_client_counts_its_answer() -> None:
    """The client asks again, where its gateway then is."""
    wires = Wires()
    wires.ports[0].answer(wires.refusal(request(1), Reason.BUSY))
    assert wires.ports[0].counters == {"answers_without_a_way": 1}


def test_a_port_refuses_and_redirects_what_the_client_asked_last() -> None:
    """The replica's protocol knows clients and numbers; the gateway wants to know which request it was."""
    wires = Wires()
    port = wires.ports[0]
    wires.forwarding.submit(5, request(1, 4), wires.now)
    port.take(wires.due()[0][1], HERE, wires.now)
    checksum = request(1, 4).request_checksum
    for number, reason, of in (
        (4, effects.Reason.REPLY_LOST, checksum),
        (3, effects.Reason.REPLY_LOST, request(1, 3).request_checksum),
        (4, effects.Reason.OTHER_REQUEST, checksum128(b"other content, of the same batch")),
        (None, effects.Reason.REPLACED, bytes(16)),
    ):
        port.refuse(effects.RefuseClient(client=1, view=2, session=1, number=number, reason=reason, checksum=of))
    for client in (1, 2):
        port.redirect(effects.RedirectClient(client=client, view=2, replica=1))
    port.flush(wires.now, view=2, primary=1)
    answers = [unpack_frame(packed, ANSWERS, 0) for packed in wires.sent[0].answers]
    reasons = [(Reason(answer.reason), answer.request_checksum) for answer in answers]
    assert reasons == [
        (Reason.REPLY_LOST, checksum), (Reason.REPLACED, bytes(16)), (Reason.NOT_PRIMARY, checksum),
    ]  # fmt: skip
    assert port.counters == {"refusals_nobody_waits_for": 2}


# Who is primary.


def test_a_redirect_is_followed_once_for_each_hint() -> None:
    """The request goes on to the named replica, and all later ones go there at once."""
    wires = Wires(3)
    wires.forwarding.submit(5, request(1), wires.now)
    assert [replica for replica, _ in wires.batches()] == [0]
    refusal = wires.refusal(request(1), Reason.NOT_PRIMARY, view=5, primary=2)
    assert wires.forwarding.take(wires.reply(refusal, view=5, primary=2), wires.now) == []
    wires.hear(2, view=5, primary=2)
    ((replica, batch),) = wires.batches()
    assert (replica, batch.requests) == (2, (request(1).packed,))
    wires.hear(2, view=5, primary=2)
    wires.forwarding.submit(5, request(2), wires.now)
    assert [replica for replica, _ in wires.batches()] == [2]


def test_a_hint_to_a_replica_without_a_way_is_passed_to_the_client() -> None:
    """Its library knows other gateways."""
    wires = Wires(2)
    wires.forwarding.submit(5, request(1), wires.now)
    wires.batches()
    refusal = wires.refusal(request(1), Reason.NOT_PRIMARY, view=5, primary=9)
    (delivery,) = wires.forwarding.take(wires.reply(refusal, view=4), wires.now)
    assert delivery.connection == 5


def test_a_request_that_met_no_primary_waits_for_the_next_view() -> None:
    """A replica between two views names nobody; whatever view it hopes for, the one that begins is followed."""
    wires = Wires(3)
    wires.forwarding.submit(5, request(1), wires.now)
    wires.batches()
    refusal = wires.refusal(request(1), Reason.NOT_PRIMARY, view=9, primary=PRIMARY_UNKNOWN)
    assert wires.forwarding.take(wires.reply(refusal, view=9), wires.now) == []
    assert (wires.forwarding.waiting, wires.forwarding.view) == (1, 0)
    wires.hear(1, view=2, primary=2)
    wires.hear(2, view=2, primary=2)
    assert [(replica, batch.requests) for replica, batch in wires.batches()] == [(2, (request(1).packed,))]


def test_a_replica_that_is_behind_does_not_lead_back() -> None:
    """It names the primary of an earlier view: the request goes to that of the latest."""
    wires = Wires(3)
    wires.forwarding.submit(5, request(1), wires.now)
    wires.batches()
    wires.now += 1.0
    wires.forwarding.expire(wires.now)  # nobody confirms: all are silent
    wires.hear(0, view=3, primary=0)
    wires.forwarding.submit(5, request(1), wires.now)
    assert [replica for replica, _ in wires.batches()] == [0]
    wires.hear(1, view=3, primary=0)
    refusal = wires.refusal(request(1), Reason.NOT_PRIMARY, view=1, primary=1)
    assert wires.forwarding.take(wires.reply(refusal, view=1, primary=1, taken=1000), wires.now) == []
    assert [replica for replica, _ in wires.batches()] == [0]


def test_every_replica_is_asked_for_its_view_while_a_request_waits() -> None:
    """A primary that confirms each batch is no reason not to: it does so, too, when it can commit nothing."""
    wires = Wires(3)
    assert wires.due() == []
    asked = dict.fromkeys(range(3), 0)
    wires.forwarding.submit(5, request(1), wires.now)
    for _ in range(50):
        for replica, message in wires.due():
            asked[replica] += message.asks
            wires.ports[replica].take(message, HERE, wires.now)
            wires.ports[replica].flush(wires.now + 0.02, view=0, primary=0)
        for told in wires.sent:
            wires.forwarding.take(told, wires.now)
        wires.sent.clear()
        wires.now += 0.1
        assert wires.forwarding.expire(wires.now) == []
    assert wires.forwarding.describe() == ((0, 0, False), (1, 0, False), (2, 0, False))
    assert all(4 <= count <= 6 for count in asked.values()), asked
    wires.forwarding.closed(5, [request(1).key])
    wires.now += 5.0
    assert wires.due() == []


def test_a_primary_that_confirms_and_cannot_commit_is_left_for_the_view_that_began_without_it() -> None:
    """The first primary is cut off from the others. They have never heard of the gateway, until it asks them."""
    wires = Wires(3)
    wires.forwarding.submit(5, request(1), wires.now)
    messages = dict(wires.due())
    assert messages[0].requests == (request(1).packed,)
    for replica, view, primary in ((0, 0, 0), (1, 1, 1), (2, 1, 1)):
        wires.ports[replica].take(messages[replica], HERE, wires.now)
        wires.ports[replica].flush(wires.now + 0.02, view=view, primary=primary)
    for told in wires.sent:
        assert wires.forwarding.take(told, wires.now) == []
    ((replica, batch),) = wires.batches()
    assert (replica, batch.requests) == (1, (request(1).packed,))
    # The first primary goes on believing that it is one, and neither that nor its refusals change anything.
    refusal = wires.refusal(request(1), Reason.NO_SESSION, view=0, primary=0)
    assert wires.forwarding.take(wires.reply(refusal, view=0, primary=0), wires.now) == []
    assert (wires.forwarding.view, wires.forwarding.primary, wires.forwarding.waiting) == (1, 1, 1)
    wires.forwarding.submit(5, request(2), wires.now)
    wires.hear(1, view=1, primary=1)
    assert [replica for replica, _ in wires.batches()] == [1]
    reply = wires.services[0].handle(registration(1))[0]
    wires.forwarding.submit(6, registration(1), wires.now)
    (delivery,) = wires.forwarding.take(wires.reply(reply, view=0, primary=0), wires.now)
    assert delivery.connection == 6, "a reply is the original, whoever sends it"


def test_what_waits_is_sent_to_the_primary_of_a_new_view_once() -> None:
    """However often that view is told; what was queued for another replica is not sent there as well."""
    wires = Wires(3)
    wires.hear(0, view=0, primary=0)
    for client in (1, 2):
        wires.forwarding.submit(5, request(client), wires.now)
        wires.batches()  # the second stays in the queue while the first is not confirmed
    for replica in (1, 2, 1):
        wires.hear(replica, view=1, primary=1)
    ((replica, batch),) = wires.batches()
    assert (replica, batch.requests) == (1, (request(1).packed, request(2).packed))
    for replica in (0, 1, 2):
        wires.hear(replica, view=1, primary=1)
    assert wires.batches() == []


def test_a_silent_replica_is_probed_less_and_less() -> None:
    """Few messages to a stopped process are in flight at a time, and what was queued for it goes elsewhere."""
    wires = Wires(2, request_timeout_s=1000.0)
    wires.forwarding.submit(5, request(1), wires.now)
    assert [replica for replica, _ in wires.batches()] == [0]
    wires.hear(1)
    wires.forwarding.submit(5, request(2), wires.now)
    wires.now += 1.0
    wires.forwarding.expire(wires.now)
    assert [replica for replica, _ in wires.batches()] == [1]
    probes = []
    for tenth in range(200):
        wires.now += 0.1
        wires.forwarding.take(wires.reply(replica=1, number=0, taken=tenth + 10), wires.now)
        wires.forwarding.expire(wires.now)
        probes += [tenth / 10 for replica, _ in wires.due() if replica == 0]
    assert 4 <= len(probes) <= 7
    assert max(late - early for early, late in itertools.pairwise(probes)) > 4.0
    wires.forwarding.take(wires.reply(replica=0, number=0, taken=1), wires.now)
    assert wires.forwarding.describe() == ((0, 0, False), (1, 0, False))


def test_requests_expire_in_the_order_of_their_last_repetition() -> None:
    """One that is repeated waits anew."""
    wires = Wires(request_timeout_s=10.0)
    for client in (1, 2):
        wires.forwarding.submit(client, request(client), wires.now)
    wires.forwarding.submit(1, request(1), wires.now + 5.0)
    assert wires.forwarding.expire(wires.now + 9.9) == []
    assert wires.forwarding.expire(wires.now + 10.0) == [(2, request(2).key)]
    assert wires.forwarding.expire(wires.now + 15.0) == [(1, request(1).key)]
    assert wires.forwarding.waiting == 0
