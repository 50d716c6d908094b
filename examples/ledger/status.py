"""The state of a running cluster, as `status` shows it to people: two tables and the lines below them.

Guarantees: what a running cluster answered is shown, and what it did not answer is "-". Both tables fit 80 columns, up
to process ids of 7 digits, views of 5 and ops of 9. A replica that is down, cut off or not in a view is named, and so
is each fault that lasts.

Limits: a backup needs up to the view-change interval to notice that its primary is silent. Until then it still counts
as a follower, so a quorum that was lost a moment ago may still be shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from client_replies.cluster.vsr.core import Status

from .terminal import BAD, FAIR, GOOD, Line, show, show_table

COLUMNS = ("name", "pid", "state", "role", "view", "op", "commit", "executed")
SLOT_COLUMNS = ("reply slots", "empty", "durable", "queued", "writing", "faulty", "lost", "checkpoint", "waiting")
NON_VOTING = "non-voting"
STYLES = {
    "state": {"up": GOOD, "starting": FAIR, "silent": BAD, "stopped": BAD, "down": BAD},
    "role": {"primary": "bold cyan", NON_VOTING: FAIR},
}
SLOT_STYLES = {"durable": GOOD, "queued": FAIR, "writing": FAIR, "faulty": FAIR, "lost": BAD}


def has_quorum(replicas: Sequence[Mapping[str, Any]]) -> bool:
    """True if a majority of all replicas follows one primary, itself included.

    Who follows it has answered, votes, and is in the primary's view with the view's log.
    """
    followers = [one for one in replicas if one["state"] == "up" and _follows(one)]
    views = Counter(one["view"] for one in followers)
    return any(one["role"] == "primary" and views[one["view"]] >= _majority(replicas) for one in followers)


def _follows(replica: Mapping[str, Any]) -> bool:
    return replica.get("role") in ("primary", "backup") and replica.get("status") == Status.NORMAL.value


def _majority(replicas: Sequence[object]) -> int:
    return len(replicas) // 2 + 1


def show_status(status: Mapping[str, Any], out: Any = None) -> None:
    """Print everything."""
    replicas = status["replicas"]
    show_table(COLUMNS, [status_row(replica) for replica in replicas], out)
    show_table(SLOT_COLUMNS, [slots_row(replica) for replica in replicas], out)
    show(status_lines(status), out)


def status_row(replica: Mapping[str, Any]) -> list[Line]:
    """Where a replica is in the protocol."""
    row: list[Line] = []
    for column in COLUMNS:
        text = str(replica.get(column, "-"))
        row.append([(text, STYLES.get(column, {}).get(text, ""))])
    return row


def slots_row(replica: Mapping[str, Any]) -> list[Line]:
    """What a replica's component has of its slots. A lost reply is on no replica: its slot is no longer repaired."""
    counts: dict[str, Any] = dict(replica.get("slots") or {})
    if counts:
        counts["lost"] = replica.get("lost", 0)
        counts["faulty"] -= counts["lost"]
    row: list[Line] = [str(replica["name"])]
    for column in SLOT_COLUMNS[1:-2]:
        count = counts.get(column, "-")
        row.append([(str(count), SLOT_STYLES.get(column, "") if count not in (0, "-") else "")])
    return [*row, str(replica.get("checkpoint", "-")), str(replica.get("requests_waiting", "-"))]


def status_lines(status: Mapping[str, Any]) -> list[Line]:
    """What stands below the tables."""
    replicas, door = status["replicas"], status["gateway"]
    host, port = door["address"]
    lines: list[Line] = [
        f"gateway {host}:{port}, process {door['pid']}, {door.get('connections', '-')} connections, "
        f"{door.get('requests_waiting', '-')} requests waiting",
        f"restarts since the start: {status['restarts']} of replicas, {door.get('restarts', '-')} of the gateway",
    ]
    for replica in replicas:
        lines += _replica_lines(replica)
    lines += [[("fault: ", FAIR), text] for text in _faults(status.get("faults") or {})]
    if not status["quorum"]:
        needed = f"{_majority(replicas)} of {len(replicas)}"
        text = f": nothing is executed until {needed} replicas follow one primary; requests wait"
        lines.append([("no quorum", BAD), text])
    return lines


def _replica_lines(replica: Mapping[str, Any]) -> Iterator[Line]:
    if replica.get("reason"):
        yield [(f"{replica['name']} is {replica['state']}", BAD), f": {replica['reason']}"]
    if replica.get("status", Status.NORMAL.value) != Status.NORMAL.value:
        yield [(str(replica["name"]), FAIR), f" {replica['status']}"]
    if replica.get("stopped"):
        yield [(f"the replies of {replica['name']} are stopped", BAD), f": {replica['stopped']}"]


def _faults(faults: Mapping[str, Any]) -> Iterator[str]:
    """The injected faults that last."""
    for partition in faults.get("partitions", ()):
        groups = " and ".join(", ".join(partition[side]) for side in ("replicas", "others"))
        yield f"{groups} do not hear each other, until heal"
    for client in faults.get("blocked", ()):
        yield f"client {client} gets no replies, until heal"
    for name, count in faults.get("drop_replies", {}).items():
        yield f"{name} loses its next {count} replies"
