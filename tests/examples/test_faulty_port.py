"""The drill's way between a replica and the gateways: replies and requests are lost on it, and requests doubled."""

from __future__ import annotations

from pathlib import Path

import pytest
from thespian.actors import ActorAddress

from client_replies.cluster.door.forwarding_messages import ForwardedReplies, ForwardRequests
from client_replies.cluster.door.frames import TO_CLIENT, Frame, request_frame, unpack_frame
from client_replies.cluster.vsr.effects import AnswerClient, Reason, RefuseClient
from client_replies.messages.reply import Reply

from examples.ledger.config import replies_config
from examples.ledger.faulty_network import REPLY, REQUEST, Faults, FaultyNetwork
from examples.ledger.faulty_port import FaultyGatewayPort
from examples.ledger.hurt import Hurts, ReplicaFaults
from examples.ledger.ledger_replica import StartLedgerReplica

CLUSTER = 1
HERE = ActorAddress("gateway")


class Noted(Hurts):
    """Notes what it is asked and told."""

    def __init__(self) -> None:
        super().__init__(
            FaultyNetwork("replica-0", 0, {}, lambda peer, envelope: None), ReplicaFaults(), lambda _: None
        )
        self.asked: list[tuple[int, bool]] = []
        self.left: list[tuple[int, bool]] = []

    def answer(self, effect: AnswerClient, *, routed: bool) -> bytes | None:
        """See `Hurts`."""
        self.asked.append((effect.client, routed))
        return super().answer(effect, routed=routed)

    def answered(self, effect: AnswerClient, *, sent: bool) -> None:
        """See `Hurts`."""
        self.left.append((effect.client, sent))


def asked_by(client: int) -> Frame:
    """The request of a client."""
    return request_frame(cluster=CLUSTER, client=client, session=1, request=1, operation=2, body=b"x")


class Bench:
    """A replica's port, and what a gateway gets from it."""

    def __init__(self, **faults: Faults) -> None:
        config = replies_config(Path("replies"), CLUSTER, 0)
        start = StartLedgerReplica(name="replica-0", replicas=3, config=config, directory="", fresh=True, seed=7)
        self.hurts = Noted()
        self.sent: list[ForwardedReplies] = []
        self.port = FaultyGatewayPort(start, faults, lambda _address, message: self.sent.append(message), self.hurts)
        self._batches = 0

    def take(self, *clients: int) -> list[int]:
        """A batch of requests comes: whose reach the replica."""
        self._batches += 1
        frames = [asked_by(client) for client in clients]
        message = ForwardRequests(
            gateway=5, number=self._batches, taken=self._batches, requests=tuple(frame.packed for frame in frames)
        )
        return [frame.client for frame in self.port.take(message, HERE, float(self._batches))]

    def reply(self, client: int) -> None:
        """The replica answers."""
        reply = Reply.build(
            cluster=CLUSTER, client=client, session=1, request=1, op=client, operation=2, timestamp=1, body=b"body"
        )
        self.port.reply(AnswerClient(client, 0, reply.pack()))

    def delivered(self) -> list[int]:
        """Whose answers leave now."""
        self.port.flush(float(self._batches), view=0, primary=0)
        packed = [packed for message in self.sent for packed in message.answers]
        self.sent.clear()
        return [unpack_frame(one, TO_CLIENT, 4096).client for one in packed]


def test_as_many_replies_are_lost_as_was_asked_for_and_the_same_ones_in_each_run() -> None:
    """What plans the damage hears of each whether it left, but not of those whose client is nowhere."""
    runs = []
    for _ in range(2):
        bench = Bench(**{REPLY: Faults(drop=0.1)})
        clients = range(1, 501)
        bench.take(*clients)
        for client in clients:
            bench.reply(client)
        runs.append(bench.delivered())
        lost = bench.port.counters["replies_lost"]
        assert lost == 500 - len(runs[-1])
        assert bench.hurts.left == [(client, client in runs[-1]) for client in clients]
        bench.reply(777)
        assert bench.hurts.asked[-1] == (777, False)
        assert (bench.port.counters["replies_lost"], len(bench.hurts.left)) == (lost, 500)
    assert runs[0] == runs[1]
    assert 500 - len(runs[0]) == pytest.approx(50, abs=20)


def test_a_doubled_request_comes_again_with_the_next_batch() -> None:
    """Once; when another may have been asked since."""
    bench = Bench(**{REQUEST: Faults(duplicate=1.0)})
    assert bench.take(1, 2) == [1, 2]
    assert bench.take() == []
    assert bench.take(3) == [1, 2, 3]
    assert bench.port.counters["requests_doubled"] == 2


def test_a_lost_request_does_not_reach_the_replica() -> None:
    """Its client asks again."""
    bench = Bench(**{REQUEST: Faults(drop=1.0)})
    assert bench.take(1, 2) == []
    assert bench.port.counters["requests_lost"] == 2


def test_a_blocked_client_gets_neither_replies_nor_refusals() -> None:
    """And of the replies that a replica was told to lose, as many as it was told."""
    bench = Bench()
    bench.take(1, 2, 3)
    bench.hurts.obey(ReplicaFaults(version=1, drop_version=1, drop_answers=1, block=(1,)))
    for client in (1, 2, 3):
        bench.reply(client)
    for client in (1, 2):
        bench.port.refuse(RefuseClient(client, 0, 1, 1, Reason.NO_SESSION, asked_by(client).request_checksum))
    assert bench.delivered() == [3, 2]
    assert bench.port.counters["replies_lost"] == 2
    assert bench.hurts.drop_answers_told() == 0
