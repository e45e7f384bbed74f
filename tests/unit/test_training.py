"""Which deliveries train by themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhooks.lesson import Lesson
from mailhooks.training import HAM_AHEAD, HAM_TIMES, SPAM_AHEAD, Delivery, Mode, trains

GOOD = Delivery(
    is_junk=False, probability=None, milter=0.5, threshold=6.0, points=0.0, spam=0, ham=0
)
CONDEMNED = replace(GOOD, is_junk=True, milter=9.0)


def test_off_never_trains() -> None:
    """Neither good nor bad mail."""
    assert trains(Mode.OFF, GOOD) is trains(Mode.OFF, CONDEMNED) is None


def test_all_trains_the_whole_inbox() -> None:
    """And nothing of Junk."""
    assert trains(Mode.ALL, replace(GOOD, milter=None, probability=0.7)) is Lesson.HAM
    assert trains(Mode.ALL, CONDEMNED) is None


@pytest.mark.parametrize(
    "change", [{"milter": 2.1}, {"milter": None}, {"probability": 0.5}, {"points": 2.0}]
)
def test_confident_trains_what_nothing_speaks_against(change: dict[str, float | None]) -> None:
    """A third of the threshold, a verified score, and no leaning to spam."""
    assert trains(Mode.CONFIDENT, GOOD) is Lesson.HAM
    assert trains(Mode.CONFIDENT, CONDEMNED) is None
    assert trains(Mode.CONFIDENT, replace(GOOD, **change)) is None  # type: ignore[arg-type]


def test_balanced_begins_with_nothing_learned() -> None:
    """Else good mail would never be learned, and Bayes never speak."""
    assert trains(Mode.BALANCED, GOOD) is Lesson.HAM
    assert trains(Mode.BALANCED, CONDEMNED, spam_too=True) is Lesson.SPAM


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_balanced_keeps_the_classes_near_each_other(spam: int, ham: int) -> None:
    """A class that is ahead waits for the other one."""
    counts = {"spam": spam, "ham": ham}
    good = trains(Mode.BALANCED, replace(GOOD, **counts))  # type: ignore[arg-type]
    condemned = replace(CONDEMNED, **counts)  # type: ignore[arg-type]
    bad = trains(Mode.BALANCED, condemned, spam_too=True)
    assert (good is Lesson.HAM) == (ham - spam < HAM_AHEAD)
    assert (bad is Lesson.SPAM) == (spam - ham < SPAM_AHEAD)


def test_balanced_passes_over_what_bayes_is_sure_of() -> None:
    """There is nothing to learn from it."""
    assert trains(Mode.BALANCED, replace(GOOD, probability=0.001)) is None
    assert trains(Mode.BALANCED, replace(CONDEMNED, probability=0.999), spam_too=True) is None


@pytest.mark.parametrize(
    "surprise", [{"milter": 9.0, "points": -8.0, "probability": 0.001}, {"probability": 0.4}]
)
def test_balanced_learns_good_mail_that_nearly_went_to_junk_beyond_the_balance(
    surprise: dict[str, float],
) -> None:
    """Few others want it, so the next one like it is in danger; but there is a limit, too."""
    usual = replace(GOOD, spam=100, ham=100 + HAM_AHEAD, probability=0.2)
    assert trains(Mode.BALANCED, usual) is None
    assert trains(Mode.BALANCED, replace(usual, probability=None)) is None
    surprising = replace(usual, **surprise)  # type: ignore[arg-type]
    assert trains(Mode.BALANCED, surprising) is Lesson.HAM
    full = replace(surprising, ham=100 * HAM_TIMES + HAM_AHEAD)
    assert trains(Mode.BALANCED, full) is None


def test_balanced_learns_spam_only_from_what_the_milter_score_condemns() -> None:
    """What only this user's Bayes put into Junk must not confirm itself."""
    by_bayes = replace(CONDEMNED, milter=5.9, points=8.0, probability=0.9)
    assert trains(Mode.BALANCED, by_bayes, spam_too=True) is None


def test_balanced_trains_ham_alone_unless_spam_is_wanted() -> None:
    """What the milter score condemns then waits for a person's word."""
    assert trains(Mode.BALANCED, CONDEMNED) is None
    assert trains(Mode.BALANCED, GOOD) is Lesson.HAM


def test_balanced_needs_a_verified_score() -> None:
    """What nobody has judged may be anything."""
    assert trains(Mode.BALANCED, replace(GOOD, milter=None)) is None
