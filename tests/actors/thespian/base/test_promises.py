"""What Thespian promises, one test each, on the base of this project, with processes that are forked and spawned."""

import os
import random
import re
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from thespian.actors import ActorAddress, ActorExitRequest, ActorSystem, InvalidActorSourceHash

from client_replies.actors.thespian.base import FRAME_SIZE_MAX, UNIX_BASE
from client_replies.actors.thespian.system import OwnedSystem, processes_of, running_system

from .actors import Authority, Deep, Echo, Flooder, Initialised, Letters, Parent, Payload, Sleeper, Watcher
from tests.processes import is_living, listening, wait_until

TIMEOUT_S = 20


@pytest.fixture(params=["fork", "spawn"], scope="module")
def system(request: pytest.FixtureRequest) -> Iterator[OwnedSystem]:
    """A system whose processes are made in this way."""
    with running_system(capabilities={"Process Startup Method": request.param}) as started:
        yield started


@pytest.fixture
def parent(system: OwnedSystem) -> ActorAddress:
    """An actor with a child that is up."""
    address = system.createActor(Parent)
    assert asked(system, address, "child") == "child is up"
    return address


def asked(system: ActorSystem, address: ActorAddress, question: object) -> Any:
    """The answer to a question, with the time that a busy machine may need."""
    return system.ask(address, question, TIMEOUT_S)


def until_told(system: OwnedSystem, parent: ActorAddress, condition: Callable[[list[Any]], bool]) -> list[Any]:
    """What the parent was told, once that is so."""
    told: list[Any] = []

    def holds() -> bool:
        told[:] = asked(system, parent, "told")
        return condition(told)

    wait_until(holds, TIMEOUT_S, "what the parent waits for")
    return told


def test_no_call_of_a_handler_maps_memory_anew(system: OwnedSystem) -> None:
    """CPython maps a chunk for frames where the last one ends; an actor's process begins deep, and might end there."""
    assert asked(system, system.createActor(Deep), 200) < 100


def test_an_actor_answers_whoever_asks(system: OwnedSystem) -> None:
    """createActor, ask and send."""
    assert asked(system, system.createActor(Echo), "hello") == "hello"


def test_what_is_told_is_answered_to_whoever_listens(system: OwnedSystem) -> None:
    """Tell and listen; listen comes back with nothing when its time is over."""
    echo = system.createActor(Echo)
    system.tell(echo, "told")
    assert system.listen(TIMEOUT_S) == "told"
    assert system.listen(0.05) is None


def test_an_actor_is_made_with_capabilities_and_requirements(system: OwnedSystem) -> None:
    """They reach its `__init__`."""
    address = system.createActor(Initialised, targetActorRequirements={"size": 7})
    assert asked(system, address, "made with") == (UNIX_BASE, {"size": 7})


def test_an_address_in_a_message_can_be_sent_to(system: OwnedSystem) -> None:
    """Also to somebody who has never met its actor."""
    flooder, echo = system.createActor(Flooder), system.createActor(Echo)
    system.tell(echo, ("say", flooder, ("flood", flooder, 3, False)))
    wait_until(lambda: asked(system, flooder, "counted") == (3, 0), TIMEOUT_S)


def test_a_child_says_who_it_is_before_its_parent_knows(system: OwnedSystem, parent: ActorAddress) -> None:
    """Messages to a child that has not started wait for it; its address in a message is its real one."""
    child = asked(system, parent, "child's address")
    assert asked(system, child, "pid") in processes_of(system)


@pytest.mark.parametrize("size", [0, 1, 4096, 40_000, 1 << 20, 8 << 20])
def test_messages_of_every_size_arrive_unchanged(system: OwnedSystem, size: int) -> None:
    """Several times over one connection, among small ones."""
    echo, data = system.createActor(Echo), os.urandom(size)
    for _ in range(3):
        assert asked(system, echo, Payload(data)).data == data
        assert asked(system, echo, "small") == "small"


@pytest.mark.slow
def test_a_message_of_thousands_of_large_parts_arrives_unchanged(system: OwnedSystem) -> None:
    """More parts than the kernel takes in one call."""
    parts = [os.urandom(1) * 20_000 for _ in range(1500)]
    assert asked(system, system.createActor(Echo), ["first"]) == ["first"]
    assert asked(system, system.createActor(Echo), parts) == parts
    assert asked(system, system.createActor(Echo), parts) == parts


def test_a_message_longer_than_the_limit_comes_back_as_poison(system: OwnedSystem, parent: ActorAddress) -> None:
    """Instead of closing the receiver's connection."""
    with pytest.raises(Exception, match="at most"):
        system.tell(parent, Payload(bytes(FRAME_SIZE_MAX)))


def test_what_cannot_be_pickled_comes_back_as_poison(system: OwnedSystem, parent: ActorAddress) -> None:
    """To its sender, with the reason."""
    system.tell(parent, "send child what cannot be pickled")
    told = until_told(system, parent, bool)
    assert told[0][0] == "poison"
    assert "lambda" in told[0][1]


