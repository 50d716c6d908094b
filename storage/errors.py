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
    errno.EROFS: FaultKind.READ_ONLY,
    errno.EWOULDBLOCK: FaultKind.FILE_LOCKED,
    errno.EMFILE: FaultKind.DESCRIPTORS_EXHAUSTED,
    errno.ENFILE: FaultKind.DESCRIPTORS_EXHAUSTED,
    errno.ENOSPC: FaultKind.DISK_FULL,
    errno.EDQUOT: FaultKind.DISK_FULL,
    errno.EFBIG: FaultKind.FILE_SIZE_LIMIT,
    errno.EISDIR: FaultKind.NOT_A_FILE,
    errno.ENOMEM: FaultKind.OUT_OF_MEMORY,
    errno.EIO: FaultKind.IO_ERROR,
    errno.ENXIO: FaultKind.IO_ERROR,  # the device is gone; so are the next four
    errno.ENODEV: FaultKind.IO_ERROR,
    errno.ESTALE: FaultKind.IO_ERROR,
    errno.ETIMEDOUT: FaultKind.IO_ERROR,
    errno.EREMOTEIO: FaultKind.IO_ERROR,
    errno.ENODATA: FaultKind.IO_ERROR,  # a bad sector, in the words of some devices; the rest, of some file systems
    errno.EILSEQ: FaultKind.IO_ERROR,
    errno.EBADMSG: FaultKind.IO_ERROR,
    errno.EUCLEAN: FaultKind.IO_ERROR,
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
    kind = _KINDS.get(error.errno or 0, FaultKind.SYSTEM_ERROR)
    name = errno.errorcode.get(error.errno or 0, "no errno")
    return Fault(kind=kind, found=f"{name}: {error.strerror or error}", expected=expected)
