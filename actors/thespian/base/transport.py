"""The transport that Thespian's admin, logger, actors and scripts use: one loop, and one way to each peer.

Guarantees: what Thespian asks of a transport. `send` itself writes what the kernel takes. The rest waits, at most
`QUEUED_MAX` messages or `QUEUED_BYTES_MAX` per peer; then `send` waits for room and reads meanwhile, so that two who
flood each other get on; a message for which there is no room for `PATIENCE_S` fails. Wakeups arrive in the order of
their times, none is missed, and they do not starve messages. Failures are told from the loop, never inside `send`.
Any thread may send; one at a time runs the loop.

Limits: every host must be able to connect to every other (Thespian's Admin Routing and Outbound Only change nothing).

Owns: the sockets of the process. A forked child closes its copies at once.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import logging
import math
import os
import pickle
import resource
import select
import socket
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from thespian.actors import (
    ActorAddress,
    ActorExitRequest,
    ActorSystemMessage,
    DeadEnvelope,
    WakeupMessage,
    WatchMessage,
)
from thespian.system.addressManager import ActorAddressManager, ActorLocalAddress, CannotPickleAddress
from thespian.system.messages.convention import CONV_ADDR_IPV4_CAPABILITY
from thespian.system.messages.multiproc import ChildMayHaveDied
from thespian.system.timing import ExpirationTimer
from thespian.system.transport import (
    ReceiveEnvelope,
    SendStatus,
    Thespian__Run_Expired,
    Thespian__Run_HandlerResult,
    Thespian__Run_Terminated,
    Thespian__UpdateWork,
    TransmitIntent,
    TransmitOnly,
    TransportInit__Base,
)
from thespian.system.transport.IPBase import thisSystem

from client_replies.actors.thespian.logs import get_logger

from .addresses import (
    ADMIN_PORT,
    ADMIN_PORT_DEFAULT,
    ADMIN_TOKEN,
    LOOPBACK,
    HostAddress,
    address_from_text,
    new_token,
)
from .hosts import CHANNELS_MAX, HostPeer, Hosts, HostStream
from .local import Listener, LocalStream, peer_user
from .manager import ShortManager
from .streams import POLLIN, POLLOUT, QUEUED_MAX, READ_SIZE, SPARE_SIZE_MAX, Stream, framed, now, pickled

# So many messages are read while `send` waits for room; the others stay with their senders.
INBOX_MAX = 100_000
DRAIN_TIMEOUT_S = 7.0
LEAVE_TIMEOUT_S = 1.0
DEAD_MAX = 1024
KNOWN_MAX = 256
SAY_INTERVAL_S = 1.0
SHORT_S = 0.001
ROOM_SHARE = 0.8  # a full queue has room again when no more than this is taken

# How `run` is to go on: as ever, until nothing waits any more, or not at all.
_RUNNING, _DRAINING, _ENDING = 0, 1, 2
get_ident = threading.get_ident
_USERS = (os.geteuid(), 0)
_log = get_logger("base")
_transports: weakref.WeakSet[Transport] = weakref.WeakSet()


def _close_parents_descriptors() -> None:
    for transport in list(_transports):
        transport.close_descriptors()


os.register_at_fork(after_in_child=_close_parents_descriptors)


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


class Transport:
    """See the module. Names in camelCase are Thespian's."""

    manager = ShortManager  # what an actor's process is run by

    def __init__(self, endpoint: Endpoint) -> None:
        self.inbox: deque[ReceiveEnvelope] = deque()
        self.buffer = bytearray(READ_SIZE)
        self.view = memoryview(self.buffer)
        self._spare: bytearray | None = None
        self._running: dict[str, int] = {}
        self._posted: deque[tuple[HostAddress, list[Any], int, TransmitIntent]] = deque()  # by other threads
        self._poll = select.poll()
        self._ends: dict[int, Any] = {}
        self._ways: dict[str, LocalStream | HostPeer] = {}
        self._known: dict[int, tuple[ActorAddress, LocalStream]] = {}  # by the id of the address object
        self._dead: dict[str, None] = {}
        self._channels: dict[bytes, HostStream] = {}
        self._finished: deque[tuple[TransmitIntent, Any]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None], ExpirationTimer | None]] = []
        self._timer_numbers = itertools.count()
        self.watches: list[int] = []
        self._runner: int | None = None  # the thread that runs the loop
        self._ending: int = _RUNNING
        self._may_wait = True
        self._children_died = self._shutdown_signalled = False
        self._events: Counter[str] = Counter()
        self._said_at = -math.inf
        self._addresses: ActorAddressManager | None = None
        self._open(endpoint)

    def _open(self, endpoint: Endpoint) -> None:
        self._hosts, self._admin = endpoint.hosts, endpoint.admin
        if self._hosts is not None:
            thisSystem.add_local_addr(self._hosts.own_address)
        own = endpoint.address
        self._bound = endpoint.bound or bind(self._hosts, own.addressDetails.sockname[1] if own else 0)
        ip, port = self._bound.getsockname()
        address = own or ActorAddress(HostAddress(ip, port, new_token()))
        self.myAddress = address
        self._key = address.addressDetails.key
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(address.addressDetails.name)
        self._listeners = [Listener(self, listening, self._admit_local)]
        if self._hosts is not None:
            self._listeners.append(Listener(self, self._bound, self._admit_host))
        self._reserved_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.register(self._wake_fd, self, POLLIN)
        _transports.add(self)

    # What Thespian asks of a transport.

    def close(self) -> None:
        """Close everything; what waits has failed."""
        waiting = [intent for way in self._ways.values() for _, _, intent in way.unsent if intent is not None]
        self.close_descriptors()
        for intent in waiting:
            intent.tx_done(SendStatus.Failed)
        self._run_finished()

    def close_descriptors(self) -> None:
        """Close every socket, without a word to anybody."""
        if self._wake_fd < 0:
            return
        self._ways.clear()
        for end in list(self._ends.values()):
            if isinstance(end, Stream):
                end.socket.close()
                end.fd = -1
        self._ends.clear()
        for listener in self._listeners:
            listener.close()
        self._bound.close()
        for fd in (self._wake_fd, self._reserved_fd):
            if fd >= 0:
                os.close(fd)
        self._wake_fd = self._reserved_fd = -1
        _transports.discard(self)

    def leave(self) -> None:
        """The actor has exited: what it has not read, or not handled, is a dead letter."""
        for listener in self._listeners:
            listener.close()
        for end in list(self._ends.values()):
            if isinstance(end, LocalStream):
                with contextlib.suppress(OSError):
                    end.socket.shutdown(socket.SHUT_RD)  # who sends from now on is told so by the kernel
                while end.fd >= 0:
                    end.read()
        for envelope in self.inbox:
            if not isinstance(envelope.message, (ActorSystemMessage, logging.LogRecord)):
                letter = DeadEnvelope(self.myAddress, envelope.message)
                self.scheduleTransmit(None, TransmitIntent(self._admin, letter))
        self.run(TransmitOnly, LEAVE_TIMEOUT_S)

    def getAdminAddr(self, capabilities: dict[str, Any]) -> ActorAddress:
        """Where the admin of a system with these capabilities is reached."""
        return admin_address(capabilities, self._hosts)

    @staticmethod
    def getAddressFromString(given: str | tuple[str, int], adminRouting: bool = False) -> ActorAddress:
        """Make an address of what a user names."""
        return address_from_text(given)

    @staticmethod
    def getConventionAddress(capabilities: dict[str, Any]) -> list[ActorAddress] | None:
        """Where the leaders of the convention are reached."""
        found = capabilities.get(CONV_ADDR_IPV4_CAPABILITY)
        if not found:
            return None
        return [address_from_text(each) for each in (found if isinstance(found, list) else [found])]

    @staticmethod
    def probeAdmin(address: ActorAddress) -> bool:
        """Whether an admin has this address."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            return probe.connect_ex(address.addressDetails.name) in (0, errno.EAGAIN)

    def external_transport_clone(self) -> Transport:
        """For another thread of a script."""
        return type(self)(Endpoint(None, self._admin, self._hosts))

    def prepEndpoint(self, assigned: ActorAddress, capabilities: dict[str, Any]) -> Endpoint:
        """What a new process is given: a child's place, or the admin's address."""
        details = assigned.addressDetails
        if isinstance(details, ActorLocalAddress):
            return Endpoint(details.addressInstanceNum, self._admin, self._hosts)
        return Endpoint(None, self._admin, self._hosts, assigned)

    def connectEndpoint(self, endpoint: Endpoint) -> None:
        """Nothing: the child connects."""

    def childResetFileNumList(self) -> list[int]:
        """Descriptors that a child is to close: it has done so."""
        return []

    def setAddressManager(self, manager: ActorAddressManager) -> None:
        """Who knows the addresses of children."""
        self._addresses = manager

    def enableRXPauseFlowControl(self, enable: bool = True) -> None:
        """Whether `send` may wait for room."""
        self._may_wait = enable

    def deadAddress(self, manager: ActorAddressManager, address: ActorAddress) -> None:
        """The actor has ended: what waits for it, and what is sent to it from now on, is a dead letter."""
        exported = manager.exportAddr(address)
        if exported is not None and isinstance(exported.addressDetails, HostAddress):
            self._dead[exported.addressDetails.key] = None
            if len(self._dead) > DEAD_MAX:
                del self._dead[next(iter(self._dead))]
            way = self._forget_way(exported.addressDetails)
            if way is not None:
                way.fail("actor_exited", dead=True)  # what it has sent is still read

    def lostRemote(self, address: ActorAddress) -> None:
        """The other host has left: let go of what goes there."""
        for way in list(self._ways.values()):
            if isinstance(way, HostPeer) and address.addressDetails.isSameSystem(way.address):
                way.fail("host_left", dead=False)

    def set_watch(self, watches: list[int]) -> None:
        """Tell the actor when one of these descriptors is readable."""
        if watches == self.watches:
            return
        self._poll_watches(False)
        self.watches = list(watches)
        self._poll_watches(True)

    def _poll_watches(self, on: bool) -> None:
        for fd in self.watches:
            if fd not in self._ends:
                with contextlib.suppress(KeyError, TypeError, ValueError):  # no descriptor, or not watched any more
                    self._poll.register(fd, POLLIN) if on else self._poll.unregister(fd)

    def abort_run(self, drain: bool = False) -> None:
        """Let `run` end, at once or when nothing waits any more."""
        self._ending = _DRAINING if drain else _ENDING

    def interrupt_wait(self, signal_shutdown: bool = False, check_children: bool = False) -> None:
        """From a signal's handler: look at once."""
        self._shutdown_signalled |= signal_shutdown
        self._children_died |= check_children
        if self._wake_fd >= 0:
            os.eventfd_write(self._wake_fd, 1)

    def _wake_runner(self) -> None:
        """Something is new for the thread that waits, if there is one and it is another."""
        if self._runner is not None and self._runner != get_ident():
            self.interrupt_wait()

    def ready(self, _events: int) -> None:
        """The loop was woken."""
        os.eventfd_read(self._wake_fd)
        while self._posted:
            self._send(*self._posted.popleft())
        if self._children_died:
            self._children_died = False
            self.inbox.append(ReceiveEnvelope(self.myAddress, ChildMayHaveDied()))
        if self._shutdown_signalled:
            self._shutdown_signalled = False
            self.inbox.append(ReceiveEnvelope(self.myAddress, ActorExitRequest()))

    def addWakeup(self, period: timedelta | float, payload: object) -> None:
        """Send the actor a `WakeupMessage` after this time."""
        envelope = ReceiveEnvelope(self.myAddress, WakeupMessage(period, payload))
        seconds = period.total_seconds() if isinstance(period, timedelta) else period
        self.call_later(seconds, lambda: self.inbox.append(envelope), ExpirationTimer(period))
        self._wake_runner()

    def _updateStatusResponse(self, response: Any) -> None:
        for way in self._ways.values():
            for _, _, intent in way.unsent:
                if intent is not None:
                    response.addPendingMessage(self.myAddress, intent.targetAddr, str(intent.message))
        for envelope in self.inbox:
            response.addReceivedMessage(envelope.sender, self.myAddress, str(envelope.message))
        response.addWakeups([(self.myAddress, timer) for *_, timer in sorted(self._timers) if timer is not None])

    # Sending.

    def scheduleTransmit(self, manager: ActorAddressManager | None, intent: TransmitIntent) -> None:
        """Send a message, and tell the intent from the loop what became of it."""
        if manager is not None:
            target, message = manager.prepMessageSend(intent.targetAddr, intent.message)
            if message is SendStatus.DeadTarget:
                intent.tx_done(SendStatus.Sent)
                return
            if target is None:
                raise CannotPickleAddress(intent.targetAddr)
            intent.changeTargetAddr(target)
            intent.changeMessage(message)
        if isinstance(intent.message, Thespian__UpdateWork):
            intent.tx_done(SendStatus.Sent)
            self._wake_runner()
            return
        details = intent.targetAddr.addressDetails
        if isinstance(details, ActorLocalAddress):
            raise CannotPickleAddress(intent.targetAddr)
        parts, size = pickled(intent.message)
        if details.key == self._key:
            self.inbox.append(ReceiveEnvelope(self.myAddress, pickle.loads(b"".join(parts))))
            self.complete(intent, True)
            return
        if self._runner == get_ident():
            self._send(details, parts, size, intent)
            return
        until = now() + Stream.PATIENCE_S
        while len(self._posted) >= QUEUED_MAX and now() < until:
            time.sleep(SHORT_S)  # the thread that runs the loop gets to them
        self._posted.append((details, parts, size, intent))
        if self._begin_run():
            self._end_run()
        else:
            self.interrupt_wait()

    def _send(self, details: HostAddress, parts: list[Any], size: int, intent: TransmitIntent) -> None:
        way = self._ways.get(details.key) or self._connect(details)
        if way is not None and way.is_full() and not self._found_room(way):
            self._say("queue_full", str(details), messages=len(way.unsent))
            self.complete(intent, False, dead=False)
            return
        while way is not None and not self._write(way, parts, size, intent):
            way = self._connect(details)  # the process that had this address has ended; is there another?
        if way is None:
            self.complete(intent, False)

    def _begin_run(self) -> bool:
        """Become the thread that runs the loop, if there is none."""
        # One step, which an interrupt (Ctrl-C raises anywhere) cannot cut in two; the thread itself may come again.
        if self._running.setdefault("thread", get_ident()) != get_ident():
            return False
        self._runner = get_ident()
        return True

    def _end_run(self) -> None:
        """Let another thread run the loop; first send what others have left to this one."""
        while True:
            while self._posted:
                self._send(*self._posted.popleft())
            self._runner = None
            self._running.clear()
            if not self._posted or not self._begin_run():
                return

    def _write(self, way: LocalStream | HostPeer, parts: list[Any], size: int, intent: Any) -> bool:
        if isinstance(way, HostPeer):
            way.write(parts, size, intent)
            return True
        return way.write(*framed(parts, size), intent)

    def send_now(self, target: ActorAddress, message: object, on_error: Callable[..., Any]) -> bool:
        """Send to a process of this host, if nothing stands in the way. False: nothing was done."""
        known = self._known.get(id(target)) or self._look_up(target)
        if known is None:
            return False
        way = known[1]
        if way.unsent or get_ident() != self._runner:
            return False
        try:
            parts, size = framed(*pickled(message))
        except Exception:
            return False  # the long way says what is wrong
        if not way.write(parts, size):
            return False
        if way.unsent:
            rest, left, _ = way.unsent.pop()
            way.unsent.append((rest, left, TransmitIntent(target, message, onError=on_error)))
        return True

    def _look_up(self, target: ActorAddress) -> tuple[ActorAddress, LocalStream] | None:
        """Find the stream to a process of this host, if there is one, and know it by this very object from now on."""
        exported = None if self._addresses is None else self._addresses.exportAddr(target)
        way = None if exported is None else self._ways.get(exported.addressDetails.key)
        if not isinstance(way, LocalStream):
            return None
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        known = self._known[id(target)] = target, way  # while it is here its id is no other's
        return known

    def _forget_way(self, details: HostAddress) -> LocalStream | HostPeer | None:
        self._known.clear()
        return self._ways.pop(details.key, None)

    def _connect(self, details: HostAddress) -> LocalStream | HostPeer | None:
        """Make a way to a process. None: there is none."""
        if details.key in self._dead:
            return None
        way: LocalStream | HostPeer
        if details.name:
            way = LocalStream(self, None, details)
            if way.connect():
                self._ways[details.key] = way
                return way
        if self._hosts is None:
            return None
        way = self._ways[details.key] = HostPeer(self, self._hosts, details)
        return way

    def _found_room(self, way: LocalStream | HostPeer) -> bool:
        """Wait until the peer has taken enough, while it takes something."""
        if not self._may_wait:
            return False
        self._poll_watches(False)
        begun = now()
        try:
            while way.is_full(ROOM_SHARE):
                if way.stuck_at == way.moved_at:
                    return False  # it was waited for in vain before, and has taken nothing since
                if now() - max(begun, way.moved_at) > way.PATIENCE_S:
                    way.stuck_at = way.moved_at
                self._turn(100, reading=len(self.inbox) < INBOX_MAX)
        finally:
            self._poll_watches(True)
        return True

    def complete(self, intent: TransmitIntent | None, sent: bool, *, dead: bool = True) -> None:
        """Let the loop tell what became of a message."""
        if intent is not None:
            status = SendStatus.Sent if sent else SendStatus.DeadTarget if dead else SendStatus.Failed
            self._finished.append((intent, status))
            self._wake_runner()

    def _run_finished(self) -> None:
        while self._finished:
            intent, status = self._finished.popleft()
            intent.tx_done(status)

    def _outstanding(self) -> int:
        return len(self._posted) + sum(len(way.unsent) for way in self._ways.values())

    # What streams ask for.

    def register(self, fd: int, end: Any, events: int) -> None:
        """Call `end.ready` when a descriptor has something."""
        self._ends[fd] = end
        self._poll.register(fd, events)
        self._wake_runner()

    def modify(self, fd: int, events: int) -> None:
        """Wait for other events."""
        self._poll.modify(fd, events)
        self._wake_runner()

    def unregister(self, fd: int) -> None:
        """Wait for nothing."""
        if self._ends.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def call_later(self, seconds: float, call: Callable[[], None], timer: ExpirationTimer | None = None) -> None:
        """Call something from the loop."""
        heapq.heappush(self._timers, (now() + seconds, next(self._timer_numbers), call, timer))

    def room(self, size: int) -> memoryview:
        """Memory for a frame: the same again, if nobody else reads one."""
        spare, self._spare = self._spare, None
        if spare is None or len(spare) < size:
            spare = bytearray(size)
        return memoryview(spare)[:size]

    def return_room(self, view: memoryview) -> None:
        """The frame has been taken."""
        memory = view.obj
        if isinstance(memory, bytearray) and len(memory) <= SPARE_SIZE_MAX:
            self._spare = memory

    def refuse(self, stream: Stream, reason: str) -> None:
        """Close the connection of a stranger, and say so."""
        try:
            peer = str(stream.socket.getpeername())
        except OSError:
            peer = "gone"
        self._say(reason, peer)
        stream.close()

    def _say(self, event: str, peer: str, **details: object) -> None:
        """Log and count something of which there may be a flood: not every time."""
        self._events[event] += 1
        if now() - self._said_at >= SAY_INTERVAL_S:
            self._said_at = now()
            _log.warning(event, peer=peer, counts=dict(self._events), **details)

    def say_no_descriptors(self, error: OSError) -> None:
        """This process can open nothing more now. The log may need a descriptor to say so."""
        if self._reserved_fd >= 0:
            os.close(self._reserved_fd)
            self._reserved_fd = -1
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._say("no_descriptors", "any", error=error.strerror, limit=limit, advice="raise the limit (ulimit -n)")

    def is_friend(self, connection: socket.socket) -> bool:
        """Whether a process of this user, or of root, is at the other end."""
        return peer_user(connection) in _USERS

    def introduced(self, stream: LocalStream | HostStream) -> None:
        """The stream has said who it is. A process of this host is answered over the same."""
        for listener in self._listeners:
            listener.known(stream)
        if isinstance(stream, LocalStream) and stream.address is not None:
            self._ways.setdefault(stream.address.key, stream)

    def forget(self, stream: Stream) -> None:
        """The stream has ended."""
        for listener in self._listeners:
            listener.known(stream)
        if isinstance(stream, LocalStream) and stream.address and self._ways.get(stream.address.key) is stream:
            self._forget_way(stream.address)

    def channel(self, channel: bytes, first: int, stream: HostStream) -> int:
        """How many messages of a channel are here. An older connection of it has nothing more to say."""
        older = self._channels.pop(channel, None)
        self._channels[channel] = stream
        if len(self._channels) > CHANNELS_MAX:
            del self._channels[next(iter(self._channels))]
        if older is None:
            return first
        older.close()
        return max(first, older.count)

    def _admit_local(self, connection: socket.socket) -> Stream | None:
        if self.is_friend(connection):
            return LocalStream(self, connection, None)
        self._say("other_user", f"user {peer_user(connection)}")
        return None

    def _admit_host(self, connection: socket.socket) -> Stream | None:
        return None if self._hosts is None else HostStream(self, connection, self._hosts.key, None)

    # The loop.

    def run(self, handler: Any, maximumDuration: timedelta | float | None = None) -> Any:
        """Handle what comes until the handler says that it is enough, the time is over, or the run is aborted."""
        until = math.inf
        if maximumDuration is not None:
            seconds = maximumDuration.total_seconds() if isinstance(maximumDuration, timedelta) else maximumDuration
            until = now() + seconds
        while not self._begin_run():
            time.sleep(SHORT_S)  # another thread sends
        self._ending = _RUNNING
        try:
            if handler is TransmitOnly or isinstance(handler, TransmitOnly):
                return self._run_sending(until)
            return self._run(handler, until)
        finally:
            self._end_run()

    def _run(self, handler: Any, until: float) -> Any:
        inbox, finished, timers = self.inbox, self._finished, self._timers
        turned = False
        while True:
            if finished:
                self._run_finished()
            if self._ending:
                return self._drain() if self._ending == _DRAINING else Thespian__Run_Terminated()
            for _ in range(len(inbox)):
                envelope = inbox.popleft()
                if handler is None:
                    return envelope
                result = handler(envelope)
                if not result:
                    # What an exiting actor has to say is sent, and told, before it ends.
                    return self._drain() if self._ending == _DRAINING else Thespian__Run_HandlerResult(result)
                if self._is_ending():
                    break
            if inbox or finished or self._ending:
                timeout: float | None = 0
            elif timers or until != math.inf:
                left = min(until, timers[0][0] if timers else math.inf) - now()
                if left <= 0 and turned and now() >= until:
                    return Thespian__Run_Expired()
                timeout = max(0.0, left) * 1000
            else:
                timeout = None
            turned = True
            self._turn(timeout)

    def _is_ending(self) -> bool:
        return self._ending != _RUNNING

    def _drain(self) -> Any:
        until = now() + DRAIN_TIMEOUT_S
        while (self._finished or self._outstanding()) and now() < until:
            self._run_finished()
            if self._outstanding():
                self._turn(100)
        return Thespian__Run_Terminated()

    def _run_sending(self, until: float) -> Any:
        self._poll_watches(False)
        try:
            before = self._outstanding()
            while True:
                self._run_finished()
                if self._ending:
                    return Thespian__Run_Terminated()
                left = self._outstanding()
                if not left or left < before:
                    return left
                if now() >= until:
                    return Thespian__Run_Expired()
                self._turn(max(0.0, min(until - now(), 1.0)) * 1000)
        finally:
            self._poll_watches(True)

    def _turn(self, timeout_ms: float | None, *, reading: bool = True) -> None:
        """Wait once, and take what there is."""
        if not reading:
            time.sleep(SHORT_S)  # `poll` does not wait: there is something to read
        events = self._poll.poll() if timeout_ms is None else self._poll.poll(math.ceil(timeout_ms))
        ends = self._ends
        ready: list[int] = []
        for fd, event in events:
            end = ends.get(fd)
            if end is not None:
                if reading or (event := event & POLLOUT):
                    end.ready(event)
            elif fd in self.watches:
                ready.append(fd) if event & ~select.POLLNVAL else self._poll.unregister(fd)
        if ready:
            self.inbox.append(ReceiveEnvelope(self.myAddress, WatchMessage(ready)))
        timers = self._timers
        while timers and timers[0][0] <= now():
            heapq.heappop(timers)[2]()
