"""What happens to the protocol, one story at a time: crashes, partitions, rot, lost disks, evictions."""

from __future__ import annotations

import pytest

from client_replies.cluster.protocol import Request
from client_replies.cluster.vsr import view_change
from client_replies.cluster.vsr.core import Status
from client_replies.cluster.vsr.effects import (
    AnswerClient,
    Effect,
    KeepReply,
    Reason,
    RedirectClient,
    RefuseClient,
    WriteLog,
)
from client_replies.cluster.vsr.messages import (
    Commit,
    DoViewChange,
    Entries,
    GetEntries,
    Prepare,
    PrepareOk,
    Recovery,
    RecoveryResponse,
    SnapshotChunk,
    StartView,
    StartViewChange,
    VsrMessage,
)
from client_replies.messages.reply_header import OPERATION_REGISTER

from examples.ledger.ledger import OPERATION_TRANSFER
from tests.cluster.vsr_world import Node, World


def cluster(seed: int = 1, *, warm: int = 0, **options: int) -> World:
    """A running cluster; `warm` answers have been given."""
    world = World(seed, **options)
    world.start()
    assert world.run_until(lambda: world.answers >= warm, 10.0)
    return world


def view(world: World) -> int:
    """The highest view that has a primary."""
    replica = world.primary().replica
    assert replica is not None
    return replica.core.view


def backups(world: World) -> list[Node]:
    """All but the primary."""
    primary = world.primary()
    return [node for node in world.nodes if node is not primary]


def on_first(world: World, kind: type[Effect], node: Node, strike: object) -> None:
    """Strike when the node first wants an effect of this kind, before it is carried out."""

    def hook(at: Node, effect: Effect) -> None:
        if at is node and isinstance(effect, kind):
            world.effect_hooks.remove(hook)
            strike()  # type: ignore[operator]

    world.effect_hooks.append(hook)


def answered(world: World, more: int) -> None:
    """Wait until clients have had so many more answers."""
    answers = world.answers
    assert world.run_until(lambda: world.answers >= answers + more, 10.0)


def await_primary(world: World) -> None:
    """Wait until a view has its primary."""
    assert world.run_until(lambda: any(node.replica and node.replica.core.is_primary for node in world.nodes), 10.0)


def crash_for(world: World, node: Node, seconds: float) -> None:
    """Kill a replica; it starts again later."""
    node.crash()

    def restart() -> None:
        if node.replica is None:
            node.start()

    world.after(seconds, restart)


@pytest.mark.parametrize("replicas", [1, 3, 5])
def test_without_faults_there_is_one_view_and_no_repair(replicas: int) -> None:
    """Normal operation costs no view change, and checkpoints trim the log."""
    world = cluster(replicas=replicas, requests=60)
    world.finish()
    assert view(world) == 0
    for node in world.nodes:
        assert node.replica is not None
        assert node.replica.core.checkpoint.op > 0
        assert node.replica.core.log.base > 0
        assert "view_changes" not in node.replica.core.counters


def test_requests_that_wait_together_share_a_prepare() -> None:
    """Batches: far fewer prepares than entries, when many clients ask at once."""
    world = cluster(clients=8, requests=40, clients_max=16)
    world.disk = (0.02, 0.03)
    sizes: list[int] = []

    def look(_source: int, _target: int, message: VsrMessage) -> bool:
        if isinstance(message, Prepare):
            sizes.append(len(message.entries))
        return True

    world.message_filter = look
    world.run_for(2.0)
    assert max(sizes) > 3
    world.finish()


def test_the_pipeline_is_bounded_while_no_quorum_answers() -> None:
    """Without backups the primary prepares `pipeline_max` entries and stops: safety is not for sale."""
    world = cluster(clients=8, warm=20, clients_max=16, pipeline_max=4)
    primary = world.primary()
    for node in backups(world):
        node.crash()
    world.run_for(3.0)
    assert primary.replica is not None
    core = primary.replica.core
    assert core.log.op - core.commit == 4
    world.finish()


