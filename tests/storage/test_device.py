"""Devices: the same tests for files and for memory, then what only real files can do."""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from client_replies.messages.faults import FaultClass, FaultKind, InvariantBroken
from client_replies.storage.device import Device, Disk, FileDevice, FileDisk, address_of, aligned_memory, temporary_name
from client_replies.storage.errors import StorageError, fault_of
from client_replies.storage.memory_disk import MemoryDisk

from tests.storage.samples import fault_kind, in_child, make_disk, read_all

SIZE = 8 * 4096


@pytest.fixture(params=["file", "memory"])
def disk(request: pytest.FixtureRequest) -> Disk:
    """Run the test on both kinds of disk."""
    return make_disk(request.param)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Give a name for the file."""
    return str(tmp_path / "file")


def created(disk: Disk, path: str) -> Device:
    """Make and publish an empty file."""
    new_file = disk.create(path, SIZE)
    new_file.publish()
    return new_file.device


def filled(count: int) -> bytes:
    """Give sectors that can be told apart."""
    return b"".join(bytes([1 + sector]) * 4096 for sector in range(count))


class TestEveryDevice:
    """What the interface promises."""

    def test_a_new_file_is_zero_and_as_large_as_asked(self, disk: Disk, path: str) -> None:
        """Formatting relies on it."""
        device = created(disk, path)
        assert device.size == SIZE
        assert read_all(device) == bytes(SIZE)
        device.close()

    @pytest.mark.parametrize("direct", [False, True])
    def test_what_was_written_is_read_back(self, disk: Disk, path: str, direct: bool) -> None:
        """Into aligned memory and into any other, and nothing beside it changes."""
        device = created(disk, path)
        data = filled(3)
        device.write(4096, (data[:100], memoryview(data)[100:4096], bytearray(data[4096:])))
        device.sync()
        for into in (aligned_memory(3 * 4096), memoryview(bytearray(3 * 4096 + 1))[1:]):
            device.read(4096, into, direct=direct)
            assert bytes(into) == data
        assert read_all(device) == bytes(4096) + data + bytes(SIZE - 4 * 4096)
        device.close()

    def test_what_was_synced_is_there_after_reopening(self, disk: Disk, path: str) -> None:
        """Across a close and an open."""
        device = created(disk, path)
        device.write(0, (filled(2),))
        device.sync()
        device.close()
        again = disk.open(path)
        assert read_all(again)[: 2 * 4096] == filled(2)
        again.close()

    @pytest.mark.parametrize(
        ("offset", "size"), [(1, 4096), (0, 4095), (0, 0), (-4096, 4096), (SIZE, 4096), (SIZE - 4096, 8192)]
    )
    def test_a_transfer_that_is_not_whole_sectors_inside_is_a_bug(
        self, disk: Disk, path: str, offset: int, size: int
    ) -> None:
        """Refused the same way for reads and writes, before anything happens."""
        device = created(disk, path)
        with pytest.raises(InvariantBroken):
            device.write(offset, (bytes([1]) * size,))
        with pytest.raises(InvariantBroken):
            device.read(offset, memoryview(bytearray(size)))
        assert read_all(device) == bytes(SIZE)
        device.close()

    def test_the_head_is_what_is_there(self, disk: Disk, path: str) -> None:
        """Of any length, and no more than the file has."""
        device = created(disk, path)
        device.write(0, (filled(1),))
        assert device.head(10) == bytes([1]) * 10
        assert len(device.head(2 * SIZE)) == SIZE
        device.close()

    def test_an_open_file_is_locked_until_it_is_closed(self, disk: Disk, path: str) -> None:
        """Also within one process, from its making on."""
        device = created(disk, path)
        assert fault_kind(lambda: disk.open(path)) is FaultKind.FILE_LOCKED
        device.close()
        device.close()
        again = disk.open(path)
        assert fault_kind(lambda: disk.open(path)) is FaultKind.FILE_LOCKED
        again.close()

    def test_a_missing_file_is_not_opened(self, disk: Disk, path: str) -> None:
        """And opening does not make it."""
        assert fault_kind(lambda: disk.open(path)) is FaultKind.FILE_MISSING
        assert fault_kind(lambda: disk.open(path)) is FaultKind.FILE_MISSING

    def test_a_file_has_no_name_before_it_is_published(self, disk: Disk, path: str) -> None:
        """And never gets one when it is discarded."""
        new_file = disk.create(path, SIZE)
        assert fault_kind(lambda: disk.open(path)) is FaultKind.FILE_MISSING
        new_file.discard()
        assert fault_kind(lambda: disk.open(path)) is FaultKind.FILE_MISSING
        created(disk, path).close()

    def test_making_a_file_never_replaces_one(self, disk: Disk, path: str) -> None:
        """Neither one that was there before nor one that came meanwhile."""
        device = created(disk, path)
        device.write(0, (filled(1),))
        device.close()
        assert fault_kind(lambda: disk.create(path, SIZE)) is FaultKind.FILE_EXISTS
        again = disk.open(path)
        assert read_all(again)[:4096] == filled(1)
        again.close()


class TestFiles:
    """What only the operating system's files can show."""

    def test_the_lock_holds_against_another_process_and_ends_with_it(self, path: str) -> None:
        """A killed holder leaves no lock behind."""
        created(FileDisk(), path).close()
        code = (
            "import sys; from client_replies.storage.device import FileDisk\n"
            "device = FileDisk().open(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            assert fault_kind(lambda: FileDisk().open(path)) is FaultKind.FILE_LOCKED
            holder.kill()
            holder.wait()
        FileDisk().open(path).close()

    def test_closing_unlocks_although_a_forked_process_lives_on(self, path: str) -> None:
        """A fork shares the lock; giving it up by name ends it for both."""
        device = created(FileDisk(), path)
        child = os.fork()
        if child == 0:
            signal.pause()
        try:
            device.close()
            FileDisk().open(path).close()
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def test_a_descriptor_is_not_inherited_by_programs(self, path: str) -> None:
        """Nothing that is started with exec keeps the file open."""
        device = created(FileDisk(), path)
        assert isinstance(device, FileDevice)
        assert not os.get_inheritable(device._descriptor)
        device.close()

    @pytest.mark.parametrize("crash", ["posix_fallocate", "fsync", "link", "unlink", "published"])
    def test_a_crash_while_a_file_is_made_leaves_no_half_of_it(self, path: str, crash: str) -> None:
        """Killed before each step: no file under the final name, or the whole one; the next attempt cleans up."""

        def make_and_die() -> None:
            def die(*_arguments: object, **_options: object) -> None:
                os.kill(os.getpid(), signal.SIGKILL)

            if crash != "published":
                setattr(os, crash, die)
            device = FileDisk().create(path, SIZE)
            device.device.write(0, (filled(1),))
            device.publish()
            die()

        assert in_child(make_and_die) is None
        if crash in ("unlink", "published"):
            device: Device = FileDisk().open(path)
            assert read_all(device)[:4096] == filled(1)
            device.close()
        else:
            assert not os.path.exists(path)
            created(FileDisk(), path).close()
        assert os.listdir(os.path.dirname(path)) == ["file"]

    def test_a_leftover_that_is_a_second_name_of_a_file_is_never_emptied(self, tmp_path: Path) -> None:
        """After a crash between the two names, the user moves the file and formats anew: the moved one is whole."""
        path = str(tmp_path / "file")
        device = created(FileDisk(), path)
        device.write(0, (filled(1),))
        device.close()
        os.link(path, temporary_name(path))
        os.rename(path, tmp_path / "moved")
        device = created(FileDisk(), path)
        assert read_all(device) == bytes(SIZE)
        device.close()
        assert (tmp_path / "moved").read_bytes()[:4096] == filled(1)
        assert sorted(os.listdir(tmp_path)) == ["file", "moved"]

    def test_two_who_make_the_same_file_do_not_disturb_each_other(self, path: str) -> None:
        """The second is told that the name is in use, and the first one's work is untouched."""
        first = FileDisk().create(path, SIZE)
        assert fault_kind(lambda: FileDisk().create(path, SIZE)) is FaultKind.FILE_LOCKED
        first.publish()
        first.device.close()
        assert fault_kind(lambda: FileDisk().create(path, SIZE)) is FaultKind.FILE_EXISTS

    def test_a_file_that_appears_meanwhile_is_not_replaced(self, path: str) -> None:
        """Somebody else's file of the same name wins over one that is not published yet."""
        new_file = FileDisk().create(path, SIZE)
        Path(path).write_bytes(b"mine")
        assert fault_kind(new_file.publish) is FaultKind.FILE_EXISTS
        new_file.discard()
        assert Path(path).read_bytes() == b"mine"
        assert os.listdir(os.path.dirname(path)) == ["file"]

    def test_a_file_gets_its_name_when_it_is_durable_and_the_name_is_made_durable_too(
        self, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its bytes first, then the name, then the directory that holds the name."""
        new_file = FileDisk().create(path, SIZE)
        with noted_calls(monkeypatch) as steps:
            new_file.publish()
        assert steps == ["fsync", "link", "unlink", "fsync directory"]
        new_file.device.close()

    def test_who_opens_a_file_makes_its_name_durable_before_anything_else(
        self, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its maker may have been killed between the name and the sync; the temporary name goes after that sync."""
        created(FileDisk(), path).close()
        os.link(path, temporary_name(path))
        with noted_calls(monkeypatch) as steps:
            FileDisk().open(path).close()
        assert steps == ["fsync directory", "unlink"]

    @pytest.mark.parametrize(
        ("number", "kind"),
        [(errno.EMFILE, FaultKind.DESCRIPTORS_EXHAUSTED), (errno.EINVAL, None), (errno.EACCES, None)],
    )
    def test_a_refusal_of_the_moment_is_not_taken_for_a_file_system_without_direct_reads(
        self, path: str, monkeypatch: pytest.MonkeyPatch, number: int, kind: FaultKind | None
    ) -> None:
        """Without descriptors the file is refused: it would be verified by what the page cache says, for good."""
        created(FileDisk(), path).close()
        really_open = os.open

        def refusing(name: str, flags: int, *rest: int) -> int:
            if flags & os.O_DIRECT:
                raise OSError(number, "refused")
            return really_open(name, flags, *rest)

        monkeypatch.setattr(os, "open", refusing)
        if number == errno.EINVAL:
            FileDisk().open(path).close()
        else:
            assert fault_kind(lambda: FileDisk().open(path)) is (kind or FaultKind.PERMISSION_DENIED)

    def test_space_is_really_reserved(self, path: str) -> None:
        """A write to a slot cannot find the disk full."""
        created(FileDisk(), path).close()
        assert os.stat(path).st_blocks * 512 >= SIZE

    def test_the_limit_on_the_size_of_a_file_is_reported_and_leaves_nothing(self, path: str) -> None:
        """It is the process's own, and no full disk."""

        def make() -> FaultKind:
            resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, SIZE // 2))
            return fault_kind(lambda: FileDisk().create(path, SIZE))

        assert in_child(make) is FaultKind.FILE_SIZE_LIMIT
        assert os.listdir(os.path.dirname(path)) == []

    def test_a_file_larger_than_the_disk_is_reported_and_leaves_nothing(self) -> None:
        """Here the file system itself refuses: one in memory, which says so without filling up first."""
        with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
            space = os.statvfs(directory)
            size = (space.f_blocks + 1) * space.f_frsize
            assert size > SIZE
            assert fault_kind(lambda: FileDisk().create(f"{directory}/file", size)) is FaultKind.DISK_FULL
            assert os.listdir(directory) == []

    def test_a_missing_directory_is_named(self, tmp_path: Path) -> None:
        """For opening and for making, and also when a part of the path is a file."""
        (tmp_path / "plain").touch()
        for directory in ("missing", "plain"):
            path = str(tmp_path / directory / "file")
            assert fault_kind(lambda path=path: FileDisk().open(path)) is FaultKind.DIRECTORY_MISSING  # type: ignore[misc]
            assert fault_kind(lambda path=path: FileDisk().create(path, SIZE)) is FaultKind.DIRECTORY_MISSING  # type: ignore[misc]

    def test_what_the_user_may_not_touch_is_refused(self) -> None:
        """Neither a file of somebody else nor a new one in a directory that cannot be written."""
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "file")
            created(FileDisk(), path).close()

            def attempt() -> tuple[FaultKind, FaultKind]:
                return fault_kind(lambda: FileDisk().open(path)), fault_kind(
                    lambda: FileDisk().create(f"{path}2", SIZE)
                )

            def attempt_as_nobody() -> tuple[FaultKind, FaultKind]:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                return attempt()

            os.chmod(path, 0o000)
            os.chmod(directory, 0o555)
            denied = (FaultKind.PERMISSION_DENIED, FaultKind.PERMISSION_DENIED)
            assert in_child(attempt_as_nobody) == denied
            os.chmod(directory, 0o755)

    def test_what_is_no_regular_file_is_not_opened(self, tmp_path: Path) -> None:
        """A directory, a pipe and a device do not hang or confuse the opening."""
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
            assert fault_kind(lambda path=path: FileDisk().open(str(path))) is FaultKind.NOT_A_FILE  # type: ignore[misc]

    def test_direct_reads_see_the_disk_and_not_the_page_cache(self, path: str) -> None:
        """Where the file system can do it, a direct read leaves no page in the cache."""
        device = created(FileDisk(), path)
        assert isinstance(device, FileDevice)
        if not device.reads_past_cache:
            pytest.skip("the temporary directory's file system has no direct reads")
        device.write(0, (filled(8),))
        device.sync()
        os.posix_fadvise(device._descriptor, 0, SIZE, os.POSIX_FADV_DONTNEED)
        into = aligned_memory(SIZE)
        assert address_of(into) % 4096 == 0
        before = _read_bytes()
        device.read(0, into, direct=True)
        device.read(0, into, direct=True)
        assert bytes(into) == filled(8)
        # /proc counts what really came from the device; not every file system counts there.
        assert _read_bytes() - before in (0, 2 * SIZE)
        device.close()

    def test_a_file_system_without_direct_reads_serves_them_all_the_same(
        self, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Decided once, at opening; the pages are dropped as far as the system takes advice."""
        really_open = os.open

        def refusing(name: str, flags: int, *rest: int) -> int:
            if flags & os.O_DIRECT:
                raise OSError(errno.EINVAL, "refused")
            return really_open(name, flags, *rest)

        monkeypatch.setattr(os, "open", refusing)
        device = created(FileDisk(), path)
        assert isinstance(device, FileDevice)
        assert not device.reads_past_cache
        device.write(0, (filled(8),))
        into = memoryview(bytearray(SIZE))
        device.read(0, into, direct=True)
        assert bytes(into) == filled(8)
        device.close()

    def test_a_short_write_is_continued(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever the kernel takes at a time, also in the middle of a part."""
        device = created(FileDisk(), path)
        really_write = os.pwritev
        calls = []

        def at_most_1000(descriptor: int, parts: list[bytes], offset: int) -> int:
            calls.append(offset)
            return really_write(descriptor, [bytes(memoryview(parts[0])[:1000])], offset)

        monkeypatch.setattr(os, "pwritev", at_most_1000)
        data = filled(2)
        device.write(4096, (data[:1], data[1:5000], data[5000:]))
        monkeypatch.undo()
        assert len(calls) > 8
        assert read_all(device)[4096 : 3 * 4096] == data
        device.close()

    def test_more_parts_than_the_kernel_takes_at_once_are_written(self, path: str) -> None:
        """4,096 parts of one byte."""
        device = created(FileDisk(), path)
        device.write(0, [bytes([index % 251]) for index in range(4096)])
        assert read_all(device)[:4096] == bytes(index % 251 for index in range(4096))
        device.close()

    def test_a_file_that_shrank_is_an_error_and_not_zeros(self, path: str) -> None:
        """A read beyond the end says so."""
        device = created(FileDisk(), path)
        os.truncate(path, 4096)
        assert fault_kind(lambda: read_all(device)) is FaultKind.FILE_TRUNCATED
        device.close()

    @pytest.mark.parametrize(
        ("name", "call"),
        [
            ("pwritev", lambda device: device.write(0, (bytes(4096),))),
            ("preadv", lambda device: device.read(0, memoryview(bytearray(4096)))),
            ("fdatasync", lambda device: device.sync()),
        ],
    )
    @pytest.mark.parametrize(("number", "kind"), [(errno.EIO, FaultKind.IO_ERROR), (errno.ENOSPC, FaultKind.DISK_FULL)])
    def test_an_error_of_the_system_becomes_a_fault(
        self,
        path: str,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        call: Callable[[Device], None],
        number: int,
        kind: FaultKind,
    ) -> None:
        """With the system's own words in it."""
        device = created(FileDisk(), path)

        def failing(*_arguments: object) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, name, failing)
        with pytest.raises(StorageError) as raised:
            call(device)
        monkeypatch.undo()
        assert raised.value.fault.kind is kind
        assert os.strerror(number) in raised.value.fault.found
        assert kind.name in str(raised.value)
        device.close()


def test_an_unknown_error_of_the_system_is_a_refusal_and_no_damage() -> None:
    """Nothing is left without a kind, and what is not known proves nothing."""
    for error in (OSError("strange"), OSError(errno.ELOOP, "loop")):
        assert fault_of(error, "x").kind is FaultKind.SYSTEM_ERROR
    kinds = {fault_of(OSError(number, "x"), "x").kind for number in errno.errorcode}
    assert FaultClass.DAMAGE not in {kind.fault_class for kind in kinds}


@contextmanager
def noted_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Give the calls within that make names and syncs, in order."""
    steps: list[str] = []

    def noted(name: str, really: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **options: Any) -> None:
            is_directory = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            steps.append(f"{name} directory" if is_directory else name)
            really(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for name in ("fsync", "link", "unlink"):
            patched.setattr(os, name, noted(name, getattr(os, name)))
        yield steps


def test_a_memory_disk_has_a_capacity() -> None:
    """So that a full disk can be simulated."""
    disk = MemoryDisk(capacity=SIZE + 1)
    created(disk, "one").close()
    assert fault_kind(lambda: disk.create("two", SIZE)) is FaultKind.DISK_FULL


def _read_bytes() -> int:
    with open("/proc/self/io", encoding="ascii") as counters:
        return next(int(line.split()[1]) for line in counters if line.startswith("read_bytes"))
