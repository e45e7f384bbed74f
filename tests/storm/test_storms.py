"""The long form of the storms: `make storm`. The short form is part of the end-to-end tests."""

from __future__ import annotations

import logging
import os

import corpus
import pytest

import storm
from mailhooks.lab import Lab

log = logging.getLogger("storm")

MESSAGES = int(os.environ.get("STORM_MESSAGES", "2000"))
KILLS = int(os.environ.get("STORM_KILLS", "50"))


@pytest.mark.parametrize("victim", ["daemon", "rspamd", "redis"])
def test_nothing_is_lost_and_nothing_counts_twice(victim: str) -> None:
    """Two users move 2,000 real messages each; one part is killed 50 times at random moments."""
    # Some are all but the same, and left out.
    messages = storm.distinct(list(corpus.sample(MESSAGES * 5 // 4, seed=7)))[:MESSAGES]
    with Lab((*storm.MOVERS, storm.REFERENCE), settle_s=0.2) as lab:
        result = storm.run(lab, messages, victim, KILLS, seed=KILLS)
    log.info("%s", result)
    assert result.waiting == 0
    assert set(result.junk.values()) == {len(messages)}
    assert result.learns == dict.fromkeys(storm.MOVERS, result.expected)
