"""Everything that knows bytes on disk and in shared memory.

Read in this order: `layout` (where what is), `configuration` (where sizes come from, and what they cost), `device`
(files), `superblock`, `session_table`, `data_file` with `data_file_parts` (opening, slots, checkpoints), `inspection`
(what a file holds, part by part), `client_sessions` (which request is new), `shared_memory` and `leases` (the pool's
buffers and who holds them), `errors`.

Nothing here is an actor. Each class is a plain object with one owner, and its tests start no actor system.
"""

from .client_sessions import ClientSessions
from .configuration import ConfigInvalid, describe, load_config
from .data_file import DataFile
from .device import Device, Disk, FileDisk
from .errors import StorageError
from .layout import Layout
from .memory_disk import MemoryDisk
from .session_table import SessionsInvalid

__all__ = [
    "ClientSessions",
    "ConfigInvalid",
    "DataFile",
    "Device",
    "Disk",
    "FileDisk",
    "Layout",
    "MemoryDisk",
    "SessionsInvalid",
    "StorageError",
    "describe",
    "load_config",
]
