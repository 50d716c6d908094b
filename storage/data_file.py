"""The data file: formatting, opening, slots and checkpoints. See layout.py for where things are.

Guarantees: `write_slots` and `write_checkpoint` return when what they wrote is durable. A slot that is read is compared
with the header that is expected, byte for byte, then with its body's checksum, then its padding with zeros. An opening
that fails leaves the file as it was. After a failed write or sync nothing but `close` is possible, because a page
cache that failed to write once may claim to be clean.

A checkpoint is atomic. Its trailer goes into the area that the one before does not use, and is synced before any
superblock names it. Copies 0 and 1 are then written and synced, before 2 and 3: whatever a crash leaves of one pair,
torn or rubbish, the other pair agrees with itself. So opening finds two equal copies, of the old checkpoint or of the
new one, and the trailer of either is whole. A crash may leave one newer copy alone, which is not trusted, or copies
that are behind. `open` overwrites both, for the next trailer goes where a copy left behind still points. It first
checks everything else, then syncs: after a killed process the copies that agree may be in the page cache alone, and
with the others in flight beside them a power cut would take all four. It reads the disk itself, for the same reason.

Where the trailer of the last checkpoint rotted, `open` takes the one before, whose area is untouched until the next
checkpoint begins; `damaged` says so. Nothing is written for that. The next checkpoint goes into the damaged area.

Limits: no order among the slots of one `write_slots`; after a crash each may be old, new or torn. No repair of two
damaged trailers.

Threads may write (different slots) and read at the same time, one of them a checkpoint. Owns the device and its lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import itemgetter
from typing import NamedTuple, overload

from client_replies.messages.config import SECTOR_SIZE, OpenMode, RepliesConfig
from client_replies.messages.faults import CheckpointDamaged, Fault, FaultKind, SlotFault, invariant
from client_replies.messages.reply import verify_reply_header
from client_replies.messages.reply_header import (
    HEADER_SIZE,
    Buffer,
    HeaderClusterWrong,
    HeaderInvalid,
    HeaderSizeWrong,
    packed_cluster,
    packed_size,
    sealed_sizes,
    verify_body_checksum,
    verify_header_checksum,
)

from .data_file_parts import (
    PAIRS,
    check_identity,
    make_durable,
    read_sessions,
    read_superblock,
    write_superblock,
)
from .device import PARTS_MAX, Device, Disk, aligned_memory
from .errors import StorageError, storage_error
from .layout import SUPERBLOCK_COPIES, ZEROS, Layout, padding_is_zero, sectors_size
from .superblock import Superblock, choose_superblock

# Neighbours are verified with one read of so many bytes, also where so many lie between them.
RUN_SIZE = 1024 * 1024
GAP_MAX = 32 * 1024


class _Expected(NamedTuple):
    """Where the sectors of a reply begin and end, its slot, and its packed header."""

    begin: int
    end: int
    number: int
    header: bytes


class DataFile:
    """An open data file. Made by `open`."""

    def __init__(
        self,
        device: Device,
        superblock: Superblock,
        *,
        sessions: bytes = b"",
        formatted: bool = False,
        damage: Fault | None = None,
    ) -> None:
        self.layout = Layout.of_shape(superblock.clients_max, superblock.message_size_max)
        self.formatted = formatted
        self.sessions = sessions
        self.damaged: CheckpointDamaged | None = None
        if damage is not None:
            trailer = superblock.trailer
            self.damaged = CheckpointDamaged(sequence=trailer.sequence, op=trailer.op, fault=damage)
        self._device = device
        self._superblock = superblock  # as it is on disk
        self._trailer = superblock.trailer if damage is None else superblock.previous  # the one in use
        self._cluster = superblock.cluster.to_bytes(16, "little")
        self._refusal: Fault | None = None
        # The operating system reports a failed write-back to one sync only, so syncs take turns: one that comes after a
        # failure must find the refusal set, or it would call durable what is lost.
        self._scratch = threading.local()

    @property
    def sequence(self) -> int:
        """The number of the checkpoint in use: the last one, or the one before if that one is damaged."""
        return self._trailer.sequence

    @property
    def sequence_next(self) -> int:
        """The number of the next checkpoint."""
        return self._superblock.trailer.sequence + 1

    @property
    def op(self) -> int:
        """The op of the checkpoint in use."""
        return self._trailer.op

    # Opening.

    @classmethod
    def open(cls, disk: Disk, config: RepliesConfig, mode: OpenMode) -> DataFile:
        """Open the file, or format a new one where `mode` says so. Raises `StorageError`."""
        if mode is OpenMode.FORMAT:
            return cls._format(disk, config)
        try:
            device = disk.open(config.path)
        except StorageError as error:
            if mode is OpenMode.OPEN_OR_FORMAT and error.fault.kind is FaultKind.FILE_MISSING:
                return cls._format(disk, config)
            raise
        try:
            return cls._open(device, config)
        except BaseException:
            device.close()
            raise

    @classmethod
    def _format(cls, disk: Disk, config: RepliesConfig) -> DataFile:
        layout = Layout.of(config)
        superblock = Superblock(
            cluster=config.cluster,
            replica=config.replica,
            clients_max=config.clients_max,
            message_size_max=config.message_size_max,
        )
        new_file = disk.create(config.path, layout.size)
        try:
            write_superblock(new_file.device, superblock, range(SUPERBLOCK_COPIES))
            new_file.publish()
        except BaseException:
            new_file.discard()
            raise
        return cls(new_file.device, superblock, formatted=True)

    @classmethod
    def _open(cls, device: Device, config: RepliesConfig) -> DataFile:
        # Everything is read and checked before the first write: what is refused is untouched.
        chosen = choose_superblock(read_superblock(device))
        superblock = chosen.superblock
        check_identity(superblock, config)
        layout = Layout.of(config)
        if device.size < layout.size:
            raise storage_error(FaultKind.FILE_TRUNCATED, f"{device.size} bytes", f"{layout.size} bytes")
        sessions, damage = read_sessions(device, layout, superblock)
        make_durable(device, superblock, chosen.disagreeing)
        return cls(device, superblock, sessions=sessions, damage=damage)

    # Slots.

    def write_slots(self, slots: Sequence[int], replies: Sequence[Buffer]) -> None:
        """Write a reply to each slot, padded with zeros to whole sectors, and make all durable with one sync.

        A buffer may be longer than its reply. Every header is verified before the first is written: one that is
        invalid raises and nothing was done. Bodies are verified where a reply is accepted, and where it is read.
        Raises `StorageError`.
        """
        self._check_usable()
        invariant(
            len(slots) == len(replies) and len(set(slots)) == len(slots), "one reply for each slot, no slot twice"
        )
        for offset, parts in self._gathered(slots, replies):
            self._write(offset, parts)
        if slots:
            self._sync()

    def _gathered(self, slots: Sequence[int], replies: Sequence[Buffer]) -> list[tuple[int, list[Buffer]]]:
        """What is written where: one write per run of slots that lie side by side, each filled by its reply."""
        writes: list[tuple[int, list[Buffer]]] = []
        parts: list[Buffer] = []
        end = -1
        rows = zip(slots, replies, self._reply_sizes(replies), strict=True)
        for slot, reply, size in sorted(rows, key=itemgetter(0)):
            offset = self.layout.slot_offset(slot)
            if offset != end or len(parts) >= PARTS_MAX - 1:
                parts = []
                writes.append((offset, parts))
            parts.append(reply if len(reply) == size else memoryview(reply)[:size])
            padding = -size % SECTOR_SIZE
            if padding:
                parts.append(ZEROS[:padding])
            end = offset + size + padding
        return writes

    def _reply_sizes(self, replies: Sequence[Buffer]) -> list[int]:
        """Bytes of the reply at the start of each buffer, whose headers are verified. Raises `StorageError`."""
        size_max = self.layout.message_size_max
        sizes = sealed_sizes(replies, self._cluster, size_max)
        if sizes is not None:
            return sizes
        sizes = []
        for reply in replies:  # the same look one by one, to say what is wrong
            try:
                header = verify_reply_header(reply, cluster=self._superblock.cluster, size_max=size_max)
            except HeaderInvalid as error:
                raise StorageError(_reply_fault(error, reply, size_max)) from error
            sizes.append(packed_size(header))
        return sizes

    @overload
    def read_slot(self, slot: int, header: bytes, into: None = None, *, direct: bool = False) -> bytes | SlotFault: ...

    @overload
    def read_slot(self, slot: int, header: bytes, into: memoryview, *, direct: bool = False) -> int | SlotFault: ...

    def read_slot(
        self, slot: int, header: bytes, into: memoryview | None = None, *, direct: bool = False
    ) -> bytes | int | SlotFault:
        """The reply with this packed header from its slot, verified, or what is wrong with the slot.

        With `into` (at least the reply's size in whole sectors) it is read there, and the answer is its size; after a
        fault the contents of `into` mean nothing. Without, the answer is the bytes.
        """
        self._check_usable()
        size = self._expected_size(header)
        sectors = memoryview(bytearray(sectors_size(size))) if into is None else into[: sectors_size(size)]
        fault = self._read_verified(slot, header, sectors, direct)
        if fault is not None:
            return fault
        return bytes(sectors[:size]) if into is None else size

    def verify_slot(self, slot: int, header: bytes, *, direct: bool = True) -> SlotFault | None:
        """What is wrong with the slot that should hold the reply with this packed header, or None."""
        self._check_usable()
        sectors = self._scratch_memory(sectors_size(self._expected_size(header)))
        return self._read_verified(slot, header, sectors, direct)

    def verify_slots(self, expected: Iterable[tuple[int, bytes]]) -> dict[int, SlotFault | None]:
        """What is wrong with each of these slots, as `verify_slot` says it.

        Neighbours are read together, and the next of them while these are looked at. One that does not look whole then
        is read by itself: what kept the others from being read, or was misread with them, is no fault of it.
        """
        self._check_usable()
        faults: dict[int, SlotFault | None] = {}
        doubted = []
        for run, sectors in self._read_ahead(self._runs(expected)):
            first = run[0].begin
            for begin, end, slot, header in run:
                faults[slot] = None
                if sectors is None or slot_fault(sectors[begin - first : end - first], header) is not None:
                    doubted.append((slot, header))
        for slot, header in doubted:
            faults[slot] = self.verify_slot(slot, header)
        return faults

    def _runs(self, expected: Iterable[tuple[int, bytes]]) -> Iterator[list[_Expected]]:
        """Slots that are read together."""
        run: list[_Expected] = []
        for slot, header in expected:
            begin = self.layout.slot_offset(slot)
            end = begin + sectors_size(self._expected_size(header))
            if run and not (0 <= begin - run[-1].end <= GAP_MAX and end - run[0].begin <= RUN_SIZE):
                yield run
                run = []
            run.append(_Expected(begin, end, slot, header))
        if run:
            yield run

    def _read_ahead(self, runs: Iterator[list[_Expected]]) -> Iterator[tuple[list[_Expected], memoryview | None]]:
        """Each run with its sectors, or None where they cannot be read; valid until the next is asked for.

        After a large one another thread reads ahead: the disk and the checksums take about the same time.
        """
        for run in runs:
            yield run, self._read_run(run, self._scratch_memory(_size_of(run)))
            if _size_of(run) > RUN_SIZE // 2:
                break
        with ThreadPoolExecutor(1, "read-ahead") as reader:
            size = max(RUN_SIZE, sectors_size(self.layout.message_size_max))
            memories = [aligned_memory(size), aligned_memory(size)]
            ahead: deque[tuple[list[_Expected], Future[memoryview | None]]] = deque()
            for run in runs:
                memories.reverse()
                ahead.append((run, reader.submit(self._read_run, run, memories[0])))
                if len(ahead) == len(memories):
                    ready, reading = ahead.popleft()
                    yield ready, reading.result()
            for ready, reading in ahead:
                yield ready, reading.result()

    def _read_run(self, run: list[_Expected], memory: memoryview) -> memoryview | None:
        sectors = memory[: _size_of(run)]
        try:
            self._device.read(run[0].begin, sectors, direct=True)
        except StorageError:
            return None
        return sectors

    def reply_in(self, slot: int) -> bytes | None:
        """The packed header of the whole reply that the slot holds on the disk itself, whatever it is, or None."""
        self._check_usable()
        head = self._scratch_memory(SECTOR_SIZE)
        try:
            self._device.read(self.layout.slot_offset(slot), head, direct=True)
            header = bytes(head[:HEADER_SIZE])
            verify_header_checksum(header)
        except (StorageError, HeaderInvalid):
            return None
        if packed_cluster(header) != self._superblock.cluster:
            return None
        whole = HEADER_SIZE < packed_size(header) <= self.layout.message_size_max
        return header if whole and self.verify_slot(slot, header) is None else None

    def _read_verified(self, slot: int, header: bytes, sectors: memoryview, direct: bool) -> SlotFault | None:
        offset = self.layout.slot_offset(slot)
        try:
            self._device.read(offset, sectors, direct=direct)
        except StorageError:
            return SlotFault.UNREADABLE
        return slot_fault(sectors, header)

    def _expected_size(self, header: bytes) -> int:
        size = packed_size(header)
        if len(header) != HEADER_SIZE or not HEADER_SIZE < size <= self.layout.message_size_max:
            invariant(False, f"a slot is not expected to hold a reply of {size} bytes")
        return size

    def _scratch_memory(self, size: int) -> memoryview:
        """Aligned memory of this thread, kept for the next slot that it verifies."""
        memory: memoryview | None = getattr(self._scratch, "memory", None)
        if memory is None or len(memory) < size:
            memory = aligned_memory(size)
            self._scratch.memory = memory
        return memory[:size]

    # Checkpoints.

    def write_checkpoint(self, sequence: int, op: int, sessions: bytes) -> None:
        """Make `sessions` the session table, as of `op`, atomically. `sequence` grows by one. Raises `StorageError`."""
        self._check_usable()
        invariant(sequence == self.sequence_next, f"checkpoint {sequence} instead of {self.sequence_next}")
        invariant(op >= self.op, f"a checkpoint of op {op} after one of op {self.op}")
        invariant(len(sessions) <= self.layout.trailer_size, f"a session table of {len(sessions)} bytes")
        superblock = self._superblock.checkpointed(self._trailer, sequence, op, sessions)
        if sessions:
            area = superblock.trailer.area
            self._write(self.layout.trailer_offset(area), _with_padding(sessions, len(sessions)))
            self._sync()
        for pair in PAIRS:
            for copy in pair:
                self._write(self.layout.superblock_offset(copy), (superblock.encode(copy),))
            self._sync()
        self._superblock, self._trailer = superblock, superblock.trailer
        self.sessions = sessions

    # The end.

    def close(self) -> None:
        """Release the file and its lock. Nothing may be in flight. Closing again is harmless."""
        if self._refusal is None:
            self._refusal = Fault(kind=FaultKind.NOT_OPEN, found="a closed data file", expected="an open one")
        self._device.close()

    def _write(self, offset: int, parts: Sequence[Buffer]) -> None:
        try:
            self._device.write(offset, parts)
        except StorageError as error:
            self._stop(error.fault)
            raise

    def _sync(self) -> None:
        """Sync what this thread wrote, beside other threads. Once one failed, no other calls anything durable."""
        self._check_usable()
        try:
            self._device.sync()
        except StorageError as error:
            self._stop(error.fault)
            raise
        self._check_usable()

    def _stop(self, fault: Fault) -> None:
        self._refusal = Fault(
            kind=FaultKind.STOPPED, found=f"an earlier failure, {fault}", expected="a file without failures"
        )

    def _check_usable(self) -> None:
        if self._refusal is not None:
            raise StorageError(self._refusal)


def _size_of(run: list[_Expected]) -> int:
    return run[-1].end - run[0].begin


def slot_fault(sectors: memoryview, header: bytes) -> SlotFault | None:
    """What is wrong with a slot's sectors, which should hold the reply with this packed header; or None."""
    if bytes(sectors[:HEADER_SIZE]) != header:  # as bytes, because views are compared item by item
        try:
            verify_header_checksum(sectors)
        except HeaderInvalid:
            return SlotFault.HEADER_CORRUPT
        return SlotFault.OTHER_REPLY
    size = packed_size(header)
    try:
        verify_body_checksum(header, sectors[HEADER_SIZE:size])
    except HeaderInvalid:
        return SlotFault.BODY_CORRUPT
    is_padded = size == len(sectors) or padding_is_zero(sectors[size:])
    return None if is_padded else SlotFault.PADDING_NOT_ZERO


def _with_padding(content: Buffer, size: int) -> tuple[Buffer, ...]:
    """`content` and the zeros that fill its last sector, to be written together without a copy."""
    padding = ZEROS[: sectors_size(size) - size]
    invariant(padding_is_zero(padding), "the padding that is written is zero")
    return (content, padding) if padding else (content,)


def _reply_fault(error: HeaderInvalid, reply: Buffer, size_max: int) -> Fault:
    kind = FaultKind.REPLY_INVALID
    if isinstance(error, HeaderClusterWrong):
        kind = FaultKind.REPLY_OTHER_CLUSTER
    elif isinstance(error, HeaderSizeWrong) and packed_size(reply) > size_max:
        kind = FaultKind.REPLY_TOO_LARGE
    return Fault(kind=kind, found=error.found, expected=error.expected)
