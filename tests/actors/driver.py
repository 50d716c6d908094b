"""The owner of a component, played by the test from outside the actor system.

A `Driver` sends, and waits for the message that it expects: whatever else arrives stays in its inbox, so that nothing
depends on the order in which different actors answer. A `Book` commits what the tests write: it is the session table of
the replica, with one client for each slot.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, overload

from thespian.actors import ActorAddress

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.actors.component.message_pool import MessagePoolActor
from client_replies.actors.thespian.system import OwnedSystem
from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.leases import (
    AcquireLeases,
    GetPoolStatus,
    Lease,
    LeasesGranted,
    LeasesReleased,
    OpenPool,
    PoolOpened,
    PoolStatus,
    ReleaseLeases,
)
from client_replies.messages.message import Message
from client_replies.messages.peers import GetReplies, Missing, RepliesFound, RepliesMissing
from client_replies.messages.replies import (
    AwaitDurable,
    Checkpoint,
    CheckpointDone,
    CheckpointStarted,
    CloseReplies,
    GetStatus,
    InstallSessions,
    NotRead,
    OpenFailed,
    OpenReplies,
    Payload,
    PeersSet,
    ReadReply,
    RemoveReplies,
    RepliesClosed,
    RepliesOpened,
    RepliesStatus,
    ReplyNotRead,
    ReplyRead,
    ReplyTaken,
    RequestRefused,
    SessionsInstalled,
    SetPeers,
    SlotsDurable,
    WriteReplies,
    WritesAccepted,
    WritesRefused,
)
from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import HEADER_SIZE, packed_size
from client_replies.messages.storage_io import (
    CloseStorage,
    OpenStorage,
    StorageClosed,
    StorageOpened,
    StorageOpenFailed,
    WriteSlots,
)
from client_replies.storage.client_sessions import ClientSessions
from client_replies.storage.layout import Layout
from client_replies.storage.shared_memory import PoolMemory

from tests.actors.doubles import (
    AnswerAs,
    AnswerHeld,
    Asked,
    DoubleStatus,
    Drop,
    FailDevice,
    Forward,
    Forwarded,
    GetDouble,
    Hold,
    LetGo,
    Mirror,
    Mirrored,
    Name,
    Repeat,
    Scripted,
    ScriptedPeer,
    ScriptedStorage,
)

CLUSTER = 7
SLOTS = 8
WAIT_S = 20.0
KIB = 1024

Kind = TypeVar("Kind")


def config_for(path: Path | str, **changes: Any) -> RepliesConfig:
    """Give a small component with short intervals and no scrubber, changed as told."""
    fields: dict[str, Any] = {
        "path": str(path),
        "cluster": CLUSTER,
        "replica": 0,
        "clients_max": SLOTS,
        "message_size_max": 32 * KIB,
        "inline_size_max": 4 * KIB,
        "buffers_max": 4,
        "read_buffers": 2,
        "repair_buffers": 2,
        "repair_bytes_max": 128 * KIB,
        "repair_timeout": 0.1,
        "repair_backoff_max": 0.4,
        "scrub_bytes_per_second": 0,
        "tick": 0.01,
        "resend_timeout": 0.2,
    }
    return RepliesConfig(**{**fields, **changes})


def body_of(op: int, size: int) -> bytes:
    """Give a body that says which op it is of."""
    return (op.to_bytes(8, "little") * (size // 8 + 1))[:size]


class Book:
    """What the replica has committed: a session for each slot, and each session's latest reply."""

    def __init__(self, slots: int = SLOTS, cluster: int = CLUSTER) -> None:
        self.cluster = cluster
        self.sessions = ClientSessions(slots, cluster)
        self.op = 0
        self.replies: dict[int, bytes] = {}
        for slot in range(slots):
            assert self.register(slot + 1) == slot

    def register(self, client: int) -> int:
        """Commit a registration; gives the slot."""
        self.op += 1
        header = Reply.build(
            cluster=self.cluster,
            client=client,
            session=self.op,
            request=0,
            op=self.op,
            operation=1,
            timestamp=self.op,
        ).header
        return self.sessions.register(header).slot

    def reply(self, slot: int, size: int = 300, **fields: Any) -> bytes:
        """Commit the next request of the slot's client; gives the packed reply of `size` bytes in all."""
        header = self.sessions.packed_header(slot)
        assert header is not None
        client = next(client for client in range(1, 1000) if self.sessions.slot_of(client) == slot)
        latest = self.sessions.header(client)
        assert latest is not None
        self.op += 1
        reply = Reply.build(
            **{
                "cluster": self.cluster,
                "client": client,
                "session": latest.session,
                "request": latest.request + 1,
                "op": self.op,
                "operation": 200,
                "timestamp": self.op,
                "body": body_of(self.op, size - HEADER_SIZE),
                **fields,
            }
        )
        self.sessions.commit(reply.header)
        self.replies[slot] = reply.pack()
        return self.replies[slot]

    def header(self, slot: int) -> bytes:
        """Give the packed header of the slot's latest reply."""
        return self.replies[slot][:HEADER_SIZE]

    def encode(self) -> bytes:
        """Give the session table as bytes."""
        return self.sessions.encode()


