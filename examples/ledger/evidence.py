"""What the members write down while they work, as JSON lines; the verdict is computed from this and nothing else.

Guarantees: a line is written by who saw it, when it happened: a replica's journal when an operation changes its ledger,
a session's record when an answer comes in, a replica's events when it takes over, or a slot is damaged or repaired.
A replica's counts are in its events too, as increments, so that their sum is over all lives of the replica. A whole
line is read as what was written, or is `EvidenceInvalid`. What a killed process left of its last line is no line.

Limits: durability. Lines are buffered and flushed with every batch; a run that was interrupted has no verdict. Counts
are written several times a second: what a process counted since then is missing if `kill -9` came from outside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from client_replies.messages.invalid import Invalid

LINE_SHOWN_MAX = 80  # bytes of a line that an error shows
T = TypeVar("T")


class EvidenceInvalid(Invalid):
    """A file of evidence has something that no member writes."""


class Executed(msgspec.Struct, frozen=True, tag=True):
    """One line of the journal: an operation changed the state machine. `reply` is the checksum of the whole reply."""

    op: int
    client: int
    session: int
    request: int
    operation: int
    row: int
    sequence: int
    outcome: int
    reply: bytes


class Restored(msgspec.Struct, frozen=True, tag=True):
    """One line of the journal: the state is that after `op`. What was executed after that, is executed again."""

    op: int


class Counted(msgspec.Struct, frozen=True, tag=True):
    """One line of a replica's events: what it counted since the last such line."""

    counts: dict[str, int]


class Seen(msgspec.Struct, frozen=True, tag=True):
    """One line of a replica's events: what happened when, in which view, and to which reply if it is about one.

    `damaged`, `needed`, `repaired`, `lost`: the reply in `slot`. `killed`: the replica killed itself, as planned;
    `unsent`: the reply was committed and not sent then. `primary`: the replica begins the view; `answering`: and has
    executed a request in it. `synced`: it took over the state of another.
    """

    event: str
    time: float
    view: int
    slot: int = -1
    header: str = ""


class SessionOf(msgspec.Struct, frozen=True, tag=True):
    """The first line of a session's record: the client that it is. The library chose the number."""

    client: int


class AnswerSeen(msgspec.Struct, frozen=True, tag=True):
    """One line of a session's record: what it got for a request.

    `kind`: "FIRST" is the awaited answer, "REPEATED" one that was asked for once more; "LOST" is none: the request was
    executed, and no replica has its reply. `tries`: how often it was asked for; `latency`: seconds from the first time.
    """

    client: int
    request: int
    row: int
    kind: str
    tries: int
    latency: float
    data: bytes


class Final(msgspec.Struct, frozen=True):
    """What a replica said when it closed: a file of its own."""

    op: int
    balances: dict[str, int]
    digest: str
    slots: tuple[int, ...]
    counters: dict[str, int]

    def text(self) -> str:
        """The file's content."""
        return msgspec.json.encode(self).decode()


class EvidenceWriter:
    """Appends lines to one file, after the whole lines of an earlier life."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self._file.truncate(path.read_bytes().rfind(b"\n") + 1)

    def write(self, line: Executed | Restored | Counted | Seen | SessionOf | AnswerSeen) -> None:
        """Append one line."""
        self._file.write(msgspec.json.encode(line) + b"\n")

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Write the rest and close."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class JournalLines:
    """What a replica executed.

    `lines` by op, as its state has it now; `undone`: executed before a restart, and not executed again since; `unlike`:
    ops that were executed again otherwise; `gaps`: ops that it has by a state sync, from after the first to the second.
    """

    lines: tuple[Executed, ...]
    undone: tuple[Executed, ...] = ()
    unlike: tuple[int, ...] = ()
    gaps: tuple[tuple[int, int], ...] = ()


def read_journal(path: Path) -> JournalLines:
    """A replica's journal. Raises `EvidenceInvalid`."""
    lines: list[Executed] = []
    undone: dict[int, list[Executed]] = {}
    unlike: set[int] = set()
    gaps: list[tuple[int, int]] = []
    last = 0
    for line in _read(path, _JOURNAL):
        op = line.op
        if isinstance(line, Restored):
            for before in (one for one in lines if one.op > op):
                undone.setdefault(before.op, []).append(before)
            lines = [one for one in lines if one.op <= op]
            if op > last:
                gaps.append((last, op))
            last = op
            continue
        earlier = undone.get(op)
        if earlier:
            if earlier.pop(0) != line:
                unlike.add(op)
            if not earlier:
                del undone[op]
        last = op
        lines.append(line)
    left = tuple(execution for op in sorted(undone) for execution in undone[op])
    return JournalLines(tuple(lines), left, tuple(sorted(unlike)), tuple(gaps))


def read_record(path: Path) -> tuple[int, tuple[AnswerSeen, ...]]:
    """A session's record: which client it was, and what it got. Raises `EvidenceInvalid`."""
    first, *answers = _read(path, _RECORD)
    if not isinstance(first, SessionOf):
        raise EvidenceInvalid(f"{first} in {path}", "the session's client first")
    return first.client, tuple(line for line in answers if isinstance(line, AnswerSeen))


def read_events(path: Path) -> tuple[Seen, ...]:
    """A replica's events. Raises `EvidenceInvalid`."""
    return tuple(line for line in _read(path, _EVENTS) if isinstance(line, Seen))


class Totals:
    """Counts of all replicas over all their lives, read from their events while these grow: no count ever falls."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.counters: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self._read = dict.fromkeys(paths, 0)  # bytes of each file that are counted

    def update(self) -> None:
        """Add the lines that were written since the last time; half a line waits for its other half.

        Raises `EvidenceInvalid`.
        """
        for path, begin in self._read.items():
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(begin)
                data = _whole_lines(file.read())
            self._read[path] = begin + len(data)
            for line in (_decoded(path, line, _EVENTS) for line in data.splitlines()):
                if isinstance(line, Counted):
                    self.counters.update(line.counts)
                else:
                    self.events[line.event] += 1


def read_final(path: Path) -> Final:
    """What a replica said when it closed. Raises `EvidenceInvalid`."""
    return _decoded(path, path.read_bytes(), _FINAL)


_JOURNAL = msgspec.json.Decoder(Executed | Restored)
_EVENTS = msgspec.json.Decoder(Counted | Seen)
_RECORD = msgspec.json.Decoder(SessionOf | AnswerSeen)
_FINAL = msgspec.json.Decoder(Final)


def _read(path: Path, decoder: msgspec.json.Decoder[T]) -> list[T]:
    return [_decoded(path, line, decoder) for line in _whole_lines(path.read_bytes()).splitlines()]


def _whole_lines(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]


def _decoded(path: Path, line: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(line)
    except msgspec.DecodeError as error:
        found = f"{line[:LINE_SHOWN_MAX]!r} in {path}"
        raise EvidenceInvalid(found, f"what a member writes: {error}") from error
