"""The states of the component, without an actor system: what each handles, and the requests to its two other actors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from thespian.actors import ActorAddress

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.actors.component.closing import Closing
from client_replies.actors.component.lifecycle import Partner, refusal
from client_replies.actors.component.open import Open
from client_replies.actors.component.opening import Closed, Failing, Leasing, Opening, OpeningFile
from client_replies.actors.component.stopped import Stopped, StoppedClosing, StoppedOpen
from client_replies.actors.component.storage import StorageActor
from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.protocol import Party, senders_to
from client_replies.messages.replies import GetStatus, OpenReplies, ReplyTaken
from client_replies.messages.storage_io import CloseStorage, StorageStopped

from tests.messages.samples import sample

STATES = (Closed, Opening, Leasing, OpeningFile, Failing, Open, Closing, Stopped, StoppedOpen, StoppedClosing)
SENDERS = senders_to(*ClientRepliesActor.parties)


def received() -> set[type]:
    """Give the classes of message that the actor takes."""
    actor = ClientRepliesActor.__new__(ClientRepliesActor)  # an actor that begins adopts its process
    return set(actor.handlers())


def test_every_message_is_handled_in_some_state_or_in_all() -> None:
    """Opening is asked of every state, a disk that fails ends every state; the rest is in their tables."""
    handled = set().union(*(state.handles for state in STATES))
    assert handled | {OpenReplies, StorageStopped} == received()


def test_what_the_owner_asks_is_handled_or_refused_by_every_state() -> None:
    """But for a buffer that comes back, which waits for no answer."""
    fault = Fault(kind=FaultKind.NOT_OPEN, found="x", expected="y")
    for kind in received():
        if SENDERS[kind] is Party.REPLICA and kind is not ReplyTaken:
            assert refusal(sample(kind), fault) is not None, kind
        elif kind is not GetStatus:
            assert refusal(sample(kind), fault) is None, kind


@pytest.fixture
def sent() -> list[tuple[ActorAddress, Any]]:
    """Give what the partner was sent, and where."""
    return []


@pytest.fixture
def partner(sent: list[tuple[ActorAddress, Any]]) -> Partner:
    """Give the storage of an actor that notes what it sends."""
    actor: Any = SimpleNamespace(
        send=lambda address, message: sent.append((address, message)),
        create_child=lambda kind: ActorAddress(kind.__name__),
        environment=SimpleNamespace(monotonic=lambda: 100.0),
    )
    return Partner(StorageActor, actor)


def test_each_opening_has_its_own_resend_timeout_and_numbers_go_on(partner: Partner) -> None:
    """The storage may be the same one, which does nothing twice; how long to wait is the opening's to say."""
    partner.use(None, 2.0)
    partner.ask("close", CloseStorage(batch=1))
    assert partner.requests.due == 102.0
    assert partner.requests.answered("close", 1) is not None
    partner.use(None, 5.0)
    assert partner.requests.next_number("close") == 2
    partner.ask("close", CloseStorage(batch=2))
    assert partner.requests.due == 105.0


def test_requests_go_to_the_actor_that_is_in_use(partner: Partner, sent: list[tuple[ActorAddress, Any]]) -> None:
    """A child is made once, and again when the owner had named another meanwhile, or when it died."""
    named = ActorAddress("named")
    for told, address in ((None, "StorageActor"), (named, "named"), (None, "StorageActor")):
        partner.use(told, 1.0)
        assert partner.is_child is (told is None)
        partner.ask(address, CloseStorage(batch=1))
        assert sent.pop()[0] == ActorAddress(address)
        partner.requests.forget()
    partner.lose()
    assert partner.is_gone
    partner.use(None, 1.0)
    assert partner.is_child
