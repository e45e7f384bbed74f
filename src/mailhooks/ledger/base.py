"""What a ledger knows and what it promises, whatever it is kept in."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from mailhooks.lesson import Lesson
from mailhooks.policy import Bayes, Folder, NoBayes, NoScan
from mailhooks.rspamd import LearnStatus
from mailhooks.score import MilterScore, NoScore

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from mailhooks.acquaintance import Past, Trait
    from mailhooks.bayes import Opinion
    from mailhooks.policy import Reason, Verdict

WEEK_S = 7 * 24 * 3600
"""The unit in which corrections and verdicts are counted."""

DELIVERY = "delivery"
"""The origin of a lesson that nobody gave: mailhooks itself drew it from a delivery."""


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
        traits: the message's; the user's own word counts for each, whatever Rspamd made of it.
    """

    user: str
    digest: str
    lesson: Lesson
    outcome: Outcome
    origin: str
    time: float
    detail: str = ""
    traits: tuple[Trait, ...] = ()

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


class Source(enum.Enum):
    """Where the objective score of a decision came from."""

    CARRIED = "carried"
    SCANNED = "scanned"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What one delivery decided, and out of what; nothing of the message itself.

    Attributes:
        user: the Dovecot user whose copy it was.
        digest: of the message's content.
        time: seconds since the epoch.
        folder: where the copy went.
        reason: the row of the policy.
        source: where the objective score came from.
        objective: that score; None if there was none.
        no_milter: why no score was carried; empty if one was.
        no_scan: why no scan took its place; empty if one did, or was not needed.
        no_bayes: why Bayes had no say; empty if it had.
        threshold: what the sum was compared with.
        points: what Bayes added; None if it had no say.
        probability: of spam, all opinions blended, 0 to 1; None likewise.
        own: what the user's own statistics said, if Bayes had a say.
        shared: likewise those that all users share, if there are such.
        queue_id: Postfix's, for its log; ``-`` if unknown.
        acquaintance: what the acquaintance with list and sender added; None if nobody asked.
        traits: the message's, for which it counts as left where it was delivered; kept as
            hashes, and not told again.
    """

    user: str
    digest: str
    time: float
    folder: Folder
    reason: Reason
    source: Source
    objective: float | None
    no_milter: str = ""
    no_scan: str = ""
    no_bayes: str = ""
    threshold: float
    points: float | None = None
    probability: float | None = None
    own: Opinion | None = None
    shared: Opinion | None = None
    queue_id: str = "-"
    acquaintance: float | None = None
    traits: tuple[Trait, ...] = ()

    @classmethod
    def of(
        cls,
        verdict: Verdict,
        *,
        user: str,
        digest: str,
        time: float,
        queue_id: str = "-",
        traits: tuple[Trait, ...] = (),
    ) -> Decision:
        """What is noted of a verdict."""
        milter, scan, bayes = verdict.milter, verdict.scan, verdict.bayes
        objective = verdict.objective
        source = Source.SCANNED
        if isinstance(milter, MilterScore):
            source = Source.CARRIED
        elif objective is None:
            source = Source.NONE
        opinion = bayes if isinstance(bayes, Bayes) else None
        return cls(
            user=user,
            digest=digest,
            time=time,
            folder=verdict.folder,
            reason=verdict.reason,
            source=source,
            objective=None if objective is None else objective.score,
            no_milter=milter.why.value if isinstance(milter, NoScore) else "",
            no_scan=scan.why.value if isinstance(scan, NoScan) else "",
            no_bayes=bayes.why.value if isinstance(bayes, NoBayes) else "",
            threshold=verdict.threshold,
            points=None if opinion is None else opinion.score,
            probability=None if opinion is None else opinion.probability,
            own=None if opinion is None else opinion.own,
            shared=None if opinion is None else opinion.shared,
            queue_id=queue_id,
            acquaintance=None if verdict.acquaintance is None else verdict.acquaintance_points,
            traits=traits,
        )

    @property
    def total(self) -> float | None:
        """The sum that was compared; None without an objective score."""
        if self.objective is None:
            return None
        return self.objective + (self.points or 0.0) + (self.acquaintance or 0.0)


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision, and what its user said of the message later.

    Attributes:
        decision: as it was noted.
        taught: the last lesson since that was the user's own (:data:`DELIVERY` is not); None if
            the user never said anything. Of several decisions on one message it belongs to the
            last one before it.
        taught_time: when, in seconds since the epoch.
    """

    decision: Decision
    taught: Lesson | None = None
    taught_time: float | None = None

    @property
    def corrected(self) -> bool:
        """Whether the user said that the verdict was wrong."""
        return self.taught is _WRONG[self.decision.folder]


