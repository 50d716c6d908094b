"""The pool's memory: shared, guarded by generations, and gone with its processes."""

import dataclasses
import gc
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from client_replies.messages.faults import FaultKind, InvariantBroken
from client_replies.messages.leases import Lease, MemoryName, make_lease
from client_replies.storage.device import address_of
from client_replies.storage.shared_memory import LeaseStale, PoolMemory

from tests.storage.samples import fault_kind, in_child

TOKEN = bytes(range(16))
SIZE = 8192


@pytest.fixture
def pool() -> Iterator[PoolMemory]:
    """Give memory of five buffers in their first generation."""
    memory = PoolMemory.create(5, SIZE, TOKEN)
    for buffer in range(5):
        memory.set_generation(buffer, 1)
    yield memory
    memory.close()


def test_what_is_written_in_one_mapping_is_read_in_another(pool: PoolMemory) -> None:
    """Within a process, each buffer by itself, sector-aligned, at full length."""
    other = PoolMemory.open(pool.name)
    assert (other.buffers, other.size) == (5, SIZE)
    for buffer in range(5):
        view = pool.buffer(make_lease(buffer, 1))
        assert len(view) == SIZE
        assert address_of(view) % 4096 == 0
        view[:] = bytes([buffer + 1]) * SIZE
    for buffer in range(5):
        assert bytes(other.buffer(make_lease(buffer, 1))) == bytes([buffer + 1]) * SIZE
    assert [pool.valid(make_lease(buffer, 1)) for buffer in range(5)] == [True] * 5
    other.close()


def test_another_process_maps_it_by_name(pool: PoolMemory) -> None:
    """One that was started afresh, and inherits nothing."""
    pool.buffer(make_lease(3, 1))[:5] = b"hello"
    code = (
        "import sys; from client_replies.messages.leases import MemoryName, make_lease\n"
        "from client_replies.storage.shared_memory import PoolMemory\n"
        "name = MemoryName(process=int(sys.argv[1]), descriptor=int(sys.argv[2]), token=bytes.fromhex(sys.argv[3]))\n"
        "view = PoolMemory.open(name).buffer(make_lease(3, 1))\n"
        "assert bytes(view[:5]) == b'hello'; view[:5] = b'world'"
    )
    name = pool.name
    arguments = [str(name.process), str(name.descriptor), name.token.hex()]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    assert bytes(pool.buffer(make_lease(3, 1))[:5]) == b"world"


def test_a_lease_of_another_generation_is_refused_everywhere_at_once(pool: PoolMemory) -> None:
    """As soon as the pool says so, older and newer ones alike."""
    other = PoolMemory.open(pool.name)
    pool.set_generation(2, 8)
    for memory in (pool, other):
        assert bytes(memory.buffer(make_lease(2, 8))[:1]) == b"\0"
        for generation in (1, 7, 9, 0):
            lease = make_lease(2, generation)
            assert not memory.valid(lease)
            with pytest.raises(LeaseStale) as raised:
                memory.buffer(lease)
            assert raised.value.lease == lease
            assert f"{lease:x}" in str(raised.value)
    other.close()


@pytest.mark.parametrize(
    "lease", [make_lease(5, 1), make_lease(65535, 0), Lease(2**64 - 1), make_lease(5, 0), Lease(0)]
)
def test_a_lease_of_a_buffer_that_does_not_exist_is_stale(pool: PoolMemory, lease: Lease) -> None:
    """A number out of a message is never an index beyond the table, and zero is no lease."""
    assert not pool.valid(lease)
    with pytest.raises(LeaseStale):
        pool.buffer(lease)


def test_only_the_pool_changes_generations(pool: PoolMemory) -> None:
    """Whoever opened it by name cannot."""
    other = PoolMemory.open(pool.name)
    with pytest.raises(InvariantBroken):
        other.set_generation(0, 2)
    assert pool.valid(make_lease(0, 1))
    other.close()


def test_the_largest_generation_fits(pool: PoolMemory) -> None:
    """All bits that a lease has for it."""
    pool.set_generation(0, 2**48 - 1)
    assert pool.valid(make_lease(0, 2**48 - 1))
    assert len(pool.buffer(make_lease(0, 2**48 - 1))) == SIZE


def test_the_table_of_many_buffers_does_not_touch_them() -> None:
    """More generations than fit a page."""
    memory = PoolMemory.create(1000, 4096, TOKEN)
    for buffer in range(1000):
        memory.set_generation(buffer, buffer + 1)
        memory.buffer(make_lease(buffer, buffer + 1))[:] = b"\xff" * 4096
    assert all(memory.valid(make_lease(buffer, buffer + 1)) for buffer in range(1000))
    memory.close()


