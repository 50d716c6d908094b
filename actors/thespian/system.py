"""Living on Thespian: what every user of the component calls around an actor system.

    with running_system() as system:
        replies = system.createActor(ClientRepliesActor)

Guarantees for a system that `start_system` started: it runs on this project's base, and a port is listened at only if
other hosts were named; it is a new one, never an older system that happened to have its port; it dies with the process
that started it, even by `kill -9` during start-up (`base`); Ctrl-C is held back while it starts and while it stops, so
that neither is left half done: `start_system` returns a living system, or raises (also what a handler of the interrupt
raises) and leaves none. `stop_system` returns when no process of the system is left, by force if need be, within its
time.

Limits: a system that a thread started is kept by a helper thread. On `multiprocTCPBase`, which is there to compare
with, any process of this host can connect and run code.

Owns: each system that it started, until `stop_system`.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from thespian.actors import ActorAddress, ActorExitRequest, ActorSystem, ActorSystemException
from thespian.system import utilis

from client_replies.actors.thespian.base import (
    LOOPBACK,
    UNIX_BASE,
    AddressNotUsable,
    AdminPortInUse,
    Hosts,
    KeyMissing,
    KeyTooShort,
    MessageTooLarge,
    PortsInUse,
    SystemDidNotStop,
    SystemFailure,
    ThespianNotAsExpected,
    TransportError,
    adopt_process,
    tcp_base,
    unix_base,
)
from client_replies.actors.thespian.base.processes import STOP_TIMEOUT_S, OwnedBase
from client_replies.actors.thespian.logs import configure_logging, get_logger, thespian_log_defs

__all__ = [
    "AddressNotUsable",
    "AdminPortInUse",
    "BaseNotSupported",
    "KeyMissing",
    "KeyTooShort",
    "MessageTooLarge",
    "PortsInUse",
    "SystemDidNotStart",
    "SystemDidNotStop",
    "SystemFailure",
    "ThespianNotAsExpected",
    "TransportError",
    "adopt_process",
    "configure_logging",
    "get_logger",
    "processes_of",
    "running_system",
    "start_system",
    "stop_system",
]

SIMPLE_BASE = "simpleSystemBase"
BASES: Mapping[str, ModuleType] = {UNIX_BASE: unix_base, tcp_base.TCP_BASE: tcp_base}

_log = get_logger("system")


class SystemDidNotStart(SystemFailure):
    """No admin came up."""


class BaseNotSupported(SystemFailure):
    """The system base does not exist, or not with what was asked for."""


class OwnedSystem(ActorSystem):
    """An actor system that is always a new one."""

    is_new = True

    def __init__(
        self, base: str, capabilities: dict[str, Any], log_defs: dict[str, Any] | bool, hosts: Hosts | None = None
    ) -> None:
        self.hosts = hosts
        self.keeper: _Keeper | None = None
        # Where actors live in this process: those that nobody else ends.
        self.primaries: list[ActorAddress] | None = [] if base == SIMPLE_BASE else None
        super().__init__(base, capabilities, logDefs=log_defs, transientUnique=True)

    @property
    def admin_pid(self) -> int | None:
        """The pid of the admin, which leads the processes of the system, if it has processes."""
        return getattr(self._systemBase, "admin_pid", None)

    @property
    def admin_port(self) -> int | None:
        """The port of the admin's address."""
        return self.capabilities.get("Admin Port")

    def createActor(
        self, actorClass: Any, targetActorRequirements: Any = None, globalName: Any = None, sourceHash: Any = None
    ) -> ActorAddress:
        """Create a top-level actor, as Thespian does."""
        address = super().createActor(actorClass, targetActorRequirements, globalName, sourceHash)
        if self.primaries is not None:
            self.primaries.append(address)
        return address


def start_system(
    base: str = UNIX_BASE,
    *,
    capabilities: Mapping[str, Any] | None = None,
    key: bytes | None = None,
    addresses: Sequence[str] | None = None,
    ports: range | None = None,
    port: int | None = None,
    log_defs: Mapping[str, Any] | None = None,
) -> OwnedSystem:
    """Start a new actor system that dies with this process.

    For actors of other hosts, give each member the same secret key and the same addresses, one for each host (a host
    takes the first that is its own), and a range of ports, if a firewall is to know them: each actor takes one.
    """
    if base == SIMPLE_BASE:
        # False: the default would reconfigure the logging of the process.
        return OwnedSystem(base, dict(capabilities or {}), False)
    hosts = _hosts(key, addresses, ports)
    if base not in BASES:
        raise BaseNotSupported(f"there is no base {base!r}; use one of {', '.join((*BASES, SIMPLE_BASE))}")
    if hosts is not None and base != UNIX_BASE:
        raise BaseNotSupported(f"{base} signs nothing; for other hosts use {UNIX_BASE}")
    definitions = dict(log_defs) if log_defs is not None else thespian_log_defs()
    _quieten_thespian()
    wanted = {"Process Startup Method": "fork", **(capabilities or {}), "Admin Port": port or 0}
    system: OwnedSystem | None = None
    try:
        with _interrupt_held_back():
            if threading.current_thread() is threading.main_thread():
                system = _start(base, wanted, definitions, hosts)
            else:
                system = _Keeper.start(lambda: _start(base, wanted, definitions, hosts))
    except BaseException:
        # An interrupt that was held back, and raises now: the caller will not get the system, and cannot stop it.
        if system is not None:
            stop_system(system)
        raise
    return system


def _hosts(key: bytes | None, addresses: Sequence[str] | None, ports: range | None) -> Hosts | None:
    if key is not None:
        return Hosts(key, tuple(addresses if addresses is not None else (LOOPBACK,)), ports)
    if addresses is not None or ports is not None:
        raise KeyMissing
    return None


def _start(base: str, capabilities: dict[str, Any], log_defs: dict[str, Any], hosts: Hosts | None) -> OwnedSystem:
    name = f"{base}-of-client-replies"
    sys.modules[f"thespian.system.{name}"] = BASES[base]  # where `ActorSystem` looks for a base
    try:
        return OwnedSystem(name, capabilities, log_defs, hosts)
    except ActorSystemException as error:
        raise SystemDidNotStart(f"no admin came up: {error}") from error


def stop_system(system: ActorSystem, timeout_s: float = STOP_TIMEOUT_S) -> None:
    """End the system: ask it to, then see to it that no process of it is left. Stopping twice is stopping once."""
    base = getattr(system, "_systemBase", None)
    if base is None:
        return
    if isinstance(base, OwnedBase):
        base.stop_timeout_s = timeout_s
    with _interrupt_held_back():
        try:
            # Thespian's shutdown of the simple base tells no actor: files and locks would stay with this process.
            for address in getattr(system, "primaries", None) or ():
                system.tell(address, ActorExitRequest())
            system.shutdown()
        except (ActorSystemException, OSError) as error:
            _log.warning("shutdown_failed", error=repr(error))
        if isinstance(system, OwnedSystem) and system.keeper is not None:
            system.keeper.release()


@contextlib.contextmanager
def running_system(base: str = UNIX_BASE, **options: Any) -> Iterator[OwnedSystem]:
    """Start a system, as `start_system` does, for the length of a with statement, however that ends."""
    system = start_system(base, **options)
    try:
        yield system
    finally:
        stop_system(system)


def processes_of(system: ActorSystem) -> list[int]:
    """Give the pids of the living processes of a system that `start_system` started."""
    base = getattr(system, "_systemBase", None)
    return base.processes() if isinstance(base, OwnedBase) else []


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
