"""What is asked over the control socket, however wrongly, slowly and often: one line each, and nothing else happens."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from client_replies.cluster.host.cluster_directory import ClusterUnusable, short_path

from examples.ledger.control_socket import (
    CONNECTIONS_MAX,
    QUESTION_SIZE_MAX,
    QUESTION_TIMEOUT_S,
    AskStatus,
    Block,
    ControlSocket,
    CorruptSlot,
    DropReplies,
    Heal,
    Kill,
    LoseDisk,
    Partition,
    Question,
    parse_question,
)

HURT = '{"ask": '
WRONG: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "truncated"),
    "no JSON": (b"status", "malformed"),
    "invalid UTF-8": (b'{"ask": "\xff\xfe"}', "utf-8"),
    "a surrogate": (b'{"ask": "\\ud800"}', "ask"),
    "a list": (b"[]", "array"),
    "null": (b"null", "null"),
    "a number": (b"1e999", "1e999"),
    "nested deeply": (b"[" * 16_000, "recursion"),
    "nested deeply in a field": (b'{"ask": ' + b"[" * 16_000, "recursion"),
    "an integer of 10,000 digits": (b"9" * 10_000, "999"),
    "another question": (b'{"ask": "why"}', "'why'"),
    "no question": (b"{}", "ask"),
    "a list for a question": (b'{"ask": ["status"]}', "list"),
    "another action": (f'{HURT}"tickle"}}'.encode(), "tickle"),
    "count null": (f'{HURT}"drop-replies", "count": null}}'.encode(), "count"),
    "count true": (f'{HURT}"drop-replies", "count": true}}'.encode(), "True"),
    "count infinite": (f'{HURT}"drop-replies", "count": 1e999}}'.encode(), "1e999"),
    "count no number": (f'{HURT}"drop-replies", "count": NaN}}'.encode(), "NaN"),
    "count negative": (f'{HURT}"drop-replies", "count": -1}}'.encode(), "-1"),
    "count huge": (f'{HURT}"drop-replies", "count": {10**30}}}'.encode(), "count"),
    "count missing": (f'{HURT}"drop-replies"}}'.encode(), "count"),
    "client null": (f'{HURT}"block", "client": null}}'.encode(), "client"),
    "client 0": (f'{HURT}"block", "client": "0"}}'.encode(), "client"),
    "client too long": (f'{HURT}"block", "client": "{"f" * 33}"}}'.encode(), "client"),
    "client in other digits": (f'{HURT}"block", "client": "\u0661\u0662"}}'.encode(), "client"),
    "slot null": (f'{HURT}"corrupt-slot", "replicas": ["0"], "slot": null}}'.encode(), "slot"),
    "slot out of range": (f'{HURT}"corrupt-slot", "replicas": ["0"], "slot": 64}}'.encode(), "slot"),
    "neither slot nor client": (f'{HURT}"corrupt-slot", "replicas": ["0"]}}'.encode(), "either slot or client"),
    "replicas null": (f'{HURT}"partition", "replicas": null}}'.encode(), "replicas"),
    "replicas empty": (f'{HURT}"partition", "replicas": []}}'.encode(), "replicas"),
    "replicas nested": (f'{HURT}"partition", "replicas": [["0"]]}}'.encode(), "replicas"),
    "too many replicas": (f'{HURT}"partition", "replicas": {json.dumps(["0"] * 65)}}}'.encode(), "replicas"),
    "who null": (f'{HURT}"kill", "who": null}}'.encode(), "who"),
    "who with a bell": (f'{HURT}"kill", "who": "\\u0007"}}'.encode(), "who"),
    "replica missing": (f'{HURT}"lose-disk"}}'.encode(), "replica"),
}
RIGHT: dict[bytes, Question] = {
    b'{"ask": "status"}': AskStatus(),
    f'{HURT}"drop-replies", "count": 3}}'.encode(): DropReplies(3),
    f'{HURT}"block", "client": "ff"}}'.encode(): Block("ff"),
    f'{HURT}"corrupt-slot", "replicas": ["0"], "slot": 0}}'.encode(): CorruptSlot(("0",), slot=0),
    f'{HURT}"corrupt-slot", "replicas": ["0"], "client": "a"}}'.encode(): CorruptSlot(("0",), client="a"),
    f'{HURT}"kill", "who": "primary"}}'.encode(): Kill("primary"),
    f'{HURT}"lose-disk", "replica": "2"}}'.encode(): LoseDisk("2"),
    f'{HURT}"partition", "replicas": ["0", "1"]}}'.encode(): Partition(("0", "1")),
    f'{HURT}"heal"}}'.encode(): Heal(),
}


class Door:
    """A control socket on a clock of the test's, and what was asked there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.time = 0.0
        self.asked: list[Question] = []
        self.control = ControlSocket(directory, lambda: self.time)

    def handle(self, question: Question) -> Mapping[str, object]:
        """Note the question."""
        self.asked.append(question)
        return {"done": type(question).__name__}

    def turn(self, times: int = 1) -> None:
        """Let the socket look."""
        for _ in range(times):
            self.control.poll(self.handle)

    def connect(self) -> socket.socket:
        """Come to the socket."""
        asker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        asker.settimeout(10.0)
        with short_path(self.directory) as path:
            asker.connect(path)
        return asker

    def ask(self, data: bytes) -> dict[str, Any]:
        """Say it all at once, and give the answer."""
        with self.connect() as asker:
            asker.sendall(data)
            self.turn(2)
            return said_to(asker)


