"""The commands about a cluster that stays up: `start`, `status`, `client` and `hurt`.

Guarantees: what cannot be done is said in one line with what to do, on stderr, with exit status 2; a request without an
answer gives 1. `--json` gives what a program wants to read, one object a line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from client_replies.messages.message import U64_MAX, U128_MAX

from .cluster_client import Answer, ClusterClient, ClusterError, RetryPolicy, Session
from .cluster_directory import ask, read_running, whole_number
from .completion import clusters, completed_by, requests, victims, ways_to_hurt
from .ledger import AMOUNT_MAX, NAME_SIZE_MAX, Outcome, Result, Transfer
from .live import start
from .protocol import OPERATION_BALANCE, OPERATION_TRANSFER
from .terminal import BAD, FAIR, GOOD, Line, Part, show, show_table
from .transfers import read_transfers

HURTS = """ways to hurt a cluster:
  drop-replies N           the next N replies are lost (those of registrations do not count)
  block CLIENT             no reply reaches this client (the number that `client` prints) until heal
  corrupt-slot WHO SLOT    overwrite a reply slot on the disk of WHO; SLOT is a number, or client:CLIENT
  kill WHO                 kill -9; WHO may also be gateway, or a process id of the cluster
  partition WHO...         these replicas and the others do not hear each other until heal
  lose-disk WHO            kill -9 of one replica, and remove its directory
  heal                     nobody is cut off and no client is blocked
