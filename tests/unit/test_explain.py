from __future__ import annotations

import contextlib
import functools
import json
import os
import pty
import re
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mailhooks.acquaintance import Acquaintance, Kind, Trait
from mailhooks.bayes import Opinion, points
from mailhooks.cli import main
from mailhooks.config import ScoreSettings
from mailhooks.explain import carried, turn
from mailhooks.keys import Key, KeyRing, format_keys
from mailhooks.ledger import Answer, Outcome, SqliteLedger
from mailhooks.lesson import Lesson
from mailhooks.message import identity, normal_address, read_header
from mailhooks.policy import Bayes, Folder, NoBayes, NoBayesWhy, decide
from mailhooks.rspamd import BayesOpinion, RspamdClient
from mailhooks.score import Course, MilterScore, NoScore, Why, sign

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

KEYS = KeyRing((Key("k", b"k" * 64),))
NOW = 1_800_000_000
SENDER = "News@Example.org"
SCORE = MilterScore(
    score=4.0,
    required=15.0,
    action="no action",
    course=Course.SCORED,
    symbols=(("SMALL", 0.5), ("LARGE", 3.5), ("AGAINST", -1.25)),
    queue_id="4XyZ1234abcd",
    time=NOW,
)
BASE = (
    b"Received: from mx.example by mx.example with LMTP id AbC+dE; now\r\n"
    b"Received: from client by mx.example (Postfix) with ESMTP id 4XyZ1234abcd; now\r\n"
    b"Message-ID: <1@example.org>\r\nDate: Sun, 22 Nov 2026 10:00:00 +0000\r\n"
    b"From: News <news@example.org>\r\n"
)
DELIVERED = b"Return-Path: <News@Example.org>\r\nDelivered-To: <Ann+list@Example.org>\r\n"


def signed(score: MilterScore = SCORE, base: bytes = BASE) -> bytes:
    value = sign(score, identity(read_header(base)), normal_address(SENDER), KEYS)
    return b"X-Mailhooks-Score: " + value.encode() + b"\r\n" + base + b"\r\nbody\r\n"


def test_a_delivered_message_brings_sender_recipient_and_score() -> None:
    """The mailbox is that of Delivered-To without its extension, the sender that of Return-Path."""
    found = carried(DELIVERED + signed(), KEYS, ScoreSettings(), NOW)
    assert found.score == SCORE
    assert (found.sender, found.recipient) == (SENDER, "ann@example.org")
    assert (found.delivered, found.expired, found.queue_id) == (True, False, "4XyZ1234abcd")


def test_a_raw_message_is_not_compared_with_a_sender_nobody_knows() -> None:
    """What is not known is not taken for wrong."""
    found = carried(signed(), KEYS, ScoreSettings(), NOW)
    assert found.score == SCORE
    assert (found.sender, found.recipient, found.delivered) == (None, None, False)


@pytest.mark.parametrize(
    ("bind_sender", "score"), [(True, NoScore(Why.WRONG_SENDER)), (False, SCORE)]
)
def test_another_return_path_counts_as_the_settings_say(
    bind_sender: bool, score: MilterScore | NoScore
) -> None:
    """A host that rewrites senders does not compare them."""
    raw = b"Return-Path: <srs0=x@relay.example>\r\n" + signed()
    assert carried(raw, KEYS, ScoreSettings(bind_sender=bind_sender), NOW).score == score


def test_a_score_that_expired_since_counts_for_a_delivered_message_only() -> None:
    """It counted when the message was delivered; one that waits would go without."""
    later = NOW + 30 * 86400
    old = carried(DELIVERED + signed(), KEYS, ScoreSettings(), later)
    assert (old.score, old.expired) == (SCORE, True)
    waiting = carried(signed(), KEYS, ScoreSettings(), later)
    assert (waiting.score, waiting.expired) == (NoScore(Why.EXPIRED), True)


@given(
    score=st.floats(-20, 20),
    threshold=st.floats(1, 15),
    probability=st.none() | st.floats(0, 1),
    known=st.floats(-3, 20),
)
def test_what_would_turn_a_verdict_round_does(
    score: float, threshold: float, probability: float | None, known: float
) -> None:
    """Just as much of it turns the verdict round, and a little less does not."""
    bayes: Bayes | NoBayes = NoBayes(NoBayesWhy.NO_OPINION)
    own = None
    if probability is not None:
        own = Opinion(probability, 900, 900)
        bayes = Bayes(points(probability, own), probability, own=own)
    milter = replace(SCORE, score=score)
    decided = functools.partial(decide, threshold=threshold, acquaintance=Acquaintance(known))
    verdict = decided(milter, bayes)
    found = turn(verdict)
    assert found.folder is not verdict.folder
    assert found.points is not None
    assert found.threshold is not None
    little = 0.0001
    for more, folder in ((little, Folder.JUNK), (-little, Folder.INBOX)):
        moved = replace(milter, score=score + found.points + more)
        assert decided(moved, bayes).folder is folder
        assert decided(milter, bayes, threshold=found.threshold - more).folder is folder
        if found.probability is not None and 0 <= found.probability + more <= 1:
            there = found.probability + more
            told = Bayes(points(there, own), there)
            assert decided(milter, told).folder is folder
    if found.probability is None:
        folders = {decided(milter, Bayes(points(each, own), each)).folder for each in (0.0, 1.0)}
        assert len(folders) == 1


