"""A system base for Thespian: actors of one host talk over Unix sockets, and with those of other hosts over signed TCP.

Read in this order: `addresses` (how an actor is reached), `streams` (frames over a socket), `local` (the processes of
this host), `hosts` (those of others), `loop` (descriptors and times), `ways` (who is reached how), `admission` (who may
connect), `endpoint` (what a new process is given), `transport` (what Thespian asks for, made of these), `manager` (the
short way of a message to its actor), `expected` (what of Thespian this depends on, in one table), `processes` (how
processes live and die), `unix_base` (the base); `tcp_base` is Thespian's own, to compare with.

Guarantees: all that Thespian promises of a multi-process base. Messages arrive in order per pair of actors, and none is
lost while both live. Whoever connects is served if the kernel says that it is of the same user, or of root, or if it
proves that it has the key; nothing of anybody else is unpickled. No port is listened at unless there are other hosts.
A system ends with the process that started it, and leaves nothing behind.

Limits: a message has at most `FRAME_SIZE_MAX` bytes; what may wait for one peer has limits too (`streams`), and a
message beyond them fails when `send` has waited for room in vain. What a killed process had not read is lost. Linux.

Owns: no name in Thespian's modules; for `ActorSystem(UNIX_BASE)` one entry in `sys.modules`.
"""

from .addresses import LOOPBACK
from .expected import ThespianNotAsExpected
from .hosts import (
    KEY_SIZE_MIN,
    MAC_SIZE,
    AddressNotUsable,
    Hosts,
    KeyMissing,
    KeyTooShort,
    PortsInUse,
    TransportError,
)
from .processes import AdminPortInUse, SystemDidNotStop, SystemFailure, adopt_process
from .streams import FRAME_SIZE_MAX, MessageTooLarge
from .unix_base import UNIX_BASE

__all__ = [
    "FRAME_SIZE_MAX",
    "KEY_SIZE_MIN",
    "LOOPBACK",
    "MAC_SIZE",
    "UNIX_BASE",
    "AddressNotUsable",
    "AdminPortInUse",
    "Hosts",
    "KeyMissing",
    "KeyTooShort",
    "MessageTooLarge",
    "PortsInUse",
    "SystemDidNotStop",
    "SystemFailure",
    "ThespianNotAsExpected",
    "TransportError",
    "adopt_process",
]
