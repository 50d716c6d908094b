"""The pool's memory: buffers that the processes of one replica share, and a table of generations that guards them.

    page 0      magic, token, number and size of the buffers
    page 1...   one u64 a buffer: its generation, rounded up to whole pages
    then        the buffers

Guarantees: the memory has no name in any file system, so nothing is left of it when the last process that maps it is
gone, killed or not. It cannot shrink, so an access can never fail. `open` maps what `create` made with that token, or
raises. `buffer` gives a lease's bytes only while its generation is the table's: what was released is refused in every
process at once, without a message.

Limits: it does not protect the bytes themselves. Who held a lease and still has its view can write to it.

Owns the mapping. Only the creator, who is the pool, changes generations.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterable
from contextlib import suppress

from client_replies.messages.config import BUFFERS_MAX_LIMIT, MESSAGE_SIZE_LIMIT, SECTOR_SIZE
from client_replies.messages.faults import FaultKind, invariant
from client_replies.messages.leases import LEASE_BUFFER_BITS, LEASE_BUFFER_MASK, TOKEN_SIZE, Lease, MemoryName
from client_replies.messages.replies import Payload
from client_replies.messages.reply_header import Buffer

from .errors import StorageError, storage_error

_MAGIC = b"replies-pool-v1\n"
_HEAD = struct.Struct("<16s16sIIQ")
_PAGE = SECTOR_SIZE
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


if _PAGE % mmap.PAGESIZE and mmap.PAGESIZE % _PAGE:
    raise ImportError("the buffers would not be aligned to sectors")


class LeaseStale(Exception):
    """The lease was released, or there never was one."""

    def __init__(self, lease: int) -> None:
        super().__init__(lease)
        self.lease = lease

    def __str__(self) -> str:
        return f"lease {self.lease:x}"


class PoolMemory:
    """A mapping of the pool's memory in this process. Made by `create` or `open`."""

    def __init__(self, descriptor: int, buffers: int, size: int, token: bytes, *, creator: bool) -> None:
        self.buffers = buffers
        self.size = size
        self.name = MemoryName(process=os.getpid(), descriptor=descriptor, token=token)
        self._creator = creator
        self._descriptor = descriptor
        self._mapping = mmap.mmap(descriptor, _total_size(buffers, size))
        self._view = memoryview(self._mapping)
        self._generations = self._view[_PAGE : _PAGE + 8 * buffers].cast("Q")
        self._buffers_offset = _buffers_offset(buffers)
        self._slices: list[memoryview | None] = [None] * buffers

    @classmethod
    def create(cls, buffers: int, size: int, token: bytes) -> PoolMemory:
        """New memory of `buffers` buffers of `size` bytes, all generations 0. `token` is 16 random bytes.

        Raises `StorageError`.
        """
        invariant(0 < buffers <= BUFFERS_MAX_LIMIT and len(token) == TOKEN_SIZE, "a pool has buffers and a token")
        invariant(SECTOR_SIZE <= size <= MESSAGE_SIZE_LIMIT and size % SECTOR_SIZE == 0, "buffers are whole sectors")
        total = _total_size(buffers, size)
        descriptor = -1
        try:
            descriptor = os.memfd_create("client-replies-pool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(descriptor, total)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            memory = cls(descriptor, buffers, size, token, creator=True)
        except (OSError, ValueError) as error:
            if descriptor >= 0:
                os.close(descriptor)
            raise _unavailable(str(error), f"{total} bytes of shared memory") from error
        _HEAD.pack_into(memory._view, 0, _MAGIC, token, buffers, 0, size)
        return memory

    @classmethod
    def open(cls, name: MemoryName) -> PoolMemory:
        """Map the memory called `name`, in any process of its user on its host. Raises `StorageError`."""
        path = f"/proc/{name.process}/fd/{name.descriptor}"
        descriptor = -1
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            buffers, size = _read_head(descriptor, name)
            return cls(descriptor, buffers, size, name.token, creator=False)
        except (OSError, ValueError) as error:
            if descriptor >= 0:
                os.close(descriptor)
            raise _unavailable(str(error), f"the pool's memory at {path}") from error
        except StorageError:
            os.close(descriptor)
            raise

    def buffer(self, lease: Lease) -> memoryview:
        """The whole buffer of the lease. Raises `LeaseStale` unless its generation is the table's."""
        index = lease & LEASE_BUFFER_MASK
        if index >= self.buffers or self._generations[index] != lease >> LEASE_BUFFER_BITS:
            raise LeaseStale(lease)
        view = self._slices[index]
        return view if view is not None else self._slice(index)

    def contents(self, payloads: Iterable[Payload]) -> list[Buffer]:
        """For each payload its bytes: its own, or the whole buffer of its lease. Raises `LeaseStale`."""
        return [payload if isinstance(payload, bytes) else self.buffer(payload) for payload in payloads]

    def valid(self, lease: Lease) -> bool:
        """Whether the lease's generation is the table's."""
        index = lease & LEASE_BUFFER_MASK
        return index < self.buffers and self._generations[index] == lease >> LEASE_BUFFER_BITS

    def set_generation(self, buffer: int, generation: int) -> None:
        """Make `generation` the one that is valid. For the creator only."""
        invariant(self._creator, "only the pool changes generations")
        self._generations[buffer] = generation

    def close(self) -> None:
        """Unmap. Views that are still held keep the mapping until they are gone."""
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
        self.buffers = 0  # so that every lease is stale from now on
        views = [view for view in self._slices if view is not None]
        self._slices.clear()
        # Somebody's slice of a view makes its release fail; the last one to go then unmaps.
        for view in (*views, self._generations, self._view):
            with suppress(BufferError):
                view.release()
        with suppress(BufferError):
            self._mapping.close()

    def _slice(self, index: int) -> memoryview:
        start = self._buffers_offset + index * self.size
        view = self._view[start : start + self.size]
        self._slices[index] = view
        return view


def _buffers_offset(buffers: int) -> int:
    return _PAGE + -(-8 * buffers // _PAGE) * _PAGE


def _total_size(buffers: int, size: int) -> int:
    return _buffers_offset(buffers) + buffers * size


def _read_head(descriptor: int, name: MemoryName) -> tuple[int, int]:
    """Number and size of the buffers, after everything about the memory was found to be as it should."""
    seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    if seals & _SEALS != _SEALS:
        raise _unavailable(f"seals {seals:x}", f"seals {_SEALS:x}")
    head = os.pread(descriptor, _HEAD.size, 0)
    if len(head) < _HEAD.size:
        raise _unavailable(f"{len(head)} bytes", f"at least {_HEAD.size}")
    magic, token, buffers, zero, size = _HEAD.unpack(head)
    if magic != _MAGIC or zero or token != name.token:
        raise _unavailable("memory of another pool", "the token of this one")
    if not 0 < buffers <= BUFFERS_MAX_LIMIT or not SECTOR_SIZE <= size <= MESSAGE_SIZE_LIMIT or size % SECTOR_SIZE:
        raise _unavailable(f"{buffers} buffers of {size} bytes", "whole sectors within the limits")
    if os.fstat(descriptor).st_size != _total_size(buffers, size):
        raise _unavailable(f"{os.fstat(descriptor).st_size} bytes", f"{_total_size(buffers, size)} bytes")
    return buffers, size


def _unavailable(found: str, expected: str) -> StorageError:
    return storage_error(FaultKind.MEMORY_UNAVAILABLE, found, expected)
