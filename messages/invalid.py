"""The base of all errors that say what was found and what was expected."""

from __future__ import annotations


class Invalid(ValueError):
    """Something breaks a rule: `found` and `expected` say how, in words. Survives pickling."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.found = found
        self.expected = expected

    def __str__(self) -> str:
        return f"{type(self).__name__}: found {self.found}, expected {self.expected}"
