"""What a replica executes, written down as it happens; and the faults that can be planted there.

Guarantees: each execution of the ledger makes a line, with the reply that came of it. A replica that starts again goes
back to its last checkpoint and executes from there once more; a line says so (`restored`), and `evidence` then holds
the second executions against the first.

Limits: no durability, but order: lines are flushed before anything that rests on them leaves the replica.
"""

from __future__ import annotations

from pathlib import Path

from client_replies.cluster.state_machine import Command
from client_replies.cluster.vsr.execution import Applied, Skipped
from client_replies.cluster.vsr.messages import LogEntry
from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import checksum128

from .evidence import EvidenceWriter, Executed, Restored
from .ledger import Outcome, Result
from .ledger_machine import LedgerMachine
from .plant import Plant

# The planted second execution happens to the first transfer that gets this number of the ledger, or a later one.
PLANTED_SEQUENCE = 12


class JournaledMachine(LedgerMachine):
    """The ledger, which remembers what it executed until that is written down."""

    def __init__(self, plant: Plant | None = None) -> None:
        super().__init__()
        self.executed: list[Result] = []
        self._plant = plant

    def execute(self, command: Command) -> bytes:
        result = self.result(command)
        self.executed.append(result)
        if self._plant is Plant.EXECUTE_TWICE and result.sequence >= PLANTED_SEQUENCE:
            self._plant = None
            result = self.result(command)
            self.executed.append(result)
        return result.encode()


class Journal:
    """The journal of one replica, and the machine that it is about."""

    def __init__(self, path: Path, plant: Plant | None = None) -> None:
        self.machine = JournaledMachine(plant)
        self._writer = EvidenceWriter(path)
        self._op: int | None = None

    def observe(self, entry: LogEntry, applied: Applied | Skipped) -> None:
        """An entry was applied; see `vsr.core.Observer`."""
        executed, self.machine.executed = self.machine.executed, []
        if entry.op - 1 != self._op:
            self._writer.write(Restored(entry.op - 1))
        self._op = entry.op
        if isinstance(applied, Skipped):
            return
        for result in executed[:-1]:
            self._writer.write(_execution(entry, result, bytes(16)))
        last = executed[-1] if executed else Result(self.machine.ledger.sequence, 0, Outcome.DONE)
        self._writer.write(_execution(entry, last, checksum128(applied.reply)))

    def installed(self, op: int) -> None:
        """The state was replaced by that of another replica."""
        if op != self._op:
            self._op = op
            self._writer.write(Restored(op))

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._writer.flush()

    def close(self) -> None:
        """Write the rest and close."""
        self._writer.close()


def _execution(entry: LogEntry, result: Result, checksum: bytes) -> Executed:
    request = entry.request
    return Executed(
        op=entry.op,
        client=request.client,
        session=entry.session,
        request=request.number,
        operation=request.operation,
        row=result.row,
        sequence=result.sequence,
        outcome=int(result.outcome),
        reply=checksum,
    )


def wrong_reply(reply: bytes) -> bytes:
    """The planted wrong reply: whole and well sealed, so that only a comparison of bytes finds it."""
    right = Reply.unpack(reply)
    body = bytearray(right.body)
    if body:
        body[0] ^= 1
    header = right.header
    return Reply.build(
        cluster=header.cluster,
        client=header.client,
        session=header.session,
        request=header.request,
        op=header.op,
        operation=header.operation,
        timestamp=header.timestamp if body else header.timestamp + 1,
        body=bytes(body),
        view=header.view,
        replica=header.replica,
        release=header.release,
        request_checksum=header.request_checksum,
        context=header.context,
    ).pack()
