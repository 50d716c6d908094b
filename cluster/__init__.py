"""A replicated service around the component: bring a state machine, and it is executed once on every replica.

Read in this order: `protocol` (what a client asks), `durable_files` (how small files are replaced),
`control` (what the keeper of the processes tells them), `window` (how links count what is in flight), `vsr` (how
requests are ordered and executed once), `log` (where that is durable), `door` (where clients connect), `replica` (the
actor that puts all this and the component together), `host` (what keeps the processes up), `client` (the library that
clients use).

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
    from .replica.observer import Observer
    from .replica.replica import ReplicaActor
    from .vsr.execution import StateMachine

__all__ = [
    "Answer",
    "AsyncClusterClient",
    "AsyncSession",
    "ClusterClient",
    "ClusterError",
    "GatewayKeeper",
    "Members",
    "MembersFailed",
    "Observer",
    "ReplicaActor",
    "RetryPolicy",
    "Session",
    "StartReplica",
    "StateMachine",
]

_HOMES = {
    "GatewayKeeper": "host.gateway_keeper",
    "Members": "host.members",
    "MembersFailed": "host.failure",
    "Observer": "replica.observer",
    "ReplicaActor": "replica.replica",
    "StartReplica": "control",
    "StateMachine": "vsr.execution",
}


def __getattr__(name: str) -> Any:
    # What is asked for is imported, and nothing else: a client needs no actors.
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'client')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
