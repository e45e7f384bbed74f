"""One probability from a user's own statistics and the shared ones, and its points. Pure.

How much each opinion counts follows from its evidence, the number of learned
messages of its smaller class, since Bayes knows no more than that one tells it:

    own weight    w = n / (n + OWN_HALF)          n: evidence of the user's own
    shared weight (1 - w) * m / (m + SHARED_HALF) m: evidence of the shared ones

Both add up in log-odds. So nobody's verdict changes overnight: statistics that
are young speak softly, the shared ones fade as the user's own grow, and what
nobody knows stays at one half, which is no points at all.

The constants are those that won in ``make accuracy``; see docs/accuracy.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

OWN_HALF: Final = 5
"""Evidence at which a user's own opinion counts half."""

SHARED_HALF: Final = 50
"""Evidence at which the shared opinion counts half of what the own one leaves."""

POINTS_PER_LOGIT: Final = 5.0
"""Points for each unit of log-odds: a probability of 77 % makes the usual threshold of 6."""

MOST_POINTS: Final = 12.0
"""The most points for or against: twice the usual threshold.

A user who is sure must be able to outvote the milter score both ways. Mailing
lists go down to some -5 points, offers that somebody wants up to 15.
"""

CAUTION: Final = 6.0
"""Points that an opinion must be surer of spam by, where a user's own statistics know much.

A good message in Junk is worse than spam in INBOX. Young statistics cannot afford it: they
would abstain, and learn less.
"""

CAUTION_HALF: Final = 100
"""Evidence of the user's own statistics at which half of that is asked for.

It grows with the square: of a quarter as much evidence, a seventeenth.
"""

SUREST: Final = 5e-5
"""How near to 0 or 1 a probability counts: Rspamd prints no finer ones."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one set of statistics says of one message, and how much it has learned.

    Attributes:
        probability: of spam, 0 to 1; None if it is silent, for want of learned
            messages or because the message looks like neither.
        spam: messages learned as spam.
        ham: messages learned as ham.
    """

    probability: float | None
    spam: int
    ham: int

    @property
    def evidence(self) -> int:
        """Learned messages of the smaller class; Rspamd 3.4 may count below zero."""
        return max(0, min(self.spam, self.ham))


def own_weight(own: Opinion | None) -> float:
    """How much of the blend is the user's own, 0 to 1; the shared opinion has the rest."""
    evidence = own.evidence if own else 0
    return evidence / (evidence + OWN_HALF)


def blend(own: Opinion | None, shared: Opinion | None) -> float | None:
    """The probability of spam, 0 to 1, or None if neither opinion speaks.

    Args:
        own: of the user's statistics; None if they were not asked or did not answer.
        shared: of the statistics that all users share; likewise.
    """
    if all(it is None or it.probability is None for it in (own, shared)):
        return None
    weight = own_weight(own)
    logit = weight * _logit(own)
    if shared is not None:
        evidence = shared.evidence
        logit += (1 - weight) * evidence / (evidence + SHARED_HALF) * _logit(shared)
    return 1 / (1 + math.exp(-logit))


def points(probability: float | None, own: Opinion | None = None) -> float:
    """Points to add to the milter score: positive for spam, zero for None.

    Args:
        probability: of spam, blended.
        own: the user's own statistics, whose evidence makes cautious.
    """
    if probability is None:
        return 0.0
    evidence = own.evidence if own else 0
    caution = CAUTION * evidence**2 / (evidence**2 + CAUTION_HALF**2)
    raw = POINTS_PER_LOGIT * _logit_of(probability) - caution
    return max(-MOST_POINTS, min(MOST_POINTS, raw))


def _logit(opinion: Opinion | None) -> float:
    if opinion is None or opinion.probability is None:
        return 0.0
    return _logit_of(opinion.probability)


def _logit_of(probability: float) -> float:
    bounded = max(SUREST, min(1 - SUREST, probability))
    return math.log(bounded / (1 - bounded))
