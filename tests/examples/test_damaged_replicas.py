"""Replicas whose files are damaged, unreadable or not theirs: the others serve, and nothing is given up that is needed.

Real processes, real files, and another user than root where rights matter.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client_replies.cluster.host.cluster_directory import ask
from client_replies.cluster.replica.starting import NO_MAJORITY

from tests.examples.hostile import NOBODY, Cluster, eventually

GARBAGE = b"garbage" * 4000


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A cluster that executed something and was stopped."""
    cluster = Cluster(tmp_path_factory.mktemp("template") / "ledger")
    assert cluster.start(), cluster.said()
    cluster.wait_until_whole()
    cluster.serves()
    cluster.stop()
    return cluster


@pytest.fixture
def cluster(free_of_new_processes: None, template: Cluster) -> Iterator[Cluster]:
    """A cluster of this test's own, which another user can own too."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        shutil.copytree(template.place, Path(place) / "ledger")
        cluster = Cluster(Path(place) / "ledger", template.total)
        yield cluster
        if cluster.process is not None and cluster.process.poll() is None:
            cluster.process.kill()
            cluster.process.wait()


def given_to(user: int, place: Path) -> None:
    """Everything below belongs to the user."""
    for path in (place, *place.rglob("*")):
        os.chown(path, user, user)


def contents(place: Path) -> dict[str, bytes]:
    """The logs and data files below, as they are."""
    return {
        str(path.relative_to(place)): path.read_bytes() for path in sorted(place.glob("replica-*/*")) if path.is_file()
    }


def logs(cluster: Cluster) -> list[Path]:
    """The three logs."""
    return [cluster.place / f"replica-{index}" / "log.sqlite" for index in range(3)]


def set_aside(cluster: Cluster) -> list[str]:
    """What was set aside of the whole cluster."""
    return sorted(str(path.relative_to(cluster.place)) for path in cluster.place.rglob("*.damaged-*"))


def three_are_down(cluster: Cluster) -> dict[str, str]:
    """Wait until all say why."""
    eventually(lambda: len(cluster.reasons()) == 3, 30.0, "three reasons")
    return cluster.reasons()


@pytest.mark.slow
def test_logs_that_may_not_be_written_are_left_alone_and_served_when_they_may(cluster: Cluster) -> None:
    """As another user than root, `chmod 444 D/replica-*/log.sqlite` between two starts: all three were wiped."""
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    given_to(NOBODY, cluster.place)
    for log in logs(cluster):
        log.chmod(0o444)
    before = contents(cluster.place)
    assert cluster.start(user=NOBODY), cluster.said()
    assert all("found no right to read and write it" in reason for reason in three_are_down(cluster).values())
    status = cluster.status()
    assert status is not None
    assert status["quorum"] is False
    after = contents(cluster.place)
    assert {name: after.get(name) for name in before} == before
    for log in logs(cluster):
        log.chmod(0o644)
    cluster.wait_until_whole()
    cluster.serves()
    assert set_aside(cluster) == []
    cluster.stop()


@pytest.mark.slow
def test_a_replica_with_a_zeroed_superblock_does_not_end_the_others(cluster: Cluster) -> None:
    """`dd if=/dev/zero of=D/replica-2/replies.data bs=4096 count=4 conv=notrunc; hurt D kill 2` ended all three."""
    assert cluster.start(), cluster.said()
    cluster.wait_until_whole()
    with (cluster.place / "replica-2" / "replies.data").open("r+b") as data:
        data.write(bytes(4 * 4096))
    ask(cluster.place, {"ask": "kill", "who": "2"})
    cluster.serves()
    eventually(lambda: set_aside(cluster) or "replica-2" in cluster.reasons(), 30.0, "what becomes of replica-2")
    cluster.serves()
    cluster.stop()


def truncated(size: int) -> Callable[[Path], None]:
    """The data file is cut."""
    return lambda directory: os.truncate(directory / "replies.data", size)


def is_a_file(directory: Path) -> None:
    """Where the replica's directory should be is a file."""
    shutil.rmtree(directory)
    directory.write_text("a file")