class Driver:
    """See the module. One driver is one incarnation of an owner."""

    owners = 0

    def __init__(
        self, system: OwnedSystem, kind: type = ClientRepliesActor, *, scripted: bool = False, replies: Any = None
    ) -> None:
        Driver.owners += 1
        self.owner = Driver.owners
        self.system = system
        self.replies: ActorAddress = replies or system.createActor(kind)
        self.storage: ActorAddress | None = system.createActor(ScriptedStorage) if scripted else None
        self.inbox: list[Any] = []
        self.number = 0
        self.opened: RepliesOpened | None = None
        self._unique = 0
        self._memory: PoolMemory | None = None
        self._lease_numbers = {"acquire": 0, "release": 0}

    # Messages.

    def unique(self) -> int:
        """Give the next number for a read, a wait or a question."""
        self._unique += 1
        return self._unique

    def send(self, message: Any, to: Any = None) -> None:
        """Tell the component (or another) something."""
        self.system.tell(to or self.replies, message)

    @overload
    def expect(self, kind: type[Kind], /, *, where: Callable[[Any], object] = ...) -> Kind: ...

    @overload
    def expect(self, *kinds: type, where: Callable[[Any], object] = ...) -> Any: ...

    def expect(self, *kinds: type, where: Callable[[Any], object] = lambda message: True) -> Any:
        """Give the first message of one of these classes that fits, waiting for it if need be."""
        deadline = time.monotonic() + WAIT_S
        while True:
            for index, message in enumerate(self.inbox):
                if isinstance(message, kinds) and where(message):
                    return self.inbox.pop(index)
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"no {[kind.__name__ for kind in kinds]} came; there is {self.inbox!r}")
            message = self.system.listen(timedelta(seconds=min(left, 0.5)))
            if message is not None:
                self.inbox.append(message)

    def has(self, *kinds: type) -> bool:
        """Say whether such a message came before the component answered a question that is asked now."""
        self.status()
        return any(isinstance(message, kinds) for message in self.inbox)

    def until(self, condition: Callable[[RepliesStatus], object], *slots: int) -> RepliesStatus:
        """Ask for the status until it fulfils the condition."""
        deadline = time.monotonic() + WAIT_S
        while not condition(status := self.status(*slots)):
            assert time.monotonic() < deadline, f"the status stayed at {status!r}"
            message = self.system.listen(timedelta(seconds=0.01))
            if message is not None:
                self.inbox.append(message)
        return status

    def status(self, *slots: int) -> RepliesStatus:
        """Ask the component how it is."""
        request = self.unique()
        self.send(GetStatus(request=request, slots=slots))
        return self.expect(RepliesStatus, where=lambda status: status.request == request)

    def pool_status(self) -> PoolStatus:
        """Ask the pool how it is."""
        request = self.unique()
        self.send(GetPoolStatus(request=request), self.pool)
        return self.expect(PoolStatus, where=lambda status: status.request == request)

    def pool_until(self, held: int) -> PoolStatus:
        """Ask the pool until so many counts are held: what is released is on its way for a moment."""
        deadline = time.monotonic() + WAIT_S
        while (status := self.pool_status()).held != held:
            assert time.monotonic() < deadline, f"the pool stayed at {status!r}"
            message = self.system.listen(timedelta(seconds=0.01))
            if message is not None:
                self.inbox.append(message)
        return status

    def double(self, actor: Any = None) -> DoubleStatus:
        """Ask a double how it is."""
        request = self.unique()
        self.send(GetDouble(request=request), actor)
        return self.expect(DoubleStatus, where=lambda status: status.request == request)

    # Opening and closing.

    @property
    def pool(self) -> ActorAddress:
        """Give the pool of the opening."""
        assert self.opened is not None
        return self.opened.pool

    @property
    def memory(self) -> PoolMemory:
        """Map the pool's memory."""
        assert self.opened is not None
        if self._memory is None:
            self._memory = PoolMemory.open(self.opened.memory)
        return self._memory

    def try_open(self, config: RepliesConfig, mode: OpenMode = OpenMode.OPEN_OR_FORMAT) -> RepliesOpened | OpenFailed:
        """Ask to open, and give the answer."""
        self.send(OpenReplies(owner=self.owner, config=config, mode=mode, storage=self.storage))
        answer: RepliesOpened | OpenFailed = self.expect(
            RepliesOpened, OpenFailed, where=lambda answer: answer.owner == self.owner
        )
        self.opened = answer if isinstance(answer, RepliesOpened) else None
        return answer

    def open(self, config: RepliesConfig, mode: OpenMode = OpenMode.OPEN_OR_FORMAT) -> RepliesOpened:
        """Open, which must work."""
        answer = self.try_open(config, mode)
        assert isinstance(answer, RepliesOpened), answer
        return answer

    def close(self) -> None:
        """Close, and wait for it."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        self.number += 1
        self.send(CloseReplies(owner=self.owner, number=self.number))
        self.expect(RepliesClosed, where=lambda closed: closed.owner == self.owner)

    # Replies.

    def lease(self, *replies: bytes) -> tuple[Lease, ...]:
        """Put each reply in a buffer of the pool."""
        self._lease_numbers["acquire"] += 1
        number = self._lease_numbers["acquire"]
        self.send(AcquireLeases(holder=self.owner, number=number, count=len(replies)), self.pool)
        leases = self.expect(LeasesGranted, where=lambda granted: granted.number == number).leases
        for lease, reply in zip(leases, replies, strict=True):
            self.memory.buffer(lease)[: len(reply)] = reply
        return leases

    def release(self, *leases: Lease) -> LeasesReleased:
        """Give leases back."""
        self._lease_numbers["release"] += 1
        number = self._lease_numbers["release"]
        self.send(ReleaseLeases(holder=self.owner, number=number, leases=leases), self.pool)
        return self.expect(LeasesReleased, where=lambda released: released.number == number)

    def post(self, replies: dict[int, Payload], *, op: int = 0, durable: bool = False) -> int:
        """Send the next batch without waiting for the answer; gives its number."""
        self.number += 1
        message = WriteReplies(
            owner=self.owner,
            number=self.number,
            op=op,
            slots=tuple(replies),
            payloads=tuple(replies.values()),
            durable=durable,
        )
        self.send(message)
        return self.number

    def accepted(self, number: int) -> WritesAccepted:
        """Wait until the batch is accepted."""
        answer: WritesAccepted | WritesRefused = self.expect(
            WritesAccepted, WritesRefused, where=lambda answer: answer.number == number
        )
        assert isinstance(answer, WritesAccepted), answer
        return answer

    def write(self, replies: dict[int, Payload], *, op: int = 0, durable: bool = False) -> WritesAccepted:
        """Write a batch, which must be accepted."""
        return self.accepted(self.post(replies, op=op, durable=durable))

    def try_write(self, replies: dict[int, Payload], *, op: int = 0) -> WritesAccepted | WritesRefused:
        """Write a batch; a refused one leaves the number free."""
        number = self.post(replies, op=op)
        answer: WritesAccepted | WritesRefused = self.expect(
            WritesAccepted, WritesRefused, where=lambda answer: answer.number == number
        )
        if isinstance(answer, WritesRefused):
            self.number -= 1
        return answer

    def write_durable(self, replies: dict[int, Payload], *, op: int = 0) -> None:
        """Write a batch, wait until it is durable, and give back the leases that it was lent."""
        self.write(replies, op=op)
        self.durable(*replies)
        leases = [payload for payload in replies.values() if not isinstance(payload, bytes)]
        if leases:
            self.release(*leases)

    def commit(self, book: Book, *slots: int, size: int = 300) -> None:
        """Commit a small reply for each slot, write them all and wait until they are durable."""
        self.write_durable({slot: book.reply(slot, size) for slot in slots}, op=book.op)

    def remove(self, *slots: int, op: int = 0) -> WritesAccepted:
        """Remove replies."""
        self.number += 1
        number = self.number
        self.send(RemoveReplies(owner=self.owner, number=number, op=op, slots=slots))
        return self.accepted(number)

    def await_durable(self, *slots: int) -> int:
        """Ask to be told when the slots are durable; gives the wait's number."""
        wait = self.unique()
        self.send(AwaitDurable(owner=self.owner, wait=wait, slots=slots))
        return wait

    def durable(self, *slots: int) -> None:
        """Wait until the slots are durable."""
        wait = self.await_durable(*slots)
        self.expect(SlotsDurable, where=lambda durable: durable.wait == wait)

    def ask_read(self, slot: int, header: bytes) -> int:
        """Ask for a reply; gives the read's number."""
        read = self.unique()
        self.send(ReadReply(owner=self.owner, read=read, slot=slot, expected=header))
        return read

    def read_answer(self, read: int) -> bytes | NotRead:
        """Wait for the answer to a read, and give a lent buffer back."""
        answer: ReplyRead | ReplyNotRead = self.expect(
            ReplyRead, ReplyNotRead, where=lambda answer: (answer.owner, answer.read) == (self.owner, read)
        )
        if isinstance(answer, ReplyNotRead):
            return answer.reason
        if isinstance(answer.payload, bytes):
            return answer.payload
        buffer = self.memory.buffer(answer.payload)
        reply = bytes(buffer[: packed_size(buffer)])
        self.send(ReplyTaken(owner=self.owner, read=read))
        return reply

    def read(self, slot: int, header: bytes) -> bytes | NotRead:
        """Read a reply, or learn why not."""
        return self.read_answer(self.ask_read(slot, header))

    # The session table.

    def start_checkpoint(self, book: Book, *, sessions: bytes | None = None) -> int:
        """Begin a checkpoint of the book as it is; gives its number."""
        self.number += 1
        message = Checkpoint(owner=self.owner, number=self.number, op=book.op, sessions=sessions or book.encode())
        self.send(message)
        self.expect(CheckpointStarted, where=lambda started: started.number == message.number)
        return message.number

    def checkpoint_done(self, number: int) -> CheckpointDone:
        """Wait for the end of a checkpoint."""
        return self.expect(CheckpointDone, where=lambda done: done.number == number)

    def checkpoint(self, book: Book) -> CheckpointDone:
        """Checkpoint the book."""
        return self.checkpoint_done(self.start_checkpoint(book))

    def install(self, book: Book) -> SessionsInstalled:
        """Install the book, as after a state sync."""
        self.number += 1
        message = InstallSessions(owner=self.owner, number=self.number, op=book.op, sessions=book.encode())
        self.send(message)
        return self.expect(SessionsInstalled, where=lambda installed: installed.number == message.number)

    def refused(self, request: str) -> RequestRefused:
        """Wait for the refusal of such a request."""
        return self.expect(RequestRefused, where=lambda refused: refused.request == request)

    # Peers and scripts.

    def set_peers(self, *peers: tuple[int, Any], version: int = 1) -> None:
        """Tell the component where its peers are."""
        self.send(SetPeers(owner=self.owner, version=version, peers=tuple(peers)))
        self.expect(PeersSet, where=lambda answer: answer.version == version)

    def be_peer(self, peer: int) -> None:
        """Be a peer of the component's oneself: it is told where."""
        self.send("who am I", self.system.createActor(Mirror))
        self.set_peers((peer, self.expect(Mirrored).address))

    def scripted_peer(self, peer: int) -> ActorAddress:
        """Create a peer that says what it is told to say."""
        address: ActorAddress = self.system.createActor(ScriptedPeer)
        self.send(Name(peer=peer), address)
        self.expect(Scripted)
        return address

    def script(self, message: Hold | Drop | Repeat | FailDevice) -> None:
        """Tell the storage's double what to do, and wait until it will."""
        self.send(message, self.storage)
        self.expect(Scripted)

    def hold(self, lane: str) -> None:
        """Keep back the storage's answers in a lane."""
        self.script(Hold(lane=lane))

    def held(self, lane: str) -> AnswerHeld:
        """Wait until an answer of the lane is kept back."""
        return self.expect(AnswerHeld, where=lambda held: held.lane == lane)

    def let_go(self, lane: str, *, keep_on: bool = False) -> None:
        """Send what was kept back."""
        self.send(LetGo(lane=lane, keep_on=keep_on), self.storage)

    def answer_as(self, peer: Any, *answers: Message) -> None:
        """Let a scripted peer answer who asked it last."""
        self.send(AnswerAs(answers=answers), peer)

    def asked(self, peer: int) -> GetReplies:
        """Wait until a scripted peer is asked."""
        return self.expect(Asked, where=lambda asked: asked.peer == peer).request


