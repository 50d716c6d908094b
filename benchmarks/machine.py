"""Which machine a run was made on: a figure without its machine says nothing."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

SETTLE_MAX = 180.0  # seconds
SETTLED_LOAD = 0.25  # of each core


def describe(directory: Path) -> dict[str, Any]:
    """Cores, memory, kernel, Python, and where the files of the measurements are."""
    device, kind = _mount_of(directory)
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": len(os.sched_getaffinity(0)),
        "processor": _first_value("/proc/cpuinfo", "model name"),
        "memory_GiB": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "file_system": kind,
        "disk": device,
        "libraries": {"sqlite": sqlite3.sqlite_version, **_versions("thespian", "lmdb", "xxhash", "pysyncobj")},
        "load_before": os.getloadavg()[0],
    }


def settle() -> None:
    """Wait until what ran before is out of the load average, or it is plain that something else is running."""
    until = time.monotonic() + SETTLE_MAX
    while os.getloadavg()[0] > SETTLED_LOAD * len(os.sched_getaffinity(0)) and time.monotonic() < until:
        time.sleep(1.0)


def one_line(machine: dict[str, Any]) -> str:
    """The machine in words."""
    return (
        f"{machine['cores']} cores ({machine['processor']}), {machine['memory_GiB']} GiB of memory, "
        f"{machine['kernel']}, {machine['python']}, {machine['file_system']} on {machine['disk']}, {machine['date']}, "
        f"load {machine['load_before']:.1f} before the run"
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
    best = ("", "unknown", "unknown")
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            device, point, kind = line.split()[:3]
            if directory.resolve().is_relative_to(point) and len(point) >= len(best[0]):
                best = (point, device, kind)
    return best[1], best[2]


if __name__ == "__main__":
    sys.stdout.write(one_line(describe(Path.cwd())) + "\n")