def without_rights(directory: Path) -> None:
    """Nobody may look into the directory."""
    directory.chmod(0)


def garbage_beside_lost_and_found(directory: Path) -> None:
    """The log is garbage, and the directory has another one in it."""
    (directory / "lost+found").mkdir()
    (directory / "log.sqlite").write_bytes(GARBAGE)


def unreadable_log(directory: Path) -> None:
    """The log may not be read."""
    (directory / "log.sqlite").chmod(0)


DAMAGES = (truncated(0), truncated(100), is_a_file, without_rights, garbage_beside_lost_and_found, unreadable_log)


@pytest.mark.slow
def test_whatever_one_replica_finds_the_others_serve_and_it_is_repaired_or_says_why(
    cluster: Cluster, template: Cluster
) -> None:
    """One after the other, as another user than root; the damage is taken back where the replica only says so."""
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    given_to(NOBODY, cluster.place)
    third = cluster.place / "replica-2"
    for number, damage in enumerate(DAMAGES):
        damage(third)
        given_to(NOBODY, cluster.place)
        assert cluster.start(user=NOBODY), cluster.said()
        cluster.serves()
        proven = damage is garbage_beside_lost_and_found
        if proven:
            cluster.wait_until_whole()
            assert [name for name in set_aside(cluster) if name.startswith("replica-2.damaged-")]
            cluster.serves()
        else:
            eventually(lambda: set_aside(cluster) or "replica-2" in cluster.reasons(), 30.0, f"a reason, of {number}")
        cluster.stop()
        _taken_back(third, template)


def _taken_back(directory: Path, template: Cluster) -> None:
    """Let the next start find what a replica that was away for long has."""
    if directory.is_dir():
        directory.chmod(0o755)
        shutil.rmtree(directory)
    else:
        directory.unlink()
    shutil.copytree(template.place / directory.name, directory)


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [2, 3])
def test_damaged_logs_of_a_majority_make_no_empty_service(cluster: Cluster, damaged: int) -> None:
    """Nothing is set aside: they wait for a person, who puts the logs back, and everything is there."""
    kept = {log: log.read_bytes() for log in logs(cluster)[:damaged]}
    for log in kept:
        log.write_bytes(GARBAGE)
    assert cluster.start(), cluster.said()
    eventually(lambda: len(cluster.reasons()) == damaged, 30.0, "their reasons")
    assert all(NO_MAJORITY in reason for reason in cluster.reasons().values())
    assert "no quorum" in cluster.said()
    assert set_aside(cluster) == []
    assert all(log.read_bytes() == GARBAGE for log in kept)
    for log, data in kept.items():
        log.write_bytes(data)
    cluster.wait_until_whole()
    cluster.serves()
    cluster.stop()


@pytest.mark.slow
def test_a_second_disk_is_not_given_up_while_the_first_has_no_vote_again(cluster: Cluster) -> None:
    """All directories but one are gone: an empty one begins anew only when the two others vote."""
    for index in (1, 2):
        shutil.move(cluster.place / f"replica-{index}", cluster.place.parent / f"replica-{index}")
    assert cluster.start(), cluster.said()
    eventually(lambda: len(cluster.reasons()) == 2, 30.0, "their reasons")
    assert all("there is no log, and there was one" in reason for reason in cluster.reasons().values())
    shutil.rmtree(cluster.place / "replica-1")
    shutil.move(cluster.place.parent / "replica-1", cluster.place / "replica-1")
    cluster.wait_until_whole()  # the second came back with its disk, and so the third may begin anew
    cluster.serves()
    cluster.stop()


@pytest.mark.slow
def test_a_log_of_a_newer_version_is_left_as_it_is(cluster: Cluster) -> None:
    """It is no damage, on no replica."""
    for log in logs(cluster):
        with sqlite3.connect(log) as connection:
            connection.execute("PRAGMA user_version = 2")
        connection.close()
    before = contents(cluster.place)
    assert cluster.start(), cluster.said()
    assert all("format version 2, expected 1" in reason for reason in three_are_down(cluster).values())
    cluster.stop()
    after = contents(cluster.place)
    assert {name: after.get(name) for name in before} == before
    assert set_aside(cluster) == []
