"""How the storage says that it could not do something: one exception that carries a typed `Fault`.

Guarantees: nothing in this package lets an `OSError` out; `fault_of` translates it, so that who asked gets a named
kind together with the operating system's own words.
"""

from __future__ import annotations

import errno

from client_replies.messages.faults import Fault, FaultKind

_KINDS = {
    errno.ENOENT: FaultKind.FILE_MISSING,
    errno.EEXIST: FaultKind.FILE_EXISTS,
    errno.ENOTDIR: FaultKind.DIRECTORY_MISSING,
    errno.EACCES: FaultKind.PERMISSION_DENIED,
    errno.EPERM: FaultKind.PERMISSION_DENIED,
    errno.EROFS: FaultKind.PERMISSION_DENIED,
    errno.EWOULDBLOCK: FaultKind.FILE_LOCKED,
    errno.ENOSPC: FaultKind.DISK_FULL,
    errno.EDQUOT: FaultKind.DISK_FULL,
    errno.EFBIG: FaultKind.DISK_FULL,  # the limit on a file's size: no room for this file either
    errno.EISDIR: FaultKind.NOT_A_DATA_FILE,
}


class StorageError(Exception):
    """The storage could not do what it was asked; `fault` says why, and travels in the answer."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault

    def __str__(self) -> str:
        return str(self.fault)


def storage_error(kind: FaultKind, found: str, expected: str) -> StorageError:
    """The error with this fault."""
    return StorageError(Fault(kind=kind, found=found, expected=expected))


def fault_of(error: OSError, expected: str) -> Fault:
    """The fault that the operating system's error amounts to; `expected` says what was wanted of it."""
    kind = _KINDS.get(error.errno or 0, FaultKind.IO_ERROR)
    name = errno.errorcode.get(error.errno or 0, "no errno")
    return Fault(kind=kind, found=f"{name}: {error.strerror or error}", expected=expected)
