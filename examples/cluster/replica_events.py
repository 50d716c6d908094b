"""What a replica writes down about itself, and the planned faults of a run: a slot that is damaged, its own end.

Guarantees: a reply whose slot is to be damaged is withheld, and everything else to that session, until the slot was
durable and then damaged. It is one that no earlier primary can have sent: its client would not ask for it again. A
replica kills itself only as primary, with replies that are committed and not sent, each noted before; and only while no
damage is under way: a kill that is due comes before the next damage. All that it counted is written before a planned
kill.

Owns: the events' file; which sessions wait for a damage.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from client_replies.actors.replies_port import RepliesPort
from client_replies.messages.reply_header import HEADER_SIZE, ReplyHeader, packed_op, packed_size
from client_replies.storage.layout import Layout

from .control import StartReplica
from .damage import SABOTEUR, DamageSlot, Moments
from .evidence import EvidenceWriter, Seen, counted_line
from .journal import Plant, wrong_reply
from .vsr.effects import AnswerClient

COUNTS_INTERVAL = 0.25  # seconds between two lines of what was counted
DAMAGE_TIMEOUT = 1.0  # seconds until the saboteur is asked again


@dataclass(slots=True)
class _Withheld:
    """A session that gets no answer until its slot is damaged."""

    slot: int
    header: bytes
    wait: int
    order: DamageSlot | None = None
    ordered_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of an answer."""

    reply: bytes
    lose: bool


