"""What may reach a Thespian process over TCP: named addresses only, and only what a member signed.

Thespian listens on every interface and unpickles whatever arrives, which lets anyone who can connect run code.

Guarantees, for every port that a process opens after `secure_transport` and for those of its forked children (the
admin, the logger, actors, external ports): the port is bound to one named address, loopback by default; a frame is
unpickled only after its HMAC-SHA256 under the members' key was found right, and everything else is counted, logged and
its connection closed without an answer; a stranger makes a process hold at most `FRAME_SIZE_MAX` a connection.

Gives up: secrecy (what travels is readable), replays by someone who can read the wire, and the time that strangers'
connections cost; where that matters, give the members a private network. UDP and queue bases are not covered.

Owns: the patched places in Thespian's TCP transport. A frame is `length>` then 32 bytes of HMAC and the pickle.
"""

import hmac
import importlib
import ipaddress
import os
import pickle
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from client_replies.actors.logs import get_logger

LOOPBACK = "127.0.0.1"
KEY_SIZE_MIN = 16
MAC_SIZE = 32
FRAME_SIZE_MAX = 64 * 1024 * 1024
LENGTH_DIGITS_MAX = 10
PART_SIZE_MIN = 4096
# Less than the smallest frame, so that a first read never takes bytes of the frame that follows.
FIRST_READ_SIZE = 20
REFUSAL_LOG_INTERVAL_S = 1.0
# Thespian's own five minutes let one stopped peer hold up the traffic to all the others for as long.
TRANSMIT_TIMEOUT_S = 10
TRANSMIT_TIMEOUT_VARIABLE = "THESPIAN_TRANSMIT_TIMEOUT_PERIOD"

_log = get_logger("wire")


class TransportError(Exception):
    """The transport cannot be secured as asked."""


class KeyTooShort(TransportError):
    """A key that could be guessed is no key."""

    def __init__(self, size: int) -> None:
        super().__init__(f"a key of {size} bytes: at least {KEY_SIZE_MIN} are needed")


class AddressNotUsable(TransportError):
    """None of the named addresses can be bound here, or one of them is not an address of one interface."""


class TransportAlreadySecured(TransportError):
    """This process's transport has another key or other addresses; there is one of each a process."""


class FrameTooLarge(TransportError):
    """A message that no member would take. Thespian gives it back to its sender as a PoisonMessage."""

    def __init__(self, size: int) -> None:
        super().__init__(f"a message of {size} bytes: at most {FRAME_SIZE_MAX} travel")


@dataclass
class _Secured:
    """What this process was given, and what it has refused since it was forked."""

    key: bytes
    addresses: tuple[str, ...]
    bind_address: str
    refused: Counter[str] = field(default_factory=Counter)
    logged_at: float = float("-inf")

    def refuse(self, reason: str, peer: str) -> None:
        """Count, and log now and then: a flood of strangers must not become a flood of lines."""
        self.refused[reason] += 1
        now = time.monotonic()
        if now - self.logged_at >= REFUSAL_LOG_INTERVAL_S:
            self.logged_at = now
            _log.warning("frame_refused", reason=reason, peer=peer, refused=dict(self.refused))


_secured: _Secured | None = None


def _forget_parents_refusals() -> None:
    if _secured is not None:
        _secured.refused.clear()
        _secured.logged_at = float("-inf")


os.register_at_fork(after_in_child=_forget_parents_refusals)


def secure_transport(*, key: bytes, addresses: Sequence[str] = (LOOPBACK,)) -> None:
    """Bind what this process and its children listen on, and sign what they send; before any actor system is made.

    All members of a convention are given the same key and the same list of addresses, one address for each host: a
    host binds the first that is its own. Asking again for the same changes nothing.
    """
    global _secured
    if len(key) < KEY_SIZE_MIN:
        raise KeyTooShort(len(key))
    wanted = tuple(addresses)
    if _secured is not None:
        if (_secured.key, _secured.addresses) != (key, wanted):
            raise TransportAlreadySecured(f"already bound to {_secured.addresses} with its key")
        return
    secured = _Secured(key=key, addresses=wanted, bind_address=_first_own(wanted))
    _patch_addresses(secured.bind_address)
    _patch_frames(secured)
    _patch_transmit_timeout()
    _secured = secured


