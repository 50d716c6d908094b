"""What may go wrong, one test each, decided by hand; the checkers judge every run to its end."""

from __future__ import annotations

import pytest

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.messages import leases, replies, storage_io
from client_replies.messages.config import SECTOR_SIZE
from client_replies.messages.leases import ReleaseLeases
from client_replies.messages.peers import GetReplies, RepliesFound, RepliesMissing
from client_replies.messages.reply_header import HEADER_SIZE

from tests.simulation.broken import Broken
from tests.simulation.chance import Chance
from tests.simulation.checkers import _sequence_of
from tests.simulation.history import ClientRequest
from tests.simulation.plan import REPLICAS
from tests.simulation.replica import Answer
from tests.simulation.scenario import Scenario
from tests.simulation.system import Process

LOST_ANSWERS = (
    replies.RepliesOpened,
    replies.PeersSet,
    replies.WritesAccepted,
    replies.CheckpointStarted,
    replies.CheckpointDone,
    replies.RepliesClosed,
    leases.PoolOpened,
    leases.LeasesGranted,
    leases.LeasesReleased,
    storage_io.StorageOpened,
    storage_io.SlotsWritten,
    storage_io.SlotsVerified,
    storage_io.CheckpointWritten,
    storage_io.StorageClosed,
    Answer,
)
LOST_REQUESTS = (
    replies.OpenReplies,
    replies.SetPeers,
    replies.WriteReplies,
    replies.Checkpoint,
    replies.CloseReplies,
    leases.OpenPool,
    leases.AcquireLeases,
    leases.ReleaseLeases,
    storage_io.OpenStorage,
    storage_io.WriteSlots,
    storage_io.VerifySlots,
    storage_io.WriteCheckpoint,
    storage_io.CloseStorage,
    ClientRequest,
)
STEPS = (
    storage_io.OpenStorage,
    storage_io.WriteSlots,
    storage_io.SlotsWritten,
    storage_io.WriteCheckpoint,
    replies.CheckpointStarted,
    replies.WriteReplies,
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOST_ANSWERS, ids=lambda kind: str(kind.__name__))
def test_an_answer_that_is_lost_is_given_again(kind: type) -> None:
    """Three in a row, at whatever step; nothing is done twice and nobody waits for ever."""
    scenario = Scenario(inline_size_max=512)
    scenario.drop(kind, 3)
    scenario.settle()
    world = scenario.finish()
    assert scenario.dropped == 3
    assert world.marks.counts["run_ended_in_order"] == 1


@pytest.mark.parametrize("kind", LOST_REQUESTS, ids=lambda kind: str(kind.__name__))
def test_a_request_that_is_lost_is_sent_again(kind: type) -> None:
    """The other half of each exchange."""
    scenario = Scenario(inline_size_max=512)
    scenario.drop(kind, 3)
    scenario.settle()
    scenario.finish()
    assert scenario.dropped == 3


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["replica", "replies", "storage", "pool"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: str(step.__name__))
def test_a_process_that_is_killed_at_a_step_costs_no_reply(victim: str, step: type) -> None:
    """The component is made anew, opens its file again, and goes on from the last checkpoint."""
    scenario = Scenario(checkpoint_interval=8)
    scenario.run_requests(10)
    scenario.when(step, lambda index: scenario.world.kill_process(index, victim))
    if step is storage_io.OpenStorage:
        scenario.world.kill_process(0, "replies")
    scenario.settle()
    world = scenario.finish()
    assert world.marks.counts["reply_accepted"] >= world.plan.requests


@pytest.mark.parametrize("step", STEPS, ids=lambda step: str(step.__name__))
def test_a_power_cut_at_a_step_costs_no_reply(step: type) -> None:
    """What was not synced is lost or torn; the log and the peers bring it back."""
    scenario = Scenario(checkpoint_interval=8)
    scenario.run_requests(10)
    scenario.when(step, lambda index: scenario.world.crash_host(index, 0.3))
    if step is storage_io.OpenStorage:
        scenario.world.crash_host(0, 0.1)
    scenario.settle()
    scenario.finish()


