"""What other thresholds would have done with the mail a user got. Pure.

What the user said of a message is the truth about it; what nobody corrected
counts as right. So the figures favour the threshold there was: a threshold that
moves other mail into Junk is blamed for all of it, though the user might have
been glad.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailhooks.lesson import Lesson
from mailhooks.policy import Folder, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mailhooks.ledger import Decided

GRID = tuple(number / 2 for number in range(4, 31))
"""Thresholds to look at: 2 to 15 points."""

ENOUGH_CORRECTIONS = 20
"""With fewer, one message more or less would change the answer."""

HAM_WEIGHT = 5
"""A good message in Junk is as bad as so many spam messages in INBOX."""

_BY_THRESHOLD = frozenset({Reason.SUM, Reason.ACQUAINTANCE, Reason.SCORE_ALONE})


@dataclass(frozen=True, slots=True)
class Trial:
    """What one threshold would have done.

    Attributes:
        threshold: points.
        ham_in_junk: messages that are ham, in Junk.
        spam_in_inbox: messages that are spam, in INBOX.
    """

    threshold: float
    ham_in_junk: int
    spam_in_inbox: int

    @property
    def cost(self) -> int:
        """How bad that is, in messages of spam in INBOX."""
        return HAM_WEIGHT * self.ham_in_junk + self.spam_in_inbox


@dataclass(frozen=True, slots=True)
class Tuning:
    """What is known of one user's thresholds.

    Attributes:
        decisions: how many there were.
        corrections: how many of them the user turned round.
        now: what the present threshold would have done.
        trials: likewise of each threshold of the grid and of the present one, lowest first.
    """

    decisions: int
    corrections: int
    now: Trial
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial | None:
        """The cheapest threshold, of equal ones the nearest; None with too few corrections."""
        if self.corrections < ENOUGH_CORRECTIONS:
            return None
        return min(
            self.trials,
            key=lambda each: (each.cost, abs(each.threshold - self.now.threshold)),
        )


def tuning(decided: Sequence[Decided], threshold: float, grid: Iterable[float] = GRID) -> Tuning:
    """Try thresholds on what was decided.

    Args:
        decided: of one user.
        threshold: the one that holds now.
        grid: others.
    """
    cases = [_case(each) for each in decided]

    def trial(value: float) -> Trial:
        ham_in_junk = spam_in_inbox = 0
        for total, folder, truth in cases:
            junk = folder is Folder.JUNK if total is None else total >= value
            ham_in_junk += junk and truth is Lesson.HAM
            spam_in_inbox += not junk and truth is Lesson.SPAM
        return Trial(value, ham_in_junk, spam_in_inbox)

    return Tuning(
        len(cases),
        sum(each.corrected for each in decided),
        trial(threshold),
        tuple(trial(value) for value in sorted({*grid, threshold})),
    )


def _case(decided: Decided) -> tuple[float | None, Folder, Lesson]:
    """The sum that a threshold is compared with, or None if none decided; folder; the truth."""
    decision = decided.decision
    total = decision.total if decision.reason in _BY_THRESHOLD else None
    as_filed = Lesson.SPAM if decision.folder is Folder.JUNK else Lesson.HAM
    return total, decision.folder, decided.taught or as_filed
