"""What may reach a Thespian process over TCP: named addresses only, and only what a member signed.

Thespian listens on every interface and unpickles whatever arrives, which lets anyone who can connect run code.

Guarantees, for every port that a process opens after `secure_transport` and for those of its forked children (the
admin, the logger, actors, external ports): the port is bound to one named address, loopback by default; a frame is
unpickled only after its HMAC-SHA256 under the members' key was found right, and everything else is counted, logged and
its connection closed without an answer. A frame's length is signed, too: who does not know the key makes a process
hold `STRANGERS_MAX` connections (the oldest makes room) of some hundred bytes each, for `STRANGER_TIMEOUT_S` each. A
process that has no descriptor left for a connection closes one that it can do without, says so, and goes on.

Limits: no secrecy (what travels is readable), no protection from replays by someone who can read the wire; where that
matters, give the members a private network. UDP and queue bases are not covered.

Owns: the patched places in Thespian's TCP transport. A frame is `length>`, 16 bytes that sign the length, 32 bytes of
HMAC and the pickle.
"""

import contextlib
import errno
import hmac
import importlib
import ipaddress
import os
import pickle
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from client_replies.actors.logs import LimitedLog, get_logger

LOOPBACK = "127.0.0.1"
KEY_SIZE_MIN = 16
MAC_SIZE = 32
LENGTH_MAC_SIZE = 16
FRAME_SIZE_MAX = 64 * 1024 * 1024
LENGTH_DIGITS_MAX = 10
PART_SIZE_MIN = 4096
# Less than the smallest frame, so that a first read never takes bytes of the frame that follows.
FIRST_READ_SIZE = 20
# Connections of which no signed length has come: so many at once, and for so long each. A member sends it at once.
STRANGERS_MAX = 16
STRANGER_TIMEOUT_S = 5
# Thespian's own five minutes let one stopped peer hold up the traffic to all the others for as long.
TRANSMIT_TIMEOUT_S = 10
TRANSMIT_TIMEOUT_VARIABLE = "THESPIAN_TRANSMIT_TIMEOUT_PERIOD"

_log = LimitedLog(get_logger("wire"))


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
    spare: int = -1  # a descriptor to give up when there is no other

    def refuse(self, reason: str, peer: str) -> None:
        """Count, and log at a bounded rate: a flood of strangers must not become a flood of lines."""
        self.refused[reason] += 1
        _log.event("frame_refused", {"reason": reason, "peer": peer, "refused": dict(self.refused)})


_secured: _Secured | None = None


def _forget_parents_refusals() -> None:
    if _secured is not None:
        _secured.refused.clear()
    _log.forget()


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
    _patch_connections(secured)
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


