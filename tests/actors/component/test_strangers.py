"""Strangers: whoever is in the system, or can reach a port of it, and has no business there. None does harm.

Written against the system as its users see it: actors, messages, processes, sockets.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import secrets
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from thespian.actors import Actor, ActorAddress

from client_replies.actors.component.client_replies import ClientRepliesActor
from client_replies.actors.component.message_pool import MessagePoolActor
from client_replies.actors.component.storage import StorageActor
from client_replies.actors.thespian.component_actor import ComponentActor
from client_replies.actors.thespian.environment import RealEnvironment
from client_replies.actors.thespian.logs import LIMITED_LINES_BURST
from client_replies.actors.thespian.system import (
    OwnedSystem,
    configure_logging,
    get_logger,
    running_system,
)
from client_replies.cluster.door.gateway import GatewayActor, GatewayFailed, GetGatewayStatus
from client_replies.cluster.replica.replica import ReplicaActor
from client_replies.messages.config import OpenMode
from client_replies.messages.faults import FaultKind, InvariantBroken
from client_replies.messages.leases import (
    AcquireLeases,
    LeasesGranted,
    LeasesRefused,
    OpenPool,
    PoolOpened,
    PoolOpenFailed,
    ReclaimLeases,
    ReleaseLeases,
    make_lease,
)
from client_replies.messages.message import Message
from client_replies.messages.peers import Missing
from client_replies.messages.protocol import PROTOCOL, Party
from client_replies.messages.replies import (
    AwaitDurable,
    Checkpoint,
    CloseReplies,
    InstallSessions,
    NotRead,
    OpenFailed,
    OpenReplies,
    ReadReply,
    RemoveReplies,
    RepliesDurable,
    RepliesOpened,
    ReplyLost,
    ReplyNotRead,
    ReplyTaken,
    RequestRefused,
    SetPeers,
    StorageFailed,
    WriteReplies,
    WritesAccepted,
    WritesRefused,
)
from client_replies.messages.storage_io import OpenStorage, StorageOpened

from tests.actors.doubles import Forward, Forwarded, Forwarder, Scripted, WatchedReplies
from tests.actors.driver import KIB, Book, Driver, config_for, damage, found, missing
from tests.processes import few_descriptors, is_living, listening

ROOT = Path(__file__).resolve().parents[3]

ACTORS: tuple[type[ComponentActor], ...] = (
    ClientRepliesActor,
    StorageActor,
    MessagePoolActor,
    ReplicaActor,
    GatewayActor,
)


class Stranger:
    """Another actor of the same system, with an address of its own, that sends what the test tells it to send."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.address: ActorAddress = driver.system.createActor(Forwarder)

    def send(self, message: Message, to: Any = None) -> None:
        """Send a message, to the driver's component unless told otherwise."""
        self.driver.send(Forward(target=to or self.driver.replies, message=message), self.address)
        self.driver.expect(Scripted)

    def expect(self, *kinds: type) -> Any:
        """Give the answer that the stranger got."""
        return self.driver.expect(Forwarded, where=lambda forwarded: isinstance(forwarded.message, kinds)).message


# Messages of strangers.


@pytest.mark.parametrize("actor", ACTORS)
def test_an_actor_handles_what_it_is_sent_and_nothing_else(actor: type[ComponentActor]) -> None:
    """It starts; one that forgets a message, or takes one that is not for it, does not."""
    capabilities = {"Thespian ActorSystem Name": "simpleSystem"}
    handlers = actor(capabilities).handlers()
    names = {message.__name__ for message in handlers}
    for wrong in (dict(list(handlers.items())[1:]), {**handlers, Forward: print}):
        astray = names ^ {message.__name__ for message in wrong}
        mutant = type("Mutant", (actor,), {"handlers": lambda self, wrong=wrong: wrong})
        with pytest.raises(InvariantBroken, match=str(sorted(astray)).replace("[", r"\[")):
            mutant(capabilities)


