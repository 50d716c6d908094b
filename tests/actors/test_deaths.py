"""What dies is named, what it held comes back, and what is left can be opened again."""

import os
import signal
from pathlib import Path

import pytest
from thespian.actors import ActorExitRequest

from client_replies.actors.client_replies import ClientRepliesActor
from client_replies.actors.system import OwnedSystem, processes_of, start_system, stop_system
from client_replies.messages.config import OpenMode
from client_replies.messages.faults import Fault, FaultKind
from client_replies.messages.leases import AcquireLeases, LeasesRefused
from client_replies.messages.replies import (
    CloseReplies,
    NotRead,
    OpenFailed,
    RequestRefused,
    StorageFailed,
    WritesRefused,
)
from client_replies.messages.storage_io import StorageStopped, WriteSlots

from tests.actors.doubles import FailDevice, WatchedReplies
from tests.actors.driver import KIB, Book, Driver, config_for
from tests.processes import is_living, wait_until

DISK_FULL = Fault(kind=FaultKind.DISK_FULL, found="ENOSPC", expected="a write")


def test_a_broken_invariant_in_a_thread_ends_the_storage(tcp_system: OwnedSystem, tmp_path: Path) -> None:
    """A bug that shows beside the mailbox ends the process, and the owner is told, instead of waiting for ever."""
    driver, book = Driver(tcp_system, WatchedReplies), Book()
    driver.open(config_for(tmp_path / "file"))
    storage = driver.double().storage
    pid = driver.double(storage).pid
    driver.send(WriteSlots(batch=1, slots=(1000,), payloads=(book.reply(0),)), storage)
    assert driver.expect(StorageFailed).fault.kind is FaultKind.ACTOR_DIED
    wait_until(lambda: not is_living(pid), what="the end of the storage")
