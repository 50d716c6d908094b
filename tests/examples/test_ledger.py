"""The ledger: every kind of result, double entry, and answers that show a second execution."""

from __future__ import annotations

import random

import pytest

from examples.ledger.ledger import (
    AMOUNT_MAX,
    BALANCE_MAX,
    EQUITY,
    NAME_SIZE_MAX,
    STATEMENT_LINES_MAX,
    Ledger,
    NameInvalid,
    Outcome,
    Result,
    Transfer,
    TransferMalformed,
    account_name,
)


def opened() -> Ledger:
    """A ledger in which ada has 100 and ben nothing but an account."""
    ledger = Ledger()
    ledger.transfer(Transfer(1, EQUITY, "ada", 100))
    ledger.transfer(Transfer(2, EQUITY, "ben", 1))
    return ledger


def test_a_transfer_moves_money_and_says_so() -> None:
    """Both balances, the number in the sequence, and the payer's statement."""
    ledger = opened()
    result = ledger.transfer(Transfer(3, "ada", "ben", 30))
    assert (result.sequence, result.row, result.outcome) == (3, 3, Outcome.DONE)
    assert (result.source_balance, result.target_balance) == (70, 31)
    assert [(line.sequence, line.change, line.balance, line.other) for line in result.lines()] == [
        (1, 100, 100, EQUITY),
        (3, -30, 70, "ben"),
    ]
    assert ledger.balances() == {"ada": 70, "ben": 31, EQUITY: -101}


@pytest.mark.parametrize(
    ("transfer", "outcome"),
    [
        (Transfer(3, "ada", "ben", 101), Outcome.OVERDRAFT),
        (Transfer(3, "nobody", "ben", 1), Outcome.UNKNOWN_ACCOUNT),
        (Transfer(3, "ada", "nobody", 1), Outcome.UNKNOWN_ACCOUNT),
        (Transfer(3, "ada", "ada", 1), Outcome.SAME_ACCOUNT),
        (Transfer(3, "ada", "ben", 0), Outcome.AMOUNT_INVALID),
        (Transfer(3, "ada", "ben", AMOUNT_MAX + 1), Outcome.AMOUNT_INVALID),
        (Transfer(3, EQUITY, "cleo", 5), Outcome.DONE),
        (Transfer(3, "ada", EQUITY, 5), Outcome.DONE),
        (Transfer(3, "ada", "ben", 100), Outcome.DONE),
    ],
)
def test_each_kind_of_transfer_has_its_outcome(transfer: Transfer, outcome: Outcome) -> None:
    """A refused transfer moves nothing, and is counted in the sequence all the same."""
    ledger = opened()
    before = ledger.balances()
    result = ledger.execute(transfer.encode())
    assert result.outcome is outcome
    assert result.sequence == 3
    assert (ledger.balances() == before) == (outcome is not Outcome.DONE)
    assert sum(ledger.balances().values()) == 0


def test_a_balance_has_a_limit() -> None:
    """Beyond it the result would not fit the reply."""
    ledger = Ledger()
    results = [ledger.transfer(Transfer(1, EQUITY, "ada", AMOUNT_MAX)).outcome for _ in range(3)]
    assert results == [Outcome.DONE] * 3
    ledger._accounts["ada"].balance = BALANCE_MAX
    assert ledger.transfer(Transfer(1, EQUITY, "ada", 1)).outcome is Outcome.BALANCE_LIMIT


@pytest.mark.parametrize("body", [b"", b"x", Transfer(1, "a", "b", 1).encode()[:-1], b"\xff" * 40])
def test_bytes_that_are_no_transfer_are_a_result(body: bytes) -> None:
    """They were committed like anything else, so every replica must answer them alike."""
    ledger = opened()
    assert ledger.execute(body).outcome is Outcome.MALFORMED
    assert ledger.sequence == 3


