"""Scores that are not to be believed, and headers that are wrong, straight into Dovecot."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import corpus
import pytest
from delivered import identified, message_id, status
from lmtp import UnixLmtp
from scraped import scrape, series
from wrong_headers import WRONG_HEADERS

from mailhooks.keys import KeyRing, new_key
from mailhooks.lab.host import DOMAIN
from mailhooks.message import identity, is_editable, normal_address, read_header
from mailhooks.score import MAX_FIELD_BYTES, SCORE_HEADER, Course, MilterScore, Why, sign

if TYPE_CHECKING:
    from mailhooks.lab import Lab
    from mailhooks.lab.letters import LetterBox

SENDER = "sender@example.org"
QUEUE_ID = "4XyZ1234abcd"
RECEIVED = b"Received: from x by mx.example (Postfix) with ESMTP id %s; now\r\n"
MARK = b"X-Test-Number: "
REAL_MESSAGES = 60


def score(points: float = -50.0, age_s: float = 0.0) -> MilterScore:
    """So good a score that nothing could be junk any more."""
    return MilterScore(
        score=points,
        required=15.0,
        action="no action",
        course=Course.SCORED,
        symbols=(("A", points),),
        queue_id=QUEUE_ID,
        time=int(time.time() - age_s),
    )


def scores(lab: Lab, letter: bytes) -> dict[str, tuple[bytes, Why | None]]:
    """Score headers for a letter, and why each is not believed."""
    bound, sender = identity(read_header(letter)), normal_address(SENDER)

    def signed(made: MilterScore, keys: KeyRing = lab.keys) -> bytes:
        return f"{SCORE_HEADER}: {sign(made, bound, sender, keys)}\r\n".encode()

    valid = signed(score())
    other = replace(bound, message_id=b"<another@example.org>")
    copied = f"{SCORE_HEADER}: {sign(score(), other, sender, lab.keys)}\r\n".encode()
    another = f"{SCORE_HEADER}: {sign(score(), bound, b'x@example.org', lab.keys)}\r\n".encode()
    padding = b"y=" + b"A:1.00, " * (65536 // 8)
    assert len(padding) > 65536 > MAX_FIELD_BYTES
    return {
        "valid": (valid, None),
        "folded-at-spaces": (valid.replace(b"; ", b";\r\n \t "), None),
        "copied": (copied, Why.BAD_SIGNATURE),
        "replayed": (signed(score(age_s=6 * 86400)), Why.EXPIRED),
        "from-the-future": (signed(score(age_s=-3600)), Why.EXPIRED),
        "edited": (valid.replace(b"s=-50.000", b"s=-50.001"), Why.BAD_SIGNATURE),
        "removed-key": (signed(score(), KeyRing((new_key(),))), Why.UNKNOWN_KEY),
        "doubled": (valid + valid, Why.DUPLICATE),
        "doubled-otherwise": (
            valid + valid.replace(b"X-Mailhooks-Score:", b"x-MAILHOOKS-score :"),
            Why.DUPLICATE,
        ),
        "folded-in-words": (re.sub(rb"(s=-5)(0)", rb"\1\r\n \2", valid), Why.MALFORMED),
        "folded-in-signature": (
            re.sub(rb"(b=.{10})(.+)", rb"\1\r\n\t\2", valid),
            Why.MALFORMED,
        ),
        "8-bit": (valid.replace(b"a=no action", b"a=n\xf6 action"), Why.MALFORMED),
        "64-kb": (valid.replace(b"y=", padding), Why.MALFORMED),
        "64-kb-folded": (
            valid.replace(b"y=", padding.replace(b", ", b",\r\n\t")),
            Why.MALFORMED,
        ),
        "other-queue-id": (signed(replace(score(), queue_id="4Other")), Why.WRONG_QUEUE_ID),
        "other-sender": (another, Why.WRONG_SENDER),
        "absent": (b"", Why.ABSENT),
    }


def parts(line: str) -> dict[str, float]:
    """The figures of a verdict line."""
    return {name: float(value) for name, value in re.findall(r"(\w+)=(-?[\d.]+)(?= |$)", line)}


def test_a_score_that_cannot_be_believed_is_counted_and_the_rest_decides(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """Whatever was done to it, the message arrives, and is judged as if it had none."""
    name = people[0]
    letter = identified(box.spam([f"{name}@{DOMAIN}"]).raw)
    cases = scores(lab, letter)
    before = scrape(lab)
    with UnixLmtp(str(lab.root / "run/lmtp")) as lmtp:
        for case, (header, _) in cases.items():
            raw = MARK + case.encode() + b"\r\n" + header + RECEIVED % QUEUE_ID.encode() + letter
            assert not lmtp.sendmail(SENDER, [f"{name}@{DOMAIN}"], raw)
    copies = {
        read_header(copy.raw).values("x-test-number")[0].decode(): copy
        for copy in lab.mailbox(name).find(message_id(letter))
    }
    assert copies.keys() == cases.keys()
    for case, (_, why) in cases.items():
        line, fields = status(copies[case].raw), read_header(copies[case].raw)
        figures = parts(line)
        if why is None:
            assert copies[case].folder == "INBOX", (case, line)
            assert "milter=-50.00" in line, case
            continue
        assert f"milter=none ({why.value})" in line, case
        total = figures["scan"] + figures.get("acquaintance", 0.0)
        assert figures["score"] == pytest.approx(total, abs=0.021), (case, line)
        assert copies[case].folder == "Junk", (case, line)
        assert not fields.values(SCORE_HEADER), case
    after = scrape(lab)
    for why in Why:
        counted = series("mailhooks_milter_scores_total", result=why.value)
        expected = sum(each is why for _, each in cases.values())
        assert after[counted] - before[counted] == expected, why
    valid = series("mailhooks_milter_scores_total", result=Course.SCORED.value)
    assert after[valid] - before[valid] == 2


def oddness(raw: bytes) -> int:
    """How much in a header no standard allows, or is rare."""
    header = read_header(raw)
    block = raw[: header.size_bytes]
    names = [name for name, _ in header.fields]
    lines = block.splitlines()
    return (
        sum(byte > 126 or byte < 9 for byte in block)
        + sum(len(line) > 998 for line in lines)
        + sum(b":" not in line and line[:1] not in b" \t" for line in lines)
        + sum(names.count(name) != 1 for name in (b"message-id", b"date", b"from", b"subject"))
    )


def test_no_wrong_header_keeps_a_message_from_its_mailbox(
    lab: Lab, people: list[str], box: LetterBox
) -> None:
    """Made-up headers of every wrong kind: each letter arrives once, with a verdict."""
    letter = box.personal([f"{people[0]}@{DOMAIN}"]).raw
    arrive_once(lab, people[0], {case: wrong + letter for case, wrong in WRONG_HEADERS.items()})


@pytest.mark.parametrize("kind", ["personal", "spam"])
def test_a_line_that_is_no_field_costs_a_message_its_marks_only(
    lab: Lab, people: list[str], box: LetterBox, kind: str
) -> None:
    """Pigeonhole 0.5 would abort over it; so it is filed as it is, by the same verdict.

    Postfix makes such a line out of a field with a very long name.
    """
    name = people[0]
    raw = identified(getattr(box, kind)([f"{name}@{DOMAIN}"]).raw)
    lab.send(b"X" * 1500 + b": y\r\n" + raw, [name])
    copy = lab.mailbox(name).wait_for(message_id(raw))
    assert not is_editable(copy.raw)
    assert copy.folder == ("Junk" if kind == "spam" else "INBOX")
    assert not read_header(copy.raw).values("x-spam-status")
    assert read_header(copy.raw).values(SCORE_HEADER)


def test_the_oddest_real_mail_arrives(lab: Lab, people: list[str]) -> None:
    """What real senders did to their headers: each message arrives once, with a verdict."""
    real = sorted(corpus.sample(10_000, seed=0), key=oddness, reverse=True)[:REAL_MESSAGES]
    odd = [raw for raw in real if oddness(raw)]
    assert odd
    arrive_once(lab, people[0], {f"real-{number}": raw for number, raw in enumerate(odd)})


def arrive_once(lab: Lab, name: str, messages: dict[str, bytes]) -> None:
    """Deliver all, and see that each is there once, judged, and nothing went wrong."""
    before, logged = scrape(lab), len(lab.log("daemon"))
    with UnixLmtp(str(lab.root / "run/lmtp")) as lmtp:
        for case, raw in messages.items():
            marked = MARK + case.encode() + b"\r\n" + raw
            assert not lmtp.sendmail(SENDER, [f"{name}@{DOMAIN}"], marked), case
    found: list[str] = []
    for folder in ("INBOX", "Junk"):
        for copy in lab.mailbox(name).messages(folder):
            (case,) = re.findall(rb"(?m)^X-Test-Number: (\S+)\r?$", copy.raw)
            found.append(case.decode())
            if is_editable(copy.raw):
                assert re.match("(Yes|No), score=", status(copy.raw)), case
    assert sorted(found) == sorted(messages)
    after = scrape(lab)

    def calls(result: str) -> float:
        of = series("mailhooks_script_calls_total", program="mailhooks-classify", result=result)
        return after.get(of, 0.0) - before.get(of, 0.0)

    assert (calls("done"), calls("refused"), calls("failed")) == (len(messages), 0, 0)
    assert "Traceback" not in lab.log("daemon")[logged:]
