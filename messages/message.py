"""What every message of the component has in common.

Guarantees: a message that exists is valid. It is frozen, compares by value, pickles, and is checked when it is made
(`MessageInvalid` says which field, what was found and what was expected). Unpickling skips the constructor, so an
actor calls `validate` once more on whatever arrives from another process.

Limits: no nested validation of opaque payloads. Bytes that claim to be a reply are verified by who uses them.

`str()` of a message is its class name, and of a failure also why. Thespian formats every message several times on its
way for an internal log, and a megabyte formatted that often costs twenty to forty times what carrying it costs.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from .invalid import Invalid

U8_MAX = 2**8 - 1
U16_MAX = 2**16 - 1
U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1
U128_MAX = 2**128 - 1


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
        self.validate()

    def validate(self) -> None:
        """Raise `MessageInvalid` if a field is wrong.

        By default every field has the type that it is annotated with. A class with closer limits checks all its fields.
        """
        for field, kinds in _field_kinds(type(self)):
            value = getattr(self, field)
            if not isinstance(value, kinds) or (type(value) is bool and bool not in kinds):
                raise MessageInvalid(field, shown(value), " or ".join(kind.__name__ for kind in kinds))

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


_FieldKinds = tuple[tuple[str, tuple[type, ...]], ...]
_field_kinds_known: dict[type, _FieldKinds] = {}


def _field_kinds(message: type[Message]) -> _FieldKinds:
    """Each field of a message class, with the types that its annotation names, without what they contain."""
    known = _field_kinds_known.get(message)
    if known is None:
        hints = typing.get_type_hints(message)
        known = tuple((field.name, tuple(_kinds(hints[field.name]))) for field in fields(message))
        _field_kinds_known[message] = known
    return known


def _kinds(annotation: object) -> Iterator[type]:
    origin = typing.get_origin(annotation)
    if isinstance(annotation, typing.NewType):
        yield from _kinds(annotation.__supertype__)
    elif origin in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from _kinds(part)
    else:
        kind = origin or annotation
        yield kind if isinstance(kind, type) else object


def check_int(field: str, value: object, low: int, high: int) -> None:
    """Raise unless `value` is an int (no bool) between `low` and `high`, both included."""
    if type(value) is not int or not low <= value <= high:
        raise MessageInvalid(field, shown(value), f"an integer from {low} to {high}")


def check_ints(field: str, values: object, low: int, high: int) -> None:
    """Raise unless `values` is a tuple of ints between `low` and `high`, both included."""
    if type(values) is not tuple:
        raise MessageInvalid(field, shown(values), "a tuple of integers")
    if not values:
        return
    if set(map(type, values)) != {int} or min(values) < low or max(values) > high:
        wrong = next(value for value in values if type(value) is not int or not low <= value <= high)
        raise MessageInvalid(field, f"a tuple with {shown(wrong)}", f"integers from {low} to {high}")


def check_distinct(field: str, values: Sequence[int]) -> None:
    """Raise if a value occurs twice."""
    if len(set(values)) != len(values):
        raise MessageInvalid(field, "a tuple with repeated values", "each value once")


def check_bytes(field: str, value: object, low: int, high: int) -> None:
    """Raise unless `value` is bytes of `low` to `high` length."""
    if type(value) is not bytes or not low <= len(value) <= high:
        size = f"between {low} and {high}" if low != high else f"exactly {low}"
        raise MessageInvalid(field, shown(value), f"{size} bytes")


def check_type(field: str, value: object, *kinds: type) -> None:
    """Raise unless `value` is an instance of one of `kinds`."""
    if not isinstance(value, kinds):
        raise MessageInvalid(field, shown(value), " or ".join(kind.__name__ for kind in kinds))


def shown(value: object) -> str:
    """A short text for an arbitrary value, without formatting what may be large."""
    if isinstance(value, bytes | bytearray | tuple | list | dict | set | frozenset):
        return f"{type(value).__name__} of length {len(value)}"
    if isinstance(value, str | int | float | None):
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:77]}..."
    return type(value).__name__