def test_no_actor_says_for_itself_who_may_send_what_the_protocol_has() -> None:
    """The component's table is the only one for its messages."""
    listed = {row.message for row in PROTOCOL}
    assert [actor for actor in ACTORS if listed & set(actor.senders)] == []


def test_anyone_may_ask_for_a_status_or_open_and_nothing_else() -> None:
    """The open doors of the component, written out."""
    anyone = {row.message.__name__ for row in PROTOCOL if row.sender is Party.ANYONE}
    assert anyone == {"OpenReplies", "GetStatus", "GetPoolStatus"}


def owners_requests(driver: Driver, book: Book, number: int) -> Mapping[Message, tuple[type, ...]]:
    """Give what an owner may send, all right but for the sender, and what refuses it."""
    owner, op, reply = driver.owner, book.op, book.replies[0]
    return {
        WriteReplies(owner=owner, number=number, op=op, slots=(0,), payloads=(reply,)): (WritesRefused,),
        RemoveReplies(owner=owner, number=number, op=op, slots=(0,)): (WritesRefused,),
        InstallSessions(owner=owner, number=number, op=op, sessions=Book().encode()): (RequestRefused,),
        Checkpoint(owner=owner, number=number, op=op, sessions=Book().encode()): (RequestRefused,),
        CloseReplies(owner=owner, number=number): (RequestRefused,),
        SetPeers(owner=owner, version=9, peers=()): (RequestRefused,),
        AwaitDurable(owner=owner, wait=77, slots=(0,)): (RequestRefused,),
        ReadReply(owner=owner, read=77, slot=0, expected=reply[:256]): (ReplyNotRead,),
    }


def test_what_only_the_owner_may_ask_is_refused_to_everybody_else(asys: OwnedSystem, tmp_path: Path) -> None:
    """Owner's number and next message number are right, the sender is not: a typed refusal, and nothing changes."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    driver.commit(book, 0)
    before = driver.status(0)
    stranger = Stranger(driver)
    requests = owners_requests(driver, book, driver.number + 1)
    for message, kinds in requests.items():
        stranger.send(message)
        refused = stranger.expect(*kinds)
        kind = refused.reason if isinstance(refused, ReplyNotRead) else refused.fault.kind
        assert kind in (NotRead.CLOSED, FaultKind.OWNER_UNKNOWN), message
    stranger.send(ReplyTaken(owner=driver.owner, read=1))
    after = driver.until(lambda status: status.counters["message_of_stranger"] == len(requests) + 1, 0)
    assert replace(after, counters={}, request=0) == replace(before, counters={}, request=0)
    assert driver.read(0, book.header(0)) == book.replies[0]
    driver.close()


def test_a_batch_under_the_owners_next_number_from_a_stranger_does_not_take_its_place(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """The honest batch of that number is written, not accepted as a repetition and dropped."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    stranger = Stranger(driver)
    stranger.send(WriteReplies(owner=driver.owner, number=1, op=0, slots=(), payloads=()))
    stranger.expect(WritesRefused)
    driver.commit(book, 0)
    assert driver.read(0, book.header(0)) == book.replies[0]
    driver.close()


