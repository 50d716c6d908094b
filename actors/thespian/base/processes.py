"""How the processes of an actor system live and die, on any of Thespian's multi-process bases.

Guarantees: each process is killed the moment its parent ends, in whatever way, even right after the fork; the admin is
the starting process's own child (Thespian would detach it), so the whole tree ends with the script; a native crash ends
the process (`manager`); a parent is told of each child that died, also of those that died in the same moment; Ctrl-C is
the script's affair. `shutdown` returns when no process of the system is left, by force if need be, within its time.

Limits: no graceful end when the parent is gone. A system ends with the thread that started it. Linux only.

Owns: the admin's process, from its start until `shutdown`.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import multiprocessing.process
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import FunctionType
from typing import Any, NoReturn

from thespian.actors import ActorAddress, ActorSystem, InvalidActorAddress
from thespian.system.messages.admin import SystemShutdown, SystemShutdownCompleted
from thespian.system.messages.multiproc import EndpointConnected
from thespian.system.multiprocCommon import _startLogger, detach_child, multiprocessCommon, startChild
from thespian.system.transport import ReceiveEnvelope, TransmitIntent

from client_replies.actors.thespian.logs import get_logger

from .addresses import ADMIN_PORT
from .expected import check_thespian, with_names
from .manager import OwnedAdmin, OwnedManager, settle_signals

PR_SET_PDEATHSIG = 1
START_TIMEOUT_S = 20.0  # an admin that dies is noticed at once
# How long a system is asked to end, how long its processes then have to go, and how long a killed one may linger.
STOP_TIMEOUT_S = 5.0
EXIT_TIMEOUT_S = 1.0
KILL_TIMEOUT_S = 5.0
POLL_INTERVAL_S = 0.002
ROOM_FOR_FRAMES = 2**16  # words of address space; only what is used takes memory

BASE_CAPABILITY = "Thespian ActorSystem Name"
SIMPLE_BASE_NAME = "simpleSystem"

_log = get_logger("system")
_libc = ctypes.CDLL(None, use_errno=True)


class SystemFailure(Exception):
    """An actor system could not be started or stopped as asked."""


class AdminPortInUse(SystemFailure):
    """The port that was asked for is taken; an older system there would answer in the new one's place."""

    def __init__(self, port: int) -> None:
        super().__init__(f"admin port {port} is in use; name another, or none")
        self.port = port


class SystemDidNotStop(SystemFailure):
    """Processes of the system are left even after they were killed."""

    def __init__(self, pids: Sequence[int]) -> None:
        super().__init__(f"processes {list(pids)} are left")
        self.pids = tuple(pids)


def adopt_process(capabilities: Mapping[str, Any] | None) -> None:
    """Make this actor's process die with its parent and of native crashes; to be called in an actor's `__init__`.

    Does nothing where actors share the caller's process, and changes nothing in a system that `start_system` started.
    """
    if capabilities is None or capabilities.get(BASE_CAPABILITY) == SIMPLE_BASE_NAME:
        return
    if multiprocessing.parent_process() is not None:  # a process that an actor system made
        die_with_parent()
        settle_signals()


def die_with_parent() -> None:
    """Be killed when the parent ends; also if it ended before this was called."""
    if _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    parent = multiprocessing.parent_process()
    # The parent may have ended between the fork and the prctl, and then nobody will send the signal.
    if parent is None or os.getppid() != parent.pid:
        _end_at_once()


def _end_at_once() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit(1)  # not reached


class OwnedProcesses:
    """What Thespian makes processes with, in the place of a context of `multiprocessing`: each enters by `_enter`."""

    def __init__(self, method: str) -> None:
        self.method = method

    def Process(self, target: Callable[..., Any], args: tuple[Any, ...], name: str | None = None) -> Any:
        """A process that ends with this one."""
        context: Any = multiprocessing.get_context(self.method)
        return context.Process(target=_enter, args=(target, args), name=name)