def test_the_primary_crashes_after_the_commit_and_before_its_answer() -> None:
    """The case that the component exists for: the next primary gives the original reply, byte for byte."""
    world = cluster(clients=1, warm=5)
    primary = world.primary()
    kept: list[bytes] = []
    client = world.clients[1]

    def note(_at: Node, effect: Effect) -> None:
        if isinstance(effect, KeepReply):
            kept.append(effect.reply)

    world.effect_hooks.append(note)
    on_first(world, AnswerClient, primary, primary.crash)
    assert world.run_until(lambda: primary.replica is None, 2.0)
    reply = kept[-1]
    assert world.run_until(lambda: bool(client.history) and client.history[-1].reply == reply, 5.0)
    assert world.primary() is not primary
    world.finish()
    assert view(world) > 0


def test_the_primary_crashes_between_its_prepare_and_the_quorum() -> None:
    """Entries that one backup holds may or may not be committed; the client gets one answer in any case."""
    for holder in (0, 1):
        world = cluster(clients=2, warm=10)
        primary = world.primary()
        lucky = backups(world)[holder].index

        def only_lucky(_source: int, target: int, message: VsrMessage, lucky: int = lucky) -> bool:
            return not isinstance(message, PrepareOk) and (target == lucky or not isinstance(message, Prepare))

        world.message_filter = only_lucky
        world.run_for(0.1)
        primary.crash()
        world.message_filter = None
        world.run_for(2.0)
        world.finish()


def test_the_primary_crashes_before_its_own_write_is_durable() -> None:
    """A backup holds what the primary never had on disk: the restarted primary does not give the op to another."""
    world = cluster(clients=3, warm=10)
    primary = world.primary()
    on_first(world, WriteLog, primary, lambda: crash_for(world, primary, 0.05))
    primary.slow_disk = 100.0
    world.run_for(1.0)
    world.finish()
    assert view(world) > 0


def test_two_primaries_with_a_partition_make_one_history() -> None:
    """The old primary goes on preparing on its side and commits nothing; its entries are gone when it returns."""
    world = cluster(clients=6, warm=20, clients_max=12)
    old = world.primary()
    world.partition({old.index}, {node.index for node in backups(world)})
    answers = world.answers
    assert world.run_until(lambda: world.answers >= answers + 20, 10.0)
    assert old.replica is not None
    core = old.replica.core
    assert core.is_primary
    assert core.view < view(world)
    assert core.log.op > core.commit  # it hoped
    world.cut.clear()
    world.finish()
    assert old.replica.core.view >= view(world)


@pytest.mark.parametrize("seed", [1, 3, 5, 7])
def test_a_cut_off_replica_costs_at_most_one_view_change_when_it_returns(seed: int) -> None:
    """It waits in the first view that it asked for, and does not give up on it as soon as another asks for it too."""
    world = cluster(seed=seed, warm=10, requests=100)
    lonely = backups(world)[1]
    world.partition({lonely.index}, {node.index for node in world.nodes if node is not lonely})
    world.run_for(5.0)
    before = view(world)
    assert lonely.replica is not None
    assert lonely.replica.core.view == before + 1
    world.cut.clear()
    world.finish()
    assert view(world) <= before + 1


def test_a_replica_that_hears_nobody_names_no_primary() -> None:
    """The view that it asked for may never begin: clients that followed it would leave the real primary."""
    world = cluster(clients=1, warm=3, requests=3)
    backup, lonely = backups(world)
    assert backup.replica is not None
    assert lonely.replica is not None
    request = Request.build(cluster=0xC1, client=9, session=0, number=0, operation=OPERATION_REGISTER, body=b"")
    before = view(world)
    hint = RedirectClient(9, before, world.primary().index)
    assert lonely.replica.request((request,), world.now) == [hint]
    world.partition({lonely.index}, {node.index for node in world.nodes if node is not lonely})
    world.run_for(5.0)
    assert lonely.replica.request((request,), world.now) == [RedirectClient(9, before + 1, None)]
    assert backup.replica.request((request,), world.now) == [hint]


