"""Messages to and from other hosts, over TCP, signed.

    connector -> acceptor   MAGIC and a nonce
    acceptor -> connector   a nonce, and the HMAC of both under the members' key
    connector -> acceptor   whose process is meant, who sends, the channel, the number of its first message; messages
    acceptor -> connector   how many messages of the channel it has

Guarantees: from the third frame on each is signed (HMAC-SHA256) with a key of this one connection, its direction and
number, so none can be forged, replayed or moved; before, a connection has `UNKNOWN_SIZE_MAX` bytes of memory
(`local.Listener` bounds how many there are, and for how long). A process sends to another over one channel, in order; a
message is kept until it is acknowledged, and sent again over a new connection if the old one broke. A peer that cannot
be reached holds up no other; its messages fail once it made no progress for `STALL_TIMEOUT_S`, whatever their size.

Limits: no secrecy. A message of which the acknowledgement was lost with the peer fails, though it may have arrived.

Owns: the connections to other hosts, and the numbers of the channels that come from them.
"""

from __future__ import annotations

import errno
import fcntl
import hmac
import ipaddress
import pickle
import random
import secrets
import socket
import struct
import termios
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from thespian.actors import ActorAddress

from client_replies.actors.thespian.logs import get_logger

from .addresses import LOOPBACK, HostAddress
from .streams import POLLOUT, Parts, Stream, Way, framed, now

if TYPE_CHECKING:
    from .transport import Transport

KEY_SIZE_MIN = 16
MAC_SIZE = 32
MAGIC = b"replies1"
NONCE_SIZE = 16
# What a frame may have before its connection is known; the longest is the one that introduces the sender.
UNKNOWN_SIZE_MAX = 1024
STALL_TIMEOUT_S = 10.0
CHECK_INTERVAL_S = 0.5
CHANNELS_MAX = 4096
# A host that is gone is found out by probes, where nothing is sent to it: after about 11 s.
KEEPALIVE = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3))

_COUNT = struct.Struct("<Q")
_LAST_ACK_AT = 56  # in struct tcp_info: how long ago the last acknowledgement came, in milliseconds
_CONNECTOR, _ACCEPTOR = b"c", b"a"

_log = get_logger("base")


class TransportError(Exception):
    """The transport cannot be set up as asked."""


class KeyTooShort(TransportError):
    """A key that could be guessed is no key."""

    def __init__(self, size: int) -> None:
        super().__init__(f"a key of {size} bytes; use at least {KEY_SIZE_MIN} random ones (secrets.token_bytes(32))")


class KeyMissing(TransportError):
    """Addresses of several hosts were named, without the key that their members share."""

    def __init__(self) -> None:
        super().__init__("addresses without a key; give each member the same: start_system(addresses=..., key=...)")


class AddressNotUsable(TransportError):
    """None of the named addresses can be bound here, or one of them is not an address of one interface."""


class PortsInUse(TransportError):
    """Every port of the named range is taken."""

    def __init__(self, ports: range) -> None:
        super().__init__(f"no free port in {ports.start} to {ports.stop - 1}; each actor takes one: name more")


@dataclass(frozen=True)
class Hosts:
    """That a system has other hosts: the members' key, one address per host, the ports that a firewall lets through."""

    key: bytes = field(repr=False)
    addresses: tuple[str, ...] = (LOOPBACK,)
    ports: range | None = None
    own_address: str = field(init=False)

    def __post_init__(self) -> None:
        if len(self.key) < KEY_SIZE_MIN:
            raise KeyTooShort(len(self.key))
        object.__setattr__(self, "own_address", _first_own(self.addresses))

    def bind(self, connection: socket.socket) -> None:
        """Bind to a free port that other hosts can reach."""
        if self.ports is None:
            connection.bind((self.own_address, 0))
            return
        for port in random.sample(self.ports, len(self.ports)):
            try:
                connection.bind((self.own_address, port))
            except OSError:
                continue
            return
        raise PortsInUse(self.ports)


def _first_own(addresses: tuple[str, ...]) -> str:
    """Find the first address that belongs to this host."""
    for address in addresses:
        try:
            parsed = ipaddress.IPv4Address(address)
        except ValueError as error:
            raise AddressNotUsable(f"{address!r} is not an IPv4 address") from error
        if parsed.is_unspecified or parsed.is_multicast:
            raise AddressNotUsable(f"{address!r} is not the address of one interface")
    for address in addresses:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((address, 0))
            except OSError:
                continue  # another host's
            return address
    raise AddressNotUsable(f"none of {addresses} belongs to this host")


