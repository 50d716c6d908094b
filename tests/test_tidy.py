"""House rules that a machine can check. The list of exceptions only ever gets shorter."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# In the order of dependence: each may import those before it, and no other.
LAYERS = ("messages", "storage", "actors", "examples")
SHIPPED = LAYERS[:3]
FOLDERS = (*LAYERS, "benchmarks", "tests", "tools")
DOCSTRING_LINES_MAX = 25
FUNCTION_LINES_MAX = 70
# path:function of those that are longer, each with its reason.
LONG_FUNCTIONS: frozenset[str] = frozenset()
LEFTOVERS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|\bbreakpoint\(|\bpdb\b")


def modules(*folders: str) -> list[str]:
    """Give the modules in these folders, by path from the root."""
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(str(path.relative_to(ROOT)) for path in paths if "__pycache__" not in path.parts)


def parse(path: str) -> ast.Module:
    """Parse a module."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=path)


@functools.cache
def nodes(path: str) -> tuple[ast.AST, ...]:
    """Give everything in a module."""
    return tuple(ast.walk(parse(path)))


def functions(path: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Give every function of a module, methods and inner ones too."""
    return (node for node in nodes(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def layers_imported(path: str) -> set[str]:
    """Give the layers that a module imports from, anywhere in it."""
    names = set()
    package = path.split("/")[:-1]
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # One dot is the module's own package, each further dot the one around it; the layers' is client_replies.
            around = ["client_replies", *package][: len(package) + 2 - node.level] if node.level else []
            module = ".".join([*around, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    found = {name.removeprefix("client_replies.").split(".")[0] for name in names if name.startswith("client_replies.")}
    return found | {name.split(".")[0] for name in names if name.split(".")[0] == "examples"}


def calls_of_print(path: str) -> list[int]:
    """Give the lines in which a module prints."""
    calls = (node for node in nodes(path) if isinstance(node, ast.Call))
    return [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]


def packages_imported(path: str) -> set[str]:
    """Give the first names of what a module imports, but for what is imported relative to it."""
    names = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names


def long_functions(path: str) -> set[str]:
    """Give path:function of the functions of a module that do not fit a screen."""
    return {
        f"{path}:{function.name}"
        for function in functions(path)
        if (function.end_lineno or 0) - function.lineno + 1 > FUNCTION_LINES_MAX
    }


def test_every_module_opens_with_what_it_is() -> None:
    """A docstring that fits a screen: what the module guarantees, gives up and owns."""
    docstrings = {path: ast.get_docstring(parse(path)) for path in modules(*FOLDERS)}
    assert [path for path, docstring in docstrings.items() if not docstring] == []
    lines = {path: len((docstring or "").splitlines()) for path, docstring in docstrings.items()}
    assert {path: count for path, count in lines.items() if count > DOCSTRING_LINES_MAX} == {}


def test_shipped_code_has_no_bare_assert() -> None:
    """`python -O` would remove it, and Thespian would run the handler again."""
    found = [
        f"{path}:{node.lineno}" for path in modules(*SHIPPED) for node in nodes(path) if isinstance(node, ast.Assert)
    ]
    assert found == []


def test_shipped_code_prints_nothing() -> None:
    """Events go to the log; standard output is the application's."""
    assert [f"{path}:{line}" for path in modules(*SHIPPED) for line in calls_of_print(path)] == []


def test_no_leftovers_are_committed() -> None:
    """What is still to be done stands in an issue."""
    found = [
        f"{path}: {line}"
        for path in modules(*LAYERS)
        for line in (ROOT / path).read_text(encoding="utf-8").splitlines()
        if LEFTOVERS.search(line)
    ]
    assert found == []


def test_imports_point_one_way() -> None:
    """messages <- storage <- actors <- examples."""
    upward = {
        path: layers_imported(path) - set(LAYERS[: LAYERS.index(path.split("/")[0]) + 1]) for path in modules(*LAYERS)
    }
    assert {path: layers for path, layers in upward.items() if layers} == {}


def test_the_packages_have_one_name() -> None:
    """Importing `messages` beside `client_replies.messages` would make two of each class."""
    assert [path for path in modules(*FOLDERS) if packages_imported(path) & set(SHIPPED)] == []


def test_functions_fit_a_screen() -> None:
    """Longer ones are named, so that the list is seen when it grows; one that was shortened or removed leaves it."""
    assert set().union(*map(long_functions, modules(*FOLDERS))) == LONG_FUNCTIONS


def test_every_test_says_which_property_it_shows() -> None:
    """A test has a name that is a sentence, and a docstring."""
    tests = [
        (path, function)
        for path in modules("tests")
        for function in functions(path)
        if function.name.startswith("test_")
    ]
    assert [f"{path}:{test.name}" for path, test in tests if not ast.get_docstring(test)] == []
    assert [f"{path}:{test.name}" for path, test in tests if test.name.count("_") < 3] == []


def test_the_rules_see_every_folder() -> None:
    """A rule that looked at no module would hold."""
    assert [folder for folder in FOLDERS if not modules(folder)] == []


def test_the_packages_are_typed() -> None:
    """Type checkers of users believe our annotations."""
    assert [folder for folder in SHIPPED if not (ROOT / folder / "py.typed").is_file()] == []
