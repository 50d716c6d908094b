"""Devices: the one interface to the bytes of a data file, and files of the operating system (in memory: `memory_disk`).

Guarantees: a transfer is whole sectors, at a sector, inside the device, all of it or a `StorageError`; the same checks
run before a write and before a read. What `sync` returned for is durable, and nothing else is. `open` holds the file
exclusively until `close`, also against other openings by the same process. `create` gives a file its name only when
it is complete and durable, and never in place of another: whatever the moment of a crash, there is no half-made file
under the final name.

Limits: no order and no atomicity of writes that no sync separates; after a crash any part of any of them may be there.

Threads may write and read at the same time. Nobody may use a device while it is being closed, or after.

Owns: nothing of what the bytes mean, which is data_file.py's.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress

from client_replies.messages.config import SECTOR_SIZE
from client_replies.messages.faults import FaultKind, invariant
from client_replies.messages.reply_header import Buffer

from .errors import StorageError, fault_of, storage_error

PARTS_MAX = 1024  # what the kernel takes in one gathered write (IOV_MAX)
_NO_DIRECT_READS = frozenset({errno.EINVAL, errno.EOPNOTSUPP})  # of the file system, not of the moment


class Device(ABC):
    """The bytes of one open file. `size` is what it had when it was opened."""

    def __init__(self, size: int) -> None:
        self.size = size

    def read(self, offset: int, into: memoryview, *, direct: bool = False) -> None:
        """Fill `into`. `direct` means from the disk itself, whatever the operating system remembers of it."""
        check_transfer(offset, len(into), self.size)
        self._read(offset, into, direct)

    def write(self, offset: int, parts: Sequence[Buffer]) -> None:
        """Write the parts one after the other, without a copy of them."""
        check_transfer(offset, sum(map(len, parts)), self.size)
        self._write(offset, parts)

    def head(self, size: int) -> bytes:
        """The first `size` bytes, or fewer if the device is shorter: to tell what a file is before it is trusted."""
        into = bytearray(min(size, self.size))
        if into:
            self._read(0, memoryview(into), False)
        return bytes(into)

    @abstractmethod
    def _read(self, offset: int, into: memoryview, direct: bool) -> None: ...

    @abstractmethod
    def _write(self, offset: int, parts: Sequence[Buffer]) -> None: ...

    @abstractmethod
    def sync(self) -> None:
        """Return when everything written is durable."""

    @abstractmethod
    def close(self) -> None:
        """Release the lock and the file. Closing again is harmless."""


class NewFile(ABC):
    """A file in the making. Either `publish` or `discard` ends it; `device` writes it meanwhile and afterwards."""

    device: Device

    @abstractmethod
    def publish(self) -> None:
        """Make all of it durable, then give it its name. Raises FILE_EXISTS rather than replace another."""

    @abstractmethod
    def discard(self) -> None:
        """Forget it."""


class Disk(ABC):
    """Where files are."""

    @abstractmethod
    def open(self, path: str) -> Device:
        """The file, locked. Raises `StorageError`."""

    @abstractmethod
    def create(self, path: str, size: int) -> NewFile:
        """A new file of `size` zero bytes, locked, its space reserved. Raises `StorageError`."""


def check_transfer(offset: int, size: int, device_size: int) -> None:
    """A transfer is whole sectors inside the device. Anything else is a bug of the caller."""
    if offset % SECTOR_SIZE or size % SECTOR_SIZE or offset < 0 or size <= 0 or offset + size > device_size:
        invariant(False, f"a transfer of {size} bytes at {offset} of {device_size}")


def aligned_memory(size: int) -> memoryview:
    """New zeroed memory that starts at a sector, which direct reads need. Raises `StorageError`."""
    try:
        return memoryview(mmap.mmap(-1, size))
    except OSError as error:
        raise StorageError(fault_of(error, f"{size} bytes of memory")) from error


def address_of(memory: memoryview) -> int:
    """Where a writable buffer is in memory."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


