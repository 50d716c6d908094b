"""What the simulator found in shipped code, each as the smallest test that shows it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from unittest.mock import MagicMock

import pytest
from thespian.actors import ActorAddress

from client_replies.actors.component.repair_planner import RepairPlanner
from client_replies.actors.owner.buffers import Buffers
from client_replies.actors.owner.port_events import PortFailed
from client_replies.actors.owner.replies_port import RepliesPort
from client_replies.actors.owner.write_queue import WriteQueue
from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.leases import AcquireLeases, Lease, MemoryName, ReleaseLeases
from client_replies.messages.message import Message
from client_replies.messages.peers import Missing
from client_replies.messages.replies import RepliesOpened, SessionsInstalled, WriteReplies
from client_replies.messages.reply_header import HEADER_SIZE
from client_replies.messages.requests import Outbox
from client_replies.storage.data_file import DataFile
from client_replies.storage.errors import StorageError
from client_replies.storage.layout import Layout
from client_replies.storage.leases import LeaseTable
from client_replies.storage.shared_memory import PoolMemory
from client_replies.storage.superblock import Superblock, choose_superblock

from tests.simulation.chance import Chance
from tests.simulation.checkers import _sequence_of
from tests.simulation.disk import DiskRules, PowerLost, SimDisk
from tests.simulation.history import CLUSTER, ClientRequest, Entry, build_reply
from tests.simulation.marks import Marks

CONFIG = RepliesConfig(
    path="replies", cluster=CLUSTER, replica=0, clients_max=4, message_size_max=8192, inline_size_max=8192
)


def header(mark: int) -> bytes:
    """Give something with a header's length; a size field of 0 is as good as any."""
    return bytes([mark]) + bytes(HEADER_SIZE - 1)


def repair_with_two_peers() -> RepairPlanner:
    """Give a repair that asks peers 1 and 2, and believes a denial for a second."""
    repair = RepairPlanner(slots_max=8, bytes_max=65536, timeout=0.5, backoff_max=1.0, jitter=lambda: 0.0)
    repair.set_peers(1, ((1, ActorAddress(1)), (2, ActorAddress(2))))
    return repair


def test_a_denial_of_one_reply_says_nothing_of_the_next_in_the_same_slot() -> None:
    """Seed 34: after an installation, the answer to the old question made the new reply lost."""
    repair = repair_with_two_peers()
    repair.add(0, header(1))
    (asked,) = repair.plan({0: header(1)}, 0.0, 8)
    assert asked.replica == 1
    repair.add(0, header(2))
    (again,) = repair.plan({0: header(2)}, 0.1, 8)
    assert again.replica == 2
    assert repair.missing(1, asked.request, [(0, Missing.FAULTY)], 0.2) == []
    assert repair.missing(2, again.request, [(0, Missing.FAULTY)], 0.3) == []
    assert repair.lost == {}


def test_a_denial_is_forgotten_when_the_slot_is_right_again() -> None:
    """Seed 19: a peer was faulty, then repaired; its old denial made a reply lost that it held by then."""
    repair = repair_with_two_peers()
    repair.add(0, header(1))
    first = repair.plan({0: header(1)}, 0.0, 8)
    repair.add(1, header(2))
    second = repair.plan({0: header(1), 1: header(2)}, 0.0, 8)
    assert [request.slots for request in (*first, *second)] == [(0,), (1,)]
    assert repair.missing(1, first[0].request, [(0, Missing.FAULTY)], 0.1) == []
    repair.forget()
    repair.found(2, second[0].request, (1,))
    repair.add(0, header(1))
    asked = {request.replica for request in repair.plan({0: header(1)}, 0.2, 8)}
    assert asked == {1}


@dataclass
class PortBench:
    """A port, and what it sent."""

    sent: list[object] = field(default_factory=list)
    memory: Callable[[MemoryName], PoolMemory] = field(default_factory=MagicMock)

    def __post_init__(self) -> None:
        self.port = RepliesPort(
            owner=7,
            send=self.sent.append,
            send_pool=lambda _pool, message: self.sent.append(message),
            now=lambda: 0.0,
            open_memory=self.memory,
        )
        self.port.open(CONFIG, OpenMode.OPEN)
        opened = RepliesOpened(
            owner=7,
            formatted=False,
            sequence=1,
            op=1,
            sessions=b"",
            faulty=(),
            credit=1,
            pool=ActorAddress("pool"),
            memory=MemoryName(process=1, descriptor=2, token=bytes(16)),
        )
        self.port.receive(opened)


