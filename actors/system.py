"""Living on Thespian: what every user of the component calls around an actor system.

    with running_system() as system:
        replies = system.createActor(ClientRepliesActor)

Guarantees for a system that `start_system` started on `multiprocTCPBase`: its ports are bound to loopback (or to the
addresses that were named) and take only what is signed with its key (`wire`); it is a new one, never an older system
that happened to hold the port; it dies with the process that started it, even by `kill -9` during start-up
(`lifetime`); Ctrl-C is held back while it starts and while it stops, so that neither is left half done: `start_system`
returns a living system, or raises (also what a handler of the interrupt raises) and leaves none. `stop_system`
returns when no process of the system is left, by force if need be, within its time.

Gives up: one key and one list of addresses a process; a system that a thread started is kept by a helper thread; with
other multi-process bases there is no protection of ports.

Owns: the pid of each system that it started, until `stop_system`.
"""

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from thespian.actors import ActorAddress, ActorExitRequest, ActorSystem, ActorSystemException
from thespian.system import systemBase, utilis

from client_replies.actors.lifetime import adopt_process, starting_owned
from client_replies.actors.logs import configure_logging, get_logger, thespian_log_defs
from client_replies.actors.pace import quicken_transport
from client_replies.actors.wire import (
    LOOPBACK,
    AddressNotUsable,
    FrameTooLarge,
    KeyTooShort,
    TransportAlreadySecured,
    TransportError,
    bound_address,
    refused_frames,
    secure_transport,
    secured_with,
)

__all__ = [
    "AddressNotUsable",
    "AdminPortInUse",
    "FrameTooLarge",
    "KeyTooShort",
    "SystemDidNotStart",
    "SystemDidNotStop",
    "SystemFailure",
    "TransportAlreadySecured",
    "TransportError",
    "adopt_process",
    "configure_logging",
    "get_logger",
    "processes_of",
    "quicken_transport",
    "refused_frames",
    "running_system",
    "secure_transport",
    "start_system",
    "stop_system",
]

TCP_BASE = "multiprocTCPBase"
SIMPLE_BASE = "simpleSystemBase"
KEY_SIZE = 32
ADMIN_PORT_TRIES_MAX = 5
# How long a system is asked to end, how long its processes then have to go, and how long a killed one may linger.
STOP_TIMEOUT_S = 5.0
EXIT_TIMEOUT_S = 1.0
KILL_TIMEOUT_S = 5.0
POLL_INTERVAL_S = 0.002

_log = get_logger("system")
Result = TypeVar("Result")


class SystemFailure(Exception):
    """An actor system could not be started or stopped as asked."""


class AdminPortInUse(SystemFailure):
    """The port that was asked for is taken; an older system there would answer in the new one's place."""

    def __init__(self, port: int) -> None:
        super().__init__(f"admin port {port} is in use")
        self.port = port


class SystemDidNotStart(SystemFailure):
    """No admin came up on any of the ports that were tried."""


class SystemDidNotStop(SystemFailure):
    """Processes of the system are left even after they were killed."""

    def __init__(self, pids: Sequence[int]) -> None:
        super().__init__(f"processes {list(pids)} are left")
        self.pids = tuple(pids)


class OwnedSystem(ActorSystem):
    """An actor system with what is needed to end it: where it has processes, the pid of the admin, which leads them."""

    admin_pid: int | None = None
    admin_port: int | None = None
    keeper: "_Keeper | None" = None
    primaries: list[ActorAddress] | None = None  # where actors live in this process: those that nobody else ends

    def createActor(
        self, actorClass: Any, targetActorRequirements: Any = None, globalName: Any = None, sourceHash: Any = None
    ) -> ActorAddress:
        """Create a top-level actor, as Thespian does."""
        address = super().createActor(actorClass, targetActorRequirements, globalName, sourceHash)
        if self.primaries is not None:
            self.primaries.append(address)
        return address


