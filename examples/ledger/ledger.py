"""The state machine that is replicated: a double-entry ledger whose answers show a second execution at once.

Guarantees: deterministic, all its state is here, and every input gets an answer: bytes that are no transfer, unknown
accounts and overdrafts are results like any other. Every executed transfer, refused or not, gets the next number of one
sequence, and its result carries that number, both balances and a statement of the paying account: executing anything
twice changes this answer and all later ones. The balances of all accounts sum to zero at any time.

What people type goes through `account_name` before it is sent. The state machine itself takes any UTF-8 of the right
size as a name: what counts as printable changes with Python's version, and replicas must never differ.

Limits: no currencies, no fees, no closing of accounts. Only `EQUITY` may go below zero; a transfer from it opens its
target.
"""

from __future__ import annotations

import enum
import struct
import unicodedata
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from client_replies.messages.invalid import Invalid
from client_replies.messages.reply_header import checksum128

from .typed import TEXT_SHOWN_MAX, quoted

# The operations of requests.
OPERATION_TRANSFER = 2
OPERATION_BALANCE = 4
EQUITY = "equity"
NAME_SIZE_MAX = 24  # bytes of UTF-8
AMOUNT_MAX = 10**12
BALANCE_MAX = 10**18
STATEMENT_LINES_MAX = 240  # with the header about three sectors

_TRANSFER = struct.Struct("<IQBB")
_RESULT = struct.Struct("<QIB3xqqI4x")
_LINE = struct.Struct("<Qqq24s")
LINE_SIZE = _LINE.size  # bytes


class TransferMalformed(ValueError):
    """Bytes that are no transfer."""


class ResultMalformed(ValueError):
    """Bytes that are no result."""


class NameInvalid(Invalid):
    """A text that is no account's name."""

    def __str__(self) -> str:
        return f"found {self.found}, expected {self.expected}"


def account_name(text: str) -> str:
    """The name of an account that somebody typed: the one place that decides. Raises `NameInvalid`.

    Two names that look alike are one name or refused: hence no blanks around it, nothing invisible, and NFC.
    """
    expected = "an account's name, such as ada or 'ada lovelace'"
    try:
        # Arguments that the locale could not decode, although they are UTF-8.
        name = text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise NameInvalid(quoted(text), f"{expected}, in UTF-8") from None
    if not name or name != name.strip():
        raise NameInvalid(quoted(name), f"{expected}, without blanks before or after it")
    if not name.isprintable():
        raise NameInvalid(quoted(name), f"{expected}, of printable characters")
    if not unicodedata.is_normalized("NFC", name):
        composed = unicodedata.normalize("NFC", name)
        raise NameInvalid(
            ascii(name)[:TEXT_SHOWN_MAX], f"{expected}, in Unicode NFC: {ascii(composed)[:TEXT_SHOWN_MAX]}"
        )
    size = len(name.encode())
    if size > NAME_SIZE_MAX:
        raise NameInvalid(f"{quoted(name)} of {size} bytes", f"a name of at most {NAME_SIZE_MAX} bytes, such as ada")
    return name


class Outcome(enum.IntEnum):
    """What became of a transfer."""

    DONE = 0
    UNKNOWN_ACCOUNT = 1
    OVERDRAFT = 2
    SAME_ACCOUNT = 3
    AMOUNT_INVALID = 4
    BALANCE_LIMIT = 5
    MALFORMED = 6


@dataclass(frozen=True, slots=True)
class Transfer:
    """One row of the input: `amount` goes from `source` to `target`. `row` names it in every record of the run."""

    row: int
    source: str
    target: str
    amount: int

    def encode(self) -> bytes:
        """The body of a request."""
        source, target = self.source.encode(), self.target.encode()
        return _TRANSFER.pack(self.row, self.amount, len(source), len(target)) + source + target

    @classmethod
    def decode(cls, data: bytes) -> Transfer:
        """The transfer in a request's body. Raises `TransferMalformed`."""
        if len(data) < _TRANSFER.size:
            raise TransferMalformed(f"{len(data)} bytes, expected at least {_TRANSFER.size}")
        row, amount, source_size, target_size = _TRANSFER.unpack_from(data)
        names = data[_TRANSFER.size :]
        if len(names) != source_size + target_size or not 0 < source_size <= NAME_SIZE_MAX >= target_size > 0:
            raise TransferMalformed(f"names of {source_size} and {target_size} bytes in {len(names)}")
        try:
            return cls(row, names[:source_size].decode(), names[source_size:].decode(), amount)
        except UnicodeDecodeError as error:
            raise TransferMalformed("a name that is not UTF-8") from error


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One movement on an account: the transfer's number, the change, the balance after it, and the other account."""

    sequence: int
    change: int
    balance: int
    other: str

    def encode(self) -> bytes:
        """The line as it is in a statement, which is its lines side by side."""
        return _LINE.pack(self.sequence, self.change, self.balance, self.other.encode())


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to a transfer: its number, what became of it, the balances after it, the payer's encoded statement."""

    sequence: int
    row: int
    outcome: Outcome
    source_balance: int = 0
    target_balance: int = 0
    statement: bytes = field(default=b"", repr=False)

    def encode(self) -> bytes:
        """The body of a reply."""
        count = len(self.statement) // LINE_SIZE
        prefix = _RESULT.pack(self.sequence, self.row, self.outcome, self.source_balance, self.target_balance, count)
        return prefix + self.statement

    @classmethod
    def decode(cls, data: bytes) -> Result:
        """The result in a reply's body. Raises `ResultMalformed`."""
        if len(data) < _RESULT.size:
            raise ResultMalformed(f"{len(data)} bytes, expected at least {_RESULT.size}")
        sequence, row, outcome, source, target, count = _RESULT.unpack_from(data)
        statement = data[_RESULT.size :]
        if len(statement) != count * LINE_SIZE:
            raise ResultMalformed(f"a statement of {len(statement)} bytes, expected {count} lines")
        return cls(sequence, row, Outcome(outcome), source, target, statement)

    def lines(self) -> tuple[StatementLine, ...]:
        """The statement's lines, the oldest first."""
        return tuple(
            StatementLine(sequence, change, balance, other.rstrip(b"\0").decode())
            for sequence, change, balance, other in _LINE.iter_unpack(self.statement)
        )


