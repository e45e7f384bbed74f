"""The delivery pass with an Rspamd that answers as it is told."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from mailhooks.bayes import Opinion, blend, points
from mailhooks.config import LearningSettings, PolicySettings, ScoreSettings
from mailhooks.daemon.classify import SMALL_BYTES, Classifier
from mailhooks.daemon.weights import Weights
from mailhooks.dovecot import Peer, ScriptCall
from mailhooks.errors import RspamdMisconfigured, RspamdUnavailable
from mailhooks.keys import KeyRing, new_key
from mailhooks.lesson import SHARED_USER, Lesson
from mailhooks.message import content_digest, identity, read_header
from mailhooks.policy import Folder
from mailhooks.rspamd import BayesOpinion, CheckResult, RspamdClient
from mailhooks.rspamd.results import Symbol
from mailhooks.score import SCORE_HEADER, Course, MilterScore, sign

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailhooks.ledger import Decision

KEYS = KeyRing((new_key(),))
BARE = b"Message-ID: <1@x>\r\nFrom: a@x\r\nSubject: x\r\n\r\ny\r\n"


def carried(score: float, message: bytes = BARE) -> bytes:
    """The message as the milter would have it delivered."""
    value = MilterScore(
        score=score,
        required=15.0,
        action="no action",
        course=Course.SCORED,
        symbols=(),
        queue_id="4Q",
        time=int(time.time()),
    )
    line = sign(value, identity(read_header(message)), b"a@x", KEYS)
    received = b"Received: from x by mx (Postfix) with ESMTP id 4Q; now\r\n"
    return f"{SCORE_HEADER}: {line}\r\n".encode() + received + message


class FakeRspamd:
    """Gives two opinions and one full scan, and notes what it was sent."""

    def __init__(self) -> None:
        self.opinions: tuple[BayesOpinion | None, BayesOpinion | None] = (None, None)
        self.scan: CheckResult | Exception = CheckResult(2.5, 15.0, "no action")
        self.scanned: list[tuple[bytes, dict[str, Any]]] = []

    async def check_opinions(
        self, _message: bytes, *, user: str, timeout_s: float
    ) -> tuple[BayesOpinion | None, BayesOpinion | None]:
        assert (user, timeout_s) == ("ann@x.example", math.inf)
        return self.opinions

    async def check(self, message: bytes, **how: Any) -> CheckResult:
        self.scanned.append((message, how))
        if isinstance(self.scan, Exception):
            raise self.scan
        return self.scan


COUNTS = {
    "ann@x.example": {Lesson.SPAM: 30, Lesson.HAM: 40},
    SHARED_USER: {Lesson.SPAM: 500, Lesson.HAM: 400},
}


@pytest.fixture
def rspamd() -> FakeRspamd:
    return FakeRspamd()


async def answer(
    rspamd: FakeRspamd,
    message: bytes,
    sender: str = "a@x",
    note: Callable[[Decision], None] = lambda _: None,
    **policy: Any,
) -> list[str]:
    """The three words of the answer."""
    weights = Weights(COUNTS.__getitem__, 2)
    classifier = Classifier(
        cast("RspamdClient", rspamd),
        KEYS,
        weights,
        cast("Any", None),
        score=ScoreSettings(),
        policy=PolicySettings(**policy),
        learning=LearningSettings(learn_on_delivery="off"),
        deadline_s=5.0,
        mail_uids=frozenset({1}),
        shared=True,
        note=note,
    )
    env = {"USER": "Ann@x.example", "SENDER": sender, "RECIPIENT": "ann+list@x.example"}
    now = asyncio.get_running_loop().time()
    try:
        return (
            (await classifier.answer(ScriptCall((), env, Peer(0, 1, 1), message, now)))
            .decode("ascii")
            .split(" ", 2)
        )
    finally:
        weights.close()


async def test_both_opinions_are_blended_by_what_they_learned(rspamd: FakeRspamd) -> None:
    """The counts come from Redis, the user's and the shared ones."""
    rspamd.opinions = BayesOpinion(8.0, 0.99), BayesOpinion(-1.0, 0.3)
    probability = blend(Opinion(0.99, 30, 40), Opinion(0.3, 500, 400))
    assert probability is not None
    _, _, status = await answer(rspamd, carried(1.0))
    assert f"bayes={points(probability):.2f} ({probability:.1%}, own 99.0%, shared 30.0%)" in status
    assert f"score={1 + points(probability):.2f} " in status


