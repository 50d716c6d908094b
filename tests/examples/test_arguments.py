"""What the command line makes of its arguments, wherever the options stand among them."""

from __future__ import annotations

import itertools

import pytest

from examples.cluster.__main__ import parse

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
