"""What the shell is told when the user presses Tab: clusters, ways to hurt them, who can be hurt, requests.

Guarantees: nothing is started or asked; a cluster's replicas are known from its directory. Without `argcomplete` the
shell is told nothing. Limits: no accounts, which only the cluster knows.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from client_replies.cluster.host.cluster_directory import CLUSTER_FILE, ClusterUnusable, read_shape

Completer = Callable[..., Iterable[str]]

REQUESTS = ("transfer", "balance", "file")
# Of each way to hurt a cluster: does it want to know who?
WAYS_TO_HURT = {
    "drop-replies": False,
    "block": False,
    "corrupt-slot": True,
    "kill": True,
    "partition": True,
    "lose-disk": True,
    "heal": False,
}


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell and end, if it is the shell that asks."""
    if "_ARGCOMPLETE" in os.environ and find_spec("argcomplete") is not None:
        import argcomplete

        argcomplete.autocomplete(parser, always_complete_options=False)


def completed_by(action: argparse.Action, completer: Completer) -> None:
    """Have the completer called for what the action takes."""
    action.completer = completer  # type: ignore[attr-defined]


def clusters(prefix: str, **asked: Any) -> list[str]:
    """Directories with a cluster, and others to look into."""
    parent, slash, beginning = prefix.rpartition("/")
    found = []
    try:
        for entry in os.scandir(os.path.expanduser(parent + slash) or "."):
            hidden = entry.name.startswith(".") and not beginning
            if entry.name.startswith(beginning) and not hidden and entry.is_dir():
                is_cluster = Path(entry.path, CLUSTER_FILE).exists()
                found.append(parent + slash + entry.name + ("" if is_cluster else "/"))
    except OSError:
        return []
    return sorted(found)


def requests(prefix: str, parsed_args: argparse.Namespace, **asked: Any) -> Iterable[str]:
    """What `client` can be told to send."""
    if not parsed_args.words:
        return REQUESTS
    if parsed_args.words == ["file"]:
        from argcomplete.completers import FilesCompleter

        return FilesCompleter(["csv"])(prefix)
    return ()


def ways_to_hurt(**asked: Any) -> Iterable[str]:
    """What `hurt` can do."""
    return WAYS_TO_HURT


def victims(parsed_args: argparse.Namespace, **asked: Any) -> Iterable[str]:
    """Who of this cluster can be hurt in this way."""
    action, said = parsed_args.action, parsed_args.words
    if not WAYS_TO_HURT.get(action) or (said and action != "partition"):
        return ()
    try:
        numbers = range(read_shape(parsed_args.place).replicas)
    except ClusterUnusable:
        numbers = range(0)
    found = ["primary", "backups", "all", *map(str, numbers), *(["gateway"] if action == "kill" else [])]
    return [who for who in found if who not in said]
