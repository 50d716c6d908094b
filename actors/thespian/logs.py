"""Log lines: structlog events as JSON, one line each, straight from every process to the same file or to stderr.

Guarantees: logging never blocks an actor, never raises into a handler, and never goes through Thespian (whose
forwarding costs ten times as much and takes transmit slots that the protocols need). A line is one append-mode write,
so lines of several processes never tear. What cannot be written at once (a pipe that nobody reads, a full disk, a
closed stderr) is dropped, and the next line that can be written is preceded by `lines_dropped` with their number. A
process that was forked opens the file for itself, and a logger that a module made before the fork, or before
`configure_logging`, follows. `LimitedLog` bounds the lines that others can cause.

Limits: a pipe or a terminal as stderr that this process may not open again (another user made it) is only asked
whether it has room before each line; two processes that write to its last room in the same moment can still block. A
file on a file system that hangs blocks. The application's own structlog configuration is neither used nor changed.

Owns: one descriptor per process.
"""

import contextlib
import errno
import json
import logging
import os
import select
import socket
import stat
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger, Processor, WrappedLogger

STDERR_FD = 2
# Of one kind of event that others can cause: so many lines at once, and then one per interval.
LIMITED_LINES_BURST = 10
LIMITED_LINES_INTERVAL_S = 1.0


class _Output:
    """Where the lines of this process go. Without `configure_logging`: warnings and worse, to stderr."""

    def __init__(self) -> None:
        self.path: str | None = None
        self.level = logging.WARNING
        self.lines_dropped = 0
        self._untold = 0  # dropped, and not yet reported
        self._torn = False  # the last line was cut short
        self._write: Callable[[bytes], int] | None = None
        self._close: Callable[[], None] = lambda: None
        self._stderr: tuple[int, int] | None = None  # the file that fd 2 was when it was opened again

    def configure(self, path: str | None, level: int) -> None:
        """Send what comes from now on elsewhere."""
        self.close()
        self.path = path
        self.level = level

    def write(self, line: bytes) -> None:
        """Append one line, or count that it could not be. Waits for nobody."""
        if self._untold and self._append(_line_about_dropped(self._untold)):
            self._untold = 0
        if self._untold or not self._append(line):
            self._untold += 1
            self.lines_dropped += 1

    def _append(self, line: bytes) -> bool:
        data = b"\n" + line if self._torn else line
        try:
            written = self._writer()(data)
        except OSError:
            return False  # no room, a full disk, nobody at the other end, closed
        if written:
            self._torn = written < len(data)
        return written == len(data)

    def _writer(self) -> Callable[[bytes], int]:
        if self.path is None:
            return self._stderr_writer()
        if self._write is None:
            # The description is our own, so it may be non-blocking: the path may name a pipe.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
            self._use(os.open(self.path, flags, 0o644))
        return self._write or _nowhere

    def _stderr_writer(self) -> Callable[[bytes], int]:
        if sys.__stderr__ is None:
            # The process began without one: by now the number may be that of a data file.
            raise OSError(errno.EBADF, "there is no stderr")
        status = os.fstat(STDERR_FD)
        if self._write is None or self._stderr != (status.st_dev, status.st_ino):
            self.close()
            self._open_stderr(status.st_mode)
            self._stderr = status.st_dev, status.st_ino
        return self._write or _nowhere

    def _open_stderr(self, mode: int) -> None:
        """Find a way to write to stderr that does not block, and leaves alone what is shared with other processes.

        O_NONBLOCK belongs to the open file description, which is also the shell's.
        """
        if stat.S_ISSOCK(mode):
            connection = socket.socket(fileno=os.dup(STDERR_FD))
            self._write = lambda data: connection.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            self._close = connection.close
        elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
            try:
                self._use(os.open(f"/proc/self/fd/{STDERR_FD}", flags))
            except (PermissionError, FileNotFoundError):
                self._write = _write_if_room
        else:
            self._write = lambda data: os.write(STDERR_FD, data)  # a file: at the offset that all share

    def _use(self, fd: int) -> None:
        self._write = lambda data: os.write(fd, data)
        self._close = lambda: os.close(fd)

    def prepare(self) -> None:
        """Open what lines go to, so that a process that runs out of descriptors can say so."""
        with contextlib.suppress(OSError):
            self._writer()

    def close(self) -> None:
        """Let go of this process's descriptor; the next line opens it again."""
        with contextlib.suppress(OSError):
            self._close()
        self._write = None
        self._close = lambda: None

    def forget_parent(self) -> None:
        """This process was forked: what its parent opened and dropped is the parent's."""
        self.close()
        self._torn = False
        self.lines_dropped = self._untold = 0


def _nowhere(_data: bytes) -> int:
    return 0


def _write_if_room(data: bytes) -> int:
    poll = select.poll()
    poll.register(STDERR_FD, select.POLLOUT)
    if not any(events & select.POLLOUT for _, events in poll.poll(0)):
        raise BlockingIOError(errno.EAGAIN, "stderr has no room")
    return os.write(STDERR_FD, data[: select.PIPE_BUF])  # so much fits where there is room at all


def _line_about_dropped(count: int) -> bytes:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    event = {"event": "lines_dropped", "component": "logs", "dropped": count, "pid": os.getpid(), "level": "warning"}
    return json.dumps({**event, "timestamp": now}).encode() + b"\n"


_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
    "critical": logging.CRITICAL,
}

_output = _Output()
os.register_at_fork(after_in_child=_output.forget_parent)


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


def prepare_logging() -> None:
    """Open what this process's lines go to: for a process that will have much open, and may run out of descriptors."""
    _output.prepare()


def get_logger(component: str, **context: Any) -> FilteringBoundLogger:
    """Give a logger whose events name the component; cheap, and safe to keep in a module."""
    logger: FilteringBoundLogger = structlog.wrap_logger(
        _LineLogger(), processors=_PROCESSORS, wrapper_class=_BoundLogger, component=component, **context
    )
    return logger


@dataclass(slots=True)
class _Allowance:
    """Lines of one kind of event that may still be written, and those that were left out since the last one."""

    lines: float
    at: float
    unlogged: int = 0


class LimitedLog:
    """Warnings that others can cause: `burst` lines of one event at once, then one per interval.

    A line says how many of its kind were left out before it. `now` is the actor's clock. Events are named by the
    program, never by who causes them, so that what is remembered is bounded.
    """

    def __init__(
        self,
        log: FilteringBoundLogger,
        now: Callable[[], float] = time.monotonic,
        *,
        burst: int = LIMITED_LINES_BURST,
        interval_s: float = LIMITED_LINES_INTERVAL_S,
    ) -> None:
        self._log = log
        self._now = now
        self._burst = burst
        self._interval_s = interval_s
        self._allowances: dict[str, _Allowance] = {}

    def event(self, event: str, details: Mapping[str, object], level: int = logging.WARNING) -> None:
        """Log the event, or count that it was left out."""
        now = self._now()
        allowance = self._allowances.get(event)
        if allowance is None:
            allowance = self._allowances[event] = _Allowance(self._burst, now)
        allowance.lines = min(self._burst, allowance.lines + max(0.0, now - allowance.at) / self._interval_s)
        allowance.at = now
        if allowance.lines < 1.0:
            allowance.unlogged += 1
            return
        allowance.lines -= 1.0
        left_out = {"unlogged": allowance.unlogged} if allowance.unlogged else {}
        allowance.unlogged = 0
        self._log.log(level, event, **details, **left_out)

    def forget(self) -> None:
        """Begin anew: what was logged so far was another process's."""
        self._allowances.clear()


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
