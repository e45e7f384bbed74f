from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhooks.acquaintance import (
    MOST_HAM,
    MOST_SPAM,
    Acquaintance,
    Kind,
    NoAcquaintance,
    NoAcquaintanceWhy,
    Past,
    Trait,
)
from mailhooks.bayes import Opinion
from mailhooks.policy import (
    JUNK_ACTIONS,
    Bayes,
    Folder,
    NoBayes,
    NoBayesWhy,
    NoScan,
    NoScanWhy,
    Reason,
    decide,
)
from mailhooks.score import Course, MilterScore, NoScore, RspamdScore, Why


def milter(score: float, action: str = "no action", course: Course = Course.SCORED) -> MilterScore:
    return MilterScore(
        score=score,
        required=15.0,
        action=action,
        course=course,
        symbols=(),
        queue_id="4Q",
        time=0,
    )


def scan(score: float, action: str = "no action", course: Course = Course.SCORED) -> RspamdScore:
    return RspamdScore(score=score, required=15.0, action=action, course=course, symbols=())


scores = st.floats(-1000, 1000)
actions = st.sampled_from(["no action", "greylist", "reject", "", *sorted(JUNK_ACTIONS)])
courses = st.sampled_from(Course)
unverified = st.builds(NoScore, st.sampled_from(Why))
milters = st.builds(milter, scores, actions, courses) | unverified
scans = (
    st.none()
    | st.builds(scan, scores, actions, courses)
    | st.builds(NoScan, st.sampled_from(NoScanWhy))
)
own_opinions = st.none() | st.builds(
    Opinion, st.none() | st.floats(0, 1), st.integers(), st.integers()
)
opinions = st.builds(Bayes, scores, st.floats(0, 1), own_opinions, own_opinions) | st.builds(
    NoBayes, st.sampled_from(NoBayesWhy)
)
acquaintances = st.builds(Acquaintance, st.floats(-MOST_HAM, MOST_SPAM))


@pytest.mark.parametrize(
    ("carried", "bayes", "folder", "status"),
    [
        (
            milter(4.10),
            Bayes(3.13, 0.994),
            Folder.JUNK,
            "Yes, score=7.23 required=6.00 milter=4.10 bayes=3.13 (99.4%)",
        ),
        (
            milter(6.0),
            NoBayes(NoBayesWhy.NO_OPINION),
            Folder.JUNK,
            "Yes, score=6.00 required=6.00 milter=6.00 bayes=none (no opinion)",
        ),
        (
            milter(7.0),
            Bayes(-4.0, 0.001),
            Folder.INBOX,
            "No, score=3.00 required=6.00 milter=7.00 bayes=-4.00 (0.1%)",
        ),
        (
            NoScore(Why.ABSENT),
            Bayes(8.0, 1.0),
            Folder.INBOX,
            "No, score=8.00 required=6.00 milter=none (absent) bayes=8.00 (100.0%)",
        ),
        (
            NoScore(Why.BAD_SIGNATURE),
            NoBayes(NoBayesWhy.UNAVAILABLE),
            Folder.INBOX,
            "No, score=0.00 required=6.00 milter=none (bad signature) bayes=none (unavailable)",
        ),
    ],
)
def test_the_verdict_and_its_line(
    carried: MilterScore | NoScore, bayes: Bayes | NoBayes, folder: Folder, status: str
) -> None:
    """Each row of the policy gives its folder and says why."""
    verdict = decide(carried, bayes, 6.0)
    assert verdict.folder is folder
    assert verdict.status() == status


