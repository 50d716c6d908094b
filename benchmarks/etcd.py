"""etcd, three members on this machine: puts through the JSON gateway of its leader, one connection a session.

Written after etcd's documentation (`/v3/kv/put`, `/v3/maintenance/status`); runs only where `etcd` is on PATH.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import Any

from .ports import free_ports
from examples.percentile import percentile

MEMBERS = 3
READY_TIMEOUT = 30.0
WARM_SECONDS = 0.3


def _start(params: Mapping[str, Any], clients: list[int], peers: list[int]) -> list[subprocess.Popen[bytes]]:
    cluster = ",".join(f"m{index}=http://127.0.0.1:{port}" for index, port in enumerate(peers))
    started = []
    for index, (client, peer) in enumerate(zip(clients, peers, strict=True)):
        options = {
            "name": f"m{index}",
            "data-dir": os.path.join(params["files"], f"etcd-{index}"),
            "listen-client-urls": f"http://127.0.0.1:{client}",
            "advertise-client-urls": f"http://127.0.0.1:{client}",
            "listen-peer-urls": f"http://127.0.0.1:{peer}",
            "initial-advertise-peer-urls": f"http://127.0.0.1:{peer}",
            "initial-cluster": cluster,
            "log-level": "error",
        }
        command = ["etcd", *(f"--{name}={value}" for name, value in options.items())]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    return started


def _post(connection: http.client.HTTPConnection, path: str, content: Mapping[str, str]) -> dict[str, Any]:
    connection.request("POST", path, json.dumps(content), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"etcd answered {answer.status} to {path}")
    found: dict[str, Any] = json.loads(text)
    return found


def _leader(ports: list[int]) -> int:
    """The client port of the member that leads, once there is one."""
    deadline = time.monotonic() + READY_TIMEOUT
    while time.monotonic() < deadline:
        for port in ports:
            with contextlib.suppress(OSError, RuntimeError, http.client.HTTPException):
                status = _post(http.client.HTTPConnection("127.0.0.1", port, timeout=1), "/v3/maintenance/status", {})
                if status.get("leader") not in (None, "0") and status["leader"] == status["header"]["member_id"]:
                    return port
        time.sleep(0.05)
    raise RuntimeError("etcd elected no leader")


def _session(number: int, port: int, until: float, latencies: list[tuple[float, float]]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    key = base64.b64encode(f"session-{number}".encode()).decode()
    count = 0
    while (begun := time.perf_counter()) < until:
        count += 1
        _post(connection, "/v3/kv/put", {"key": key, "value": base64.b64encode(b"%d" % count).decode()})
        latencies.append((begun, time.perf_counter() - begun))


def measure(params: Mapping[str, Any]) -> dict[str, Any]:
    """Start the members, then put for so long from so many sessions."""
    ports = free_ports(2 * MEMBERS)
    members = _start(params, ports[:MEMBERS], ports[MEMBERS:])
    try:
        port = _leader(ports[:MEMBERS])
        begun = time.perf_counter() + WARM_SECONDS
        until = begun + params["seconds"]
        seen: list[tuple[float, float]] = []
        threads = [
            threading.Thread(target=_session, args=(number, port, until, seen)) for number in range(params["sessions"])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for member in members:
            member.kill()
            member.wait()
    latencies = [latency for at, latency in seen if at >= begun]
    return {
        "value": len(latencies) / params["seconds"],
        "p50": percentile(latencies, 50),
        "p99": percentile(latencies, 99),
        "seconds": params["seconds"],
    }
