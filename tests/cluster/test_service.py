"""A service of one's own: a state machine, its replica, and nothing of the ledger or its drill."""

from __future__ import annotations

from pathlib import Path

from client_replies import RepliesConfig, running_system
from client_replies.cluster import (
    ClusterClient,
    Command,
    GatewayKeeper,
    Members,
    ReplicaActor,
    StartReplica,
    StateMachine,
)
from client_replies.cluster.host.members import kill

OPERATION_ADD = 7
CLUSTER = 5


class Counter(StateMachine):
    """A sum."""

    def __init__(self) -> None:
        self.total = 0

    def execute(self, command: Command) -> bytes:
        """Add what the body says; the answer is the sum."""
        if command.operation == OPERATION_ADD and command.body.isdigit():
            self.total += int(command.body)
        return str(self.total).encode()

    def snapshot(self) -> bytes:
        """The whole state."""
        return str(self.total).encode()

    def restore(self, data: bytes) -> None:
        """Take on an encoded state; empty bytes are the beginning."""
        self.total = int(data or b"0")


class CounterReplica(ReplicaActor):
    """The replica that executes it."""

    def make_state_machine(self, message: StartReplica) -> Counter:
        """See `ReplicaActor`."""
        return Counter()


def start_of(place: Path, replica: int) -> StartReplica:
    """What a replica is started with."""
    directory = place / f"replica-{replica}"
    config = RepliesConfig(
        path=str(directory / "replies"),
        cluster=CLUSTER,
        replica=replica,
        clients_max=8,
        message_size_max=8192,
        inline_size_max=4096,
    )
    return StartReplica(
        name=f"replica-{replica}", replicas=3, config=config, directory=str(directory), fresh=True, view_change=0.5
    )


def test_a_state_machine_is_all_that_a_service_takes(tmp_path: Path) -> None:
    """Three replicas execute each request once; a killed one comes back; a repeated request gets the same answer."""
    with running_system() as system:
        members = Members(system, CounterReplica)
        for replica in range(3):
            members.create_replica(start_of(tmp_path, replica))
        members.start_replicas()
        gateway = GatewayKeeper(members, CLUSTER, ("127.0.0.1", 0))
        gateway.start()
        with ClusterClient([gateway.address], cluster=CLUSTER) as client, client.session() as session:
            assert session.request(OPERATION_ADD, b"40", timeout=20.0).body == b"40"
            assert session.request(OPERATION_ADD, b"2", timeout=20.0).body == b"42"
            again = session.repeat(timeout=20.0)
            assert (again.body, again.repeated) == (b"42", True)
            assert kill(members.pid("replica-0"))  # the primary of the first view
            assert session.request(OPERATION_ADD, b"8", timeout=60.0).body == b"50"
            members.wait(lambda: members.restarts > 0 and len(members.up) == 3, 60.0, "the killed replica")
            assert session.request(OPERATION_ADD, b"50", timeout=60.0).body == b"100"
