from __future__ import annotations

import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest
from delivered import identified, message_id, status

if TYPE_CHECKING:
    from mailhooks.lab import Lab
    from mailhooks.lab.letters import LetterBox

DELIVERED_S = 15.0


@pytest.mark.parametrize(
    ("dead", "spam_folder"),
    [
        ("daemon", "INBOX"),
        # A full scan at delivery stands in for the milter's.
        ("milter", "Junk"),
        ("rspamd", "INBOX"),
        # The milter score needs no Redis, and alone says Junk.
        ("redis", "Junk"),
    ],
)
def test_mail_gets_through_when_a_part_is_killed(
    lab: Lab, people: list[str], box: LetterBox, dead: str, spam_folder: str
) -> None:
    """Delivered to everybody, once, in time; to INBOX unless a score says Junk."""
    to = [f"{name}@mail.example" for name in people]
    letter, spam = box.personal(to).raw, identified(box.spam(to).raw)
    lab.servers[dead].kill()
    try:
        started = time.monotonic()
        for raw in (letter, spam):
            lab.send(raw, people)
        for name in people:
            mailbox = lab.mailbox(name)
            for raw, folder in ((letter, "INBOX"), (spam, spam_folder)):
                left_s = DELIVERED_S - (time.monotonic() - started)
                copy = mailbox.wait_for(message_id(raw), left_s)
                if folder == "Junk" and "scan=none (deadline)" in status(copy.raw):
                    # The machine stood still for seconds, and mail does not wait for that.
                    assert copy.folder == "INBOX"
                    again = identified(box.spam(to).raw)
                    lab.send(again, [name])
                    copy = mailbox.wait_for(message_id(again), DELIVERED_S)
                assert copy.folder == folder, status(copy.raw)
        lab.wait_queue_empty()
        for name in people:
            for raw in (letter, spam):
                assert len(lab.mailbox(name).find(message_id(raw))) == 1
    finally:
        lab.restart(dead)


@pytest.mark.parametrize("hung", ["milter", "rspamd", "redis"])
def test_mail_gets_through_when_a_part_hangs(
    lab: Lab, people: list[str], box: LetterBox, hung: str
) -> None:
    """A part that accepts connections and says nothing delays mail by seconds, for all at once."""
    raw = box.personal([f"{name}@mail.example" for name in people]).raw
    server = lab.servers[hung]
    server.signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        lab.send(raw, people)
        for name in people:
            left_s = DELIVERED_S - (time.monotonic() - started)
            copy = lab.mailbox(name).wait_for(message_id(raw), left_s)
            assert copy.folder == "INBOX", status(copy.raw)
    finally:
        server.signal(signal.SIGCONT)
    lab.wait_queue_empty()
    for name in people:
        assert len(lab.mailbox(name).find(message_id(raw))) == 1


def test_a_call_that_fails_is_made_again(lab: Lab, people: list[str], box: LetterBox) -> None:
    """The verdict is there although Dovecot's first call came to nothing, as on a busy host."""
    raw = box.personal([f"{people[0]}@mail.example"]).raw
    path = lab.root / "run/mailhooks/mailhooks-classify"
    aside = path.with_suffix(".aside")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as gate:
        path.rename(aside)
        try:
            gate.bind(str(path))
            path.chmod(0o666)
            gate.listen()
            gate.settimeout(DELIVERED_S)
            lab.send(raw, people[:1])
            connection, _ = gate.accept()
        finally:
            aside.rename(path)
        with connection:
            while connection.recv(65536):
                pass
            connection.send(b"-\n")
    assert "milter=" in status(lab.mailbox(people[0]).wait_for(message_id(raw)).raw)


def test_the_host_recovers_by_itself(lab: Lab, people: list[str], box: LetterBox) -> None:
    """After all of that, a letter is scored and judged as before."""
    raw = box.personal([f"{people[0]}@mail.example"]).raw
    lab.send(raw, people[:1])
    line = status(lab.mailbox(people[0]).wait_for(message_id(raw)).raw)
    assert "milter=none" not in line
    assert "unavailable" not in line
