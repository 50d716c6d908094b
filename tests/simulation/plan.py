"""What one seed tries: sizes, limits, timings, faults and their intensities, each drawn by itself (swarm testing).

Guarantees: a plan is drawn from its seed alone, and every field can be overridden, which is how a failure is shrunk and
how scenarios by hand are made. About half of the features are off in any one seed, so that none hides another for good.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from client_replies.messages.config import SECTOR_SIZE
from client_replies.messages.reply_header import HEADER_SIZE

from .chance import Chance
from .disk import DiskRules
from .network import Rules

PlanKind = TypeVar("PlanKind", bound="Plan")

REPLICAS = 3
CLIENTS = 6
REQUESTS = 200
LANES = ("write 0", "write 1", "repair", "read", "verify", "checkpoint")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """See the module. Rates are events in a second of virtual time over the whole cluster."""

    seed: int
    replicas: int = REPLICAS
    harsh: bool = False  # no reply is spared: only safety is judged
    clients: int = CLIENTS
    requests: int = REQUESTS
    fault_time: float = 20.0  # faults stop at the latest then

    clients_max: int = 4
    slot_sectors: int = 2
    buffers_max: int = 8
    inline_size_max: int = 2048
    writes_max: int = 8
    write_batch_max: int = 4
    hold_back: float = 0.0
    reads_max: int = 4
    read_batch_max: int = 2
    read_buffers: int = 1
    waits_max: int = 4
    leases_waiting_max: int = 4
    repairs_max: int = 4
    repair_timeout: float = 0.2
    repair_backoff_max: float = 1.0
    peer_reads_max: int = 4
    scrub_bytes_per_second: int = 1024 * 1024
    scrub_interval: float = 0.1
    scrub_pass_interval: float = 0.0
    write_interval: float = 0.0
    tick: float = 0.05
    resend_timeout: float = 0.5
    ticker: bool = True
    component_outlives: bool = False

    pending_max: int = 64
    batch_max: int = 8
    port_resend: float = 0.5
    checkpoint_interval: int = 20
    checkpoint_after_sync: bool = True
    log_size: int = 64

    think: float = 0.05
    retry: float = 0.4
    quiet: float = 0.0
    quiet_max: float = 4.0
    registration_bodies: float = 0.3
    same_client_again: bool = False
    stale: float = 0.0  # probability that a client's registration, or a request of long ago, comes once more
    body_small: int = 2000
    body_none: float = 0.1
    body_largest: float = 0.1

    network: Rules = field(default_factory=Rules)
    disk: DiskRules = field(default_factory=DiskRules)
    lanes: tuple[float, ...] = (1.0,) * len(LANES)  # how much slower than the disk each lane is
    wakeup_late_max: float = 0.0
    lag: float = 0.0

    crash_rate: float = 0.0
    kill_rate: float = 0.0
    stop_rate: float = 0.0
    cut_rate: float = 0.0
    clog_rate: float = 0.0
    rot_rate: float = 0.0
    sector_rate: float = 0.0
    lose_file_rate: float = 0.0
    primary_rate: float = 0.2
    slow_rate: float = 0.0
    superblock_rate: float = 0.0
    table_rate: float = 0.0  # the last session table rots, and the machine loses its power
    opening_rate: float = 0.0  # killed in the middle of a checkpoint, and without power in the opening after it
    lag_rate: float = 0.0
    sync_rate: float = 0.0
    bad_moments: float = (
        0.0  # probability that something dies right when a checkpoint, a repair, an installation begins
    )
    full_disk_at_start: bool = False

    # Probabilities that the owner asks for what it does not need: per reply, batch and tick.
    waits_asked: float = 0.0
    durable_asked: float = 0.0
    status_asked: float = 0.0

    @property
    def slot_size(self) -> int:
        """message_size_max."""
        return self.slot_sectors * SECTOR_SIZE

    @property
    def body_max(self) -> int:
        """The largest body that fits a slot."""
        return self.slot_size - HEADER_SIZE

    def body_size(self, chance: Chance) -> int:
        """The size of a reply's body."""
        kind = chance.fraction()
        if kind < self.body_none:
            return 0
        if kind < self.body_none + self.body_largest:
            edges = (
                self.body_max,
                self.body_max - 1,
                SECTOR_SIZE - HEADER_SIZE,
                SECTOR_SIZE - HEADER_SIZE + 1,
                self.inline_size_max - HEADER_SIZE,
                self.inline_size_max - HEADER_SIZE + 1,
                1,
            )
            return max(0, min(self.body_max, chance.pick(edges)))
        return chance.integer(1, min(self.body_small, self.body_max))

    def changed(self, **changes: Any) -> Plan:
        """The plan with other values."""
        return replace(self, **changes)

    def differences(self) -> dict[str, object]:
        """What is not as by default, for a failure's report."""
        plain = type(self)(seed=self.seed)
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if getattr(self, each.name) != getattr(plain, each.name)
        }


