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
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from client_replies.actors.owner.replies_port import RepliesPort
from client_replies.cluster.vsr.core import Core
from client_replies.cluster.vsr.effects import AnswerClient
from client_replies.cluster.vsr.execution import Applied, Skipped
from client_replies.cluster.vsr.messages import LogEntry
from client_replies.messages.config import RepliesConfig
from client_replies.messages.reply_header import HEADER_SIZE, ReplyHeader, packed_op, packed_size
from client_replies.storage.layout import Layout

from .damage import Moments, MomentsPlan, damage_slot
from .evidence import Counted, EvidenceWriter, Final, Seen
from .faulty_network import FaultyNetwork
from .hurt import Hurts, ReplicaFaults
from .journal import Journal, wrong_reply
from .ledger import Ledger
from .plant import Plant

COUNTS_INTERVAL = 0.25  # seconds between two lines of what was counted


@dataclass(slots=True)
class _Withheld:
    """A session that gets no answer until its slot is damaged."""

    slot: int
    header: bytes
    wait: int  # until the slot is durable
    number: int  # of the damage


class Events(Hurts):
    """See the module."""

    def __init__(
        self,
        *,
        config: RepliesConfig,
        seed: int,
        moments: MomentsPlan,
        plant: Plant | None,
        path: Path,
        journal: Journal,
        port: RepliesPort,
        counts: Callable[[], Mapping[str, int]],
        save: Callable[[str], None],
        network: FaultyNetwork,
        faults: ReplicaFaults,
        tell: Callable[[int], None],
    ) -> None:
        super().__init__(network, faults, tell)
        self._file = Path(config.path)
        self._slot_size = config.message_size_max
        self._seed = seed
        self._plant = plant
        self._journal = journal
        self._port = port
        self._counts = counts
        self._save = save
        self._counted: dict[str, int] = {}  # what is written down
        self._counted_at = 0.0
        self._writer = EvidenceWriter(path)
        self._damages = Moments(moments.directory, "damage", moments.damages, moments.ops)
        self._kills = Moments(moments.directory, "kill", moments.kills, moments.ops)
        self._layout = Layout.of_shape(config.clients_max, config.message_size_max)
        self._withheld: dict[int, _Withheld] = {}
        self._damaged: set[bytes] = set()  # headers of damaged replies that nobody has asked for yet
        self._slots: dict[bytes, int] = {}  # by header, of the replies kept since the last flush
        self._broken: set[bytes] = set()  # headers of damaged replies that are not repaired
        # Headers of first answers that have not left; not of registrations, whose replies the library keeps to itself.
        self._fresh: list[bytes] = []
        self._closed = False  # then there is nothing more to write down
        self._view = 0
        self._syncing = False
        self._primary_of = self._answering = -1

    def _write(self, event: str, slot: int = -1, header: bytes = b"") -> None:
        if self._closed:
            return
        self._writer.write(Seen(event, time.time(), self._view, slot, header[:16].hex()))

    def executed(self, entry: LogEntry, applied: Applied | Skipped) -> None:
        self._journal.observe(entry, applied)

    def installed(self, op: int) -> None:
        self._journal.installed(op)

    def reply_repaired(self, slot: int, header: bytes) -> None:
        self._write("repaired", slot, header)
        self._broken.discard(header)

    def reply_lost(self, slot: int, header: bytes) -> None:
        """See `Observer`. During a state sync the others have gone on from its snapshot, and so will this replica."""
        self._write("superseded" if self._syncing else "lost", slot, header)
        if not self._syncing:
            self._broken.discard(header)

    def _look(self, core: Core) -> None:
        """Where the replica is now."""
        syncing = core.sync_op > 0
        if self._syncing and not syncing:
            self._write("synced")
        self._syncing = syncing
        self._view = core.view
        if core.is_primary and self._primary_of != core.view:
            self._primary_of = core.view
            self._write("primary")

    # Answers.

    def answer(self, effect: AnswerClient, *, routed: bool) -> bytes | None:
        reply = effect.reply
        if effect.repeated and self._plant is Plant.WRONG_REPLY:
            reply = wrong_reply(reply)
        lose = effect.client in self._withheld
        # Read before the slot was damaged: were it to arrive, the damage would be useless.
        lose |= reply[:HEADER_SIZE] in self._damaged
        if not effect.repeated:
            if self._answering != effect.view:
                self._answering = effect.view
                self._write("answering")
            if packed_size(reply) > HEADER_SIZE:
                self._fresh.append(reply[:HEADER_SIZE])
                op = packed_op(reply)
                lose |= self._damages.is_overdue(op) and not self._is_kill_due(op)
        return None if lose or super().answer(effect, routed=routed) is None else reply

    def answered(self, effect: AnswerClient, *, sent: bool) -> None:
        """See `Hurts`. A lost one may be chosen for damage."""
        reply = effect.reply
        damages = self._damages
        if sent or effect.repeated or packed_size(reply) == HEADER_SIZE or not self._port.is_open:
            return
        header = reply[:HEADER_SIZE]
        if ReplyHeader.unpack(header).view != effect.view:
            return  # An earlier primary prepared it, and may have sent it: its client would have no reason to ask.
        slot = self._slots.get(header)
        op = packed_op(reply)
        if slot is not None and damages.is_due(op) and not self._is_kill_due(op) and (number := damages.claim()):
            wait = self._port.await_durable((slot,))
            self._withheld[effect.client] = _Withheld(slot, header, wait, number)

    def reply_kept(self, slot: int, reply: bytes) -> None:
        self._slots[reply[:HEADER_SIZE]] = slot

    # Damage.

    def slots_durable(self, wait: int) -> None:
        """See `Observer`. Now the slot is damaged, and its client may ask."""
        for client, withheld in list(self._withheld.items()):
            if withheld.wait == wait:
                del self._withheld[client]
                self._damage(withheld)

    def _damage(self, withheld: _Withheld) -> None:
        chance = random.Random(f"{self._seed}/{withheld.number}")
        offset = self._layout.slot_offset(withheld.slot)
        if damage_slot(self._file, offset, self._slot_size, chance) is not None:
            self._damaged.add(withheld.header)
            self._broken.add(withheld.header)
            self._write("damaged", withheld.slot, withheld.header)

    def reply_needed(self, slot: int, header: bytes) -> None:
        if header in self._damaged:
            self._damaged.remove(header)
            self._write("needed", slot, header)

    def tick(self, now: float) -> None:
        """See `Observer`. Write down what was counted."""
        super().tick(now)
        if now - self._counted_at >= COUNTS_INTERVAL:
            self._counted_at = now
            self._write_counts()

    # The end of a handler.

    def flush(self, core: Core) -> None:
        """See `Observer`. Write what was seen; and end, if this is the moment for it."""
        if self._closed:
            return
        self._journal.flush()
        self._look(core)
        fresh, self._fresh = self._fresh, []
        self._slots.clear()
        quiet = not (self._withheld or self._damaged or self._broken)
        if fresh and quiet and self._is_kill_due(core.executed) and self._kills.claim():
            self._write("killed")
            for header in fresh:
                self._write("unsent", header=header)
            self._write_counts()
            self._writer.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        self._writer.flush()

    def _is_kill_due(self, op: int) -> bool:
        return self._kills.is_due(op)

    def _write_counts(self) -> None:
        if self._closed:
            return
        counts = dict(self._counts())
        grown = {name: count - self._counted.get(name, 0) for name, count in counts.items()}
        grown = {name: increment for name, increment in grown.items() if increment}
        if grown:
            self._writer.write(Counted(grown))
            self._counted = counts

    def close(self, core: Core) -> None:
        """See `Observer`. Write the rest, and the state that all came to."""
        self._journal.close()
        self._write_counts()
        self._writer.close()
        self._closed = True
        self._save(final_state(core, self._journal.machine.ledger, self._counts()).text())


def final_state(core: Core, ledger: Ledger, counters: Mapping[str, int]) -> Final:
    """What a replica says when it has closed."""
    return Final(
        op=core.executed,
        balances=ledger.balances(),
        digest=ledger.digest().hex(),
        slots=tuple(core.execution.sessions.expectations()),
        counters=dict(counters),
    )
