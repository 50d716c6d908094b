"""Actors for tests: the shipped ones with a hand on them, so that a test decides what is answered, when, and how often.

`ScriptedStorage` is a StorageActor whose answers can be held back, dropped or repeated by lane, and whose device can be
made to fail. `WatchedReplies` is a ClientRepliesActor that says who its children are. `ScriptedPeer` shows what a
replica asks of a peer, and lets the test answer in its name. All live at module level, because the processes of an
actor system import them.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thespian.actors import Actor, ActorAddress

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.actors.component.message_pool import MessagePoolActor
from client_replies.actors.component.storage import StorageActor
from client_replies.actors.thespian.component_actor import Handler
from client_replies.actors.thespian.environment import Environment, RealEnvironment
from client_replies.messages.faults import Fault
from client_replies.messages.message import Message
from client_replies.messages.peers import GetReplies
from client_replies.messages.protocol import Party
from client_replies.messages.reply_header import Buffer
from client_replies.messages.storage_io import (
    CheckpointWritten,
    SlotsRead,
    SlotsVerified,
    SlotsWritten,
    StorageClosed,
    StorageOpened,
    StorageOpenFailed,
    WriteSlots,
)
from client_replies.storage.device import Device, FileDisk
from client_replies.storage.errors import StorageError

LANES: dict[type, str] = {
    StorageOpened: "open",
    StorageOpenFailed: "open",
    SlotsVerified: "verify",
    CheckpointWritten: "checkpoint",
    StorageClosed: "close",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold(Message):
    """Keep back every answer of this lane from now on, and tell me of each with `AnswerHeld`."""

    lane: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerHeld(Message):
    """An answer of the lane is there and is kept back; the request that it answers, where it was a write."""

    lane: str
    slots: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LetGo(Message):
    """Send what is kept back of the lane; unless `keep_on`, keep nothing more of it."""

    lane: str
    keep_on: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop(Message):
    """Lose the next answer of the lane."""

    lane: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat(Message):
    """Send the next answer of the lane three times."""

    lane: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FailDevice(Message):
    """From now on every write (or every sync) of the device fails with this fault; without one, all is well again."""

    fault: Fault | None
    on_sync: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GetDouble(Message):
    """Ask a double for its process, its counters, what its device did and, of a component, its children."""

    request: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubleStatus(Message):
    """The answer to `GetDouble`."""

    request: int
    pid: int
    counters: Mapping[str, int]
    device: Mapping[str, int]
    pool: ActorAddress | None
    storage: ActorAddress | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripted(Message):
    """Done: the script is in force."""


@dataclass(slots=True)
class DeviceScript:
    """What a scripted device does, shared by all devices of one actor."""

    fault: Fault | None = None
    on_sync: bool = False
    done: Counter[str] = field(default_factory=Counter)


class ScriptedDevice(Device):
    """A device in front of a real one."""

    def __init__(self, inner: Device, script: DeviceScript) -> None:
        super().__init__(inner.size)
        self._inner = inner
        self._script = script

    def _read(self, offset: int, into: memoryview, direct: bool) -> None:
        self._script.done["reads"] += 1
        self._inner._read(offset, into, direct)

    def _write(self, offset: int, parts: Sequence[Buffer]) -> None:
        self._script.done["writes"] += 1
        if self._script.fault is not None and not self._script.on_sync:
            raise StorageError(self._script.fault)
        self._inner._write(offset, parts)

    def sync(self) -> None:
        """Sync, or fail as told."""
        self._script.done["syncs"] += 1
        if self._script.fault is not None and self._script.on_sync:
            raise StorageError(self._script.fault)
        self._inner.sync()

    def close(self) -> None:
        """Close the real one."""
        self._inner.close()


class ScriptedDisk(FileDisk):
    """Real files behind scripted devices; new files are made by the real disk alone."""

    def __init__(self, script: DeviceScript) -> None:
        self._script = script

    def open(self, path: str) -> Any:
        """Open the file."""
        return ScriptedDevice(super().open(path), self._script)


class ScriptedEnvironment(RealEnvironment):
    """The machine itself, with a scripted disk."""

    def __init__(self, capabilities: Mapping[str, object]) -> None:
        super().__init__(capabilities)
        self.script = DeviceScript()

    def disk(self) -> ScriptedDisk:
        """Give the scripted disk."""
        return ScriptedDisk(self.script)


def double_status(actor: Any, message: GetDouble) -> DoubleStatus:
    """Say how a double is."""
    partners = [actor.component.pool, actor.component.storage] if isinstance(actor, ClientRepliesActor) else []
    pool, storage = [None if partner.is_gone else partner.address for partner in partners] or (None, None)
    return DoubleStatus(
        request=message.request,
        pid=os.getpid(),
        counters=dict(actor.counters),
        device=dict(actor.environment.script.done) if isinstance(actor.environment, ScriptedEnvironment) else {},
        pool=pool,
        storage=storage,
    )


class ScriptedStorage(StorageActor):
    """See the module."""

    senders = dict.fromkeys((Hold, LetGo, Drop, Repeat, FailDevice, GetDouble), Party.ANYONE)

    def __init__(
        self, capabilities: Mapping[str, object] | None = None, requirements: Environment | None = None
    ) -> None:
        super().__init__(capabilities, requirements)
        self.environment = ScriptedEnvironment(capabilities or {})
        self._held: dict[str, tuple[ActorAddress, deque[tuple[ActorAddress, Any]]]] = {}
        self._let_go: dict[str, Any] = {}
        self._dropping: Counter[str] = Counter()
        self._repeating: Counter[str] = Counter()
        self._written: dict[tuple[bool, int, int], tuple[int, ...]] = {}

    def handlers(self) -> dict[type, Handler]:
        """Add the script's messages."""
        return {
            **super().handlers(),
            Hold: self.hold,
            LetGo: self.let_go,
            Drop: self.drop,
            Repeat: self.repeat,
            FailDevice: self.fail_device,
            GetDouble: self.double,
        }

    def double(self, message: GetDouble, sender: ActorAddress) -> None:
        """Say how this is."""
        super().send(sender, double_status(self, message))

    def hold(self, message: Hold, sender: ActorAddress) -> None:
        """Begin to keep back."""
        self._held[message.lane] = (sender, deque())
        super().send(sender, Scripted())

    def let_go(self, message: LetGo, sender: ActorAddress) -> None:
        """Send what was kept back."""
        watcher, waiting = self._held.pop(message.lane)
        for target, answer in waiting:
            super().send(target, answer)
            self._let_go[message.lane] = answer
        if message.keep_on:
            self._held[message.lane] = (watcher, deque())

    def drop(self, message: Drop, sender: ActorAddress) -> None:
        """Lose the next answer."""
        self._dropping[message.lane] += 1
        super().send(sender, Scripted())

    def repeat(self, message: Repeat, sender: ActorAddress) -> None:
        """Repeat the next answer."""
        self._repeating[message.lane] += 1
        super().send(sender, Scripted())

    def fail_device(self, message: FailDevice, sender: ActorAddress) -> None:
        """Let the device fail."""
        assert isinstance(self.environment, ScriptedEnvironment)
        self.environment.script.fault = message.fault
        self.environment.script.on_sync = message.on_sync
        super().send(sender, Scripted())

    def write(self, message: WriteSlots, sender: ActorAddress) -> None:
        """Note the slots, so that a held answer can name them."""
        self._written[(message.repair, message.lane, message.batch)] = message.slots
        super().write(message, sender)

    def send(self, target: ActorAddress, message: Any) -> None:
        """Send, keep back, lose or repeat."""
        lane = LANES.get(type(message), "")
        slots: tuple[int, ...] = ()
        if isinstance(message, SlotsWritten):
            lane = "repair" if message.repair else "write"
            slots = self._written[(message.repair, message.lane, message.batch)]
        elif isinstance(message, SlotsRead):
            lane = "serve" if message.for_peers else "read"
        if lane in self._held and self._let_go.get(lane) != message:
            watcher, waiting = self._held[lane]
            # A request that is sent again while its answer is kept back changes nothing.
            if (target, message) not in waiting:
                waiting.append((target, message))
                super().send(watcher, AnswerHeld(lane=lane, slots=slots))
        elif self._dropping[lane]:
            self._dropping[lane] -= 1
            self.counters["dropped"] += 1
        else:
            for _ in range(3 if self._repeating[lane] else 1):
                super().send(target, message)
            self._repeating[lane] = max(0, self._repeating[lane] - 1)


