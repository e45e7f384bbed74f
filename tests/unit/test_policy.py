from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhooks.policy import Bayes, Folder, NoBayes, NoBayesWhy, decide
from mailhooks.score import MilterScore, NoScore, Why


def milter(score: float) -> MilterScore:
    return MilterScore(score, 15.0, "no action", False, (), "4Q", 0)


scores = st.floats(-1000, 1000)
milters = st.builds(milter, scores) | st.builds(NoScore, st.sampled_from(Why))
opinions = st.builds(Bayes, scores, st.floats(0, 1)) | st.builds(
    NoBayes, st.sampled_from(NoBayesWhy)
)


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


@given(milters, opinions, st.sampled_from(Why), scores)
def test_losing_the_milter_score_never_puts_a_message_into_junk(
    carried: MilterScore | NoScore, bayes: Bayes | NoBayes, why: Why, threshold: float
) -> None:
    """A failure in the milter pass cannot quarantine anything."""
    assert decide(NoScore(why), bayes, threshold).folder is Folder.INBOX
    assert decide(carried, bayes, threshold).folder in Folder


@given(milters, st.sampled_from(NoBayesWhy), scores)
def test_without_bayes_only_the_milter_score_alone_condemns(
    carried: MilterScore | NoScore, why: NoBayesWhy, threshold: float
) -> None:
    """A failure of Bayes leaves the verdict to the verified milter score."""
    verdict = decide(carried, NoBayes(why), threshold)
    alone = isinstance(carried, MilterScore) and carried.score >= threshold
    assert (verdict.folder is Folder.JUNK) == alone


@given(milters, opinions, scores)
def test_the_status_is_one_ascii_line(
    carried: MilterScore | NoScore, bayes: Bayes | NoBayes, threshold: float
) -> None:
    """The line goes into a header and into Sieve: nothing in it may break either."""
    status = decide(carried, bayes, threshold).status()
    assert status.isascii()
    assert "\n" not in status
    assert len(status) < 200


@pytest.mark.parametrize(
    ("carried", "bayes", "surely"),
    [
        (milter(0.5), NoBayes(NoBayesWhy.NO_OPINION), True),
        (milter(0.5), Bayes(-3.0, 0.02), True),
        (milter(2.0), NoBayes(NoBayesWhy.UNAVAILABLE), True),
        (milter(2.1), NoBayes(NoBayesWhy.NO_OPINION), False),
        (milter(-5.0), Bayes(0.1, 0.6), False),
        (milter(7.0), NoBayes(NoBayesWhy.NO_OPINION), False),
        (NoScore(Why.ABSENT), Bayes(-4.0, 0.0), False),
    ],
)
def test_only_what_nothing_speaks_against_trains_as_ham_by_itself(
    carried: MilterScore | NoScore, bayes: Bayes | NoBayes, surely: bool
) -> None:
    """A missed spam must not teach that spam is ham."""
    assert decide(carried, bayes, 6.0).is_surely_ham is surely
