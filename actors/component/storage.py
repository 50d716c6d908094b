"""StorageActor: owns the data file, and through it the disk.

Guarantees: where the actor system lets it watch a descriptor, its mailbox waits for the disk only while a single reply
is written and synced and nothing else is in flight; commit writes, repair writes, reads, reads for peers, verification
and checkpoints run beside each other and are answered as they end.
Batches are numbered in each lane (`Turns`), so none is done twice; a skipped number is executed all the same, because
its client's numbers go on from one file and one storage to the next. Only the sender that opened the file is served,
until it is closed.

Limits: no retries. After a failed write or sync nothing about the file can be trusted, so the storage says
`StorageStopped`, once for every request, and does no more (invariant 14).

Owns: the data file with its lock, its mapping of the pool's memory, and the threads of its executor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

from thespian.actors import ActorAddress

from client_replies.actors.thespian.component_actor import ComponentActor, Handler
from client_replies.actors.thespian.environment import Completed
from client_replies.messages.faults import Fault, FaultKind, InvariantBroken, SlotFault
from client_replies.messages.leases import Lease, MemoryName
from client_replies.messages.message import Message
from client_replies.messages.protocol import Party
from client_replies.messages.replies import Payload
from client_replies.messages.reply_header import HEADER_SIZE, Buffer, packed_size
from client_replies.messages.requests import Turn, Turns
from client_replies.messages.storage_io import (
    NO_LEASE,
    CheckpointWritten,
    CloseStorage,
    OpenStorage,
    ReadSlots,
    SlotsRead,
    SlotsVerified,
    SlotsWritten,
    StorageClosed,
    StorageOpened,
    StorageOpenFailed,
    StorageStopped,
    VerifySlots,
    WriteCheckpoint,
    WriteSlots,
)
from client_replies.storage.data_file import DataFile
from client_replies.storage.errors import StorageError, storage_error
from client_replies.storage.layout import sectors_size
from client_replies.storage.session_table import Expectations, SessionsInvalid
from client_replies.storage.shared_memory import LeaseStale, PoolMemory

SHORT_WRITE_MAX = 2**20  # bytes that are written and synced while the mailbox waits, if nothing else is in flight

Batch = WriteSlots | ReadSlots | VerifySlots | WriteCheckpoint
Others = tuple[tuple[int, bytes], ...]  # slots, each with the packed header of the whole reply that it holds


class StorageActor(ComponentActor):
    """The actor. See the module."""

    parties = (Party.STORAGE,)

    def __init__(self, capabilities: Mapping[str, object] | None = None, requirements: object = None) -> None:
        super().__init__(capabilities, requirements)
        self._file: DataFile | None = None
        self._memory: PoolMemory | None = None
        self._memory_name: MemoryName | None = None
        # A read's answer is kept too: reading again could fill buffers that others use by then.
        self._lanes: defaultdict[str, Turns] = defaultdict(Turns)
        self._in_flight = 0
        self._opening = False
        self._client: ActorAddress | None = None  # who opened the file
        self._closing: CloseStorage | None = None
        self._stopped: StorageStopped | None = None

    def handlers(self) -> dict[type, Handler]:
        return {
            OpenStorage: self.open,
            WriteSlots: self.write,
            ReadSlots: self.read,
            VerifySlots: self.verify,
            WriteCheckpoint: self.write_checkpoint,
            CloseStorage: self.close,
        }

    def is_from(self, party: Enum, message: object, sender: ActorAddress) -> bool:
        """Only one actor sends here: the one that opened the file, or opens it now that nobody has it open."""
        if isinstance(message, OpenStorage) and self._file is None and not self._opening:
            return True
        return self._client is not None and sender == self._client

    def refuse_stranger(self, message: object, sender: ActorAddress) -> None:
        """Who would open the file is told that it is in use."""
        if isinstance(message, OpenStorage):
            self._refuse_open(message, FaultKind.ALREADY_OPEN, sender)

    def stop(self) -> None:
        # The executor's threads end first: none may write to a file that is closed, and whose lock is free.
        self.close_executor()
        self._close_file()

    # Opening and closing.

    def open(self, message: OpenStorage, sender: ActorAddress) -> None:
        """Open the file beside the mailbox: verifying every slot may take a while."""
        if self._client != sender:
            self._client = sender
            self._lanes.clear()  # another client counts from the beginning
        lane = self._lanes["open"]
        if not self._is_new(lane, message.batch):
            return
        if self._stopped is not None:
            self.send(sender, StorageOpenFailed(batch=message.batch, fault=self._stopped.fault))
        elif self._file is not None or self._opening:
            self._refuse_open(message, FaultKind.ALREADY_OPEN, sender)
        else:
            lane.begin(message.batch)
            self._begin_opening(lane, message)

    def _refuse_open(self, message: OpenStorage, kind: FaultKind, sender: ActorAddress) -> None:
        fault = Fault(kind=kind, found="a file in use", expected="one opening at a time")
        self.send(sender, StorageOpenFailed(batch=message.batch, fault=fault))

    def _answer(self, lane: Turns, answer: Message) -> None:
        lane.answer = answer
        if self._client is not None:
            self.send(self._client, answer)

    def _is_new(self, lane: Turns, batch: int) -> bool:
        """Whether the batch is to be done. One that was answered is answered again: its answer may have been lost."""
        turn = lane.admit(batch)
        if turn is Turn.REPEATED and lane.answer is not None:
            self._answer(lane, lane.answer)
        return turn in (Turn.NEW, Turn.SKIPPED)

    def _begin_opening(self, lane: Turns, message: OpenStorage) -> None:
        try:
            self._map_memory(message.memory)
        except StorageError as error:
            self._answer(lane, StorageOpenFailed(batch=message.batch, fault=error.fault))
            return
        self._opening = True
        disk = self.environment.disk()

        def run() -> tuple[DataFile, tuple[int, ...], Others]:
            file = DataFile.open(disk, message.config, message.mode)
            try:
                faulty, others = find_faulty(file, message)
                return file, faulty, others
            except BaseException:
                file.close()
                raise

        self.executor().submit("open", run, lambda outcome: self._open_done(lane, message.batch, outcome))

    def _map_memory(self, name: MemoryName) -> None:
        if self._memory_name != name:
            if self._memory is not None:
                self._memory.close()
            self._memory = self.environment.open_memory(name)
            self._memory_name = name

    def _open_done(self, lane: Turns, batch: int, outcome: Completed) -> None:
        self._opening = False
        if isinstance(outcome.error, StorageError):
            self._answer(lane, StorageOpenFailed(batch=batch, fault=outcome.error.fault))
        else:
            self._file, faulty, others = self._value(outcome)
            file = self._file
            answer = StorageOpened(
                batch=batch,
                formatted=file.formatted,
                sequence=file.sequence,
                op=file.op,
                sessions=file.sessions,
                faulty=faulty,
                others=others,
                damaged=file.damaged,
            )
            file.sessions = b""  # The answer has it; a second copy of a large table would stay in memory.
            self._answer(lane, answer)
        self._close_if_idle()

    def close(self, message: CloseStorage, sender: ActorAddress) -> None:
        """Close once nothing is in flight."""
        if self._is_new(self._lanes["close"], message.batch):
            self._lanes["close"].begin(message.batch)
            self._closing = message
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._closing is not None and not self._in_flight and not self._opening:
            closing, self._closing = self._closing, None
            self._close_file()
            for lane in self._lanes.values():
                lane.answer = None
            self._answer(self._lanes["close"], StorageClosed(batch=closing.batch))

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
        if self._memory is not None:
            self._memory.close()
        self._memory = self._memory_name = None

    # Batches.

    def write(self, message: WriteSlots, sender: ActorAddress) -> None:
        """Write a group of slots under one sync."""

        def run(file: DataFile) -> Message:
            file.write_slots(message.slots, self._contents_of(message.payloads))
            return SlotsWritten(batch=message.batch, repair=message.repair, lane=message.lane)

        # Whoever waits for one reply to be durable would wait for two threads to wake up as well.
        short = len(message.slots) == 1 and not message.repair
        self._run("repair" if message.repair else f"write {message.lane}", message, run, sender, short=short)

    def write_checkpoint(self, message: WriteCheckpoint, sender: ActorAddress) -> None:
        """Store the session table."""

        def run(file: DataFile) -> Message:
            file.write_checkpoint(message.sequence, message.op, message.sessions)
            file.sessions = b""  # Nobody asks for it again, and a large table would stay in memory.
            return CheckpointWritten(batch=message.batch)

        self._run("checkpoint", message, run, sender)

    def read(self, message: ReadSlots, sender: ActorAddress) -> None:
        """Read a group of slots, each verified."""

        def run(file: DataFile) -> Message:
            results = [
                self._read_one(file, slot, header, lease)
                for slot, header, lease in zip(message.slots, headers_of(message), message.leases, strict=True)
            ]
            return SlotsRead(batch=message.batch, results=tuple(results), for_peers=message.for_peers)

        self._run("serve" if message.for_peers else "read", message, run, sender)

    def _read_one(self, file: DataFile, slot: int, header: bytes, lease: Lease) -> Payload | SlotFault:
        if lease == NO_LEASE:
            return file.read_slot(slot, header)
        into = memoryview(self._contents_of((lease,))[0])[: sectors_size(packed_size(header))]
        result = file.read_slot(slot, header, into)
        return result if isinstance(result, SlotFault) else lease

    def verify(self, message: VerifySlots, sender: ActorAddress) -> None:
        """Read a group of slots from the disk itself."""

        def run(file: DataFile) -> Message:
            results, others = examine(file, zip(message.slots, headers_of(message), strict=True))
            return SlotsVerified(batch=message.batch, results=tuple(results.values()), others=others)

        self._run("verify", message, run, sender)

    def _contents_of(self, payloads: tuple[Payload, ...]) -> list[Buffer]:
        if self._memory is None:
            raise InvariantBroken("a batch came to a storage that maps no memory")
        try:
            return self._memory.contents(payloads)
        except LeaseStale as stale:
            # Its holder gave it back before it was answered. What the buffer holds now may be anything.
            expected = "a lease that is held until the answer"
            raise storage_error(FaultKind.LEASE_STALE, str(stale), expected) from stale

    def _run(
        self,
        name: str,
        message: Batch,
        run: Callable[[DataFile], Message],
        sender: ActorAddress,
        *,
        short: bool = False,
    ) -> None:
        lane = self._lanes[name]
        if self._stopped is not None:
            self.send(sender, self._stopped)
        elif not self._is_new(lane, message.batch):
            return
        elif self._file is None or self._closing is not None:
            fault = Fault(kind=FaultKind.NOT_OPEN, found=f"a batch to {name}", expected="an open data file")
            self.send(sender, StorageStopped(fault=fault))
        else:
            file = self._file
            short = short and file.layout.message_size_max <= SHORT_WRITE_MAX
            self._lanes["open"].answer = None  # Its client has it, and with it the session table.
            lane.begin(message.batch)
            self._in_flight += 1
            self.executor().submit(name, lambda: run(file), lambda outcome: self._done(lane, outcome), short=short)

    def _done(self, lane: Turns, outcome: Completed) -> None:
        self._in_flight -= 1
        if isinstance(outcome.error, StorageError):
            self._fail(outcome.error.fault)
        else:
            answer: Message = self._value(outcome)
            if self._stopped is None:
                self._answer(lane, answer)
        self._close_if_idle()

    def _fail(self, fault: Fault) -> None:
        if self._stopped is None:
            self._stopped = StorageStopped(fault=fault)
            self.log.critical("storage_stopped", fault=str(fault))
        if self._client is not None:
            self.send(self._client, self._stopped)

    def _value(self, outcome: Completed) -> Any:
        if outcome.error is not None:
            raise InvariantBroken(f"the storage failed: {outcome.error!r}") from outcome.error
        return outcome.value


def find_faulty(file: DataFile, message: OpenStorage) -> tuple[tuple[int, ...], Others]:
    """The slots that do not hold what the session table in use says, and what some of them hold instead."""
    if not file.sessions:
        return (), ()
    config = message.config
    try:
        expected = Expectations.decode(file.sessions, clients_max=config.clients_max, cluster=config.cluster)
    except SessionsInvalid as error:
        # Its checksum is right: it is what was written, and no damage.
        raise storage_error(FaultKind.TRAILER_INVALID, str(error), "a session table of this version") from error
    results, others = examine(file, expected.headers.items())
    return tuple(slot for slot, fault in results.items() if fault is not None), others


def examine(file: DataFile, expected: Iterable[tuple[int, bytes]]) -> tuple[dict[int, SlotFault | None], Others]:
    """What is wrong with each slot on the disk itself, or None; and the other whole replies that some of them hold.

    Slots come with the packed header that they should hold. One that holds it at the second look was misread.
    """
    headers = dict(expected)
    results = file.verify_slots(headers.items())
    others = []
    for slot, fault in results.items():
        if fault is SlotFault.OTHER_REPLY:
            other = file.reply_in(slot)
            if other == headers[slot]:
                results[slot] = None
            elif other is not None:
                others.append((slot, other))
    return results, tuple(others)


def headers_of(message: ReadSlots | VerifySlots) -> list[bytes]:
    """The packed headers of the message, one a slot."""
    headers = message.headers
    return [headers[start : start + HEADER_SIZE] for start in range(0, len(headers), HEADER_SIZE)]