@dataclass(slots=True)
class _Account:
    balance: int = 0
    movements: int = 0
    # Encoded once: every reply of the account repeats them.
    statement: deque[bytes] = field(default_factory=lambda: deque(maxlen=STATEMENT_LINES_MAX))

    @property
    def encoded_statement(self) -> bytes:
        """The latest lines side by side, the oldest first."""
        return b"".join(self.statement)


class Ledger:
    """The accounts. See the module."""

    def __init__(self) -> None:
        self.sequence = 0
        self._accounts = {EQUITY: _Account()}

    def execute(self, body: bytes) -> Result:
        """Execute what a request asks for."""
        try:
            transfer = Transfer.decode(body)
        except TransferMalformed:
            self.sequence += 1
            return Result(self.sequence, 0, Outcome.MALFORMED)
        return self.transfer(transfer)

    def balance(self, name: str) -> Result:
        """Look at an account: nothing changes, and the sequence does not go on."""
        account = self._accounts.get(name)
        if account is None:
            return Result(self.sequence, 0, Outcome.UNKNOWN_ACCOUNT)
        return Result(self.sequence, 0, Outcome.DONE, account.balance, 0, account.encoded_statement)

    def transfer(self, transfer: Transfer) -> Result:
        """Execute one transfer, or refuse it."""
        self.sequence += 1
        outcome = self._judge(transfer)
        if outcome is Outcome.DONE:
            if transfer.source == EQUITY:
                self._accounts.setdefault(transfer.target, _Account())
            self._move(transfer.source, -transfer.amount, transfer.target)
            self._move(transfer.target, transfer.amount, transfer.source)
        source, target = self._accounts.get(transfer.source), self._accounts.get(transfer.target)
        return Result(
            self.sequence,
            transfer.row,
            outcome,
            source.balance if source is not None else 0,
            target.balance if target is not None else 0,
            source.encoded_statement if source is not None else b"",
        )

    def _judge(self, transfer: Transfer) -> Outcome:
        source, target = self._accounts.get(transfer.source), self._accounts.get(transfer.target)
        if not 0 < transfer.amount <= AMOUNT_MAX:
            return Outcome.AMOUNT_INVALID
        if transfer.source == transfer.target:
            return Outcome.SAME_ACCOUNT
        if source is None or (target is None and transfer.source != EQUITY):
            return Outcome.UNKNOWN_ACCOUNT
        if transfer.source != EQUITY and source.balance < transfer.amount:
            return Outcome.OVERDRAFT
        target_balance = target.balance if target is not None else 0
        if source.balance - transfer.amount < -BALANCE_MAX or target_balance + transfer.amount > BALANCE_MAX:
            return Outcome.BALANCE_LIMIT
        return Outcome.DONE

    def _move(self, name: str, change: int, other: str) -> None:
        account = self._accounts[name]
        account.balance += change
        account.movements += 1
        account.statement.append(StatementLine(self.sequence, change, account.balance, other).encode())

    def balances(self) -> dict[str, int]:
        """Every account's balance, by name in order."""
        return {name: self._accounts[name].balance for name in sorted(self._accounts)}

    def digest(self) -> bytes:
        """Sixteen bytes that two ledgers share if they are in the same state."""
        return checksum128("\n".join(self._digest_lines()).encode())

    def _digest_lines(self) -> Iterator[str]:
        yield str(self.sequence)
        for name, account in sorted(self._accounts.items()):
            yield f"{name}\t{account.balance}\t{account.movements}\t{account.encoded_statement.hex()}"