def secured_with() -> tuple[bytes, tuple[str, ...]] | None:
    """Give key and addresses of this process, if its transport is secured."""
    return None if _secured is None else (_secured.key, _secured.addresses)


def bound_address() -> str:
    """Give the address that this process's ports are bound to."""
    if _secured is None:
        raise TransportError("secure_transport was not called: ports would listen on every interface")
    return _secured.bind_address


def refused_frames() -> Mapping[str, int]:
    """Count, by reason, what this process (it alone) has refused."""
    return {} if _secured is None else dict(_secured.refused)


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


def _patch_addresses(bind_address: str) -> None:
    """Listen on, and tell others, the named address instead of every interface and the one of the default route."""
    base: Any = importlib.import_module("thespian.system.transport.IPBase")
    tcp_address = base.TCPv4ActorAddress
    initialise = tcp_address.__init__

    def named(self: Any, address: str | None = None, port: int = 0, external: object = False) -> None:
        initialise(self, bind_address if address in (None, "", "0.0.0.0") else address, port, external)

    tcp_address.__init__ = named
    tcp_address.bindArgs = property(lambda self: ((bind_address, self.bindname[1]),))
    base.thisSystem.add_local_addr(bind_address)


def _patch_frames(secured: _Secured) -> None:
    """Replace what makes and what takes frames; Thespian looks these names up in its module at each use."""
    tcp: Any = importlib.import_module("thespian.system.transport.TCPTransport")
    key = secured.key

    def to_send_buffer(message: object, _dumps: object = None) -> memoryview:
        # A view, because what the socket did not take at once is sent as a slice of the rest: of bytes, a copy.
        return memoryview(signed_frame(key, message))

    def receive_buffer(_loads: object = None) -> SignedReceiveBuffer:
        return SignedReceiveBuffer(key)

    take_received = tcp.TCPTransport._addedDataToIncoming

    def take_signed(self: Any, incoming: Any, *args: Any, **kwargs: Any) -> Any:
        reason = incoming._rData.refusal
        if reason is None:
            return take_received(self, incoming, *args, **kwargs)
        secured.refuse(reason, _peer(incoming.socket))
        incoming.close()
        return None

    tcp.toSendBuffer = to_send_buffer
    tcp.ReceiveBuffer = receive_buffer
    tcp.ackMsg = signed_frame(key, tcp.ackPacket)
    tcp.ackDataErrMsg = signed_frame(key, "ACK+DATAERR")
    tcp.TCPTransport._addedDataToIncoming = take_signed
    tcp.TCPTransport._check_XMIT_4_done = _counting_refused_answers(secured, tcp.TCPTransport._check_XMIT_4_done)


def _counting_refused_answers(secured: _Secured, take_answer: Callable[..., Any]) -> Callable[..., Any]:
    """Count what came unsigned where an acknowledgement was due: a stranger took over a dead actor's port.

    Thespian takes it for a corrupt acknowledgement, and tries again until the transmit timeout.
    """

    def take_signed_answer(self: Any, intent: Any, received: bytes) -> Any:
        buffer = intent.ackbuf
        again = take_answer(self, intent, received)
        if buffer.refusal is not None:
            secured.refuse(buffer.refusal, str(intent.targetAddr))
        return again

    return take_signed_answer


def _patch_transmit_timeout() -> None:
    if not os.environ.get(TRANSMIT_TIMEOUT_VARIABLE):
        transport: Any = importlib.import_module("thespian.system.transport")
        transport.DEFAULT_MAX_TRANSMIT_PERIOD = timedelta(seconds=TRANSMIT_TIMEOUT_S)


