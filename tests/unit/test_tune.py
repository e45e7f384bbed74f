from __future__ import annotations

import pytest

from mailhooks.ledger import Decided, Decision, Source
from mailhooks.lesson import Lesson
from mailhooks.policy import Folder, Reason
from mailhooks.tune import ENOUGH_CORRECTIONS, HAM_WEIGHT, Trial, tuning


def decided(
    score: float | None,
    taught: Lesson | None = None,
    *,
    reason: Reason = Reason.SUM,
    threshold: float = 6.0,
    folder: Folder | None = None,
) -> Decided:
    """A decision that the sum made, unless another folder is given."""
    by_sum = Folder.JUNK if score is not None and score >= threshold else Folder.INBOX
    decision = Decision(
        user="ann",
        digest="d",
        time=0.0,
        folder=folder or by_sum,
        reason=reason,
        source=Source.NONE if score is None else Source.CARRIED,
        objective=score,
        threshold=threshold,
    )
    return Decided(decision, taught, None if taught is None else 1.0)


def test_each_threshold_is_tried_on_what_the_user_said() -> None:
    """What was corrected is what the user said, and the rest is as it was filed."""
    cases = [
        decided(7.0),
        decided(6.5, Lesson.HAM),
        decided(4.0, Lesson.SPAM),
        decided(3.0),
        decided(5.5, Lesson.HAM),
    ]
    found = tuning(cases, 6.0, [3.5, 6.6, 8.0])
    assert (found.decisions, found.corrections) == (5, 2)
    assert found.now == Trial(6.0, 1, 1)
    assert found.trials == (Trial(3.5, 2, 0), Trial(6.0, 1, 1), Trial(6.6, 0, 1), Trial(8.0, 0, 2))


def test_a_sum_equal_to_the_threshold_is_junk_as_in_the_policy() -> None:
    """The trial and the delivery agree at the edge."""
    assert tuning([decided(6.0, Lesson.HAM)], 6.0, []).now == Trial(6.0, 1, 0)


@pytest.mark.parametrize(
    ("reason", "folder"),
    [
        (Reason.ACTION, Folder.JUNK),
        (Reason.PASSTHROUGH, Folder.JUNK),
        (Reason.SKIPPED, Folder.INBOX),
        (Reason.NO_SCORE, Folder.INBOX),
    ],
)
def test_what_no_threshold_decided_no_threshold_moves(reason: Reason, folder: Folder) -> None:
    """Rspamd's own decisions and mail without a score stay where they were."""
    score = None if reason is Reason.NO_SCORE else 5.0
    wrong = Lesson.HAM if folder is Folder.JUNK else Lesson.SPAM
    found = tuning([decided(score, wrong, reason=reason, folder=folder)], 6.0)
    assert {(each.ham_in_junk, each.spam_in_inbox) for each in found.trials} == {
        (int(folder is Folder.JUNK), int(folder is Folder.INBOX))
    }


def test_too_few_corrections_name_no_best() -> None:
    """One message more or less would change the answer."""
    few = [decided(4.2, Lesson.SPAM) for _ in range(ENOUGH_CORRECTIONS - 1)]
    assert tuning(few, 6.0).best is None
    best = tuning([*few, decided(4.2, Lesson.SPAM)], 6.0).best
    assert best == Trial(4.0, 0, 0)


def test_good_mail_in_junk_weighs_more_and_of_equals_the_nearest_is_best() -> None:
    """Nobody changes a threshold for nothing."""
    cases = [decided(4.2, Lesson.SPAM) for _ in range(ENOUGH_CORRECTIONS)]
    cases += [decided(4.2) for _ in range(ENOUGH_CORRECTIONS // HAM_WEIGHT)]
    assert tuning(cases, 6.0).best == Trial(6.0, 0, ENOUGH_CORRECTIONS)
    assert tuning(cases[:-1], 6.0).best == Trial(4.0, 3, 0)


def test_no_decisions_are_no_error() -> None:
    """A new user has nothing to tune."""
    found = tuning([], 6.0)
    assert (found.decisions, found.best, found.now) == (0, None, Trial(6.0, 0, 0))