def said_to(asker: socket.socket) -> dict[str, Any]:
    """Give the one line that an asker was told; then the connection is over."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := asker.recv(65_536):
            data += part
    assert data.count(b"\n") == 1
    assert data.endswith(b"\n")
    found: dict[str, Any] = json.loads(data)
    return found


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    """Give a control socket."""
    door = Door(tmp_path)
    yield door
    door.control.close()


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_question_gets_one_line_that_says_what_was_wrong(door: Door, name: str) -> None:
    """Nothing is raised, nothing is done, and the next question is answered."""
    line, expected = WRONG[name]
    answer = door.ask(line + b"\n")
    assert set(answer) == {"error"}
    assert expected in answer["error"]
    assert len(answer["error"]) < 300
    assert "\n" not in answer["error"]
    assert door.asked == []
    assert door.ask(b'{"ask": "status"}\n') == {"done": "AskStatus"}


def test_every_right_question_comes_out_as_what_was_asked(door: Door) -> None:
    """With nothing left to look at again."""
    for line, question in RIGHT.items():
        assert door.ask(line + b"\n") == {"done": type(question).__name__}
    assert door.asked == list(RIGHT.values())


def test_a_line_without_an_end_is_ended(door: Door) -> None:
    """By its length at once, by the clock when it comes a byte at a time, by its asker when that hangs up."""
    assert "bytes" in door.ask(b"x" * (QUESTION_SIZE_MAX + 1))["error"]
    with door.connect() as slow, door.connect() as silent:
        for second in range(int(QUESTION_TIMEOUT_S) + 1):
            door.time = float(second)
            slow.sendall(b"{")
            door.turn()
            assert door.ask(b'{"ask": "status"}\n') == {"done": "AskStatus"}, "a slow asker delays nobody"
        door.time = QUESTION_TIMEOUT_S + 0.1
        door.turn()
        assert ["within 2 s" in said_to(asker)["error"] for asker in (slow, silent)] == [True, True]
    with door.connect() as leaving:
        leaving.sendall(b'{"ask": "st')
        leaving.shutdown(socket.SHUT_WR)
        door.turn(2)
        assert "end of the connection" in said_to(leaving)["error"]
    with door.connect() as gone:
        gone.sendall(b'{"ask": "status"}\n')
    door.turn()
    assert door.ask(b'{"ask": "status"}\n') == {"done": "AskStatus"}


def test_many_connections_make_room_for_one_another(door: Door) -> None:
    """The oldest is told so; who asks then is answered."""
    with contextlib.ExitStack() as stack:
        askers = []
        for _ in range(3 * CONNECTIONS_MAX):
            askers.append(stack.enter_context(door.connect()))
            door.turn()
        assert "connections" in said_to(askers[0])["error"]
        assert door.ask(b'{"ask": "status"}\n') == {"done": "AskStatus"}
        assert len(door.control._askers) < CONNECTIONS_MAX + 1


def outcome_of(line: bytes) -> Question | str:
    """Give the question, or what is wrong with it; nothing else is raised."""
    try:
        return parse_question(line)
    except ClusterUnusable as error:
        return str(error)


def test_random_bytes_and_broken_questions_do_nothing_and_raise_nothing() -> None:
    """Two thousand lines: rubbish, and right questions with bytes changed. Each is refused or is a whole question."""
    chance = random.Random(1)
    pieces = [*(line for line, _ in WRONG.values() if len(line) < 200), *RIGHT]
    refused = 0
    for _ in range(2000):
        line = bytearray(chance.choice(pieces) if chance.random() < 0.9 else chance.randbytes(chance.randrange(80)))
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(line) + 1)
            line[at : at + chance.randrange(3)] = chance.choice((b"", b"null", b"[", b"}", b"1e999", b'"', b"\xff"))
        outcome = outcome_of(bytes(line).replace(b"\n", b" "))
        if isinstance(outcome, str):
            refused += 1
            assert 0 < len(outcome) < 300
        else:
            assert parse_question(msgspec.json.encode(outcome)) == outcome
    assert 500 < refused < 2000
