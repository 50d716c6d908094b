"""What somebody typed, in errors. Imports nothing: `--help` is quick."""

from __future__ import annotations

NUMBER_MAX = 999_999_999  # of what somebody types

TEXT_SHOWN_MAX = 60  # characters of what was found, in a message


class Misused(ValueError):
    """Words that are no request; the text gives an example."""


def quoted(text: str) -> str:
    """What was found, for a message: in quotes, what cannot be printed escaped, and no longer than a line."""
    return repr(text if len(text) <= TEXT_SHOWN_MAX else f"{text[: TEXT_SHOWN_MAX - 3]}...")


def whole_number(text: str, largest: int = NUMBER_MAX) -> int | None:
    """The number that somebody typed, or None for anything else: other scripts' digits, more digits than fit."""
    if not text.isascii() or not text.isdigit() or len(text) > len(str(largest)):
        return None
    number = int(text)
    return number if number <= largest else None
