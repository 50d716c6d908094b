"""The faults that can be planted in a run or a soak: the verdict must find them."""

from __future__ import annotations

import enum


class Plant(enum.Enum):
    """Faults that can be planted, to show that the verdict finds them."""

    EXECUTE_TWICE = "execute-twice"
    WRONG_REPLY = "wrong-reply"
