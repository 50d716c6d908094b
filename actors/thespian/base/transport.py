"""The transport that Thespian's admin, logger, actors and scripts use: one loop, and one way to each peer.

Guarantees: what Thespian asks of a transport. `send` itself writes what the kernel takes. The rest waits, at most
`QUEUED_MAX` messages or `QUEUED_BYTES_MAX` per peer; then `send` waits for room and reads meanwhile, so that two who
flood each other get on; a message for which there is no room for `PATIENCE_S` fails. Wakeups arrive in the order of
their times, none is missed, and they do not starve messages. Failures are told from the loop, never inside `send`.
Any thread may send; one at a time runs the loop.

Its class is long, because Thespian asks one object for all of this.

Limits: every host must be able to connect to every other (Thespian's Admin Routing and Outbound Only change nothing).

Owns: the inbox, and through its parts (`loop`, `ways`, `admission`) the sockets of the process. A forked child closes
its copies at once.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import pickle
import socket
import time
import weakref
from collections import deque
from collections.abc import Callable
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
)
from thespian.system.transport.IPBase import thisSystem

from .addresses import HostAddress, address_from_text, new_token
from .admission import Admission
from .endpoint import Endpoint, admin_address, bind
from .hosts import HostPeer, HostStream
from .local import LocalStream
from .loop import SHORT_S, Loop, get_ident
from .manager import ShortManager
from .streams import QUEUED_MAX, READ_SIZE, SPARE_SIZE_MAX, Stream, framed, now, pickled
from .ways import Ways

# So many messages are read while `send` waits for room; the others stay with their senders.
INBOX_MAX = 100_000
DRAIN_TIMEOUT_S = 7.0
LEAVE_TIMEOUT_S = 1.0
ROOM_SHARE = 0.8  # a full queue has room again when no more than this is taken

# How `run` is to go on: as ever, until nothing waits any more, or not at all.
_RUNNING, _DRAINING, _ENDING = 0, 1, 2
_transports: weakref.WeakSet[Transport] = weakref.WeakSet()


def _close_parents_descriptors() -> None:
    for transport in list(_transports):
        transport.close_descriptors()


os.register_at_fork(after_in_child=_close_parents_descriptors)


class Transport:
    """See the module. Names in camelCase are Thespian's."""

    manager = ShortManager  # what an actor's process is run by

    def __init__(self, endpoint: Endpoint) -> None:
        self.inbox: deque[ReceiveEnvelope] = deque()
        self.buffer = bytearray(READ_SIZE)
        self.view = memoryview(self.buffer)
        self._spare: bytearray | None = None
        self._posted: deque[tuple[HostAddress, list[Any], int, TransmitIntent]] = deque()  # by other threads
        self._sends_posted = False
        self.loop = Loop(self._woken, self._watched)
        self._finished: deque[tuple[TransmitIntent, Any]] = deque()
        self._ending: int = _RUNNING
        self._may_wait = True
        self._children_died = self._shutdown_signalled = False
        self._addresses: ActorAddressManager | None = None
        self._open(endpoint)

    def _open(self, endpoint: Endpoint) -> None:
        self._hosts, self._admin = endpoint.hosts, endpoint.admin
        if self._hosts is not None:
            thisSystem.add_local_addr(self._hosts.own_address)
        own = endpoint.address
        port = endpoint.bound or bind(self._hosts, own.addressDetails.sockname[1] if own else 0)
        ip, number = port.getsockname()
        address = own or ActorAddress(HostAddress(ip, number, new_token()))
        self.myAddress = address
        self._key = address.addressDetails.key
        self.ways = Ways(self, self._hosts)
        self.admission = Admission(self, address.addressDetails.name, port, self._hosts)
        _transports.add(self)

    # What Thespian asks of a transport.

    def close(self) -> None:
        """Close everything; what waits has failed."""
        waiting = [intent for way in self.ways.by_key.values() for _, _, intent in way.unsent if intent is not None]
        self.close_descriptors()
        for intent in waiting:
            intent.tx_done(SendStatus.Failed)
        self._run_finished()

    def close_descriptors(self) -> None:
        """Close every socket, without a word to anybody."""
        if not self.loop.is_open:
            return
        self.ways.by_key.clear()
        for end in self.loop.ends.values():
            if isinstance(end, Stream):
                end.socket.close()
                end.fd = -1
        self.admission.close()
        self.loop.close()
        _transports.discard(self)

    def leave(self) -> None:
        """The actor has exited: what it has not read, or not handled, is a dead letter."""
        self.admission.end()
        for end in list(self.loop.ends.values()):
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
            self.ways.died(exported.addressDetails)

    def lostRemote(self, address: ActorAddress) -> None:
        """The other host has left: let go of what goes there."""
        self.ways.host_left(address)

    @property
    def watches(self) -> list[int]:
        """The descriptors that the actor watches."""
        return self.loop.watches

    def set_watch(self, watches: list[int]) -> None:
        """Tell the actor when one of these descriptors is readable."""
        self.loop.watch(watches)

    def _watched(self, ready: list[int]) -> None:
        self.inbox.append(ReceiveEnvelope(self.myAddress, WatchMessage(ready)))

    def abort_run(self, drain: bool = False) -> None:
        """Let `run` end, at once or when nothing waits any more."""
        self._ending = _DRAINING if drain else _ENDING

    def interrupt_wait(self, signal_shutdown: bool = False, check_children: bool = False) -> None:
        """From a signal's handler: look at once."""
        self._shutdown_signalled |= signal_shutdown
        self._children_died |= check_children
        self.loop.wake()

    def _woken(self) -> None:
        self._send_posted()
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
        self.loop.call_later(seconds, lambda: self.inbox.append(envelope), ExpirationTimer(period))
        self.loop.wake_runner()

    def _updateStatusResponse(self, response: Any) -> None:
        for way in self.ways.by_key.values():
            for _, _, intent in way.unsent:
                if intent is not None:
                    response.addPendingMessage(self.myAddress, intent.targetAddr, str(intent.message))
        for envelope in self.inbox:
            response.addReceivedMessage(envelope.sender, self.myAddress, str(envelope.message))
        response.addWakeups([(self.myAddress, timer) for *_, timer in sorted(self.loop.timers) if timer is not None])

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
            self.loop.wake_runner()
            return
        details = intent.targetAddr.addressDetails
        if isinstance(details, ActorLocalAddress):
            raise CannotPickleAddress(intent.targetAddr)
        parts, size = pickled(intent.message)
        if details.key == self._key:
            self.inbox.append(ReceiveEnvelope(self.myAddress, pickle.loads(b"".join(parts))))
            self.complete(intent, True)
            return
        if self.loop.runner == get_ident():
            self._send(details, parts, size, intent)
            return
        until = now() + Stream.PATIENCE_S
        while len(self._posted) >= QUEUED_MAX and now() < until:
            time.sleep(SHORT_S)  # the thread that runs the loop gets to them
        self._posted.append((details, parts, size, intent))
        if self.loop.enter():
            self._end_run()
        else:
            self.interrupt_wait()

    def _send(self, details: HostAddress, parts: list[Any], size: int, intent: TransmitIntent) -> None:
        way = self.ways.by_key.get(details.key) or self.ways.connect(details)
        if way is not None and way.is_full() and not self._found_room(way):
            self.admission.say("queue_full", str(details), messages=len(way.unsent))
            self.complete(intent, False, dead=False)
            return
        while way is not None and not self._write(way, parts, size, intent):
            way = self.ways.connect(details)  # the process that had this address has ended; is there another?
        if way is None:
            self.complete(intent, False)

    def _send_posted(self) -> None:
        """Send what other threads have left, in its order.

        While one of these messages waits for room, the loop is run within; those behind it must not overtake it there.
        """
        if self._sends_posted:
            return
        self._sends_posted = True
        try:
            while self._posted:
                self._send(*self._posted.popleft())
        finally:
            self._sends_posted = False

    def _end_run(self) -> None:
        """Let another thread run the loop; first send what others have left to this one."""
        while True:
            self._send_posted()
            self.loop.leave()
            if not self._posted or self._sends_posted or not self.loop.enter():
                return

    def _write(self, way: LocalStream | HostPeer, parts: list[Any], size: int, intent: Any) -> bool:
        if isinstance(way, HostPeer):
            way.write(parts, size, intent)
            return True
        return way.write(*framed(parts, size), intent)

    def send_now(self, target: ActorAddress, message: object, on_error: Callable[..., Any]) -> bool:
        """Send to a process of this host, if nothing stands in the way. False: nothing was done."""
        known = self.ways.known.get(id(target)) or self.ways.look_up(target, self._addresses)
        if known is None:
            return False
        way = known[1]
        if way.unsent or get_ident() != self.loop.runner:
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

    def _found_room(self, way: LocalStream | HostPeer) -> bool:
        """Wait until the peer has taken enough, while it takes something."""
        if not self._may_wait:
            return False
        self.loop.pause_watches()
        begun = now()
        try:
            while way.is_full(ROOM_SHARE):
                if way.stuck_at == way.moved_at:
                    return False  # it was waited for in vain before, and has taken nothing since
                if now() - max(begun, way.moved_at) > way.PATIENCE_S:
                    way.stuck_at = way.moved_at
                self.loop.turn(100, reading=len(self.inbox) < INBOX_MAX)
        finally:
            self.loop.resume_watches()
        return True

    def complete(self, intent: TransmitIntent | None, sent: bool, *, dead: bool = True) -> None:
        """Let the loop tell what became of a message."""
        if intent is not None:
            status = SendStatus.Sent if sent else SendStatus.DeadTarget if dead else SendStatus.Failed
            self._finished.append((intent, status))
            self.loop.wake_runner()

    def _run_finished(self) -> None:
        while self._finished:
            intent, status = self._finished.popleft()
            intent.tx_done(status)

    def _outstanding(self) -> int:
        return len(self._posted) + sum(len(way.unsent) for way in self.ways.by_key.values())

    # What streams ask for.

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

    def introduced(self, stream: LocalStream | HostStream) -> None:
        """The stream has said who it is."""
        self.admission.settle(stream)
        if isinstance(stream, LocalStream):
            self.ways.introduced(stream)

    def forget(self, stream: Stream) -> None:
        """The stream has ended."""
        self.admission.settle(stream)
        if isinstance(stream, LocalStream):
            self.ways.ended(stream)

    # The loop.

    def run(self, handler: Any, maximumDuration: timedelta | float | None = None) -> Any:
        """Handle what comes until the handler says that it is enough, the time is over, or the run is aborted."""
        until = math.inf
        if maximumDuration is not None:
            seconds = maximumDuration.total_seconds() if isinstance(maximumDuration, timedelta) else maximumDuration
            until = now() + seconds
        while not self.loop.enter():
            time.sleep(SHORT_S)  # another thread sends
        self._ending = _RUNNING
        try:
            if handler is TransmitOnly or isinstance(handler, TransmitOnly):
                return self._run_sending(until)
            return self._run(handler, until)
        finally:
            self._end_run()

    def _run(self, handler: Any, until: float) -> Any:
        inbox, finished, timers = self.inbox, self._finished, self.loop.timers
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
            self.loop.turn(timeout)

    def _is_ending(self) -> bool:
        return self._ending != _RUNNING

    def _drain(self) -> Any:
        until = now() + DRAIN_TIMEOUT_S
        while (self._finished or self._outstanding()) and now() < until:
            self._run_finished()
            if self._outstanding():
                self.loop.turn(100)
        return Thespian__Run_Terminated()

    def _run_sending(self, until: float) -> Any:
        self.loop.pause_watches()
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
                self.loop.turn(max(0.0, min(until - now(), 1.0)) * 1000)
        finally:
            self.loop.resume_watches()
