"""One user's Bayes opinion and the shared one: blended by evidence, turned into points. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one set of statistics says of a message.

    Attributes:
        probability: that it is spam, 0 to 1.
        spam: messages these statistics learned as spam.
        ham: messages they learned as ham.
    """

    probability: float
    spam: int
    ham: int


HALF_TRUSTED_LEARNS = 20
"""After this many learns of the rarer class a user's own opinion weighs half."""

MOST_SPAM_POINTS = 8.0
MOST_HAM_POINTS = 4.0


def blend(own: Opinion | None, shared: Opinion | None) -> float | None:
    """The probability of spam to one user, from both opinions.

    None when there is neither. The user's own weighs n / (n + 20), n being the
    learns of the class there are fewer of, so that no learn changes much at once.
    """
    if own is None or shared is None:
        only = own or shared
        return None if only is None else only.probability
    learns = max(0, min(own.spam, own.ham))
    weight = learns / (learns + HALF_TRUSTED_LEARNS)
    return weight * own.probability + (1 - weight) * shared.probability


def points(probability: float) -> float:
    """Points for a probability of spam, to be added to Rspamd's score: positive for spam."""
    most = MOST_SPAM_POINTS if probability > 0.5 else MOST_HAM_POINTS  # noqa: PLR2004
    return most * (2 * probability - 1)
