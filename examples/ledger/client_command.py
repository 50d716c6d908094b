"""The command `client`: requests from arguments, from a file or from standard input, in one session.

A line of standard input is split like a shell does: quotes keep blanks in a name, empty lines are skipped, there are no
comments. On a terminal a line that is no request is reported, and the next one is read. From a pipe or a file it ends
the command: what follows may depend on it.

Guarantees: every request is checked whole before it is sent; nothing is sent while it is certain that its reply cannot
be shown. Whatever ends the command is an exception with a note that says what is known about the latest request.

Limits: after an unanswered request nothing else is sent. There is no way to come back to its session later.

Owns: the session.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from client_replies.cluster.client import Answer, AnswerLost, ClusterClient, ClusterError, RetryPolicy, Session
from client_replies.cluster.host.cluster_directory import read_running
from client_replies.messages.message import U64_MAX

from .exit_status import ExitStatus
from .ledger import (
    AMOUNT_MAX,
    OPERATION_BALANCE,
    OPERATION_TRANSFER,
    NameInvalid,
    Outcome,
    Result,
    ResultMalformed,
    Transfer,
    account_name,
)
from .terminal import FAIR, GOOD, Line, OutputLost, check_output, plain, show, show_error
from .transfers import TransferFileError, read_transfers
from .typed import Misused, quoted, whole_number

LINE_SIZE_MAX = 8192  # bytes of a line of standard input
EXAMPLE = "transfer equity ada 100, balance ada, or file transfers.csv"
# With these both accounts exist, so that the balances in the result are theirs.
OUTCOMES_WITH_BALANCES = frozenset({Outcome.DONE, Outcome.OVERDRAFT, Outcome.BALANCE_LIMIT})


@dataclass(frozen=True, slots=True)
class LedgerRequest:
    """A request that was checked: how a shell would write it, and what is sent."""

    text: str
    operation: int
    body: bytes


def run_client(parsed: argparse.Namespace) -> ExitStatus:
    """`client`."""
    requests = requests_in(parsed.words) if parsed.words else None
    running = read_running(parsed.place)
    host, port = running["gateway"]
    policy = RetryPolicy(timeout_s=parsed.timeout)
    with ClusterClient([(host, port)], cluster=int(running["cluster"], 16), policy=policy) as client:
        try:
            session = client.session()
        except BaseException as error:
            error.add_note("nothing was executed")
            raise
        with session:
            conversation = Conversation(session, parsed)
            if requests is None:
                conversation.converse(sys.stdin)
            else:
                conversation.send_all(requests)
    return ExitStatus.REFUSED if conversation.refused else ExitStatus.DONE


class Conversation:
    """The requests of one session and their replies."""

    def __init__(self, session: Session, parsed: argparse.Namespace) -> None:
        self.executed = 0
        self.refused = 0
        self._session = session
        self._as_json: bool = parsed.json
        self._place = str(parsed.place)

    def converse(self, typed: TextIO) -> None:
        """Send what each line asks for. Raises `Misused` for a bad line that does not come from a terminal."""
        is_terminal = typed.isatty()
        for number, line in enumerate(lines_of(typed), 1):
            try:
                requests = requests_in_line(line)
            except (Misused, TransferFileError) as error:
                where = f"line {number}: {error}"
                if not is_terminal:
                    raise Misused(f"{where}; {self._said_executed()}, and nothing from this line on") from error
                show_error(where)
                continue
            try:
                self.send_all(requests)
            except AnswerLost as error:
                if not is_terminal:
                    raise
                self.executed += 1
                show_error(f"line {number}: {error}; ask for the balances")

    def send_all(self, requests: Sequence[LedgerRequest]) -> None:
        """Send the requests one after the other, and show each reply."""
        for request in requests:
            try:
                check_output()
            except OutputLost as error:
                error.add_note(f"{self._said_executed()}, and {request.text!r} was not sent")
                raise
            self._send(request)

    def _send(self, request: LedgerRequest) -> None:
        try:
            answer = self._session.request(request.operation, request.body)
            found = describe(self._session, request, answer)
        except AnswerLost:
            raise
        except BaseException as error:
            if self._session.is_pending:
                balances = f"client {shlex.quote(self._place)} balance ACCOUNT"
                error.add_note(f"{request.text!r} may be executed or not: compare the balances with {balances!r}")
            raise
        self.executed += 1
        self.refused += found["outcome"] != "done"
        line = reply_line(found)
        try:
            show([json.dumps(found) if self._as_json else line])
        except BaseException as error:
            error.add_note(f"executed before that, once: {plain(line)}")
            raise

    def _said_executed(self) -> str:
        return f"{self.executed} request{'s were' if self.executed != 1 else ' was'} executed before it"


def lines_of(typed: TextIO) -> Iterator[bytes]:
    """The lines of standard input as bytes: what they mean does not depend on the locale. Raises `Misused`."""
    source = cast(BinaryIO, getattr(typed, "buffer", None) or io.BytesIO(typed.read().encode()))
    while True:
        try:
            line = source.readline(LINE_SIZE_MAX + 1)
        except OSError as error:
            found = "it closed" if error.errno == errno.EBADF else error.strerror
            raise Misused(f"standard input: found {found}, expected requests such as {EXAMPLE}") from error
        if not line:
            return
        if len(line) > LINE_SIZE_MAX:
            # The rest of it must not be taken for lines of its own.
            while not line.endswith(b"\n") and (more := source.readline(LINE_SIZE_MAX)):
                line = line[: LINE_SIZE_MAX + 1] + more[-1:]
        yield line


def requests_in_line(line: bytes) -> Sequence[LedgerRequest]:
    """The requests that a line asks for; none if it is empty. Raises `Misused` or `TransferFileError`."""
    if len(line) > LINE_SIZE_MAX:
        raise Misused(f"found more than {LINE_SIZE_MAX} bytes, expected a request such as {EXAMPLE}")
    try:
        words = shlex.split(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Misused(f"found byte {line[error.start]:#04x}, expected UTF-8 text") from error
    except ValueError as error:
        raise Misused(
            f"found an open quote or a backslash at the end ({error}), expected words as a shell takes them, "
            'such as balance "o\'neil"'
        ) from error
    return requests_in(words) if words else ()


def requests_in(words: Sequence[str]) -> Sequence[LedgerRequest]:
    """The requests that the words ask for. Raises `Misused` or `TransferFileError`."""
    if len(words) == 2 and words[0] == "file":
        return [_transfer(one) for one in read_transfers(Path(words[1]))]
    if len(words) == 2 and words[0] == "balance":
        name = _account(words[1])
        return [LedgerRequest(shlex.join(("balance", name)), OPERATION_BALANCE, name.encode())]
    if len(words) == 4 and words[0] == "transfer":
        amount = whole_number(words[3], U64_MAX)
        if amount is None:
            expected = f"a whole number, at most {AMOUNT_MAX} to be accepted"
            raise Misused(f"amount: found {quoted(words[3])}, expected {expected}, such as 100")
        return [_transfer(Transfer(0, _account(words[1]), _account(words[2]), amount))]
    raise Misused(f"found {quoted(shlex.join(words))}, expected a request such as {EXAMPLE}")


def _account(text: str) -> str:
    try:
        return account_name(text)
    except NameInvalid as error:
        raise Misused(f"account: {error}") from error


def _transfer(transfer: Transfer) -> LedgerRequest:
    text = shlex.join(("transfer", transfer.source, transfer.target, str(transfer.amount)))
    return LedgerRequest(text, OPERATION_TRANSFER, transfer.encode())


def describe(session: Session, request: LedgerRequest, answer: Answer) -> dict[str, Any]:
    """A reply for programs. Balances are null where the result has none."""
    try:
        result = Result.decode(answer.body)
        outcome = Outcome(result.outcome)
    except (ResultMalformed, ValueError) as error:
        raise NotALedger(
            f"request {answer.header.request} was executed, and its reply is no ledger's: {error}"
        ) from error
    has_balances = outcome in OUTCOMES_WITH_BALANCES
    found: dict[str, Any] = {
        "request": request.text,
        "client": f"{session.client_id:x}",
        "number": answer.header.request,
        "op": answer.header.op,
        "outcome": outcome.name.lower().replace("_", " "),
        "source_balance": result.source_balance if has_balances else None,
        "sequence": result.sequence,
        "reply": "repeated" if answer.repeated else "first",
        "attempts": answer.attempts,
        "milliseconds": round(answer.latency_s * 1000, 1),
        "checksum": bytes(answer.header.checksum).hex(),
    }
    if request.operation == OPERATION_TRANSFER:
        found["target_balance"] = result.target_balance if has_balances else None
    return found


class NotALedger(ClusterError):
    """The cluster executes something else than a ledger."""


def reply_line(found: Mapping[str, Any]) -> Line:
    """A reply for people."""
    words = shlex.split(found["request"])
    balances = ""
    if found["source_balance"] is not None:
        balances = f"; {words[1]} has {found['source_balance']}"
        if "target_balance" in found:
            balances += f", {words[2]} has {found['target_balance']}"
    attempts = f"{found['attempts']} attempt{'s' if found['attempts'] > 1 else ''}"
    return (
        f"{found['request']}: ",
        (found["outcome"], GOOD if found["outcome"] == "done" else FAIR),
        f"{balances} (op {found['op']}, ",
        (f"{found['reply']} reply", "" if found["reply"] == "first" else FAIR),
        f" after {attempts}, {found['milliseconds']:.0f} ms, client {found['client']})",
    )