def _enter(target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Go first in every process of a system. A handler of the script's means something to the script alone."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    if target is startChild:
        transport = args[3]
        target = with_names(startChild, MultiProcManager=getattr(transport, "manager", OwnedManager))
    _with_room(target, args)


def _call(target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    target(*args)


# CPython keeps frames in chunks of 16 KiB, which it maps when a call needs one and unmaps when that call returns. A
# forked process begins deep, above the frames of all its ancestors; where a chunk happens to end in its loop, each of
# some calls per message costs a hundred times as much (13 us). A frame with room for many gets a chunk that lasts.
_with_room = FunctionType(_call.__code__.replace(co_stacksize=ROOM_FOR_FRAMES), globals())


def _start_admin(
    starter: ActorAddress,
    endpoint: Any,
    transport_class: Any,
    address: ActorAddress,
    capabilities: dict[str, Any],
    log_defs: Any,
    processes: OwnedProcesses,
) -> None:
    """Run the admin: what Thespian's `startAdmin` does, without detaching it."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    transport = transport_class(endpoint)
    try:
        admin = OwnedAdmin(transport, address, capabilities, log_defs, processes)
    except Exception:
        transport.scheduleTransmit(None, TransmitIntent(starter, EndpointConnected(0)))
        raise
    admin.addrOfStarter = starter  # who is told once the logger is up
    signal.signal(signal.SIGCHLD, admin.signalChildDied)
    _startLogger(transport_class, transport, admin, capabilities, log_defs, processes)
    transport.enableRXPauseFlowControl(False)  # the admin never waits for one peer
    admin.run()


class OwnedBase(multiprocessCommon):
    """A multi-process base whose systems end with their starter, and leave nothing when they are shut down."""

    admin_pid: int | None = None
    stop_timeout_s = STOP_TIMEOUT_S

    def __init__(self, system: ActorSystem, logDefs: Any = None) -> None:
        check_thespian()
        port = system.capabilities.get(ADMIN_PORT)
        self._held: socket.socket | None = None
        if getattr(system, "is_new", False):
            self._held = self._hold(port or 0)
            system.capabilities[ADMIN_PORT] = self._held.getsockname()[1]
        try:
            super().__init__(system, logDefs)
        except BaseException:
            if hasattr(self, "transport"):
                self.transport.close()
            self._end_processes(exit_timeout_s=0)
            raise
        finally:
            if self._held is not None:
                self._held.close()

    def _bind(self, port: int) -> socket.socket:
        raise NotImplementedError

    def _hold(self, port: int) -> socket.socket:
        try:
            return self._bind(port)
        except OSError as error:
            raise AdminPortInUse(port) from error

    def _startAdmin(
        self, address: ActorAddress, starter: ActorAddress, capabilities: dict[str, Any], logDefs: Any
    ) -> None:
        processes = OwnedProcesses(self.mpcontext.get_start_method())
        endpoint = self.transport.prepEndpoint(address, capabilities)
        self._give(endpoint)
        arguments = (starter, endpoint, self.transport.__class__, address, capabilities, logDefs, processes)
        admin = processes.Process(target=_start_admin, args=arguments, name="ThespianAdmin")
        admin.start()
        self.admin_pid = admin.pid
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and admin.is_alive():
            response = self.transport.run(None, timedelta(seconds=0.1))
            if isinstance(response, ReceiveEnvelope) and isinstance(response.message, EndpointConnected):
                break
        detach_child(admin)
        if admin.exitcode is not None or time.monotonic() >= deadline:
            raise InvalidActorAddress(address, "not one at which an admin came up")

    def _give(self, endpoint: Any) -> None:
        """Hand what is held for the admin to it."""

    def shutdown(self) -> None:
        """End the system: ask it to, then see to it that no process of it is left."""
        deadline = time.monotonic() + self.stop_timeout_s
        try:
            asked = self._tx_to_admin(SystemShutdown())
            while (left := deadline - time.monotonic()) > 0 and not asked.failed:
                response = self._run_transport(timedelta(seconds=left))
                if isinstance(response, ReceiveEnvelope) and isinstance(response.message, SystemShutdownCompleted):
                    break
            self.transport.close()
        finally:
            self._end_processes()

    def processes(self) -> list[int]:
        """The pids of the living processes of the system, as far as this process started it."""
        if self.admin_pid is None:
            return []
        living = _living_in_group(self.admin_pid)
        if self.admin_pid not in living and _is_living_child(self.admin_pid):
            living.append(self.admin_pid)  # before it led a group of its own
        return living

    def _end_processes(self, exit_timeout_s: float = EXIT_TIMEOUT_S) -> None:
        """Wait for the processes of the admin's group to end, kill those that do not, let go of the admin's pid last.

        While the admin is not reaped its pid cannot be another's, so the group that it names is surely the system's.
        """
        if self.admin_pid is None:
            return
        if not _poll(lambda: not self.processes(), exit_timeout_s):
            if exit_timeout_s:
                _log.warning("processes_killed", pids=self.processes())
            self._kill(self.admin_pid)
            if not _poll(lambda: not self.processes(), KILL_TIMEOUT_S):
                raise SystemDidNotStop(self.processes())
        admin_pid, self.admin_pid = self.admin_pid, None
        with contextlib.suppress(ChildProcessError):  # something in this process waits for any child
            os.waitpid(admin_pid, os.WNOHANG)

    @staticmethod
    def _kill(admin_pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if admin_pid != os.getpgrp():
                os.killpg(admin_pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            if _is_living_child(admin_pid):
                os.kill(admin_pid, signal.SIGKILL)


def _is_living_child(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _living_in_group(group: int) -> list[int]:
    """Find the processes of a group, without those that have ended and only wait for their parent to notice."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as stat:
                    state, _parent, process_group = stat.read().rpartition(")")[2].split()[:3]
            except (OSError, ValueError):
                continue  # it ended while we looked
            if int(process_group) == group and state not in "ZX":
                found.append(int(name))
    return found


def _poll(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True