def test_a_message_that_raises_twice_comes_back_as_poison(system: OwnedSystem, parent: ActorAddress) -> None:
    """And the actor lives on."""
    system.tell(parent, ("send child", "raise"))
    assert until_told(system, parent, bool) == [("poison", "ValueError: as asked")]
    assert asked(system, asked(system, parent, "child's address"), "still") == "still"


@pytest.mark.parametrize("how", ["asked to", "killed"])
def test_a_parent_is_told_when_its_child_has_ended(system: OwnedSystem, parent: ActorAddress, how: str) -> None:
    """Whether it was asked to or was killed."""
    if how == "killed":
        os.kill(asked(system, asked(system, parent, "child's address"), "pid"), signal.SIGKILL)
    else:
        system.tell(parent, "send child an exit")
    assert until_told(system, parent, bool)[0] == ("exited", True)


def test_what_is_sent_to_the_dead_is_a_dead_letter(system: OwnedSystem, parent: ActorAddress) -> None:
    """And so is what a script tells it."""
    letters = system.createActor(Letters)
    assert asked(system, letters, "handle") == "handling"
    child = asked(system, parent, "child's address")
    os.kill(asked(system, child, "pid"), signal.SIGKILL)
    until_told(system, parent, bool)
    for text in ("late", "later"):
        system.tell(parent, ("send child", text))
    wait_until(lambda: asked(system, letters, "letters") == ["late", "later"], TIMEOUT_S)
    assert system.ask(child, "anybody?", TIMEOUT_S) is None
    wait_until(lambda: asked(system, letters, "letters") == ["late", "later", "anybody?"], TIMEOUT_S)
    system.tell(letters, ActorExitRequest())


def test_what_an_exiting_actor_has_not_read_is_a_dead_letter(system: OwnedSystem) -> None:
    """Messages behind the request to exit, that the kernel took while the actor was busy, are not lost."""
    letters, echo = system.createActor(Letters), system.createActor(Echo)
    assert asked(system, letters, "handle") == "handling"
    system.tell(echo, ("sleep", 0.5))
    for message in (ActorExitRequest(), *range(20)):
        system.tell(echo, message)
    wait_until(lambda: asked(system, letters, "letters") == list(range(20)), TIMEOUT_S)
    system.tell(letters, ActorExitRequest())


def test_wakeups_come_in_the_order_of_their_times(system: OwnedSystem) -> None:
    """Not in that in which they were set; none is missed or early; equal ones come in the order of their setting."""
    sleeper = system.createActor(Sleeper)
    delays = [random.Random(5).randrange(100) / 1000 for _ in range(300)]
    woken = asked(system, sleeper, ("wake", delays))
    assert [delay for delay, _ in woken] == sorted(delays)
    assert all(late >= delay for delay, late in woken)


def test_a_chain_of_wakeups_does_not_starve_messages(system: OwnedSystem) -> None:
    """An actor that wakes itself at once, always, still answers."""
    sleeper = system.createActor(Sleeper)
    system.tell(sleeper, "chain")
    for _ in range(20):
        assert asked(system, sleeper, "ping") == "pong"
    system.tell(sleeper, ActorExitRequest())


def test_a_watched_descriptor_is_told_when_it_is_readable(system: OwnedSystem) -> None:
    """ThespianWatch; and one that was closed is watched no more, and does no harm."""
    watcher = system.createActor(Watcher)
    for _ in range(3):
        assert asked(system, watcher, "watch") == (True, 7)


def test_the_threads_of_an_actor_may_send(system: OwnedSystem) -> None:
    """Each thread's messages arrive, all of them, in its order, also those that waited for room."""
    watcher, count = system.createActor(Watcher), 2000
    with system.private() as listener:
        listener.tell(watcher, ("threads", count))
        got = [listener.listen(TIMEOUT_S) for _ in range(4 * count)]
    assert sorted(got) == [(name, number) for name in range(4) for number in range(count)]
    for name in range(4):
        assert [number for of, number in got if of == name] == list(range(count))