def _patch_connections(secured: _Secured) -> None:
    """Let connections of strangers be few and short, and survive it when there are no descriptors."""
    tcp: Any = importlib.import_module("thespian.system.transport.TCPTransport")
    timing: Any = importlib.import_module("thespian.system.timing")
    transport = tcp.TCPTransport
    accept, handle, interrupt_wait = (
        transport._acceptNewIncoming,
        transport._handlePossibleIncoming,
        transport.interrupt_wait,
    )
    timeout = timedelta(seconds=STRANGER_TIMEOUT_S)

    def strangers(self: Any) -> list[Any]:
        """Those that were accepted and of which nothing signed has come, the oldest first."""
        unproven = [incoming for incoming in self._incomingSockets.values() if _is_stranger(incoming)]
        return sorted(unproven, key=lambda incoming: incoming.accepted)

    def close_stranger(self: Any, incoming: Any, reason: str) -> None:
        secured.refuse(reason, _peer(incoming.socket))
        self._incomingSockets.pop(incoming.socket.fileno(), None)
        incoming.close()

    def accept_few(self: Any) -> None:
        known = set(map(id, self._incomingSockets.values()))
        accept(self)
        for incoming in self._incomingSockets.values():
            if id(incoming) not in known:
                self.accepted = incoming.accepted = getattr(self, "accepted", 0) + 1
                incoming._expires = timing.ExpirationTimer(timeout)
        for incoming in strangers(self)[:-STRANGERS_MAX]:
            close_stranger(self, incoming, "too_many_connections")

    def handle_in_time(self: Any, incoming: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_stranger(incoming):
            return handle(self, incoming, *args, **kwargs)
        if incoming._expires.view().expired():
            secured.refuse("no_frame_in_time", _peer(incoming.socket))
            incoming.close()
            return None  # who called removes it, and may be walking through all of them
        again = handle(self, incoming, *args, **kwargs)
        if again is incoming and not _is_stranger(incoming):
            incoming._expires = timing.ExpirationTimer(tcp.MAX_INCOMING_SOCKET_PERIOD)
        return again

    def new_socket(self: Any, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return make(*args, **kwargs)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        _log.event("no_descriptor_left", {"connections": len(self._incomingSockets), "kept": len(self._openSockets)})
        for incoming in strangers(self)[:1]:
            close_stranger(self, incoming, "no_descriptor_left")
            return make(*args, **kwargs)
        for kept in list(self._openSockets)[:1]:  # the member connects again when it has something to say
            tcp._safeSocketShutdown(self._openSockets.pop(kept))
            return make(*args, **kwargs)
        if make == self.socket.accept:
            _turn_away(secured, self.socket)
        return make(*args, **kwargs)

    def interrupt_wait_if_possible(self: Any, *args: Any, **kwargs: Any) -> None:
        with contextlib.suppress(OSError):  # the connection that it makes carries nothing
            interrupt_wait(self, *args, **kwargs)

    transport._acceptNewIncoming = accept_few
    transport._handlePossibleIncoming = handle_in_time
    transport.new_socket = new_socket
    transport.interrupt_wait = interrupt_wait_if_possible


def _is_stranger(incoming: Any) -> bool:
    return hasattr(incoming, "accepted") and not incoming._rData.is_members and incoming.socket is not None


def _turn_away(secured: _Secured, listener: socket.socket) -> None:
    """Close the first connection that waits to be accepted: it would make the listening socket ready for ever."""
    if secured.spare >= 0:
        os.close(secured.spare)
        secured.spare = -1
    with contextlib.suppress(OSError):
        connection, _ = listener.accept()
        secured.refuse("no_descriptor_left", _peer(connection))
        connection.close()
    with contextlib.suppress(OSError):
        secured.spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


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
    length = b"%d" % (MAC_SIZE + size)
    return b"".join((length, b">", _signed_length(key, length), signature.digest(), *parts))


def _signed_length(key: bytes, length: bytes) -> bytes:
    # No pickle begins with this, so the one signature is of no use as the other.
    return hmac.digest(key, b"length " + length, "sha256")[:LENGTH_MAC_SIZE]


class SignedReceiveBuffer:
    """Collects one frame. Takes the place, and has the interface, of Thespian's ReceiveBuffer.

    What is not a frame signed with the key makes the buffer done, with a refusal and without content: it never raises
    for what a stranger sent, and never unpickles it. Until the signed length is there, it takes no more than that.
    """

    def __init__(self, key: bytes) -> None:
        self.refusal: str | None = None
        self._key = key
        self._head = b""
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
            received = self._take_head(received)
        if not received or self._size is None:
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

    @property
    def is_members(self) -> bool:
        """Say whether the frame is a member's, as far as its signed length tells."""
        return self._size is not None

    def _take_head(self, received: bytes) -> bytes:
        """Take the length and its signature; gives what came after them."""
        self._head += received
        length, mark, rest = self._head.partition(b">")
        if not (length.isdigit() or not length) or len(length) > LENGTH_DIGITS_MAX or (mark and not length):
            self.refusal = "no_length"
        elif mark and not MAC_SIZE < int(length) <= FRAME_SIZE_MAX:
            self.refusal = "length_out_of_range"
        elif len(rest) >= LENGTH_MAC_SIZE:
            if hmac.compare_digest(rest[:LENGTH_MAC_SIZE], _signed_length(self._key, length)):
                self._size = int(length)
                return rest[LENGTH_MAC_SIZE:]
            self.refusal = "wrong_signature"
        return b""

    def _verify(self) -> None:
        frame = memoryview(self._data)
        if not hmac.compare_digest(hmac.digest(self._key, frame[MAC_SIZE:], "sha256"), frame[:MAC_SIZE]):
            self.refusal = "wrong_signature"

    def is_empty(self) -> bool:
        """Say whether nothing was received."""
        return not self._head

    def remainingAmount(self) -> int:
        """Say how much may be read without reading into the next frame."""
        if self._size is not None:
            return self._size - self._received
        _length, mark, rest = self._head.partition(b">")
        return LENGTH_MAC_SIZE - len(rest) if mark else FIRST_READ_SIZE

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
