"""What the command line makes of its arguments, wherever the options stand among them."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_replies.cluster.client import AnswerLost, ClusterError
from client_replies.cluster.host.cluster_directory import RUNNING_FILE, Shape

from examples.ledger.__main__ import main, parse
from examples.ledger.client_command import LINE_SIZE_MAX, lines_of, requests_in_line
from examples.ledger.commands import COMMANDS, HURT_EXAMPLES
from examples.ledger.completion import WAYS_TO_HURT
from examples.ledger.exit_status import MEANINGS, ExitStatus
from examples.ledger.failures import exit_status_of
from examples.ledger.ledger import Transfer
from examples.ledger.typed import Misused

ROOT = Path(__file__).resolve().parents[2]

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
        ("client /tmp/ledger --timeout soon balance ada", "found 'soon', expected seconds from 0.001 to 3600"),
        ("client /tmp/ledger --timeout nan balance ada", "found 'nan', expected seconds from 0.001 to 3600"),
        ("start /tmp/ledger --port \u0664", "found '\u0664', expected a whole number from 0 to 65535"),
        (
            f"start /tmp/ledger --port {'4' * 5000}",
            "found '444444444444444444444444444444444444444444444444444444444...'",
        ),
        ("client /tmp/ledger --timeout 1_0 balance ada", "found '1_0', expected seconds from 0.001 to 3600"),
        ("client /tmp/ledger --timeout \u0664 balance ada", "found '\u0664', expected seconds from 0.001 to 3600"),
        ("start /tmp/ledger --replicas 4", "found '4', expected 3 or 5"),
        (f"run --seed {'9' * 5000}", "expected a whole number from 0 to 9223372036854775808"),
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


def refused(capsys: pytest.CaptureFixture[str], *words: str, status: ExitStatus = ExitStatus.BAD_INPUT) -> str:
    """The one line with which the words are refused, with this exit status."""
    assert main(list(words)) == status
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


@pytest.mark.parametrize("client", ["me", "-5", "0", "1" + "0" * 32, "2_f", "0x2f", " 2f", "\u0664", ""])
def test_a_client_that_cannot_be_is_refused(client: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its number has 128 bits, and is not zero."""
    expected = "expected the number that client prints, such as 2fed73215061f23fab4dcd681797d763"
    assert refused(capsys, "hurt", "/nowhere", "block", client) == f"client: found {client!r}, {expected}"


