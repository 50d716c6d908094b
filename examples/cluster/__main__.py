"""The command line: `python -m examples.cluster` `run`, `soak`, `start`, `status`, `client` or `hurt`; try `--help`."""
# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from .cluster_directory import ClusterUnusable
from .commands import COMMANDS, Misused, add_parsers
from .completion import complete
from .config import CLIENTS_MAX
from .journal import Plant
from .members import MembersFailed
from .run import DAMAGES_DEFAULT, KILLS_DEFAULT, Options, Terminated, default_damages, default_kills, run
from .run_directory import DirectoryUnusable
from .soak import SoakOptions, soak
from .transfers import TransferFileError, read_transfers

SHIPPED = Path(__file__).with_name("transfers.csv")
REPLICAS = (3, 5)  # of more than these a quorum costs more and survives no more
SEED_MAX = 2**63
DAMAGES_MAX = 1000
KILLS_MAX = 20
USAGE_STATUS = 2


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from {low} to {high}")
        return int(text)

    return parse


def _replicas(text: str) -> int:
    if text not in map(str, REPLICAS):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {' or '.join(map(str, REPLICAS))}")
    return int(text)


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 0.9:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a probability from 0 to 0.9")
    return value


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.2 <= value <= 1440.0:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected minutes from 0.2 to 1440, such as 10")
    return value


def _plant(text: str) -> Plant:
    for plant in Plant:
        if plant.value == text:
            return plant
    expected = " or ".join(plant.value for plant in Plant)
    raise argparse.ArgumentTypeError(f"found {text!r}, expected {expected}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.cluster", description="A replicated ledger.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "run",
        help="run a cluster over a file of transfers, and judge the result",
        description="Start replicas, send every transfer of a file through client sessions while replies are lost, "
        "requests doubled, reply slots damaged and primaries killed, and judge the result. Exit status 0 if no check "
        "of the verdict is broken and every fault that was asked for happened. A check that saw nothing is not tried.",
    )
    command.add_argument(
        "--transfers", type=Path, default=SHIPPED, metavar="FILE", help="CSV with the columns from,to,amount"
    )
    command.add_argument("--clients", type=_whole(1, CLIENTS_MAX), default=8, metavar="N", help="client sessions (8)")
    command.add_argument("--replicas", type=_replicas, default=3, metavar="N", help="replicas: 3 (the default) or 5")
    command.add_argument(
        "--seed", type=_whole(0, SEED_MAX), default=1, metavar="N", help="decides what the network does (1)"
    )
    command.add_argument("--directory", type=Path, metavar="DIR", help="where the run makes its temporary directory")
    command.add_argument("--drop-replies", type=_probability, default=0.10, metavar="P", help="replies lost (0.10)")
    command.add_argument(
        "--duplicate-requests", type=_probability, default=0.05, metavar="P", help="requests doubled (0.05)"
    )
    command.add_argument(
        "--damage",
        type=_whole(0, DAMAGES_MAX),
        metavar="N",
        help=f"number of reply slots to damage (default {DAMAGES_DEFAULT}, fewer for a short file)",
    )
    command.add_argument(
        "--kill",
        type=_whole(0, KILLS_MAX),
        metavar="N",
        help=f"number of times to kill the primary (default {KILLS_DEFAULT}, fewer for a short file)",
    )
    command.add_argument(
        "--plant",
        type=_plant,
        metavar="FAULT",
        help="plant a fault that the verdict must find: " + ", ".join(plant.value for plant in Plant),
    )
    command.add_argument("--json", action="store_true", help="print the result as JSON, progress on stderr")
    command.add_argument("--keep", action="store_true", help="do not remove the run's directory")
    _add_soak(commands)
    add_parsers(commands)
    return parser


def _add_soak(commands: Any) -> None:
    command = commands.add_parser(
        "soak",
        help="do a cluster at work random harm for minutes, and judge the result",
        description="Kill any process of a replica or the gateway, lose disks, corrupt slots, cut replicas off and "
        "lose replies, at most a minority of the replicas at a time, while clients send transfers; and judge the "
        "result. Exit status 0 only if everything holds.",
    )
    command.add_argument("--minutes", type=_minutes, default=10.0, metavar="M", help="how long all of it may take (10)")
    command.add_argument("--rate", type=_whole(1, 1000), default=30, metavar="N", help="transfers a second (30)")
    command.add_argument("--replicas", type=_replicas, default=3, metavar="N", help="replicas: 3 (the default) or 5")
    command.add_argument("--seed", type=_whole(0, SEED_MAX), default=1, metavar="N", help="decides about the harm (1)")
    command.add_argument("--directory", type=Path, metavar="DIR", help="where the soak makes its temporary directory")
    command.add_argument("--plant", type=_plant, metavar="FAULT", help="as with run")
    command.add_argument("--keep", action="store_true", help="do not remove the soak's directory")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse; words of a request may stand before and after options.

    argparse takes words without number (`nargs="*"`) at one place only; those after the next option are left over.
    """
    parser = _parser()
    complete(parser)
    parsed, left = parser.parse_known_args(arguments)
    if left and ("words" not in parsed or any(word.startswith("--") for word in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        parsed.words = [*parsed.words, *left]
    return parsed


def main(arguments: list[str]) -> int:
    """Parse, run, and give the exit status: 0 all holds, 1 broken or failed, 2 unusable arguments or file."""
    parsed = parse(arguments)
    ended = "everything was stopped" + (" and removed" if parsed.command in ("run", "soak") else "")
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        if parsed.command == "run":
            return _run(parsed)
        if parsed.command == "soak":
            return _soak(parsed)
        return COMMANDS[parsed.command](parsed)
    except (TransferFileError, DirectoryUnusable, ClusterUnusable, Misused) as error:
        print(error, file=sys.stderr)
        return USAGE_STATUS
    except MembersFailed as failure:
        print(f"the cluster failed: {failure}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on: that is no error of ours
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted: {ended}", file=sys.stderr)
        return 128 + signal.SIGINT
    except Terminated:
        print(f"\nterminated: {ended}", file=sys.stderr)
        return 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(signum: int, frame: object) -> NoReturn:
    raise Terminated


def _run(parsed: argparse.Namespace) -> int:
    transfers = read_transfers(parsed.transfers)
    faults = {"--damage": parsed.damage, "--kill": parsed.kill}
    asked = {option: count for option, count in faults.items() if count is not None}
    for option, count in asked.items():
        if count > len(transfers):
            expected = f"at most {len(transfers)}, the number of transfers"
            print(f"{option}: found {count}, expected {expected}", file=sys.stderr)
            return USAGE_STATUS
    options = Options(
        transfers_file=parsed.transfers,
        transfers=transfers,
        clients=parsed.clients,
        replicas=parsed.replicas,
        seed=parsed.seed,
        directory=parsed.directory or Path(tempfile.gettempdir()),
        drop_replies=parsed.drop_replies,
        duplicate_requests=parsed.duplicate_requests,
        damages=asked.get("--damage", default_damages(len(transfers))),
        kills=asked.get("--kill", default_kills(len(transfers))),
        plant=parsed.plant,
        json=parsed.json,
        keep=parsed.keep,
        asked=frozenset(asked),
    )
    return run(options)


def _soak(parsed: argparse.Namespace) -> int:
    options = SoakOptions(
        minutes=parsed.minutes,
        rate=float(parsed.rate),
        replicas=parsed.replicas,
        seed=parsed.seed,
        directory=parsed.directory or Path(tempfile.gettempdir()),
        plant=parsed.plant,
        keep=parsed.keep,
    )
    return soak(options)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