def test_transfers_and_results_survive_encoding() -> None:
    """What is decoded equals what was encoded."""
    transfer = Transfer(7, "größe", "ß", 12)
    assert Transfer.decode(transfer.encode()) == transfer
    result = opened().transfer(Transfer(3, "ada", "ben", 30))
    assert Result.decode(result.encode()) == result
    with pytest.raises(TransferMalformed):
        Transfer.decode(b"\0" * 14 + b"abc")


def test_a_second_execution_shows_in_the_answer_and_in_the_state() -> None:
    """The same transfer again has another number, whether it was refused or not."""
    for amount in (30, 1000):
        once, twice = opened(), opened()
        transfer = Transfer(3, "ada", "ben", amount)
        first = once.transfer(transfer)
        assert twice.transfer(transfer) == first
        assert twice.transfer(transfer).encode() != first.encode()
        assert once.digest() != twice.digest()


def test_the_same_transfers_give_the_same_bytes() -> None:
    """Replicas that execute the same are the same; a statement is bounded."""
    chance = random.Random(1)
    names = [EQUITY, "ada", "ben", "cleo"]
    transfers = []
    for row in range(1, 2000):
        source, target = chance.sample(names, 2)
        transfers.append(Transfer(row, source, target, chance.randrange(1, 50)))
    one, two = Ledger(), Ledger()
    for transfer in transfers:
        assert one.execute(transfer.encode()).encode() == two.execute(transfer.encode()).encode()
    assert one.digest() == two.digest()
    assert sum(one.balances().values()) == 0
    assert max(len(account.statement) for account in one._accounts.values()) == STATEMENT_LINES_MAX


# Names.


@pytest.mark.parametrize(
    "name", ["ada", "ada lovelace", "o'neil", "größe", "-5", "عائشة", "山田太郎", "a" * NAME_SIZE_MAX]
)
def test_what_people_call_accounts_is_a_name(name: str) -> None:
    """As it is, in a CSV, an argument or a line."""
    assert account_name(name) == name


def test_a_name_that_the_locale_could_not_decode_is_decoded() -> None:
    """An argument under LC_ALL=C: Python keeps the bytes as surrogates."""
    assert account_name("größe".encode().decode("ascii", "surrogateescape")) == "größe"


@pytest.mark.parametrize(
    ("text", "found", "expected"),
    [
        ("", "''", "without blanks before or after"),
        (" ", "' '", "without blanks before or after"),
        ("ada ", "'ada '", "without blanks before or after"),
        ("\u3000ada", r"'\u3000ada'", "without blanks before or after"),
        ("a\tb", r"'a\tb'", "of printable characters"),
        ("a\nb", r"'a\nb'", "of printable characters"),
        ("a\0", r"'a\x00'", "of printable characters"),
        ("a\x1b[31mb", r"'a\x1b[31mb'", "of printable characters"),
        ("ada\u200b", r"'ada\u200b'", "of printable characters"),
        ("ada\u202e", r"'ada\u202e'", "of printable characters"),
        ("a\u00a0b", r"'a\xa0b'", "of printable characters"),
        ("\udcff", r"'\udcff'", "in UTF-8"),
        ("\ud800", r"'\ud800'", "in UTF-8"),
        ("zoe\u0308", r"'zoe\u0308'", r"in Unicode NFC: 'zo\xeb'"),
        ("a" * 25, f"'{'a' * 25}' of 25 bytes", "a name of at most 24 bytes"),
        ("ä" * 13, f"'{'ä' * 13}' of 26 bytes", "a name of at most 24 bytes"),
        ("a" * 1_000_000, f"'{'a' * 57}...' of 1000000 bytes", "a name of at most 24 bytes"),
    ],
)
def test_what_is_no_name_is_refused_with_what_was_expected(text: str, found: str, expected: str) -> None:
    """Nothing invisible, nothing that looks like another name, nothing that does not fit."""
    with pytest.raises(NameInvalid) as caught:
        account_name(text)
    assert caught.value.found == found
    assert expected in caught.value.expected
    assert str(caught.value) == f"found {found}, expected {caught.value.expected}"
