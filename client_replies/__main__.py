"""The command `client-replies`: run a replicated service, or look at a data file that no replica has open.

    client-replies serve --directory /var/lib/counter counter:Counter
    client-replies inspect replica-0.replies          every part: superblock copies, session tables, slots
    client-replies verify replica-0.replies           only what is damaged
    client-replies inspect --json replica-0.replies   the same for programs

Guarantees of `inspect` and `verify`: nothing is written, and the file is locked against replicas meanwhile.

exit status:
  0    done; nothing is damaged
  1    the file is damaged, or the service cannot be kept up
  2    the arguments, the directory, or what is no data file
  3    the file is in use, missing or cannot be read now
  4    the output could not be written
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from client_replies import __version__

if TYPE_CHECKING:
    from client_replies.storage.inspection import Inspection

DONE, DAMAGED, BAD_INPUT, UNAVAILABLE, OUTPUT_LOST = range(5)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parsed = _parser().parse_args(arguments)
    return _serve(parsed) if parsed.command == "serve" else _look(parsed)


def _serve(parsed: argparse.Namespace) -> int:
    # A module of the user's is looked for where the command is given, as `python -m` does.
    sys.path.insert(0, "")
    try:
        from client_replies.cluster import MembersFailed, serve
    except ModuleNotFoundError as error:
        sys.stderr.write(f"serve: found no module {error.name}, expected it: pip install 'client-replies[cluster]'\n")
        return BAD_INPUT
    try:
        serve(parsed.machine, parsed.directory, replicas=parsed.replicas, listen=parsed.listen, say=_say)
    except ValueError as error:  # of a machine, a directory or an address
        sys.stderr.write(f"serve: {error}\n")
        return BAD_INPUT
    except MembersFailed as error:
        sys.stderr.write(f"serve: {error}\n")
        return DAMAGED
    return DONE


def _say(text: str) -> None:
    # A service outlives the reader of what it says.
    with suppress(OSError):
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def _look(parsed: argparse.Namespace) -> int:
    # The help and the version need none of these.
    from client_replies.messages.faults import FaultClass
    from client_replies.storage.device import FileDisk
    from client_replies.storage.errors import StorageError
    from client_replies.storage.inspection import inspect

    try:
        device = FileDisk().open_to_read(parsed.file)
        try:
            found = inspect(device)
        finally:
            device.close()
    except StorageError as error:
        sys.stderr.write(f"{parsed.file}: {error.fault}\n")
        statuses = {FaultClass.REFUSAL: UNAVAILABLE, FaultClass.DAMAGE: DAMAGED}
        return statuses.get(error.fault.kind.fault_class, BAD_INPUT)
    damage = list(found.damage())
    if parsed.json:
        text = json.dumps({"file": parsed.file, **_as_json(found), "damage": damage}, indent=2)
    else:
        text = "\n".join([*(_lines(parsed.file, found) if parsed.command == "inspect" else []), *_verdict(damage)])
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except (OSError, AttributeError) as error:
        why = error if sys.stdout is not None else "standard output is closed"
        sys.stdout = None  # Python would try once more when it ends
        sys.stderr.write(f"the output could not be written: {why}\n")
        return OUTPUT_LOST
    return DAMAGED if damage else DONE


def _parser() -> argparse.ArgumentParser:
    introduction, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="client-replies",
        description=introduction.partition(": ")[2].capitalize(),
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"client-replies {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    summary = "run a state machine on replicas of this host, until Ctrl-C"
    command = commands.add_parser("serve", help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    command.add_argument(
        "machine", metavar="MODULE:CLASS", help="a class derived from client_replies.cluster.StateMachine"
    )
    command.add_argument("--directory", required=True, help="where logs and replies are; a new one gets a new service")
    command.add_argument("--replicas", type=int, choices=(3, 5), help="of a new directory (default 3)")
    command.add_argument(
        "--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="where clients connect (default: any free port)"
    )
    for name, summary in (("inspect", "show every part of a data file"), ("verify", "show what is damaged in it")):
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        command.add_argument("file", metavar="FILE", help="the data file of a replica that is not running")
        command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return parser


def _rows(found: Inspection) -> list[dict[str, object]]:
    """Each slot with what its reply's header says."""
    from client_replies.messages.reply_header import ReplyHeader

    rows = []
    for slot in found.slots:
        row: dict[str, object] = {"slot": slot.slot, "state": slot.state.name.lower()}
        if slot.header is not None:
            header = ReplyHeader.unpack(slot.header)
            row |= {
                "client": f"{header.client:x}",
                "session": header.session,
                "request": header.request,
                "op": header.op,
                "size": header.size,
            }
        if slot.fault is not None:
            row["fault"] = slot.fault.name
        rows.append(row)
    return rows


def _as_json(found: Inspection) -> dict[str, object]:
    superblock = found.superblock
    identity: dict[str, object] = {}
    if superblock is not None:
        identity = {
            "cluster": f"{superblock.cluster:x}",
            "replica": superblock.replica,
            "clients_max": superblock.clients_max,
            "message_size_max": superblock.message_size_max,
        }
    return {
        "version": 1,
        "size": found.size,
        **identity,
        "superblock": [
            {
                "copy": copy.copy,
                "checkpoint": copy.superblock.trailer.sequence if copy.superblock is not None else None,
                "problem": copy.problem,
            }
            for copy in found.copies
        ],
        "session_tables": [
            {
                "checkpoint": table.trailer.sequence,
                "op": table.trailer.op,
                "sessions": table.sessions,
                "last": table.is_last,
                "problem": table.problem,
            }
            for table in found.tables
        ],
        "slots": _rows(found),
    }


def _lines(path: str, found: Inspection) -> list[str]:
    lines = [f"{path}: {found.size:,} bytes"]
    superblock = found.superblock
    if superblock is not None:
        lines[0] += (
            f", cluster {superblock.cluster:x}, replica {superblock.replica}, "
            f"{superblock.clients_max:,} slots of {superblock.message_size_max:,} bytes"
        )
    for copy in found.copies:
        agreed = f"checkpoint {copy.superblock.trailer.sequence}" if copy.superblock is not None else ""
        lines.append(f"superblock copy {copy.copy}  {copy.problem or agreed}")
    for table in found.tables:
        name = "last" if table.is_last else "before"
        what = table.problem or f"op {table.trailer.op}, {table.sessions:,} sessions"
        lines.append(f"session table {name:<6}  checkpoint {table.trailer.sequence}, {what}")
    if found.slots:
        states = Counter(slot.state for slot in found.slots)
        for state, count in sorted(states.items(), key=lambda item: item[0].name):
            lines.append(f"{count:>8,} {state.name.lower():<8} {state.value}")
        lines.append(f"{'slot':>8} {'state':<8} {'client':<32} {'session':>10} {'request':>8} {'op':>10} {'size':>10}")
        for row in _rows(found):
            if row["state"] != "unused":
                columns = [row.get(name, "") for name in ("client", "session", "request", "op", "size", "fault")]
                client, session, request, op, size, fault = columns
                text = f"{row['slot']:>8} {row['state']:<8} {client:<32} {session:>10} {request:>8} {op:>10} {size:>10}"
                lines.append(f"{text}  {fault}".rstrip())
    return lines


def _verdict(damage: list[str]) -> list[str]:
    return [*damage, f"{len(damage)} damaged parts"] if damage else ["nothing is damaged"]


if __name__ == "__main__":
    sys.exit(main())
