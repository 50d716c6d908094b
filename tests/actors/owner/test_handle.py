"""The handle: what a script does in its first five minutes, and what it is told when that does not work."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from thespian.actors import ActorExitRequest

from client_replies import FaultKind, MessageInvalid, NotRead, Reply, running_system
from client_replies.actors.owner.handle import AsyncReplies, Replies
from client_replies.actors.owner.handle_errors import ClientElsewhere, OpOutOfOrder, RepliesUnusable, ReplyUnavailable
from client_replies.actors.thespian.system import OwnedSystem
from client_replies.storage.layout import Layout

TIMEOUT = 30.0
SIZES: dict[str, Any] = {"clients_max": 8, "message_size_max": 65536}


def make_reply(op: int, *, client: int = 7, body: bytes = b"5 from A to B") -> Reply:
    """Build a reply of this op."""
    return Reply.build(cluster=1, client=client, session=1, request=op, op=op, operation=16, timestamp=1, body=body)


@pytest.fixture(scope="module")
def system() -> Iterator[OwnedSystem]:
    """Run an actor system for the tests of this module."""
    with running_system() as running:
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a data file that is not there yet."""
    return tmp_path / "r0.replies"


def test_a_reply_is_durable_and_read_again_after_the_handle_is_closed(path: Path) -> None:
    """With an actor system that the handle starts, and that is gone afterwards."""
    with Replies.open(path, cluster=1, **SIZES) as replies:
        assert replies.opened.formatted
        replies.write(0, make_reply(2)).durable(TIMEOUT)
        assert replies.read(0, TIMEOUT) == make_reply(2)
    with Replies.open(path, cluster=1, **SIZES) as replies:
        assert (replies.opened.formatted, replies.opened.op) == (False, 2)
        assert replies.read(0, TIMEOUT) == make_reply(2)
        assert replies.status(timeout=TIMEOUT).slots["durable"] == 1


def test_a_small_reply_is_replaced_and_removed(path: Path, system: OwnedSystem) -> None:
    """A removed slot has nothing to read, and its client may have another slot from then on."""
    with Replies.open(path, cluster=1, system=system, **SIZES) as replies:
        replies.write(3, make_reply(1))
        replies.write(3, make_reply(2, body=b"newer")).durable(TIMEOUT)
        assert replies.read(3, TIMEOUT).body == b"newer"
        with pytest.raises(ClientElsewhere, match="slot 4 of a client whose session has slot 3"):
            replies.write(4, make_reply(3))
        replies.remove(3, 3).durable(TIMEOUT)
        with pytest.raises(ReplyUnavailable) as raised:
            replies.read(3, TIMEOUT)
        assert raised.value.reason is NotRead.UNEXPECTED
        replies.write(4, make_reply(4)).durable(TIMEOUT)
        replies.durable([3, 4], TIMEOUT)


@pytest.mark.slow
def test_many_writes_are_taken_as_fast_as_the_disk_allows(path: Path, system: OwnedSystem) -> None:
    """More than may wait at once: `write` waits for room, and large replies for buffers."""
    with Replies.open(path, cluster=1, system=system, **SIZES) as replies:
        written = [
            replies.write(
                op % 8, make_reply(op, client=1 + op % 8, body=b"x" * (40_000 if op % 9 == 0 else 50)), TIMEOUT
            )
            for op in range(1, 3001)
        ]
        for one in written:
            one.durable(TIMEOUT)
        assert [replies.read(slot, TIMEOUT).header.op for slot in range(8)] == [3000, *range(2993, 3000)]


