"""When a request is asked again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a request is asked again: after a pause that doubles up to a maximum, each with jitter.

    The first pause follows the session's round trips (`retry_timeout`).
    """

    timeout_s: float = 30.0  # of a call that names none
    pause_first_s: float = 0.1  # at least
    pause_max_s: float = 2.0
    jitter: float = 0.25  # of each pause, either way
    connect_timeout_s: float = 1.0
    attempts_per_address: int = 2  # without an answer, before another address is tried
    redirects_max: int = 4  # followed without a pause
