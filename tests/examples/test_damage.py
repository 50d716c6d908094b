"""Damage: at the right moments, to the right bytes, each once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from thespian.actors import ActorAddress

from client_replies.actors.owner.replies_port import RepliesPort
from client_replies.cluster.host.members import kill
from client_replies.cluster.vsr.effects import AnswerClient
from client_replies.messages.config import OpenMode
from client_replies.messages.replies import RepliesOpened
from client_replies.messages.reply import Reply, verify_reply
from client_replies.messages.reply_header import HEADER_SIZE, HeaderInvalid
from client_replies.storage.layout import Layout
from client_replies.storage.shared_memory import PoolMemory

from examples.ledger.config import CLIENTS_MAX, MESSAGE_SIZE_MAX, replies_config
from examples.ledger.damage import (
    Moments,
    MomentsPlan,
    damage_slot,
    lose_directory,
)
from examples.ledger.evidence import read_events
from examples.ledger.faulty_network import FaultyNetwork
from examples.ledger.harm import holds_reply
from examples.ledger.hurt import ReplicaFaults
from examples.ledger.journal import Journal
from examples.ledger.replica_events import Events

OFFSET, SLOT_SIZE = 8192, 16384


def file_with(directory: Path, body: int) -> tuple[Path, bytes]:
    """A file with one reply in it, and the reply."""
    reply = Reply.build(
        cluster=1, client=1, session=1, request=1, op=2, operation=2, timestamp=3, body=b"b" * body
    ).pack()
    file = directory / "file"
    file.write_bytes(b"\xaa" * OFFSET + reply.ljust(SLOT_SIZE, b"\0") + b"\xaa" * 4096)
    return file, reply


@pytest.mark.parametrize("body", [1, 30, 100, 9000])
def test_whatever_the_damage_is_it_breaks_the_reply_and_nothing_else(tmp_path: Path, body: int) -> None:
    """Each kind of damage comes up, each is found by the checksums, and each stays within the slot."""
    kinds = set()
    for number in range(1, 40):
        file, _reply = file_with(tmp_path, body)
        kinds.add(damage_slot(file, OFFSET, SLOT_SIZE, random.Random(number)))
        data = file.read_bytes()
        with pytest.raises(HeaderInvalid):
            verify_reply(data[OFFSET : OFFSET + SLOT_SIZE], cluster=1, size_max=SLOT_SIZE)
        assert data[:OFFSET] == b"\xaa" * OFFSET
        assert data[OFFSET + SLOT_SIZE :] == b"\xaa" * 4096
    assert len(kinds) == 3


def test_damage_is_done_to_replies_and_seen_until_they_are_whole_again(tmp_path: Path) -> None:
    """What lies there is measured before it is damaged; a slot without a reply is left alone."""
    file, _reply = file_with(tmp_path, 100)
    whole = file.read_bytes()
    for seed in range(40):
        assert holds_reply(file, OFFSET)
        assert damage_slot(file, OFFSET, SLOT_SIZE, random.Random(seed)) is not None
        assert not holds_reply(file, OFFSET)
        file.write_bytes(whole)
    file.write_bytes(bytes(len(whole)))
    assert damage_slot(file, OFFSET, SLOT_SIZE, random.Random(1)) is None
    assert damage_slot(file, len(whole), SLOT_SIZE, random.Random(1)) is None
    assert not holds_reply(file, OFFSET)
    assert not holds_reply(tmp_path / "lost", OFFSET)


def test_moments_are_spread_and_claimed_once(tmp_path: Path) -> None:
    """Whoever is primary then claims the next one; another that was slower does not get it."""
    first, second = (Moments(str(tmp_path), "kill", 3, 400) for _ in range(2))
    assert not first.is_due(99)
    assert first.is_due(100)
    assert not first.is_overdue(149)
    assert first.is_overdue(150)
    assert first.claim() == 1
    assert not second.is_due(199)
    assert [(one.is_due(250), one.claim()) for one in (second, first)] == [(True, 2), (False, 3)]
    assert not first.is_due(10_000)
    assert not Moments(str(tmp_path), "damage", 0, 400).is_due(10_000)


def events_of(directory: Path, damages: int, kills: int) -> tuple[Events, RepliesPort]:
    """What a replica of a run of 20 ops writes down, with the faults that it plans; and its port, not open."""
    config = replies_config(directory / "data", 1, 0)
    port = RepliesPort(
        owner=1,
        send=lambda message: None,
        send_pool=lambda pool, message: None,
        now=time.monotonic,
        open_memory=PoolMemory.open,
    )
    events = Events(
        config=config,
        seed=0,
        moments=MomentsPlan(directory=str(directory), ops=20, damages=damages, kills=kills),
        plant=None,
        path=directory / "events",
        journal=Journal(directory / "journal"),
        port=port,
        counts=dict,
        save=lambda text: None,
        network=FaultyNetwork("r", 0, {}, lambda peer, envelope: None),
        faults=ReplicaFaults(),
        tell=lambda request: None,
    )
    return events, port


def answer_of(events: Events, op: int, *, view: int, prepared_in: int = 0) -> AnswerClient:
    """The first answer at an op, whose reply is kept."""
    reply = Reply.build(
        cluster=1,
        client=op,
        session=1,
        request=1,
        op=op,
        operation=2,
        timestamp=op,
        view=prepared_in,
        body=b"body",
    ).pack()
    events.reply_kept(op, reply)
    return AnswerClient(client=op, reply=reply, repeated=False, view=view)


def test_a_kill_that_is_due_comes_before_the_next_damage(tmp_path: Path) -> None:
    """Damages after each other would leave no moment for it: while one is under way, the primary does not end."""
    events, _port = events_of(tmp_path, damages=9, kills=1)
    kills = Moments(str(tmp_path), "kill", 1, 20)

    def is_lost(op: int) -> bool:
        """True if the plan takes the first answer at this op for a damage."""
        effect = answer_of(events, op, view=0)
        lose = events.answer(effect, routed=True) is None
        if kills.is_due(op):
            events.answered(effect, sent=False)
        return lose

    assert is_lost(9)
    assert not is_lost(12)
    assert not list(tmp_path.glob("damage-*")), "the kill of op 10 is due"
    assert kills.claim() == 1
    assert is_lost(13)


@contextlib.contextmanager
def opened_events(directory: Path, damages: int, kills: int) -> Iterator[Events]:
    """As `events_of`, with an open port."""
    events, port = events_of(directory, damages, kills)
    memory = PoolMemory.create(1, SLOT_SIZE, b"t" * 16)
    memory.set_generation(0, 1)
    try:
        port.open(replies_config(directory / "data", 1, 0), OpenMode.OPEN_OR_FORMAT)
        port.receive(
            RepliesOpened(
                owner=1,
                formatted=True,
                sequence=0,
                op=0,
                sessions=b"",
                faulty=(),
                credit=100,
                pool=ActorAddress(None),
                memory=memory.name,
            )
        )
        yield events
    finally:
        memory.close()


def test_a_reply_that_an_earlier_primary_may_have_sent_is_not_damaged(tmp_path: Path) -> None:
    """After a failover the new primary answers it again: if its client has it, nobody would ask for the damaged one."""
    with opened_events(tmp_path, damages=1, kills=0) as events:
        for op, prepared_in in ((10, 0), (11, 1)):
            effect = answer_of(events, op, view=1, prepared_in=prepared_in)
            events.answer(effect, routed=True)
            events.answered(effect, sent=False)
            assert len(list(tmp_path.glob("damage-*"))) == prepared_in


def test_a_primary_ends_with_a_transfer_committed_and_unsent_not_with_a_registration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No client records the reply to its registration: whether that arrived, the verdict could not see."""
    events, _port = events_of(tmp_path, damages=0, kills=1)
    ended: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _pid, signum: ended.append(signum))
    core: Any = SimpleNamespace(sync_op=0, view=0, is_primary=True, executed=15)
    registration = Reply.build(cluster=1, client=9, session=9, request=0, op=9, operation=1, timestamp=9, body=b"")
    events.answer(AnswerClient(9, 0, registration.pack()), routed=True)
    events.flush(core)
    assert ended == []
    effect = answer_of(events, 15, view=0)
    events.answer(effect, routed=True)
    events.flush(core)
    assert ended == [signal.SIGKILL]
    unsent = [seen.header for seen in read_events(tmp_path / "events") if seen.event == "unsent"]
    assert unsent == [effect.reply[:16].hex()]