def test_what_no_number_decided_no_number_turns_round() -> None:
    """Rspamd's own decision, or a missing score: the remark says which."""
    bayes = Bayes(8.0, 1.0)
    passed = replace(SCORE, course=Course.PASSTHROUGH)
    assert "by itself" in turn(decide(passed, bayes, 6.0)).remark
    assert "not to judge" in turn(decide(replace(SCORE, course=Course.SKIPPED), bayes, 6.0)).remark
    missing = turn(decide(NoScore(Why.ABSENT), bayes, 6.0))
    assert "without either nothing goes to Junk" in missing.remark
    assert (missing.folder, missing.points) == (Folder.JUNK, None)
    action = decide(replace(SCORE, action="add header"), bayes, 60.0, honour_action=True)
    assert "honour_action" in turn(action).remark


# The command


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    (tmp_path / "keys").write_text(format_keys(KEYS))
    path = tmp_path / "mailhooks.toml"
    path.write_text(
        f'[score]\nkey_file = "{tmp_path}/keys"\n'
        f'[learning]\nledger_file = "{tmp_path}/ledger.sqlite"\n'
        '[rspamd]\nscan_url = "http://127.0.0.1:1"\nlearn_url = "http://127.0.0.1:1"\n'
        'shared_classifier = "all"\n'
        '[redis]\nurl = ""\n[daemon]\nmax_message_bytes = 100000\n'
    )
    return path


def run(settings: Path, *arguments: str, given: bytes = b"") -> Result:
    return CliRunner().invoke(main, ["--config", str(settings), "explain", *arguments], input=given)


def test_what_is_known_is_explained_in_plain_lines(settings: Path) -> None:
    """Without Rspamd the carried score still tells its part; what is missing is named."""
    now = int(time.time())
    result = run(settings, "-", given=DELIVERED + signed(replace(SCORE, time=now)))
    assert result.exit_code == 1, result.output
    lines = [line.split(maxsplit=2) for line in result.stdout.splitlines()]
    assert ["user:", "ann@example.org", "(from Delivered-To)"] in lines
    assert ["3.50", "LARGE"] in lines
    assert lines.index(["3.50", "LARGE"]) < lines.index(["-1.25", "AGAINST"])
    assert lines.index(["-1.25", "AGAINST"]) < lines.index(["0.50", "SMALL"])
    assert "verdict:      INBOX: 4.00 = 4.00 < 6.00" in result.stdout
    found = re.search(
        r"(?m)^to Junk:      2\.00 points more, or Bayes at ([\d.]+)% or more,"
        r" or a threshold of 4\.00 or less$",
        result.stdout,
    )
    assert found is not None, result.stdout
    assert points(float(found[1]) / 100) == pytest.approx(2.0, abs=0.05)
    assert "own Bayes:    unavailable; how much it has learned is unknown" in result.stdout
    assert "missing:      no Bayes: Rspamd at http://127.0.0.1:1 cannot be asked" in result.stdout
    assert "missing:      ledger" in result.stdout


def test_an_acquaintance_is_explained_by_what_the_user_did(settings: Path) -> None:
    """Each known trait with its points; a name that could write to a terminal is made harmless."""
    list_trait = Trait(Kind.LIST, "tiresome.example\x1b[2j")
    with contextlib.closing(SqliteLedger(settings.parent / "ledger.sqlite")) as ledger:
        for number in range(3):
            ledger.record(
                Answer(
                    user="ann@example.org",
                    digest=str(number),
                    lesson=Lesson.SPAM,
                    outcome=Outcome.REFUSED,
                    origin="move",
                    time=1.0,
                    traits=(list_trait,),
                )
            )
    mail = b"List-Id: <tiresome.example\x1b[2J>\r\n"
    raw = DELIVERED + mail + signed(replace(SCORE, time=int(time.time())))
    lines = run(settings, "-", given=raw).stdout
    # Without Bayes nothing counts against the message, and the explanation says so.
    assert "acquaintance: +0.00 points" in lines
    assert (
        "+19.46  list tiresome.example\N{REPLACEMENT CHARACTER}[2j: 3 called spam, 0 good" in lines
    )
    found = json.loads(run(settings, "-", "--json", given=raw).stdout)["acquaintance"]
    assert found["points"] == 0.0
    (known,) = found["known"]
    assert known.items() >= {"kind": "list", "said_spam": 3, "left_inbox": 0}.items()


