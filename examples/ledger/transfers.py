"""Reading and writing a file of transfers: CSV with the heading `from,to,amount`, one transfer a row.

Guarantees: either every row of the file is a transfer, or `TransferFileError` says file, line, what was found and what
was expected, and no row is given out: nothing is executed from a malformed file.

Names are those that `account_name` takes. A byte order mark, CRLF and quotes are read; an empty line is refused.

Limits: other separators, other orders of columns, fractions. Amounts are whole numbers of the smallest unit.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

from client_replies.messages.invalid import Invalid

from .ledger import AMOUNT_MAX, NameInvalid, Transfer, account_name
from .typed import quoted

HEADING = ["from", "to", "amount"]
TRANSFERS_MAX = 1_000_000


class TransferFileError(Invalid):
    """The file cannot be used. `line` is 0 if that is not about one line."""

    def __init__(self, file: Path, line: int, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.args = (file, line, found, expected)
        self.file = file
        self.line = line

    def __str__(self) -> str:
        where = f"{self.file}, line {self.line}" if self.line else str(self.file)
        return f"{where}: found {self.found}, expected {self.expected}"


def read_transfers(file: Path) -> tuple[Transfer, ...]:
    """All transfers of the file, numbered by row from 1. Raises `TransferFileError`."""
    text = _text(file)
    rows = _rows(file, text)
    heading_line, heading = next(rows, (1, []))
    if heading != HEADING:
        raise TransferFileError(file, heading_line, quoted(",".join(heading)), "the heading from,to,amount")
    transfers: list[Transfer] = []
    for line, fields in rows:
        if len(transfers) == TRANSFERS_MAX:
            raise TransferFileError(file, line, f"more than {TRANSFERS_MAX} transfers", "fewer")
        transfers.append(_transfer(file, line, len(transfers) + 1, fields))
    if not transfers:
        raise TransferFileError(file, 0, "no transfer", "at least one row below the heading")
    return tuple(transfers)


def write_transfers(file: Path, rows: Iterable[tuple[str, str, int]]) -> None:
    """Write source, target and amount of each transfer below the heading. Raises `OSError`."""
    with file.open("w", newline="", encoding="utf-8") as text:
        csv.writer(text, lineterminator="\n").writerows([HEADING, *rows])


def _text(file: Path) -> str:
    try:
        # A pipe can be read once; the members and the verdict each read the file for themselves.
        is_regular = file.is_file() or not file.exists()
        data = file.read_bytes() if is_regular else b""
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or str(error)
        raise TransferFileError(file, 0, found, "a readable CSV file") from error
    if not is_regular:
        raise TransferFileError(file, 0, "a directory, pipe or device", "a regular file")
    try:
        # Spreadsheets like to begin a file with a byte order mark.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TransferFileError(file, line, f"byte {data[error.start]:#04x}", "UTF-8 text") from error
    if "\0" in text:
        raise TransferFileError(file, text.count("\n", 0, text.index("\0")) + 1, "a zero byte", "text")
    return text


def _rows(file: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Each row with the number of the line that it ends on."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as error:
        raise TransferFileError(file, reader.line_num, str(error), "well-formed CSV") from error


def _transfer(file: Path, line: int, row: int, fields: list[str]) -> Transfer:
    if not fields:
        raise TransferFileError(file, line, "an empty line", "from,to,amount")
    if len(fields) != len(HEADING):
        raise TransferFileError(file, line, f"{len(fields)} fields", f"{len(HEADING)}: from,to,amount")
    source, target, amount = fields
    for heading, name in zip(HEADING, (source, target), strict=False):
        try:
            account_name(name)
        except NameInvalid as error:
            raise TransferFileError(file, line, f"{heading} {error.found}", error.expected) from error
    if not (amount.isascii() and amount.isdigit() and len(amount) <= len(str(AMOUNT_MAX))):
        raise TransferFileError(file, line, f"amount {quoted(amount)}", f"a whole number from 1 to {AMOUNT_MAX}")
    if not 1 <= int(amount) <= AMOUNT_MAX:
        raise TransferFileError(file, line, f"amount {amount}", f"a whole number from 1 to {AMOUNT_MAX}")
    return Transfer(row, source, target, int(amount))
