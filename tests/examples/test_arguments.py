"""What the command line makes of its arguments, wherever the options stand among them."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from examples.cluster.__main__ import main, parse
from examples.cluster.cluster_directory import RUNNING_FILE, Shape
from examples.cluster.commands import HURT_EXAMPLES, Misused, requests_of
from examples.cluster.completion import WAYS_TO_HURT

TRANSFER = ["transfer", "equity", "ada", "-5"]


def all_orders(words: list[str], *options: list[str]) -> list[list[str]]:
    """The words in their order, with the options at any places among them."""
    found = []
    for places in itertools.product(range(len(words) + 1), repeat=len(options)):
        line = list(words)
        for place, option in sorted(zip(places, options, strict=True), reverse=True):
            line[place:place] = option
        found.append(line)
    return found


def test_options_may_stand_anywhere_among_the_words_of_a_request() -> None:
    """Also between the directory and the request, and between its words; a negative amount is a word."""
    for line in all_orders(["/tmp/ledger", *TRANSFER], ["--timeout", "2"], ["--json"]):
        parsed = parse(["client", *line])
        assert (str(parsed.place), parsed.words) == ("/tmp/ledger", TRANSFER), line
        assert (parsed.timeout, parsed.json) == (2.0, True), line


def test_options_may_stand_anywhere_among_the_words_of_a_hurt() -> None:
    """As with `client`."""
    for line in all_orders(["/tmp/ledger", "partition", "0", "1"], ["--json"]):
        parsed = parse(["hurt", *line])
        assert (str(parsed.place), parsed.action, parsed.words) == ("/tmp/ledger", "partition", ["0", "1"]), line
        assert parsed.json is True, line


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("client /tmp/ledger transfer equity ada 5 --tiemout 2", "unrecognized arguments: --tiemout 2"),
        ("client /tmp/ledger --tiemout 2 transfer equity ada 5", "unrecognized arguments: --tiemout"),
        ("client /tmp/ledger --timeout soon balance ada", "found 'soon', expected seconds, such as 5"),
        ("status /tmp/ledger now", "unrecognized arguments: now"),
        ("run /tmp/ledger", "unrecognized arguments: /tmp/ledger"),
        ("hurt /tmp/ledger", "the following arguments are required: HOW"),
    ],
)
def test_what_is_no_word_of_a_request_is_refused(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With exit status 2, by name."""
    with pytest.raises(SystemExit) as ended:
        parse(line.split())
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line with which the words are refused, with exit status 2."""
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line


@pytest.mark.parametrize("way", [*HURT_EXAMPLES, "frighten"])
def test_what_is_no_way_to_hurt_is_answered_with_an_example(way: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without asking any cluster."""
    line = refused(capsys, "hurt", "/nowhere", way, "a", "b\N{SUPERSCRIPT TWO}", "-1")
    if way == "partition":  # any words may be replicas: the cluster says which are not
        assert "there is no cluster" in line
    elif way == "frighten":
        assert line.startswith("hurt: found 'frighten', expected one of drop-replies, block, ")
    else:
        assert line.startswith(f"hurt: found '{way} a b")
        assert line.endswith(f"expected something like {HURT_EXAMPLES[way]!r}")


def test_every_way_to_hurt_has_an_example() -> None:
    """The same ones as are completed."""
    assert list(HURT_EXAMPLES) == list(WAYS_TO_HURT)
    assert all(example.split()[0] == way for way, example in HURT_EXAMPLES.items())


