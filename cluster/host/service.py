"""A replicated service on this host: a state machine and a directory are all that it takes.

    serve(Counter, "/var/lib/counter", listen="127.0.0.1:4000")       # until Ctrl-C

    with running_service(Counter, directory) as service, service.client() as client, client.session() as session:
        session.request(OPERATION, b"2")

Guarantees: whatever of the service dies is started again, from what is on its disk or, without a disk, from the other
replicas. A replica that cannot start holds nobody up: it is tried again, and `say` is told why it is down. Without a
majority the service waits for one, unless there never was any: then it ends, and says why. What was answered to a
client is on the disks of a majority. Everything ends with the process, in whatever way that ends, or when the directory
is renamed.

Limits: one host, so it survives processes and disks, not the host. Owns: the actor system, the directory's lock.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from client_replies.actors.thespian.system import OwnedSystem, configure_logging, running_system
from client_replies.cluster.client import ClusterClient, RetryPolicy
from client_replies.cluster.control import StartReplica, replica_name
from client_replies.cluster.durable_files import replace_file
from client_replies.cluster.replica.machine_replica import MachineReplica, StartMachine, load_machine, name_of
from client_replies.cluster.replica.replica import ReplicaActor
from client_replies.cluster.state_machine import StateMachine
from client_replies.messages.config import RepliesConfig

from .cluster_directory import DATA_FILE, RUNNING_FILE, ClusterUnusable, OpenDirectory, Shape, on_refusal, opened
from .failure import MembersFailed
from .gateway_keeper import GatewayKeeper
from .members import Members, kill, on_machine

TURN = 0.2  # seconds between two looks at the processes, if nobody says anything
LOG_FILE = "log.jsonl"
START_TIMEOUT = 120.0  # seconds until a service that runs in a thread must be up

Address = tuple[str, int]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """The size of a service. Sizes in bytes, times in seconds."""

    clients_max: int = 64  # sessions; the one that was idle longest makes room for a new one
    message_size_max: int = 64 * 1024  # of a reply with its header, in whole sectors of 4,096
    checkpoint_interval: int = 500  # commands from one checkpoint to the next
    view_change: float = 0.8  # silence of the primary after which the others choose another

    def replies(self, path: Path, cluster: int, replica: int) -> RepliesConfig:
        """What a replica's component is told."""
        return RepliesConfig(
            path=str(path),
            cluster=cluster,
            replica=replica,
            clients_max=self.clients_max,
            message_size_max=self.message_size_max,
        )


class Host:
    """The replicas and the gateway of one service, kept up. A subclass says how a replica is started."""

    def __init__(
        self,
        held: OpenDirectory,
        shape: Shape,
        system: OwnedSystem,
        replica: type[ReplicaActor],
        listen: Address,
    ) -> None:
        self.members = Members(system, replica)
        self.members.on_formed = self._formed
        self.gateway = GatewayKeeper(self.members, shape.cluster, listen)
        self.directory = held.path
        self.shape = shape
        self.names = [replica_name(replica) for replica in range(shape.replicas)]
        self._held = held
        self.epoch = time.time() - time.monotonic()  # for the timestamps of commands

    def start_of(self, replica: int) -> StartReplica:
        """What a replica is started with."""
        raise NotImplementedError

    def start(self) -> None:
        """Start everything. Raises `MembersFailed`, and `ClusterUnusable` where the directory cannot be written."""
        had_majority = len(self.shape.formed) > self.shape.replicas // 2
        for replica in range(self.shape.replicas):
            self.members.create_replica(self.start_of(replica))
        self.members.start_replicas()
        if not (had_majority or self.has_quorum):
            raise MembersFailed("; ".join(f"{name}: {reason}" for name, reason in self.members.down.items()))
        self.gateway.start()
        running = {"pid": os.getpid(), "gateway": list(self.gateway.address), "cluster": f"{self.shape.cluster:x}"}
        with on_refusal(self.directory):
            replace_file(self.directory / RUNNING_FILE, json.dumps(running))

    def _formed(self, name: str) -> None:
        """From now on, without a log, this replica is one that lost its disk."""
        self.shape = self.shape.with_formed(self.names.index(name))
        self.shape.write(self.directory)

    @property
    def has_quorum(self) -> bool:
        """True if enough replicas are up to execute anything."""
        return len(self.members.up) >= self.members.quorum

    def turn(self) -> None:
        """See to everything for a moment. Raises `MembersFailed`."""
        if self._held.has_moved():
            # What starts again would open what is there now, in a directory that we did not lock.
            raise MembersFailed(f"{self.directory} was renamed or removed: start the cluster again where it is now")
        self.members.turn(TURN)


