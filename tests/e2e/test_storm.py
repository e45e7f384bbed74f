from __future__ import annotations

import pytest

import storm
from mailhooks.lab import Lab

MESSAGES = 90


@pytest.mark.parametrize(("victim", "kills"), [("daemon", 6), ("rspamd", 2), ("redis", 2)])
def test_nothing_is_lost_and_nothing_counts_twice_while_a_part_is_killed(
    victim: str, kills: int
) -> None:
    """Every message two users move is learned exactly once for each, whatever dies meanwhile."""
    with Lab((*storm.MOVERS, storm.REFERENCE), settle_s=0.2) as lab:
        result = storm.run(lab, storm.letters(MESSAGES), victim, kills, seed=kills)
    assert result.waiting == 0
    assert set(result.junk.values()) == {MESSAGES}
    assert result.learns == dict.fromkeys(storm.MOVERS, result.expected)
