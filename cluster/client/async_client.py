"""`ClusterClient` for asyncio: the same sessions, each call in a thread.

    async with AsyncClusterClient(["127.0.0.1:4000"], cluster=7) as client:
        async with await client.session() as session:
            answer = await session.request(OPERATION, body, timeout=5.0)

Guarantees: those of `ClusterClient`. Sessions work beside each other; calls in one session wait for each other. A call
that is cancelled is not taken back: it goes on until its own timeout, and the session's next call waits for it; the
request is then answered, or pending, and `resume` goes on with it.

Limits: at most `CALLS_MAX` calls are under way; others wait. Owns: the client and its threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from .answers import Answer
from .cluster_client import ClusterClient, Session

CALLS_MAX = 64
T = TypeVar("T")


class AsyncClusterClient:
    """See the module. Takes what `ClusterClient` takes."""

    def __init__(self, addresses: Sequence[str | tuple[str, int]], *, cluster: int, **options: Any) -> None:
        self._client = ClusterClient(addresses, cluster=cluster, **options)
        self._threads = ThreadPoolExecutor(CALLS_MAX, "cluster-client")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def session(self, *, timeout: float | None = None) -> AsyncSession:
        """Register a new session."""
        return AsyncSession(await self._run(lambda: self._client.session(timeout=timeout)), self._run)

    async def close(self) -> None:
        """Close the sockets of all sessions; calls that are under way end with `SessionOver`."""
        self._client.close()
        await asyncio.to_thread(self._threads.shutdown)

    def _run(self, call: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, call)


class AsyncSession:
    """One session: numbered requests, one at a time. Made by `AsyncClusterClient.session`; see `Session`."""

    def __init__(self, session: Session, run: Callable[[Callable[[], Any]], asyncio.Future[Any]]) -> None:
        self._session = session
        self._run = run
        self._last: asyncio.Future[Any] | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._call(lambda: self._session.__exit__(kind, error, traceback))

    @property
    def client_id(self) -> int:
        """The number by which the cluster knows this client."""
        return self._session.client_id

    @property
    def request_number(self) -> int:
        """The number of the latest request; 0 for none."""
        return self._session.request_number

    @property
    def is_pending(self) -> bool:
        """Whether the latest request has no answer."""
        return self._session.is_pending

    async def request(self, operation: int, body: bytes, *, timeout: float | None = None) -> Answer:
        """See `Session.request`."""
        return await self._call(lambda: self._session.request(operation, body, timeout=timeout))

    async def resume(self, *, timeout: float | None = None) -> Answer:
        """See `Session.resume`."""
        return await self._call(lambda: self._session.resume(timeout=timeout))

    async def repeat(self, *, timeout: float | None = None) -> Answer:
        """See `Session.repeat`."""
        return await self._call(lambda: self._session.repeat(timeout=timeout))

    async def close(self, *, timeout: float | None = None) -> None:
        """See `Session.close`."""
        await self._call(lambda: self._session.close(timeout=timeout))

    def abandon(self) -> None:
        """See `Session.abandon`."""
        self._session.abandon()

    async def _call(self, call: Callable[[], T]) -> T:
        async with self._turn:
            if self._last is not None and not self._last.done():
                await asyncio.wait([self._last])  # it was cancelled, and its thread works on
            future: asyncio.Future[T] = self._run(call)
            self._last = future
            return await asyncio.shield(future)
