"""The one place that writes to the standard streams: lines with colours, tables, one line of progress, errors.

Guarantees: a text that standard output does not take is `OutputLost`, whatever the reason; characters that its encoding
does not have are escaped. On stderr nothing raises: there is nowhere left to say it. An error is one line.
Colours and whatever moves go to a terminal only; everything else gets the same text, plain. NO_COLOR means no colours
there either.

Limits: a terminal that cannot move the cursor gets plain text. A full disk shows at the first write, not before.

Owns: the standard streams; what it has drawn of the progress, and the cursor, until `ProgressLine.close`.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import select
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO, TypeAlias, cast

# What draws on a terminal is imported where there is one: the cluster's processes and pipes never need it.
if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Part: TypeAlias = str | tuple[str, str]  # text, or text and its style
Line: TypeAlias = str | Sequence[Part]

GOOD, FAIR, BAD = "green", "yellow", "bold red"
PROGRESS_INTERVAL = 1.0
TERMINAL_INTERVAL = 0.2
BAR_WIDTH = 24
TABLE_WIDTH_MAX = 1000
ERROR_LENGTH_MAX = 2000  # characters


class OutputLost(Exception):
    """Standard output did not take what was to be written; the text says why."""


def prepare_streams() -> None:
    """Make the standard streams safe to use, whatever state this process was started in.

    A closed descriptor gets /dev/null, opened the wrong way round: no file or socket can be given its number and then
    be written to by accident, and its use still fails. What an encoding does not have is escaped.
    """
    for descriptor, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, mode)  # the lowest free number, which is this one
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    sys.stdin = sys.stdin or open(0, closefd=False, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def check_output() -> None:
    """Raise `OutputLost` if it is certain that standard output takes nothing: before a request is sent."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return  # it has been replaced by something that is no file
    events = select.poll()
    events.register(descriptor, select.POLLOUT)
    found = dict(events.poll(0)).get(descriptor, 0)
    if found & select.POLLNVAL or fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OutputLost("it is closed, or open for reading only")
    if found & (select.POLLERR | select.POLLHUP):
        raise OutputLost("its reader has gone")


def show_error(text: str) -> None:
    """One line on stderr, if that takes it."""
    line = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text.strip())
    if len(line) > ERROR_LENGTH_MAX:
        half = ERROR_LENGTH_MAX // 2  # a long path is in the middle: what is wrong with it stands behind
        line = f"{line[:half]} ... {line[-half:]}"
    with contextlib.suppress(OutputLost):
        _write(sys.stderr, f"{line}\n")


def _write(out: TextIO, text: str) -> None:
    try:
        out.write(text)
        out.flush()
    except (OSError, ValueError) as error:
        _let_go(out)
        raise OutputLost(getattr(error, "strerror", None) or str(error)) from error


def _let_go(out: TextIO) -> None:
    """Let the rest of the buffer go to /dev/null, so that the interpreter does not fail with it at its end."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, out.fileno())
        os.close(descriptor)


class _Checked:
    """A stream for `rich` to write to, which otherwise would handle some errors in its own way."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)

    def write(self, text: str) -> int:
        _write(self._out, text)
        return len(text)

    def flush(self) -> None:
        _write(self._out, "")


def plain(line: Line) -> str:
    """The text of a line."""
    return "".join(part if isinstance(part, str) else part[0] for part in line)


def show(lines: Iterable[Line], out: TextIO | None = None) -> None:
    """Print the lines, and flush. Raises `OutputLost`."""
    out = out or sys.stdout
    console = _console(out)
    for line in lines:
        _print(console, out, line)


def show_table(heads: Sequence[str], rows: Iterable[Sequence[Line]], out: TextIO | None = None) -> None:
    """Print a table. What is too wide is left to the terminal to wrap, like all lines: nothing is cut off.

    Raises `OutputLost`.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = out or sys.stdout
    console = _console(out)
    if console is None:
        table = Table(*heads, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
        console = Console(file=io.StringIO(), width=TABLE_WIDTH_MAX, height=1, color_system=None, force_terminal=False)
    else:
        table = Table(*heads, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*(Text.assemble(*_parts(cell)) for cell in row))
    console.width = max(
        console.width, console.measure(table, options=console.options.update(width=TABLE_WIDTH_MAX)).maximum
    )
    with console.capture() as drawn:
        console.print(table)
    _write(out, "".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()))


class ProgressLine:
    """How far a run is, in `what`: on a terminal one line that is redrawn, elsewhere one line per interval.

    Standard output that takes no more ends the run, by `OutputLost`; stderr does not.
    """

    def __init__(self, out: TextIO, interval: float = PROGRESS_INTERVAL, what: str = "transfers") -> None:
        self._out = out
        self._what = what
        self._console = _console(out)
        self._interval = interval if self._console is None else TERMINAL_INTERVAL
        self._progress: Progress | None = None
        self._shown_at = float("-inf")
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def say(self, text: str) -> None:
        """A line that stays."""
        with self._lossy():
            _print(self._console, self._out, text)

    def show(self, done: int, total: int, details: str, *, last: bool = False) -> None:
        """The state of the run, if it is time to show it again."""
        now = time.monotonic()
        if now - self._shown_at < self._interval and not last:
            return
        self._shown_at = now
        text = f"{now - self._begun:5.1f} s  {done}/{total} {self._what}  {details}"
        with self._lossy():
            if self._console is None:
                _write(self._out, f"{text}\n")
                return
            if self._progress is None:
                self._progress = _progress(self._console)
            (task,) = self._progress.task_ids
            self._progress.update(task, completed=done, total=total, description=text, refresh=True)
            if last:
                self.close()

    def close(self) -> None:
        """Leave the line as it is, and give the cursor back."""
        progress, self._progress = self._progress, None
        if progress is not None:
            with self._lossy():
                progress.stop()

    @contextlib.contextmanager
    def _lossy(self) -> Iterator[None]:
        try:
            yield
        except OutputLost:
            if self._out is not sys.stderr:
                raise


def _progress(console: Console) -> Progress:
    """A line of progress on the terminal, drawn only when we say so: there is no thread that a fork could lose."""
    from rich.progress import BarColumn, Progress, TextColumn

    progress = Progress(
        BarColumn(bar_width=BAR_WIDTH, complete_style="cyan", finished_style=GOOD),
        TextColumn("{task.description}", markup=False),
        console=console,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    progress.add_task("")
    progress.start()
    return progress


def _print(console: Console | None, out: TextIO, line: Line) -> None:
    if console is None:
        _write(out, f"{plain(line)}\n")
        return
    from rich.text import Text

    console.print(Text.assemble(*_parts(line)), soft_wrap=True)


def _parts(line: Line) -> Sequence[Part]:
    return [line] if isinstance(line, str) else line


def _console(out: TextIO) -> Console | None:
    """Where colours go: a terminal that can do what they need. We ask before the library does, which
    takes anything for a terminal if FORCE_COLOR says so. Colours are no reason to fail: an environment that the library
    cannot read (COLUMNS is a digit of another script) means plain text."""
    if not out.isatty():
        return None
    from rich.console import Console

    try:
        console = Console(file=cast(TextIO, _Checked(out)), highlight=False)
        return None if console.is_dumb_terminal else console
    except ValueError:
        return None
