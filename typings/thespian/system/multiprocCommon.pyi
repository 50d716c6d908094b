from collections.abc import Callable
from typing import Any

from thespian.actors import ActorAddress
from thespian.system.systemBase import systemBase
from thespian.system.transport import ReceiveEnvelope

startChild: Callable[..., None]
_startLogger: Callable[..., None]

def detach_child(childref: Any) -> None: ...

class multiprocessCommon(systemBase):
    mpcontext: Any
    def _startAdmin(
        self, adminAddr: ActorAddress, addrOfStarter: ActorAddress, capabilities: dict[str, Any], logDefs: Any
    ) -> None: ...

class _Manager:
    transport: Any
    _addrManager: Any
    _governer: Any
    _receiveQueue: list[ReceiveEnvelope]
    _sCBStats: Any
    def __init__(self, *args: Any) -> None: ...
    def _childExited(self, childAddr: ActorAddress) -> None: ...
    def _updateStatusResponse(self, resp: Any) -> None: ...
    def run(self) -> None: ...

class MultiProcAdmin(_Manager):
    addrOfStarter: ActorAddress
    def signalChildDied(self, _signum: int, _frame: Any) -> None: ...

class MultiProcManager(_Manager):
    actorInst: Any
    def actor_send(self, targetAddr: ActorAddress, msg: object) -> None: ...
    def actor_send_fail(self, result: object, intent: Any) -> Any: ...
    def handleMessages(self, envelope: ReceiveEnvelope) -> Any: ...
    def _handleOneMessage(self, envelope: ReceiveEnvelope) -> Any: ...
