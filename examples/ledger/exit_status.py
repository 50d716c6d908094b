"""The exit statuses of every sub-command, in one table, which the help prints.

Guarantees: a status means the same for each sub-command, and a script can tell what to do next: nothing (0), look at
the result (1), correct the input (2), try again later (3), find out what was executed (4), read the error (5).
"""

from __future__ import annotations

import enum
import signal


class ExitStatus(enum.IntEnum):
    """How a sub-command ended."""

    DONE = 0
    REFUSED = 1
    BAD_INPUT = 2
    UNAVAILABLE = 3
    OUTPUT_LOST = 4
    FAILED = 5
    INTERRUPTED = 128 + signal.SIGINT
    TERMINATED = 128 + signal.SIGTERM


MEANINGS = {
    ExitStatus.DONE: "done: every request was accepted, every check holds, the cluster has a quorum",
    ExitStatus.REFUSED: "the ledger refused something, a check is broken, or a fault that was asked for did not happen",
    ExitStatus.BAD_INPUT: "arguments, a file, a directory or an input line cannot be used; stderr says what to change",
    ExitStatus.UNAVAILABLE: "no quorum, no reply in time, or the cluster is not up; stderr says if a request is open",
    ExitStatus.OUTPUT_LOST: "the output could not be written; stderr says what was executed",
    ExitStatus.FAILED: "the command could not be finished: the cluster, this machine or the program failed",
    ExitStatus.INTERRUPTED: "interrupted by Ctrl-C (SIGINT)",
    ExitStatus.TERMINATED: "terminated by SIGTERM",
}


def table() -> str:
    """The exit statuses and their meanings, one per line, for the help."""
    lines = [f"  {status.value:<4} {meaning}" for status, meaning in MEANINGS.items()]
    return "\n".join(["exit status:", *lines])