async def test_mail_with_a_verified_score_is_not_scanned_again(rspamd: FakeRspamd) -> None:
    """The milter's scan has seen the SMTP client, a second one has not."""
    assert (await answer(rspamd, carried(6.5)))[:2] == ["junk", "verified"]
    assert rspamd.scanned == []


async def test_mail_without_a_score_is_scanned_without_bayes(rspamd: FakeRspamd) -> None:
    """Strangers' claims are hidden from it, and its score counts like the milter's."""
    rspamd.scan = CheckResult(6.5, 15.0, "add header", (Symbol("A", 6.5),))
    claims = b"X-Spam-Flag: YES\r\nX-Mailhooks-Score: v=1\r\n"
    folder, score, status = await answer(rspamd, claims + BARE)
    assert (folder, score) == ("junk", "none")
    assert "milter=none (malformed) scan=6.50 " in status
    ((message, how),) = rspamd.scanned
    assert message == BARE
    assert (how["user"], how["envelope_from"], *how["rcpts"]) == (
        "ann@x.example",
        "a@x",
        "ann+list@x.example",
    )
    assert how["settings"]["groups_disabled"] == ["statistics", "hfilter"]


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (RspamdUnavailable("away"), "unavailable"),
        (RspamdMisconfigured("no"), "unavailable"),
        (ValueError("header"), "unavailable"),
        (TimeoutError(), "deadline"),
    ],
)
async def test_a_scan_that_fails_leaves_the_message_in_the_inbox(
    rspamd: FakeRspamd, failure: Exception, why: str
) -> None:
    """However sure Bayes is."""
    rspamd.opinions = BayesOpinion(8.0, 1.0), None
    rspamd.scan = failure
    folder, _, status = await answer(rspamd, BARE)
    assert folder == "inbox"
    assert f"milter=none (absent) scan=none ({why}) bayes=" in status


async def test_a_full_scan_can_be_switched_off(rspamd: FakeRspamd) -> None:
    """Then nothing but a verified milter score puts mail into Junk."""
    rspamd.scan = CheckResult(99.0, 15.0, "reject")
    folder, _, status = await answer(rspamd, BARE, full_scan=False)
    assert folder == "inbox"
    assert "scan=none (off)" in status
    assert rspamd.scanned == []


async def test_a_skipped_scan_judges_nothing(rspamd: FakeRspamd) -> None:
    """Rspamd was told not to scan the message, at delivery too."""
    rspamd.scan = CheckResult(99.0, 15.0, "no action", is_skipped=True)
    folder, _, status = await answer(rspamd, BARE)
    assert folder == "inbox"
    assert status.endswith("reason=scan skipped")


@pytest.mark.parametrize("sender", ["", "a\x01b@x", "ä@x"])
async def test_any_sender_can_be_scanned(rspamd: FakeRspamd, sender: str) -> None:
    """Rspamd is told an empty one, and not told what cannot stand in a header."""
    await answer(rspamd, BARE, sender)
    assert rspamd.scanned[0][1]["envelope_from"] == (sender if sender == "" else None)


async def test_a_users_own_threshold_counts(rspamd: FakeRspamd) -> None:
    """By the account, in lower case."""
    message = carried(5.0)
    assert (await answer(rspamd, message))[0] == "inbox"
    folder, _, status = await answer(rspamd, message, thresholds={"ann@x.example": 4.5})
    assert folder == "junk"
    assert "required=4.50" in status


async def test_a_header_that_sieve_must_leave_alone_is_called_broken(rspamd: FakeRspamd) -> None:
    """The verdict is the same; Pigeonhole before 0.5.21 would abort over an edit."""
    message = carried(6.5)
    assert (await answer(rspamd, message))[:2] == ["junk", "verified"]
    assert (await answer(rspamd, b"no colon\r\n" + message))[:2] == ["junk", "broken-verified"]


@pytest.mark.parametrize("size_bytes", [100, SMALL_BYTES + 1])
async def test_each_decision_is_noted_with_the_digest_a_lesson_will_have(
    rspamd: FakeRspamd, size_bytes: int
) -> None:
    """Small or large: by that digest the user's correction finds it."""
    noted: list[Decision] = []
    message = carried(6.5) + b"x" * size_bytes
    await answer(rspamd, message, note=noted.append)
    (decision,) = noted
    assert (decision.user, decision.queue_id) == ("ann@x.example", "4Q")
    assert decision.digest == content_digest(message)
    assert (decision.folder, decision.objective) == (Folder.JUNK, 6.5)