def test_all_machines_lose_power_at_the_same_time() -> None:
    """Nobody can be asked until somebody has replayed."""
    scenario = Scenario(checkpoint_interval=8)
    scenario.run_requests(30)
    for index in range(REPLICAS):
        scenario.world.crash_host(index, 0.2)
    scenario.settle()
    scenario.finish()


def test_commits_go_on_while_a_checkpoint_waits_for_a_slow_disk() -> None:
    """They are accepted, and the checkpoint is done all the same."""
    scenario = Scenario(checkpoint_interval=10, think=0.002, requests=120)
    scenario.run_requests(12)
    for disk in scenario.world.disks:
        disk.slow = 0.3
    scenario.settle()
    scenario.finish()
    assert scenario.marks("checkpoint_beside_writes") > 0


def test_a_checkpoint_that_is_asked_for_late_is_told_again_while_the_next_is_on_the_disk() -> None:
    """Seed 7198: the component had not heard yet that the next one is done, and told truly of the one before."""
    scenario = Scenario(checkpoint_interval=8)
    scenario.run_requests(10)
    told: list[int] = []
    scenario.run_until(lambda: _sequence_of(scenario.file(0).stable) == 2)
    scenario.drop(storage_io.CheckpointWritten)
    done = scenario.world.parts(0).checkpointing._done
    component, replica = scenario.world.components[0], scenario.world.replicas[0]
    assert component is not None
    assert replica is not None
    assert done.sequence == 1
    scenario.when(replies.CheckpointDone, told.append, lambda _process, message: message == done)
    late = replies.Checkpoint(owner=done.owner, number=done.number, op=done.op, sessions=bytes(1))
    scenario.world.system.post(replica, component.address, late)
    scenario.settle()
    scenario.finish()
    assert told == [0]


@pytest.mark.parametrize("sequence", [1, 2, 4])
def test_a_checkpoint_that_the_disk_does_not_have_is_not_done(sequence: int) -> None:
    """The checker sees one that was told too soon, and one that is told again when the next one is done."""
    scenario = Scenario(checkpoint_interval=8)
    scenario.run_until(lambda: len(scenario.world.living()) == REPLICAS)
    scenario.run_until(lambda: scenario.world.parts(0).opened.sequence == 3)
    said = replies.CheckpointDone(owner=1, number=1, op=24, sequence=sequence)
    with pytest.raises(Broken):
        scenario.world.checkers._checkpoint_done(0, scenario.world.parts(0), said)


@pytest.mark.parametrize("damage", ["rot", "rot_body", "rot_padding"])
@pytest.mark.parametrize("copies", [1, 2])
def test_a_slot_that_rots_where_a_good_copy_is_left_is_repaired(damage: str, copies: int) -> None:
    """Found by the scrubber, asked of the peers, written, and the same everywhere in the end."""
    scenario = Scenario(body_small=700, body_largest=0.0)
    scenario.settle()
    slot = scenario.durable_slot()
    for index in range(copies):
        getattr(scenario, damage)(index, slot)
    scenario.run_until(lambda: scenario.marks("slot_found_faulty") >= copies)
    scenario.run_until(lambda: not any(scenario.slots(index).faulty for index in range(REPLICAS)))
    scenario.finish()


def test_a_slot_that_rots_on_all_replicas_is_lost_on_all_and_said_so() -> None:
    """Every replica is told `ReplyLost`; nobody waits for ever."""
    scenario = Scenario(harsh=True)
    scenario.settle()
    slot = scenario.durable_slot()
    for index in range(REPLICAS):
        scenario.rot(index, slot)
    scenario.run_until(lambda: all(slot in replica.lost for replica in scenario.replicas()))
    assert scenario.marks("reply_lost") == REPLICAS


def test_a_client_that_asks_for_a_lost_reply_is_told() -> None:
    """An error that says so, instead of silence."""
    scenario = Scenario(harsh=True, clients=1, requests=5)
    scenario.drop(Answer, 0)
    scenario.settle()
    client = scenario.world.clients[0].instance
    slot = scenario.durable_slot()
    for index in range(REPLICAS):
        scenario.rot(index, slot)
    scenario.run_until(lambda: all(slot in replica.lost for replica in scenario.replicas()))
    client.outstanding = client._past[-1] if client._past[-1].request == client.request else client.outstanding
    header = scenario.slots(0).expected[slot]
    assert header is not None
    entry = scenario.world.history.entries[-1]
    client.outstanding = entry.request
    client._ask()
    scenario.run_until(lambda: scenario.marks("reply_lost_told") == 1)