class _MachineHost(Host):
    """A service of a state machine."""

    machine = ""
    config = ServiceConfig()

    def start_of(self, replica: int) -> StartReplica:
        name = self.names[replica]
        place = self.directory / name
        return StartMachine(
            name=name,
            replicas=self.shape.replicas,
            config=self.config.replies(place / DATA_FILE, self.shape.cluster, replica),
            directory=str(place),
            fresh=replica not in self.shape.formed,
            checkpoint_interval=self.config.checkpoint_interval,
            view_change=self.config.view_change,
            seed=random.getrandbits(32),
            epoch=self.epoch,
            machine=self.machine,
        )


@dataclass(frozen=True, slots=True)
class Service:
    """A service that is up, as its users see it."""

    address: Address
    cluster: int
    host: Host = field(repr=False)

    def kill(self, replica: int) -> int:
        """Kill a replica's process, as a crash would, and return its pid; it is started again.

        Raises `ValueError` if it is not up.
        """
        known = self.host.members.replicas.get(replica_name(replica))
        if known is None or not kill(known.pid):
            raise ValueError(f"found no process of replica {replica} now, expected the number of one that is up")
        return known.pid

    def client(self, policy: RetryPolicy | None = None) -> ClusterClient:
        """A client of it."""
        return ClusterClient([self.address], cluster=self.cluster, policy=policy)


def serve(
    machine: type[StateMachine] | str,
    directory: str | Path,
    *,
    replicas: int | None = None,
    listen: str = "127.0.0.1:0",
    config: ServiceConfig | None = None,
    say: Say = print,
    is_over: Callable[[], bool] = lambda: False,
    on_up: Callable[[Service], None] = lambda service: None,
) -> None:
    """Run a service until Ctrl-C, or `is_over`.

    `machine` is a class, or its name as "module:Class". `replicas` is 3 or 5, for a new directory (3); port 0 in
    `listen` is any free one. Raises `ValueError` for a machine that there is not, `ClusterUnusable` for a directory or
    an address that cannot be used, `MembersFailed` for a service that cannot be kept up.
    """
    name = machine if isinstance(machine, str) else name_of(machine)
    load_machine(name)
    wanted = _address(listen)
    with on_machine(), opened(Path(directory), replicas) as (held, shape):
        configure_logging(str(held.path / LOG_FILE))
        with running_system() as system:
            host = _MachineHost(held, shape, system, MachineReplica, wanted)
            host.machine, host.config = name, config or ServiceConfig()
            host.members.say = say
            host.start()
            address = host.gateway.address
            say(f"{shape.replicas} replicas of {name} in {held.path}, cluster {shape.cluster:x}")
            say(f"listening for clients on {address[0]}:{address[1]}; press Ctrl-C to stop; a restart resumes")
            on_up(Service(address, shape.cluster, host))
            with suppress(KeyboardInterrupt):
                while not is_over():
                    host.turn()


@contextmanager
def running_service(
    machine: type[StateMachine] | str,
    directory: str | Path,
    *,
    replicas: int | None = None,
    listen: str = "127.0.0.1:0",
    config: ServiceConfig | None = None,
    say: Say = lambda text: None,
) -> Iterator[Service]:
    """`serve` in a thread, for the length of a with statement: for tests and for trying things."""
    up: list[Service] = []
    changed, over = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def note(service: Service) -> None:
        up.append(service)
        changed.set()

    def run() -> None:
        try:
            serve(
                machine,
                directory,
                replicas=replicas,
                listen=listen,
                config=config,
                say=say,
                is_over=over.is_set,
                on_up=note,
            )
        except BaseException as error:
            failed.append(error)
        finally:
            changed.set()

    thread = threading.Thread(target=run, name="service", daemon=True)
    thread.start()
    try:
        changed.wait(START_TIMEOUT)
        if failed:
            raise failed[0]
        if not up:
            raise MembersFailed(f"the service was not up within {START_TIMEOUT:.0f} s")
        yield up[0]
    finally:
        over.set()
        thread.join()
    if failed:
        raise failed[0]


def _address(listen: str) -> Address:
    """Where to listen, if that is free now; the gateway itself, which may be started again, waits for its port."""
    host, _, port = listen.rpartition(":")
    try:
        address = host, int(port)
        socket.create_server(address).close()
    except (OSError, ValueError, OverflowError) as error:
        expected = "HOST:PORT of this host that is free, such as 127.0.0.1:4000"
        raise ClusterUnusable(f"listen: found {listen!r} ({error}), expected {expected}") from error
    return address
