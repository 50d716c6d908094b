"""What the protocol wants of the component, and what the component says, in each other's terms.

Guarantees: each effect that is about replies becomes one call of the port, and each event of the port one input of the
protocol. A read that finds the slot damaged ends when the slot is repaired, when the reply is known to be lost, or
after a while: then the client asks again.

Owns: which number of the port's stands for what.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from client_replies.actors.owner.port_events import PortEvent, ReadFailed, ReadSucceeded, SlotsAreDurable
from client_replies.actors.owner.replies_port import RepliesPort
from client_replies.cluster.vsr.effects import (
    AwaitReply,
    CheckpointReplies,
    Effect,
    FetchReply,
    ForgetReply,
    InstallReplies,
    KeepReply,
    RepliesCommitted,
)
from client_replies.messages.replies import (
    CheckpointDone,
    NotRead,
    RepliesRepaired,
    ReplyLost,
    SessionsInstalled,
)

from .observer import Observer

REPAIR_WAIT = 1.0  # seconds that a read waits for the repair of its slot


class ReplicaReplies:
    """See the module."""

    def __init__(self, port: RepliesPort, tell: Callable[..., None], observer: Observer) -> None:
        self.counters: Counter[str] = Counter()
        self._port = port
        self._tell = tell
        self._observer = observer
        self._now = 0.0
        self._installs: deque[int] = deque()
        self._waits: dict[int, int] = {}  # the protocol's: slots by number
        self._awaited: dict[bytes, float] = {}  # reads that wait for a repair, by header: since when

    def carry_out(self, effect: Effect) -> None:
        """Ask the component for what the protocol wants."""
        port = self._port
        if not port.is_open:
            return  # The replica ends. What is not kept now comes back with its log.
        if isinstance(effect, KeepReply):
            port.write(effect.slot, effect.reply)
            self._observer.reply_kept(effect.slot, effect.reply)
        elif isinstance(effect, ForgetReply):
            port.remove(effect.slot, effect.op)
        elif isinstance(effect, RepliesCommitted):
            port.committed(effect.op)
        elif isinstance(effect, CheckpointReplies):
            port.committed(effect.op)
            port.checkpoint(effect.op, effect.sessions)
        elif isinstance(effect, InstallReplies):
            self._observer.installed(effect.op)
            self._installs.append(effect.op)
            port.install(effect.op, effect.sessions)
        elif isinstance(effect, AwaitReply):
            self._waits[port.await_durable((effect.slot,))] = effect.slot
        elif isinstance(effect, FetchReply):
            self._observer.reply_needed(effect.slot, effect.header)
            port.read(effect.slot, effect.header)

    def port_event(self, event: PortEvent) -> None:
        """Tell the protocol what the component says."""
        if isinstance(event, ReadSucceeded):
            self.counters["replies_read"] += 1
            self._tell("reply_read", event.header, event.reply)
        elif isinstance(event, ReadFailed):
            self._not_had(event)
        elif isinstance(event, SlotsAreDurable):
            self._durable(event)
        elif isinstance(event, CheckpointDone):
            self.counters["checkpoints"] += 1
            self._tell("checkpoint_done", event.op)
        elif isinstance(event, SessionsInstalled):
            self._tell("replies_installed", self._installs.popleft(), event.faulty)
        elif isinstance(event, RepliesRepaired):
            for slot, header in event.repaired:
                self._observer.reply_repaired(slot, header)
                if self._awaited.pop(header, None) is not None and self._port.is_open:
                    self._port.read(slot, header)
        elif isinstance(event, ReplyLost):
            self._observer.reply_lost(event.slot, event.header)
            self._tell("reply_lost", event.slot)
            if self._awaited.pop(event.header, None) is not None:
                self._tell("reply_not_read", event.header, True)

    def _not_had(self, event: ReadFailed) -> None:
        if event.reason is NotRead.CORRUPT:
            self._awaited[event.header] = self._now
        else:
            # Unexpected: the client has moved on. Busy or closed: it asks again.
            self._tell("reply_not_read", event.header, event.reason is NotRead.LOST)

    def _durable(self, event: SlotsAreDurable) -> None:
        slot = self._waits.pop(event.wait, None)
        if slot is not None:
            self._tell("reply_durable", slot)
        else:
            self._observer.slots_durable(event.wait)

    def tick(self, now: float) -> None:
        """Let clients ask again whose replies were not repaired in time."""
        self._now = now
        for header in [header for header, since in self._awaited.items() if now - since > REPAIR_WAIT]:
            del self._awaited[header]
            self._tell("reply_not_read", header, False)
