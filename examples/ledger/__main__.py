"""The command line: `python -m examples.ledger` `run`, `soak`, `start`, `status`, `client` or `hurt`; try `--help`."""
# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from . import exit_status
from .arguments import decimal, path, replicas, whole
from .commands import COMMANDS, add_parsers
from .completion import complete
from .config import CLIENTS_MAX
from .exit_status import ExitStatus
from .options import DAMAGES_DEFAULT, KILLS_DEFAULT, Options, SoakOptions, Terminated, default_damages, default_kills
from .plant import Plant
from .run_directory import DirectoryUnusable
from .terminal import OutputLost, check_output, prepare_streams, show, show_error
from .typed import Misused

SHIPPED = Path(__file__).with_name("transfers.csv")
SEED_MAX = 2**63
DAMAGES_MAX = 1000
KILLS_MAX = 20

_probability = decimal(0.0, 0.9, "a probability from 0 to 0.9")
_minutes = decimal(0.2, 1440.0, "minutes from 0.2 to 1440, such as 10")


def _plant(text: str) -> Plant:
    for plant in Plant:
        if plant.value == text:
            return plant
    expected = " or ".join(plant.value for plant in Plant)
    raise argparse.ArgumentTypeError(f"found {text!r}, expected {expected}")


class _Formatter(argparse.HelpFormatter):
    """What has lines of its own keeps them."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and whose output goes where all output goes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(epilog=exit_status.table(), formatter_class=_Formatter, **options)

    def error(self, message: str) -> NoReturn:
        show_error(f"{self.prog}: {message}; see {self.prog} --help")
        raise SystemExit(ExitStatus.BAD_INPUT)

    def print_help(self, file: Any = None) -> None:
        show(self.format_help().splitlines())


def _add_plant(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--plant",
        type=_plant,
        metavar="FAULT",
        help="plant a fault that the verdict must find: " + ", ".join(plant.value for plant in Plant),
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m examples.ledger", description="A replicated ledger.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "run",
        help="run a cluster over a file of transfers, and judge the result",
        description="Start replicas, send every transfer of a file through client sessions while replies are lost, "
        "requests doubled, reply slots damaged and primaries killed, and judge the result. Exit status 0 if no check "
        "of the verdict is broken and every fault that was asked for happened. A check that saw nothing is not tried.",
    )
    command.add_argument(
        "--transfers", type=path, default=SHIPPED, metavar="FILE", help="CSV with the columns from,to,amount"
    )
    command.add_argument(
        "--clients", type=whole(1, CLIENTS_MAX), default=8, metavar="N", help="client sessions (default 8)"
    )
    command.add_argument("--replicas", type=replicas, default=3, metavar="N", help="replicas: 3 (the default) or 5")
    command.add_argument("--seed", type=whole(0, SEED_MAX), default=1, metavar="N", help="random seed (default 1)")
    command.add_argument("--directory", type=path, metavar="DIR", help="where the run makes its temporary directory")
    command.add_argument(
        "--drop-replies",
        type=_probability,
        default=0.10,
        metavar="P",
        help="probability of losing a reply (default 0.10)",
    )
    command.add_argument(
        "--duplicate-requests",
        type=_probability,
        default=0.05,
        metavar="P",
        help="probability of doubling a request (default 0.05)",
    )
    command.add_argument(
        "--damage",
        type=whole(0, DAMAGES_MAX),
        metavar="N",
        help=f"number of reply slots to damage (default {DAMAGES_DEFAULT}, fewer for a short file)",
    )
    command.add_argument(
        "--kill",
        type=whole(0, KILLS_MAX),
        metavar="N",
        help=f"number of times to kill the primary (default {KILLS_DEFAULT}, fewer for a short file)",
    )
    _add_plant(command)
    command.add_argument("--json", action="store_true", help="print the result as JSON, progress on stderr")
    command.add_argument("--keep", action="store_true", help="do not remove the run's directory")
    _add_soak(commands)
    add_parsers(commands)
    return parser


def _add_soak(commands: Any) -> None:
    command = commands.add_parser(
        "soak",
        help="inject random faults into a cluster at work for minutes, and judge the result",
        description="Kill any process of a replica or the gateway, lose disks, corrupt slots, cut replicas off and "
        "lose replies, at most a minority of the replicas at a time, while clients send transfers; and judge the "
        "result. Exit status 0 only if everything holds.",
    )
    command.add_argument(
        "--minutes", type=_minutes, default=10.0, metavar="M", help="minutes that all of it may take (default 10)"
    )
    command.add_argument(
        "--rate", type=whole(1, 1000), default=30, metavar="N", help="transfers per second (default 30)"
    )
    command.add_argument("--replicas", type=replicas, default=3, metavar="N", help="replicas: 3 (the default) or 5")
    command.add_argument("--seed", type=whole(0, SEED_MAX), default=1, metavar="N", help="random seed (default 1)")
    command.add_argument("--directory", type=path, metavar="DIR", help="where the soak makes its temporary directory")
    _add_plant(command)
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
    """Parse, run, and give the exit status. The outermost guard: whatever goes wrong is one line on stderr.

    The line has what went wrong and, as notes, what the command knew about its work at that moment.
    """
    before = signal.signal(signal.SIGTERM, _terminate), signal.getsignal(signal.SIGINT)
    try:
        prepare_streams()
        try:
            parsed = parse(arguments)
            from . import failures  # noqa: F401  # here: help is quick without, and an error finds it in memory

            return _dispatch(parsed)
        finally:
            # A second Ctrl-C finds nothing that it could hurry.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else ExitStatus.DONE  # argparse, after its help or its error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and sys.stderr.isatty():
            show_error("")  # ends the line on which the terminal shows ^C
        from .failures import exit_status_of, what_went_wrong

        show_error("; ".join((what_went_wrong(error), *getattr(error, "__notes__", ()))))
        return exit_status_of(error)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


NOTES_OF_INTERRUPTS = {
    "start": "everything was stopped; a restart resumes",
    "hurt": "the fault may have been injected or not: status shows its effect",
}


def _dispatch(parsed: argparse.Namespace) -> ExitStatus:
    if parsed.command != "start":  # a service goes on when nobody reads what it prints
        try:
            check_output()
        except OutputLost as error:
            error.add_note("nothing was done")
            raise
    if parsed.command not in ("run", "soak"):
        try:
            return COMMANDS[parsed.command](parsed)
        except (KeyboardInterrupt, Terminated) as error:
            if parsed.command in NOTES_OF_INTERRUPTS:
                error.add_note(NOTES_OF_INTERRUPTS[parsed.command])
            raise
    try:
        return (_run if parsed.command == "run" else _soak)(parsed)
    except (KeyboardInterrupt, Terminated, OutputLost) as error:
        error.add_note("everything was stopped" + ("" if parsed.keep else ", and the directory removed"))
        raise


def _terminate(signum: int, frame: object) -> NoReturn:
    raise Terminated


def _temporary(chosen: Path | None) -> Path:
    """Where temporary directories go. Raises `DirectoryUnusable`."""
    try:
        return chosen or Path(tempfile.gettempdir())
    except OSError as error:
        raise DirectoryUnusable(f"--directory: found {error.strerror}, expected one to be given") from error


def _run(parsed: argparse.Namespace) -> ExitStatus:
    from .transfers import read_transfers  # here, like all that imports messages or actors: help is quick

    transfers = read_transfers(parsed.transfers)
    faults = {"--damage": parsed.damage, "--kill": parsed.kill}
    asked = {option: count for option, count in faults.items() if count is not None}
    for option, count in asked.items():
        if count > len(transfers):
            raise Misused(f"{option}: found {count}, expected at most {len(transfers)}, the number of transfers")
    options = Options(
        transfers_file=parsed.transfers,
        transfers=transfers,
        clients=parsed.clients,
        replicas=parsed.replicas,
        seed=parsed.seed,
        directory=_temporary(parsed.directory),
        drop_replies=parsed.drop_replies,
        duplicate_requests=parsed.duplicate_requests,
        damages=asked.get("--damage", default_damages(len(transfers))),
        kills=asked.get("--kill", default_kills(len(transfers))),
        plant=parsed.plant,
        json=parsed.json,
        keep=parsed.keep,
        asked=frozenset(asked),
    )
    from .run import run

    return run(options)


def _soak(parsed: argparse.Namespace) -> ExitStatus:
    options = SoakOptions(
        minutes=parsed.minutes,
        rate=float(parsed.rate),
        replicas=parsed.replicas,
        seed=parsed.seed,
        directory=_temporary(parsed.directory),
        plant=parsed.plant,
        keep=parsed.keep,
    )
    from .soak import soak

    return soak(options)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what the interpreter does at its end would print a traceback
    raise SystemExit(status)