class Events:
    """See the module."""

    def __init__(
        self,
        start: StartReplica,
        path: Path | None,
        port: RepliesPort,
        order: Callable[[str, object], None],
        counts: Callable[[], Mapping[str, int]],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._start = start
        self._port = port
        self._order = order
        self._counts = counts
        self._counted: dict[str, int] = {}  # what is written down
        self._counted_at = 0.0
        self._writer = EvidenceWriter(path) if path is not None else None
        plan = start.moments
        self._damages = Moments(plan.directory, "damage", plan.damages, plan.ops) if plan is not None else None
        self._kills = Moments(plan.directory, "kill", plan.kills, plan.ops) if plan is not None else None
        self._layout = Layout.of(start.config)
        self._withheld: dict[int, _Withheld] = {}
        self._damaged: set[bytes] = set()  # headers of damaged replies that nobody has asked for yet
        self._slots: dict[bytes, int] = {}  # by header, of the replies kept since the last flush
        self._broken: set[bytes] = set()  # headers of damaged replies that are not repaired
        self._fresh: list[bytes] = []  # headers of first answers that have not left
        self._view = 0
        self._syncing = False
        self._primary_of = self._answering = -1

    def _write(self, event: str, slot: int = -1, header: bytes = b"") -> None:
        if self._writer is not None:
            seen = Seen(event, time.time(), self._view, slot, header[:16].hex())
            self._writer.write(seen.line())

    def slot(self, event: str, slot: int, header: bytes) -> None:
        """Something happened to the reply in a slot."""
        if event == "lost" and self._syncing:
            # The others have gone on from the snapshot that this replica took over, and so will it.
            event = "superseded"
        self._write(event, slot, header)
        if event == "damaged":
            self._broken.add(header)
        elif event in ("repaired", "lost"):
            self._broken.discard(header)

    def view(self, view: int, is_primary: bool, syncing: bool) -> None:
        """Where the replica is now."""
        if self._syncing and not syncing:
            self._write("synced")
        self._syncing = syncing
        self._view = view
        if is_primary and self._primary_of != view:
            self._primary_of = view
            self._write("primary")

    # Answers.

    def on_answer(self, effect: AnswerClient) -> Verdict:
        """Judge an answer that is about to leave."""
        reply = effect.reply
        if effect.repeated and self._start.plant is Plant.WRONG_REPLY:
            reply = wrong_reply(reply)
        lose = effect.client in self._withheld
        # Read before the slot was damaged: were it to arrive, the damage would be needless.
        lose |= reply[:HEADER_SIZE] in self._damaged
        if not effect.repeated:
            self._fresh.append(reply[:HEADER_SIZE])
            if self._answering != effect.view:
                self._answering = effect.view
                self._write("answering")
            if self._damages is not None and packed_size(reply) > HEADER_SIZE:
                op = packed_op(reply)
                lose |= self._damages.is_overdue(op) and not self._is_kill_due(op)
        return Verdict(reply, lose)

    def answered(self, effect: AnswerClient, sent: bool) -> None:
        """The answer left, or was lost; a lost one may be chosen for damage."""
        reply = effect.reply
        damages = self._damages
        if sent or effect.repeated or damages is None or packed_size(reply) == HEADER_SIZE or not self._port.is_open:
            return
        header = reply[:HEADER_SIZE]
        if ReplyHeader.unpack(header).view != effect.view:
            return  # An earlier primary prepared it, and may have sent it: its client would have no reason to ask.
        slot = self._slots.get(header)
        op = packed_op(reply)
        if slot is not None and damages.is_due(op) and not self._is_kill_due(op) and (number := damages.claim()):
            order = DamageSlot(
                number=number,
                path=self._start.config.path,
                offset=self._layout.slot_offset(slot),
                size=packed_size(header),
                seed=self._start.seed,
            )
            wait = self._port.await_durable((slot,))
            self._withheld[effect.client] = _Withheld(slot, header, wait, order)

    def kept(self, slot: int, reply: bytes) -> None:
        """The reply belongs in this slot."""
        if self._damages is not None:
            self._slots[reply[:HEADER_SIZE]] = slot

    # Damage.

    def slots_durable(self, wait: int) -> None:
        """A slot is durable: now it can be damaged."""
        for withheld in self._withheld.values():
            if withheld.wait == wait and not withheld.ordered_at:
                self._order_damage(withheld, time.monotonic())

    def _order_damage(self, withheld: _Withheld, now: float) -> None:
        withheld.ordered_at = now
        if withheld.order is not None:
            self._order(SABOTEUR, withheld.order)

    def slot_damaged(self, number: int) -> None:
        """The saboteur has done it: let the client ask."""
        for client, withheld in list(self._withheld.items()):
            if withheld.order is not None and withheld.order.number == number:
                del self._withheld[client]
                self._damaged.add(withheld.header)
                self.slot("damaged", withheld.slot, withheld.header)

    def reply_needed(self, slot: int, header: bytes) -> None:
        """A client asks for a stored reply."""
        if header in self._damaged:
            self._damaged.remove(header)
            self.slot("needed", slot, header)

    def tick(self, now: float) -> None:
        """Write down what was counted, and ask the saboteur again."""
        if now - self._counted_at >= COUNTS_INTERVAL:
            self._counted_at = now
            self._write_counts()
        for withheld in self._withheld.values():
            if withheld.ordered_at and now - withheld.ordered_at > DAMAGE_TIMEOUT:
                self._order_damage(withheld, now)

    # The end of a handler.

    def flush(self, executed: int) -> None:
        """Before anything leaves: write what was seen; and end, if this is the moment for it."""
        fresh, self._fresh = self._fresh, []
        if self._damages is not None:
            self._slots.clear()
        quiet = not (self._withheld or self._damaged or self._broken)
        if fresh and quiet and self._kills is not None and self._is_kill_due(executed) and self._kills.claim():
            self._write("killed")
            for header in fresh:
                self._write("unsent", header=header)
            self._write_counts()
            self._flush()
            os.kill(os.getpid(), signal.SIGKILL)
        self._flush()

    def _is_kill_due(self, op: int) -> bool:
        return self._kills is not None and self._kills.is_due(op)

    def _write_counts(self) -> None:
        if self._writer is None:
            return
        counts = dict(self._counts())
        grown = {name: count - self._counted.get(name, 0) for name, count in counts.items()}
        grown = {name: increment for name, increment in grown.items() if increment}
        if grown:
            self._writer.write(counted_line(grown))
            self._counted = counts

    def _flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Write the rest and close."""
        self._write_counts()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
