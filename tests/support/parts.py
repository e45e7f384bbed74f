"""Real mail to users of different taste; each verdict taken apart and measured again."""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import corpus
from delivered import status

from mailhooks.acquaintance import MOST_HAM, MOST_SPAM
from mailhooks.bayes import Opinion, blend, points
from mailhooks.errors import LabError
from mailhooks.lab.host import DOMAIN
from mailhooks.lesson import SHARED_USER, Lesson
from mailhooks.message import read_header
from mailhooks.source import iter_messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailhooks.lab import Lab
    from mailhooks.rspamd import RspamdClient

NUMBER = "X-Test-Number"
THRESHOLD = 6.0
ROUNDED = 0.0051
HALF_A_TENTH = 0.0005
SCANS = 8
"""Rspamd guesses a message's language, and with it the tokens, anew at every scan: the same message
may get another probability the next time."""


@dataclass(slots=True)
class Report:
    """What came of a run: ``wrong`` are verdicts that differ from their parts.

    ``unrepeated`` are those whose opinions Rspamd did not repeat in several scans.
    """

    delivered: int = 0
    rejected: int = 0
    junk: int = 0
    with_bayes: int = 0
    unrepeated: int = 0
    wrong: list[str] = field(default_factory=list)


def labelled(count: int, seed: int) -> list[tuple[bytes, bool]]:
    """Messages of the corpus, and whether their folder says spam."""
    found = [(it.raw, "spam" in it.name) for it in iter_messages(corpus.corpus_path())]
    return random.Random(seed).sample(found, min(count, len(found)))


def tastes(names: Sequence[str], count: int, seed: int) -> dict[str, list[tuple[bytes, Lesson]]]:
    """Lessons of three users: as the corpus has it, with newsletters as spam, and hardly any.

    The shared statistics are taught as the corpus has it, with other messages.
    """
    spam, ham = Lesson.SPAM, Lesson.HAM
    usual, strict, newcomer = (f"{name}@{DOMAIN}" for name in names)
    found = labelled(2 * count, seed)
    mine, others = found[:count], found[count:]
    return {
        usual: [(raw, spam if is_spam else ham) for raw, is_spam in mine],
        strict: [
            (raw, spam if is_spam or b"unsubscribe" in raw.lower() else ham)
            for raw, is_spam in mine
        ],
        newcomer: [(raw, spam if is_spam else ham) for raw, is_spam in mine[:5]],
        SHARED_USER: [(raw, spam if is_spam else ham) for raw, is_spam in others],
    }


def forget_shared(lab: Lab) -> None:
    """Leave no shared statistics behind, since others' verdicts would depend on them."""
    lab.redis(
        "EVAL", "for _, k in ipairs(redis.call('KEYS', 'SHARED*')) do redis.call('DEL', k) end", "0"
    )


async def teach(lab: Lab, tastes: dict[str, list[tuple[bytes, Lesson]]]) -> None:
    """Have Rspamd learn each user's lessons, the shared statistics' too."""
    async with lab.rspamd() as rspamd:
        for user, lessons in tastes.items():
            for message, lesson in lessons:
                learn = rspamd.learn_spam if lesson is Lesson.SPAM else rspamd.learn_ham
                await learn(message, user=user, bulk=True)


def run(lab: Lab, names: Sequence[str], messages: Sequence[bytes]) -> Report:
    """Send every message to all users at once, then measure the parts of each verdict."""
    report = Report()
    for number, raw in enumerate(messages):
        marked = f"{NUMBER}: {number}\r\n".encode() + re.sub(rb"\r?\n", b"\r\n", raw)
        try:
            lab.send(marked, names)
        except LabError as error:
            assert "Spam message rejected" in str(error), error
            report.rejected += 1
    lab.wait_queue_empty(1200)
    for name in names:
        asyncio.run(_examine(lab, name, report))
    return report


