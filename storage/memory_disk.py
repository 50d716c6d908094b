"""Files in memory, for tests of what uses the component: as devices, with a capacity; a subclass adds faults."""

from __future__ import annotations

from collections.abc import Sequence

from client_replies.messages.faults import FaultKind
from client_replies.messages.reply_header import Buffer

from .device import Device, Disk, NewFile
from .errors import storage_error


class MemoryFile:
    """The bytes of a file in memory, and whether somebody has it open."""

    def __init__(self, data: bytearray) -> None:
        self.data = data
        self.locked = False


class MemoryDevice(Device):
    """An open, locked file in memory. A subclass that wants faults overrides `_read`, `_write` and `sync`."""

    def __init__(self, file: MemoryFile) -> None:
        super().__init__(len(file.data))
        self.file = file
        self.closed = False
        file.locked = True

    def _read(self, offset: int, into: memoryview, direct: bool) -> None:
        into[:] = memoryview(self.file.data)[offset : offset + len(into)]

    def _write(self, offset: int, parts: Sequence[Buffer]) -> None:
        for part in parts:
            self.file.data[offset : offset + len(part)] = part
            offset += len(part)

    def sync(self) -> None:
        """Nothing to do: what is in memory is as durable as it gets."""

    def close(self) -> None:
        """Release the lock."""
        if not self.closed:
            self.closed = True
            self.file.locked = False


class MemoryDisk(Disk):
    """Files in memory by path. `capacity` bytes in all, if given. A subclass overrides `device` to add faults."""

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.files: dict[str, MemoryFile] = {}

    def device(self, path: str, file: MemoryFile) -> MemoryDevice:
        """The device for an opening of `file`."""
        return MemoryDevice(file)

    def open(self, path: str) -> MemoryDevice:
        """The file, locked. Raises `StorageError`."""
        file = self.files.get(path)
        if file is None:
            raise storage_error(FaultKind.FILE_MISSING, f"no file {path}", "a data file")
        if file.locked:
            raise storage_error(FaultKind.FILE_LOCKED, f"{path} in use", f"{path}, not in use")
        return self.device(path, file)

    def create(self, path: str, size: int) -> NewFile:
        """A new file of `size` zero bytes. Raises `StorageError`."""
        if path in self.files:
            raise storage_error(FaultKind.FILE_EXISTS, path, "no file of this name")
        used = sum(len(file.data) for file in self.files.values())
        if self.capacity is not None and used + size > self.capacity:
            raise storage_error(FaultKind.DISK_FULL, f"{self.capacity - used} bytes free", f"{size} bytes of space")
        return _NewMemoryFile(self, path, MemoryFile(bytearray(size)))


class _NewMemoryFile(NewFile):
    def __init__(self, disk: MemoryDisk, path: str, file: MemoryFile) -> None:
        self._disk = disk
        self._path = path
        self._file = file
        self.device = disk.device(path, file)

    def publish(self) -> None:
        """Make it durable and give it its name."""
        self.device.sync()
        if self._path in self._disk.files:
            raise storage_error(FaultKind.FILE_EXISTS, self._path, "no file of this name")
        self._disk.files[self._path] = self._file

    def discard(self) -> None:
        """Forget it."""
        self.device.close()
