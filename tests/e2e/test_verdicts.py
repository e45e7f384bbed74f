from __future__ import annotations

import re
import smtplib
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from delivered import identified, judged, message_id, status

from mailhooks.lab.host import ADDRESS
from mailhooks.lab.letters import LetterBox, LetterKind
from mailhooks.message import read_header

if TYPE_CHECKING:
    from mailhooks.lab import Lab

Train = Callable[[str, LetterKind], None]


def verdicts(lab: Lab, raw: bytes, order: list[str]) -> dict[str, tuple[str, str]]:
    """Send to all in this order; each one's folder, and what was judged of the message itself."""
    lab.send(raw, order)
    found = {}
    for name in order:
        copy = lab.mailbox(name).wait_for(message_id(raw))
        found[name] = (copy.folder, judged(status(copy.raw)))
    return found


def test_three_recipients_get_three_verdicts_whatever_their_order(
    lab: Lab, people: list[str], box: LetterBox, taste: Train
) -> None:
    """One transaction is judged by each recipient's own taste, and order plays no part."""
    dislikes, likes, untrained = people
    taste(dislikes, LetterKind.NEWSLETTER)
    taste(likes, LetterKind.PERSONAL)
    raw = box.newsletter([f"{name}@mail.example" for name in people]).raw
    first = verdicts(lab, raw, people)
    assert first[dislikes][0] == "Junk"
    assert first[likes][0] == "INBOX"
    assert first[untrained][0] == "INBOX"
    assert first[untrained][1].endswith("bayes=none (no opinion)")
    spam_probability = {
        name: float(re.findall(r"\(([\d.]+)%,", first[name][1])[0]) for name in (dislikes, likes)
    }
    assert spam_probability[dislikes] > 90
    assert spam_probability[likes] < 10

    again = raw.replace(message_id(raw).encode(), b"<reversed-" + message_id(raw)[1:].encode())
    assert verdicts(lab, again, people[::-1]) == first


def test_bayes_never_runs_in_the_milter_pass_and_nothing_else_at_delivery(
    lab: Lab, people: list[str], box: LetterBox, taste: Train
) -> None:
    """Rspamd's own log shows which symbols each pass had."""
    name = people[0]
    taste(name, LetterKind.NEWSLETTER)
    raw = box.newsletter([f"{name}@mail.example"]).raw
    lab.send(raw, [name])
    copy = lab.mailbox(name).wait_for(message_id(raw))
    assert "BAYES" not in read_header(copy.raw).values("x-mailhooks-score")[0].decode()
    passes: dict[str, list[list[str]]] = {"rspamd_proxy": [], "normal": []}
    for line in lab.log("rspamd").splitlines():
        if message_id(raw)[1:-1] in line and "rspamd_task_write_log" in line:
            program = re.search(r"#\d+\((\w+)\)", line)
            symbols = re.search(r"\] \[(.*?)\]", line)
            assert program is not None
            assert symbols is not None
            passes[program[1]].append(re.findall(r"([A-Z][A-Z0-9_]+)\(", symbols[1]))
    ((*milter_symbols,),) = passes["rspamd_proxy"]
    assert len(milter_symbols) > 3
    assert not [symbol for symbol in milter_symbols if symbol.startswith("BAYES")]
    assert passes["normal"] == [["BAYES_SPAM"]]


def test_forged_headers_gain_nothing(
    lab: Lab, people: list[str], box: LetterBox, taste: Train
) -> None:
    """Headers that claim a verdict or a score are gone, and the verdict is that of a clean copy."""
    name = people[0]
    taste(name, LetterKind.NEWSLETTER)
    raw = box.newsletter([f"{name}@mail.example"]).raw
    clean = verdicts(lab, raw, [name])[name]
    stolen = read_header(lab.mailbox(name).find(message_id(raw))[0].raw)
    forged = (
        b"X-Mailhooks-Score: " + stolen.values("x-mailhooks-score")[0] + b"\r\n"
        b"x-mailhooks-score: v=1; k=a; t=1; q=A; s=-99.0; b=AAAA\r\n"
        b"X-Mailhooks-Rspamd: v=1; t=1; q=A; s=-99.0; r=15; a=no action; p=0; y=; b=00\r\n"
        b"X-Mailhooks-Verdict: inbox\r\n"
        b"X-Spam-Status: No, score=-99.00 required=6.00\r\n"
        b"X-Spam-Flag: NO\r\nX-Spam-Score: -99\r\nX-Spam-Level:\r\n"
        b"Delivered-To: postmaster@mail.example\r\n"
    ) + raw.replace(message_id(raw).encode(), b"<forged-" + message_id(raw)[1:].encode())
    lab.send(forged, [name])
    copy = lab.mailbox(name).wait_for("<forged-" + message_id(raw)[1:])
    assert (copy.folder, judged(status(copy.raw))) == clean
    header = read_header(copy.raw)
    assert len(header.values("x-mailhooks-score")) == 1
    assert b"-99" not in copy.raw
    assert not header.values("x-mailhooks-verdict")
    assert not header.values("x-mailhooks-rspamd")
    assert header.values("x-spam-flag") == [b"YES"]


