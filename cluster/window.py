"""One end of a link that loses messages: numbered messages, of which few are unconfirmed, both ways.

Guarantees: a number is used once. What was confirmed stays confirmed, whatever comes late, and nothing is confirmed
that was not sent. The clock runs while something is unconfirmed, and begins anew when something is confirmed.

Limits: it counts. What is in a message, when it is sent and what a loss means is its owner's business.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Window:
    """See the module. Times are in seconds, by the owner's clock."""

    sent: int = 0  # the number of the last message
    confirmed: int = 0  # the highest that the other end has had, or that counts as lost
    since: float = math.inf  # since when nothing was confirmed, while something is to be
    taken: int = 0  # the highest had from the other end
    owed: int = 0  # had from it, and not yet confirmed
    owed_at: float = math.inf  # when that is to be confirmed at the latest

    @property
    def in_flight(self) -> int:
        """How many messages are unconfirmed."""
        return self.sent - self.confirmed

    def send(self, now: float) -> int:
        """The number of the message that is sent now."""
        self.sent += 1
        self.since = min(self.since, now)
        return self.sent

    def confirm(self, taken: int, now: float) -> None:
        """The other end has had everything up to `taken`."""
        if taken > self.confirmed:
            self.confirmed, self.since = min(taken, self.sent), now
        if not self.in_flight:
            self.since = math.inf

    def lose(self) -> int:
        """What is unconfirmed counts as lost. Returns how many messages that is."""
        lost, self.confirmed, self.since = self.in_flight, self.sent, math.inf
        return lost

    def take(self, number: int, due: float) -> None:
        """A message of the other end has come, to be confirmed when it is `due`."""
        self.taken = max(self.taken, number)
        self.owed += 1
        self.owed_at = min(self.owed_at, due)

    def settle(self) -> int:
        """What is `taken`, to be sent now: with it everything is confirmed."""
        self.owed, self.owed_at = 0, math.inf
        return self.taken
