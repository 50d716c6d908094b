"""What of Thespian's inside this base stands on, in one table: it is checked before a system starts.

Thespian's modules are not changed: where one of its functions must use another name than it does, a new process runs
that function with globals of its own (`with_names`), and everything else in the process, other bases too, sees
Thespian as it is. Where this base does by itself what a function of Thespian does, that function stands here as well.

Limits: only what is in the table is checked; the tests show the rest.

Owns: nothing.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import linecache
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from types import CodeType, FunctionType
from typing import Any


class ThespianNotAsExpected(Exception):
    """The installed Thespian differs, where this base depends on it, from the one that it was written for."""

    def __init__(self, place: Expected, found: str) -> None:
        super().__init__(
            f"the source of thespian.system.{place.module}.{place.function} has the hash {found}, not"
            f" {place.source_hash} ({place.why}); install thespian 4.0.1"
        )


@dataclass(frozen=True)
class Expected:
    """A function of `thespian.system`: the name in it that is another here (none: it is done here), why, its source."""

    module: str
    function: str
    name: str
    why: str
    source_hash: str

    def check(self) -> None:
        """Raise `ThespianNotAsExpected` if the function is another."""
        code = attrgetter(self.function)(importlib.import_module(f"thespian.system.{self.module}")).__code__
        lines = linecache.getlines(code.co_filename)  # none, and another hash, if the source is not installed
        source = "".join(lines[code.co_firstlineno - 1 : _last_line(code)])
        found = hashlib.sha256(source.encode()).hexdigest()[: len(self.source_hash)]
        if found != self.source_hash:
            raise ThespianNotAsExpected(self, found)


def _last_line(code: CodeType) -> int:
    inner = [_last_line(each) for each in code.co_consts if isinstance(each, CodeType)]
    return max([*inner, *(line for _, _, line in code.co_lines() if line is not None)])


# First the names that are others, then the functions that are done here.
TABLE = (
    Expected("multiprocCommon", "startChild", "MultiProcManager", "an actor's manager is ours", "607959bb35500ad9"),
    Expected("transport.TCPTransport", "TCPTransport.__init__", "TCPv4ActorAddress", "on loopback", "eabcf02e37125c2a"),
    Expected("multiprocCommon", "startAdmin", "", "_start_admin keeps the admin attached", "7ed08672cf9706e9"),
    Expected("multiprocCommon", "multiprocessCommon._startAdmin", "", "OwnedBase has its own", "c43a44d6f441ac65"),
    Expected("multiprocCommon", "MultiProcReplicator._childExited", "", "ours forgets nobody", "af183ece40a8bc13"),
    Expected("actorManager", "ActorManager.handleMessages", "", "the short way is shorter", "e1149dc7834b6d9b"),
    Expected("actorManager", "ActorManager._handleOneMessage", "", "the short way is shorter", "05dce43b0e6ef92d"),
    Expected("actorManager", "ActorManager.actor_send", "", "the short way is shorter", "83cab60ae6f4b5e6"),
    Expected("systemCommon", "systemCommonBase._send_intent", "", "the short way is shorter", "c2bfa761bf6d20d7"),
    Expected("systemBase", "systemBase.shutdown", "", "OwnedBase keeps to its time", "b195a06717d46d19"),
)


@functools.cache
def check_thespian() -> None:
    """Once per process: raise `ThespianNotAsExpected` unless everything in the table is as it was."""
    for place in TABLE:
        place.check()


def with_names(function: Callable[..., Any], **names: object) -> Callable[..., Any]:
    """The same function, for which these global names of its module are others."""
    if not isinstance(function, FunctionType):
        raise TypeError(f"{function!r} is not a function that is written in Python")
    return FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