def test_alias_and_plus_address_use_and_teach_the_same_statistics(
    lab: Lab, people: list[str], box: LetterBox, taste: Train
) -> None:
    """Whatever address mail comes in by, it is the mailbox owner's taste that counts."""
    name = people[0]
    number = name.removeprefix("user")
    taste(name, LetterKind.NEWSLETTER)
    before = lab.learns(name)
    mailbox = lab.mailbox(name)
    for address in (f"alias{number}", f"{name}+shop", f"alias{number}+x", name.upper()):
        raw = box.newsletter([f"{address}@mail.example"]).raw
        lab.send(raw, [address])
        copy = mailbox.wait_for(message_id(raw))
        assert copy.folder == "Junk", status(copy.raw)
        mailbox.move([copy.uid], "Junk", "INBOX")
        lab.wait("learned", lambda: lab.waiting_samples() == 0)
    after = lab.learns(name)
    assert after[1] > before[1]
    keys = lab.redis("--scan", "--pattern", "RS*").split()
    assert not [key for key in keys if f"alias{number}@" in key or "+" in key]


def test_a_user_whose_mailbox_is_new_gets_mail_with_the_objective_score_alone(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """Spam by Rspamd's own rules goes to Junk for somebody who never taught anything."""
    raw = identified(box.spam([f"{people[0]}@mail.example"]).raw)
    folder, line = verdicts(lab, raw, people[:1])[people[0]]
    assert folder == "Junk"
    assert re.fullmatch(r"Yes, required=6.00 milter=[\d.]+ bayes=none \(no opinion\)", line)


@pytest.mark.parametrize(
    "sender",
    [
        "<>",
        '<"s"@example.org>',
        '<"s\\p q"@example.org>',
        "<@relay.example:s@example.org>",
        "<s@example.org.>",
        "<root>",
        "<host!user>",
        "<a..b@example.org>",
        "<S+tag=x@EXAMPLE.org>",
        "<prvs=1234567890=s@example.org>",
    ],
)
def test_no_envelope_sender_sheds_the_milter_score(
    lab: Lab, people: list[str], box: LetterBox, sender: str
) -> None:
    """However an address is written, Postfix, Dovecot and mailhooks agree on it."""
    name = people[0]
    raw = identified(box.spam([f"{name}@mail.example"]).raw)
    with smtplib.SMTP(ADDRESS, lab.smtp_port, local_hostname="client.example.org") as smtp:
        smtp.ehlo()
        for command in (f"MAIL FROM:{sender}", f"RCPT TO:<{name}@mail.example>"):
            code, text = smtp.docmd(command)
            assert code == 250, text
        assert smtp.data(raw)[0] == 250
    copy = lab.mailbox(name).wait_for(message_id(raw))
    assert copy.folder == "Junk", status(copy.raw)


@pytest.mark.parametrize(
    "header",
    [
        b"X-Long: " + b"x" * 3000,
        b"From: " + b"N" * 1200 + b" <n@example.org>",
        b"From: " + b"n" * 3000 + b"@example.org",
        b"\r\n".join(b"X-Fill-%d: " % number + b"y" * 900 for number in range(1300)),
        b"From: =?utf-8?q?J=C3=B6rg?=\r\n <j@example.org>\r\nFrom: second@example.org",
        b"From: J\xc3\xb6rg \xff <j@example.org>",
        b"Date: \t Sun,  22 Nov 2026\r\n\t10:00:00  +0000",
    ],
    ids=["long", "long-name", "long-address", "many", "two", "8-bit", "folded"],
)
def test_no_header_sheds_the_milter_score(
    lab: Lab, people: list[str], box: LetterBox, header: bytes
) -> None:
    """Servers may fold, break and add headers on the way: the score stays verified."""
    name = people[0]
    spam = identified(box.spam([f"{name}@mail.example"]).raw)
    lab.send(header + b"\r\n" + spam, [name])
    copy = lab.mailbox(name).wait_for(message_id(spam))
    assert copy.folder == "Junk", status(copy.raw)


def test_a_stolen_score_is_worth_nothing_without_the_milter(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """Replayed with all that it was signed for, and its queue id smuggled in by the recipient."""
    name = people[0]
    letter = box.personal([f"{name}@mail.example"]).raw
    lab.send(letter, [name])
    mailbox = lab.mailbox(name)
    header = read_header(mailbox.wait_for(message_id(letter)).raw)
    score = header.values("x-mailhooks-score")[0]
    queue_id = re.findall(rb"q=(\w+)", score)[0].decode()
    stolen = b"X-Mailhooks-Score: " + score + b"\r\nX-Replay: yes\r\n" + letter
    lab.servers["milter"].kill()
    try:
        lab.send(stolen, [f'"{name}+ id {queue_id} "@mail.example'])
        lab.wait("delivered", lambda: len(mailbox.find(message_id(letter))) == 2)
    finally:
        lab.restart("milter")
    (replayed,) = (m.raw for m in mailbox.find(message_id(letter)) if b"X-Replay" in m.raw)
    assert "milter=none (wrong queue id)" in status(replayed)
    assert not read_header(replayed).values("x-mailhooks-score")