@pytest.mark.parametrize("amount", ["-1", "1.5", "\N{SUPERSCRIPT TWO}", "1" * 5000, str(2**64)])
def test_an_amount_that_cannot_be_sent_is_refused(amount: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that can be sent and are too large are refused by the ledger."""
    line = refused(capsys, "client", "/nowhere", "transfer", "equity", "ada", amount)
    shown = repr(amount if len(amount) < 60 else f"{amount[:57]}...")
    assert line.startswith(f"amount: found {shown}, expected a whole number")
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
    down = "the cluster is not up. Start it: start "
    assert down in refused(capsys, verb, str(place), *words, status=ExitStatus.UNAVAILABLE)
    with subprocess.Popen(["true"]) as gone:
        pass
    (place / RUNNING_FILE).write_text(f'{{"pid": {gone.pid}, "gateway": ["127.0.0.1", 1], "cluster": "5"}}')
    assert down in refused(capsys, verb, str(place), *words, status=ExitStatus.UNAVAILABLE)
    file = tmp_path / "file"
    file.touch()
    assert f"{file}: found Not a directory, expected one of our own" in refused(capsys, verb, str(file), *words)


@pytest.mark.parametrize("command", [*COMMANDS, "run", "soak"])
def test_the_help_of_every_command_has_the_table_of_exit_statuses(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each status, with what it means."""
    assert main([command, "--help"]) == ExitStatus.DONE
    said = capsys.readouterr().out
    assert MEANINGS.keys() == set(ExitStatus)
    assert all(f"  {status.value:<4} {meaning}\n" in said for status, meaning in MEANINGS.items())


@pytest.mark.parametrize("directory", ["", "a\0b", "x" * 5000, "\udcff" * 300])
@pytest.mark.parametrize(
    "words",
    [
        ("start", "HERE"),
        ("status", "HERE"),
        ("client", "HERE", "balance", "ada"),
        ("client", "/nowhere", "file", "HERE"),
        ("hurt", "HERE", "heal"),
        ("run", "--transfers", "HERE"),
        ("run", "--directory", "HERE"),
        ("soak", "--directory", "HERE"),
    ],
)
def test_a_path_that_cannot_be_is_refused_in_one_line(
    words: tuple[str, ...], directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Empty, with a zero byte, too long, or none that the system can have."""
    line = refused(capsys, *(directory if word == "HERE" else word for word in words))
    assert "expected" in line or "there is no cluster" in line, line


def test_a_temporary_directory_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """None at all; and one that cannot be read."""

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "gettempdir", none)
        line = refused(capsys, "run")
    assert line == "--directory: found No usable temporary directory found in ['/tmp'], expected one to be given"
    file = tmp_path / "file"
    file.touch()
    for place in (file, file / "below"):
        assert f"--directory {place}: found no directory" in refused(capsys, "run", "--directory", str(place))


def test_a_fault_of_the_program_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With where it is, and an exit status of its own."""

    def fail(parsed: object) -> ExitStatus:
        raise KeyError("first\nsecond")

    monkeypatch.setitem(COMMANDS, "status", fail)
    line = refused(capsys, "status", "/nowhere", status=ExitStatus.FAILED)
    assert line.startswith(r"failed by a fault of the program: KeyError: 'first\nsecond' (test_arguments.py, line ")


def test_every_error_of_the_library_has_an_exit_status_of_its_kind() -> None:
    """Unavailable, executed with its reply lost, or a failure."""
    kinds = {kind.__name__: exit_status_of(kind.__new__(kind)) for kind in ClusterError.__subclasses__()}
    assert kinds["RequestTimeout"] is kinds["ClusterUnavailable"] is kinds["SessionEvicted"] is ExitStatus.UNAVAILABLE
    assert kinds["ProtocolError"] is kinds["SessionMisused"] is ExitStatus.FAILED
    assert exit_status_of(AnswerLost(1)) is ExitStatus.OUTPUT_LOST


# Lines of standard input.


@pytest.mark.parametrize(
    ("line", "source", "target"),
    [
        (b'transfer "ada lovelace" ben 5\n', "ada lovelace", "ben"),
        (b"transfer 'ada lovelace' \"o'neil\" 5\r\n", "ada lovelace", "o'neil"),
        (b"transfer ada\\ lovelace ben 5", "ada lovelace", "ben"),
        ("\ufeff transfer gr\u00f6\u00dfe #1 5".encode(), "gr\u00f6\u00dfe", "#1"),
    ],
)
def test_a_line_is_split_as_a_shell_does(line: bytes, source: str, target: str) -> None:
    """A name with blanks is one word; what is shown is what a shell would take."""
    (request,) = requests_in_line(line)
    assert Transfer.decode(request.body) == Transfer(0, source, target, 5)
    (again,) = requests_in_line(request.text.encode())
    assert again == request


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"balance", "found 'balance', expected a request such as transfer equity ada 100"),
        (b'balance "ada', "found an open quote or a backslash at the end (No closing quotation), expected words"),
        (b"balance o'neil", "found an open quote"),
        (b"balance ada\\", "found an open quote or a backslash at the end (No escaped character)"),
        (b"balance ' '", "account: found ' ', expected an account's name"),
        (b"balance a\0b", r"account: found 'a\x00b', expected an account's name"),
        (b"balance \xff", "found byte 0xff, expected UTF-8 text"),
        (b"file ''", "found a directory, pipe or device, expected a regular file"),
        (b"file a\0b", "found embedded null byte, expected a readable CSV file"),
        (b"balance " + b"a" * LINE_SIZE_MAX, f"found more than {LINE_SIZE_MAX} bytes"),
    ],
)
def test_a_line_that_is_no_request_is_refused(line: bytes, said: str) -> None:
    """With what was found and what was expected."""
    with pytest.raises(ValueError, match="expected") as caught:
        requests_in_line(line)
    assert said in str(caught.value)
    assert exit_status_of(caught.value) is ExitStatus.BAD_INPUT


def test_a_line_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    """What follows in it is not taken for a request."""
    file = tmp_path / "lines"
    file.write_bytes(b"x" * (3 * LINE_SIZE_MAX) + b" transfer equity ada 5\n\nbalance ada")
    with file.open(encoding="ascii") as typed:
        first, *rest = lines_of(typed)
    assert rest == [b"\n", b"balance ada"]
    with pytest.raises(Misused):
        requests_in_line(first)
    assert requests_in_line(rest[0]) == ()


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


def test_help_imports_no_messages_and_no_library() -> None:
    """It is what a newcomer waits for first."""
    heavy = "{'client_replies.messages', 'client_replies.cluster.client', 'thespian', 'rich', 'msgspec', 'psutil'}"
    code = f"import sys; from examples.ledger.__main__ import main; main(['--help']); print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60.0)
    assert "exit status:" in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"