def test_a_refused_batch_from_a_stranger_does_not_redirect_the_owners_answers(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """The batch is wrong in content, so it was refused before, too; what is told afterwards still goes to the owner."""
    config, book = config_for(tmp_path / "file", hold_back=0.01), Book()
    driver = Driver(asys, scripted=True)
    driver.open(config)
    driver.hold("write")
    number = driver.post({0: book.reply(0)}, op=book.op, durable=True)
    driver.accepted(number)
    driver.held("write")
    stranger = Stranger(driver)
    stranger.send(WriteReplies(owner=driver.owner, number=number + 1, op=0, slots=(99,), payloads=(b"rubbish",)))
    stranger.expect(WritesRefused)
    driver.let_go("write")
    assert driver.expect(RepliesDurable).through == number
    driver.close()


def test_an_opening_that_is_not_for_the_open_file_evicts_nobody(asys: OwnedSystem, tmp_path: Path) -> None:
    """Another path, cluster or replica, a mode that would format, or the owner's own number from elsewhere."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    driver.commit(book, 0)
    stranger = Stranger(driver)
    wrong = [
        OpenReplies(owner=10**6, config=replace(config, path=str(tmp_path / "other"))),
        OpenReplies(owner=10**6, config=replace(config, cluster=99)),
        OpenReplies(owner=10**6, config=replace(config, replica=9)),
        OpenReplies(owner=10**6, config=config, mode=OpenMode.FORMAT),
        OpenReplies(owner=driver.owner, config=config),
    ]
    for message in wrong:
        stranger.send(message)
        assert stranger.expect(OpenFailed).fault.kind in (FaultKind.ALREADY_OPEN, FaultKind.OWNER_UNKNOWN)
    driver.commit(book, 0, 1)
    assert driver.read(1, book.header(1)) == book.replies[1]
    driver.close()
    assert not (tmp_path / "other").exists()


def test_an_owner_that_starts_again_elsewhere_takes_over_and_the_old_one_learns_it(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """New number, new address, the same file: legitimate. What the old one sends afterwards is refused."""
    config, book = config_for(tmp_path / "file"), Book()
    old = Driver(asys)
    old.open(config)
    old.commit(book, 0)
    heir = Stranger(old)
    heir.send(OpenReplies(owner=10**6, config=config, mode=OpenMode.OPEN))
    assert heir.expect(RepliesOpened, OpenFailed).op == 0
    refused = old.try_write({1: book.reply(1)}, op=book.op)
    assert isinstance(refused, WritesRefused)
    assert refused.fault.kind is FaultKind.OWNER_UNKNOWN
    heir.send(WriteReplies(owner=10**6, number=1, op=book.op, slots=(1,), payloads=(book.replies[1],)))
    assert heir.expect(WritesAccepted, WritesRefused).number == 1


def test_guessed_leases_of_a_stranger_release_nothing(asys: OwnedSystem, tmp_path: Path) -> None:
    """Neither under a number of its own, nor under the owner's or the component's: the storage lives."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    (lease,) = driver.lease(book.reply(0, 20 * KIB))
    held = driver.pool_status().held
    stranger = Stranger(driver)
    guesses = tuple(make_lease(buffer, generation) for buffer in range(8) for generation in (1, 2, 3))
    for holder in (10**6, driver.owner):
        stranger.send(ReleaseLeases(holder=holder, number=1, leases=guesses), driver.pool)
        assert stranger.expect(LeasesRefused).fault.kind is FaultKind.HOLDER_UNKNOWN
    assert driver.pool_status().held == held
    driver.write_durable({0: lease}, op=book.op)
    assert driver.read(0, book.header(0)) == book.replies[0]
    driver.close()


def test_an_owner_cannot_release_what_the_component_holds(asys: OwnedSystem, tmp_path: Path) -> None:
    """Its own buffers alone: a buffer that it was lent for a read stays the component's, and the storage lives."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    (lease,) = driver.lease(book.reply(0, 20 * KIB))
    driver.write_durable({0: lease}, op=book.op)
    held = driver.pool_status().held
    guesses = tuple(make_lease(buffer, generation) for buffer in range(8) for generation in (1, 2, 3))
    assert driver.release(*guesses).stale == guesses
    assert driver.pool_status().held == held
    assert driver.read(0, book.header(0)) == book.replies[0]
    driver.close()


def test_a_lease_that_its_owner_gave_back_too_early_stops_the_storage_with_its_reason(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """The owner's own mistake: the component says what was wrong, and no process dies of it."""
    config, book = config_for(tmp_path / "file", hold_back=1.0), Book()
    driver = Driver(asys)
    driver.open(config)
    (lease,) = driver.lease(book.reply(0, 20 * KIB))
    driver.write({0: lease}, op=book.op)
    driver.release(lease)
    assert driver.expect(StorageFailed).fault.kind is FaultKind.LEASE_STALE


def test_reclaiming_the_owners_leases_is_the_components_affair(asys: OwnedSystem, tmp_path: Path) -> None:
    """A stranger that declares the owner dead is not believed: the owner acquires and writes on."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    stranger = Stranger(driver)
    stranger.send(ReclaimLeases(holder=driver.owner), driver.pool)
    stranger.send(ReleaseLeases(holder=1, number=1, leases=()), driver.pool)
    stranger.expect(LeasesRefused)  # so the reclaim was seen
    (lease,) = driver.lease(book.reply(0, 20 * KIB))
    driver.write_durable({0: lease}, op=book.op)
    driver.close()


def test_a_pool_in_use_is_opened_by_nobody_else(asys: OwnedSystem, tmp_path: Path) -> None:
    """And lends to nobody else, under whatever number; the owner gets all that it was promised."""
    config, book = config_for(tmp_path / "file"), Book()
    driver = Driver(asys)
    driver.open(config)
    stranger = Stranger(driver)
    pool = OpenPool(
        buffers=config.buffers_max + config.read_buffers + config.repair_buffers,
        size=config.message_size_max,
        waiting_max=4,
        holders=((driver.owner, stranger.address),),
    )
    stranger.send(pool, driver.pool)
    assert stranger.expect(PoolOpenFailed).fault.kind is FaultKind.ALREADY_OPEN
    for holder in range(10**6, 10**6 + 20):
        stranger.send(AcquireLeases(holder=holder, number=1, count=1), driver.pool)
        assert stranger.expect(LeasesRefused, LeasesGranted).fault.kind is FaultKind.HOLDER_UNKNOWN
    assert driver.pool_status().held == config.read_buffers + config.repair_buffers
    driver.lease(*(book.reply(slot, 20 * KIB) for slot in range(config.buffers_max)))
    driver.close()


def test_a_stranger_repairs_nothing_declares_nothing_lost_and_is_served_nothing(
    asys: OwnedSystem, tmp_path: Path
) -> None:
    """All that a peer may say, with the right numbers, from an address that is not the peer's."""
    config, book = config_for(tmp_path / "file"), Book()
    formatter = Driver(asys)
    formatter.open(config)
    formatter.commit(book, 0)
    formatter.checkpoint(book)
    formatter.close()
    damage(config, 0)
    driver = Driver(asys)
    assert driver.open(config).faulty == (0,)
    peer = driver.scripted_peer(1)
    driver.set_peers((1, peer))
    asked = driver.asked(1)
    stranger = Stranger(driver)
    stranger.send(missing(asked, 1, Missing.SUPERSEDED))
    stranger.send(found(asked, 1, {0: book.replies[0]}))
    stranger.send(replace(asked, asker=1))
    status = driver.until(lambda status: status.counters.get("message_of_stranger") == 3)
    assert (status.faulty, status.lost) == ((0,), ())
    assert not driver.has(ReplyLost, Forwarded)
    driver.answer_as(peer, found(asked, 1, {0: book.replies[0]}))
    driver.durable(0)
    driver.close()


# Requirements that are no environment.


@pytest.mark.parametrize("actor", ACTORS)
def test_requirements_of_thespians_own_are_no_environment(actor: type) -> None:
    """A question to capabilities that was answered when the actor was placed: it lives on the machine itself."""
    instance = actor(capabilities={"Thespian ActorSystem Name": "simpleSystem"}, requirements={"disk": "a"})
    assert isinstance(instance.environment, RealEnvironment)


@pytest.mark.parametrize("base", ["simpleSystemBase", "multiprocTCPBase"])
def test_a_component_that_is_placed_by_requirements_works(base: str, tmp_path: Path) -> None:
    """And so do its children, and a pool, a storage and a gateway that are placed so themselves."""
    required, book = {"disk": "a"}, Book()
    with running_system(base, capabilities={"disk": "a"}) as system:
        driver = Driver(system, replies=system.createActor(ClientRepliesActor, required))
        driver.open(config_for(tmp_path / "file"))
        driver.commit(book, 0)
        assert driver.read(0, book.header(0)) == book.replies[0]
        driver.close()
        pool = system.createActor(MessagePoolActor, required)
        driver.send(OpenPool(buffers=1, size=4096, waiting_max=1), pool)
        memory = driver.expect(PoolOpened).memory
        storage = system.createActor(StorageActor, required)
        opening = OpenStorage(batch=1, config=config_for(tmp_path / "other"), mode=OpenMode.FORMAT, memory=memory)
        driver.send(opening, storage)
        assert driver.expect(StorageOpened).formatted
        gateway = system.createActor(GatewayActor, required)
        driver.send(GetGatewayStatus(request=1), gateway)
        assert "not started" in driver.expect(GatewayFailed).reason


# Log lines.


class Loud(Actor):
    """Logs as many lines as it is told to, and answers when they are logged."""

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        """Log."""
        if isinstance(message, int):
            log = get_logger("loud")
            for number in range(message):
                log.warning("loud", number=number, text="x" * 300)
            self.send(sender, message)


LOUD = 3000
TOLD = 600  # unknown messages, each worth a line of its own if lines were not limited: more than a pipe holds
SCRIPT_WITH_A_LOUD_ACTOR = f"""
import sys
from client_replies.actors import ClientRepliesActor, running_system
from client_replies.messages import GetStatus
from tests.actors.component.test_strangers import Loud
with running_system() as system:
    replies, loud = system.createActor(ClientRepliesActor), system.createActor(Loud)
    for _ in range({TOLD}):
        system.tell(replies, "x")
    print("status", system.ask(replies, GetStatus(request=1), 30), flush=True)
    print("loud", system.ask(loud, {LOUD}, 30), flush=True)
    sys.stdin.readline()
    print("again", system.ask(loud, 1, 30), flush=True)
"""


@contextlib.contextmanager
def script(text: str, **how: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a few lines in a process of their own, which does not outlive the test."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", text], cwd=ROOT, text=True, **{**pipes, **how}) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str], timeout_s: float = 60.0) -> str:
    """Give the next line that the script prints."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], timeout_s)
    assert ready, "the script stands still"
    return process.stdout.readline().strip()


def lines_in(descriptor: int) -> list[dict[str, Any]]:
    """Give the log lines that wait in a pipe, each whole."""
    os.set_blocking(descriptor, False)
    data = b""
    while True:
        try:
            part = os.read(descriptor, 65_536)
        except BlockingIOError:
            break
        if not part:
            break
        data += part
    os.set_blocking(descriptor, True)
    return [json.loads(line) for line in data.decode().splitlines() if line]


def test_a_full_stderr_pipe_that_nobody_reads_blocks_no_actor(free_of_new_processes: None) -> None:
    """Lines are dropped and counted; when there is room again, the next line is preceded by their number."""
    reading, writing = os.pipe()
    with script(SCRIPT_WITH_A_LOUD_ACTOR, stderr=writing) as process:
        assert line_of(process) == "status RepliesStatus"
        assert line_of(process) == f"loud {LOUD}"
        assert not fcntl.fcntl(writing, fcntl.F_GETFL) & os.O_NONBLOCK, "the description is shared with others"
        before = [line for line in lines_in(reading) if line["component"] == "loud"]
        assert 0 < len(before) < LOUD
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert line_of(process) == "again 1"
        after = [line for line in lines_in(reading) if line["pid"] == before[0]["pid"]]
    assert [line["event"] for line in after] == ["lines_dropped", "loud"]
    assert after[0]["dropped"] == LOUD - len(before)
    for descriptor in (reading, writing):
        os.close(descriptor)


def unread_terminal() -> tuple[list[int], int]:
    """Give what to close, and a terminal that nobody reads."""
    master, slave = pty.openpty()
    return [master, slave], slave


def unread_socket() -> tuple[list[int], int]:
    """Give what to close, and a socket that nobody reads, as stderr is under some supervisors."""
    ours, theirs = socket.socketpair()
    return [ours.detach(), theirs.fileno()], theirs.detach()


def broken_pipe() -> tuple[list[int], int]:
    """Give what to close, and a pipe whose reader is gone."""
    reading, writing = os.pipe()
    os.close(reading)
    return [writing], writing


def full_disk() -> tuple[list[int], int]:
    """Give what to close, and a device without room."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    return [descriptor], descriptor


