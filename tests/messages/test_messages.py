"""Every message class of the package, walked: what all of them promise, and the limits that some have."""

import copy
import dataclasses
import pickle
import timeit
from enum import Enum

import pytest
from thespian.actors import ActorAddress

from client_replies.messages.config import RepliesConfig
from client_replies.messages.faults import Fault
from client_replies.messages.leases import (
    AcquireLeases,
    OpenPool,
    ReleaseLeases,
    lease_buffer,
    lease_generation,
    make_lease,
)
from client_replies.messages.message import Message, MessageInvalid, shown
from client_replies.messages.peers import GetReplies, RepliesFound, RepliesMissing
from client_replies.messages.replies import AwaitDurable, OpenReplies, ReadReply, SetPeers, WriteReplies
from client_replies.messages.storage_io import ReadSlots, WriteSlots

from tests.messages.samples import (
    Stranger,
    all_message_classes,
    annotations,
    forged,
    message_classes,
    refused_by,
    sample,
)

CLASSES = message_classes()
ALL = all_message_classes()


@pytest.mark.parametrize("kind", CLASSES)
def test_a_message_is_frozen_and_has_no_dict(kind: type[Message]) -> None:
    """Nobody changes a message that another actor may hold."""
    message = sample(kind)
    for field in dataclasses.fields(kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(message, field.name, getattr(message, field.name))
    assert not hasattr(message, "__dict__")
    assert all(field.kw_only for field in dataclasses.fields(kind))


@pytest.mark.parametrize("kind", CLASSES)
def test_a_message_survives_pickle_and_deepcopy(kind: type[Message]) -> None:
    """Between processes messages are pickled, and before a retry they are deep-copied."""
    message = sample(kind)
    assert pickle.loads(pickle.dumps(message)) == message
    assert copy.deepcopy(message) == message


@pytest.mark.parametrize("kind", CLASSES)
def test_messages_are_equal_by_value_and_class(kind: type[Message]) -> None:
    """Two of the same values are equal; one of another class with the same fields is not."""
    assert sample(kind) == sample(kind)
    assert all(sample(other) != sample(kind) for other in CLASSES if other is not kind)
    for field in dataclasses.fields(kind):
        assert forged(sample(kind), field.name, Stranger()) != sample(kind)


def has_dataclass(value: object) -> bool:
    """Tell whether what is wrong may be in a part of the value, which has fields of its own."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return dataclasses.is_dataclass(value) or any(map(has_dataclass, parts))


@pytest.mark.parametrize("kind", ALL)
def test_each_field_refuses_each_value_that_its_annotation_does_not_allow(kind: type[Message]) -> None:
    """Another type, a bool for a number, too low, too high, too short, too long: made so, and forged past that."""
    for name, annotation in annotations(kind).items():
        for value in refused_by(annotation):
            with pytest.raises(MessageInvalid) as raised:
                sample(kind, **{name: value})
            assert raised.value.field == name or has_dataclass(value), (name, value)
            assert raised.value.expected
            with pytest.raises(MessageInvalid):
                forged(sample(kind), name, value).validate()


def test_what_is_nested_is_checked_as_well() -> None:
    """Unpickling runs no constructor, neither that of a message nor that of what is in it."""
    config = forged(sample(RepliesConfig), "tick", 0)
    with pytest.raises(MessageInvalid, match=r"tick is 0, expected a number from 0\.001 to 86400\.0"):
        forged(sample(OpenReplies), "config", config).validate()
    peers = ((1, ActorAddress("peer")), (2, "address"))
    with pytest.raises(MessageInvalid, match="peers is a tuple with 'address', expected ActorAddress in its place"):
        forged(sample(SetPeers), "peers", peers).validate()


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind is not Fault])
def test_the_text_of_a_message_is_its_name_and_why_something_failed(kind: type[Message]) -> None:
    """Thespian forms it several times on the way: it has nothing that may be large."""
    message = sample(kind)
    whys = [getattr(message, name) for name in ("fault", "reason", "refusal") if name in annotations(kind)]
    texts = [f": {why.value if isinstance(why, Enum) else why}" for why in whys]
    assert str(message) == "".join([kind.__name__, *texts])


def test_the_text_of_a_large_message_costs_nothing() -> None:
    """A megabyte inside does not show, neither in `str` nor, for payloads, in `repr`."""
    large = WriteReplies(owner=1, number=1, op=1, slots=(0,), payloads=(bytes(2**20),))
    found = RepliesFound(asker=0, incarnation=1, request=1, peer=1, slots=(0,), replies=(bytes(2**20),))
    for message in (large, found):
        assert min(timeit.repeat(message.__str__, number=100, repeat=5)) / 100 < 20e-6
        assert len(repr(message)) < 300


def test_shown_never_formats_what_is_large() -> None:
    """Error texts are short whatever the value."""
    assert shown(bytes(2**20)) == "bytes of length 1048576"
    assert len(shown("x" * 10**6)) == 80


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (RepliesConfig, {"path": ""}),
        (RepliesConfig, {"path": "a\0b"}),
        (RepliesConfig, {"cluster": 2**128}),
        (RepliesConfig, {"replica": 256}),
        (RepliesConfig, {"clients_max": 0}),
        (RepliesConfig, {"clients_max": 2**20 + 1}),
        (RepliesConfig, {"message_size_max": 4096 + 1}),
        (RepliesConfig, {"message_size_max": 0}),
        (RepliesConfig, {"inline_size_max": 2**21}),
        (RepliesConfig, {"repair_bytes_max": 2**20 - 1}),
        (RepliesConfig, {"tick": 0.0}),
        (RepliesConfig, {"tick": float("nan")}),
        (RepliesConfig, {"hold_back": -1.0}),
        (OpenPool, {"size": 4095}),
        (OpenPool, {"buffers": 2**16 + 1}),
        (AcquireLeases, {"count": 0}),
        (AcquireLeases, {"holder": 0}),
        (AcquireLeases, {"number": 0}),
        (ReleaseLeases, {"leases": (0,)}),
        (ReleaseLeases, {"leases": (1, "2")}),
        (ReleaseLeases, {"leases": [1]}),
        (WriteReplies, {"slots": (0, 0), "payloads": (b"", b"")}),
        (WriteReplies, {"slots": (0, 1)}),
        (WriteReplies, {"slots": (2**20,)}),
        (WriteReplies, {"slots": (-1,)}),
        (WriteReplies, {"payloads": (None,)}),
        (WriteReplies, {"payloads": (0,)}),
        (WriteReplies, {"payloads": (True,)}),
        (ReadReply, {"expected": bytes(255)}),
        (ReadReply, {"slot": 2**20}),
        (AwaitDurable, {"slots": (3, 3)}),
        (SetPeers, {"peers": ((1, "address"),)}),
        (SetPeers, {"peers": ((1, 2, 3),)}),
        (SetPeers, {"peers": (None,)}),
        (GetReplies, {"slots": ()}),
        (GetReplies, {"headers": bytes(255)}),
        (GetReplies, {"slots": tuple(range(1025)), "headers": bytes(256 * 1025)}),
        (RepliesFound, {"replies": (bytes(255),)}),
        (RepliesFound, {"replies": ()}),
        (RepliesMissing, {"reasons": ()}),
        (RepliesMissing, {"reasons": ("BUSY",)}),
        (WriteSlots, {"payloads": ()}),
        (ReadSlots, {"headers": bytes(257)}),
        (ReadSlots, {"leases": (1, 2)}),
    ],
)
def test_a_value_out_of_its_limits_is_refused(kind: type[Message], changes: dict[str, object]) -> None:
    """And the sample without the change is not, so it is the change that is refused."""
    assert sample(kind)
    with pytest.raises(MessageInvalid) as raised:
        sample(kind, **changes)
    assert raised.value.field in {field.name for field in dataclasses.fields(kind)}
    assert raised.value.expected


def test_a_lease_is_its_buffer_and_its_generation() -> None:
    """Both come back from the integer, up to the largest of each."""
    for buffer in (0, 1, 2**16 - 1):
        for generation in (1, 2, 2**48 - 1):
            lease = make_lease(buffer, generation)
            assert (lease_buffer(lease), lease_generation(lease)) == (buffer, generation)
            assert 0 < lease < 2**64
