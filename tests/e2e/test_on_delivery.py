from __future__ import annotations

from datetime import UTC, datetime

import pytest
from delivered import identified, message_id

from mailhooks.lab import Lab
from mailhooks.lab.letters import LetterBox

SPAM_LEARNED = {"off": 0, "confident": 0, "all": 0, "balanced": 1}
HAM_LEARNED = {"off": 0, "confident": 1, "all": 2, "balanced": 2}


@pytest.mark.parametrize("setting", ["off", "confident", "all", "balanced"])
def test_deliveries_train_by_themselves_and_moves_have_the_last_word(setting: str) -> None:
    """A plain letter, a dubious one and spam by the milter score alone, as the setting says."""
    to = ["alice@mail.example"]
    box = LetterBox(1, now=datetime.now(UTC))
    plain = box.personal(to).raw
    # A few points of its own, fewer than Junk takes.
    dubious = b"X-Spam-Flag: Yes\r\n" + box.personal(to).raw
    junk = identified(box.spam(to).raw)
    with Lab(("alice",), min_learns=5, learn_on_delivery=setting) as lab:
        mailbox = lab.mailbox("alice")
        folders = []
        for raw in (plain, dubious, junk):
            lab.send(raw, ["alice"])
            folders.append(mailbox.wait_for(message_id(raw)).folder)
        assert folders == ["INBOX", "INBOX", "Junk"]
        lab.wait("the spool is empty", lambda: lab.waiting_samples() == 0)
        spam, ham = SPAM_LEARNED[setting], HAM_LEARNED[setting]
        assert lab.learns("alice") == (spam, ham)
        (found,) = mailbox.find(message_id(plain))
        mailbox.move([found.uid], "INBOX", "Junk")
        lab.wait("the move is learned", lambda: lab.learns("alice")[0] == spam + 1)
        lab.wait("the spool is empty", lambda: lab.waiting_samples() == 0)
        (found,) = mailbox.find(message_id(plain))
        mailbox.move([found.uid], "Junk", "INBOX")
        lab.wait("the move back is learned", lambda: lab.learns("alice")[0] == spam)


def test_a_delivery_that_has_not_settled_gives_way_to_a_move() -> None:
    """It waits in the spool, and what the user says within that time is learned alone, at once."""
    to = ["alice@mail.example"]
    box = LetterBox(2, now=datetime.now(UTC))
    kept, moved = box.personal(to).raw, box.newsletter(to).raw
    settle = {"learn_on_delivery": "balanced", "delivery_settle_s": 3600.0}
    with Lab(("alice",), **settle) as lab:  # type: ignore[arg-type]
        mailbox = lab.mailbox("alice")
        for raw in (kept, moved):
            lab.send(raw, ["alice"])
            assert mailbox.wait_for(message_id(raw)).folder == "INBOX"
        assert lab.waiting_samples() == 2
        (found,) = mailbox.find(message_id(moved))
        mailbox.move([found.uid], "INBOX", "Junk")
        lab.wait("the move is learned", lambda: lab.learns("alice") == (1, 0))
        lab.wait("the other still waits", lambda: lab.waiting_samples() == 1)