@pytest.mark.slow
@pytest.mark.parametrize("make", [unread_terminal, unread_socket, broken_pipe, full_disk])
def test_whatever_stderr_is_no_actor_stands_still_or_dies(
    make: Callable[[], tuple[list[int], int]], free_of_new_processes: None
) -> None:
    """A terminal, a socket, a pipe without a reader, a full disk."""
    descriptors, stderr = make()
    with script(SCRIPT_WITH_A_LOUD_ACTOR, stderr=stderr) as process:
        assert line_of(process) == "status RepliesStatus"
        assert line_of(process) == f"loud {LOUD}"
        assert process.communicate("\n", timeout=60)[0].strip() == "again 1"
        assert process.returncode == 0
    for descriptor in descriptors:
        os.close(descriptor)


def test_a_process_that_begins_without_stderr_logs_into_no_file_of_its_own(tmp_path: Path) -> None:
    """The next file that is opened gets the number 2: a log line in a data file would be damage."""
    text = (
        "import os\n"
        "from client_replies.actors.thespian.logs import get_logger\n"
        f"file = os.open({str(tmp_path / 'data')!r}, os.O_RDWR | os.O_CREAT)\n"
        "get_logger('tests').warning('lost')\n"
        "print(file)\n"
    )
    with script(text, preexec_fn=lambda: os.close(2)) as process:
        assert process.communicate(timeout=60)[0] == "2\n"
    assert (tmp_path / "data").read_bytes() == b""