def wrong_names(name: MemoryName) -> list[MemoryName]:
    """Give names that lead nowhere, or to something else."""
    reader, writer = os.pipe()
    plain = os.open("/dev/null", os.O_RDWR)
    unsealed = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.write(unsealed, os.pread(name.descriptor, 2**20, 0))  # right in everything else
    empty = PoolMemory.create(1, 4096, bytes(16))
    descriptors = [reader, writer, plain, unsealed, 9999, empty.name.descriptor]
    return [
        dataclasses.replace(name, token=bytes(16)),
        dataclasses.replace(name, process=2**22 + 1),
        *(dataclasses.replace(name, descriptor=descriptor) for descriptor in descriptors),
    ]


def test_what_is_not_the_memory_of_that_name_is_not_mapped(pool: PoolMemory) -> None:
    """Another token, process or kind of descriptor: a typed fault, and no descriptor is left open."""
    names = wrong_names(pool.name)
    before = os.listdir("/proc/self/fd")
    for name in names:
        assert fault_kind(lambda name=name: PoolMemory.open(name)) is FaultKind.MEMORY_UNAVAILABLE  # type: ignore[misc]
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(("offset", "value"), [(0, b"x"), (32, b"\x06"), (36, b"\1"), (40, b"\1"), (33, b"\xff\xff")])
def test_a_head_that_does_not_fit_the_memory_is_refused(pool: PoolMemory, offset: int, value: bytes) -> None:
    """Magic, number and size of the buffers."""
    os.pwrite(pool.name.descriptor, value, offset)
    assert fault_kind(lambda: PoolMemory.open(pool.name)) is FaultKind.MEMORY_UNAVAILABLE


def test_the_memory_cannot_shrink_under_those_who_map_it(pool: PoolMemory) -> None:
    """Otherwise an access would kill its process."""
    for size in (0, 4096, 10**6):
        with pytest.raises(PermissionError):
            os.ftruncate(pool.name.descriptor, size)


def test_memory_that_cannot_be_had_is_a_typed_fault() -> None:
    """And no descriptor is left open."""

    def make() -> tuple[FaultKind, bool]:
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
        before = len(os.listdir("/proc/self/fd"))
        kind = fault_kind(lambda: PoolMemory.create(64, 2**26, TOKEN))
        return kind, len(os.listdir("/proc/self/fd")) == before

    assert in_child(make) == (FaultKind.MEMORY_UNAVAILABLE, True)


def test_closing_leaves_views_that_are_held_usable(pool: PoolMemory) -> None:
    """A view in flight does not make closing fail; closing again is harmless, and every lease is stale."""
    other = PoolMemory.open(pool.name)
    whole = other.buffer(make_lease(1, 1))
    part = whole[:10]
    other.close()
    other.close()
    part[:] = b"0123456789"
    assert bytes(pool.buffer(make_lease(1, 1))[:10]) == b"0123456789"
    assert not other.valid(make_lease(1, 1))
    with pytest.raises(LeaseStale):
        other.buffer(make_lease(1, 1))


def test_closing_gives_everything_back() -> None:
    """Neither a mapping nor a descriptor is left."""
    before = pools_mapped()
    descriptors = os.listdir("/proc/self/fd")
    for _ in range(3):
        memory = PoolMemory.create(5, SIZE, TOKEN)
        memory.set_generation(0, 1)
        memory.buffer(make_lease(0, 1))
        assert pools_mapped() == before + 1
        memory.close()
    assert pools_mapped() == before
    assert os.listdir("/proc/self/fd") == descriptors


def test_nothing_is_left_when_the_processes_are_killed() -> None:
    """There is no name to remove: when the creator is gone, its memory cannot be opened any more."""
    before = pools_mapped()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        memory = PoolMemory.create(5, SIZE, TOKEN)
        os.write(writer, str(memory.name.descriptor).encode())
        signal.pause()
    os.close(writer)
    descriptor = int(os.read(reader, 20))
    os.close(reader)
    name = MemoryName(process=child, descriptor=descriptor, token=TOKEN)
    PoolMemory.open(name).close()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert fault_kind(lambda: PoolMemory.open(name)) is FaultKind.MEMORY_UNAVAILABLE
    assert pools_mapped() == before


def pools_mapped() -> int:
    """Count the pools that this process maps; an earlier test's may wait for the garbage collector."""
    gc.collect()
    with open("/proc/self/maps", "rb") as maps:
        return maps.read().count(b"client-replies-pool")
