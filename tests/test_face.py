"""The import name itself: what `from client_replies import ...` gives, and what it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import client_replies
from client_replies import cluster
from client_replies.actors.owner.port_events import PORT_MESSAGES
from client_replies.messages.protocol import PROTOCOL, Party

ROOT = Path(__file__).resolve().parents[1]


def run(code: str) -> str:
    """Run some Python in a process of its own, in the checkout."""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_every_name_of_the_face_is_there_and_is_declared_for_type_checkers() -> None:
    """A name in one list and not in the other would be missing for a user, or for his type checker."""
    assert all(hasattr(client_replies, name) for name in client_replies.__all__)
    tree = ast.parse((ROOT / "client_replies" / "__init__.py").read_text(encoding="utf-8"))
    declared = {
        alias.name
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == set(client_replies.__all__)


def test_every_name_of_the_cluster_is_there_and_a_client_needs_no_actors() -> None:
    """What a service or its client imports, it finds in one place."""
    assert all(hasattr(cluster, name) for name in cluster.__all__)
    loaded = run(
        "import sys; from client_replies.cluster import ClusterClient; "
        "print([name for name in ('structlog', 'client_replies.actors') if name in sys.modules])"
    )
    assert loaded == "[]"


def test_the_face_has_all_that_an_owner_sends_and_is_sent() -> None:
    """Nobody has to look for a message in a module of which he never heard."""
    names = set(client_replies.__all__)
    owners = {
        row.message.__name__
        for row in PROTOCOL
        if row.sender is Party.REPLICA and row.message.__module__.endswith(".replies")
    }
    assert owners - names == set()
    told = {message.__name__ for message in PORT_MESSAGES if message.__module__.endswith(".replies")}
    assert told - names == set()


def test_importing_the_face_alone_imports_no_actors() -> None:
    """A command that needs none starts at once."""
    loaded = run(
        "import sys, client_replies; print([name for name in ('thespian', 'structlog') if name in sys.modules])"
    )
    assert loaded == "[]"


def test_the_command_line_alone_imports_no_actors() -> None:
    """`--help`, and a client's request, would wait for them."""
    heavy = ("structlog", "sqlite3", "client_replies.actors", "client_replies.cluster.replica")
    loaded = run(f"import sys, examples.ledger.__main__; print([name for name in {heavy} if name in sys.modules])")
    assert loaded == "[]"


def test_help_is_a_first_page() -> None:
    """It shows the first use before anything else, and is no list of submodules alone."""
    page = run("import pydoc, client_replies; print(pydoc.plain(pydoc.render_doc(client_replies)))")
    assert page.index("with Replies.open(") < 2500
    assert "class RepliesPort" in page