def test_a_flood_of_messages_of_strangers_is_no_flood_of_lines(tmp_path: Path) -> None:
    """Each is counted; the first are logged, then one line per second says how many were left out."""
    configure_logging(str(tmp_path / "log"))
    try:
        with running_system() as system:
            driver = Driver(system)
            for _ in range(500):
                driver.send("x")
                driver.send(RepliesDurable(owner=1, through=1))
            status = driver.until(lambda status: status.counters.get("messages_unknown") == 1000)
            assert status.counters["messages_unknown"] == 1000
    finally:
        configure_logging(None)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    unknown = [line for line in lines if line["event"] == "messages_unknown"]
    assert LIMITED_LINES_BURST <= len(unknown) < 100


# Interrupts.


@pytest.mark.parametrize("handler", ["signal.SIG_IGN", "lambda *_: None"])
def test_a_system_that_starts_under_an_interrupt_that_does_not_raise_lives(
    handler: str, free_of_new_processes: None
) -> None:
    """Ignored, as in any background job of a shell script, or handled: `start_system` returns what works."""
    text = (
        "import os, signal, threading, time\n"
        "from client_replies.actors.thespian.system import *\n"
        "from client_replies.actors import ClientRepliesActor\n"
        "from client_replies.messages import GetStatus\n"
        f"signal.signal(signal.SIGINT, {handler})\n"
        "started = threading.Event()\n"
        "def interrupt():\n"
        "    while not started.is_set():\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(0.001)\n"
        "interrupting = threading.Thread(target=interrupt)\n"
        "interrupting.start()\n"
        "system = start_system()\n"
        "started.set()\n"
        "interrupting.join()\n"
        "print(system.ask(system.createActor(ClientRepliesActor), GetStatus(request=1), 30), flush=True)\n"
        "stop_system(system)\n"
    )
    with script(text) as process:
        output, _ = process.communicate(timeout=60)
    assert (output, process.returncode) == ("RepliesStatus\n", 0)


