"""The control socket of a cluster that is up: what may be asked there, and how little it costs to ask it wrongly.

    one line of JSON in, one line of JSON out, and the connection is over

Guarantees: nothing here blocks or raises for what an asker does. Connections, the bytes of a question and the time for
it are bounded; the oldest connection makes room. Whatever is wrong with a question gets one line that says what was
found and expected. A question that comes out of here is typed and within its limits: nobody looks at it again.

Limits: only this user can ask (the socket's mode). An answer that the asker does not take at once is lost.

Owns: the listening socket and the connections.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from client_replies.cluster.host.cluster_directory import SOCKET, ClusterUnusable, short_path

from .config import CLIENTS_MAX
from .typed import NUMBER_MAX

CONNECTIONS_MAX = 16
QUESTION_SIZE_MAX = 16 * 1024
QUESTION_TIMEOUT_S = 2.0
WORDS_MAX = 64  # in a list, such as that of the replicas
SHOWN_MAX = 120  # characters of a question, and of what is wrong with it, that an answer shows

Word: TypeAlias = Annotated[str, Meta(max_length=64, pattern=r"\A[!-~]+\Z")]
Words: TypeAlias = Annotated[tuple[Word, ...], Meta(min_length=1, max_length=WORDS_MAX)]
# The number that `client` prints, which is not 0.
ClientNumber: TypeAlias = Annotated[str, Meta(max_length=32, pattern=r"\A0*[1-9a-fA-F][0-9a-fA-F]*\Z")]


class _Question(msgspec.Struct, frozen=True, tag_field="ask"):
    """What is asked has a class each; `ask` has its name."""


class AskStatus(_Question, frozen=True, tag="status"):
    """How is the cluster?"""


class DropReplies(_Question, frozen=True, tag="drop-replies"):
    """Lose the next replies."""

    count: Annotated[int, Meta(ge=0, le=NUMBER_MAX)]


class Block(_Question, frozen=True, tag="block"):
    """Let no reply reach a client."""

    client: ClientNumber


class CorruptSlot(_Question, frozen=True, tag="corrupt-slot"):
    """Overwrite a slot on the disks of replicas: one by its number, or the one of a client."""

    replicas: Words
    slot: Annotated[int, Meta(ge=0, lt=CLIENTS_MAX)] | None = None
    client: ClientNumber | None = None

    def __post_init__(self) -> None:
        if (self.slot is None) == (self.client is None):
            raise ValueError("Expected either slot or client")


class Kill(_Question, frozen=True, tag="kill"):
    """Kill a process."""

    who: Word


class LoseDisk(_Question, frozen=True, tag="lose-disk"):
    """Kill a replica, and remove its directory."""

    replica: Word


class Partition(_Question, frozen=True, tag="partition"):
    """Cut replicas off."""

    replicas: Words


class Heal(_Question, frozen=True, tag="heal"):
    """End partitions and blocks, and lose no more replies."""


Hurt: TypeAlias = DropReplies | Block | CorruptSlot | Kill | LoseDisk | Partition | Heal
Question: TypeAlias = AskStatus | Hurt


def parse_question(line: bytes) -> Question:
    """The question in a line. Raises `ClusterUnusable`, which says what is wrong with it."""
    try:
        found = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ClusterUnusable(f"found {ascii(line)[:SHOWN_MAX]}, expected JSON: {error}") from error
    try:
        question: Question = msgspec.convert(found, Question)
        return question
    except msgspec.ValidationError as error:
        why, _, where = str(error)[:SHOWN_MAX].partition(" - at `$.")
        field = where.rstrip("`").partition("[")[0]
        what = f"{field}: found {ascii(found[field])[:SHOWN_MAX]}" if field else f"found {ascii(found)[:SHOWN_MAX]}"
        raise ClusterUnusable(f"{what}, {why[0].lower()}{why[1:]}") from error


@dataclass(slots=True, eq=False)
class _Asker:
    socket: socket.socket
    until: float
    line: bytearray = field(default_factory=bytearray)

    def answer(self, data: Mapping[str, object]) -> None:
        """Answer as far as the asker listens, and hang up."""
        with contextlib.suppress(OSError):
            self.socket.send(msgspec.json.encode(data) + b"\n")
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


class ControlSocket:
    """See the module. It is looked at periodically, and never waited for."""

    def __init__(self, directory: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._askers: list[_Asker] = []  # the oldest first
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        (directory / SOCKET).unlink(missing_ok=True)
        with short_path(directory) as path:
            self._listener.bind(path)
        (directory / SOCKET).chmod(0o600)
        self._listener.listen(CONNECTIONS_MAX)
        self._listener.setblocking(False)

    def poll(self, handle: Callable[[Question], Mapping[str, object]]) -> None:
        """Take what has come, a bounded part of it, and answer at most one question."""
        self._accept()
        for asker in list(self._askers):
            line = self._line_of(asker)
            if line is None:
                continue
            self._askers.remove(asker)
            try:
                question = parse_question(line)
            except ClusterUnusable as error:
                asker.answer({"error": str(error)})
                continue
            asker.answer(handle(question))
            return

    def _accept(self) -> None:
        for _ in range(CONNECTIONS_MAX):
            try:
                accepted, _address = self._listener.accept()
            except OSError:
                return  # nobody waits, or there is no descriptor now
            accepted.setblocking(False)
            if len(self._askers) >= CONNECTIONS_MAX:
                self._askers.pop(0).answer({"error": f"found more than {CONNECTIONS_MAX} connections, expected fewer"})
            self._askers.append(_Asker(accepted, self._now() + QUESTION_TIMEOUT_S))

    def _line_of(self, asker: _Asker) -> bytes | None:
        """The whole line, once it is there. An asker that is too slow, or says too much, is told so."""
        try:
            data = asker.socket.recv(QUESTION_SIZE_MAX)
        except BlockingIOError:
            if self._now() > asker.until:
                self._refuse(asker, f"no whole line within {QUESTION_TIMEOUT_S:.0f} s, expected one")
            return None
        except OSError:
            data = b""
        if not data:
            self._refuse(asker, "the end of the connection, expected a whole line before it")
            return None
        asker.line += data
        line, mark, _rest = asker.line.partition(b"\n")
        if len(line) > QUESTION_SIZE_MAX:
            self._refuse(asker, f"a line of more than {QUESTION_SIZE_MAX} bytes, expected a shorter one")
        elif mark:
            return bytes(line)
        elif self._now() > asker.until:
            self._refuse(asker, f"no whole line within {QUESTION_TIMEOUT_S:.0f} s, expected one")
        return None

    def _refuse(self, asker: _Asker, found: str) -> None:
        self._askers.remove(asker)
        with contextlib.suppress(OSError):
            # What is not read would make the close a reset, which overtakes what we say.
            asker.socket.recv(QUESTION_SIZE_MAX)
        asker.answer({"error": f"found {found}"})

    def close(self) -> None:
        """Take no more questions."""
        for asker in self._askers:
            asker.close()
        self._askers.clear()
        self._listener.close()
