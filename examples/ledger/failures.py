"""What an error that ends a command means: its exit status, and one line about it.

Imports the client library for its errors, which `--help` does without.
"""

from __future__ import annotations

import traceback
from pathlib import Path

from client_replies.cluster.client import AnswerLost, ClusterError, ClusterUnavailable, RequestTimeout, SessionEvicted
from client_replies.cluster.host.cluster_directory import ClusterDown, ClusterUnusable
from client_replies.cluster.host.failure import MembersFailed

from .exit_status import ExitStatus
from .options import Terminated
from .run_directory import DirectoryUnusable
from .terminal import OutputLost
from .transfers import TransferFileError
from .typed import Misused

# What each error means for the caller; the first that fits.
STATUSES: tuple[tuple[tuple[type[BaseException], ...], ExitStatus], ...] = (
    ((OutputLost, AnswerLost), ExitStatus.OUTPUT_LOST),
    ((ClusterDown, ClusterUnavailable, RequestTimeout, SessionEvicted), ExitStatus.UNAVAILABLE),
    ((TransferFileError, DirectoryUnusable, ClusterUnusable, Misused), ExitStatus.BAD_INPUT),
    ((KeyboardInterrupt,), ExitStatus.INTERRUPTED),
    ((Terminated,), ExitStatus.TERMINATED),
)


def exit_status_of(error: BaseException) -> ExitStatus:
    """The exit status for an error that ends a command."""
    return next((status for kinds, status in STATUSES if isinstance(error, kinds)), ExitStatus.FAILED)


def what_went_wrong(error: BaseException) -> str:
    """The error in words."""
    if isinstance(error, OutputLost):
        return f"standard output: {error}"
    if isinstance(error, MembersFailed):
        return f"the cluster failed: {error}"
    if isinstance(error, ClusterError):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, KeyboardInterrupt | Terminated):
        return "interrupted" if isinstance(error, KeyboardInterrupt) else "terminated"
    if exit_status_of(error) is not ExitStatus.FAILED:
        return str(error)
    if isinstance(error, OSError | MemoryError):
        return f"failed: {str(error) or type(error).__name__}"
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}, line {where.lineno}"
    return f"failed by a fault of the program: {type(error).__name__}: {error} ({place})"
