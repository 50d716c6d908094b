"""The latest replies of a script's sessions, without an actor of one's own: blocking, or for asyncio.

    with Replies.open("r0.replies", cluster=1) as replies:
        replies.write(0, reply).durable(timeout=5)
        replies.read(0)                          # the reply, verified

    async with AsyncReplies.open("r0.replies", cluster=1) as replies:
        await (await replies.write(0, reply)).durable(timeout=5)
        await replies.read(0)

Guarantees: those of `RepliesPort`, which does the work in a thread of its own. Every call ends with its own result,
with an exception that says why there is none, or with `TimeoutError`; a timeout takes nothing back. Threads may share
a handle. Leaving the `with` makes durable what was written, stores a checkpoint, ends the actors and, if the handle
started it, the actor system.

Limits: one session per slot, and ops that grow. What the slots are expected to hold is in the last checkpoint: after a
crash the script writes again, in the same order, what it had written since (`opened.op` says from where). A handle
repairs damaged slots only once `set_peers` names other replicas.

Owns: the port and its thread, the actors, the session table, and the actor system unless it was given one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from thespian.actors import ActorAddress

from client_replies.actors.thespian.system import OwnedSystem
from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.replies import RepliesOpened, RepliesStatus
from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import ReplyHeader

from .engine import Engine

OPEN_TIMEOUT = 60.0  # seconds: opening verifies every slot
CLOSE_TIMEOUT = 30.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Written:
    """A reply, or a removal, that was taken over."""

    op: int
    _future: Future[None]

    def durable(self, timeout: float | None = None) -> None:
        """Return when this, or a newer reply of its slot, is on disk. Raises `TimeoutError`, `RepliesUnusable`."""
        self._future.result(timeout)


@dataclass(frozen=True, slots=True)
class AsyncWritten:
    """The same, for asyncio."""

    op: int
    _future: Future[None]

    async def durable(self, timeout: float | None = None) -> None:
        """Return when this, or a newer reply of its slot, is on disk. Raises `TimeoutError`, `RepliesUnusable`."""
        await _awaited(self._future, timeout)


class _Handle:
    """What both handles have in common."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        cluster: int,
        replica: int = 0,
        mode: OpenMode = OpenMode.OPEN_OR_FORMAT,
        system: OwnedSystem | None = None,
        **sizes: Any,
    ) -> Self:
        """A handle on the data file at `path`, to be entered by `with`. See `RepliesConfig` for `sizes`.

        Raises `MessageInvalid` for a configuration that is not consistent. Without a `system`, one is started.
        """
        config = RepliesConfig(path=str(path), cluster=cluster, replica=replica, **sizes)
        return cls(Engine(config, mode, system))

    @property
    def opened(self) -> RepliesOpened:
        """What the file held when it was opened: session table, its op, slots to be repaired."""
        return self._engine.opened.result(0)

    @property
    def address(self) -> ActorAddress:
        """The component's address, for `set_peers` of others."""
        return self._engine.address

    @property
    def lost(self) -> tuple[int, ...]:
        """Slots whose reply no replica holds, until their next one."""
        return tuple(self._engine.lost)

    def set_peers(self, peers: dict[int, ActorAddress]) -> None:
        """Say where the components of the other replicas are, by replica; damaged slots are repaired from them."""
        self._engine.set_peers(peers)


class Replies(_Handle):
    """The blocking handle; see the module. Timeouts are in seconds, None for none."""

    def __enter__(self) -> Self:
        self._engine.start()
        try:
            self._engine.opened.result(OPEN_TIMEOUT)
        except BaseException:
            self._engine.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        finally:
            self._engine.release()

    def close(self, timeout: float | None = CLOSE_TIMEOUT) -> None:
        """Make durable what was written and close the file. Leaving the `with` statement does this, too."""
        self._engine.close().result(timeout)

    def write(self, slot: int, reply: Reply | bytes, timeout: float | None = None) -> Written:
        """The slot's session has this reply from now on; its op is after that of everything written before.

        Returns when it is taken over, which waits only while too much is under way.
        """
        return self._take(slot, *_op_and_bytes(reply), timeout)

    def remove(self, slot: int, op: int, timeout: float | None = None) -> Written:
        """The slot holds no reply any more, as of `op`."""
        return self._take(slot, op, None, timeout)

    def _take(self, slot: int, op: int, data: bytes | None, timeout: float | None) -> Written:
        while (future := self._engine.take(slot, op, data)) is None:
            self._engine.room().result(timeout)
        return Written(op, future)

    def read(self, slot: int, timeout: float | None = None) -> Reply:
        """The slot's latest reply, verified. Raises `ReplyUnavailable`."""
        return self._engine.read(slot).result(timeout)

    def durable(self, slots: Sequence[int], timeout: float | None = None) -> None:
        """Return when each slot has on disk what it is expected to hold now, or a newer reply."""
        self._engine.durable(slots).result(timeout)

    def checkpoint(self, timeout: float | None = None) -> int:
        """Store what the slots are expected to hold; what was written before is found again after a crash.

        Returns the checkpoint's number when it is on disk.
        """
        return self._engine.checkpoint().result(timeout)

    def status(self, slots: Sequence[int] = (), timeout: float | None = None) -> RepliesStatus:
        """The component's status; for `slots` also which of them are durable."""
        return self._engine.status(slots).result(timeout)


class AsyncReplies(_Handle):
    """The handle for asyncio; see the module. Timeouts are in seconds, None for none."""

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._engine.start)
        try:
            await _awaited(self._engine.opened, OPEN_TIMEOUT)
        except BaseException:
            await asyncio.to_thread(self._engine.release)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.close()
        finally:
            await asyncio.to_thread(self._engine.release)

    async def close(self, timeout: float | None = CLOSE_TIMEOUT) -> None:
        """See `Replies.close`."""
        await _awaited(self._engine.close(), timeout)

    async def write(self, slot: int, reply: Reply | bytes, timeout: float | None = None) -> AsyncWritten:
        """See `Replies.write`."""
        return await self._take(slot, *_op_and_bytes(reply), timeout)

    async def remove(self, slot: int, op: int, timeout: float | None = None) -> AsyncWritten:
        """See `Replies.remove`."""
        return await self._take(slot, op, None, timeout)

    async def _take(self, slot: int, op: int, data: bytes | None, timeout: float | None) -> AsyncWritten:
        while (future := self._engine.take(slot, op, data)) is None:
            await _awaited(self._engine.room(), timeout)
        return AsyncWritten(op, future)

    async def read(self, slot: int, timeout: float | None = None) -> Reply:
        """See `Replies.read`."""
        return await _awaited(self._engine.read(slot), timeout)

    async def durable(self, slots: Sequence[int], timeout: float | None = None) -> None:
        """See `Replies.durable`."""
        await _awaited(self._engine.durable(slots), timeout)

    async def checkpoint(self, timeout: float | None = None) -> int:
        """See `Replies.checkpoint`."""
        return await _awaited(self._engine.checkpoint(), timeout)

    async def status(self, slots: Sequence[int] = (), timeout: float | None = None) -> RepliesStatus:
        """See `Replies.status`."""
        return await _awaited(self._engine.status(slots), timeout)


def _op_and_bytes(reply: Reply | bytes) -> tuple[int, bytes]:
    if isinstance(reply, bytes):
        return ReplyHeader.unpack(reply).op, reply
    return reply.header.op, reply.pack()


async def _awaited(future: Future[T], timeout: float | None) -> T:
    # Shielded: a caller that gives up takes nothing back, and others may wait for the same.
    return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), timeout)
