"""What a reader can quote of a run: figures by name, and ten lines made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from client_replies.actors.thespian.base.tcp_base import TCP_BASE

from . import targets
from .report import number

Place = tuple[str, str]


class Figures:
    """The medians of a run. What was not measured is None."""

    def __init__(self, result: Mapping[str, Any]) -> None:
        self._found = {
            ((group["row"], group["name"]), contestant["name"]): contestant["figures"]
            for group in result["groups"]
            for contestant in group["contestants"]
        }

    def get(self, place: Place, contestant: str, figure: str = "value") -> float | None:
        """A contestant's figure."""
        found = self._found.get((place, contestant), {}).get(figure)
        return float(found["median"]) if found else None

    def text(self, place: Place, contestant: str, figure: str = "value", unit: str = "") -> str:
        """The same, to be read."""
        found = self.get(place, contestant, figure)
        return number(found, unit) if found is not None else "(not measured)"


def ten_lines(result: Mapping[str, Any]) -> list[str]:
    """The lines at the top of the page."""
    text = Figures(result).text

    def p50(place: Place, contestant: str) -> str:
        return text(place, contestant, "p50", "s")

    one, window, trip = targets.ONE_4_KIB, targets.DURABLE_64, targets.ROUND_TRIP
    return [
        f"A round trip of two actors takes {p50(trip, 'ours')} (p50); on Thespian's {TCP_BASE} {p50(trip, 'tcp')}, and "
        f"between two bare processes with a socket pair, poll and pickle {p50(trip, 'bare')}.",
        f"{text(window, 'ours')} replies of 4 KiB per second become durable with 64 unacknowledged "
        f"({text(targets.DURABLE_256, 'ours')} with 256). SQLite behind an actor stores {text(window, 'sqlite')}, LMDB "
        f"{text(window, 'lmdb')}; build, write and sync in one process without actors {text(window, 'floor')}.",
        f"Of 64 KiB replies {text(targets.DURABLE_64_KIB, 'ours', 'MB/s', 'MB/s')} become durable, of 1 MiB replies "
        f"{text(targets.DURABLE_1_MIB, 'ours', 'MB/s', 'MB/s')}; LMDB behind an actor stores "
        f"{text(targets.DURABLE_64_KIB, 'lmdb', 'MB/s', 'MB/s')} and "
        f"{text(targets.DURABLE_1_MIB, 'lmdb', 'MB/s', 'MB/s')}, SQLite "
        f"{text(targets.DURABLE_64_KIB, 'sqlite', 'MB/s', 'MB/s')} and "
        f"{text(targets.DURABLE_1_MIB, 'sqlite', 'MB/s', 'MB/s')}.",
        f"A single 4 KiB reply is durable after {p50(one, 'ours')} (p50); behind an actor SQLite takes "
        f"{p50(one, 'sqlite')}, LMDB {p50(one, 'lmdb')}.",
        f"An owner reads a pending reply of 4 KiB in {text(targets.PENDING, 'ours', 'value', 's')} (p50); a round trip "
        f"beside it takes {text(targets.PENDING, 'ours', 'round trip', 's')}.",
        f"A replica answers {text(targets.COMMIT_4_KIB, 'with')} requests per second with the component and "
        f"{text(targets.COMMIT_4_KIB, 'without')} without it (replies of 4 KiB; with 512 bytes "
        f"{text(targets.COMMIT_512, 'with')} and {text(targets.COMMIT_512, 'without')}).",
        f"A file of 65,536 slots opens in {text(targets.SCALE, '65536', 'open', 's')}, every slot verified.",
        f"Repair restores {text(targets.REPAIR, 'ours')} MB/s of 64 KiB replies from two peers; plain sockets and "
        f"files copy {text(targets.REPAIR, 'plain')}, signed and verified {text(targets.REPAIR, 'signed')}.",
        f"A cluster of three replicas answers one session in {p50(targets.CLUSTER_1, 'ours')} (p50; etcd "
        f"{p50(targets.CLUSTER_1, 'etcd')}), and 32 sessions with {text(targets.CLUSTER_32, 'ours')} requests per "
        f"second (etcd {text(targets.CLUSTER_32, 'etcd')}).",
        f"Idle, that cluster uses {text(targets.IDLE, 'ours')}% of a core. While a stranger has 1,000 idle "
        f"connections, an owner's round trip takes {text(targets.STRANGER, 'with', 'value', 's')} instead of "
        f"{text(targets.STRANGER, 'without', 'value', 's')}.",
    ]
