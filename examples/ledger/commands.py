"""The commands about a cluster that stays up: `start`, `status`, `client` and `hurt`.

Guarantees: what cannot be done is an error with what to do, which `__main__` turns into one line and an exit status.
`--json` prints one object per line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
from collections.abc import Sequence
from typing import Any

from client_replies.cluster.host.cluster_directory import ask

from . import arguments
from .completion import clusters, completed_by, requests, victims, ways_to_hurt
from .exit_status import ExitStatus
from .terminal import OutputLost, show
from .typed import Misused, quoted, whole_number

HURTS = """faults:
  drop-replies N           the next N replies are lost (those of registrations do not count)
  block CLIENT             no reply reaches this client (the number that `client` prints) until heal
  corrupt-slot WHO SLOT    overwrite a reply slot on the disk of WHO; SLOT is a number, or client:CLIENT
  kill WHO                 kill with SIGKILL; WHO may also be gateway, or a process id of the cluster
  partition WHO...         these replicas and the others do not hear each other until heal
  lose-disk WHO            kill one replica with SIGKILL, and remove its directory
  heal                     end all partitions and blocks, and lose no more replies
WHO is a replica's number, primary, backups or all.
for example: hurt /tmp/ledger kill primary"""
_port = arguments.whole(0, 65_535)
_seconds = arguments.decimal(0.001, 3600.0, "seconds from 0.001 to 3600, such as 5")
CLIENT = re.compile(r"[0-9a-fA-F]{1,32}")  # 128 bits
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
        description="Start a cluster in a directory, or restart the one that is there. Press Ctrl-C to stop.",
    )
    place = command.add_argument(
        "place", type=arguments.path, metavar="DIR", help="the cluster's directory; a new one is made"
    )
    completed_by(place, clusters)
    command.add_argument("--replicas", type=arguments.replicas, metavar="N", help="replicas: 3 (the default) or 5")
    command.add_argument(
        "--port", type=_port, default=0, metavar="N", help="where clients connect (default: any free port)"
    )

    command = commands.add_parser(
        "status",
        help="show cluster status",
        description="Views, roles, ops, reply slots, faults. Exit status 0 if the cluster has a quorum: a majority of "
        "all replicas is up and follows one primary; 3 if not.",
    )
    _add_place(command)
    command.add_argument("--json", action="store_true", help="print one JSON object")

    command = commands.add_parser(
        "client",
        help="send transfers and queries to a cluster",
        description="Send requests in a session of their own, and show each reply and whether it is the first or was "
        "stored and is repeated. For example: client /tmp/ledger transfer equity ada 100",
    )
    _add_place(command)
    command.add_argument("--timeout", type=_seconds, default=30.0, metavar="S", help="seconds per request (default 30)")
    command.add_argument("--json", action="store_true", help="print one JSON object per reply")
    words = command.add_argument(
        "words",
        nargs="*",
        metavar="REQUEST",
        help="transfer FROM TO AMOUNT, balance ACCOUNT, or file CSV; without one, standard input has one request per "
        "line, split as a shell does",
    )
    completed_by(words, requests)

    command = commands.add_parser(
        "hurt",
        help="inject a fault into a cluster that is up",
        description=HURTS,
    )
    _add_place(command)
    command.add_argument("--json", action="store_true", help="print one JSON object")
    completed_by(command.add_argument("action", metavar="HOW", help="a fault of the list above"), ways_to_hurt)
    completed_by(
        command.add_argument("words", nargs="*", metavar="...", help="what the list above shows after it"), victims
    )


def _add_place(command: argparse.ArgumentParser) -> None:
    completed_by(
        command.add_argument("place", type=arguments.path, metavar="DIR", help="the cluster's directory"), clusters
    )


def run_start(parsed: argparse.Namespace) -> ExitStatus:
    """`start`."""
    from .live import start  # here, because it imports all the actors

    def say(text: str) -> None:
        with contextlib.suppress(OutputLost):
            show([text])

    start(parsed.place, parsed.replicas, parsed.port, say)
    return ExitStatus.DONE


# status


def run_status(parsed: argparse.Namespace) -> ExitStatus:
    """`status`."""
    status = ask(parsed.place, {"ask": "status"})
    if parsed.json:
        show([json.dumps(status)])
    else:
        from .status import show_status  # here, because it imports the protocol

        show_status(status)
    return ExitStatus.DONE if status["quorum"] else ExitStatus.UNAVAILABLE


# hurt


def run_hurt(parsed: argparse.Namespace) -> ExitStatus:
    """`hurt`."""
    found = ask(parsed.place, {"ask": parsed.action, **_hurt(parsed.action, parsed.words)})
    try:
        show([json.dumps(found) if parsed.json else found["done"]])
    except OutputLost as error:
        error.add_note(f"the fault was injected, once: {found['done']}")
        raise
    return ExitStatus.DONE


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
        found = quoted(" ".join((action, *words)))
        raise Misused(f"hurt: found {found}, expected something like {HURT_EXAMPLES[action]!r}")
    expected = f"one of {', '.join(HURT_EXAMPLES)}, such as {HURT_EXAMPLES['kill']!r}"
    raise Misused(f"hurt: found {quoted(action)}, expected {expected}; hurt --help explains them")


def _client(text: str) -> str:
    number = int(text, 16) if CLIENT.fullmatch(text) else 0
    if not number:
        expected = f"the number that client prints, such as {EXAMPLE_CLIENT}"
        raise Misused(f"client: found {quoted(text)}, expected {expected}")
    return f"{number:x}"


def run_client(parsed: argparse.Namespace) -> ExitStatus:
    """`client`."""
    from .client_command import run_client as run  # here, because it imports the client library

    return run(parsed)


COMMANDS = {"start": run_start, "status": run_status, "client": run_client, "hurt": run_hurt}
