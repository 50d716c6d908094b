"""What the tests of this folder build: small configurations, replies, disks of both kinds, and calls in a child."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from client_replies.messages.config import RepliesConfig
from client_replies.messages.faults import FaultKind
from client_replies.messages.reply import Reply
from client_replies.storage.device import Device, Disk, FileDisk
from client_replies.storage.errors import StorageError
from client_replies.storage.memory_disk import MemoryDisk

CLUSTER = 2**127 + 7
Result = TypeVar("Result")


def small_config(path: Path | str, **changes: Any) -> RepliesConfig:
    """Give the configuration of a file with four slots of two sectors."""
    fields = {
        "path": str(path),
        "cluster": CLUSTER,
        "replica": 1,
        "clients_max": 4,
        "message_size_max": 8192,
        "inline_size_max": 4096,
    }
    return RepliesConfig(**{**fields, **changes})


def make_reply(
    client: int = 5,
    *,
    session: int = 1,
    request: int = 2,
    op: int = 9,
    body: bytes = b"body",
    cluster: int = CLUSTER,
    request_checksum: bytes = bytes(16),
) -> Reply:
    """Build a reply; request 0 is the registration."""
    return Reply.build(
        cluster=cluster,
        client=client,
        session=session,
        request=request,
        op=op,
        operation=1 if request == 0 else 7,
        timestamp=op,
        body=body,
        request_checksum=request_checksum,
    )


def make_disk(kind: str) -> Disk:
    """Give a disk of this kind."""
    return FileDisk() if kind == "file" else MemoryDisk()


def fault_kind(call: Callable[[], object]) -> FaultKind:
    """Run a call that must fail, and give the kind of its fault."""
    with pytest.raises(StorageError) as raised:
        call()
    fault = raised.value.fault
    assert fault.found
    assert fault.expected
    return fault.kind


def in_child(call: Callable[[], Result]) -> Result | None:
    """Run a call in a forked process and give its result, or None if the process died without one."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            os.write(writer, pickle.dumps(call()))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    return pickle.loads(answer) if answer else None


def read_all(device: Device) -> bytes:
    """Give everything on a device."""
    into = bytearray(device.size)
    device.read(0, memoryview(into))
    return bytes(into)