WHO is a replica's number, primary, backups or all.
for example: hurt /tmp/ledger kill primary"""
EXAMPLE_CLIENT = "2fed73215061f23fab4dcd681797d763"
HURT_EXAMPLES = {
    "drop-replies": "drop-replies 10",
    "block": f"block {EXAMPLE_CLIENT}",
    "corrupt-slot": "corrupt-slot primary 0",
    "kill": "kill primary",
    "partition": "partition 0",
    "lose-disk": "lose-disk 2",
    "heal": "heal",
}


def add_parsers(commands: Any) -> None:
    """Add the commands to the command line."""
    command = commands.add_parser(
        "start",
        help="start a cluster that stays up until Ctrl-C",
        description="Start a cluster in a directory, or start again the one that is there. Ctrl-C ends it.",
    )
    place = command.add_argument("place", type=Path, metavar="DIR", help="the cluster's directory; a new one is made")
    completed_by(place, clusters)
    command.add_argument("--replicas", type=int, choices=(3, 5), metavar="N", help="replicas: 3 (the default) or 5")
    command.add_argument("--port", type=_port, default=0, metavar="N", help="where clients come in (any free port)")

    command = commands.add_parser("status", help="how a cluster is", description="Views, roles, ops, slots, queues.")
    _add_place(command)
    command.add_argument("--json", action="store_true", help="print one JSON object")

    command = commands.add_parser(
        "client",
        help="send transfers and queries to a cluster",
        description="Send requests in a session of their own, and show each reply and whether it is the first or was "
        "stored and is repeated. For example: client /tmp/ledger transfer equity ada 100",
    )
    _add_place(command)
    command.add_argument("--timeout", type=_seconds, default=30.0, metavar="S", help="seconds for each request (30)")
    command.add_argument("--json", action="store_true", help="print one JSON object a reply")
    words = command.add_argument(
        "words",
        nargs="*",
        metavar="REQUEST",
        help="transfer FROM TO AMOUNT, balance ACCOUNT, or file CSV; without one, a request a line is read from stdin",
    )
    completed_by(words, requests)

    command = commands.add_parser(
        "hurt",
        help="do a cluster harm, and see what becomes of it",
        description=HURTS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_place(command)
    command.add_argument("--json", action="store_true", help="print one JSON object")
    completed_by(command.add_argument("action", metavar="HOW", help="see above"), ways_to_hurt)
    completed_by(command.add_argument("words", nargs="*", metavar="...", help="see above"), victims)


def _add_place(command: argparse.ArgumentParser) -> None:
    completed_by(command.add_argument("place", type=Path, metavar="DIR", help="the cluster's directory"), clusters)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a port from 0 to 65535, such as 4000")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 3600.0:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected seconds, such as 5")
    return value


class Misused(ValueError):
    """Words that are no request; the text gives an example."""


def run_start(parsed: argparse.Namespace) -> int:
    """`start`."""
    start(parsed.place, parsed.replicas, parsed.port, _say)
    return 0


def _say(text: str) -> None:
    """Say how the cluster is; that nobody can hear it, or that the disk of the output is full, is no reason to end."""
    with contextlib.suppress(OSError, ValueError):
        print(text, flush=True)


# status

COLUMNS = ("name", "pid", "state", "role", "view", "op", "commit", "executed", "checkpoint", "slots", "waiting")
STYLES = {
    "state": {"up": GOOD, "starting": FAIR, "silent": BAD, "stopped": BAD, "down": BAD},
    "role": {"primary": "bold cyan", "learner": FAIR},
    "slots": {"durable": GOOD, "queued": FAIR, "writing": FAIR, "faulty": BAD, "empty": "dim"},
}


def run_status(parsed: argparse.Namespace) -> int:
    """`status`."""
    status = ask(parsed.place, {"ask": "status"})
    if parsed.json:
        print(json.dumps(status))
    else:
        show_table(COLUMNS, [status_row(replica) for replica in status["replicas"]])
        show(status_lines(status))
    return 0


def status_row(replica: Mapping[str, Any]) -> list[Line]:
    """What the table has of a replica."""
    row: list[Line] = []
    for column in COLUMNS:
        if column == "slots":
            row.append(_slots(replica.get("slots", {})))
        else:
            text = str(replica.get("requests_waiting" if column == "waiting" else column, "-"))
            row.append([(text, STYLES.get(column, {}).get(text, ""))])
    return row


def _slots(counts: Mapping[str, int]) -> Line:
    parts: list[Part] = []
    for state, count in counts.items():
        if count:
            parts += [", "] * bool(parts) + [(f"{count} {state}", STYLES["slots"].get(state, ""))]
    return parts or "-"


def status_lines(status: Mapping[str, Any]) -> list[Line]:
    """What stands below the table."""
    door = status["gateway"]
    host, port = door["address"]
    lines: list[Line] = [
        f"gateway {host}:{port}, process {door['pid']}, {door.get('connections', '-')} connections, "
        f"{door.get('requests_waiting', '-')} requests waiting; {status['restarts']} restarts"
    ]
    lines += [
        [(f"{replica['name']} is down", BAD), f": {replica['reason']}"]
        for replica in status["replicas"]
        if "reason" in replica
    ]
    if not status["quorum"]:
        lines.append(
            [("no quorum", BAD), ": nothing is executed until more replicas are up; clients wait, and lose nothing"]
        )
    return lines


# client


def run_client(parsed: argparse.Namespace) -> int:
    """`client`."""
    asked = [_request(parsed.words)] if parsed.words else requests_of(sys.stdin)
    running = read_running(parsed.place)
    host, port = running["gateway"]
    policy = RetryPolicy(timeout_s=parsed.timeout)
    try:
        with (
            ClusterClient([(host, port)], cluster=int(running["cluster"], 16), policy=policy) as client,
            client.session() as session,
        ):
            for bodies in asked:
                _send(session, bodies, parsed.json)
    except ClusterError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def requests_of(lines: Iterable[str]) -> Iterator[Iterable[tuple[str, int, bytes]]]:
    """The requests that each line asks for. Raises `Misused`."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _request(line.split())
            except Misused as error:
                raise Misused(f"line {number}: {error}") from None


def _request(words: Sequence[str]) -> Iterable[tuple[str, int, bytes]]:
    """The requests that the words ask for: what to call each, its operation and its body."""
    if len(words) == 2 and words[0] == "file":
        return [_transfer(one) for one in read_transfers(Path(words[1]))]
    if len(words) == 2 and words[0] == "balance":
        return [(f"balance {words[1]}", OPERATION_BALANCE, _name(words[1]).encode())]
    if len(words) == 4 and words[0] == "transfer":
        amount = whole_number(words[3], U64_MAX)
        if amount is None:
            expected = f"a whole number, at most {AMOUNT_MAX} to be accepted"
            raise Misused(f"amount: found {words[3]!r}, expected {expected}, such as 100")
        return [_transfer(Transfer(0, _name(words[1]), _name(words[2]), amount))]
    example = "transfer equity ada 100, balance ada, or file transfers.csv"
    raise Misused(f"found {' '.join(words)!r}, expected a request such as {example}")


