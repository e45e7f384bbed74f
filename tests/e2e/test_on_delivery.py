from __future__ import annotations

from datetime import UTC, datetime

import pytest
from delivered import identified, message_id

from mailhooks.lab import Lab
from mailhooks.lab.letters import LetterBox


@pytest.mark.parametrize(
    ("setting", "learned"), [("off", (0, 0)), ("confident", (0, 1)), ("all", (0, 2))]
)
def test_good_mail_trains_as_ham_when_it_is_delivered(
    setting: str, learned: tuple[int, int]
) -> None:
    """A plain letter teaches, a dubious one only with "all", and Junk never; then moves count."""
    to = ["alice@mail.example"]
    box = LetterBox(1, now=datetime.now(UTC))
    plain = box.personal(to).raw
    # A few points of its own, fewer than Junk takes.
    dubious = b"X-Spam-Flag: Yes\r\n" + box.personal(to).raw
    junk = identified(box.spam(to).raw)
    with Lab(("alice",), learn_on_delivery=setting) as lab:
        mailbox = lab.mailbox("alice")
        folders = []
        for raw in (plain, dubious, junk):
            lab.send(raw, ["alice"])
            folders.append(mailbox.wait_for(message_id(raw)).folder)
        assert folders == ["INBOX", "INBOX", "Junk"]
        lab.wait("the spool is empty", lambda: lab.waiting_samples() == 0)
        assert lab.learns("alice") == learned
        (found,) = mailbox.find(message_id(plain))
        mailbox.move([found.uid], "INBOX", "Junk")
        lab.wait("the move is learned", lambda: lab.learns("alice")[0] == 1)
        lab.wait("the spool is empty", lambda: lab.waiting_samples() == 0)
        (found,) = mailbox.find(message_id(plain))
        mailbox.move([found.uid], "Junk", "INBOX")
        lab.wait("the move back is learned", lambda: lab.learns("alice")[0] == 0)
