from __future__ import annotations

import hmac
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhooks.keys import Key, KeyRing, new_key
from mailhooks.message import Header, identity, normal_address, read_header
from mailhooks.score import (
    CLOCK_SKEW_S,
    MAX_FIELD_BYTES,
    REPORT_MAX_AGE_S,
    Course,
    MilterScore,
    NoScore,
    Why,
    read_report,
    sign,
    verify,
)

KEYS = KeyRing((Key("new", b"n" * 64), Key("old", b"o" * 64)))
NOW = 1_800_000_000
SENDER = "News@Example.org"
SCORE = MilterScore(
    score=4.1,
    required=15.0,
    action="no action",
    course=Course.SCORED,
    symbols=(("HFILTER_HOSTNAME_UNKNOWN", 2.5), ("MIME_GOOD", -0.1)),
    queue_id="4XyZ1234abcd",
    time=NOW,
)
BASE = (
    b"Received: from mx.example by mx.example with LMTP id AbC+dE\r\n"
    b"\t(envelope-from <News@Example.org>); Sun, 22 Nov 2026 10:00:00 +0000\r\n"
    b"Received: from client by mx.example (Postfix) with ESMTP id 4XyZ1234abcd;\r\n"
    b"\tSun, 22 Nov 2026 10:00:00 +0000 (UTC)\r\n"
    b"Received: from far by away (Postfix) with ESMTP id 4Older999; Sun, 22 Nov 2026\r\n"
    b"Message-ID: <1@example.org>\r\nDate: Sun, 22 Nov 2026 10:00:00 +0000\r\n"
    b"From: News <news@example.org>\r\n"
)


def message(*extra: bytes, base: bytes = BASE) -> Header:
    return read_header(base + b"".join(line + b"\r\n" for line in extra) + b"\r\nbody\r\n")


def carried(score: MilterScore = SCORE, keys: KeyRing = KEYS) -> bytes:
    return (
        b"X-Mailhooks-Score: "
        + sign(score, identity(message()), normal_address(SENDER), keys).encode()
    )


def check(
    header: Header,
    *,
    sender: str | None = SENDER,
    keys: KeyRing = KEYS,
    now: float = NOW,
    depth: int = 2,
) -> MilterScore | NoScore:
    return verify(
        header,
        None if sender is None else normal_address(sender),
        keys,
        now=now,
        max_age_s=5 * 86400,
        received_depth=depth,
    )


def test_a_signed_score_comes_back_as_it_was() -> None:
    """What the milter signed, the delivery believes."""
    assert check(message(carried())) == SCORE


def test_folding_and_case_of_the_sender_do_no_harm() -> None:
    """Mail servers may fold the field anew and change the case of a domain."""
    folded = re.sub(rb"; ", b";\r\n\t", carried())
    assert check(message(folded), sender="<News@EXAMPLE.org>") == SCORE


def test_an_old_key_still_verifies_and_a_removed_one_does_not() -> None:
    """Rotation keeps mail under way believed for as long as the old key is kept."""
    by_old = carried(keys=KeyRing((KEYS.keys[1],)))
    assert check(message(by_old)) == SCORE
    assert check(message(by_old), keys=KeyRing((KEYS.keys[0],))) == NoScore(Why.UNKNOWN_KEY)


def test_a_missing_header_is_absent() -> None:
    """Mail that never met the milter says so."""
    assert check(message()) == NoScore(Why.ABSENT)


def test_two_headers_are_never_believed() -> None:
    """Which of two is ours cannot be known."""
    assert check(message(carried(), carried())) == NoScore(Why.DUPLICATE)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"<1@example.org>", b"<2@example.org>", Why.BAD_SIGNATURE),
        (b"Date: Sun", b"Date: Mon", Why.BAD_SIGNATURE),
        (b"From: News", b"From: Newt", Why.BAD_SIGNATURE),
        (b"id 4XyZ1234abcd", b"id 4XyZ1234abce", Why.WRONG_QUEUE_ID),
    ],
)
def test_a_header_copied_to_another_message_is_not_believed(
    old: bytes, new: bytes, why: Why
) -> None:
    """The score is bound to Message-ID, Date, From and queue id."""
    other = BASE.replace(old, new)
    assert other != BASE
    assert check(message(carried(), base=other)) == NoScore(why)


