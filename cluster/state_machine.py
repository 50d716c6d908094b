"""What a service replicates: bring one of these, and it is executed once on every replica.

class Counter(StateMachine):
    total = 0

    def execute(self, command):
        self.total += int(command.body or b"0")
        return str(self.total).encode()

    def snapshot(self):
        return str(self.total).encode()

    def restore(self, data):
        self.total = int(data or b"0")
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Command:
    """A committed request, the same on every replica.

    `operation` is the client's choice; 1 and 3 are the protocol's own. `timestamp` is the primary's clock when it took
    the request, in nanoseconds since the epoch; it grows from one command to the next.
    """

    operation: int
    body: bytes = field(repr=False)
    timestamp: int
    client: int


class StateMachine(ABC):
    """Deterministic: the same commands give the same state and the same bytes, on every replica and each time.

    So it uses no clock but `Command.timestamp`, no chance, no I/O, no order of a set or of hashes. It raises nothing:
    a command that makes no sense has an answer that says so. An exception ends each replica that executes the command.
    """

    @abstractmethod
    def execute(self, command: Command) -> bytes:
        """Change the state, and return the reply's body; whatever the bytes are, there is an answer."""

    @abstractmethod
    def snapshot(self) -> bytes:
        """The whole state as bytes, the same for the same state."""

    @abstractmethod
    def restore(self, data: bytes) -> None:
        """Take on the state of a snapshot; empty bytes are the beginning."""
