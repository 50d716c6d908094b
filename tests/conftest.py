"""Actor systems for tests: each is a new one, reached from this host alone, and none leaves a process behind.

Test files run beside each other, in several processes: what a test counts is its own process's, or is waited for. A
file stays in one process, in its order, so its tests can share what has a name: ports, addresses, an actor system.
"""

import os
import signal
from collections.abc import Iterator

import pytest

from client_replies.actors.thespian.system import OwnedSystem, processes_of, start_system, stop_system

from tests.processes import (
    adopt_orphans,
    is_living,
    living_descendants,
    reap_orphans,
    unclaimed_shared_memory,
    wait_until,
)

BASES = ("simpleSystemBase", "multiprocUnixBase")


# Those that take longest begin first, so that at the end no process waits for one of them.
LONG_FILES = (
    "tests/examples/test_run.py",
    "tests/examples/test_hostile_environments.py",
    "tests/simulation/test_scenarios.py",
    "tests/simulation/cluster/test_cluster_simulation.py",
    "tests/simulation/test_simulation.py",
    "tests/examples/test_soak.py",
    "tests/examples/test_live.py",
    "tests/actors/component/test_strangers.py",
    "tests/actors/thespian/base/test_other_hosts.py",
    "tests/actors/thespian/base/test_strangers.py",
    "tests/actors/thespian/test_system.py",
)
PROCESSES_MAX = 8


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two for each core: most tests wait for actors most of the time."""
    return min(PROCESSES_MAX, 2 * len(os.sched_getaffinity(0)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files; within a file the order stays."""
    places = {file: place for place, file in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


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
    # Others on this host, such as the tests in a process beside this one, make and remove theirs meanwhile.
    wait_until(lambda: unclaimed_shared_memory() <= shared_memory_before, what="the end of the shared memory")


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
