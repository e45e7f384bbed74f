"""Teaching one message to one user by hand, outside the daemon.

The ledger is asked first, so whatever was interrupted is simply run again:
what was taught is known and costs no request. Rspamd learns everything else
as ``bulk``, since a person's own word counts even where the statistics agree.
"""

from __future__ import annotations

import asyncio
import enum
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailhooks.ledger import Answer, Outcome
from mailhooks.lesson import Lesson
from mailhooks.message import content_digest
from mailhooks.rspamd import LearnStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    from mailhooks.ledger import Ledger, Taught
    from mailhooks.rspamd import LearnResult, RspamdClient

TOO_LARGE = "too-large"
_OUTCOMES = {
    LearnStatus.LEARNED: Outcome.LEARNED,
    LearnStatus.ALREADY_LEARNED: Outcome.ALREADY_LEARNED,
}


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


class Teacher:
    """Teaches one message to one user, and writes the answer down.

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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._rspamd = rspamd
        self._origin = origin
        self._max_message_bytes = max_message_bytes
        self._retry_refused = retry_refused
        self._waiting = waiting
        self._clock = clock
        self._locks: dict[tuple[str, str], tuple[asyncio.Lock, int]] = {}

    async def foresee(self, task: Task) -> Result:
        """What :meth:`teach` would come to if Rspamd learned everything it is asked to."""
        taught = self._ledger.taught(task.user, task.digest)
        return self._without_asking(task, taught) or Result(_learned(task, taught))

    async def teach(self, task: Task) -> Result:
        """Teach a message, unless the statistics hold it as this already.

        Raises:
            RspamdUnavailable: not taught; the same call may succeed later.
            RspamdMisconfigured: not taught, and will not be until a setting changes.
            LedgerError: the ledger failed; teaching again is harmless.
        """
        # Two copies of one message at once would both find that it is not
        # held, and Rspamd might count both.
        async with self._alone((task.user, task.digest)):
            taught = self._ledger.taught(task.user, task.digest)
            result = self._without_asking(task, taught)
            if result is not None:
                return result
            learn = (
                self._rspamd.learn_spam if task.lesson is Lesson.SPAM else self._rspamd.learn_ham
            )
            answer = await learn(task.raw, user=task.user, bulk=True)
            self._record(task, answer)
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

    def _record(self, task: Task, answer: LearnResult) -> None:
        self._ledger.record(
            Answer(
                user=task.user,
                digest=task.digest,
                lesson=task.lesson,
                outcome=_OUTCOMES.get(answer.status, Outcome.REFUSED),
                origin=self._origin,
                time=self._clock(),
                detail="" if answer.learned else answer.status.value,
            )
        )

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


def _learned(task: Task, taught: Taught | None) -> Done:
    turned_round = taught is not None and taught.held is task.lesson.opposite
    return Done.RELEARNED if turned_round else Done.LEARNED