class FileDevice(Device):
    """An open, locked file: buffered writes and `fdatasync`, reads through the page cache or, if direct, past it."""

    def __init__(self, descriptor: int, size: int) -> None:
        super().__init__(size)
        self._descriptor = descriptor
        self._direct_descriptor = _open_direct(descriptor)
        self._own = threading.local()
        self._others: list[int] = []  # of threads

    @property
    def reads_past_cache(self) -> bool:
        """Whether the file system lets direct reads go past the page cache. If not, they ask it to drop its pages."""
        return self._direct_descriptor is not None

    def _read(self, offset: int, into: memoryview, direct: bool) -> None:
        if not direct:
            _read_fully(self._descriptor, offset, into)
        elif self._direct_descriptor is None:
            with suppress(OSError):  # advice only: the file system may not know it
                os.posix_fadvise(self._descriptor, offset, len(into), os.POSIX_FADV_DONTNEED)
            _read_fully(self._descriptor, offset, into)
        elif address_of(into) % SECTOR_SIZE == 0:
            _read_fully(self._direct_descriptor, offset, into)
        else:
            aligned = aligned_memory(len(into))
            _read_fully(self._direct_descriptor, offset, aligned)
            into[:] = aligned

    def _write(self, offset: int, parts: Sequence[Buffer]) -> None:
        try:
            _write_fully(self._thread_descriptor(), offset, parts)
        except OSError as error:
            raise StorageError(fault_of(error, f"a write at {offset}")) from error

    def _thread_descriptor(self) -> int:
        """This thread's own opening of the file, made before its first write.

        The kernel reports a failed write-back once for each opening (open file description). Two threads that share
        one could both sync, and the news of a lost write would reach only the one that did not make it.
        """
        descriptor: int | None = getattr(self._own, "descriptor", None)
        if descriptor is None:
            descriptor = self._own.descriptor = os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDWR | os.O_CLOEXEC)
            self._others.append(descriptor)
        return descriptor

    def sync(self) -> None:
        """Return when everything that this thread wrote is durable."""
        try:
            os.fdatasync(self._thread_descriptor())
        except OSError as error:
            raise StorageError(fault_of(error, "a data sync")) from error

    def close(self) -> None:
        """Release the lock and the file."""
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        while self._others:
            os.close(self._others.pop())
        if self._direct_descriptor is not None:
            os.close(self._direct_descriptor)
        # Unlocked by name: a process forked meanwhile would otherwise hold the lock on.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _open_direct(descriptor: int) -> int | None:
    """A second descriptor past the page cache, or None where the file system refuses. Decided once, by trying."""
    direct = None
    try:
        direct = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        os.preadv(direct, [aligned_memory(SECTOR_SIZE)], 0)
    except OSError as error:
        if direct is not None and error.errno == errno.EIO:
            return direct  # a bad sector is no reason to trust the page cache
        if direct is not None:
            os.close(direct)
        if error.errno not in _NO_DIRECT_READS:
            raise StorageError(fault_of(error, "a descriptor for direct reads")) from error
        return None
    return direct


def _read_fully(descriptor: int, offset: int, into: memoryview) -> None:
    done = 0
    try:
        while done < len(into):
            count = os.preadv(descriptor, [into[done:] if done else into], offset + done)
            if not count:
                found = f"the end of the file at {offset + done}"
                raise storage_error(FaultKind.FILE_TRUNCATED, found, f"{len(into)} bytes at {offset}")
            done += count
    except OSError as error:
        raise StorageError(fault_of(error, f"a read at {offset}")) from error


def _write_fully(descriptor: int, offset: int, parts: Sequence[Buffer]) -> None:
    """One call as a rule; a short write (a signal, a limit) is continued where it stopped."""
    waiting, left = list(parts), sum(map(len, parts))
    while left:
        count = os.pwritev(descriptor, waiting[:PARTS_MAX], offset)
        offset += count
        left -= count
        if left:
            first = 0
            while count >= len(waiting[first]):
                count -= len(waiting[first])
                first += 1
            waiting = [memoryview(waiting[first])[count:], *waiting[first + 1 :]]


class FileDisk(Disk):
    """Files of the operating system."""

    def open(self, path: str) -> FileDevice:
        """The file, locked. Raises `StorageError`, and leaves the file as it is."""
        descriptor = _open_regular(path, os.O_RDWR)
        try:
            status = os.fstat(descriptor)
            _lock(descriptor, path)
            # Who made it may have died with the name in the page cache alone, and what is durable in a file without a
            # name is lost. Its temporary name goes afterwards: until now it may be the only one that a crash leaves.
            _sync_directory(path)
            _forget_second_name(path, status)
            return FileDevice(descriptor, status.st_size)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError):
                raise _name_error(error, path) from error
            raise

    def open_to_read(self, path: str) -> FileDevice:
        """The file as it is, shared with others who read it, and with no one who writes. Raises `StorageError`."""
        descriptor = _open_regular(path, os.O_RDONLY)
        try:
            _lock(descriptor, path, fcntl.LOCK_SH)
            return FileDevice(descriptor, os.fstat(descriptor).st_size)
        except BaseException:
            os.close(descriptor)
            raise

    def create(self, path: str, size: int) -> NewFile:
        """A new file of `size` zero bytes, locked, its space reserved. Raises `StorageError`."""
        return _NewRealFile(path, size)


