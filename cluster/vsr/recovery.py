"""A replica that lost its disk: brought up first, and only then a voice again.

Why it must not vote before: it has forgotten which entries it acknowledged and which views it left. Counted in a
quorum, it would make a majority of those who never knew.

What makes it whole: the others' answers to a nonce of this life. A quorum of others answers with their durable views,
and among them the active primary of the highest view v with the end of its log H. (1) v is at least every view for
which this replica, in its earlier life, sent its log: it did so only after a quorum, itself included, had durably left
for that view, and any quorum of others has one of those in it. (2) H covers every entry that it acknowledged and that
was committed: the primary of v began with all that was committed before v, and has made the entries of v itself. So
once its log is that of v up to H, or that of a later view, it knows what it ever promised. It also waits until a
state sync, if it needed one, is finished (invariant 9). Until then it follows the view as a backup whose
acknowledgements do not count.

Limits: at most a minority may be without their disks at a time, else no quorum answers. And messages
of an earlier life that arrive after the disks of two replicas were lost and brought up since: drop those of a life that
a later one of the same replica is known to have followed.
Owns: `RecoveryState`.
"""

from __future__ import annotations

from . import normal, view_change
from .core import Core, Status
from .durable import LogWrite
from .messages import GetStartView, Recovery, RecoveryResponse


def begin(core: Core) -> None:
    """Ask what there is to catch up with."""
    core.count("recoveries")
    core.recover()
    core.recovery.nonce = core.random.getrandbits(63)
    _ask(core)


def _ask(core: Core) -> None:
    core.recovery.sent_at = core.now
    core.broadcast(Recovery(replica=core.replica, nonce=core.recovery.nonce))


def tick(core: Core) -> None:
    """Ask again."""
    if core.status is Status.RECOVERING and core.now - core.recovery.sent_at >= core.config.resend:
        _ask(core)


def on_recovery(core: Core, message: Recovery) -> None:
    """Another replica lost its disk. Who has no vote has no durable view to speak of either."""
    durable = core.durable
    if not durable.voting:
        return
    primary = core.is_primary and durable.view == core.view == durable.log_view
    response = RecoveryResponse(
        replica=core.replica, nonce=message.nonce, view=durable.view, primary=primary, op=core.log.op
    )
    core.send(message.replica, response)


def on_recovery_response(core: Core, message: RecoveryResponse) -> None:
    """With a quorum of answers, the active primary of the highest view among them: follow that one."""
    state = core.recovery
    if core.status is not Status.RECOVERING or message.nonce != state.nonce:
        return
    state.responses[message.replica] = message
    if len(state.responses) < core.config.quorum:
        return
    view = max(response.view for response in state.responses.values())
    primary = state.responses.get(view % core.config.replicas)
    if primary is None or not primary.primary or primary.view != view or view < core.view:
        return
    state.view, state.op = view, primary.op
    view_change.follow(core, view)
    core.send(primary.replica, GetStartView(view=view, replica=core.replica))


def maybe_vote(core: Core) -> None:
    """Vote again, if this replica is brought up."""
    state = core.recovery
    if core.voting or core.status is not Status.NORMAL or core.sync_op or core.sync.installing:
        return
    caught_up = core.view > state.view or core.log.durable >= state.op
    if state.view >= 0 and caught_up and core.executed >= min(core.commit, state.op):
        core.count("votes_regained")
        core.regain_vote()
        core.persist(LogWrite(state=core.state()), lambda: _voting(core))


def _voting(core: Core) -> None:
    # What was acknowledged so far did not count; now it does.
    normal.acknowledge(core)
