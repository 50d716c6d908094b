"""An environment that refuses is no damage: each refusal has a kind of its own, and nothing is touched."""

import errno
import mmap
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client_replies.messages.config import OpenMode, RepliesConfig
from client_replies.messages.faults import FaultClass, FaultKind
from client_replies.storage.data_file import DataFile
from client_replies.storage.device import FileDisk

from tests.storage.samples import fault_kind, in_child, make_reply, small_config

REFUSALS = {
    errno.EMFILE: FaultKind.DESCRIPTORS_EXHAUSTED,
    errno.ENFILE: FaultKind.DESCRIPTORS_EXHAUSTED,
    errno.EACCES: FaultKind.PERMISSION_DENIED,
    errno.EPERM: FaultKind.PERMISSION_DENIED,
    errno.EROFS: FaultKind.READ_ONLY,
    errno.ENOSPC: FaultKind.DISK_FULL,
    errno.EDQUOT: FaultKind.DISK_FULL,
    errno.EFBIG: FaultKind.FILE_SIZE_LIMIT,
    errno.ENOMEM: FaultKind.OUT_OF_MEMORY,
    errno.EIO: FaultKind.IO_ERROR,
    errno.ESTALE: FaultKind.IO_ERROR,
    errno.ELOOP: FaultKind.SYSTEM_ERROR,
    errno.ENAMETOOLONG: FaultKind.SYSTEM_ERROR,
}


@pytest.fixture
def config(tmp_path: Path) -> RepliesConfig:
    """Give the configuration of a small file that is there, with a reply and two checkpoints."""
    config = small_config(tmp_path / "replies")
    data_file = DataFile.open(FileDisk(), config, OpenMode.FORMAT)
    data_file.write_slots([1], [make_reply().pack()])
    for sequence in (1, 2):
        data_file.write_checkpoint(sequence, sequence, b"table" * sequence)
    data_file.close()
    return config


def state(config: RepliesConfig) -> tuple[bytes, int, list[str]]:
    """Give all that must not change."""
    path = Path(config.path)
    return path.read_bytes(), os.stat(path).st_mtime_ns, os.listdir(path.parent)


def open_kind(config: RepliesConfig, mode: OpenMode = OpenMode.OPEN_OR_FORMAT) -> FaultKind:
    """Give the kind of fault with which opening fails."""
    return fault_kind(lambda: DataFile.open(FileDisk(), config, mode))


def failing(number: int) -> Callable[..., Any]:
    """Give a system call that fails so."""

    def call(*_arguments: object, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.__getitem__)
def test_a_file_that_the_system_does_not_open_is_left_alone(
    config: RepliesConfig, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """In the mode that would format a missing one too, and it opens when the refusal is over."""
    before = state(config)
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing(number))
        kind = open_kind(config)
    assert kind is REFUSALS[number]
    assert kind.fault_class is FaultClass.REFUSAL
    assert state(config) == before
    DataFile.open(FileDisk(), config, OpenMode.OPEN).close()


@pytest.mark.parametrize("call", ["preadv", "fdatasync", "fsync", "fstat"])
def test_a_system_call_that_fails_during_the_opening_is_no_damage(
    config: RepliesConfig, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Reading, syncing the file, syncing its name. No lock and no descriptor is left."""
    before, descriptors = state(config), os.listdir("/proc/self/fd")
    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing(errno.EIO))
        assert open_kind(config) is FaultKind.IO_ERROR
    assert state(config) == before
    assert os.listdir("/proc/self/fd") == descriptors
    DataFile.open(FileDisk(), config, OpenMode.OPEN).close()


def test_no_memory_for_reading_is_no_damage(config: RepliesConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table takes megabytes."""
    before = state(config)
    with monkeypatch.context() as patched:
        patched.setattr(mmap, "mmap", failing(errno.ENOMEM))
        assert open_kind(config) is FaultKind.OUT_OF_MEMORY
    assert state(config) == before


def test_a_process_without_descriptors_is_refused_at_every_step(config: RepliesConfig) -> None:
    """However many are left, down to none: the file opens, or it is said why not."""
    before = state(config)

    def attempt() -> list[str]:
        outcomes = []
        base = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
        for limit in range(base + 8):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            try:
                DataFile.open(FileDisk(), config, OpenMode.OPEN_OR_FORMAT).close()
                outcomes.append("opened")
            except Exception as error:
                outcomes.append(str(getattr(error, "fault", error)).partition(":")[0])
        return outcomes

    outcomes = in_child(attempt)
    assert outcomes is not None
    assert outcomes[0] == "DESCRIPTORS_EXHAUSTED"
    assert outcomes[-1] == "opened"
    assert set(outcomes) == {"DESCRIPTORS_EXHAUSTED", "opened"}
    assert state(config) == before


def test_a_directory_in_the_place_of_the_file_is_left_to_a_person(tmp_path: Path) -> None:
    """It is neither opened nor formatted over, in any mode."""
    (tmp_path / "replies" / "lost+found").mkdir(parents=True)
    config = small_config(tmp_path / "replies")
    assert open_kind(config) is FaultKind.NOT_A_FILE
    assert open_kind(config, OpenMode.FORMAT) is FaultKind.FILE_EXISTS
    assert os.listdir(tmp_path / "replies") == ["lost+found"]


def test_a_new_file_that_the_system_does_not_make_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Space that cannot be reserved, by the names of the reasons."""
    config = small_config(tmp_path / "new")
    for number, kind in REFUSALS.items():
        with monkeypatch.context() as patched:
            patched.setattr(os, "posix_fallocate", failing(number))
            assert open_kind(config) is kind
        assert os.listdir(tmp_path) == []
