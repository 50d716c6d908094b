"""What a failed run raises.

Not an `Exception`: no handler and no actor may take it for something that it can deal with.
"""

from __future__ import annotations


class Broken(BaseException):
    """An invariant does not hold. `invariant` names it, `text` says where."""

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(invariant, text)
        self.invariant = invariant
        self.text = text

    def __str__(self) -> str:
        return f"{self.invariant}: {self.text}"
