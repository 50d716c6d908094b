"""Client sessions as the service's users have them: threads with `ClusterClient`, through the gateway, over TCP.

Guarantees: every answer is recorded with its bytes before the next request is sent. After an answer a client often asks
for it once more, as one does that lost it: those bytes are recorded, too. A time that is over is no answer: the client
goes on asking for the same request. Limits: it never gives up; a session that is over says so in `failure`.

Owns: the threads, their sessions and records.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path

from client_replies.cluster.client import (
    Answer,
    ClusterClient,
    ClusterError,
    ClusterUnavailable,
    ReplyLost,
    RequestTimeout,
    RetryPolicy,
    Session,
)

from .evidence import AnswerSeen, EvidenceWriter
from .ledger import OPERATION_TRANSFER, Outcome, Result, Transfer

TIMEOUT = 3.0  # seconds; shorter than some of what the cluster goes through, so that clients have to resume
REPEAT_PROBABILITY = 0.3
PAUSE_MAX = 0.05  # seconds of sleep until it is seen whether all is over


class DoorClients:
    """See the module. `rows` are those of each session, with the number of the session."""

    def __init__(
        self, address: tuple[str, int], *, cluster: int, rows: dict[int, Sequence[Transfer]], rate: float, seed: int
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.done = 0
        self.failure = ""
        self._client = ClusterClient([address], cluster=cluster, policy=RetryPolicy(timeout_s=TIMEOUT))
        self._rate = rate
        self._seed = seed
        self._lock = threading.Lock()  # for counters, done and failure
        self._over = threading.Event()
        self._began = time.monotonic()
        self._rows = rows
        self._threads: list[threading.Thread] = []

    def start(self, record: Callable[[int], Path]) -> None:
        """Begin, each session with a record of its own."""
        for number, rows in self._rows.items():
            arguments = (number, deque(rows), EvidenceWriter(record(number)))
            self._threads.append(threading.Thread(target=self._work, args=arguments, daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def total(self) -> int:
        """How many transfers there are."""
        return sum(map(len, self._rows.values()))

    @property
    def finished(self) -> bool:
        """True if every session has all its answers, or cannot go on."""
        return not any(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """End all sessions, and wait for the threads."""
        self._over.set()
        self._client.close()
        for thread in self._threads:
            thread.join()

    # A session, in its thread.

    def _work(self, number: int, rows: deque[Transfer], record: EvidenceWriter) -> None:
        chance = random.Random(f"{self._seed}/door/{number}")
        try:
            session = self._session()
            while rows and not self._over.is_set():
                self._transfer(session, rows.popleft(), record)
                if chance.random() < REPEAT_PROBABILITY:
                    self._repeat(session, record)
        except ClusterError as error:
            if not self._over.is_set():
                with self._lock:
                    self.failure = self.failure or f"session {number} at the door: {type(error).__name__}: {error}"
        finally:
            record.close()

    def _transfer(self, session: Session, transfer: Transfer, record: EvidenceWriter) -> None:
        due = self._began + transfer.row / self._rate
        while (left := due - time.monotonic()) > 0 and not self._over.is_set():
            time.sleep(min(left, PAUSE_MAX))
        try:
            answer = self._until_answered(lambda: session.request(OPERATION_TRANSFER, transfer.encode()), session)
        except ReplyLost:
            self._count("replies_lost_everywhere")
            record.write(AnswerSeen(session.client_id, session.request_number, transfer.row, "LOST", 0, 0.0, b""))
        else:
            self._record(record, session, answer, "FIRST", transfer.row)
            self._count(f"results_{Outcome(Result.decode(answer.body).outcome).name.lower()}")
        with self._lock:
            self.done += 1

    def _repeat(self, session: Session, record: EvidenceWriter) -> None:
        answer = self._until_answered(session.repeat, session)
        self._record(record, session, answer, "REPEATED", 0)
        self._count("door_repeats")

    def _session(self) -> Session:
        while True:
            try:
                return self._client.session()
            except (RequestTimeout, ClusterUnavailable):
                if self._over.is_set():
                    raise
                self._count("door_timeouts")

    def _until_answered(self, ask: Callable[[], Answer], session: Session) -> Answer:
        while True:
            try:
                return ask()
            except (RequestTimeout, ClusterUnavailable):
                if self._over.is_set():
                    raise
                self._count("door_timeouts")
                ask = session.resume

    def _record(self, record: EvidenceWriter, session: Session, answer: Answer, kind: str, row: int) -> None:
        data = answer.header.pack() + answer.body
        seen = AnswerSeen(session.client_id, answer.header.request, row, kind, answer.attempts, answer.latency_s, data)
        record.write(seen)
        record.flush()

    def _count(self, kind: str) -> None:
        with self._lock:
            self.counters[kind] += 1
