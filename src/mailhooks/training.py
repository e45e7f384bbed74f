"""Which deliveries train a user's statistics by themselves. Pure.

Corrections alone deadlock: an abstention leaves mail in INBOX, so good mail is
never corrected, ham is never learned, and Bayes never speaks. So a delivery may
train, too, as what it was filed as, once it has been left there for a while:
the caller lets the sample wait, and a move within that time wins.

``balanced``, the default:

- as ham, what went to INBOX, while the user's ham is not more than spam by
  ``HAM_AHEAD`` messages, and only if Bayes is not sure of it already;
- as ham as well, until it is some ``HAM_TIMES`` as much as spam, what went to INBOX by a narrow
  margin: what Bayes does not even lean to call ham, and what the milter score alone would have
  put into Junk, however sure Bayes is. It is what a user wants and others do not, and the next
  one like it may end in Junk;
- as spam, if that is wanted, what went to Junk and the milter score
  alone condemns, while spam is not ahead of ham by ``SPAM_AHEAD`` messages, and
  only if Bayes is not sure of it already.

Balance keeps one class from drowning the other, and bounds how many samples wait.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from mailhooks.lesson import Lesson

HAM_AHEAD: Final = 40
"""Ham trains while it is not ahead of spam by so many messages: enough to begin with."""

HAM_TIMES: Final = 2
"""Ham that surprises trains until there is so many times as much of it as spam."""

SPAM_AHEAD: Final = 10
"""Likewise for spam, of which corrections bring more by themselves."""

SURE: Final = 0.1
"""Nearer to 0 or 1 than that, a probability has nothing to learn from the message."""

SURPRISING: Final = 0.3
"""Bayes does not lean to call that ham; where it says nothing, nothing is surprising."""

SETTLE_S: Final = 3 * 86400.0
"""Seconds a delivery is left alone before it trains, so that corrections come first."""

AGREEING: Final = 2
"""Users who must have taught a message the same before the shared statistics learn it."""

CONFIDENT_SHARE: Final = 1 / 3
"""A sum up to this part of the threshold is far below it."""


class Mode(enum.Enum):
    """Which deliveries train."""

    OFF = "off"
    CONFIDENT = "confident"
    ALL = "all"
    BALANCED = "balanced"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivered copy, and what its user's statistics hold.

    Attributes:
        is_junk: whether it was filed into Junk.
        probability: of spam, blended; None if Bayes is silent.
        milter: the milter score; None if there is none that was verified.
        threshold: the sum from which mail goes to Junk.
        points: added to the milter score.
        spam: messages learned as spam, and samples of spam that wait.
        ham: likewise for ham.
    """

    is_junk: bool
    probability: float | None
    milter: float | None
    threshold: float
    points: float
    spam: int
    ham: int


def trains(mode: Mode, delivery: Delivery, *, spam_too: bool = False) -> Lesson | None:
    """What a delivery is to be learned as once it has settled; None if it teaches nothing.

    Without a verified milter score only ``all`` trains: what nobody has judged may be anything.

    Args:
        mode: which deliveries train.
        delivery: the one in question.
        spam_too: whether ``balanced`` trains spam, as well.
    """
    match mode:
        case Mode.OFF:
            return None
        case Mode.ALL:
            return None if delivery.is_junk else Lesson.HAM
        case Mode.CONFIDENT:
            return Lesson.HAM if _is_surely_ham(delivery) else None
        case Mode.BALANCED:
            lesson = _balanced(delivery)
            return lesson if spam_too or lesson is Lesson.HAM else None


def _is_surely_ham(delivery: Delivery) -> bool:
    return (
        not delivery.is_junk
        and delivery.milter is not None
        and delivery.milter + delivery.points <= delivery.threshold * CONFIDENT_SHARE
        and (delivery.probability is None or delivery.probability < 0.5)  # noqa: PLR2004
    )


def _balanced(delivery: Delivery) -> Lesson | None:
    if delivery.milter is None:
        return None
    probability = 0.5 if delivery.probability is None else delivery.probability
    condemned = delivery.milter >= delivery.threshold
    if not delivery.is_junk:
        if delivery.ham < delivery.spam + HAM_AHEAD and probability >= SURE:
            return Lesson.HAM
        wanted = delivery.ham < HAM_TIMES * delivery.spam + HAM_AHEAD
        surprises = condemned or (delivery.probability or 0.0) >= SURPRISING
        return Lesson.HAM if wanted and surprises else None
    wanted = delivery.spam < delivery.ham + SPAM_AHEAD
    return Lesson.SPAM if wanted and condemned and probability <= 1 - SURE else None
