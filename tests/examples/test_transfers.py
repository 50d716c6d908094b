"""The file of transfers: whole or refused, with file, line, what was found and what was expected."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from examples.ledger import generate_transfers
from examples.ledger.__main__ import SHIPPED
from examples.ledger.ledger import Ledger, Outcome, Transfer
from examples.ledger.transfers import TransferFileError, read_transfers

HEADING = b"from,to,amount\n"


def write(directory: Path, data: bytes) -> Path:
    """A file with these bytes."""
    file = directory / "transfers.csv"
    file.write_bytes(data)
    return file


def test_a_file_is_read_row_by_row(tmp_path: Path) -> None:
    """Quotes, a byte order mark and either kind of line end are fine."""
    data = b"\xef\xbb\xbf" + b'from,to,amount\r\nequity,"ada, b",5\r\nben,cleo,12\n'
    assert read_transfers(write(tmp_path, data)) == (
        Transfer(1, "equity", "ada, b", 5),
        Transfer(2, "ben", "cleo", 12),
    )


@pytest.mark.parametrize(
    ("data", "line", "found"),
    [
        (b"", 1, "''"),
        (b"a,b,c\nx,y,1\n", 1, "'a,b,c'"),
        (b"to,from,amount\nx,y,1\n", 1, "'to,from,amount'"),
        (HEADING, 0, "no transfer"),
        (HEADING + b"a,b,1\n\nc,d,1\n", 3, "an empty line"),
        (HEADING + b"a,b\n", 2, "2 fields"),
        (HEADING + b"a,b,1,2\n", 2, "4 fields"),
        (HEADING + b",b,1\n", 2, "from ''"),
        (HEADING + b"a,,1\n", 2, "to ''"),
        (HEADING + b"a, b,1\n", 2, "to ' b'"),
        (HEADING + b"a,b\x07,1\n", 2, "to 'b\\x07'"),
        (HEADING + b"a," + b"b" * 25 + b",1\n", 2, "to 'bbbbbbbbbbbbbbbbbbbbbbbbb' of 25 bytes"),
        (HEADING + b"a,b,\n", 2, "amount ''"),
        (HEADING + b"a,b,0\n", 2, "amount 0"),
        (HEADING + b"a,b,-5\n", 2, "amount '-5'"),
        (HEADING + b"a,b,1.5\n", 2, "amount '1.5'"),
        (HEADING + b"a,b,1e3\n", 2, "amount '1e3'"),
        (HEADING + b"a,b,1000000000001\n", 2, "amount 1000000000001"),
        (HEADING + b"a,b," + b"9" * 5000 + b"\n", 2, "amount '9999"),
        (HEADING + "a,b,٣\n".encode(), 2, "amount '٣'"),
        (HEADING + "a,e\u0301,1\n".encode(), 2, "to 'e\\u0301'"),
        (HEADING + "a,b\u2028c,1\n".encode(), 2, "to 'b\\u2028c'"),
        (HEADING + b'a,b,1\na,"b\nc",1\n', 4, "to 'b\\nc'"),
        (HEADING + b"a,b,1\n\xff,b,1\n", 3, "byte 0xff"),
        (HEADING + b"a,b,1\na,\0,1\n", 3, "a zero byte"),
        (HEADING + b'a,"b,1\n', 2, "unexpected end of data"),
        (HEADING + b'a,"b"c,1\n', 2, "',' expected after '\"'"),
        (HEADING + b"a,b,1\n" + b"x" * 200_000 + b",b,1\n", 3, "field larger than field limit"),
    ],
)
def test_a_malformed_file_is_refused_with_line_and_reason(tmp_path: Path, data: bytes, line: int, found: str) -> None:
    """Nothing of it is given out, not even the rows before the bad one."""
    file = write(tmp_path, data)
    with pytest.raises(TransferFileError) as caught:
        read_transfers(file)
    assert caught.value.file == file
    assert caught.value.line == line
    assert caught.value.found.startswith(found)
    assert str(file) in str(caught.value)
    assert caught.value.expected in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A missing file, in the operating system's own words."""
    with pytest.raises(TransferFileError, match="No such file"):
        read_transfers(tmp_path / "missing.csv")


def test_what_cannot_be_read_again_is_refused(tmp_path: Path) -> None:
    """A directory has no rows, and a pipe gives them once: members and verdict each read the file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe):
        with pytest.raises(TransferFileError, match="expected a regular file"):
            read_transfers(path)


def test_the_shipped_file_is_what_the_generator_makes(tmp_path: Path) -> None:
    """And large and varied enough: at least 2,000 rows, refusals of each common kind, the accounts sum to zero."""
    file = tmp_path / "made.csv"
    assert generate_transfers.main([str(file)]) == 0
    assert file.read_bytes() == SHIPPED.read_bytes()
    transfers = read_transfers(file)
    assert len(transfers) >= 2000
    ledger = Ledger()
    outcomes = [ledger.execute(transfer.encode()).outcome for transfer in transfers]
    for outcome in (Outcome.DONE, Outcome.OVERDRAFT, Outcome.UNKNOWN_ACCOUNT, Outcome.SAME_ACCOUNT):
        assert outcomes.count(outcome) > 20
    assert sum(ledger.balances().values()) == 0


def test_the_generator_wants_a_file_name() -> None:
    """Exit status 2 for a wrong call."""
    assert generate_transfers.main([]) == 2