def test_a_backup_that_lags_within_the_log_catches_up_from_the_log() -> None:
    """No state sync while the others' logs hold what it is missing."""
    world = cluster(warm=5, requests=120, checkpoint_interval=100, log_max=400)
    slow = backups(world)[0]
    world.partition({slow.index}, {node.index for node in world.nodes if node is not slow})
    answers = world.answers
    assert world.run_until(lambda: world.answers >= answers + 60, 10.0)
    world.finish()
    assert world.happened["syncs_begun"] == 0


def test_a_backup_that_lags_beyond_the_log_syncs_state() -> None:
    """It takes the snapshot, repairs its slots through the component, and counts as whole only then."""
    world = cluster(warm=5, requests=120)
    slow = backups(world)[0]
    world.partition({slow.index}, {node.index for node in world.nodes if node is not slow})
    answers = world.answers
    assert world.run_until(lambda: world.answers >= answers + 90, 10.0)
    world.cut.clear()
    assert slow.replica is not None
    replica = slow.replica
    assert world.run_until(lambda: replica.core.sync_op > 0, 5.0)
    assert not replica.is_whole
    world.finish()
    assert world.happened["syncs_finished"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(8))
def test_a_crash_in_the_middle_of_a_state_sync_begins_it_again(moment: int) -> None:
    """Whenever it crashes, store and component fit together again, and the sync finishes in the end."""
    world = cluster(seed=moment + 1, warm=5, requests=120)
    slow = backups(world)[0]
    world.partition({slow.index}, {node.index for node in world.nodes if node is not slow})
    answers = world.answers
    assert world.run_until(lambda: world.answers >= answers + 90, 10.0)
    world.cut.clear()
    assert slow.replica is not None
    replica = slow.replica
    assert world.run_until(lambda: replica.core.sync_op > 0, 5.0)
    world.run_for(0.0012 * moment)
    crash_for(world, slow, 0.1)
    world.run_for(0.5)
    world.finish()


def test_a_start_view_that_is_late_does_not_take_back_what_a_snapshot_brought() -> None:
    """Seed 32204 of the whole cluster: the snapshot of an op of the view came before the view's first message."""
    world = cluster(seed=2, warm=5, requests=200)
    first, _heir, slow = world.nodes
    assert slow.replica is not None
    core = slow.replica.core
    late: list[StartView] = []
    gone: tuple[type[VsrMessage], ...] = (Prepare, Entries, SnapshotChunk)

    def hold(_source: int, target: int, message: VsrMessage) -> bool:
        if target == slow.index and isinstance(message, StartView):
            late.append(message)
            return False
        return target != slow.index or not isinstance(message, gone)

    world.message_filter = hold
    assert world.run_until(lambda: core.fetch.source == first.index, 10.0)
    crash_for(world, first, 0.2)
    assert world.run_until(lambda: bool(late) and core.view == late[0].view, 5.0)
    core.view_change.pause = 60.0  # it stays in this view, although little of what its primary says arrives
    answered(world, 40)
    gone = (Prepare, Entries)
    assert world.run_until(lambda: core.executed > late[0].op and not core.sync.installing, 5.0)
    assert (core.status, core.view) == (Status.VIEW_CHANGE, late[0].view)
    slow.run(slow.replica.receive(late[0], world.now))
    world.finish()


