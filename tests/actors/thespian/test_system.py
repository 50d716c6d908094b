"""How an actor system of ours starts, ends, and dies: whatever happens to whichever process, none is left."""

import contextlib
import ctypes
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from thespian.actors import (
    Actor,
    ActorAddress,
    ActorExitRequest,
    ActorSystem,
    ActorSystemException,
    ActorTypeDispatcher,
    ChildActorExited,
)

from client_replies.actors import ClientRepliesActor
from client_replies.actors.thespian import system as system_module
from client_replies.actors.thespian.base.processes import EXIT_TIMEOUT_S, KILL_TIMEOUT_S
from client_replies.actors.thespian.system import (
    AdminPortInUse,
    OwnedSystem,
    SystemDidNotStart,
    adopt_process,
    processes_of,
    running_system,
    start_system,
    stop_system,
)
from client_replies.messages import OpenReplies, RepliesConfig, RepliesOpened

from tests.processes import is_living, listening, living_descendants, wait_until

ROOT = Path(__file__).resolve().parents[3]
KILLS = 40


class Leaf(Actor):
    """Tells its pid, or does to its process what it is told."""

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
        """Act on the name of what to do."""
        if msg == "pid":
            self.send(sender, os.getpid())
        elif msg == "read address zero":
            ctypes.string_at(0)
        elif isinstance(msg, tuple) and msg[0] == "raise signal":
            signal.raise_signal(msg[1])
        elif msg == "hang":
            signal.pause()
        elif msg == "block":
            signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
            time.sleep(3600)


class Parent(ActorTypeDispatcher):
    """Has a child of its own, and tells whoever asked how that one ended."""

    def __init__(self) -> None:
        super().__init__()
        self.child: ActorAddress | None = None
        self.told: ActorAddress | None = None
        self.exits = 0

    def receiveMsg_str(self, _message: str, sender: ActorAddress) -> None:
        """Make the child, and give pid and child."""
        self.child = self.child or self.createActor(Leaf)
        self.send(sender, (os.getpid(), self.child))

    def receiveMsg_tuple(self, message: tuple[str, Any], sender: ActorAddress) -> None:
        """Pass an order on to the child, and answer when it has ended."""
        self.told = sender
        assert self.child is not None
        self.send(self.child, message if message[0] == "raise signal" else message[0])

    def receiveMsg_ChildActorExited(self, message: ChildActorExited, _sender: ActorAddress) -> None:
        """Tell once: Thespian may say so twice."""
        if self.told is not None and message.childAddress == self.child:
            self.send(self.told, "child exited")
            self.told = None


class Mourner(ActorTypeDispatcher):
    """Has many children, and counts those of which it was told that they ended."""

    CHILDREN = 6

    def __init__(self) -> None:
        super().__init__()
        self.children: list[ActorAddress] = []
        self.mourned: list[ActorAddress] = []

    def receiveMsg_str(self, message: str, sender: ActorAddress) -> None:
        """Make the children, or tell how many ended."""
        if message == "family":
            self.children = [self.createActor(Leaf) for _ in range(self.CHILDREN)]
            self.send(sender, tuple(self.children))
        else:
            self.send(sender, len(self.mourned))

    def receiveMsg_ChildActorExited(self, message: ChildActorExited, _sender: ActorAddress) -> None:
        """Count each child once."""
        if message.childAddress in self.children and message.childAddress not in self.mourned:
            self.mourned.append(message.childAddress)


class Adopted(Leaf):
    """An actor in a system that somebody else started, which looks after itself."""

    def __init__(self, capabilities: dict[str, Any]) -> None:
        super().__init__()
        adopt_process(capabilities)


class Creator(Actor):
    """Creates an `Adopted` and passes its address on."""

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
        """Create one for each question."""
        if msg == "create":
            self.send(sender, (os.getpid(), self.createActor(Adopted)))


def family(system: OwnedSystem) -> tuple[int, int, ActorAddress, ActorAddress]:
    """Make an actor and its child, and give the pids and addresses of both."""
    parent = system.createActor(Parent)
    parent_pid, leaf = system.ask(parent, "family", 10)
    leaf_pid = system.ask(leaf, "pid", 10)
    return parent_pid, leaf_pid, parent, leaf


def start_use_and_stop() -> None:
    """One turn of it, in which using takes about as long as the rest."""
    with running_system() as system:
        _, _, _, leaf = family(system)
        for _ in range(300):
            system.ask(leaf, "pid", 10)


def starting_and_stopping() -> None:
    """Start, use and stop a system, for ever: what a script does when it is killed or interrupted."""
    while True:
        start_use_and_stop()


