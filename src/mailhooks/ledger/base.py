"""What a ledger knows and what it promises, whatever it is kept in."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from mailhooks.rspamd import LearnStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mailhooks.lesson import Lesson

WEEK_S = 7 * 24 * 3600
"""The unit in which corrections are counted."""


class Outcome(enum.Enum):
    """How a sample ended; what may still succeed is in the spool, not here."""

    LEARNED = "learned"
    ALREADY_LEARNED = "already-learned"
    REFUSED = "refused"

    @classmethod
    def of(cls, status: LearnStatus) -> Outcome:
        """What is noted of Rspamd's final answer."""
        return _OUTCOMES.get(status, cls.REFUSED)

    @property
    def confirmed(self) -> bool:
        """Whether Rspamd's statistics now hold the lesson."""
        return self is not Outcome.REFUSED


_OUTCOMES = {
    LearnStatus.LEARNED: Outcome.LEARNED,
    LearnStatus.ALREADY_LEARNED: Outcome.ALREADY_LEARNED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Rspamd's last word on one sample.

    Attributes:
        user: the Dovecot user whose statistics are meant.
        digest: of the message's content.
        lesson: what it was to be learned as.
        outcome: what became of it.
        origin: what made the sample, such as ``move`` or ``delivery``.
        detail: the reason of a refusal; never anything out of the message.
        time: seconds since the epoch.
    """

    user: str
    digest: str
    lesson: Lesson
    outcome: Outcome
    origin: str
    time: float
    detail: str = ""

    def corrects(self, held: Lesson | None) -> bool:
        """Whether it turns round what the statistics held before."""
        return self.outcome.confirmed and held is self.lesson.opposite


@dataclass(frozen=True, slots=True)
class Taught:
    """All that matters of one message of one user.

    Attributes:
        held: what Rspamd's statistics hold it as; None if every attempt was refused.
        last: the answer recorded last, be it a refusal that left ``held`` as it was.
    """

    held: Lesson | None
    last: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """One user's figures.

    Attributes:
        spam: distinct messages held as spam now.
        ham: distinct messages held as ham now.
        outcomes: answers since the time asked for; an outcome without any is left out.
        corrections: opposite lessons after earlier ones since then, by whole weeks after it: 0
            is the first week; a week without any is left out.
    """

    spam: int = 0
    ham: int = 0
    outcomes: Mapping[Outcome, int] = field(default_factory=dict)
    corrections: Mapping[int, int] = field(default_factory=dict)


class Ledger(Protocol):
    """What each user was taught; written by the worker, read by everybody.

    Every method blocks, so call it in a thread (``asyncio.to_thread``); any
    thread may call any method at any time. Several processes may have the
    same ledger open. What a method wrote survives kill -9 once it returned.
    Every method raises `mailhooks.errors.LedgerError` if the ledger cannot be
    read or written; nothing of that call is then written.

    Answers about one message count in the order in which they are recorded,
    so whoever sends two lessons on one message must not send them at once.
    """

    def record(self, *answers: Answer) -> int:
        """Write answers down, all of them or none; returns how many were corrections.

        A refusal becomes the last answer but does not change what is held.
        """
        ...

    def taught(self, user: str, digest: str) -> Taught | None:
        """What this user was taught of this message; None if there never was an answer."""
        ...

    def counts(self, user: str | None = None, *, since: float = 0.0) -> dict[str, Counts]:
        """Figures by user, in order of their names; users not in the ledger are left out.

        Args:
            user: only this one; None for all.
            since: outcomes and corrections are counted from here on, in seconds since the epoch.
        """
        ...

    def users(self) -> list[str]:
        """Everybody the ledger knows, sorted."""
        ...

    def forget(self, user: str) -> int:
        """Remove everything about a user; returns how many messages were known of them."""
        ...

    def prune(self, before: float) -> int:
        """Remove messages whose last answer is older, and stale attempts.

        Others may read and write meanwhile. An error may leave it half done; call it again.

        Args:
            before: seconds since the epoch.

        Returns:
            How many messages were removed.
        """
        ...

    def begin_attempt(self, sample: str, learns: int | None = None) -> int:
        """Note that a sample is about to be handled, in case that kills the process.

        Args:
            sample: its name in the spool.
            learns: how many messages of its class the user's statistics count just
                now; a higher count tells afterwards that the sample was learned.

        Returns:
            How often it was begun without an end, this time included: 1 for a good one, 4 for
            one that was under way when three processes died.
        """
        ...

    def learns_before(self, sample: str) -> int | None:
        """The count noted when a sample that was not ended was last begun, if there is one."""
        ...

    def forget_learns(self, sample: str) -> None:
        """Forget the count noted with a sample, because from now on it proves nothing."""
        ...

    def attempts(self) -> dict[str, int]:
        """Samples that were begun and not ended, and how often; asked for when a process starts."""
        ...

    def end_attempt(self, sample: str) -> None:
        """Note that the process outlived a sample, whatever came of it; harmless to repeat."""
        ...

    def close(self) -> None:
        """Let go of the file; harmless to repeat. Afterwards every other method fails."""
        ...