@pytest.mark.parametrize(
    ("carried", "scanned", "honour", "folder", "reason"),
    [
        (milter(7.0), None, False, Folder.JUNK, Reason.SUM),
        (milter(5.0), None, False, Folder.INBOX, Reason.SUM),
        (milter(5.0, "add header"), None, False, Folder.INBOX, Reason.SUM),
        (milter(5.0, "add header"), None, True, Folder.JUNK, Reason.ACTION),
        (milter(5.0, "rewrite subject"), None, True, Folder.JUNK, Reason.ACTION),
        (milter(5.0, "greylist"), None, True, Folder.INBOX, Reason.SUM),
        (milter(99, "no action", Course.PASSTHROUGH), None, True, Folder.INBOX, Reason.PASSTHROUGH),
        (milter(0, "add header", Course.PASSTHROUGH), None, False, Folder.JUNK, Reason.PASSTHROUGH),
        (milter(99, "add header", Course.SKIPPED), None, True, Folder.INBOX, Reason.SKIPPED),
        (milter(0), scan(99), False, Folder.INBOX, Reason.SUM),
        (NoScore(Why.ABSENT), scan(7.0), False, Folder.JUNK, Reason.SUM),
        (NoScore(Why.EXPIRED), scan(5.0), False, Folder.INBOX, Reason.SUM),
        (NoScore(Why.ABSENT), scan(5.0, "add header"), True, Folder.JUNK, Reason.ACTION),
        (NoScore(Why.ABSENT), NoScan(NoScanWhy.OFF), True, Folder.INBOX, Reason.NO_SCORE),
        (NoScore(Why.ABSENT), None, True, Folder.INBOX, Reason.NO_SCORE),
    ],
)
def test_what_rspamd_said_and_how_it_came_to_it_decides(
    carried: MilterScore | NoScore,
    scanned: RspamdScore | NoScan | None,
    honour: bool,
    folder: Folder,
    reason: Reason,
) -> None:
    """Each row of the policy's table, with a Bayes that is neither for nor against."""
    verdict = decide(carried, Bayes(0.0, 0.5), 6.0, scan=scanned, honour_action=honour)
    assert (verdict.folder, verdict.reason) == (folder, reason)
    own = reason in (Reason.ACTION, Reason.PASSTHROUGH, Reason.SKIPPED)
    assert (f" reason={reason.value}" in verdict.status()) == own


def test_a_blend_says_what_it_was_made_of() -> None:
    """Both opinions stand in the line, and that the user has none."""
    shared = Opinion(0.4, 50, 50)
    own = decide(milter(0), Bayes(4.0, 0.9, Opinion(0.99, 9, 9), shared), 6.0).status()
    assert own.endswith("bayes=4.00 (90.0%, own 99.0%, shared 40.0%)")
    young = Opinion(None, 1, 0)
    assert "(40.0%, own silent, shared 40.0%)" in (
        decide(milter(0), Bayes(-1.0, 0.4, young, shared), 6.0).status()
    )
    assert "(90.0%, own 99.0%)" in (
        decide(milter(0), Bayes(4.0, 0.9, Opinion(0.99, 9, 9)), 6.0).status()
    )


def test_a_full_scan_stands_beside_the_reason_why_it_was_made() -> None:
    """Who reads the line sees that the score is not the milter's."""
    line = decide(NoScore(Why.ABSENT), Bayes(1.0, 0.9), 6.0, scan=scan(2.5)).status()
    assert line == (
        "No, score=3.50 required=6.00 milter=none (absent) scan=2.50 bayes=1.00 (90.0%)"
    )


@given(unverified, opinions, st.sampled_from(NoScanWhy), scores, st.booleans())
def test_losing_every_score_never_puts_a_message_into_junk(
    carried: NoScore, bayes: Bayes | NoBayes, why: NoScanWhy, threshold: float, honour: bool
) -> None:
    """A failure in the milter pass and in the scan in its place cannot quarantine anything."""
    for scanned in (None, NoScan(why)):
        verdict = decide(carried, bayes, threshold, scan=scanned, honour_action=honour)
        assert verdict.folder is Folder.INBOX