def _name(text: str) -> str:
    if not 0 < len(text.encode()) <= NAME_SIZE_MAX:
        raise Misused(f"account: found {text!r}, expected a name of at most {NAME_SIZE_MAX} bytes, such as ada")
    return text


def _transfer(transfer: Transfer) -> tuple[str, int, bytes]:
    name = f"transfer {transfer.source} {transfer.target} {transfer.amount}"
    return name, OPERATION_TRANSFER, transfer.encode()


def _send(session: Session, requests: Iterable[tuple[str, int, bytes]], as_json: bool) -> None:
    for name, operation, body in requests:
        answer = session.request(operation, body)
        found = _reply(session, name, operation, answer)
        show([json.dumps(found) if as_json else reply_line(found)])


def _reply(session: Session, name: str, operation: int, answer: Answer) -> dict[str, Any]:
    result = Result.decode(answer.body)
    found: dict[str, Any] = {
        "request": name,
        "client": f"{session.client_id:x}",
        "number": answer.header.request,
        "op": answer.header.op,
        "outcome": Outcome(result.outcome).name.lower().replace("_", " "),
        "source_balance": result.source_balance,
        "sequence": result.sequence,
        "reply": "repeated" if answer.repeated else "first",
        "attempts": answer.attempts,
        "milliseconds": round(answer.latency_s * 1000, 1),
        "checksum": bytes(answer.header.checksum).hex(),
    }
    if operation == OPERATION_TRANSFER:
        found["target_balance"] = result.target_balance
    return found


def reply_line(found: Mapping[str, Any]) -> Line:
    """A reply for people."""
    name = str(found["request"]).split()
    balances = f"{name[1]} has {found['source_balance']}"
    if "target_balance" in found:
        balances += f", {name[2]} has {found['target_balance']}"
    attempts = f"{found['attempts']} attempt{'s' if found['attempts'] > 1 else ''}"
    return (
        f"{found['request']}: ",
        (found["outcome"], GOOD if found["outcome"] == "done" else FAIR),
        f"; {balances} (op {found['op']}, ",
        (f"{found['reply']} reply", "" if found["reply"] == "first" else FAIR),
        f" after {attempts}, {found['milliseconds']:.0f} ms, client {found['client']})",
    )


# hurt


def run_hurt(parsed: argparse.Namespace) -> int:
    """`hurt`."""
    question = {"ask": "hurt", "action": parsed.action, **_hurt(parsed.action, parsed.words)}
    found = ask(parsed.place, question)
    print(json.dumps(found) if parsed.json else found["done"])
    return 0


def _hurt(action: str, words: Sequence[str]) -> dict[str, object]:
    if action == "drop-replies" and len(words) == 1 and (count := whole_number(words[0])) is not None:
        return {"count": count}
    if action == "block" and len(words) == 1:
        return {"client": _client(words[0])}
    if action == "corrupt-slot" and len(words) == 2:
        if words[1].startswith("client:"):
            return {"replicas": [words[0]], "client": _client(words[1].removeprefix("client:"))}
        if (slot := whole_number(words[1])) is not None:
            return {"replicas": [words[0]], "slot": slot}
    if action == "kill" and len(words) == 1:
        return {"who": words[0]}
    if action == "lose-disk" and len(words) == 1:
        return {"replica": words[0]}
    if action == "partition" and words:
        return {"replicas": list(words)}
    if action == "heal" and not words:
        return {}
    if action in HURT_EXAMPLES:
        raise Misused(f"hurt: found {' '.join((action, *words))!r}, expected something like {HURT_EXAMPLES[action]!r}")
    expected = f"one of {', '.join(HURT_EXAMPLES)}, such as {HURT_EXAMPLES['kill']!r}"
    raise Misused(f"hurt: found {action!r}, expected {expected}; hurt --help explains them")


def _client(text: str) -> str:
    try:
        number = int(text, 16)
    except ValueError:
        number = 0
    if not 0 < number <= U128_MAX:
        expected = f"the number that client prints, such as {EXAMPLE_CLIENT}"
        raise Misused(f"client: found {text!r}, expected {expected}")
    return f"{number:x}"


COMMANDS = {"start": run_start, "status": run_status, "client": run_client, "hurt": run_hurt}
