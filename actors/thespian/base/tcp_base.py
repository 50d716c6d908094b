"""Thespian's own `multiprocTCPBase`, to compare with: its processes end with their starter, its ports are on loopback.

Limits: nothing is signed, and every process of this host may connect: who does can run code in the actors. Thespian
would open the ports on every interface.
"""

from __future__ import annotations

import socket
from typing import Any

from thespian.actors import ActorAddress
from thespian.system import multiprocTCPBase
from thespian.system.transport import ExternalInterfaceTransportInit
from thespian.system.transport.IPBase import TCPv4ActorAddress
from thespian.system.transport.TCPTransport import ExternalTransportCopy, TCPTransport

from .addresses import ADMIN_PORT, LOOPBACK
from .expected import with_names
from .processes import OwnedBase

TCP_BASE = "multiprocTCPBase"


class LoopbackAddress(TCPv4ActorAddress):
    """Listens, and is reached, on loopback."""

    def __init__(self, ip: str | None = None, port: int = 0, external: object = False) -> None:
        super().__init__(ip or LOOPBACK, port, external)
        self.bindname = (LOOPBACK, self.bindname[1])


class LoopbackTransport(TCPTransport):
    """Thespian's transport with such addresses."""

    _initialise = with_names(TCPTransport.__init__, TCPv4ActorAddress=LoopbackAddress)

    def __init__(self, init: Any, *args: Any) -> None:
        self._initialise(init, *args)
        if isinstance(init, ExternalInterfaceTransportInit):
            self._adminAddr = self.getAdminAddr(args[0])

    @staticmethod
    def getAdminAddr(capabilities: dict[str, Any]) -> ActorAddress:
        """Where the admin of a system with these capabilities is reached."""
        return ActorAddress(LoopbackAddress(None, capabilities[ADMIN_PORT], True))

    def external_transport_clone(self) -> LoopbackTransport:
        """For another thread of a script."""
        return LoopbackTransport(ExternalTransportCopy(), self._adminAddr, False, False)


class ActorSystemBase(OwnedBase, multiprocTCPBase.ActorSystemBase):
    """The base. The name is Thespian's."""

    transportType = LoopbackTransport

    def _bind(self, port: int) -> socket.socket:
        # Bound, not listening, while the admin comes to listen: Linux gives the port to nobody else.
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((LOOPBACK, port))
        return held
