"""The owner's side of the protocol, against a counterpart that loses, repeats and reorders what passes between them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from thespian.actors import ActorAddress

from client_replies.actors.owner.port_events import (
    PORT_MESSAGES,
    PortFailed,
    PortMisused,
    ReadFailed,
    ReadSucceeded,
    SlotsAreDurable,
    WritesAreDurable,
)
from client_replies.actors.owner.queries import READS_MAX
from client_replies.actors.owner.replies_port import RepliesPort, _ignore
from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.leases import (
    AcquireLeases,
    Lease,
    LeasesGranted,
    LeasesRefused,
    MemoryName,
    make_lease,
)
from client_replies.messages.message import Message
from client_replies.messages.protocol import PROTOCOL
from client_replies.messages.replies import (
    AwaitDurable,
    Checkpoint,
    CheckpointDone,
    CheckpointStarted,
    CloseReplies,
    InstallSessions,
    NotRead,
    OpenFailed,
    OpenReplies,
    PeersSet,
    ReadReply,
    RemoveReplies,
    RepliesClosed,
    RepliesDurable,
    RepliesOpened,
    ReplyNotRead,
    ReplyRead,
    ReplyTaken,
    RequestRefused,
    SessionsInstalled,
    SetPeers,
    SlotsDurable,
    StorageFailed,
    WriteReplies,
    WritesAccepted,
    WritesRefused,
)
from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import HEADER_SIZE
from client_replies.storage.shared_memory import PoolMemory

from tests.messages.samples import sample

CLUSTER = 7
OWNER = 99
SLOTS = 8
POOL = ActorAddress(None)
CONFIG = RepliesConfig(
    path="x",
    cluster=CLUSTER,
    replica=0,
    clients_max=SLOTS,
    message_size_max=16384,
    inline_size_max=4096,
    buffers_max=4,
    repair_bytes_max=16384,
)


def reply(slot: int, op: int, size: int = 100, cluster: int = CLUSTER) -> bytes:
    """A reply of the slot's client whose body says which op it is of."""
    body = op.to_bytes(8, "little") * (size // 8 + 1)
    return Reply.build(
        cluster=cluster, client=slot + 1, session=1, request=op, op=op, operation=2, timestamp=1, body=body[:size]
    ).pack()


LARGEST = reply(0, 1, size=CONFIG.message_size_max - HEADER_SIZE)


def is_ready(port: RepliesPort) -> bool:
    """Ask anew: the type checker takes a property for a constant."""
    return port.ready


@dataclass
class Bench:
    """A port whose messages are collected, with the clock in the test's hand."""

    memory: PoolMemory
    time: float = 0.0
    write_interval: float = 0.0
    sent: list[Message] = field(default_factory=list)
    pool_sent: list[Message] = field(default_factory=list)
    mapped: list[PoolMemory] = field(default_factory=list)  # what the port has mapped
    port: RepliesPort = field(init=False)

    def __post_init__(self) -> None:
        self.port = RepliesPort(
            owner=OWNER,
            send=lambda message: self.sent.append(message),  # type: ignore[arg-type]
            send_pool=lambda pool, message: self.pool_sent.append(message),  # type: ignore[arg-type]
            now=lambda: self.time,
            open_memory=self.map,
            pending_max=16,
            write_interval=self.write_interval,
        )

    def opened(self, credit: int = 100) -> Bench:
        """Bring the port to where it is open, and forget what that took."""
        self.port.open(CONFIG, OpenMode.OPEN_OR_FORMAT)
        self.port.receive(self.opening(credit))
        self.port.take_events()
        self.sent.clear()
        return self

    def opening(self, credit: int = 100, op: int = 0) -> RepliesOpened:
        """What the opening of a file of that op is answered with."""
        return RepliesOpened(
            owner=OWNER,
            formatted=True,
            sequence=0,
            op=op,
            sessions=b"",
            faulty=(),
            credit=credit,
            pool=POOL,
            memory=self.memory.name,
        )

    def map(self, name: MemoryName) -> PoolMemory:
        """Map the pool's memory for the port."""
        self.mapped.append(PoolMemory.open(name))
        return self.mapped[-1]

    def only_sent(self) -> Message:
        """The one message that went out since the last look."""
        (message,) = self.sent
        self.sent.clear()
        return message

    def writes(self) -> WriteReplies:
        """The one message that went out, which carries writes."""
        message = self.only_sent()
        assert isinstance(message, WriteReplies)
        return message

    def accept(self, number: int, credit: int = 100) -> None:
        """The component has taken the batch over."""
        self.port.receive(WritesAccepted(owner=OWNER, number=number, credit=credit))

    def pass_time(self, seconds: float) -> None:
        """Let the clock and the port tick."""
        self.time += seconds
        self.port.tick()


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A port before it is opened."""
    memory = PoolMemory.create(4, 16384, b"t" * 16)
    for buffer in range(4):
        memory.set_generation(buffer, 1)
    yield Bench(memory)
    memory.close()


def test_the_port_takes_what_the_protocol_sends_to_an_owner_and_nothing_else(bench: Bench) -> None:
    """Each of them has a receiver, so an owner can hand over all that it gets. These are to an earlier owner."""
    taken = []
    for row in PROTOCOL:
        earlier = {name: 999 for name in ("owner", "holder") if name in row.message.__annotations__}
        if bench.port.receive(sample(row.message, **earlier)):
            taken.append(row.message)
    assert tuple(taken) == PORT_MESSAGES


def test_opening_is_asked_for_again_until_it_is_answered_and_told_once(bench: Bench) -> None:
    """A lost answer costs a timeout; an answer that comes twice is one event."""
    bench.port.open(CONFIG, OpenMode.FORMAT)
    assert isinstance(bench.only_sent(), OpenReplies)
    bench.pass_time(10)
    assert isinstance(bench.only_sent(), OpenReplies)
    assert not is_ready(bench.port)
    assert bench.port.credit == 0
    bench.port.receive(bench.opening())
    bench.port.receive(bench.opening())
    assert [type(event) for event in bench.port.take_events()] == [RepliesOpened]
    assert is_ready(bench.port)
    assert bench.port.credit == 100


def test_a_file_that_cannot_be_opened_ends_the_port(bench: Bench) -> None:
    """The fault is handed on, and nothing can be asked of the port any more."""
    fault = Fault(kind=FaultKind.FILE_LOCKED, found="a", expected="b")
    bench.port.open(CONFIG, OpenMode.OPEN)
    bench.port.receive(OpenFailed(owner=OWNER, fault=fault))
    assert bench.port.take_events() == [PortFailed(fault=fault)]
    assert not bench.port.ready
    with pytest.raises(PortMisused):
        bench.port.read(0, bytes(HEADER_SIZE))


def test_a_pool_whose_memory_cannot_be_mapped_ends_the_port(bench: Bench) -> None:
    """It died meanwhile; the owner recovers with another port."""
    bench.port.open(CONFIG, OpenMode.OPEN)
    opening = bench.opening()
    bench.memory.close()
    bench.port.receive(opening)
    (failed,) = bench.port.take_events()
    assert isinstance(failed, PortFailed)
    assert failed.fault.kind is FaultKind.MEMORY_UNAVAILABLE
    assert not is_ready(bench.port)


def test_a_port_goes_on_from_the_op_of_the_file(bench: Bench) -> None:
    """The component knows everything up to there: nothing is told, or called durable, anew."""
    port = bench.port
    port.open(CONFIG, OpenMode.OPEN)
    assert port.accepted == 0
    port.receive(bench.opening(op=7))
    assert port.accepted == 7
    bench.sent.clear()
    port.committed(7, tell_durable=True)
    bench.pass_time(5)
    assert bench.sent == []
    port.write(0, reply(0, 8))
    port.committed(8)
    assert bench.writes().op == 8


def test_a_port_that_has_ended_has_no_more_events(bench: Bench) -> None:
    """Also what comes unsolicited is ignored then."""
    port = port_that_is("failed", bench)
    assert port.receive(StorageFailed(owner=OWNER, fault=FAULT))
    assert port.take_events() == []


def test_a_storage_that_stops_before_the_port_has_heard_that_it_is_open_is_an_event(bench: Bench) -> None:
    """The answer to the opening was lost, and is asked for again; the owner need not wait for that to recover."""
    failed = StorageFailed(owner=OWNER, fault=FAULT)
    bench.port.open(CONFIG, OpenMode.OPEN)
    bench.port.receive(failed)
    assert bench.port.take_events() == [failed]


def test_an_open_port_has_a_method_for_each_of_its_messages(bench: Bench) -> None:
    """One that is forgotten would be ignored."""
    receivers = bench.opened().port._receivers
    assert set(receivers) == set(PORT_MESSAGES)
    assert {kind for kind, receiver in receivers.items() if receiver is _ignore} == set()


def test_what_is_written_meanwhile_forms_the_next_batch(bench: Bench) -> None:
    """One batch is in flight; the next carries what came since, under the next number."""
    port = bench.opened().port
    port.write(0, reply(0, 1))
    assert bench.sent == []
    port.committed(1)
    first = bench.writes()
    assert (first.number, first.op, first.slots) == (1, 1, (0,))
    for op in (2, 3):
        port.write(op, reply(op, op))
        port.committed(op)
    assert bench.sent == []
    bench.accept(1)
    second = bench.writes()
    assert (second.number, second.op, second.slots) == (2, 3, (2, 3))


def test_of_several_operations_on_a_slot_only_the_last_goes_out(bench: Bench) -> None:
    """A reply that its session's next one replaced needs no write; the next one takes its place."""
    port = bench.opened().port
    port.write(0, reply(0, 1))
    port.write(1, reply(1, 2))
    port.write(0, reply(0, 3))
    port.committed(3)
    batch = bench.writes()
    assert batch.slots == (0, 1)
    assert batch.payloads == (reply(0, 3), reply(1, 2))
    assert batch.op == 3


def test_writes_and_removals_keep_their_commit_order(bench: Bench) -> None:
    """They travel in messages of their own, one after the other, each with the op up to which all is known."""
    port = bench.opened().port
    port.write(0, reply(0, 1))
    port.remove(1, 2)
    port.write(2, reply(2, 3))
    port.committed(3)
    found = []
    for number in (1, 2, 3):
        message = bench.only_sent()
        assert isinstance(message, WriteReplies | RemoveReplies)
        found.append((type(message), message.number, message.op, message.slots))
        bench.accept(number)
    assert found == [(WriteReplies, 1, 1, (0,)), (RemoveReplies, 2, 2, (1,)), (WriteReplies, 3, 3, (2,))]


def test_a_removal_after_a_write_of_the_same_slot_replaces_it(bench: Bench) -> None:
    """And the other way round: the last word about a slot counts."""
    port = bench.opened().port
    port.write(0, reply(0, 1))
    port.remove(0, 2)
    port.remove(1, 3)
    port.write(1, reply(1, 4))
    port.committed(4)
    message = bench.only_sent()
    assert isinstance(message, RemoveReplies)
    assert message.slots == (0,)
    bench.accept(1)
    assert bench.writes().slots == (1,)


def test_what_is_not_committed_yet_stays(bench: Bench) -> None:
    """A place in the queue opens with its op; no op is told that was not called committed."""
    port = bench.opened().port
    port.write(0, reply(0, 1))
    port.write(1, reply(1, 2))
    port.write(0, reply(0, 3))
    port.committed(1)
    batch = bench.writes()
    assert (batch.slots, batch.payloads, batch.op) == ((0,), (reply(0, 3),), 1)
    bench.accept(1)
    assert bench.sent == []
    port.committed(3)
    batch = bench.writes()
    assert (batch.slots, batch.op) == ((1,), 3)


def test_a_batch_is_no_larger_than_the_credit(bench: Bench) -> None:
    """The component is never asked for more than it promised to take."""
    port = bench.opened(credit=2).port
    for slot in range(5):
        port.write(slot, reply(slot, slot + 1))
    port.committed(5)
    assert bench.writes().slots == (0, 1)
    bench.accept(1, credit=1)
    batch = bench.writes()
    assert batch.slots == (2,)
    assert batch.op == 3
    assert port.credit == 1


def test_a_batch_without_an_answer_is_sent_again_as_it_was(bench: Bench) -> None:
    """The same number with other contents would let an answer speak of the wrong batch."""
    port = bench.opened().port
    port.write(0, reply(0, 1))
    port.committed(1)
    first = bench.writes()
    port.write(0, reply(0, 2))
    port.committed(2)
    bench.pass_time(5)
    assert bench.writes() is first
    bench.accept(1)
    second = bench.writes()
    assert second.payloads == (reply(0, 2),)
    bench.accept(1)
    assert bench.sent == []
    bench.accept(2)
    assert port.idle


def test_a_busy_component_is_asked_again_later(bench: Bench) -> None:
    """BUSY passes; nothing is dropped for it."""
    port = bench.opened().port
    port.write(0, reply(0, 1))
    port.committed(1)
    first = bench.writes()
    busy = Fault(kind=FaultKind.BUSY, found="a", expected="b")
    port.receive(WritesRefused(owner=OWNER, number=1, index=0, fault=busy))
    assert port.take_events() == []
    bench.pass_time(5)
    assert bench.writes() is first


def test_any_other_refusal_ends_the_port(bench: Bench) -> None:
    """Owner and component disagree about what was committed: going on would hide it."""
    port = bench.opened().port
    port.write(0, reply(0, 1))
    port.committed(1)
    fault = Fault(kind=FaultKind.REPLY_OLDER, found="a", expected="b")
    port.receive(WritesRefused(owner=OWNER, number=8, index=0, fault=fault))
    assert port.take_events() == []
    port.receive(WritesRefused(owner=OWNER, number=1, index=0, fault=fault))
    assert port.take_events() == [PortFailed(fault=fault)]


def test_a_full_port_is_not_ready_and_refuses_more(bench: Bench) -> None:
    """The queue is bounded; what was refused changed nothing."""
    port = bench.opened(credit=0).port
    for op in range(1, 17):
        port.write(op % SLOTS, reply(op % SLOTS, op))
    assert port.pending == SLOTS
    small = Bench(bench.memory)
    small.port._queue.pending_max = 2
    small.opened(credit=0)
    small.port.write(0, reply(0, 1))
    assert is_ready(small.port)
    small.port.write(1, reply(1, 2))
    assert not is_ready(small.port)
    with pytest.raises(PortMisused):
        small.port.write(2, reply(2, 3))
    assert small.port.pending == 2


@pytest.mark.parametrize(
    ("slot", "data", "why"),
    [
        (SLOTS, reply(0, 1), "slot 8 of 8"),
        (-1, reply(0, 1), "slot -1 of 8"),
        (0, reply(0, 1)[:-1], "355 bytes whose header says 356"),
        (0, reply(0, 1, size=len(LARGEST) - HEADER_SIZE - 1) + b"\0", "16384 bytes whose header says 16383"),
        (0, reply(0, 1, size=0), "256 bytes, expected more than 256 and at most 16384"),
        (0, reply(0, 1) + b"\0", "357 bytes whose header says 356"),
        (0, b"", "0 bytes, expected more than 256 and at most 16384"),
        (0, LARGEST + b"\0", "16385 bytes, expected more than 256 and at most 16384"),
        (0, reply(0, 1, cluster=10), "a reply of cluster a, expected 7"),
    ],
)
def test_what_is_no_reply_for_a_slot_is_refused_at_once(bench: Bench, slot: int, data: bytes, why: str) -> None:
    """The owner's mistake is shown to the owner, before anything waits; the text names what is wrong."""
    port = bench.opened().port
    with pytest.raises(PortMisused, match=f"{why}$"):
        port.write(slot, data)
    assert port.pending == 0


def test_replies_of_every_slot_and_of_the_smallest_and_largest_size_are_taken(bench: Bench) -> None:
    """The limits themselves are allowed."""
    port = bench.opened().port
    for slot, data in ((0, reply(0, 1, size=1)), (SLOTS - 1, LARGEST)):
        port.write(slot, data)
    assert port.pending == 2


def grant(bench: Bench, buffers: tuple[int, ...]) -> None:
    """Answer the request for leases that went out last."""
    asked = [message for message in bench.pool_sent if isinstance(message, AcquireLeases)][-1]
    leases = tuple(make_lease(buffer, 1) for buffer in buffers)
    bench.port.receive(LeasesGranted(holder=OWNER, number=asked.number, leases=leases))


@pytest.mark.parametrize(("size", "waits"), [(4096, False), (4097, True)])
def test_a_reply_of_the_inline_size_waits_for_no_buffer(bench: Bench, size: int, waits: bool) -> None:
    """One that is larger does: messages are no place for its bytes."""
    port = bench.opened().port
    port.write(0, reply(0, 1, size=size - HEADER_SIZE))
    port.committed(1)
    assert (bench.sent == []) == waits


def test_a_refusal_of_the_pool_that_does_not_pass_ends_the_port(bench: Bench) -> None:
    """Its holder is gone: large replies would wait for ever."""
    port = bench.opened().port
    port.write(0, reply(0, 1, size=6000))
    port.receive(LeasesRefused(holder=OWNER, number=1, fault=FAULT))
    assert port.take_events() == [PortFailed(fault=FAULT)]


def test_a_large_reply_waits_for_a_buffer_and_travels_as_a_lease(bench: Bench) -> None:
    """It is copied once; what was committed after it waits behind it, so that the told op stays true."""
    port = bench.opened().port
    large = reply(0, 1, size=9000)
    port.write(0, large)
    port.write(1, reply(1, 2))
    port.committed(2)
    assert bench.sent == []
    bench.pass_time(5)
    assert len([message for message in bench.pool_sent if isinstance(message, AcquireLeases)]) == 2
    grant(bench, (3, 1))
    batch = bench.writes()
    assert batch.slots == (0, 1)
    lease = batch.payloads[0]
    assert isinstance(lease, int)
    assert bytes(bench.memory.buffer(Lease(lease))[: len(large)]) == large
    grant(bench, (3, 1))  # the answer once more
    port.write(2, reply(2, 3, size=5000))
    port.write(3, reply(3, 4, size=5000))
    port.committed(4)
    bench.accept(1)
    assert bench.writes().slots == (2,)


def test_a_buffer_goes_to_the_oldest_reply_that_waits(bench: Bench) -> None:
    """A newer one that was served first could hold the last buffer that the oldest needs to move on."""
    port = bench.opened().port
    for slot in range(3):
        port.write(slot, reply(slot, slot + 1, size=6000))
    port.committed(3)
    grant(bench, (0,))
    port.write(3, reply(3, 4, size=6000))
    assert bench.writes().slots == (0,)


def test_a_replaced_large_reply_gives_its_buffer_to_the_next(bench: Bench) -> None:
    """No lease is lost when a newer reply of the slot takes the place of one that waits."""
    port = bench.opened().port
    port.write(0, reply(0, 1, size=6000))
    grant(bench, (2,))
    port.write(0, reply(0, 2, size=6000))
    port.committed(2)
    batch = bench.writes()
    assert batch.payloads == (make_lease(2, 1),)
    assert bytes(bench.memory.buffer(make_lease(2, 1))[:HEADER_SIZE]) == reply(0, 2, size=6000)[:HEADER_SIZE]


def test_a_lent_buffer_is_filled_again_when_its_batch_is_durable(bench: Bench) -> None:
    """Not when it is accepted; whichever message says that it is durable, once."""
    port = bench.opened().port
    port.write(0, reply(0, 1, size=6000))
    port.committed(1)
    grant(bench, (2,))
    assert bench.writes().durable
    port.write(1, reply(1, 2, size=6000))
    port.committed(2)
    bench.accept(1)
    assert bench.sent == []
    for _ in range(2):
        port.receive(RepliesDurable(owner=OWNER, through=1))
    assert bench.writes().payloads == (make_lease(2, 1),)
    port.write(3, reply(3, 3, size=6000))
    port.committed(3)
    port.receive(WritesAccepted(owner=OWNER, number=2, credit=9, durable_through=2))
    assert bench.writes().payloads == (make_lease(2, 1),)


def test_a_small_reply_takes_a_buffer_if_there_is_one_and_waits_for_none(bench: Bench) -> None:
    """Its bytes go through two processes otherwise; the smallest are not worth it."""
    port = bench.opened().port
    port.write(0, reply(0, 1, size=2000))
    port.committed(1)
    assert [type(payload) for payload in bench.writes().payloads] == [bytes]
    grant(bench, (0, 1))
    for slot, size in enumerate((100, 2000, 2000, 2000)):
        port.write(slot, reply(slot, 2 + slot, size=size))
    port.committed(5)
    bench.accept(1)
    batch = bench.writes()
    assert [type(payload) for payload in batch.payloads] == [bytes, int, int, bytes]
    for slot in (1, 2):
        lease = batch.payloads[slot]
        assert isinstance(lease, int)
        assert bytes(bench.memory.buffer(Lease(lease))[: HEADER_SIZE + 2000]) == reply(slot, 2 + slot, size=2000)


def test_small_replies_ask_for_no_more_buffers_than_would_be_kept(bench: Bench) -> None:
    """With half of the pool lent, those that come back are enough; a large reply asks all the same."""
    port = bench.opened().port
    port.write(0, reply(0, 1, size=2000))
    port.committed(1)
    grant(bench, (0, 1))
    bench.accept(1)
    bench.sent.clear()
    asked = len(bench.pool_sent)
    for slot in range(3):
        port.write(slot, reply(slot, 2 + slot, size=2000))
    port.committed(4)
    assert [type(payload) for payload in bench.writes().payloads] == [int, int, bytes]
    bench.accept(2)
    port.write(3, reply(3, 5, size=2000))
    port.committed(5)
    assert [type(payload) for payload in bench.writes().payloads] == [bytes]
    assert len(bench.pool_sent) == asked
    port.write(4, reply(4, 6, size=6000))
    assert len(bench.pool_sent) == asked + 1


@pytest.fixture
def paced(bench: Bench) -> Bench:
    """An open port with a write interval, whose first batch was accepted just now."""
    paced = Bench(bench.memory, write_interval=0.5).opened()
    paced.port.write(0, reply(0, 1))
    paced.port.committed(1)
    assert paced.writes().slots == (0,)
    paced.accept(1)
    return paced


def test_what_nobody_waits_for_gathers_for_a_while(paced: Bench) -> None:
    """Of a busy session most replies are replaced before they cost anything; they can be read all the time."""
    bench, port = paced, paced.port
    for op in (2, 3, 4):
        port.write(0, reply(0, op))
        port.committed(op)
    bench.pass_time(0.4)
    assert bench.sent == []
    port.read(0, reply(0, 4)[:HEADER_SIZE])
    assert [type(event) for event in port.take_events()] == [ReadSucceeded]
    bench.pass_time(0.1)
    batch = bench.writes()
    assert (batch.slots, batch.payloads, batch.op) == ((0,), (reply(0, 4),), 4)
    assert port.accepted == 1
    bench.accept(2)
    assert port.accepted == 4


@pytest.mark.parametrize("how", ["durable", "wait", "checkpoint", "install", "close", "full", "large"])
def test_what_somebody_waits_for_goes_out_at_once(paced: Bench, how: str) -> None:
    """Be it the owner, a checkpoint, or replies that have no room."""
    bench, port = paced, paced.port
    port.write(1, reply(1, 2))
    if how == "durable":
        port.committed(2, tell_durable=True)
    else:
        port.committed(2)
        assert bench.sent == []
    if how == "wait":
        port.await_durable((1,))
    elif how == "checkpoint":
        port.checkpoint(2, b"x")
    elif how == "install":
        port.install(2, b"x")
        assert isinstance(bench.only_sent(), InstallSessions)
        return
    elif how == "close":
        port.close()
    elif how == "full":
        for slot in range(8):
            port.write(slot, reply(slot, 3 + slot))
        port.committed(10)
    elif how == "large":
        port.write(2, reply(2, 3, size=6000))
        port.write(3, reply(3, 4, size=6000))
        port.committed(4)
    assert 1 in bench.writes().slots


def test_what_the_owner_does_when_something_is_durable_joins_what_waits(bench: Bench) -> None:
    """One batch instead of two that take turns for ever; if it does nothing, the tick goes on."""
    port = bench.opened().port
    for op in (1, 2):
        port.write(op, reply(op, op))
        port.committed(op, tell_durable=True)
    assert bench.writes().slots == (1,)
    port.read(2, reply(2, 2)[:HEADER_SIZE])
    assert port.receive(WritesAccepted(owner=OWNER, number=1, credit=9, durable_through=1))
    read, durable = port.take_events()
    assert isinstance(read, ReadSucceeded)
    assert durable == WritesAreDurable(op=1)
    assert bench.sent == []
    port.write(3, reply(3, 3))
    port.committed(3, tell_durable=True)
    assert bench.writes().slots == (2, 3)
    port.write(4, reply(4, 4))
    port.committed(4, tell_durable=True)
    port.receive(WritesAccepted(owner=OWNER, number=2, credit=9, durable_through=2))
    assert port.take_events() == [WritesAreDurable(op=3)]
    bench.pass_time(0.1)
    assert bench.writes().slots == (4,)


def test_the_owner_is_told_what_is_durable_and_asks_again_if_that_was_lost(bench: Bench) -> None:
    """In ops, as far as it asked; an empty batch asks, and its answer tells."""
    port = bench.opened().port
    port.write(0, reply(0, 5))
    port.committed(5, tell_durable=True)
    assert bench.writes().durable
    bench.accept(1)
    assert port.take_events() == []
    port.write(1, reply(1, 6, size=9000))  # which waits for a buffer
    port.committed(6)
    bench.pass_time(0.9)
    assert bench.sent == []
    bench.pass_time(0.1)
    again = bench.writes()
    assert (again.number, again.slots, again.op, again.durable) == (2, (), 5, True)
    port.receive(WritesAccepted(owner=OWNER, number=2, credit=9, durable_through=1))
    assert port.take_events() == [WritesAreDurable(op=5)]
    port.write(1, reply(1, 7))
    port.committed(7)
    assert not bench.writes().durable
    port.receive(WritesAccepted(owner=OWNER, number=3, credit=9, durable_through=3))
    assert port.take_events() == []
    bench.pass_time(5)
    assert bench.sent == []


def test_a_read_is_answered_once_and_repeated_until_then(bench: Bench) -> None:
    """Reads overlap, come in any order, and each ends in one event."""
    port = bench.opened().port
    one, two = reply(1, 5), reply(2, 6)
    first, second = port.read(1, one[:HEADER_SIZE]), port.read(2, two[:HEADER_SIZE])
    bench.sent.clear()
    bench.pass_time(5)
    assert [message.read for message in bench.sent if isinstance(message, ReadReply)] == [first, second]
    bench.sent.clear()
    port.receive(ReplyNotRead(owner=OWNER, read=second, slot=2, reason=NotRead.CORRUPT))
    port.receive(ReplyRead(owner=OWNER, read=first, slot=1, payload=one))
    port.receive(ReplyRead(owner=OWNER, read=first, slot=1, payload=one))
    assert port.take_events() == [
        ReadFailed(read=second, slot=2, header=two[:HEADER_SIZE], reason=NotRead.CORRUPT),
        ReadSucceeded(read=first, slot=1, header=one[:HEADER_SIZE], reply=one),
    ]
    bench.pass_time(5)
    assert bench.sent == []


def test_only_a_few_reads_are_asked_for_at_the_same_time(bench: Bench) -> None:
    """An actor has twenty transmits outstanding over all its targets: reads must not take them all."""
    port = bench.opened().port
    headers = [reply(1, op)[:HEADER_SIZE] for op in range(1, READS_MAX + 3)]
    reads = [port.read(1, header) for header in headers]
    assert [message.read for message in bench.sent if isinstance(message, ReadReply)] == reads[:READS_MAX]
    bench.sent.clear()
    for answered, asked in zip(reads, reads[READS_MAX:], strict=False):
        port.receive(ReplyNotRead(owner=OWNER, read=answered, slot=1, reason=NotRead.BUSY))
        message = bench.only_sent()
        assert isinstance(message, ReadReply)
        assert message.read == asked
    assert len(port.take_events()) == 2


def test_a_read_that_has_its_reply_makes_room_for_the_next(bench: Bench) -> None:
    """As one that failed does: for one, not for more."""
    port = bench.opened().port
    replies = [reply(1, op) for op in range(1, 3 * READS_MAX)]
    reads = [port.read(1, one[:HEADER_SIZE]) for one in replies]
    for answered, (read, one) in enumerate(zip(reads[:READS_MAX], replies, strict=False)):
        asked = [message.read for message in bench.sent if isinstance(message, ReadReply)]
        assert asked == reads[: READS_MAX + answered]
        port.receive(ReplyRead(owner=OWNER, read=read, slot=1, payload=one))


def test_reads_and_waits_are_numbered_from_one_each(bench: Bench) -> None:
    """Also a read that is answered from the port."""
    port = bench.opened().port
    one = reply(1, 5)
    port.write(1, one)
    assert [port.await_durable((0,)) for _ in range(2)] == [1, 2]
    assert [port.read(slot, one[:HEADER_SIZE]) for slot in (0, 1, 0)] == [1, 2, 3]


def test_a_lent_buffer_is_copied_and_given_back_also_when_the_answer_comes_again(bench: Bench) -> None:
    """The loan ends with `ReplyTaken`, which may be lost like anything else."""
    port = bench.opened().port
    large = reply(1, 5, size=9000)
    lease = make_lease(0, 1)
    bench.memory.buffer(lease)[: len(large)] = large
    read = port.read(1, large[:HEADER_SIZE])
    bench.sent.clear()
    port.receive(ReplyRead(owner=OWNER, read=read, slot=1, payload=lease))
    assert port.take_events() == [ReadSucceeded(read=read, slot=1, header=large[:HEADER_SIZE], reply=large)]
    assert bench.only_sent() == ReplyTaken(owner=OWNER, read=read)
    port.receive(ReplyRead(owner=OWNER, read=read, slot=1, payload=lease))
    assert port.take_events() == []
    assert bench.only_sent() == ReplyTaken(owner=OWNER, read=read)


def test_a_loan_that_was_over_is_not_taken_for_the_reply(bench: Bench) -> None:
    """The buffer has another generation, or other contents: the read goes on."""
    port = bench.opened().port
    wanted = reply(1, 5, size=9000)
    read = port.read(1, wanted[:HEADER_SIZE])
    port.receive(ReplyRead(owner=OWNER, read=read, slot=1, payload=make_lease(0, 77)))
    port.receive(ReplyRead(owner=OWNER, read=read, slot=1, payload=make_lease(0, 1)))
    assert port.take_events() == []
    port.receive(ReplyRead(owner=OWNER, read=read, slot=1, payload=wanted))
    assert [type(event) for event in port.take_events()] == [ReadSucceeded]


def test_a_reply_that_still_waits_in_the_port_is_read_from_there(bench: Bench) -> None:
    """The component has not heard of it, and would call it unexpected."""
    port = bench.opened().port
    small, large = reply(1, 5), reply(2, 6, size=9000)
    port.write(1, small)
    port.write(2, large)
    grant(bench, (0,))
    port.read(1, small[:HEADER_SIZE])
    port.read(2, large[:HEADER_SIZE])
    assert bench.sent == []
    assert [event.reply for event in port.take_events() if isinstance(event, ReadSucceeded)] == [small, large]


def test_a_checkpoint_goes_out_between_what_was_before_and_after_it(bench: Bench) -> None:
    """What was written before is accepted before; what comes after need not wait for its end."""
    port = bench.opened().port
    port.write(0, reply(0, 1))
    port.committed(1)
    port.checkpoint(1, b"table")
    port.write(0, reply(0, 2))
    port.committed(2)
    assert bench.writes().op == 1
    bench.accept(1)
    checkpoint = bench.only_sent()
    assert isinstance(checkpoint, Checkpoint)
    assert (checkpoint.number, checkpoint.op, checkpoint.sessions) == (2, 1, b"table")
    bench.pass_time(5)
    assert bench.only_sent() is checkpoint
    port.receive(CheckpointStarted(owner=OWNER, number=2))
    assert bench.writes().payloads == (reply(0, 2),)
    assert not port.idle
    done = CheckpointDone(owner=OWNER, number=2, op=1, sequence=1)
    port.receive(done)
    port.receive(done)
    port.receive(CheckpointStarted(owner=OWNER, number=2))
    assert port.take_events() == [done]
    bench.accept(3)
    assert port.idle


def test_a_checkpoint_whose_end_was_not_told_is_asked_about_again(bench: Bench) -> None:
    """`CheckpointDone` can be lost like any message; it can also come before, or without, the notice of the start."""
    port = bench.opened().port
    port.checkpoint(0, b"table")
    checkpoint = bench.only_sent()
    port.receive(CheckpointStarted(owner=OWNER, number=1))
    bench.pass_time(5)
    assert bench.only_sent() is checkpoint
    port.receive(CheckpointDone(owner=OWNER, number=1, op=0, sequence=1))
    port.checkpoint(0, b"table")
    bench.sent.clear()
    port.receive(CheckpointDone(owner=OWNER, number=2, op=0, sequence=2))
    assert len(port.take_events()) == 2
    assert port.idle


def test_an_installation_forgets_what_waited_and_gives_its_buffers_back(bench: Bench) -> None:
    """What waits speaks of the state that is replaced."""
    port = bench.opened().port
    port.write(0, reply(0, 1, size=9000))
    grant(bench, (0, 1))
    port.install(9, b"table")
    install = bench.only_sent()
    assert isinstance(install, InstallSessions)
    assert install.op == 9
    answer = SessionsInstalled(owner=OWNER, number=1, faulty=(3,))
    port.receive(answer)
    port.receive(answer)
    assert port.take_events() == [answer]
    asked = len(bench.pool_sent)
    for slot in (0, 1):
        port.write(slot, reply(slot, slot + 10, size=9000))
    port.committed(11)
    assert sorted(bench.writes().payloads) == [make_lease(0, 1), make_lease(1, 1)]
    assert len(bench.pool_sent) == asked + 1  # ahead, for the next


def test_waits_for_durability_are_numbered_and_repeated(bench: Bench) -> None:
    """Each ends in one event that names its slots; BUSY means later."""
    port = bench.opened().port
    wait = port.await_durable((1, 2))
    asked = bench.only_sent()
    assert isinstance(asked, AwaitDurable)
    busy = Fault(kind=FaultKind.BUSY, found="a", expected="b")
    port.receive(RequestRefused(owner=OWNER, request="AwaitDurable", number=wait, fault=busy))
    bench.pass_time(5)
    assert bench.only_sent() is asked
    port.receive(SlotsDurable(owner=OWNER, wait=wait))
    port.receive(SlotsDurable(owner=OWNER, wait=wait))
    assert port.take_events() == [SlotsAreDurable(wait=wait, slots=(1, 2))]


@pytest.mark.parametrize("held", [False, True])
def test_a_wait_that_is_refused_ends_the_port(bench: Bench, held: bool) -> None:
    """Whether it went out at once or after the writes before it; the refusal of an earlier one changes nothing."""
    port = bench.opened().port
    port.await_durable((0,))
    port.receive(SlotsDurable(owner=OWNER, wait=1))
    if held:
        port.write(1, reply(1, 1))
        port.committed(1)
    wait = port.await_durable((1,))
    bench.accept(1)
    port.take_events()
    for number in (1, wait):
        assert not port.failed
        port.receive(RequestRefused(owner=OWNER, request="AwaitDurable", number=number, fault=FAULT))
    assert port.take_events() == [PortFailed(fault=FAULT)]


def test_a_wait_is_about_what_was_written_before_it(bench: Bench) -> None:
    """Sent before the write is accepted, it would be answered for the reply that the slot held until then."""
    port = bench.opened(credit=1).port
    port.write(0, reply(0, 1))
    port.write(1, reply(1, 2))
    port.committed(2)
    wait = port.await_durable((1,))
    bench.sent.clear()
    bench.accept(1, credit=1)
    assert bench.writes().slots == (1,)
    bench.accept(2)
    asked = bench.only_sent()
    assert isinstance(asked, AwaitDurable)
    assert asked.wait == wait
    bench.pass_time(5)
    assert bench.only_sent() is asked


def test_a_wait_is_not_held_up_by_what_was_written_after_it(bench: Bench) -> None:
    """Nor by a later wait, which is about more."""
    port = bench.opened(credit=1).port
    for op in (1, 2):
        port.write(op, reply(op, op))
        port.committed(op)
        port.await_durable((op,))
    bench.sent.clear()
    bench.accept(1, credit=1)
    assert [message.wait for message in bench.sent if isinstance(message, AwaitDurable)] == [1]
    bench.accept(2)
    assert [message.wait for message in bench.sent if isinstance(message, AwaitDurable)] == [1, 2]


def test_a_wait_does_not_go_out_ahead_of_a_newer_reply_in_the_place_of_its_own(bench: Bench) -> None:
    """Asked about while it waits, a reply is replaced: sent now, the wait would be answered for the one before both."""
    port = bench.opened(credit=1).port
    for slot, op in ((0, 1), (1, 2)):
        port.write(slot, reply(slot, op))
    port.committed(2)
    wait = port.await_durable((1,))
    port.write(1, reply(1, 3))
    port.committed(3)
    assert bench.writes().slots == (0,)
    bench.accept(1, credit=1)
    batch = bench.writes()  # and nothing beside it
    assert (batch.slots, batch.payloads) == ((1,), (reply(1, 3),))
    bench.accept(2)
    asked = bench.only_sent()
    assert isinstance(asked, AwaitDurable)
    assert asked.wait == wait


def test_a_busy_slot_is_neither_put_off_nor_starves_its_wait(bench: Bench) -> None:
    """However often its reply is replaced, it goes out when the first of them would have, and the wait after it."""
    port = bench.opened(credit=1).port
    for op, slot in enumerate(range(5), 1):
        port.write(slot, reply(slot, op))
    port.committed(5)
    port.await_durable((2,))
    sent: list[Message] = []
    for op in range(6, 14):
        port.write(2, reply(2, op))
        port.committed(op)
        sent += bench.sent
        bench.sent.clear()
        bench.accept(op - 5, credit=1)
    batches = [message.slots for message in sent if isinstance(message, WriteReplies)]
    assert batches[:5] == [(0,), (1,), (2,), (3,), (4,)]
    kinds = [type(message) for message in sent]
    assert kinds.index(AwaitDurable) == 6  # once all that waited before it was accepted: beside the sixth batch


def test_a_wait_is_about_what_was_installed_before_it(bench: Bench) -> None:
    """Also one that was asked before the installation and is held: its reply was forgotten."""
    port = bench.opened(credit=1).port
    for slot, op in ((0, 1), (1, 2)):
        port.write(slot, reply(slot, op))
    port.committed(2)
    before = port.await_durable((1,))
    port.install(9, b"table")
    after = port.await_durable((1,))
    read = port.read(1, reply(1, 8)[:HEADER_SIZE])
    assert bench.writes().slots == (0,)
    bench.accept(1)
    assert isinstance(bench.only_sent(), InstallSessions)
    port.receive(SessionsInstalled(owner=OWNER, number=2, faulty=(1,)))
    first, second, third = bench.sent
    assert isinstance(first, AwaitDurable)
    assert isinstance(second, AwaitDurable)
    assert isinstance(third, ReadReply)
    assert (first.wait, second.wait, third.read) == (before, after, read)


def test_what_is_called_durable_up_to_an_op_leaves_no_reply_before_it_behind(bench: Bench) -> None:
    """The reply of op 4 replaced that of op 2; were the one of op 3 sent before it, neither would be on disk then."""
    port = bench.opened(credit=1).port
    for slot, op in ((0, 1), (1, 2), (2, 3), (1, 4)):
        port.write(slot, reply(slot, op))
        port.committed(op, tell_durable=True)
    found: list[object] = []
    for number in (1, 2, 3):
        batch = bench.writes()
        found.append((batch.slots, batch.op))
        port.receive(WritesAccepted(owner=OWNER, number=number, credit=1, durable_through=number))
        found.append(port.take_events())
        port.tick()
    assert found == [
        ((0,), 1),
        [WritesAreDurable(op=1)],
        ((1,), 2),
        [WritesAreDurable(op=2)],
        ((2,), 4),
        [WritesAreDurable(op=4)],
    ]


def test_a_checkpoint_tells_of_every_op_before_it(bench: Bench) -> None:
    """A removal that went out in an older one's place was not told of; the checkpoint's table may not know of it."""
    port = bench.opened().port
    port.remove(1, 2)
    port.remove(1, 5)
    port.committed(2)
    removal = bench.only_sent()
    assert isinstance(removal, RemoveReplies)
    assert removal.op == 2
    port.checkpoint(3, b"table")
    bench.accept(1)
    assert bench.sent == []
    port.committed(5)
    told = bench.writes()
    assert (told.slots, told.op) == ((), 5)
    bench.accept(2)
    assert isinstance(bench.only_sent(), Checkpoint)


def test_a_large_reply_in_the_place_of_a_small_one_takes_a_buffer_from_behind(bench: Bench) -> None:
    """Those behind it hold all buffers, and cannot go before it."""
    port = bench.opened(credit=1).port
    port.write(0, reply(0, 1))
    port.write(1, reply(1, 2))
    port.committed(2)
    assert bench.writes().slots == (0,)
    for slot, op in ((2, 3), (3, 4)):
        port.write(slot, reply(slot, op, size=6000))
    grant(bench, (0, 1))
    large = reply(1, 5, size=9000)
    port.write(1, large)
    port.committed(5)
    bench.accept(1, credit=9)
    batch = bench.writes()
    assert (batch.slots, batch.payloads) == ((1, 2), (make_lease(0, 1), make_lease(1, 1)))
    assert bytes(bench.memory.buffer(make_lease(0, 1))[: len(large)]) == large
    header = reply(3, 4, size=6000)[:HEADER_SIZE]
    port.read(3, header)
    assert port.take_events() == [ReadSucceeded(read=1, slot=3, header=header, reply=reply(3, 4, size=6000))]
    port.receive(WritesAccepted(owner=OWNER, number=2, credit=9, durable_through=2))
    assert bench.writes().slots == (3,)


def test_closing_sends_also_what_was_not_called_committed(bench: Bench) -> None:
    """Nobody could call it so any more, and the end would wait for it for ever."""
    port = bench.opened().port
    port.write(0, reply(0, 1))
    port.close()
    assert bench.writes().slots == (0,)
    bench.accept(1)
    assert isinstance(bench.only_sent(), CloseReplies)


def test_a_port_that_has_closed_does_not_ask_what_is_durable(bench: Bench) -> None:
    """Its last batch was not called durable by a message that came; the end says it, and nothing is left to ask."""
    port = bench.opened().port
    port.write(0, reply(0, 1))
    port.committed(1, tell_durable=True)
    bench.accept(1)
    port.close()
    closed = RepliesClosed(owner=OWNER, number=2)
    port.receive(closed)
    port.take_events()
    bench.sent.clear()
    bench.pass_time(5)
    assert bench.sent == []
    port.receive(RequestRefused(owner=OWNER, request="SetPeers", number=1, fault=FAULT))
    assert port.take_events() == []


FAULT = Fault(kind=FaultKind.REPLY_OLDER, found="a", expected="b")


def port_that_is(state: str, bench: Bench) -> RepliesPort:
    """Bring the port to a state, and forget what that took."""
    port = bench.port
    if state != "new":
        port.open(CONFIG, OpenMode.OPEN_OR_FORMAT)
    if state not in ("new", "opening"):
        port.receive(bench.opening())
    if state in ("closing", "closed", "failed while closing"):
        port.close()
    if state == "closed":
        port.receive(RepliesClosed(owner=OWNER, number=1))
    elif state == "failed while closing":
        port.receive(RequestRefused(owner=OWNER, request="CloseReplies", number=1, fault=FAULT))
    elif state == "failed":
        port.checkpoint(0, b"x")
        port.receive(RequestRefused(owner=OWNER, request="Checkpoint", number=1, fault=FAULT))
    assert port.failed == state.startswith("failed")
    port.take_events()
    bench.sent.clear()
    return port


STATES_OF_PORT = {  # and what the owner is told there
    "new": "not open: open it",
    "opening": "not open: wait for RepliesOpened",
    "open": "opened once",
    "closing": "is closing and takes nothing more",
    "closed": "has closed and takes nothing more",
    "failed": "has failed: recover with another RepliesPort",
    "failed while closing": "has failed: recover with another RepliesPort",
}
ALL_STATES = frozenset(STATES_OF_PORT)
CALLS: dict[str, tuple[Callable[[RepliesPort], object], frozenset[str]]] = {
    "open": (lambda port: port.open(CONFIG, OpenMode.OPEN), frozenset({"new"})),
    "set_peers": (lambda port: port.set_peers(((1, POOL),)), frozenset({"open"})),
    "write": (lambda port: port.write(0, reply(0, 1)), frozenset({"open"})),
    "remove": (lambda port: port.remove(0, 1), frozenset({"open"})),
    "committed": (lambda port: port.committed(1), frozenset({"open"})),
    "committed, told": (lambda port: port.committed(1, tell_durable=True), frozenset({"open"})),
    "checkpoint": (lambda port: port.checkpoint(0, b"x"), frozenset({"open"})),
    "install": (lambda port: port.install(0, b"x"), frozenset({"open"})),
    "await_durable": (lambda port: port.await_durable((0,)), frozenset({"open"})),
    "read": (lambda port: port.read(0, bytes(HEADER_SIZE)), frozenset({"open"})),
    "close": (lambda port: port.close(), frozenset({"open", "closing", "closed", "failed while closing"})),
    "tick": (lambda port: port.tick(), ALL_STATES),
    "take_events": (lambda port: port.take_events(), ALL_STATES),
    "receive": (lambda port: port.receive(PeersSet(owner=OWNER, version=7)), ALL_STATES),
    "pending": (lambda port: port.pending, ALL_STATES),
    "accepted": (lambda port: port.accepted, ALL_STATES),
    "ready": (lambda port: port.ready, ALL_STATES),
    "idle": (lambda port: port.idle, ALL_STATES),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("state", STATES_OF_PORT)
def test_what_a_port_cannot_take_in_its_state_is_misuse_and_does_nothing(bench: Bench, state: str, call: str) -> None:
    """Whatever it is asked for that it does not do then; and what it does is done without a word."""
    port, (function, taken_in) = port_that_is(state, bench), CALLS[call]
    if state in taken_in:
        function(port)
        if state != "open":
            assert bench.sent == [] or (state, call) == ("new", "open")
    else:
        with pytest.raises(PortMisused, match="opened once" if call == "open" else STATES_OF_PORT[state]):
            function(port)
        assert bench.sent == []
        assert port.pending == 0
    assert port.is_open == (state == "open" and call != "close")
    assert port.take_events() == []


def test_the_table_of_calls_knows_all_that_a_port_can_be_asked() -> None:
    """A method more is one that somebody has to think about."""
    public = {name for name in vars(RepliesPort) if not name.startswith("_")}
    assert public == {call.partition(",")[0] for call in CALLS}


def test_a_second_close_is_harmless(bench: Bench) -> None:
    """Before and after the end; it is asked for once, and told once."""
    port = bench.opened().port
    port.close()
    port.close()
    assert isinstance(bench.only_sent(), CloseReplies)
    closed = RepliesClosed(owner=OWNER, number=1)
    port.receive(closed)
    port.close()
    assert bench.sent == []
    assert port.take_events() == [closed]


def test_a_read_does_not_overtake_the_write_of_its_reply(bench: Bench) -> None:
    """While the batch that gives its buffer away has no answer, nobody knows whose the buffer is."""
    port = bench.opened().port
    large = reply(0, 1, size=9000)
    port.write(0, large)
    grant(bench, (0, 1))
    port.committed(1)
    assert bench.writes().slots == (0,)
    port.read(0, large[:HEADER_SIZE])
    assert bench.sent == []
    bench.accept(1)
    assert isinstance(bench.only_sent(), ReadReply)


def test_peers_are_set_until_the_newest_list_is_confirmed(bench: Bench) -> None:
    """A late confirmation of an older list ends nothing."""
    port = bench.opened().port
    port.set_peers(((1, POOL),))
    port.set_peers(((1, POOL), (2, POOL)))
    bench.sent.clear()
    port.receive(PeersSet(owner=OWNER, version=1))
    bench.pass_time(5)
    again = bench.only_sent()
    assert isinstance(again, SetPeers)
    assert again.version == 2
    port.receive(PeersSet(owner=OWNER, version=2))
    bench.pass_time(5)
    assert bench.sent == []


def test_closing_writes_what_waits_and_then_closes(bench: Bench) -> None:
    """In this order; the port takes nothing more, and what the pool says late is no failure."""
    port = bench.opened().port
    port.write(0, reply(0, 1, size=9000))
    grant(bench, (0, 1))
    port.committed(1)
    bench.sent.clear()
    port.close()
    with pytest.raises(PortMisused):
        port.write(1, reply(1, 2))
    assert bench.sent == []
    bench.accept(1)
    close = bench.only_sent()
    assert isinstance(close, CloseReplies)
    fault = Fault(kind=FaultKind.HOLDER_GONE, found="holder 99", expected="a living holder")
    port.receive(LeasesRefused(holder=OWNER, number=2, fault=fault))
    closed = RepliesClosed(owner=OWNER, number=close.number)
    port.receive(closed)
    assert port.take_events() == [closed]


def test_a_port_that_closes_asks_nothing_more_of_the_pool(bench: Bench) -> None:
    """The component takes back every lease: what has no answer is not asked again, and nothing is given back."""
    port = bench.opened().port
    port.write(0, reply(0, 1, size=6000))
    grant(bench, (0,))
    port.close()
    assert bench.writes().slots == (0,)
    bench.accept(1)
    assert isinstance(bench.only_sent(), CloseReplies)
    bench.pool_sent.clear()
    bench.pass_time(5)
    assert bench.pool_sent == []


def test_a_port_goes_on_asking_the_pool_until_it_closes(bench: Bench) -> None:
    """A checkpoint is no end."""
    port = bench.opened().port
    port.write(0, reply(0, 1, size=2000))
    port.checkpoint(1, b"table")
    port.committed(1)
    bench.accept(1)
    (asked,) = bench.pool_sent
    bench.pass_time(5)
    assert bench.pool_sent == [asked, asked]


@pytest.mark.parametrize("state", ["open", "closing", "closed", "failed", "failed while closing"])
def test_a_port_maps_the_memory_until_its_end(bench: Bench, state: str) -> None:
    """An owner that recovers makes another port, and would keep every earlier mapping."""
    port_that_is(state, bench)
    (memory,) = bench.mapped
    assert (memory.buffers == 0) == (state in ("closed", "failed", "failed while closing"))


def ask_and_close(bench: Bench) -> RepliesPort:
    """A port that closes while peers and a wait have no answer."""
    port = bench.opened().port
    port.set_peers(((1, POOL),))
    port.await_durable((0,))
    port.close()
    assert [type(message) for message in bench.sent] == [SetPeers, AwaitDurable, CloseReplies]
    bench.sent.clear()
    return port


def test_a_port_that_has_closed_asks_for_nothing_again(bench: Bench) -> None:
    """Simulator seed 8571: peers whose answer was lost were set again, were refused, and the closed port failed."""
    port = ask_and_close(bench)
    closed = RepliesClosed(owner=OWNER, number=1)
    port.receive(closed)
    bench.pass_time(5)
    assert bench.sent == []
    assert port.take_events() == [closed]


@pytest.mark.parametrize("request_name", ["SetPeers", "AwaitDurable"])
def test_what_finds_the_file_closed_before_the_port_knows_is_no_failure(bench: Bench, request_name: str) -> None:
    """The refusal overtook the end, or the end was lost and is asked for again."""
    port = ask_and_close(bench)
    fault = Fault(kind=FaultKind.NOT_OPEN, found="no open file", expected="OpenReplies first")
    port.receive(RequestRefused(owner=OWNER, request=request_name, number=1, fault=fault))
    assert port.take_events() == []
    closed = RepliesClosed(owner=OWNER, number=1)
    port.receive(closed)
    assert port.take_events() == [closed]


def test_an_op_without_a_reply_is_told_when_nothing_else_tells_it(bench: Bench) -> None:
    """A peer that looks for a reply must learn that this replica has come to its op."""
    port = bench.opened().port
    port.committed(4)
    assert bench.sent == []
    bench.pass_time(0.05)
    empty = bench.writes()
    assert (empty.op, empty.slots) == (4, ())
    bench.accept(1)
    bench.pass_time(0.05)
    assert bench.sent == []


def test_what_is_for_another_incarnation_or_for_nobody_changes_nothing(bench: Bench) -> None:
    """Answers to a dead owner are taken and dropped; what is no answer at all is not the port's."""
    port = bench.opened().port
    port.write(0, reply(0, 1))
    port.committed(1)
    assert port.receive(WritesAccepted(owner=OWNER + 1, number=1, credit=5))
    assert not port.idle
    assert not port.receive("something")


class Component:
    """A model of the component that recognises repeated messages, behind a network that does its worst."""

    def __init__(self, bench: Bench, chance: random.Random) -> None:
        self.bench = bench
        self.chance = chance
        self.held: dict[int, bytes] = {}
        self.op = 0
        self.last: tuple[int, Message] = (0, PeersSet(owner=OWNER, version=1))
        self.air: list[Message] = []
        self.free = {0, 1, 2, 3}
        self.granted: dict[int, LeasesGranted] = {}
        self.generations = [1] * 4

    def step(self) -> None:
        """Lose, repeat and reorder what the port sent; answer what arrives; deliver some answers."""
        messages = [*self.bench.sent, *self.bench.pool_sent]
        self.bench.sent.clear()
        self.bench.pool_sent.clear()
        self.chance.shuffle(messages)
        for message in messages:
            for _ in range(self.chance.choice((0, 1, 1, 2))):
                answer = self.answer(message)
                if answer is not None and self.chance.random() < 0.8:
                    self.air.append(answer)
        self.chance.shuffle(self.air)
        for _ in range(self.chance.randrange(len(self.air) + 1)):
            message = self.air.pop()
            self.bench.port.receive(message)
            if self.chance.random() < 0.2:
                self.bench.port.receive(message)

    def answer(self, message: Message) -> Message | None:
        """What the component answers."""
        if isinstance(message, AcquireLeases):
            return self.grant(message)
        if not isinstance(message, WriteReplies | RemoveReplies):
            return None
        number, answer = self.last
        if message.number == number + 1:
            self.take(message)
            answer = WritesAccepted(owner=OWNER, number=message.number, credit=self.chance.randrange(1, 5))
            self.last = (message.number, answer)
        return answer if message.number == self.last[0] else None

    def grant(self, message: AcquireLeases) -> Message | None:
        """All or none, the same answer to the same number."""
        if message.number not in self.granted and message.number > max(self.granted, default=0):
            if len(self.free) < message.count:
                return None
            leases = []
            for buffer in sorted(self.free)[: message.count]:
                self.free.discard(buffer)
                leases.append(make_lease(buffer, self.generations[buffer]))
            self.granted[message.number] = LeasesGranted(holder=OWNER, number=message.number, leases=tuple(leases))
        return self.granted.get(message.number)

    def take(self, message: WriteReplies | RemoveReplies) -> None:
        """The batch's effect, once; its buffers come back at once, under a new generation."""
        assert message.op >= self.op
        self.op = message.op
        if isinstance(message, RemoveReplies):
            for slot in message.slots:
                self.held.pop(slot, None)
            return
        for slot, payload in zip(message.slots, message.payloads, strict=True):
            if isinstance(payload, bytes):
                self.held[slot] = payload
                continue
            view = self.bench.memory.buffer(payload)
            self.held[slot] = bytes(view[: int.from_bytes(view[136:140], "little")])
            buffer = payload & 0xFFFF
            self.generations[buffer] += 1
            self.bench.memory.set_generation(buffer, self.generations[buffer])
            self.free.add(buffer)


@pytest.mark.parametrize("seed", range(30))
def test_under_any_weather_the_component_ends_with_what_was_written_last(bench: Bench, seed: int) -> None:
    """Lost, repeated and reordered messages in both directions, with credit and buffers always short."""
    chance = random.Random(seed)
    port = bench.opened(credit=2).port
    component = Component(bench, chance)
    expected: dict[int, bytes] = {}
    op = 0
    for _ in range(2000):
        if op < 150 and port.ready and chance.random() < 0.7:
            op += 1
            slot = chance.randrange(SLOTS)
            if chance.random() < 0.15:
                port.remove(slot, op)
                expected.pop(slot, None)
            else:
                expected[slot] = reply(slot, op, size=chance.choice((50, 300, 8000)))
                port.write(slot, expected[slot])
            port.committed(op)
        # A large reply waits for a buffer only when none is free.
        assert not (port._queue.unplaced and port._buffers.free)
        component.step()
        bench.time += 0.3
        port.tick()
        if op == 150 and port.idle and component.op == op:
            break
    assert component.held == expected, f"seed {seed}"
    assert component.op == op
    assert not port.failed
