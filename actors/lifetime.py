"""How the processes of an actor system live and die.

Guarantees, for a system that `starting_owned` started: each of its processes is killed the moment its parent ends, in
whatever way, even right after the fork; the admin is the starting process's own child (Thespian would detach it), so
the whole tree ends with the script; a native crash (SIGSEGV, SIGBUS, SIGFPE, SIGILL) ends the process, where Thespian
would let it spin for ever; a parent is told of each child that died, also of those that died in the same moment;
Ctrl-C is the script's affair, its actors ignore it.

Gives up: a graceful end when the parent is gone. Linux only: elsewhere processes outlive their parent.

Owns: the entry functions of Thespian's multi-process bases, and what those do about signals. Systems that others
started are left as they are; there an actor calls `adopt_process` for itself.
"""

import contextlib
import ctypes
import importlib
import multiprocessing
import multiprocessing.process
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
FATAL_SIGNALS = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})
BASE_CAPABILITY = "Thespian ActorSystem Name"
SIMPLE_BASE_NAME = "simpleSystem"

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

# True while this process starts a system that must die with it, and in every process of such a system.
_owned = False
_patched = False
_on_admin_forked: Callable[[int], None] | None = None


def adopt_process(capabilities: Mapping[str, Any] | None) -> None:
    """Make this actor's process die with its parent and of native crashes; to be called in an actor's `__init__`.

    Does nothing where actors share the caller's process, and changes nothing in a system that `start_system` started.
    """
    if capabilities is None or capabilities.get(BASE_CAPABILITY) == SIMPLE_BASE_NAME:
        return
    if multiprocessing.parent_process() is None:
        return  # not a process that an actor system made
    die_with_parent()
    for signum in FATAL_SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def die_with_parent() -> None:
    """Be killed when the parent ends; also if it ended before this was called."""
    if _libc is None:
        return
    if _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    parent = multiprocessing.parent_process()
    # The parent may have ended between the fork and the prctl, and then nobody will send the signal.
    if parent is None or os.getppid() != parent.pid:
        _end_at_once()


def _end_at_once() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit(1)  # not reached


@contextlib.contextmanager
def starting_owned(on_admin_forked: Callable[[int], None]) -> Iterator[None]:
    """Let the system that is started within be owned by this process, and tell its admin's pid once there is one."""
    global _owned, _on_admin_forked
    _patch_entries()
    _owned, _on_admin_forked = True, on_admin_forked
    try:
        yield
    finally:
        _owned, _on_admin_forked = False, None


def _patch_entries() -> None:
    """Go first in every process that Thespian forks; it looks these names up in its module at each use."""
    global _patched
    if _patched:
        return
    common: Any = importlib.import_module("thespian.system.multiprocCommon")
    common.startAdmin = _entering_undetached(common.startAdmin)
    common.startupASLogger = _entering(common.startupASLogger)
    common.startChild = _entering(common.startChild)
    common.set_signal_handler = _settling_signals(common.set_signal_handler)
    common.detach_child = _telling_pid(common.detach_child)
    common.MultiProcReplicator._childExited = _forgetting_nobody(common.MultiProcReplicator._childExited)
    _patched = True


def _entering(run: Callable[..., None]) -> Callable[..., None]:
    """Wrap what a new process runs."""

    def enter(*args: Any) -> None:
        if _owned:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            die_with_parent()
        run(*args)

    return enter


def _entering_undetached(run: Callable[..., None]) -> Callable[..., None]:
    """Wrap what the admin runs, and keep it from forking once more, which would hide it from its parent's death."""

    def enter(*args: Any) -> None:
        global _on_admin_forked
        if _owned:
            _on_admin_forked = None
            fork = os.fork

            def stay() -> int:
                os.fork = fork
                return 0

            os.fork = stay
        run(*args)

    return _entering(enter)


def _settling_signals(install: Callable[..., Any]) -> Callable[..., Any]:
    """Keep Thespian from catching what must kill, or what is not for it."""

    def settle(signum: int, handler: Any) -> Any:
        if _owned and signum in FATAL_SIGNALS:
            return install(signum, signal.SIG_DFL)
        if _owned and signum == signal.SIGINT:
            return install(signum, signal.SIG_IGN)
        return install(signum, handler)

    return settle


def _telling_pid(detach: Callable[[Any], None]) -> Callable[[Any], None]:
    """Learn the admin's pid where Thespian lets go of it."""

    def tell(child: Any) -> None:
        if _on_admin_forked is not None:
            _on_admin_forked(child.pid)
        detach(child)

    return tell


def _forgetting_nobody(forget_dead: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Keep Thespian from forgetting the dead of whom it has not told yet.

    When it tells a parent that one child ended, it drops every child that is dead by then; of the others the parent
    would never hear. Those that it has told of, it drops all the same, where it finds that they are dead.
    """

    def forget(actor_manager: Any, child_address: Any) -> None:
        if not _owned:
            forget_dead(actor_manager, child_address)

    return forget
