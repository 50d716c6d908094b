"""The replica of a service that brings nothing but a `StateMachine`, which it is told by name.

Guarantees: a machine that raises, or that cannot be loaded, stops its replica with the reason. Limits: a command that
makes the machine raise does so on every replica, and again after a restart; mend the machine.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from client_replies.actors.thespian.component_actor import Handler
from client_replies.cluster.control import Sender, StartReplica
from client_replies.cluster.state_machine import Command, StateMachine

from .lifecycle import ReplicaStops
from .replica import ReplicaActor


@dataclass(frozen=True, slots=True, kw_only=True)
class StartMachine(StartReplica):
    """Become a replica of the machine `machine`, as "module:Class"."""

    machine: str


def name_of(machine: type[StateMachine]) -> str:
    """How a replica is told of a machine."""
    return f"{machine.__module__}:{machine.__qualname__}"


def load_machine(name: str) -> type[StateMachine]:
    """The class that a name stands for. Raises `ValueError`."""
    module, _, path = name.partition(":")
    try:
        found: object = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"found no {name!r} ({error}), expected module:Class, such as counter:Counter") from error
    if isinstance(found, type) and issubclass(found, StateMachine):
        return found
    raise ValueError(f"found {name!r}, which is no StateMachine, expected a class derived from it")


class MachineReplica(ReplicaActor):
    """See the module."""

    senders: ClassVar[Mapping[type, Enum]] = {**ReplicaActor.senders, StartMachine: Sender.SCRIPT}

    def handlers(self) -> dict[type, Handler]:
        return {**super().handlers(), StartMachine: self.start}

    def make_state_machine(self, message: StartReplica) -> StateMachine:
        """The machine, made anew."""
        name = message.machine if isinstance(message, StartMachine) else ""
        try:
            return _Guarded(load_machine(name)())
        except Exception as error:
            raise ReplicaStops(f"the state machine {name} cannot be made: {error}") from error


class _Guarded(StateMachine):
    """A machine whose exceptions stop the replica: what it has half done cannot be undone."""

    def __init__(self, machine: StateMachine) -> None:
        self._machine = machine

    def execute(self, command: Command) -> bytes:
        try:
            reply = self._machine.execute(command)
        except Exception as error:
            raise ReplicaStops(f"the state machine raised {error!r} on {command}") from error
        if not isinstance(reply, bytes):
            raise ReplicaStops(f"the state machine answered {type(reply).__name__} to {command}, expected bytes")
        return reply

    def snapshot(self) -> bytes:
        try:
            return self._machine.snapshot()
        except Exception as error:
            raise ReplicaStops(f"the state machine raised {error!r} in its snapshot") from error

    def restore(self, data: bytes) -> None:
        try:
            self._machine.restore(data)
        except Exception as error:
            raise ReplicaStops(f"the state machine raised {error!r} on a snapshot of {len(data)} bytes") from error
