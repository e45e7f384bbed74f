from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from delivered import identified, message_id, status

from mailhooks.lab import Lab
from mailhooks.lab.letters import LetterBox

HAM_LEARNED = {"off": 0, "confident": 1, "all": 2, "balanced": 2}


@pytest.mark.parametrize("setting", ["off", "confident", "all", "balanced"])
def test_deliveries_train_by_themselves_and_moves_have_the_last_word(setting: str) -> None:
    """A plain letter and a dubious one, as the setting says; what went to Junk, never."""
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
        assert lab.learns("alice") == (0, HAM_LEARNED[setting])
        (found,) = mailbox.find(message_id(plain))
        mailbox.move([found.uid], "INBOX", "Junk")
        lab.wait("the move is learned", lambda: lab.learns("alice")[0] == 1)
        lab.wait("the spool is empty", lambda: lab.waiting_samples() == 0)
        (found,) = mailbox.find(message_id(plain))
        mailbox.move([found.uid], "Junk", "INBOX")
        lab.wait("the move back is learned", lambda: lab.learns("alice")[0] == 0)


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


def test_what_two_users_say_reaches_a_third_who_never_taught_anything() -> None:
    """One user alone changes nothing for others."""
    names = ("alice", "bob", "carol")
    box = LetterBox(3, now=datetime.now(UTC))
    to = [f"{name}@mail.example" for name in names]
    with Lab(names, min_learns=1, shared_agreement=2) as lab:
        for letter, moves in ((box.newsletter, 1), (box.personal, 2)):
            raws = [identified(letter(to).raw) for _ in range(12)]
            for raw in raws:
                lab.send(raw, names[:2])
            for name in names[:2]:
                mailbox = lab.mailbox(name)
                uids = [mailbox.wait_for(message_id(raw)).uid for raw in raws]
                mailbox.move(uids, "INBOX", "Junk")
                if moves == 1:
                    continue
                lab.wait("learned as spam", lambda: lab.waiting_samples() == 0)
                uids = [mailbox.wait_for(message_id(raw)).uid for raw in raws]
                mailbox.move(uids, "Junk", "INBOX")
            lab.wait("learned", lambda: lab.waiting_samples() == 0)

        def shared() -> list[str]:
            return lab.redis("HMGET", "SHARED", "learns_spam", "learns_ham").split()

        lab.wait("the shared statistics learned", lambda: shared() == ["12", "12"])
        raw = identified(box.newsletter(to[2:]).raw)
        lab.send(raw, ["carol"])
        line = status(lab.mailbox("carol").wait_for(message_id(raw)).raw)
        assert lab.learns("carol") == (0, 0)
        found = re.search(r"own silent, shared ([\d.]+)%", line)
        assert found is not None, line
        assert float(found[1]) > 90
