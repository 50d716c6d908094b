"""What becomes of replies that peers send, without an actor system: the limits on what waits in memory."""

from collections import Counter
from collections.abc import Iterator

import pytest
from thespian.actors import ActorAddress

from client_replies.actors.component.opened import Opened
from client_replies.actors.component.repair_planner import RepairPlanner
from client_replies.actors.component.repair_service import RepairService
from client_replies.actors.component.slots import Slots
from client_replies.messages import Message, RepliesConfig, seal_reply
from client_replies.messages.peers import GetReplies, RepliesFound
from client_replies.messages.reply_header import HEADER_SIZE
from client_replies.messages.requests import Outbox
from client_replies.storage.shared_memory import PoolMemory

SLOTS = 6
REPAIRS_MAX = 2
INCARNATION = 9


def reply_of(slot: int) -> bytes:
    """Give the reply that the slot expects, too large to be written without a buffer."""
    return seal_reply(
        cluster=1, client=slot + 1, session=1, request=1, op=slot + 2, operation=16, timestamp=1, body=bytes(1000)
    )


class Bench:
    """Repairs of a component whose every slot is faulty, and which has no buffer to write a reply from."""

    def __init__(self, memory: PoolMemory) -> None:
        self.counts: Counter[str] = Counter()
        self.asked: list[GetReplies] = []
        config = RepliesConfig(
            path="x", cluster=1, replica=0, clients_max=SLOTS, inline_size_max=512, repairs_max=REPAIRS_MAX
        )
        address = ActorAddress("nobody")
        slots = Slots(SLOTS)
        slots.begin({slot: reply_of(slot)[:HEADER_SIZE] for slot in range(SLOTS)}, range(SLOTS), {})
        opened = Opened(
            config=config,
            owner=1,
            owner_address=address,
            incarnation=INCARNATION,
            memory=memory,
            slots=slots,
            to_storage=Outbox(lambda _message: None, 1.0),
            op=9,
            sequence=0,
            send=self._send,
            now=lambda: 0.0,
            count=self._count,
            own=frozenset(),
        )
        self.repair = RepairPlanner(
            slots_max=REPAIRS_MAX, bytes_max=2**20, timeout=1.0, backoff_max=8.0, jitter=lambda: 0.0
        )
        self.repair.set_peers(1, [(peer, address) for peer in (1, 2, 3)])
        self.service = RepairService(opened, self.repair)

    def _send(self, _to: ActorAddress, message: Message) -> None:
        if isinstance(message, GetReplies):
            self.asked.append(message)

    def _count(self, event: str, **_details: object) -> None:
        self.counts[event] += 1

    def found(self, peer: int, request: int, slots: tuple[int, ...]) -> None:
        """Let the peer send these slots' replies."""
        replies = tuple(map(reply_of, slots))
        self.service.found(
            RepliesFound(asker=0, incarnation=INCARNATION, request=request, peer=peer, slots=slots, replies=replies)
        )

    @property
    def arrived(self) -> int:
        """How many replies wait to be written."""
        return self.service.depths["repairs_queued"]


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give one with memory of its own."""
    memory = PoolMemory.create(1, 4096, bytes(16))
    yield Bench(memory)
    memory.close()


def test_what_is_asked_for_has_room_beside_what_has_arrived(bench: Bench) -> None:
    """Slots asked for and replies that wait to be written stay, together, within `repairs_max`."""
    for _ in range(4):
        bench.service.pump()
        assert bench.arrived + bench.repair.in_flight <= REPAIRS_MAX
        for message in bench.asked[:1]:
            bench.found(1, message.request, message.slots[:1])
        assert bench.arrived + bench.repair.in_flight <= REPAIRS_MAX


def test_a_late_answer_does_not_fill_the_memory(bench: Bench) -> None:
    """Answers that nobody waits for any more are kept only while there is room, and never beyond it."""
    bench.found(1, 77, (0, 1))
    bench.found(2, 78, (2, 3))
    assert bench.arrived == REPAIRS_MAX
    assert bench.counts["repair_without_room"] == 2
