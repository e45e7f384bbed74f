"""Rows of the policy that need more of Rspamd or Dovecot than a plain delivery."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from delivered import identified, message_id, status
from lmtp import UnixLmtp
from parts import forget_shared

from mailhooks.lab.host import DOMAIN, MAIL_UID
from mailhooks.lab.letters import LetterBox, LetterKind
from mailhooks.lesson import SHARED_USER
from mailhooks.message import read_header

if TYPE_CHECKING:
    from mailhooks.lab import Lab

Train = Callable[[str, LetterKind], None]


def deliver(lab: Lab, raw: bytes, name: str, sender: str = "sender@example.org") -> None:
    """Into Dovecot without Postfix and its milters."""
    with UnixLmtp(str(lab.root / "run/lmtp")) as lmtp:
        assert not lmtp.sendmail(sender, [f"{name}@{DOMAIN}"], raw)


def score_of(line: str, part: str) -> float:
    """The points of one part of the verdict line."""
    found = re.search(rf"{part}=(-?[\d.]+)", line)
    assert found is not None, line
    return float(found[1])


@pytest.mark.parametrize(
    ("sender", "folder", "reason"),
    [
        ("passed@example.org", "INBOX", "passthrough"),
        ("marked@example.org", "Junk", "passthrough"),
        ("skipped@example.org", "INBOX", "scan skipped"),
    ],
)
def test_what_an_administrator_told_rspamd_comes_before_taste(
    lab: Lab,
    people: list[str],
    box: LetterBox,
    taste: Train,
    sender: str,
    folder: str,
    reason: str,
) -> None:
    """A module's own decision is no sum of rules, and Bayes is not added to it."""
    name = people[0]
    taste(name, LetterKind.NEWSLETTER)
    raw = identified(box.newsletter([f"{name}@{DOMAIN}"]).raw)
    lab.send(raw, [name], sender=sender)
    copy = lab.mailbox(name).wait_for(message_id(raw))
    assert copy.folder == folder, status(copy.raw)
    assert status(copy.raw).endswith(f"reason={reason}")


