"""One valid message of each class, made from the annotations of its fields; shared by the tests of this folder."""

import enum
import importlib
import pkgutil
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

from thespian.actors import ActorAddress

import client_replies.messages
from client_replies.messages.config import RepliesConfig
from client_replies.messages.leases import MemoryName
from client_replies.messages.message import Message

# Parts of messages, and the base: sent by nobody on their own.
PARTS = {"Message", "Failure", "Fault", "CheckpointDamaged", "RepliesConfig"}
# Values that the annotations alone do not give.
SPECIAL: dict[tuple[str, str], object] = {
    ("RepliesConfig", "path"): "/data/replies",
    ("GetReplies", "bytes_max"): 2**20,
    ("GetReplies", "headers"): bytes(256),
    ("ReadReply", "expected"): bytes(256),
    ("ReadSlots", "headers"): bytes(256),
    ("VerifySlots", "headers"): bytes(256),
    ("RepliesFound", "replies"): (bytes(300),),
    ("OpenPool", "size"): 4096,
    ("OpenPool", "holders"): ((1, ActorAddress("holder")),),
    ("SetPeers", "peers"): ((1, ActorAddress("peer")),),
}


def modules() -> list[types.ModuleType]:
    """Give every module of the package."""
    names = [module.name for module in pkgutil.iter_modules(client_replies.messages.__path__)]
    return [importlib.import_module(f"client_replies.messages.{name}") for name in names]


def message_classes() -> list[type[Message]]:
    """Give every class of the package that is a message or a part of one, by name."""
    found = {
        value
        for module in modules()
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Message) and value.__module__ == module.__name__
    }
    return sorted(found - {Message}, key=lambda message: (message.__name__, message.__module__))


def sample(message: type, **changes: object) -> typing.Any:
    """Make a valid instance of a message class, with these fields changed."""
    hints = typing.get_type_hints(message)
    arguments = {field.name: _value(message, field.name, hints[field.name]) for field in fields(message)}
    if message is RepliesConfig:
        arguments = {"path": "/data/replies", "cluster": 1, "replica": 2}
    return message(**{**arguments, **changes})


def _value(message: type, name: str, annotation: object) -> object:
    special = SPECIAL.get((message.__name__, name))
    return special if special is not None else _value_of(annotation)


def _value_of(annotation: object) -> object:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, typing.NewType):
        return _value_of(annotation.__supertype__)
    if origin in (typing.Union, types.UnionType):
        return _value_of(arguments[0])
    if origin is tuple:
        return (_value_of(arguments[0]),)
    if origin is Mapping:
        return {"key": 1}
    plain: dict[object, object] = {int: 1, str: "text", bytes: b"bytes", bool: True, float: 1.0}
    if annotation in plain:
        return plain[annotation]
    if annotation is ActorAddress:
        return ActorAddress("someone")
    if annotation is MemoryName:
        return MemoryName(process=1, descriptor=2, token=bytes(16))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return next(iter(annotation))
    if isinstance(annotation, type) and is_dataclass(annotation):
        return sample(annotation)
    raise AssertionError(f"no sample value for {annotation}")


def payloads(message: Message) -> Iterator[str]:
    """Give the names of the fields that hold bytes."""
    return (field.name for field in fields(message) if isinstance(getattr(message, field.name), bytes))
