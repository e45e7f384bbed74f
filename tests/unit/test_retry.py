from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from mailhooks.retry import delay_s


@given(attempt=st.integers(1, 10_000), seed=st.integers(0, 2**32))
def test_delays_grow_to_the_cap_and_never_vanish(attempt: int, seed: int) -> None:
    """Half of the exponential delay is certain, all of it is the most."""
    full = min(300.0, 1.0 * 2 ** min(attempt - 1, 40))
    delay = delay_s(attempt, first_s=1.0, cap_s=300.0, rng=random.Random(seed))
    assert full / 2 <= delay <= full
