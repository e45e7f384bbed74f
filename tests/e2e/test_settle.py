from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest
from delivered import message_id

from mailhooks.lab import Lab
from mailhooks.lab.letters import LetterKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailhooks.lab.letters import LetterBox
    from mailhooks.lab.mailbox import Mailbox
    from mailhooks.rspamd import BayesOpinion

SETTLE_S = 6.0
USER = "alice"


@pytest.fixture(scope="module")
def slow_lab() -> Iterator[Lab]:
    """A host whose samples settle for some seconds."""
    with Lab((USER,), settle_s=SETTLE_S) as host:
        yield host


def deliver(lab: Lab, box: LetterBox) -> tuple[Mailbox, bytes]:
    """One newsletter into the user's INBOX."""
    raw = box.newsletter([f"{USER}@mail.example"]).raw
    lab.send(raw, [USER])
    mailbox = lab.mailbox(USER)
    assert mailbox.wait_for(message_id(raw)).folder == "INBOX"
    return mailbox, raw


def move(mailbox: Mailbox, raw: bytes, source: str, destination: str) -> None:
    """Move one message by its Message-ID."""
    (found,) = mailbox.find(message_id(raw))
    assert found.folder == source
    mailbox.move([found.uid], source, destination)


def learn_requests(lab: Lab) -> int:
    """Learn requests Rspamd's controller was sent, by its own log."""
    return len(re.findall(r"<\S+> learned message as", lab.log("rspamd")))


def test_a_move_and_its_undo_within_the_settle_time_cause_no_request(
    slow_lab: Lab, box: LetterBox
) -> None:
    """Only the message that stays where it was moved is ever sent to Rspamd."""
    mailbox, undone = deliver(slow_lab, box)
    _, stays = deliver(slow_lab, box)
    before = learn_requests(slow_lab)
    move(mailbox, undone, "INBOX", "Junk")
    move(mailbox, undone, "Junk", "INBOX")
    move(mailbox, stays, "INBOX", "Junk")
    slow_lab.wait("the spool is empty", lambda: slow_lab.waiting_samples() == 0)
    assert slow_lab.learns(USER) == (1, 0)
    assert learn_requests(slow_lab) == before + 1
    assert "taken back" in slow_lab.log("daemon")


def test_after_the_settle_time_the_last_move_is_relearned_and_decides_the_verdict(
    slow_lab: Lab, box: LetterBox
) -> None:
    """Spam, then ham again: the statistics and Bayes' opinion follow."""
    user = slow_lab.users[USER].address
    others = box.letters(LetterKind.PERSONAL, 6, [user])
    spam = box.letters(LetterKind.SPAM, 6, [user])

    async def teach_and_ask(raw: bytes, *, teach: bool) -> BayesOpinion | None:
        async with slow_lab.rspamd() as rspamd:
            if teach:
                for letter in others:
                    await rspamd.learn_ham(letter.raw, user=user, bulk=True)
                for letter in spam:
                    await rspamd.learn_spam(letter.raw, user=user, bulk=True)
            return await rspamd.check_bayes(raw, user=user)

    mailbox, raw = deliver(slow_lab, box)
    asyncio.run(teach_and_ask(raw, teach=True))
    spam_before, ham_before = slow_lab.learns(USER)
    move(mailbox, raw, "INBOX", "Junk")
    slow_lab.wait("the spool is empty", lambda: slow_lab.waiting_samples() == 0)
    assert slow_lab.learns(USER) == (spam_before + 1, ham_before)
    as_spam = asyncio.run(teach_and_ask(raw, teach=False))
    move(mailbox, raw, "Junk", "INBOX")
    slow_lab.wait("the spool is empty", lambda: slow_lab.waiting_samples() == 0)
    assert slow_lab.learns(USER) == (spam_before, ham_before + 1)
    as_ham = asyncio.run(teach_and_ask(raw, teach=False))
    assert as_spam is not None
    assert as_ham is not None
    assert as_spam.probability > 0.5 > as_ham.probability
