"""The client library for asyncio: many sessions at once, and a cancelled call that takes nothing back."""

from __future__ import annotations

import asyncio
import threading

import pytest

from client_replies.cluster.client import AsyncClusterClient, RequestPending, SessionOver

from tests.cluster.scripted_server import ScriptedServer, lose
from tests.cluster.stand_in import CLUSTER, EXECUTED, OPERATION_ECHO


def test_sessions_work_beside_each_other_and_calls_in_one_after_each_other() -> None:
    """Each answer is that of its own request, and each request is executed once."""
    server = ScriptedServer()

    async def use() -> None:
        async with AsyncClusterClient([server.address], cluster=CLUSTER) as client:
            sessions = [await client.session() for _ in range(5)]
            calls = [
                session.request(OPERATION_ECHO, b"%d of %d" % (number, at))
                for at, session in enumerate(sessions)
                for number in range(4)
            ]
            answers = await asyncio.gather(*calls)
            assert [answer.body[EXECUTED.size :] for answer in answers] == [
                b"%d of %d" % (number, at) for at in range(5) for number in range(4)
            ]
            assert (await sessions[0].repeat()).body == answers[3].body
            async with sessions[1] as session:
                assert session.request_number == 4
            with pytest.raises(SessionOver):
                await sessions[1].request(OPERATION_ECHO, b"")

    asyncio.run(use())
    server.close()
    assert server.stand_in.executed == 21  # with the end of the session that was closed


@pytest.mark.slow
def test_a_cancelled_request_goes_on_and_is_resumed() -> None:
    """The next call waits for it; a request without its answer is pending, and gets the original reply."""
    server = ScriptedServer()
    asked, over = threading.Event(), threading.Event()

    def stall(server: ScriptedServer, line: object, frame: object) -> None:
        asked.set()
        over.wait(10)

    async def use() -> None:
        async with AsyncClusterClient([server.address], cluster=CLUSTER) as client:
            session = await client.session()
            server.script += [lose, stall, stall, stall]
            call = asyncio.create_task(session.request(OPERATION_ECHO, b"once", timeout=1.5))
            await asyncio.to_thread(asked.wait, 10)  # again, after the first answer was lost
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            with pytest.raises(RequestPending):
                await session.request(OPERATION_ECHO, b"another")
            assert session.is_pending
            server.script.clear()
            over.set()
            assert (await session.resume(timeout=10.0)).body[EXECUTED.size :] == b"once"

    asyncio.run(use())
    server.close()
    assert server.stand_in.executed == 1
