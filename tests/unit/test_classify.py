"""The delivery pass with an Rspamd that answers as it is told."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

from mailhooks.acquaintance import Kind, Past, Trait, traits_of
from mailhooks.bayes import Opinion, blend, points
from mailhooks.config import LearningSettings, PolicySettings, ScoreSettings
from mailhooks.daemon.acquaintances import Acquaintances
from mailhooks.daemon.classify import SMALL_BYTES, Classifier
from mailhooks.daemon.weights import Weights
from mailhooks.dovecot import Peer, ScriptCall
from mailhooks.errors import LedgerError, RspamdLate, RspamdMisconfigured, RspamdUnavailable
from mailhooks.keys import KeyRing, new_key
from mailhooks.ledger import Answer, Outcome, SqliteLedger
from mailhooks.lesson import SHARED_USER, Lesson
from mailhooks.message import content_digest, identity, read_header
from mailhooks.policy import Folder
from mailhooks.rspamd import BayesOpinion, CheckResult, RspamdClient
from mailhooks.rspamd.results import Symbol
from mailhooks.score import SCORE_HEADER, Course, MilterScore, sign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailhooks.ledger import Decision

KEYS = KeyRing((new_key(),))
THREADS = ThreadPoolExecutor(1)
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
        assert user == "ann@x.example"
        assert 0 < timeout_s < 5
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
    acquaintances: Acquaintances | None = None,
    **policy: Any,
) -> list[str]:
    """The three words of the answer."""
    with given(rspamd, note, acquaintances, **policy) as classifier:
        return (await classifier.answer(call(message, sender))).decode("ascii").split(" ", 2)


def call(message: bytes, sender: str = "a@x") -> ScriptCall:
    """A delivery of a message."""
    env = {"USER": "Ann@x.example", "SENDER": sender, "RECIPIENT": "ann+list@x.example"}
    now_s = asyncio.get_running_loop().time()
    return ScriptCall((), env, Peer(0, 1, 1), message, now_s)


@contextmanager
def given(
    rspamd: FakeRspamd,
    note: Callable[[Decision], None] = lambda _: None,
    acquaintances: Acquaintances | None = None,
    **policy: Any,
) -> Iterator[Classifier]:
    """A classifier that asks a fake Rspamd."""
    with closing(Weights(COUNTS.__getitem__, 2)) as weights:
        yield Classifier(
            cast("RspamdClient", rspamd),
            KEYS,
            weights,
            cast("Any", None),
            threads=THREADS,
            score=ScoreSettings(),
            policy=PolicySettings(**policy),
            learning=LearningSettings(learn_on_delivery="off"),
            deadline_s=5.0,
            mail_uids=frozenset({1}),
            shared=True,
            note=note,
            acquaintances=acquaintances,
        )


async def test_nobody_waits_for_log_and_note(
    rspamd: FakeRspamd, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is there before them, and they say what it says."""
    caplog.set_level("INFO")
    noted: list[Decision] = []
    with given(rspamd, noted.append) as classifier:
        output, afterwards = await classifier.answer_directly(call(carried(7.0)))
    assert output.startswith(b"junk verified Yes, score=7.00")
    assert not noted
    assert "score=7.00" not in caplog.text
    afterwards()
    assert [each.folder for each in noted] == [Folder.JUNK]
    assert noted[0].digest == content_digest(carried(7.0))
    assert "user=ann@x.example junk: Yes, score=7.00" in caplog.text


class Shut(SqliteLedger):
    """A ledger that cannot be read."""

    def past(self, *_: object, **__: object) -> dict[Trait, Past]:
        raise LedgerError("ledger x: is shut")


class Slow(SqliteLedger):
    """A ledger whose disk takes its time, until somebody lets it go on."""

    go_on = threading.Event()

    def past(self, *arguments: Any, **options: Any) -> dict[Trait, Past]:
        assert self.go_on.wait(60)
        return super().past(*arguments, **options)