def start_system(
    base: str = TCP_BASE,
    *,
    capabilities: Mapping[str, Any] | None = None,
    key: bytes | None = None,
    addresses: Sequence[str] | None = None,
    port: int | None = None,
    log_defs: Mapping[str, Any] | None = None,
) -> OwnedSystem:
    """Start a new actor system that dies with this process.

    Without a key and addresses those of an earlier `secure_transport` or start are used, else a random key and
    loopback: enough for one script on one host. Members that other processes start are given the same, and a port each.
    """
    if base == SIMPLE_BASE:
        # False: the default would reconfigure the logging of the process.
        simple = OwnedSystem(base, dict(capabilities or {}), logDefs=False, transientUnique=True)
        simple.primaries = []
        return simple
    secured_key, secured_addresses = secured_with() or (secrets.token_bytes(KEY_SIZE), (LOOPBACK,))
    secure_transport(
        key=secured_key if key is None else key, addresses=secured_addresses if addresses is None else addresses
    )
    quicken_transport()
    definitions = dict(log_defs) if log_defs is not None else thespian_log_defs()
    _quieten_thespian()
    system: OwnedSystem | None = None
    try:
        with _interrupt_held_back():
            if threading.current_thread() is threading.main_thread():
                system = _start_on_free_port(base, capabilities or {}, port, definitions)
            else:
                system = _Keeper.start(lambda: _start_on_free_port(base, capabilities or {}, port, definitions))
    except BaseException:
        # An interrupt that was held back, and raises now: the caller will not get the system, and cannot stop it.
        if system is not None:
            stop_system(system)
        raise
    return system


def stop_system(system: ActorSystem, timeout_s: float = STOP_TIMEOUT_S) -> None:
    """End the system: ask it to, then see to it that no process of it is left. Stopping twice is stopping once."""
    if getattr(system, "_systemBase", None) is None:
        return
    with _interrupt_held_back(), _shutdown_bounded(timeout_s):
        try:
            # Thespian's shutdown of this base tells no actor: files and locks would stay with this process.
            for address in getattr(system, "primaries", None) or ():
                system.tell(address, ActorExitRequest())
            system.shutdown()
        except (ActorSystemException, OSError) as error:
            _log.warning("shutdown_failed", error=repr(error))
        if isinstance(system, OwnedSystem) and system.admin_pid is not None:
            admin_pid, system.admin_pid = system.admin_pid, None
            _end_processes(admin_pid)
        if isinstance(system, OwnedSystem) and system.keeper is not None:
            system.keeper.release()


@contextlib.contextmanager
def running_system(
    base: str = TCP_BASE,
    *,
    capabilities: Mapping[str, Any] | None = None,
    key: bytes | None = None,
    addresses: Sequence[str] | None = None,
    port: int | None = None,
    log_defs: Mapping[str, Any] | None = None,
) -> Iterator[OwnedSystem]:
    """Start a system for the length of a with statement, however that ends."""
    system = start_system(base, capabilities=capabilities, key=key, addresses=addresses, port=port, log_defs=log_defs)
    try:
        yield system
    finally:
        stop_system(system)


def processes_of(system: ActorSystem) -> list[int]:
    """Give the pids of the living processes of a system that `start_system` started."""
    admin_pid = getattr(system, "admin_pid", None)
    return [] if admin_pid is None else _living_in_group(admin_pid)


def _start_on_free_port(
    base: str, capabilities: Mapping[str, Any], port: int | None, log_defs: dict[str, Any]
) -> OwnedSystem:
    for _ in range(1 if port is not None else ADMIN_PORT_TRIES_MAX):
        with _reserved_port(port) as admin_port:
            system = _start_once(base, capabilities, admin_port, log_defs)
        if system is not None:
            return system
    if port is not None:
        raise AdminPortInUse(port)
    raise SystemDidNotStart(f"no admin came up on any of {ADMIN_PORT_TRIES_MAX} ports")


