"""The limits that an annotation declares: what each refuses, in which words, and that nothing is looked at twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, NewType

import pytest

from client_replies.messages.limits import Distinct, Length, LengthPer, Range, Unchecked
from client_replies.messages.message import Message, MessageInvalid

Ticket = NewType("Ticket", int)
Small = Annotated[int, Range(1, 9)]


class Colour(Enum):
    """Something that has a name."""

    RED = "red"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Nested, and no message itself."""

    small: Small = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed(Message):
    """Nested, and not checked there."""

    small: Small = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything(Message):
    """A field of each kind."""

    small: Small = 1
    even: Annotated[int, Range(0, 8, step=2)] = 2
    seconds: Annotated[float, Range(0.5, 2.0)] = 1
    word: Annotated[str, Length(1, 3)] = "a"
    key: Annotated[bytes, Length(2)] = b"ab"
    slots: Annotated[tuple[Small, ...], Length(0, 3), Distinct()] = (1, 2)
    columns: Annotated[bytes, LengthPer("slots", 2)] = b"abcd"
    pairs: Annotated[tuple[tuple[Small, str], ...], Distinct(keys=True)] = ((1, "a"),)
    payload: bytes | Annotated[Ticket, Range(1, 5)] = b""
    colour: Colour | None = None
    counts: Mapping[str, Small]
    part: Part = Part()
    sealed: Annotated[Sealed, Unchecked()] = Sealed()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered(Message):
    """Two fields with a rule between them."""

    low: Small
    high: Small

    def rules(self) -> None:
        """Check the order."""
        if self.low > self.high:
            raise MessageInvalid("high", str(self.high), f"at least {self.low}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wider(Ordered):
    """One field more than its base."""

    width: Small


def everything(**changes: object) -> Everything:
    """Make one that is valid but for these changes."""
    return Everything(**{"counts": {"a": 1}, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"small": 0}, "small is 0, expected an integer from 1 to 9"),
        ({"small": True}, "small is True, expected an integer from 1 to 9"),
        ({"even": 3}, "even is 3, expected an integer from 0 to 8, a multiple of 2"),
        ({"seconds": float("nan")}, "seconds is nan, expected a number from 0.5 to 2.0"),
        ({"word": ""}, "word is '', expected a string of length 1 to 3"),
        ({"key": b"abc"}, "key is bytes of length 3, expected bytes of length 2"),
        ({"slots": [1]}, "slots is list of length 1, expected a tuple of length 0 to 3, each item once"),
        ({"slots": (1, 1)}, "slots is tuple of length 2, expected a tuple of length 0 to 3, each item once"),
        ({"slots": (1, "2")}, "slots is a tuple with '2', expected an integer from 1 to 9 in its place"),
        ({"columns": b""}, "columns is bytes of length 0, expected bytes of length 2 for each of the slots"),
        ({"pairs": ((1, 2),)}, "pairs is a tuple with 2, expected a string in its place"),
        ({"pairs": ((1, "a"), (1, "b"))}, "pairs is tuple of length 2, expected a tuple, each first item once"),
        ({"payload": 6}, "payload is 6, expected bytes or an integer from 1 to 5"),
        ({"colour": "red"}, "colour is 'red', expected Colour or None"),
        ({"counts": {1: 1}}, "counts is a dict with 1, expected a string in its place"),
        ({"counts": None}, "counts is None, expected a mapping"),
        ({"part": Sealed()}, "part is Sealed, expected Part"),
    ],
)
def test_what_breaks_a_limit_is_refused_in_plain_words(changes: dict[str, object], text: str) -> None:
    """The field, what was found, what was expected."""
    everything()
    with pytest.raises(MessageInvalid) as raised:
        everything(**changes)
    assert str(raised.value) == text


def test_what_is_nested_is_checked_unless_its_receiver_does_that() -> None:
    """Also where it is no message."""
    part, sealed = object.__new__(Part), object.__new__(Sealed)
    for nested in (part, sealed):
        object.__setattr__(nested, "small", 10)
    with pytest.raises(MessageInvalid, match="small is 10"):
        everything(part=part)
    everything(sealed=sealed)


def test_rules_come_after_the_limits_and_are_inherited() -> None:
    """They can rely on the types of what they compare; a subclass has its own fields checked as well."""
    with pytest.raises(MessageInvalid, match="high is 1, expected at least 2"):
        Ordered(low=2, high=1)
    with pytest.raises(MessageInvalid, match="low is '2'"):
        Ordered(low="2", high=1)  # type: ignore[arg-type]
    with pytest.raises(MessageInvalid, match="high is 1, expected at least 2"):
        Wider(low=2, high=1, width=1)
    with pytest.raises(MessageInvalid, match="width is 0"):
        Wider(low=1, high=1, width=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loose(Message):
    """A user's message with annotations of which only the type can be checked."""

    table: dict[str, int]
    several: list[Part]
    anything: Any
    kind: type[Part]
    either: dict[str, int] | None = None


def test_of_other_types_only_the_type_itself_is_checked() -> None:
    """What is in them is their receiver's to look at; of `Any` nothing is."""
    loose = Loose(table={"a": "b"}, several=[1], anything=object(), kind=Part)  # type: ignore[dict-item, list-item]
    loose.validate()
    right: dict[str, Any] = {"table": {}, "several": [], "anything": None, "kind": Part}
    for field, wrong in (("table", []), ("several", ()), ("kind", 1), ("either", 1)):
        with pytest.raises(MessageInvalid) as raised:
            Loose(**{**right, field: wrong})
        assert raised.value.field == field
