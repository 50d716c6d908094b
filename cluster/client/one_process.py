"""What belongs to one process: neither a forked child nor a copy may use it."""

from __future__ import annotations

import os
from typing import NoReturn

from .errors import NotCopyable, OtherProcess

_forks = 0  # between the first process and this one


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class OfOneProcess:
    """What one process uses. A forked child inherits it: with it locks that nobody there will release, so it takes
    none of them, and a socket that its parent goes on using, so it only closes its own descriptor."""

    def __init__(self) -> None:
        self._forks = _forks

    @property
    def _is_inherited(self) -> bool:
        return self._forks != _forks

    def _check_process(self) -> None:
        if self._is_inherited:
            raise OtherProcess("this process was forked from the owner: create a ClusterClient of its own here")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        name = type(self).__name__
        raise NotCopyable(f"a {name} cannot be copied or pickled: create a ClusterClient where it is used")
