"""From a milter score and a Bayes opinion to a verdict. Pure.

===================  =====================  =======================================
milter score         Bayes                  verdict
===================  =====================  =======================================
verified             has an opinion         Junk if the sum reaches the threshold
verified             none, for any reason   Junk if the milter score alone reaches it
none, for any reason anything               INBOX
===================  =====================  =======================================

Without a verified milter score nothing goes to Junk: a user's Bayes may well
outvote the objective score, but when that score is missing because something
failed, it might have been the one thing that spoke for the message. And no
verdict rejects: the message has been accepted long ago.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mailhooks.score import MilterScore, NoScore

SURELY_HAM_SHARE = 1 / 3
"""A sum up to this part of the threshold is far below it."""


class Folder(enum.Enum):
    """Where a message goes."""

    INBOX = "inbox"
    JUNK = "junk"


class NoBayesWhy(enum.Enum):
    """Why there is no Bayes opinion to count."""

    NO_OPINION = "no opinion"
    UNAVAILABLE = "unavailable"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class Bayes:
    """One user's Bayes opinion.

    Attributes:
        score: points Rspamd gives for it.
        probability: that the message is spam to this user, 0 to 1.
    """

    score: float
    probability: float


@dataclass(frozen=True, slots=True)
class NoBayes:
    """There is no Bayes opinion to count, and why."""

    why: NoBayesWhy


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens to one recipient's copy.

    Attributes:
        folder: where it goes.
        score: the sum that was compared.
        threshold: what it was compared with.
        milter: the carried score, or why there is none.
        bayes: the user's Bayes opinion, or why there is none.
    """

    folder: Folder
    score: float
    threshold: float
    milter: MilterScore | NoScore
    bayes: Bayes | NoBayes

    @property
    def is_surely_ham(self) -> bool:
        """Whether nothing speaks against the message, so that it may train as ham by itself.

        A verified milter score, a sum far below the threshold, and no leaning
        of the user's Bayes towards spam: a missed spam must not teach.
        """
        return (
            self.folder is Folder.INBOX
            and isinstance(self.milter, MilterScore)
            and self.score <= self.threshold * SURELY_HAM_SHARE
            and (isinstance(self.bayes, NoBayes) or self.bayes.probability < 0.5)  # noqa: PLR2004
        )

    def status(self) -> str:
        """The verdict on one line, for the header ``X-Spam-Status``.

        Such as ``Yes, score=7.23 required=6.00 milter=4.10 bayes=3.13 (99.4%)``;
        a part that is missing says why, such as ``milter=none (absent)``.
        """
        milter = (
            f"{self.milter.score:.2f}"
            if isinstance(self.milter, MilterScore)
            else f"none ({self.milter.why.value})"
        )
        bayes = (
            f"{self.bayes.score:.2f} ({self.bayes.probability:.1%})"
            if isinstance(self.bayes, Bayes)
            else f"none ({self.bayes.why.value})"
        )
        return (
            f"{'Yes' if self.folder is Folder.JUNK else 'No'}, score={self.score:.2f} "
            f"required={self.threshold:.2f} milter={milter} bayes={bayes}"
        )


def decide(milter: MilterScore | NoScore, bayes: Bayes | NoBayes, threshold: float) -> Verdict:
    """Decide about one recipient's copy; the table at the top of this module."""
    total = 0.0
    if isinstance(milter, MilterScore):
        total += milter.score
    if isinstance(bayes, Bayes):
        total += bayes.score
    condemned = isinstance(milter, MilterScore) and total >= threshold
    return Verdict(Folder.JUNK if condemned else Folder.INBOX, total, threshold, milter, bayes)
