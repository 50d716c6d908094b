"""The shipped gateway on a simulated network.

Guarantees: the gateway is the shipped class, with its front door and its forwarding; sockets and the process's number
come from here. Owns: nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from client_replies.cluster.door.connection import Sockets
from client_replies.cluster.door.forwarding import Forwarding
from client_replies.cluster.door.front_door import FrontDoor
from client_replies.cluster.door.gateway import GatewayActor, StartGateway

from ..chance import Chance
from ..environment import SimEnvironment
from .streams import Door

if TYPE_CHECKING:
    from .world import ClusterWorld


class GatewayEnvironment(SimEnvironment):
    """A gateway's world. It has no disk of its own, and asks for none."""

    def __init__(self, world: ClusterWorld, index: int) -> None:
        # Each process draws numbers of its own: a gateway that starts again is another gateway to the replicas.
        chance = Chance(world.plan.seed, f"gateway {index} at {world.system.now}")
        super().__init__(world.system, world.disks[0], chance, timer=True)
        self.world = world
        self.index = index


class ClusterGatewayActor(GatewayActor):
    """See the module."""

    def __init__(self, capabilities: Any = None, requirements: Any = None) -> None:
        self._place: GatewayEnvironment = requirements
        super().__init__(capabilities, requirements)

    def pid(self) -> int:
        return self._place._process().number

    def make_sockets(self, message: StartGateway) -> Sockets:
        place = self._place
        return Door(
            place.world.streams,
            place._process(),
            place.index,
            place._next_fileno(),
            message.door.connections_max,
        )

    # For the checkers.

    @property
    def door(self) -> FrontDoor | None:
        """Its connections."""
        return self._door

    @property
    def forwarding(self) -> Forwarding | None:
        """Its way to the replicas."""
        return self._forwarding
