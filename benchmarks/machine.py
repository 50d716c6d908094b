"""Which machine a run was made on, and whether anybody else was using it."""

from __future__ import annotations

import os
import platform
import sqlite3
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

LOOK_SECONDS = 1.0
SETTLE_MAX = 60.0  # seconds
QUIET_MAX = 0.1  # of all cores


def describe(directory: Path) -> dict[str, Any]:
    """Cores, memory, kernel, Python, and where the files of the measurements are."""
    device, kind = _mount_of(directory)
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": len(os.sched_getaffinity(0)),
        "processor": _first_value("/proc/cpuinfo", "model name"),
        "memory_GiB": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "file_system": kind,
        "disk": device,
        "libraries": {"sqlite": sqlite3.sqlite_version, **_versions("thespian", "lmdb", "xxhash", "pysyncobj")},
    }


def busy_share(seconds: float = LOOK_SECONDS) -> float:
    """What share of all cores was not idle for so long, while this process slept: who else is at work now.

    The load average would remember jobs that have ended. Waiting for a disk is work here: the disk is measured too.
    """
    return 1 - float(psutil.cpu_times_percent(seconds).idle) / 100


def settled() -> float:
    """Wait, not for ever, until nobody else uses the machine; what share somebody uses then."""
    until = time.monotonic() + SETTLE_MAX
    while (busy := busy_share()) > QUIET_MAX and time.monotonic() < until:
        pass
    return busy


def one_line(machine: dict[str, Any]) -> str:
    """The machine in words."""
    return (
        f"{machine['cores']} cores ({machine['processor']}), {machine['memory_GiB']} GiB of memory, "
        f"{machine['file_system']} on {machine['disk']}, {machine['kernel']}, {machine['python']}, {machine['date']}"
    )


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _first_value(path: str, key: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return "unknown"


def _mount_of(directory: Path) -> tuple[str, str]:
    """The device and the file system that hold the directory: those of the longest mount point above it."""
    above = [one for one in psutil.disk_partitions(all=True) if directory.resolve().is_relative_to(one.mountpoint)]
    best = sorted(above, key=lambda one: len(one.mountpoint))[-1]  # of two on one point the later one is seen
    return best.device, best.fstype
