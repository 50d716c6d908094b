"""The error that ends a cluster's supervision. Imports nothing, so that it can be caught without loading actors."""

from __future__ import annotations


class MembersFailed(Exception):
    """The cluster cannot go on; the text says why."""