def test_a_withheld_reply_is_damaged_on_disk_once_it_is_durable(tmp_path: Path) -> None:
    """Until then its client gets nothing, and what was read before the damage neither; the next read finds it."""
    with opened_events(tmp_path, damages=1, kills=0) as events:
        effect = answer_of(events, 10, view=0)
        events.answer(effect, routed=True)
        events.answered(effect, sent=False)
        offset = Layout.of_shape(CLIENTS_MAX, MESSAGE_SIZE_MAX).slot_offset(10)
        file = tmp_path / "data"
        file.write_bytes(bytes(offset) + effect.reply.ljust(MESSAGE_SIZE_MAX, b"\0"))
        assert events.answer(effect, routed=True) is None
        (withheld,) = events._withheld.values()
        events.slots_durable(withheld.wait + 1)
        assert holds_reply(file, offset)
        events.slots_durable(withheld.wait)
        assert not holds_reply(file, offset)
        assert events.answer(effect, routed=True) is None
        events.reply_needed(10, effect.reply[:HEADER_SIZE])
        assert events.answer(effect, routed=True) == effect.reply
        events._writer.flush()
        assert [seen.event for seen in read_events(tmp_path / "events")] == ["answering", "damaged", "needed"]


def test_a_lost_disk_is_lost_or_an_error(tmp_path: Path) -> None:
    """Nothing says that it was removed without looking; and what is gone already is no error."""
    directory = tmp_path / "replica"
    lose_directory(directory)
    (directory / "below").mkdir(parents=True)
    lose_directory(directory)
    assert not directory.exists()
    directory.write_bytes(b"a file, which is no directory")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("examples.ledger.damage.LOSE_TIMEOUT", 0.0)
        with pytest.raises(NotADirectoryError):
            lose_directory(directory)


def test_no_process_is_killed_for_one_that_is_not_up() -> None:
    """To the kernel 0 is our own group: everything, the tests included, would end."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not kill(0)
    assert not kill(-child.pid)
    assert child.poll() is None
    assert kill(child.pid)
    child.communicate()
    assert not kill(child.pid)
