"""What `make mutants` changes, and that what it lists exists."""

from __future__ import annotations

import ast

from tools.mutants import EQUIVALENT, ROOT, TESTS, mutants

SOURCE = '''"""A module."""

LIMIT = 4 * 1024


def f(a: int = 1) -> bool:
    """A function."""
    if a < 2 and a:
        log.info("seen", a=3)
        a += 5
    return not a
'''


def changed() -> dict[str, str]:
    """Give what each mutant makes of the source, by what is printed of it."""
    made = {}
    for number, mutant in enumerate(mutants(ast.parse(SOURCE))):
        tree = ast.parse(SOURCE)
        mutants(tree)[number].make()
        made[f"{mutant.line}: {mutant.change}"] = ast.unparse(ast.fix_missing_locations(tree))
    return made


def test_each_place_that_tests_should_know_is_changed_alone() -> None:
    """Not limits, logs, annotations and docstrings."""
    unchanged = ast.unparse(ast.parse(SOURCE))
    assert unchanged not in changed().values()
    assert len(set(changed().values())) == len(changed())
    assert changed().keys() == {
        "6: 1 -> 2",
        "6: 1 -> 0",
        "8: a < 2 and a -> not (a < 2 and a)",
        "8: a < 2 and a -> a < 2 or a",
        "8: a < 2 -> a <= 2",
        "8: a < 2 -> a >= 2",
        "8: 2 -> 3",
        "8: 2 -> 1",
        "10: a += 5 -> a -= 5",
        "10: 5 -> 6",
        "10: 5 -> 4",
        "10: removed",
        "11: return not a -> return None",
    }


def test_the_modules_and_tests_that_are_listed_exist() -> None:
    """One that was renamed would be measured no more."""
    listed = {*TESTS, *EQUIVALENT, *(file for files in TESTS.values() for file in files)}
    assert [path for path in sorted(listed) if not (ROOT / path).is_file()] == []