@pytest.mark.parametrize("client", ["me", "-5", "0", "1" + "0" * 32])
def test_a_client_that_cannot_be_is_refused(client: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its number has 128 bits, and is not zero."""
    expected = "expected the number that client prints, such as 2fed73215061f23fab4dcd681797d763"
    assert refused(capsys, "hurt", "/nowhere", "block", client) == f"client: found {client!r}, {expected}"


@pytest.mark.parametrize("amount", ["-1", "1.5", "\N{SUPERSCRIPT TWO}", "1" * 5000, str(2**64)])
def test_an_amount_that_cannot_be_sent_is_refused(amount: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that can be sent and are too large are refused by the ledger."""
    line = refused(capsys, "client", "/nowhere", "transfer", "equity", "ada", amount)
    assert line.startswith(f"amount: found {amount!r}, expected a whole number")
    assert line.endswith("such as 100")


def test_a_csv_with_a_bad_row_is_refused_before_anything_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By file, line, what was found and what was expected."""
    file = tmp_path / "rows.csv"
    file.write_text("from,to,amount\nequity,ada,5\nequity,ada,five\n")
    line = refused(capsys, "client", "/nowhere", "file", str(file))
    assert line.startswith(f"{file}, line 3: found amount 'five', expected a whole number from 1 to")


@pytest.mark.parametrize("command", [("status",), ("client", "balance", "ada"), ("hurt", "heal")])
def test_a_directory_without_a_cluster_that_is_up_is_refused_at_once(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """None is there, something else is there, it is not up, or it was killed and could not say so."""
    verb, *words = command
    place = tmp_path / "ledger"
    assert "there is no cluster. Start one: start " in refused(capsys, verb, str(place), *words)
    place.mkdir()
    assert "there is no cluster. Start one: start " in refused(capsys, verb, str(place), *words)
    Shape(cluster=5, replicas=3, formed=frozenset()).write(place)
    assert "the cluster is not up. Start it: start " in refused(capsys, verb, str(place), *words)
    with subprocess.Popen(["true"]) as gone:
        pass
    (place / RUNNING_FILE).write_text(f'{{"pid": {gone.pid}, "gateway": ["127.0.0.1", 1], "cluster": "5"}}')
    assert "the cluster is not up. Start it: start " in refused(capsys, verb, str(place), *words)
    file = tmp_path / "file"
    file.touch()
    assert f"{file}: found Not a directory, expected one of our own" in refused(capsys, verb, str(file), *words)


def test_a_line_that_is_no_request_is_named() -> None:
    """By its number, since those before it may have been sent."""
    lines = requests_of(StringIO("balance ada\n\nbalance\n"))
    assert [name for name, _, _ in next(lines)] == ["balance ada"]
    with pytest.raises(Misused, match="line 3: found 'balance', expected a request such as transfer equity ada 100"):
        next(lines)


def test_a_place_that_cannot_be_a_cluster_is_refused_by_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what was found there."""
    file = tmp_path / "file"
    file.touch()
    assert "found a file. Give a new or an empty directory" in refused(capsys, "start", str(file))
    deep = tmp_path / "no" / "where"
    assert f"found no {deep.parent}. Give a directory whose parent exists" in refused(capsys, "start", str(deep))
    assert "found Not a directory" in refused(capsys, "start", str(file / "in"))


def test_a_busy_port_is_said_before_anything_is_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And what to do instead."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refused(capsys, "start", str(tmp_path / "ledger"), "--port", port)
    assert line == (
        f"--port {port}: found Address already in use, expected a free port. "
        "Leave --port out, or give another, such as 4001"
    )


@pytest.fixture
def of_root() -> Iterator[Path]:
    """A directory of root's that others can see into, while we are somebody else."""
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        directory.chmod(0o755)
        Shape(cluster=5, replicas=3, formed=frozenset()).write(directory)
        (directory / RUNNING_FILE).write_text(f'{{"pid": {os.getpid()}, "gateway": ["127.0.0.1", 1], "cluster": "5"}}')
        with socket.socket(socket.AF_UNIX) as control:
            control.bind(str(directory / "control.sock"))
            (directory / "control.sock").chmod(0o600)
            os.seteuid(65_534)
            try:
                yield directory
            finally:
                os.seteuid(0)


@pytest.mark.parametrize("words", [("start",), ("status",), ("hurt", "heal")])
def test_a_cluster_of_another_user_is_said_to_be_that(
    words: tuple[str, ...], of_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not that it does not answer."""
    verb, *more = words
    line = refused(capsys, verb, str(of_root), *more)
    assert line == (
        f"{of_root}: found Permission denied in a directory of user 0, expected one of our own, such as /tmp/ledger"
    )
