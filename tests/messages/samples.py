"""One valid message of each class, made from the annotations of its fields, and the values that each field refuses."""

import enum
import importlib
import pkgutil
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

from thespian.actors import ActorAddress

import client_replies.cluster
import client_replies.messages
from client_replies.cluster.protocol import Request
from client_replies.cluster.vsr.config import VsrConfig
from client_replies.cluster.vsr.messages import LogEntry, SnapshotChunk
from client_replies.messages.config import RepliesConfig
from client_replies.messages.limits import Distinct, Length, LengthPer, Limit, Range, Unchecked, parts
from client_replies.messages.message import Message

import examples.ledger

# Parts of messages, and the base: sent by nobody on their own.
PARTS = {"Message", "Failure", "Fault", "CheckpointDamaged", "RepliesConfig"}
LENGTH_MAX = 2**20  # longer values are not made
PLAIN: dict[object, object] = {str: "text", bool: True, types.NoneType: None}
REQUEST = Request.build(cluster=1, client=2, session=3, number=1, operation=2, body=b"body")
# Those whose fields depend on each other beyond their limits.
SPECIAL: dict[type, Message] = {
    RepliesConfig: RepliesConfig(path="/data/replies", cluster=1, replica=2),
    VsrConfig: VsrConfig(cluster=1, replica=0, replicas=3),
    Request: REQUEST,
    LogEntry: LogEntry.build(op=1, view=1, replica=1, timestamp=1, parent=bytes(16), request=REQUEST),
    SnapshotChunk: SnapshotChunk(op=1, checksum=bytes(16), size=2, offset=0, data=b"x"),
}


class Stranger:
    """A value that no field accepts."""


def modules(package: types.ModuleType) -> list[types.ModuleType]:
    """Give every module of a package."""
    names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return [importlib.import_module(name) for name in names if not name.endswith("__main__")]


def message_classes(package: types.ModuleType = client_replies.messages) -> list[type[Message]]:
    """Give every class of the package that is a message or a part of one, by name."""
    found = {
        value
        for module in modules(package)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Message) and value.__module__ == module.__name__
    }
    return sorted(found - {Message}, key=lambda message: (message.__name__, message.__module__))


def all_message_classes() -> list[type[Message]]:
    """Give those of the component, of the cluster and of the example."""
    packages = (client_replies.messages, client_replies.cluster, examples.ledger)
    return [message for package in packages for message in message_classes(package)]


def sample(message: type, **changes: object) -> typing.Any:
    """Make a valid instance of a message class, with these fields changed."""
    if message in SPECIAL:
        arguments = {field.name: getattr(SPECIAL[message], field.name) for field in fields(message)}
    else:
        arguments = {name: value_of(annotation) for name, annotation in annotations(message).items()}
    return message(**{**arguments, **changes})


def annotations(message: type) -> dict[str, typing.Any]:
    """Give each field's annotation."""
    hints = typing.get_type_hints(message, include_extras=True)
    return {field.name: hints[field.name] for field in fields(message)}


def value_of(annotation: object) -> object:
    """Make a value that the annotation allows, in a message whose columns have one row."""
    base, limits = parts(annotation)
    origin, inner = typing.get_origin(base), typing.get_args(base)
    if origin in (typing.Union, types.UnionType):
        return value_of(inner[0])
    if origin is tuple:
        return tuple(value_of(part) for part in inner if part is not ...)
    if origin is Mapping:
        return {value_of(inner[0]): value_of(inner[1])}
    if base in (int, float):
        return next((max(limit.low, min(1, limit.high)) for limit in limits if isinstance(limit, Range)), 1)
    if base is bytes:
        return bytes(next(sizes(limits), 5))
    if base in PLAIN:
        return PLAIN[base]
    if base is ActorAddress:
        return ActorAddress("someone")
    if isinstance(base, type) and issubclass(base, enum.Enum):
        return next(iter(base))
    if is_dataclass(base):
        return sample(typing.cast(type, base))
    raise AssertionError(f"no sample value for {annotation}")


def sizes(limits: list[Limit]) -> Iterator[int]:
    """Give how long a value may be, or must be for a table of one row."""
    for limit in limits:
        if isinstance(limit, Length):
            yield max(limit.low, min(1, limit.high))
        elif isinstance(limit, LengthPer):
            yield limit.size


def refused_by(annotation: object) -> Iterator[object]:
    """Give values of which each breaks one thing that the annotation says, and nothing else."""
    base, limits = parts(annotation)
    origin, inner = typing.get_origin(base), typing.get_args(base)
    yield Stranger()
    if any(isinstance(limit, Unchecked) for limit in limits):
        return
    if origin in (typing.Union, types.UnionType):
        kinds = {parts(part)[0] for part in inner}
        for part in inner:
            yield from (value for value in refused_by(part) if type(value) not in kinds - {parts(part)[0]})
        return
    good = value_of(annotation)
    if origin is tuple:
        yield list(typing.cast(tuple[object, ...], good))
        if ... not in inner:
            yield (*typing.cast(tuple[object, ...], good), 1)
        for at, part in enumerate(part for part in inner if part is not ...):
            for wrong in refused_by(part):
                yield (*good[:at], wrong, *good[at + 1 :])  # type: ignore[index]
    elif origin is Mapping:
        yield from ({wrong: value_of(inner[1])} for wrong in refused_by(inner[0]))
        yield from ({value_of(inner[0]): wrong} for wrong in refused_by(inner[1]))
    elif base in (int, float):
        yield True
        yield "1"
        yield from (float("nan"), float("inf")) if base is float and limits else ()
    elif base is bool:
        yield 1
    elif is_dataclass(base):
        yield from spoiled(sample(typing.cast(type, base)))
    for limit in limits:
        yield from broken(limit, good)


def broken(limit: Limit, good: typing.Any) -> Iterator[object]:
    """Give values like `good` that break the limit."""
    if isinstance(limit, Range):
        yield from (limit.low - (limit.step or 1), limit.high + (limit.step or 1))
        yield from (good + 1,) if limit.step else ()
    elif isinstance(limit, Distinct):
        yield good * 2
    elif isinstance(limit, LengthPer):
        yield from (good * 2, good[1:])
    elif isinstance(limit, Length):
        lengths = (limit.low - 1, limit.high + 1)
        yield from (longer(good, length) for length in lengths if 0 <= length <= LENGTH_MAX)


def longer(good: typing.Any, length: int) -> object:
    """Give a value like `good` of this length; where the items are numbers, or begin with one, none of them twice."""
    if isinstance(good, tuple) and isinstance(good[0], int):
        return tuple(range(1, length + 1))
    if isinstance(good, tuple) and isinstance(good[0], tuple) and isinstance(good[0][0], int):
        return tuple((number, *good[0][1:]) for number in range(length))
    return (good * length)[:length]


def forged(message: object, field: str, value: object) -> typing.Any:
    """Copy a message past its constructor with one field changed, as a hostile or broken sender would."""
    copied = object.__new__(type(message))
    for each in fields(typing.cast(typing.Any, message)):
        object.__setattr__(copied, each.name, value if each.name == field else getattr(message, each.name))
    return copied


def spoiled(message: object) -> Iterator[typing.Any]:
    """Give the message with each of its fields set to each value that it refuses, past the constructor."""
    for name, annotation in annotations(type(message)).items():
        yield from (forged(message, name, value) for value in refused_by(annotation))