@pytest.mark.slow
def test_a_log_and_a_commit_number_of_different_views_are_not_put_together() -> None:
    """A view fails, and the next one begins without its primary: that one learns nothing of what is committed there.

    A replica that waits in the failed view asks for a snapshot, and has one vote too few for its primary. That one
    still has entries that nobody else had. With the next view's commit number it would execute them.
    """
    world = cluster(replicas=5, clients=12, clients_max=16, warm=20, requests=200, checkpoint_interval=4)
    source, hopeful, behind, *others = world.nodes
    assert hopeful.replica is not None
    assert behind.replica is not None
    hopes, lagging = hopeful.replica.core, behind.replica.core
    failing = hopeful.index + 5  # its second view
    late: dict[tuple[int, int, type[VsrMessage]], VsrMessage] = {}
    heard: tuple[type[VsrMessage], ...] = (Commit,)  # by who is behind
    cut_off: set[int] = set()
    preparing = True

    def hold(sender: int, target: int, message: VsrMessage) -> bool:
        if isinstance(message, StartViewChange | DoViewChange) and message.view == failing:
            late.setdefault((sender, target, type(message)), message)
        if isinstance(message, DoViewChange):
            return (sender, target) == (behind.index, hopeful.index) or message.view not in range(2, failing + 2)
        if isinstance(message, Prepare) and not preparing:
            return False
        return isinstance(message, heard) if target == behind.index else not cut_off & {sender, target}

    def deliver(sender: Node, target: Node, kind: type[VsrMessage]) -> None:
        assert target.replica is not None
        target.run(target.replica.receive(late[sender.index, target.index, kind], world.now))

    world.message_filter = hold
    assert world.run_until(lambda: lagging.fetch.source == source.index, 10.0)
    heard = ()
    assert world.run_until(lambda: hopes.is_primary, 10.0)
    answered(world, 20)
    cut_off.add(hopeful.index)
    assert world.run_until(lambda: hopes.log.durable == hopes.commit + 8, 5.0)
    committed = hopes.commit
    assert source.replica is not None
    later = source.replica.core
    assert world.run_until(lambda: later.checkpoint.op > committed, 60.0)
    preparing = False
    assert later.log_view > failing
    assert later.checkpoint.op <= hopes.log.op

    for node in (behind, hopeful):
        deliver(others[0], node, StartViewChange)
    heard = (SnapshotChunk,)
    world.run_for(0.5)
    deliver(others[1], behind, StartViewChange)
    deliver(others[0], hopeful, DoViewChange)
    world.run_for(0.1)
    assert (hopes.view, hopes.is_primary) == (failing, True)
    assert hopes.executed == committed
    world.finish()


@pytest.mark.parametrize("rotten", [1, 2])
def test_an_entry_that_rotted_comes_back_from_the_others(rotten: int) -> None:
    """On one replica or on two of three: whoever still has it gives it back, verified."""
    world = cluster(warm=30, checkpoint_interval=64, log_max=256)
    world.run_for(0.2)
    op = min(node.store.load().op for node in world.nodes) - 3
    for node in world.nodes[-rotten:]:
        node.crash()
        node.store.rot(op)
        node.start()
    world.finish()
    assert world.happened["entries_repaired"] == rotten


def test_a_new_primary_repairs_its_own_log_before_the_view_begins() -> None:
    """The best log is its own, and the entry in it rotted while it was down."""
    world = cluster(warm=30, checkpoint_interval=64, log_max=256, clients=2)
    primary = world.primary()
    heir = world.nodes[(primary.index + 1) % 3]
    heir.crash()
    heir.store.rot(heir.store.load().op)
    heir.start()
    primary.crash()
    world.run_for(2.0)
    world.finish()


def test_an_entry_that_nobody_has_and_nobody_can_have_committed_is_cut() -> None:
    """Only one replica knew of the entry, by its checksum; a quorum never had it: the view begins without it."""
    world = cluster(clients=1, warm=10)
    primary = world.primary()
    world.partition({primary.index}, {node.index for node in backups(world)})
    assert primary.replica is not None
    core = primary.replica.core
    assert world.run_until(lambda: core.log.durable > core.commit, 2.0)
    op = core.log.op
    for node in world.nodes:
        node.crash()
    primary.store.rot(op)
    world.cut.clear()
    for node in world.nodes[:2]:
        node.start()
    world.run_for(2.0)
    assert not any(node.replica is not None and node.replica.core.is_primary for node in world.nodes)
    world.nodes[2].start()
    world.finish()
    assert world.happened["rotten_entries_cut"] >= 1


def test_a_view_change_during_a_view_change_ends_in_a_view() -> None:
    """The new primary crashes while it gathers logs; five replicas, so that there is a quorum left."""
    world = cluster(replicas=5, warm=10)
    first = world.primary()
    heir = world.nodes[(first.index + 1) % 5]
    gathered: list[int] = []

    def crash_heir(_source: int, target: int, message: VsrMessage) -> bool:
        if isinstance(message, DoViewChange) and target == heir.index and heir.replica is not None:
            gathered.append(message.view)
            heir.crash()
        return True

    world.message_filter = crash_heir
    first.crash()
    assert world.run_until(lambda: bool(gathered), 5.0)
    world.message_filter = None
    await_primary(world)
    assert view(world) >= 2
    world.finish()


