"""What the members write down while they work, as JSON lines; the verdict is computed from this and nothing else.

Guarantees: a line is written by who saw it, when it happened: a replica's journal when an operation changes its ledger,
a client's record when an answer comes in, the damage log when a slot is damaged, needed or repaired.

Gives up: durability. Lines are buffered and flushed with every batch; a run that was interrupted has no verdict.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from .service import Execution


class EvidenceWriter:
    """Appends JSON lines to one file."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8")
        self._dirty = False

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


@dataclass(frozen=True, slots=True)
class AnswerSeen:
    """One answer that a client got: `kind` is the name of an `AnswerKind`."""

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


@dataclass(frozen=True, slots=True)
class DamageSeen:
    """One line of the damage log: what happened (`damaged`, `needed`, `repaired`, `lost`) to the reply in `slot`."""

    event: str
    slot: int
    header: str

    def line(self) -> dict[str, object]:
        """The line for this event."""
        return {"event": self.event, "slot": self.slot, "header": self.header}


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


def read_journal(path: Path) -> tuple[Execution, ...]:
    """A replica's journal."""
    return tuple(
        Execution(
            op=line["op"],
            client=line["client"],
            session=line["session"],
            request=line["request"],
            operation=line["operation"],
            row=line["row"],
            sequence=line["sequence"],
            outcome=line["outcome"],
            reply=bytes.fromhex(line["reply"]),
        )
        for line in _lines(path)
    )


def read_answers(path: Path) -> tuple[AnswerSeen, ...]:
    """A client's record."""
    return tuple(AnswerSeen(**{**line, "data": base64.b64decode(line["data"])}) for line in _lines(path))


def read_damage(path: Path) -> tuple[DamageSeen, ...]:
    """The damage log."""
    return tuple(DamageSeen(**line) for line in _lines(path))


def read_final(path: Path) -> Final:
    """What a replica said when it closed."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return Final(data["op"], data["balances"], data["digest"], tuple(data["slots"]), data["counters"])


def _lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
