"""What stands in for replicas in tests of the front door: an actor with a session table and an echo, and its commands.

Guarantees: a request is executed once, and its reply kept, as a replica would; requests of several threads are executed
one after the other, in the order of their ops. Limits: no replication; only the one told to be primary executes.
Owns: its sessions and replies.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thespian.actors import ActorAddress

from client_replies.actors.thespian.component_actor import ComponentActor, Handler
from client_replies.actors.thespian.environment import Environment
from client_replies.actors.thespian.system import OwnedSystem, processes_of
from client_replies.cluster.door.connection import DoorLimits
from client_replies.cluster.door.forwarding import ForwardingLimits
from client_replies.cluster.door.forwarding_messages import ForwardRequests
from client_replies.cluster.door.frames import OPERATION_CLOSE, Frame, Reason, refused_frame, reply_frame
from client_replies.cluster.door.gateway import (
    GatewayActor,
    GatewayStarted,
    GatewayStatus,
    GetGatewayStatus,
    SetReplica,
    StartGateway,
)
from client_replies.cluster.door.gateway_port import GatewayPort
from client_replies.messages.message import Message
from client_replies.messages.protocol import Party
from client_replies.messages.reply import Reply
from client_replies.messages.reply_header import OPERATION_REGISTER
from client_replies.storage.client_sessions import (
    ClientSessions,
    DuplicateRequest,
    NewRequest,
    NoSession,
    OlderRequest,
    OtherChecksum,
    RegistrationStatus,
    RequestStatus,
    SessionTooLow,
)

from tests.processes import listening

CLUSTER = 7
OPERATION_ECHO = 2
EXECUTED = struct.Struct("<Q")  # in front of the echo: how many operations had been executed then


@dataclass(frozen=True, slots=True, kw_only=True)
class StandInBehaves(Message):
    """How to behave from now on. `lose_answers`: how many of the next ones are lost. `deaf`: nothing is taken."""

    replica: int = 0
    view: int = 0
    primary: int = 0
    clients_max: int = 64
    lose_answers: int = 0
    deaf: bool = False
    lose_stored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StandInState(Message):
    """What a stand-in did; the answer to each `StandInBehaves`."""

    executed: int
    counters: Mapping[str, int]


class StandIn:
    """The service behind the door, without an actor around it."""

    def __init__(self, behaviour: StandInBehaves) -> None:
        self.behaviour = behaviour
        self.sessions = ClientSessions(behaviour.clients_max, CLUSTER)
        self.replies: dict[int, bytes] = {}
        self.op = 0
        self.executed = 0
        self._lock = threading.Lock()

    def handle(self, frame: Frame) -> list[Frame]:
        """The frames that a request leads to: its answer, and what others are told because of it."""
        with self._lock:  # from the check to the commit: an op that is committed late is refused by the session table
            return self._handle(frame)

    def result(self, frame: Frame) -> bytes:
        """What a request that is executed now results in."""
        return EXECUTED.pack(self.executed) + frame.body

    def _handle(self, frame: Frame) -> list[Frame]:
        behaviour = self.behaviour
        if behaviour.primary != behaviour.replica:
            return [self._refused(frame, Reason.NOT_PRIMARY)]
        status: RequestStatus | RegistrationStatus
        if frame.operation == OPERATION_REGISTER:
            status = self.sessions.check_registration(frame.client, frame.request_checksum)
        else:
            status = self.sessions.check(frame.client, frame.session, frame.request, frame.request_checksum)
        if isinstance(status, NewRequest):
            return self._execute(frame)
        if isinstance(status, DuplicateRequest):
            if behaviour.lose_stored:
                return [self._refused(frame, Reason.REPLY_LOST)]
            return [reply_frame(self.replies[frame.client], view=behaviour.view, primary=0, repeated=True)]
        reasons = {
            NoSession: Reason.NO_SESSION,
            SessionTooLow: Reason.SESSION_TOO_LOW,
            OtherChecksum: Reason.OTHER_REQUEST,
            OlderRequest: Reason.OLDER_REQUEST,
        }
        reason = reasons.get(type(status))
        return [] if reason is None else [self._refused(frame, reason)]

    def _refused(self, frame: Frame, reason: Reason) -> Frame:
        return refused_frame(
            reason, cluster=CLUSTER, to=frame, view=self.behaviour.view, primary=self.behaviour.primary
        )

    def _execute(self, frame: Frame) -> list[Frame]:
        self.op += 1
        registers = frame.operation == OPERATION_REGISTER
        body = b""
        if not registers:
            self.executed += 1
            body = self.result(frame)
        reply = Reply.build(
            cluster=CLUSTER,
            client=frame.client,
            session=self.op if registers else frame.session,
            request=frame.request,
            op=self.op,
            operation=frame.operation,
            timestamp=self.op,
            body=body,
            request_checksum=frame.request_checksum,
        )
        told = [reply_frame(reply.pack(), view=self.behaviour.view, primary=self.behaviour.primary)]
        if registers:
            evictee = self.sessions.evictee() if frame.client not in self.sessions else None
            if evictee is not None:
                session = self.sessions.session_of(evictee.client) or 0
                told.append(refused_frame(Reason.REPLACED, cluster=CLUSTER, client=evictee.client, session=session))
                self.replies.pop(evictee.client, None)
            self.sessions.register(reply.header)
        elif frame.operation == OPERATION_CLOSE:
            self.sessions.remove(frame.client)
            self.replies.pop(frame.client, None)
            return told
        else:
            self.sessions.commit(reply.header)
        self.replies[frame.client] = reply.pack()
        return told


class StandInActor(ComponentActor):
    """A stand-in as an actor: what a replica does with its `GatewayPort`."""

    senders = dict.fromkeys((StandInBehaves, ForwardRequests), Party.ANYONE)

    def __init__(
        self, capabilities: Mapping[str, object] | None = None, requirements: Environment | None = None
    ) -> None:
        super().__init__(capabilities, requirements)
        self._stand_in = StandIn(StandInBehaves())
        self._port = GatewayPort(0, CLUSTER, self.send)
        self._lose = 0
        self._begun = False

    def handlers(self) -> dict[type, Handler]:
        return {StandInBehaves: self.behave, ForwardRequests: self.requests}

    def behave(self, message: StandInBehaves, sender: ActorAddress) -> None:
        """Behave like this from now on."""
        if not self._begun:
            self._begun = True
            self._stand_in = StandIn(message)
            self._port = GatewayPort(message.replica, CLUSTER, self.send)
            self.start_ticks(0.1)
        self._stand_in.behaviour = message
        self._lose = message.lose_answers
        self.send(
            sender,
            StandInState(executed=self._stand_in.executed, counters={**self._port.counters, **self.counters}),
        )

    def requests(self, message: ForwardRequests, sender: ActorAddress) -> None:
        """Take a batch and answer it."""
        if self._stand_in.behaviour.deaf:
            return
        self.counters["batches"] += 1
        for frame in self._port.take(message, sender, self.environment.monotonic()):
            for answer in self._stand_in.handle(frame):
                if self._lose:
                    self._lose -= 1
                else:
                    self._port.answer(answer)
        self.tick()

    def tick(self) -> None:
        behaviour = self._stand_in.behaviour
        if not behaviour.deaf:
            self._port.flush(self.environment.monotonic(), view=behaviour.view, primary=behaviour.primary)


class Front:
    """A gateway in front of stand-ins, in this system."""

    def __init__(
        self,
        system: OwnedSystem,
        replicas: int = 1,
        *,
        door: DoorLimits | None = None,
        forwarding: ForwardingLimits | None = None,
        clients_max: int = 64,
    ) -> None:
        self.system = system
        self.replicas = [system.createActor(StandInActor) for _ in range(replicas)]
        self.clients_max = clients_max
        for replica in range(replicas):
            self.behave(replica)
        self.gateway = system.createActor(GatewayActor)
        self.start = StartGateway(
            cluster=CLUSTER,
            host="127.0.0.1",
            port=0,
            replicas=tuple(enumerate(self.replicas)),
            door=door or DoorLimits(),
            forwarding=forwarding or ForwardingLimits(),
        )
        started = self._ask(self.gateway, self.start)
        assert isinstance(started, GatewayStarted), started
        self.address = (started.host, started.port)
        self.pid = next(pid for pid in processes_of(system) if self.address in listening([pid]))
        self._asked = 0

    def behave(self, replica: int, **behaviour: Any) -> StandInState:
        """Tell a stand-in how to behave, and hear what it did."""
        message = StandInBehaves(replica=replica, **{"clients_max": self.clients_max, **behaviour})
        state = self._ask(self.replicas[replica], message)
        assert isinstance(state, StandInState), state
        return state

    def replace(self, replica: int, **behaviour: Any) -> None:
        """Start the replica anew, at another address."""
        self.replicas[replica] = self.system.createActor(StandInActor)
        self.behave(replica, **behaviour)
        self.system.tell(self.gateway, SetReplica(replica=replica, address=self.replicas[replica]))

    def status(self) -> GatewayStatus:
        """Ask the gateway how it is; late answers to earlier questions are left behind."""
        self._asked += 1
        answer = self._ask(self.gateway, GetGatewayStatus(request=self._asked))
        while not (isinstance(answer, GatewayStatus) and answer.request == self._asked):
            assert answer is not None, "the gateway does not answer"
            answer = self.system.listen(5)
        return answer

    def count(self, kind: str) -> int:
        """How often the gateway counted this event."""
        return self.status().counters.get(kind, 0)

    def descriptors(self) -> int:
        """How many descriptors the gateway's process has open."""
        return len(list(Path("/proc", str(self.pid), "fd").iterdir()))

    def memory(self) -> int:
        """Resident bytes of the gateway's process."""
        return int(Path("/proc", str(self.pid), "statm").read_text().split()[1]) * 4096

    def _ask(self, actor: ActorAddress, message: Message) -> Any:
        return self.system.ask(actor, message, 10)