def test_a_new_primary_that_crashes_after_start_view_loses_nothing() -> None:
    """Some have taken over the view's log and some have not."""
    world = cluster(replicas=5, warm=10)
    first = world.primary()
    heir = world.nodes[(first.index + 1) % 5]
    lucky = (first.index + 2) % 5

    def only_lucky(source: int, target: int, message: VsrMessage) -> bool:
        return source != heir.index or target == lucky or not isinstance(message, StartView | Prepare | Commit)

    world.message_filter = only_lucky
    first.crash()
    assert world.run_until(lambda: heir.replica is not None and heir.replica.core.is_primary, 5.0)
    world.run_for(0.05)
    heir.crash()
    world.message_filter = None
    world.run_for(1.0)
    world.finish()


def test_a_log_view_without_its_log_outweighs_nothing() -> None:
    """A backup heard of the view and could not get its log before the new primary died: its own log is still old."""
    world = cluster(clients=2, warm=10, requests=100)
    first, heir, behind = world.nodes
    world.partition({behind.index}, {first.index, heir.index})
    answers = world.answers
    assert world.run_until(lambda: world.answers >= answers + 6, 5.0)
    assert first.replica is not None
    committed = first.replica.core.executed
    first.crash()
    world.cut.clear()

    def no_log(source: int, target: int, message: VsrMessage) -> bool:
        if target == behind.index and behind.replica is not None and behind.replica.core.view <= 1:
            return not isinstance(message, Entries | Prepare)
        return (source, target) != (heir.index, first.index)

    world.message_filter = no_log
    assert world.run_until(lambda: heir.replica is not None and heir.replica.core.is_primary, 5.0)
    world.run_for(0.1)
    heir.crash()
    first.start()
    await_primary(world)
    primary = world.primary().replica
    assert primary is not None
    assert primary.core.log.op >= committed
    world.finish()


def test_a_view_that_was_not_left_durably_was_not_left() -> None:
    """A replica whose disk is slow asks for a view, dies and forgets it: nobody may count what it had to say."""
    world = cluster(clients=2, warm=10, requests=100)
    first, heir, forgetful = world.nodes
    said: list[VsrMessage] = []

    def listen(source: int, _target: int, message: VsrMessage) -> bool:
        if source == forgetful.index and isinstance(message, StartViewChange | DoViewChange):
            said.append(message)
            return False
        return True

    world.message_filter = listen
    forgetful.slow_disk = 1000.0
    world.partition({first.index}, {heir.index, forgetful.index})
    world.run_for(1.0)
    forgetful.crash()
    forgetful.slow_disk = 1.0
    world.partition({first.index, forgetful.index}, {heir.index})
    forgetful.writes_at = world.now
    forgetful.start()
    answers = world.answers
    assert world.run_until(lambda: world.answers >= answers + 6, 9.0)
    for message in said:
        assert heir.replica is not None
        heir.run(heir.replica.receive(message, world.now))
    world.run_for(0.5)
    world.finish()


def test_a_restart_in_the_middle_of_a_view_change_stays_in_it() -> None:
    """The view is durable before it is said; the log's own view is still the old one."""
    world = cluster(warm=10)
    primary = world.primary()
    node = backups(world)[0]
    world.message_filter = lambda _source, _target, message: not isinstance(message, DoViewChange | StartView)
    primary.crash()
    replica = node.replica
    assert replica is not None
    assert world.run_until(lambda: replica.core.durable.view > 0, 5.0)
    crash_for(world, node, 0.0)
    world.run_for(0.001)
    assert node.replica is not None
    core = node.replica.core
    assert core.status is Status.VIEW_CHANGE
    assert core.view > core.log_view == 0
    world.finish()