def test_a_background_job_of_a_shell_starts_a_system_that_lives(free_of_new_processes: None) -> None:
    """`trap '' INT`, then Ctrl-C at the whole process group while the system starts."""
    text = (
        "import os, signal, sys\n"
        "from client_replies.actors.thespian import system as module\n"
        "from client_replies.actors import ClientRepliesActor\n"
        "from client_replies.messages import GetStatus\n"
        "start = module._start\n"
        "def interrupted(*arguments):\n"
        "    os.killpg(os.getpgrp(), signal.SIGINT)\n"
        "    return start(*arguments)\n"
        "module._start = interrupted\n"
        "with module.running_system() as system:\n"
        "    print(system.ask(system.createActor(ClientRepliesActor), GetStatus(request=1), 30), flush=True)\n"
    )
    shell = ["/bin/sh", "-c", 'trap "" INT; "$0" -c "$1" & wait', sys.executable, text]
    done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, timeout=60, start_new_session=True)
    assert (done.stdout, done.returncode) == ("RepliesStatus\n", 0), done.stderr


# Connections.


@dataclass(frozen=True)
class Place:
    """A component, its process, and the TCP port that it listens on."""

    driver: Driver
    pid: int
    port: int

    def connect(self) -> socket.socket:
        """Come as a stranger."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    @property
    def descriptors(self) -> int:
        """Give how many the process has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def memory(self) -> int:
        """Give the bytes that the process has in memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Give a component of a system that has other hosts, and so listens on TCP."""
    configure_logging(str(tmp_path / "log"))
    try:
        with running_system(addresses=["127.0.0.1"], key=secrets.token_bytes(32)) as system:
            driver = Driver(system, WatchedReplies)
            pid = driver.double().pid
            (port,) = {port for _, port in listening([pid])} - {port for _, port in listening([os.getpid()])}
            yield Place(driver, pid, port)
    finally:
        configure_logging(None)


