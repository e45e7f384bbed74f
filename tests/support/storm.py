"""Users move mail while one part of the host is killed again and again."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mailhooks.count import LearnCount
from mailhooks.lab.host import ADDRESS, MAIL_UID
from mailhooks.lab.letters import LetterBox
from mailhooks.lesson import Lesson
from mailhooks.message import read_header
from mailhooks.rspamd import LearnStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mailhooks.lab import Lab
    from mailhooks.lab.mailbox import StoredMessage

log = logging.getLogger("storm")

MOVERS = ("alice", "bob")
REFERENCE = "carol"
MOVED_AT_ONCE = 20
_NO_LETTERS = re.compile(rb"[^a-z]+")
LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class Result:
    """What a storm left behind.

    Attributes:
        learns: (spam, ham) of each mover, by Redis' own count.
        expected: (spam, ham) of somebody who was taught the same messages calmly.
        waiting: samples still in the spool or the drop folder.
        junk: messages in each mover's Junk.
        moving_s: how long the moves took.
    """

    learns: dict[str, tuple[int, int]]
    expected: tuple[int, int]
    waiting: int
    junk: dict[str, int]
    moving_s: float


def letters(count: int) -> list[bytes]:
    """Generated messages of all kinds, every one different."""
    box = LetterBox(count, now=datetime.now(UTC))
    to = ["someone@mail.example"]
    return [(box.newsletter, box.personal, box.spam)[n % 3](to).raw for n in range(count)]


def distinct(messages: Sequence[bytes]) -> list[bytes]:
    """Messages of which no two have the same letters in their bodies.

    Rspamd may or may not take two such for one, whatever numbers they hold and whatever their
    subjects are, since the language it guesses for a text, and with it the text's tokens, differ
    from scan to scan.
    """
    seen: dict[bytes, bytes] = {}
    for raw in messages:
        body = raw[read_header(raw).size_bytes :].lower()
        seen.setdefault(_NO_LETTERS.sub(b" ", body).strip(), raw)
    return list(seen.values())


def run(lab: Lab, messages: Sequence[bytes], victim: str, kills: int, seed: int) -> Result:
    """Two users move all messages into Junk while a server is killed and restarted.

    Args:
        lab: with the accounts of `MOVERS` and `REFERENCE`.
        messages: that each of the two moves.
        victim: the server that is killed.
        kills: how often, at random moments of the moving and the learning.
        seed: of those moments.
    """
    for name in MOVERS:
        _fill(lab, name, messages)
    asyncio.run(_teach_calmly(lab, lab.mailbox(MOVERS[0]).messages("INBOX")))
    rng = random.Random(seed)
    errors: list[BaseException] = []
    started = time.monotonic()
    with _moving(lab, errors) as movers:
        for number in range(kills):
            time.sleep(rng.uniform(0, 0.3))
            lab.servers[victim].kill()
            if victim != "daemon":
                time.sleep(rng.uniform(0, 0.3))
            lab.restart(victim)
            still = sum(mover.is_alive() for mover in movers)
            log.info(
                "kill %d/%d: %d moving, %d wait", number + 1, kills, still, lab.waiting_samples()
            )
    moving_s = time.monotonic() - started
    if errors:
        raise errors[0]
    lab.wait("everything is learned", lambda: lab.waiting_samples() == 0, LIMIT_S)
    return Result(
        learns={name: lab.learns(name) for name in MOVERS},
        expected=lab.learns(REFERENCE),
        waiting=lab.waiting_samples(),
        junk={name: lab.mailbox(name).count("Junk") for name in MOVERS},
        moving_s=moving_s,
    )


@contextmanager
def _moving(lab: Lab, errors: list[BaseException]) -> Iterator[list[threading.Thread]]:
    def move_all(name: str) -> None:
        try:
            mailbox = lab.mailbox(name)
            while uids := [message.uid for message in mailbox.messages("INBOX")][:MOVED_AT_ONCE]:
                mailbox.move(uids, "INBOX", "Junk")
        except BaseException as error:
            errors.append(error)
            raise

    movers = [threading.Thread(target=move_all, args=(name,), daemon=True) for name in MOVERS]
    for mover in movers:
        mover.start()
    yield movers
    for mover in movers:
        mover.join(LIMIT_S)


def _fill(lab: Lab, name: str, messages: Sequence[bytes]) -> None:
    """Put messages into INBOX without a delivery, as a migration would."""
    lab.mailbox(name).count("INBOX")  # Dovecot creates the Maildir
    folder = lab.home(name) / "Maildir" / "new"
    for number, raw in enumerate(messages):
        path = folder / f"{1_700_000_000 + number}.M{number}.storm"
        path.write_bytes(raw.replace(b"\r\n", b"\n"))
        os.chown(path, MAIL_UID, MAIL_UID)


async def _teach_calmly(lab: Lab, messages: Sequence[StoredMessage]) -> None:
    """Until Redis counts each: on a busy machine Rspamd says "learned" after its timeout, too."""
    counts = LearnCount(f"redis://{ADDRESS}:{lab.redis_port}/0", "RS")
    user = lab.users[REFERENCE].address
    async with lab.rspamd() as rspamd:
        for message in messages:
            before, learned = counts(user)[Lesson.SPAM], True
            while learned and counts(user)[Lesson.SPAM] == before:
                result = await rspamd.learn_spam(message.raw, user=user, bulk=True)
                learned = result.status is LearnStatus.LEARNED
