"""Writes for a long time through the three actors, and measures what must stay flat: memory, descriptors, leases.

    python -m tests.actors.soak --writes 10000

Half of the writes are replies of 1 MiB, which travel as leases, half of 300 bytes, over 64 slots; each batch is
followed by a read of either kind, and now and then by a checkpoint. After a warm-up each process is measured, and at
the end again. Memory of its own must not grow. What it maps of the pool may, buffer by buffer as each is used for the
first time, up to the size that the pool was made with.
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from client_replies.actors.thespian.system import OwnedSystem, processes_of, running_system

from tests.actors.driver import KIB, Book, Driver, config_for

SLOTS = 64
LARGE = 1024 * KIB
SMALL = 300
BATCH = 16
CHECKPOINT_BATCHES = 20
OWN_MARGIN_KIB = 3 * KIB  # of growth in any process: an allocator's own noise, three of the large replies
SOCKETS_MARGIN = 4  # Thespian's connections and selectors come and go; a leak in so many messages would be larger
BUFFERS = 2 * BATCH
READ_BUFFERS = 2


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process uses: resident memory of its own and of the pool, in KiB, and open descriptors by kind."""

    own_kib: int
    pool_kib: int
    files: Counter[str]  # by what they are open on
    sockets: int

    @property
    def descriptors(self) -> str:
        """Say how many, in words."""
        return f"{self.files.total()} files and {self.sockets} sockets"


@dataclass(frozen=True, slots=True)
class Report:
    """What each process used after the warm-up and at the end, by pid, and what the pool said after closing."""

    writes: int
    seconds: float
    before: dict[int, Usage]
    after: dict[int, Usage]
    leases_held: int

    def problems(self) -> list[str]:
        """Say what did not stay flat."""
        found = [f"{self.leases_held} leases are left over"] if self.leases_held else []
        for pid, before in self.before.items():
            after = self.after[pid]
            if after.own_kib - before.own_kib > OWN_MARGIN_KIB:
                found.append(f"process {pid} grew from {before.own_kib} to {after.own_kib} KiB")
            if after.pool_kib > (BUFFERS + 2 * READ_BUFFERS) * LARGE // KIB + 64:
                found.append(f"process {pid} maps {after.pool_kib} KiB of a smaller pool")
            if after.files - before.files:
                found.append(f"process {pid} has more open: {after.files - before.files}")
            if after.sockets > before.sockets + SOCKETS_MARGIN:
                found.append(f"process {pid} went from {before.sockets} to {after.sockets} sockets")
        return found

    def __str__(self) -> str:
        lines = [f"{self.writes} writes in {self.seconds:.1f} s; {self.leases_held} leases left over"]
        for pid, before in self.before.items():
            after = self.after[pid]
            own = f"{before.own_kib} -> {after.own_kib} KiB of its own"
            pool = f"{before.pool_kib} -> {after.pool_kib} KiB of the pool"
            lines.append(f"process {pid}: {own}, {pool}, {before.descriptors} -> {after.descriptors}")
        return "\n".join(lines)


def usage(pid: int) -> Usage:
    """Measure a process."""
    status = dict(line.split(":", 1) for line in Path("/proc", str(pid), "status").read_text().splitlines())
    own, pool = (int(status[name].split()[0]) for name in ("VmRSS", "RssShmem"))
    links = Counter(map(target_of, Path("/proc", str(pid), "fd").iterdir()))
    sockets = links.pop("socket", 0)
    links.pop("closed", None)
    return Usage(own - pool, pool, links, sockets)


def target_of(descriptor: Path) -> str:
    """Say what a descriptor is open on; what was closed while we looked is open on nothing.

    Thespian makes a selector for every wait, so that one counts with the connections, which come and go too.
    """
    try:
        target = os.readlink(descriptor)
    except OSError:
        return "closed"
    return "socket" if target.startswith(("socket:", "anon_inode:[eventpoll]")) else target


def soak(system: OwnedSystem, directory: Path, writes: int) -> Report:
    """Write, and measure after a third and at the end."""
    config = config_for(
        directory / "file",
        clients_max=SLOTS,
        message_size_max=LARGE,
        repair_bytes_max=LARGE,
        buffers_max=BUFFERS,
        read_buffers=READ_BUFFERS,
        repair_buffers=READ_BUFFERS,
        scrub_bytes_per_second=16 * LARGE,
        tick=0.05,
        resend_timeout=5.0,
    )
    driver, book = Driver(system), Book(SLOTS)
    driver.open(config)
    started = time.monotonic()
    before: dict[int, Usage] = {}
    for number in range(writes // BATCH):
        if not before and 3 * number * BATCH >= writes:
            before = {pid: usage(pid) for pid in processes_of(system)}
        write_batch(driver, book, number)
        if number % CHECKPOINT_BATCHES == 0:
            driver.checkpoint(book)
    driver.durable(*range(SLOTS))
    after = {pid: usage(pid) for pid in processes_of(system)}
    seconds = time.monotonic() - started
    driver.close()
    return Report(writes // BATCH * BATCH, seconds, before, after, driver.pool_status().held)


def write_batch(driver: Driver, book: Book, number: int) -> None:
    """Write large and small replies in turn, and read one of each."""
    slots = [(number * BATCH + index) % SLOTS for index in range(BATCH)]
    # The sizes change places from round to round, so that every slot holds both.
    turn = number * BATCH // SLOTS
    sizes = {slot: LARGE if (slot + turn) % 2 else SMALL for slot in slots}
    replies = {slot: book.reply(slot, size) for slot, size in sizes.items()}
    large = [slot for slot in slots if sizes[slot] == LARGE]
    leases = dict(zip(large, driver.lease(*(replies[slot] for slot in large)), strict=True))
    driver.write_durable({slot: leases.get(slot, reply) for slot, reply in replies.items()}, op=book.op)
    for slot in slots[:2]:
        if driver.read(slot, book.header(slot)) != replies[slot]:
            raise AssertionError(f"slot {slot} was read wrong")


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--writes", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-", dir=".") as directory, running_system() as system:
        report = soak(system, Path(directory).resolve(), arguments.writes)
    print(report)
    for problem in report.problems():
        print(f"NOT FLAT: {problem}")
    return 1 if report.problems() else 0


if __name__ == "__main__":
    raise SystemExit(main())
