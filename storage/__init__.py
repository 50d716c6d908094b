"""Everything that knows bytes: the data file and its devices, the session table, the pool's memory and its leases.

Nothing here is an actor. Each class is a plain object with one owner, and its tests start no actor system.
"""

from .client_sessions import ClientSessions
from .data_file import DataFile
from .device import Device, Disk, FileDisk
from .errors import StorageError
from .layout import Layout
from .memory_disk import MemoryDisk
from .session_table import SessionsInvalid

__all__ = [
    "ClientSessions",
    "DataFile",
    "Device",
    "Disk",
    "FileDisk",
    "Layout",
    "MemoryDisk",
    "SessionsInvalid",
    "StorageError",
]