def test_another_envelope_sender_is_not_believed() -> None:
    """The score is bound to MAIL FROM, except on hosts that rewrite it themselves."""
    assert check(message(carried()), sender="other@example.org") == NoScore(Why.WRONG_SENDER)
    assert check(message(carried()), sender=None) == SCORE


def test_a_queue_id_in_an_older_received_line_is_not_believed() -> None:
    """A replay brings the old Received lines along, below the real ones."""
    on_top = b"Received: from evil by mx.example (Postfix) with ESMTP id 4Fresh; now\r\n"
    replayed = message(carried(), base=on_top + on_top + BASE)
    assert check(replayed) == NoScore(Why.WRONG_QUEUE_ID)
    assert check(replayed, depth=4) == SCORE


def test_an_id_that_a_recipient_address_brings_along_is_not_a_queue_id() -> None:
    """Only the first id of a Received line is the server's own."""
    mine = b"id 4XyZ1234abcd;"
    tricked = BASE.replace(mine, b'id 4Fresh+1 for <"a+ id 4XyZ1234abcd "@mx.example>;')
    assert tricked != BASE
    assert check(message(carried(), base=tricked)) == NoScore(Why.WRONG_QUEUE_ID)


def test_white_space_that_a_server_puts_into_long_lines_does_no_harm() -> None:
    """Postfix breaks lines of more than 998 bytes wherever that is."""
    long = BASE.replace(b"News <news", b"N" * 1200 + b" <news")
    score = (
        b"X-Mailhooks-Score: "
        + sign(SCORE, identity(message(base=long)), normal_address(SENDER), KEYS).encode()
    )
    broken = long.replace(b"N" * 998, b"N" * 998 + b"\r\n ")
    assert broken != long
    assert check(message(score, base=broken)) == SCORE


@pytest.mark.parametrize("now", [NOW + 5 * 86400 + 1, NOW - CLOCK_SKEW_S - 1])
def test_a_score_out_of_its_time_is_expired(now: float) -> None:
    """A score is believed for as long as Postfix may keep mail, not for ever."""
    assert check(message(carried()), now=now) == NoScore(Why.EXPIRED)


def test_every_changed_byte_is_noticed() -> None:
    """No byte of the field can be altered without losing its worth."""
    whole = carried()
    start = len(b"X-Mailhooks-Score: ")
    for position in range(start, len(whole)):
        changed = bytearray(whole)
        changed[position] = ord("7") if changed[position] != ord("7") else ord("8")
        result = check(message(bytes(changed)))
        # The last base64 digit carries two unused bits: it may decode alike.
        if result == SCORE:
            assert position == len(whole) - 1
        else:
            assert isinstance(result, NoScore)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"v=1",
        b"v=1; b=",
        b"v=2; k=new; t=1; q=A; s=1; b=AAAA",
        b"v=1; k=new; t=x; q=A; s=1; b=AAAA",
        b"v=1; k=new; t=1; q=A; s=nan; b=AAAA",
        b"v=1; k=new; t=1; q=A; s=inf; b=AAAA",
        b"v=1; k=new; t=1; q=A; s=4,10; b=AAAA",
        b"v=1; k=new; t=1; q=A B; s=1; b=AAAA",
        b"v=1; k=new; t=1; q=A; s=1; b=\xff\xfe",
        b"v=1; k=new; t=1; q=A; s=1; b=====",
        b"x" * (MAX_FIELD_BYTES + 1),
        b"x" * 65536,
    ],
)
def test_nonsense_is_malformed(value: bytes) -> None:
    """Whatever a stranger writes there becomes a reason, never an exception."""
    assert check(message(b"X-Mailhooks-Score: " + value)) == NoScore(Why.MALFORMED)


