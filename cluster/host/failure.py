"""What ends the keeping up of a cluster. Imports nothing: who only tells errors apart needs no actors."""

from __future__ import annotations


class MembersFailed(Exception):
    """The cluster cannot go on; the text says why."""
