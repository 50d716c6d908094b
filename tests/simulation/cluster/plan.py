"""What one seed tries with the whole cluster: the component's plan, the protocol, the clients, the injuries.

Guarantees: as `tests.simulation.plan`. A plan is drawn from its seed alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..chance import Chance
from ..disk import DiskRules
from ..network import Rules
from ..plan import LANES, Plan, _sometimes, with_later_faults

REQUESTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPlan(Plan):
    """See the module. Rates are events in a second of virtual time over the whole cluster."""

    clients: int = 5
    requests: int = REQUESTS
    fault_time: float = 5.0
    slot_sectors: int = 3
    scrub_bytes_per_second: int = 0
    primary_rate: float = 0.0

    accounts: int = 4
    view_change: float = 0.3
    pipeline_max: int = 8
    log_spare: int = 0  # entries that the log has room for beyond what its configuration needs
    chunk_size: int = 4096
    weather: bool = False  # the drill's own network loses, doubles and delays single messages too
    closes: float = 0.0  # probability that a client ends its session instead of asking on
    malformed: float = 0.05
    log_lane: float = 1.0

    disk_rate: float = 0.0  # a machine comes back with an empty disk, or without one of its files
    log_rot_rate: float = 0.0
    blackout_rate: float = 0.0  # all die at once
    ambush_rate: float = 0.0  # all die when one has told a client something
    usurper_rate: float = 0.0  # the primary is cut off; the next one dies when it has told a client something
    mute_rate: float = 0.0  # a replica's words do not reach clients
    isolate_rate: float = 0.0  # a replica is cut off for long: it comes back to a state sync
    deaf_moments: float = 0.0  # probability that a primary dies with an answer that is committed and not sent
    prepare_moments: float = 0.0  # probability that a primary dies when it has sent entries that are not durable here
    sync_moments: float = 0.0  # probability that the primary dies when another begins to install its snapshot
    bad_messages: float = 0.0  # probability that a replica dies in the moment of a rare message of the protocol

    gateways: int = 1
    gateway_kill_rate: float = 0.0
    gateway_stop_rate: float = 0.0
    resets: float = 0.0  # probability that a connection breaks when something arrives on it
    standing: str = ""  # after all else, a minority is "cut" off from the other replicas, or "down", for long


def draw_plan(seed: int, **changes: Any) -> ClusterPlan:
    """The plan of a seed."""
    chance = Chance(seed, "cluster plan")
    plan = ClusterPlan(
        seed=seed,
        replicas=chance.pick((3, 3, 3, 3, 5)),
        **_draw_component(chance),
        **_draw_protocol(chance),
        **_draw_workload(chance),
        network=_draw_network(chance),
        disk=_draw_disk(chance),
        lanes=tuple(chance.pick((1.0, 1.0, 1.0, 4.0, 10.0)) for _ in LANES),
        **_draw_faults(chance),
        **_draw_gateways(chance),
    )
    plan = with_later_faults(plan, Chance(seed, "later faults of the cluster"), rates=4.0)
    return plan.changed(**changes) if changes else plan  # type: ignore[return-value]


def _draw_component(chance: Chance) -> dict[str, Any]:
    return {
        "clients_max": chance.integer(2, 8),
        "slot_sectors": chance.integer(3, 4),
        "buffers_max": chance.integer(2, 12),
        "inline_size_max": chance.pick((256, 512, 1024, 4096)),
        "writes_max": chance.integer(1, 12),
        "write_batch_max": chance.integer(1, 8),
        "hold_back": chance.pick((0.0, 0.0, 0.01, 0.1)),
        "reads_max": chance.integer(1, 6),
        "read_batch_max": chance.integer(1, 4),
        "waits_max": chance.integer(1, 4),
        "leases_waiting_max": chance.integer(1, 4),
        "repairs_max": chance.integer(1, 8),
        "repair_timeout": chance.pick((0.05, 0.2)),
        "repair_backoff_max": chance.pick((0.3, 0.5, 1.0)),
        "peer_reads_max": chance.integer(1, 4),
        "scrub_bytes_per_second": chance.pick((0, 0, 100_000, 1_000_000)),
        "tick": chance.pick((0.02, 0.05)),
        "resend_timeout": chance.pick((0.2, 0.5)),
        "ticker": chance.chance(0.5),
        "wakeup_late_max": chance.pick((0.0, 0.02, 0.2)),
    }


def _draw_protocol(chance: Chance) -> dict[str, Any]:
    return {
        "checkpoint_interval": chance.pick((3, 5, 8, 16, 30)),
        "view_change": chance.pick((0.2, 0.3, 0.5)),
        "pipeline_max": chance.pick((1, 4, 8, 8)),
        "log_spare": chance.pick((0, 0, 10, 100)),
        "chunk_size": chance.pick((300, 1000, 100_000)),
        "weather": chance.chance(0.3),
        "log_lane": chance.pick((0.3, 1.0, 1.0, 3.0, 10.0)),
    }


def _draw_workload(chance: Chance) -> dict[str, Any]:
    return {
        "clients": chance.integer(3, 8),
        "accounts": chance.pick((2, 4, 12)),
        "think": chance.pick((0.01, 0.05, 0.1)),
        "quiet": chance.pick((0.0, 0.02, 0.1)),
        "quiet_max": chance.pick((0.7, 1.5)),
        "same_client_again": chance.chance(0.5),
        "stale": _sometimes(chance, 0.5, 0.02, 0.3),
        "closes": _sometimes(chance, 0.4, 0.01, 0.2),
    }


def _draw_network(chance: Chance) -> Rules:
    return Rules(
        local_latency=chance.pick((0.0003, 0.001, 0.003)),
        local_loss=_sometimes(chance, 0.2, 0.001, 0.01),
        local_double=_sometimes(chance, 0.2, 0.001, 0.05),
        local_overtake=_sometimes(chance, 0.7, 0.005, 0.2),
        latency_low=0.0002,
        latency_high=chance.pick((0.001, 0.005, 0.02)),
        loss=_sometimes(chance, 0.5, 0.005, 0.1),
        double=_sometimes(chance, 0.5, 0.01, 0.2),
        overtake=_sometimes(chance, 0.7, 0.02, 0.3),
        replay=_sometimes(chance, 0.5, 0.01, 0.1),
        replay_after=chance.pick((0.3, 1.0)),
        corrupt=_sometimes(chance, 0.3, 0.05, 0.3),
    )


def _draw_disk(chance: Chance) -> DiskRules:
    return DiskRules(
        latency_low=0.0002,
        latency_high=chance.pick((0.001, 0.005, 0.02, 0.1)),
        write_error=_sometimes(chance, 0.15, 0.0005, 0.003),
        sync_error=_sometimes(chance, 0.15, 0.0005, 0.003),
        lost_write=_sometimes(chance, 0.3, 0.002, 0.03),
        misdirected_write=_sometimes(chance, 0.3, 0.002, 0.03),
        misdirected_read=_sometimes(chance, 0.3, 0.002, 0.03),
        crash_keeps=chance.pick((0.1, 0.4, 0.7)),
        crash_tears=chance.pick((0.1, 0.3)),
    )


def _draw_faults(chance: Chance) -> dict[str, Any]:
    return {
        "crash_rate": _sometimes(chance, 0.6, 0.1, 1.5),
        "kill_rate": _sometimes(chance, 0.4, 0.05, 0.8),
        "stop_rate": _sometimes(chance, 0.3, 0.05, 0.4),
        "cut_rate": _sometimes(chance, 0.5, 0.05, 0.8),
        "clog_rate": _sometimes(chance, 0.3, 0.05, 0.8),
        "rot_rate": _sometimes(chance, 0.6, 0.2, chance.pick((2.0, 10.0))),
        "sector_rate": _sometimes(chance, 0.3, 0.1, 2.0),
        "slow_rate": _sometimes(chance, 0.3, 0.05, 0.5),
        "bad_moments": _sometimes(chance, 0.4, 0.005, 0.1),
        "disk_rate": _sometimes(chance, 0.5, 0.1, 1.0),
        "log_rot_rate": _sometimes(chance, 0.3, 0.05, 0.5),
        "blackout_rate": _sometimes(chance, 0.3, 0.02, 0.2),
        "ambush_rate": _sometimes(chance, 0.3, 0.1, 1.0),
        "usurper_rate": _sometimes(chance, 0.5, 0.3, 2.0),
        "mute_rate": _sometimes(chance, 0.3, 0.1, 0.8),
        "isolate_rate": _sometimes(chance, 0.6, 0.1, 0.8),
        "deaf_moments": _sometimes(chance, 0.5, 0.002, 0.05),
        "prepare_moments": _sometimes(chance, 0.4, 0.001, 0.02),
        "sync_moments": _sometimes(chance, 0.5, 0.2, 1.0),
        "bad_messages": _sometimes(chance, 0.4, 0.01, 0.2),
    }


def _draw_gateways(chance: Chance) -> dict[str, Any]:
    return {
        "gateways": chance.pick((1, 1, 2)),
        "gateway_kill_rate": _sometimes(chance, 0.4, 0.1, 1.0),
        "gateway_stop_rate": _sometimes(chance, 0.3, 0.1, 1.0),
        "resets": _sometimes(chance, 0.4, 0.001, 0.02),
        "standing": chance.pick(("", "cut", "cut", "down")),
    }
