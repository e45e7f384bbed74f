"""When to try again after a temporary failure. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

MAX_DOUBLINGS = 32


def delay_s(attempt: int, *, first_s: float, cap_s: float, rng: random.Random) -> float:
    """Seconds to wait before the next attempt: exponential, capped, with jitter.

    Half of the delay is fixed and half random ("equal jitter"), so that many
    failures at one moment do not come back at one moment, and none comes back
    at once.

    Args:
        attempt: failed attempts so far, 1 or more.
        first_s: the delay after the first failure, before jitter.
        cap_s: the longest delay.
        rng: the source of randomness.
    """
    full = min(cap_s, first_s * 2.0 ** min(attempt - 1, MAX_DOUBLINGS))
    return full / 2 + rng.uniform(0, full / 2)