def _open_regular(path: str, access: int) -> int:
    try:
        descriptor = os.open(path, access | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise _name_error(error, path) from error
    os.close(descriptor)
    raise storage_error(FaultKind.NOT_A_FILE, f"{path} is no regular file", "a data file")


class _NewRealFile(NewFile):
    """Made under a temporary name beside the final one. Whoever holds the lock on that name's file owns the name.

    A crash leaves the temporary file unlocked, and the next one to make a file of this name takes it away.
    """

    def __init__(self, path: str, size: int) -> None:
        self._path = path
        self._temporary = temporary_name(path)
        if os.path.lexists(path):
            raise storage_error(FaultKind.FILE_EXISTS, path, "no file of this name")
        descriptor = self._own_temporary()
        try:
            # Reserved for real, so that no write to a slot can ever find the disk full.
            os.posix_fallocate(descriptor, 0, size)
            self.device = FileDevice(descriptor, size)
        except BaseException as error:
            self._discard(descriptor)
            if isinstance(error, OSError):
                raise StorageError(fault_of(error, f"{size} bytes of space for {path}")) from error
            raise
        self._descriptor = descriptor

    def publish(self) -> None:
        """Make all of it durable, then give it its name. Raises FILE_EXISTS rather than replace another."""
        try:
            os.fsync(self._descriptor)
            os.link(self._temporary, self._path, follow_symlinks=False)
            os.unlink(self._temporary)
            _sync_directory(self._path)
        except OSError as error:
            raise _name_error(error, self._path) from error

    def discard(self) -> None:
        """Forget it."""
        with suppress(OSError):
            os.unlink(self._temporary)
        self.device.close()

    def _discard(self, descriptor: int) -> None:
        with suppress(OSError):
            os.unlink(self._temporary)
        os.close(descriptor)

    def _own_temporary(self) -> int:
        """An empty, locked file under the temporary name."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        while True:
            try:
                descriptor = os.open(self._temporary, flags, 0o600)
            except OSError as error:
                raise _name_error(error, self._path) from error
            try:
                _lock(descriptor, self._temporary)
                owned = os.fstat(descriptor)
                if not _is_name_of(self._temporary, owned):
                    os.close(descriptor)  # its owner published or discarded it between our open and our lock
                    continue
                if owned.st_size == 0 and owned.st_nlink == 1:
                    return descriptor
                # Left by a crash. Taken away and never truncated: it may be a second name of a published file.
                os.unlink(self._temporary)
                os.close(descriptor)
            except BaseException as error:
                with suppress(OSError):
                    os.close(descriptor)
                if isinstance(error, OSError):
                    raise _name_error(error, self._path) from error
                raise


def temporary_name(path: str) -> str:
    """The name beside `path` under which its file is made."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}.formatting")


def _lock(descriptor: int, path: str, kind: int = fcntl.LOCK_EX) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        raise StorageError(fault_of(error, f"{path}, not in use")) from error


def _is_name_of(path: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.lstat(path), status)
    except FileNotFoundError:
        return False


def _forget_second_name(path: str, status: os.stat_result) -> None:
    """After a crash between the two steps of `publish`, the file still has its temporary name as well."""
    if status.st_nlink > 1 and _is_name_of(temporary_name(path), status):
        with suppress(OSError):
            os.unlink(temporary_name(path))


def _sync_directory(path: str) -> None:
    """Make the file's name durable."""
    name = os.path.dirname(path) or "."
    try:
        directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise StorageError(fault_of(error, f"a sync of the directory {name}")) from error


def _name_error(error: OSError, path: str) -> StorageError:
    directory = os.path.dirname(path) or "."
    if error.errno == errno.ENOENT and not os.path.isdir(directory):
        return storage_error(FaultKind.DIRECTORY_MISSING, f"no directory {directory}", f"a directory for {path}")
    if error.errno == errno.ENXIO:
        return storage_error(FaultKind.NOT_A_FILE, f"{path} is no regular file", "a data file")
    return StorageError(fault_of(error, path))
