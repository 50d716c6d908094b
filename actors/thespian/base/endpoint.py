"""What a new process is given to make its transport of, and the address under which it is reached."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from thespian.actors import ActorAddress
from thespian.system.transport import TransportInit__Base

from .addresses import ADMIN_PORT, ADMIN_PORT_DEFAULT, ADMIN_TOKEN, LOOPBACK, HostAddress
from .hosts import Hosts


@dataclass
class Endpoint(TransportInit__Base):
    """What a process is given to make its transport of. The first name is Thespian's."""

    addrInst: int | None
    admin: ActorAddress
    hosts: Hosts | None
    address: ActorAddress | None = None  # the admin's own; all others get one
    bound: socket.socket | None = None  # and its port, which the starter holds for it


def bind(hosts: Hosts | None, port: int = 0) -> socket.socket:
    """Take a port, or this one. Nobody can connect to it until it is listened at, which needs other hosts."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if hosts is None:
            bound.bind((LOOPBACK, port))
        else:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((hosts.own_address, port)) if port else hosts.bind(bound)
    except BaseException:
        bound.close()
        raise
    return bound


def admin_address(capabilities: dict[str, Any], hosts: Hosts | None) -> ActorAddress:
    """Where the admin of a system with these capabilities is reached."""
    ip = LOOPBACK if hosts is None else hosts.own_address
    port = int(capabilities.get(ADMIN_PORT, ADMIN_PORT_DEFAULT))
    return ActorAddress(HostAddress(ip, port, capabilities.get(ADMIN_TOKEN, "")))
