"""What happened, one line per event, and its hash.

Guarantees: a line depends on the seed alone. Nothing that a process, a hash seed or a Python version decides is in it:
no descriptors, process ids, `repr` of sets or objects. Limits: no payloads, which are shown by their length.
An event is put into words only for a sink, the hash, or a failure's report. The columns are explained in README.md.
"""

from __future__ import annotations

import enum
import json
from collections import deque
from collections.abc import Callable
from dataclasses import fields, is_dataclass

import xxhash
from thespian.actors import ChildActorExited, PoisonMessage, WakeupMessage

LAST_LINES = 60


class Trace:
    """The lines of one run. `sink` is called with each; the last few are kept for a failure's report."""

    def __init__(
        self, sink: Callable[[str], None] | None = None, *, as_json: bool = False, hashed: bool = True
    ) -> None:
        self.events = 0
        self.last: deque[tuple[int, str, str, str, object]] = deque(maxlen=LAST_LINES)
        self._hash = xxhash.xxh3_128() if hashed else None
        self._sink = sink
        self._as_json = as_json

    def add(self, now: int, kind: str, source: str, target: str, what: object) -> None:
        """Note an event: at `now` microseconds, from `source` to `target`; a text, or a message."""
        self.events += 1
        self.last.append((now, kind, source, target, what))
        if self._hash is None and self._sink is None:
            return
        text = what if isinstance(what, str) else describe(what)
        if self._hash is not None:
            self._hash.update(f"{now} {kind} {source} {target} {text}\n".encode())
        if self._sink is not None:
            self._sink(self._shown((now, kind, source, target, text)))

    def digest(self) -> str:
        """The hash of everything so far; empty if none was asked for."""
        return self._hash.hexdigest() if self._hash is not None else ""

    def last_lines(self) -> list[str]:
        """The last events, readable."""
        return [line_of(event) for event in self.last]

    def _shown(self, event: tuple[int, str, str, str, str]) -> str:
        if not self._as_json:
            return line_of(event)
        names = ("time_us", "kind", "from", "to", "what")
        return json.dumps(dict(zip(names, event, strict=True)))


def line_of(event: tuple[int, str, str, str, object]) -> str:
    """One event in columns."""
    now, kind, source, target, what = event
    if not isinstance(what, str):
        what = describe(what)
    return f"{now / 1e6:12.6f}  {kind:<8} {source:<14} {target:<14} {what}"


_shown_fields: dict[type, tuple[str, ...]] = {}
_HIDDEN = frozenset({"memory", "pool", "storage", "config", "peers", "counters"})


def describe(message: object) -> str:
    """A message in one short text that is the same in every process."""
    kind = type(message)
    names = _shown_fields.get(kind)
    if names is None:
        names = tuple(field.name for field in fields(message)) if is_dataclass(message) else ()
        names = tuple(name for name in names if name not in _HIDDEN)
        _shown_fields[kind] = names
    if names:
        return f"{kind.__name__} {' '.join([f'{name}={_value(getattr(message, name))}' for name in names])}"
    if isinstance(message, WakeupMessage):
        return f"Wakeup {message.payload}"
    if isinstance(message, ChildActorExited):
        return f"ChildActorExited {message.childAddress.addressDetails}"
    if isinstance(message, PoisonMessage):
        return f"Poison {type(message.poisonMessage).__name__}"
    return kind.__name__


def _value(value: object) -> str:
    kind = type(value)
    if kind is int or kind is str or kind is bool or value is None:
        return str(value)
    if isinstance(value, bytes):
        return f"{len(value)}B"
    if isinstance(value, tuple):
        return f"({','.join([_value(item) for item in value])})"
    if isinstance(value, enum.Enum):
        return value.name
    if is_dataclass(value):
        found = getattr(value, "kind", None)
        return found.name if isinstance(found, enum.Enum) else kind.__name__
    if isinstance(value, dict):
        return f"{{{','.join([f'{key}:{_value(item)}' for key, item in value.items()])}}}"
    return kind.__name__
