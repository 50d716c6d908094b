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
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client_replies.messages.message import U128_MAX, shown

from .cluster_directory import NUMBER_MAX, SOCKET, ClusterUnusable, short_path
from .config import CLIENTS_MAX

CONNECTIONS_MAX = 16
QUESTION_SIZE_MAX = 16 * 1024
QUESTION_TIMEOUT_S = 2.0
WORDS_MAX = 64  # in a list, such as that of the replicas
WORD_SIZE_MAX = 64  # characters


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: `status`, or an action with what it needs. A field that the action does not need is not set."""

    action: str
    count: int = 0
    client: int = 0
    slot: int | None = None
    who: str = ""
    replicas: tuple[str, ...] = ()


def parse_question(line: bytes) -> Question:
    """The question in a line. Raises `ClusterUnusable`, which says what is wrong with it."""
    try:
        found = json.loads(line.decode("utf-8"))
    except RecursionError:
        raise ClusterUnusable("found JSON that is nested too deeply, expected one flat object") from None
    except ValueError as error:
        raise ClusterUnusable(f"found no JSON ({str(error)[:80]}), expected one object") from None
    if not isinstance(found, dict):
        raise ClusterUnusable(f"found {_shown(found)}, expected one JSON object")
    if found.get("ask") == "status":
        return Question("status")
    if found.get("ask") != "hurt":
        raise ClusterUnusable(f'ask: found {_shown(found.get("ask"))}, expected "status" or "hurt"')
    action = found.get("action")
    take = _ACTIONS.get(action) if isinstance(action, str) else None
    if take is None:
        raise ClusterUnusable(f"action: found {_shown(action)}, expected one of {', '.join(_ACTIONS)}")
    return Question(str(action), **take(found))


def _count(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"count": _number(found, "count", NUMBER_MAX)}


def _block(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"client": _client(found)}


def _slot(found: Mapping[str, Any]) -> dict[str, Any]:
    if "slot" in found:
        return {"replicas": _replicas(found), "slot": _number(found, "slot", CLIENTS_MAX - 1)}
    return {"replicas": _replicas(found), "client": _client(found)}


def _number(found: Mapping[str, Any], name: str, largest: int) -> int:
    value = found.get(name)
    if type(value) is not int or not 0 <= value <= largest:
        raise ClusterUnusable(f"{name}: found {_shown(value)}, expected a whole number from 0 to {largest}")
    return value


def _client(found: Mapping[str, Any]) -> int:
    value = found.get("client")
    if isinstance(value, str) and value.isascii() and value.isalnum() and len(value) <= 32:
        with contextlib.suppress(ValueError):
            number = int(value, 16)
            if 0 < number <= U128_MAX:
                return number
    raise ClusterUnusable(f"client: found {_shown(value)}, expected the hexadecimal number that client prints")


def _word(value: object, name: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= WORD_SIZE_MAX or not value.isprintable():
        raise ClusterUnusable(f"{name}: found {_shown(value)}, expected a word, such as primary")
    return value


def _replicas(found: Mapping[str, Any]) -> tuple[str, ...]:
    words = found.get("replicas")
    if not isinstance(words, list) or not 0 < len(words) <= WORDS_MAX:
        raise ClusterUnusable(f"replicas: found {_shown(words)}, expected a list of 1 to {WORDS_MAX} words")
    return tuple(_word(word, "replicas") for word in words)


def _shown(value: object) -> str:
    if isinstance(value, str):
        return ascii(value if len(value) <= WORD_SIZE_MAX else f"{value[:WORD_SIZE_MAX]}...")
    return "nothing" if value is None else shown(value)


_ACTIONS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "drop-replies": _count,
    "block": _block,
    "corrupt-slot": _slot,
    "kill": lambda found: {"who": _word(found.get("who"), "who")},
    "lose-disk": lambda found: {"who": _word(found.get("replica"), "replica")},
    "partition": lambda found: {"replicas": _replicas(found)},
    "heal": lambda found: {},
}


@dataclass(slots=True, eq=False)
class _Asker:
    socket: socket.socket
    until: float
    line: bytearray = field(default_factory=bytearray)

    def answer(self, data: Mapping[str, object]) -> None:
        """Answer as far as the asker listens, and hang up."""
        with contextlib.suppress(OSError):
            self.socket.send(json.dumps(data).encode() + b"\n")
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