def works(place: Place, directory: Path) -> None:
    """Open, write, read and close, as if there were no strangers."""
    driver, book = place.driver, Book()
    driver.open(config_for(directory / "file"))
    driver.commit(book, 0)
    assert driver.read(0, book.header(0)) == book.replies[0]
    driver.close()
    assert is_living(place.pid)


def test_a_thousand_idle_connections_cost_a_component_few_descriptors(place: Place, tmp_path: Path) -> None:
    """The oldest make room; the component opens its file and works, which takes descriptors, too."""
    before = place.descriptors
    with contextlib.ExitStack() as stack:
        for _ in range(1100):
            stack.enter_context(place.connect())
        place.driver.status()
        assert place.descriptors < before + 100
        works(place, tmp_path)


def test_an_idle_connection_is_closed_within_seconds(place: Place) -> None:
    """Also one that says a byte now and then. A member's connection stays: the component answers over it."""
    with place.connect() as silent, place.connect() as slow:
        slow.sendall(b"6")
        for connection in (silent, slow):
            connection.settimeout(20.0)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    place.driver.status()


def test_unfinished_frames_cost_kilobytes(place: Place, tmp_path: Path) -> None:
    """Twenty strangers announce 62 MiB each and send most of it: it is refused before it is read."""
    before = place.memory
    part = bytes(1024 * 1024)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(place.connect())
            with contextlib.suppress(ConnectionError):
                connection.sendall((62 * 1024 * 1024).to_bytes(4, "little"))
                for _ in range(60):
                    connection.sendall(part)
        place.driver.status()
        assert place.memory < before + 32 * 1024 * 1024
        works(place, tmp_path)


@pytest.mark.parametrize("free", [0, 1, 5])
def test_a_component_without_a_free_descriptor_says_so_and_goes_on(place: Place, tmp_path: Path, free: int) -> None:
    """Every accept fails: what it can do without is closed, and the owner is answered all the while."""
    with contextlib.ExitStack() as stack:
        with few_descriptors(place.pid, free):
            for _ in range(40):
                stack.enter_context(place.connect())
                place.driver.status()
        works(place, tmp_path)
    assert '"no_descriptors"' in (tmp_path / "log").read_text()
