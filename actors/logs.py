"""Log lines: structlog events as JSON, one line each, straight from every process to the same file or to stderr.

Guarantees: a line is one append-mode write, so lines of several processes never tear; a process that was forked opens
the file for itself, and a logger that a module made before the fork, or before `configure_logging`, follows; logging
never raises into a handler, and never goes through Thespian (whose forwarding costs ten times as much and takes
transmit slots that the protocols need).

Gives up: a line that cannot be written (full disk) is dropped and counted. The application's own structlog
configuration is neither used nor changed.

Owns: one descriptor a process.
"""

import contextlib
import logging
import os
from collections.abc import MutableMapping
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger, Processor, WrappedLogger

STDERR_FD = 2


class _Output:
    """Where the lines of this process go. Without `configure_logging`: warnings and worse, to stderr."""

    def __init__(self) -> None:
        self.path: str | None = None
        self.level = logging.WARNING
        self.lines_dropped = 0
        self._fd: int | None = None

    def configure(self, path: str | None, level: int) -> None:
        """Send what comes from now on elsewhere."""
        self.close()
        self.path = path
        self.level = level

    def write(self, line: bytes) -> None:
        """Append one line, or count that it could not be."""
        try:
            if os.write(self._descriptor(), line) != len(line):
                self.lines_dropped += 1  # cut short: the disk is full
        except OSError:
            self.lines_dropped += 1

    def close(self) -> None:
        """Let go of this process's descriptor; the next line opens it again."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None

    def _descriptor(self) -> int:
        if self.path is None:
            return STDERR_FD
        if self._fd is None:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        return self._fd


_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
    "critical": logging.CRITICAL,
}

_output = _Output()
os.register_at_fork(after_in_child=_output.close)


class _LineLogger:
    """What structlog hands each finished line to; the level was settled before."""

    def msg(self, line: str) -> None:
        _output.write(line.encode("utf-8", "backslashreplace") + b"\n")

    debug = info = warning = error = critical = exception = log = msg


def _drop_below_level(_logger: WrappedLogger, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Decide by the level of now, not by that of when the logger was made."""
    if _LEVELS[method] < _output.level:
        raise structlog.DropEvent
    return event


def _add_pid(_logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["pid"] = os.getpid()
    return event


_PROCESSORS: list[Processor] = [
    _drop_below_level,
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _add_pid,
    structlog.processors.format_exc_info,
    structlog.processors.JSONRenderer(default=str),
]
_BoundLogger = structlog.make_filtering_bound_logger(logging.NOTSET)


def configure_logging(path: str | None = None, level: int = logging.INFO) -> None:
    """Send log lines to this file (None: stderr) from this level up.

    To be called before an actor system is started: its processes inherit the choice.
    """
    _output.configure(None if path is None else os.path.abspath(path), level)


def get_logger(component: str, **context: Any) -> FilteringBoundLogger:
    """Give a logger whose events name the component; cheap, and safe to keep in a module."""
    logger: FilteringBoundLogger = structlog.wrap_logger(
        _LineLogger(), processors=_PROCESSORS, wrapper_class=_BoundLogger, component=component, **context
    )
    return logger


class ThespianRecordHandler(logging.Handler):
    """Write what Thespian itself reports (in its logger process) as the same kind of line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Turn a record into an event; a traceback arrives from the actor as text."""
        context = {"actor": str(getattr(record, "actorAddress", "")), "source_pid": record.process}
        if record.exc_text:
            context["exception"] = record.exc_text
        level = min(logging.CRITICAL, max(logging.DEBUG, record.levelno // 10 * 10))
        get_logger("thespian").log(level, record.getMessage(), **context)


def thespian_log_defs() -> dict[str, Any]:
    """Give the least that Thespian wants to be told: warnings and worse, to where our own lines go."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"lines": {"()": ThespianRecordHandler}},
        "root": {"level": "WARNING", "handlers": ["lines"]},
    }
