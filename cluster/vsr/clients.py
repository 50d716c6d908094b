"""Requests of clients: the primary judges each by what was executed and by what is on its way, and answers.

Guarantees: a request gets one place in the log, however often and to whichever primary it is sent: it is judged by the
session table when all that the view began with is executed, and a client with a request in the pipeline gets no second
one. A repeated request gets the original reply's bytes, read through the component. What can never be answered is
refused with a reason.

Limits: it drops requests beyond `requests_max`, and those of a replica that stops being primary. Clients retry.
Owns: `ClientsState`.
"""

from __future__ import annotations

from collections.abc import Sequence

from client_replies.cluster.protocol import Request
from client_replies.messages.reply_header import packed_client_request
from client_replies.storage.client_sessions import DuplicateRequest, NewRequest

from . import normal
from .core import Core, Status
from .effects import AnswerClient, FetchReply, Reason, RedirectClient, RefuseClient
from .execution import Applied, Skipped, is_whole, reason_of
from .messages import LogEntry


def enter_view(core: Core) -> None:
    """The view begins: this replica's pipeline is the part of the view's log that is not executed."""
    core.clients.view_op = core.log.op
    core.clients.waiting.clear()
    core.clients.pipeline = {entry.request.client: entry.op for entry in core.log.after(core.executed)}
    times = (entry.timestamp for entry in core.log.after(core.executed))
    core.clients.timestamp = max(times, default=core.execution.timestamp)


def forget_reads(core: Core) -> None:
    """The view or the state is another: clients ask again for the stored replies that they wait for."""
    core.clients.reads.clear()


def on_requests(core: Core, requests: Sequence[Request]) -> None:
    """Clients ask."""
    for request in requests:
        _on_request(core, request)


def _on_request(core: Core, request: Request) -> None:
    if request.cluster != core.config.cluster:
        core.count("requests_of_another_cluster")
    elif not core.is_primary:
        # Between two views nobody is primary: the one that this replica asked for may never begin.
        primary = core.primary if core.status is Status.NORMAL else None
        core.emit(RedirectClient(request.client, core.view, primary))
    elif request.client in core.clients.pipeline:
        core.count("requests_in_progress")  # its answer comes by itself
    elif request.client in core.clients.waiting or len(core.clients.waiting) < core.config.requests_max:
        core.clients.waiting[request.client] = request
    else:
        core.count("requests_dropped")


def advance(core: Core) -> None:
    """Judge the waiting requests, in the order in which they came, while the pipeline has room."""
    if not core.is_primary:
        core.clients.waiting.clear()
        return
    if core.executed < core.clients.view_op or core.sync.installing:
        return  # the table may not know of sessions and requests that are committed: it must not judge
    room = normal.room(core)
    while room and core.clients.waiting:
        request = core.clients.waiting.pop(next(iter(core.clients.waiting)))
        room -= _judge(core, request)


def _judge(core: Core, request: Request) -> bool:
    """Prepare, answer, refuse or drop the request. True if it was prepared."""
    if request.client in core.clients.pipeline:
        core.count("requests_in_progress")
        return False
    status = core.execution.check(request)
    if isinstance(status, NewRequest):
        _prepare(core, request)
        return True
    if isinstance(status, DuplicateRequest):
        _repeat(core, request.client, status)
        return False
    reason = reason_of(status)
    if reason is not None:
        refuse(core, request, reason)
    else:
        core.count("requests_ignored")
    return False


def _prepare(core: Core, request: Request) -> None:
    # Time never goes back in the log, whoever is primary and whatever its clock says.
    core.clients.timestamp = max(core.clients.timestamp + 1, int(core.now * 1e9))
    entry = LogEntry.build(
        op=core.log.op + 1,
        view=core.view,
        replica=core.replica,
        timestamp=core.clients.timestamp,
        parent=core.log.checksum(core.log.op),
        request=request,
    )
    core.clients.pipeline[request.client] = entry.op
    normal.prepare(core, entry)


def refuse(core: Core, request: Request, reason: Reason) -> None:
    """Tell the client that there will be no reply."""
    core.emit(RefuseClient(request.client, core.view, request.session, request.number, reason, request.checksum))


# Replies.


def executed(core: Core, entry: LogEntry, applied: Applied | Skipped) -> None:
    """An entry was executed: the primary answers."""
    request = entry.request
    if core.clients.pipeline.get(request.client) == entry.op:
        del core.clients.pipeline[request.client]
    if not core.is_primary:
        return
    if isinstance(applied, Skipped):
        if applied.reason is not None:
            refuse(core, request, applied.reason)
        return
    core.emit(AnswerClient(request.client, core.view, applied.reply))
    if applied.evicted is not None:
        client, session = applied.evicted
        core.emit(RefuseClient(client, core.view, session, None, Reason.REPLACED))


def _repeat(core: Core, client: int, status: DuplicateRequest) -> None:
    """Answer with the original reply: from the session table if that is all of it, else from the component."""
    core.count("requests_repeated")
    if is_whole(status.header):
        core.emit(AnswerClient(client, core.view, status.header, repeated=True))
    elif status.header not in core.clients.reads and len(core.clients.reads) < core.config.reads_max:
        core.clients.reads[status.header] = client
        core.emit(FetchReply(status.slot, status.header))


def reply_read(core: Core, header: bytes, reply: bytes) -> None:
    """The component had the reply, verified."""
    client = core.clients.reads.pop(header, None)
    if client is not None and core.is_primary:
        core.emit(AnswerClient(client, core.view, reply, repeated=True))


def reply_not_read(core: Core, header: bytes, lost: bool) -> None:
    """The component did not have the reply: it is lost, or the client asks again while it is repaired."""
    client = core.clients.reads.pop(header, None)
    if client is None or not core.is_primary or not lost:
        return
    # The client gets an error instead of retrying forever (invariant 11), unless it has moved on.
    slot = core.execution.sessions.slot_of(client)
    if slot is not None and core.execution.sessions.packed_header(slot) == header:
        _, checksum, session, _, number = packed_client_request(header)
        core.emit(RefuseClient(client, core.view, session, number, Reason.REPLY_LOST, checksum))