_WRONG = {Folder.INBOX: Lesson.SPAM, Folder.JUNK: Lesson.HAM}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How often verdicts were wrong, by what the user said; what nobody corrects counts as right.

    Attributes:
        inbox: decisions for INBOX.
        junk: decisions for Junk.
        false_positives: of ``junk``, those that the user taught as ham later.
        false_negatives: of ``inbox``, those that the user taught as spam later.
    """

    inbox: int = 0
    junk: int = 0
    false_positives: int = 0
    false_negatives: int = 0

    @property
    def ham(self) -> int:
        """Messages that were good mail to the user."""
        return self.inbox - self.false_negatives + self.false_positives

    @property
    def spam(self) -> int:
        """Messages that were spam to the user."""
        return self.junk - self.false_positives + self.false_negatives

    @property
    def false_positive_rate(self) -> float | None:
        """The part of good mail that went to Junk, 0 to 1; None without good mail."""
        return self.false_positives / self.ham if self.ham else None

    @property
    def false_negative_rate(self) -> float | None:
        """The part of spam that went to INBOX, 0 to 1; None without spam."""
        return self.false_negatives / self.spam if self.spam else None

    def __add__(self, other: Rates) -> Rates:
        return Rates(
            inbox=self.inbox + other.inbox,
            junk=self.junk + other.junk,
            false_positives=self.false_positives + other.false_positives,
            false_negatives=self.false_negatives + other.false_negatives,
        )


class Ledger(Protocol):
    """What each user was taught and what deliveries decided; written by the daemon.

    Every method blocks, so call it in a thread (``asyncio.to_thread``); any
    thread may call any method at any time. Several processes may have the
    same ledger open. What a method wrote survives kill -9 once it returned.
    Every method raises `mailhooks.errors.LedgerError` if the ledger cannot be
    read or written; nothing of that call is then written.

    Answers about one message count in the order in which they are recorded,
    so whoever sends two lessons on one message must not send them at once.
    """

    def record(self, *answers: Answer, ended: Collection[str] = ()) -> int:
        """Write answers down, all of them or none; returns how many were corrections.

        A refusal becomes the last answer but does not change what is held.

        Args:
            answers: what Rspamd said.
            ended: samples of which :meth:`end_attempt` is noted along with that.
        """
        ...

    def taught(self, user: str, digest: str) -> Taught | None:
        """What this user was taught of this message; None if there never was an answer."""
        ...

    def agreement(self, digest: str) -> dict[Lesson, int]:
        """How many users hold a message as what; the shared statistics are nobody's."""
        ...

    def counts(self, user: str | None = None, *, since: float = 0.0) -> dict[str, Counts]:
        """Figures by user, in order of their names; users not in the ledger are left out.

        Args:
            user: only this one; None for all.
            since: outcomes and corrections are counted from here on, in seconds since the epoch.
        """
        ...

    def users(self) -> list[str]:
        """Everybody who taught something, sorted."""
        ...

    def past(
        self, user: str, traits: Sequence[Trait], *, digest: str | None = None
    ) -> dict[Trait, Past]:
        """What became of a user's earlier messages with some traits; one never met is left out.

        Args:
            user: whose.
            traits: of one message.
            digest: of that message if it is judged again: that it was left where its own
                delivery put it says nothing then.
        """
        ...

    def decide(self, *decisions: Decision) -> None:
        """Write decisions down, all of them or none."""
        ...

    def decisions(
        self, user: str, digest: str | None = None, *, since: float = 0.0
    ) -> list[Decided]:
        """A user's decisions, oldest first.

        Args:
            user: whose.
            digest: only those on this message; None for all.
            since: only later ones, in seconds since the epoch.
        """
        ...

    def rates(self, user: str | None = None, *, since: float = 0.0) -> dict[str, dict[int, Rates]]:
        """How often verdicts were wrong, by user and whole weeks after ``since``.

        Args:
            user: only this one; None for all. Users without a decision are left out.
            since: when week 0 begins, in seconds since the epoch; weeks without any are left out.
        """
        ...

    def forget(self, user: str) -> int:
        """Remove everything about a user; returns how many messages they had taught."""
        ...

    def forget_message(self, user: str, digest: str) -> int:
        """Remove what a user was taught and what was decided of one message; how many that were."""
        ...

    def prune(self, before: float) -> int:
        """Remove messages whose last answer is older, older decisions, and stale attempts.

        Others may read and write meanwhile. An error may leave it half done; call it again.

        Args:
            before: seconds since the epoch.

        Returns:
            How many messages that had been taught were removed.
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

    def end_attempt(self, *samples: str) -> None:
        """Note that the process outlived samples, whatever came of them; harmless to repeat."""
        ...

    def close(self) -> None:
        """Let go of the file; harmless to repeat. Afterwards every other method fails."""
        ...
