from __future__ import annotations

import hmac
import re
from typing import Any

import Milter
import pytest

from mailhooks.keys import KeyRing, new_key
from mailhooks.message import read_header
from mailhooks.milter.hook import ScoreMilter, fold
from mailhooks.score import MilterScore, verify

NOW = 1_800_000_000
KEYS = KeyRing((new_key(),))


class Context:
    """Stands for libmilter: macros in, header changes out."""

    def __init__(self, queue_id: str | None = "4Q", *, fails: bool = False) -> None:
        self.queue_id = queue_id
        self.fails = fails
        self.added: list[tuple[str, str]] = []
        self.removed: list[tuple[str, int]] = []

    def getsymval(self, name: str) -> str | None:
        return {"i": self.queue_id, "{mail_addr}": "news@example.org"}.get(name)

    def addheader(self, name: str, value: str, index: int) -> None:
        assert index == 0
        if self.fails:
            raise RuntimeError("libmilter says no")
        self.added.append((name, value))

    def chgheader(self, name: str, index: int, value: str) -> None:
        assert value == ""
        self.removed.append((name, index))

    def setpriv(self, _milter: object) -> None:
        pass


def report(queue_id: str = "4Q", score: str = "4.100") -> bytes:
    text = f"v=1; t={NOW}; q={queue_id}; s={score}; r=15.000; a=no action; p=0; y=A:4.10"
    key = KEYS.signing.report_secret().encode()
    return f"{text}; b={hmac.digest(key, text.encode(), 'sha256').hex()}".encode()


def run(fields: list[tuple[str, bytes]], context: Context) -> int:
    milter: Any = ScoreMilter(KEYS, clock=lambda: NOW)
    milter._ctx = context
    milter._actions = Milter.ADDHDRS | Milter.CHGHDRS
    milter._protocol = 0
    milter.envfrom('<"news"@example.org>')
    for name, value in fields:
        milter.header(name, value)
    return int(milter.eom())


MAIL = [
    ("From", b"News <news@example.org>"),
    ("Message-ID", b"<1@example.org>"),
    ("Date", b"Sun, 22 Nov 2026 10:00:00 +0000"),
]


def test_the_report_becomes_one_signed_score() -> None:
    """What Rspamd reported is verified at delivery, and the report itself is gone."""
    context = Context()
    assert run([*MAIL, ("X-Mailhooks-Rspamd", report())], context) == Milter.CONTINUE
    ((name, value),) = context.added
    assert context.removed == [("x-mailhooks-rspamd", 1)]
    raw = b"Received: by x id 4Q\r\n" + b"".join(b"%s: %s\r\n" % (n.encode(), v) for n, v in MAIL)
    header = read_header(raw + f"{name}: {value}\r\n\r\n".encode())
    score = verify(
        header,
        b"news@example.org",
        KEYS,
        now=NOW,
        max_age_s=60,
        received_depth=1,
    )
    assert isinstance(score, MilterScore)
    assert score.score == 4.1


def test_every_own_header_of_a_stranger_is_removed_last_first() -> None:
    """Whatever the spelling, and however many."""
    context = Context()
    fields = [
        *MAIL,
        ("X-Mailhooks-Score", b"v=1"),
        ("x-MAILHOOKS-score", b"v=1"),
        ("X-Mailhooks-Anything", b""),
        ("X-Mailhook", b"not ours"),
        ("X-Spam-Status", b"No"),
        ("X-Spam", b"Rspamd's own"),
    ]
    assert run(fields, context) == Milter.CONTINUE
    assert context.removed == [
        ("x-mailhooks-score", 2),
        ("x-mailhooks-score", 1),
        ("x-mailhooks-anything", 1),
        ("x-spam-status", 1),
    ]
    assert context.added == []


@pytest.mark.parametrize(
    ("fields", "context"),
    [
        ([], Context()),
        ([("X-Mailhooks-Rspamd", report("4Other"))], Context()),
        ([("X-Mailhooks-Rspamd", report(score="nan"))], Context()),
        ([("X-Mailhooks-Rspamd", report())], Context(queue_id=None)),
        ([("X-Mailhooks-Rspamd", report())], Context(fails=True)),
    ],
)
def test_the_message_passes_without_a_score_when_there_is_none_to_believe(
    fields: list[tuple[str, bytes]], context: Context
) -> None:
    """Nothing that goes wrong here keeps mail from passing."""
    assert run([*MAIL, *fields], context) == Milter.CONTINUE
    assert context.added == []


def test_folding_keeps_lines_short_and_the_value_whole() -> None:
    """A folded value unfolds to what was signed."""
    value = "; ".join(f"part{number}={'x' * number}" for number in range(40))
    lines = fold(value).split("\n\t")
    assert max(map(len, lines)) <= 78
    assert re.sub(r"\n\t", " ", fold(value)) == value
