"""What somebody typed, in errors. Imports nothing: `--help` is quick."""

from __future__ import annotations

TEXT_SHOWN_MAX = 60  # characters of what was found, in a message


class Misused(ValueError):
    """Words that are no request; the text gives an example."""


def quoted(text: str) -> str:
    """What was found, for a message: in quotes, what cannot be printed escaped, and no longer than a line."""
    return repr(text if len(text) <= TEXT_SHOWN_MAX else f"{text[: TEXT_SHOWN_MAX - 3]}...")