def _peer(connection: socket.socket) -> str:
    try:
        return str(connection.getpeername())
    except OSError:
        return "gone"


class _Parts(list[bytes]):
    """What a pickler writes, and large bytes objects of the message as they are: nothing is copied but once, at last.

    Each copy of a megabyte is new memory, which costs more than what is in it.
    """

    write = list.append


def signed_frame(key: bytes, message: object) -> bytes:
    """Pickle and sign one message."""
    parts = _Parts()
    # The protocol is named, because members may run different Pythons.
    pickle.Pickler(parts, protocol=5).dump(message)
    size = sum(map(len, parts))
    if size > FRAME_SIZE_MAX - MAC_SIZE:
        raise FrameTooLarge(size)
    signature = hmac.new(key, digestmod="sha256")
    for part in parts:
        signature.update(part)
    return b"".join((b"%d>" % (MAC_SIZE + size), signature.digest(), *parts))


class SignedReceiveBuffer:
    """Collects one frame. Takes the place, and has the interface, of Thespian's ReceiveBuffer.

    What is not a frame signed with the key makes the buffer done, with a refusal and without content: it never raises
    for what a stranger sent, and never unpickles it.
    """

    def __init__(self, key: bytes) -> None:
        self.refusal: str | None = None
        self._key = key
        self._length = b""
        self._size: int | None = None
        self._parts: list[bytes] = []
        self._received = 0
        self._data = b""
        self._message: tuple[Any, bytes] | None = None

    def addMore(self, received: bytes) -> None:
        """Take what was read, which is at most what `remainingAmount` asked for."""
        if not received or self.refusal is not None:
            return
        if self._size is None:
            self._length += received
            length, mark, received = self._length.partition(b">")
            if not mark:
                if len(length) > LENGTH_DIGITS_MAX:
                    self.refusal = "no_length"
                return
            self._begin(length)
        if self._size is None:
            return
        if self._parts and len(self._parts[-1]) < PART_SIZE_MIN:
            self._parts[-1] += received  # Many small objects would hold many times what was sent.
        else:
            self._parts.append(received)
        self._received += len(received)
        if self._received > self._size:
            self.refusal = "more_than_a_frame"
        elif self._received == self._size:
            self._data = b"".join(self._parts)
            self._parts.clear()
            self._verify()

    def _begin(self, length: bytes) -> None:
        if not length.isdigit() or len(length) > LENGTH_DIGITS_MAX:
            self.refusal = "no_length"
        elif not MAC_SIZE < int(length) <= FRAME_SIZE_MAX:
            self.refusal = "length_out_of_range"
        else:
            self._size = int(length)

    def _verify(self) -> None:
        frame = memoryview(self._data)
        if not hmac.compare_digest(hmac.digest(self._key, frame[MAC_SIZE:], "sha256"), frame[:MAC_SIZE]):
            self.refusal = "wrong_signature"

    def is_empty(self) -> bool:
        """Say whether nothing was received."""
        return not self._length

    def remainingAmount(self) -> int:
        """Say how much may be read without reading into the next frame."""
        return FIRST_READ_SIZE if self._size is None else self._size - self._received

    def isDone(self) -> bool:
        """Say whether a frame is whole, or refused."""
        return self.refusal is not None or (self._size is not None and self._received == self._size)

    def removeExtra(self) -> None:
        """Do nothing: nothing beyond a frame is ever kept."""

    def completed(self) -> tuple[Any, bytes] | None:
        """Give the message and what came after it (nothing), or None if there is no message."""
        if self.refusal is not None or not self.isDone():
            return None
        if self._message is None:
            self._message = pickle.loads(memoryview(self._data)[MAC_SIZE:]), b""
            self._data = b""  # The message has it all; a large one must not be held twice while it is handled.
        return self._message
