"""A replica's way to the gateways, in a drill: replies and requests are lost on it, and requests doubled.

Guarantees: what happens to the n-th request, and to the n-th reply, depends on the seed, the replica and n alone. What
passes travels as in `GatewayPort`. A request that is doubled comes again with the next batch, when its client may have
the reply and have gone on. Beside that the port does what the replica was told to (`Hurts`).

Limits: nothing is delayed. Of the answers only replies are lost; a refusal is withheld from a blocked client.

Owns: the links.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from thespian.actors import ActorAddress

from client_replies.cluster.control import StartReplica
from client_replies.cluster.door.forwarding_messages import ForwardedReplies, ForwardRequests
from client_replies.cluster.door.frames import Frame
from client_replies.cluster.door.gateway_port import GatewayPort
from client_replies.cluster.vsr.effects import AnswerClient, RefuseClient

from .faulty_network import NO_FAULTS, REPLY, REQUEST, Faults, FaultyLink
from .hurt import Hurts

GATEWAY = "gateway"  # the far end of the links, whichever gateway it is


class FaultyGatewayPort(GatewayPort):
    """See the module."""

    def __init__(
        self,
        start: StartReplica,
        faults: Mapping[str, Faults],
        send: Callable[[ActorAddress, ForwardedReplies], None],
        hurts: Hurts,
    ) -> None:
        super().__init__(start.config.replica, start.config.cluster, send)
        self._hurts = hurts
        self._requests = FaultyLink(start.seed, GATEWAY, start.name, REQUEST, faults.get(REQUEST, NO_FAULTS))
        self._replies = FaultyLink(start.seed, start.name, GATEWAY, REPLY, faults.get(REPLY, NO_FAULTS))
        self._copies: list[Frame] = []  # of requests, which come with the next batch

    def take(self, message: ForwardRequests, sender: ActorAddress, now: float) -> Sequence[Frame]:
        frames = super().take(message, sender, now)
        if not frames:
            return ()
        arrived, self._copies = self._copies, []
        self.counters["requests_doubled"] += len(arrived)
        for frame in frames:
            times = len(self._requests.decide())
            self.counters["requests_lost"] += times == 0
            arrived += [frame] * (times > 0)
            self._copies += [frame] * (times > 1)
        return arrived

    def reply(self, effect: AnswerClient) -> None:
        is_routed = effect.client in self._routes
        said = self._hurts.answer(effect, routed=is_routed)
        if not is_routed:
            return
        if not self._replies.decide():
            said = None
        if said is None:
            self.counters["replies_lost"] += 1
        else:
            super().reply(replace(effect, reply=said))
        self._hurts.answered(effect, sent=said is not None)

    def refuse(self, effect: RefuseClient) -> None:
        if self._hurts.may_refuse(effect.client):
            super().refuse(effect)
