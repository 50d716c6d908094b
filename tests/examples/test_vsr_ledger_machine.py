"""The ledger as a replicated state machine: what a snapshot holds is all of it."""

from __future__ import annotations

from client_replies.cluster.state_machine import Command

from examples.ledger.ledger import EQUITY, OPERATION_TRANSFER, Result, Transfer
from examples.ledger.ledger_machine import LedgerMachine


def transfer(body: bytes, timestamp: int) -> Command:
    """A command that moves money."""
    return Command(OPERATION_TRANSFER, body, timestamp, 1)


def filled() -> LedgerMachine:
    """A ledger with some movements."""
    machine = LedgerMachine()
    for row in range(1, 300):
        name = f"account-{row % 7}"
        machine.execute(transfer(Transfer(row, EQUITY, name, row).encode(), row))
        machine.execute(transfer(Transfer(row, name, f"account-{(row + 1) % 7}", row // 2 + 1).encode(), row))
    return machine


def test_a_restored_ledger_answers_like_the_one_that_was_encoded() -> None:
    """The next result depends on everything before it; it is the same, byte for byte."""
    machine = filled()
    copy = LedgerMachine()
    copy.restore(machine.snapshot())
    assert copy.ledger.digest() == machine.ledger.digest()
    assert copy.snapshot() == machine.snapshot()
    body = Transfer(9, "account-1", "account-2", 3).encode()
    assert copy.execute(transfer(body, 9)) == machine.execute(transfer(body, 9))


def test_restoring_nothing_is_the_beginning() -> None:
    """Empty bytes: a ledger in which nothing has happened."""
    machine = filled()
    machine.restore(b"")
    assert machine.snapshot() == LedgerMachine().snapshot()


def test_an_operation_that_there_is_not_gets_an_answer() -> None:
    """Malformed input is a result like any other."""
    assert Result.decode(LedgerMachine().execute(Command(77, b"whatever", 1, 1))).sequence == 1