@given(milters, scans, opinions, st.sampled_from(NoBayesWhy), scores, st.booleans())
def test_a_failure_of_bayes_condemns_nothing_that_a_neutral_bayes_would_not(
    carried: MilterScore | NoScore,
    scanned: RspamdScore | NoScan | None,
    bayes: Bayes | NoBayes,
    why: NoBayesWhy,
    threshold: float,
    honour: bool,
) -> None:
    """Without Bayes the objective score alone decides, and every verdict is one of two folders."""
    decided = functools.partial(
        decide, carried, threshold=threshold, scan=scanned, honour_action=honour
    )
    assert decided(NoBayes(why)).folder is decided(Bayes(0.0, 0.5)).folder
    assert decided(bayes).folder in (Folder.INBOX, Folder.JUNK)


@given(milters, scans, opinions, acquaintances, scores, st.booleans())
def test_what_failed_condemns_nothing_whatever_it_might_have_said(
    carried: MilterScore | NoScore,
    scanned: RspamdScore | NoScan | None,
    bayes: Bayes | NoBayes,
    known: Acquaintance,
    threshold: float,
    honour: bool,
) -> None:
    """Junk is then what every answer would have come to, or what the score alone says."""
    decided = functools.partial(
        decide, carried, threshold=threshold, scan=scanned, honour_action=honour
    )
    alone = decided(NoBayes(NoBayesWhy.UNAVAILABLE)).folder
    for why in NoAcquaintanceWhy:
        lost = decided(bayes, acquaintance=NoAcquaintance(why)).folder
        assert Folder.INBOX in (lost, alone) or lost is alone
        if lost is Folder.JUNK is not alone:
            assert decided(bayes, acquaintance=known).folder is Folder.JUNK
    for failure in (NoBayesWhy.UNAVAILABLE, NoBayesWhy.DEADLINE):
        if decided(NoBayes(failure), acquaintance=known).folder is Folder.JUNK:
            assert alone is Folder.JUNK


def test_an_acquaintance_is_a_part_of_the_sum() -> None:
    """It turns verdicts round both ways, with and without an opinion of Bayes."""
    met = Past(said_spam=1)
    known = Acquaintance(8.0, ((Trait(Kind.LIST, "a.example"), met),))
    verdict = decide(milter(1.0), Bayes(-2.0, 0.4), 6.0, acquaintance=known)
    assert verdict.folder is Folder.JUNK
    assert verdict.status() == (
        "Yes, score=7.00 required=6.00 milter=1.00 bayes=-2.00 (40.0%) acquaintance=8.00"
    )
    silent = decide(milter(1.0), NoBayes(NoBayesWhy.NO_OPINION), 6.0, acquaintance=known)
    assert (silent.folder, silent.reason) == (Folder.JUNK, Reason.ACQUAINTANCE)
    good = decide(milter(7.0), Bayes(0.5, 0.5), 6.0, acquaintance=Acquaintance(-3.0))
    assert good.folder is Folder.INBOX
    lost = NoAcquaintance(NoAcquaintanceWhy.UNAVAILABLE)
    assert decide(milter(1.0), Bayes(6.0, 0.8), 6.0, acquaintance=lost).status() == (
        "No, score=4.00 required=6.00 milter=1.00 bayes=6.00 (80.0%)"
        " acquaintance=-3.00 (unavailable)"
    )


@given(milters, scans, opinions, acquaintances, scores, st.booleans())
def test_the_status_is_one_ascii_line_and_the_confidence_a_share(
    carried: MilterScore | NoScore,
    scanned: RspamdScore | NoScan | None,
    bayes: Bayes | NoBayes,
    known: Acquaintance,
    threshold: float,
    honour: bool,
) -> None:
    """The line goes into a header and into Sieve: nothing in it may break either."""
    verdict = decide(
        carried, bayes, threshold, scan=scanned, honour_action=honour, acquaintance=known
    )
    status = verdict.status()
    assert status.isascii()
    assert "\n" not in status
    assert len(status) < 250
    assert 0.0 <= verdict.confidence <= 1.0
