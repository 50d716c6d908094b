"""How each process is reached: over one Unix socket on this host, over one signed channel on another.

Guarantees: one way per process, made when the first message goes there; none to a process that is known to be dead.
The short way of a message finds its stream by the address object alone.

Owns: the ways, and what is remembered of the dead (`DEAD_MAX` of them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thespian.actors import ActorAddress
from thespian.system.addressManager import ActorAddressManager

from .addresses import HostAddress
from .hosts import HostPeer, Hosts
from .local import LocalStream

if TYPE_CHECKING:
    from .transport import Transport

DEAD_MAX = 1024
KNOWN_MAX = 256


class Ways:
    """See the module. `by_key` has the ways by the key of the address."""

    def __init__(self, transport: Transport, hosts: Hosts | None) -> None:
        self.by_key: dict[str, LocalStream | HostPeer] = {}
        self.known: dict[int, tuple[ActorAddress, LocalStream]] = {}  # by the id of the address object
        self._transport = transport
        self._hosts = hosts
        self._dead: dict[str, None] = {}

    def look_up(
        self, target: ActorAddress, addresses: ActorAddressManager | None
    ) -> tuple[ActorAddress, LocalStream] | None:
        """Find the stream to a process of this host, if there is one, and know it by this very object from now on."""
        exported = None if addresses is None else addresses.exportAddr(target)
        way = None if exported is None else self.by_key.get(exported.addressDetails.key)
        if not isinstance(way, LocalStream):
            return None
        if len(self.known) >= KNOWN_MAX:
            self.known.clear()
        known = self.known[id(target)] = target, way  # while it is here its id is no other's
        return known

    def connect(self, details: HostAddress) -> LocalStream | HostPeer | None:
        """Make a way to a process. None: there is none."""
        if details.key in self._dead:
            return None
        if details.name:
            local = LocalStream(self._transport, None, details)
            if local.connect():
                self.by_key[details.key] = local
                return local
        if self._hosts is None:
            return None
        peer = self.by_key[details.key] = HostPeer(self._transport, self._hosts, details)
        return peer

    def introduced(self, stream: LocalStream) -> None:
        """A process of this host has said who it is: it is answered over the same connection."""
        if stream.address is not None:
            self.by_key.setdefault(stream.address.key, stream)

    def ended(self, stream: LocalStream) -> None:
        """The connection has ended."""
        if stream.address and self.by_key.get(stream.address.key) is stream:
            self._forget(stream.address)

    def died(self, details: HostAddress) -> None:
        """The process has ended: what waits for it, and what is sent to it from now on, is a dead letter."""
        self._dead[details.key] = None
        if len(self._dead) > DEAD_MAX:
            del self._dead[next(iter(self._dead))]
        way = self._forget(details)
        if way is not None:
            way.fail("actor_exited", dead=True)  # what it has sent is still read

    def host_left(self, address: ActorAddress) -> None:
        """The other host has left: let go of what goes there."""
        for way in list(self.by_key.values()):
            if isinstance(way, HostPeer) and address.addressDetails.isSameSystem(way.address):
                way.fail("host_left", dead=False)

    def _forget(self, details: HostAddress) -> LocalStream | HostPeer | None:
        self.known.clear()
        return self.by_key.pop(details.key, None)
