"""The ledger as the state machine that the replicas replicate: executed by operation, encoded for snapshots.

Guarantees: the same state encodes to the same bytes, and `restore` takes on exactly what `snapshot` gave. An operation
that there is not is malformed input like any other, and the answer says so.
"""

from __future__ import annotations

import json
from collections import deque

from client_replies.cluster.state_machine import Command, StateMachine

from .ledger import (
    EQUITY,
    LINE_SIZE,
    OPERATION_BALANCE,
    OPERATION_TRANSFER,
    STATEMENT_LINES_MAX,
    Ledger,
    Result,
    _Account,
)


class LedgerMachine(StateMachine):
    """See the module."""

    def __init__(self) -> None:
        self.ledger = Ledger()

    def execute(self, command: Command) -> bytes:
        """Execute an operation; give the result's bytes."""
        return self.result(command).encode()

    def result(self, command: Command) -> Result:
        """Execute an operation."""
        if command.operation == OPERATION_BALANCE:
            return self.ledger.balance(command.body.decode(errors="replace"))
        return self.ledger.execute(command.body if command.operation == OPERATION_TRANSFER else b"")

    def snapshot(self) -> bytes:
        """Give the whole ledger as bytes."""
        accounts = {
            name: [account.balance, account.movements, account.encoded_statement.hex()]
            for name, account in self.ledger._accounts.items()
        }
        return json.dumps([self.ledger.sequence, accounts], sort_keys=True, separators=(",", ":")).encode()

    def restore(self, data: bytes) -> None:
        """Take on an encoded ledger; empty bytes are the beginning."""
        self.ledger = Ledger()
        if not data:
            return
        self.ledger.sequence, accounts = json.loads(data)
        self.ledger._accounts = {
            name: _Account(balance, movements, _lines(bytes.fromhex(statement)))
            for name, (balance, movements, statement) in accounts.items()
        }
        self.ledger._accounts.setdefault(EQUITY, _Account())


def _lines(statement: bytes) -> deque[bytes]:
    lines = (statement[at : at + LINE_SIZE] for at in range(0, len(statement), LINE_SIZE))
    return deque(lines, STATEMENT_LINES_MAX)