def draw_plan(seed: int, **changes: Any) -> Plan:
    """The plan of a seed."""
    chance = Chance(seed, "plan")
    harsh = chance.chance(0.2)
    plan = Plan(
        seed=seed,
        harsh=harsh,
        **_draw_component(chance),
        **_draw_workload(chance),
        network=_draw_network(chance),
        disk=_draw_disk(chance),
        lanes=tuple(chance.pick((1.0, 1.0, 1.0, 4.0, 20.0)) for _ in LANES),
        **_draw_faults(chance, harsh),
        waits_asked=_sometimes(chance, 0.7, 0.1, 1.0),
        durable_asked=_sometimes(chance, 0.5, 0.05, 1.0),
        status_asked=_sometimes(chance, 0.5, 0.02, 0.2),
    )
    plan = with_later_faults(plan, Chance(seed, "later faults"))
    return plan.changed(**changes) if changes else plan


def with_later_faults(plan: PlanKind, chance: Chance, *, rates: float = 1.0) -> PlanKind:
    """The plan with the faults that came later, in a stream of their own: what a seed meant, it still means mostly."""
    spoils = chance.pick((0.0, 0.0, 0.3, 0.6))
    table_rate = rates * _sometimes(chance, 0.4, 0.05, 0.4)
    ambush_rate = rates * _sometimes(chance, 0.4, 0.1, 1.0)
    disk = replace(plan.disk, crash_spoils=spoils)
    return replace(plan, disk=disk, table_rate=table_rate, opening_rate=ambush_rate)


def _draw_component(chance: Chance) -> dict[str, Any]:
    read_buffers = chance.integer(1, 2)
    slot_sectors = chance.integer(1, 3)
    return {
        "clients_max": chance.integer(2, 8),
        "slot_sectors": slot_sectors,
        "buffers_max": chance.integer(2, 12),
        "inline_size_max": min(chance.pick((HEADER_SIZE, 512, 1024, 2048, 4096)), slot_sectors * SECTOR_SIZE),
        "writes_max": chance.integer(1, 12),
        "write_batch_max": chance.integer(1, 8),
        "hold_back": chance.pick((0.0, 0.0, 0.01, 0.1)),
        "reads_max": chance.integer(1, 6),
        "read_batch_max": chance.integer(1, 4),
        "read_buffers": read_buffers,
        "waits_max": chance.integer(1, 4),
        "leases_waiting_max": chance.integer(1, 4),
        "repairs_max": chance.integer(1, 8),
        "repair_timeout": chance.pick((0.05, 0.2, 0.5)),
        "repair_backoff_max": chance.pick((0.5, 1.0, 3.0)),
        "peer_reads_max": chance.integer(1, 4),
        "scrub_bytes_per_second": chance.pick((0, 100_000, 1_000_000)),
        "scrub_interval": chance.pick((0.02, 0.1)),
        "resend_timeout": chance.pick((0.2, 0.5, 2.0)),
        "ticker": chance.chance(0.5),
        "component_outlives": chance.chance(0.25),
        "pending_max": chance.pick((4, 16, 64)),
        "batch_max": chance.integer(1, 16),
        "port_resend": chance.pick((0.2, 0.5, 1.0)),
        "checkpoint_interval": chance.integer(3, 40),
        "checkpoint_after_sync": chance.chance(0.5),
        "log_size": chance.pick((10, 20, 60, 1000)),
        "wakeup_late_max": chance.pick((0.0, 0.05, 0.5)),
        "lag": chance.pick((0.0, 0.0, 0.2, 1.0)),
        "scrub_pass_interval": chance.pick((0.0, 0.3)),
        "write_interval": chance.pick((0.0, 0.0, 0.02, 0.2)),
    }


