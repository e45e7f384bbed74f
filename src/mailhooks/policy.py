"""From an objective score and Bayes to a verdict. Pure.

The objective score is Rspamd's judgement without Bayes: the carried milter
score if it is verified, else one full scan at delivery, if there was one.

==========================  ==============  ==========================================
objective score             Bayes           verdict
==========================  ==============  ==========================================
scored                      has an opinion  Junk if the sum reaches the threshold
scored                      none            Junk if the score alone reaches it
scored                      either, and the user has met the list or sender: their points
                                            belong to the sum, see below
scored, action add header   anything        Junk, with ``honour_action``
passthrough, add header     anything        Junk: a module of Rspamd said so by itself
passthrough, else           anything        INBOX: a module of Rspamd let it pass
skipped                     anything        INBOX: Rspamd was told not to judge it
none, for any reason        anything        INBOX
==========================  ==============  ==========================================

"Add header" stands for "rewrite subject" too. A user's acquaintance with list
and sender (:mod:`mailhooks.acquaintance`) adds to the sum like Bayes, and what
failed of the two speaks for the message as far as it might have spoken: where
Bayes failed an acquaintance counts only for the message, and where the
acquaintance failed its most points for the message are taken from Bayes', down
to what the score says alone. Without an objective score
nothing goes to Junk: a user's Bayes may well outvote that score, but when it is
missing because something failed, it might have been the one thing that spoke
for the message. And no verdict rejects: the message has been accepted long ago.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailhooks.acquaintance import MOST_HAM, Acquaintance, NoAcquaintance
from mailhooks.score import Course, MilterScore, NoScore, RspamdScore

if TYPE_CHECKING:
    from mailhooks.bayes import Opinion

JUNK_ACTIONS = frozenset({"add header", "rewrite subject"})
"""Rspamd's words for mail that is accepted and marked (``src/libserver/cfg_file.h``)."""


class Folder(enum.Enum):
    """Where a message goes."""

    INBOX = "inbox"
    JUNK = "junk"


class NoBayesWhy(enum.Enum):
    """Why there is no Bayes opinion to count."""

    NO_OPINION = "no opinion"
    UNAVAILABLE = "unavailable"
    DEADLINE = "deadline"


class NoScanWhy(enum.Enum):
    """Why a message without a verified milter score was not scanned at delivery either."""

    OFF = "off"
    UNAVAILABLE = "unavailable"
    DEADLINE = "deadline"


class Reason(enum.Enum):
    """Which row of the policy decided."""

    SUM = "score and Bayes"
    ACQUAINTANCE = "score and acquaintance"
    SCORE_ALONE = "score alone"
    ACTION = "Rspamd's action"
    PASSTHROUGH = "passthrough"
    SKIPPED = "scan skipped"
    NO_SCORE = "no score"


_RSPAMDS_OWN = frozenset({Reason.ACTION, Reason.PASSTHROUGH, Reason.SKIPPED})


@dataclass(frozen=True, slots=True)
class Bayes:
    """What Bayes says of a message to one user.

    Attributes:
        score: points that are added to the objective score.
        probability: that the message is spam to this user, 0 to 1.
        own: the opinion of the user's own statistics.
        shared: that of the statistics all users share; None where there are none.
    """

    score: float
    probability: float
    own: Opinion | None = None
    shared: Opinion | None = None


@dataclass(frozen=True, slots=True)
class NoBayes:
    """There is no Bayes opinion to count, and why."""

    why: NoBayesWhy


