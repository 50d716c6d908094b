"""A cluster in unfriendly environments: it serves, or refuses in one line with an exit status; nothing lost or left.

Real processes, real files. Where mounting or being two users is not allowed, the tests that need it say so and skip.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_replies.cluster.client import RequestTimeout, Session
from client_replies.cluster.durable_files import NEW
from client_replies.cluster.host.cluster_directory import CLUSTER_FILE, RUNNING_FILE, SOCKET

from examples.ledger.ledger import Result
from tests.examples.hostile import Cluster, fill, mounted


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A cluster that executed something and was stopped."""
    cluster = Cluster(tmp_path_factory.mktemp("template") / "ledger")
    assert cluster.start(), cluster.said()
    cluster.wait_until_whole()
    cluster.serves()
    cluster.stop()
    return cluster


def copied(template: Cluster, place: Path, out: Path | None = None) -> Cluster:
    """The same cluster at another place."""
    shutil.copytree(template.place, place)
    return Cluster(place, template.total, out=out)


@pytest.fixture
def cluster(free_of_new_processes: None, template: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of this test's own, with something in it."""
    cluster = copied(template, tmp_path / "ledger")
    yield cluster
    ended_for_sure(cluster)


def ended_for_sure(cluster: Cluster) -> None:
    """A test that failed leaves nothing either."""
    if cluster.process is not None and cluster.process.poll() is None:
        cluster.process.kill()
        cluster.process.wait()


def transfer_for_ever(cluster: Cluster, session: Session) -> None:
    """Until an answer takes too long."""
    while True:
        cluster.transfer(session, timeout=3.0)


def transfer_until_two_are_down(cluster: Cluster, session: Session) -> None:
    """Leaves a request without an answer. One that only took long, as when the first is down, is not the last."""
    deadline = time.monotonic() + 120.0
    with pytest.raises(RequestTimeout):
        transfer_for_ever(cluster, session)
    while len(cluster.reasons()) < 2:
        assert time.monotonic() < deadline, f"only {cluster.reasons()} are down"
        try:
            session.resume(timeout=3.0)
        except RequestTimeout:
            continue
        cluster.total += 1
        with pytest.raises(RequestTimeout):
            transfer_for_ever(cluster, session)


# Disks and limits.


@pytest.mark.slow
def test_a_disk_that_fills_up_stops_the_service_until_there_is_space_and_nothing_is_lost(
    free_of_new_processes: None, template: Cluster, tmp_path: Path
) -> None:
    """While it serves, and when it is started; each replica says why it is down."""
    with mounted(tmp_path / "disk", "size=8m"):
        cluster = copied(template, tmp_path / "disk" / "ledger", tmp_path / "out")
        filler = tmp_path / "disk" / "filler"
        try:
            assert cluster.start(), cluster.said()
            with cluster.session() as session:
                cluster.transfer(session)
                fill(filler)
                transfer_until_two_are_down(cluster, session)
                reasons = cluster.reasons()
                assert all("no space" in reason.lower() for reason in reasons.values()), reasons
                filler.unlink()
                cluster.total += 1
                assert Result.decode(session.resume(timeout=60.0).body).target_balance == cluster.total
            cluster.stop()
            fill(filler)
            assert "No space left on device" in cluster.refused()
            filler.unlink()
            cluster.lost_nothing()
            fresh = Cluster(tmp_path / "disk" / "fresh", out=tmp_path / "out")
            fill(filler)
            fresh.refused()
            filler.unlink()
            assert fresh.start(), fresh.said()
            fresh.serves()
            fresh.stop()
        finally:
            ended_for_sure(cluster)


@pytest.mark.slow
def test_a_read_only_disk_is_refused_and_one_under_a_replica_holds_nobody_up(
    free_of_new_processes: None, template: Cluster, tmp_path: Path
) -> None:
    """The whole directory: one line. One replica's: the others serve, and it comes back when the disk does."""
    with mounted(tmp_path / "disk", "size=16m") as remount:
        cluster = copied(template, tmp_path / "disk" / "ledger", tmp_path / "out")
        remount("ro")
        assert "Read-only file system" in cluster.refused()
        remount("rw")
    cluster = copied(template, tmp_path / "ledger")
    third = cluster.place / "replica-2"
    moved = third.rename(tmp_path / "third")
    try:
        with mounted(third, "size=4m") as remount:
            shutil.copytree(moved, third, dirs_exist_ok=True)
            (third / "lost+found").mkdir()
            remount("ro")
            assert cluster.start(), cluster.said()
            cluster.serves()
            assert list(cluster.reasons()) == ["replica-2"]
            remount("rw")
            cluster.wait_until_whole()
            cluster.serves()
            cluster.stop()
    finally:
        ended_for_sure(cluster)


@pytest.mark.slow
def test_a_limit_on_file_sizes_is_a_refusal_and_nothing_is_lost(cluster: Cluster, tmp_path: Path) -> None:
    """For a new cluster, whose files do not fit; and for one whose files are larger than what may be written."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536))

    fresh = Cluster(tmp_path / "fresh")
    assert not fresh.start(before=limit)
    assert fresh.ended().startswith("the cluster failed: replica-0: ")
    if cluster.start(before=limit):
        cluster.stop()
    else:
        cluster.ended()
    cluster.lost_nothing()


@pytest.mark.slow
def test_few_descriptors_are_raised_or_refused(cluster: Cluster) -> None:
    """A soft limit is raised as far as is needed; a hard one that is too low is named with what is needed."""
    line = cluster.refused(before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20)))
    assert "found a limit of 20 open files, expected at least 128" in line
    assert cluster.start(before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (20, 256))), cluster.said()
    cluster.serves()
    cluster.stop()


# The process's surroundings.


@pytest.mark.slow
def test_without_home_and_temporary_directory_it_serves(cluster: Cluster) -> None:
    """Nothing but PATH is in the environment, and where temporary files would go is nothing."""
    nowhere = str(cluster.place.parent / "nowhere")
    assert cluster.start(environment={"PATH": os.environ["PATH"], "TMPDIR": nowhere, "LC_ALL": "C"}), cluster.said()
    cluster.serves()
    cluster.stop()


@pytest.mark.slow
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=["stdin", "stdout", "stderr", "all"])
def test_closed_standard_descriptors_belong_to_no_file_of_the_cluster(
    cluster: Cluster, closed: tuple[int, ...]
) -> None:
    """Whoever writes to standard error writes into no data file, since the null device has its number."""
    assert cluster.start(closed=closed), cluster.said()
    cluster.serves()
    assert cluster.process is not None
    status = cluster.status()
    assert status is not None
    for pid in (cluster.process.pid, *(one["pid"] for one in status["replicas"])):
        for descriptor in closed:
            assert Path("/proc", str(pid), "fd", str(descriptor)).readlink() == Path(os.devnull)
    cluster.stop()


@pytest.mark.slow
def test_processes_that_are_stopped_and_continued_go_on_where_they_were(cluster: Cluster) -> None:
    """The primary, then the whole cluster with its script: the session goes on, and nothing is executed twice."""
    assert cluster.start(), cluster.said()
    cluster.wait_until_whole()
    assert cluster.process is not None
    with cluster.session() as session:
        cluster.transfer(session)
        status = cluster.status()
        assert status is not None
        everybody = [cluster.process.pid, status["gateway"]["pid"], *(one["pid"] for one in status["replicas"])]
        primary = [one["pid"] for one in status["replicas"] if one["role"] == "primary"]
        for stopped in (primary, everybody):
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            try:
                if stopped is primary:
                    cluster.transfer(session)
                else:
                    with pytest.raises(RequestTimeout):
                        cluster.transfer(session, timeout=1.5)
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
        cluster.total += 1
        assert Result.decode(session.resume().body).target_balance == cluster.total
        cluster.transfer(session)
    cluster.wait_until_whole()
    cluster.stop()


STEPPED_CLOCK = """
import os, time
_time, _time_ns = time.time, time.time_ns
def _step():
    with open(os.environ["CLOCK_STEP_FILE"]) as file:
        return int(file.read() or 0)
time.time = lambda: _time() + _step()
time.time_ns = lambda: _time_ns() + _step() * 10**9
"""


@pytest.mark.slow
def test_a_clock_that_is_set_back_changes_no_order_and_holds_nothing_up(cluster: Cluster, tmp_path: Path) -> None:
    """While it is up, and between two starts: ops keep ascending times, sessions go on, views change."""
    step = tmp_path / "step"
    step.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(STEPPED_CLOCK)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "CLOCK_STEP_FILE": str(step)}
    times = []
    for seconds in (-3600, -86_400 * 30):
        assert cluster.start(environment=environment), cluster.said()
        with cluster.session() as session:
            times.append(cluster.transfer(session).header.timestamp)
            step.write_text(str(seconds))
            times.append(cluster.transfer(session).header.timestamp)
            status = cluster.status()
            assert status is not None
            os.kill(next(one["pid"] for one in status["replicas"] if one["role"] == "primary"), signal.SIGKILL)
            times.append(cluster.transfer(session).header.timestamp)
        cluster.wait_until_whole()
        cluster.stop()
    assert times == sorted(set(times))
    cluster.lost_nothing()


@pytest.mark.slow
def test_a_directory_that_was_renamed_is_served_under_its_new_name(cluster: Cluster) -> None:
    """Between two starts it simply serves; while it is up the cluster ends, and touches nothing under the old name."""
    cluster.place = cluster.place.rename(cluster.place.with_name("moved"))
    assert cluster.start(), cluster.said()
    cluster.serves()
    old = cluster.place
    cluster.place = old.rename(old.with_name("moved again"))
    old.mkdir()
    (old / SOCKET).touch()
    (old / RUNNING_FILE).touch()
    assert f"{old} was renamed or removed: start the cluster again where it is now" in cluster.ended()
    assert sorted(entry.name for entry in old.iterdir()) == [SOCKET, RUNNING_FILE]
    cluster.lost_nothing()


# The directory's own files.


@pytest.mark.slow
def test_what_a_crash_or_a_full_disk_left_of_cluster_json_blocks_no_start(
    free_of_new_processes: None, tmp_path: Path, cluster: Cluster
) -> None:
    """A half-written new one beside it, or alone; or an empty one in an otherwise empty directory."""
    (cluster.place / f"{CLUSTER_FILE}{NEW}").write_text('{"clu')
    (cluster.place / f"{RUNNING_FILE}{NEW}").write_text("{")
    assert cluster.start(), cluster.said()
    cluster.serves()
    cluster.stop()
    fresh = Cluster(tmp_path / "fresh")
    fresh.place.mkdir()
    (fresh.place / CLUSTER_FILE).touch()
    (fresh.place / f"{CLUSTER_FILE}{NEW}").write_text('{"clu')
    (fresh.place / "lost+found").mkdir()
    assert fresh.start(), fresh.said()
    fresh.serves()
    fresh.stop()
    (fresh.place / CLUSTER_FILE).write_text("")
    assert "found log.jsonl, and an empty cluster.json" in fresh.refused()
    assert (fresh.place / "replica-0" / "log.sqlite").exists()


@pytest.mark.slow
def test_a_second_start_takes_nothing_from_the_first_whatever_was_removed(cluster: Cluster) -> None:
    """No file of the directory is the lock, so none that somebody removes gives the directory away."""
    assert cluster.start(), cluster.said()
    (cluster.place / "lock").touch()
    (cluster.place / "lock").unlink()
    assert "this cluster is up already" in cluster.refused_a_second_time()
    assert (cluster.place / RUNNING_FILE).exists()
    cluster.serves()
    cluster.stop()
