"""A short soak; `python -m tests.actors.soak` is the long one."""

from collections import Counter
from pathlib import Path

from client_replies.actors.thespian.system import OwnedSystem, processes_of
from client_replies.messages.replies import OpenFailed

from tests.actors.driver import KIB, Book, Driver, config_for
from tests.actors.soak import soak, usage


def test_memory_descriptors_and_leases_stay_flat(tcp_system: OwnedSystem, tmp_path: Path) -> None:
    """Replies of 1 MiB and of 300 bytes over 64 slots: no process grows, and no lease is left over after closing."""
    report = soak(tcp_system, tmp_path, writes=960)
    assert report.problems() == [], str(report)


def test_opening_and_closing_again_and_again_leaves_nothing_behind(tcp_system: OwnedSystem, tmp_path: Path) -> None:
    """One actor, forty openings by forty owners, some of which fail: descriptors and the pool's leases stay flat."""
    config, book = config_for(tmp_path / "file"), Book()
    first = Driver(tcp_system)
    before: dict[int, Counter[str]] = {}
    for number in range(40):
        driver = Driver(tcp_system, replies=first.replies)
        driver.open(config)
        driver.commit(book, 0)
        (lease,) = driver.lease(book.reply(1, 20 * KIB))
        driver.write_durable({1: lease}, op=book.op)
        assert driver.read(1, book.header(1)) == book.replies[1]
        driver.checkpoint(book)
        driver.close()
        assert driver.pool_status().held == 0
        failing = Driver(tcp_system, replies=first.replies)
        assert isinstance(failing.try_open(config_for(tmp_path / "missing" / "file")), OpenFailed)
        if number == 3:
            before = {pid: usage(pid).files for pid in processes_of(tcp_system)}
    after = {pid: usage(pid).files for pid in processes_of(tcp_system)}
    assert after.keys() == before.keys()
    # Fewer is no leak: a connection that was idle for long is closed.
    grown = {pid: files - before[pid] for pid, files in after.items() if files.total() > before[pid].total()}
    assert not grown
