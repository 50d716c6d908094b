"""What a field may hold, declared in its annotation: `slots: Annotated[tuple[Slot, ...], Length(1, 1024), Distinct()]`.

Guarantees: `Checks` has for each dataclass one function, compiled when it is first asked for. It checks every field
against its annotation, and what is nested: the items of tuples and mappings, and dataclasses by their own checks. Then
it calls the object's `rules()`, if it has any, for what spans fields. Builtin types are exact, so that a bool is no
int; but an int passes for a float.

Limits: a union has no tuple and no mapping in it. Of other generic types only the type itself is checked (of a
`dict[str, int]` that it is a dict), and of what is no type (`Any`) nothing.

The function is made as Python source, because every message is checked twice on its way, and a call for each field
would cost as much as what it checks.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any


class Limit:
    """What a value must keep beside its type: as a Python expression about `{0}`, and in words after its type's."""

    condition = "True"
    text = ""


class Range(Limit):
    """A number from `low` to `high`, both included, and a multiple of `step`, if there is one."""

    def __init__(self, low: float, high: float, *, step: int = 0) -> None:
        self.low, self.high, self.step = low, high, step
        self.condition = f"{low} <= {{0}} <= {high}" + (f" and {{0}} % {step} == 0" if step else "")
        self.text = f" from {low} to {high}" + (f", a multiple of {step}" if step else "")


class Length(Limit):
    """So many bytes, characters or items: from `low` to `high`, or exactly `low`."""

    def __init__(self, low: int, high: int | None = None) -> None:
        self.low, self.high = low, low if high is None else high
        self.condition = f"{self.low} <= len({{0}}) <= {self.high}"
        self.text = f" of length {low}" if high is None else f" of length {low} to {high}"


class LengthPer(Limit):
    """So many bytes or items for each item of `column`, a field before this one: both are columns of one table."""

    def __init__(self, column: str, size: int = 1) -> None:
        self.size = size
        self.condition = f"len({{0}}) == {size} * len(message.{column})"
        self.text = f" of length {size} for each of the {column}"


class Distinct(Limit):
    """No item twice; with `keys`, of pairs, no first one twice."""

    def __init__(self, *, keys: bool = False) -> None:
        self.condition = f"len({'dict' if keys else 'set'}({{0}})) == len({{0}})"
        self.text = ", each first item once" if keys else ", each item once"


class Unchecked(Limit):
    """A nested dataclass of which only the class is checked here, because who takes it checks the rest."""


Check = Callable[[Any], None]

_BUILTINS: dict[Any, tuple[str, str]] = {
    int: ("type({0}) is int", "an integer"),
    float: ("type({0}) in (float, int)", "a number"),
    bool: ("type({0}) is bool", "a bool"),
    str: ("type({0}) is str", "a string"),
    bytes: ("type({0}) is bytes", "bytes"),
    types.NoneType: ("{0} is None", "None"),
    tuple: ("type({0}) is tuple", "a tuple"),
    Mapping: ("isinstance({0}, Mapping)", "a mapping"),
}


class Checks(dict[type, Check]):
    """For each dataclass the function that checks an instance.

    It raises what `invalid` makes of the field's name, the value that is wrong and its annotation; and of the whole
    field, if the value is only a part of it.
    """

    def __init__(self, invalid: Callable[..., Exception]) -> None:
        self._invalid = invalid

    def __missing__(self, kind: type) -> Check:
        names: dict[str, Any] = {"checks": self, "invalid": self._invalid, "Mapping": Mapping}
        lines = ["def check(message):"]
        hints = typing.get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            lines += [f" value = message.{field.name}", *_lines(field.name, hints[field.name], "value", names)]
        lines.append(" message.rules()" if hasattr(kind, "rules") else " return")
        exec(compile("\n".join(lines), f"<check of {kind.__name__}>", "exec"), names)
        self[kind] = names["check"]
        return self[kind]


def _lines(field: str, annotation: object, value: str, names: dict[str, Any], indent: str = " ") -> list[str]:
    """The lines that raise unless the variable `value` is as annotated. `names` is given what they refer to."""
    base, limits = parts(annotation)
    inner = typing.get_args(base)
    items = [f"{value}{number}" for number, item in enumerate(inner) if item is not ...]
    whole = "" if value == "value" else ", value"
    raises = f"raise invalid({field!r}, {value}, {_name(annotation, names)}{whole})"
    if _is_union(base) or typing.get_origin(base) not in _BUILTINS:
        return [f"{indent}if not ({_condition(annotation, value, names)}): {raises}"]
    kind, loop = _BUILTINS[typing.get_origin(base)][0].format(value), value
    if typing.get_origin(base) is Mapping:
        loop = f"{value}.items()"
    elif inner[-1] is not ...:
        kind, loop = f"{kind} and len({value}) == {len(inner)}", f"({value},)"
    found = [f"{indent}if not ({kind}): {raises}", f"{indent}for {', '.join(items)} in {loop}:"]
    for item, part in zip(items, inner, strict=False):
        found += _lines(field, part, item, names, f"{indent} ")
    return [*found, *(f"{indent}if not ({limit.condition.format(value)}): {raises}" for limit in limits)]


def _condition(annotation: object, value: str, names: dict[str, Any]) -> str:
    base, limits = parts(annotation)
    if any(isinstance(limit, Unchecked) for limit in limits):
        return f"isinstance({value}, {_name(base, names)})"
    if _is_union(base):
        kind = f"({' or '.join(_condition(part, value, names) for part in typing.get_args(base))})"
    elif base in _BUILTINS:
        kind = _BUILTINS[base][0].format(value)
    else:
        plain = typing.get_origin(base) or base
        is_type = isinstance(plain, type) and plain is not Any
        kind = f"isinstance({value}, {_name(plain, names)})" if is_type else "True"
        if is_dataclass(base):
            kind += f" and checks[type({value})]({value}) is None"
    return " and ".join([kind, *(limit.condition.format(value) for limit in limits)])


def expected(annotation: object) -> str:
    """What a value with this annotation must be, in words."""
    base, limits = parts(annotation)
    origin = typing.get_origin(base) or base
    if _is_union(base):
        kind = " or ".join(map(expected, typing.get_args(base)))
    else:
        kind = _BUILTINS[origin][1] if origin in _BUILTINS else origin.__name__
    return kind + "".join(limit.text for limit in limits)


def parts(annotation: Any) -> tuple[Any, list[Limit]]:
    """The type in an annotation and its limits."""
    limits: list[Limit] = []
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            limits = [*annotation.__metadata__, *limits]
            annotation = annotation.__origin__
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        else:
            return annotation, limits


def _is_union(base: object) -> bool:
    return typing.get_origin(base) in (typing.Union, types.UnionType)


def _name(value: object, names: dict[str, Any]) -> str:
    name = f"_{len(names)}"
    names[name] = value
    return name