def reply(op: int) -> bytes:
    """Give a reply with a body."""
    request = ClientRequest(client=op, session=0, request=0, checksum=bytes(16), size=10)
    return build_reply(Entry(op, request, 0, 0), op)


def test_a_batch_after_an_installation_tells_no_op_beyond_its_replies() -> None:
    """Seed 71: what was committed while the installation had no answer was told before its replies were."""
    bench = PortBench()
    bench.port.install(10, b"sessions")
    for slot, op in enumerate((11, 12, 13)):
        bench.port.write(slot, reply(op))
    bench.port.committed(13)
    bench.port.receive(SessionsInstalled(owner=7, number=1, faulty=()))
    batch = bench.sent[-1]
    assert isinstance(batch, WriteReplies)
    assert (batch.slots, batch.op) == ((0,), 11)


def test_a_pool_that_died_before_the_port_could_map_it_fails_the_port() -> None:
    """Seed 13: the owner's handler raised, where the port promises an event."""
    fault = Fault(kind=FaultKind.MEMORY_UNAVAILABLE, found="nothing", expected="the pool's memory")
    bench = PortBench(memory=MagicMock(side_effect=StorageError(fault)))
    assert bench.port.take_events() == [PortFailed(fault=fault)]
    assert bench.port.failed


def test_what_a_killed_process_left_in_the_page_cache_is_durable_when_the_file_is_open_again() -> None:
    """Seed 21: a slot that the dead storage had not synced was found good, and was lost with the power later."""
    disk = SimDisk(Chance(0, "disk"), DiskRules(), Marks(), Layout.of(CONFIG))
    data_file = DataFile.open(disk, CONFIG, OpenMode.FORMAT)
    disk.budget = 1  # the write, and not the sync
    with pytest.raises(PowerLost):
        data_file.write_slots((0,), (reply(1),))
    disk.budget = None
    data_file.close()
    opened = DataFile.open(disk, CONFIG, OpenMode.OPEN)
    assert opened.verify_slot(0, reply(1)[:HEADER_SIZE]) is None
    file = disk.file("replies")
    assert file is not None
    file.crash(disk.chance, DiskRules(crash_keeps=0.0, crash_tears=0.0), Marks())
    assert opened.verify_slot(0, reply(1)[:HEADER_SIZE]) is None


@dataclass
class PoolBench:
    """Buffers whose requests a table of two answers, with room for one who waits."""

    requests: deque[Message] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.table = LeaseTable(2, 1, publish=lambda _buffer, _generation: None)
        queue = WriteQueue(pending_max=1, batch_max=1, interval=0.0)
        self.buffers = Buffers(7, queue, MagicMock(), 2, Outbox(self.requests.append, 1.0), lambda: 0.0)

    def take(self) -> Lease:
        """Ask for a lease until there is one."""
        while not (leases := self.buffers.take(1)):
            self.answer()
        return leases[0]

    def answer(self) -> None:
        """The pool answers one request, at once or when it can."""
        request = self.requests.popleft()
        if isinstance(request, AcquireLeases):
            answer = self.table.acquire(request)
            if answer is not None:
                self.buffers.receive(answer)
        elif isinstance(request, ReleaseLeases):
            released, grants = self.table.release(request)
            if released is not None:
                self.buffers.receive(released)
            for grant in grants:
                self.buffers.receive(grant)


def test_an_owner_that_asks_for_a_lease_gives_back_what_it_may_not_keep() -> None:
    """Seed 7287: the pool had nothing to grant, and the owner waited for the grant before it released anything."""
    bench = PoolBench()
    taken = (bench.take(), bench.take())
    bench.answer()
    assert bench.table.waiting == 1
    bench.buffers.take_back(taken)
    while bench.requests:
        bench.answer()
    assert bench.table.waiting == 0
    assert bench.table.held == len(bench.buffers.free) == 2


def test_a_copy_of_the_superblock_with_a_damaged_magic_is_no_copy_to_the_checkers_either() -> None:
    """Seed 1304: two copies of the newest, one of which does not say what it is, are one copy."""
    old = Superblock(cluster=1, replica=0, clients_max=4, message_size_max=4096)
    new = old.checkpointed(old.trailer, 1, 5, b"table")
    data = bytearray(b"".join(superblock.encode(copy) for copy, superblock in enumerate((new, new, old, old))))
    assert _sequence_of(data) == 1
    data[4] ^= 1
    assert _sequence_of(data) == 0
    assert choose_superblock([data[at : at + 4096] for at in range(0, len(data), 4096)]).superblock == old