class HostStream(Stream):
    """One connection with another host. `peer` is whom it connects to; the acceptor's end has none."""

    frame_size_max = UNKNOWN_SIZE_MAX

    def __init__(self, transport: Transport, connection: socket.socket, key: bytes, peer: HostPeer | None) -> None:
        self._key = key
        self._peer = peer
        self._nonce = secrets.token_bytes(NONCE_SIZE)
        self._session = b""
        self._connecting = peer is not None
        self._role, self._other_role = (_ACCEPTOR, _CONNECTOR) if peer is None else (_CONNECTOR, _ACCEPTOR)
        self._frames_sent = self._frames_taken = 0
        self.sender: ActorAddress | None = None
        self.count = self._acknowledged = 0  # messages of the channel that are here
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        super().__init__(transport, connection)

    def write_signed(self, parts: Parts, size: int) -> None:
        """Sign and write one frame."""
        mac = self._mac(self._role, self._frames_sent)
        self._frames_sent += 1
        for part in parts:
            mac.update(part)
        self.write(*framed([mac.digest(), *parts], MAC_SIZE + size))

    def _mac(self, role: bytes, number: int) -> hmac.HMAC:
        return hmac.new(self._session, role + _COUNT.pack(number), "sha256")

    def read(self) -> None:
        """See `Stream`: then acknowledge."""
        super().read()
        if self.count != self._acknowledged and self.fd >= 0:
            self._acknowledged = self.count
            self.write_signed([_COUNT.pack(self.count)], _COUNT.size)

    def take(self, frame: memoryview) -> None:
        """See `Stream`. What a member of another version says must not end this process."""
        try:
            self._take(frame)
        except (ValueError, TypeError, LookupError, AttributeError, ImportError, struct.error, pickle.PickleError):
            self.transport.admission.refuse(self, "not_understood")

    def _take(self, frame: memoryview) -> None:
        if not self._session:
            self._take_nonce(bytes(frame))
            return
        mac = self._mac(self._other_role, self._frames_taken)
        self._frames_taken += 1
        mac.update(frame[MAC_SIZE:])
        if not hmac.compare_digest(mac.digest(), frame[:MAC_SIZE]):
            self.transport.admission.refuse(self, "wrong_signature")
        elif self._peer is not None:
            self._peer.acknowledged(self, frame[MAC_SIZE:])
        elif self.sender is None:
            self._take_introduction(frame[MAC_SIZE:])
        else:
            self.count += 1
            self.deliver(frame[MAC_SIZE:], self.sender)

    def _take_nonce(self, frame: bytes) -> None:
        if self._peer is None:
            if len(frame) != len(MAGIC) + NONCE_SIZE or not frame.startswith(MAGIC):
                self.transport.admission.refuse(self, "no_greeting")
                return
            nonces = frame[len(MAGIC) :] + self._nonce
            answer = self._nonce + hmac.digest(self._key, b"answer" + nonces, "sha256")
            self.write(*framed([answer], len(answer)))
            self._session = hmac.digest(self._key, b"session" + nonces, "sha256")
            return
        nonces = self._nonce + frame[:NONCE_SIZE]
        proof = hmac.digest(self._key, b"answer" + nonces, "sha256")
        if not hmac.compare_digest(proof, frame[NONCE_SIZE:]):
            self.transport.admission.refuse(self, "wrong_key")
            return
        self._session = hmac.digest(self._key, b"session" + nonces, "sha256")
        introduction = pickle.dumps(self._peer.introduction(), 5)
        self.write_signed([introduction], len(introduction))

    def _take_introduction(self, frame: memoryview) -> None:
        token, sender, channel, first = pickle.loads(frame)
        if token and token != self.transport.myAddress.addressDetails.token:
            self.write_signed([], 0)
            self.close()
            return
        self.sender = sender
        self.frame_size_max = Stream.frame_size_max
        self.count = self.transport.admission.channel(channel, first, self)
        self._acknowledged = -1  # that it is known is news, too
        self.transport.introduced(self)

    def ready(self, events: int) -> None:
        if self._connecting and self._peer is not None:
            self._connecting = False
            self._peer.connected(self, self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        if self.fd >= 0:
            super().ready(events)

    def greet(self) -> None:
        """Begin, as the connector."""
        self.write(*framed([MAGIC + self._nonce], len(MAGIC) + NONCE_SIZE))

    def progressed_at(self) -> float:
        """When the other host last took something, or was last seen to have taken all."""
        if self._connecting:
            return 0.0
        outstanding = struct.unpack("i", fcntl.ioctl(self.fd, termios.TIOCOUTQ, b"\0" * 4))[0]
        if not outstanding and not self.unsent:
            return now()
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_ACK_AT + 4)
        (ago_ms,) = struct.unpack_from("I", info, _LAST_ACK_AT)
        return float(now() - ago_ms / 1000)

    def closed(self) -> None:
        self.transport.forget(self)
        if self._peer is not None:
            self._peer.lost(self)