@pytest.mark.parametrize("down", ["one", "all"])
def test_after_a_restart_the_log_is_replayed_from_the_checkpoint(down: str) -> None:
    """Also if all crash at once: what a client saw is there."""
    world = cluster(warm=50, requests=30)
    seen = max(world.seen_ops)
    nodes = world.nodes if down == "all" else backups(world)[:1]
    for node in nodes:
        node.crash()
    for node in nodes:
        stored = node.store.load()
        assert node.replies.op > 0
        assert node.replies.op in {snapshot.op for snapshot in stored.snapshots}
        node.start()
    world.run_for(0.5)
    assert all(node.replica is not None and node.replica.core.executed >= seen - 8 for node in world.nodes)
    world.finish()


@pytest.mark.parametrize("down", ["one", "all"])
@pytest.mark.parametrize("warm", [20, 50, 150])
def test_after_a_session_table_rotted_the_log_is_replayed_from_the_checkpoint_before(down: str, warm: int) -> None:
    """Also if that happens to all at once: the log and the snapshot of then are kept, and no vote is lost."""
    world = cluster(warm=warm, requests=60)
    seen = max(world.seen_ops)
    nodes = world.nodes if down == "all" else backups(world)[:1]
    for node in nodes:
        node.crash()
        last = node.replies.op
        node.replies.rot_table()
        assert node.replies.op < last
    for node in nodes:
        node.start()
        assert node.replica is not None
        core = node.replica.core
        assert (core.checkpoint.op, core.voting, core.sync_op) == (node.replies.op, True, 0)
    world.run_for(0.5)
    assert all(node.replica is not None and node.replica.core.executed >= seen - 8 for node in world.nodes)
    world.finish()
    assert world.happened["recoveries"] == 0


def test_a_session_table_that_rots_after_a_state_sync_is_replaced_by_that_of_the_snapshot() -> None:
    """The checkpoint before is older than the log: the replica installs its snapshot again, and keeps its vote."""
    world = cluster(warm=5, requests=120)
    slow = backups(world)[0]
    world.partition({slow.index}, {node.index for node in world.nodes if node is not slow})
    answers = world.answers
    assert world.run_until(lambda: world.answers >= answers + 90, 10.0)
    world.cut.clear()
    assert slow.replica is not None
    core = slow.replica.core
    assert world.run_until(lambda: core.sync_op > 0, 5.0)
    assert world.run_until(lambda: core.sync_op == core.durable.sync_op == 0, 5.0)
    slow.crash()
    slow.replies.rot_table()
    assert slow.replies.op < slow.store.load().base
    slow.start()
    assert slow.replica is not None
    assert (slow.replica.core.voting, slow.replica.core.sync_op) == (True, slow.store.load().snapshots[-1].op)
    world.finish()
    assert world.happened["recoveries"] == 0
    assert slow.replica.is_whole


@pytest.mark.parametrize("replicas", [3, 5])
def test_a_replica_that_lost_its_disk_comes_back_with_a_voice(replicas: int) -> None:
    """Young cluster or old: by the log, or by state sync; it learns, and then votes."""
    for warm in (5, 150):
        world = cluster(replicas=replicas, warm=warm, requests=100)
        node = backups(world)[0]
        node.lose_disk()
        node.start()
        assert node.replica is not None
        assert not node.replica.core.voting
        world.finish()
        assert node.replica.core.durable.voting
        assert world.happened["votes_regained"] == 1


def test_the_primary_that_lost_its_disk_does_not_vote_its_successor_in() -> None:
    """Its vote and that of a backup that was behind would make a majority without what is committed."""
    world = cluster(warm=10, clients=2, requests=100)
    primary = world.primary()
    behind, holder = backups(world)
    world.cut = {(primary.index, behind.index), (behind.index, primary.index)}
    world.cut |= {(holder.index, behind.index), (behind.index, holder.index)}
    answers = world.answers
    assert world.run_until(lambda: world.answers >= answers + 5, 5.0)
    assert primary.replica is not None
    committed = primary.replica.core.commit
    world.partition({primary.index, behind.index}, {holder.index})
    primary.lose_disk()
    primary.start()
    world.run_for(5.0)
    assert all(not (node.replica and node.replica.core.is_primary) for node in (primary, behind))
    assert primary.replica is not None
    assert primary.replica.core.status is Status.RECOVERING
    world.finish()
    assert primary.replica.core.executed >= committed