@pytest.mark.parametrize("probability", [None, 0.25])
@pytest.mark.parametrize("as_json", [True, False])
def test_statistics_that_are_silent_are_called_so(
    settings: Path, monkeypatch: pytest.MonkeyPatch, probability: float | None, as_json: bool
) -> None:
    """The user's own may say nothing yet while the shared ones do."""

    async def opinions(*_args: object, **_options: object) -> object:
        own = None if probability is None else BayesOpinion(0.0, probability)
        return own, BayesOpinion(2.0, 0.8)

    monkeypatch.setattr(RspamdClient, "check_opinions", opinions)
    now = int(time.time())
    raw = DELIVERED + signed(replace(SCORE, time=now))
    result = run(settings, "-", *(["--json"] if as_json else []), given=raw)
    assert result.exit_code == 1, result.output
    if as_json:
        found = json.loads(result.stdout)["bayes"]
        assert (found["own"]["probability"], found["shared"]["probability"]) == (probability, 0.8)
        return
    said = "silent" if probability is None else "25.0% spam"
    assert f"own Bayes:    {said}; how much it has learned is unknown" in result.stdout
    assert "shared Bayes: 80.0% spam; how much" in result.stdout
    assert "blend:" in result.stdout


def test_json_is_one_document_with_every_part(settings: Path) -> None:
    """The fields that docs/explain.md names are all there, whatever is away."""
    now = int(time.time())
    raw = DELIVERED + signed(replace(SCORE, time=now))
    found = json.loads(run(settings, "-", "--json", given=raw).stdout)
    assert list(found) == [
        *("user", "user_from", "message_id", "digest", "queue_id", "sender", "delivered"),
        *("delivered_status", "carried", "scan", "bayes", "acquaintance", "score", "threshold"),
        *("folder", "reason", "confidence", "status", "turn", "decisions", "taught", "missing"),
    ]
    assert found["carried"] == {
        "valid": True,
        "reason": "",
        "expired": False,
        "score": 4.0,
        "required": 15.0,
        "action": "no action",
        "course": "scored",
        "symbols": [
            {"name": "LARGE", "score": 3.5},
            {"name": "AGAINST", "score": -1.25},
            {"name": "SMALL", "score": 0.5},
        ],
        "queue_id": "4XyZ1234abcd",
        "time": now,
    }


@pytest.mark.parametrize(
    ("given", "arguments", "status", "problem"),
    [
        (b"", ["-", "-u", "ann"], 1, "standard input: the file is empty"),
        (b"\nno header\n", ["-", "-u", "ann"], 1, "-: is no message: it has no header field"),
        (
            b"From a Mon Jan  1 00:00:00 2026\nSubject: a\n\nb\n\n" * 2,
            ["-", "-u", "ann"],
            1,
            "-: holds more than one message: give one of them",
        ),
        (
            b"Subject: x\n\n" + b"x" * 100_000,
            ["-", "-u", "ann"],
            1,
            "-: has 100012 bytes; messages of more than 100000 (daemon.max_message_bytes)",
        ),
        (
            b"Subject: x\n\nb\n",
            ["-"],
            2,
            "the message has no Delivered-To field: say whose verdict by --user",
        ),
        (b"", ["/no/such/file"], 2, "'/no/such/file' does not exist"),
        (b"", [], 2, "Missing argument"),
    ],
)
def test_what_cannot_be_explained_is_said(
    settings: Path, given: bytes, arguments: list[str], status: int, problem: str
) -> None:
    """A clear error, no traceback, and nothing on standard output."""
    result = run(settings, *arguments, given=given)
    assert result.exit_code == status
    assert problem in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_on_a_terminal_it_is_a_table(settings: Path) -> None:
    """Long lines are folded within their column, and the verdict stands out."""
    path = settings.parent / "message"
    path.write_bytes(DELIVERED + signed(replace(SCORE, time=int(time.time()))))
    outer, inner = pty.openpty()
    command = [sys.executable, "-m", "mailhooks", "--config", str(settings), "explain", str(path)]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "60"}
    with subprocess.Popen(command, stdout=inner, env=environment) as running:
        os.close(inner)
        shown = b""
        with contextlib.suppress(OSError), os.fdopen(outer, "rb", buffering=0) as terminal:
            while part := terminal.read(4096):
                shown += part
    assert running.returncode == 1
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in shown.decode().splitlines()]
    assert max(map(len, lines)) <= 60
    assert any(line.split()[:2] == ["verdict", "INBOX:"] for line in lines)
    assert b"\x1b[1;32mINBOX: 4.00" in shown