def turn_s() -> float:
    """How long one turn of `starting_and_stopping` takes now: kills are to fall into each phase of it."""
    begun = time.monotonic()
    start_use_and_stop()
    return time.monotonic() - begun


@contextlib.contextmanager
def forked(run: Callable[[], None]) -> Any:
    """Run a function in a child process, which ends silently, and give its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            run()
            status = 0
        except KeyboardInterrupt:
            status = 130
        finally:
            os._exit(status)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_system_runs_and_none_of_its_processes_is_left(asys: OwnedSystem) -> None:
    """On each base: create, ask, create from within. The fixture sees to the end."""
    parent_pid, leaf_pid, _, _ = family(asys)
    pids = processes_of(asys)
    assert (parent_pid == os.getpid()) == (pids == [])
    assert pids == [] or {parent_pid, leaf_pid} < set(pids)


def test_stopping_a_system_of_one_process_ends_its_actors(tmp_path: Path) -> None:
    """The file is closed and its lock is free, though nobody closed it: the process lives on and may open it again."""
    config = RepliesConfig(path=str(tmp_path / "file"), cluster=1, replica=0)
    for owner in (1, 2):
        with running_system("simpleSystemBase") as system:
            opened = system.ask(system.createActor(ClientRepliesActor), OpenReplies(owner=owner, config=config), 10)
            assert isinstance(opened, RepliesOpened)


def test_the_component_runs_on_thespians_own_base_whose_ports_are_on_loopback(tmp_path: Path) -> None:
    """There to compare with; it ends with its starter as ours does."""
    before = set(listening([os.getpid()]))
    config = RepliesConfig(path=str(tmp_path / "file"), cluster=1, replica=0)
    with running_system("multiprocTCPBase") as system:
        opened = system.ask(system.createActor(ClientRepliesActor), OpenReplies(owner=1, config=config), 20)
        assert isinstance(opened, RepliesOpened)
        pids = processes_of(system)
        found = set(listening([os.getpid(), *pids])) - before
        assert {address for address, _ in found} == {"127.0.0.1"}
        assert len(found) >= 4
    assert not any(map(is_living, pids))


def test_stopping_twice_is_stopping_once(asys: OwnedSystem) -> None:
    """The second time there is nothing to do."""
    stop_system(asys)
    stop_system(asys)
    assert processes_of(asys) == []


def test_two_systems_of_one_script_have_nothing_in_common() -> None:
    """Each has its own port and processes, and outlives the other."""
    with running_system() as second:
        with running_system() as first:
            assert first.admin_port != second.admin_port
            assert not set(processes_of(first)) & set(processes_of(second))
        assert family(second)[0] in processes_of(second)


def test_a_named_port_that_is_taken_is_an_error_and_not_an_attachment_to_an_older_system() -> None:
    """Thespian would silently hand out the system that runs there, with its old code."""
    with running_system() as older:
        with pytest.raises(AdminPortInUse):
            start_system(port=older.admin_port)
        assert family(older)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(AdminPortInUse):
        start_system(port=server.getsockname()[1])


def test_a_start_that_does_not_succeed_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, free_of_new_processes: None
) -> None:
    """An admin that came up and does not answer is removed."""

    def refuse(*_: object) -> None:
        raise ActorSystemException("no answer")

    monkeypatch.setattr("thespian.system.systemBase.systemBase._verifyAdminRunning", refuse)
    with pytest.raises(SystemDidNotStart):
        start_system()


@pytest.mark.slow
@pytest.mark.parametrize("order", ["hang", "block"])
def test_a_system_with_a_hung_actor_is_ended_within_the_time(order: str) -> None:
    """Thespian would come back after ten seconds with everything still running."""
    system = start_system()
    _, leaf_pid, _, leaf = family(system)
    pids = processes_of(system)
    system.tell(leaf, order)
    if order == "hang":
        os.kill(leaf_pid, signal.SIGSTOP)
    begun = time.monotonic()
    stop_system(system, timeout_s=0.5)
    assert time.monotonic() - begun < 0.5 + EXIT_TIMEOUT_S + KILL_TIMEOUT_S
    assert not any(map(is_living, pids))


@pytest.mark.parametrize("victim", ["admin", "logger", "parent"])
def test_the_children_of_a_killed_process_die_with_it(victim: str) -> None:
    """Neither a killed actor nor a killed admin leaves orphans, which would answer and keep ports."""
    with running_system() as system:
        parent_pid, leaf_pid, _, _ = family(system)
        pids = processes_of(system)
        assert system.admin_pid is not None
        logger_pid = next(iter(set(pids) - {system.admin_pid, parent_pid, leaf_pid}))
        # Losing its logger ends the admin, and so all.
        expected = {"admin": set(pids), "logger": set(pids), "parent": {parent_pid, leaf_pid}}[victim]
        os.kill({"admin": system.admin_pid, "logger": logger_pid, "parent": parent_pid}[victim], signal.SIGKILL)
        wait_until(lambda: not any(map(is_living, expected)))


def test_an_ordinary_exit_request_ends_an_actor_and_its_children(tcp_system: OwnedSystem) -> None:
    """What Thespian does well is left as it is."""
    parent_pid, leaf_pid, parent, _ = family(tcp_system)
    tcp_system.tell(parent, ActorExitRequest())
    wait_until(lambda: not is_living(parent_pid) and not is_living(leaf_pid))


@pytest.mark.parametrize("order", ["read address zero", signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL])
def test_a_native_crash_ends_the_process_and_its_parent_is_told(
    tcp_system: OwnedSystem, order: str | signal.Signals
) -> None:
    """Thespian catches every signal; a crash would spin at full load for ever, unnoticed."""
    _, leaf_pid, parent, _ = family(tcp_system)
    message = (order,) if isinstance(order, str) else ("raise signal", int(order))
    assert tcp_system.ask(parent, message, 10) == "child exited"
    assert not is_living(leaf_pid)


def test_a_parent_is_told_of_every_child_that_dies_in_the_same_moment(tcp_system: OwnedSystem) -> None:
    """Thespian forgets the dead of whom it has not told when it tells of another one."""
    for _ in range(5):
        parent = tcp_system.createActor(Mourner)
        pids = [tcp_system.ask(child, "pid", 10) for child in tcp_system.ask(parent, "family", 10)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: tcp_system.ask(parent, "mourned", 10) == Mourner.CHILDREN, what="told of every child")  # noqa: B023
        tcp_system.tell(parent, ActorExitRequest())


def test_a_handler_of_the_script_for_a_signal_is_not_inherited_by_its_processes() -> None:
    """What a script does on SIGTERM, which may be to raise, would run in the middle of the logger's work."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with running_system() as system:
            pids = processes_of(system)
            for pid in pids:
                os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not any(map(is_living, pids)))
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_system_outlives_the_thread_that_started_it() -> None:
    """The kernel ties a child to the thread that forked it; a keeper thread stays for that."""
    started: list[OwnedSystem] = []
    thread = threading.Thread(target=lambda: started.append(start_system()))
    thread.start()
    thread.join()
    parent_pid, *_ = family(started[0])
    assert is_living(parent_pid)
    keepers = [thread for thread in threading.enumerate() if thread.name == "actor-system-keeper"]
    stop_system(started[0])
    assert not is_living(parent_pid)
    for keeper in keepers:
        keeper.join(10)
        assert not keeper.is_alive()


