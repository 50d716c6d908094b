"""A short soak; `python -m tests.actors.soak` is the long one."""

from pathlib import Path

from client_replies.actors.system import OwnedSystem

from tests.actors.soak import soak


def test_memory_descriptors_and_leases_stay_flat(tcp_system: OwnedSystem, tmp_path: Path) -> None:
    """Replies of 1 MiB and of 300 bytes over 64 slots: no process grows, and no lease is left over after closing."""
    report = soak(tcp_system, tmp_path, writes=960)
    assert report.problems() == [], str(report)
