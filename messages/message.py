"""What every message of the component has in common.

Guarantees: a message that exists is valid. It is frozen, compares by value, pickles, and is checked against the
annotations of its fields (`limits`) when it is made: `MessageInvalid` says which field, what was found and what was
expected. A class with a method `rules()` checks there what spans fields. Unpickling skips the constructor, so an actor
calls `validate` once more on whatever arrives from another process.

Limits: bytes that claim to be a reply are verified by who uses them.

`str()` of a message is its class name, and of a failure also why. Thespian formats every message several times on its
way for an internal log, and a megabyte formatted that often costs twenty to forty times what carrying it costs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from .invalid import Invalid
from .limits import Checks, Range, expected

U8_MAX = 2**8 - 1
U16_MAX = 2**16 - 1
U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1
U128_MAX = 2**128 - 1

U8 = Annotated[int, Range(0, U8_MAX)]
U16 = Annotated[int, Range(0, U16_MAX)]
U32 = Annotated[int, Range(0, U32_MAX)]
U64 = Annotated[int, Range(0, U64_MAX)]
U128 = Annotated[int, Range(0, U128_MAX)]
Number = Annotated[int, Range(1, U64_MAX)]  # of a request, or of who asks: counted from 1, or drawn and never 0
Op = U64
View = U32


class MessageInvalid(Invalid):
    """A field of a message has a value that it must not have."""

    def __init__(self, field: str, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.args = (field, found, expected)
        self.field = field

    def __str__(self) -> str:
        return f"{self.field} is {self.found}, expected {self.expected}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Base of all messages: frozen, validated when made, with a `str()` that costs nothing."""

    def __init_subclass__(cls) -> None:
        # The methods that a frozen dataclass with slots would get ask for its fields every time, which takes longer
        # than everything else that pickling a small message takes.
        type.__setattr__(cls, "__getstate__", _state)
        type.__setattr__(cls, "__setstate__", _restore)

    def __post_init__(self) -> None:
        _CHECKS[type(self)](self)

    def validate(self) -> None:
        """Raise `MessageInvalid` for the first field that is not as it is annotated, or what `rules()` raises."""
        _CHECKS[type(self)](self)

    def __str__(self) -> str:
        return type(self).__name__


_names_known: dict[type, tuple[str, ...]] = {}


def _names(message: type[Message]) -> tuple[str, ...]:
    known = _names_known.get(message)
    if known is None:
        known = _names_known[message] = tuple(field.name for field in fields(message))
    return known


def _state(message: Message) -> list[object]:
    return [getattr(message, name) for name in _names(type(message))]


def _restore(message: Message, state: list[object]) -> None:
    for name, value in zip(_names(type(message)), state, strict=True):
        object.__setattr__(message, name, value)


def shown(value: object) -> str:
    """A short text for an arbitrary value, without formatting what may be large."""
    if isinstance(value, bytes | bytearray | tuple | list | dict | set | frozenset):
        return f"{type(value).__name__} of length {len(value)}"
    if isinstance(value, str | int | float | None):
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:77]}..."
    return type(value).__name__


def _invalid(field: str, value: object, annotation: object, whole: object = None) -> MessageInvalid:
    if whole is None:
        return MessageInvalid(field, shown(value), expected(annotation))
    return MessageInvalid(
        field, f"a {type(whole).__name__} with {shown(value)}", f"{expected(annotation)} in its place"
    )


_CHECKS = Checks(_invalid)