def test_a_late_message_of_the_view_gives_no_voice_to_who_lost_its_disk() -> None:
    """It shows less of the log than was acknowledged before the disk was lost: with who is behind, it would decide."""
    world = cluster(warm=10, clients=2, requests=100)
    primary = world.primary()
    lost, behind = backups(world)
    assert primary.replica is not None
    late = view_change.start_view(primary.replica.core)  # sent now, and on its way for long
    # Who is behind hears that the primary lives, and nothing that it could acknowledge.
    world.message_filter = lambda source, target, message: (
        target != behind.index or isinstance(message, Commit | Recovery)
    )
    answers = world.answers
    assert world.run_until(lambda: world.answers >= answers + 5, 5.0)
    committed = primary.replica.core.commit
    assert committed > late.op
    world.message_filter = lambda source, target, message: (
        isinstance(message, Recovery | RecoveryResponse | Entries | GetEntries)
        if primary.index in (source, target)
        else True
    )
    lost.lose_disk()
    lost.start()
    assert lost.replica is not None
    core = lost.replica.core
    assert world.run_until(lambda: core.status is Status.VIEW_CHANGE, 5.0)
    lost.run(lost.replica.receive(late, world.now))
    assert world.run_until(lambda: core.status is Status.NORMAL, 5.0)
    primary.crash()
    world.run_for(5.0)
    assert not core.voting
    assert not any(node.replica and node.replica.core.is_primary for node in (lost, behind))
    world.finish()
    assert core.executed >= committed


def test_messages_of_an_earlier_life_do_not_end_a_recovery() -> None:
    """Answers to another nonce are not counted."""
    world = cluster(warm=10)
    node = backups(world)[0]
    stale: list[VsrMessage] = []

    def listen(_source: int, _target: int, message: VsrMessage) -> bool:
        if isinstance(message, RecoveryResponse):
            stale.append(message)
        return True

    world.message_filter = listen
    node.lose_disk()
    node.start()
    world.run_for(0.05)
    assert stale
    world.message_filter = lambda _s, target, _m: target != node.index
    node.lose_disk()
    node.start()
    assert node.replica is not None
    for message in stale:
        node.run(node.replica.receive(message, world.now))
    assert node.replica.core.status is Status.RECOVERING
    world.finish()


def test_a_full_table_evicts_and_both_clients_know_where_they_are() -> None:
    """The evicted session's client is told at once, registers again and goes on."""
    world = cluster(clients=4, clients_max=2, requests=12)
    world.finish(120.0)
    assert world.happened["evictions"] > 0
    reasons = {asked.refused for client in world.clients.values() for asked in client.history}
    assert reasons & {Reason.REPLACED, Reason.NO_SESSION}


def test_a_late_retry_of_a_registration_does_not_strand_its_client() -> None:
    """The retry makes a new session; the client, under the old one, is told SESSION_TOO_LOW (invariant 13)."""
    world = cluster(clients=2, clients_max=1, requests=4)
    first, second = world.clients[1], world.clients[2]
    assert world.run_until(lambda: bool(first.session or second.session), 2.0)
    refused: list[Reason] = []

    def note(_node: Node, effect: Effect) -> None:
        if isinstance(effect, RefuseClient):
            refused.append(effect.reason)

    world.effect_hooks.append(note)

    # The notice of the eviction is lost, or it would come first.
    world.client_filter = lambda effect: not (isinstance(effect, RefuseClient) and effect.number is None)

    def repeat_registrations() -> None:
        for client in (first, second):
            for asked in client.history:
                if asked.request.number == 0:
                    world.send_request(client.target, asked.request)
        if not (first.done and second.done):
            world.after(0.005, repeat_registrations)

    world.after(0.01, repeat_registrations)
    world.run_for(3.0)
    world.finish(120.0)
    assert Reason.SESSION_TOO_LOW in refused