class WatchedPool(MessagePoolActor):
    """A MessagePoolActor that says in which process it is."""

    senders = {GetDouble: Party.ANYONE}

    def handlers(self) -> dict[type, Handler]:
        """Add the question."""
        return {**super().handlers(), GetDouble: self.double}

    def double(self, message: GetDouble, sender: ActorAddress) -> None:
        """Say how this is."""
        self.send(sender, double_status(self, message))


class WatchedReplies(ClientRepliesActor):
    """A ClientRepliesActor whose children are doubles, and which says who they are."""

    senders = {GetDouble: Party.ANYONE}

    def handlers(self) -> dict[type, Handler]:
        """Add the question."""
        return {**super().handlers(), GetDouble: self.double}

    def double(self, message: GetDouble, sender: ActorAddress) -> None:
        """Say how this is."""
        self.send(sender, double_status(self, message))

    def create_child(self, actor: type[Actor]) -> ActorAddress:
        """Create the double in the actor's place."""
        doubles: dict[type[Actor], type[Actor]] = {StorageActor: ScriptedStorage, MessagePoolActor: WatchedPool}
        return super().create_child(doubles[actor])


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(Message):
    """A peer was asked this; `peer` is the number that it was given."""

    peer: int
    request: GetReplies


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerAs(Message):
    """Send these to who asked last."""

    answers: tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Name(Message):
    """Be this peer, and tell me what you are asked."""

    peer: int


class ScriptedPeer(Actor):
    """A peer that says only what the test tells it to say."""

    def __init__(self) -> None:
        super().__init__()
        self._watcher: ActorAddress | None = None
        self._asker: ActorAddress | None = None
        self._peer = 0

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        """Report questions, forward answers."""
        if isinstance(message, Name):
            self._peer, self._watcher = message.peer, sender
            self.send(sender, Scripted())
        elif isinstance(message, GetReplies) and self._watcher is not None:
            self._asker = sender
            self.send(self._watcher, Asked(peer=self._peer, request=message))
        elif isinstance(message, AnswerAs) and self._asker is not None:
            for answer in message.answers:
                self.send(self._asker, answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward(Message):
    """Send this message to the target, as your own."""

    target: ActorAddress
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded(Message):
    """What the forwarder was sent."""

    message: Message


class Forwarder(Actor):
    """An actor that sends what it is told to, and reports what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self._watcher: ActorAddress | None = None

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        """Forward one way or the other."""
        if isinstance(message, Forward):
            self._watcher = sender
            self.send(message.target, message.message)
            self.send(sender, Scripted())
        elif isinstance(message, Message) and self._watcher is not None:
            self.send(self._watcher, Forwarded(message=message))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrored(Message):
    """Who asked a mirror."""

    address: ActorAddress


class Mirror(Actor):
    """Tells whoever asks its own address, as others see it."""

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        """Tell."""
        if isinstance(message, str):
            self.send(sender, Mirrored(address=sender))
