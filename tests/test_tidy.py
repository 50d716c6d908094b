"""House rules that a machine can check. The list of exceptions only ever gets shorter."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Give every function of a module, methods and inner ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def layers_imported(path: str) -> set[str]:
    """Give the layers that a module imports from, anywhere in it."""
    names = set()
    package = path.split("/")[:-1]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # One dot is the module's own package, each further dot the one around it; the layers' is client_replies.
            around = ["client_replies", *package][: len(package) + 2 - node.level] if node.level else []
            module = ".".join([*around, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    found = {name.removeprefix("client_replies.").split(".")[0] for name in names if name.startswith("client_replies.")}
    return found | {name.split(".")[0] for name in names if name.split(".")[0] == "examples"}


@pytest.mark.parametrize("path", modules(*FOLDERS))
def test_every_module_opens_with_what_it_is(path: str) -> None:
    """A docstring that fits a screen: what the module guarantees, gives up and owns."""
    docstring = ast.get_docstring(parse(path))
    assert docstring, "the module has no docstring"
    assert len(docstring.splitlines()) <= DOCSTRING_LINES_MAX


@pytest.mark.parametrize("path", modules(*SHIPPED))
def test_shipped_code_has_no_bare_assert(path: str) -> None:
    """`python -O` would remove it, and Thespian would run the handler again."""
    assert [node.lineno for node in ast.walk(parse(path)) if isinstance(node, ast.Assert)] == []


@pytest.mark.parametrize("path", modules(*SHIPPED))
def test_shipped_code_prints_nothing(path: str) -> None:
    """Events go to the log; standard output is the application's."""
    calls = (node for node in ast.walk(parse(path)) if isinstance(node, ast.Call))
    assert [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"] == []


@pytest.mark.parametrize("path", modules(*SHIPPED, "examples"))
def test_no_leftovers_are_committed(path: str) -> None:
    """What is still to be done stands in an issue."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if LEFTOVERS.search(line)] == []


@pytest.mark.parametrize("path", modules(*LAYERS))
def test_imports_point_one_way(path: str) -> None:
    """messages <- storage <- actors <- examples."""
    layer = path.split("/")[0]
    assert layers_imported(path) <= set(LAYERS[: LAYERS.index(layer) + 1])


@pytest.mark.parametrize("path", modules(*FOLDERS))
def test_the_packages_have_one_name(path: str) -> None:
    """Importing `messages` beside `client_replies.messages` would make two of each class."""
    names = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    assert not names & set(SHIPPED)


@pytest.mark.parametrize("path", modules(*FOLDERS))
def test_functions_fit_a_screen(path: str) -> None:
    """Longer ones are named, so that the list is seen when it grows."""
    long = {
        f"{path}:{function.name}"
        for function in functions(parse(path))
        if (function.end_lineno or 0) - function.lineno + 1 > FUNCTION_LINES_MAX
    }
    assert long == {name for name in LONG_FUNCTIONS if name.startswith(f"{path}:")}


def test_the_list_of_long_functions_names_only_what_exists() -> None:
    """A function that was shortened or removed leaves the list."""
    assert {name.split(":")[0] for name in LONG_FUNCTIONS} <= set(modules(*FOLDERS))


@pytest.mark.parametrize("path", modules("tests"))
def test_every_test_says_which_property_it_shows(path: str) -> None:
    """A test has a name that is a sentence, and a docstring."""
    tests = [function for function in functions(parse(path)) if function.name.startswith("test_")]
    assert [test.name for test in tests if not ast.get_docstring(test)] == []
    assert [test.name for test in tests if test.name.count("_") < 3] == []


@pytest.mark.parametrize("folder", SHIPPED)
def test_the_packages_are_typed(folder: str) -> None:
    """Type checkers of users believe our annotations."""
    assert (ROOT / folder / "py.typed").is_file()
