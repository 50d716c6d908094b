"""A replicated service around the component: bring a state machine, and it is executed once on every replica.

Read in this order: `state_machine` (what a service brings), `protocol` (what a client asks), `durable_files` (how small
files are replaced), `control` (what the keeper of the processes tells them), `window` (how links count what is in
flight), `vsr` (how requests are ordered and executed once), `log` (where that is durable), `door` (where clients
connect), `replica` (the actor that puts all this and the component together), `client` (the library that clients use),
`host` (what keeps the processes up).

Each folder imports from those before it, and none imports a concrete service: that is a subclass of `ReplicaActor`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import Answer, AsyncClusterClient, AsyncSession, ClusterClient, ClusterError, RetryPolicy, Session
    from .control import StartReplica
    from .host.failure import MembersFailed
    from .host.gateway_keeper import GatewayKeeper
    from .host.members import Members
    from .host.service import Service, ServiceConfig, running_service, serve
    from .replica.observer import Observer
    from .replica.replica import ReplicaActor
    from .state_machine import Command, StateMachine

__all__ = [
    "Answer",
    "AsyncClusterClient",
    "AsyncSession",
    "ClusterClient",
    "ClusterError",
    "Command",
    "GatewayKeeper",
    "Members",
    "MembersFailed",
    "Observer",
    "ReplicaActor",
    "RetryPolicy",
    "Service",
    "ServiceConfig",
    "Session",
    "StartReplica",
    "StateMachine",
    "running_service",
    "serve",
]

_HOMES = {
    "Command": "state_machine",
    "GatewayKeeper": "host.gateway_keeper",
    "Members": "host.members",
    "MembersFailed": "host.failure",
    "Observer": "replica.observer",
    "ReplicaActor": "replica.replica",
    "Service": "host.service",
    "ServiceConfig": "host.service",
    "StartReplica": "control",
    "running_service": "host.service",
    "serve": "host.service",
    "StateMachine": "state_machine",
}


def __getattr__(name: str) -> Any:
    # What is asked for is imported, and nothing else: a client needs no actors.
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'client')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
