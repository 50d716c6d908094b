"""Bugs planted in the protocol and where it meets the component: see `tests.simulation.planting`."""

from __future__ import annotations

from client_replies.cluster.client import call
from client_replies.cluster.client.call import Call
from client_replies.cluster.door.forwarding import Forwarding
from client_replies.cluster.door.gateway import GatewayActor
from client_replies.cluster.log.log_writer import LogWriter
from client_replies.cluster.replica.replica_replies import ReplicaReplies
from client_replies.cluster.replica.starting import Opening
from client_replies.cluster.replica.taking_part import TakingPart
from client_replies.cluster.vsr import checkpoint, clients, normal, recovery, sync, view_change
from client_replies.cluster.vsr.core import Core
from client_replies.cluster.vsr.execution import Execution
from client_replies.cluster.vsr.replica import Replica

from ..planting import edited as _bug

_IN_PIPELINE = "if request.client in core.clients.pipeline:"

PROTOCOL = (
    _bug(
        "normal",
        "the primary commits without a quorum",
        (normal, "advance_commit", "sorted(held, reverse=True)[core.config.quorum - 1]", "max(held)"),
    ),
    _bug(
        "normal",
        "a backup acknowledges before the entry is durable",
        (normal, "acknowledge", "op=core.log.durable,", "op=core.log.op,"),
    ),
    _bug(
        "normal",
        "an entry is executed before it is committed",
        (normal, "execute", "core.executed >= min(core.commit, core.log.durable)", "core.executed >= core.log.durable"),
        (Core, "execute_next", "min(self.commit, self.log.durable)", "self.log.durable"),
    ),
    _bug(
        "normal",
        "who has no vote is counted",
        (normal, "on_prepare_ok", "if message.voting and message.op", "if message.op"),
    ),
    _bug(
        "clients",
        "a request is not judged by the pipeline",
        (clients, "_on_request", f"el{_IN_PIPELINE}", "elif False:"),
        (clients, "_judge", _IN_PIPELINE, "if False:"),
    ),
    _bug(
        "clients",
        "a new primary judges by a table that is behind, and does not know what is on its way",
        (clients, "advance", "if core.executed < core.clients.view_op or core.sync.installing:", "if False:"),
        (clients, "enter_view", "for entry in core.log.after(core.executed)}", "for entry in ()}"),
    ),
    _bug(
        "view change",
        "the longest log is taken instead of the latest view's",
        (view_change, "best_log", "(log.log_view, log.op, log.replica)", "(log.op, log.log_view, log.replica)"),
    ),
    _bug(
        "view change",
        "a new primary does not prepare again what may be committed",
        (view_change, "_choose", "op = _cut(core, best, commit)", "op = commit"),
    ),
    _bug(
        "view change",
        "a view is left before that is durable",
        (view_change, "begin", "lambda: _left(core, view))", "lambda: None); _left(core, view)"),
        (view_change, "_left", " and core.durable.view == view:", ":"),
    ),
    _bug(
        "view change",
        "the view of the log changes before the log",
        (
            view_change,
            "on_start_view",
            "source, known = core.primary,",
            "core.log_is_of(core.view); source, known = core.primary,",
        ),
        scenario="test_a_log_view_without_its_log_outweighs_nothing",
    ),
    _bug(
        "restart",
        "the view of the log is forgotten",
        (Core, "state", "log_view=self.log_view,", "log_view=0,"),
    ),
    _bug(
        "restart",
        "a primary that restarts goes on in its view",
        (Replica, "_enter", "elif formatted or core.primary != core.replica:", "elif core.view == core.log_view:"),
    ),
)
SEAM = (
    _bug(
        "recovery",
        "a replica that lost its disk votes at once",
        (Opening, "_open_store", "voting=setup.fresh", "voting=True"),
    ),
    _bug(
        "log",
        "a write counts as durable when it is begun",
        (
            LogWriter,
            "flush",
            "lambda outcome: self._done(batch, outcome))",
            "lambda outcome: setattr(self, '_busy', False)); self._written(tuple(effect.number for effect in batch))",
        ),
    ),
    _bug(
        "reply",
        "the stored reply has the replica's own view in it",
        (normal, "execute", "applied = core.execution", "core.execution.own = core.view; applied = core.execution"),
        (Execution, "_reply", "view=entry.view", "view=getattr(self, 'own', entry.view)"),
    ),
    _bug(
        "reply",
        "a reply that cannot be read now is called lost",
        (clients, "reply_not_read", "or not core.is_primary or not lost:", "or not core.is_primary:"),
    ),
    _bug(
        "reply",
        "the component hears of an op before its reply",
        (
            ReplicaReplies,
            "carry_out",
            "RepliesCommitted):\n        port.committed(effect.op)",
            "RepliesCommitted):\n        port.committed(effect.op + 8)",
        ),
    ),
    _bug(
        "checkpoint",
        "the log is trimmed before the component's checkpoint is durable",
        (
            checkpoint,
            "_begin",
            "core.emit(CheckpointReplies(snapshot.op, snapshot.sessions))\n",
            "core.emit(CheckpointReplies(snapshot.op, snapshot.sessions)); core.checkpoint.op = snapshot.op; "
            "settle(core, snapshot); core.checkpoint.running = snapshot\n",
        ),
    ),
    _bug(
        "checkpoint",
        "the log keeps nothing of the checkpoint before the last",
        (checkpoint, "settle", "kept = before if core.log.covers(before) else snapshot.op", "kept = snapshot.op"),
    ),
    _bug(
        "state sync",
        "it counts as finished before its replies are durable",
        (sync, "_maybe_finish", " and state.snapshot is None and not state.waiting", " and state.snapshot is None"),
    ),
    _bug(
        "state sync",
        "nobody waits for what the slots are without",
        (sync, "replies_installed", "await_replies(core, faulty)", "await_replies(core, ())"),
    ),
    _bug(
        "recovery",
        "a replica that lost its disk votes before it has caught up",
        (
            recovery,
            "maybe_vote",
            "if state.view >= 0 and caught_up and core.executed >= min(core.commit, state.op):",
            "if state.view >= 0:",
        ),
        # It takes a StartView to an earlier life that reaches the next one: here addresses die with their process.
        scenario="test_a_late_message_of_the_view_gives_no_voice_to_who_lost_its_disk",
    ),
)
GATEWAY = (
    _bug(
        "gateway",
        "it hears of a view only from replicas that it sends requests to",
        (Forwarding, "_asks", "return link.is_silent or (", "return link.is_silent or (False and "),
    ),
    _bug(
        "gateway",
        "a view is followed although it has not begun",
        (clients, "_on_request", "core.primary if core.status is Status.NORMAL else None", "core.primary"),
        (TakingPart, "_flush", "core.primary if knows else PRIMARY_UNKNOWN", "core.primary"),
    ),
    _bug(
        "gateway",
        "a repeated request is answered with another's reply",
        (
            Forwarding,
            "_route",
            "return Delivery(waiting.connection, frame.packed, key)",
            "return Delivery(self._connections[next(iter(self._connections))], frame.packed, key)",
        ),
    ),
    _bug(
        "gateway",
        "a request is forgotten when a view begins",
        (
            Forwarding,
            "_follow",
            "self.view, self.primary, self._preferred = view, primary, primary",
            "self.view, self.primary, self._preferred = view, primary, primary; self._waiting.clear()",
        ),
    ),
    _bug(
        "gateway",
        "a request is forgotten when its replica starts again",
        (
            Forwarding,
            "replica_restarted",
            "self._order = sorted(self._links)",
            "self._order = sorted(self._links); self._waiting.clear()",
        ),
    ),
    _bug(
        "gateway",
        "a request that its client repeats elsewhere stays at the first connection",
        (GatewayActor, "_take", "if submitted.before is not None:", "if False:"),
    ),
    _bug(
        "client",
        "the reply to an earlier request is taken for that to the latest",
        (
            call,
            "judge",
            "if frame.request_checksum != asked.request_checksum:",
            "if frame.session == asked.session and frame.request < asked.request:\n"
            "        return Answer(reply.header, reply.body, frame.repeated, 0, 0.0)\n"
            "    if frame.request_checksum != asked.request_checksum:",
        ),
    ),
    _bug(
        "client",
        "a refusal of an earlier view is believed",
        (Call, "_refused", "if reason in BY_REPLICAS and", "if False and reason in _BY_REPLICAS and"),
        (Forwarding, "_route", "if frame.command == FrameKind.REFUSED and waiting.target != replica:", "if False:"),
    ),
    _bug(
        "client",
        "it stays with a gateway that does not answer",
        (Call, "_attempt", "if self._unanswered >= self._policy.attempts_per_address:", "if False:"),
    ),
)
PLANTED = PROTOCOL + SEAM + GATEWAY
BY_SEED = tuple(bug for bug in PLANTED if not bug.scenario)
BY_SCENARIO = tuple(bug for bug in PLANTED if bug.scenario)
