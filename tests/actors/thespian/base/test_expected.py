"""What of Thespian the base stands on: it is checked, and left as it is."""

import sys
import types
from typing import Any

import pytest
from thespian.system import actorManager

from client_replies.actors.thespian.base.expected import TABLE, Expected, check_thespian, with_names
from client_replies.actors.thespian.system import ThespianNotAsExpected, running_system, start_system

from .actors import Echo


@pytest.mark.parametrize("place", TABLE, ids=[place.function for place in TABLE])
def test_the_installed_thespian_is_what_the_table_says(place: Expected) -> None:
    """Each function has the source for which the base was written."""
    place.check()


def test_a_thespian_that_differs_is_refused_with_the_place_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so does a system not start on it."""

    def handleMessages(self: object, envelope: object) -> bool:
        return True

    monkeypatch.setattr(actorManager.ActorManager, "handleMessages", handleMessages)
    check_thespian.cache_clear()
    with pytest.raises(ThespianNotAsExpected, match=r"actorManager.ActorManager.handleMessages .* install thespian"):
        start_system()
    check_thespian.cache_clear()


def names_of_thespian() -> dict[str, Any]:
    """Every name in Thespian's modules, and in their classes."""
    found: dict[str, Any] = {}
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("thespian") and isinstance(module, types.ModuleType):
            if not getattr(module, "__name__", "").startswith("thespian"):
                continue  # a base of ours, under the name at which ActorSystem looks for it
            for name, value in vars(module).items():
                found[f"{module_name}.{name}"] = value
                if isinstance(value, type):
                    found.update({f"{module_name}.{name}.{inner}": each for inner, each in vars(value).items()})
    return found


@pytest.mark.parametrize("base", ["multiprocUnixBase", "multiprocTCPBase"])
def test_no_name_of_thespian_is_replaced_by_running_a_system(base: str) -> None:
    """Not in a module, and not in a class: other systems of the process see Thespian as it is."""
    with running_system(base) as system:
        assert system.ask(system.createActor(Echo), "first", 20) == "first"
    before = names_of_thespian()
    with running_system(base) as system:
        assert system.ask(system.createActor(Echo), "again", 20) == "again"
    after = names_of_thespian()
    changed = {name for name in before if before[name] is not after.get(name)}
    own = {name for name, value in after.items() if str(getattr(value, "__module__", "")).startswith("client_replies")}
    assert {name for name in changed if "thesplog" not in name} == set()
    assert own == set()


def test_a_function_sees_other_names_and_its_module_does_not() -> None:
    """That is how a name is another in a process of ours alone."""
    other = with_names(names_of_thespian, sys=types.SimpleNamespace(modules={}))
    assert other() == {}
    assert names_of_thespian() != {}
