"""Looks at the disk itself: at slots of which nobody knows what it holds, and in turn at all of them, to find rot.

Guarantees: a slot whose bytes on disk nobody has compared with what it is expected to hold is looked at here before a
peer is asked. Scrubbing keeps to its bandwidth, and reads no file all the time. Owns: one group of slots in flight.
"""

from __future__ import annotations

import math

from client_replies.messages.faults import InvariantBroken
from client_replies.messages.reply_header import packed_op, packed_size
from client_replies.messages.storage_io import SlotsVerified, VerifySlots

from .opened import Opened
from .slots import Read

VERIFY_BATCH_BYTES = 4 * 1024 * 1024
VERIFY_BATCH_SLOTS = 1024
SCRUB_STEPS_MAX = 4096  # slots looked at, empty ones too, before the mailbox gets its turn


class Scrubber:
    """All verification of one opening."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._verifying: list[Read] = []
        self._cursor = 0
        self._resume = self._pass_began = 0.0
        self.passes = 0

    @property
    def due(self) -> float:
        """When to scrub on."""
        scrubs = self._opened.config.scrub_bytes_per_second and not self._opened.to_storage.is_busy("verify")
        return self._resume if scrubs else math.inf

    def pump(self) -> None:
        """Look at the disk for slots of which nobody knows what it holds, some at a time."""
        slots, reads = self._opened.slots, list[Read]()
        if not slots.unverified or self._opened.to_storage.is_busy("verify"):
            return
        size = 0
        for slot in slots.unverified:
            header = slots.expected[slot]
            if header is None:
                raise InvariantBroken(f"slot {slot} is to be verified and expects nothing")
            size += packed_size(header)
            reads.append(slots.read_start(slot, header))
            if size >= VERIFY_BATCH_BYTES or len(reads) == VERIFY_BATCH_SLOTS:
                break
        self._verify(reads)

    def _verify(self, reads: list[Read]) -> None:
        self._verifying = reads
        message = VerifySlots(
            batch=self._opened.to_storage.next_number("verify"),
            slots=tuple(read.slot for read in reads),
            headers=b"".join(read.header for read in reads),
        )
        self._opened.call_storage("verify", message)

    def scrub(self, now: float) -> None:
        """Verify the next slots on disk."""
        opened = self._opened
        rate = opened.config.scrub_bytes_per_second
        if not rate or now < self._resume or opened.to_storage.is_busy("verify"):
            return
        if self._cursor == 0:
            self._pass_began = now
        budget = max(1, int(rate * opened.config.scrub_interval))
        reads: list[Read] = []
        size = 0
        for _ in range(min(SCRUB_STEPS_MAX, len(opened.slots.expected))):
            slot = self._cursor
            self._cursor = (slot + 1) % len(opened.slots.expected)
            self.passes += self._cursor == 0
            header = opened.slots.expected[slot]
            if header is not None and opened.slots.is_durable(slot):
                size += packed_size(header)
                reads.append(opened.slots.read_start(slot, header))
            if size >= budget or self._cursor == 0:
                break
        self._resume = now + max(opened.config.scrub_interval, size / rate)
        if self._cursor == 0:
            self._resume = max(self._resume, self._pass_began + opened.config.scrub_pass_interval)
        if reads:
            self._verify(reads)

    def verified(self, answer: SlotsVerified) -> list[int]:
        """A group of slots was verified. Returns those that are good and of which this was not known."""
        opened, slots = self._opened, self._opened.slots
        if opened.to_storage.answered("verify", answer.batch) is None:
            return []
        reads, self._verifying = self._verifying, []
        later = {slot: header for slot, header in answer.others if packed_op(header) > opened.op}
        good = []
        for read, fault in zip(reads, answer.results, strict=True):
            was_unverified = read.slot in slots.unverified
            if slots.verified(read, failed=fault is not None, later=later.get(read.slot)):
                if not was_unverified:  # else it is one of many that a state sync brought, and no damage
                    opened.count("slot_faulty", slot=read.slot, fault=getattr(fault, "name", ""), found_by="scrub")
            elif was_unverified and slots.is_durable(read.slot):
                good.append(read.slot)
        return good
