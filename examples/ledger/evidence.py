"""What the members write down while they work, as JSON lines; the verdict is computed from this and nothing else.

Guarantees: a line is written by who saw it, when it happened: a replica's journal when an operation changes its ledger,
a session's record when an answer comes in, a replica's events when it takes over, or a slot is damaged or repaired.
A replica's counts are in its events too, as increments, so that their sum is over all lives of the replica.

Limits: durability. Lines are buffered and flushed with every batch; a run that was interrupted has no verdict. Counts
are written several times a second: what a process counted since then is missing if `kill -9` came from outside.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO


@dataclass(frozen=True, slots=True)
class Execution:
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


class EvidenceWriter:
    """Appends JSON lines to one file, after those of an earlier life."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8")
        # Who was killed may have left half a line.
        self._dirty = self._file.tell() > 0
        if self._dirty:
            self._file.write("\n")

    def write(self, record: Mapping[str, object]) -> None:
        """Append one line."""
        self._file.write(json.dumps(record, separators=(",", ":")) + "\n")
        self._dirty = True

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        if self._dirty:
            self._file.flush()
            self._dirty = False

    def close(self) -> None:
        """Write the rest and close."""
        self._file.close()


def journal_line(execution: Execution) -> dict[str, object]:
    """The line for one execution."""
    return {
        "op": execution.op,
        "client": execution.client,
        "session": execution.session,
        "request": execution.request,
        "operation": execution.operation,
        "row": execution.row,
        "sequence": execution.sequence,
        "outcome": execution.outcome,
        "reply": execution.reply.hex(),
    }


def restored_line(op: int) -> dict[str, object]:
    """The line for a replica whose state is that after `op`: what it executed after that, it executes again."""
    return {"restored": op}


def counted_line(increments: Mapping[str, int]) -> dict[str, object]:
    """The line for what a replica counted since the last such line."""
    return {"counted": dict(increments)}


@dataclass(frozen=True, slots=True)
class Journal:
    """What a replica executed.

    `lines` by op, as its state has it now; `undone`: executed before a restart, and not executed again since; `unlike`:
    ops that were executed again otherwise; `gaps`: ops that it has by a state sync, from after the first to the second.
    """

    lines: tuple[Execution, ...]
    undone: tuple[Execution, ...] = ()
    unlike: tuple[int, ...] = ()
    gaps: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerSeen:
    """What a client got for a request.

    `kind`: "FIRST" is the awaited answer, "REPEATED" one that was asked for once more; "LOST" is none: the request was
    executed, and no replica has its reply. `tries`: how often it was asked for; `latency`: seconds from the first time.
    """

    client: int
    request: int
    row: int
    kind: str
    tries: int
    latency: float
    data: bytes = field(repr=False)

    def line(self) -> dict[str, object]:
        """The line for this answer."""
        return {
            "client": self.client,
            "request": self.request,
            "row": self.row,
            "kind": self.kind,
            "tries": self.tries,
            "latency": self.latency,
            "data": base64.b64encode(self.data).decode(),
        }


def client_line(client: int) -> dict[str, object]:
    """The line for the client that a session is, before its answers: the library chose the number."""
    return {"session_of": client}


@dataclass(frozen=True, slots=True)
class Seen:
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

    def line(self) -> dict[str, object]:
        """The line for this event."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Final:
    """What a replica said when it closed."""

    op: int
    balances: Mapping[str, int]
    digest: str
    slots: tuple[int, ...]
    counters: Mapping[str, int]

    def text(self) -> str:
        """The file's content."""
        return json.dumps(
            {
                "op": self.op,
                "balances": dict(self.balances),
                "digest": self.digest,
                "slots": list(self.slots),
                "counters": dict(self.counters),
            }
        )


def read_journal(path: Path) -> Journal:
    """A replica's journal."""
    lines: list[Execution] = []
    undone: dict[int, list[Execution]] = {}
    unlike: set[int] = set()
    gaps: list[tuple[int, int]] = []
    last = 0
    for line in _lines(path):
        if "restored" in line:
            op = line["restored"]
            for before in (one for one in lines if one.op > op):
                undone.setdefault(before.op, []).append(before)
            lines = [one for one in lines if one.op <= op]
            if op > last:
                gaps.append((last, op))
            last = op
            continue
        execution = Execution(**{**line, "reply": bytes.fromhex(line["reply"])})
        earlier = undone.get(execution.op)
        if earlier:
            if earlier.pop(0) != execution:
                unlike.add(execution.op)
            if not earlier:
                del undone[execution.op]
        last = execution.op
        lines.append(execution)
    left = tuple(execution for op in sorted(undone) for execution in undone[op])
    return Journal(tuple(lines), left, tuple(sorted(unlike)), tuple(gaps))


def read_record(path: Path) -> tuple[int, tuple[AnswerSeen, ...]]:
    """A session's record: which client it was, and what it got."""
    first, *lines = _lines(path)
    return first["session_of"], tuple(AnswerSeen(**{**line, "data": base64.b64decode(line["data"])}) for line in lines)


def read_events(path: Path) -> tuple[Seen, ...]:
    """A replica's events."""
    return tuple(Seen(**line) for line in _lines(path) if "event" in line)


class Totals:
    """Counts of all replicas over all their lives, read from their events while these grow: no count ever falls."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.counters: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self._read = dict.fromkeys(paths, 0)  # bytes of each file that are counted

    def update(self) -> None:
        """Add the lines that were written since the last time. Half a line waits for its other half."""
        for path, begin in self._read.items():
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(begin)
                data = file.read()
            data = data[: data.rfind(b"\n") + 1]
            self._read[path] = begin + len(data)
            for line in _parsed(data.decode()):
                self.counters.update(line.get("counted", {}))
                if "event" in line:
                    self.events[line["event"]] += 1


def read_final(path: Path) -> Final:
    """What a replica said when it closed."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return Final(data["op"], data["balances"], data["digest"], tuple(data["slots"]), data["counters"])


def _lines(path: Path) -> list[dict[str, Any]]:
    """All lines but empty ones and the half ones that a killed process left."""
    return _parsed(path.read_text(encoding="utf-8"))


def _parsed(text: str) -> list[dict[str, Any]]:
    found = []
    for line in text.split("\n"):
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
