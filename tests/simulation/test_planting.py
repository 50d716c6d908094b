"""A planted bug is there as long as it should be, and a list that fell behind the code is noticed."""

from __future__ import annotations

import sys

import pytest

from tests.simulation.planting import Planted, edited


class Shipped:
    """Stands for what is shipped."""

    @property
    def size(self) -> int:
        """A property."""
        return 2

    @staticmethod
    def half(number: int) -> int:
        """A function of the class."""
        return number // 2

    def rest(self, number: int) -> int:
        """A method."""
        return number - self.half(number)


HANDLERS = {"rest": Shipped.rest}


def test_a_replaced_attribute_is_back_after_the_block() -> None:
    """Also a property and a static method, and when the block fails."""

    def fails() -> None:
        with bug.applied():
            assert (Shipped().size, Shipped().half(4), Shipped().rest(10)) == (9, 9, 1)
            raise ZeroDivisionError

    attributes = dict(vars(Shipped))
    bug = Planted("size", "all is 9", Shipped, "size", 9, also=((Shipped, "half", staticmethod(lambda _: 9)),))
    with pytest.raises(ZeroDivisionError):
        fails()
    assert dict(vars(Shipped)) == attributes


def test_a_changed_text_is_met_by_whoever_refers_to_the_function() -> None:
    """A table of handlers, say."""
    bug = edited("rest", "the rest is more", (Shipped, "rest", "number - ", "number + "))
    with bug.applied():
        assert HANDLERS["rest"](Shipped(), 4) == Shipped().rest(4) == 6
    assert HANDLERS["rest"](Shipped(), 4) == Shipped().rest(4) == 2


def test_a_bug_in_what_does_not_exist_is_refused_by_name() -> None:
    """When it is listed, not when it is looked for."""
    with pytest.raises(LookupError, match=r"found no 'gone' in <class .*Shipped"):
        Planted("size", "what is gone is wrong", Shipped, "gone", 1)
    with pytest.raises(AttributeError, match="gone"):
        edited("size", "what is gone is wrong", (sys.modules[__name__], "gone", "a", "b"))
    with pytest.raises(LookupError, match=r"Shipped\.rest: found 3 times 'number', expected it once"):
        edited("rest", "which one", (Shipped, "rest", "number", "0"))
