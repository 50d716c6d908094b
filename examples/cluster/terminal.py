"""What people see: lines with colours, tables, and one line of progress.

Guarantees: colours and whatever moves go to a terminal only, and only if `rich` is installed; everything else gets the
same text, plain. NO_COLOR means no colours there either. Gives up: terminals that cannot move the cursor: plain text.

Owns: what it has drawn of the progress, and the cursor, until `ProgressLine.close`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO, TypeAlias

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


def plain(line: Line) -> str:
    """The text of a line."""
    return "".join(part if isinstance(part, str) else part[0] for part in line)


def show(lines: Iterable[Line], out: TextIO | None = None) -> None:
    """Print the lines, and flush."""
    out = out or sys.stdout
    console = _console(out)
    for line in lines:
        _print(console, out, line)


def show_table(heads: Sequence[str], rows: Iterable[Sequence[Line]], out: TextIO | None = None) -> None:
    """Print a table. What is too wide is left to the terminal to wrap, like all lines: nothing is cut off."""
    out = out or sys.stdout
    console = _console(out)
    if console is None:
        cells = [list(heads), *([plain(cell) for cell in row] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for texts in cells:
            padded = (text.ljust(width) for text, width in zip(texts, widths, strict=True))
            print("  ".join(padded).rstrip(), file=out, flush=True)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(*heads, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*(Text.assemble(*_parts(cell)) for cell in row))
    console.width = max(
        console.width, console.measure(table, options=console.options.update(width=TABLE_WIDTH_MAX)).maximum
    )
    console.print(table)


class ProgressLine:
    """How far a run is: on a terminal one line that is drawn anew, elsewhere a line now and then."""

    def __init__(self, out: TextIO, interval: float = PROGRESS_INTERVAL) -> None:
        self._out = out
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
        _print(self._console, self._out, text)

    def show(self, done: int, total: int, details: str, *, last: bool = False) -> None:
        """The state of the run, if it is time to show it again."""
        now = time.monotonic()
        if now - self._shown_at < self._interval and not last:
            return
        self._shown_at = now
        text = f"{now - self._begun:5.1f} s  {done}/{total} transfers  {details}"
        if self._console is None:
            print(text, file=self._out, flush=True)
            return
        if self._progress is None:
            self._progress = _progress(self._console)
        (task,) = self._progress.task_ids
        self._progress.update(task, completed=done, total=total, description=text, refresh=True)
        if last:
            self.close()

    def close(self) -> None:
        """Leave the line as it is, and give the cursor back."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


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
        print(plain(line), file=out, flush=True)
        return
    from rich.text import Text

    console.print(Text.assemble(*_parts(line)), soft_wrap=True)


def _parts(line: Line) -> Sequence[Part]:
    return [line] if isinstance(line, str) else line


def _console(out: TextIO) -> Console | None:
    """Where colours go: a terminal that can do what they need, and the library. We ask before the library does, which
    takes anything for a terminal if FORCE_COLOR says so."""
    if not out.isatty() or find_spec("rich") is None:
        return None
    from rich.console import Console

    console = Console(file=out, highlight=False)
    return None if console.is_dumb_terminal else console