def test_mail_that_met_no_milter_is_scanned_once_at_delivery(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """Its score is that of the milter pass, and spam goes to Junk."""
    name = people[0]
    for letter in (box.spam, box.personal):
        raw = identified(letter([f"{name}@{DOMAIN}"]).raw)
        lab.send(raw, [name])
        first = lab.mailbox(name).wait_for(message_id(raw))
        again = raw.replace(message_id(raw).encode(), b"<again-" + message_id(raw)[1:].encode())
        deliver(lab, again, name)
        second = lab.mailbox(name).wait_for("<again-" + message_id(raw)[1:])
        line = status(second.raw)
        assert second.folder == first.folder, line
        assert "milter=none (absent) scan=" in line
        # Apart from rules about Received lines, of which the milter sees one less.
        expected = pytest.approx(score_of(status(first.raw), "milter"), abs=0.6)
        assert score_of(line, "scan") == expected


def test_a_strangers_flag_does_not_count_in_a_full_scan(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """Rspamd gives 5 points for X-Spam-Flag: YES."""
    name = people[0]
    raw = identified(box.personal([f"{name}@{DOMAIN}"]).raw)
    deliver(lab, b"X-Spam-Flag: YES\r\n" + raw, name)
    copy = lab.mailbox(name).wait_for(message_id(raw))
    assert score_of(status(copy.raw), "scan") < 4, status(copy.raw)


def test_mail_that_a_user_got_is_none_that_waits_for_an_answer(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """Rspamd gives 4 points for an answer to a user's own mail; no stranger can make up both."""
    name = people[0]
    user = f"{name}@{DOMAIN}"
    first, second = (identified(box.personal([user]).raw) for _ in range(2))
    deliver(lab, b"Reply-To: " + user.encode() + b"\r\n" + first, name)
    lab.mailbox(name).wait_for(message_id(first))
    lab.send(b"In-Reply-To: " + message_id(first).encode() + b"\r\n" + second, [name])
    copy = lab.mailbox(name).wait_for(message_id(second))
    (score,) = read_header(copy.raw).values("x-mailhooks-score")
    assert b"y=" in score
    assert b"REPLY" not in score


def test_without_statistics_of_their_own_users_get_the_shared_opinion(
    lab: Lab, people: list[str], box: LetterBox, taste: Train
) -> None:
    """It is weighed against a user's own, which win as they grow."""
    newcomer, expert = people[:2]

    async def teach() -> None:
        async with lab.rspamd() as rspamd:
            for _ in range(4):
                ham, spam = box.personal(["a@x.example"]).raw, box.newsletter(["a@x.example"]).raw
                await rspamd.learn_ham(ham, user=SHARED_USER, bulk=True)
                await rspamd.learn_spam(spam, user=SHARED_USER, bulk=True)

    taste(expert, LetterKind.PERSONAL)
    try:
        asyncio.run(teach())
        assert lab.redis("HMGET", "SHARED", "learns_spam", "learns_ham").split() == ["4", "4"]
        raw = identified(box.newsletter([f"{name}@{DOMAIN}" for name in people]).raw)
        lab.send(raw, [newcomer, expert])
        line = status(lab.mailbox(newcomer).wait_for(message_id(raw)).raw)
        shared = re.search(r"own silent, shared ([\d.]+)%\)", line)
        assert shared is not None, line
        assert float(shared[1]) > 80
        line = status(lab.mailbox(expert).wait_for(message_id(raw)).raw)
        blended = re.search(r"\(([\d.]+)%, own ([\d.]+)%, shared ([\d.]+)%\)", line)
        assert blended is not None, line
        probability, own, others = map(float, blended.groups())
        assert own < probability < others
    finally:
        forget_shared(lab)


def test_personal_scripts_see_the_verdict_as_spamtest(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """RFC 5235: a share of the user's own threshold; 0 where nobody judged."""
    name = people[0]
    script = lab.home(name) / ".dovecot.sieve"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(
        'require ["spamtest", "spamtestplus", "relational", "comparator-i;ascii-numeric",\n'
        '"fileinto", "variables", "editheader"];\n'
        'if spamtest :percent :value "ge" :comparator "i;ascii-numeric" "1" {\n'
        '  if spamtest :percent :matches "*" { addheader "X-Percent" "${1}"; }\n'
        '  if spamtest :matches "*" { addheader "X-Tenths" "${1}"; }\n'
        "}\n"
        'if spamtest :value "eq" :comparator "i;ascii-numeric" "0" {\n'
        '  fileinto "Trash";\n'
        '} elsif spamtest :percent :value "ge" :comparator "i;ascii-numeric" "5" {\n'
        '  fileinto "Archive";\n'
        "}\n",
        encoding="ascii",
    )
    for path in (script.parent, script):
        os.chown(path, MAIL_UID, MAIL_UID)
    doubtful = identified(box.newsletter([f"{name}@{DOMAIN}"]).raw)
    sound = identified(box.personal([f"{name}@{DOMAIN}"]).raw)
    lab.send(doubtful, [name])
    lab.send(sound, [name])
    mailbox = lab.mailbox(name)
    for raw in (doubtful, sound):
        copy = mailbox.wait_for(message_id(raw))
        share = max(0.0, score_of(status(copy.raw), "score") / 6.0)
        percent = read_header(copy.raw).values("x-percent")
        assert int((percent or [b"0"])[0]) == pytest.approx(100 * share, abs=1.01)
        assert copy.folder == ("Archive" if 100 * share >= 5 else "INBOX")
    lab.servers["daemon"].kill()
    try:
        raw = identified(box.personal([f"{name}@{DOMAIN}"]).raw)
        lab.send(raw, [name])
        assert mailbox.wait_for(message_id(raw)).folder == "Trash"
    finally:
        lab.restart("daemon")
