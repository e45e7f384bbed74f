"""The long form of the proof that every verdict is the sum of its parts: `make storm`."""

from __future__ import annotations

import asyncio
import logging
import os

import parts

from mailhooks.lab import Lab

log = logging.getLogger("storm")

MESSAGES = int(os.environ.get("VERDICT_MESSAGES", "2000"))
NAMES = ("alice", "bob", "carol")


def test_two_thousand_messages_to_three_users() -> None:
    """Through SMTP, each verdict equals what the policy says for its parts."""
    with Lab(NAMES, min_learns=2) as lab:
        asyncio.run(parts.teach(lab, parts.tastes(NAMES, 300, seed=5)))
        report = parts.run(lab, NAMES, [raw for raw, _ in parts.labelled(MESSAGES, seed=6)])
    log.info(
        "%d delivered, %d rejected by Rspamd, %d in Junk, %d with Bayes, %d not repeated",
        report.delivered,
        report.rejected,
        report.junk,
        report.with_bayes,
        report.unrepeated,
    )
    assert report.wrong == []
    assert report.unrepeated < report.delivered / 10
    assert report.delivered == len(NAMES) * (MESSAGES - report.rejected)