def test_a_number_that_was_used_for_another_request_is_refused() -> None:
    """Same session, same number, other content: never executed, and the client is told."""
    world = cluster(clients=1, warm=3, requests=3)
    world.run_for(1.0)
    primary = world.primary()
    assert primary.replica is not None
    refused: list[RefuseClient] = []
    client = world.clients[1]
    request = Request.build(
        cluster=0xC1, client=1, session=client.session, number=3, operation=OPERATION_TRANSFER, body=b"other"
    )
    refused = [effect for effect in primary.replica.request((request,), world.now) if isinstance(effect, RefuseClient)]
    assert [effect.reason for effect in refused] == [Reason.OTHER_REQUEST]


def test_a_closed_session_is_gone_and_its_client_may_register_again() -> None:
    """Closing frees the slot on all replicas alike."""
    world = World(3, clients=3, requests=30, close_chance=0.3)
    world.start()
    world.finish()
    assert sum(client.sessions_ended for client in world.clients.values()) > 5


def test_a_lost_reply_is_an_error_for_its_client_and_the_service_goes_on() -> None:
    """No replica holds the reply any more: REPLY_LOST, instead of retries for good (invariant 11)."""
    world = cluster(clients=2, warm=6, requests=40)
    world.replies_may_be_lost = True
    client = world.clients[1]
    world.client_cut = {0, 1, 2}
    number = client.number + 1 if client.asked is None else client.number
    world.run_for(0.3)
    slots = [node.replica.core.execution.sessions.slot_of(1) for node in world.nodes if node.replica is not None]
    for node, slot in zip(world.nodes, slots, strict=True):
        assert slot == slots[0]
        assert slot is not None
        node.replies.slots.pop(slot, None)
    world.client_cut.clear()
    world.run_until(lambda: any(asked.refused for asked in client.history), 5.0)
    assert [asked.request.number for asked in client.history if asked.refused is Reason.REPLY_LOST] == [number]
    assert world.run_until(lambda: client.done, 10.0)


def test_backpressure_of_the_component_stops_execution_and_not_the_protocol() -> None:
    """While the component takes nothing, nothing is executed, the pipeline fills, and no view change happens."""
    world = cluster(clients=4, warm=10)
    primary = world.primary()
    world.pending_max = 0
    world.run_for(1.5)
    assert primary.replica is not None
    executed = primary.replica.core.executed
    world.run_for(1.0)
    assert primary.replica.core.executed == executed
    assert view(world) == 0
    world.pending_max = 64
    world.finish()


def test_a_failover_is_a_matter_of_the_timeouts() -> None:
    """From the primary's death to the next primary: the silence, its jitter, and a few round trips."""
    for seed in range(1, 6):
        world = cluster(seed=seed, warm=20, requests=100)
        world.primary().crash()
        died = world.now
        await_primary(world)
        config = world.config(0)
        assert world.now - died < config.view_change * (1 + config.jitter) + 0.1


def test_what_is_said_to_a_replica_out_of_turn_changes_nothing() -> None:
    """Late messages of earlier views, and answers to nothing."""
    world = cluster(clients=1, warm=5, requests=5)
    world.run_for(1.0)
    node = world.primary()
    assert node.replica is not None
    replica = node.replica
    before = replica.status()
    core = replica.core
    late: list[VsrMessage] = [
        PrepareOk(view=core.view + 1, replica=1, op=1, voting=True),
        PrepareOk(view=core.view, replica=1, op=core.log.op + 5, voting=True),
        Prepare(view=core.view, commit=99, entries=()),
        Commit(view=core.view, commit=99, op=99, base=90),
        StartView(view=core.view, op=0, commit=0, checksums=(bytes(16),)),
        StartViewChange(view=core.view, replica=1),
    ]
    for message in late:
        replica.receive(message, world.now)
    replica.checkpoint_done(12345, world.now)
    replica.replies_installed(12345, (1, 2), world.now)
    replica.reply_durable(3, world.now)
    replica.reply_read(bytes(256), b"", world.now)
    assert replica.status() == before
