"""The drill's client sessions: threads with `ClusterClient`, as users have it, through the gateway, over TCP.

Guarantees: every answer is recorded with its bytes before the next request is sent. With `repeats`, the probability of
asking for an answer once more, as one does that lost it, those bytes are recorded, too. A time that is over is no
answer: the client goes on asking for the same request. A reply that every replica lost is noted.

Limits: a session never gives up; one that is over says so in `failure`.

Owns: the threads, their sessions and records.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from client_replies.cluster.client import (
    Answer,
    AnswerLost,
    ClusterClient,
    ClusterError,
    ClusterUnavailable,
    RequestTimeout,
    RetryPolicy,
    Session,
)

from .evidence import AnswerSeen, EvidenceWriter, SessionOf
from .ledger import OPERATION_TRANSFER, Outcome, Result, Transfer

TIMEOUT = 3.0  # seconds; shorter than some of what the cluster goes through, so that clients have to resume
# Seconds. A registration cannot be resumed: one that was given up would leave a session that nobody uses.
REGISTRATION_TIMEOUT = 30.0


class DrillClients:
    """See the module. `rows` are those of each session, by its number.

    With a `rate`, row `n` is sent `n / rate` seconds after the beginning at the earliest.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        cluster: int,
        rows: Mapping[int, Sequence[Transfer]],
        rate: float,
        repeats: float,
        seed: int,
    ) -> None:
        self.done = 0
        self.failure = ""
        self._client = ClusterClient([address], cluster=cluster, policy=RetryPolicy(timeout_s=TIMEOUT))
        self._rows = rows
        self._rate = rate
        self._repeats = repeats
        self._seed = seed
        self._lock = threading.Lock()  # for counters, done and failure
        self._counters: Counter[str] = Counter()
        self._over = threading.Event()
        self._began = time.monotonic()
        self._threads: list[threading.Thread] = []

    def start(self, record: Callable[[int], Path]) -> None:
        """Begin, each session with a record of its own."""
        for number, rows in self._rows.items():
            arguments = (number, rows, EvidenceWriter(record(number)))
            self._threads.append(threading.Thread(target=self._work, args=arguments, daemon=True))
        for thread in self._threads:
            thread.start()

    def counts(self) -> dict[str, int]:
        """What was counted until now."""
        with self._lock:
            counted = dict(self._counters)
        library = self._client.counters
        return {**counted, "retries": library["retries"], "answers_malformed": library["answers_malformed"]}

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

    def _work(self, number: int, rows: Sequence[Transfer], record: EvidenceWriter) -> None:
        chance = random.Random(f"{self._seed}/client/{number}")
        try:
            session = self._client.session(timeout=REGISTRATION_TIMEOUT)
            record.write(SessionOf(session.client_id))
            for transfer in rows:
                is_answered = self._transfer(session, transfer, record)
                if is_answered and chance.random() < self._repeats:
                    self._ask(session, session.repeat, record, "REPEATED", 0)
                    self._count("repeats")
        except (ClusterError, OSError) as error:
            if not self._over.is_set():
                with self._lock:
                    self.failure = self.failure or f"session {number}: {type(error).__name__}: {error}"
        finally:
            record.close()

    def _transfer(self, session: Session, transfer: Transfer, record: EvidenceWriter) -> bool:
        """Send a transfer. False if its reply is lost. Raises a `ClusterError`."""
        if self._rate:
            self._over.wait(max(0.0, self._began + transfer.row / self._rate - time.monotonic()))
        body, answer = transfer.encode(), None
        try:
            answer = self._ask(
                session, lambda: session.request(OPERATION_TRANSFER, body), record, "FIRST", transfer.row
            )
            self._count(f"results_{Outcome(Result.decode(answer.body).outcome).name.lower()}")
        except AnswerLost:
            self._count("replies_lost_everywhere")
            lost = AnswerSeen(session.client_id, session.request_number, transfer.row, "LOST", 0, 0.0, b"")
            record.write(lost)
        with self._lock:
            self.done += 1
        return answer is not None

    def _ask(self, session: Session, ask: Callable[[], Answer], record: EvidenceWriter, kind: str, row: int) -> Answer:
        """Ask until there is an answer, and record it. Raises a `ClusterError`."""
        began = time.monotonic()
        while True:
            try:
                answer = ask()
            except (RequestTimeout, ClusterUnavailable):
                if self._over.is_set():
                    raise
                self._count("timeouts")
                ask = session.resume
            else:
                break
        data, latency = answer.header.pack() + answer.body, time.monotonic() - began
        seen = AnswerSeen(session.client_id, answer.header.request, row, kind, answer.attempts, latency, data)
        record.write(seen)
        record.flush()
        return answer

    def _count(self, kind: str) -> None:
        with self._lock:
            self._counters[kind] += 1
