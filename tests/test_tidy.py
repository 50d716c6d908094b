"""House rules that a machine can check. The list of exceptions only ever gets shorter."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# In the order of dependence: each may import those before it, and no other.
LAYERS = ("messages", "storage", "actors", "cluster", "examples")
SHIPPED = LAYERS[:4]
FACE = "client_replies"
# The rooms of the cluster, in the order of dependence.
CLUSTER_ROOMS = ("protocol", "durable_files", "control", "vsr", "log", "door", "replica", "host", "client")
FOLDERS = (*LAYERS, FACE, "benchmarks", "tests", "tools")
DOCSTRING_LINES_MAX = 25
FUNCTION_LINES_MAX = 70
# path:function of those that are longer, each with its reason.
LONG_FUNCTIONS: frozenset[str] = frozenset()
MODULE_LINES_MAX = 450
CLASS_LINES_MAX = 350
LONG_MODULES = frozenset(
    {
        "actors/thespian/base/transport.py",
        "actors/component/client_replies.py",
        "actors/component/reading.py",
        "actors/component/slots.py",
        "cluster/door/front_door.py",
        "cluster/replica/replica.py",
        "messages/replies.py",
    }
)
LONG_CLASSES = frozenset(
    {
        "actors/thespian/base/transport.py:Transport",
        "actors/component/client_replies.py:ClientRepliesActor",
        "actors/component/reading.py:Reading",
        "actors/component/slots.py:Slots",
        "cluster/replica/replica.py:ReplicaActor",
    }
)
# Modules that import each other in a circle: the parts of the protocol, which are functions over one state.
CIRCLES = frozenset(
    f"client_replies.cluster.vsr.{name}"
    for name in ("adoption", "checkpoint", "clients", "normal", "recovery", "sync", "view_change")
)
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


def module_name(path: str) -> str:
    """Give the name that a module is imported by."""
    parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
    return ".".join(["client_replies", *parts] if parts[0] in SHIPPED else parts)


def modules_imported(path: str) -> set[str]:
    """Give the names of modules, and of what is in them, that a module imports; not for its annotations alone."""
    found = set()
    for_types = {
        part
        for node in nodes(path)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for part in node.body
    }
    package = module_name(path).split(".")
    if not path.endswith("__init__.py"):
        package = package[:-1]
    for node in nodes(path):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            around = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*around, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def circles(paths: list[str]) -> set[str]:
    """Give the modules that import themselves, by way of others."""
    names = {module_name(path) for path in paths}
    graph = {module_name(path): modules_imported(path) & names for path in paths}
    reached = {name: set(direct) for name, direct in graph.items()}
    changed = True
    while changed:
        changed = False
        for name, direct in graph.items():
            more = set().union(*(reached[other] for other in direct)) - reached[name] if direct else set()
            reached[name] |= more
            changed |= bool(more)
    return {name for name, others in reached.items() if name in others}


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


def test_the_rooms_of_the_cluster_are_imported_one_way() -> None:
    """A room imports from those before it: a reader who goes in their order has seen all that a module names."""
    upward = {}
    for path in modules("cluster"):
        room = path.split("/")[1].removesuffix(".py")
        if room != "__init__":
            before = CLUSTER_ROOMS[: CLUSTER_ROOMS.index(room) + 1]
            names = {
                name.split(".")[2] for name in modules_imported(path) if name.startswith("client_replies.cluster.")
            }
            upward[path] = names.difference(before)
    assert {path: rooms for path, rooms in upward.items() if rooms} == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Those that do are one module in several files; a circle that is gone leaves the list."""
    assert circles(modules(*LAYERS)) == CIRCLES


def test_modules_and_classes_are_not_long() -> None:
    """Longer ones are named, so that the list is seen when it grows; one that was shortened leaves it."""
    lengths = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in modules(*LAYERS)}
    assert {path for path, lines in lengths.items() if lines > MODULE_LINES_MAX} == LONG_MODULES
    classes = {
        f"{path}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in modules(*LAYERS)
        for node in nodes(path)
        if isinstance(node, ast.ClassDef)
    }
    assert {name for name, lines in classes.items() if lines > CLASS_LINES_MAX} == LONG_CLASSES


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
