from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import parts

if TYPE_CHECKING:
    from mailhooks.lab import Lab

MESSAGES = 80
LESSONS = 60


def test_every_verdict_on_real_mail_is_what_its_parts_say(lab: Lab, people: list[str]) -> None:
    """Milter score, own and shared Bayes are measured apart, for users of different taste."""
    asyncio.run(parts.teach(lab, parts.tastes(people, LESSONS, seed=3)))
    try:
        messages = [raw for raw, _ in parts.labelled(MESSAGES, seed=4)]
        report = parts.run(lab, people, messages)
    finally:
        parts.forget_shared(lab)
    assert report.wrong == []
    assert report.delivered == 3 * (MESSAGES - report.rejected)
    assert 0 < report.junk < report.delivered
    assert report.with_bayes > report.delivered / 2
    assert report.unrepeated < report.delivered / 10
