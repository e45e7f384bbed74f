"""Teaching one message to one user by hand, outside the daemon.

The ledger is asked first, so whatever was interrupted is simply run again:
what was taught is known and costs no request. Rspamd learns everything else
as ``bulk``, since a person's own word counts even where the statistics agree.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mailhooks.acquaintance import TRAIT_FIELDS, traits_of
from mailhooks.errors import LedgerError, RspamdUnavailable
from mailhooks.ledger import Answer, Outcome, Taught
from mailhooks.message import content_digest, read_header
from mailhooks.rspamd import LearnStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping

    from mailhooks.evidence import Evidence
    from mailhooks.ledger import Ledger
    from mailhooks.lesson import Lesson
    from mailhooks.rspamd import RspamdClient

TOO_LARGE = "too-large"
_MARK = "hand."


class Done(enum.Enum):
    """What became of one message."""

    LEARNED = "learned"
    RELEARNED = "relearned"
    """Learned, and the opposite before."""
    ALREADY_LEARNED = "already-learned"
    """Rspamd knew it; our ledger did not, and does now."""
    KNOWN = "known"
    """The ledger says so; Rspamd was not asked."""
    WAITING = "waiting"
    """A sample of this message is in the spool: the daemon is about to learn the last word."""
    REFUSED = "refused"
    """Rspamd will not learn it, now or ever."""

    @property
    def is_held(self) -> bool:
        """Whether the statistics hold the lesson, or soon will."""
        return self is not Done.REFUSED


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One message to be taught.

    Attributes:
        user: whose statistics learn, in lower case.
        lesson: what the message is.
        place: the mailbox or source it is from, by which results are counted.
        name: what the message is called when something is said about it.
        raw: the message.
        digest: of its content.
    """

    user: str
    lesson: Lesson
    place: str
    name: str
    raw: bytes
    digest: str

    @classmethod
    def of(cls, user: str, lesson: Lesson, place: str, name: str, raw: bytes) -> Task:
        """A task, its digest computed."""
        digest = content_digest(raw)
        return cls(user=user, lesson=lesson, place=place, name=name, raw=raw, digest=digest)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one message, and the reason if it was refused."""

    done: Done
    detail: str = ""


class Settled(NamedTuple):
    """What became of tasks whose learn ended with an error: learned all the same, or not."""

    learned: list[Task]
    again: list[Task]


class Teacher:
    """Teaches messages to users, and writes the answers down once they are proved.

    Rspamd's word is not enough: 3.4 says "learned" while Redis is away. So
    answers are kept back until :meth:`settle` has compared them with the counts
    of learned messages in Redis. What a run could not prove it leaves a mark for
    (:meth:`abandon`), and the next run finds out about it before it teaches it.

    The ledger is called right here and not in a thread: a program that only
    teaches has nothing else to do while the ledger is locked, and going to a
    thread and back takes longer than what is done there.

    Args:
        ledger: what was taught before, and where the answers go.
        rspamd: learns.
        origin: what the ledger notes as the answers' origin.
        max_message_bytes: larger messages are refused here.
        retry_refused: ask Rspamd again for what it refused before.
        waiting: user and digest of messages that the daemon is about to learn
            anyway; they are left to it.
        count: how many messages of each class Redis counts for a user; None to
            take Rspamd's word.
        evidence: tells which messages were learned when only their number is known.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        ledger: Ledger,
        rspamd: RspamdClient,
        *,
        origin: str,
        max_message_bytes: int,
        retry_refused: bool = True,
        waiting: Collection[tuple[str, str]] = (),
        count: Callable[[str], Mapping[Lesson, int]] | None = None,
        evidence: Evidence | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._rspamd = rspamd
        self._origin = origin
        self._max_message_bytes = max_message_bytes
        self._retry_refused = retry_refused
        self._waiting = waiting
        self._count = count
        self._before: dict[str, Mapping[Lesson, int]] = {}
        self._found: dict[str, Mapping[Lesson, int]] = {}
        self._answers: dict[tuple[str, str], Answer] = {}
        self._clock = clock
        self._locks: dict[tuple[str, str], tuple[asyncio.Lock, int]] = {}
        self._evidence = evidence
        self._marks = {name for name in ledger.attempts() if name.startswith(_MARK)}

    async def foresee(self, task: Task) -> Result:
        """What :meth:`teach` would come to if Rspamd learned everything it is asked to."""
        taught = self._taught(task)
        return self._without_asking(task, taught) or Result(_learned(task, taught))

    async def teach(self, task: Task) -> Result | None:
        """Teach a message, unless the statistics hold it as this already; then :meth:`settle`.

        Returns:
            What became of it; None if an earlier run left it unclear, which is for
            :meth:`settle` to find out.

        Raises:
            RspamdUnavailable: it is not clear whether it was taught; see :meth:`settle`.
            RspamdMisconfigured: not taught, and will not be until a setting changes.
            StatisticsError: not taught, since Redis is away.
            LedgerError: not taught.
        """
        # Two copies of one message at once would both find that it is not
        # held, and Rspamd might count both.
        async with self._alone((task.user, task.digest)):
            taught = self._taught(task)
            result = self._without_asking(task, taught)
            if result is not None:
                return result
            if self._count is not None and task.user not in self._before:
                self._before[task.user] = self._count(task.user)
                self._found.setdefault(task.user, self._before[task.user])
            if self._evidence is not None and self._marks and _mark(task) in self._marks:
                return None
            answer = await self._rspamd.learn(task.raw, task.lesson, user=task.user, bulk=True)
            self._note(task, answer.status)
        if answer.status is LearnStatus.LEARNED:
            return Result(_learned(task, taught))
        if answer.learned:
            return Result(Done.ALREADY_LEARNED)
        return Result(Done.REFUSED, answer.status.value)

    def _without_asking(self, task: Task, taught: Taught | None) -> Result | None:
        if (task.user, task.digest) in self._waiting:
            return Result(Done.WAITING)
        if len(task.raw) > self._max_message_bytes:
            return Result(Done.REFUSED, TOO_LARGE)
        if taught is None:
            return None
        if taught.held is task.lesson:
            return Result(Done.KNOWN)
        last = taught.last
        refused_before = last.outcome is Outcome.REFUSED and last.lesson is task.lesson
        if refused_before and not self._retry_refused:
            return Result(Done.REFUSED, f"{last.detail}, as before")
        return None

    def prove(self, unclear: Collection[Task] = ()) -> None:
        """Compare what Rspamd said with Redis and write it down; call it between learns.

        All that was taught since the last time is of one class, or counts could not tell what
        is missing.

        Args:
            unclear: tasks whose learn ended with an error; some may have been learned, too.

        Raises:
            RspamdUnavailable: Redis counts less than Rspamd says it learned. Nothing is written
                down, since nobody knows which messages were lost.
            StatisticsError: Redis is away; call again.
            LedgerError: nothing was written down.
        """
        if not self._answers:
            return
        proved: dict[str, dict[Lesson, int]] = {}
        for user, before in self._before.items():
            doubtful = [task for task in unclear if task.user == user]
            proved[user] = {**before, **self._proved(user, before, doubtful)[0]}
        self._ledger.record(*self._answers.values())
        self._answers.clear()
        self._before.update(proved)

    async def settle(self, unclear: Collection[Task] = ()) -> Settled:
        """:meth:`prove`, then find out what became of the rest.

        Args:
            unclear: tasks whose learn ended with RspamdUnavailable, and those that
                :meth:`teach` left to this.

        Raises:
            RspamdUnavailable: as from :meth:`prove`.
            StatisticsError: Redis is away, or Rspamd while it must be asked; call again.
            RspamdMisconfigured: Rspamd does not let us ask.
            LedgerError: nothing was written down.
        """
        self.prove(unclear)
        learned: list[Task] = []
        again: list[Task] = []
        marked: list[Task] = []
        for task in unclear:
            taught = self._taught(task)
            if taught is not None and taught.held is task.lesson:  # a copy of it was proved
                learned.append(task)
            else:
                (marked if _mark(task) in self._marks else again).append(task)
        for user, before in self._before.items():
            doubtful = [task for task in again if task.user == user]
            surplus = self._proved(user, before, doubtful)[1] if doubtful else 0
            # More than were confirmed: others ended, too, and only the answer was lost.
            found = await self._held(doubtful, surplus)
            learned += found
            again = [task for task in again if task not in found]
        found = await self._held_since(marked)
        learned += found
        again += [task for task in marked if task not in found]
        for task in learned:
            self._note(task, LearnStatus.LEARNED)
        self._ledger.record(*self._answers.values())
        for task in marked:
            self._ledger.end_attempt(_mark(task))
            self._marks.discard(_mark(task))
        self._answers.clear()
        self._before.clear()
        return Settled(learned, again)

    def abandon(self, unclear: Collection[Task] = ()) -> None:
        """Leave marks for the next run on what was not settled; never fails.

        Args:
            unclear: as in :meth:`settle`.
        """
        if self._evidence is None:
            return
        learned = [answer for answer in self._answers.values() if answer.outcome is Outcome.LEARNED]
        with suppress(LedgerError):
            lessons: list[Task | Answer] = [*unclear, *learned]
            for each in lessons:
                # Of a user who was never counted nothing was sent; and an older mark stays.
                if each.user in self._before and _mark(each) not in self._marks:
                    self._ledger.begin_attempt(_mark(each), self._before[each.user][each.lesson])

    async def _held(self, doubtful: list[Task], count: int) -> list[Task]:
        """Which of some messages were learned, of which so many were."""
        if count >= len(doubtful):
            return doubtful
        if count <= 0 or self._evidence is None:
            return []
        return await self._evidence.held(doubtful, count)

    async def _held_since(self, marked: Collection[Task]) -> list[Task]:
        """Which of some messages that earlier runs left marks on were learned.

        At most as many as the count has grown since then; perhaps fewer, since others
        may have taught the user meanwhile.
        """
        held: list[Task] = []
        groups: dict[tuple[str, Lesson], list[Task]] = {}
        for task in marked:
            groups.setdefault((task.user, task.lesson), []).append(task)
        for (user, lesson), tasks in groups.items():
            before = (self._ledger.learns_before(_mark(task)) for task in tasks)
            known = [count for count in before if count is not None]
            found = self._found.get(user)
            most = found[lesson] - min(known) if found is not None and known else None
            if self._evidence is not None and (most is None or most > 0):
                held += await self._evidence.likely_held(tasks, most)
        return held

    def _proved(
        self, user: str, before: Mapping[Lesson, int], doubtful: Collection[Task]
    ) -> tuple[dict[Lesson, int], int]:
        """What Redis counts at least if Rspamd told the truth, and how many more it counts.

        Raises:
            RspamdUnavailable: they are fewer.
        """
        if self._count is None:
            return {}, 0
        now = self._count(user)
        answers = [answer for answer in self._answers.values() if answer.user == user]
        confirmed = Counter(
            answer.lesson for answer in answers if answer.outcome is Outcome.LEARNED
        )
        sent = {answer.lesson for answer in answers} | {task.lesson for task in doubtful}
        least: dict[Lesson, int] = {}
        surplus = 0
        # Not the other class: each lesson, an unclear one too, may have taken one of it back.
        for lesson in sent:
            least[lesson] = before[lesson] + confirmed[lesson] - confirmed[lesson.opposite]
            if now[lesson] < least[lesson]:
                raise RspamdUnavailable(
                    f'Rspamd says "learned", but Redis counts {now[lesson]} {lesson.value} of '
                    f"{user} instead of {least[lesson]}"
                )
            if lesson.opposite not in sent:
                surplus += now[lesson] - least[lesson]
        return least, surplus

    def _note(self, task: Task, status: LearnStatus) -> None:
        outcome = Outcome.of(status)
        self._answers[task.user, task.digest] = Answer(
            user=task.user,
            digest=task.digest,
            lesson=task.lesson,
            outcome=outcome,
            origin=self._origin,
            time=self._clock(),
            detail="" if outcome.confirmed else status.value,
            traits=traits_of(read_header(task.raw, *TRAIT_FIELDS)),
        )

    def _taught(self, task: Task) -> Taught | None:
        """What is held, be it written down or not."""
        answer = self._answers.get((task.user, task.digest))
        taught = self._ledger.taught(task.user, task.digest)
        if answer is None:
            return taught
        held = taught.held if taught is not None else None
        return Taught(answer.lesson if answer.outcome.confirmed else held, answer)

    @asynccontextmanager
    async def _alone(self, key: tuple[str, str]) -> AsyncIterator[None]:
        """Let one task at a time handle a message of a user."""
        lock, waiting = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = lock, waiting + 1
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._locks[key]
            if waiting == 1:
                del self._locks[key]
            else:
                self._locks[key] = lock, waiting - 1


def _mark(each: Task | Answer) -> str:
    """What an unclear lesson is called among the ledger's attempts; tells neither user nor mail."""
    words = f"{each.user}\0{each.lesson.value}\0{each.digest}"
    return _MARK + hashlib.sha256(words.encode()).hexdigest()


def _learned(task: Task, taught: Taught | None) -> Done:
    turned_round = taught is not None and taught.held is task.lesson.opposite
    return Done.RELEARNED if turned_round else Done.LEARNED