class StorageClient(Driver):
    """A StorageActor's client, played by the test: numbers its batches, and can repeat them or send late ones."""

    def __init__(self, system: OwnedSystem, config: RepliesConfig) -> None:
        super().__init__(system, ScriptedStorage)
        self.config = config
        self.storage = self.replies
        self.batches: Counter[str] = Counter()
        pool = system.createActor(MessagePoolActor)
        self.send(OpenPool(buffers=4, size=config.message_size_max, waiting_max=4), pool)
        self.memory_name = self.expect(PoolOpened).memory
        self.pool_address = pool

    def next(self, lane: str) -> int:
        """Give the next batch's number."""
        self.batches[lane] += 1
        return self.batches[lane]

    def opening(self, mode: OpenMode = OpenMode.OPEN_OR_FORMAT) -> OpenStorage:
        """Give the next request to open."""
        return OpenStorage(batch=self.next("open"), config=self.config, mode=mode, memory=self.memory_name)

    def open_storage(self) -> StorageOpened:
        """Open, which must work."""
        message = self.opening()
        self.send(message)
        answer = self.expect(StorageOpened, StorageOpenFailed, where=lambda answer: answer.batch == message.batch)
        assert isinstance(answer, StorageOpened), answer
        return answer

    def close_storage(self) -> None:
        """Close, and wait for it."""
        message = CloseStorage(batch=self.next("close"))
        self.send(message)
        self.expect(StorageClosed, where=lambda closed: closed.batch == message.batch)

    def write_slots(self, replies: dict[int, Payload], *, repair: bool = False) -> WriteSlots:
        """Send the next group of writes; gives the message."""
        batch = self.next("repair" if repair else "write")
        message = WriteSlots(batch=batch, slots=tuple(replies), payloads=tuple(replies.values()), repair=repair)
        self.send(message)
        return message

    def forward(self, forwarder: Any, message: Message) -> None:
        """Let another actor send the message, as its own."""
        self.send(Forward(target=self.replies, message=message), forwarder)
        self.expect(Scripted)

    def forwarded(self, kind: type[Kind]) -> Kind:
        """Wait for an answer that the other actor got."""
        answer = self.expect(Forwarded, where=lambda forwarded: isinstance(forwarded.message, kind)).message
        assert isinstance(answer, kind)
        return answer

    def leases(self, count: int) -> tuple[Lease, ...]:
        """Acquire buffers, and map the memory that they are in."""
        self.send(AcquireLeases(holder=1, number=1, count=count), self.pool_address)
        self._memory = PoolMemory.open(self.memory_name)
        return self.expect(LeasesGranted).leases

    @property
    def memory(self) -> PoolMemory:
        """Give the mapping."""
        assert self._memory is not None
        return self._memory


