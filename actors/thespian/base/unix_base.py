"""The system base itself: what Thespian's `ActorSystem` makes of the name `multiprocUnixBase`."""

from __future__ import annotations

import sys
from typing import Any

from thespian.actors import ActorSystem
from thespian.system.messages.convention import CONV_ADDR_IPV4_CAPABILITY

from .addresses import ADMIN_TOKEN, new_token
from .endpoint import Endpoint, admin_address, bind
from .hosts import Hosts
from .processes import BASE_CAPABILITY, OwnedBase
from .transport import Transport

UNIX_BASE = "multiprocUnixBase"


class ActorSystemBase(OwnedBase):
    """The name is Thespian's. A system that `start_system` starts has `hosts`, and is new: nobody guesses its name."""

    system_name = UNIX_BASE

    def __init__(self, system: ActorSystem, logDefs: Any = None) -> None:
        self._hosts: Hosts | None = getattr(system, "hosts", None)
        # The admins of a convention are known by their ports alone.
        if getattr(system, "is_new", False) and not system.capabilities.get(CONV_ADDR_IPV4_CAPABILITY):
            system.capabilities[ADMIN_TOKEN] = new_token()
        system.capabilities[BASE_CAPABILITY] = self.system_name
        system.capabilities["Thespian ActorSystem Version"] = 1
        system.capabilities["Thespian Watch Supported"] = True
        super().__init__(system, logDefs)

    def transportType(self, _init: object, capabilities: dict[str, Any], *_: object) -> Transport:
        """Make the transport of the script."""
        return Transport(Endpoint(None, admin_address(capabilities, self._hosts), self._hosts))

    def _bind(self, port: int) -> Any:
        return bind(self._hosts, port)

    def _give(self, endpoint: Endpoint) -> None:
        endpoint.bound = self._held


# `ActorSystem(name)` imports `thespian.system.<name>`.
sys.modules[f"thespian.system.{UNIX_BASE}"] = sys.modules[__name__]