@pytest.mark.slow
def test_a_script_that_is_killed_at_any_moment_leaves_no_process(free_of_new_processes: None) -> None:
    """`kill -9` while it starts, runs or stops: whoever it started goes with it."""
    before = living_descendants()
    moments = random.Random(20)
    turn = turn_s()
    seen = set()
    for _ in range(KILLS):
        with forked(starting_and_stopping) as pid:
            time.sleep(moments.uniform(0, 1.5 * turn))  # the moment is what is tried, not waited for
            seen.add(len(living_descendants(pid)))
        wait_until(lambda: living_descendants() <= before, what="the end of the killed script's processes")
    # Kills fell where there was no process yet, or no more, and where there were all.
    assert {0, 4} <= seen


@pytest.mark.slow
def test_a_script_that_is_interrupted_at_any_moment_leaves_no_process(free_of_new_processes: None) -> None:
    """Ctrl-C reaches the script alone or its whole process group; it ends by itself and takes all with it."""
    before = living_descendants()
    moments = random.Random(21)
    latest = 1.5 * turn_s()
    for turn in range(KILLS // 2):
        with forked(starting_and_stopping) as pid:
            time.sleep(moments.uniform(0.01, latest))  # the moment is what is tried, not waited for
            (os.kill if turn % 2 else os.killpg)(pid, signal.SIGINT)
            wait_until(lambda pid=pid: not is_living(pid), what="the end of the interrupted script")  # type: ignore[misc]
            wait_until(lambda: living_descendants() <= before, what="the end of the script's processes")


def test_ctrl_c_in_a_foreground_script_ends_it_cleanly(free_of_new_processes: None) -> None:
    """The actors do not see it; the script does, stops the system, and ends as interrupted scripts do."""
    text = (
        "import signal, sys\n"
        "from client_replies.actors.thespian.system import *\n"
        "from tests.actors.thespian.test_system import Leaf\n"
        "try:\n"
        "    with running_system() as system:\n"
        "        leaf = system.createActor(Leaf)\n"
        "        print(system.ask(leaf, 'pid', 10) in processes_of(system), flush=True)\n"
        "        signal.pause()\n"
        "finally:\n"
        "    print('processes left:', processes_of(system), flush=True)\n"
    )
    script = subprocess.Popen(
        [sys.executable, "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    assert script.stdout is not None
    assert script.stdout.readline() == "True\n"
    os.killpg(script.pid, signal.SIGINT)
    output, errors = script.communicate(timeout=30)
    assert output == "processes left: []\n"
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert script.returncode == -signal.SIGINT


def test_the_processes_of_a_system_ignore_an_interrupt(tcp_system: OwnedSystem) -> None:
    """Whoever sends it to all of them changes nothing: only the script decides."""
    pids = processes_of(tcp_system)
    parent_pid, leaf_pid, _, leaf = family(tcp_system)
    for pid in (*pids, parent_pid, leaf_pid):
        os.kill(pid, signal.SIGINT)
    assert tcp_system.ask(leaf, "pid", 10) == leaf_pid
    assert set(processes_of(tcp_system)) == {*pids, parent_pid, leaf_pid}


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_during_start_or_stop_waits_until_nothing_is_half_done(
    times: int, monkeypatch: pytest.MonkeyPatch, free_of_new_processes: None
) -> None:
    """Whoever catches the interrupt and goes on has no process left; a second Ctrl-C does not hurry it into a mess."""
    start = system_module._start

    def start_interrupted(*args: Any) -> OwnedSystem:
        for _ in itertools.repeat(None, times):
            os.kill(os.getpid(), signal.SIGINT)
        return start(*args)

    monkeypatch.setattr(system_module, "_start", start_interrupted)
    with pytest.raises(KeyboardInterrupt):
        start_system()
    monkeypatch.undo()

    system = start_system()
    pids = processes_of(system)
    shutdown = system.shutdown

    def shutdown_interrupted() -> None:
        for _ in itertools.repeat(None, times):
            os.kill(os.getpid(), signal.SIGINT)
        shutdown()

    monkeypatch.setattr(system, "shutdown", shutdown_interrupted)
    with pytest.raises(KeyboardInterrupt):
        stop_system(system)
    assert not any(map(is_living, pids))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_script_that_ends_without_stopping_its_system_takes_it_along(free_of_new_processes: None) -> None:
    """An exception, sys.exit or SIGTERM is no reason to leave processes."""
    before = living_descendants()
    for leave in (lambda: None, lambda: os.kill(os.getpid(), signal.SIGTERM)):

        def run(leave: Callable[[], None] = leave) -> None:
            family(start_system())
            leave()

        with forked(run) as pid:
            wait_until(lambda pid=pid: not is_living(pid))  # type: ignore[misc]
            wait_until(lambda: living_descendants() <= before)


def test_adopted_actors_of_a_system_that_others_started_die_with_their_parent_and_of_crashes(
    free_of_new_processes: None,
) -> None:
    """`start_system` is not needed for that. (Of Thespian's own bases, this one opens no ports.)"""
    theirs = ActorSystem("multiprocQueueBase", transientUnique=True)
    try:
        creator = theirs.createActor(Creator)
        creator_pid, adopted = theirs.ask(creator, "create", 10)
        adopted_pid = theirs.ask(adopted, "pid", 10)
        _, crashing = theirs.ask(creator, "create", 10)
        crashing_pid = theirs.ask(crashing, "pid", 10)
        theirs.tell(crashing, "read address zero")
        wait_until(lambda: not is_living(crashing_pid))
        assert is_living(adopted_pid)
        os.kill(creator_pid, signal.SIGKILL)
        wait_until(lambda: not is_living(adopted_pid))
    finally:
        theirs.shutdown()


def test_adopting_changes_nothing_where_actors_share_the_callers_process() -> None:
    """On the simple base the process is the script's own."""
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGSEGV)]
    with running_system("simpleSystemBase") as system:
        assert system.ask(system.createActor(Adopted), "pid", 10) == os.getpid()
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGSEGV)] == before


def test_a_port_is_free_again_when_its_system_has_stopped() -> None:
    """No process of the system inherited the listening socket and lives."""
    with running_system() as system:
        port = system.admin_port
    assert port not in {port for _, port in listening([os.getpid()])}
    with running_system(port=port) as system:
        assert system.admin_port == port
        assert family(system)
