from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from delivered import message_id, status

from mailhooks.lab.letters import LetterBox, LetterKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailhooks.lab import Lab


def settled(lab: Lab) -> None:
    lab.wait("the spool is empty", lambda: lab.waiting_samples() == 0)


def all_learns(lab: Lab) -> dict[str, tuple[int, int]]:
    """What every user has been taught, by Redis' own count."""
    return {name: lab.learns(name) for name in lab.users}


def deliver(lab: Lab, box: LetterBox, name: str) -> int:
    """One newsletter into a user's INBOX; returns its uid."""
    raw = box.newsletter([f"{name}@mail.example"]).raw
    lab.send(raw, [name])
    copy = lab.mailbox(name).wait_for(message_id(raw))
    assert copy.folder == "INBOX", status(copy.raw)
    return copy.uid


@pytest.mark.parametrize("action", ["move", "copy"])
def test_into_junk_is_learned_as_spam_for_that_user_alone(
    lab: Lab, people: list[str], box: LetterBox, action: str
) -> None:
    """MOVE and COPY into Junk teach spam, once, and nobody else's count changes."""
    name = people[0]
    uid = deliver(lab, box, name)
    before = all_learns(lab)
    transfer = getattr(lab.mailbox(name), action)
    transfer([uid], "INBOX", "Junk")
    lab.wait("learned", lambda: lab.learns(name) != before[name])
    settled(lab)
    assert all_learns(lab) == before | {name: (1, 0)}


def test_out_of_junk_is_learned_as_ham_and_unlearns_the_spam(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """A user who changes their mind is believed, to the last move."""
    name = people[0]
    mailbox = lab.mailbox(name)
    for _ in range(3):
        mailbox.move([deliver(lab, box, name)], "INBOX", "Junk")
    lab.wait("learned", lambda: lab.learns(name) == (3, 0))
    settled(lab)
    before = all_learns(lab)
    mailbox.move([mailbox.messages("Junk")[0].uid], "Junk", "Archive")
    lab.wait("learned", lambda: lab.learns(name) != before[name])
    settled(lab)
    assert all_learns(lab) == before | {name: (2, 1)}


def test_throwing_junk_away_teaches_nothing(lab: Lab, people: list[str], box: LetterBox) -> None:
    """Junk to Trash, and copies within Junk, are no statement about the message."""
    name = people[0]
    mailbox = lab.mailbox(name)
    mailbox.move([deliver(lab, box, name)], "INBOX", "Junk")
    lab.wait("learned", lambda: lab.learns(name) == (1, 0))
    mailbox.copy([mailbox.messages("Junk")[0].uid], "Junk", "Junk")
    for message in mailbox.messages("Junk"):
        mailbox.move([message.uid], "Junk", "Trash")
    mailbox.move([mailbox.messages("Trash")[0].uid], "Trash", "Archive")
    # A lesson that does count comes last: when it is learned, the others would be.
    mailbox.move([deliver(lab, box, name)], "INBOX", "Junk")
    lab.wait("learned", lambda: lab.learns(name) != (1, 0))
    settled(lab)
    assert lab.learns(name) == (2, 0)


def test_samples_wait_for_a_dead_rspamd_and_are_learned_when_it_is_back(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """The user's move succeeds at once, and nothing of it is lost, also if our daemon dies too."""
    name = people[0]
    mailbox = lab.mailbox(name)
    uids = [deliver(lab, box, name) for _ in range(3)]
    lab.servers["rspamd"].kill()
    try:
        mailbox.move(uids, "INBOX", "Junk")
        assert mailbox.count("Junk") == 3
        assert lab.waiting_samples() == 3
        lab.servers["daemon"].kill()
        lab.restart("daemon")
    finally:
        lab.restart("rspamd")
    settled(lab)
    assert lab.learns(name) == (3, 0)


def test_what_was_learned_changes_the_next_verdict(
    lab: Lab, people: list[str], box: LetterBox, teach: Callable[..., None]
) -> None:
    """A few moves into Junk by IMAP are enough to send the next letter of the kind there."""
    name = people[0]
    letters = box.letters(LetterKind.PERSONAL, 10, ["someone@mail.example"])
    teach(name, ham=[letter.raw for letter in letters])
    mailbox = lab.mailbox(name)
    mailbox.move([deliver(lab, box, name) for _ in range(12)], "INBOX", "Junk")
    settled(lab)
    raw = box.newsletter([f"{name}@mail.example"]).raw
    lab.send(raw, [name])
    copy = mailbox.wait_for(message_id(raw))
    assert copy.folder == "Junk", status(copy.raw)


@pytest.mark.parametrize("how", ["killed", "hung"])
def test_moves_are_kept_while_the_daemon_is_away(
    lab: Lab, people: list[str], box: LetterBox, how: str
) -> None:
    """Sieve leaves the call in the drop folder, and the daemon takes it when it is back."""
    name = people[0]
    mailbox = lab.mailbox(name)
    uid = deliver(lab, box, name)
    daemon = lab.servers["daemon"]
    logged = len(lab.log("dovecot"))
    if how == "killed":
        daemon.kill()
    else:
        os.kill(daemon.pid, signal.SIGSTOP)
    try:
        mailbox.move([uid], "INBOX", "Junk")
        assert mailbox.count("Junk") == 1
        assert lab.waiting_samples() == 1
        assert lab.learns(name) == (0, 0)
        # No complaint of the program that kept it.
        assert "mailhooks-drop" not in lab.log("dovecot")[logged:]
    finally:
        if how == "killed":
            lab.restart("daemon")
        else:
            os.kill(daemon.pid, signal.SIGCONT)
    lab.wait("learned", lambda: lab.learns(name) == (1, 0))
    settled(lab)
    assert lab.learns(name) == (1, 0)