async def test_what_the_user_said_of_a_sender_counts_and_is_noted(rspamd: FakeRspamd) -> None:
    """It is a part of the sum, in the line and in the ledger; the next message is counted."""
    said = [
        Answer(
            user="ann@x.example",
            digest=str(number),
            lesson=Lesson.SPAM,
            outcome=Outcome.LEARNED,
            origin="move",
            time=1.0,
            traits=traits_of(read_header(BARE)),
        )
        for number in range(9)
    ]
    noted: list[Decision] = []
    ledger = SqliteLedger(":memory:")
    ledger.record(*said)
    known = Past(said_spam=9).points(Kind.SENDER) + Past(said_spam=9).points(Kind.DOMAIN)
    with closing(Acquaintances(lambda: ledger)) as acquaintances:
        folder, _, status = await answer(
            rspamd, carried(1.0), note=noted.append, acquaintances=acquaintances
        )
        off = await answer(
            rspamd, carried(1.0), acquaintances=acquaintances, acquaintance_points=0.0
        )
        few = await answer(
            rspamd, carried(1.0), acquaintances=acquaintances, acquaintance_points=2.0
        )
    assert folder == "junk"
    assert status.endswith(f" bayes=none (no opinion) acquaintance={known:.2f}")
    (decision,) = noted
    assert decision.acquaintance == pytest.approx(known)
    assert decision.total == pytest.approx(1 + known)
    assert decision.traits == traits_of(read_header(BARE))
    assert off[0] == "inbox"
    assert "acquaintance" not in off[2]
    assert few[2].startswith("No, score=3.00 ")


@pytest.mark.parametrize(("kind", "why"), [(Shut, "unavailable"), (Slow, "deadline")])
async def test_a_ledger_that_does_not_answer_condemns_nothing(
    rspamd: FakeRspamd,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[SqliteLedger],
    why: str,
) -> None:
    """It might have spoken for the message: as much is taken from what Bayes has against it."""
    monkeypatch.setattr("mailhooks.daemon.judge.ACQUAINTANCE_SHARE", 0.01)
    rspamd.opinions = BayesOpinion(8.0, 0.75), None
    Slow.go_on.clear()
    with closing(Acquaintances(lambda: kind(":memory:"))) as acquaintances:
        without = await answer(rspamd, carried(3.0))
        folder, _, status = await answer(rspamd, carried(3.0), acquaintances=acquaintances)
        Slow.go_on.set()
    assert without[0] == "junk"
    assert folder == "inbox"
    assert status.endswith(f" acquaintance=-3.00 ({why})")


async def test_a_ledger_that_comes_back_is_asked_again(rspamd: FakeRspamd) -> None:
    """What failed to open is opened for the next message."""
    ledgers: Iterator[SqliteLedger | LedgerError] = iter(
        [LedgerError("ledger x: is away"), SqliteLedger(":memory:")]
    )

    def opened() -> SqliteLedger:
        ledger = next(ledgers)
        if isinstance(ledger, LedgerError):
            raise ledger
        assert isinstance(ledger, SqliteLedger)
        return ledger

    with closing(Acquaintances(opened)) as acquaintances:
        lines = [
            (await answer(rspamd, carried(1.0), acquaintances=acquaintances))[2] for _ in range(2)
        ]
    assert lines[0].endswith("acquaintance=0.00 (unavailable)")
    assert "acquaintance" not in lines[1]


async def test_a_ledger_that_is_open_and_quick_is_asked_on_the_spot(
    rspamd: FakeRspamd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow one in a thread, where nobody has to wait for it."""
    threads: list[threading.Thread] = []

    class Noticed(SqliteLedger):
        def past(self, *arguments: Any, **options: Any) -> dict[Trait, Past]:
            threads.append(threading.current_thread())
            return super().past(*arguments, **options)

    with closing(Acquaintances(lambda: Noticed(":memory:"))) as acquaintances:
        acquaintances.open()
        # The first answer comes from the thread, whether or not the file was open by then.
        await answer(rspamd, carried(1.0), acquaintances=acquaintances)
        monkeypatch.setattr("mailhooks.daemon.acquaintances.QUICK_S", math.inf)
        await answer(rspamd, carried(1.0), acquaintances=acquaintances)
        threads.clear()
        await answer(rspamd, carried(1.0), acquaintances=acquaintances)
        monkeypatch.setattr("mailhooks.daemon.acquaintances.QUICK_S", 0.0)
        await answer(rspamd, carried(1.0), acquaintances=acquaintances)
        await answer(rspamd, carried(1.0), acquaintances=acquaintances)
    here = threading.current_thread()
    assert [thread is here for thread in threads] == [True, True, False]


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
        (RspamdLate("late"), "deadline"),
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