def test_a_slot_that_another_one_was_read_for_is_found_by_the_scrubber(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 4927: the reply was where a misdirected write had put it, and a misdirected read took it from there."""
    scenario = Scenario(checkpoint_interval=1)
    scenario.settle()
    disk, file, slot = scenario.world.disks[0], scenario.file(0), scenario.durable_slot()
    layout = scenario.world.layout
    starts = [layout.slot_offset(other) for other in (slot, (slot + 1) % layout.clients_max)]
    here, elsewhere = (slice(start, start + layout.message_size_max) for start in starts)
    for content in (file.stable, file.data):
        content[here], content[elsewhere] = content[elsewhere], content[here]
    file.damaged.add(elsewhere.start // SECTOR_SIZE)
    disk.rules.misdirected_read = 1.0
    misdirect = {here.start: elsewhere.start}
    monkeypatch.setattr(disk, "misdirected", lambda offset, _size: misdirect.get(offset, offset))
    scenario.world.kill_process(0, "replies")
    scenario.run_until(lambda: here.start in file.misread_as and len(scenario.world.living()) == REPLICAS)
    assert slot not in scenario.slots(0).faulty
    disk.rules.misdirected_read = 0.0
    scenario.run_until(lambda: slot in scenario.slots(0).faulty)
    scenario.settle()
    scenario.finish()


def test_a_sector_that_cannot_be_read_is_written_again() -> None:
    """As good as rot, and gone when the reply was written over it."""
    scenario = Scenario()
    scenario.settle()
    slot = scenario.durable_slot()
    scenario.world.disks[1].lose_sector(scenario.file(1), slot)
    scenario.run_until(lambda: slot in scenario.slots(1).faulty)
    scenario.run_until(lambda: slot not in scenario.slots(1).faulty)
    scenario.finish()
    assert not scenario.file(1).unreadable


def test_a_client_that_was_evicted_and_retries_its_registration_is_not_stranded() -> None:
    """It is told that its session is gone, and goes on under a new one."""
    scenario = Scenario(clients=5, clients_max=2, requests=60, think=0.3, stale=0.6, quiet=0.1, quiet_max=2.0)
    scenario.settle()
    scenario.finish()
    assert scenario.marks("client_evicted") > 0
    assert scenario.marks("request_of_long_ago") > 0
    assert scenario.marks("request_SessionTooLow") > 0


def test_a_state_sync_with_an_obsolete_write_in_flight_trusts_nothing() -> None:
    """Writes end after the installation, in slots that expect other replies by then; nobody is served them."""
    scenario = Scenario(checkpoint_interval=5, requests=300, think=0.08, log_size=1000)
    scenario.run_requests(10)
    scenario.world.disks[2].slow = 0.4
    for _ in range(6):
        scenario.world.lag[2] = 3.0
        scenario.run(0.5)
        scenario.world.lag[2] = 0.0
        scenario.world.sync_wanted[2] = True
        scenario.run(0.5)
    scenario.settle()
    scenario.finish()
    assert scenario.marks("sync_while_writing") > 0


def test_a_repair_that_arrives_after_a_commit_is_dropped() -> None:
    """The slot has a newer reply; the old one is not written over it."""
    scenario = Scenario(clients=1, requests=12, think=6.0, retry=10.0)
    scenario.run_until(lambda: scenario.marks("reply_accepted") == 3)
    scenario.run(0.2)
    slot = scenario.durable_slot()
    scenario.rot(0, slot)
    arrived: list[int] = []
    scenario.when(RepliesFound, lambda index: arrived.append(index))
    scenario.world.network.links.clogged = {(1, 0): 60.0, (2, 0): 60.0}
    scenario.run(60.0)
    scenario.world.network.links.clogged = {}
    scenario.settle()
    world = scenario.finish()
    assert arrived
    assert world.marks.counts["counter_repair_unwanted"] > 0


@pytest.mark.parametrize("ticker", [True, False])
def test_an_idle_component_sleeps(monkeypatch: pytest.MonkeyPatch, ticker: bool) -> None:
    """Nothing is due, so nothing wakes it; what is due later is done all the same."""
    scenario = Scenario(scrub_bytes_per_second=0, ticker=ticker)
    scenario.settle()
    ticks: list[float] = []
    with monkeypatch.context() as patched:
        patched.setattr(ClientRepliesActor, "tick", lambda actor: ticks.append(actor.environment.monotonic()))
        scenario.run(10.0)
    assert ticks == []
    scenario.finish()


def test_a_peer_that_does_not_answer_has_not_denied() -> None:
    """One peer lost the reply, the other is stopped: that is not lost, and is repaired when it wakes."""
    scenario = Scenario()
    scenario.settle()
    slot = scenario.durable_slot()
    silent = scenario.world.components[2]
    assert silent is not None
    scenario.world.system.stop(silent)
    for index in (0, 1):
        scenario.rot(index, slot)
    scenario.run(10.0)
    assert scenario.marks("reply_lost") == 0
    assert slot in scenario.slots(0).faulty
    scenario.world.system.resume(silent)
    scenario.run_until(lambda: slot not in scenario.slots(0).faulty and slot not in scenario.slots(1).faulty)
    scenario.finish()


@pytest.mark.parametrize("inward", [True, False])
def test_a_replica_cut_off_in_one_direction_catches_up(inward: bool) -> None:
    """What it hears it cannot answer, or what it asks nobody hears."""
    scenario = Scenario(clients=4, requests=80, log_size=10)
    scenario.run_requests(10)
    others = [other for other in range(REPLICAS + 4) if other != 2]
    cut = {(other, 2) if inward else (2, other) for other in others}
    scenario.world.network.links.cut |= cut
    scenario.rot(2, scenario.durable_slot())
    scenario.run(3.0)
    scenario.world.network.links.cut -= cut
    scenario.settle()
    scenario.finish()


def test_a_replica_that_lost_its_disk_gets_every_reply_from_the_others() -> None:
    """A new file, a peer's checkpoint, and repairs until the sync is complete."""
    scenario = Scenario(log_size=10)
    scenario.settle()
    scenario.world.crash_host(1, 0.5)
    scenario.world.lose_file(1)
    scenario.settle()
    scenario.finish()
    assert scenario.marks("sync_started") > 0


def test_a_peer_is_not_denied_what_was_not_read_yet() -> None:
    """The only good copies are on the disk of a replica that installed a session table and has not read its slots.

    A denial would make the replies lost.
    """
    scenario = Scenario(requests=16, checkpoint_interval=10, log_size=5)
    world, crashed = scenario.world, []
    world.disks[1].lanes["verify"] = 1000.0

    def strike(index: int) -> None:
        crashed.append(index)
        world.crash_host(index, 3.0)

    # With the last checkpoint on its way every reply is durable, and the file is still of the checkpoint before.
    scenario.when(
        storage_io.WriteCheckpoint, strike, lambda process, message: process.host.index == 1 and message.op == 20
    )
    scenario.run_until(lambda: bool(crashed))
    scenario.run(2.0)
    for slot in range(world.plan.clients_max):
        scenario.rot(0, slot)
        scenario.rot(2, slot)
    scenario.settle()
    scenario.finish()
    assert scenario.marks("sync_started") > 0
    assert scenario.marks("peer_sent_replies") >= 8


def test_a_repair_whose_bytes_were_changed_on_their_way_is_refused() -> None:
    """Dropped and counted, and asked again."""
    scenario = Scenario()
    scenario.settle()
    slot = scenario.durable_slot()
    scenario.world.network.rules.corrupt = 1.0
    scenario.rot(0, slot)
    scenario.run(3.0)
    assert slot in scenario.slots(0).faulty
    scenario.world.network.rules.corrupt = 0.0
    scenario.run_until(lambda: slot not in scenario.slots(0).faulty)
    world = scenario.finish()
    assert world.marks.counts["repair_corrupted_on_its_way"] > 0


def test_a_failed_sync_stops_the_storage_and_the_replica_recovers() -> None:
    """Nothing is retried on the same opening; the file is opened again and verified on the medium."""
    scenario = Scenario(checkpoint_interval=8)
    scenario.run_requests(10)
    scenario.world.disks[1].rules.sync_error = 1.0
    scenario.run_until(lambda: scenario.marks("storage_failed_IO_ERROR") > 0)
    scenario.world.disks[1].rules.sync_error = 0.0
    scenario.settle()
    scenario.finish()


def test_a_file_that_finds_no_space_is_made_later() -> None:
    """The others go on without that replica."""
    scenario = Scenario(full_disk_at_start=True)
    scenario.run(3.0)
    assert scenario.marks("disk_full") > 0
    scenario.finish()


def test_a_reader_is_served_the_original_reply_after_every_replica_was_started_again() -> None:
    """From disk, through the component, byte for byte."""
    scenario = Scenario(clients=1, requests=3, checkpoint_interval=1)
    scenario.settle()
    request = scenario.world.history.entries[-1].request
    for index in range(REPLICAS):
        scenario.world.crash_host(index, 0.1)
    scenario.run(1.0)
    client = scenario.world.clients[0].instance
    client.outstanding = request
    client._ask()
    scenario.run_until(lambda: client.outstanding is None)
    assert scenario.marks("duplicate_answered_from_component") > 0
    scenario.finish()


def test_a_sender_to_stopped_peers_is_stalled_and_goes_on() -> None:
    """Twenty transmits that nobody takes freeze everything that it sends."""
    scenario = Scenario(requests=120)
    scenario.run_requests(5)
    stopped = [process for process in scenario.world.replicas[1:] if process is not None]
    for process in stopped:
        scenario.world.system.stop(process)
    scenario.run(20.0)
    for process in stopped:
        scenario.world.system.resume(process)
    scenario.settle()
    scenario.finish()


def test_the_checkers_see_what_they_judge() -> None:
    """A good run in which a promise is broken by hand does not pass."""
    scenario = Scenario()
    scenario.settle()
    slot = scenario.durable_slot()
    file, start = scenario.file(0), scenario.world.layout.slot_offset(slot)
    file.stable[start : start + HEADER_SIZE] = bytes(HEADER_SIZE)
    file.data[start : start + HEADER_SIZE] = bytes(HEADER_SIZE)
    scenario.slots(0)
    with pytest.raises(Broken):
        scenario.world.checkers._durable_claims(0, scenario.world.parts(0), None)


def test_messages_to_peers_are_lost_doubled_and_late() -> None:
    """Repair works through a network that does its worst."""
    scenario = Scenario()
    scenario.settle()
    slot = scenario.durable_slot()
    for kind in (GetReplies, RepliesFound, RepliesMissing):
        scenario.drop(kind, 4)
    rules = scenario.world.network.rules
    rules.double, rules.overtake, rules.replay = 0.5, 0.5, 0.5
    scenario.rot(0, slot)
    scenario.run_until(lambda: slot in scenario.slots(0).faulty)
    scenario.run_until(lambda: slot not in scenario.slots(0).faulty)
    scenario.finish()
    assert isinstance(scenario.world.replicas[0], Process)
    assert Chance(1, "a").bits(8) == Chance(1, "a").bits(8)


def test_a_storage_that_dies_while_a_new_owner_takes_over_costs_no_lease_twice() -> None:
    """Seed 5426: the component gave its own leases back because the file closed, and again because it stopped."""
    scenario = Scenario(component_outlives=True)
    world = scenario.world
    died: list[int] = []

    def kill_storage(index: int) -> None:
        died.append(index)
        world.kill_process(index, "storage")

    scenario.run_requests(10)
    scenario.when(ReleaseLeases, kill_storage, lambda process, _message: process.name.startswith("r1.replies"))
    world.kill_process(1, "replica")
    scenario.run_until(lambda: bool(died))
    scenario.settle()
    scenario.finish()