def test_threads_of_a_script_each_get_their_own_answers(system: OwnedSystem) -> None:
    """With a private context each."""
    echo = system.createActor(Echo)
    wrong: list[int] = []

    def ask_often(name: int) -> None:
        with system.private() as private:
            wrong.extend(number for number in range(100) if private.ask(echo, (name, number), 20) != (name, number))

    threads = [threading.Thread(target=ask_often, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.slow
def test_two_who_flood_each_other_get_every_message_in_order(system: OwnedSystem) -> None:
    """Many times what may wait for one peer, in one handler each. (On TCP both would wait for ever.)"""
    first, second, count = system.createActor(Flooder), system.createActor(Flooder), 20_000
    system.tell(first, ("flood", second, count, True))
    for flooder in (first, second):
        wait_until(lambda: asked(system, flooder, "counted") == (count, 0), 60)  # noqa: B023


def test_a_peer_that_does_not_read_holds_up_nobody_else(system: OwnedSystem) -> None:
    """An actor with a full queue to a busy one answers others meanwhile; afterwards everything has arrived."""
    sender, busy = system.createActor(Flooder), system.createActor(Flooder)
    system.tell(busy, ("sleep", 0.5))
    system.tell(sender, ("flood", busy, 900, False))
    assert asked(system, sender, "counted") == (0, 0)
    wait_until(lambda: asked(system, busy, "counted") == (900, 0), TIMEOUT_S)


def test_of_what_was_sent_to_a_killed_actor_all_but_a_few_are_dead_letters(system: OwnedSystem) -> None:
    """Those few were in the kernel; that is about 700, however many were sent."""
    letters, sender, victim = system.createActor(Letters), system.createActor(Flooder), system.createActor(Echo)
    assert asked(system, letters, "handle") == "handling"
    pid = asked(system, victim, "pid")
    os.kill(pid, signal.SIGSTOP)
    system.tell(sender, ("flood", victim, 1500, False))
    assert asked(system, sender, "counted") == (0, 0)
    os.kill(pid, signal.SIGKILL)

    def found() -> list[Any]:
        return [each for each in asked(system, letters, "letters") if isinstance(each, int)]

    wait_until(lambda: len(found()) >= 1500 - 750, TIMEOUT_S)
    wait_until(lambda: found()[-1] == 1499, TIMEOUT_S)


@pytest.mark.slow
def test_an_idle_system_does_not_wake(system: OwnedSystem, parent: ActorAddress) -> None:
    """No timer, no poll: a process that has nothing to do is not run at all."""
    asked(system, parent, "told")

    def switches() -> list[int]:
        """How often each process was run."""
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in processes_of(system)]
        return [int(count) for text in texts for count in re.findall(r"voluntary_ctxt_switches:\s*(\d+)", text)]

    def are_asleep() -> bool:
        before = switches()
        time.sleep(2.0)
        return switches() == before

    wait_until(are_asleep, 3 * TIMEOUT_S)


def test_source_can_be_loaded_and_its_actors_created(system: OwnedSystem, tmp_path: Path) -> None:
    """From a zip file that no process has on its path."""
    archive = tmp_path / "source.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(
            "loaded.py",
            "from thespian.actors import Actor\n"
            "class Loaded(Actor):\n"
            "    def receiveMessage(self, message, sender):\n"
            "        if isinstance(message, str):\n"
            "            self.send(sender, __name__)\n",
        )
    authority = system.createActor(Authority)
    assert asked(system, authority, "register") == "registered"
    loaded: list[ActorAddress] = []

    def is_created() -> bool:
        source = system.loadActorSource(str(archive))
        try:
            loaded.append(system.createActor("loaded.Loaded", sourceHash=source))
        except InvalidActorSourceHash:  # the authority's registration is still on its way
            return False
        return True

    wait_until(is_created, TIMEOUT_S)
    assert "loaded" in asked(system, loaded[0], "name")


def test_a_global_name_names_one_actor(system: OwnedSystem) -> None:
    """Asking twice for it gives the same one."""
    pids = {asked(system, system.createActor(Echo, globalName="the one"), "pid") for _ in range(2)}
    assert len(pids) == 1


def test_no_tcp_port_is_listened_at(system: OwnedSystem, parent: ActorAddress) -> None:
    """By no process of a system that has no other hosts."""
    assert listening([os.getpid(), *processes_of(system)]) == []


@pytest.mark.slow
def test_what_a_script_does_in_turn_reaches_the_admin_in_turn(system: OwnedSystem) -> None:
    """A capability is there for the actor that is created next, though that goes over another connection."""
    for number in range(30):
        name = f"capability {number}"
        system.updateCapability(name, True)
        address = system.createActor(Initialised, targetActorRequirements=name)
        assert asked(system, address, "capability") == name
        system.tell(address, ActorExitRequest())


def test_a_script_can_join_the_system_of_another_by_its_port() -> None:
    """As with every base of Thespian: `ActorSystem(name)` joins the system that is there, or starts one."""
    with running_system() as probe:
        port = probe.admin_port
    first = ActorSystem(UNIX_BASE, {"Admin Port": port}, transientUnique=True)
    try:
        echo = first.createActor(Echo, globalName="joined")
        second = ActorSystem(UNIX_BASE, {"Admin Port": port}, transientUnique=True)
        assert asked(second, second.createActor(Echo, globalName="joined"), "pid") == asked(first, echo, "pid")
    finally:
        first.shutdown()


def test_a_shutdown_leaves_no_process_and_no_descriptor() -> None:
    """However often a system is started and stopped."""
    counts = set()
    for _ in range(3):
        with running_system() as started:
            pids = [asked(started, started.createActor(Echo), "pid"), *processes_of(started)]
        assert not any(map(is_living, pids))
        counts.add(len(os.listdir("/proc/self/fd")))
    assert len(counts) == 1


def test_a_forked_child_of_an_actor_or_script_holds_no_socket_of_it(system: OwnedSystem) -> None:
    """What ends when the process ends must not live on in a copy of it."""
    pid = os.fork()
    if pid == 0:
        sockets = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and _is(fd)]
        os._exit(len(sockets))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _is(fd: str) -> bool:
    try:
        return "socket:" in os.readlink(f"/proc/self/fd/{fd}") or "eventfd" in os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return False