@given(st.binary(max_size=300))
def test_random_bytes_are_never_believed(value: bytes) -> None:
    """Nothing but the signature makes a score."""
    header = Header(((b"x-mailhooks-score", value),), 0)
    assert isinstance(check(header), NoScore)


@given(
    score=st.floats(-1e5, 1e5),
    required=st.none() | st.floats(-1e5, 1e5),
    course=st.sampled_from([Course.SCORED, Course.PASSTHROUGH]),
    names=st.lists(st.from_regex(r"[A-Z_0-9]{1,40}", fullmatch=True), max_size=40),
)
def test_any_score_survives_signing(
    score: float, required: float | None, course: Course, names: list[str]
) -> None:
    """Signing and verifying lose nothing but digits beyond the third."""
    original = replace(
        SCORE,
        score=score,
        required=required,
        course=course,
        symbols=tuple((name, 0.25) for name in names),
    )
    result = check(message(carried(original)))
    if len(carried(original)) > MAX_FIELD_BYTES:
        assert result == NoScore(Why.MALFORMED)
        return
    assert isinstance(result, MilterScore)
    assert result.score == pytest.approx(score, abs=0.001)
    assert result.required == pytest.approx(required, abs=0.001)
    assert result.symbols == original.symbols
    assert result.course is course


def report(text: str, key: Key = KEYS.keys[0]) -> bytes:
    mac = hmac.digest(key.report_secret().encode(), text.encode(), "sha256").hex()
    return f"{text}; b={mac}".encode()


REPORT = f"v=1; t={NOW}; q=4Q; s=4.100; r=15.000; a=add header; p=0; y=A:1.50,B_C:-0.20"


def test_rspamds_report_is_read() -> None:
    """Score, required score, action and symbols come from the signed report."""
    result = read_report([report(REPORT)], "4Q", KEYS, NOW)
    assert result == MilterScore(
        score=4.1,
        required=15.0,
        action="add header",
        course=Course.SCORED,
        symbols=(("A", 1.5), ("B_C", -0.2)),
        queue_id="4Q",
        time=NOW,
    )


def test_a_report_made_with_the_older_key_is_read() -> None:
    """Rspamd may still be configured with the secret of the key before."""
    assert isinstance(read_report([report(REPORT, KEYS.keys[1])], "4Q", KEYS, NOW), MilterScore)


def test_a_strangers_report_beside_the_real_one_changes_nothing() -> None:
    """The one that is signed for this queue id counts."""
    forged = REPORT.replace("s=4.100", "s=-50.000")
    values = [forged.encode() + b"; b=00", report(forged, new_key()), report(REPORT), b"junk"]
    result = read_report(values, "4Q", KEYS, NOW)
    assert isinstance(result, MilterScore)
    assert result.score == 4.1


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([], Why.ABSENT),
        ([b"nonsense"], Why.MALFORMED),
        ([report(REPORT, new_key())], Why.UNKNOWN_KEY),
        ([report(REPORT.replace("q=4Q", "q=4R"))], Why.WRONG_QUEUE_ID),
        ([report(REPORT.replace("s=4.100", "s=nan"))], Why.MALFORMED),
        ([report(REPORT.replace("s=4.100", "s=1e300"))], Why.MALFORMED),
        ([report(REPORT.replace(f"t={NOW}", f"t={NOW - REPORT_MAX_AGE_S - 1}"))], Why.EXPIRED),
    ],
)
def test_a_report_that_cannot_be_believed_says_why(values: list[bytes], why: Why) -> None:
    """A missing score is never zero: it is missing, for a reason."""
    assert read_report(values, "4Q", KEYS, NOW) == NoScore(why)


@pytest.mark.parametrize("required", ["nan", "inf", "-inf", "1e99", "x", ""])
def test_an_absurd_required_score_is_none(required: str) -> None:
    """Rspamd may print any number as the required score."""
    text = REPORT.replace("r=15.000", f"r={required}")
    result = read_report([report(text)], "4Q", KEYS, NOW)
    assert isinstance(result, MilterScore)
    assert result.required is None
