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
CLUSTER_ROOMS = (
    "state_machine",
    "protocol",
    "durable_files",
    "control",
    "window",
    "vsr",
    "log",
    "door",
    "replica",
    "client",
    "host",
)
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
    }
)
LONG_CLASSES = frozenset(
    {
        "actors/thespian/base/transport.py:Transport",
    }
)
VSR = "cluster/vsr"
MUTATORS = {"add", "append", "clear", "discard", "extend", "insert", "pop", "popleft", "remove", "setdefault", "update"}
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


def owned_states() -> dict[str, tuple[str, str]]:
    """Give, by the class of a part's state, the field of the core that has it and the part that owns it."""
    owners = {
        node.name: found[1]
        for node in nodes(f"{VSR}/core.py")
        if isinstance(node, ast.ClassDef) and (found := re.search(r"Owned by `(\w+)`", ast.get_docstring(node) or ""))
    }
    fields = {
        name: node.attr
        for assigned in nodes(f"{VSR}/core.py")
        if isinstance(assigned, ast.Assign | ast.AnnAssign)
        for node in (assigned.target if isinstance(assigned, ast.AnnAssign) else assigned.targets[0],)
        for name in owners
        if isinstance(node, ast.Attribute) and re.search(rf"\b{name}\b", ast.unparse(assigned))
    }
    return {name: (fields[name], owner) for name, owner in owners.items()}


def fields_of_core_written(path: str) -> set[str]:
    """Give the fields of the core that a module assigns, or changes the inside of, under whatever local name."""
    return set().union(*(_fields_written(function) for function in functions(path)))


def _fields_written(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    inside = list(ast.walk(function))
    aliases: dict[str, list[str]] = {}
    written: list[list[str]] = []

    def steps(node: ast.expr) -> list[str]:
        if isinstance(node, ast.Attribute):
            return [*steps(node.value), node.attr]
        if isinstance(node, ast.Subscript):
            return steps(node.value)
        return aliases.get(node.id, [node.id]) if isinstance(node, ast.Name) else []

    for node in inside:
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts, strict=True))
            aliases |= {name.id: steps(of) for name, of in pairs if isinstance(name, ast.Name) and "core" in steps(of)}
    for node in inside:
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            written.append(steps(node))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
            written.append(steps(node.func.value)[:-1])  # what has a method of its own for it is asked, not changed
    return {found[found.index("core") + 1] for found in written if "core" in found[:-1]}


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
    """A reader can begin with one that needs none of the others."""
    assert circles(modules(*LAYERS)) == set()


def test_the_state_of_a_part_of_the_protocol_is_written_by_its_owner_alone() -> None:
    """And what the parts share by methods of the core; the docstrings of both sides say who owns what."""
    owned = owned_states()
    docstrings = {name: ast.get_docstring(parse(f"{VSR}/{owner}.py")) or "" for name, (_, owner) in owned.items()}
    assert [name for name, docstring in docstrings.items() if f"Owns: `{name}`." not in docstring] == []
    owners = {field: f"{VSR}/{owner}.py" for field, owner in owned.values()}
    paths = [path for path in modules("cluster") if path != f"{VSR}/core.py"]
    written = {(field, path) for path in paths for field in fields_of_core_written(path)}
    assert written == set(owners.items())


def test_modules_and_classes_are_not_long() -> None:
    """Longer ones are named, so that the list is seen when it grows; one that was shortened leaves it."""
    lengths = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in modules(*LAYERS)}
    long = {path: lines for path, lines in lengths.items() if lines > MODULE_LINES_MAX}
    assert set(long) == LONG_MODULES, long
    classes = {
        f"{path}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in modules(*LAYERS)
        for node in nodes(path)
        if isinstance(node, ast.ClassDef)
    }
    long = {name: lines for name, lines in classes.items() if lines > CLASS_LINES_MAX}
    assert set(long) == LONG_CLASSES, long


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
