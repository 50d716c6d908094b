"""Actor systems for tests: each is a new one, reached from this host alone, and none leaves a process behind."""

import os
import signal
from collections.abc import Iterator

import pytest

from client_replies.actors.system import OwnedSystem, processes_of, start_system, stop_system

from tests.processes import (
    adopt_orphans,
    is_living,
    living_descendants,
    reap_orphans,
    unclaimed_shared_memory,
    wait_until,
)

BASES = ("simpleSystemBase", "multiprocUnixBase")


def pytest_configure() -> None:
    """A shell starts its background jobs with SIGINT ignored, and so would be what the tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fail the suite if, at its end, a process that it started lives or shared memory that it made exists."""
    adopt_orphans()
    shared_memory_before = unclaimed_shared_memory()
    yield
    # A process that was killed as the last act of a test needs a moment to go.
    wait_until(lambda: not living_descendants(), 5.0, f"the end of {sorted(living_descendants())}")
    reap_orphans()
    assert unclaimed_shared_memory() <= shared_memory_before


@pytest.fixture(autouse=True)
def orphans_are_reaped() -> Iterator[None]:
    """Wait for the adopted processes that have ended: hundreds of them would make every look at /proc a long one."""
    yield
    reap_orphans()


def _ended(system: OwnedSystem) -> None:
    pids = processes_of(system)
    stop_system(system)
    assert [pid for pid in pids if is_living(pid)] == []


@pytest.fixture(params=BASES)
def asys(request: pytest.FixtureRequest) -> Iterator[OwnedSystem]:
    """Run the test once on each base: in this process, and with a process for each actor."""
    system = start_system(request.param)
    yield system
    _ended(system)


@pytest.fixture
def tcp_system() -> Iterator[OwnedSystem]:
    """Give a system with a process for each actor. (Its name is older than the base that it now has.)"""
    system = start_system()
    yield system
    _ended(system)


@pytest.fixture
def free_of_new_processes() -> Iterator[None]:
    """Fail the test if what it started itself, with or without an actor system, lives on."""
    before = living_descendants(os.getpid())
    yield
    wait_until(lambda: living_descendants() <= before, what="the end of the processes that the test started")