class HostPeer(Way):
    """The way to one process of another host: what it has not acknowledged, and the connection, if there is one."""

    PATIENCE_S = 1.0

    def __init__(self, transport: Transport, hosts: Hosts, address: HostAddress) -> None:
        super().__init__(transport)
        self.address = address
        self._hosts = hosts
        self._stream: HostStream | None = None
        self._known = False  # the connection has got through
        self._unknown_since = now()
        self._checking = False
        self._begin_channel()

    def _begin_channel(self) -> None:
        self._channel = secrets.token_bytes(NONCE_SIZE)
        self._first = 0  # the number of the first message in `unsent`

    def write(self, parts: Parts, size: int, intent: Any) -> bool:
        """Keep a message until it is acknowledged, and send it when there is a connection."""
        if not self.unsent:
            self.moved_at = self._unknown_since = now()
        self.unsent.append((parts, size, intent))
        self.unsent_bytes += size
        if self._known and self._stream is not None:
            self._stream.write_signed(parts, size)
        elif self._stream is None:
            self._connect()
        self._check_later()
        return True

    def _connect(self) -> None:
        try:
            connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            self.transport.admission.say_no_descriptors(error)
            return  # `_check` tries again
        connection.setblocking(False)
        connection.bind((self._hosts.own_address, 0))
        connection.connect_ex(self.address.sockname)
        self._stream = HostStream(self.transport, connection, self._hosts.key, self)
        self.transport.loop.modify(self._stream.fd, POLLOUT)

    def connected(self, stream: HostStream, error: int) -> None:
        """The other host has answered, if it was only to refuse."""
        if not error:
            stream.greet()
            return
        stream.close()
        if error == errno.ECONNREFUSED:
            self.fail("nobody_there", dead=True)

    def introduction(self) -> tuple[str, ActorAddress, bytes, int]:
        """What the first signed frame of a connection says."""
        return self.address.token, self.transport.myAddress, self._channel, self._first

    def acknowledged(self, stream: HostStream, frame: memoryview) -> None:
        """The peer has so many messages; the first time, send it the others."""
        if not frame:
            stream.close()
            self.fail("another_process", dead=True)
            return
        (count,) = _COUNT.unpack(frame)
        self.moved_at = now()
        while self._first < count and self.unsent:
            _parts, size, intent = self.unsent.popleft()
            self.unsent_bytes -= size
            self._first += 1
            self.transport.complete(intent, True)
        if not self._known:
            self._known = True
            stream.frame_size_max = Stream.frame_size_max
            for parts, size, _ in list(self.unsent):
                stream.write_signed(parts, size)

    def lost(self, stream: HostStream) -> None:
        """The connection has ended: make another at once if this one had got through, else soon."""
        if self._stream is stream:
            was_known, self._stream, self._known = self._known, None, False
            if was_known and self.unsent:
                self._unknown_since = now()
                self._connect()

    def _check_later(self) -> None:
        if not self._checking:
            self._checking = True
            self.transport.loop.call_later(CHECK_INTERVAL_S, self._check)

    def _check(self) -> None:
        self._checking = False
        if not self.unsent:
            return
        if self._stream is None:
            self._connect()
        else:
            self.moved_at = max(self.moved_at, self._stream.progressed_at())
        # A process that is silent though its host lives is waited for, once it has said that it is the one.
        if now() - (self.moved_at if self._known else self._unknown_since) > STALL_TIMEOUT_S:
            self.fail("no_progress", dead=False)
        else:
            self._check_later()

    def fail(self, reason: str, *, dead: bool) -> None:
        """What was not acknowledged has failed."""
        if self.unsent:
            _log.warning("messages_failed", peer=str(self.address), reason=reason, messages=len(self.unsent))
        self._begin_channel()
        self.close()
        super().fail(reason, dead=dead)

    def close(self) -> None:
        """Let go of the connection."""
        stream, self._stream, self._known = self._stream, None, False
        if stream is not None:
            stream.close()
