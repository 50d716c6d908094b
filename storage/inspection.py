"""What a data file holds, part by part: superblock copies, session tables, slots.

Guarantees: nothing is written. Everything is read from the disk itself. One damaged part hides no other, except that
without an agreed superblock nothing else can be found.

Limits: the file alone does not say which reply is a session's latest: the owner's log may have newer ones. So a whole
reply of a later op than the checkpoint is `NEWER`, and no damage. A crash during a checkpoint leaves superblock copies
that disagree; the next opening mends them, and until then they are reported like rot.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from client_replies.messages.faults import Fault, FaultClass, FaultKind, SlotFault
from client_replies.messages.reply_header import HEADER_SIZE, packed_op, packed_size

from .data_file import DataFile
from .data_file_parts import read_superblock, read_trailer
from .device import Device
from .errors import StorageError, storage_error
from .layout import Layout
from .session_table import SessionsInvalid, SessionTable
from .superblock import Superblock, SuperblockInvalid, Trailer, choose_superblock, decode_superblock


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyFound:
    """One copy of the superblock. `problem` is empty if it agrees with the one in use."""

    copy: int
    superblock: Superblock | None
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFound:
    """One of the two session tables: its checkpoint, how many sessions it has, and what is wrong with it, or nothing.

    That of the checkpoint before the last is overwritten by the next one, so a problem with it alone is no damage.
    """

    trailer: Trailer
    is_last: bool
    sessions: int
    problem: str


class SlotContents(enum.Enum):
    """What a slot holds, compared with the session table in use."""

    WHOLE = "the session's reply, whole"
    NEWER = "a whole reply of an op after the checkpoint; the owner's log says whether it is the session's latest"
    DAMAGED = "not the session's reply; the owner's log or the other replicas have it"
    NO_BODY = "nothing is needed: the session's reply has no body, and is in the session table"
    UNUSED = "nothing is expected: the slot has no session"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFound:
    """One slot. `header` is the packed header of the reply that it holds, or should hold if it is damaged."""

    slot: int
    state: SlotContents
    header: bytes | None = None
    fault: SlotFault | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A data file. `fault` says why it cannot be opened; then `tables` and `slots` may be empty."""

    size: int
    copies: tuple[CopyFound, ...]
    superblock: Superblock | None = None
    tables: tuple[TableFound, ...] = ()
    slots: tuple[SlotFound, ...] = ()
    fault: Fault | None = None

    def damage(self) -> Iterator[str]:
        """Say what is damaged, a line for each part."""
        if self.fault is not None:
            yield str(self.fault)
        for copy in self.copies:
            if copy.problem:
                yield f"superblock copy {copy.copy}: {copy.problem}"
        for table in self.tables:
            if table.problem and table.is_last:
                yield f"session table of checkpoint {table.trailer.sequence}: {table.problem}"
        for slot in self.slots:
            if slot.fault is not None:
                yield f"slot {slot.slot}: {slot.fault.name}: {slot.fault.value}"


def inspect(device: Device) -> Inspection:
    """Look at every part of an open device. Raises `StorageError` if it is no data file, or a newer program's."""
    sectors = read_superblock(device)
    superblock, fault = None, None
    tables: list[TableFound] = []
    slots: tuple[SlotFound, ...] = ()
    try:
        superblock = choose_superblock(sectors).superblock
        layout = Layout.of_shape(superblock.clients_max, superblock.message_size_max)
        if device.size < layout.size:
            raise storage_error(FaultKind.FILE_TRUNCATED, f"{device.size} bytes", f"{layout.size} bytes")
        trailer, table = _tables(device, layout, superblock, tables)
        slots = tuple(_slots(DataFile(device, superblock), table, trailer.op))
    except StorageError as error:
        if error.fault.kind.fault_class is not FaultClass.DAMAGE:
            raise
        fault = error.fault
    copies = tuple(_copy(sector, number, superblock) for number, sector in enumerate(sectors))
    return Inspection(
        size=device.size, copies=copies, superblock=superblock, tables=tuple(tables), slots=slots, fault=fault
    )


def _copy(sector: memoryview | None, number: int, chosen: Superblock | None) -> CopyFound:
    if sector is None:
        return CopyFound(copy=number, superblock=None, problem="unreadable")
    try:
        superblock = decode_superblock(sector, number)
    except SuperblockInvalid as invalid:
        return CopyFound(copy=number, superblock=None, problem=str(invalid))
    problem = ""
    if superblock != chosen:
        agreed = "another copy that agrees" if chosen is None else f"checkpoint {chosen.trailer.sequence}"
        problem = f"found checkpoint {superblock.trailer.sequence}, expected {agreed}"
    return CopyFound(copy=number, superblock=superblock, problem=problem)


def _tables(
    device: Device, layout: Layout, superblock: Superblock, found: list[TableFound]
) -> tuple[Trailer, SessionTable | None]:
    """Put what is found of each table into `found`; return the one in use. Raises `StorageError` if none is whole."""
    in_use: tuple[Trailer, SessionTable | None] | None = None
    trailers = [superblock.trailer]
    if superblock.previous != superblock.trailer:
        trailers.append(superblock.previous)
    for trailer in trailers:
        table, problem = None, ""
        try:
            data = read_trailer(device, layout, trailer)
            table = SessionTable.decode(data, superblock.clients_max, superblock.cluster) if data else None
            in_use = in_use or (trailer, table)
        except (StorageError, SessionsInvalid) as error:
            problem = str(error)
        sessions = len(table.slots) if table is not None else 0
        found.append(
            TableFound(trailer=trailer, is_last=trailer is superblock.trailer, sessions=sessions, problem=problem)
        )
    if in_use is None:
        raise storage_error(FaultKind.TRAILER_CORRUPT, found[0].problem, "a whole session table")
    return in_use


def _slots(file: DataFile, table: SessionTable | None, op: int) -> Iterator[SlotFound]:
    headers = dict(zip(table.slots, table.headers, strict=True)) if table is not None else {}
    in_slots = {slot: header for slot, header in headers.items() if packed_size(header) > HEADER_SIZE}
    faults = file.verify_slots(in_slots.items())
    for slot in range(file.layout.clients_max):
        expected, fault = headers.get(slot), faults.get(slot)
        if slot in in_slots and fault is None:
            yield SlotFound(slot=slot, state=SlotContents.WHOLE, header=expected)
            continue
        other = file.reply_in(slot)
        if other is not None and packed_op(other) > op:
            yield SlotFound(slot=slot, state=SlotContents.NEWER, header=other)
        elif fault is not None:
            yield SlotFound(slot=slot, state=SlotContents.DAMAGED, header=expected, fault=fault)
        else:
            state = SlotContents.UNUSED if expected is None else SlotContents.NO_BODY
            yield SlotFound(slot=slot, state=state, header=expected)