def _draw_workload(chance: Chance) -> dict[str, Any]:
    return {
        "think": chance.pick((0.002, 0.02, 0.1)),
        "retry": chance.pick((0.1, 0.3, 0.8)),
        "quiet": chance.pick((0.0, 0.02, 0.1)),
        "quiet_max": chance.pick((2.0, 6.0)),
        "registration_bodies": chance.pick((0.0, 0.5, 1.0)),
        "same_client_again": chance.chance(0.5),
        "stale": _sometimes(chance, 0.5, 0.02, 0.3),
        "body_small": chance.pick((16, 600, 3000, 20000)),
        "body_none": chance.pick((0.0, 0.1, 0.5)),
        "body_largest": chance.pick((0.0, 0.1, 0.5)),
    }


def _sometimes(chance: Chance, probability: float, low: float, high: float) -> float:
    drawn, value = chance.chance(probability), chance.between(low, high)
    return value if drawn else 0.0


def _draw_network(chance: Chance) -> Rules:
    return Rules(
        local_latency=chance.pick((0.0003, 0.001, 0.005)),
        local_loss=_sometimes(chance, 0.25, 0.001, 0.02),
        local_double=_sometimes(chance, 0.25, 0.001, 0.05),
        local_overtake=_sometimes(chance, 0.7, 0.005, 0.2),
        latency_low=0.0002,
        latency_high=chance.pick((0.001, 0.01, 0.05)),
        loss=_sometimes(chance, 0.5, 0.01, 0.2),
        double=_sometimes(chance, 0.5, 0.01, 0.2),
        overtake=_sometimes(chance, 0.7, 0.02, 0.3),
        replay=_sometimes(chance, 0.5, 0.01, 0.1),
        replay_after=chance.pick((1.0, 5.0)),
        corrupt=_sometimes(chance, 0.4, 0.05, 0.3),
    )


def _draw_disk(chance: Chance) -> DiskRules:
    return DiskRules(
        latency_low=0.0002,
        latency_high=chance.pick((0.001, 0.01, 0.05, 0.2)),
        write_error=_sometimes(chance, 0.15, 0.0005, 0.003),
        sync_error=_sometimes(chance, 0.15, 0.0005, 0.003),
        lost_write=_sometimes(chance, 0.3, 0.002, 0.03),
        misdirected_write=_sometimes(chance, 0.3, 0.002, 0.03),
        misdirected_read=_sometimes(chance, 0.3, 0.002, 0.03),
        crash_keeps=chance.pick((0.1, 0.4, 0.7)),
        crash_tears=chance.pick((0.1, 0.3)),
    )


def _draw_faults(chance: Chance, harsh: bool) -> dict[str, Any]:
    return {
        "crash_rate": _sometimes(chance, 0.6, 0.05, 1.0),
        "kill_rate": _sometimes(chance, 0.5, 0.05, 1.0),
        "stop_rate": _sometimes(chance, 0.4, 0.05, 0.5),
        "cut_rate": _sometimes(chance, 0.5, 0.05, 1.0),
        "clog_rate": _sometimes(chance, 0.3, 0.05, 1.0),
        "rot_rate": _sometimes(chance, 0.6, 0.2, chance.pick((2.0, 20.0))),
        "sector_rate": _sometimes(chance, 0.4, 0.1, 2.0),
        "lose_file_rate": _sometimes(chance, 0.2, 0.02, 0.3),
        "primary_rate": _sometimes(chance, 0.8, 0.05, 2.0),
        "slow_rate": _sometimes(chance, 0.3, 0.05, 0.5),
        "superblock_rate": _sometimes(chance, 0.5, 0.05, 0.3) if harsh else 0.0,
        "lag_rate": _sometimes(chance, 0.5, 0.1, 1.0),
        "sync_rate": _sometimes(chance, 0.4, 0.1, 2.0),
        "bad_moments": _sometimes(chance, 0.4, 0.01, 0.2),
        "full_disk_at_start": chance.chance(0.1),
    }