def found(request: GetReplies, peer: int, replies: dict[int, bytes]) -> RepliesFound:
    """Answer a request with these replies, whatever they are."""
    return RepliesFound(
        asker=request.asker,
        incarnation=request.incarnation,
        request=request.request,
        peer=peer,
        slots=tuple(replies),
        replies=tuple(replies.values()),
    )


def missing(request: GetReplies, peer: int, reason: Missing) -> RepliesMissing:
    """Answer a request with this reason for every slot."""
    return RepliesMissing(
        asker=request.asker,
        incarnation=request.incarnation,
        request=request.request,
        peer=peer,
        slots=request.slots,
        reasons=(reason,) * len(request.slots),
    )


def slot_bytes(config: RepliesConfig, slot: int, size: int | None = None) -> bytes:
    """Read a slot of the real file, past the component."""
    layout = Layout.of(config)
    with open(config.path, "rb") as file:
        file.seek(layout.slot_offset(slot))
        return file.read(config.message_size_max if size is None else size)


def damage(config: RepliesConfig, slot: int, offset: int = 280, data: bytes = b"rotten") -> None:
    """Write over some bytes of a slot of the real file, past the component."""
    layout = Layout.of(config)
    with open(config.path, "r+b") as file:
        file.seek(layout.slot_offset(slot) + offset)
        file.write(data)
