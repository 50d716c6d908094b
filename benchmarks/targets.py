"""The targets, in one table: which figure is divided by which, and what the ratio should be.

A target belongs to a group of a row, and its ratio is made of figures of the group's contestants, round by round. The
page shows the targets in this order.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio: a figure of one contestant to the best of those of others.

    `of` and `to` name a contestant, or a contestant and one of its figures as "contestant:figure". Without `to` it is
    the figure itself, in `unit`, that has the target.
    """

    what: str
    row: str
    group: str
    of: str
    to: tuple[str, ...]
    target: float
    at_least: bool = True  # else the ratio should be at most the target, and the best is the smallest
    before: str = ""  # what the code had before it got its own system base
    unit: str = ""


def at_least(
    target: float, what: str, place: tuple[str, str], of: str, *to: str, before: str = "", unit: str = ""
) -> Target:
    """More is better."""
    return Target(what, *place, of, to, target, at_least=True, before=before, unit=unit)


def at_most(
    target: float, what: str, place: tuple[str, str], of: str, *to: str, before: str = "", unit: str = ""
) -> Target:
    """Less is better."""
    return Target(what, *place, of, to, target, at_least=False, before=before, unit=unit)


ACTOR_STORES = ("sqlite", "lmdb")
ACTOR_STORES_P50 = ("sqlite:p50", "lmdb:p50")
PYSYNCOBJ = "to PySyncObj, each entry at once (it syncs nothing and has no sessions)"

ROUND_TRIP = ("round_trip", "round trip")
DURABLE_64, DURABLE_256 = ("durable", "4 KiB, window 64"), ("durable", "4 KiB, window 256")
DURABLE_64_KIB, DURABLE_1_MIB = ("durable", "64 KiB, window 64"), ("durable", "1 MiB, window 64")
ONE_4_KIB, ONE_64_KIB = ("durable", "4 KiB, one at a time"), ("durable", "64 KiB, one at a time")
PENDING = ("read", "4 KiB, pending")
COMMIT_512, COMMIT_4_KIB = ("commit", "replies of 512 bytes"), ("commit", "replies of 4 KiB")
SCALE = ("scale", "4 KiB")
REPAIR = ("repair", "replies of 64 KiB")
CLUSTER_1, CLUSTER_8 = ("cluster", "1 session"), ("cluster", "8 sessions")
CLUSTER_32, CLUSTER_128 = ("cluster", "32 sessions"), ("cluster", "128 sessions")
IDLE = ("idle", "three replicas")
STRANGER = ("stranger", "1,000 idle connections")

TARGETS = (
    at_least(11, "round trips of two actors, to plain multiprocTCPBase", ROUND_TRIP, "ours", "tcp", before="1.7"),
    at_least(0.5, "round trips of two actors, to two bare processes", ROUND_TRIP, "ours", "bare", before="0.06"),
    at_least(0.5, "durable 4 KiB to the floor, window 64", DURABLE_64, "ours", "floor", before="0.21"),
    at_least(0.7, "durable 4 KiB to the floor, window 256", DURABLE_256, "ours", "floor"),
    at_least(
        1.2, "durable 4 KiB to the better store behind an actor", DURABLE_64, "ours", *ACTOR_STORES, before="0.44"
    ),
    at_least(
        2, "durable 64 KiB to the better store behind an actor", DURABLE_64_KIB, "ours", *ACTOR_STORES, before="1.23"
    ),
    at_least(
        3, "durable 1 MiB to the better store behind an actor", DURABLE_1_MIB, "ours", *ACTOR_STORES, before="2.89"
    ),
    at_most(
        1, "one at a time, 4 KiB: p50 to the better store's", ONE_4_KIB, "ours:p50", *ACTOR_STORES_P50, before="1.97"
    ),
    at_most(
        1, "one at a time, 64 KiB: p50 to the better store's", ONE_64_KIB, "ours:p50", *ACTOR_STORES_P50, before="2.37"
    ),
    at_most(1.2, "read of a pending reply, p50 to a round trip", PENDING, "ours", "ours:round trip", before="1.16"),
    at_least(0.85, "commit path, 512 B: with the component to without", COMMIT_512, "with", "without", before="0.76"),
    at_least(0.85, "commit path, 4 KiB: with the component to without", COMMIT_4_KIB, "with", "without", before="0.87"),
    at_most(1.1, "a read, 65,536 slots to 64", SCALE, "65536", "64", before="1.32"),
    at_most(1, "opening 65,536 slots", SCALE, "65536:open", before="4.5 s", unit="s"),
    at_least(0.6, "repair of 64 KiB replies to the plain copy", REPAIR, "ours", "plain", before="0.35"),
    at_least(0.9, "repair of 64 KiB replies to the signed and verified copy", REPAIR, "ours", "signed", before="0.54"),
    at_most(1, "cluster, latency of 1 session to etcd's put", CLUSTER_1, "ours:p50", "etcd:p50", before="3.26"),
    at_least(1, "cluster, 8 sessions to etcd's puts", CLUSTER_8, "ours", "etcd", before="0.26"),
    at_least(1, "cluster, 32 sessions to etcd's puts", CLUSTER_32, "ours", "etcd", before="0.34"),
    at_least(1, "cluster, 128 sessions to etcd's puts", CLUSTER_128, "ours", "etcd", before="0.34"),
    at_least(0.5, f"cluster, 8 sessions {PYSYNCOBJ}", CLUSTER_8, "ours", "pysyncobj", before="0.08"),
    at_least(0.5, f"cluster, 32 sessions {PYSYNCOBJ}", CLUSTER_32, "ours", "pysyncobj", before="0.14"),
    at_most(3, "an idle cluster of three replicas, all its processes", IDLE, "ours", before="26%", unit="% of a core"),
    at_most(
        1.1,
        "owner's round trip with 1,000 idle connections of a stranger, to without",
        STRANGER,
        "with",
        "without",
        before="5 to 15",
    ),
)


def targets_of(row: str, group: str) -> list[Target]:
    """The targets of a group."""
    return [target for target in TARGETS if (target.row, target.group) == (row, group)]
