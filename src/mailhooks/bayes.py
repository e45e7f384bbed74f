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