async def _examine(lab: Lab, name: str, report: Report) -> None:
    user = f"{name}@{DOMAIN}"
    learns = {
        user: lab.redis("HMGET", f"RS{user}", "learns_spam", "learns_ham"),
        SHARED_USER: lab.redis("HMGET", "SHARED", "learns_spam", "learns_ham"),
    }
    counts = {
        who: [int(word or 0) for word in text.split("\n")[:2]] for who, text in learns.items()
    }
    async with lab.rspamd() as rspamd:
        for folder in ("INBOX", "Junk"):
            for copy in lab.mailbox(name).messages(folder):
                report.delivered += 1
                report.junk += folder == "Junk"
                line = status(copy.raw)
                if "bayes=none" not in line:
                    report.with_bayes += 1
                number = read_header(copy.raw).values(NUMBER)[0].decode()
                problem = await _problem(rspamd, user, copy.raw, folder, line, counts)
                report.unrepeated += problem is None
                if problem:
                    report.wrong.append(f"{name} {number} {folder}: {line}: {problem}")


_LINE = re.compile(
    r"(?P<yes>Yes|No), score=(?P<score>-?[\d.]+) required=6\.00 milter=(?P<milter>-?[\d.]+)"
    r" bayes=(?:none \(no opinion\)|(?P<points>-?[\d.]+)"
    r" \((?P<blend>[\d.]+)%, own (?P<own>[\d.]+%|silent), shared (?P<shared>[\d.]+%|silent)\))"
    r"(?: acquaintance=(?P<known>-?[\d.]+))?"
)


async def _problem(
    rspamd: RspamdClient,
    user: str,
    raw: bytes,
    folder: str,
    line: str,
    counts: dict[str, list[int]],
) -> str | None:
    """How the verdict differs from what its parts say; empty if it does not.

    None if Rspamd never repeats the opinions it had at delivery.
    """
    (carried,) = read_header(raw).values("x-mailhooks-score")
    found = re.search(rb"; s=(-?[\d.]+);.*; p=0;", carried)
    said = _LINE.fullmatch(line)
    if found is None or said is None:
        return f"odd: {carried!r}"
    score, milter, added, known = (
        float(said[part] or 0) for part in ("score", "milter", "points", "known")
    )
    is_junk = score >= THRESHOLD
    if abs(milter - float(found[1])) > ROUNDED or abs(score - milter - added - known) > 3 * ROUNDED:
        return f"carried {found[1]!r}, and no sum"
    if not -MOST_HAM <= known <= MOST_SPAM:
        return "too much of an acquaintance"
    if (said["yes"] == "Yes", folder) != (is_junk, "Junk" if is_junk else "INBOX"):
        return "not the folder of this score"
    for _ in range(SCANS):
        own, shared = await rspamd.check_opinions(raw, user=user)
        opinions = [
            Opinion(None if opinion is None else opinion.probability, *counts[who])
            for opinion, who in ((own, user), (shared, SHARED_USER))
        ]
        if [_shown(opinion) for opinion in opinions] == [said["own"], said["shared"]]:
            # The line rounds to tenths of a percent; more spam is never fewer points.
            least, most = (
                points(blend(*(_moved(opinion, by) for opinion in opinions)), opinions[0])
                for by in (-HALF_A_TENTH, HALF_A_TENTH)
            )
            if least - ROUNDED <= added <= most + ROUNDED:
                return ""
            return f"{least:.2f} to {most:.2f} points for Bayes"
        if said["own"] is None and blend(*opinions) is None:
            return ""
    return None


def _moved(opinion: Opinion, by: float) -> Opinion:
    if opinion.probability is None:
        return opinion
    shown = round(opinion.probability, 3)
    return replace(opinion, probability=min(1.0, max(0.0, shown + by)))


def _shown(opinion: Opinion) -> str:
    return "silent" if opinion.probability is None else f"{opinion.probability:.1%}"
