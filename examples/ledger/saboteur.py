"""The saboteur of a run: the process that damages reply slots for the replicas, as rotten disks would.

Guarantees: it damages what a member of the cluster orders, and nothing for anybody else. Owns: what it has done.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import ClassVar

from thespian.actors import ActorAddress

from client_replies.actors.thespian.component_actor import ComponentActor, Handler
from client_replies.cluster.control import Join, Joined, Sender

from .damage import SABOTEUR, DamageSlot, SlotDamaged, damage_slot


class SaboteurActor(ComponentActor):
    """Damages what it is told to, each number once: a flipped bit that is flipped again would be whole."""

    senders: ClassVar[Mapping[type, Enum]] = {Join: Sender.SCRIPT, DamageSlot: Sender.MEMBER}

    def __init__(self, capabilities: Mapping[str, object] | None = None, requirements: object = None) -> None:
        super().__init__(capabilities, requirements)
        self._done: dict[int, SlotDamaged] = {}
        self._script: ActorAddress | None = None
        self._joined = 0
        self._members: tuple[tuple[str, ActorAddress], ...] = ()

    def handlers(self) -> dict[type, Handler]:
        return {DamageSlot: self.damage, Join: self.join}

    def is_from(self, party: Enum, message: object, sender: ActorAddress) -> bool:
        """The script is who tells first where the members are; those may order damage."""
        if party is Sender.SCRIPT:
            return self._script is None or sender == self._script
        return any(sender == address for _, address in self._members)

    def join(self, message: Join, sender: ActorAddress) -> None:
        """Learn who may order damage."""
        self._script = sender
        if message.number > self._joined:
            self._joined, self._members = message.number, message.members
        self.send(sender, Joined(name=SABOTEUR, number=self._joined))

    def damage(self, message: DamageSlot, sender: ActorAddress) -> None:
        """Damage a slot, or say again that it is damaged."""
        if message.number not in self._done:
            self._done[message.number] = SlotDamaged(number=message.number, damage=damage_slot(message))
        self.send(sender, self._done[message.number])
