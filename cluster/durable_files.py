"""Small files that a crash must not leave half written, and data that is set aside instead of deleted.

Guarantees: after `replace_file` the file is there, whole and durable; whatever happens on the way, the earlier file is
there instead. What a crash left of an earlier attempt is overwritten. `set_aside` renames, and never over anything
else; it keeps a bounded number of what was set aside, by refusing to go on and never by deleting.

Limits: one writer per file. Owns: the name with `.new` at its end while a file is replaced.
"""

from __future__ import annotations

import contextlib
import errno
import os
from datetime import UTC, datetime
from pathlib import Path

NEW = ".new"
DAMAGED_KEPT_MAX = 8  # set aside of one file or directory; a person is to look at them before there are more


def replace_file(path: Path, text: str) -> None:
    """Make `text` the file's content, durably. Raises `OSError`, and then the earlier file is as it was."""
    new = path.with_name(path.name + NEW)
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644), "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()  # never the real one, and incomplete
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in the directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(path: Path) -> Path:
    """Rename the damaged file or directory to `NAME.damaged-UTC_TIME`, durably. Raises `OSError`."""
    kept = sorted(path.parent.glob(f"{path.name}.damaged-*"))
    if len(kept) >= DAMAGED_KEPT_MAX:
        raise OSError(errno.EDQUOT, f"{len(kept)} are kept already, such as {kept[0].name}: look at them, remove some")
    if path.is_symlink():
        raise OSError(errno.ELOOP, f"{path.name} is a symbolic link: move aside what it points to")
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    if os.path.lexists(aside):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(aside))
    path.rename(aside)
    sync_directory(path.parent)
    return aside
