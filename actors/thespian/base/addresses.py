"""Where an actor is reached: Thespian's TCP address, and on the same host a Unix socket in the abstract namespace.

Guarantees: the Unix name follows from the address alone. It holds the user, the port and the token of one process, so
a port that is used again leads nobody to the wrong actor, and nobody can guess the name of a process and take it first.
An address without a token (an admin that is known by its port alone) equals the address of whichever process has the
port.

Owns: nothing.
"""

from __future__ import annotations

import os
import secrets
import socket
from typing import Any

from thespian.actors import ActorAddress, InvalidActorAddress
from thespian.system.transport.IPBase import TCPv4ActorAddress, thisSystem

LOOPBACK = "127.0.0.1"
ADMIN_PORT_DEFAULT = 1900
# Capabilities of an actor system.
ADMIN_PORT = "Admin Port"
ADMIN_TOKEN = "Admin Token"

_USER = os.geteuid()


class HostAddress(TCPv4ActorAddress):
    """An address of a process. `name` is its Unix socket, if the process is one of this host; `key` names the way."""

    af, socktype, proto = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP

    def __init__(self, ip: str, port: int, token: str = "") -> None:
        self.sockname = self.bindname = (ip, port)
        self.token = token
        self.name = f"\0client-replies-{_USER}-{port}-{token}" if thisSystem.isLocalAddr(ip) else ""
        self.key = self.name or f"{ip}:{port}-{token}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HostAddress):
            return False
        if self.key == other.key:
            return True
        same_place = self.sockname[1] == other.sockname[1] and thisSystem.isSameSystem(self.sockname, other.sockname)
        return same_place and (not self.token or not other.token)

    def __hash__(self) -> int:
        return hash(self.sockname[1])

    def __reduce__(self) -> tuple[Any, ...]:
        return HostAddress, (*self.sockname, self.token)


def new_token() -> str:
    """What no other process's address has."""
    return secrets.token_hex(8)


def address_from_text(given: str | tuple[str, int]) -> ActorAddress:
    """Make an address of "host:port", "host" or (host, port), as conventions are given them; no host is this one."""
    host, _, port = given.partition(":") if isinstance(given, str) else (given[0], "", given[1])
    try:
        ip = socket.gethostbyname(host) if host else LOOPBACK
        return ActorAddress(HostAddress(ip, int(port or ADMIN_PORT_DEFAULT)))
    except (OSError, ValueError) as error:
        raise InvalidActorAddress(given, f"not host:port ({error})") from error
