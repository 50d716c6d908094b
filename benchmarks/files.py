"""Data files that are full already: what a replica has after a while, made without any actor.

Guarantees: every session is registered and has one reply, which its slot holds unless it is to be left out, and a
checkpoint says so. The same arguments make the same session table; two files made with one `Replies` body are equal.
"""

from __future__ import annotations

from collections.abc import Container

from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.reply import seal_reply
from client_replies.messages.reply_header import HEADER_SIZE, OPERATION_REGISTER
from client_replies.storage.client_sessions import ClientSessions
from client_replies.storage.data_file import DataFile
from client_replies.storage.device import FileDisk

from .workload import CLUSTER, TIMESTAMP, Replies

GROUP_BYTES = 2**22


def registered(sessions_max: int) -> ClientSessions:
    """A session table that is full of sessions without a request: session `slot + 1` in each slot."""
    sessions = ClientSessions(sessions_max, CLUSTER)
    for number in range(1, sessions_max + 1):
        header = seal_reply(
            cluster=CLUSTER,
            client=number,
            session=number,
            request=0,
            op=number,
            operation=OPERATION_REGISTER,
            timestamp=TIMESTAMP,
            body=b"",
        )
        sessions.register(header)
    return sessions


def make_file(config: RepliesConfig, replies: Replies, left_out: Container[int] = ()) -> list[bytes]:
    """Make the file of a replica whose sessions each have a reply; returns their packed headers, by slot."""
    sessions = registered(config.clients_max)
    file = DataFile.open(FileDisk(), config, OpenMode.FORMAT)
    headers: list[bytes] = []
    group: dict[int, bytes] = {}
    for _ in range(config.clients_max):
        slot, reply = replies.next()
        sessions.commit(reply[:HEADER_SIZE])
        headers.append(reply[:HEADER_SIZE])
        if slot not in left_out:
            group[slot] = reply
        if len(group) * replies.size >= GROUP_BYTES:
            file.write_slots(list(group), list(group.values()))
            group = {}
    file.write_slots(list(group), list(group.values()))
    file.write_checkpoint(1, replies.op, sessions.encode())
    file.close()
    return headers