@contextlib.contextmanager
def _reserved_port(port: int | None) -> Iterator[int]:
    """Hold a port, bound but not listening, while an admin comes to listen on it: Linux gives it to nobody else."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind((bound_address(), port or 0))
        except OSError as error:
            raise AdminPortInUse(port or 0) from error
        yield int(holder.getsockname()[1])


def _start_once(base: str, capabilities: Mapping[str, Any], port: int, log_defs: dict[str, Any]) -> OwnedSystem | None:
    """Start a system on this port, or leave nothing behind and give None if somebody else was quicker."""
    admin_pids: list[int] = []
    wanted = {**capabilities, "Admin Port": port, "Process Startup Method": "fork"}
    try:
        with starting_owned(admin_pids.append):
            system = OwnedSystem(base, wanted, logDefs=log_defs, transientUnique=True)
    except ActorSystemException as error:
        _log.warning("start_failed", port=port, error=repr(error))
        for pid in admin_pids:
            _end_processes(pid, exit_timeout_s=0)
        return None
    except BaseException:
        for pid in admin_pids:
            _end_processes(pid, exit_timeout_s=0)
        raise
    if len(admin_pids) != 1:
        # No admin of ours: another system answered on the port. It is not ours to shut down.
        for pid in admin_pids:
            _end_processes(pid, exit_timeout_s=0)
        return None
    system.admin_pid, system.admin_port = admin_pids[0], port
    return system


def _end_processes(admin_pid: int, exit_timeout_s: float = EXIT_TIMEOUT_S) -> None:
    """Wait for the processes of the admin's group to end, kill those that do not, and let go of the admin's pid last.

    While the admin is not reaped its pid cannot be another's, so the group that it names is surely the system's.
    """
    if not _poll(lambda: not _left(admin_pid), exit_timeout_s):
        if exit_timeout_s:
            _log.warning("processes_killed", pids=_left(admin_pid))
        _kill(admin_pid)
        if not _poll(lambda: not _left(admin_pid), KILL_TIMEOUT_S):
            raise SystemDidNotStop(_left(admin_pid))
    with contextlib.suppress(ChildProcessError):  # something in this process waits for any child
        os.waitpid(admin_pid, os.WNOHANG)


def _left(admin_pid: int) -> list[int]:
    living = _living_in_group(admin_pid)
    if admin_pid not in living and _is_living_child(admin_pid):
        living.append(admin_pid)  # before it led a group of its own
    return living


def _kill(admin_pid: int) -> None:
    if admin_pid != os.getpgrp():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(admin_pid, signal.SIGKILL)
    if _is_living_child(admin_pid):
        with contextlib.suppress(ProcessLookupError):
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


@contextlib.contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Let Ctrl-C wait until the block is done; what it then does is what it would have done."""
    came: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield  # interrupts are the main thread's affair, or that of something other than Python, or nobody's
        return
    signal.signal(signal.SIGINT, lambda signum, _frame: came.append(signum))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def _shutdown_bounded(timeout_s: float) -> Iterator[None]:
    """Give Thespian's shutdown, which returns silently when its ten seconds are over, our time instead."""
    limits = systemBase
    before = limits.MAX_SYSTEM_SHUTDOWN_DELAY
    limits.MAX_SYSTEM_SHUTDOWN_DELAY = timedelta(seconds=timeout_s)
    try:
        yield
    finally:
        limits.MAX_SYSTEM_SHUTDOWN_DELAY = before


def _quieten_thespian() -> None:
    """Keep Thespian's trace of its own doings out of the shared temporary directory, unless the user named a file."""
    if not os.environ.get("THESPLOG_FILE"):
        utilis.thesplog_control(logging.CRITICAL, False, 0)


class _Keeper:
    """A thread that lives as long as the system it started: the system dies with the very thread that forked it."""

    def __init__(self) -> None:
        self._done = threading.Event()

    @classmethod
    def start(cls, build: Callable[[], OwnedSystem]) -> OwnedSystem:
        """Run the build in a thread that then stays."""
        keeper = cls()
        built: list[OwnedSystem | BaseException] = []
        ready = threading.Event()

        def keep() -> None:
            try:
                built.append(build())
            except BaseException as error:
                built.append(error)
                return
            finally:
                ready.set()
            keeper._done.wait()

        threading.Thread(target=keep, name="actor-system-keeper", daemon=True).start()
        ready.wait()
        if isinstance(built[0], BaseException):
            raise built[0]
        built[0].keeper = keeper
        return built[0]

    def release(self) -> None:
        """Let the thread end."""
        self._done.set()