@dataclass(frozen=True, slots=True)
class NoScan:
    """There was no full scan at delivery, and why."""

    why: NoScanWhy


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What happens to one recipient's copy.

    Attributes:
        folder: where it goes.
        reason: the row of the policy that says so.
        score: the sum that was compared.
        threshold: what it was compared with.
        milter: the carried score, or why there is none.
        scan: the full scan at delivery in its place, or why there was none; None
            if none was needed.
        bayes: Bayes' opinion, or why there is none.
        acquaintance: what the user said of list and sender before, or why nobody knows; None if
            it was not asked for, or the message has neither.
        acquaintance_points: what that added to the sum.
    """

    folder: Folder
    reason: Reason
    score: float
    threshold: float
    milter: MilterScore | NoScore
    scan: RspamdScore | NoScan | None
    bayes: Bayes | NoBayes
    acquaintance: Acquaintance | NoAcquaintance | None = None
    acquaintance_points: float = 0.0

    @property
    def objective(self) -> RspamdScore | None:
        """The score the sum began with."""
        return _objective(self.milter, self.scan)

    @property
    def confidence(self) -> float:
        """How far the verdict is from the other one, 0 to 1.

        The distance of the sum from the threshold, as a part of the threshold;
        1 where Rspamd itself decided, 0 where nothing was known.
        """
        if self.reason is Reason.NO_SCORE:
            return 0.0
        if self.reason in _RSPAMDS_OWN:
            return 1.0
        return min(1.0, abs(self.score - self.threshold) / max(abs(self.threshold), 1.0))

    def status(self) -> str:
        """The verdict on one line of ASCII, for the header ``X-Spam-Status``.

        Such as ``Yes, score=7.23 required=6.00 milter=4.10 bayes=3.13 (99.4%)``;
        a part that is missing says why, such as ``milter=none (absent)``, and
        ``reason=`` follows where the sum did not decide. ``score`` and
        ``required`` stay where they are: Dovecot's spamtest reads them.
        """
        parts = [
            f"{'Yes' if self.folder is Folder.JUNK else 'No'}, score={self.score:.2f}",
            f"required={self.threshold:.2f}",
            f"milter={self.milter.score:.2f}"
            if isinstance(self.milter, MilterScore)
            else f"milter=none ({self.milter.why.value})",
        ]
        if self.scan is not None:
            parts.append(
                f"scan=none ({self.scan.why.value})"
                if isinstance(self.scan, NoScan)
                else f"scan={self.scan.score:.2f}"
            )
        parts.append(_bayes_text(self.bayes))
        if isinstance(self.acquaintance, NoAcquaintance):
            why = self.acquaintance.why.value
            parts.append(f"acquaintance={self.acquaintance_points:.2f} ({why})")
        elif self.acquaintance is not None and self.acquaintance.known:
            parts.append(f"acquaintance={self.acquaintance_points:.2f}")
        if self.reason in _RSPAMDS_OWN:
            parts.append(f"reason={self.reason.value}")
        return " ".join(parts)


def decide(
    milter: MilterScore | NoScore,
    bayes: Bayes | NoBayes,
    threshold: float,
    *,
    scan: RspamdScore | NoScan | None = None,
    honour_action: bool = False,
    acquaintance: Acquaintance | NoAcquaintance | None = None,
) -> Verdict:
    """Decide about one recipient's copy; the table at the top of this module.

    Args:
        milter: the carried score.
        bayes: what Bayes says to this recipient.
        threshold: points from which mail is junk.
        scan: a full scan at delivery; counts only without a milter score.
        honour_action: whether Rspamd's own "add header" is enough.
        acquaintance: what the user said of list and sender before; None if nobody asked.
    """
    objective = _objective(milter, scan)
    total = objective.score if objective is not None else 0.0
    if isinstance(bayes, Bayes):
        total += bayes.score
    known = _acquaintance_points(bayes, acquaintance)
    total += known
    junk = False
    if objective is None:
        reason = Reason.NO_SCORE
    elif objective.course is Course.SKIPPED:
        reason = Reason.SKIPPED
    elif objective.course is Course.PASSTHROUGH:
        reason = Reason.PASSTHROUGH
        junk = objective.action in JUNK_ACTIONS
    elif honour_action and objective.action in JUNK_ACTIONS:
        reason, junk = Reason.ACTION, True
    else:
        if isinstance(bayes, Bayes):
            reason = Reason.SUM
        else:
            reason = Reason.ACQUAINTANCE if known else Reason.SCORE_ALONE
        junk = total >= threshold
    return Verdict(
        folder=Folder.JUNK if junk else Folder.INBOX,
        reason=reason,
        score=total,
        threshold=threshold,
        milter=milter,
        scan=None if isinstance(milter, MilterScore) else scan,
        bayes=bayes,
        acquaintance=acquaintance,
        acquaintance_points=known,
    )


def _acquaintance_points(
    bayes: Bayes | NoBayes, acquaintance: Acquaintance | NoAcquaintance | None
) -> float:
    """What it adds; what failed counts as having spoken for the message."""
    if isinstance(acquaintance, Acquaintance):
        has_failed = isinstance(bayes, NoBayes) and bayes.why is not NoBayesWhy.NO_OPINION
        return min(0.0, acquaintance.points) if has_failed else acquaintance.points
    if acquaintance is None or isinstance(bayes, NoBayes):
        return 0.0
    return -min(MOST_HAM, max(0.0, bayes.score))


def _objective(
    milter: MilterScore | NoScore, scan: RspamdScore | NoScan | None
) -> RspamdScore | None:
    if isinstance(milter, MilterScore):
        return milter
    return scan if isinstance(scan, RspamdScore) else None


def _bayes_text(bayes: Bayes | NoBayes) -> str:
    if isinstance(bayes, NoBayes):
        return f"bayes=none ({bayes.why.value})"
    parts = [f"{bayes.probability:.1%}"]
    for whose, opinion in (("own", bayes.own), ("shared", bayes.shared)):
        if opinion is not None:
            silent = opinion.probability is None
            parts.append(f"{whose} " + ("silent" if silent else f"{opinion.probability:.1%}"))
    return f"bayes={bayes.score:.2f} ({', '.join(parts)})"
