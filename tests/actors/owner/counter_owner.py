"""A whole owner with a log of its own: a counter, whose log is a file of JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thespian.actors import ActorAddress

from client_replies import Fault, NotRead, RepliesConfig, Reply
from client_replies.actors.owner.replies_owner import Entry, RepliesOwner
from client_replies.actors.thespian.component_actor import Handler
from client_replies.messages.protocol import Party
from client_replies.storage.client_sessions import DuplicateRequest, NewRequest


@dataclass(frozen=True)
class Start:
    """Begin with the files in this directory."""

    directory: str
    replica: int = 0


@dataclass(frozen=True)
class Peers:
    """Where the components of the others are."""

    peers: dict[int, ActorAddress]


@dataclass(frozen=True)
class Started:
    """All that the log has is executed."""

    value: int
    replies: ActorAddress | None


@dataclass(frozen=True)
class Add:
    """A client adds an amount; request 0 registers it."""

    client: int
    session: int
    request: int
    amount: int


@dataclass(frozen=True)
class Told:
    """The reply, or why there is none."""

    reply: bytes | str


class CounterOwner(RepliesOwner):
    """See the module."""

    senders = dict.fromkeys((Start, Add, Peers), Party.ANYONE)
    checkpoint_interval = 10
    value = 0
    cuts: list[int]

    def handlers(self) -> dict[type, Handler]:
        return {**super().handlers(), Start: self.start, Add: self.add, Peers: self.peers}

    def start(self, message: Start, sender: ActorAddress) -> None:
        """Open the log and the file."""
        self.message, self.script, self.cuts = message, sender, []
        self.log_path = Path(message.directory, f"log-{message.replica}.jsonl")
        self.log_path.touch()
        self.start_replies()

    def replies_config(self) -> RepliesConfig:
        path = str(Path(self.message.directory, f"r{self.message.replica}.replies"))
        return RepliesConfig(
            path=path, cluster=1, replica=self.message.replica, clients_max=8, scrub_bytes_per_second=0
        )

    def entries(self, after: int) -> Iterator[Entry]:
        for line in self.log_path.read_text().splitlines():
            entry: dict[str, Any] = json.loads(line)
            if entry["op"] > after:
                yield Entry(**entry | {"body": entry["body"].encode(), "checksum": bytes.fromhex(entry["checksum"])})

    def execute(self, entry: Entry) -> bytes:
        self.value += int(entry.body)
        return f"the counter is {self.value} ".encode() * 20

    def on_recovered(self) -> None:
        self.send(self.script, Started(self.value, self.replies_address))

    def on_checkpoint(self, op: int, cut: int) -> None:
        assert cut < op
        self.cuts.append(cut)

    def on_failed(self, fault: Fault) -> None:
        self.send(self.script, Told(str(fault)))

    def peers(self, message: Peers, sender: ActorAddress) -> None:
        """Pass them on."""
        self.set_peers(message.peers)

    def add(self, message: Add, sender: ActorAddress) -> None:
        """Execute a new request; answer a repeated one with its original reply."""
        entry = Entry(
            op=self.applied_op + 1,
            client=message.client,
            session=message.session,
            request=message.request,
            operation=16 if message.request else 1,
            body=str(message.amount).encode(),
        )
        status = self.check(entry)
        if isinstance(status, NewRequest):
            with self.log_path.open("a") as log:
                fields = asdict(entry) | {"body": entry.body.decode(), "checksum": entry.checksum.hex()}
                log.write(json.dumps(fields) + "\n")
                log.flush()
                os.fsync(log.fileno())
            reply = self.apply(entry)
            self.send(sender, Told(reply if reply is not None else "skipped"))
        elif isinstance(status, DuplicateRequest):
            self.read_reply(status, lambda found: self.tell(sender, found))
        else:
            self.send(sender, Told(type(status).__name__))

    def tell(self, client: ActorAddress, found: bytes | NotRead) -> None:
        """Answer a repeated request."""
        self.send(client, Told(found.name if isinstance(found, NotRead) else found))


def body_of(told: Told) -> str:
    """Give the text of a reply."""
    assert isinstance(told.reply, bytes), told
    return Reply.unpack(told.reply).body.decode()