@pytest.mark.slow
def test_threads_share_a_handle(path: Path, system: OwnedSystem) -> None:
    """Each gets its own results."""
    lock, op = threading.Lock(), 0
    wrong: list[object] = []

    def work(slot: int) -> None:
        nonlocal op
        for _ in range(20):
            with lock:
                op += 1
                reply = make_reply(op, client=slot + 1)
                written = replies.write(slot, reply, TIMEOUT)
            written.durable(TIMEOUT)
            found = replies.read(slot, TIMEOUT)
            if found != reply:
                wrong.append(found)

    with Replies.open(path, cluster=1, system=system, **SIZES) as replies:
        threads = [threading.Thread(target=work, args=(slot,)) for slot in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (wrong, op) == ([], 160)


@pytest.mark.slow
def test_after_a_crash_the_script_writes_again_what_the_checkpoint_does_not_have(path: Path) -> None:
    """`opened.op` says from where."""
    script = (
        "import os, sys; from tests.actors.owner.test_handle import *\n"
        "if __name__ == '__main__':\n"
        "    replies = Replies.open(sys.argv[1], cluster=1, **SIZES).__enter__()\n"
        "    replies.write(0, make_reply(1))\n"
        "    assert replies.checkpoint(TIMEOUT) == 1\n"
        "    replies.write(0, make_reply(2)).durable(TIMEOUT)\n"
        "    replies.write(1, make_reply(3, client=8)).durable(TIMEOUT)\n"
        "    os._exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], timeout=60, check=False).returncode == 7
    with Replies.open(path, cluster=1, **SIZES) as replies:
        assert replies.opened.op == 1
        replies.write(0, make_reply(2))
        replies.write(1, make_reply(3, client=8)).durable(TIMEOUT)
        assert [replies.read(slot, TIMEOUT).header.op for slot in (0, 1)] == [2, 3]
        counters = replies.status(timeout=TIMEOUT).counters
        assert counters.get("slots_written", 0) == 0  # both were on the disk already


def test_a_damaged_slot_is_repaired_from_the_peer(tmp_path: Path, system: OwnedSystem) -> None:
    """Read, it says why it cannot be had now; then it is durable again, and read."""
    first, second = tmp_path / "r0.replies", tmp_path / "r1.replies"
    sizes = {**SIZES, "scrub_bytes_per_second": 0}
    with (
        Replies.open(first, cluster=1, replica=0, system=system, **sizes) as one,
        Replies.open(second, cluster=1, replica=1, system=system, **sizes) as other,
    ):
        for replies in (one, other):
            replies.write(0, make_reply(1)).durable(TIMEOUT)
        with first.open("r+b") as file:
            file.seek(Layout.of_shape(SIZES["clients_max"], SIZES["message_size_max"]).slot_offset(0))
            file.write(b"rot" * 100)
        with pytest.raises(ReplyUnavailable) as raised:
            one.read(0, TIMEOUT)
        assert raised.value.reason is NotRead.CORRUPT
        other.set_peers({0: one.address})
        one.set_peers({1: other.address})
        one.durable([0], TIMEOUT)
        assert one.read(0, TIMEOUT) == make_reply(1)


class TestWhatGoesWrong:
    """Each with an exception of its own, at once, and the file as it was."""

    def test_a_file_of_another_cluster(self, path: Path, system: OwnedSystem) -> None:
        """It is not opened, and the handle leaves nothing behind."""
        with Replies.open(path, cluster=1, system=system, **SIZES):
            pass
        with (
            pytest.raises(RepliesUnusable) as raised,
            Replies.open(path, cluster=2, system=system, **SIZES),
        ):
            pytest.fail("it was opened")
        assert raised.value.fault.kind is FaultKind.CLUSTER_MISMATCH
        with Replies.open(path, cluster=1, system=system, **SIZES):
            pass

    def test_a_configuration_that_contradicts_itself(self, path: Path) -> None:
        """Before anything is started."""
        with pytest.raises(MessageInvalid, match="message_size_max"):
            Replies.open(path, cluster=1, message_size_max=1000)

    def test_an_op_that_is_not_after_the_last(self, path: Path, system: OwnedSystem) -> None:
        """Nothing is written."""
        with Replies.open(path, cluster=1, system=system, **SIZES) as replies:
            replies.write(0, make_reply(5))
            with pytest.raises(OpOutOfOrder, match="op 5, expected one after 5"):
                replies.write(0, make_reply(5))
            assert replies.read(0, TIMEOUT).header.op == 5

    def test_a_closed_handle(self, path: Path, system: OwnedSystem) -> None:
        """Whatever it is asked for, also what it was asked for before."""
        with Replies.open(path, cluster=1, system=system, **SIZES) as replies:
            replies.close()
            for call in (
                lambda: replies.write(0, make_reply(1)),
                lambda: replies.read(0),
                lambda: replies.checkpoint(),
                lambda: replies.status(),
            ):
                with pytest.raises(RepliesUnusable, match="a closed handle"):
                    call()

    @pytest.mark.slow
    def test_a_component_that_died(self, path: Path, system: OwnedSystem) -> None:
        """Who waits is told, and does not wait for ever."""
        with Replies.open(path, cluster=1, system=system, **SIZES) as replies:
            replies.status(timeout=TIMEOUT)
            system.tell(replies.address, ActorExitRequest())
            with pytest.raises(RepliesUnusable) as raised:
                all(replies.status(timeout=TIMEOUT) for _ in itertools.count())  # the first may still be answered
        assert raised.value.fault.kind is FaultKind.ACTOR_DIED

    def test_a_timeout_takes_nothing_back(self, path: Path, system: OwnedSystem) -> None:
        """The reply becomes durable all the same."""
        with Replies.open(path, cluster=1, system=system, **SIZES) as replies:
            written = replies.write(0, make_reply(1))
            with pytest.raises(TimeoutError):
                written.durable(0.0)
            written.durable(TIMEOUT)


def test_the_same_for_asyncio(path: Path) -> None:
    """Many coroutines wait at once, one gives up, and none takes anything from another."""

    async def use() -> None:
        async with AsyncReplies.open(path, cluster=1, **SIZES) as replies:
            written = [await replies.write(slot, make_reply(slot + 1, client=slot + 1)) for slot in range(8)]
            with pytest.raises(TimeoutError):
                await written[0].durable(0.0)
            await asyncio.gather(*(one.durable(TIMEOUT) for one in written))
            found = await asyncio.gather(*(replies.read(slot, TIMEOUT) for slot in range(8)))
            assert [reply.header.op for reply in found] == list(range(1, 9))
            await replies.durable([0, 1], TIMEOUT)
            await (await replies.remove(0, 9)).durable(TIMEOUT)
            with pytest.raises(ReplyUnavailable):
                await replies.read(0, TIMEOUT)
            assert await replies.checkpoint(TIMEOUT) == 1
            assert (await replies.status(timeout=TIMEOUT)).open
        with pytest.raises(RepliesUnusable):
            await replies.read(1)
        with pytest.raises(RepliesUnusable):
            async with AsyncReplies.open(path, cluster=2, **SIZES):
                pytest.fail("it was opened")

    asyncio.run(use())
